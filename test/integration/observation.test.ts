/** Patroni as second witness: what the heartbeat does with the leaders that Patroni's REST API names. */

import { createServer } from 'node:http';
import { describe, expect, test } from 'vitest';
import type { Heartbeat } from '../../functions/config-switch/reconcile/heartbeat.ts';
import { inOneCluster } from '../stand-ins/barman-host.ts';
import { PatroniStandIn } from '../stand-ins/patroni-rest-api.ts';
import { listen } from '../stand-ins/server.ts';
import {
  type FunctionUnderTest,
  fakeClock,
  MINUTE,
  NODE1,
  PROMOTION,
  pass,
  signal,
  startFunction,
} from './function.ts';

const MODELS = { node1: 'pg:node1', node2: 'pg:node2' };
/** What is observed if the leader's model became what is desired, and if it did not. */
const RECONCILED = { reconciled: [{ barman_server: 'main' }] };
const AS_BEFORE = { reconciled: [] };
/** And if nothing was desired before. */
const FIRST = { reconciled: [], first: [{ barman_server: 'main' }] };

fakeClock();
const cluster = (patroni: readonly string[], change: object = {}) =>
  JSON.stringify({ servers: { main: MODELS }, patroni, ...change });
/** Runs heartbeats, a minute apart. @returns the last response */
async function beats(run: FunctionUnderTest, count: number): Promise<Heartbeat> {
  for (let beat = 1; beat < count; beat += 1) {
    await run.heartbeat();
    pass(MINUTE);
  }
  return run.heartbeat();
}

/** A function, and a Patroni cluster `main` whose leader is node1. */
async function start(
  options: { readonly change?: object; readonly servers?: Record<string, { cluster: string }> } = {},
) {
  const stack = new AsyncDisposableStack();
  const patroni = stack.use(await PatroniStandIn.start());
  const run = stack.use(await startFunction(options.servers ? { servers: options.servers } : {}));
  run.host.put({ 'clusters/main': cluster(patroni.urls, options.change) });
  return { patroni, run, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

describe("the leader's model", () => {
  test('is applied by the second heartbeat that finds it different from what is desired, without any event', async () => {
    await using test = await start();
    const { run, patroni } = test;
    await run.webhook(NODE1);
    pass(10 * MINUTE);
    expect(await beats(run, 2)).toMatchObject({ observed: { ...AS_BEFORE, unknown: [] }, applied: 0 });
    expect(await run.item()).toMatchObject({ leader: 'node1', leader_since: expect.any(String) });

    patroni.leader = 'node2';
    pass(MINUTE);
    expect(await beats(run, 1)).toMatchObject({ observed: AS_BEFORE });
    expect(await run.item()).toMatchObject({ leader: 'node2', differs_since: expect.any(String) });
    pass(MINUTE);
    expect(await beats(run, 1)).toMatchObject({ observed: RECONCILED, applied: 1 });
    expect(run.host.api.activeModel()).toBe('pg:node2');
    run.expectMetrics({ Reconciled: 1, LeaderUnknown: 0 });
    run.expectLog({
      level: 'WARN',
      barman_server: 'main',
      message:
        "Patroni's leader is node2: model pg:node2 is desired for Barman server main now (before: model pg:node1); no event reported it, so a callback may be broken",
    });
    pass(MINUTE);
    expect(await beats(run, 3)).toMatchObject({ observed: AS_BEFORE, applied: 0 });
    expect(await run.item()).not.toHaveProperty('differs_since');
    expect(run.host.api.operations()).toHaveLength(2);
  });

  test('is applied for a server that no event has ever named; null drops the active model', async () => {
    await using test = await start({ change: { servers: { main: { node1: null } } } });
    const { run } = test;
    run.host.api.setActiveModel('pg:node2');
    expect(await beats(run, 2)).toMatchObject({ observed: FIRST, applied: 1 });
    run.expectLog({
      level: 'INFO',
      message: expect.stringMatching(/no model is desired .*; nothing was before$/),
    });
    expect(run.metrics()).not.toContainEqual(expect.objectContaining({ Reconciled: 1 }));
    expect(run.host.api.activeModel()).toBeNull();
    expect(await run.item()).toMatchObject({ desired: { cluster: 'main', target: 'reset' } });
  });

  test('does not override an event of the last minute, and an event that arrives late wins', async () => {
    await using test = await start();
    const { run } = test;
    await beats(run, 1);
    pass(30_000);
    await run.webhook(PROMOTION);
    pass(30_000);
    expect(await beats(run, 1)).toMatchObject({ observed: AS_BEFORE });
    // Patroni still names node1: it is right after all.
    pass(MINUTE);
    expect(await beats(run, 1)).toMatchObject({ observed: RECONCILED, applied: 1 });
    expect(run.host.api.activeModel()).toBe('pg:node1');
    // The observation has the version of half a minute before it: this event is newer.
    const late = await run.webhook({ ...PROMOTION, age_ms: 20_000 });
    expect(late.response.exit_code).toBe(0);
    expect(run.host.api.activeModel()).toBe('pg:node2');
  });

  test('is recorded for a paused server, and applied after the pause', async () => {
    await using test = await start();
    const { run } = test;
    await run.webhook(PROMOTION);
    await run.operator.pause('main', {}, signal());
    pass(10 * MINUTE);
    expect(await beats(run, 2)).toMatchObject({ observed: RECONCILED, applied: 0, pausedPending: 1 });
    await run.operator.resume('main', signal());
    expect(await beats(run, 1)).toMatchObject({ applied: 1 });
    expect(run.host.api.activeModel()).toBe('pg:node1');
  });
});

describe('a server for which Barman does not stream from the leader', () => {
  const notStreaming = (message: RegExp) => ({
    observed: { notStreaming: [{ barman_server: 'main', message: expect.stringMatching(message) }] },
  });

  test('is set to the leader again by the third heartbeat that sees that, and is counted', async () => {
    await using test = await start();
    const { run, patroni } = test;
    patroni.barmanStreamsFrom = () => run.host.api.activeModel()?.replace('pg:', '');
    await run.webhook(NODE1);
    pass(10 * MINUTE);
    expect(await beats(run, 1)).toMatchObject({ observed: { notStreaming: [] } });
    expect(await run.item()).toMatchObject({ streaming: true, streaming_since: expect.any(String) });

    // By hand.
    run.host.api.setActiveModel('pg:node2');
    pass(MINUTE);
    const since = /^Barman does not stream from node1 for server main, at least since .*Z$/;
    expect(await beats(run, 2)).toMatchObject({ ...notStreaming(since), applied: 0 });
    expect(await run.item()).toMatchObject({ streaming: false });
    expect(run.metrics().at(-1)).toMatchObject({ NotStreaming: 1, Reconciled: 0 });
    pass(MINUTE);
    expect(await beats(run, 1)).toMatchObject({ ...notStreaming(/its model is applied again$/), applied: 1 });
    expect(run.host.api.activeModel()).toBe('pg:node1');
    const message = expect.stringMatching(/does not stream from node1 .* its model is applied again$/);
    run.expectLog({ level: 'WARN', barman_server: 'main', message });
    pass(MINUTE);
    expect(await beats(run, 1)).toMatchObject({ observed: { notStreaming: [] }, pending: 0 });
    expect(run.metrics().at(-1)).toMatchObject({ NotStreaming: 0 });
    expect(await run.item()).toMatchObject({ streaming: true });
  });

  test('is not counted while pg-backup-api is unreachable', async () => {
    await using test = await start();
    const { run, patroni } = test;
    patroni.barmanStreamsFrom = () => undefined;
    await run.webhook(NODE1);
    run.host.api.fault({ kind: 'status', status: 422 });
    expect(await beats(run, 1)).toMatchObject(notStreaming(/Z$/));
    for (const metric of ['NotStreaming', 'OldestPendingAge']) {
      expect(run.metrics().at(-1)).not.toHaveProperty(metric);
    }
  });
});

describe('an unknown leader', () => {
  test('changes nothing, and does not start over', async () => {
    await using test = await start();
    const { run, patroni } = test;
    await beats(run, 1);
    await patroni.stop('node1');
    pass(MINUTE);
    const reason = expect.stringMatching(/^node1 does not confirm that it is the leader/);
    const observed = { ...AS_BEFORE, unknown: [{ cluster: 'main', reason }] };
    expect(await beats(run, 1)).toMatchObject({ observed });
    run.expectMetrics({ LeaderUnknown: 1, Reconciled: 0 });
    expect(await run.item()).toMatchObject({ leader: 'node1', differs_since: expect.any(String) });
  });

  test('in every second minute does not hide that Barman does not stream', async () => {
    await using test = await start();
    const { run, patroni } = test;
    await run.webhook(NODE1);
    patroni.barmanStreamsFrom = () => undefined;
    let down = false;
    patroni.answer = (_, __, normal) => (down ? { status: 503, body: {} } : normal);
    pass(10 * MINUTE);
    for (let minute = 0; minute < 8; minute += 1) {
      const { observed } = await run.heartbeat();
      expect(observed).toMatchObject({
        unknown: down ? [{}] : [],
        notStreaming: [{ barman_server: 'main' }],
      });
      expect(run.metrics().at(-1)).toMatchObject({ NotStreaming: 1, LeaderUnknown: down ? 1 : 0 });
      down = !down;
      pass(MINUTE);
    }
  });
});

describe('a malformed cluster', () => {
  const unknown = {
    unknown: [{ cluster: 'main', reason: expect.stringMatching(/"patronis" is an unknown key/) }],
  };
  const malformed = (urls: readonly string[]) =>
    JSON.stringify({ servers: { main: MODELS }, patronis: urls });

  test('has an unknown leader in every heartbeat of an instance that never had a good value', async () => {
    await using test = await start();
    const { run, patroni } = test;
    run.host.put({ 'clusters/main': malformed(patroni.urls) });
    for (let minute = 0; minute < 12; minute += 1) {
      expect(await beats(run, 1)).toMatchObject({ observed: unknown });
      expect(run.metrics().at(-1)).toMatchObject({ LeaderUnknown: 1 });
      pass(MINUTE);
    }
    const { stage } = await run.ledger.all(signal());
    const reported = { name: 'main', unknown: expect.stringContaining('"patronis" is an unknown key') };
    expect(stage.heartbeat?.clusters).toMatchObject([reported]);
    expect(patroni.requests).toEqual([]);
    run.host.put({ 'clusters/main': cluster(patroni.urls) });
    pass(5 * MINUTE);
    await run.heartbeat();
    expect(await beats(run, 1)).toMatchObject({ observed: { unknown: [] } });
  });

  test('has one also while an earlier good value is in use, and WAL that did not arrive is counted', async () => {
    await using test = await start();
    const { run, patroni } = test;
    patroni.barmanStreamsFrom = () => undefined;
    await beats(run, 2);
    run.host.put({ 'clusters/main': malformed(patroni.urls) });
    pass(6 * MINUTE);
    await run.heartbeat();
    const before = patroni.requests.length;
    const message = expect.stringMatching(
      /^Barman did not stream from node1 for server main when last seen at /,
    );
    const observed = { ...unknown, notStreaming: [{ barman_server: 'main', message }] };
    expect(await beats(run, 12)).toMatchObject({ observed });
    expect(run.metrics().at(-1)).toMatchObject({ LeaderUnknown: 1, NotStreaming: 1 });
    expect(patroni.requests).toHaveLength(before);
  });
});

test('a malformed certificate for Patroni makes every leader unknown, also after a good one', async () => {
  await using test = await start();
  const { run } = test;
  const { cert, key } = await run.host.ca.client('patroni');
  run.host.put({ 'patroni-client-cert': cert, 'patroni-client-key': key });
  expect(await beats(run, 1)).toMatchObject({ observed: { unknown: [] } });
  run.host.put({ 'patroni-client-cert': 'no certificate' });
  pass(6 * MINUTE);
  await run.heartbeat();
  const reason = expect.stringMatching(/patroni-client-cert is malformed/);
  expect(await beats(run, 1)).toMatchObject({ observed: { unknown: [{ cluster: 'main', reason }] } });
  run.host.put({ 'patroni-client-cert': cert });
  pass(MINUTE + 1);
  await run.heartbeat();
  expect(await beats(run, 1)).toMatchObject({ observed: { unknown: [] } });
});

describe('names that JavaScript uses itself', () => {
  const ODD = ['constructor', '__proto__', 'prototype', 'toString'];

  test.each(ODD)('are only data: %s', async (name) => {
    await using patroni = await PatroniStandIn.start({ nodes: [name, 'node2'] });
    await using run = await startFunction();
    run.host.put({
      [`clusters/${name}`]: cluster(patroni.urls, { scope: 'main', servers: { [name]: { [name]: 'm' } } }),
    });
    expect(await beats(run, 2)).toMatchObject({
      observed: { first: [{ barman_server: name }], unknown: [], notStreaming: [] },
    });
    expect(await run.ledger.get(name, signal())).toMatchObject({
      leader: name,
      desired: { target: 'model m' },
    });
  });
});

describe('a server whose item cannot be read', () => {
  test('keeps no other one from being observed', async () => {
    const names = ['bad', 'main'];
    await using test = await start({
      servers: inOneCluster(names),
      change: { servers: Object.fromEntries(names.map((name) => [name, MODELS])) },
    });
    const { run } = test;
    await run.setItem({ desired: 'reset' } as never, 'bad');
    expect(await beats(run, 2)).toMatchObject({
      observed: FIRST,
      applied: 1,
      notReady: [{ barman_server: 'bad' }],
    });
    expect(run.host.api.activeModel()).toBe('pg:node1');
    await expect(run.ledger.get('bad', signal())).rejects.toThrow('cannot be read');
  });
});

describe("Patroni's REST API over https", () => {
  test('is verified, and gets the client certificate that it requires', async () => {
    await using run = await startFunction();
    const { ca } = run.host;
    await using patroni = await PatroniStandIn.start({ tls: { ...(await ca.server()), ca: ca.cert } });
    run.host.put({ 'clusters/main': cluster(patroni.urls) });
    const unknown = (reason: RegExp) => ({
      observed: { unknown: [{ reason: expect.stringMatching(reason) }] },
    });
    expect(await beats(run, 1)).toMatchObject(unknown(/UNABLE_TO_VERIFY_LEAF_SIGNATURE|SELF_SIGNED/));
    run.host.put({ 'patroni-ca-cert': ca.cert });
    pass(11 * MINUTE);
    expect(await beats(run, 1)).toMatchObject(
      unknown(/(CERTIFICATE_REQUIRED|ECONNRESET|UND_ERR_SOCKET) \(.*there is no patroni-client-cert\)/),
    );
    const client = await ca.client();
    run.host.put({ 'patroni-client-cert': client.cert, 'patroni-client-key': client.key });
    pass(11 * MINUTE);
    expect(await beats(run, 1)).toMatchObject({ observed: { unknown: [] } });
    expect(await run.item()).toMatchObject({ leader: 'node1' });
    run.host.put({ 'patroni-client-key': undefined });
    pass(11 * MINUTE);
    expect(await beats(run, 1)).toMatchObject(unknown(/patroni-client-key is missing/));
  });
});

describe('many clusters', () => {
  test('are asked at the same time: those that hang do not keep the heartbeat from what is pending', async () => {
    const names = Array.from({ length: 200 }, (_, index) => `s${index}`);
    const servers = Object.fromEntries(['main', ...names].map((name) => [name, { cluster: 'main' }]));
    await using test = await start({ servers });
    const { run, patroni } = test;
    const hanging = await listen(createServer(() => {}));
    for (const [index, name] of names.entries()) {
      const urls = index < 20 ? [`http://127.0.0.1:${hanging.port}`] : patroni.urls;
      run.host.put({ [`clusters/${name}`]: cluster(urls, { scope: 'main', servers: { [name]: MODELS } }) });
    }
    const now = new Date().toISOString();
    const state = { target: 'model pg:node2', version: `${now}#x` };
    await run.setItem({ desired: { ...state, cluster: 'main', recorded_at: now } });
    const { applied, observed } = await run.heartbeat();
    await hanging.close();
    expect([applied, observed.unknown.length]).toEqual([1, 20]);
    expect(run.host.api.activeModel()).toBe('pg:node2');
    const { items } = await run.ledger.all(signal());
    expect(items.filter(({ leader }) => leader === 'node1')).toHaveLength(181);
  });
});
