/** docs/examples/nginx.conf in front of pg-backup-api: it lets through what the function sends, and nothing else. */

import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { request } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { PROMOTION, startFunction } from '../integration/function.ts';
import { MODELS } from '../stand-ins/barman-host.ts';
import { CertificateAuthority, type KeyPair } from '../stand-ins/certificates.ts';
import { PgBackupApiStandIn } from '../stand-ins/pg-backup-api.ts';
import { freePort } from './setup.ts';

const folder = mkdtempSync(join(tmpdir(), 'barman-config-switch-nginx-'));
const file = (name: string) => join(folder, name);
const ca = await CertificateAuthority.create();
let client: KeyPair;
let api: PgBackupApiStandIn;
let nginx: ChildProcess;
let url: string;

beforeAll(async () => {
  api = await PgBackupApiStandIn.start({ models: MODELS, operationTime: 200 });
  client = await ca.client();
  const server = await ca.server();
  const port = await freePort();
  url = `https://127.0.0.1:${port}/pgbapi`;
  const example = readFileSync('docs/examples/nginx.conf', 'utf8')
    .replace('listen 443 ssl', `listen 127.0.0.1:${port} ssl`)
    .replaceAll('/etc/nginx', folder)
    .replaceAll('127.0.0.1:7480', new URL(api.url).host);
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
    (name) => `${name}_temp_path ${file(name)};`,
  );
  for (const [name, text] of Object.entries({
    'barman.crt': server.cert,
    'barman.key': server.key,
    'function-ca.crt': ca.cert,
    'client-cert': client.cert,
    'client-key': client.key,
    'pg-backup-api.conf': example,
    'nginx.conf': `daemon off; user root; worker_processes 1; pid ${file('nginx.pid')}; error_log ${file('error.log')};
      events {} http { access_log off; ${temporary.join(' ')} include ${file('pg-backup-api.conf')}; }`,
  })) {
    writeFileSync(file(name), text, { mode: 0o600 });
  }
  nginx = spawn('/usr/sbin/nginx', ['-c', file('nginx.conf'), '-e', file('error.log')], { stdio: 'inherit' });
  await vi.waitFor(async () => expect(await status('GET', '/status')).toBe(200), { timeout: 20_000 });
});

afterAll(async () => {
  const ended = once(nginx, 'exit');
  nginx.kill();
  await ended;
  await api.close();
  rmSync(folder, { recursive: true });
});

/** @returns the HTTP status of a request, with the client certificate unless it says otherwise */
function status(method: string, path: string, credentials: object = client): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    const options = { method, ca: ca.cert, agent: false, ...credentials } as const;
    request(`${url}${path}`, options, (response) => resolve(response.resume().statusCode))
      .on('error', reject)
      .end();
  });
}

test('the example for nginx › passes the contract suite, with the documented command', async () => {
  const command = /^npm run contract .*\n.*$/m.exec(readFileSync('docs/operations.md', 'utf8'))?.[0] ?? '';
  const here = command
    .replace('https://barman.example.com/pgbapi', url)
    .replace('--ca ca-cert', `--ca ${file('function-ca.crt')}`)
    .replace(/(--client-(?:cert|key)) (\S+)/g, (_, option, name) => `${option} ${file(name)}`);
  const { stdout } = await promisify(execFile)('bash', ['-c', here]);
  expect(stdout).not.toMatch(/^ FAIL |^ {2}\?/m);
  expect(stdout.match(/ {2}ok/g)?.length).toBeGreaterThan(30);
});

test('the example for nginx › lets the function switch', async () => {
  await using run = await startFunction();
  run.host.put({ url, 'client-cert': client.cert, 'client-key': client.key, 'ca-cert': ca.cert });
  expect((await run.webhook(PROMOTION)).response).toMatchObject({ exit_code: 0 });
  expect(api.activeModel()).toBe('pg:node2');
  expect(await run.send({ heartbeat: true })).not.toHaveProperty('unreachable');
});

test.each<[string, string, number, object?]>([
  ['GET', '/status', 400, {}],
  ['GET', '/servers/main/backups', 404],
  ['GET', '/servers', 404],
  ['DELETE', '/servers/main/operations', 403],
  ['POST', '/status', 403],
  ['GET', '/../status', 404],
])('the example for nginx › refuses %s %s with %i', async (method, path, expected, credentials) => {
  const before = api.requests.length;
  expect(await status(method, path, credentials)).toBe(expected);
  expect(api.requests.length).toBe(before);
});
