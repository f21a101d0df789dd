import { beforeEach, describe, expect, test } from 'vitest';
import type { Item } from '../../functions/config-switch/ledger/item.ts';
import { Ledger } from '../../functions/config-switch/ledger/ledger.ts';
import { Operator } from '../../functions/config-switch/ledger/operator.ts';
import { MemoryTable } from '../stand-ins/memory-table.ts';
import { at, NOW, useVirtualTime } from './virtual-time.ts';

const DAY = 86_400_000;
const { signal } = new AbortController();
const MAIN: Item = { barman_server: 'main' };
const DESIRED: Item = { ...MAIN, desired: 'model m', desired_version: 'a' };

let table: MemoryTable;
let operator: Operator;
useVirtualTime();
beforeEach(() => {
  table = new MemoryTable();
  operator = new Operator(new Ledger(table), table);
});

describe('the operator', () => {
  test('gets no item for an unknown server', async () => {
    expect(await operator.pause('main', undefined, signal)).toBeUndefined();
    expect(await operator.resume('main', signal)).toBeUndefined();
    expect(await operator.retry('main', signal)).toBeUndefined();
    expect(table.item).toBeUndefined();
  });

  test('pauses and resumes a server, which is then due immediately, and has 24 h again', async () => {
    table.item = { ...MAIN, next_attempt_at: at(9), recorded_at: at(-9) };
    const paused = { ...MAIN, recorded_at: at(-9), paused: true, paused_at: at(0) };
    expect(await operator.pause('main', undefined, signal)).toEqual(paused);
    expect(await operator.resume('main', signal)).toEqual({ ...MAIN, recorded_at: at(0) });
  });

  test('pauses a server for some time, which resume or another pause ends', async () => {
    table.item = MAIN;
    const paused = { ...MAIN, paused: true, paused_at: at(0), paused_until: at(5_000) };
    expect(await operator.pause('main', NOW + 5_000, signal)).toEqual(paused);
    expect(await operator.resume('main', signal)).toEqual({ ...MAIN, recorded_at: at(0) });
    table.item = paused;
    await operator.pause('main', undefined, signal);
    expect(table.item).toEqual({ ...MAIN, paused: true, paused_at: at(0) });
  });

  test('retries a pending desired state at once; it stays as old as it is', async () => {
    const pending = { ...DESIRED, recorded_at: at(-9) };
    table.item = { ...pending, attempts: 4, next_attempt_at: at(9) };
    expect(await operator.retry('main', signal)).toEqual(pending);
  });

  const inSync: Item = { ...DESIRED, applied: 'model m', applied_version: 'a', recorded_at: at(0) };
  test.each<[string, Item]>([
    ['in sync', inSync],
    ['pending for a day', { ...DESIRED, recorded_at: at(-DAY) }],
    ['without a desired state', MAIN],
  ])('forgets a server that is %s', async (_, item) => {
    table.item = item;
    expect(await operator.forget(item, signal)).toBe(true);
    expect(table.item).toBeUndefined();
  });

  test.each<[string, Item, Partial<Item>]>([
    ['has been pending for less than a day', { ...DESIRED, recorded_at: at(1 - DAY) }, {}],
    ['is leased', { ...inSync, lease_token: 'another' }, {}],
    [
      'was pending for a day, and is resumed now',
      { ...DESIRED, recorded_at: at(-DAY) },
      { recorded_at: at(0) },
    ],
    ['has a newer desired state now', inSync, { desired_version: 'b' }],
    ['has another applied version now', inSync, { applied_version: 'b' }],
    ['has its first desired state now', MAIN, { desired_version: 'a' }],
  ])('does not forget a server that %s', async (_, item, change) => {
    table.item = { ...item, ...change };
    expect(await operator.forget(item, signal)).toBe(false);
    expect(table.item).toEqual({ ...item, ...change });
  });
});
