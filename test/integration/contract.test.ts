import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { checkContract, type Line, type Subject } from '../../cli/contract.ts';
import { MODELS, startBarmanHost } from '../stand-ins/barman-host.ts';
import { PgBackupApiStandIn } from '../stand-ins/pg-backup-api.ts';

/** Checks every expectation against a stand-in over plain HTTP. */
async function check(api: PgBackupApiStandIn, subject: Partial<Subject> = {}) {
  const lines: Line[] = [];
  const good = await checkContract(
    { url: api.url, server: 'main', models: ['pg:node2'], ...subject },
    (line) => lines.push(line),
  );
  return {
    good,
    lines,
    broken: lines.filter(({ holds }) => holds === false).map((line) => line.expectation),
  };
}

test('the contract suite › passes for the stand-in, and restores its active model', async () => {
  await using host = await startBarmanHost({ prefix: '/pgbapi', operationTime: 200 });
  host.api.setActiveModel('pg:node1');
  const folder = mkdtempSync(join(tmpdir(), 'barman-config-switch-contract-'));
  const files = ['client-cert', 'client-key', 'ca-cert'].flatMap((name) => {
    const file = join(folder, name);
    writeFileSync(file, host.ssm.parameters.get(`${host.path}${name}`) ?? '');
    return [`--${name.replace('ca-cert', 'ca')}`, file];
  });
  const options = ['--url', host.api.url, '--server', 'main', '--model', 'pg:node1', '--model', 'pg:node2'];
  const { stdout } = await promisify(execFile)(process.execPath, ['cli/contract.ts', ...options, ...files]);
  rmSync(folder, { recursive: true });
  expect(stdout).not.toMatch(/^ FAIL |^ {2}\?/m);
  expect(stdout.match(/ {2}ok/g)?.length).toBeGreaterThan(30);
  expect(host.api.activeModel()).toBe('pg:node1');
});

test('the contract suite › names the expectation that fails, and restores the active model', async () => {
  const api = await PgBackupApiStandIn.start({ models: MODELS });
  api.setActiveModel('pg:node1');
  api.fault({ kind: 'body', body: '{"operations":{}}' }, Number.POSITIVE_INFINITY, ({ method, path }) => {
    return method === 'GET' && path === '/servers/main/operations';
  });
  api.fault({ kind: 'status', status: 200, body: '{}' }, Number.POSITIVE_INFINITY, ({ path }) =>
    path.startsWith('/servers/contract-'),
  );
  const { good, lines, broken } = await check(api);
  expect(good).toBe(false);
  expect(broken).toEqual([
    'GET /servers/S/operations is 200 and lists ids and types',
    'POST /servers/unknown/operations: an unknown server is 404, a JSON object with "error"',
    'GET /servers/unknown/operations: an unknown server is 404, a JSON object with "error"',
    'GET /servers/unknown/operations/20000101T000000: an unknown server is 404, a JSON object with "error"',
    'GET /servers/S/operations takes a name with any of . : @ + ~ = , -: 404, a JSON object with "error"',
    ...Array(3).fill('… the list has it, as config_switch'),
  ]);
  expect(lines.find(({ holds }) => holds === false)?.found).toContain('operations is not Array');
  expect(lines.at(-1)).toMatchObject({ holds: true });
  expect(api.activeModel()).toBe('pg:node1');
  await api.close();
});

test('the contract suite › switches nothing on an unknown server, or with a model of another one', async () => {
  const api = await PgBackupApiStandIn.start({ models: { ...MODELS, foreign: { cluster: 'other' } } });
  for (const subject of [{ server: 'other' }, { models: ['pg:node9'] }, { models: ['foreign'] }]) {
    const { good, lines } = await check(api, subject);
    expect([good, lines.length]).toEqual([false, 1]);
  }
  expect(api.requests.filter(({ method }) => method === 'POST')).toEqual([]);
  await api.close();
});

test('the contract suite › does not touch a model that was activated meanwhile', async () => {
  const api = await PgBackupApiStandIn.start({ models: MODELS });
  const lines: Line[] = [];
  await checkContract({ url: api.url, server: 'main', models: ['pg:node2'] }, (line) => {
    lines.push(line);
    if (line.expectation.startsWith('another operation')) api.setActiveModel('pg:node1');
  });
  expect(lines.at(-1)).toMatchObject({ holds: null, found: expect.stringContaining('not changed') });
  expect(api.activeModel()).toBe('pg:node1');
  await api.close();
});

test('the contract suite › restores the active model after an interruption', async () => {
  const api = await PgBackupApiStandIn.start({ models: MODELS });
  api.setActiveModel('pg:node1');
  const interrupted = new AbortController();
  const subject = { url: api.url, server: 'main', models: ['pg:node2'], signal: interrupted.signal };
  const lines: Line[] = [];
  await checkContract(subject, (line) => {
    lines.push(line);
    if (line.expectation === '… the active model is pg:node2') interrupted.abort();
  });
  expect(lines.at(-2)).toMatchObject({ holds: null, found: 'interrupted' });
  expect(lines.at(-1)).toMatchObject({ holds: true });
  expect(api.activeModel()).toBe('pg:node1');
  await api.close();
});

test('the contract suite › reports in one line that pg-backup-api is down', async () => {
  const api = await PgBackupApiStandIn.start();
  await api.refuse();
  const { good, lines } = await check(api);
  expect([good, lines.length]).toEqual([false, 1]);
  expect(lines[0]?.found).toContain('ECONNREFUSED');
});

test.each([
  [['--server', 'main', '--model', 'm'], '--url'],
  [['--url', 'http://127.0.0.1:1', '--model', 'm'], '--server'],
  [['--url', 'http://127.0.0.1:1', '--server', 'main'], '--model'],
  [['--url', 'https://127.0.0.1:1', '--server', 'main', '--model', 'm', '--ca', '/nowhere'], '--ca'],
])('the contract suite › rejects invalid arguments (%j) with exit status 4', async (args, named) => {
  const run = promisify(execFile)(process.execPath, ['cli/contract.ts', ...args]);
  await expect(run).rejects.toMatchObject({ code: 4, stderr: expect.stringContaining(named) });
});
