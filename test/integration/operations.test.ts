/** Operations that outlast their invocation, and many servers at once: what the heartbeats do with them. */

import { describe, expect, test } from 'vitest';
import { LEASE } from '../../functions/config-switch/ledger/ledger.ts';
import { inOneCluster } from '../stand-ins/barman-host.ts';
import {
  at,
  type FunctionUnderTest,
  fakeClock,
  isPost,
  MINUTE,
  NODE1,
  PROMOTION,
  pass,
  SKIPPED,
  signal,
  startFunction,
} from './function.ts';

/** Lambda's remaining time (ms) for an invocation that waits in vain. */
const SHORT = 2_500;
const always = Number.POSITIVE_INFINITY;
const isUnsettled = async (run: FunctionUnderTest) => (await run.item())?.unsettled_since !== undefined;
/** A function that has already read its parameters, so that a short invocation gets as far as its operation. */
async function start(...options: Parameters<typeof startFunction>): Promise<FunctionUnderTest> {
  const run = await startFunction(...options);
  await run.invoke(SKIPPED);
  return run;
}

/** Ends an operation that would run for ever. */
function end({ host: { api } }: FunctionUnderTest, server = 'main'): void {
  const [operation] = api.operations(server);
  if (!operation) throw new Error(`${server} has no operation`);
  api.addOperation({ ...operation, status: 'DONE' }, server);
}

fakeClock();

describe('an operation that outlasts its invocation', () => {
  test('is completed by the next heartbeat after its end, without another one', async () => {
    await using run = await start();
    run.host.api.plan({ time: always });
    const { response } = await run.webhook(PROMOTION, { remaining: SHORT });
    expect([response.exit_code, response.recorded]).toEqual([3, true]);
    const [operation] = run.host.api.operations();
    expect(await run.item()).toMatchObject({
      running: { target: 'model pg:node2', operation_id: operation?.id },
    });
    pass(LEASE);
    end(run);
    expect(await run.heartbeat()).toMatchObject({ pending: 1, applied: 1 });
    expect(run.host.api.operations()).toHaveLength(1);
    const item = await run.item();
    expect(item).toMatchObject({ applied: { target: 'model pg:node2', operation_id: operation?.id } });
    for (const part of ['running', 'lease', 'unsettled_since']) expect(item).not.toHaveProperty(part);
  });

  test('is waited for ten minutes if it is the desired one, so that a slow host gets only one', async () => {
    await using run = await start();
    run.host.api.plan({ time: always });
    await run.webhook(PROMOTION, { remaining: SHORT });
    pass(LEASE);
    for (const _ of [0, 3, 6, 9]) {
      expect(await run.heartbeat()).toMatchObject({ pending: 1, applied: 0 });
      pass(3 * MINUTE - 1_000);
    }
    end(run);
    expect(await run.heartbeat()).toMatchObject({ pending: 1, applied: 1 });
    expect([run.host.api.operations().length, await isUnsettled(run)]).toEqual([1, false]);
  });

  test('is passed over after a minute if something newer is desired, and leaves the server unsettled', async () => {
    await using run = await start();
    run.host.api.plan({ time: always });
    await run.webhook(NODE1, { remaining: SHORT });
    pass(LEASE);
    expect((await run.webhook(PROMOTION, { remaining: SHORT })).statusCode).toBe(202);
    expect([run.host.api.operations().length, await isUnsettled(run)]).toEqual([1, false]);
    pass(MINUTE);
    expect(await run.heartbeat()).toMatchObject({ pending: 1, applied: 1 });
    expect([run.host.api.activeModel(), await isUnsettled(run)]).toEqual(['pg:node2', true]);
    run.expectMetrics({ StuckOperation: 1 });
  });

  test('does not delay the end of others: they are in sync in the next heartbeat', async () => {
    const names = ['slow', 'one', 'two', 'three'];
    await using run = await start({ servers: inOneCluster(names) });
    for (const _ of names) run.host.api.plan({ time: always });
    const send = (barman_server: string) =>
      run.webhook({ ...PROMOTION, barman_server }, { remaining: SHORT });
    await Promise.all(names.map(send));
    pass(LEASE);
    for (const name of names.slice(1)) end(run, name);
    const before = performance.now();
    expect(await run.heartbeat()).toMatchObject({ pending: 4, applied: 3 });
    expect(performance.now() - before).toBeLessThan(5_000);
  });
});

describe('the heartbeat', () => {
  const pending = async (run: FunctionUnderTest, names: readonly string[]) => {
    for (const [index, name] of names.entries()) {
      const time = at(index - MINUTE);
      const state = { target: 'model pg:node2', version: `${time}#event` };
      await run.setItem({ desired: { ...state, cluster: 'main', recorded_at: time } }, name);
    }
  };

  test('applies four servers at a time, each with a client of its own', async () => {
    const names = ['one', 'two', 'three', 'four', 'five'];
    await using run = await start({ servers: inOneCluster(names), operationTime: 1_000 });
    await pending(run, names);
    expect(await run.heartbeat()).toMatchObject({ pending: 5, applied: 5 });
    const created = names.map((name) => run.host.api.operations(name)[0]?.createdAt ?? 0);
    const firstEnd = Math.min(...names.map((name) => run.host.api.operations(name)[0]?.endedAt ?? 0));
    expect(created.map((time) => time < firstEnd)).toEqual([true, true, true, true, false]);
  });

  test('reaches a healthy server although the proxy answers 502 for four others, which are tried less and less often', async () => {
    const bad = ['bad1', 'bad2', 'bad3', 'bad4'];
    const names = [...bad, 'healthy'];
    await using run = await start({ servers: inOneCluster(names) }, { MAX_RETRIES: '2' });
    run.host.api.fault({ kind: 'status', status: 502 }, always, (request) => {
      return isPost(request) && request.path.includes('bad');
    });
    await pending(run, names);
    expect(await run.heartbeat()).toMatchObject({ pending: 5, applied: 1 });
    expect(run.host.api.activeModel('healthy')).toBe('pg:node2');
    const attempts: number[] = [];
    for (let minute = 1; minute <= 16; minute += 1) {
      pass(MINUTE);
      const before = run.host.api.requests.filter(isPost).length;
      await run.heartbeat();
      if (run.host.api.requests.filter(isPost).length > before) attempts.push(minute);
    }
    expect(attempts).toEqual([1, 2, 4, 8, 16]);
    expect(await run.ledger.get('bad1', signal())).toMatchObject({
      attempts: 5,
      last_error: 'a POST without a response may still take effect',
    });
  });
});
