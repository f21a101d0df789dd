import { describe, expect, test } from 'vitest';
import {
  type Item,
  isLeased,
  isPaused,
  isPending,
  passedOver,
} from '../../functions/config-switch/ledger/item.ts';
import { at, useVirtualTime } from './virtual-time.ts';

useVirtualTime();

describe('an item', () => {
  const DESIRED = { desired: 'model m', desired_version: 'b' };
  const IN_SYNC = { ...DESIRED, applied_version: 'b' };

  test.each<[Partial<Item>, boolean]>([
    [{}, false],
    [{ desired: 'model m' }, false],
    [{ desired_version: 'b' }, false],
    [DESIRED, true],
    [{ ...DESIRED, applied_version: 'a' }, true],
    [{ ...DESIRED, applied_version: 'c' }, false],
    [IN_SYNC, false],
    [{ ...IN_SYNC, passed_over: '[{"operation_id":"x"}]' }, false],
    [{ ...IN_SYNC, passed_over: '[{"operation_id":"x","ended_at":"t"}]' }, true],
    [{ ...IN_SYNC, passed_over: '[{"operation_id":"y"}]' }, true],
    [{ passed_over: '[{"operation_id":"y"}]' }, false],
  ])('%j is pending: %s', (item, pending) => {
    expect(isPending({ barman_server: 'main', ...item }, new Set(['y']))).toBe(pending);
  });

  test.each<[Partial<Item>, boolean]>([
    [{}, false],
    [{ lease_token: 'me' }, false],
    [{ lease_expires_at: at(1) }, false],
    [{ lease_token: 'me', lease_expires_at: at(1) }, true],
    [{ lease_token: 'me', lease_expires_at: at(0) }, false],
  ])('%j is leased: %s', (item, leased) => {
    expect(isLeased({ barman_server: 'main', ...item })).toBe(leased);
  });

  test.each<[Partial<Item>, boolean]>([
    [{}, false],
    [{ paused_until: at(1) }, false],
    [{ paused: true }, true],
    [{ paused: true, paused_until: at(1) }, true],
    [{ paused: true, paused_until: at(0) }, false],
  ])('%j is paused: %s', (item, paused) => {
    expect(isPaused({ barman_server: 'main', ...item })).toBe(paused);
  });
});

test.each([
  ['', []],
  ['7', []],
  ['{}', []],
  ['[null, 7, {"operation_id":7}]', []],
  ['x, y', []],
  ['[null, {"operation_id":"x","since":"t"}]', [{ operation_id: 'x', since: 't' }]],
])('operations that were passed over › are those that can be read (%s)', (passed_over, entries) => {
  expect(passedOver({ barman_server: 'main', passed_over })).toEqual(entries);
});
