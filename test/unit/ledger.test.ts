import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { parseTarget, targetText } from '../../functions/config-switch/barman/target.ts';
import {
  eventIdOf,
  isBehind,
  isLeased,
  Ledger,
  type Wish,
  wishKey,
} from '../../functions/config-switch/reconcile/ledger.ts';
import type { Item, Wished } from '../../functions/config-switch/reconcile/table.ts';
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

const wish = (ms: number, id: string, target: Wish['target'] = { model: `m-${id}` }): Wish => ({
  server: 'main',
  cluster: 'patroni',
  target,
  key: wishKey(NOW + ms, id),
});
/** Takes the lease with a new wish. */
async function lease(ms: number, id: string) {
  const taken = await ledger.recordAndTake(wish(ms, id), signal);
  if (!taken) throw new Error('not taken');
  return taken;
}

describe('a key', () => {
  test('is the time of the event in UTC, to the ms, and its id', () => {
    expect(wishKey(NOW, 'msg#1')).toBe('2026-11-23T06:10:00.000Z#msg#1');
    expect(eventIdOf(wishKey(NOW, 'msg#1'))).toBe('msg#1');
  });

  test('says what is newer', () => {
    expect(wishKey(NOW + 1, 'a') > wishKey(NOW, 'b')).toBe(true);
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
    [{ desired: 'model m', desired_key: 'b' }, true],
    [{ desired: 'model m', desired_key: 'b', applied_key: 'a' }, true],
    [{ desired: 'model m', desired_key: 'b', applied_key: 'b' }, false],
    [{ desired: 'model m', desired_key: 'b', applied_key: 'c' }, false],
  ])('%j is behind: %s', (item, behind) => {
    expect(isBehind({ barman_server: 'main', ...item })).toBe(behind);
  });

  test.each([
    [{}, false],
    [{ holder: 'me' }, false],
    [{ until: at(1) }, false],
    [{ holder: 'me', until: at(1) }, true],
    [{ holder: 'me', until: at(0) }, false],
  ])('%j is leased: %s', (item, leased) => {
    expect(isLeased({ barman_server: 'main', ...item })).toBe(leased);
  });
});

describe('record', () => {
  test('writes the wish, and starts afresh', async () => {
    table.item = {
      barman_server: 'main',
      desired_key: wishKey(NOW - 9, 'old'),
      events: ['old'],
      attempts: 3,
      next_attempt_at: at(9),
      last_error: 'no',
      parked: true,
    };
    expect(await ledger.record(wish(0, 'a'), signal)).toBe(true);
    expect(table.item).toEqual({
      barman_server: 'main',
      cluster: 'patroni',
      desired: 'model m-a',
      desired_key: wishKey(NOW, 'a'),
      events: ['a', 'old'],
      recorded_at: at(0),
    });
  });

  test('leaves a newer wish alone, and one that it knows', async () => {
    await ledger.record(wish(5, 'b'), signal);
    for (const known of [wish(5, 'b'), wish(4, 'a'), wish(9, 'b')]) {
      expect(await ledger.record(known, signal)).toBe(false);
    }
    expect(table.item?.desired).toBe('model m-b');
  });
});

describe('the lease', () => {
  test('is taken with the wish in one write, where nobody has it', async () => {
    const { token, item, postUntil } = await lease(0, 'a');
    expect(item).toEqual(table.item);
    expect(item).toMatchObject({ holder: token, until: at(14_000), desired: 'model m-a' });
    expect(postUntil).toBe(performance.now() + 8_000);
    expect([table.writes, table.reads]).toEqual([1, 0]);
    expect(await ledger.recordAndTake(wish(1, 'b'), signal)).toBeUndefined();
    expect(table.item?.desired, 'nothing is written then').toBe('model m-a');
  });

  test('is not taken from the operator', async () => {
    table.item = { barman_server: 'main', held: true };
    expect(await ledger.recordAndTake(wish(0, 'a'), signal)).toBeUndefined();
    expect(await ledger.take('main', wish(0, 'a').key, undefined, signal)).toBeUndefined();
  });

  test('is ours where the answer to the write was lost', async () => {
    table.loseAnswer = true;
    const { token, item, postUntil } = await lease(0, 'a');
    expect(item).toMatchObject({ holder: token, desired: 'model m-a' });
    expect(postUntil).toBe(performance.now() + 8_000);
  });

  test('is renewed, taken over from who was settled, and from nobody else', async () => {
    const { token } = await lease(0, 'a');
    const { key } = wish(0, 'a');
    expect(await ledger.take('main', key, undefined, signal)).toBeUndefined();
    expect(await ledger.take('main', key, 'somebody', signal)).toBeUndefined();
    const renewed = await ledger.take('main', key, token, signal, { overtaken: true });
    expect(renewed?.token).not.toBe(token);
    expect(table.item).toMatchObject({ holder: renewed?.token, overtaken: true });
  });

  test('is not taken for what is applied, or older than that', async () => {
    await ledger.record(wish(6, 'c'), signal);
    table.item = { ...(table.item as Item), applied_key: wish(5, 'b').key };
    for (const old of [wish(5, 'b'), wish(4, 'a')]) {
      expect(await ledger.take('main', old.key, undefined, signal)).toBeUndefined();
    }
    expect(await ledger.take('main', wish(6, 'c').key, undefined, signal)).toBeDefined();
  });
});

describe('the result', () => {
  const applied = {
    applied: 'model m-a',
    applied_key: wishKey(NOW, 'a'),
    operation_id: 'op',
    applied_at: at(0),
  };

  test('is written, and the lease given back, with what failed before forgotten', async () => {
    const taken = await lease(0, 'a');
    table.item = {
      ...(table.item as Item),
      attempts: 2,
      next_attempt_at: at(1),
      last_error: 'no',
      parked: true,
      events: Array.from({ length: 12 }, (_, index) => `e${index}`),
    };
    expect(await ledger.result(taken, 'op', true, signal)).toEqual({ lease: 'released' });
    expect(table.item).toEqual({
      barman_server: 'main',
      cluster: 'patroni',
      desired: 'model m-a',
      desired_key: wishKey(NOW, 'a'),
      recorded_at: at(0),
      events: Array.from({ length: 10 }, (_, index) => `e${index}`),
      ...applied,
    });
  });

  test('keeps the lease, renewed, for a newer wish; or leaves that to others', async () => {
    const taken = await lease(0, 'a');
    await ledger.record(wish(1, 'b'), signal);
    const next = await ledger.result(taken, 'op', true, signal);
    if (next.lease !== 'renewed') throw new Error(`the lease is ${next.lease}`);
    expect(next.renewed).toMatchObject({ item: { ...applied, desired: 'model m-b', until: at(14_000) } });
    const { token } = next.renewed;
    expect(token).not.toBe(taken.token);
    expect(table.item?.holder).toBe(token);

    await ledger.record(wish(2, 'c'), signal);
    const left = { token, item: table.item as Wished, postUntil: 0 };
    expect(
      await ledger.result(
        { ...left, item: { ...left.item, desired_key: wish(1, 'b').key } },
        'op2',
        false,
        signal,
      ),
    ).toEqual({ lease: 'released' });
    expect(table.item).toMatchObject({
      applied_key: wish(1, 'b').key,
      desired: 'model m-c',
      operation_id: 'op2',
    });
    expect(table.item).not.toHaveProperty('holder');
    expect(table.item).not.toHaveProperty('until');
  });

  test.each([true, false])('is not written once the lease is lost (going on: %s)', async (goOn) => {
    const taken = await lease(0, 'a');
    table.item = { ...(table.item as Item), holder: 'somebody' };
    expect(await ledger.result(taken, 'op', goOn, signal)).toEqual({ lease: 'lost' });
    expect(table.item).not.toHaveProperty('applied_key');
    expect(table.item?.holder).toBe('somebody');
  });
});

describe('a failure', () => {
  test.each([
    [undefined, 60_000],
    [1, 120_000],
    [3, 480_000],
    [4, 600_000],
    [9, 600_000],
  ])('after %s others is tried again later', async (attempts, pause) => {
    const taken = await lease(0, 'a');
    const item = { ...taken.item, ...(attempts !== undefined && { attempts }) };
    await ledger.release({ ...taken, item }, 'x'.repeat(2_000), signal);
    expect(table.writes).toBe(2);
    expect(table.item).toMatchObject({
      attempts: (attempts ?? 0) + 1,
      next_attempt_at: at(pause),
      last_error: 'x'.repeat(1_000),
    });
    expect(table.item).not.toHaveProperty('holder');
    expect(table.item).not.toHaveProperty('until');
  });

  test('is none of a newer wish', async () => {
    const taken = await lease(0, 'a');
    await ledger.record(wish(1, 'b'), signal);
    await ledger.release(taken, 'no', signal);
    for (const name of ['holder', 'until', 'attempts', 'next_attempt_at', 'last_error']) {
      expect(table.item).not.toHaveProperty(name);
    }
  });

  test('of who lost the lease changes nothing', async () => {
    const taken = await lease(0, 'a');
    const before = { ...(table.item as Item), holder: 'somebody' };
    table.item = before;
    await ledger.release(taken, 'no', signal);
    expect(table.item).toEqual(before);
  });
});

describe('the operator', () => {
  test('is not told of a server that is not there', async () => {
    expect(await ledger.hold('main', true, signal)).toBeUndefined();
    expect(await ledger.retry('main', signal)).toBeUndefined();
    expect(table.item).toBeUndefined();
    expect(await ledger.all(signal)).toEqual([]);
    expect(await ledger.get('main', signal)).toBeUndefined();
  });

  test('holds and releases a server, which is tried at once then', async () => {
    table.item = { barman_server: 'main', next_attempt_at: at(9) };
    expect(await ledger.hold('main', true, signal)).toEqual({ barman_server: 'main', held: true });
    expect(await ledger.hold('main', false, signal)).toEqual({ barman_server: 'main' });
  });

  test('has a wish tried again, also a parked one', async () => {
    table.item = {
      barman_server: 'main',
      desired_key: 'k',
      recorded_at: at(-9),
      attempts: 4,
      next_attempt_at: at(9),
    };
    expect(await ledger.park({ barman_server: 'main', desired_key: 'other' }, signal)).toBe(false);
    expect(await ledger.park({ barman_server: 'main', desired_key: 'k' }, signal)).toBe(true);
    expect(table.item).toMatchObject({ parked: true });
    expect(await ledger.retry('main', signal)).toEqual({
      barman_server: 'main',
      desired_key: 'k',
      recorded_at: at(0),
    });
  });
});

describe('a comparison with what is active', () => {
  const item: Item = { barman_server: 'main', applied: 'reset', applied_key: 'k', overtaken: true };

  test.each([
    [true, { barman_server: 'main', applied: 'reset' }],
    [false, { barman_server: 'main', applied: 'reset', applied_key: 'k' }],
  ])('has it applied again (%s)', async (again, after) => {
    table.item = item;
    await ledger.compared('main', 'k', again, signal);
    expect(table.item).toEqual(after);
  });

  test.each([{ holder: 'somebody' }, { applied_key: 'l' }])('is void once there is %j', async (change) => {
    table.item = { ...item, ...change };
    await ledger.compared('main', 'k', true, signal);
    expect(table.item).toEqual({ ...item, ...change });
  });
});
