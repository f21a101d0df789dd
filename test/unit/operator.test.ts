import { beforeEach, describe, expect, test, vi } from 'vitest';
import type { Item, RecordedItem } from '../../functions/config-switch/ledger/item.ts';
import { Ledger } from '../../functions/config-switch/ledger/ledger.ts';
import { Operator } from '../../functions/config-switch/ledger/operator.ts';
import { isStagePaused } from '../../functions/config-switch/ledger/stage.ts';
import { versionOf } from '../../functions/config-switch/version.ts';
import { MemoryTable } from '../stand-ins/memory-table.ts';
import { at, NOW, useVirtualTime } from './virtual-time.ts';

const DAY = 86_400_000;
const { signal } = new AbortController();
const MAIN: Item = { barman_server: 'main' };
/** What was desired so many ms after NOW. */
const desiredAt = (ms: number, id = 'a') => ({
  ...{ target: 'model m', version: versionOf(NOW + ms, id), cluster: 'c' },
  recorded_at: at(ms),
});
const PENDING: RecordedItem = { ...MAIN, desired: desiredAt(-9) };

let table: MemoryTable;
let operator: Operator;
useVirtualTime();
beforeEach(() => {
  table = new MemoryTable();
  operator = new Operator(new Ledger(table), table);
});

describe('the operator', () => {
  /** Changes the item once it was read. */
  function onceRead(change: () => void): void {
    const { get } = table;
    table.get = async (server) => {
      table.get = get;
      const item = await table.get(server);
      change();
      return item;
    };
  }

  test('gets no item for an unknown server', async () => {
    expect(await operator.resume('main', signal)).toBeUndefined();
    expect(await operator.retry('main', signal)).toBeUndefined();
    expect(table.item).toBeUndefined();
  });

  test('pauses and resumes a server, which is then due at once, and pending since now', async () => {
    table.item = { ...PENDING, next_attempt_at: at(9) };
    const paused = { ...PENDING, paused: true, paused_at: at(0) };
    expect(await operator.pause('main', {}, signal)).toEqual(paused);
    const desired = { ...PENDING.desired, recorded_at: at(0) };
    expect(await operator.resume('main', signal)).toEqual({ ...MAIN, desired });
  });

  test('pauses a server for some time, which resume or another pause ends', async () => {
    table.item = MAIN;
    const paused = { ...MAIN, paused: true, paused_at: at(0), paused_until: at(5_000) };
    expect(await operator.pause('main', { until: NOW + 5_000 }, signal)).toEqual(paused);
    expect(await operator.resume('main', signal)).toEqual(MAIN);
    table.item = paused;
    await operator.pause('main', {}, signal);
    expect(table.item).toEqual({ ...MAIN, paused: true, paused_at: at(0) });
  });

  test('pauses a server without an item, with the reason, until resume', async () => {
    const paused = { ...MAIN, paused: true, paused_at: at(0), pause_reason: 'a new disk' };
    expect(await operator.pause('main', { reason: 'a new disk' }, signal)).toEqual(paused);
    expect(await operator.resume('main', signal)).toEqual(MAIN);
  });

  test('pauses all servers in the item of the stage, and resumes them', async () => {
    await operator.pauseAll({ until: NOW + 5_000, reason: 'a new host' }, signal);
    const paused = { at: at(0), until: at(5_000), reason: 'a new host' };
    expect(await new Ledger(table).stage(signal)).toEqual({ paused });
    vi.setSystemTime(NOW + 2_000);
    await operator.resumeAll(signal);
    const ended = { paused: { ...paused, until: at(2_000) } };
    expect(await new Ledger(table).stage(signal)).toEqual(ended);
    expect(isStagePaused(ended)).toBe(false);
    vi.setSystemTime(NOW + 9_000);
    await operator.resumeAll(signal);
    expect(await new Ledger(table).stage(signal)).toEqual(ended);
  });

  test('pauses all servers until it resumes them', async () => {
    await operator.pauseAll({}, signal);
    expect(table.items.get('@stage')).toEqual({ barman_server: '@stage', paused: { at: at(0) } });
    await operator.resumeAll(signal);
    expect(isStagePaused(await new Ledger(table).stage(signal))).toBe(false);
  });

  test('ends no pause of all servers that cannot be read, since nothing may be sent then', async () => {
    table.items.set('@stage', { barman_server: '@stage', paused: true } as never);
    await expect(operator.resumeAll(signal)).rejects.toThrow(
      /"paused" of the ledger's item @stage cannot be read/,
    );
  });

  test.each<[string, Partial<Item>, boolean]>([
    ['pending', {}, true],
    ['with an expired lease', { lease: { token: 'x', expires_at: at(-9) } }, false],
    ['with a newer desired state by then', { desired: desiredAt(-1, 'b') }, false],
  ])('forgets a server that Barman does not have, if it is %s', async (_, change, forgotten) => {
    table.item = { ...PENDING, ...change };
    expect(await operator.forgetUnknown(PENDING, signal)).toBe(forgotten);
    expect(table.item === undefined).toBe(forgotten);
  });

  test('resumes with the desired state that was recorded meanwhile', async () => {
    table.item = { ...PENDING, paused: true };
    const newer = { ...PENDING, paused: true, desired: desiredAt(-1, 'b') };
    onceRead(() => {
      table.item = newer;
    });
    const desired = { ...newer.desired, recorded_at: at(0) };
    expect(await operator.resume('main', signal)).toEqual({ ...MAIN, desired });
  });

  test('resumes with the first desired state, if that was recorded meanwhile', async () => {
    table.item = { ...MAIN, paused: true };
    onceRead(() => {
      table.item = { ...PENDING, paused: true };
    });
    const desired = { ...PENDING.desired, recorded_at: at(0) };
    expect(await operator.resume('main', signal)).toEqual({ ...MAIN, desired });
  });

  test('retries no server that is deleted meanwhile', async () => {
    table.item = PENDING;
    onceRead(() => {
      table.item = undefined;
    });
    expect(await operator.retry('main', signal)).toBeUndefined();
    expect(table.item).toBeUndefined();
  });

  test('retries a pending desired state at once; it stays as old as it is', async () => {
    table.item = { ...PENDING, attempts: 4, next_attempt_at: at(9) };
    expect(await operator.retry('main', signal)).toEqual(PENDING);
  });
});

describe('forget', () => {
  const OLD = -15 * DAY;
  const appliedAt = (ms: number) => {
    const { target, version } = desiredAt(ms);
    return { target, version, operation_id: 'op', applied_at: at(ms) };
  };
  const inSync = (ms: number) => ({ ...MAIN, desired: desiredAt(ms), applied: appliedAt(ms) });

  test.each<[string, Item]>([
    ['has been in sync for 15 days, longer than any event can be late', inSync(OLD)],
    ['has no desired state', { ...MAIN, leader: 'node1' }],
  ])('deletes the item of a server that %s', async (_, item) => {
    table.item = item;
    expect(await operator.forget(item, signal)).toBe(true);
    expect(table.item).toBeUndefined();
  });

  test.each<[string, () => Promise<boolean>]>([
    ['its own', () => operator.forget(inSync(OLD), signal)],
    ['the one of a server that Barman does not have', () => operator.forgetUnknown(inSync(OLD), signal)],
    ['by force', () => operator.forgetByForce('main', signal)],
  ])('deletes with an item who was heard, too (%s)', async (_, forget) => {
    const ledger = new Ledger(table);
    table.item = inSync(OLD);
    for (const server of ['main', 'other']) await ledger.hear(server, { node: 'db1', at: at(0) }, signal);
    expect(await forget()).toBe(true);
    expect([...table.items.keys()]).toEqual(['inspection#other']);
  });

  test('does not delete the item of a server that Barman does not have, if something was desired meanwhile', async () => {
    table.item = PENDING;
    expect(await operator.forgetUnknown(MAIN, signal)).toBe(false);
    expect(table.item).toEqual(PENDING);
    table.item = MAIN;
    expect(await operator.forgetUnknown(MAIN, signal)).toBe(true);
  });

  test('by force deletes who was heard of a server without an item, and of no other', async () => {
    const ledger = new Ledger(table);
    const node = { node: 'db1', at: at(0) };
    for (const server of ['mian', 'other']) await ledger.hear(server, node, signal);
    expect(await operator.forgetByForce('mian', signal)).toBe(true);
    expect([...table.items.keys()]).toEqual(['inspection#other']);
    expect(await operator.forgetByForce('mian', signal)).toBe(false);
  });

  test('by force deletes nothing of a server with a lease', async () => {
    table.item = { ...MAIN, lease: { token: 'x', expires_at: at(-1) } };
    await new Ledger(table).hear('main', { node: 'db1', at: at(0) }, signal);
    expect(await operator.forgetByForce('main', signal)).toBe(false);
    expect([...table.items.keys()].sort()).toEqual(['inspection#main', 'main']);
  });

  test.each<[string, Item]>([
    ['has been in sync for less than 15 days', inSync(OLD + 1)],
    ['is pending', { ...MAIN, desired: desiredAt(OLD) }],
    ['is to be applied again', { ...inSync(OLD), apply_again_at: at(0) }],
    ['is unsettled', { ...inSync(OLD), unsettled_since: at(0) }],
    ['has a lease', { ...inSync(OLD), lease: { token: 'x', expires_at: at(-1) } }],
  ])('does not delete that of a server that %s, unless by force', async (_, item) => {
    table.item = item;
    expect(await operator.forget(item, signal)).toBe(false);
    expect(table.item).toEqual(item);
    const isLeased = item.lease !== undefined;
    expect(await operator.forgetByForce('main', signal)).toBe(!isLeased);
    expect(table.item === undefined).toBe(!isLeased);
  });

  test('by force deletes an item that cannot be read, whatever its lease', async () => {
    table.item = { ...MAIN, desired: 'model m', lease: 'x' } as unknown as Item;
    expect(await operator.forgetByForce('main', signal)).toBe(true);
    expect(table.item).toBeUndefined();
  });

  test('by force does not delete an item with a lease, although another one cannot be read', async () => {
    table.item = { ...MAIN, lease: { token: 'x', expires_at: at(-1) } };
    table.items.set('other', { barman_server: 'other', desired: 'model m' } as unknown as Item);
    expect(await operator.forgetByForce('main', signal)).toBe(false);
    expect(table.items.size).toBe(2);
  });

  test('by force deletes nothing of an unknown server', async () => {
    expect(await operator.forgetByForce('main', signal)).toBe(false);
  });

  test.each<[string, Item, Partial<Item>]>([
    ['a lease', inSync(OLD), { lease: { token: 'x', expires_at: at(0) } }],
    ['a newer desired state', inSync(OLD), { desired: desiredAt(0) }],
    ['another applied version', inSync(OLD), { applied: appliedAt(0) }],
    ['something in doubt', inSync(OLD), { unsettled_since: at(0) }],
    ['its first desired state', MAIN, { desired: desiredAt(0) }],
    ['its first applied version', MAIN, { applied: appliedAt(0) }],
  ])('does not delete an item that has %s since it was read', async (_, item, change) => {
    table.item = { ...item, ...change };
    expect(await operator.forget(item, signal)).toBe(false);
    expect(table.item).toEqual({ ...item, ...change });
  });
});
