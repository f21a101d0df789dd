import { beforeEach, describe, expect, test, vi } from 'vitest';
import type { PgBackupApi } from '../../functions/config-switch/barman/pg-backup-api.ts';
import { DeadlineExceeded, HttpError, LedgerError } from '../../functions/config-switch/errors.ts';
import { newFacts } from '../../functions/config-switch/invocation.ts';
import { type Item, type PassedOver, passedOver } from '../../functions/config-switch/ledger/item.ts';
import { Ledger } from '../../functions/config-switch/ledger/ledger.ts';
import type { Observed } from '../../functions/config-switch/patroni/observe-clusters.ts';
import {
  beat,
  type HeartbeatOptions,
  type Reconciled,
} from '../../functions/config-switch/reconcile/heartbeat.ts';
import { versionOf } from '../../functions/config-switch/version.ts';
import { MemoryTable } from '../stand-ins/memory-table.ts';
import { at, NOW, useVirtualTime } from './virtual-time.ts';

const MINUTE = 60_000;
const DAY = 86_400_000;
const version = (ms: number) => versionOf(NOW + ms, 'e');

/**
 * pg-backup-api: each switch succeeds, and operations of earlier invocations are IN_PROGRESS, unless a test
 * says otherwise.
 */
class Api {
  /** The servers that were switched, read, and polled. */
  readonly switched: string[] = [];
  readonly read: string[] = [];
  readonly polled: string[] = [];
  onStatus: () => Promise<void> | void = () => {};
  onRead: () => Promise<void> | void = () => {};
  onSwitch: (server: string) => void = () => {};
  statusOf: (id: string, signal: AbortSignal) => Promise<string> = async () => 'IN_PROGRESS';

  async status() {
    await this.onStatus();
  }
  async readServer(server: string) {
    this.read.push(server);
    await this.onRead();
  }
  operationStatus(server: string, id: string, signal: AbortSignal) {
    this.polled.push(`${server} ${id}`);
    return this.statusOf(id, signal);
  }
  async createConfigSwitchOperation(server: string) {
    this.switched.push(server);
    this.onSwitch(server);
    return `op-of-${server}`;
  }
  async waitForOperation() {
    return 'DONE';
  }
  async recentOperations() {
    return [];
  }
}

const refuse = () => {
  throw new HttpError('refused');
};

let table: MemoryTable;
let api: Api;
let reconciled: Reconciled[];
let options: HeartbeatOptions;
useVirtualTime();
beforeEach(() => {
  table = new MemoryTable();
  api = new Api();
  reconciled = [];
  options = {
    ledger: new Ledger(table),
    api: api as unknown as PgBackupApi,
    expiries: async () => new Map(),
    signal: new AbortController().signal,
    remaining: () => 28_500,
    operationTimeout: MINUTE,
    interval: MINUTE,
    observe: async () => [],
    onReconciled: (one) => reconciled.push(one),
  };
});

/** Puts a server in the ledger whose desired state was recorded a minute ago, and has not been applied. */
function put(barman_server: string, change: Partial<Item> = {}): Item {
  const item = {
    barman_server,
    desired: 'model m',
    desired_version: version(-MINUTE),
    recorded_at: at(-MINUTE),
    ...change,
  };
  table.items.set(barman_server, item);
  return item;
}
const applied = (ms = -MINUTE): Partial<Item> => ({
  applied: 'model m',
  applied_version: version(ms),
  applied_at: at(ms),
});
const passed = (...entries: Partial<PassedOver>[]): Partial<Item> => ({
  passed_over: JSON.stringify(entries.map((entry) => ({ since: at(-MINUTE), ...entry }))),
});
const get = (server: string): Item => table.items.get(server) ?? { barman_server: server };

describe('a heartbeat', () => {
  test('finds nothing to do in an empty ledger', async () => {
    expect(await beat(options)).toStrictEqual({
      pending: 0,
      applied: 0,
      pausedPending: 0,
      observed: { reconciled: [], notStreaming: [], unknown: [] },
      oldestPendingAge: 0,
      pausedPendingAge: 0,
      certificate: undefined,
    });
    expect(api.read).toEqual([]);
  });

  test('applies what is pending, reports it, and does not count it as pending any more', async () => {
    const item = put('main');
    put('other', applied());
    api.onSwitch = () => vi.advanceTimersByTime(1_500);
    const counts = { pending: 1, applied: 1, pausedPending: 0, oldestPendingAge: 0 };
    expect(await beat(options)).toMatchObject(counts);
    expect(api.switched).toEqual(['main']);
    expect(get('main')).toMatchObject({ applied: 'model m', operation_id: 'op-of-main' });
    const result = expect.objectContaining({ exit_code: 0, operation_id: 'op-of-main' });
    const facts = { ...newFacts(), recorded: true };
    expect(reconciled).toEqual([{ item, result, facts, duration: 1_500 }]);
  });

  test.each([new HttpError('refused'), 'refused'])(
    'reports what fails (%s), and goes on with the next server',
    async (thrown) => {
      put('main', { recorded_at: at(-2 * MINUTE) });
      put('other');
      api.onSwitch = (server) => {
        if (server === 'main') throw thrown;
      };
      expect(await beat(options)).toMatchObject({ pending: 2, applied: 1 });
      expect(reconciled.map(({ item, result }) => [item.barman_server, result])).toEqual([
        ['main', expect.objectContaining({ message: expect.stringMatching(/refused$/) })],
        ['other', expect.objectContaining({ exit_code: 0 })],
      ]);
      expect(reconciled[0]?.result).toBeInstanceOf(Error);
    },
  );

  test.each([
    [8_000, ['main']],
    [7_999, []],
  ])('begins with no server less than 8 s before the deadline (%i ms)', async (left, switched) => {
    put('main');
    const heartbeat = beat({ ...options, remaining: () => left });
    expect(await heartbeat).toMatchObject({ pending: 1, applied: switched.length });
    expect(api.switched).toEqual(switched);
  });

  test('fails if the ledger is unavailable', async () => {
    vi.spyOn(table, 'scan').mockRejectedValue(new LedgerError('throttled'));
    await expect(beat(options)).rejects.toThrow(new LedgerError('throttled'));
  });
});

test('the order of servers › is: fewest attempts, expired leases last, then the oldest', async () => {
  put('failed-twice', { attempts: 2, recorded_at: at(-9 * MINUTE) });
  put('failed-once', { attempts: 1, recorded_at: at(-8 * MINUTE) });
  put('expired', { lease_token: 'x', lease_expires_at: at(-1), recorded_at: at(-7 * MINUTE) });
  put('young', { recorded_at: at(-5 * MINUTE) });
  put('old', { recorded_at: at(-6 * MINUTE) });
  await beat(options);
  expect(api.switched).toEqual(['old', 'young', 'expired', 'failed-once', 'failed-twice']);
});

describe('a server', () => {
  const EXPIRED = { lease_token: 'x', lease_expires_at: at(0) };
  test.each<[string, Partial<Item>, number]>([
    ['is due at its next attempt', { next_attempt_at: at(0) }, 1],
    ['is not due before that', { next_attempt_at: at(1) }, 0],
    ['is due at once if no attempt has failed', { recorded_at: at(0) }, 1],
    ['is not due if it was recorded in the future', { recorded_at: at(1) }, 0],
    ['is due without any time', { recorded_at: 'x' }, 1],
    ['is not due during a lease', { lease_token: 'x', lease_expires_at: at(1) }, 0],
    [
      'is due after an expired lease, also before its next attempt',
      { ...EXPIRED, next_attempt_at: at(1) },
      1,
    ],
    ['is due however long it has been pending', { recorded_at: at(-40 * DAY), attempts: 900 }, 1],
  ])('%s', async (_, change, count) => {
    put('main', change);
    expect(await beat(options)).toMatchObject({ pending: 1, applied: count });
  });

  /** Two operations that were passed over, and have ended, and one that has not. */
  const ENDED = passed(
    { operation_id: 'a', ended_at: at(-4_000) },
    { operation_id: 'b', ended_at: at(-5_000) },
    { operation_id: 'c' },
  );
  test.each<[string, Partial<Item>, number]>([
    ['since its desired state was recorded', { recorded_at: at(-3_000) }, 3],
    ['also for days, while it fails', { recorded_at: at(-2 * DAY) }, (2 * DAY) / 1_000],
    ['since its pause ended by itself', { paused: true, paused_until: at(-2_000) }, 2],
    ['since it was recorded, after a pause', { recorded_at: at(-3_000), paused_until: at(-9_000) }, 3],
    ['for no time, without one', { recorded_at: 'x' }, 0],
    ['since the first operation that was passed over ended, if in sync', { ...applied(), ...ENDED }, 5],
    [
      'since now, if that end is in the future',
      { ...applied(), ...passed({ operation_id: 'a', ended_at: at(9_000) }) },
      0,
    ],
    ['since it was recorded, if it is not in sync either', { ...applied(-2 * MINUTE), ...ENDED }, 60],
  ])('is pending %s', async (_, change, seconds) => {
    put('main', change);
    api.onSwitch = refuse;
    expect(await beat(options)).toMatchObject({ pending: 1, applied: 0, oldestPendingAge: seconds });
  });

  test('that is paused is not applied, and counts separately', async () => {
    put('main', { paused: true, paused_at: at(-90_000), recorded_at: at(-2 * DAY) });
    put('young', { paused: true, paused_at: at(-30_000) });
    put('unknown', { paused: true });
    put('ends', { paused: true, paused_at: at(-DAY), paused_until: at(DAY) });
    put('in-sync', { paused: true, paused_at: at(-DAY), ...applied() });
    const ages = { pausedPendingAge: 90, oldestPendingAge: 0 };
    expect(await beat(options)).toMatchObject({ pending: 0, applied: 0, pausedPending: 4, ...ages });
    expect(api.switched).toEqual([]);
  });
});

describe('pg-backup-api', () => {
  test.each([
    [new HttpError('ECONNREFUSED'), 'ECONNREFUSED'],
    ['no error', 'no error'],
  ])('that is unreachable (%s) is asked for nothing more', async (thrown, unreachable) => {
    put('main');
    put('old', { recorded_at: at(-DAY - 1) });
    put('passed', { ...applied(), ...passed({ operation_id: 'a' }) });
    api.onStatus = () => {
      throw thrown;
    };
    const heartbeat = await beat(options);
    expect(heartbeat).toMatchObject({ pending: 2, applied: 0, unreachable });
    // It would say the same again.
    expect(heartbeat).not.toHaveProperty('oldestPendingAge');
    expect([api.switched, api.read, api.polled]).toEqual([[], [], []]);
  });

  test('is asked for the configuration of another server each minute', async () => {
    for (const server of ['c', 'b', 'a']) put(server, applied());
    for (let minute = 0; minute < 4; minute += 1) {
      expect(await beat(options)).not.toHaveProperty('unreachable');
      vi.advanceTimersByTime(MINUTE);
    }
    const { read } = api;
    expect(read[3]).toBe(read[0]);
    const first = read.indexOf('a');
    expect([0, 1, 2].map((index) => read[(first + index) % 3])).toEqual(['a', 'b', 'c']);
  });

  test('that cannot read a configuration counts as unreachable, but what is pending is applied', async () => {
    put('main');
    api.onRead = () => {
      throw new HttpError('404');
    };
    const unreachable = 'the configuration of main cannot be read: 404';
    expect(await beat(options)).toMatchObject({ applied: 1, unreachable, oldestPendingAge: 0 });
    api.onRead = () => {
      throw 'no error';
    };
    expect((await beat(options)).unreachable).toBe('the configuration of main cannot be read: no error');
  });

  test('may need long to read a configuration', async () => {
    put('main');
    api.onRead = () => {
      throw new DeadlineExceeded('5 s');
    };
    expect(await beat(options)).not.toHaveProperty('unreachable');
  });
});

describe('the certificate', () => {
  /** A heartbeat with parameters whose certificates expire in so many days. */
  const beatWith = (days: Record<string, number>) => {
    const expiries = Object.entries(days).map(([name, count]) => [name, Date.now() + count * DAY] as const);
    return beat({ ...options, expiries: async () => new Map(expiries) });
  };

  test.each([
    ['is the one that expires first', { a: 40.5, b: 20.5, c: 30.5 }, { parameter: 'b', daysLeft: 20 }],
    ['is the first of two that expire on the same day', { a: 20, b: 20 }, { parameter: 'a', daysLeft: 20 }],
  ])('%s', async (_, days, certificate) => {
    expect((await beatWith(days)).certificate).toEqual(certificate);
  });

  test('is reported while pg-backup-api is unreachable', async () => {
    api.onStatus = refuse;
    const certificate = { parameter: 'a', daysLeft: 20 };
    expect(await beatWith({ a: 20.5 })).toMatchObject({ unreachable: 'refused', certificate });
  });

  test('is unknown while the parameters are unavailable', async () => {
    const expiries = () => Promise.reject(new HttpError('throttled'));
    const { certificate, unreachable } = await beat({ ...options, expiries });
    expect([certificate, unreachable]).toEqual([undefined, undefined]);
  });
});

describe('an operation that was passed over', () => {
  const OLDER = { operation_id: 'op', version: version(-2 * MINUTE) };

  test.each(['DONE', 'FAILED'])('and has ended %s has the desired state applied again', async (end) => {
    put('main', { ...applied(), ...passed(OLDER) });
    api.statusOf = async () => end;
    expect(await beat(options)).toMatchObject({ pending: 1, applied: 1 });
    expect([api.polled, api.switched]).toEqual([['main op'], ['main']]);
    expect(get('main')).not.toHaveProperty('passed_over');
  });

  test('is forgotten if it has ended and applied the desired state', async () => {
    const other = { operation_id: 'other', version: version(-3 * MINUTE) };
    put('main', { ...applied(), ...passed({ operation_id: 'op', version: version(-MINUTE) }, other) });
    api.statusOf = async (id) => (id === 'op' ? 'DONE' : 'IN_PROGRESS');
    expect(await beat(options)).toMatchObject({ pending: 0, applied: 0 });
    expect([api.polled, api.switched]).toEqual([['main op', 'main other'], []]);
    expect(passedOver(get('main'))).toMatchObject([other]);
  });

  test.each<[string, number, number]>([
    ['a day', -DAY, 1],
    ['more than that', -DAY - 1, 0],
  ])('and has not ended is polled for %s', async (_, since, left) => {
    put('main', { ...applied(), ...passed({ ...OLDER, since: at(since) }) });
    expect(await beat(options)).toMatchObject({ pending: 0, applied: 0 });
    expect(passedOver(get('main'))).toHaveLength(left);
    expect(table.writes).toBe(1 - left);
  });

  test('cannot be polled for ever', async () => {
    put('main', { ...applied(), ...passed({ ...OLDER, since: at(-DAY - 1) }) });
    api.statusOf = () => Promise.reject(new HttpError('404'));
    await beat(options);
    expect(passedOver(get('main'))).toEqual([]);
  });

  test('is not polled once it has ended', async () => {
    put('main', { ...applied(), ...passed({ ...OLDER, ended_at: at(-1) }) });
    expect(await beat(options)).toMatchObject({ pending: 1, applied: 1 });
    expect(api.polled).toEqual([]);
  });

  test('is not polled for a server whose desired state is unknown', async () => {
    table.items.set('main', { barman_server: 'main', ...passed(OLDER) });
    await beat(options);
    expect(api.polled).toEqual([]);
  });

  test('is polled together with all others for five seconds', async () => {
    put('main', { ...applied(), ...passed(OLDER, { operation_id: 'b' }) });
    const aborted: number[] = [];
    api.statusOf = (_, signal) =>
      new Promise((_resolve, reject) => {
        const abort = () => {
          aborted.push(Date.now() - NOW);
          reject(new HttpError('aborted'));
        };
        if (signal.aborted) abort();
        else signal.addEventListener('abort', abort);
      });
    const heartbeat = beat(options);
    await vi.advanceTimersByTimeAsync(6_000);
    expect(await heartbeat).toMatchObject({ pending: 0 });
    expect(aborted).toEqual([5_000, 5_000]);
  });
});

describe('the leaders that Patroni names', () => {
  const IN_SYNC = { ...applied(-10 * MINUTE), desired_version: version(-10 * MINUTE) };
  const members = new Map([
    ['node1', 'm'],
    ['node2', 'm2'],
  ]);
  /** A heartbeat that observes a leader of the cluster of `main`. */
  const beatWith = (observation: Observed['observation'], interval = MINUTE) => {
    const cluster = { name: 'c', scope: 's', servers: new Map([['main', members]]) };
    return beat({ ...options, interval, observe: async () => [{ cluster, at: NOW, observation }] });
  };

  test('are applied at once where they become desired', async () => {
    put('main', { ...IN_SYNC, leader: 'node2', differs_since: at(-MINUTE) });
    const observed = { reconciled: [{ barman_server: 'main' }] };
    expect(await beatWith({ leader: 'node2' })).toMatchObject({ pending: 1, applied: 1, observed });
    expect(get('main')).toMatchObject({ applied: 'model m2' });
  });

  test('have their model applied again at once if Barman does not stream', async () => {
    put('main', { ...IN_SYNC, leader: 'node1', streaming: false, streaming_since: at(-2 * MINUTE) });
    const observed = { notStreaming: [{ barman_server: 'main' }] };
    const heartbeat = await beatWith({ leader: 'node1', streaming: false });
    expect(heartbeat).toMatchObject({ pending: 1, applied: 1, observed });
    expect(api.switched).toEqual(['main']);
  });

  test('cost no second read of the ledger if nothing follows from them', async () => {
    put('main', { ...IN_SYNC, leader: 'node1' });
    const scan = vi.spyOn(table, 'scan');
    await beatWith({ leader: 'node1', streaming: true });
    expect(scan).toHaveBeenCalledTimes(1);
  });

  test('differ in what an interval is', async () => {
    put('main', { ...IN_SYNC, leader: 'node2', differs_since: at(-MINUTE) });
    const heartbeat = await beatWith({ leader: 'node2' }, 2 * MINUTE);
    expect(heartbeat.observed.reconciled).toEqual([]);
  });
});
