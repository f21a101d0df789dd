/** docs/examples/nginx.conf in front of pg-backup-api: it lets through what the function sends only. */

import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { request } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { documentedCommand, fill } from '../documentation.ts';
import { PROMOTION, startFunction } from '../integration/function.ts';
import { MODELS } from '../stand-ins/barman-host.ts';
import { CertificateAuthority, type KeyPair } from '../stand-ins/certificates.ts';
import { PgBackupApiStandIn } from '../stand-ins/pg-backup-api.ts';
import { type Nginx, startNginx } from './nginx.ts';

const folder = mkdtempSync(join(tmpdir(), 'barman-config-switch-nginx-'));
const file = (name: string) => join(folder, name);
const ca = await CertificateAuthority.create();
let client: KeyPair;
let api: PgBackupApiStandIn;
let nginx: Nginx;

beforeAll(async () => {
  api = await PgBackupApiStandIn.start({ models: MODELS });
  nginx = await startNginx({
    folder,
    upstream: new URL(api.url).host,
    ca,
  });
  client = { cert: nginx.parameters['client-cert'], key: nginx.parameters['client-key'] };
  for (const [name, value] of Object.entries(nginx.parameters))
    writeFileSync(file(name), value, { mode: 0o600 });
});

afterAll(async () => {
  await nginx?.stop();
  await api?.close();
  rmSync(folder, { recursive: true });
});

/** @returns the HTTP status of a request, with the client certificate unless it says otherwise */
function status(method: string, path: string, credentials: object = client): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    const options = { method, ca: ca.cert, agent: false, ...credentials } as const;
    request(`${nginx.parameters.url}${path}`, options, (response) => resolve(response.resume().statusCode))
      .on('error', reject)
      .end();
  });
}

test('the example for nginx › passes the contract suite, with the documented command', async () => {
  const command = documentedCommand('docs/how-to/upgrade.md', 'npm run contract');
  const here = fill(command, { 'https://barman.example.com/pgbapi': nginx.parameters.url }).replace(
    /(--client-cert|--client-key|--ca) (\S+)/g,
    (_, option, name) => `${option} ${file(name.replace('secrets/', ''))}`,
  );
  const { stdout } = await promisify(execFile)('bash', ['-c', here]);
  expect(stdout).not.toMatch(/^ FAIL |^ {2}\?/m);
  expect(stdout.match(/ {2}ok/g)?.length).toBeGreaterThan(30);
});

test('the example for nginx › lets the function switch', async () => {
  await using run = await startFunction();
  run.host.put(nginx.parameters);
  expect((await run.webhook(PROMOTION)).response).toMatchObject({ exit_code: 0 });
  expect(api.activeModel()).toBe('pg:node2');
  expect(await run.send({ heartbeat: true })).toMatchObject({ unreachable: undefined });
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
