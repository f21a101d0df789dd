import { beforeEach, describe, expect, test, vi } from 'vitest';
import {
  Busy,
  ConfigSwitchFailed,
  DeadlineExceeded,
  HttpError,
} from '../../functions/config-switch/errors.ts';
import { newFacts } from '../../functions/config-switch/invocation.ts';
import type { Item, LeasedItem } from '../../functions/config-switch/ledger/item.ts';
import { Ledger } from '../../functions/config-switch/ledger/ledger.ts';
import { type TakeOverOptions, takeOver } from '../../functions/config-switch/reconcile/take-over.ts';
import { versionOf } from '../../functions/config-switch/version.ts';
import { MemoryTable } from '../stand-ins/memory-table.ts';
import { abortIn, end, net, networkError, requests, start, useVirtualNetwork } from './virtual-network.ts';
import { at, NOW } from './virtual-time.ts';

/** How long an operation is waited for after the lease has expired (ms), and one of the desired version. */
const [TIMEOUT, OF_DESIRED] = [60_000, 600_000];
const LIST = '/servers/main/operations';
const [OLDER, NEWER] = [
  { target: 'model x', version: versionOf(NOW - 9, 'x') },
  { target: 'model y', version: versionOf(NOW - 5, 'y') },
];

let table: MemoryTable;
/** The operations in Barman's list, and how they are: id → status. */
let operations: Record<string, string>;
let findings: string[];
let options: TakeOverOptions;
useVirtualNetwork();
beforeEach(() => {
  table = new MemoryTable();
  operations = {};
  findings = [];
  net.reply = ({ path }) => {
    const [, id] = path.split(`${LIST}/`);
    if (id !== undefined)
      return operations[id] ? [200, { status: operations[id] }] : [400, 'no such operation'];
    return [200, { operations: Object.keys(operations).map((id) => ({ id, type: 'config_switch' })) }];
  };
  options = {
    ledger: new Ledger(table),
    api: start({ onFinding: (server, message) => findings.push(`${server}: ${message}`) }),
    signal: net.controller.signal,
    remaining: () => 28_500,
    operationTimeout: TIMEOUT,
    facts: newFacts(),
    caller: 'heartbeat',
  };
});

/** Puts an item in the table for which x is desired, and whose lease expired so many ms ago. */
function expired(ms: number, change: Partial<Item> = {}): LeasedItem {
  const desired = { ...OLDER, cluster: 'c', recorded_at: at(-9) };
  const item = {
    barman_server: 'main',
    desired,
    lease: { token: 'another', expires_at: at(-ms) },
    ...change,
  };
  table.item = item;
  return item;
}
/** The operation of its lease is known: that of x. @param desired what is desired now */
const running = (ms: number, desired = OLDER, change: Partial<Item> = {}) =>
  expired(ms, {
    desired: { ...desired, cluster: 'c', recorded_at: at(-9) },
    running: { ...OLDER, operation_id: 'op' },
    ...change,
  });
const run = (item: LeasedItem, caller: 'event' | 'heartbeat' = 'heartbeat') =>
  end(takeOver({ ...options, caller }, item, item.desired.version));
/** What it says in the table of a lease that was taken over so many ms after NOW. */
const takenOver = (ms = 0) => ({
  unsettled_since: expect.stringContaining(at(ms).slice(0, 19)),
  attempts: 1,
});
const polls = () => net.facts.polls;

describe('the running operation of an expired lease', () => {
  test('that ended DONE is complete', async () => {
    operations = { op: 'DONE' };
    const { desired } = running(1_000);
    expect(await run(table.item as LeasedItem)).toBeUndefined();
    const applied = { ...OLDER, operation_id: 'op', applied_at: at(0) };
    expect(table.item).toEqual({ barman_server: 'main', desired, applied });
    expect(requests()).toEqual([`0 GET ${LIST}/op`]);
  });

  test('that ended FAILED is a failed attempt', async () => {
    operations = { op: 'FAILED' };
    const failed = await run(running(1_000));
    expect(failed).toBeInstanceOf(ConfigSwitchFailed);
    expect(failed).toMatchObject({
      operation_id: 'op',
      message: expect.stringContaining('apply model x on main'),
    });
    expect(table.item).toMatchObject({ attempts: 1, last_error: (failed as Error).message });
    expect(table.item).not.toHaveProperty('lease');
  });

  test('that ended FAILED does not delay what is newer', async () => {
    operations = { op: 'FAILED' };
    const { desired } = running(1_000, NEWER);
    expect(await run(table.item as LeasedItem)).toBeUndefined();
    expect(table.item).toEqual({ barman_server: 'main', desired });
  });

  describe.each([
    ['of the desired version', OLDER, OF_DESIRED],
    ['of an older version', NEWER, TIMEOUT],
  ])('%s', (_, desired, limit) => {
    test(`that has not ended is waited for until ${limit / 1_000} s after the expiry, and then the lease is taken over`, async () => {
      operations = { op: 'IN_PROGRESS' };
      const item = running(limit - 1, desired);
      const message =
        'operation op on main has not ended: the desired state is recorded, and will be applied later';
      expect(await run(item)).toEqual(new Busy(message));
      expect([table.item, polls(), options.facts.passedOver]).toEqual([item, 1, false]);

      vi.setSystemTime(NOW + 1);
      expect(await run(item)).toMatchObject({ item: takenOver() });
      expect(table.item).not.toHaveProperty('running');
      expect(table.item?.last_error).toBe('operation op did not end in time, and may still take effect');
      expect([polls(), options.facts.passedOver]).toEqual([2, true]);
    });

    test('that cannot be polled gets the same time', async () => {
      const item = running(limit - 1, desired);
      expect(await run(item)).toEqual(new HttpError('pg-backup-api answered 400: no such operation'));
      expect(table.item).toEqual(item);
      vi.setSystemTime(NOW + 1);
      expect(await run(item)).toMatchObject({ item: takenOver() });
    });

    test.each(['event', 'heartbeat'] as const)(
      'is not given up by the %s before the next attempt is due',
      async (caller) => {
        operations = { op: 'IN_PROGRESS' };
        const item = running(limit, desired, { next_attempt_at: at(1), attempts: 2 });
        expect(await run(item, caller)).toBeInstanceOf(Busy);
        expect(table.item).toEqual(item);
      },
    );

    test('is waited for by an event as long as that is', async () => {
      operations = { op: 'IN_PROGRESS' };
      expect(await run(running(limit - 10_000, desired), 'event')).toMatchObject({ item: takenOver(10_000) });
      expect(polls()).toBeGreaterThan(20);
    });
  });

  describe('of the desired version, where one was seen to end', () => {
    /** @param operation_ms how long that one took */
    const runningThere = (operation_ms: number, ms: number) => {
      const earlier = { target: 'model w', version: versionOf(NOW - 99, 'w'), operation_id: 'o' };
      return running(ms, OLDER, { applied: { ...earlier, applied_at: at(-90), operation_ms } });
    };

    test.each([
      [3_000, 60_000],
      [3_100, 62_000],
      [28_500, 570_000],
    ])('after %i ms, is waited for by heartbeats until %i ms after the expiry', async (time, limit) => {
      operations = { op: 'IN_PROGRESS' };
      expect(await run(runningThere(time, limit - 1))).toBeInstanceOf(Busy);
      vi.setSystemTime(NOW + 1);
      expect(await run(table.item as LeasedItem)).toMatchObject({ item: takenOver() });
    });

    test('is waited for longer if it cannot be polled: it may have ended', async () => {
      expect(await run(runningThere(500, OF_DESIRED - 1))).toBeInstanceOf(HttpError);
      vi.setSystemTime(NOW + 1);
      expect(await run(table.item as LeasedItem)).toMatchObject({ item: takenOver() });
    });

    test('is waited for longer by an event, which may lose sight of it', async () => {
      operations = { op: 'IN_PROGRESS' };
      setTimeout(() => (net.reply = () => networkError('ECONNREFUSED')), 1_000);
      const item = runningThere(500, TIMEOUT);
      expect(await run(item, 'event')).toBeInstanceOf(HttpError);
      expect(table.item).toEqual(item);
    });
  });

  test('is complete once it ends while an event waits', async () => {
    operations = { op: 'IN_PROGRESS' };
    setTimeout(() => (operations = { op: 'DONE' }), 5_000);
    expect(await run(running(1_000), 'event')).toBeUndefined();
    expect(table.item?.applied).toMatchObject({ operation_id: 'op' });
  });

  test('that cannot be polled is waited for by an event if its time is over before the deadline', async () => {
    expect(await run(running(TIMEOUT - 28_500, NEWER), 'event')).toMatchObject({ item: takenOver(28_500) });
    const item = running(TIMEOUT - 228_501, NEWER);
    expect(await run(item, 'event')).toBeInstanceOf(HttpError);
    expect(table.item).toEqual(item);
  });

  test('is not given up at the deadline', async () => {
    operations = { op: 'IN_PROGRESS' };
    abortIn(9_000);
    const item = running(TIMEOUT - 10_000, NEWER);
    expect(await run(item, 'event')).toBeInstanceOf(DeadlineExceeded);
    expect(table.item).toEqual(item);
  });
});

describe('an expired lease without a running operation', () => {
  test('is taken over at once if nothing is running', async () => {
    operations = { a: 'DONE', b: 'FAILED' };
    expect(await run(expired(0))).toMatchObject({ item: takenOver() });
    expect(table.item?.last_error).toBe('a POST without a response may still take effect');
    expect(options.facts.passedOver, 'no operation is known to be stuck').toBe(false);
    expect(requests()).toEqual([`0 GET ${LIST}`, `0 GET ${LIST}/b`, `0 GET ${LIST}/a`]);
  });

  test('is not taken over before the next attempt is due, and asks for nothing', async () => {
    const item = expired(0, { next_attempt_at: at(1) });
    const message =
      'a POST for main had no response: the desired state is recorded, and will be applied later';
    expect(await run(item)).toEqual(new Busy(message));
    expect([table.item, net.sent]).toEqual([item, []]);
  });

  test('waits while one of the three newest config switches is running', async () => {
    operations = { a: 'DONE', b: 'IN_PROGRESS', c: 'DONE', d: 'DONE' };
    const item = expired(TIMEOUT - 1);
    const message = 'operation b on main, which may be that of a POST without a response, has not ended';
    expect(await run(item)).toMatchObject({ name: 'Busy', message: expect.stringContaining(message) });
    expect([table.item, polls()]).toEqual([item, 3]);
  });

  test('does not wait for older ones', async () => {
    operations = { a: 'IN_PROGRESS', b: 'DONE', c: 'DONE', d: 'DONE' };
    expect(await run(expired(0))).toMatchObject({ item: takenOver() });
  });

  test.each([0, 9_000_000])('waits until 60 s after the expiry at most (%i ms later)', async (later) => {
    operations = { a: 'IN_PROGRESS' };
    expect(await run(expired(TIMEOUT + later))).toMatchObject({ item: takenOver() });
    expect(options.facts.passedOver).toBe(true);
    expect(await run(expired(TIMEOUT + later), 'event')).toMatchObject({ item: { attempts: 1 } });
  });

  test.each([
    ['until it ends', true, 5_000],
    ['until 60 s after the expiry', false, 10_000],
  ])('has an event wait for it %s', async (_, ends, after) => {
    operations = { a: 'IN_PROGRESS' };
    if (ends) setTimeout(() => (operations = { a: 'DONE' }), 5_000);
    expect(await run(expired(TIMEOUT - 10_000), 'event')).toMatchObject({ item: takenOver(after) });
    expect(findings).toEqual([]);
  });

  test.each<[string, Record<string, string>, () => void, string]>([
    [
      'list',
      {},
      () => Object.assign(net, { reply: () => [400, 'no list'] }),
      'main: pg-backup-api answered 400: no list',
    ],
    ['operation', { a: '' }, () => {}, 'main: pg-backup-api answered 400: no such operation'],
  ])(
    'is taken over although the %s cannot be read, which is a finding',
    async (_, listed, prepare, finding) => {
      operations = listed;
      prepare();
      expect(await run(expired(0))).toMatchObject({ item: takenOver() });
      expect(findings).toEqual([finding]);
    },
  );

  test.each(['event', 'heartbeat'] as const)(
    'is not taken over by the %s unless pg-backup-api answers: it may not have taken the POST yet',
    async (caller) => {
      const item = expired(TIMEOUT);
      net.reply = () => networkError('ECONNRESET');
      expect(await run(item, caller)).toMatchObject({
        message: expect.stringContaining('was reset (ECONNRESET)'),
      });
      expect([table.item, findings]).toEqual([item, []]);
    },
  );

  test('is not taken over after the deadline', async () => {
    operations = { a: 'IN_PROGRESS' };
    const item = expired(0);
    abortIn(5_000);
    expect(await run(item, 'event')).toBeInstanceOf(DeadlineExceeded);
    expect(table.item).toEqual(item);
  });
});
