import { beforeEach, describe, expect, test, vi } from 'vitest';
import {
  type DesiredState,
  type Item,
  passedOver,
  type RecordedItem,
} from '../../functions/config-switch/ledger/item.ts';
import { type Lease, Ledger, mayPost } from '../../functions/config-switch/ledger/ledger.ts';
import { versionOf } from '../../functions/config-switch/version.ts';
import { MemoryTable } from '../stand-ins/memory-table.ts';
import { at, NOW, useVirtualTime } from './virtual-time.ts';

const { signal } = new AbortController();

let table: MemoryTable;
let ledger: Ledger;
useVirtualTime();
beforeEach(() => {
  table = new MemoryTable();
  ledger = new Ledger(table);
});

const desired = (ms: number, id: string): DesiredState => ({
  barman_server: 'main',
  cluster: 'patroni',
  target: { model: `m-${id}` },
  version: versionOf(NOW + ms, id),
});
/** The desired state `a`, and newer ones. */
const [A, B, C] = [desired(0, 'a'), desired(1, 'b'), desired(2, 'c')];
/** The item once A is recorded, now. */
const RECORDED: RecordedItem = {
  barman_server: 'main',
  cluster: 'patroni',
  desired: 'model m-a',
  desired_version: A.version,
  recorded_at: at(0),
};
const APPLIED = { applied: 'model m-a', applied_version: A.version, operation_id: 'op', applied_at: at(0) };
const FAILURES = { attempts: 3, next_attempt_at: at(9), last_error: 'no' };

/** Records A, and acquires the lease. */
async function acquireLease(): Promise<Lease> {
  const acquired = await ledger.recordAndAcquire(A, signal);
  if (!acquired) throw new Error('not acquired');
  return acquired;
}
/** Changes the item. @returns it */
function set(change: Partial<Item>): Item {
  table.item = { barman_server: 'main', ...table.item, ...change };
  return table.item;
}

describe('record', () => {
  test('writes the desired state and clears earlier failures', async () => {
    set({ desired_version: versionOf(NOW - 9, 'old'), differs_since: at(-9), ...FAILURES });
    expect(await ledger.record(A, signal)).toBe(true);
    expect(table.item).toEqual(RECORDED);
  });

  test('does not overwrite a newer desired state, nor one from an event that was already recorded', async () => {
    await ledger.record(B, signal);
    for (const known of [B, A]) expect(await ledger.record(known, signal)).toBe(false);
    expect(table.item?.desired).toBe('model m-b');
  });
});

describe('the lease', () => {
  const postUntil = () => ({ monotonic: performance.now() + 8_000, wall: Date.now() + 8_000 });

  test('is acquired together with the desired state in one write, unless there is a lease', async () => {
    const lease = await acquireLease();
    const item = { ...RECORDED, lease_token: lease.token, lease_expires_at: at(14_000) };
    expect(lease).toEqual({ token: expect.any(String), item, postUntil: postUntil() });
    expect([table.item, table.writes, table.reads]).toEqual([item, 1, 0]);
    expect(await ledger.recordAndAcquire(B, signal)).toBeUndefined();
    expect(table.item, 'nothing is written').toEqual(item);
  });

  test('cannot be acquired while the server is paused', async () => {
    const paused = set({ paused: true });
    expect(await ledger.recordAndAcquire(A, signal)).toBeUndefined();
    expect(await ledger.acquire(paused, A.version, signal)).toBeUndefined();
    set({ paused_until: at(5_000) });
    expect(await ledger.recordAndAcquire(A, signal)).toBeUndefined();
    vi.setSystemTime(NOW + 5_001);
    expect(await ledger.recordAndAcquire(A, signal)).toBeDefined();
  });

  test('is acquired even if the response to the write was lost', async () => {
    table.loseResponse = true;
    const { token } = await acquireLease();
    expect(table.item).toMatchObject({ ...RECORDED, lease_token: token });
  });

  test('can be renewed or replaced only with the token that was waited for', async () => {
    const { token } = await acquireLease();
    const { lease_token: _, ...unleased } = set({});
    expect(await ledger.acquire(unleased, A.version, signal)).toBeUndefined();
    expect(await ledger.acquire({ ...unleased, lease_token: 'another' }, A.version, signal)).toBeUndefined();
    const renewed = await ledger.acquire({ ...unleased, lease_token: token }, A.version, signal);
    expect(renewed).toMatchObject({ token: expect.not.stringMatching(token), postUntil: postUntil() });
    expect(table.item?.lease_token).toBe(renewed?.token);
  });

  test('cannot be acquired for the applied version or an older one', async () => {
    await ledger.record(C, signal);
    const item = set({ applied_version: B.version });
    for (const old of [B, A]) expect(await ledger.acquire(item, old.version, signal)).toBeUndefined();
    expect(await ledger.acquire(item, C.version, signal)).toBeDefined();
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
  test('is written, the lease is released, and earlier failures are cleared', async () => {
    const lease = await acquireLease();
    set(FAILURES);
    expect(await ledger.complete(lease, 'op', true, signal)).toEqual({ lease: 'released' });
    expect(table.item).toEqual({ ...RECORDED, ...APPLIED });
  });

  test('with a newer desired state renews or releases the lease', async () => {
    const lease = await acquireLease();
    await ledger.record(B, signal);
    const next = await ledger.complete(lease, 'op', true, signal);
    if (next.lease !== 'renewed') throw new Error(`the lease is ${next.lease}`);
    const { token, item } = next.renewed;
    expect(item).toMatchObject({ ...APPLIED, desired: 'model m-b', lease_expires_at: at(14_000) });
    expect(token).not.toBe(lease.token);
    expect(table.item?.lease_token).toBe(token);

    await ledger.record(C, signal);
    expect(await ledger.complete(next.renewed, 'op2', false, signal)).toEqual({ lease: 'released' });
    const applied = { applied: 'model m-b', applied_version: B.version, operation_id: 'op2' };
    expect(table.item).toEqual({
      ...RECORDED,
      ...APPLIED,
      ...applied,
      desired: 'model m-c',
      desired_version: C.version,
    });
  });

  test('with a newer desired state drops the lease of a server that was paused meanwhile', async () => {
    const lease = await acquireLease();
    await ledger.record(B, signal);
    set({ paused: true });
    expect(await ledger.complete(lease, 'op', true, signal)).toEqual({ lease: 'released' });
    expect(table.item).toMatchObject(APPLIED);
    expect(table.item).not.toHaveProperty('lease_token');
  });

  test.each([true, false])('is not written after the lease was lost (renew: %s)', async (renew) => {
    const lease = await acquireLease();
    const before = set({ lease_token: 'another' });
    expect(await ledger.complete(lease, 'op', renew, signal)).toEqual({ lease: 'lost' });
    expect(table.item).toEqual(before);
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
    await ledger.release({ ...lease, item }, 'x'.repeat(2_000), signal);
    const failed = {
      attempts: (attempts ?? 0) + 1,
      next_attempt_at: at(delay),
      last_error: 'x'.repeat(1_000),
    };
    expect([table.item, table.writes]).toEqual([{ ...RECORDED, ...failed }, 2]);
  });

  test('is not recorded for a newer desired state', async () => {
    const lease = await acquireLease();
    await ledger.record(B, signal);
    await ledger.release(lease, 'no', signal);
    expect(table.item).toEqual({ ...RECORDED, desired: 'model m-b', desired_version: B.version });
  });

  test('after the lease was lost changes nothing', async () => {
    const lease = await acquireLease();
    const before = set({ lease_token: 'another' });
    await ledger.release(lease, 'no', signal);
    expect(table.item).toEqual(before);
  });
});

describe('the running operation', () => {
  const running = { running: 'model m-a', running_version: A.version, running_operation: 'op' };

  test('is recorded only under the own lease', async () => {
    const lease = await acquireLease();
    await ledger.started(lease, 'op', signal);
    expect(table.item).toEqual({ ...lease.item, ...running });
    const another = set({ lease_token: 'another' });
    await ledger.started(lease, 'op2', signal);
    expect(table.item).toEqual(another);
  });

  test('is removed when the lease is renewed or dropped', async () => {
    const lease = await acquireLease();
    await ledger.started(lease, 'op', signal);
    const renewed = await ledger.acquire(set({}), A.version, signal);
    expect(table.item).toEqual(renewed?.item);
    expect(Object.keys(set({})).sort()).toEqual(Object.keys(lease.item).sort());
    set(running);
    await ledger.release({ ...lease, token: renewed?.token ?? '' }, 'no', signal);
    expect(table.item).not.toHaveProperty('running_operation');
    expect(table.item).not.toHaveProperty('running');
    expect(table.item).not.toHaveProperty('running_version');
  });
});

describe('operations that were passed over', () => {
  const { version } = A;
  const entries = (item: Item | undefined) => passedOver(item ?? RECORDED);
  const since = at(-300_000);
  /** In sync, and two operations were passed over. */
  const item: Item = {
    ...RECORDED,
    desired_version: version,
    applied: 'model m-a',
    applied_version: version,
    passed_over: JSON.stringify([
      { operation_id: 'x', since },
      { operation_id: 'y', version, since },
    ]),
  };

  test('are added by acquire, as a failed attempt', async () => {
    table.item = { ...item, desired_version: B.version, attempts: 1 };
    const running = [{ operation_id: 'z', version }];
    expect(await ledger.acquire(table.item, B.version, signal, { running })).toBeDefined();
    expect(entries(table.item)).toEqual([...entries(item), { operation_id: 'z', version, since: at(0) }]);
    expect(table.item).toMatchObject({
      attempts: 2,
      next_attempt_at: at(120_000),
      last_error: 'passed over, because it did not end in time: operation z',
    });
  });

  test('let a server in sync be leased once one has ended, and acquire marks that one', async () => {
    table.item = item;
    expect(await ledger.acquire(item, version, signal)).toBeUndefined();
    expect(await ledger.acquire(item, version, signal, { ended: new Set(['z']) })).toBeUndefined();
    const lease = await ledger.acquire(item, version, signal, { ended: new Set(['x']) });
    expect(entries(lease?.item)).toEqual([
      { operation_id: 'x', since, ended_at: at(0) },
      { operation_id: 'y', version, since },
    ]);
    expect(table.item).not.toHaveProperty('attempts');
    // The mark of an earlier acquire stays, and is enough for the next.
    vi.setSystemTime(NOW + 5);
    const next = await ledger.acquire(lease?.item as Item, version, signal, { ended: new Set(['x']) });
    expect(entries(next?.item)).toEqual(entries(lease?.item));
  });

  test('are removed by complete if they were marked by then, and the others stay', async () => {
    table.item = item;
    const lease = await ledger.acquire(item, version, signal, { ended: new Set(['x']) });
    if (!lease) throw new Error('not acquired');
    expect(await ledger.complete(lease, 'op', true, signal)).toEqual({ lease: 'released' });
    expect(entries(table.item)).toEqual([{ operation_id: 'y', version, since }]);
    const again = await ledger.acquire(table.item, version, signal, { ended: new Set(['y']) });
    if (!again) throw new Error('not acquired');
    await ledger.complete(again, 'op', true, signal);
    expect(table.item).not.toHaveProperty('passed_over');
  });

  test('that others have changed meanwhile make acquire and drop fail', async () => {
    table.item = { ...item, passed_over: JSON.stringify([{ operation_id: 'z', since }]) };
    const before = table.item;
    expect(await ledger.acquire(item, version, signal, { ended: new Set(['x']) })).toBeUndefined();
    const { passed_over: _, ...without } = item;
    for (const read of [item, without]) {
      expect(await ledger.setPassedOver(read as RecordedItem, [], signal)).toBe(false);
    }
    expect(table.item).toEqual(before);
  });

  test.each([
    ['all', []],
    ['one', [{ operation_id: 'y', version, since }]],
    ['none, and another one is added', [...passedOver(item), { operation_id: 'z', since }]],
  ])('are replaced: %s dropped', async (_, left) => {
    table.item = item;
    expect(await ledger.setPassedOver(item as RecordedItem, left, signal)).toBe(true);
    expect(entries(table.item)).toEqual(left);
    expect('passed_over' in table.item).toBe(left.length > 0);
  });

  test.each([{ lease_token: 'another' }, { desired_version: B.version }])(
    'are not replaced if the item now has %j',
    async (change) => {
      table.item = { ...item, ...change };
      expect(await ledger.setPassedOver(item as RecordedItem, [], signal)).toBe(false);
      expect(table.item).toEqual({ ...item, ...change });
    },
  );
});
