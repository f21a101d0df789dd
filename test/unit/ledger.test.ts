import { beforeEach, describe, expect, test, vi } from 'vitest';
import type {
  DesiredState,
  Item,
  LeasedItem,
  RecordedItem,
} from '../../functions/config-switch/ledger/item.ts';
import {
  type EndedLease,
  endedLease,
  type Lease,
  Ledger,
  mayPost,
} from '../../functions/config-switch/ledger/ledger.ts';
import { versionOf } from '../../functions/config-switch/version.ts';
import { MemoryTable } from '../stand-ins/memory-table.ts';
import { at, NOW, useVirtualTime } from './virtual-time.ts';

const MINUTE = 60_000;
const DAY = 24 * 60 * MINUTE;
/** How long a lease lasts (ms). */
const LEASE = 21_000;
const { signal } = new AbortController();

let table: MemoryTable;
let ledger: Ledger;
useVirtualTime();
beforeEach(() => {
  table = new MemoryTable();
  ledger = new Ledger(table);
});

const state = (ms: number, id: string): DesiredState => ({
  barman_server: 'main',
  cluster: 'patroni',
  target: { model: `m-${id}` },
  version: versionOf(NOW + ms, id),
});
/** The desired state `a`, and newer ones. */
const [A, B, C] = [state(0, 'a'), state(1, 'b'), state(2, 'c')];
/** What the item has once A, B or C is recorded. */
const desiredOf = ({ version, cluster }: DesiredState, ms = 0) => ({
  ...{ target: `model m-${version.at(-1)}`, version, cluster },
  recorded_at: at(ms),
});
const appliedOf = ({ version }: DesiredState, operation_id = 'op', ms = 0) => ({
  ...{ target: `model m-${version.at(-1)}`, version, operation_id },
  applied_at: at(ms),
});
const runningOf = ({ version }: DesiredState) => ({
  ...{ target: `model m-${version.at(-1)}`, version },
  operation_id: 'op',
});
/** The item once A is recorded, now. */
const RECORDED: RecordedItem = { barman_server: 'main', desired: desiredOf(A) };
const IN_SYNC: RecordedItem = { ...RECORDED, applied: appliedOf(A) };
const FAILURES = { attempts: 3, next_attempt_at: at(9), last_error: 'no', last_exit_code: 3 } as const;
const ANOTHER = { token: 'another', expires_at: at(0) };
/** Its lease has expired. */
const EXPIRED: LeasedItem = { ...RECORDED, lease: ANOTHER };

/** Records A, and acquires the lease. */
async function acquireLease(): Promise<Lease> {
  return expectLease(await ledger.recordAndAcquire(A, signal));
}
function expectLease(lease: Lease | undefined): Lease {
  if (!lease) throw new Error('not acquired');
  return lease;
}
/** Changes the item. @returns it */
function set(change: Partial<Item>): Item {
  table.item = { barman_server: 'main', ...table.item, ...change };
  return table.item;
}
const ended = (lease: Lease, { version }: DesiredState = A): EndedLease => ({
  ...lease,
  operation: { operation_id: 'op', target: `model m-${version.at(-1)}`, version },
});

describe('record', () => {
  test('writes the desired state and clears earlier failures', async () => {
    set({ desired: desiredOf(state(-9, 'old')), differs_since: at(-9), ...FAILURES });
    expect(await ledger.record(A, signal)).toBe(true);
    expect(table.item).toEqual(RECORDED);
  });

  test('does not overwrite a newer desired state, nor one from an event that was already recorded', async () => {
    await ledger.record(B, signal);
    for (const known of [B, A]) expect(await ledger.record(known, signal)).toBe(false);
    expect(table.item?.desired?.target).toBe('model m-b');
  });
});

describe('the lease', () => {
  const postUntil = () => ({ monotonic: performance.now() + 8_000, wall: Date.now() + 8_000 });

  test('is acquired together with the desired state in one write, unless there is a lease', async () => {
    const lease = await acquireLease();
    const item = { ...RECORDED, lease: { token: lease.token, expires_at: at(LEASE) } };
    expect(lease).toEqual({ token: expect.any(String), item, acquiredAt: NOW, postUntil: postUntil() });
    expect([table.item, table.writes, table.reads]).toEqual([item, 1, 0]);
    expect(await ledger.recordAndAcquire(B, signal)).toBeUndefined();
    expect(table.item, 'nothing is written').toEqual(item);
  });

  test('cannot be acquired while the server is paused', async () => {
    set({ ...RECORDED, paused: true });
    expect(await ledger.recordAndAcquire(B, signal)).toBeUndefined();
    expect(await ledger.acquire(RECORDED, A.version, signal)).toBeUndefined();
    set({ paused_until: at(5_000) });
    expect(await ledger.recordAndAcquire(B, signal)).toBeUndefined();
    vi.setSystemTime(NOW + 5_001);
    expect(await ledger.recordAndAcquire(B, signal)).toBeDefined();
  });

  test('is acquired only where something is desired, not of an item that was deleted meanwhile', async () => {
    expect(await ledger.acquire(RECORDED, A.version, signal)).toBeUndefined();
    expect(table.item, 'no item with a token only').toBeUndefined();
  });

  test('is acquired even if the response to the write was lost, and the SDK repeats it', async () => {
    table.loseResponse = true;
    const own = await acquireLease();
    expect(table.item).toEqual(own.item);
    table.loseResponse = true;
    const renewed = expectLease(await ledger.renew(own, A.version, true, signal));
    expect(table.item).toEqual(renewed.item);
  });

  test.each<[string, string, (own: Lease) => Promise<Lease | undefined>]>([
    ['acquired', 'there is one', () => ledger.acquire(RECORDED, A.version, signal)],
    [
      'renewed',
      'another invocation has it',
      (own) => ledger.renew({ ...own, token: 'another' }, A.version, false, signal),
    ],
    [
      'taken over',
      'it was renewed since the item was read',
      () => ledger.takeOver(EXPIRED, A.version, 'lost', signal),
    ],
  ])('cannot be %s if %s', async (_, _why, attempt) => {
    const own = await acquireLease();
    expect(await attempt(own)).toBeUndefined();
    expect(table.item, 'nothing is written').toEqual(own.item);
  });

  test('has another token once it is renewed', async () => {
    const own = await acquireLease();
    vi.setSystemTime(NOW + 5);
    const renewed = expectLease(await ledger.renew(own, A.version, false, signal));
    expect(renewed).toMatchObject({ acquiredAt: NOW + 5, postUntil: postUntil() });
    expect(renewed.token).not.toBe(own.token);
    expect(table.item?.lease).toEqual({ token: renewed.token, expires_at: at(LEASE + 5) });
  });

  test('cannot be acquired for the applied version or an older one', async () => {
    const item = set({ barman_server: 'main', desired: desiredOf(C), applied: appliedOf(B) }) as RecordedItem;
    for (const old of [B, A]) expect(await ledger.acquire(item, old.version, signal)).toBeUndefined();
    expect(await ledger.acquire(item, C.version, signal)).toBeDefined();
  });

  test('is acquired for the applied version only if it is to be applied again, as when it was read', async () => {
    const again = { ...IN_SYNC, apply_again_at: at(0) };
    table.item = { ...IN_SYNC, apply_again_at: at(1) };
    expect(await ledger.acquire(again, A.version, signal)).toBeUndefined();
    table.item = again;
    expect(await ledger.acquire(again, A.version, signal)).toBeDefined();
  });
});

describe('an item is marked unsettled', () => {
  test('by a take-over, which counts a failed attempt and backs off', async () => {
    table.item = { ...EXPIRED, attempts: 1, running: runningOf(A) };
    const why = 'operation op did not end in time';
    const { token } = expectLease(await ledger.takeOver(table.item as LeasedItem, A.version, why, signal));
    expect(table.item).toEqual({
      ...RECORDED,
      lease: { token, expires_at: at(LEASE) },
      unsettled_since: at(0),
      attempts: 2,
      next_attempt_at: at(2 * MINUTE),
      last_error: why,
      last_exit_code: 3,
    });
  });

  test.each([true, false])('by a renewal only while a POST is in doubt (%s)', async (inDoubt) => {
    const own = await acquireLease();
    const { item } = expectLease(await ledger.renew(own, A.version, inDoubt, signal));
    expect(item.unsettled_since).toBe(inDoubt ? at(0) : undefined);
    expect(item).not.toHaveProperty('attempts');
  });

  test('not by acquire', async () => {
    table.item = RECORDED;
    const lease = await ledger.acquire(RECORDED, A.version, signal);
    expect(lease?.item).not.toHaveProperty('unsettled_since');
  });

  test('again, from the newest doubt on', async () => {
    table.item = { ...EXPIRED, unsettled_since: at(-DAY) };
    await ledger.takeOver(table.item as LeasedItem, A.version, 'lost', signal);
    expect(table.item.unsettled_since).toBe(at(0));
  });
});

test.each([
  [1, 1, true],
  [0, 1, false],
  [1, 0, false],
])('a POST › is allowed in its window by both clocks (%i ms and %i ms left: %s)', (one, other, allowed) => {
  const postUntil = { monotonic: performance.now() + one, wall: Date.now() + other };
  expect(mayPost({ postUntil })).toBe(allowed);
});

describe('complete', () => {
  test('is written, the lease is dropped, and earlier failures are cleared', async () => {
    const lease = await acquireLease();
    set(FAILURES);
    expect(await ledger.complete(ended(lease), signal)).toEqual(IN_SYNC);
    expect(table.item).toEqual(IN_SYNC);
  });

  test('has how long the next operation is expected to take, and nothing if it is not known', async () => {
    for (const operation_ms of [400, undefined]) {
      const lease = await acquireLease();
      await ledger.complete({ ...ended(lease), ...(operation_ms && { operation_ms }) }, signal);
      expect(table.item).toEqual({
        ...IN_SYNC,
        applied: { ...appliedOf(A), ...(operation_ms && { operation_ms }) },
      });
      table.item = {
        barman_server: 'main',
        applied: { ...appliedOf(state(-9, 'z')), operation_ms: 400 },
      };
    }
  });

  test('leaves a newer desired state pending', async () => {
    const lease = await acquireLease();
    await ledger.record(B, signal);
    await ledger.complete(ended(lease), signal);
    expect(table.item).toEqual({ ...IN_SYNC, desired: desiredOf(B) });
  });

  test('is written although the server was paused meanwhile', async () => {
    const lease = await acquireLease();
    set({ paused: true });
    await ledger.complete(ended(lease), signal);
    expect(table.item).toEqual({ ...IN_SYNC, paused: true });
  });

  test('is not written after the lease was lost', async () => {
    const lease = await acquireLease();
    const before = set({ lease: ANOTHER });
    expect(await ledger.complete(ended(lease), signal)).toBeUndefined();
    expect(table.item).toEqual(before);
  });
});

describe('complete, and what is unsettled', () => {
  /** Completes A, whose lease was acquired at a time, and which takes so long (ms); A was applied, or not. */
  async function complete(acquiredAt: number, change: Partial<Item>, takes = 0) {
    vi.setSystemTime(NOW + acquiredAt);
    table.item = { ...RECORDED, ...change };
    const item = table.item as RecordedItem;
    const lease = expectLease(await ledger.acquire(item, A.version, signal));
    vi.setSystemTime(NOW + acquiredAt + takes);
    await ledger.complete(ended(lease), signal);
    return [table.item.unsettled_since, table.item.apply_again_at];
  }
  const again = { applied: appliedOf(A), apply_again_at: at(-1) };
  const since = (ms: number) => ({ ...again, unsettled_since: at(ms) });

  test('removes apply_again_at of a settled item', async () => {
    expect(await complete(0, again)).toEqual([undefined, undefined]);
  });

  test('starts the doubt over with a newer version, and applies it again 2 min later', async () => {
    const older = appliedOf(state(-9, 'z'));
    for (const applied of [{}, { applied: older, apply_again_at: at(-1) }])
      expect(await complete(0, { unsettled_since: at(-DAY), ...applied })).toEqual([at(0), at(2 * MINUTE)]);
  });

  test.each([
    ['2 min at first', MINUTE, 3 * MINUTE],
    ['2 min still', 2 * MINUTE, 4 * MINUTE],
    ['then as long as since the doubt', 4 * MINUTE, 8 * MINUTE],
    ['hours', 10 * 60 * MINUTE, 20 * 60 * MINUTE],
    ['the last one is exactly 24 h after the doubt', 13 * 60 * MINUTE, DAY],
    ['also 1 ms before that', DAY - 1, DAY],
  ])('applies the same version again at growing intervals: %s', async (_, now, next) => {
    expect(await complete(now, since(0))).toEqual([at(0), at(next)]);
  });

  test('settles an item once the lease of what was applied was acquired 24 h after the doubt', async () => {
    expect(await complete(DAY, since(0))).toEqual([undefined, undefined]);
  });

  test.each([
    [DAY - 1, [at(0), at(DAY)]],
    [DAY, [undefined, undefined]],
  ])(
    'counts from when an expired lease was acquired (%i ms after the doubt)',
    async (acquiredAt, settled) => {
      vi.setSystemTime(NOW + DAY + MINUTE);
      const lease = { token: 'another', expires_at: at(acquiredAt + LEASE) };
      table.item = { ...RECORDED, ...since(0), lease, running: runningOf(A) };
      await ledger.complete(endedLease(table.item as LeasedItem, runningOf(A)), signal);
      expect([table.item.unsettled_since, table.item.apply_again_at]).toEqual(settled);
    },
  );

  test('does not settle it if only the operation ended after that', async () => {
    expect(await complete(DAY - 1, since(0), 10_000)).toEqual([at(0), at(DAY)]);
  });
});

describe('release', () => {
  test.each([
    [undefined, 60_000],
    [1, 120_000],
    [3, 480_000],
    [5, 1_920_000],
    [6, 3_600_000],
    [2_000, 3_600_000],
  ])('after %s earlier ones is retried with back-off', async (attempts, delay) => {
    const lease = await acquireLease();
    const item = { ...lease.item, ...(attempts !== undefined && { attempts }) };
    await ledger.release({ ...lease, item }, A.version, 'x'.repeat(2_000), signal);
    const failed = {
      attempts: (attempts ?? 0) + 1,
      next_attempt_at: at(delay),
      last_error: 'x'.repeat(1_000),
      last_exit_code: 3,
    };
    expect([table.item, table.writes]).toEqual([{ ...RECORDED, ...failed }, 2]);
  });

  test('drops the lease for a newer desired state, which begins without failures', async () => {
    const lease = await acquireLease();
    await ledger.record(B, signal);
    await ledger.release(lease, A.version, 'no', signal);
    expect(table.item).toEqual({ ...RECORDED, desired: desiredOf(B) });
  });

  test('leaves an item unsettled', async () => {
    const lease = await acquireLease();
    set({ unsettled_since: at(-1) });
    await ledger.release(lease, A.version, 'no', signal);
    expect(table.item?.unsettled_since).toBe(at(-1));
  });

  test('after the lease was lost changes nothing', async () => {
    const lease = await acquireLease();
    const before = set({ lease: ANOTHER });
    await ledger.release(lease, A.version, 'no', signal);
    expect(table.item).toEqual(before);
  });
});

describe('the running operation', () => {
  test('is recorded only under the own lease', async () => {
    const lease = await acquireLease();
    await ledger.started(lease, 'op', signal);
    expect(table.item).toEqual({ ...lease.item, running: runningOf(A) });
    const another = set({ lease: ANOTHER });
    await ledger.started(lease, 'op2', signal);
    expect(table.item).toEqual(another);
  });

  test.each<[string, (own: Lease) => Promise<unknown>]>([
    ['renew', (own) => ledger.renew(own, A.version, false, signal)],
    ['take over', (own) => ledger.takeOver(own.item as LeasedItem, A.version, 'lost', signal)],
    ['complete', (own) => ledger.complete(ended(own), signal)],
    ['release', (own) => ledger.release(own, A.version, 'no', signal)],
    ['release, although something newer is desired', (own) => ledger.release(own, '', 'no', signal)],
  ])('is removed by %s', async (_, write) => {
    const own = await acquireLease();
    await ledger.started(own, 'op', signal);
    await write(own);
    expect(table.item).not.toHaveProperty('running');
  });
});

describe('applyAgain', () => {
  test('has what is in sync applied again now', async () => {
    table.item = IN_SYNC;
    expect(await ledger.applyAgain(IN_SYNC, signal)).toBe(true);
    expect(table.item).toEqual({ ...IN_SYNC, apply_again_at: at(0) });
  });

  test.each<[string, Partial<Item>]>([
    ['something newer is desired', { desired: desiredOf(B) }],
    ['there is a lease', { lease: ANOTHER }],
  ])('changes nothing once %s', async (_, change) => {
    table.item = { ...IN_SYNC, ...change };
    const before = table.item;
    expect(await ledger.applyAgain(IN_SYNC, signal)).toBe(false);
    expect(table.item).toEqual(before);
  });
});

test('items that cannot be read › do not keep the others from being read', async () => {
  table.items.set('main', IN_SYNC);
  table.items.set('other', { barman_server: 'other', desired: 'model x' } as unknown as Item);
  const { items, unreadable } = await ledger.all(signal);
  expect(items).toEqual([IN_SYNC]);
  expect(unreadable).toEqual([
    {
      barman_server: 'other',
      message: expect.stringMatching(/^the ledger's item of other cannot be read: desired is /),
    },
  ]);
});

describe('what inspections store', () => {
  const inspection = { at: at(0), findings: [], notes: [], unseen: [], missing: [], connected: [] };
  const times = { first_at: at(-DAY), tried_at: at(0), seen_at: at(0) };

  test('is read beside the items, and is no item of a server', async () => {
    table.items.set('main', IN_SYNC);
    await ledger.inspected('other', inspection, signal);
    const { items, unreadable, inspections, heard } = await ledger.all(signal);
    expect([items, unreadable]).toEqual([[IN_SYNC], []]);
    expect([...inspections]).toEqual([['other', inspection]]);
    expect([...heard.keys()]).toEqual(['other']);
  });

  test('is left out if another version has written it, but not who was heard', async () => {
    await ledger.hear('main', { node: 'db1', at: at(0) }, signal);
    await table.update('inspection#main', { inspection: { at: 'yesterday' } } as object, []);
    const { inspections, heard } = await ledger.all(signal);
    expect([...inspections.keys()]).toEqual([]);
    expect(heard.get('main')).toEqual([{ node: 'db1', at: at(0) }]);
  });

  test('is when Barman was inspected, and is left out if another version has written it', async () => {
    await ledger.inspectionTried(times, signal);
    expect(await ledger.stage(signal)).toEqual({ inspection: times });
    expect((await ledger.all(signal)).stage).toEqual({ inspection: times });
    await table.update('@stage', { inspection: { first_at: 'yesterday' } } as object, []);
    expect(await ledger.stage(signal)).toEqual({});
  });
});

describe('the right to ask for a diagnosis', () => {
  const acquire = () => ledger.acquireDiagnosis(MINUTE, signal);

  test('is that of one invocation, until it gives it back', async () => {
    expect([await acquire(), await acquire()]).toEqual([true, false]);
    expect(await ledger.stage(signal)).toEqual({ diagnose_until: at(MINUTE) });
    await ledger.releaseDiagnosis(signal);
    expect(await ledger.stage(signal)).toEqual({});
    expect(await acquire()).toBe(true);
  });

  test('is free again after its time', async () => {
    await acquire();
    vi.setSystemTime(NOW + MINUTE);
    expect(await acquire()).toBe(false);
    vi.setSystemTime(NOW + MINUTE + 1);
    expect(await acquire()).toBe(true);
  });

  test('is held for longer while Barman may go on with a diagnosis', async () => {
    await acquire();
    vi.setSystemTime(NOW + MINUTE / 2);
    await ledger.holdDiagnosis(MINUTE, signal);
    vi.setSystemTime(NOW + MINUTE + 1);
    expect(await acquire()).toBe(false);
    vi.setSystemTime(NOW + 1.5 * MINUTE + 1);
    expect(await acquire()).toBe(true);
  });

  test('ends at once if another version has written until when', async () => {
    await table.update('@stage', { diagnose_until: 'soon' } as object, []);
    expect(await ledger.stage(signal)).toEqual({});
  });
});

test('the role that an event wants is part of the desired state', async () => {
  await ledger.record({ ...A, role: 'replica' }, signal);
  expect(table.item?.desired).toStrictEqual({ ...desiredOf(A), role: 'replica' });
  await ledger.record(B, signal);
  expect(table.item?.desired).toStrictEqual(desiredOf(B));
});
