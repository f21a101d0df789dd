/** Role changes that follow the leader, over real sockets: who may send them, and which version they have. */

import { describe, expect, test } from 'vitest';
import { inOneCluster } from '../stand-ins/barman-host.ts';
import { PatroniStandIn } from '../stand-ins/patroni-rest-api.ts';
import { createSecret } from '../stand-ins/webhook.ts';
import { FOLLOWING, fakeClock, MINUTE, NODE1, PROMOTION, pass, signal, startFunction } from './function.ts';

fakeClock();
const MODELS = { node1: 'pg:node1', node2: 'pg:node2' };

/** A function, and a Patroni cluster whose leader is node2. @param change of its parameter */
async function start(change: object = {}) {
  const stack = new AsyncDisposableStack();
  const patroni = stack.use(await PatroniStandIn.start());
  patroni.leader = 'node2';
  const run = stack.use(await startFunction({ models: inOneCluster(['pg:node1', 'pg:node2', 'pg:node3']) }));
  run.host.put({
    'clusters/main': JSON.stringify({ servers: { main: MODELS }, patroni: patroni.urls, ...change }),
  });
  return { patroni, run, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}
const NODE2_APPLIED = {
  exit_code: 0,
  message: 'Barman server main now uses model pg:node2',
  ...{ follow_leader: true, leader: 'node2', barman_model: 'pg:node2', recorded: true },
};

describe('the leader', () => {
  test('is asked for, and its model applied, whichever node has sent the event', async () => {
    await using test = await start();
    const { run, patroni } = test;
    const { statusCode, response } = await run.webhook({ ...FOLLOWING, node: 'db1' });
    expect({ statusCode, response }).toMatchObject({ statusCode: 200, response: NODE2_APPLIED });
    expect(run.host.api.activeModel()).toBe('pg:node2');
    expect(patroni.requests).toHaveLength(8);
    expect(await run.item()).toMatchObject({ desired: { target: 'model pg:node2', role: 'primary' } });
    run.expectLog({
      ...{ level: 'INFO', leader: 'node2', node: 'db1', barman_model: 'pg:node2' },
      leader_known_ms: expect.any(Number),
    });
  });

  test('is followed by an EventBridge event and by a direct invocation', async () => {
    await using test = await start();
    const { run, patroni } = test;
    expect(await run.eventBridge(FOLLOWING)).toMatchObject(NODE2_APPLIED);
    patroni.leader = 'node1';
    pass(MINUTE);
    expect(await run.invoke(FOLLOWING)).toMatchObject({ exit_code: 0, leader: 'node1' });
    expect(run.host.api.activeModel()).toBe('pg:node1');
  });

  test('drops the active model, if its member has null', async () => {
    await using test = await start({ servers: { main: { node2: null } } });
    const { run } = test;
    const { response } = await run.webhook(FOLLOWING);
    expect(response).toMatchObject({ exit_code: 0, leader: 'node2', reset: true });
    expect(response).not.toHaveProperty('barman_model');
    expect(run.host.api.activeModel()).toBeNull();
  });

  test('is not asked for if the role does not match', async () => {
    await using test = await start();
    const { run, patroni } = test;
    expect((await run.webhook({ ...FOLLOWING, role: 'replica' })).response).toMatchObject({
      exit_code: 1,
      follow_leader: true,
    });
    expect(patroni.requests).toEqual([]);
  });

  test('is named by a dry run, which records nothing', async () => {
    await using test = await start();
    const { run } = test;
    run.host.api.setActiveModel('pg:node1');
    const { response } = await run.webhook({ ...FOLLOWING, dry_run: true });
    expect(response).toMatchObject({
      ...{ exit_code: 1, dry_run: true, leader: 'node2', barman_model: 'pg:node2', recorded: false },
      message:
        'dry run: a switch would apply model pg:node2, of the leader node2, to main (now model pg:node1 is active)',
    });
    expect(await run.item()).toBeUndefined();
    expect(run.host.api.operations()).toEqual([]);
  });

  test('is recorded for a paused server, and applied after the pause', async () => {
    await using test = await start();
    const { run } = test;
    await run.webhook(NODE1);
    await run.operator.pause('main', {}, signal());
    pass(MINUTE);
    const { statusCode, response } = await run.webhook(FOLLOWING);
    expect([statusCode, response.recorded, response.message]).toEqual([
      202,
      true,
      expect.stringContaining('is paused'),
    ]);
    await run.operator.resume('main', signal());
    expect(await run.heartbeat()).toMatchObject({ applied: 1 });
    expect(run.host.api.activeModel()).toBe('pg:node2');
  });
});

describe('an event that follows the leader', () => {
  test('has the version of half a minute before its role change', async () => {
    await using test = await start();
    const { run } = test;
    const timeEpoch = Date.now();
    await run.webhook({ ...FOLLOWING, age_ms: 2_000 }, { id: 'msg_1', timeEpoch });
    const version = `${new Date(timeEpoch - 32_000).toISOString()}#msg_1`;
    expect(await run.item()).toMatchObject({ desired: { version } });
  });

  test('is superseded by one of the same role change that names its model, in either order', async () => {
    await using test = await start();
    const { run } = test;
    // Patroni still names node2.
    expect((await run.webhook(NODE1)).response).toMatchObject({ exit_code: 0 });
    expect((await run.webhook(FOLLOWING)).response).toMatchObject({
      exit_code: 1,
      message: expect.stringMatching(/^superseded by a newer event: Barman was set to model pg:node1 /),
    });
    pass(10 * MINUTE);
    expect((await run.webhook(FOLLOWING)).response).toMatchObject({ exit_code: 0, leader: 'node2' });
    expect((await run.webhook({ ...NODE1, age_ms: 20_000 })).response).toMatchObject({ exit_code: 0 });
    expect(run.host.api.activeModel()).toBe('pg:node1');
  });

  test('keeps its version when it is delivered again, and does not ask again, whoever leads now', async () => {
    await using test = await start();
    const { run, patroni } = test;
    await run.webhook(FOLLOWING, { id: 'msg_1' });
    const before = await run.item();
    const asked = patroni.requests.length;
    patroni.leader = 'node1';
    pass(MINUTE);
    const { response } = await run.webhook(FOLLOWING, { id: 'msg_1' });
    expect(response).toMatchObject({
      ...{ exit_code: 0, recorded: true },
      message: 'this event was already applied: Barman was set to model pg:node2',
    });
    expect(response).not.toHaveProperty('leader');
    expect(patroni.requests).toHaveLength(asked);
    expect((await run.item())?.desired).toEqual(before?.desired);
  });

  test('asks again if its first delivery did not find the leader, and keeps the version of that', async () => {
    await using test = await start();
    const { run, patroni } = test;
    patroni.leader = undefined;
    const first = await run.webhook(FOLLOWING, { id: 'msg_1', remaining: 2_500 });
    expect(first.response).toMatchObject({ exit_code: 3, recorded: false });
    const delivered = Date.now();
    patroni.leader = 'node2';
    pass(5 * MINUTE);
    expect((await run.webhook(FOLLOWING, { id: 'msg_1' })).response).toMatchObject(NODE2_APPLIED);
    const [time = ''] = (await run.item())?.desired?.version.split('#') ?? [];
    expect(delivered - Date.parse(time)).toBeGreaterThanOrEqual(30_000);
    expect(delivered - Date.parse(time)).toBeLessThan(MINUTE);
  });

  test('whose id was used for a model is rejected', async () => {
    await using test = await start();
    const { run } = test;
    await run.webhook(PROMOTION, { id: 'msg_1' });
    expect((await run.webhook(FOLLOWING, { id: 'msg_1' })).response).toMatchObject({
      exit_code: 4,
      message: expect.stringMatching(/was already used for model pg:node2 on main, and now for leader/),
    });
  });

  test('is sent again, not rejected, while it is uncertain whether a cluster lists its server', async () => {
    await using test = await start({ servers: { main: {} } });
    const { run } = test;
    const statuses = async () => {
      const { statusCode, response } = await run.webhook(FOLLOWING);
      return [statusCode, response.exit_code];
    };
    expect(await statuses()).toEqual([400, 4]);
    // The parameters were just read.
    expect(await statuses()).toEqual([503, 3]);
    pass(MINUTE);
    run.ssm.faults.set(run.host.path, 'access denied');
    expect(await statuses()).toEqual([503, 3]);
    run.ssm.faults.delete(run.host.path);
    pass(MINUTE);
    expect(await statuses()).toEqual([400, 4]);
  });

  test('is thrown over EventBridge while the leader is unknown, so that Lambda sends it again', async () => {
    await using test = await start({ servers: { main: { node1: 'pg:node1' } } });
    const { run } = test;
    await expect(run.eventBridge(FOLLOWING)).rejects.toThrow(
      /the leader node2 has no model for Barman server main/,
    );
  });

  test('is signed with a secret that may switch its server', async () => {
    const [secret, other] = [createSecret(), createSecret()];
    await using test = await start({ secret });
    const { run, patroni } = test;
    run.host.put({ 'clusters/other': JSON.stringify({ secret: other, servers: { other: {} } }) });
    expect((await run.webhook(FOLLOWING, { secret: other })).statusCode).toBe(403);
    expect((await run.webhook(FOLLOWING, { secret: createSecret() })).statusCode).toBe(401);
    expect(patroni.requests).toEqual([]);
    expect((await run.webhook(FOLLOWING, { secret })).response).toMatchObject(NODE2_APPLIED);
  });
});

describe('two sites', () => {
  test('are followed where the only primary is, and another one by the heartbeat after five minutes', async () => {
    await using test = await start();
    const { run, patroni } = test;
    await using standby = await PatroniStandIn.start({ scope: 'dc2', nodes: ['node3'] });
    const isPrimary = { dc2: false };
    standby.answer = (_, __, normal) => asStandby(normal, isPrimary.dc2);
    const servers = { main: { node3: 'pg:node3' } };
    run.host.put({ 'clusters/dc2': JSON.stringify({ servers, patroni: standby.urls }) });
    const unknown = () =>
      run.heartbeat().then(({ observed }) => observed.unknown.map(({ reason }) => reason));

    expect((await run.webhook(FOLLOWING)).response).toMatchObject(NODE2_APPLIED);
    expect(await unknown()).toEqual([]);
    expect(await run.item()).toMatchObject({ site: 'main', leader: 'node2' });

    // A drill: both have a primary.
    isPrimary.dc2 = true;
    pass(MINUTE);
    expect(await unknown()).toEqual([
      expect.stringMatching(
        /^several sites have a primary: (node2 in main, node3 in dc2|node3 in dc2, node2 in main)$/,
      ),
    ]);
    run.expectLog({
      ...{ level: 'WARN', barman_server: 'main' },
      message: expect.stringMatching(
        /^the leader for Barman server main is unknown: several sites have a primary/,
      ),
    });
    // The first site is gone.
    patroni.leader = undefined;
    pass(MINUTE);
    const { response, statusCode } = await run.webhook({ ...FOLLOWING, cluster: 'dc2' });
    expect([statusCode, response.recorded, response.message]).toEqual([
      503,
      false,
      expect.stringMatching(/follows main, and now the only primary is node3 in dc2/),
    ]);
    for (let minute = 0; minute < 5; minute += 1) {
      expect(await unknown()).toContainEqual(expect.stringMatching(/it is followed after 5 minutes$/));
      expect(run.host.api.activeModel()).toBe('pg:node2');
      pass(MINUTE);
    }
    await run.heartbeat();
    pass(MINUTE);
    expect(await run.heartbeat()).toMatchObject({ applied: 1 });
    expect(run.host.api.activeModel()).toBe('pg:node3');
    expect(await run.item()).toMatchObject({ site: 'dc2', leader: 'node3' });
  });

  test('are not left for a standby site while the parameter of the first is malformed', async () => {
    await using test = await start();
    const { run } = test;
    await using standby = await PatroniStandIn.start({ scope: 'dc2', nodes: ['node3'] });
    standby.answer = (_, __, normal) => asStandby(normal, false);
    const servers = { main: { node3: 'pg:node3' } };
    run.host.put({
      'clusters/dc2': JSON.stringify({ servers, patroni: standby.urls }),
      'clusters/main': '{',
    });
    run.host.api.setActiveModel('pg:node2');
    await run.setItem({ site: 'main', leader: 'node2', leader_since: new Date().toISOString() });
    for (let minute = 0; minute < 8; minute += 1) {
      const { observed } = await run.heartbeat();
      expect(observed.unknown).toContainEqual({
        ...{ cluster: 'dc2', barman_server: 'main' },
        reason: 'it follows main, and the parameter clusters/main is malformed: correct it',
      });
      pass(MINUTE);
    }
    expect((await run.webhook(FOLLOWING)).response).toMatchObject({ exit_code: 3, recorded: false });
    expect(run.host.api.activeModel()).toBe('pg:node2');
    expect(await run.item()).toMatchObject({ site: 'main', leader: 'node2' });
  });
});

/** What a node of a standby site answers. */
function asStandby(normal: { status: number; body: unknown }, isPrimary: boolean) {
  if (isPrimary) return normal;
  const text = JSON.stringify(normal.body)
    .replace('"role":"leader","state":"running"', '"role":"standby_leader","state":"streaming"')
    .replace('"role":"primary"', '"role":"standby_leader"');
  return { ...normal, body: JSON.parse(text) };
}
