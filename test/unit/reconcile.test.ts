import { beforeEach, describe, expect, test, vi } from 'vitest';
import { EarlierOutput, type PostGuard } from '../../functions/config-switch/barman/pg-backup-api.ts';
import {
  Busy,
  ConfigSwitchFailed,
  HttpError,
  LeaderUnknown,
  LedgerError,
} from '../../functions/config-switch/errors.ts';
import { newFacts } from '../../functions/config-switch/invocation.ts';
import type {
  DesiredState,
  Item,
  LeasedItem,
  RecordedItem,
  RequestedState,
} from '../../functions/config-switch/ledger/item.ts';
import { Ledger } from '../../functions/config-switch/ledger/ledger.ts';
import type { FollowedLeader } from '../../functions/config-switch/patroni/follow-leader.ts';
import {
  type RecordOptions,
  reconcile,
  recordAndReconcile,
} from '../../functions/config-switch/reconcile/reconcile.ts';
import { versionOf } from '../../functions/config-switch/version.ts';
import { MemoryEvents } from '../stand-ins/memory-events.ts';
import { MemoryTable } from '../stand-ins/memory-table.ts';
import { at, NOW, useVirtualTime } from './virtual-time.ts';

const MINUTE = 60_000;

/** Replaces pg-backup-api: operations end DONE at once, unless a test sets a callback. */
class Api {
  guard: PostGuard | undefined;
  readonly targets: object[] = [];
  /** The earlier operations that were polled. */
  readonly polled: string[] = [];
  /** Called before each POST asks the guard. */
  onPost: (guard: PostGuard) => Promise<void> | void = () => {};
  onCreate: () => Promise<void> | void = () => {};
  onWait: () => Promise<void> | void = () => {};
  /** How an earlier operation is. */
  status: 'IN_PROGRESS' | 'DONE' | 'FAILED' = 'DONE';

  async createConfigSwitchOperation(_server: string, target: object, guard: PostGuard): Promise<string> {
    this.guard = guard;
    await this.onPost(guard);
    await guard.beforePost();
    guard.inDoubt = true;
    this.targets.push(target);
    await this.onCreate();
    const id = `op${this.targets.length}`;
    return id;
  }
  async waitForOperation() {
    await this.onWait();
    return { status: 'DONE', operation_ms: 0 } as const;
  }
  async findRunning(): Promise<undefined> {}
  async endOf(_server: string, id: string) {
    this.polled.push(id);
    return this.status;
  }
}

let table: MemoryTable;
let api: Api;
let controller: AbortController;
let options: RecordOptions & { events: MemoryEvents };
let remaining: number;
/** What Patroni says. */
let leader: FollowedLeader;
useVirtualTime();
beforeEach(() => {
  table = new MemoryTable();
  api = new Api();
  controller = new AbortController();
  remaining = 28_500;
  leader = { leader: 'node2', target: { model: 'pg:node2' } };
  options = {
    ledger: new Ledger(table),
    events: new MemoryEvents(),
    leaderOf: async () => leader,
    api,
    signal: controller.signal,
    remaining: () => remaining,
    operationTimeout: MINUTE,
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
const run = (one: RequestedState) => recordAndReconcile(options, one);
/** Runs to the end in virtual time. @returns the result or the error */
async function runToEnd(one: RequestedState): Promise<unknown> {
  const ended = run(one).catch((error: unknown) => error);
  await vi.advanceTimersByTimeAsync(200_000);
  return ended;
}
const heartbeat = (one: DesiredState) =>
  reconcile({ ...options, caller: 'heartbeat', allPaused: false }, one.barman_server, one.version);

// Parts of an item.
const desiredOf = ({ version, cluster, target }: DesiredState) => ({
  ...{ target: 'model' in target ? `model ${target.model}` : 'reset', version, cluster },
  recorded_at: at(0),
});
const appliedOf = (one: DesiredState, operation_id = 'op0') => {
  const { target, version } = desiredOf(one);
  return { target, version, operation_id, applied_at: at(0), operation_ms: 0 };
};
const runningOf = (one: DesiredState, operation_id = 'op0') => {
  const { target, version } = desiredOf(one);
  return { operation_id, target, version };
};
const leaseFor = (ms: number) => ({ token: 'another', expires_at: at(ms) });
const X = desired(-9, 'x');
/** Another invocation has the lease, to apply x. */
const anotherInvocation = (change: Partial<Item> = {}): LeasedItem => ({
  barman_server: 'main',
  desired: desiredOf(X),
  lease: leaseFor(21_000),
  ...change,
});

describe('reconcile', () => {
  test('records and applies the desired state', async () => {
    const message = 'Barman server main now uses model a';
    expect(await run(A)).toEqual({ exit_code: 0, message, operation_id: 'op1' });
    expect(table.item).toEqual({
      barman_server: 'main',
      desired: desiredOf(A),
      applied: appliedOf(A, 'op1'),
    });
    expect(options.facts).toEqual({ ...newFacts(), recorded: true });
  });

  test('returns the recorded result for an event that was already applied', async () => {
    await run(A);
    const message = 'this event was already applied: Barman was set to model a';
    expect(await run(A)).toEqual({ exit_code: 0, message, operation_id: 'op1' });
    expect([options.facts.duplicate, options.facts.superseded, api.targets.length]).toEqual([true, false, 1]);
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

  test.each([
    [
      'is recorded, but not applied',
      undefined,
      'Barman server main is paused: the desired state is recorded',
    ],
    ['is applied after the end of the pause', at(-1), undefined],
  ])('an event while all servers are paused %s', async (_, until, error) => {
    const paused = { at: at(-9_000), ...(until && { until }) };
    table.items.set('@stage', { barman_server: '@stage', paused } as never);
    const result = await run(A).catch((thrown: Error) => thrown);
    if (error) expect(result).toMatchObject({ name: 'Busy', message: expect.stringContaining(error) });
    expect(options.facts.recorded).toBe(true);
    expect(table.item).toMatchObject({ desired: desiredOf(A) });
    expect(table.item?.lease).toBeUndefined();
    expect(table.item?.applied !== undefined).toBe(error === undefined);
  });

  test('records the desired state of a paused server, but does not apply it', async () => {
    table.item = { barman_server: 'main', paused: true };
    const message =
      'Barman server main is paused: the desired state is recorded, and will be applied after the pause';
    await expect(run(A)).rejects.toThrow(new Busy(message));
    expect(table.item).toMatchObject({ desired: { target: 'model a' } });
    expect([options.facts.recorded, api.targets.length]).toEqual([true, 0]);
  });

  test('of an item that was deleted meanwhile is not recorded', async () => {
    table.item = anotherInvocation();
    vi.spyOn(table, 'get').mockResolvedValue(undefined);
    const message = "the ledger's item of main was deleted meanwhile; send the event again";
    await expect(run(A)).rejects.toThrow(new LedgerError(message));
    expect(options.facts.recorded).toBe(false);
  });

  test('of an item that cannot be read is not recorded', async () => {
    const flat = { barman_server: 'main', desired: 'model x', desired_version: X.version } as unknown as Item;
    table.item = flat;
    await expect(run(A)).rejects.toThrow("the ledger's item of main cannot be read: desired is ");
    expect([table.item, options.facts.recorded]).toEqual([flat, false]);
  });
});

describe('an event that follows the leader', () => {
  /** Between the versions of A and B. */
  const FOLLOWS: RequestedState = { ...desired(2, 'e'), target: { follow_leader: true } };
  const asksLeader = (leaderOf: RecordOptions['leaderOf']) => {
    options = { ...options, leaderOf };
  };
  const OF_LEADER = { ...FOLLOWS, target: { model: 'pg:node2' } };

  test('has the model of the leader recorded and applied, and says who that is, and how long that took', async () => {
    asksLeader(async () => {
      vi.advanceTimersByTime(1_500);
      return leader;
    });
    const message = 'Barman server main now uses model pg:node2';
    expect(await run(FOLLOWS)).toEqual({ exit_code: 0, message, operation_id: 'op1' });
    expect(table.item).toMatchObject({ desired: { target: 'model pg:node2', version: FOLLOWS.version } });
    expect(options.facts).toEqual({ ...newFacts(), recorded: true, followed: leader, asked: 1_500 });
  });

  test.each<[string, Item | undefined]>([
    ['a new server', undefined],
    ['a server with a site', { barman_server: 'main', site: 'west' }],
  ])('asks for the leader of %s, with what is known of the server', async (_, item) => {
    table.item = item;
    const leaderOf = vi.spyOn(options, 'leaderOf');
    await run(FOLLOWS);
    expect(leaderOf).toHaveBeenCalledExactlyOnceWith(item ?? { barman_server: 'main' }, controller.signal);
  });

  test('is recorded with that leader while another invocation has the lease', async () => {
    table.item = anotherInvocation();
    expect(await runToEnd(FOLLOWS)).toBeInstanceOf(Busy);
    expect(table.item).toMatchObject({ desired: { target: 'model pg:node2', version: FOLLOWS.version } });
    expect(options.facts).toMatchObject({ recorded: true, followed: leader });
  });

  test('follows no leader if something newer is recorded while the leader is asked for', async () => {
    asksLeader(async () => {
      await options.ledger.record(B, controller.signal);
      return leader;
    });
    expect(await run(FOLLOWS)).toEqual({ exit_code: 1, message: BY_B });
    expect(api.targets).toEqual([{ model: 'b' }]);
    expect(options.facts).not.toHaveProperty('followed');
  });

  test('records nothing if the leader is unknown, and says how long it was asked for', async () => {
    asksLeader(async () => {
      vi.advanceTimersByTime(10_000);
      throw new LeaderUnknown('no leader');
    });
    await expect(run(FOLLOWS)).rejects.toThrow(new LeaderUnknown('no leader'));
    expect(table.item).toBeUndefined();
    expect(options.facts).toEqual({ ...newFacts(), asked: 10_000 });
  });

  test.each([
    ['is already applied', OF_LEADER, { exit_code: 0, operation_id: 'op0' }],
    ['is older than what is applied', B, { exit_code: 1, message: BY_B }],
  ])('that %s does not ask for the leader again', async (_, newest, result) => {
    table.item = { barman_server: 'main', desired: desiredOf(newest), applied: appliedOf(newest) };
    const leaderOf = vi.spyOn(options, 'leaderOf');
    expect(await run(FOLLOWS)).toMatchObject(result);
    expect([leaderOf.mock.calls, api.targets]).toEqual([[], []]);
    expect(options.facts).not.toHaveProperty('followed');
  });

  test('that is newer than what is desired asks for the leader', async () => {
    await run(A);
    expect(await run(FOLLOWS)).toMatchObject({ exit_code: 0, operation_id: 'op2' });
    expect(api.targets).toEqual([{ model: 'a' }, { model: 'pg:node2' }]);
  });

  test('is never recorded without a leader, even if the item that had it is deleted meanwhile', async () => {
    const recorded = { barman_server: 'main', desired: desiredOf(OF_LEADER) };
    vi.spyOn(table, 'get').mockImplementation(async (server) => {
      if (server !== 'main') return undefined;
      vi.mocked(table.get).mockRestore();
      return recorded;
    });
    await expect(run(FOLLOWS)).rejects.toThrow('was deleted meanwhile; send the event again');
    expect(table.item).toBeUndefined();
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
    expect(table.item).toMatchObject({ applied: appliedOf(B, 'op2') });
  });

  test('is still applied next with ten seconds left', async () => {
    arrivesDuringSwitch();
    remaining = 10_000;
    await run(A);
    expect(api.targets).toEqual([{ model: 'a' }, { model: 'b' }]);
  });

  test('is left to the heartbeat if time is short', async () => {
    arrivesDuringSwitch();
    remaining = 9_999;
    expect(await run(A)).toMatchObject({ exit_code: 0, operation_id: 'op1' });
    expect(api.targets).toEqual([{ model: 'a' }]);
    expect(table.item).toEqual({
      barman_server: 'main',
      desired: desiredOf(B),
      applied: appliedOf(A, 'op1'),
    });
  });

  test('that cannot be applied does not change the result', async () => {
    arrivesDuringSwitch();
    api.onCreate = () => {
      if (api.targets.length === 1) return;
      Object.assign(api.guard ?? {}, { inDoubt: false });
      throw new HttpError('no');
    };
    expect(await run(A)).toMatchObject({ exit_code: 0, operation_id: 'op1' });
    expect(table.item).toMatchObject({ applied: appliedOf(A, 'op1'), attempts: 1, last_error: 'no' });
  });

  test.each<[string, Partial<Item>]>([
    ['the server is paused', { paused: true }],
    ['another invocation has the lease', { lease: leaseFor(21_000) }],
  ])('is left alone once %s, without a change to the result', async (_, change) => {
    arrivesDuringSwitch();
    const { complete } = options.ledger;
    vi.spyOn(options.ledger, 'complete').mockImplementation(async (...args) => {
      const item = await complete.apply(options.ledger, args);
      table.item = { ...(table.item as Item), ...change };
      return item;
    });
    expect(await run(A)).toMatchObject({ exit_code: 0, operation_id: 'op1' });
    expect(api.targets).toEqual([{ model: 'a' }]);
    expect(table.item).toMatchObject({ desired: desiredOf(B), ...change });
    expect(options.facts.duplicate).toBe(false);
  });

  test('that was recorded earlier is applied instead of the older one', async () => {
    table.item = { barman_server: 'main', desired: desiredOf(B) };
    expect(await run(A)).toEqual({ exit_code: 1, message: BY_B });
    expect(api.targets).toEqual([{ model: 'b' }]);
  });
});

describe('a failure', () => {
  test.each([
    [new ConfigSwitchFailed('so it is'), 'so it is'],
    ['words', 'words'],
  ])('with a known outcome (%s) releases the lease and records the error', async (error, last_error) => {
    api.onWait = () => {
      Object.assign(api.guard ?? {}, { inDoubt: false });
      throw error;
    };
    await expect(run(A)).rejects.toBe(error);
    expect(table.item).toMatchObject({ attempts: 1, last_error });
    expect(table.item).not.toHaveProperty('lease');
  });

  test.each([
    ['an unknown outcome', () => {}],
    [
      'an expired deadline',
      () => {
        Object.assign(api.guard ?? {}, { inDoubt: false });
        controller.abort();
      },
    ],
  ])('with %s keeps the lease', async (_, prepare) => {
    api.onWait = () => {
      prepare();
      throw new HttpError('so it is');
    };
    await expect(run(A)).rejects.toThrow('so it is');
    expect(table.item).toMatchObject({ lease: {}, running: runningOf(A, 'op1') });
    expect(table.item).not.toHaveProperty('last_error');
  });

  test('to release the lease is ignored, because the lease expires', async () => {
    api.onWait = () => {
      Object.assign(api.guard ?? {}, { inDoubt: false });
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

  test('is not waited for by a heartbeat', async () => {
    table.item = anotherInvocation();
    await expect(heartbeat(X)).rejects.toThrow(Busy);
    expect(options.facts.waited).toBe(0);
  });

  test('that was acquired just before ours is waited for', async () => {
    table.item = anotherInvocation({ lease: leaseFor(-1_000) });
    vi.spyOn(api, 'findRunning').mockImplementationOnce(async () => {
      table.item = { ...(table.item as Item), lease: { token: 'a third', expires_at: at(900) } };
    });
    expect(await runToEnd(A)).toMatchObject({ exit_code: 0 });
    expect(options.facts.waited).toBe(1_000);
  });

  test('that was acquired during our switch decides the result', async () => {
    const item = anotherInvocation({ desired: desiredOf(B), applied: appliedOf(B) });
    api.onWait = () => {
      table.item = item;
    };
    expect(await runToEnd(A)).toEqual({ exit_code: 1, message: BY_B });
    expect(table.item).toEqual(item);
  });

  test('that is released in time can be acquired', async () => {
    table.item = anotherInvocation();
    setTimeout(() => {
      const { lease: _, ...item } = table.item as Item;
      table.item = item;
    }, 1_100);
    expect(await runToEnd(A)).toMatchObject({ exit_code: 0 });
    expect([options.facts.waited, options.facts.passedOver]).toEqual([1_250, false]);
  });
});

describe('an expired lease with a running operation', () => {
  const expired = (change: Partial<Item> = {}) =>
    anotherInvocation({ lease: leaseFor(-1_000), running: runningOf(X), ...change });

  test('that ended DONE is the result of its event, without another operation', async () => {
    table.item = expired();
    expect(await run(X)).toMatchObject({ exit_code: 0, operation_id: 'op0' });
    expect([api.polled, api.targets]).toEqual([['op0'], []]);
    // How long it took is unknown.
    const { operation_ms: _, ...applied } = appliedOf(X);
    expect(table.item).toEqual({ barman_server: 'main', desired: desiredOf(X), applied });
  });

  test.each(['DONE', 'FAILED'] as const)('that ended %s lets a newer one be applied', async (status) => {
    table.item = expired();
    api.status = status;
    expect(await run(A)).toMatchObject({ exit_code: 0, operation_id: 'op1' });
    expect(table.item).toEqual({
      barman_server: 'main',
      desired: desiredOf(A),
      applied: appliedOf(A, 'op1'),
    });
  });

  test('that ended FAILED is the result of its event', async () => {
    table.item = expired();
    api.status = 'FAILED';
    await expect(run(X)).rejects.toThrow(ConfigSwitchFailed);
    expect(table.item).toMatchObject({ attempts: 1 });
  });

  test('that takes 200 s is the only one, if it applies what is desired', async () => {
    api.status = 'IN_PROGRESS';
    api.onWait = () => {
      controller.abort();
      throw new HttpError('no time');
    };
    await expect(run(A)).rejects.toThrow('no time');
    options = { ...options, signal: new AbortController().signal };
    for (const minute of [1, 2, 3]) {
      vi.setSystemTime(NOW + minute * MINUTE);
      await expect(heartbeat(A)).rejects.toThrow('operation op1 on main has not ended');
    }
    api.status = 'DONE';
    expect(await heartbeat(A)).toMatchObject({ exit_code: 0, operation_id: 'op1' });
    expect(api.targets).toEqual([{ model: 'a' }]);
    expect(table.item).not.toHaveProperty('unsettled_since');
  });
});

describe('the running operation', () => {
  test('is in the item while it is waited for, and not afterwards', async () => {
    let during: Item | undefined;
    api.onWait = () => {
      during = table.item;
    };
    await run(A);
    expect(during).toMatchObject({ running: runningOf(A, 'op1') });
    expect(table.item).not.toHaveProperty('running');
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

describe('a desired state that is to be applied again', () => {
  const inSync = (change: Partial<Item> = {}): RecordedItem => ({
    ...{ barman_server: 'main', desired: desiredOf(A), applied: appliedOf(A) },
    ...{ apply_again_at: at(0), unsettled_since: at(0) },
    ...change,
  });

  test('is applied again by the heartbeat, and is due later then', async () => {
    table.item = inSync();
    expect(await heartbeat(A)).toMatchObject({ exit_code: 0, operation_id: 'op1' });
    expect(api.targets).toEqual([{ model: 'a' }]);
    expect(table.item).toEqual(inSync({ applied: appliedOf(A, 'op1'), apply_again_at: at(2 * MINUTE) }));
    expect(await heartbeat(A), 'another heartbeat').toMatchObject({ operation_id: 'op1' });
    expect(api.targets).toHaveLength(1);
  });

  test('is left to the heartbeat by an event', async () => {
    table.item = inSync();
    expect(await run(A)).toMatchObject({ exit_code: 0, operation_id: 'op0' });
    expect(api.targets).toEqual([]);
  });

  test('is applied again although the POST window has passed', async () => {
    table.item = inSync();
    api.onPost = () => void vi.advanceTimersByTime(8_000);
    expect(await heartbeat(A)).toMatchObject({ exit_code: 0, operation_id: 'op1' });
  });
});

describe('a POST', () => {
  test.each([
    ['after the window of the lease', () => vi.advanceTimersByTime(8_000)],
    ['after it by the wall clock, although the function was frozen', () => vi.setSystemTime(NOW + 8_000)],
  ])('%s renews the lease first', async (_, pass) => {
    let renewed: boolean | undefined;
    api.onPost = async (guard) => {
      const token = table.item?.lease?.token;
      await guard.beforePost();
      expect(table.item?.lease?.token).toBe(token);
      pass();
      await guard.beforePost();
      renewed = table.item?.lease?.token !== token;
    };
    expect(await run(A)).toMatchObject({ exit_code: 0 });
    expect(renewed).toBe(true);
    expect(table.item, 'nothing was in doubt').not.toHaveProperty('unsettled_since');
  });

  test('is not sent after the lease was lost', async () => {
    const post = vi.fn(() => {
      vi.advanceTimersByTime(8_000);
      table.item = anotherInvocation({ applied: appliedOf(B) });
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

  test('that is not sent because of a pause drops the lease, since nothing is in doubt', async () => {
    api.onPost = () => {
      vi.advanceTimersByTime(8_000);
      table.item = { ...(table.item as Item), paused: true };
    };
    await expect(run(A)).rejects.toThrow('Barman server main is paused');
    expect(table.item).not.toHaveProperty('lease');
  });

  /** The first POST has no response; what happens then, before the second. */
  const inDoubt = (then: () => Promise<void> | void = () => {}) => {
    api.onPost = async (guard) => {
      await guard.beforePost();
      guard.inDoubt = true;
      await then();
    };
  };

  test('after one in doubt is sent only once the item is marked unsettled', async () => {
    inDoubt();
    const marked: unknown[] = [];
    api.onCreate = () => void marked.push(table.item?.unsettled_since);
    expect(await run(A)).toMatchObject({ exit_code: 0, operation_id: 'op1' });
    expect(marked).toEqual([at(0)]);
    // What was in doubt may still take effect.
    expect(table.item).toMatchObject({ unsettled_since: at(0), apply_again_at: at(2 * MINUTE) });
    expect(table.item).not.toHaveProperty('attempts');
  });

  test.each([
    ['an event waits', () => run(A), true],
    ['a heartbeat does not wait', () => heartbeat(A), false],
  ])(
    'after one in doubt: %s until what may be an operation of that one has ended',
    async (_, apply, waits) => {
      inDoubt();
      await options.ledger.record(A, controller.signal);
      expect(await apply()).toMatchObject({ exit_code: 0 });
      expect(api.guard).toMatchObject({ waits });
    },
  );

  test('is repeated if its output is that of an earlier operation, and the item is marked unsettled', async () => {
    api.onWait = () => {
      api.onWait = () => {};
      throw new EarlierOutput('op1');
    };
    expect(await run(A)).toMatchObject({ exit_code: 0, operation_id: 'op2' });
    expect(api.targets).toHaveLength(2);
    expect(table.item).toMatchObject({ applied: appliedOf(A, 'op2'), unsettled_since: at(0) });
  });

  test('in doubt is left behind by a lease that was lost: the item is unsettled', async () => {
    inDoubt(async () => {
      api.onPost = () => {};
      vi.advanceTimersByTime(21_000);
      // Another invocation takes the lease over, and its operation ends.
      await recordAndReconcile({ ...options, facts: newFacts() }, B);
    });
    expect(await run(A)).toEqual({ exit_code: 1, message: BY_B });
    expect(api.targets).toEqual([{ model: 'b' }]);
    expect(table.item).toMatchObject({ unsettled_since: at(21_000), apply_again_at: at(141_000) });
  });

  test('in doubt of a server that is paused then has the answer "paused" at once, and keeps the lease', async () => {
    inDoubt(() => {
      table.item = { ...(table.item as Item), paused: true };
    });
    const paused = run(A);
    await expect(paused).rejects.toThrow('Barman server main is paused');
    await expect(paused).rejects.toThrow(Busy);
    expect([options.facts.waited, api.targets]).toEqual([0, []]);
    expect(table.item).toHaveProperty('lease');
  });
});
