import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import {
  type DesiredState,
  type Item,
  isLeased,
  isPaused,
  isPending,
  passedOver,
  type RecordedItem,
} from '../../functions/config-switch/reconcile/item.ts';
import { Ledger, mayPost } from '../../functions/config-switch/reconcile/ledger.ts';
import { Operator } from '../../functions/config-switch/reconcile/operator.ts';
import { parseTarget, targetText } from '../../functions/config-switch/target.ts';
import { eventIdOf, versionOf } from '../../functions/config-switch/version.ts';
import { MemoryTable } from '../stand-ins/memory-table.ts';

const NOW = Date.parse('2026-11-23T06:10:00.000Z');
const at = (ms: number) => new Date(NOW + ms).toISOString();
const { signal } = new AbortController();

/** An item with a desired state. */
const RECORDED: RecordedItem = {
  barman_server: 'main',
  desired: 'model m-a',
  desired_version: 'a',
};

let table: MemoryTable;
let ledger: Ledger;
let operator: Operator;
beforeEach(() => {
  vi.useFakeTimers({ toFake: ['Date', 'performance'], now: NOW });
  table = new MemoryTable();
  ledger = new Ledger(table);
  operator = new Operator(ledger, table);
});
afterEach(() => {
  vi.useRealTimers();
});

const desired = (
  ms: number,
  id: string,
  target: DesiredState['target'] = { model: `m-${id}` },
): DesiredState => ({
  barman_server: 'main',
  cluster: 'patroni',
  target,
  version: versionOf(NOW + ms, id),
});
/** Records a desired state and acquires the lease. */
async function acquireLease(ms: number, id: string) {
  const acquired = await ledger.recordAndAcquire(desired(ms, id), signal);
  if (!acquired) throw new Error('not acquired');
  return acquired;
}

describe('a version', () => {
  test('is the event time in UTC, to the millisecond, and the event id', () => {
    expect(versionOf(NOW, 'msg#1')).toBe('2026-11-23T06:10:00.000Z#msg#1');
    expect(eventIdOf(versionOf(NOW, 'msg#1'))).toBe('msg#1');
  });

  test('is greater for a newer event', () => {
    expect(versionOf(NOW + 1, 'a') > versionOf(NOW, 'b')).toBe(true);
  });
});

describe('a target', () => {
  test.each([
    [{ model: 'pg:node1' }, 'model pg:node1'],
    [{ model: 'reset' }, 'model reset'],
    [{ reset: true }, 'reset'],
  ] as const)('%j is written as %s', (target, text) => {
    expect(targetText(target)).toBe(text);
    expect(parseTarget(text)).toEqual(target);
  });
});

describe('an item', () => {
  const IN_SYNC = { desired: 'model m', desired_version: 'b', applied_version: 'b' };

  test.each([
    [{}, false],
    [{ desired: 'model m', desired_version: 'b' }, true],
    [{ desired: 'model m', desired_version: 'b', applied_version: 'a' }, true],
    [{ desired: 'model m', desired_version: 'b', applied_version: 'b' }, false],
    [{ desired: 'model m', desired_version: 'b', applied_version: 'c' }, false],
    [{ ...IN_SYNC, passed_over: '[{"operation_id":"x"}]' }, false],
    [{ ...IN_SYNC, passed_over: '[{"operation_id":"x","ended_at":"t"}]' }, true],
    [{ ...IN_SYNC, passed_over: '[{"operation_id":"y"}]' }, true],
    [{ passed_over: '[{"operation_id":"y"}]' }, false],
    [{ desired: 'model m' }, false],
    [{ desired_version: 'b' }, false],
  ])('%j is pending: %s', (item, pending) => {
    expect(isPending({ barman_server: 'main', ...item }, new Set(['y']))).toBe(pending);
  });

  test.each([
    [{}, false],
    [{ lease_token: 'me' }, false],
    [{ lease_expires_at: at(1) }, false],
    [{ lease_token: 'me', lease_expires_at: at(1) }, true],
    [{ lease_token: 'me', lease_expires_at: at(0) }, false],
  ])('%j is leased: %s', (item, leased) => {
    expect(isLeased({ barman_server: 'main', ...item })).toBe(leased);
  });

  test.each([
    [{}, false],
    [{ paused_until: at(1) }, false],
    [{ paused: true }, true],
    [{ paused: true, paused_until: at(1) }, true],
    [{ paused: true, paused_until: at(0) }, false],
  ])('%j is paused: %s', (item, paused) => {
    expect(isPaused({ barman_server: 'main', ...item })).toBe(paused);
  });
});

describe('record', () => {
  test('writes the desired state and clears earlier failures', async () => {
    table.item = {
      barman_server: 'main',
      desired_version: versionOf(NOW - 9, 'old'),
      attempts: 3,
      next_attempt_at: at(9),
      last_error: 'no',
    };
    expect(await ledger.record(desired(0, 'a'), signal)).toBe(true);
    expect(table.item).toEqual({
      barman_server: 'main',
      cluster: 'patroni',
      desired: 'model m-a',
      desired_version: versionOf(NOW, 'a'),
      recorded_at: at(0),
    });
  });

  test('does not overwrite a newer desired state, nor one from an event that was already recorded', async () => {
    await ledger.record(desired(5, 'b'), signal);
    for (const known of [desired(5, 'b'), desired(4, 'a')]) {
      expect(await ledger.record(known, signal)).toBe(false);
    }
    expect(table.item?.desired).toBe('model m-b');
  });
});

describe('the lease', () => {
  test('is acquired together with the desired state in one write, unless there is a lease', async () => {
    const { token, item, postUntil } = await acquireLease(0, 'a');
    expect(item).toEqual(table.item);
    expect(item).toMatchObject({ lease_token: token, lease_expires_at: at(14_000), desired: 'model m-a' });
    expect(postUntil).toEqual({ monotonic: performance.now() + 8_000, wall: Date.now() + 8_000 });
    expect([table.writes, table.reads]).toEqual([1, 0]);
    expect(await ledger.recordAndAcquire(desired(1, 'b'), signal)).toBeUndefined();
    expect(table.item?.desired, 'nothing is written').toBe('model m-a');
  });

  test('cannot be acquired while the server is paused', async () => {
    table.item = { barman_server: 'main', paused: true };
    expect(await ledger.recordAndAcquire(desired(0, 'a'), signal)).toBeUndefined();
    expect(await ledger.acquire(table.item, desired(0, 'a').version, signal)).toBeUndefined();
  });

  test('is acquired even if the response to the write was lost', async () => {
    table.loseResponse = true;
    const { token, item, postUntil } = await acquireLease(0, 'a');
    expect(item).toMatchObject({ lease_token: token, desired: 'model m-a' });
    expect(postUntil).toEqual({ monotonic: performance.now() + 8_000, wall: Date.now() + 8_000 });
  });

  test('can be renewed or replaced only with the token that was waited for', async () => {
    const { token } = await acquireLease(0, 'a');
    const { version } = desired(0, 'a');
    const { lease_token: _, ...unleased } = table.item as Item;
    expect(await ledger.acquire(unleased, version, signal)).toBeUndefined();
    expect(await ledger.acquire({ ...unleased, lease_token: 'another' }, version, signal)).toBeUndefined();
    const renewed = await ledger.acquire({ ...unleased, lease_token: token }, version, signal);
    expect(renewed?.token).not.toBe(token);
    expect(table.item?.lease_token).toBe(renewed?.token);
  });

  test('cannot be acquired for the applied version or an older one', async () => {
    await ledger.record(desired(6, 'c'), signal);
    table.item = { ...(table.item as Item), applied_version: desired(5, 'b').version };
    for (const old of [desired(5, 'b'), desired(4, 'a')]) {
      expect(await ledger.acquire(table.item, old.version, signal)).toBeUndefined();
    }
    expect(await ledger.acquire(table.item, desired(6, 'c').version, signal)).toBeDefined();
  });
});

describe('a POST', () => {
  test.each([
    [1, 1, true],
    [0, 1, false],
    [1, 0, false],
  ])(
    'is allowed before the end of its window by both clocks (%i ms and %i ms left: %s)',
    (one, other, allowed) => {
      const postUntil = { monotonic: performance.now() + one, wall: Date.now() + other };
      expect(mayPost({ postUntil })).toBe(allowed);
    },
  );
});

describe('complete', () => {
  const applied = {
    applied: 'model m-a',
    applied_version: versionOf(NOW, 'a'),
    operation_id: 'op',
    applied_at: at(0),
  };

  test('is written, the lease is released, and earlier failures are cleared', async () => {
    const lease = await acquireLease(0, 'a');
    table.item = {
      ...(table.item as Item),
      attempts: 2,
      next_attempt_at: at(1),
      last_error: 'no',
    };
    expect(await ledger.complete(lease, 'op', true, signal)).toEqual({ lease: 'released' });
    expect(table.item).toEqual({
      barman_server: 'main',
      cluster: 'patroni',
      desired: 'model m-a',
      desired_version: versionOf(NOW, 'a'),
      recorded_at: at(0),
      ...applied,
    });
  });

  test('with a newer desired state renews or releases the lease', async () => {
    const lease = await acquireLease(0, 'a');
    await ledger.record(desired(1, 'b'), signal);
    const next = await ledger.complete(lease, 'op', true, signal);
    if (next.lease !== 'renewed') throw new Error(`the lease is ${next.lease}`);
    expect(next.renewed).toMatchObject({
      item: { ...applied, desired: 'model m-b', lease_expires_at: at(14_000) },
    });
    const { token } = next.renewed;
    expect(token).not.toBe(lease.token);
    expect(table.item?.lease_token).toBe(token);

    await ledger.record(desired(2, 'c'), signal);
    const renewed = { token, item: table.item as RecordedItem, postUntil: { monotonic: 0, wall: 0 } };
    expect(
      await ledger.complete(
        { ...renewed, item: { ...renewed.item, desired_version: desired(1, 'b').version } },
        'op2',
        false,
        signal,
      ),
    ).toEqual({ lease: 'released' });
    expect(table.item).toMatchObject({
      applied_version: desired(1, 'b').version,
      desired: 'model m-c',
      operation_id: 'op2',
    });
    expect(table.item).not.toHaveProperty('lease_token');
    expect(table.item).not.toHaveProperty('lease_expires_at');
  });

  test('with a newer desired state drops the lease of a server that was paused meanwhile', async () => {
    const lease = await acquireLease(0, 'a');
    await ledger.record(desired(1, 'b'), signal);
    await operator.pause('main', undefined, signal);
    expect(await ledger.complete(lease, 'op', true, signal)).toEqual({ lease: 'released' });
    expect(table.item).toMatchObject(applied);
    expect(table.item).not.toHaveProperty('lease_token');
  });

  test.each([true, false])('is not written after the lease was lost (renew: %s)', async (renew) => {
    const lease = await acquireLease(0, 'a');
    table.item = { ...(table.item as Item), lease_token: 'another' };
    expect(await ledger.complete(lease, 'op', renew, signal)).toEqual({ lease: 'lost' });
    expect(table.item).not.toHaveProperty('applied_version');
    expect(table.item?.lease_token).toBe('another');
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
    const lease = await acquireLease(0, 'a');
    const item = { ...lease.item, ...(attempts !== undefined && { attempts }) };
    await ledger.release({ ...lease, item }, 'x'.repeat(2_000), signal);
    expect(table.writes).toBe(2);
    expect(table.item).toMatchObject({
      attempts: (attempts ?? 0) + 1,
      next_attempt_at: at(delay),
      last_error: 'x'.repeat(1_000),
    });
    expect(table.item).not.toHaveProperty('lease_token');
    expect(table.item).not.toHaveProperty('lease_expires_at');
  });

  test('is not recorded for a newer desired state', async () => {
    const lease = await acquireLease(0, 'a');
    await ledger.record(desired(1, 'b'), signal);
    await ledger.release(lease, 'no', signal);
    for (const name of ['lease_token', 'lease_expires_at', 'attempts', 'next_attempt_at', 'last_error']) {
      expect(table.item).not.toHaveProperty(name);
    }
  });

  test('after the lease was lost changes nothing', async () => {
    const lease = await acquireLease(0, 'a');
    const before = { ...(table.item as Item), lease_token: 'another' };
    table.item = before;
    await ledger.release(lease, 'no', signal);
    expect(table.item).toEqual(before);
  });
});

describe('the operator', () => {
  test('gets no item for an unknown server', async () => {
    expect(await operator.pause('main', undefined, signal)).toBeUndefined();
    expect(await operator.retry('main', signal)).toBeUndefined();
    expect(table.item).toBeUndefined();
    expect(await ledger.all(signal)).toEqual([]);
    expect(await ledger.get('main', signal)).toBeUndefined();
  });

  test('pauses and resumes a server, which is then due immediately, and has 24 h again', async () => {
    table.item = { barman_server: 'main', next_attempt_at: at(9), recorded_at: at(-9) };
    expect(await operator.pause('main', undefined, signal)).toEqual({
      barman_server: 'main',
      recorded_at: at(-9),
      paused: true,
      paused_at: at(0),
    });
    expect(isPaused(table.item)).toBe(true);
    expect(await operator.resume('main', signal)).toEqual({ barman_server: 'main', recorded_at: at(0) });
    expect(isPaused(table.item)).toBe(false);
  });

  test('pauses a server for some time', async () => {
    table.item = { barman_server: 'main' };
    await operator.pause('main', NOW + 5_000, signal);
    expect(table.item).toMatchObject({ paused: true, paused_at: at(0), paused_until: at(5_000) });
    expect([isPaused(table.item), await ledger.recordAndAcquire(desired(0, 'a'), signal)]).toEqual([
      true,
      undefined,
    ]);
    vi.setSystemTime(NOW + 5_001);
    expect(isPaused(table.item)).toBe(false);
    expect(await ledger.recordAndAcquire(desired(0, 'a'), signal)).toBeDefined();
    // Without an end again.
    await operator.pause('main', undefined, signal);
    expect(table.item).not.toHaveProperty('paused_until');
  });

  test('retries a pending desired state at once; it stays as old as it is', async () => {
    table.item = {
      barman_server: 'main',
      desired_version: 'k',
      recorded_at: at(-9),
      attempts: 4,
      next_attempt_at: at(9),
    };
    expect(await operator.retry('main', signal)).toEqual({
      barman_server: 'main',
      desired_version: 'k',
      recorded_at: at(-9),
    });
  });

  const DAY = 86_400_000;
  const inSync: Item = { ...RECORDED, applied: 'model m-a', applied_version: 'a', recorded_at: at(0) };
  test.each<[string, Item]>([
    ['in sync', inSync],
    ['pending for a day', { ...RECORDED, recorded_at: at(-DAY) }],
    ['without a desired state', { barman_server: 'main' }],
  ])('forgets a server that is %s', async (_, item) => {
    table.item = item;
    expect(await operator.forget(item, signal)).toBe(true);
    expect(table.item).toBeUndefined();
  });

  test.each<[string, Item, Partial<Item>]>([
    ['has been pending for less than a day', { ...RECORDED, recorded_at: at(1 - DAY) }, {}],
    ['is leased', { ...inSync, lease_token: 'another' }, {}],
    [
      'was pending for a day, and is resumed now',
      { ...RECORDED, recorded_at: at(-DAY) },
      { recorded_at: at(0) },
    ],
    ['has a newer desired state now', inSync, { desired_version: 'b' }],
    ['has another applied version now', inSync, { applied_version: 'b' }],
    ['has its first desired state now', { barman_server: 'main' }, { desired_version: 'a' }],
  ])('does not forget a server that %s', async (_, item, change) => {
    table.item = { ...item, ...change };
    expect(await operator.forget(item, signal)).toBe(false);
    expect(table.item).toEqual({ ...item, ...change });
  });
});

describe('operations that were passed over', () => {
  const version = desired(0, 'a').version;
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
    table.item = { ...item, desired_version: desired(1, 'b').version, attempts: 1 };
    const running = [{ operation_id: 'z', version }];
    expect(await ledger.acquire(table.item, desired(1, 'b').version, signal, { running })).toBeDefined();
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

  test.each([{ lease_token: 'another' }, { desired_version: desired(1, 'b').version }])(
    'are not replaced if the item now has %j',
    async (change) => {
      table.item = { ...item, ...change };
      expect(await ledger.setPassedOver(item as RecordedItem, [], signal)).toBe(false);
      expect(table.item).toEqual({ ...item, ...change });
    },
  );

  test.each(['', '7', '{}', '[null, 7, {"operation_id":7}]', 'x, y'])(
    'that were edited by hand (%s) are ignored, not an error',
    (passed_over) => {
      expect(passedOver({ barman_server: 'main', passed_over })).toEqual([]);
    },
  );

  test('that were edited by hand are those that can be read', () => {
    const passed_over = JSON.stringify([null, { operation_id: 'x', since }]);
    expect(passedOver({ barman_server: 'main', passed_over })).toEqual([{ operation_id: 'x', since }]);
  });
});

describe('the running operation', () => {
  test('is recorded only under the own lease', async () => {
    const lease = await acquireLease(0, 'a');
    await ledger.started(lease, 'op', signal);
    expect(table.item).toMatchObject({
      running: 'model m-a',
      running_version: desired(0, 'a').version,
      running_operation: 'op',
    });
    const another = { ...(table.item as Item), lease_token: 'another' };
    table.item = another;
    await ledger.started(lease, 'op2', signal);
    expect(table.item).toEqual(another);
  });

  test('is removed when the lease is renewed or dropped', async () => {
    const lease = await acquireLease(0, 'a');
    for (const end of [
      () => ledger.acquire(table.item as Item, desired(0, 'a').version, signal),
      () => ledger.release({ ...lease, token: table.item?.lease_token ?? '' }, 'no', signal),
    ]) {
      await ledger.started({ ...lease, token: table.item?.lease_token ?? '' }, 'op', signal);
      expect(table.item).toHaveProperty('running_operation', 'op');
      await end();
      for (const name of ['running', 'running_operation', 'running_version']) {
        expect(table.item).not.toHaveProperty(name);
      }
    }
  });
});
