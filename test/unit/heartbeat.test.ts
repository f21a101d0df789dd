import { beforeEach, describe, expect, test, vi } from 'vitest';
import { refusalOf } from '../../functions/config-switch/barman/failures.ts';
import type { PgBackupApi } from '../../functions/config-switch/barman/pg-backup-api.ts';
import { Busy, ConfigSwitchFailed, HttpError, LedgerError } from '../../functions/config-switch/errors.ts';
import { type Facts, newFacts } from '../../functions/config-switch/invocation.ts';
import type { Item, RecordedItem } from '../../functions/config-switch/ledger/item.ts';
import { Ledger } from '../../functions/config-switch/ledger/ledger.ts';
import type { Cluster } from '../../functions/config-switch/patroni/cluster.ts';
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

/** pg-backup-api does not answer; any other error is its answer. */
class Unreachable extends HttpError {}

/**
 * pg-backup-api: each switch succeeds, and operations of earlier invocations are IN_PROGRESS, unless a test
 * says otherwise.
 */
class Barman {
  /** The servers that were switched, and read; and the operations that were polled. */
  readonly switched: string[] = [];
  readonly read: string[] = [];
  readonly polled: string[] = [];
  probes = 0;
  /** How long the slowest request of each client took (ms). */
  slowest = 0;
  onStatus: () => Promise<void> | void = () => {};
  onRead: () => Promise<void> | void = () => {};
  onSwitch: (server: string) => Promise<void> | void = () => {};
  statusOf: (id: string) => Promise<string> | string = () => 'IN_PROGRESS';

  connect(facts: Facts): PgBackupApi {
    const client = new Client(this, facts);
    return client as unknown as PgBackupApi;
  }
}

/** The client of one server, or of a probe. */
class Client implements AsyncDisposable {
  readonly #barman: Barman;
  readonly #facts: Facts;
  reached = false;
  failure: string | undefined;

  constructor(barman: Barman, facts: Facts) {
    this.#barman = barman;
    this.#facts = facts;
  }
  get slowest() {
    return this.#barman.slowest;
  }
  async #request<T>(respond: () => Promise<T> | T): Promise<T> {
    this.#facts.attempts += 1;
    try {
      const response = await respond();
      this.reached = true;
      return response;
    } catch (error) {
      if (error instanceof Unreachable) this.failure ??= error.message;
      else this.reached = true;
      throw error;
    }
  }
  status() {
    return this.#request(() => {
      this.#barman.probes += 1;
      return this.#barman.onStatus();
    });
  }
  readServer(server: string) {
    return this.#request(() => {
      this.#barman.read.push(server);
      return this.#barman.onRead();
    });
  }
  endOf(server: string, id: string) {
    return this.#request(() => {
      this.#facts.polls += 1;
      this.#barman.polled.push(`${server} ${id}`);
      return this.#barman.statusOf(id);
    });
  }
  createConfigSwitchOperation(server: string) {
    return this.#request(async () => {
      this.#barman.switched.push(server);
      await this.#barman.onSwitch(server);
      return `op-of-${server}`;
    });
  }
  async waitForOperation() {
    return { status: 'DONE', operation_ms: 0 };
  }
  async findRunning() {}
  async [Symbol.asyncDispose]() {}
}

const refuse = () => {
  throw new HttpError('refused');
};

let table: MemoryTable;
let barman: Barman;
let reconciled: Reconciled[];
let options: HeartbeatOptions;
useVirtualTime();
beforeEach(() => {
  table = new MemoryTable();
  barman = new Barman();
  reconciled = [];
  options = {
    ledger: new Ledger(table),
    connect: (facts) => barman.connect(facts),
    expiries: async () => new Map(),
    outdated: async () => undefined,
    signal: new AbortController().signal,
    remaining: () => 27_500,
    facts: newFacts(),
    operationTimeout: MINUTE,
    interval: MINUTE,
    version: '1.2.3',
    clusters: async () => ({ clusters: [], tls: {} }),
    observe: async () => [],
    onReconciled: (one) => reconciled.push(one),
  };
});

/** What was desired, or applied, so many ms after NOW. */
const desired = (ms = -MINUTE) => ({
  ...{ target: 'model m', version: version(ms), cluster: 'c' },
  recorded_at: at(ms),
});
const applied = (ms = -MINUTE) => ({
  applied: { target: 'model m', version: version(ms), operation_id: 'op', applied_at: at(ms) },
});
/** A lease that expired so many ms before NOW, and the operation that was created under it. */
const lease = (ms: number) => ({ lease: { token: 'x', expires_at: at(-ms) } });
const running = (operation_id: string, ms = -MINUTE) => ({
  running: { operation_id, target: 'model m', version: version(ms) },
});
/** Puts a server in the ledger whose desired state was recorded a minute ago, and has not been applied. */
function put(barman_server: string, change: Partial<Item> = {}): RecordedItem {
  const item = { barman_server, desired: desired(), ...change };
  table.items.set(barman_server, item);
  return item;
}
const get = (server: string): Item => table.items.get(server) ?? { barman_server: server };
const results = () =>
  reconciled.map(({ item, result }) => {
    const text = result instanceof Error ? `${result.name}: ${result.message}` : result.message;
    return `${item.barman_server}: ${text}`;
  });

describe('a heartbeat', () => {
  test('finds nothing to do in an empty ledger', async () => {
    expect(await beat(options)).toStrictEqual({
      pending: 0,
      applied: 0,
      pausedPending: 0,
      observed: { reconciled: [], first: [], notStreaming: [], unknown: [] },
      notReady: [],
      unreachable: undefined,
      oldestPendingAge: 0,
      pausedPendingAge: 0,
      isQuiet: true,
      servers: {
        ...{ items: [], unreadable: [], inspections: new Map(), heard: new Map() },
        // What it reports itself.
        stage: {
          heartbeat: {
            ...{ at: at(0), interval: MINUTE, version: '1.2.3' },
            ...{ clusters: [], lasting: [], not_ready: [] },
          },
        },
      },
      certificate: undefined,
      entered: { pending: [], not_streaming: [], leader_cannot_write: [], leader_unknown: [] },
    });
    expect(barman.read).toEqual([]);
  });

  test('applies what is pending, reports it, and does not count it as pending any more', async () => {
    const item = put('main');
    put('other', applied());
    barman.onSwitch = () => void vi.advanceTimersByTime(1_500);
    const counts = { pending: 1, applied: 1, pausedPending: 0, oldestPendingAge: 0 };
    expect(await beat(options)).toMatchObject(counts);
    expect(barman.switched).toEqual(['main']);
    expect(get('main')).toMatchObject({ applied: { target: 'model m', operation_id: 'op-of-main' } });
    const result = expect.objectContaining({ exit_code: 0, operation_id: 'op-of-main' });
    const facts = { ...newFacts(), recorded: true, attempts: 1 };
    expect(reconciled).toEqual([{ item, result, facts, duration: 1_500 }]);
    expect(options.facts.attempts, 'with the probe').toBe(2);
  });

  test.each([new HttpError('refused'), 'refused'])(
    'reports what fails (%s), and goes on with the next server',
    async (thrown) => {
      put('main', { desired: desired(-2 * MINUTE) });
      put('other');
      barman.onSwitch = (server) => {
        if (server === 'main') throw thrown;
      };
      expect(await beat(options)).toMatchObject({ pending: 2, applied: 1 });
      expect(results().sort()).toEqual([
        expect.stringMatching(/^main: .*Error: refused$/),
        'other: Barman server other now uses model m',
      ]);
    },
  );

  test.each<[string, Partial<Item>, () => void]>([
    ['it switches a server', {}, () => {}],
    ['another invocation switches a server', lease(-1), () => {}],
    ['pg-backup-api is unreachable', applied(), refuse],
  ])('is not quiet if %s', async (_, change, onStatus) => {
    put('main', change);
    barman.onStatus = onStatus;
    expect(await beat(options)).toMatchObject({ isQuiet: false });
  });

  test('is quiet if every server is applied, also while it reads the operations of one', async () => {
    put('main', applied());
    expect(await beat(options)).toMatchObject({ isQuiet: true });
    expect(barman.read).toEqual(['main']);
  });

  test('fails if the ledger is unavailable', async () => {
    vi.spyOn(table, 'scan').mockRejectedValue(new LedgerError('throttled'));
    await expect(beat(options)).rejects.toThrow(new LedgerError('throttled'));
  });

  test('names a server whose item cannot be read, and goes on with the others', async () => {
    table.items.set('broken', { barman_server: 'broken', desired: 'model x' } as unknown as Item);
    put('main');
    expect(await beat(options)).toMatchObject({
      ...{ pending: 1, applied: 1 },
      notReady: [{ barman_server: 'broken', message: expect.stringContaining('cannot be read: desired is') }],
    });
  });
});

describe('the servers', () => {
  test('come in the order of their failures, where what is in doubt counts as one more, then of their age', async () => {
    put('failed-twice', { attempts: 2, desired: desired(-9 * MINUTE) });
    put('failed-once', { attempts: 1, desired: desired(-6 * MINUTE) });
    put('in-doubt', { ...lease(MINUTE), desired: desired(-7 * MINUTE) });
    put('failed-in-doubt', { ...lease(MINUTE), attempts: 1, desired: desired(-10 * MINUTE) });
    put('young', { desired: desired(-4 * MINUTE) });
    put('old', { desired: desired(-5 * MINUTE) });
    const read = vi.spyOn(table, 'get');
    await beat(options);
    const order = new Set(read.mock.calls.map(([server]) => server));
    expect([...order]).toEqual([
      'old',
      'young',
      'in-doubt',
      'failed-once',
      'failed-in-doubt',
      'failed-twice',
    ]);
  });

  test('are applied four at a time, and a slow one does not keep the others waiting', async () => {
    for (let index = 0; index < 9; index += 1) put(`s${index}`, { desired: desired(index - MINUTE) });
    let [now, most] = [0, 0];
    const others = Promise.withResolvers<void>();
    barman.onSwitch = async (server) => {
      now += 1;
      most = Math.max(most, now);
      if (server === 's8') others.resolve();
      await (server === 's0' ? others.promise : Promise.resolve());
      now -= 1;
    };
    expect(await beat(options)).toMatchObject({ applied: 9 });
    expect(most).toBe(4);
  });

  test.each([
    [7_000, ['main']],
    [6_999, []],
  ])(
    'are left to the next heartbeat without time for the slowest request and 3 s (%i ms)',
    async (left, switched) => {
      put('main');
      barman.slowest = 4_000;
      const heartbeat = beat({ ...options, remaining: () => left });
      expect(await heartbeat).toMatchObject({ pending: 1, applied: switched.length });
      expect(barman.switched).toEqual(switched);
    },
  );

  test('that time ran out for come first in the next heartbeat', async () => {
    for (const index of [1, 2, 3, 4]) put(`failing${index}`, { desired: desired(-2 * MINUTE) });
    put('healthy');
    let left = 27_500;
    barman.onSwitch = (server) => {
      left = 0;
      if (server.startsWith('failing')) refuse();
    };
    await beat({ ...options, remaining: () => left });
    expect(barman.switched).not.toContain('healthy');
    barman.switched.length = 0;
    left = 27_500;
    // When the failing ones are due again, too.
    vi.setSystemTime(NOW + MINUTE);
    await beat({ ...options, remaining: () => left });
    expect(barman.switched[0]).toBe('healthy');
  });
});

describe('the operation of an expired lease', () => {
  test('that ended DONE is complete, without another one', async () => {
    put('main', { ...lease(1_000), ...running('op') });
    barman.statusOf = () => 'DONE';
    expect(await beat(options)).toMatchObject({ pending: 1, applied: 1, oldestPendingAge: 0 });
    expect([barman.polled, barman.switched]).toEqual([['main op'], []]);
    expect(results()).toEqual(['main: Barman was set to model m by operation op of an earlier invocation']);
    expect(get('main')).toEqual({
      ...{ barman_server: 'main', desired: desired() },
      applied: { ...applied().applied, applied_at: at(0) },
    });
  });

  test('that ended DONE leaves pending what an observation has recorded meanwhile, which is applied', async () => {
    const cluster = { name: 'c', scope: 'c', streaming_archiver_name: null };
    const servers = new Map([['main', new Map([['node2', 'other']])]]);
    const seen = { leader: 'node2', leader_since: at(-2 * MINUTE), differs_since: at(-2 * MINUTE) };
    const old = { desired: desired(-10 * MINUTE), ...running('op', -10 * MINUTE) };
    put('main', { ...lease(1_000), ...old, ...seen });
    barman.statusOf = () => 'DONE';
    const observed = [{ cluster: { ...cluster, servers }, at: NOW, observation: { leader: 'node2' } }];
    const heartbeat = await beat({ ...options, observe: async () => observed });
    expect(heartbeat).toMatchObject({ pending: 1, applied: 1, oldestPendingAge: 0 });
    expect(barman.switched).toEqual(['main']);
    expect(get('main').applied).toMatchObject({ target: 'model other', operation_id: 'op-of-main' });
  });

  test('that ended FAILED is a failed attempt, and is not tried again at once', async () => {
    put('main', { ...lease(1_000), ...running('op') });
    barman.statusOf = () => 'FAILED';
    expect(await beat(options)).toMatchObject({ pending: 1, applied: 0 });
    expect(results()).toEqual([
      expect.stringMatching(/^main: ConfigSwitchFailed: .* operation op ended FAILED/),
    ]);
    expect([barman.switched, get('main').attempts]).toEqual([[], 1]);
  });

  test.each(['DONE', 'FAILED'])(
    'of an older version that ended %s lets the newer one be applied',
    async (end) => {
      put('main', { ...lease(1_000), ...running('op', -2 * MINUTE) });
      barman.statusOf = () => end;
      expect(await beat(options)).toMatchObject({ pending: 1, applied: 1 });
      expect([barman.switched, results()]).toEqual([['main'], ['main: Barman server main now uses model m']]);
    },
  );

  test('is polled once, first, and keeps no other server waiting', async () => {
    put('main', { ...lease(1_000), ...running('stuck') });
    put('new', { desired: desired(-9 * MINUTE) });
    for (const index of [1, 2, 3]) put(`s${index}`, { ...lease(1_000), ...running(`op${index}`) });
    barman.statusOf = (id) => (id === 'stuck' ? 'IN_PROGRESS' : 'DONE');
    barman.onSwitch = () => expect(barman.polled).toHaveLength(4);
    expect(await beat(options)).toMatchObject({ pending: 5, applied: 4 });
    expect(barman.polled.sort()).toEqual(['main stuck', 's1 op1', 's2 op2', 's3 op3']);
    expect(barman.switched).toEqual(['new']);
    expect(results()).toContainEqual(
      expect.stringMatching(/^main: Busy: operation stuck on main has not ended/),
    );
  });

  test('that cannot be polled is an error of its server only', async () => {
    put('main', { ...lease(1_000), ...running('lost') });
    put('other', { ...lease(1_000), ...running('op') });
    barman.statusOf = (id) => (id === 'lost' ? refuse() : 'DONE');
    expect(await beat(options)).toMatchObject({ pending: 2, applied: 1, unreachable: undefined });
    expect(results()).toContain('main: HttpError: refused');
  });

  test.each([
    ['before', 10 * MINUTE, 0],
    ['while it is polled', 10 * MINUTE - 1, 1],
  ])('that ran out of time %s is taken over, and another one is created', async (_, ms, poll) => {
    put('main', { ...lease(ms), ...running('op') });
    barman.statusOf = () => {
      vi.setSystemTime(Date.now() + poll);
      return 'IN_PROGRESS';
    };
    const heartbeat = beat(options);
    await vi.advanceTimersByTimeAsync(10);
    expect(await heartbeat).toMatchObject({ pending: 1, applied: 1 });
    expect(barman.polled).toHaveLength(2);
    expect(results()).toEqual(['main: Barman server main now uses model m']);
    expect(get('main')).toHaveProperty('unsettled_since');
  });
});

describe('a server', () => {
  test.each<[string, Partial<Item>, number]>([
    ['is due at its next attempt', { next_attempt_at: at(0) }, 1],
    ['is not due before that', { next_attempt_at: at(1) }, 0],
    ['is due at once if no attempt has failed', { desired: desired(0) }, 1],
    ['is due after an expired lease', lease(0), 1],
    ['is not due after one before its next attempt', { ...lease(0), next_attempt_at: at(1) }, 0],
    ['is due however long it has been pending', { desired: desired(-40 * DAY), attempts: 900 }, 1],
    ['is due when it is to be applied again', { ...applied(), apply_again_at: at(0) }, 1],
  ])('%s', async (_, change, count) => {
    put('main', change);
    expect(await beat(options)).toMatchObject({ pending: 1, applied: count });
  });

  test('is left alone during a lease', async () => {
    put('main', lease(-1));
    expect(await beat(options)).toMatchObject({ pending: 1, applied: 0 });
    expect(reconciled).toEqual([]);
  });

  test('is not pending before it is to be applied again', async () => {
    put('main', { ...applied(), unsettled_since: at(-9), apply_again_at: at(1) });
    expect(await beat(options)).toMatchObject({ pending: 0, applied: 0 });
  });

  test.each<[string, Partial<Item>, number]>([
    ['since its desired state was recorded', { desired: desired(-3_000) }, 3],
    ['also for days, while it fails', { desired: desired(-2 * DAY) }, (2 * DAY) / 1_000],
    ['for no time, if it was recorded in the future', { desired: desired(9_000) }, 0],
    ['since its pause ended by itself', { paused: true, paused_until: at(-2_000) }, 2],
    ['since it was recorded, after a pause', { desired: desired(-3_000), paused_until: at(-9_000) }, 3],
    ['since it was to be applied again, if in sync', { ...applied(), apply_again_at: at(-5_000) }, 5],
    [
      'since it was recorded, if it is not in sync either',
      { ...applied(-2 * MINUTE), apply_again_at: at(-5_000) },
      60,
    ],
  ])('is pending %s', async (_, change, seconds) => {
    put('main', change);
    barman.onSwitch = refuse;
    expect(await beat(options)).toMatchObject({ pending: 1, applied: 0, oldestPendingAge: seconds });
  });

  test('is not applied while all servers are paused, and counts separately', async () => {
    put('main');
    table.items.set('@stage', { barman_server: '@stage', paused: { at: at(-90_000) } } as never);
    expect(await beat(options)).toMatchObject({
      pending: 0,
      applied: 0,
      pausedPending: 1,
      pausedPendingAge: 90,
    });
    expect(get('main').applied).toBeUndefined();
  });

  test('has no age that raises an alarm while a pause of all servers ends by itself', async () => {
    put('main');
    const paused = { at: at(-DAY), until: at(DAY) };
    table.items.set('@stage', { barman_server: '@stage', paused } as never);
    expect(await beat(options)).toMatchObject({ pausedPending: 1, pausedPendingAge: 0 });
  });

  test('is pending since the pause of all servers has ended', async () => {
    put('main', { desired: desired(-2 * DAY) });
    const paused = { at: at(-DAY), until: at(-7_000) };
    table.items.set('@stage', { barman_server: '@stage', paused } as never);
    barman.onSwitch = refuse;
    const ages = { oldestPendingAge: 7, pausedPendingAge: 0 };
    expect(await beat(options)).toMatchObject({ pending: 1, ...ages, entered: { pending: [] } });
  });

  test('that is paused is not applied, and counts separately', async () => {
    put('main', { paused: true, paused_at: at(-90_000), desired: desired(-2 * DAY) });
    put('young', { paused: true, paused_at: at(-30_000) });
    put('unknown', { paused: true });
    put('ends', { paused: true, paused_at: at(-DAY), paused_until: at(DAY) });
    put('in-sync', { paused: true, paused_at: at(-DAY), ...applied() });
    const ages = { pausedPendingAge: 90, oldestPendingAge: 0 };
    expect(await beat(options)).toMatchObject({ pending: 0, applied: 0, pausedPending: 4, ...ages });
    expect(barman.switched).toEqual([]);
  });
});

describe('pg-backup-api', () => {
  test.each([
    [new Unreachable('ECONNREFUSED'), 'ECONNREFUSED'],
    // Whatever answers, it is not pg-backup-api.
    [new HttpError('404'), '404'],
    ['no error', 'no error'],
  ])('that is unreachable (%s) is asked for nothing more', async (thrown, unreachable) => {
    put('main');
    barman.onStatus = () => {
      throw thrown;
    };
    const heartbeat = await beat(options);
    expect(heartbeat).toMatchObject({ pending: 1, applied: 0, unreachable });
    // It would say the same again.
    expect(heartbeat).not.toHaveProperty('oldestPendingAge');
    expect([barman.switched, barman.read]).toEqual([[], []]);
  });

  test('is not probed while what is in doubt is asked for anyway', async () => {
    put('main', { ...lease(1_000), ...running('op') });
    put('other', lease(1_000));
    expect(await beat(options)).toMatchObject({ unreachable: undefined });
    expect([barman.probes, barman.polled, barman.switched]).toEqual([0, ['main op'], ['other']]);
  });

  test.each<[string, Partial<Item>]>([
    ['an operation is polled whose server is not due', { ...running('op'), next_attempt_at: at(1) }],
    ['a server is due whose operation is unknown', {}],
  ])('is not probed either if only %s', async (_, change) => {
    put('main', { ...lease(1_000), ...change });
    await beat(options);
    expect(barman.probes).toBe(0);
  });

  test('is probed first if nothing in doubt is asked for', async () => {
    put('main', { ...lease(1_000), next_attempt_at: at(1) });
    put('other');
    barman.onStatus = refuse;
    expect(await beat(options)).toMatchObject({ unreachable: 'refused' });
    expect([barman.probes, barman.switched]).toEqual([1, []]);
  });

  test('is probed at the end if nothing was asked for after all', async () => {
    put('main', { ...lease(1_000), paused: true });
    await beat(options);
    expect(barman.probes).toBe(1);
  });

  test('that answers no poll is unreachable, and is asked for nothing more', async () => {
    put('main', { ...lease(1_000), ...running('op') });
    put('other');
    barman.statusOf = barman.onStatus = () => {
      throw new Unreachable('ECONNRESET');
    };
    expect(await beat(options)).toMatchObject({ applied: 0, unreachable: 'ECONNRESET', notReady: [] });
    expect([barman.probes, barman.switched]).toEqual([1, []]);
  });

  test('that answers a probe, but not the poll of one server, is reachable, and the others are applied', async () => {
    put('main', { ...lease(1_000), ...running('op') });
    put('other');
    barman.statusOf = () => {
      throw new Unreachable('no response within 12 s');
    };
    expect(await beat(options)).toMatchObject({ applied: 1, unreachable: undefined });
    expect([barman.probes, barman.switched]).toEqual([1, ['other']]);
  });

  test('that does not know a server names that server, and applies the others', async () => {
    put('misspelt');
    put('main');
    barman.onSwitch = (server) => {
      if (server === 'misspelt')
        throw new HttpError('unknown server', { cause: refusalOf(404, 'unknown server') });
    };
    const notReady = [{ barman_server: 'misspelt', message: 'unknown server' }];
    expect(await beat(options)).toMatchObject({ applied: 1, unreachable: undefined, notReady });
  });

  test('that could not switch a server does not name it any more once it could', async () => {
    put('main');
    barman.onSwitch = () => {
      throw new HttpError('unknown server', { cause: refusalOf(404, 'unknown server') });
    };
    expect(await beat(options)).toMatchObject({ notReady: [{ barman_server: 'main' }] });
    barman.onSwitch = () => {};
    vi.advanceTimersByTime(MINUTE);
    expect(await beat(options)).toMatchObject({ applied: 1, notReady: [] });
  });

  test.each([
    ['a proxy has answered', new HttpError('502', { cause: refusalOf(502, 'Bad Gateway') })],
    ['the operation has not ended', new Busy('op has not ended')],
    ['the operation has failed', new ConfigSwitchFailed('op ended FAILED')],
    ['there was no response', new Unreachable('ECONNRESET')],
  ])('does not say that a server is not ready if %s', async (_, error) => {
    put('main');
    barman.onSwitch = () => {
      throw error;
    };
    expect(await beat(options)).toMatchObject({ applied: 0, notReady: [] });
  });

  test('that answers only for some servers is reachable', async () => {
    for (const server of ['main', 'other']) put(server, { ...lease(1_000), ...running(server) });
    barman.statusOf = (id) => {
      if (id === 'main') throw new Unreachable('502');
      return 'DONE';
    };
    expect(await beat(options)).toMatchObject({ applied: 1, unreachable: undefined, oldestPendingAge: 60 });
  });

  test('has all its requests counted, and the polls among them', async () => {
    for (const server of ['a', 'b']) put(server, { ...lease(1_000), ...running(server) });
    put('other');
    barman.statusOf = () => 'DONE';
    expect(await beat(options)).toMatchObject({ applied: 3 });
    expect(options.facts).toMatchObject({ attempts: 3, polls: 2 });
  });

  describe('that does not answer during a diagnosis', () => {
    const refuseUntil = (ms: number) => {
      barman.onStatus = refuse;
      const stage = { ...table.items.get('@stage'), barman_server: '@stage' };
      table.items.set('@stage', { ...stage, diagnose_until: at(ms) } as never);
    };

    test.each([
      ['nothing is known of', async () => {}],
      ['was reachable', () => beat(options)],
    ])('and %s before is not called unreachable, but is asked for nothing more', async (_, before) => {
      await before();
      put('main');
      refuseUntil(1);
      expect(await beat(options)).toMatchObject({ applied: 0, unreachable: undefined });
      expect(barman.switched).toEqual([]);
    });

    test('and was unreachable before still is', async () => {
      barman.onStatus = refuse;
      await beat(options);
      refuseUntil(1);
      expect(await beat(options)).toMatchObject({ unreachable: 'refused' });
    });

    test('is unreachable once the time of the diagnosis has passed', async () => {
      refuseUntil(0);
      expect(await beat(options)).toMatchObject({ unreachable: 'refused' });
    });
  });

  test('is asked for the operations of another server each minute', async () => {
    for (const server of ['c', 'b', 'a']) put(server, applied());
    for (let minute = 0; minute < 4; minute += 1) {
      expect(await beat(options)).toMatchObject({ notReady: [] });
      vi.advanceTimersByTime(MINUTE);
    }
    const { read } = barman;
    expect(read[3]).toBe(read[0]);
    const first = read.indexOf('a');
    expect([0, 1, 2].map((index) => read[(first + index) % 3])).toEqual(['a', 'b', 'c']);
  });

  test('that cannot read the operations of a server is not unreachable: that server is named', async () => {
    put('main', applied());
    const message = 'its operations in Barman cannot be read: refused';
    for (const thrown of [new HttpError('refused'), new Unreachable('refused'), 'refused']) {
      barman.onRead = () => {
        throw thrown;
      };
      const notReady = [{ barman_server: 'main', message }];
      expect(await beat(options)).toMatchObject({ unreachable: undefined, notReady });
    }
  });

  test('that cannot read one of several servers names it until it can, in every heartbeat', async () => {
    for (const server of ['a', 'b', 'c']) put(server, applied());
    let isBroken = true;
    barman.onRead = () => {
      if (isBroken && barman.read.at(-1) === 'b') refuse();
    };
    const found = [];
    for (let minute = 0; minute < 12; minute += 1) {
      const { notReady } = await beat(options);
      found.push(notReady.map(({ barman_server }) => barman_server).join());
      if (minute === 5) isBroken = false;
      vi.advanceTimersByTime(MINUTE);
    }
    const first = found.indexOf('b');
    const last = found.lastIndexOf('b');
    expect(first).toBeLessThan(3);
    expect(found.slice(first, last + 1)).toEqual(Array(last + 1 - first).fill('b'));
    expect([last, found.at(-1)]).toEqual([expect.closeTo(7, -1), '']);
    expect(last).toBeGreaterThanOrEqual(5);
  });

  test('is not blamed for a server that the deadline kept from being read', async () => {
    put('main', applied());
    const aborted = new AbortController();
    barman.onRead = () => {
      aborted.abort();
      throw new Unreachable('aborted');
    };
    expect(await beat({ ...options, signal: aborted.signal })).toMatchObject({ notReady: [] });
  });

  test('that is unreachable is not asked for the operations of a server', async () => {
    put('main', applied());
    barman.onStatus = refuse;
    expect(await beat(options)).toMatchObject({ unreachable: 'refused', notReady: [] });
    expect(barman.read).toEqual([]);
  });

  test('is asked for that while a server that fails waits for its next attempt', async () => {
    put('main', { attempts: 9, next_attempt_at: at(9 * MINUTE) });
    await beat(options);
    expect(barman.read).toEqual(['main']);
  });

  test.each<[string, Partial<Item>]>([
    ['is switched', {}],
    ['is being switched', lease(-1)],
    ['is in doubt', { ...applied(), ...lease(0) }],
  ])('is not asked for that while a server %s', async (_, change) => {
    put('main', change);
    await beat(options);
    expect(barman.read).toEqual([]);
  });
});

describe('what lasts', () => {
  /** Heartbeats, a minute apart. */
  const beats = async (count: number, observation?: Observed['observation']) => {
    const entered = [];
    for (let minute = 0; minute < count; minute += 1) {
      const members = new Map([['node1', 'm']]);
      const cluster = {
        name: 'c',
        scope: 's',
        servers: new Map([['main', members]]),
        streaming_archiver_name: 'barman_receive_wal',
      };
      const observed = observation ? [{ cluster, at: Date.now(), observation }] : [];
      const heartbeat = await beat({ ...options, observe: async () => observed });
      for (const [state, names] of Object.entries(heartbeat.entered)) {
        for (const name of names) entered.push([state, name, minute]);
      }
      vi.advanceTimersByTime(MINUTE);
    }
    return entered;
  };

  test('is a desired state that cannot be applied for five minutes', async () => {
    put('main', { desired: desired(0) });
    put('paused', { desired: desired(0), paused: true, paused_at: at(0) });
    barman.onSwitch = refuse;
    expect(await beats(9)).toEqual([['pending', 'main', 5]]);
  });

  test('is not what is pending while pg-backup-api is unreachable, but what still is afterwards', async () => {
    put('main', { desired: desired(0) });
    let unreachable = true;
    barman.onStatus = () => (unreachable ? refuse() : undefined);
    barman.onSwitch = refuse;
    expect(await beats(9)).toEqual([]);
    unreachable = false;
    expect(await beats(2)).toEqual([['pending', 'main', 0]]);
  });

  test('is Barman that does not stream, at the fifth heartbeat', async () => {
    put('main', { ...applied(-9 * MINUTE), desired: desired(-9 * MINUTE) });
    expect(await beats(9, { leader: 'node1', streaming: false })).toEqual([['not_streaming', 'main', 4]]);
  });

  test('is not Barman that does not stream while pg-backup-api is unreachable', async () => {
    put('main', { ...applied(-9 * MINUTE), desired: desired(-9 * MINUTE) });
    barman.onStatus = refuse;
    expect(await beats(9, { leader: 'node1', streaming: false })).toEqual([]);
  });

  test('is a leader that is unknown, at the tenth heartbeat', async () => {
    expect(await beats(19, { unknown: 'no leader' })).toEqual([['leader_unknown', 'c', 9]]);
  });

  test('is a leader that cannot write, at the fifth heartbeat', async () => {
    const observation = { unknown: 'its role is replica', cannotWrite: true };
    expect(await beats(19, observation)).toEqual([['leader_cannot_write', 'c', 4]]);
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
    barman.onStatus = refuse;
    const certificate = { parameter: 'a', daysLeft: 20 };
    expect(await beatWith({ a: 20.5 })).toMatchObject({ unreachable: 'refused', certificate });
  });

  test('is unknown while the parameters are unavailable', async () => {
    const expiries = () => Promise.reject(new HttpError('throttled'));
    const { certificate, unreachable } = await beat({ ...options, expiries });
    expect([certificate, unreachable]).toEqual([undefined, undefined]);
  });
});

describe('the leaders that Patroni names', () => {
  const IN_SYNC = { ...applied(-10 * MINUTE), desired: desired(-10 * MINUTE) };
  const members = new Map([
    ['node1', 'm'],
    ['node2', 'm2'],
  ]);
  /** A heartbeat that observes a leader of the cluster of `main`. */
  const beatWith = (observation: Observed['observation'], interval = MINUTE) => {
    const cluster = {
      name: 'c',
      scope: 's',
      servers: new Map([['main', members]]),
      streaming_archiver_name: 'barman_receive_wal',
    };
    return beat({ ...options, interval, observe: async () => [{ cluster, at: NOW, observation }] });
  };

  test('are applied at once where they become desired', async () => {
    put('main', { ...IN_SYNC, leader: 'node2', differs_since: at(-MINUTE) });
    const observed = { reconciled: [{ barman_server: 'main' }] };
    expect(await beatWith({ leader: 'node2' })).toMatchObject({ pending: 1, applied: 1, observed });
    expect(get('main')).toMatchObject({ applied: { target: 'model m2' } });
  });

  test('have their model applied again at once if Barman does not stream', async () => {
    put('main', { ...IN_SYNC, leader: 'node1', streaming: false, streaming_since: at(-2 * MINUTE) });
    const observed = { notStreaming: [{ barman_server: 'main' }] };
    const heartbeat = await beatWith({ leader: 'node1', streaming: false });
    expect(heartbeat).toMatchObject({ pending: 1, applied: 1, observed });
    expect(barman.switched).toEqual(['main']);
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

describe('the report of a heartbeat', () => {
  const report = () => (table.items.get('@stage') as { heartbeat?: unknown } | undefined)?.heartbeat;
  const cluster = (name: string, servers: Cluster['servers']): Cluster => ({
    ...{ name, scope: name, servers, secrets: [], patroni: [], streaming_archiver_name: null },
  });
  const east = cluster('east', new Map([['main', new Map([['node1', 'm']])]]));
  const unseen = cluster('unseen', new Map([['other', new Map()]]));
  const observe = (observation: Observed['observation'], ms = 0) => {
    options = {
      ...options,
      clusters: async () => ({ clusters: [east, unseen], tls: {} }),
      observe: async () => [{ cluster: east, at: NOW + ms, observation }],
    };
  };

  test('has the version, each cluster with its servers, and when its leader was last known', async () => {
    observe({ leader: 'node1', streaming: true });
    await beat(options);
    const known = {
      at: at(0),
      interval: MINUTE,
      version: '1.2.3',
      not_ready: [],
      lasting: expect.anything(),
    };
    const seen = { name: 'east', servers: [{ name: 'main', observed: true }], observed_at: at(0) };
    const other = { name: 'unseen', servers: [{ name: 'other', observed: false }] };
    expect(report()).toEqual({ ...known, clusters: [seen, other] });
    observe({ unknown: 'no node answered' }, MINUTE);
    await beat(options);
    expect(report()).toEqual({ ...known, clusters: [{ ...seen, unknown: 'no node answered' }, other] });
  });

  test('is missing in the ledger if that is unavailable, and says so', async () => {
    const { update } = table;
    table.update = async (server, ...rest) => {
      if (server === '@stage') throw new LedgerError('the ledger is unavailable');
      return update.call(table, server, ...rest);
    };
    expect(await beat(options)).toMatchObject({ unreported: 'the ledger is unavailable' });
    table.update = update;
    expect(await beat(options)).not.toHaveProperty('unreported');
  });

  test('has at most 500 characters of each reason', async () => {
    observe({ unknown: 'x'.repeat(900) });
    barman.onStatus = () => {
      throw new HttpError('y'.repeat(900));
    };
    await beat(options);
    expect(report()).toMatchObject({
      unreachable: 'y'.repeat(500),
      clusters: [{ unknown: 'x'.repeat(500) }, {}],
    });
  });

  test('says since when pg-backup-api is unreachable, until it is reachable again', async () => {
    barman.onStatus = refuse;
    await beat(options);
    vi.setSystemTime(NOW + MINUTE);
    await beat(options);
    expect(report()).toMatchObject({
      ...{ at: at(MINUTE), unreachable: 'refused', unreachable_since: at(0) },
    });
    barman.onStatus = () => {};
    await beat(options);
    expect(report()).not.toHaveProperty('unreachable');
    expect(report()).not.toHaveProperty('unreachable_since');
  });

  test('has why its parameters are unavailable, and the clusters of the last one', async () => {
    observe({ leader: 'node1', streaming: true });
    await beat(options);
    vi.advanceTimersByTime(MINUTE);
    const clusters = () => Promise.reject(new HttpError('SSM: throttled'));
    await beat({ ...options, clusters });
    expect(report()).toMatchObject({
      at: at(MINUTE),
      clusters: [
        {
          name: 'east',
          servers: [{ name: 'main', observed: true }],
          observed_at: at(0),
          unknown: 'SSM: throttled',
        },
        { name: 'unseen', unknown: 'SSM: throttled' },
      ],
    });
  });

  test('does not say of a cluster that is not asked any more when its leader was known', async () => {
    observe({ leader: 'node1' });
    await beat(options);
    await beat({ ...options, observe: async () => [] });
    expect(report()).toMatchObject({ clusters: [{ name: 'east', servers: [{ observed: false }] }, {}] });
    expect(report()).not.toMatchObject({ clusters: [{ observed_at: expect.anything() }, {}] });
  });

  test('has why one server of a cluster is unknown, and the others are known', async () => {
    const cluster = { ...east, servers: new Map([...east.servers, ['crm', new Map([['node9', 'm']])]]) };
    const seen = { cluster, at: NOW, observation: { leader: 'node1' } };
    const clusters = async () => ({ clusters: [cluster], tls: {} });
    await beat({ ...options, clusters, observe: async () => [seen] });
    const reason = 'its leader node1 has no model for Barman server crm; add it to clusters/east';
    expect(report()).toMatchObject({
      clusters: [
        {
          servers: [
            { name: 'main', observed: true },
            { name: 'crm', observed: true, unknown: reason },
          ],
          observed_at: at(0),
        },
      ],
    });
    expect(report()).not.toMatchObject({ clusters: [{ unknown: expect.anything() }] });
  });
});
