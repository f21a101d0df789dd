/** The parameters `clusters/NAME`: each cluster's secret may switch its own Barman servers, and no others. */

import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { beforeEach, describe, expect, test, vi } from 'vitest';
import { createSecret } from '../stand-ins/webhook.ts';
import { PROMOTION, startFunction } from './function.ts';

const MINUTE = 60_000;
const SERVERS = { servers: { main: { cluster: 'main' }, other: { cluster: 'main' } } };
const [secretA, secretB] = [createSecret(), createSecret()];
const cluster = (secret: string, ...servers: string[]) =>
  JSON.stringify({ secret, servers: Object.fromEntries(servers.map((server) => [server, {}])) });
const CLUSTERS = { 'clusters/a': cluster(secretA, 'main'), 'clusters/b': cluster(secretB, 'other') };
const OTHER = { ...PROMOTION, barman_server: 'other' };

/** Only the clock is faked. */
beforeEach(() => {
  vi.useFakeTimers({ toFake: ['Date'], shouldAdvanceTime: true });
  return () => vi.useRealTimers();
});
const pass = (ms: number) => vi.setSystemTime(Date.now() + ms);

describe("a cluster's secret", () => {
  test('switches the servers of its cluster', async () => {
    await using run = await startFunction(SERVERS);
    run.host.put(CLUSTERS);
    expect((await run.webhook(PROMOTION, { secret: secretA })).response.exit_code).toBe(0);
    expect((await run.webhook(OTHER, { secret: secretB })).response.exit_code).toBe(0);
    expect([run.host.api.activeModel(), run.host.api.activeModel('other')]).toEqual(['pg:node2', 'pg:node2']);
  });

  test('switches no server of another cluster: 403, logged and counted', async () => {
    await using run = await startFunction(SERVERS);
    run.host.put(CLUSTERS);
    const { statusCode, response } = await run.webhook(OTHER, { secret: secretA });
    expect([statusCode, response.exit_code, response.recorded]).toEqual([403, 4, false]);
    expect(response.message).toBe(
      'the secret in clusters/a may not switch Barman server other; add the server there, or sign with the secret of its own cluster',
    );
    expect(run.host.api.requests).toEqual([]);
    expect(await run.ledger.all(AbortSignal.timeout(5_000))).toEqual([]);
    expect(run.metrics()).toContainEqual(expect.objectContaining({ WrongCluster: 1 }));
    expect(run.metrics()).not.toContainEqual(expect.objectContaining({ INVALID_ARGS: 1 }));
    expect(run.log()).toContainEqual(
      expect.objectContaining({ level: 'ERROR', barman_server: 'other', exit_code: 4 }),
    );
    // A role that does not match is refused as well, before it matters.
    expect((await run.webhook({ ...OTHER, role: 'replica' }, { secret: secretA })).statusCode).toBe(403);
  });

  test('that several clusters have switches the servers of all of them', async () => {
    await using run = await startFunction(SERVERS);
    run.host.put({ ...CLUSTERS, 'clusters/b': cluster(secretA, 'other') });
    expect((await run.webhook(OTHER, { secret: secretA })).response.exit_code).toBe(0);
  });

  test('switches a server that was just added, after SSM was read again, once a minute at most', async () => {
    await using run = await startFunction(SERVERS);
    run.host.put(CLUSTERS);
    expect((await run.webhook(OTHER, { secret: secretA })).statusCode).toBe(403);
    run.host.put({ 'clusters/a': cluster(secretA, 'main', 'other') });
    const before = run.ssm.requestsFor(run.host.path).length;
    expect((await run.webhook(OTHER, { secret: secretA })).statusCode).toBe(403);
    expect(run.ssm.requestsFor(run.host.path).length).toBe(before);
    pass(MINUTE);
    expect((await run.webhook(OTHER, { secret: secretA })).statusCode).toBe(200);
  });
});

describe('webhook-secret', () => {
  test('switches every server, beside the clusters', async () => {
    await using run = await startFunction(SERVERS);
    run.host.put(CLUSTERS);
    expect((await run.webhook(PROMOTION)).statusCode).toBe(200);
    expect((await run.webhook(OTHER)).statusCode).toBe(200);
  });

  test('is not needed once a cluster has a secret', async () => {
    await using run = await startFunction(SERVERS);
    run.host.put({ ...CLUSTERS, 'webhook-secret': undefined });
    expect((await run.webhook(PROMOTION, { secret: secretA })).statusCode).toBe(200);
    expect((await run.webhook(PROMOTION)).statusCode).toBe(401);
  });

  test('or a cluster must have one that is not malformed', async () => {
    await using run = await startFunction(SERVERS);
    run.host.put({ 'clusters/a': '{', 'webhook-secret': undefined });
    expect((await run.webhook(PROMOTION)).statusCode).toBe(503);
    expect(run.log()).toContainEqual(
      expect.objectContaining({
        message: expect.stringContaining(`SSM parameter ${run.host.path}clusters/a is not JSON`),
      }),
    );
  });
});

describe('a malformed cluster', () => {
  test('stops only itself, and is named in the log', async () => {
    await using run = await startFunction(SERVERS);
    run.host.put({ ...CLUSTERS, 'clusters/b': JSON.stringify({ secret: secretB }) });
    expect((await run.webhook(PROMOTION, { secret: secretA })).statusCode).toBe(200);
    expect((await run.webhook(OTHER, { secret: secretB })).statusCode).toBe(401);
    expect(run.log()).toContainEqual(
      expect.objectContaining({
        level: 'WARN',
        message: `SSM parameter ${run.host.path}clusters/b is malformed: servers is missing`,
      }),
    );
  });

  test('has its last good value in use', async () => {
    await using run = await startFunction(SERVERS);
    run.host.put(CLUSTERS);
    expect((await run.webhook(OTHER, { secret: secretB })).statusCode).toBe(200);
    run.host.put({ 'clusters/b': 'not JSON' });
    pass(10 * MINUTE);
    expect((await run.webhook(OTHER, { secret: secretB })).statusCode).toBe(200);
    expect(run.log()).toContainEqual(
      expect.objectContaining({
        message: expect.stringMatching(/clusters\/b is not JSON; the last good values stay in use$/),
      }),
    );
    run.host.put({ 'clusters/b': undefined });
    pass(2 * MINUTE);
    await expect.poll(async () => (await run.webhook(OTHER, { secret: secretB })).statusCode).toBe(401);
  });
});

describe('many clusters', () => {
  test('are told apart, whatever characters their names have', async () => {
    await using run = await startFunction(SERVERS);
    const names = ['a-b', 'a_b', 'a.b', 'a--b', 'A-b', '1', '_1'];
    const secrets = names.map(() => createSecret());
    run.host.put(
      Object.fromEntries(
        names.map((name, index) => [`clusters/${name}`, cluster(secrets[index] ?? '', 'main')]),
      ),
    );
    for (const secret of secrets) {
      expect((await run.webhook({ ...PROMOTION, role: 'replica' }, { secret })).statusCode).toBe(200);
    }
  });

  test('up to 200 are read in pages, and each secret is found', async () => {
    await using run = await startFunction(SERVERS);
    const secrets = Array.from({ length: 200 }, () => createSecret());
    run.host.put(
      Object.fromEntries(secrets.map((secret, index) => [`clusters/c${index}`, cluster(secret, 'main')])),
    );
    for (const index of [0, 99, 199]) {
      const secret = secrets[index] ?? '';
      expect((await run.webhook({ ...PROMOTION, role: 'replica' }, { secret })).statusCode).toBe(200);
      expect((await run.webhook({ ...OTHER, role: 'replica' }, { secret })).statusCode).toBe(403);
    }
  });
});

describe('npm run ledger -- check', () => {
  /** @returns its exit code and its lines */
  async function check(path: string) {
    const stage = path.split('/')[2] ?? '';
    const run = promisify(execFile)(process.execPath, ['cli/ledger.ts', '--stage', stage, 'check']);
    const { code, stdout } = await run.then(
      ({ stdout }) => ({ code: 0, stdout }),
      ({ code, stdout }: { code: number; stdout: string }) => ({ code, stdout }),
    );
    return { code, lines: stdout.trim().split('\n') };
  }

  test('describes the parameters as the function reads them, without secrets', async () => {
    await using run = await startFunction();
    const settings = {
      secret: secretA,
      servers: { main: { node1: 'pg:node1', node2: null }, other: {} },
      patroni: ['https://10.0.1.11:8008'],
    };
    run.host.put({ 'clusters/a': JSON.stringify(settings), 'clusters/b': cluster(secretB) });
    const { code, lines } = await check(run.host.path);
    expect([code, lines]).toEqual([
      0,
      [
        expect.stringMatching(
          /^ok {5}url, client-cert, client-key, ca-cert: https:\/\/127.0.0.1:\d+\/; the client certificate ends on \d{4}-\d\d-\d\d$/,
        ),
        'ok     webhook-secret: 1 secret, for every Barman server',
        'ok     patroni-ca-cert, patroni-client-cert, patroni-client-key: public CAs, no client certificate',
        'ok     clusters/a: 1 secret; scope a; servers main (node1 → pg:node1, node2 → no model), other (not reconciled); Patroni https://10.0.1.11:8008/; barman_receive_wal',
        'ok     clusters/b: 1 secret; scope b; servers none; Patroni is not asked; barman_receive_wal',
      ],
    ]);
  });

  test.each<[{ cert?: true; key?: true; ca?: true }, RegExp]>([
    [{ cert: true, key: true, ca: true }, /^ok .*: own CA, with a client certificate$/],
    [
      { cert: true },
      /^wrong .*patroni-client-key is missing; expected the private key of patroni-client-cert/,
    ],
    [{ key: true }, /^wrong .*patroni-client-cert is missing; expected the client certificate in PEM$/],
    [{ ca: true }, /^ok .*: own CA, no client certificate$/],
  ])("reads the certificates for Patroni's REST API (%j)", async ({ cert, key, ca }, line) => {
    await using run = await startFunction();
    const client = await run.host.ca.client();
    run.host.put({
      ...(cert && { 'patroni-client-cert': client.cert }),
      ...(key && { 'patroni-client-key': client.key }),
      ...(ca && { 'patroni-ca-cert': run.host.ca.cert }),
    });
    expect((await check(run.host.path)).lines[2]).toMatch(line);
  });

  test('names what is wrong', async () => {
    await using run = await startFunction();
    const settings = JSON.stringify({ servers: { main: { node1: 'pg:node1' } } });
    run.host.put({
      'webhook-secret': undefined,
      'client-key': 'x',
      'clusters/a': settings,
      'clusters/b': settings,
      'clusters/c': '{}',
    });
    const { code, lines } = await check(run.host.path);
    expect(code).toBe(1);
    expect(lines.filter((line) => line.startsWith('wrong'))).toEqual([
      expect.stringMatching(
        /^wrong {2}url, client-cert, client-key, ca-cert: SSM parameter .*client-key is malformed; expected/,
      ),
      expect.stringMatching(
        /^wrong {2}clusters\/c: SSM parameter .*clusters\/c is malformed: servers is missing$/,
      ),
      expect.stringMatching(/^wrong {2}secrets: .*clusters\/c is malformed/),
      'wrong  Barman server main: has members in a and b, so none of them reconciles it; leave the members to one, and write {} in the others',
    ]);
  });
});
