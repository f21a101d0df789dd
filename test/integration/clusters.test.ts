/** The parameters `clusters/NAME`: each cluster's secret may switch its own Barman servers, and no others. */

import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { documentedBlock } from '../documentation.ts';
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

describe('with the parameter servers', () => {
  const BOUND = { servers: '{ "main": ["a"], "other": ["b"] }' };

  test('a cluster that takes the server of another one stops, and its last good value serves on', async () => {
    await using run = await startFunction(SERVERS);
    run.host.put({ ...CLUSTERS, ...BOUND });
    expect((await run.webhook(OTHER, { secret: secretB })).response.exit_code).toBe(0);
    run.host.put({ 'clusters/b': cluster(secretB, 'other', 'main') });
    pass(10 * MINUTE);
    expect((await run.webhook(PROMOTION, { secret: secretB })).statusCode).toBe(403);
    expect((await run.webhook({ ...OTHER, barman_model: 'pg:node1' }, { secret: secretB })).statusCode).toBe(
      200,
    );
    expect((await run.webhook(PROMOTION, { secret: secretA })).statusCode).toBe(200);
    const reason = `SSM parameter ${run.host.path}clusters/b lists Barman server main, which SSM parameter ${run.host.path}servers does not bind to it; add "b" there, or remove the server here`;
    run.expectLog({ level: 'WARN', message: `${reason}; the last good values stay in use` });
    await run.heartbeat();
    run.expectLog({ cluster: 'b', message: `the leader of cluster b is unknown: ${reason}` });
  });

  test('a server that is taken from a cluster is switched by its secret no longer', async () => {
    await using run = await startFunction(SERVERS);
    run.host.put(CLUSTERS);
    expect((await run.webhook(OTHER, { secret: secretB })).statusCode).toBe(200);
    run.host.put({ servers: '{ "main": ["a"], "other": ["a"] }' });
    pass(10 * MINUTE);
    expect((await run.webhook({ ...OTHER, barman_model: 'pg:node1' }, { secret: secretB })).statusCode).toBe(
      401,
    );
    expect(run.host.api.activeModel('other')).toBe('pg:node2');
  });

  test('that is malformed at the start, no cluster can be used, and each says why', async () => {
    await using run = await startFunction(SERVERS);
    run.host.put({ ...CLUSTERS, servers: '{' });
    expect((await run.webhook(PROMOTION, { secret: secretA })).statusCode).toBe(401);
    await run.heartbeat();
    for (const name of ['a', 'b']) {
      run.expectLog({
        cluster: name,
        message: `the leader of cluster ${name} is unknown: SSM parameter ${run.host.path}servers is not JSON; so the new value of clusters/${name} is not used`,
      });
    }
    // It is not bound.
    expect((await run.webhook(PROMOTION)).statusCode).toBe(200);
  });

  test('that is malformed, the last good clusters serve on, and no new one is used', async () => {
    await using run = await startFunction(SERVERS);
    run.host.put({ ...CLUSTERS, ...BOUND });
    expect((await run.webhook(PROMOTION, { secret: secretA })).statusCode).toBe(200);
    const secretC = createSecret();
    run.host.put({ servers: '{', 'clusters/c': cluster(secretC, 'main') });
    pass(10 * MINUTE);
    expect((await run.webhook(PROMOTION, { secret: secretC })).statusCode).toBe(401);
    expect((await run.webhook(PROMOTION, { secret: secretA })).statusCode).toBe(200);
    expect((await run.webhook(OTHER)).statusCode).toBe(200);
    const reason = `SSM parameter ${run.host.path}servers is not JSON`;
    run.expectLog({ level: 'WARN', message: reason });
    run.expectLog({
      message: `${reason}; so the new value of clusters/a is not used; the last good values stay in use`,
    });
    run.expectLog({ message: `${reason}; so the new value of clusters/c is not used` });
  });
});

test('docs/how-to/bind-servers.md › writes a parameter that the function accepts', async () => {
  await using run = await startFunction(SERVERS);
  const page = 'docs/how-to/bind-servers.md';
  const commands = documentedBlock('docs/how-to/bind-servers.md', 'cat > servers.json');
  // Only what it would send is of interest here: each argument is a line.
  const aws = 'aws() { printf "%s\\n" "$@"; }';
  const script = `cd "$(mktemp -d)"\n${aws}\n${commands}\ncat servers.json`;
  const words = execFileSync('sh', ['-ec', script], { encoding: 'utf8' }).trim().split('\n');
  expect(words).toContain('/barman-config-switch/prod/servers');
  expect(words).toContain('file://servers.json');
  run.host.put({
    servers: words.at(-1),
    'clusters/b': cluster(secretB, 'hr'),
    'clusters/c': cluster(secretA, 'hr'),
  });
  const hr = { ...OTHER, barman_server: 'hr', role: 'replica' };
  expect((await run.webhook(hr, { secret: secretB })).statusCode).toBe(200);
  expect((await run.webhook(hr, { secret: secretA })).statusCode).toBe(401);
  // The policy of a team names the parameter of its own cluster, and nothing that reads others.
  const [, policy = ''] = /^```json\n(.*?)^```$/ms.exec(readFileSync(page, 'utf8')) ?? [];
  const [{ Action, Resource }] = JSON.parse(policy).Statement;
  expect([Action, Resource]).toEqual([
    ['ssm:GetParameter', 'ssm:PutParameter'],
    expect.stringMatching(/:parameter\/barman-config-switch\/prod\/clusters\/b$/),
  ]);
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
