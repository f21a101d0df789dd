import { beforeEach, describe, expect, test, vi } from 'vitest';
import type { PostGuard } from '../../functions/config-switch/barman/pg-backup-api.ts';
import { Busy, ConfigSwitchFailed, HttpError, LedgerError } from '../../functions/config-switch/errors.ts';
import { newFacts } from '../../functions/config-switch/invocation.ts';
import {
  type DesiredState,
  type Item,
  isPending,
  type PassedOver,
} from '../../functions/config-switch/ledger/item.ts';
import { Ledger } from '../../functions/config-switch/ledger/ledger.ts';
import {
  type ReconcileOptions,
  reconcile,
  recordAndReconcile,
} from '../../functions/config-switch/reconcile/reconcile.ts';
import { versionOf } from '../../functions/config-switch/version.ts';
import { MemoryEvents } from '../stand-ins/memory-events.ts';
import { MemoryTable } from '../stand-ins/memory-table.ts';
import { at, NOW, useVirtualTime } from './virtual-time.ts';

const OPERATION_TIMEOUT = 60_000;

/** Replaces pg-backup-api: operations end DONE immediately, unless a test sets a callback. */
class Api {
  guard: PostGuard | undefined;
  readonly targets: object[] = [];
  /** The age of each list of recent operations (ms). */
  readonly listed: number[] = [];
  /** The operations that such a list has. */
  recent: string[] = [];
  /** The earlier operations that were polled. */
  readonly polled: string[] = [];
  /** Called before each POST asks the guard. */
  onPost: (guard: PostGuard) => Promise<void> | void = () => {};
  onCreate: () => Promise<void> | void = () => {};
  onWait: () => Promise<void> | void = () => {};
  onList: () => Promise<void> | void = () => {};
  /** The end of an earlier operation. */
  onEnd: (signal: AbortSignal) => Promise<'DONE' | 'FAILED'> = async () => 'DONE';

  async createConfigSwitchOperation(_server: string, target: object, guard: PostGuard): Promise<string> {
    this.guard = guard;
    await this.onPost(guard);
    await guard.beforePost();
    this.targets.push(target);
    await this.onCreate();
    return `op${this.targets.length}`;
  }
  async waitForOperation(): Promise<'DONE'> {
    await this.onWait();
    return 'DONE';
  }
  async recentOperations(_server: string, age: number): Promise<string[]> {
    this.listed.push(age);
    await this.onList();
    return this.recent;
  }
  endOf(_server: string, id: string, signal: AbortSignal): Promise<'DONE' | 'FAILED'> {
    this.polled.push(id);
    return this.onEnd(signal);
  }
}

let table: MemoryTable;
let api: Api;
let controller: AbortController;
let options: ReconcileOptions & { events: MemoryEvents };
let remaining: number;
useVirtualTime();
beforeEach(() => {
  table = new MemoryTable();
  api = new Api();
  controller = new AbortController();
  remaining = 28_500;
  options = {
    ledger: new Ledger(table),
    events: new MemoryEvents(),
    api,
    signal: controller.signal,
    remaining: () => remaining,
    operationTimeout: OPERATION_TIMEOUT,
    facts: newFacts(),
  };
});

const version = (ms: number, id: string) => versionOf(NOW + ms, id);
const desired = (ms: number, id: string): DesiredState => ({
  barman_server: 'main',
  cluster: 'patroni',
  target: { model: id },
  version: version(ms, id),
});
/** A desired state, and a newer one. */
const [A, B] = [desired(0, 'a'), desired(5, 'b')];
const BY_B = `superseded by a newer event: Barman was set to model b for ${B.version}`;
const run = (one: DesiredState) => recordAndReconcile(options, one);
/** Runs to the end in virtual time. @returns the result or the error */
async function runToEnd(one: DesiredState): Promise<unknown> {
  const ended = run(one).catch((error: unknown) => error);
  await vi.advanceTimersByTimeAsync(200_000);
  return ended;
}
const anotherInvocation = (change: Partial<Item> = {}): Item => ({
  barman_server: 'main',
  desired: 'model x',
  desired_version: version(-9, 'x'),
  lease_token: 'another',
  lease_expires_at: at(14_000),
  ...change,
});

describe('reconcile', () => {
  test('records and applies the desired state', async () => {
    const message = 'Barman server main now uses model a';
    expect(await run(A)).toEqual({ exit_code: 0, message, operation_id: 'op1' });
    const applied = { applied: 'model a', applied_version: A.version, operation_id: 'op1' };
    expect(table.item).toMatchObject(applied);
    expect(table.item).not.toHaveProperty('lease_token');
    expect(options.facts).toEqual({ ...newFacts(), recorded: true });
  });

  test('returns the recorded result for an event that was already applied', async () => {
    await run(A);
    const message = 'this event was already applied: Barman was set to model a';
    expect(await run(A)).toEqual({ exit_code: 0, message, operation_id: 'op1' });
    expect([options.facts.duplicate, options.facts.superseded, api.targets.length]).toEqual([true, false, 1]);
  });

  test('returns the recorded result without an operation id if none was recorded', async () => {
    const [applied_version, desired_version] = [A.version, A.version];
    table.item = { barman_server: 'main', applied: 'reset', applied_version, desired_version };
    const message = 'this event was already applied: Barman was set to reset';
    expect(await run(A)).toStrictEqual({ exit_code: 0, message });
  });

  test('skips an event that is older than the applied version', async () => {
    await run(B);
    expect(await run(A)).toEqual({ exit_code: 1, message: BY_B });
    expect([options.facts.superseded, options.facts.duplicate, api.targets.length]).toEqual([true, false, 1]);
  });

  test('treats an event id with a different time as the event that was recorded', async () => {
    await run(A);
    expect(await run(desired(9, 'a'))).toMatchObject({ exit_code: 0, operation_id: 'op1' });
    expect([options.facts.duplicate, options.facts.superseded]).toEqual([true, false]);
    await run(B);
    options.facts.superseded = false;
    expect(await run(desired(9, 'a'))).toEqual({ exit_code: 1, message: BY_B });
    expect([options.facts.duplicate, options.facts.superseded, api.targets.length]).toEqual([true, true, 2]);
  });

  test('records the desired state of a paused server, but does not apply it', async () => {
    table.item = { barman_server: 'main', paused: true };
    const message =
      'Barman server main is paused: the desired state is recorded, and will be applied after the pause';
    await expect(run(A)).rejects.toThrow(new Busy(message));
    expect(table.item).toMatchObject({ desired: 'model a' });
    expect([options.facts.recorded, api.targets.length]).toEqual([true, 0]);
  });

  test('reports an item that was deleted meanwhile', async () => {
    table.item = anotherInvocation();
    vi.spyOn(table, 'get').mockResolvedValue(undefined);
    const message = "the ledger's item of main was deleted meanwhile; send the event again";
    await expect(run(A)).rejects.toThrow(new LedgerError(message));
  });
});

describe('a newer desired state', () => {
  /** B is recorded while A is applied. */
  const arrivesDuringSwitch = () => {
    api.onWait = async () => {
      api.onWait = () => {};
      await options.ledger.record(B, controller.signal);
    };
  };

  test('that arrives during the switch is applied next, without a change to the result', async () => {
    arrivesDuringSwitch();
    expect(await run(A)).toMatchObject({ exit_code: 0, operation_id: 'op1' });
    expect(api.targets).toEqual([{ model: 'a' }, { model: 'b' }]);
    expect(table.item).toMatchObject({ applied_version: B.version, operation_id: 'op2' });
  });

  test('is left to the heartbeat if time is short', async () => {
    arrivesDuringSwitch();
    remaining = 10_000;
    expect(await run(A)).toMatchObject({ exit_code: 0, operation_id: 'op1' });
    expect(api.targets).toEqual([{ model: 'a' }]);
    expect(table.item).toMatchObject({ applied_version: A.version, desired_version: B.version });
  });

  test('that cannot be applied does not change the result', async () => {
    arrivesDuringSwitch();
    api.onCreate = () => {
      if (api.targets.length > 1) throw new HttpError('no');
    };
    expect(await run(A)).toMatchObject({ exit_code: 0, operation_id: 'op1' });
    expect(table.item).toMatchObject({ applied_version: A.version, last_error: 'no' });
  });

  test('that was recorded earlier is applied instead of the older one', async () => {
    table.item = { barman_server: 'main', desired: 'model b', desired_version: B.version };
    expect(await run(A)).toEqual({ exit_code: 1, message: BY_B });
    expect(api.targets).toEqual([{ model: 'b' }]);
  });
});

describe('a failure', () => {
  test.each([
    [new ConfigSwitchFailed('so it is'), 'so it is'],
    ['words', 'words'],
  ])('with a known outcome (%s) releases the lease and records the error', async (error, last_error) => {
    api.onWait = () => Promise.reject(error);
    await expect(run(A)).rejects.toBe(error);
    expect(table.item).toMatchObject({ attempts: 1, last_error });
    expect(table.item).not.toHaveProperty('lease_token');
  });

  test.each([
    ['an unknown outcome', () => Object.assign(api.guard ?? {}, { inDoubt: true })],
    ['an expired deadline', () => controller.abort()],
  ])('with %s keeps the lease', async (_, prepare) => {
    api.onWait = () => {
      prepare();
      throw new HttpError('so it is');
    };
    await expect(run(A)).rejects.toThrow('so it is');
    expect(table.item).toHaveProperty('lease_token');
    expect(table.item).not.toHaveProperty('last_error');
  });

  test('to release the lease is ignored, because the lease expires', async () => {
    api.onWait = () => {
      vi.spyOn(table, 'update').mockRejectedValue(new LedgerError('down'));
      throw new HttpError('so it is');
    };
    await expect(run(A)).rejects.toThrow('so it is');
  });
});

describe('the lease of another invocation', () => {
  test('is waited for, for at most 5 s', async () => {
    table.item = anotherInvocation();
    const get = vi.spyOn(table, 'get');
    const message =
      'another invocation is switching main: the desired state is recorded, and will be applied after that';
    const start = performance.now();
    const ended = run(A).catch((error: unknown) => ({ error, after: performance.now() - start }));
    await vi.advanceTimersByTimeAsync(20_000);
    expect(await ended).toEqual({ error: new Busy(message), after: 5_000 });
    expect(options.facts).toEqual({ ...newFacts(), recorded: true, waited: 5_000 });
    expect(get.mock.calls.length).toBeGreaterThanOrEqual(21);
    expect(api.targets).toEqual([]);
  });

  test('that was acquired just before ours is waited for', async () => {
    table.item = anotherInvocation({ lease_expires_at: at(-1_000) });
    api.onList = () => {
      api.onList = () => {};
      const lease_expires_at = at(900);
      table.item = { ...(table.item as Item), lease_token: 'a third', lease_expires_at };
    };
    expect(await runToEnd(A)).toMatchObject({ exit_code: 0 });
    expect([options.facts.waited, api.listed.length]).toEqual([1_000, 2]);
  });

  test('that was acquired during our switch decides the result', async () => {
    const newest = { desired: 'model b', desired_version: B.version };
    const item = anotherInvocation({ ...newest, applied: 'model b', applied_version: B.version });
    api.onWait = () => {
      table.item = item;
    };
    expect(await runToEnd(A)).toEqual({ exit_code: 1, message: BY_B });
    expect(table.item).toEqual(item);
  });

  test('that is released in time can be acquired', async () => {
    table.item = anotherInvocation();
    setTimeout(() => {
      const { lease_token: _, lease_expires_at: __, ...item } = table.item as Item;
      table.item = item;
    }, 1_100);
    expect(await runToEnd(A)).toMatchObject({ exit_code: 0 });
    expect([options.facts.waited, options.facts.passedOver]).toEqual([1_250, false]);
    expect(api.listed).toEqual([]);
  });
});

/** An operation that does not end. */
const running = (signal: AbortSignal): Promise<never> =>
  new Promise((_, reject) => {
    const stop = () => reject(new HttpError('not known'));
    if (signal.aborted) stop();
    signal.addEventListener('abort', stop);
  });
const passedOver = (...entries: PassedOver[]) => JSON.stringify(entries);

describe('an expired lease', () => {
  const expired = (ms: number, change: Partial<Item> = {}) =>
    anotherInvocation({ lease_expires_at: at(-ms), ...change });

  test('is replaced once its operations have ended', async () => {
    table.item = expired(1_000);
    api.recent = ['x', 'y'];
    expect(await run(A)).toMatchObject({ exit_code: 0, operation_id: 'op1' });
    expect(api.listed, 'the age of the lease').toEqual([15_000]);
    expect(api.polled).toEqual(['x', 'y']);
    expect(options.facts.passedOver).toBe(false);
    expect(table.item).not.toHaveProperty('passed_over');
  });

  test('does not wait for operations that were passed over earlier', async () => {
    const since = at(-90_000);
    table.item = expired(1_000, { passed_over: passedOver({ operation_id: 'x', since }) });
    api.recent = ['x', 'y'];
    expect(await run(A)).toMatchObject({ exit_code: 0 });
    expect(api.polled).toEqual(['y']);
    expect(api.guard?.passedOver).toEqual(new Set(['x']));
    expect(table.item.passed_over).toBe(passedOver({ operation_id: 'x', since }));
  });

  test('is replaced after the operation timeout, and what has not ended is passed over', async () => {
    table.item = expired(OPERATION_TIMEOUT - 10_000);
    api.recent = ['x', 'y', 'z'];
    api.onEnd = async (signal) => (api.polled.at(-1) === 'y' ? 'DONE' : running(signal));
    expect(await runToEnd(A)).toMatchObject({ exit_code: 0 });
    const since = at(10_000);
    expect(table.item).toMatchObject({
      applied_at: since,
      passed_over: passedOver({ operation_id: 'x', since }, { operation_id: 'z', since }),
    });
    expect(options.facts.passedOver).toBe(true);
  });

  test.each([at(-OPERATION_TIMEOUT), at(-OPERATION_TIMEOUT - 1), at(-NOW), 'unknown'])(
    'that expired at %s is replaced after one poll',
    async (lease_expires_at) => {
      table.item = anotherInvocation({ lease_expires_at });
      api.recent = ['x', 'y'];
      api.onEnd = async (signal) => (signal.aborted && api.polled.at(-1) === 'y' ? 'DONE' : running(signal));
      expect(await run(A)).toMatchObject({ exit_code: 0 });
      const since = at(0);
      expect(table.item.passed_over).toBe(passedOver({ operation_id: 'x', since }));
    },
  );

  const notKnown = () => Promise.reject(new HttpError('not known'));
  test.each<[string, ms: number, prepare: () => void]>([
    ['its operations cannot be listed', OPERATION_TIMEOUT, () => Object.assign(api, { onList: notKnown })],
    ['there is not enough time to wait for them', 1_000, () => {}],
    ['the deadline has passed', OPERATION_TIMEOUT - 10_000, () => controller.abort()],
  ])('is not replaced if %s', async (_, ms, prepare) => {
    table.item = expired(ms);
    api.recent = ['x'];
    api.onEnd = notKnown;
    prepare();
    expect(await runToEnd(A)).toEqual(new HttpError('not known'));
    const { passedOver } = options.facts;
    expect([passedOver, api.targets, table.item.lease_token]).toEqual([false, [], 'another']);
  });

  test('has an operation that cannot be polled passed over after the operation timeout', async () => {
    table.item = expired(OPERATION_TIMEOUT - 28_500);
    api.recent = ['x'];
    api.onEnd = () => Promise.reject(new HttpError('no status'));
    expect(await runToEnd(A)).toMatchObject({ exit_code: 0 });
    expect(table.item.applied_at).toBe(at(28_500));
    expect(options.facts.passedOver).toBe(true);
  });

  test('whose operation has not ended is not replaced before the next attempt is due', async () => {
    const next_attempt_at = at(1);
    const [older, newer] = [desired(-9, 'x'), A];
    table.item = expired(OPERATION_TIMEOUT, { desired_version: older.version, next_attempt_at, attempts: 2 });
    api.recent = ['y', 'z'];
    api.onEnd = running;
    const message =
      'operation y, z on main has not ended: the desired state is recorded, and will be applied later';
    expect(await runToEnd(older)).toEqual(new Busy(message));
    expect([api.targets.length, table.item.passed_over]).toEqual([0, undefined]);
    // A newer event begins without failed attempts.
    expect(await runToEnd(newer)).toMatchObject({ exit_code: 0 });
  });

  test('whose operation has not ended is replaced as soon as the next attempt is due', async () => {
    const next_attempt_at = at(0);
    table.item = expired(OPERATION_TIMEOUT, { next_attempt_at, attempts: 2 });
    api.recent = ['y'];
    api.onEnd = running;
    expect(await runToEnd({ ...desired(0, 'x'), version: version(-9, 'x') })).toMatchObject({ exit_code: 0 });
  });

  test('whose operations applied nothing that is known leaves what is applied as it was', async () => {
    table.item = expired(1_000, { applied: 'model w', applied_version: version(-99, 'w') });
    api.recent = ['y'];
    api.onCreate = () => {
      throw new HttpError('refused');
    };
    await expect(run(A)).rejects.toThrow('refused');
    expect(table.item).toMatchObject({ applied: 'model w', applied_version: version(-99, 'w') });
  });

  test('whose operation was passed over counts an attempt, and says why', async () => {
    table.item = expired(OPERATION_TIMEOUT, { attempts: 2 });
    api.recent = ['y', 'z'];
    api.onEnd = running;
    api.onCreate = () => controller.abort();
    api.onWait = () => Promise.reject(new HttpError('no time'));
    await runToEnd({ ...A, version: version(-9, 'x') });
    expect(table.item).toMatchObject({
      attempts: 3,
      next_attempt_at: at(240_000),
      last_error: 'passed over, because it did not end in time: operation y, z',
    });
  });
});

describe('an expired lease with a running operation', () => {
  const [older, newer] = [desired(-9, 'x'), A];
  const expired = (ms: number): Item => ({
    ...anotherInvocation({ lease_expires_at: at(-ms) }),
    running: 'model x',
    running_version: older.version,
    running_operation: 'op0',
  });

  test('that ended DONE is complete, without another operation', async () => {
    table.item = expired(1_000);
    expect(await run(older)).toMatchObject({ exit_code: 0, operation_id: 'op0' });
    expect([api.polled, api.listed, api.targets]).toEqual([['op0'], [], []]);
    expect(table.item).toEqual({
      barman_server: 'main',
      desired: 'model x',
      desired_version: older.version,
      applied: 'model x',
      applied_version: older.version,
      applied_at: at(0),
      operation_id: 'op0',
    });
  });

  test('that ended DONE is complete, and a newer desired state is applied under the same lease', async () => {
    table.item = expired(1_000);
    const acquire = vi.spyOn(options.ledger, 'acquire');
    expect(await run(newer)).toMatchObject({ exit_code: 0, operation_id: 'op1' });
    expect(api.targets).toEqual([{ model: 'a' }]);
    expect(acquire).not.toHaveBeenCalled();
    expect(table.item).toMatchObject({ applied: 'model a', operation_id: 'op1' });
    expect(table.item).not.toHaveProperty('running_operation');
  });

  test('that ended DONE is the result of its event, and a newer desired state is left to the heartbeat if time is short', async () => {
    table.item = { ...expired(1_000), desired: 'model a', desired_version: newer.version };
    remaining = 10_000;
    expect(await run(older)).toMatchObject({ exit_code: 0, operation_id: 'op0' });
    expect(api.targets).toEqual([]);
    expect(table.item).toMatchObject({ applied_version: older.version, desired_version: newer.version });
    expect(table.item).not.toHaveProperty('lease_token');
  });

  test('that ended FAILED counts as an attempt', async () => {
    table.item = { ...expired(1_000), attempts: 1 };
    api.onEnd = async () => 'FAILED';
    const failed = await runToEnd(older);
    expect(failed).toBeInstanceOf(ConfigSwitchFailed);
    expect(failed).toMatchObject({
      operation_id: 'op0',
      message: expect.stringMatching(/^Barman could not apply model x on main: operation op0 ended FAILED/),
    });
    expect(table.item).toMatchObject({
      attempts: 2,
      last_error: expect.stringContaining('operation op0 ended FAILED'),
    });
    expect(table.item).not.toHaveProperty('lease_token');
    expect(table.item).not.toHaveProperty('running_operation');
  });

  test('that ended FAILED does not delay a newer desired state', async () => {
    table.item = expired(1_000);
    api.onEnd = async () => 'FAILED';
    expect(await run(newer)).toMatchObject({ exit_code: 0, operation_id: 'op1' });
    expect(table.item).not.toHaveProperty('attempts');
  });

  test('that has not ended in time is passed over with its version', async () => {
    table.item = expired(OPERATION_TIMEOUT - 10_000);
    api.onEnd = running;
    expect(await runToEnd(older)).toMatchObject({ exit_code: 0, operation_id: 'op1' });
    const since = at(10_000);
    expect(table.item.passed_over).toBe(passedOver({ operation_id: 'op0', version: older.version, since }));
    expect(api.listed).toEqual([]);
  });
});

describe('the running operation', () => {
  test('is in the item while it is waited for, and not afterwards', async () => {
    let during: Item | undefined;
    api.onWait = () => {
      during = table.item;
    };
    await run(A);
    expect(during).toMatchObject({
      running: 'model a',
      running_operation: 'op1',
      running_version: A.version,
    });
    for (const name of ['running', 'running_operation', 'running_version']) {
      expect(table.item).not.toHaveProperty(name);
    }
  });

  test('is not recorded any more once its application has ended, or after the deadline', async () => {
    const started = vi.spyOn(options.ledger, 'started');
    await run(A);
    expect(started.mock.lastCall?.[2]).toMatchObject({ aborted: true });
    api.onWait = () => {
      expect(started.mock.lastCall?.[2].aborted).toBe(false);
      controller.abort();
      expect(started.mock.lastCall?.[2].aborted).toBe(true);
    };
    await run(desired(1, 'b'));
    expect(started).toHaveBeenCalledTimes(2);
  });

  test('that cannot be recorded changes nothing', async () => {
    api.onCreate = () => {
      vi.spyOn(table, 'update').mockRejectedValueOnce(new LedgerError('down'));
    };
    expect(await run(A)).toMatchObject({ exit_code: 0, operation_id: 'op1' });
  });
});

describe('an operation that was passed over and has ended', () => {
  const since = at(-300_000);
  const inSync = (): Item => ({
    barman_server: 'main',
    desired: 'model a',
    desired_version: A.version,
    applied: 'model a',
    applied_version: A.version,
    operation_id: 'op0',
    passed_over: passedOver({ operation_id: 'x', since }, { operation_id: 'y', since }),
  });
  const heartbeat = (...ended: string[]) =>
    reconcile({ ...options, ended: new Set(ended) }, 'main', A.version);

  test('has the desired state applied again by the heartbeat, and is forgotten', async () => {
    table.item = inSync();
    expect(await heartbeat('x')).toMatchObject({ exit_code: 0, operation_id: 'op1' });
    expect(api.targets).toEqual([{ model: 'a' }]);
    expect(table.item).toMatchObject({
      applied_version: A.version,
      operation_id: 'op1',
      passed_over: passedOver({ operation_id: 'y', since }),
    });
  });

  test('has it applied again until that is complete', async () => {
    table.item = inSync();
    api.onWait = () => Promise.reject(new ConfigSwitchFailed('no'));
    await expect(heartbeat('x', 'y')).rejects.toThrow('no');
    const ended_at = at(0);
    expect(JSON.parse(table.item.passed_over ?? '')).toEqual([
      { operation_id: 'x', since, ended_at },
      { operation_id: 'y', since, ended_at },
    ]);
    expect(isPending(table.item)).toBe(true);
    api.onWait = () => {};
    expect(await heartbeat()).toMatchObject({ exit_code: 0, operation_id: 'op2' });
    expect(table.item).not.toHaveProperty('passed_over');
  });

  test.each([{}, { ended_at: since }])('is left to the heartbeat by an event (%j)', async (mark) => {
    table.item = { ...inSync(), passed_over: passedOver({ operation_id: 'x', since, ...mark }) };
    expect(await run(A)).toMatchObject({ exit_code: 0, operation_id: 'op0' });
    expect(api.targets).toEqual([]);
  });

  test('is nothing to do for a heartbeat after another one has done it', async () => {
    const { passed_over: _, ...done } = inSync();
    table.item = done;
    expect(await heartbeat('x')).toMatchObject({ exit_code: 0, operation_id: 'op0' });
    expect(api.targets).toEqual([]);
  });

  test('renews the lease if the POST window has passed', async () => {
    table.item = inSync();
    api.onPost = () => void vi.advanceTimersByTime(8_000);
    expect(await heartbeat('x', 'y')).toMatchObject({ exit_code: 0, operation_id: 'op1' });
  });
});

describe('a POST', () => {
  test.each([
    ['after the window of the lease', () => vi.advanceTimersByTime(8_000)],
    ['after it by the wall clock, although the function was frozen', () => vi.setSystemTime(NOW + 8_000)],
  ])('%s renews the lease first', async (_, pass) => {
    const acquire = vi.spyOn(options.ledger, 'acquire');
    let renewed: boolean | undefined;
    api.onPost = async (guard) => {
      const token = table.item?.lease_token;
      await guard.beforePost();
      expect(table.item?.lease_token).toBe(token);
      pass();
      await guard.beforePost();
      renewed = table.item?.lease_token !== token;
    };
    expect(await run(A)).toMatchObject({ exit_code: 0 });
    expect([renewed, acquire.mock.calls.length]).toEqual([true, 1]);
  });

  test('is not sent after the lease was lost', async () => {
    const post = vi.fn(() => {
      vi.advanceTimersByTime(8_000);
      table.item = anotherInvocation({ applied: 'model b', applied_version: B.version });
    });
    api.onPost = post;
    expect(await run(A)).toMatchObject({ exit_code: 1 });
    expect([post.mock.calls.length, api.targets.length]).toEqual([1, 0]);
  });

  test('after the window applies a newer desired state instead of the older one', async () => {
    api.onPost = async () => {
      api.onPost = () => {};
      vi.advanceTimersByTime(8_000);
      await options.ledger.record(B, controller.signal);
    };
    expect(await run(A)).toMatchObject({ exit_code: 1 });
    expect(api.targets).toEqual([{ model: 'b' }]);
  });
});
