import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { run } from '../../cli/command-line.ts';
import { CONTRACT, checkContract, contract, type Line, type Subject } from '../../cli/contract.ts';
import { MODELS, startBarmanHost } from '../stand-ins/barman-host.ts';
import { type PgBackupApiOptions, PgBackupApiStandIn } from '../stand-ins/pg-backup-api.ts';
import { runCommand } from './command.ts';

/** Starts a stand-in over plain HTTP, and checks every expectation. @param onLine called with each line */
async function check(
  prepare: (api: PgBackupApiStandIn) => unknown,
  subject: Partial<Subject> = {},
  {
    onLine = () => {},
    ...options
  }: PgBackupApiOptions & { onLine?: (line: Line, api: PgBackupApiStandIn) => void } = {},
) {
  const api = await PgBackupApiStandIn.start({ models: MODELS, ...options });
  api.setActiveModel('pg:node1');
  await prepare(api);
  const lines: Line[] = [];
  const whole = { url: new URL(api.url), server: 'main', models: ['pg:node2'], ...subject };
  const good = await checkContract(whole, (line) => {
    lines.push(line);
    onLine(line, api);
  });
  await api.close();
  const broken = lines.filter(({ holds }) => holds === false).map(({ expectation }) => expectation);
  const posts = api.requests.filter(({ method }) => method === 'POST').length;
  return { good, lines, broken, posts, active: api.activeModel() };
}

// They mostly wait for the next second, because ids of operations are times.
describe.concurrent('npm run contract', () => {
  test('passes for the stand-in, and restores its active model', async () => {
    await using host = await startBarmanHost({ prefix: '/pgbapi' });
    host.api.setActiveModel('pg:node1');
    const folder = mkdtempSync(join(tmpdir(), 'barman-config-switch-contract-'));
    const files = ['client-cert', 'client-key', 'ca-cert'].flatMap((name) => {
      const file = join(folder, name);
      writeFileSync(file, host.ssm.parameters.get(`${host.path}${name}`) ?? '');
      return [`--${name.replace('ca-cert', 'ca')}`, file];
    });
    const names = ['--server', 'main', '--model', 'pg:node1', '--model', 'pg:node2'];
    const { status, log, error } = await runCommand(() =>
      run(CONTRACT, contract, ['--url', host.api.url, ...names, ...files]),
    );
    rmSync(folder, { recursive: true });
    expect([status, error]).toEqual([0, '']);
    expect(log).toMatch(/^( {2}ok.*\n){41,}$/);
    expect(host.api.activeModel()).toBe('pg:node1');
  });

  test('names the expectation that fails, and restores the active model', async () => {
    const always = Number.POSITIVE_INFINITY;
    const { good, lines, broken, active } = await check((api) => {
      api.fault({ kind: 'body', body: '{"operations":{}}' }, always, ({ method, path }) => {
        return method === 'GET' && path === '/servers/main/operations';
      });
      api.fault({ kind: 'status', status: 200, body: '{}' }, always, ({ path }) =>
        path.startsWith('/servers/contract-'),
      );
    });
    expect(good).toBe(false);
    expect(broken).toEqual([
      'GET /servers/S/operations is 200 and lists ids and types',
      'GET /servers/unknown/operations is 404',
      'GET /servers/unknown/operations/ID is 404',
      'GET /servers/unknown/operations, with each of . : @ + ~ = , - in the name, is 404',
      'POST /servers/unknown/operations is 404',
      ...Array(3).fill('… the list has it, as a config_switch'),
      'GET /servers/S/operations lists each of these operations once, in any order',
    ]);
    expect(lines.find(({ holds }) => holds === false)?.found).toContain('operations is not Array');
    expect([lines.at(-1)?.holds, active]).toEqual([true, 'pg:node1']);
  });

  test('names each odd request that another host answers differently', async () => {
    const { broken } = await check((api) =>
      api.fault({ kind: 'status', status: 202, body: '{}' }, Number.POSITIVE_INFINITY, (request) => {
        const { method, path, body, headers } = request;
        if (method !== 'POST' || path === '/status') return method !== 'GET';
        return headers['content-type'] === undefined || !/config_switch|contract-/.test(body);
      }),
    );
    const posts = 'POST /servers/S/operations with';
    expect(broken).toEqual([
      'HEAD /status is 200',
      'POST /status is 405, or 403 from the proxy',
      `${posts}out a JSON content type is 415`,
      `${posts} the body {} is 400`,
      `${posts} the body [] is 400`,
      `${posts} the body null is 400`,
      `${posts} a body that is not JSON is 400`,
      `${posts} no type is 400`,
      `${posts} type recovery, and none of its keys is 400`,
    ]);
  });

  test.each<[string, Partial<Subject>]>([
    ['an unknown server', { server: 'other' }],
    ['an unknown model', { models: ['pg:node9'] }],
    ['a model of another cluster', { models: ['foreign'] }],
  ])('switches nothing with %s', async (_, subject) => {
    const models = { ...MODELS, foreign: { cluster: 'other' } };
    const { good, lines, posts } = await check(() => {}, subject, { models });
    expect([good, lines.length, posts]).toEqual([false, 1, 0]);
  });

  test('switches nothing if it could not restore the active model, because /diagnose does not have it', async () => {
    const body = JSON.stringify({
      servers: { main: { config: {} } },
      models: { 'pg:node2': { config: { cluster: 'main' } } },
    });
    const { lines, posts } = await check((api) => api.fault({ kind: 'body', body }));
    expect([lines.length, lines[0]?.found, posts]).toEqual([
      1,
      expect.stringContaining('no active_model'),
      0,
    ]);
  });

  test('does not touch a model that was activated meanwhile', async () => {
    const { lines, active } = await check(
      () => {},
      {},
      {
        onLine: ({ expectation }, api) => {
          if (expectation.startsWith('another operation')) api.setActiveModel('pg:node2');
        },
      },
    );
    expect(active).toBe('pg:node2');
    expect(lines.at(-1)).toMatchObject({ holds: null, found: expect.stringContaining('not changed') });
  });

  test('restores the active model after an interruption', async () => {
    const interrupted = new AbortController();
    const { lines, active } = await check(
      () => {},
      { signal: interrupted.signal },
      {
        onLine: ({ expectation }) => {
          if (expectation === '… Barman uses model pg:node2') interrupted.abort();
        },
      },
    );
    expect(lines.at(-2)).toMatchObject({ holds: null, found: 'interrupted' });
    expect([lines.at(-1)?.holds, active]).toEqual([true, 'pg:node1']);
  });

  test('reports in one line that pg-backup-api is down', async () => {
    const { good, lines } = await check((api) => api.refuse());
    expect([good, lines]).toEqual([
      false,
      [expect.objectContaining({ found: expect.stringContaining('ECONNREFUSED') })],
    ]);
  });
});
