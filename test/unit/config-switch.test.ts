import type { Context } from 'aws-lambda';
import * as v from 'valibot';
import { describe, expect, test, vi } from 'vitest';
import { DiagnoseOutput, readDiagnosis } from '../../functions/config-switch/barman/diagnosis.ts';
import { refusalOf, timedOut } from '../../functions/config-switch/barman/failures.ts';
import { runBarmanConfigSwitch, shouldSkipSwitch } from '../../functions/config-switch/config-switch.ts';
import { DeadlineExceeded, HttpError, LedgerError } from '../../functions/config-switch/errors.ts';
import { heardNode } from '../../functions/config-switch/event/event.ts';
import { parseRoleChange } from '../../functions/config-switch/event/payload.ts';
import { receive } from '../../functions/config-switch/event/receive.ts';
import { authenticate, authorise } from '../../functions/config-switch/event/sender.ts';
import { newFacts } from '../../functions/config-switch/invocation.ts';
import { Ledger } from '../../functions/config-switch/ledger/ledger.ts';
import { Operator } from '../../functions/config-switch/ledger/operator.ts';
import { type Cluster, withoutValue } from '../../functions/config-switch/patroni/cluster.ts';
import type { ConfigTarget } from '../../functions/config-switch/target.ts';
import { versionOf } from '../../functions/config-switch/version.ts';
import { MemoryEvents } from '../stand-ins/memory-events.ts';
import { MemoryTable } from '../stand-ins/memory-table.ts';

describe('shouldSkipSwitch', () => {
  test.each([
    ['promoted', ['primary', 'promoted', 'master']],
    ['demoted', ['replica', 'demoted']],
    ['leader', ['primary', 'promoted', 'master', 'standby_leader']],
    ['always', ['primary', 'promoted', 'master', 'standby_leader', 'replica', 'demoted']],
  ] as const)('switches with switch_when %s for the roles %s', (switch_when, accepted) => {
    const roles = ['primary', 'promoted', 'master', 'standby_leader', 'replica', 'demoted'] as const;
    expect(roles.filter((role) => !shouldSkipSwitch({ role, switch_when }))).toEqual(accepted);
  });
});

describe('runBarmanConfigSwitch', () => {
  /** A Barman with a server, and without models. */
  const noModels = async () =>
    readDiagnosis(v.parse(DiagnoseOutput, { servers: { main: { config: {} } }, models: {} }));
  /** A Barman without servers. */
  const noServers: typeof noModels = async () => ({
    version: undefined,
    servers: new Map(),
    models: new Map(),
    showsModels: true,
  });

  /** A cluster that lists servers, each with a member, or with none. */
  const clusterOf = (servers: Record<string, object>, change: Partial<Cluster> = {}): Cluster => ({
    ...withoutValue('c', ''),
    malformed: undefined,
    patroni: [new URL('https://node1.example:8008')],
    servers: new Map(
      Object.entries(servers).map(([name, models]) => [name, new Map(Object.entries(models))]),
    ),
    ...change,
  });
  const MAIN = clusterOf({ main: { node1: 'pg:node1' } });

  /** Runs a role change of a direct invocation, which may switch every server. */
  async function run(
    change: object,
    {
      table = new MemoryTable(),
      diagnose = noServers,
      item = {} as object,
      clusters = async () => [MAIN],
      reread = async () => true,
      leaderOf = async (_: object) => ({ leader: 'node2', target: { model: 'pg:node2' } }),
    } = {},
  ) {
    const payload = {
      action: 'on_role_change',
      role: 'primary',
      cluster: 'c',
      barman_server: 'main',
      ...change,
    };
    const event = receive(payload, { getRemainingTimeInMillis: () => 0 } as Context);
    const source = { secrets: async () => [], rereadSecrets: async () => undefined };
    const sender = await authenticate(event, source);
    const roleChange = parseRoleChange(sender.payload());
    const args = await authorise(sender, roleChange, source, event.signal);

    if (Object.keys(item).length > 0) table.item = { barman_server: 'main', ...item };
    const targets: ConfigTarget[] = [];
    const api = {
      diagnose: vi.fn(diagnose),
      createConfigSwitchOperation: async (_: string, target: ConfigTarget) => {
        targets.push(target);
        return 'id';
      },
      waitForOperation: async () => ({ status: 'DONE', operation_ms: 0 }) as const,
      findRunning: async () => undefined,
      endOf: async () => 'DONE' as const,
    };
    const options = {
      api,
      ledger: new Ledger(table),
      events: new MemoryEvents(),
      leaderOf,
      source: { clusters: async () => ({ clusters: await clusters(), tls: {} }), reread },
      signal: new AbortController().signal,
      remaining: () => 28_500,
      operationTimeout: 60_000,
      facts: newFacts(),
      heard: heardNode({ ...event, facts: { ...newFacts(), roleChange } }),
    };
    const result = await runBarmanConfigSwitch(options, args, { event_id: 'event', time: 60_000 });
    const { unheard } = options.facts;
    const diagnosed = api.diagnose.mock.calls.length;
    return { result, targets, item: table.item, diagnosed, ...(unheard !== undefined && { unheard }) };
  }

  test('checks the role before model and reset', async () => {
    const message = 'skipped: role "replica" does not match switch_when "promoted"';
    expect(await run({ role: 'replica' })).toEqual({
      result: { exit_code: 1, message },
      targets: [],
      item: undefined,
      diagnosed: 0,
    });
  });

  test.each([
    [{ barman_model: 'm' }, { model: 'm' }, 'model m', versionOf(60_000, 'event')],
    [{ reset: true }, { reset: true }, 'reset', versionOf(60_000, 'event')],
    // Half a minute earlier: what Patroni says may be that old.
    [{ follow_leader: true }, { model: 'pg:node2' }, 'model pg:node2', versionOf(30_000, 'event')],
  ])('records and applies the desired state (%j)', async (change, target, applied, version) => {
    const message = expect.stringContaining('Barman server main now uses ');
    expect(await run(change)).toMatchObject({
      result: { exit_code: 0, message, operation_id: 'id' },
      targets: [target],
      item: { desired: { cluster: 'c', version }, applied: { target: applied } },
      diagnosed: 0,
    });
  });

  test.each(['on_reload', 'on_start', 'on_restart'])('skips %s, whatever the role', async (action) => {
    const message = `skipped: "${action}" changes no role; the callback of db1 has been heard`;
    expect(await run({ action, switch_when: 'always', node: 'db1' })).toEqual({
      result: { exit_code: 1, message },
      targets: [],
      item: undefined,
      diagnosed: 0,
    });
  });

  test.each([
    ['a role change', { reset: true }, 0],
    ['a dry run', { reset: true, dry_run: true }, 1],
  ])('records who was heard during %s', async (_, change, exit_code) => {
    const table = new MemoryTable();
    expect((await run({ ...change, node: 'db1' }, { table })).result.exit_code).toBe(exit_code);
    expect((await new Ledger(table).all(AbortSignal.timeout(1_000))).heard.get('main')).toEqual([
      { node: 'db1', cluster: 'c', at: expect.any(String) },
    ]);
  });

  test.each([{ role: 'replica', barman_model: 'm' }, { role: 'replica', reset: true, dry_run: true }, {}])(
    'neither reads nor writes the ledger for a skip, or without a target (%j)',
    async (change) => {
      const table = new MemoryTable();
      await run({ ...change, node: 'db1' }, { table }).catch((error) => error);
      expect(table.reads + table.writes).toBe(0);
    },
  );

  /** A table in which the item of inspections does not respond. */
  class WithoutInspections extends MemoryTable {
    readonly #fails: boolean;
    hears = 0;
    constructor(fails: boolean) {
      super();
      this.#fails = fails;
    }
    override async get(server: string, signal?: AbortSignal) {
      if (server !== 'inspection#main') return super.get(server);
      this.hears += 1;
      if (this.#fails) throw new LedgerError('it is full');
      const never = Promise.withResolvers<undefined>();
      signal?.addEventListener('abort', () => {
        this.hears -= 1;
        never.reject(signal.reason);
      });
      return never.promise;
    }
  }

  test('has the result of a role change if the ledger cannot write who was heard', async () => {
    expect(await run({ reset: true, node: 'db1' }, { table: new WithoutInspections(true) })).toMatchObject({
      ...{ result: { exit_code: 0 }, unheard: 'it is full' },
    });
  });

  test('does not wait for that write, and ends it', async () => {
    const table = new WithoutInspections(false);
    const start = performance.now();
    expect(await run({ reset: true, node: 'db1' }, { table })).toMatchObject({
      ...{ result: { exit_code: 0 }, unheard: 'the ledger did not respond in time' },
    });
    expect(performance.now() - start).toBeLessThan(1_000);
    expect(table.hears).toBe(0);
  });

  test.each(['on_reload', 'on_start', 'on_restart'])(
    'fails for %s if the ledger is unavailable, so that it is sent again',
    async (action) => {
      const sent = run({ action, node: 'db1' }, { table: new WithoutInspections(true) });
      await expect(sent).rejects.toThrow(LedgerError);
    },
  );

  describe('says of a callback that was heard', () => {
    const HEARD = 'skipped: "on_reload" changes no role; the callback of db1 has been heard';
    const UNKNOWN =
      '; no role change has been recorded for Barman server main, and no parameter clusters/NAME lists it: check --barman-server';
    const LEADERLESS =
      '; a role change would end as INVALID_ARGS: follow_leader needs a parameter clusters/NAME that lists Barman server main with its members, and has the key "patroni"';
    const follow_leader = true;
    const failing = async (): Promise<Cluster[]> => {
      throw new HttpError('SSM is unavailable');
    };

    test.each<[string, readonly Cluster[], object, object, string]>([
      ['nothing else if a cluster lists the server', [clusterOf({ main: {} })], {}, {}, ''],
      ['nothing else if the ledger has the server', [], { leader: 'node1' }, {}, ''],
      ['that neither has the server', [clusterOf({ other: {} })], {}, {}, UNKNOWN],
      ['nothing else of a leader that can be asked', [MAIN], {}, { follow_leader }, ''],
      ['that no members are listed', [clusterOf({ main: {} })], {}, { follow_leader }, LEADERLESS],
      ['that there are no URLs', [{ ...MAIN, patroni: [] }], {}, { follow_leader }, LEADERLESS],
      [
        'that no one cluster has both',
        [{ ...MAIN, patroni: [] }, clusterOf({ main: {} })],
        ...([{}, { follow_leader }, LEADERLESS] as const),
      ],
      ['both', [], {}, { follow_leader }, UNKNOWN + LEADERLESS],
      ['nothing else while a cluster is malformed', [withoutValue('c', 'm')], {}, { follow_leader }, ''],
    ])('%s', async (_, clusters, item, change, doubts) => {
      const table = new MemoryTable();
      const payload = { action: 'on_reload', node: 'db1', ...change };
      const { result } = await run(payload, { table, item, clusters: async () => [...clusters] });
      expect(result).toEqual({ exit_code: 1, message: HEARD + doubts });
      expect(table.items.has('inspection#main')).toBe(true);
    });

    test('nothing else that is only so by old parameters', async () => {
      const payload = { action: 'on_reload', node: 'db1', follow_leader };
      const tooSoon = { clusters: async () => [], reread: async () => false };
      expect((await run(payload, tooSoon)).result.message).toBe(HEARD);
      let now: Cluster[] = [];
      const added = {
        clusters: async () => now,
        reread: async () => {
          now = [MAIN];
          return true;
        },
      };
      expect((await run(payload, added)).result.message).toBe(HEARD);
    });

    test('nothing else if the parameters are unavailable', async () => {
      const payload = { action: 'on_reload', node: 'db1', follow_leader };
      const { result } = await run(payload, { clusters: failing });
      expect(result).toEqual({ exit_code: 1, message: HEARD });
    });
  });

  test('says that the node is missing, without which no callback can be heard', async () => {
    const table = new MemoryTable();
    const { result } = await run({ action: 'on_reload' }, { table });
    expect(result.message).toBe(
      'skipped: "on_reload" changes no role; node is missing, so it is unknown whose callback has been heard: send the host name as node',
    );
    expect(table.reads + table.writes).toBe(0);
  });

  test.each<[string, object, string | undefined]>([
    ['for which an event names its target', { role: 'promoted', barman_model: 'm' }, 'promoted'],
    ['of a demotion', { role: 'replica', switch_when: 'demoted', reset: true }, 'replica'],
    ['not of one that always switches, as by hand', { switch_when: 'always', reset: true }, undefined],
  ])('records the role, %s', async (_, change, role) => {
    expect((await run(change)).item?.desired?.role).toBe(role);
  });

  test('asks in a dry run who the leader is, if that is followed, with what is known of the server', async () => {
    const known: object[] = [];
    const leaderOf = async (item: object) => {
      known.push(item);
      return { leader: 'node3', target: { model: 'pg:node3' } };
    };
    const change = { follow_leader: true, dry_run: true };
    const { result } = await run(change, { leaderOf, diagnose: noModels });
    expect(result.message).toMatch(/^dry run: .*pg:node3/);
    await run(change, { leaderOf, item: { site: 'dc1' } });
    expect(known).toEqual([{ barman_server: 'main' }, { barman_server: 'main', site: 'dc1' }]);
    await run({ reset: true, dry_run: true }, { leaderOf });
    expect(known).toHaveLength(2);
  });

  test('says in a dry run that all servers are paused', async () => {
    const table = new MemoryTable();
    await new Operator(new Ledger(table), table).pauseAll({}, new AbortController().signal);
    const { result } = await run({ reset: true, dry_run: true }, { table });
    expect(result.message).toMatch(
      /^dry run: all servers are paused: a role change would only be recorded; without that pause, Barman has no server main, /,
    );
  });

  test('says in a dry run what would happen, and records nothing', async () => {
    const message = expect.stringMatching(/^dry run: Barman has no server main, /);
    expect(await run({ reset: true, dry_run: true })).toEqual({
      result: { exit_code: 1, message },
      targets: [],
      item: undefined,
      diagnosed: 1,
    });
  });

  const dryRun = { reset: true, dry_run: true };

  test('asks Barman for one dry run at a time', async () => {
    const table = new MemoryTable();
    const asked = Promise.withResolvers<void>();
    const answer = Promise.withResolvers<Awaited<ReturnType<typeof noServers>>>();
    const first = run(dryRun, {
      table,
      diagnose: () => {
        asked.resolve();
        return answer.promise;
      },
    });
    await asked.promise;
    const busy =
      'another dry run or inspection is under way, or one that failed may be; try again in a minute';
    await expect(run(dryRun, { table })).rejects.toThrow(busy);
    answer.resolve({ version: undefined, servers: new Map(), models: new Map(), showsModels: true });
    await first;
    expect((await run(dryRun, { table })).diagnosed).toBe(1);
  });

  test('asks again at once after a dry run that was answered, or could not connect', async () => {
    const table = new MemoryTable();
    for (const cause of [refusalOf(500, 'Internal Server Error'), timedOut(1_000, false), undefined]) {
      const diagnose = async () => {
        throw new HttpError('it failed', { cause });
      };
      await expect(run(dryRun, { table, diagnose })).rejects.toThrow('it failed');
    }
    expect((await run(dryRun, { table })).diagnosed).toBe(1);
  });

  test.each([
    ['Barman did not answer', new HttpError('time ran out', { cause: timedOut(1_000, true) })],
    ['the deadline passed', new DeadlineExceeded('time ran out')],
  ])('asks nothing for a minute after a dry run in which %s: Barman may go on with it', async (_, error) => {
    const table = new MemoryTable();
    const diagnose = async () => {
      throw error;
    };
    await expect(run(dryRun, { table, diagnose })).rejects.toThrow('time ran out');
    await expect(run(dryRun, { table })).rejects.toThrow('another dry run or inspection is under way');
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + 60_001 });
    try {
      expect((await run(dryRun, { table })).diagnosed).toBe(1);
    } finally {
      vi.useRealTimers();
    }
  });

  const TIME = '2099-01-01T00:00:00.000Z';
  const desired = { target: 'model m', version: versionOf(0, 'e'), cluster: 'c', recorded_at: TIME };
  const applied = { target: 'model m', version: versionOf(0, 'e'), operation_id: 'o', applied_at: TIME };
  const NONE = 'Barman has no server main, .* shows their names';
  test.each<[string, object, string]>([
    ['that it is in sync', { desired, applied }, `dry run: ${NONE}`],
    [
      'that it is paused',
      { paused: true, paused_at: TIME },
      `dry run: main is paused until it is resumed: a role change would only be recorded; without the pause, ${NONE}`,
    ],
    [
      'until when it is paused',
      { desired, applied, paused: true, paused_at: TIME, paused_until: TIME },
      `dry run: main is paused until ${TIME}: a role change would only be recorded; without the pause, ${NONE}`,
    ],
    [
      'that it is pending',
      { desired },
      `dry run: ${NONE}; in the ledger: model m is pending, which a role change now would replace`,
    ],
    [
      'why its last attempt failed',
      { desired, attempts: 2, last_error: 'so it is' },
      `dry run: ${NONE}; in the ledger: model m is pending, which a role change now would replace, last attempt: so it is`,
    ],
    [
      'that it is pending, and had failed before it was to be tried again now',
      { desired, attempts: 0, last_error: 'so it was' },
      `dry run: ${NONE}; in the ledger: model m is pending, which a role change now would replace`,
    ],
    [
      'that it is pending and unsettled',
      { desired, attempts: 1, unsettled_since: TIME },
      `dry run: ${NONE}; in the ledger: model m is pending, which a role change now would replace; it is unsettled .*`,
    ],
    [
      'that it is being switched',
      { desired, lease: { token: 't', expires_at: TIME } },
      `dry run: ${NONE}; in the ledger: an invocation is switching it now`,
    ],
    [
      'that it is unsettled',
      { desired, applied, unsettled_since: TIME, apply_again_at: TIME },
      `dry run: ${NONE}; in the ledger: it is unsettled since ${TIME}: an older switch may still .* applied again`,
    ],
  ])('says in a dry run what the item of the server says: %s', async (_, item, message) => {
    const run_ = await run({ reset: true, dry_run: true }, { item });
    expect(run_.result.message).toMatch(new RegExp(`^${message}$`));
    expect(run_.item).toEqual({ barman_server: 'main', ...item });
  });
});
