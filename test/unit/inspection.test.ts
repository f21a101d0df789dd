/** An inspection: which servers it is about, what it asks and for how long, and what it stores. */

import * as v from 'valibot';
import { beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import {
  DiagnoseOutput,
  type Diagnosis,
  readDiagnosis,
} from '../../functions/config-switch/barman/diagnosis.ts';
import { refusalOf } from '../../functions/config-switch/barman/failures.ts';
import { HttpError, LedgerError } from '../../functions/config-switch/errors.ts';
import { loadUndici } from '../../functions/config-switch/http/agent.ts';
import {
  type Inspected,
  type InspectOptions,
  inspect,
} from '../../functions/config-switch/inspect/inspect.ts';
import type { Inspection } from '../../functions/config-switch/ledger/inspection.ts';
import type { Item } from '../../functions/config-switch/ledger/item.ts';
import { Ledger } from '../../functions/config-switch/ledger/ledger.ts';
import { type Cluster, withoutValue } from '../../functions/config-switch/patroni/cluster.ts';
import {
  connectionsTo,
  diagnosedModel,
  diagnosedServer,
  diagnosis,
  hostOf,
  POSTGRESQL,
  type ServerChange,
} from '../stand-ins/diagnose.ts';
import { MemoryTable } from '../stand-ins/memory-table.ts';
import { end, net, type Reply, useVirtualNetwork } from './virtual-network.ts';
import { at, NOW } from './virtual-time.ts';

const MINUTE = 60_000;
/** How long an inspection may take (ms): as deployed. */
const TIME = 88_500;
const NODES = ['node1', 'node2'];
const MODELS = { node1: 'pg:node1', node2: 'pg:node2' };

let table: MemoryTable;
let options: InspectOptions;
/** What Barman does; by default it has the servers main and other. */
let barman: {
  diagnose: (signal: AbortSignal) => Promise<Diagnosis> | Diagnosis;
  read: (barman_server: string, signal: AbortSignal) => Promise<void> | void;
};
/** How often Barman was asked for a diagnosis, and the servers whose operations were read. */
let diagnoses: number;
let reads: string[];
/** The leaders of Patroni's clusters, by scope; node1 by default. */
let leaders: Map<string, string>;
/** What answers nothing: a scope, or a path of all. */
let silent: Set<string>;

useVirtualNetwork();
// Virtual time would not wait for it.
beforeAll(loadUndici);
beforeEach(() => {
  table = new MemoryTable();
  [diagnoses, reads] = [0, []];
  [leaders, silent] = [new Map(), new Set()];
  barman = { diagnose: () => diagnosisOf(), read: () => {} };
  net.date = new Date(NOW).toUTCString();
  net.reply = patroni;
  options = {
    ledger: new Ledger(table),
    api: {
      async diagnose(signal = net.controller.signal) {
        diagnoses += 1;
        return barman.diagnose(signal);
      },
      async readServer(barman_server, signal = net.controller.signal) {
        reads.push(barman_server);
        return barman.read(barman_server, signal);
      },
    },
    clusters: { clusters: [clusterOf()], tls: {} },
    signal: net.controller.signal,
    remaining: () => TIME - elapsed(),
  };
});

/** How long the test has taken (ms). */
const elapsed = () => Date.now() - NOW;

/** A cluster whose nodes node1 and node2 have the URLs http://node1.<name>:8008 and http://node2.<name>:8008. */
const clusterOf = (change: Partial<Cluster> = {}): Cluster => ({
  ...{ name: 'main', scope: change.name ?? 'main', secrets: [] },
  servers: serversOf({ main: MODELS }),
  patroni: urlsOf(change.name ?? 'main', NODES),
  streaming_archiver_name: null,
  ...change,
});
const urlsOf = (scope: string, nodes: readonly string[]) =>
  nodes.map((node) => new URL(`http://${node}.${scope}:8008`));
const serversOf = (servers: Record<string, Record<string, string>>) =>
  new Map(Object.entries(servers).map(([name, models]) => [name, new Map(Object.entries(models))]));
/** A cluster with 64 nodes, so that no other one is asked at the same time. */
const large = (name: string) =>
  clusterOf({
    name,
    patroni: urlsOf(
      name,
      Array.from({ length: 64 }, (_, index) => `n${index}`),
    ),
  });

/** What a node of Patroni answers. */
function patroni({ origin, path }: { readonly origin: string; readonly path: string }): Reply {
  const [node = '', scope = ''] = new URL(origin).hostname.split('.');
  if (silent.has(scope) || silent.has(path)) return 'nothing';
  const leader = leaders.get(scope) ?? 'node1';
  const { timeline, location, systemId: database_system_identifier } = POSTGRESQL;
  if (path === '/cluster') {
    const members = NODES.map((name) => ({
      ...{ name, host: hostOf(name), port: 5432, timeline },
      ...(name === leader ? { role: 'leader', state: 'running' } : { role: 'replica', state: 'streaming' }),
    }));
    return [200, { scope, members }];
  }
  if (path === '/config') return [200, { slots: { barman: { type: 'physical' } } }];
  if (path === '/history') return [200, []];
  const isLeader = node === leader;
  const state = {
    ...{ state: 'running', role: isLeader ? 'primary' : 'replica', timeline, xlog: { location } },
    ...{ database_system_identifier, dcs_last_seen: Date.now() / 1_000 },
    patroni: { version: '4.1.5', scope, name: node },
  };
  return [isLeader ? 200 : 503, state];
}

/** What Barman says: its servers are as healthy ones, but for a change. */
function diagnosisOf(change: ServerChange = {}, names = ['main', 'other']): Diagnosis {
  const active = { active_model: 'pg:node1', ...change, config: { cluster: 'main' } };
  const models = NODES.map((node) => [`pg:${node}`, diagnosedModel(connectionsTo(hostOf(node)))]);
  const output = diagnosis({
    servers: Object.fromEntries(names.map((name) => [name, diagnosedServer(name, active)])),
    models: Object.fromEntries(models),
  });
  return readDiagnosis(v.parse(DiagnoseOutput, output));
}
const WITHOUT_BACKUP: ServerChange = { backups: {} };

/** Waits without an end for what is aborted. */
const never = (signal: AbortSignal) =>
  new Promise<never>((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
const fail = (message = 'pg-backup-api is unreachable') => {
  throw new HttpError(message);
};

/** Puts an attribute in the item of the whole stage. */
const putStage = (change: object) => put('@stage', change);
function put(barman_server: string, change: object): void {
  table.items.set(barman_server, { ...table.items.get(barman_server), barman_server, ...change });
}
/** An item whose desired state was applied, so many ms after the test's beginning. */
const applied = (ms = -MINUTE) => {
  const state = { target: 'model pg:node1', version: `${at(ms)}#e` };
  return {
    desired: { ...state, cluster: 'main', recorded_at: at(ms) },
    applied: { ...state, operation_id: 'op', applied_at: at(ms) },
  };
};
const attribute = (key: string, name: string) => {
  const item: object | undefined = table.items.get(key);
  return item && Object.entries(item).find(([one]) => one === name)?.[1];
};
/** What is stored of a server's inspection, and when inspections were tried. */
const stored = (barman_server: string) => attribute(`inspection#${barman_server}`, 'inspection');
const storedTimes = () => attribute('@stage', 'inspection');
/** Returns the kinds of the findings of an inspection. */
const kinds = ({ findings }: Inspection) => findings.map(({ kind }) => kind);
/** Returns what was seen of a server. @throws Error if there is nothing */
function of({ servers }: Inspected, barman_server = 'main') {
  const server = servers.get(barman_server);
  if (!server) throw new Error(`nothing was seen of ${barman_server}`);
  return server;
}
const requests = () => net.sent.map(({ origin, path }) => `${new URL(origin).hostname}${path}`);

describe('an inspection', () => {
  test('of a healthy cluster finds nothing, and stores that', async () => {
    put('main', applied());
    const inspected = await inspect(options);
    const inspection = {
      ...{ at: at(0), findings: [], notes: [], unseen: [], missing: [], silent: [], callbacks: [] },
      ...{
        leader: 'node1',
        applied_version: `${at(-MINUTE)}#e`,
        connected: [{ member: 'node1', at: at(0) }],
      },
      timeline: { id: POSTGRESQL.timeline, since: at(0), location: POSTGRESQL.location },
    };
    expect(inspected).toMatchObject({
      at: NOW,
      diagnosis: { version: '3.19.1' },
      clusters: [
        { cluster: clusterOf(), survey: { leader: { name: 'node1' }, slots: ['barman'] }, unseen: undefined },
      ],
    });
    expect([...inspected.servers]).toStrictEqual([['main', { paused: false, inspection, heard: [] }]]);
    expect(stored('main')).toStrictEqual(inspection);
  });

  test('asks Barman once, and each node for the leader twice, and closes its connections', async () => {
    await inspect(options);
    expect([diagnoses, reads]).toEqual([1, []]);
    expect(requests()).toEqual([
      ...['node1.main/cluster', 'node2.main/cluster', 'node1.main/leader', 'node2.main/leader'],
      ...['node1.main/config', 'node1.main/history'],
      ...['node1.main/cluster', 'node2.main/cluster', 'node1.main/leader', 'node2.main/leader'],
    ]);
    expect(net.agents.map(({ destroyed }) => destroyed)).toEqual([1, 1]);
  });

  test('changes no desired state', async () => {
    put('main', applied());
    const before = structuredClone(table.item);
    barman.diagnose = () => diagnosisOf({ active_model: 'pg:node2' });
    expect(kinds(of(await inspect(options)).inspection)).toEqual(['other-model']);
    expect(table.item).toEqual(before);
  });

  test('has the time when it began, however long Barman takes', async () => {
    barman.diagnose = () => {
      vi.setSystemTime(NOW + MINUTE);
      return diagnosisOf();
    };
    const inspected = await inspect(options);
    expect([inspected.at, of(inspected).inspection.at]).toEqual([NOW, at(0)]);
    expect(storedTimes()).toMatchObject({ tried_at: at(0), seen_at: at(0) });
  });

  test('knows what the one before found, and since when', async () => {
    barman.diagnose = () => diagnosisOf(WITHOUT_BACKUP);
    await inspect(options);
    vi.setSystemTime(NOW + MINUTE);
    const { inspection } = of(await inspect(options));
    expect(inspection).toMatchObject({
      at: at(MINUTE),
      findings: [{ kind: 'no-backup', since: at(0) }],
    });
  });

  test('knows whose callback has been heard, of each server', async () => {
    const heard = (node: string) => ({ heard: { revision: 'r', nodes: [{ node, at: at(-MINUTE) }] } });
    put('main', {});
    put('other', {});
    put('inspection#main', heard('node1'));
    put('inspection#other', heard('node9'));
    const inspected = await inspect(options);
    expect(of(inspected).heard).toEqual([{ node: 'node1', at: at(-MINUTE) }]);
    expect(of(inspected).inspection.callbacks).toEqual([{ node: 'node1', at: at(-MINUTE) }]);
    expect(of(inspected, 'other').heard).toEqual([{ node: 'node9', at: at(-MINUTE) }]);
  });

  test('fails if the ledger is unavailable', async () => {
    const error = new LedgerError('throttled');
    vi.spyOn(table, 'update').mockRejectedValue(error);
    await expect(inspect(options)).rejects.toBe(error);
    vi.spyOn(table, 'scan').mockRejectedValue(error);
    await expect(inspect(options)).rejects.toBe(error);
    expect(diagnoses).toBe(0);
  });
});

describe('the servers of an inspection', () => {
  const inspectedServers = async () => [...(await inspect(options)).servers.keys()];

  test('are those that clusters list with members, and those of the ledger, sorted', async () => {
    const servers = serversOf({ zeta: MODELS, main: MODELS, 'without-members': {} });
    options = { ...options, clusters: { clusters: [clusterOf({ servers })], tls: {} } };
    put('other', {});
    put('main', {});
    put('broken', { desired: 'model x' });
    expect(await inspectedServers()).toEqual(['broken', 'main', 'other', 'zeta']);
  });

  test('are none if there are none', async () => {
    options = { ...options, clusters: { clusters: [], tls: {} } };
    expect(await inspectedServers()).toEqual([]);
    expect(storedTimes()).toMatchObject({ seen_at: at(0) });
  });

  test('are judged each by its own item', async () => {
    const servers = serversOf({ main: MODELS, other: MODELS });
    options = { ...options, clusters: { clusters: [clusterOf({ servers })], tls: {} } };
    put('other', applied());
    put('main', { paused: true });
    const inspected = await inspect(options);
    expect([of(inspected).paused, of(inspected, 'other').paused]).toEqual([true, false]);
    expect(of(inspected).inspection).not.toHaveProperty('applied_version');
    expect(of(inspected, 'other').inspection).toHaveProperty('applied_version', `${at(-MINUTE)}#e`);
  });

  test('are judged by the clusters that list them', async () => {
    const servers = serversOf({ other: MODELS });
    leaders.set('second', 'node2');
    const clusters = [clusterOf(), clusterOf({ name: 'second', servers })];
    options = { ...options, clusters: { clusters, tls: {} } };
    const inspected = await inspect(options);
    expect(of(inspected).inspection.leader).toBe('node1');
    expect(of(inspected, 'other').inspection.leader).toBe('node2');
  });

  test('are written ten at a time', async () => {
    const names = Array.from({ length: 25 }, (_, index) => `s${String(index).padStart(2, '0')}`);
    const servers = serversOf(Object.fromEntries(names.map((name) => [name, MODELS])));
    options = { ...options, clusters: { clusters: [clusterOf({ servers })], tls: {} } };
    barman.diagnose = () => diagnosisOf({}, names);
    const { update } = table;
    let now = 0;
    const atOnce: number[] = [];
    vi.spyOn(table, 'update').mockImplementation(async (key, ...rest) => {
      if (!key.startsWith('inspection#')) return update.call(table, key, ...rest);
      now += 1;
      atOnce.push(now);
      // Another one may begin meanwhile.
      await new Promise(setImmediate);
      now -= 1;
      return update.call(table, key, ...rest);
    });
    expect(await inspectedServers()).toEqual(names);
    expect(names.filter((name) => stored(name) === undefined)).toEqual([]);
    expect([atOnce.length, Math.max(...atOnce)]).toEqual([25, 10]);
  });

  test('are all stored but one whose write fails, which says so', async () => {
    put('other', {});
    const { update } = table;
    vi.spyOn(table, 'update').mockImplementation(async (key, ...rest) => {
      if (key === 'inspection#main') throw new LedgerError('throttled');
      return update.call(table, key, ...rest);
    });
    const inspected = await inspect(options);
    expect(of(inspected).inspection.unseen).toEqual([
      { what: 'this is not stored, so the next inspection does not know it: throttled' },
    ]);
    expect(stored('main')).toBeUndefined();
    expect(stored('other')).toEqual(of(inspected, 'other').inspection);
    expect(of(inspected, 'other').inspection.unseen).toEqual([]);
    expect(storedTimes()).toMatchObject({ seen_at: at(0) });
  });
});

describe('a server is paused', () => {
  test.each<[string, boolean, Partial<Item>, object]>([
    ['by itself', true, { paused: true }, {}],
    ['no longer, once its pause has ended', false, { paused: true, paused_until: at(0) }, {}],
    ['with all servers', true, {}, { paused: { at: at(-MINUTE) } }],
    ['no longer, once the pause of all has ended', false, {}, { paused: { at: at(-MINUTE), until: at(0) } }],
    ['not by default', false, {}, {}],
  ])('%s', async (_, paused, item, stage) => {
    put('main', item);
    putStage(stage);
    expect(of(await inspect(options)).paused).toBe(paused);
  });

  test('with all servers, also if it is not in the ledger', async () => {
    putStage({ paused: { at: at(-MINUTE) } });
    expect(of(await inspect(options)).paused).toBe(true);
  });
});

describe('the times of inspections', () => {
  const EARLIER = { first_at: at(-9 * MINUTE), tried_at: at(-2 * MINUTE), seen_at: at(-3 * MINUTE) };

  test('say when the first one was tried, before Barman is asked: one that crashes is not due at once', async () => {
    let whileAsked: unknown;
    barman.diagnose = () => {
      whileAsked = storedTimes();
      return diagnosisOf();
    };
    await inspect(options);
    expect(whileAsked).toStrictEqual({ first_at: at(0), tried_at: at(0) });
    expect(storedTimes()).toStrictEqual({ first_at: at(0), tried_at: at(0), seen_at: at(0) });
  });

  test('keep the first one, and when Barman was seen, until it is seen again', async () => {
    putStage({ inspection: { ...EARLIER, unseen: 'it was down' } });
    let whileAsked: unknown;
    barman.diagnose = () => {
      whileAsked = storedTimes();
      return diagnosisOf();
    };
    await inspect(options);
    expect(whileAsked).toStrictEqual({ ...EARLIER, tried_at: at(0), unseen: 'it was down' });
    expect(storedTimes()).toStrictEqual({ first_at: EARLIER.first_at, tried_at: at(0), seen_at: at(0) });
  });

  test.each([
    ['after one that could', EARLIER, { seen_at: EARLIER.seen_at }],
    ['after one that could not either', { first_at: EARLIER.first_at, unseen: 'it was down' }, {}],
  ])('have why Barman could not be seen, %s', async (_, before, seen) => {
    putStage({ inspection: before });
    barman.diagnose = () => fail();
    await inspect(options);
    expect(storedTimes()).toStrictEqual({
      ...{ first_at: EARLIER.first_at, tried_at: at(0), ...seen },
      unseen: 'pg-backup-api is unreachable',
    });
  });

  test('have it if that was the first one', async () => {
    barman.diagnose = () => fail();
    await inspect(options);
    expect(storedTimes()).toStrictEqual({
      ...{ first_at: at(0), tried_at: at(0), unseen: 'pg-backup-api is unreachable' },
    });
  });
});

describe('an inspection that cannot see Barman', () => {
  test('says why, in 500 characters at most, and sees Patroni', async () => {
    barman.diagnose = () => fail('x'.repeat(600));
    const inspected = await inspect(options);
    expect(inspected.diagnosis).toEqual({ unseen: 'x'.repeat(500) });
    expect(inspected.clusters).toMatchObject([{ survey: { leader: { name: 'node1' } } }]);
    expect(of(inspected).inspection).toMatchObject({
      at: at(0),
      findings: [],
      unseen: [{ what: expect.stringMatching(/^Barman: x{400}/), member: true }],
    });
  });

  test('stores nothing of a server that none has seen before: it has never been inspected', async () => {
    barman.diagnose = () => fail();
    await inspect(options);
    expect([...table.items.keys()]).toEqual(['@stage']);
  });

  test('keeps what the one before found, and the time of that', async () => {
    put('other', {});
    barman.diagnose = () => diagnosisOf(WITHOUT_BACKUP);
    await inspect(options);
    vi.setSystemTime(NOW + MINUTE);
    barman.diagnose = () => fail();
    const inspected = await inspect(options);
    for (const name of ['main', 'other']) {
      expect(of(inspected, name).inspection).toMatchObject({
        ...{ at: at(0), findings: [{ kind: 'no-backup', since: at(0) }] },
        unseen: [{ what: 'Barman: pg-backup-api is unreachable' }],
      });
      expect(stored(name)).toEqual(of(inspected, name).inspection);
    }
  });
});

describe('while another inspection or dry run is under way', () => {
  beforeEach(() => {
    barman.diagnose = () => diagnosisOf(WITHOUT_BACKUP);
    putStage({ diagnose_until: at(1) });
  });

  test('Barman is not asked, which is said, and Patroni is seen', async () => {
    const inspected = await inspect(options);
    expect(diagnoses).toBe(0);
    const unseen = expect.stringMatching(/^another dry run or inspection is under way/);
    expect(inspected.diagnosis).toEqual({ unseen });
    expect(of(inspected).inspection.unseen).toMatchObject([{ what: expect.stringMatching(/^Barman: an/) }]);
    expect(inspected.clusters).toMatchObject([{ survey: { leader: { name: 'node1' } } }]);
  });

  test('nothing is stored, also of a server that was inspected before', async () => {
    putStage({ diagnose_until: at(-1) });
    await inspect(options);
    vi.setSystemTime(NOW + MINUTE);
    putStage({ diagnose_until: at(MINUTE + 1) });
    const before = structuredClone(table.items);
    leaders.set('main', 'node2');
    expect(of(await inspect(options)).inspection).toMatchObject({
      ...{ leader: 'node2', findings: [{ kind: 'no-backup' }] },
    });
    expect(table.items).toEqual(before);
  });
});

describe('what the heartbeats could not read of Barman', () => {
  const BROKEN = 'the heartbeat has read a broken job';
  const NOT_READY = [
    { barman_server: 'main', message: BROKEN },
    { barman_server: 'other', message: BROKEN },
  ];
  const refuse = () => {
    throw new HttpError('its operations cannot be read', { cause: refusalOf(500, 'no such file') });
  };
  const HEARTBEAT = { at: at(-1), interval: MINUTE, version: '1.2.3', clusters: [] };
  /** What is said of the operations of a server; undefined: nothing. */
  const said = (inspected: Inspected, name: string) =>
    of(inspected, name).inspection.findings.find(({ kind }) => kind === 'operations-unreadable')?.what;
  beforeEach(() => {
    put('other', {});
    putStage({ heartbeat: { ...HEARTBEAT, not_ready: NOT_READY } });
  });

  test('is read again, and is no finding once it is repaired', async () => {
    barman.read = (name) => (name === 'other' ? refuse() : undefined);
    const inspected = await inspect(options);
    expect(reads).toEqual(['main', 'other']);
    expect(said(inspected, 'main')).toBeUndefined();
    expect(said(inspected, 'other')).toBe(
      'the operations of other cannot be read (its operations cannot be read)',
    );
  });

  test('stays as they found it if there is no answer now', async () => {
    barman.read = () => fail();
    const inspected = await inspect(options);
    expect(said(inspected, 'main')).toBe(`the operations of main cannot be read (${BROKEN})`);
  });

  test('is not read if Barman cannot be seen, and what was found stays', async () => {
    barman.read = refuse;
    await inspect(options);
    const { findings } = stored('main');
    expect(findings).toMatchObject([{ kind: 'operations-unreadable' }]);
    [reads, barman.read] = [[], () => {}];
    barman.diagnose = () => fail();
    expect(of(await inspect(options)).inspection.findings).toEqual(findings);
    expect(reads).toEqual([]);
  });

  test.each([
    ['there is no heartbeat yet', undefined],
    ['the heartbeat found nothing', HEARTBEAT],
  ])('is nothing if %s', async (_, heartbeat) => {
    putStage({ heartbeat });
    expect(kinds(of(await inspect(options)).inspection)).toEqual([]);
    expect(reads).toEqual([]);
  });

  test('comes with the servers whose item in the ledger cannot be read, since a switch of them fails', async () => {
    put('other', { desired: 'model x' });
    const inspected = await inspect(options);
    expect(said(inspected, 'other')).toMatch(/\(the ledger's item of other cannot be read: desired is/);
    expect(said(inspected, 'main')).toBeUndefined();
  });
});

describe('what may have changed during an inspection', () => {
  /** Inspects, while something happens. @returns what could not be seen of main */
  async function unseenAfter(happens: () => void): Promise<readonly string[]> {
    barman.diagnose = () => {
      happens();
      return diagnosisOf();
    };
    return of(await inspect(options)).inspection.unseen.map(({ what }) => what);
  }
  const archive = (why: string) => [`whether WAL is archived: ${why}`];
  beforeEach(() => {
    put('main', applied());
    put('other', applied());
  });

  test.each<[string, readonly string[], Partial<Item>]>([
    ['a switch is pending', archive('a switch is pending'), { desired: applied(0).desired }],
    [
      'a switch is under way',
      archive('a switch is pending'),
      { lease: { token: 'x', expires_at: at(MINUTE) } },
    ],
    ['a switch was made', archive('a switch was made meanwhile'), applied(0)],
    ['the same one is recorded', [], {}],
  ])('is what is archived, if %s', async (_, unseen, change) => {
    expect(await unseenAfter(() => put('main', change))).toEqual(unseen);
  });

  test('is nothing if it happened to another server', async () => {
    expect(await unseenAfter(() => put('other', applied(0)))).toEqual([]);
  });

  test('is what is archived, if the first switch of a server was made, or it was forgotten', async () => {
    table.item = undefined;
    const made = archive('a switch was made meanwhile');
    expect(await unseenAfter(() => put('main', applied(0)))).toEqual(made);
    expect(await unseenAfter(() => table.items.delete('main'))).toEqual(made);
  });

  test('is nothing, if an item without a switch came or went', async () => {
    table.item = undefined;
    expect(await unseenAfter(() => put('main', { leader: 'node1' }))).toEqual([]);
    expect(await unseenAfter(() => table.items.delete('main'))).toEqual([]);
  });

  test.each([
    ['is another one', () => leaders.set('main', 'node2')],
    ['is unknown', () => silent.add('main')],
  ])('is what is archived, if the leader %s', async (_, happens) => {
    const call = unseenAfter(happens);
    expect(await end(call)).toEqual(
      archive('the leader of cluster main was not the same, or unknown, afterwards'),
    );
  });

  test('is nothing, if the leader of another cluster is another one', async () => {
    const clusters = [clusterOf(), clusterOf({ name: 'second', servers: new Map() })];
    options = { ...options, clusters: { clusters, tls: {} } };
    expect(await unseenAfter(() => leaders.set('second', 'node2'))).toEqual([]);
  });

  test('is named of several sites', async () => {
    const clusters = [clusterOf({ patroni: [] }), clusterOf({ name: 'second' })];
    options = { ...options, clusters: { clusters, tls: {} } };
    expect(await unseenAfter(() => leaders.set('second', 'node2'))).toContainEqual(
      expect.stringMatching(/^whether WAL is archived: the leader of cluster second was not the same/),
    );
  });

  test('is nothing new, if the leader did not answer before', async () => {
    silent.add('/leader');
    const unseen = await end(unseenAfter(() => silent.clear()));
    expect(unseen).not.toContainEqual(expect.stringContaining('was not the same'));
    expect(unseen).toContainEqual(expect.stringMatching(/^whether WAL of the leader is archived: /));
  });
});

describe('a cluster that cannot be asked', () => {
  const BAD_TLS = new HttpError('patroni-client-key is missing');

  test.each<[string, string | undefined, Partial<Cluster>, object]>([
    ['as its parameter is malformed', 'is malformed', { malformed: 'is malformed' }, {}],
    ['as it has no URLs', undefined, { patroni: [] }, {}],
    ['as the TLS settings cannot be used', BAD_TLS.message, {}, BAD_TLS],
    ['for two reasons', 'is malformed', { malformed: 'is malformed' }, BAD_TLS],
  ])('%s, has no survey, and says why', async (_, unseen, change, tls) => {
    const cluster = clusterOf(change);
    options = { ...options, clusters: { clusters: [cluster], tls } };
    const inspected = await inspect(options);
    expect(inspected.clusters).toStrictEqual([{ cluster, survey: undefined, unseen }]);
    expect(of(inspected).inspection.unseen[0]).toEqual({
      what: `Patroni: ${unseen ?? 'clusters/main has no URLs'}`,
      member: true,
    });
    expect(net.sent).toEqual([]);
  });

  test('leaves the others, and Barman, to be seen', async () => {
    const clusters = [withoutValue('broken', 'is malformed'), clusterOf()];
    options = { ...options, clusters: { clusters, tls: {} } };
    const inspected = await inspect(options);
    expect(inspected.clusters).toMatchObject([
      { cluster: { name: 'broken' }, survey: undefined, unseen: 'is malformed' },
      { cluster: { name: 'main' }, survey: { leader: { name: 'node1' } }, unseen: undefined },
    ]);
    expect(of(inspected).inspection).toMatchObject({ leader: 'node1', findings: [], unseen: [] });
  });
});

describe('the time of an inspection', () => {
  /** When something happened (ms). */
  const times: number[] = [];
  const clusters = (...all: readonly Cluster[]) => {
    options = { ...options, clusters: { clusters: all, tls: {} } };
  };
  beforeEach(() => {
    times.length = 0;
  });

  test('is for Barman, but for what is needed to ask Patroni again, and to write', async () => {
    barman.diagnose = (signal) => never(signal).finally(() => times.push(elapsed()));
    const inspected = (await end(inspect(options))) as Inspected;
    expect(times).toEqual([TIME - 8_500]);
    expect(inspected.diagnosis).toEqual({ unseen: expect.stringMatching(/^no result within the 80000 ms/) });
  });

  test('is for reading again what heartbeats could not read, likewise', async () => {
    const not_ready = ['main', 'other'].map((barman_server) => ({ barman_server, message: 'broken' }));
    putStage({ heartbeat: { at: at(-1), interval: MINUTE, version: '1.2.3', clusters: [], not_ready } });
    barman.read = (_, signal) => {
      if (signal.aborted) throw signal.reason;
      return never(signal).finally(() => times.push(elapsed()));
    };
    const inspected = (await end(inspect(options))) as Inspected;
    expect(times).toEqual([TIME - 8_500]);
    expect(of(inspected).inspection.findings).toMatchObject([{ kind: 'operations-unreadable' }]);
    expect(stored('main')).toMatchObject({ findings: [{ kind: 'operations-unreadable' }] });
  });

  test('is for Patroni for 15 s at most, also if many clusters do not answer', async () => {
    clusters(...['a', 'b', 'c', 'd'].map(large));
    for (const scope of ['a', 'b', 'c', 'd']) silent.add(scope);
    barman.diagnose = () => {
      times.push(elapsed());
      silent.clear();
      return diagnosisOf();
    };
    const inspected = (await end(inspect(options))) as Inspected;
    expect(times).toEqual([15_000]);
    expect(inspected.clusters).toHaveLength(4);
  });

  test('is for asking Patroni again for 6.5 s at most', async () => {
    clusters(...['a', 'b', 'c', 'd'].map(large));
    barman.diagnose = () => {
      for (const scope of ['a', 'b', 'c', 'd']) silent.add(scope);
      return diagnosisOf();
    };
    await end(inspect(options).then(() => times.push(elapsed())));
    expect(times).toEqual([6_500]);
  });

  test('is up at the deadline, whatever is waited for', async () => {
    /** Inspects, with a deadline. @returns when it ended (ms), and what was seen of Barman */
    const inspectWithin = async (ms: number) => {
      vi.setSystemTime(NOW);
      const controller = new AbortController();
      setTimeout(() => controller.abort(new HttpError('time is up')), ms);
      const call = inspect({ ...options, signal: controller.signal });
      return end(call.then(({ diagnosis }) => [elapsed(), diagnosis]));
    };
    const seen = diagnosisOf();
    silent.add('main');
    barman.diagnose = () => seen;
    expect(await inspectWithin(1_000)).toEqual([1_000, seen]);
    silent.clear();
    barman.diagnose = never;
    expect(await inspectWithin(2_000)).toEqual([2_000, { unseen: 'time is up' }]);
    barman.diagnose = () => {
      silent.add('main');
      return seen;
    };
    expect(await inspectWithin(3_000)).toEqual([3_000, seen]);
  });

  test('lets no more than 64 sockets be open, before and afterwards', async () => {
    clusters(...['a', 'b', 'c'].map(large));
    const { reply } = net;
    let open = new Set<string>();
    const most: number[] = [];
    net.reply = async (sent) => {
      open.add(sent.origin);
      most.push(open.size);
      await new Promise(setImmediate);
      open.delete(sent.origin);
      return reply(sent);
    };
    barman.diagnose = () => {
      expect(Math.max(...most)).toBe(64);
      [open, most.length] = [new Set(), 0];
      return diagnosisOf();
    };
    await inspect(options);
    expect(Math.max(...most)).toBe(64);
  });
});
