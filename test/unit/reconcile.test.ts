import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { PostGuard } from '../../functions/config-switch/barman/pg-backup-api.ts';
import { Busy, ConfigSwitchFailed, HttpError, LedgerError } from '../../functions/config-switch/errors.ts';
import { type DesiredState, Ledger, versionOf } from '../../functions/config-switch/reconcile/ledger.ts';
import {
  newProgress,
  type ReconcileOptions,
  recordAndReconcile,
} from '../../functions/config-switch/reconcile/reconcile.ts';
import type { Item } from '../../functions/config-switch/reconcile/table.ts';
import { MemoryEvents } from '../stand-ins/memory-events.ts';
import { MemoryTable } from '../stand-ins/memory-table.ts';

const NOW = Date.parse('2026-11-23T06:10:00.000Z');
const OPERATION_TIMEOUT = 60_000;

/** Replaces pg-backup-api: operations end DONE immediately, unless a test sets a callback. */
class Api {
  guard: PostGuard | undefined;
  readonly targets: object[] = [];
  readonly waitedFor: number[] = [];
  waitSignal: AbortSignal | undefined;
  onCreate: () => Promise<void> | void = () => {};
  onWait: () => Promise<void> | void = () => {};
  onWaitForRecent: () => Promise<void> | void = () => {};

  async createConfigSwitchOperation(_server: string, target: object, guard: PostGuard): Promise<string> {
    this.guard = guard;
    await guard.beforePost();
    this.targets.push(target);
    await this.onCreate();
    return `op${this.targets.length}`;
  }
  async waitForOperation(): Promise<'DONE'> {
    await this.onWait();
    return 'DONE';
  }
  async waitForRecentOperations(_server: string, age: number, signal: AbortSignal): Promise<void> {
    this.waitedFor.push(age);
    this.waitSignal = signal;
    await this.onWaitForRecent();
  }
}

let table: MemoryTable;
let api: Api;
let controller: AbortController;
let options: ReconcileOptions & { events: MemoryEvents };
let remaining: number;
beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date', 'performance'], now: NOW - 100_000 });
  vi.advanceTimersByTime(100_000);
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
    progress: newProgress(),
  };
});
afterEach(() => {
  expect(vi.getTimerCount()).toBe(0);
  vi.useRealTimers();
});

const version = (ms: number, id: string) => versionOf(NOW + ms, id);
const desired = (ms: number, id: string): DesiredState => ({
  server: 'main',
  cluster: 'patroni',
  target: { model: id },
  version: version(ms, id),
});
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
  lease_expires_at: new Date(NOW + 14_000).toISOString(),
  ...change,
});

test('newProgress › starts with nothing recorded or waited for', () => {
  expect(newProgress()).toEqual({
    recorded: false,
    duplicate: false,
    superseded: false,
    passedOver: false,
    waited: 0,
  });
});

describe('reconcile', () => {
  test('records and applies the desired state', async () => {
    expect(await run(desired(0, 'a'))).toEqual({
      exitCode: 0,
      message: 'Barman server main now uses model a',
      operationId: 'op1',
    });
    expect(table.item).toMatchObject({
      applied: 'model a',
      applied_version: version(0, 'a'),
      operation_id: 'op1',
    });
    expect(table.item).not.toHaveProperty('lease_token');
    expect(options.progress).toEqual({ ...newProgress(), recorded: true });
  });

  test('returns the recorded result for an event that was already applied', async () => {
    await run(desired(0, 'a'));
    expect(await run(desired(0, 'a'))).toEqual({
      exitCode: 0,
      message: 'this event was already applied: Barman was set to model a',
      operationId: 'op1',
    });
    expect([options.progress.duplicate, options.progress.superseded, api.targets.length]).toEqual([
      true,
      false,
      1,
    ]);
  });

  test('returns the recorded result without an operation id if none was recorded', async () => {
    table.item = {
      barman_server: 'main',
      applied: 'reset',
      applied_version: version(0, 'a'),
      desired_version: version(0, 'a'),
    };
    const result = await run(desired(0, 'a'));
    expect(result).not.toHaveProperty('operationId');
    expect(result.message).toBe('this event was already applied: Barman was set to reset');
  });

  test('skips an event that is older than the applied version', async () => {
    await run(desired(5, 'b'));
    expect(await run(desired(0, 'a'))).toEqual({
      exitCode: 1,
      message: `superseded by a newer event: Barman was set to model b for ${version(5, 'b')}`,
    });
    expect([options.progress.superseded, options.progress.duplicate, api.targets.length]).toEqual([
      true,
      false,
      1,
    ]);
  });

  test('treats an event id with a different time as the event that was recorded', async () => {
    await run(desired(0, 'a'));
    expect(await run(desired(9, 'a'))).toMatchObject({ exitCode: 0, operationId: 'op1' });
    expect([options.progress.duplicate, options.progress.superseded]).toEqual([true, false]);
    await run(desired(5, 'b'));
    options.progress.superseded = false;
    expect(await run(desired(9, 'a'))).toMatchObject({
      exitCode: 1,
      message: `superseded by a newer event: Barman was set to model b for ${version(5, 'b')}`,
    });
    expect([options.progress.duplicate, options.progress.superseded, api.targets.length]).toEqual([
      true,
      true,
      2,
    ]);
  });

  test('records the desired state of a paused server, but does not apply it', async () => {
    table.item = { barman_server: 'main', paused: true };
    const message =
      'Barman server main is paused: the desired state is recorded, and will be applied after resume';
    await expect(run(desired(0, 'a'))).rejects.toThrow(new Busy(message));
    expect(table.item).toMatchObject({ desired: 'model a' });
    expect([options.progress.recorded, api.targets.length]).toEqual([true, 0]);
  });

  test('reports an item that was deleted meanwhile', async () => {
    table.item = anotherInvocation();
    const get = vi.spyOn(table, 'get').mockResolvedValue(undefined);
    const message = "the ledger's item of main was deleted meanwhile; send the event again";
    await expect(run(desired(0, 'a'))).rejects.toThrow(new LedgerError(message));
    expect(get).toHaveBeenCalled();
  });
});

describe('a newer desired state', () => {
  const arrivesDuringSwitch = () => {
    let recorded = false;
    api.onWait = async () => {
      if (recorded) return;
      recorded = true;
      await options.ledger.record(desired(5, 'b'), controller.signal);
    };
  };

  test('that arrives during the switch is applied next, without a change to the result', async () => {
    arrivesDuringSwitch();
    expect(await run(desired(0, 'a'))).toMatchObject({ exitCode: 0, operationId: 'op1' });
    expect(api.targets).toEqual([{ model: 'a' }, { model: 'b' }]);
    expect(table.item).toMatchObject({ applied_version: version(5, 'b'), operation_id: 'op2' });
  });

  test('is left to the heartbeat if time is short', async () => {
    arrivesDuringSwitch();
    remaining = 10_000;
    expect(await run(desired(0, 'a'))).toMatchObject({ exitCode: 0, operationId: 'op1' });
    expect(api.targets).toEqual([{ model: 'a' }]);
    expect(table.item).toMatchObject({ applied_version: version(0, 'a'), desired_version: version(5, 'b') });
  });

  test('that cannot be applied does not change the result', async () => {
    arrivesDuringSwitch();
    api.onCreate = () => {
      if (api.targets.length > 1) throw new HttpError('no');
    };
    expect(await run(desired(0, 'a'))).toMatchObject({ exitCode: 0, operationId: 'op1' });
    expect(table.item).toMatchObject({ applied_version: version(0, 'a'), last_error: 'no' });
  });

  test('that was recorded earlier is applied instead of the older one', async () => {
    table.item = { barman_server: 'main', desired: 'model b', desired_version: version(5, 'b') };
    expect(await run(desired(0, 'a'))).toEqual({
      exitCode: 1,
      message: `superseded by a newer event: Barman was set to model b for ${version(5, 'b')}`,
    });
    expect(api.targets).toEqual([{ model: 'b' }]);
  });
});

describe('a failure', () => {
  test('with a known outcome releases the lease and records the error', async () => {
    api.onWait = () => {
      throw new ConfigSwitchFailed('so it is');
    };
    await expect(run(desired(0, 'a'))).rejects.toThrow(new ConfigSwitchFailed('so it is'));
    expect(table.item).toMatchObject({ attempts: 1, last_error: 'so it is' });
    expect(table.item).not.toHaveProperty('lease_token');
  });

  test('that is not an Error is thrown unchanged', async () => {
    api.onWait = () => Promise.reject('words');
    await expect(run(desired(0, 'a'))).rejects.toBe('words');
    expect(table.item).toMatchObject({ last_error: 'words' });
  });

  test.each([
    ['an unknown outcome', () => Object.assign(api.guard ?? {}, { inDoubt: true })],
    ['an expired deadline', () => controller.abort()],
  ])('with %s keeps the lease', async (_, prepare) => {
    api.onWait = () => {
      prepare();
      throw new HttpError('so it is');
    };
    await expect(run(desired(0, 'a'))).rejects.toThrow('so it is');
    expect(table.item).toHaveProperty('lease_token');
    expect(table.item).not.toHaveProperty('last_error');
  });

  test('to release the lease is ignored, because the lease expires', async () => {
    api.onWait = () => {
      vi.spyOn(table, 'update').mockRejectedValue(new LedgerError('down'));
      throw new HttpError('so it is');
    };
    await expect(run(desired(0, 'a'))).rejects.toThrow('so it is');
  });
});

describe('the lease of another invocation', () => {
  test('is waited for, for at most 5 s', async () => {
    table.item = anotherInvocation();
    const get = vi.spyOn(table, 'get');
    const message =
      'another invocation is switching main: the desired state is recorded, and will be applied after that';
    const start = performance.now();
    const ended = run(desired(0, 'a')).catch((error: unknown) => ({
      error,
      after: performance.now() - start,
    }));
    await vi.advanceTimersByTimeAsync(20_000);
    expect(await ended).toEqual({ error: new Busy(message), after: 5_000 });
    expect(options.progress).toEqual({ ...newProgress(), recorded: true, waited: 5_000 });
    expect(get.mock.calls.length).toBeGreaterThanOrEqual(21);
    expect(api.targets).toEqual([]);
  });

  test('that was acquired just before ours is waited for', async () => {
    table.item = anotherInvocation({ lease_expires_at: new Date(NOW - 1_000).toISOString() });
    api.onWaitForRecent = () => {
      api.onWaitForRecent = () => {};
      const lease_expires_at = new Date(NOW + 900).toISOString();
      table.item = { ...(table.item as Item), lease_token: 'a third', lease_expires_at };
    };
    expect(await runToEnd(desired(0, 'a'))).toMatchObject({ exitCode: 0 });
    expect([options.progress.waited, api.waitedFor.length]).toEqual([1_000, 2]);
  });

  test('that was acquired during our switch decides the result', async () => {
    api.onWait = () => {
      table.item = anotherInvocation({
        desired: 'model b',
        desired_version: version(5, 'b'),
        applied: 'model b',
        applied_version: version(5, 'b'),
      });
    };
    expect(await runToEnd(desired(0, 'a'))).toEqual({
      exitCode: 1,
      message: `superseded by a newer event: Barman was set to model b for ${version(5, 'b')}`,
    });
    expect(table.item).toMatchObject({ lease_token: 'another', applied: 'model b' });
  });

  test('that is released in time can be acquired', async () => {
    table.item = anotherInvocation();
    setTimeout(() => {
      const { lease_token: _, lease_expires_at: __, ...item } = table.item as Item;
      table.item = item;
    }, 1_100);
    expect(await runToEnd(desired(0, 'a'))).toMatchObject({ exitCode: 0 });
    expect([options.progress.waited, options.progress.passedOver]).toEqual([1_250, false]);
    expect(api.waitedFor).toEqual([]);
  });
});

describe('an expired lease', () => {
  const expired = (ms: number) => anotherInvocation({ lease_expires_at: new Date(NOW - ms).toISOString() });

  test('is replaced once its operations have ended', async () => {
    table.item = expired(1_000);
    expect(await run(desired(0, 'a'))).toMatchObject({ exitCode: 0, operationId: 'op1' });
    expect(api.waitedFor, 'the age of the lease').toEqual([15_000]);
    expect(options.progress.passedOver).toBe(false);
    expect(table.item).not.toHaveProperty('passed_over');
  });

  test('has its operations polled until the operation timeout or the deadline', async () => {
    const aborted: unknown[] = [];
    for (const end of [() => vi.advanceTimersByTime(10_000), () => controller.abort()]) {
      table.item = expired(OPERATION_TIMEOUT - 10_000);
      api.onWaitForRecent = () => {
        aborted.push(api.waitSignal?.aborted);
        end();
        aborted.push(api.waitSignal?.aborted);
        throw new HttpError('no time');
      };
      await runToEnd(desired(0, `a${aborted.length}`));
      vi.setSystemTime(NOW);
    }
    expect(aborted).toEqual([false, true, false, true]);
  });

  test('without an expiry time is passed over immediately', async () => {
    const { lease_expires_at: _, ...item } = anotherInvocation();
    table.item = item;
    expect(await run(desired(0, 'a'))).toMatchObject({ exitCode: 0 });
    expect([api.waitedFor.length, options.progress.passedOver]).toEqual([0, true]);
  });

  test.each([OPERATION_TIMEOUT, OPERATION_TIMEOUT + 1])(
    'that expired %i ms ago is acquired without waiting, and recorded as passed over',
    async (ms) => {
      table.item = expired(ms);
      expect(await run(desired(0, 'a'))).toMatchObject({ exitCode: 0 });
      expect([api.waitedFor.length, options.progress.passedOver, table.item?.passed_over]).toEqual([
        0,
        true,
        true,
      ]);
    },
  );

  test('is passed over after the operation timeout if its operations cannot be listed', async () => {
    table.item = expired(OPERATION_TIMEOUT - 10_000);
    api.onWaitForRecent = () => {
      throw new HttpError('no list');
    };
    expect(await runToEnd(desired(0, 'a'))).toMatchObject({ exitCode: 0 });
    expect([options.progress.passedOver, table.item?.applied_at]).toEqual([
      true,
      new Date(NOW + 10_000).toISOString(),
    ]);
  });

  test('is passed over if the remaining time is just enough to wait', async () => {
    table.item = expired(OPERATION_TIMEOUT - 28_500);
    api.onWaitForRecent = () => {
      throw new HttpError('no list');
    };
    expect(await runToEnd(desired(0, 'a'))).toMatchObject({ exitCode: 0 });
  });

  test('is not passed over if there is not enough time to wait', async () => {
    table.item = expired(1_000);
    api.onWaitForRecent = () => {
      throw new HttpError('no list');
    };
    expect(await runToEnd(desired(0, 'a'))).toEqual(new HttpError('no list'));
    expect([options.progress.passedOver, api.targets.length, table.item?.lease_token]).toEqual([
      false,
      0,
      'another',
    ]);
  });

  test('is not passed over at the deadline', async () => {
    table.item = expired(OPERATION_TIMEOUT - 10_000);
    api.onWaitForRecent = () => {
      controller.abort();
      throw new HttpError('no time');
    };
    expect(await runToEnd(desired(0, 'a'))).toEqual(new HttpError('no time'));
  });
});

describe('a POST', () => {
  test('after the POST window of the lease renews the lease first', async () => {
    const { ledger } = options;
    const acquire = vi.spyOn(ledger, 'acquire');
    const create = api.createConfigSwitchOperation.bind(api);
    api.createConfigSwitchOperation = async (server, target, guard) => {
      const { lease_token } = table.item as Item;
      await guard.beforePost();
      expect(table.item?.lease_token).toBe(lease_token);
      vi.setSystemTime(NOW + 8_000);
      vi.advanceTimersByTime(8_000);
      const id = await create(server, target, guard);
      expect(table.item?.lease_token).not.toBe(lease_token);
      return id;
    };
    expect(await run(desired(0, 'a'))).toMatchObject({ exitCode: 0 });
    expect(acquire).toHaveBeenCalledTimes(1);
  });

  test('after the window by the wall clock renews it first, although the function was frozen', async () => {
    const acquire = vi.spyOn(options.ledger, 'acquire');
    const create = api.createConfigSwitchOperation.bind(api);
    api.createConfigSwitchOperation = async (server, target, guard) => {
      vi.setSystemTime(NOW + 8_000);
      return create(server, target, guard);
    };
    expect(await run(desired(0, 'a'))).toMatchObject({ exitCode: 0 });
    expect(acquire).toHaveBeenCalledTimes(1);
  });

  test('is not sent after the lease was lost', async () => {
    let times = 0;
    const create = api.createConfigSwitchOperation.bind(api);
    api.createConfigSwitchOperation = async (server, target, guard) => {
      times += 1;
      vi.advanceTimersByTime(8_000);
      table.item = anotherInvocation({ applied: 'model b', applied_version: version(5, 'b') });
      return create(server, target, guard);
    };
    expect(await run(desired(0, 'a'))).toMatchObject({ exitCode: 1 });
    expect([times, api.targets.length]).toEqual([1, 0]);
  });

  test('after the POST window applies a newer desired state instead of the older one', async () => {
    const create = api.createConfigSwitchOperation.bind(api);
    let times = 0;
    api.createConfigSwitchOperation = async (server, target, guard) => {
      if (times++ === 0) {
        vi.advanceTimersByTime(8_000);
        await options.ledger.record(desired(5, 'b'), controller.signal);
      }
      return create(server, target, guard);
    };
    expect(await run(desired(0, 'a'))).toMatchObject({ exitCode: 1 });
    expect(api.targets).toEqual([{ model: 'b' }]);
  });
});
