import { describe, expect, test } from 'vitest';
import { LedgerError } from '../../functions/config-switch/errors.ts';
import {
  type Item,
  isDue,
  isExpired,
  isLeased,
  isPaused,
  isPending,
  mustApplyAgain,
  readItem,
} from '../../functions/config-switch/ledger/item.ts';
import { at, useVirtualTime } from './virtual-time.ts';

useVirtualTime();

const desired = { target: 'model pg:node1', version: 'b', cluster: 'c', recorded_at: at(0) };
const applied = (version: string) => ({ target: 'reset', version, operation_id: 'op', applied_at: at(0) });
const lease = (ms: number) => ({ token: 'me', expires_at: at(ms) });
const itemWith = (change: Partial<Item>): Item => ({ barman_server: 'main', ...change });

describe('an item', () => {
  test.each<[Partial<Item>, boolean]>([
    [{}, false],
    [{ applied: applied('a') }, false],
    [{ desired }, true],
    [{ desired, applied: applied('a') }, true],
    [{ desired, applied: applied('b') }, false],
    [{ desired, applied: applied('c') }, false],
    [{ desired, applied: applied('b'), apply_again_at: at(0) }, true],
    [{ desired, applied: applied('b'), apply_again_at: at(1) }, false],
    [{ apply_again_at: at(0) }, false],
  ])('%j is pending: %s', (item, pending) => {
    expect(isPending(itemWith(item))).toBe(pending);
  });

  test.each<[Partial<Item>, leased: boolean, expired: boolean]>([
    [{ desired }, false, false],
    [{ desired, lease: lease(1) }, true, false],
    [{ desired, lease: lease(0) }, false, true],
    [{ lease: lease(0) }, false, false],
  ])('%j is leased: %s; its lease has expired: %s', (item, leased, expired) => {
    expect([isLeased(itemWith(item)), isExpired(itemWith(item))]).toEqual([leased, expired]);
  });

  test.each<[Partial<Item>, boolean]>([
    [{}, false],
    [{ paused_until: at(1) }, false],
    [{ paused: true }, true],
    [{ paused: true, paused_until: at(1) }, true],
    [{ paused: true, paused_until: at(0) }, false],
  ])('%j is paused: %s', (item, paused) => {
    expect(isPaused(itemWith(item))).toBe(paused);
  });

  test('is due at its next attempt, and at once without one', () => {
    const attempts = [{}, { next_attempt_at: at(0) }, { next_attempt_at: at(1) }];
    expect(attempts.map((change) => isDue(itemWith(change)))).toEqual([true, true, false]);
  });

  test('is not to be applied again unless it says when', () => {
    expect(mustApplyAgain(itemWith({}))).toBe(false);
  });
});

describe('an item of the table', () => {
  const whole: Item = {
    ...{ barman_server: 'main', desired, applied: applied('a'), lease: lease(0) },
    running: { operation_id: 'op', target: 'reset', version: 'a' },
    ...{ unsettled_since: at(0), apply_again_at: at(0) },
    ...{ attempts: 1, next_attempt_at: at(0), last_error: 'no' },
    ...{ paused: true, paused_at: at(0), paused_until: at(0) },
    ...{ leader: 'node1', leader_since: at(0), differs_since: at(0) },
    ...{ streaming: false, streaming_since: at(0) },
  };

  test('is read with all its attributes, or with only its name', () => {
    expect(readItem(whole)).toEqual(whole);
    expect(readItem({ barman_server: 'main' })).toEqual({ barman_server: 'main' });
  });

  /** Never a reset: this drops the active model. */
  test.each<[object, string]>([
    [
      { desired: { ...desired, target: 'Model pg:node1' } },
      'desired.target is "Model pg:node1", not "model NAME" or "reset"',
    ],
    [{ applied: { ...applied('a'), operation_ms: '400' } }, 'applied.operation_ms is "400", not number'],
    [{ applied: { ...applied('a'), target: 'model' } }, 'applied.target is "model", not '],
    [
      { running: { operation_id: 'op', target: 'model a b', version: 'a' } },
      'running.target is "model a b", not ',
    ],
    [{ desired: 'model pg:node1' }, 'desired is "model pg:node1", not '],
    [
      { desired: { target: 'reset', cluster: 'c', recorded_at: at(0) } },
      'desired.version is undefined, not ',
    ],
    [{ lease: { token: 'me' } }, 'lease.expires_at is undefined, not '],
    [
      { lease: { token: 'me', expires_at: 'soon' } },
      'lease.expires_at is "soon", not a time such as 2026-11-23T06:10:00.000Z',
    ],
    [{ unsettled_since: 'yesterday' }, 'unsettled_since is "yesterday", not a time'],
    [{ paused: 'yes' }, 'paused is "yes", not boolean'],
    [{ attempts: { NS: ['1'] } }, 'attempts is Object, not number'],
  ])('with %j is an error that names the attribute and the remedy', (change, problem) => {
    const read = () => readItem({ ...whole, ...change });
    expect(read).toThrow(LedgerError);
    expect(read).toThrow(`the ledger's item of main cannot be read: ${problem}`);
    expect(read).toThrow(
      'correct the attribute, or delete the item with `npm run ledger -- --stage STAGE forget main --force`',
    );
  });

  test('of version 0.1.0 is an error that says what to do about it', () => {
    const flat = {
      barman_server: 'main',
      desired: 'model pg:node1',
      desired_version: 'b',
      recorded_at: at(0),
    };
    expect(() => readItem(flat)).toThrow(
      'desired is "model pg:node1", not Object; version 0.1.0 wrote it; remove the stage and deploy it again (docs/how-to/upgrade.md#from-010)',
    );
  });
});
