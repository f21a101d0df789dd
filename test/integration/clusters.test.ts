/** The parameters `clusters/NAME`: each cluster's secret may switch its own Barman servers, and no others. */

import { describe, expect, test } from 'vitest';
import { createSecret } from '../stand-ins/webhook.ts';
import { fakeClock, MINUTE, PROMOTION, pass, SKIPPED, signal, startFunction } from './function.ts';

const SERVERS = { servers: { main: { cluster: 'main' }, other: { cluster: 'main' } } };
const [secretA, secretB] = [createSecret(), createSecret()];
const cluster = (secret: string, ...servers: string[]) =>
  JSON.stringify({ secret, servers: Object.fromEntries(servers.map((server) => [server, {}])) });
const CLUSTERS = { 'clusters/a': cluster(secretA, 'main'), 'clusters/b': cluster(secretB, 'other') };
const OTHER = { ...PROMOTION, barman_server: 'other' };

fakeClock();

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
    expect((await run.ledger.all(signal())).items).toEqual([]);
    run.expectMetrics({ WrongCluster: 1 });
    expect(run.metrics()).not.toContainEqual(expect.objectContaining({ INVALID_ARGS: 1 }));
    run.expectLog({ level: 'ERROR', barman_server: 'other', exit_code: 4 });
    // A role that does not match is refused as well, before it matters.
    expect((await run.webhook({ ...OTHER, role: 'replica' }, { secret: secretA })).statusCode).toBe(403);
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
  test('switches every server, and is not needed once a cluster has a secret', async () => {
    await using run = await startFunction(SERVERS);
    run.host.put(CLUSTERS);
    expect((await run.webhook(PROMOTION)).statusCode).toBe(200);
    expect((await run.webhook(OTHER)).statusCode).toBe(200);
    run.host.put({ 'webhook-secret': undefined });
    pass(10 * MINUTE);
    expect((await run.webhook(PROMOTION)).statusCode).toBe(401);
    expect((await run.webhook(PROMOTION, { secret: secretA })).statusCode).toBe(200);
  });

  test('or a cluster must have one that is not malformed', async () => {
    await using run = await startFunction(SERVERS);
    run.host.put({ 'clusters/a': '{', 'webhook-secret': undefined });
    expect((await run.webhook(PROMOTION)).statusCode).toBe(503);
    run.expectLog({
      message: expect.stringContaining(`SSM parameter ${run.host.path}clusters/a is not JSON`),
    });
  });
});

describe('a malformed cluster', () => {
  test('stops only itself, and is named in the log', async () => {
    await using run = await startFunction(SERVERS);
    run.host.put({ ...CLUSTERS, 'clusters/b': JSON.stringify({ secret: secretB }) });
    expect((await run.webhook(PROMOTION, { secret: secretA })).statusCode).toBe(200);
    expect((await run.webhook(OTHER, { secret: secretB })).statusCode).toBe(401);
    run.expectLog({
      level: 'WARN',
      message: `SSM parameter ${run.host.path}clusters/b is malformed: servers is missing`,
    });
  });

  test('has its last good value in use', async () => {
    await using run = await startFunction(SERVERS);
    run.host.put(CLUSTERS);
    expect((await run.webhook(OTHER, { secret: secretB })).statusCode).toBe(200);
    run.host.put({ 'clusters/b': 'not JSON' });
    pass(10 * MINUTE);
    expect((await run.webhook(OTHER, { secret: secretB })).statusCode).toBe(200);
    run.expectLog({
      message: expect.stringMatching(/clusters\/b is not JSON; the last good values stay in use$/),
    });
    run.host.put({ 'clusters/b': undefined });
    pass(2 * MINUTE);
    await expect.poll(async () => (await run.webhook(OTHER, { secret: secretB })).statusCode).toBe(401);
  });
});

describe('many clusters', () => {
  test('are read in pages, and each secret is found, whatever characters the names have', async () => {
    await using run = await startFunction(SERVERS);
    const odd = ['a-b', 'a_b', 'a.b', 'a--b', 'A-b', '1', '_1'];
    const names = [...odd, ...Array.from({ length: 193 }, (_, index) => `c${index}`)];
    const secrets = new Map(names.map((name) => [name, createSecret()]));
    run.host.put(
      Object.fromEntries([...secrets].map(([name, secret]) => [`clusters/${name}`, cluster(secret, 'main')])),
    );
    for (const name of [...odd, 'c0', 'c99', 'c192']) {
      const secret = secrets.get(name) ?? '';
      expect((await run.webhook(SKIPPED, { secret })).statusCode).toBe(200);
      expect((await run.webhook({ ...OTHER, role: 'replica' }, { secret })).statusCode).toBe(403);
    }
  });
});
