/** A POST whose fate is unknown: what is applied after it, and until when it is remembered. */

import { describe, expect, test } from 'vitest';
import { LEASE } from '../../functions/config-switch/ledger/ledger.ts';
import {
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

const HOUR = 60 * MINUTE;
/** Lambda's remaining time (ms) for an invocation that waits in vain. */
const SHORT = 2_500;
const always = Number.POSITIVE_INFINITY;
const isUnsettled = async (run: FunctionUnderTest) => (await run.item())?.unsettled_since !== undefined;
fakeClock();

describe('a POST without a response', () => {
  test('is followed by another one in the same invocation, after its operation; the server is unsettled', async () => {
    await using run = await startFunction();
    run.host.api.fault({ kind: 'lose response' }, 1, isPost);
    expect((await run.webhook(PROMOTION)).response.exit_code).toBe(0);
    const [first, second] = run.host.api.operations();
    expect(second?.createdAt).toBeGreaterThan(first?.endedAt ?? always);
    expect(await run.item()).toMatchObject({
      applied: { operation_id: second?.id },
      unsettled_since: expect.stringMatching(/Z$/),
      apply_again_at: expect.stringMatching(/Z$/),
    });
  });

  test('whose invocation lost its lease leaves the server unsettled, and what takes effect late is corrected', async () => {
    await using run = await startFunction({}, { OPERATION_TIMEOUT: '1', HEARTBEAT_INTERVAL: '1' });
    run.host.api.fault({ kind: 'lose response' }, 1, isPost);
    run.host.api.plan({ time: 4_000 });
    const older = run.webhook(NODE1);
    await expect.poll(() => run.host.api.operations().length).toBe(1);
    pass(LEASE);
    expect((await run.webhook(PROMOTION)).response.exit_code).toBe(0);
    expect(run.host.api.activeModel()).toBe('pg:node2');
    expect((await older).response).toMatchObject({ exit_code: 1, recorded: true });
    expect([run.host.api.activeModel(), await isUnsettled(run)]).toEqual(['pg:node1', true]);
    pass(2_000);
    expect(await run.heartbeat()).toMatchObject({ pending: 1, applied: 1 });
    expect([run.host.api.activeModel(), await isUnsettled(run)]).toEqual(['pg:node2', true]);
  });

  test('that is carried out after a newer one, on a host with two workers, is corrected within two heartbeats', async () => {
    await using run = await startFunction({ workers: 2 }, { HEARTBEAT_INTERVAL: '1', MAX_RETRIES: '1' });
    // Its parameters are read, so that a short invocation gets as far as its POST.
    await run.invoke(SKIPPED);
    run.host.api.fault({ kind: 'stall' }, 1, isPost);
    expect((await run.webhook(NODE1, { remaining: SHORT })).response.exit_code).toBe(3);
    pass(LEASE);
    expect((await run.webhook(PROMOTION)).response.exit_code).toBe(0);
    run.host.api.noFaults();
    await expect.poll(() => run.host.api.activeModel()).toBe('pg:node1');
    expect(await isUnsettled(run)).toBe(true);

    expect(await run.heartbeat(), 'it is not time yet').toMatchObject({ pending: 0, applied: 0 });
    pass(2_000);
    expect(await run.heartbeat()).toMatchObject({ pending: 1, applied: 1 });
    expect([run.host.api.activeModel(), await isUnsettled(run)]).toEqual(['pg:node2', true]);
  });

  test('is remembered for a day: what is desired is applied again at growing intervals, and then the server is settled', async () => {
    await using run = await startFunction();
    run.host.api.fault({ kind: 'lose response' }, 1, isPost);
    await run.webhook(PROMOTION);
    const before = run.host.api.operations().length;
    const times: number[] = [];
    for (let minutes = 0; await isUnsettled(run); ) {
      const { apply_again_at = '' } = (await run.item()) ?? {};
      const wait = Math.ceil((Date.parse(apply_again_at) - Date.now()) / MINUTE);
      pass((wait - 1) * MINUTE);
      expect(await run.heartbeat()).toMatchObject({ applied: 0 });
      pass(MINUTE);
      expect(await run.heartbeat()).toMatchObject({ applied: 1, unreachable: undefined });
      minutes += wait;
      times.push(minutes);
    }
    expect(times).toEqual([2, 5, 11, 23, 47, 95, 191, 383, 767, 1_440]);
    expect(run.host.api.operations()).toHaveLength(before + times.length);
    expect(await run.item()).not.toHaveProperty('apply_again_at');
    pass(2 * HOUR);
    expect(await run.heartbeat()).toMatchObject({ pending: 0, applied: 0 });
  });

  test('is superseded by a newer event although the list of operations cannot be read, and the log names the folder', async () => {
    await using run = await startFunction({}, { MAX_RETRIES: '1' });
    run.host.api.host.createFolders('main').jobs.set('20260101T000000', '');
    run.host.api.fault({ kind: 'lose response' }, 1, isPost);
    expect((await run.webhook(NODE1)).response).toMatchObject({ exit_code: 3, recorded: true });
    pass(LEASE);
    expect(await run.heartbeat(), 'without an event').toMatchObject({ pending: 1, applied: 1 });
    expect([run.host.api.activeModel(), await isUnsettled(run)]).toEqual(['pg:node1', true]);
    run.host.api.fault({ kind: 'lose response' }, 1, isPost);
    await run.webhook(NODE1);
    pass(LEASE);
    expect((await run.webhook(PROMOTION)).response.exit_code).toBe(0);
    expect([run.host.api.activeModel(), await isUnsettled(run)]).toEqual(['pg:node2', true]);
    run.expectLog({
      level: 'WARN',
      barman_server: 'main',
      message: expect.stringContaining('<barman_home>/main/jobs'),
    });
  });
});

describe('the output of an earlier operation with the same id', () => {
  test('is not taken for the result: the operation is repeated under another id', async () => {
    await using run = await startFunction({ distinctIds: false });
    const { output } = run.host.api.host.createFolders('main');
    let id = '';
    // The first POST arrives in the second of an earlier operation, whose job was deleted.
    run.host.api.fault({ kind: 'reset' }, always, (request) => {
      if (isPost(request) && id === '') {
        id = new Date().toISOString().replace(/\.\d+Z$|[-:]/g, '');
        output.set(id, '{"success": true}');
      }
      return false;
    });
    const { response } = await run.webhook({ ...PROMOTION, barman_model: 'pg:unknown' });
    expect(response).toMatchObject({ exit_code: 2, recorded: true });
    const [first, second] = run.host.api.operations();
    expect([first?.id, response.operation_id]).toEqual([id, second?.id]);
    const message = expect.stringMatching(
      new RegExp(`^<barman_home>/main/output/${id}.json .* delete only jobs without an output$`),
    );
    run.expectLog({ level: 'WARN', barman_server: 'main', message });
    expect(await run.item()).toMatchObject({ unsettled_since: expect.any(String), attempts: 1 });
  });
});

describe('a pause', () => {
  test('while a POST is in doubt is the response at once, and nothing more is sent', async () => {
    await using run = await startFunction();
    run.host.api.plan({ time: 1_000 });
    run.host.api.fault({ kind: 'lose response' }, 1, isPost);
    const response = run.webhook(PROMOTION);
    await expect.poll(() => run.host.api.operations().length).toBe(1);
    const start = performance.now();
    await run.operator.pause('main', {}, signal());
    expect(await response).toMatchObject({
      statusCode: 202,
      response: { recorded: true, message: expect.stringContaining('main is paused') },
    });
    expect(performance.now() - start).toBeLessThan(3_000);
    expect(run.host.api.requests.filter(isPost)).toHaveLength(1);
    await run.operator.resume('main', signal());
    pass(LEASE);
    expect(await run.heartbeat()).toMatchObject({ applied: 1 });
    expect(await isUnsettled(run)).toBe(true);
  });
});
