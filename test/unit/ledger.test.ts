import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { parseTarget, targetText } from '../../functions/config-switch/barman/target.ts';
import { LedgerError } from '../../functions/config-switch/errors.ts';
import {
  type DesiredState,
  eventIdOf,
  isKnownSchema,
  isLeased,
  isPending,
  Ledger,
  versionOf,
} from '../../functions/config-switch/reconcile/ledger.ts';
import type { Item, RecordedItem } from '../../functions/config-switch/reconcile/table.ts';
import { MemoryTable } from '../stand-ins/memory-table.ts';

const NOW = Date.parse('2026-11-23T06:10:00.000Z');
const at = (ms: number) => new Date(NOW + ms).toISOString();
const { signal } = new AbortController();

let table: MemoryTable;
let ledger: Ledger;
beforeEach(() => {
  vi.useFakeTimers({ toFake: ['Date', 'performance'], now: NOW });
  table = new MemoryTable();
  ledger = new Ledger(table);
});
afterEach(() => {
  vi.useRealTimers();
});

const desired = (
  ms: number,
  id: string,
  target: DesiredState['target'] = { model: `m-${id}` },
): DesiredState => ({
  server: 'main',
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
  test.each([
    [{}, false],
    [{ desired: 'model m', desired_version: 'b' }, true],
    [{ desired: 'model m', desired_version: 'b', applied_version: 'a' }, true],
    [{ desired: 'model m', desired_version: 'b', applied_version: 'b' }, false],
    [{ desired: 'model m', desired_version: 'b', applied_version: 'c' }, false],
  ])('%j is pending: %s', (item, pending) => {
    expect(isPending({ barman_server: 'main', ...item })).toBe(pending);
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
});

describe('an item with a newer schema', () => {
  const newer: Item = { barman_server: 'main', schema: 2, desired: 'model x', desired_version: 'x#x' };
  const error = new LedgerError(
    "the ledger's item of main has schema 2, which this version does not know; deploy the version that wrote it, or a newer one",
  );

  test.each<[string, () => Promise<unknown>]>([
    ['record', () => ledger.record(desired(0, 'a'), signal)],
    ['record and acquire', () => ledger.recordAndAcquire(desired(0, 'a'), signal)],
    ['acquire', () => ledger.acquire('main', 'a', undefined, signal)],
    ['park', () => ledger.park({ barman_server: 'main', desired_version: 'x#x' }, signal)],
    ['retry', () => ledger.retry('main', signal)],
    ['pause', () => ledger.pause('main', signal)],
    ['resume', () => ledger.resume('main', signal)],
  ])('is not changed by %s', async (_, write) => {
    table.item = newer;
    const result = await write().catch((thrown: unknown) => thrown);
    expect([false, undefined, error]).toContainEqual(result);
    expect(table.item).toEqual(newer);
  });

  test('is an error for get, but listed by all', async () => {
    table.item = newer;
    await expect(ledger.get('main', signal)).rejects.toThrow(error);
    expect(await ledger.all(signal)).toEqual([newer]);
    expect([isKnownSchema(newer), isKnownSchema({ barman_server: 'main' })]).toEqual([false, true]);
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
      parked: true,
    };
    expect(await ledger.record(desired(0, 'a'), signal)).toBe(true);
    expect(table.item).toEqual({
      barman_server: 'main',
      schema: 1,
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
    expect(await ledger.acquire('main', desired(0, 'a').version, undefined, signal)).toBeUndefined();
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
    expect(await ledger.acquire('main', version, undefined, signal)).toBeUndefined();
    expect(await ledger.acquire('main', version, 'another', signal)).toBeUndefined();
    const renewed = await ledger.acquire('main', version, token, signal, { passed_over: true });
    expect(renewed?.token).not.toBe(token);
    expect(table.item).toMatchObject({ lease_token: renewed?.token, passed_over: true });
  });

  test('cannot be acquired for the applied version or an older one', async () => {
    await ledger.record(desired(6, 'c'), signal);
    table.item = { ...(table.item as Item), applied_version: desired(5, 'b').version };
    for (const old of [desired(5, 'b'), desired(4, 'a')]) {
      expect(await ledger.acquire('main', old.version, undefined, signal)).toBeUndefined();
    }
    expect(await ledger.acquire('main', desired(6, 'c').version, undefined, signal)).toBeDefined();
  });
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
      parked: true,
    };
    expect(await ledger.complete(lease, 'op', true, signal)).toEqual({ lease: 'released' });
    expect(table.item).toEqual({
      barman_server: 'main',
      schema: 1,
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
    [4, 600_000],
    [9, 600_000],
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
    expect(await ledger.pause('main', signal)).toBeUndefined();
    expect(await ledger.retry('main', signal)).toBeUndefined();
    expect(table.item).toBeUndefined();
    expect(await ledger.all(signal)).toEqual([]);
    expect(await ledger.get('main', signal)).toBeUndefined();
  });

  test('pauses and resumes a server, which is then due immediately', async () => {
    table.item = { barman_server: 'main', next_attempt_at: at(9) };
    expect(await ledger.pause('main', signal)).toEqual({ barman_server: 'main', paused: true });
    expect(await ledger.resume('main', signal)).toEqual({ barman_server: 'main' });
  });

  test('retries a pending desired state, including a parked one', async () => {
    table.item = {
      barman_server: 'main',
      desired_version: 'k',
      recorded_at: at(-9),
      attempts: 4,
      next_attempt_at: at(9),
    };
    expect(await ledger.park({ barman_server: 'main', desired_version: 'other' }, signal)).toBe(false);
    expect(await ledger.park({ barman_server: 'main', desired_version: 'k' }, signal)).toBe(true);
    expect(table.item).toMatchObject({ parked: true });
    expect(await ledger.retry('main', signal)).toEqual({
      barman_server: 'main',
      desired_version: 'k',
      recorded_at: at(0),
    });
  });
});

describe('a comparison with the active model', () => {
  const item: Item = { barman_server: 'main', applied: 'reset', applied_version: 'k', passed_over: true };

  test.each([
    [true, { barman_server: 'main', applied: 'reset' }],
    [false, { barman_server: 'main', applied: 'reset', applied_version: 'k' }],
  ])('clears passed_over, and makes the server pending again if they differ (%s)', async (differs, after) => {
    table.item = item;
    await ledger.compared('main', 'k', differs, signal);
    expect(table.item).toEqual(after);
  });

  test.each([{ lease_token: 'another' }, { applied_version: 'l' }])(
    'has no effect if the item now has %j',
    async (change) => {
      table.item = { ...item, ...change };
      await ledger.compared('main', 'k', true, signal);
      expect(table.item).toEqual({ ...item, ...change });
    },
  );
});
