/** Patroni as second witness: what the heartbeat does with the leaders that Patroni's REST API names. */

import { createServer } from 'node:http';
import { beforeEach, describe, expect, test, vi } from 'vitest';
import { PatroniStandIn } from '../stand-ins/patroni-rest-api.ts';
import { listen } from '../stand-ins/server.ts';
import { type FunctionUnderTest, PROMOTION, startFunction } from './function.ts';

const MINUTE = 60_000;
const heartbeat = { heartbeat: true };
const signal = () => AbortSignal.timeout(5_000);
const MODELS = { node1: 'pg:node1', node2: 'pg:node2' };

/** Only the clock is faked. */
beforeEach(() => {
  vi.useFakeTimers({ toFake: ['Date'], shouldAdvanceTime: true });
  return () => vi.useRealTimers();
});
const pass = (ms: number) => vi.setSystemTime(Date.now() + ms);
const cluster = (patroni: readonly string[], change: object = {}) =>
  JSON.stringify({ servers: { main: MODELS }, patroni, ...change });
const itemOf = (run: FunctionUnderTest) => run.ledger.get('main', signal());
/** Runs heartbeats, a minute apart. @returns the last response */
async function beats(run: FunctionUnderTest, count: number): Promise<Record<string, unknown>> {
  let last: unknown;
  for (let beat = 0; beat < count; beat += 1) {
    if (beat > 0) pass(MINUTE);
    last = await run.send(heartbeat);
  }
  return last as Record<string, unknown>;
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
    await run.webhook({ ...PROMOTION, barman_model: 'pg:node1' });
    pass(10 * MINUTE);
    expect(await beats(run, 2)).toMatchObject({ observed: { reconciled: [], unknown: [] }, applied: 0 });
    expect(await itemOf(run)).toMatchObject({ leader: 'node1', leader_since: expect.any(String) });

    patroni.leader = 'node2';
    pass(MINUTE);
    expect(await beats(run, 1)).toMatchObject({ observed: { reconciled: [] } });
    expect(await itemOf(run)).toMatchObject({ leader: 'node2', differs_since: expect.any(String) });
    pass(MINUTE);
    expect(await beats(run, 1)).toMatchObject({
      observed: { reconciled: [{ barman_server: 'main' }] },
      applied: 1,
    });
    expect(run.host.api.activeModel()).toBe('pg:node2');
    expect(run.metrics()).toContainEqual(expect.objectContaining({ Reconciled: 1, LeaderUnknown: 0 }));
    expect(run.log()).toContainEqual(
      expect.objectContaining({
        level: 'WARN',
        barman_server: 'main',
        message:
          "Patroni's leader is node2: model pg:node2 is desired for Barman server main now (before: model pg:node1); no event has said so, so a callback may be broken",
      }),
    );
    pass(MINUTE);
    expect(await beats(run, 3)).toMatchObject({ observed: { reconciled: [] }, applied: 0 });
    expect(await itemOf(run)).not.toHaveProperty('differs_since');
    expect(run.host.api.operations()).toHaveLength(2);
  });

  test('is applied for a server that no event has ever named', async () => {
    await using test = await start();
    expect(await beats(test.run, 2)).toMatchObject({
      observed: { reconciled: [{ barman_server: 'main' }] },
      applied: 1,
    });
    expect(test.run.host.api.activeModel()).toBe('pg:node1');
    expect(await itemOf(test.run)).toMatchObject({ cluster: 'main', desired: 'model pg:node1' });
  });

  test('null drops the active model', async () => {
    await using test = await start({ change: { servers: { main: { node1: null } } } });
    test.run.host.api.setActiveModel('pg:node2');
    expect(await beats(test.run, 2)).toMatchObject({ applied: 1 });
    expect(test.run.host.api.activeModel()).toBeNull();
  });

  test('does not override an event of the last minute, and an event that arrives late wins', async () => {
    await using test = await start();
    const { run } = test;
    await beats(run, 1);
    pass(30_000);
    await run.webhook(PROMOTION);
    pass(30_000);
    expect(await beats(run, 1)).toMatchObject({ observed: { reconciled: [] } });
    // Patroni still names node1: it is right after all.
    pass(MINUTE);
    expect(await beats(run, 1)).toMatchObject({
      observed: { reconciled: [{ barman_server: 'main' }] },
      applied: 1,
    });
    expect(run.host.api.activeModel()).toBe('pg:node1');
    // The observation has the version of half a minute before it: this event is newer.
    const late = await run.webhook({ ...PROMOTION, age_ms: 20_000 });
    expect(late.response.exit_code).toBe(0);
    expect(run.host.api.activeModel()).toBe('pg:node2');
  });

  test('is not applied if the two observations find different leaders, or are too close together', async () => {
    await using test = await start();
    const { run, patroni } = test;
    for (const leader of ['node1', 'node2', 'node1']) {
      patroni.leader = leader;
      expect(await beats(run, 1)).toMatchObject({ observed: { reconciled: [] } });
      pass(MINUTE);
    }
    patroni.leader = 'node2';
    await beats(run, 1);
    pass(44_000);
    expect(await beats(run, 1)).toMatchObject({ observed: { reconciled: [] } });
    pass(1_000);
    expect(await beats(run, 1)).toMatchObject({ observed: { reconciled: [{ barman_server: 'main' }] } });
  });

  test('is recorded for a paused server, and applied after the pause', async () => {
    await using test = await start();
    const { run } = test;
    await run.webhook(PROMOTION);
    await run.operator.pause('main', undefined, signal());
    pass(10 * MINUTE);
    expect(await beats(run, 2)).toMatchObject({
      observed: { reconciled: [{ barman_server: 'main' }] },
      applied: 0,
      pausedPending: 1,
    });
    await run.operator.resume('main', signal());
    expect(await beats(run, 1)).toMatchObject({ applied: 1 });
    expect(run.host.api.activeModel()).toBe('pg:node1');
  });

  test('is not asked for a server without members', async () => {
    await using test = await start({ change: { servers: { main: {} } } });
    expect(await beats(test.run, 2)).toMatchObject({ observed: { reconciled: [], unknown: [] }, pending: 0 });
    expect(await itemOf(test.run)).toBeUndefined();
  });
});

describe('a server for which Barman does not stream from the leader', () => {
  const notStreaming = (message: string | RegExp) => ({
    observed: { notStreaming: [{ barman_server: 'main', message: expect.stringMatching(message) }] },
  });
  /** Barman is set to node1, the leader, and streams from the node that its model names. */
  async function startStreaming() {
    const test = await start();
    const { run, patroni } = test;
    patroni.barmanStreamsFrom = () => run.host.api.activeModel()?.replace('pg:', '');
    await run.webhook({ ...PROMOTION, barman_model: 'pg:node1' });
    pass(10 * MINUTE);
    expect(await beats(run, 1)).toMatchObject({ observed: { notStreaming: [] } });
    expect(await itemOf(run)).toMatchObject({ streaming: true, streaming_since: expect.any(String) });
    pass(MINUTE);
    return test;
  }

  test('because a model was applied by hand, is set to the leader again by the third heartbeat that sees that', async () => {
    await using test = await startStreaming();
    const { run } = test;
    run.host.api.setActiveModel('pg:node2');
    expect(await beats(run, 2)).toMatchObject({
      ...notStreaming(/^Barman does not stream from node1 for server main, at least since .*Z$/),
      applied: 0,
    });
    expect(await itemOf(run)).toMatchObject({ streaming: false });
    expect(run.metrics().at(-1)).toMatchObject({ NotStreaming: 1, Reconciled: 0 });
    pass(MINUTE);
    expect(await beats(run, 1)).toMatchObject({
      ...notStreaming(/its model is applied again$/),
      applied: 1,
    });
    expect(run.host.api.activeModel()).toBe('pg:node1');
    expect(run.log()).toContainEqual(
      expect.objectContaining({
        level: 'WARN',
        barman_server: 'main',
        message: expect.stringMatching(/does not stream from node1 .* its model is applied again$/),
      }),
    );
    pass(MINUTE);
    expect(await beats(run, 1)).toMatchObject({ observed: { notStreaming: [] }, pending: 0 });
    expect(run.metrics().at(-1)).toMatchObject({ NotStreaming: 0 });
    expect(await itemOf(run)).toMatchObject({ streaming: true });
    expect(await itemOf(run)).not.toHaveProperty('passed_over');
  });

  test('because the slot is missing, is applied again after two minutes, and then only each ten', async () => {
    await using test = await startStreaming();
    const { run, patroni } = test;
    patroni.barmanStreamsFrom = () => undefined;
    const applied: number[] = [];
    for (let minute = 1; minute <= 24; minute += 1) {
      const heartbeat = await beats(run, 1);
      expect(heartbeat).toMatchObject(notStreaming(''));
      if (heartbeat.applied === 1) applied.push(minute);
      pass(MINUTE);
    }
    // The first heartbeat that sees it is no interval old.
    expect(applied).toEqual([3, 13, 23]);
  });

  test('is not applied again while the leader is unknown, and is not forgotten meanwhile', async () => {
    await using test = await startStreaming();
    const { run, patroni } = test;
    patroni.barmanStreamsFrom = () => undefined;
    await beats(run, 1);
    const before = await itemOf(run);
    patroni.answer = () => ({ status: 503, body: {} });
    pass(MINUTE);
    expect(await beats(run, 3)).toMatchObject({ observed: { notStreaming: [], unknown: [{}] }, applied: 0 });
    expect(await itemOf(run)).toEqual(before);
    patroni.answer = (_, __, normal) => normal;
    expect(await beats(run, 1)).toMatchObject({ ...notStreaming(/applied again/), applied: 1 });
  });

  test('is not reported while it is paused, or while pg-backup-api is unreachable', async () => {
    await using test = await startStreaming();
    const { run, patroni } = test;
    patroni.barmanStreamsFrom = () => undefined;
    await run.operator.pause('main', undefined, signal());
    expect(await beats(run, 4)).toMatchObject({ observed: { notStreaming: [] }, applied: 0 });
    expect(await itemOf(run)).toMatchObject({ streaming: false });
    expect(run.metrics().at(-1)).toMatchObject({ NotStreaming: 0 });
    await run.operator.resume('main', signal());
    await run.host.api.refuse();
    pass(MINUTE);
    expect(await beats(run, 1)).toMatchObject(notStreaming(''));
    for (const metric of ['NotStreaming', 'OldestPendingAge']) {
      expect(run.metrics().at(-1)).not.toHaveProperty(metric);
    }
    await run.host.api.listen();
  });

  test('is not applied again as long as something else than its model is desired', async () => {
    await using test = await startStreaming();
    const { run } = test;
    await run.webhook(PROMOTION);
    pass(50_000);
    expect(await beats(run, 1)).toMatchObject({ ...notStreaming(/Z$/), applied: 0 });
    // The observation decides, as it does without the streaming check.
    pass(MINUTE);
    expect(await beats(run, 1)).toMatchObject({
      observed: { reconciled: [{ barman_server: 'main' }] },
      applied: 1,
    });
    expect(run.host.api.operations()).toHaveLength(3);
  });

  test('is not checked if its WAL arrives in another way', async () => {
    await using test = await start({ change: { streaming_archiver_name: null } });
    test.patroni.barmanStreamsFrom = () => undefined;
    expect(await beats(test.run, 6)).toMatchObject({ observed: { notStreaming: [] } });
    expect(await itemOf(test.run)).not.toHaveProperty('streaming');
    expect(test.run.host.api.operations()).toHaveLength(1);
  });
});

describe('an unknown leader', () => {
  test('changes nothing, and does not start over', async () => {
    await using test = await start();
    const { run, patroni } = test;
    await beats(run, 1);
    await patroni.stop('node1');
    pass(MINUTE);
    expect(await beats(run, 1)).toMatchObject({
      observed: {
        reconciled: [],
        unknown: [
          { cluster: 'main', reason: expect.stringMatching(/^node1 does not confirm .* ECONNREFUSED/) },
        ],
      },
    });
    expect(run.metrics()).toContainEqual(expect.objectContaining({ LeaderUnknown: 1, Reconciled: 0 }));
    expect(await itemOf(run)).toMatchObject({ leader: 'node1', differs_since: expect.any(String) });
  });

  test.each<[string, (patroni: PatroniStandIn) => void, RegExp]>([
    [
      'redirects',
      (patroni) => {
        patroni.answer = () => ({ status: 302, body: '', headers: { location: 'http://127.0.0.1:1/' } });
      },
      /no node answered: .*: 302/,
    ],
    [
      'answers with HTML',
      (patroni) => {
        patroni.answer = () => ({ status: 200, body: '<html>' });
      },
      /something else than a cluster/,
    ],
    [
      'answers with 2 MB',
      (patroni) => {
        patroni.answer = () => ({ status: 200, body: 'x'.repeat(2_000_000) });
      },
      /UND_ERR_RES_EXCEEDED_MAX_SIZE/,
    ],
    [
      'does not answer',
      (patroni) => {
        patroni.answer = () => undefined;
      },
      /no answer in time/,
    ],
  ])('is the result if Patroni %s', async (_, change, reason) => {
    await using test = await start();
    change(test.patroni);
    expect(await beats(test.run, 1)).toMatchObject({
      observed: { unknown: [{ reason: expect.stringMatching(reason) }] },
    });
  });

  test('is the result for a member that is not listed', async () => {
    await using test = await start({ change: { servers: { main: { node2: 'pg:node2' } } } });
    expect(await beats(test.run, 2)).toMatchObject({
      observed: {
        reconciled: [],
        unknown: [
          { reason: 'its leader node1 has no model for Barman server main; add it to clusters/main' },
        ],
      },
    });
  });

  test('is the result for a server with members in two clusters', async () => {
    await using test = await start();
    test.run.host.put({ 'clusters/second': cluster(test.patroni.urls, { scope: 'main' }) });
    expect(await beats(test.run, 2)).toMatchObject({
      observed: {
        reconciled: [],
        unknown: [
          { reason: 'Barman server main has members in main and second, so none of them reconciles it' },
        ],
      },
    });
    expect(await itemOf(test.run)).toBeUndefined();
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
    expect(await itemOf(run)).toMatchObject({ leader: 'node1' });
    run.host.put({ 'patroni-client-key': undefined });
    pass(11 * MINUTE);
    expect(await beats(run, 1)).toMatchObject(unknown(/patroni-client-key is missing/));
  });
});

describe('many clusters', () => {
  test('are asked at the same time: those that hang do not keep the heartbeat from what is pending', async () => {
    const servers = Object.fromEntries(
      Array.from({ length: 200 }, (_, index) => [`s${index}`, { cluster: 'main' }]),
    );
    await using test = await start({ servers: { main: { cluster: 'main' }, ...servers } });
    const { run, patroni } = test;
    const hanging = await listen(createServer(() => {}));
    for (let index = 0; index < 200; index += 1) {
      const urls = index < 20 ? [`http://127.0.0.1:${hanging.port}`] : patroni.urls;
      const change = { scope: 'main', servers: { [`s${index}`]: MODELS } };
      run.host.put({ [`clusters/c${index}`]: cluster(urls, change) });
    }
    await run.putItem({
      barman_server: 'main',
      desired: 'model pg:node2',
      desired_version: `${new Date().toISOString()}#x`,
      recorded_at: new Date().toISOString(),
    });
    const { applied, observed } = (await run.send(heartbeat)) as {
      applied: number;
      observed: { unknown: unknown[] };
    };
    await hanging.close();
    expect([applied, observed.unknown.length]).toEqual([1, 20]);
    expect(run.host.api.activeModel()).toBe('pg:node2');
    expect((await run.ledger.all(signal())).filter(({ leader }) => leader === 'node1')).toHaveLength(181);
  });
});
