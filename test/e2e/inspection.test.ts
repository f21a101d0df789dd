/**
 * The inspection, from end to end: Patroni, PostgreSQL and Barman are real, and `/diagnose` has what the real
 * `barman diagnose` prints. What a failover, or the archive, needs is broken, found, corrected as its remedy says,
 * and then no longer found. Healthy clusters have no finding, whatever they are like.
 */

import { once } from 'node:events';
import { chmodSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { type AddressInfo, connect, createServer } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { InspectionReport } from '../../functions/config-switch/inspect/report.ts';
import { documentedCommand, fill } from '../documentation.ts';
import { fakeClock, MINUTE, pass } from '../integration/function.ts';
import { createSecret } from '../stand-ins/webhook.ts';
import { BarmanConf, type Changes } from './barman-conf.ts';
import { startCluster } from './cluster.ts';
import { BARMAN_ROLES, type NodeName } from './cluster-files.ts';
import { freePort } from './loopback.ts';
import { PROMOTION, startObserver } from './observer.ts';
import type { PatroniCluster } from './patroni-cluster.ts';
import { asPostgres, own, POSTGRESQL, run, until, writeOwned } from './processes.ts';

const DAY = 1_440 * MINUTE;
const secret = createSecret();
/** No callback is called: the rows send what they need. */
const callback = ['--url', 'http://127.0.0.1:1'];
const MODELS = { node1: 'pg:node1', node2: 'pg:node2' };

/** A member that cannot lead, behind another replica: neither is a finding. */
const CASCADING = { nofailover: true, replicatefrom: 'node2', nosync: true };

let cluster: PatroniCluster;
let conf: BarmanConf;

beforeAll(async () => {
  cluster = await startCluster({
    callback,
    secret,
    nodes: 3,
    settings: (name) => ({
      ...(name === 'node3' && { tags: CASCADING }),
      bootstrap: { dcs: { synchronous_mode: true } },
      postgresql: { parameters: { archive_mode: 'on', archive_command: archiveCommand(name) } },
    }),
  });
  cluster.disableCallbacks();
  conf = new BarmanConf(cluster.folder, { main: { immediate_checkpoint: 'true' } });
}, 200_000);

afterAll(async () => {
  await cluster?.stop();
}, 120_000);

/** Copies WAL to a Barman server that has `archiver = on`, once there is one. */
function archiveCommand(name: NodeName): string {
  // The data directory of the node is in the folder of the cluster.
  const incoming = '../barman/copied/incoming';
  return name === 'node3' ? '/bin/true' : `test ! -d ${incoming} || cp %p ${incoming}/%f`;
}

/** The function, for the cluster. */
interface Row extends AsyncDisposable {
  /** Inspects. */
  inspect(): Promise<Report>;
  /** Changes the parameter of the cluster. */
  put(changes?: object): void;
  /** Records a promotion, and applies it. */
  apply(name: NodeName): Promise<void>;
}

interface Report extends InspectionReport {
  /** Server, member if there is one, and kind of each finding; in brackets those that do not count yet. */
  readonly found: readonly string[];
  /** Of the first finding of a kind. */
  remedy(kind: string): string;
  /** Of a member of the first server that has it. */
  ready(member: string): string | undefined;
}

async function startRow(of = cluster, name = 'main', changes: object = {}): Promise<Row> {
  const parameter = (more: object) => ({
    [`clusters/${name}`]: JSON.stringify({
      ...{ servers: { main: MODELS }, patroni: of.restUrls, secret },
      ...changes,
      ...more,
    }),
  });
  const { run: fn, [Symbol.asyncDispose]: dispose } = await startObserver(of.barman, parameter({}));
  return {
    inspect: async () => {
      const report = (await fn.send({ inspection: true }, 60_000, 'inspection')) as InspectionReport;
      if (!report.servers) throw new Error(JSON.stringify(report));
      const findings = report.servers.flatMap(({ barman_server, findings }) =>
        findings.map((finding) => ({ barman_server, ...finding })),
      );
      const textOf = ({ barman_server, member, kind, counts }: (typeof findings)[number]) => {
        const text = [barman_server, member, kind].filter(Boolean).join(' ');
        return counts ? text : `(${text})`;
      };
      return {
        ...report,
        found: findings.map(textOf).sort(),
        remedy: (kind) => findings.find((one) => one.kind === kind)?.remedy ?? '',
        ready: (member) =>
          report.servers.flatMap(({ members }) => members).find((one) => one.member === member)?.ready,
      };
    },
    put: (more = {}) => fn.host.put(parameter(more)),
    apply: async (leader) => {
      const event = { ...PROMOTION, barman_model: `pg:${leader}` };
      const at = Date.now();
      const { response } = await fn.webhook(event, { secret });
      expect(response).toMatchObject({ exit_code: 0 });
      // A switch restarts the WAL receiver, also with the same model.
      const streams = async () => ((await of.streamingSince(leader)) ?? 0) > at;
      await until(streams, () => `Barman does not stream from ${leader}\n${of.logs()}`);
    },
    [Symbol.asyncDispose]: () => dispose(),
  };
}

/** Runs the commands that a remedy names. @returns what they printed */
async function carryOut(remedy: string): Promise<string> {
  const printed: string[] = [];
  for (const [, command = ''] of remedy.matchAll(/`([^`]+)`/g)) {
    const [program, ...words] = command.split(' ');
    // It asks whether to apply the changes.
    if (program === 'patronictl') await cluster.patronictl(...words, '--force');
    else if (program === 'barman') printed.push(await cluster.barman.run(60_000, ...words));
    else throw new Error(`the remedy has another command: ${remedy}`);
  }
  expect(remedy).toMatch(/`/);
  return printed.join('');
}

/** Waits until an inspection finds nothing. */
async function untilClean({ inspect }: Row): Promise<void> {
  let found: readonly string[] = [];
  const isClean = async () => {
    found = (await inspect()).found;
    return found.length === 0;
  };
  await until(isClean, () => `still found: ${found.join(', ')}\n${cluster.logs()}`);
}

/** Writes whole segments of WAL, and the beginning of one more. @returns the name of the last whole one */
async function writeSegments(of: PatroniCluster, name: NodeName, count: number): Promise<string> {
  // Its commit waits until it is on the disk, from which WAL is sent.
  const message = "pg_logical_emit_message(true, '', 'x')";
  await of.query(name, `SELECT ${message}; SELECT pg_switch_wal();`.repeat(count - 1));
  const last = await of.query(name, `SELECT pg_walfile_name(${message})`);
  await of.query(name, 'SELECT pg_switch_wal()');
  await of.query(name, `SELECT ${message}`);
  return last;
}

/** Waits until a WAL file is in the archive of a server. */
function isArchived(file: string, server?: string): Promise<void> {
  const archived = () => cluster.barman.archived(file, server);
  return until(archived, () => `${file} is not archived\n${cluster.logs()}`);
}

/** A connection string for a port. */
const conninfo = (port: number, host = '127.0.0.1', user = 'barman') =>
  `host=${host} port=${port} user=${user} dbname=postgres connect_timeout=5`;
/** The options that connect to a port. */
const to = (port: number, host?: string) => ({
  conninfo: conninfo(port, host),
  streaming_conninfo: conninfo(port, host, 'streaming_barman'),
});
const portOf = (name: NodeName) => cluster.address(name).postgres;

/** Changes the mode of folders of the Barman server. @returns to be disposed of once the cause is removed */
function breakFolders(mode: number, names: readonly string[]): DisposableStack {
  const broken = new DisposableStack();
  for (const folder of names.map((name) => join(cluster.folder, 'barman/main', name))) {
    chmodSync(folder, mode);
    broken.defer(() => chmodSync(folder, 0o755));
  }
  return broken;
}

/** Makes the WAL receiver stop, and unable to start again. */
async function stopReceiving(): Promise<DisposableStack> {
  const broken = breakFolders(0, ['streaming']);
  await cluster.barman.stopReceiving();
  await slotIs('node1', 'f');
  return broken;
}

/** The folders of the archive. */
function archiveFolders(): string[] {
  const folders = readdirSync(join(cluster.folder, 'barman/main/wals'), { withFileTypes: true });
  return ['wals', ...folders.filter((one) => one.isDirectory()).map(({ name }) => `wals/${name}`)];
}

/** Waits until Barman's slot on a node is in a state: `t` active, `f` inactive, nothing: missing. */
function slotIs(name: NodeName, state: 't' | 'f' | '', of = cluster): Promise<void> {
  const sql = "SELECT active FROM pg_replication_slots WHERE slot_name = 'barman'";
  return until(
    async () => (await of.query(name, sql)) === state,
    () => `the slot of ${name} is not "${state}"\n${of.logs()}`,
  );
}

fakeClock();
beforeEach(() => conf.write());

test('a cluster without a base backup › is found, and is healthy after `barman backup`', async () => {
  await using row = await startRow();
  await cluster.barmanStreams('node1');
  const { found, remedy } = await row.inspect();
  expect(found).toEqual(['main no-backup']);
  await carryOut(remedy('no-backup'));
  expect((await row.inspect()).found).toEqual([]);
});

test('a healthy cluster › has no finding, also once WAL would have had time to arrive, and a week after its backup', async () => {
  await using row = await startRow();
  await isArchived(await writeSegments(cluster, 'node1', 2));
  await row.apply('node1');
  const first = await row.inspect();
  expect(first.found).toEqual([]);
  expect(first.clusters).toMatchObject([{ name: 'main', leader: 'node1', timeline: 1 }]);
  expect(first.servers).toMatchObject([
    {
      barman_server: 'main',
      members: [
        { member: 'node1', slot: 'yes', ready: 'yes' },
        { member: 'node2', slot: 'yes', ready: 'yes' },
      ],
      archived: { timeline: 1 },
      backup: { timeline: 1 },
      unseen: [],
      notes: [],
    },
  ]);
  for (const time of [20 * MINUTE, 7 * DAY]) {
    pass(time);
    expect((await row.inspect()).found).toEqual([]);
  }
  pass(2 * DAY);
  expect((await row.inspect()).found).toEqual(['main backup-old']);
});

/** A fault of the configuration, and what is found of it. */
interface Fault {
  readonly what: string;
  readonly conf?: () => Changes;
  readonly parameter?: () => object;
  readonly found: readonly string[];
  readonly remedy: RegExp;
}

const FAULTS: readonly Fault[] = [
  {
    what: 'a server that Barman does not have',
    parameter: () => ({ servers: { mian: MODELS } }),
    found: ['mian server-missing'],
    remedy: /correct .*name in clusters/,
  },
  {
    what: 'an inactive server',
    conf: () => ({ main: { active: 'false' } }),
    found: ['main server-inactive'],
    remedy: /set "active = true"/,
  },
  {
    // Barman 3.19.1 ignores the option in the section of the server.
    what: 'a server that its active model disables',
    conf: () => ({ 'pg:node1': { disabled: 'true' } }),
    found: ['main node1 model-inactive', 'main server-disabled'],
    remedy: /remove "disabled = true" from \[pg:node1\]/,
  },
  {
    what: 'a server with an error in its configuration',
    conf: () => ({ main: { slot_name: null } }),
    found: ['main server-errors'],
    remedy: /`barman check main`/,
  },
  {
    what: 'a passive server',
    conf: () => ({ main: { primary_ssh_command: 'false' } }),
    found: ['main server-passive'],
    remedy: /server of that host/,
  },
  {
    what: 'a model that was removed',
    conf: () => ({ 'pg:node2': null }),
    found: ['main node2 model-missing'],
    remedy: /add \[pg:node2\] to barman\.conf/,
  },
  {
    what: "a model of another of Barman's clusters",
    conf: () => ({ 'pg:node2': { cluster: 'other' } }),
    found: ['main node2 model-of-another-cluster'],
    remedy: /set "cluster = main" for \[pg:node2\]/,
  },
  {
    what: 'a model of two members',
    parameter: () => ({ servers: { main: { node1: 'pg:node1', node2: 'pg:node1' } } }),
    found: ['main node2 model-shared'],
    remedy: /model .*clusters\/main/,
  },
  {
    what: 'a connection string that is none',
    conf: () => ({ 'pg:node2': { conninfo: '127.0.0.1:5432' } }),
    found: ['main node2 model-connection'],
    remedy: /correct conninfo of \[pg:node2\]/,
  },
  {
    what: 'a connection string that ends in the middle',
    conf: () => ({ 'pg:node2': { streaming_conninfo: "host='127.0.0.1 port=5432" } }),
    found: ['main node2 model-connection'],
    remedy: /correct streaming_conninfo of \[pg:node2\]/,
  },
  {
    what: 'a model that connects to another member',
    conf: () => ({ 'pg:node2': to(portOf('node3')) }),
    found: ['main node2 model-host'],
    remedy: /correct conninfo .*of \[pg:node2\]/,
  },
  {
    what: 'two models that connect to the same place',
    conf: () => ({ 'pg:node2': to(9), 'pg:node3': to(9) }),
    parameter: () => ({ servers: { main: { ...MODELS, node3: 'pg:node3' } } }),
    found: ['main node2 model-host-shared', 'main node3 model-host-shared'],
    remedy: /correct .*in barman\.conf/,
  },
  {
    what: 'a member without URL',
    parameter: () => ({ patroni: cluster.restUrls.filter((url) => url !== cluster.restUrls[1]) }),
    found: ['main node2 member-without-url'],
    remedy: /add .*"patroni" in clusters\/main/,
  },
];

describe('what a failover needs', () => {
  let row: Row;
  beforeAll(async () => {
    row = await startRow();
    await row.apply('node1');
  });
  afterAll(async () => {
    await row[Symbol.asyncDispose]();
  });

  test.each(FAULTS)(
    '$what › is found until it was corrected',
    async ({ conf: changes, parameter, found, remedy }) => {
      conf.write(changes?.());
      row.put(parameter?.());
      const report = await row.inspect();
      conf.write();
      row.put();
      expect(report.found).toEqual(found);
      const [kind = ''] = found[0]?.split(' ').slice(-1) ?? [];
      expect(report.remedy(kind)).toMatch(remedy);
      // Of the findings about all members, and about this one.
      expect(report.ready('node2')).toBe('no');
      expect((await row.inspect()).found).toEqual([]);
    },
  );

  test('a new member › is found until it has a model', async () => {
    const tags = (all: object) => {
      writeOwned(join(cluster.folder, 'node3.d', '9.yml'), JSON.stringify({ tags: all }), 0o600);
      const command = documentedCommand('docs/how-to/add-a-node.md', 'patronictl reload');
      return cluster.patronictl(...fill(command, { 'patronictl ': '' }).split(' '));
    };
    conf.write({ 'pg:node3': null });
    await tags({ nofailover: false, noloadbalance: true });
    await until(async () => (await row.inspect()).found.length > 0, 'the new member is not found');
    const { found, remedy } = await row.inspect();
    expect(found).toEqual(['main node3 member-without-model']);
    expect(remedy('member-without-model')).toMatch(
      /add \[pg:node3\] to barman\.conf, and "node3": "pg:node3"/,
    );
    conf.write();
    row.put({ servers: { main: { ...MODELS, node3: 'pg:node3' } } });
    expect((await row.inspect()).found).toEqual([]);
    row.put();
    await tags({ nofailover: true, noloadbalance: false });
    await untilClean(row);
  });
});

test('a slot that is not permanent › is found until the command of the remedy was run', async () => {
  await using row = await startRow();
  await cluster.patronictl('edit-config', '--force', '-s', 'slots=null', 'main');
  // The leader has it as long as Barman streams from it.
  await slotIs('node2', '');
  const { found, remedy } = await row.inspect();
  expect(found).toEqual(['main slot-not-permanent']);
  await carryOut(remedy('slot-not-permanent'));
  expect((await row.inspect()).found).toEqual([]);
  await slotIs('node2', 'f');
});

test('a slot that is missing › is found, also as one that is not permanent, until the command of the remedy was run', async () => {
  await using row = await startRow();
  using cause = await stopReceiving();
  await cluster.patronictl('edit-config', '--force', '-s', 'slots=null', 'main');
  await slotIs('node1', '');
  expect((await row.inspect()).found).toEqual(['(main slot-missing)', 'main slot-not-permanent']);
  const { found, remedy } = await row.inspect();
  expect(found).toEqual(['main slot-missing', 'main slot-not-permanent']);
  await carryOut(remedy('slot-missing'));
  await slotIs('node1', 'f');
  cause.dispose();
  await slotIs('node1', 't');
  expect((await row.inspect()).found).toEqual([]);
});

test('WAL that is not received › is found twice in a row, and as an archive that is behind, until its cause was removed', async () => {
  await using row = await startRow();
  using cause = await stopReceiving();
  expect((await row.inspect()).found).toEqual(['(main slot-inactive)']);
  const last = await writeSegments(cluster, 'node1', 5);
  pass(16 * MINUTE);
  expect((await row.inspect()).found).toEqual(['(main archive-behind)', 'main slot-inactive']);
  const { found, remedy } = await row.inspect();
  expect(found).toEqual(['main archive-behind', 'main slot-inactive']);
  expect(await carryOut(remedy('slot-inactive'))).toMatch(/Permission denied/i);
  cause.dispose();
  await slotIs('node1', 't');
  await isArchived(last);
  expect((await row.inspect()).found).toEqual([]);
});

test('WAL that is received but not archived › is found after a quarter of an hour, until its cause was removed', async () => {
  await using row = await startRow();
  using cause = breakFolders(0o555, archiveFolders());
  const last = await writeSegments(cluster, 'node1', 5);
  await until(() => cluster.barman.received(last), 'Barman does not receive it');
  expect((await row.inspect()).found).toEqual([]);
  pass(16 * MINUTE);
  expect((await row.inspect()).found).toEqual(['(main archive-behind)']);
  const { found, remedy } = await row.inspect();
  expect(found).toEqual(['main archive-behind']);
  expect(await carryOut(remedy('archive-behind'))).toMatch(/Permission denied/i);
  cause.dispose();
  await isArchived(last);
  expect((await row.inspect()).found).toEqual([]);
});

test("a replica's model that was set by hand › is found, with and without an event, until the leader's was set", async () => {
  await using row = await startRow();
  await using without = await startRow();
  await row.apply('node1');
  expect(await cluster.barman.configSwitch('main', 'pg:node2')).toBe(true);
  await cluster.barmanStreams('node2');
  expect((await row.inspect()).found).toEqual(['(main other-model)']);
  expect((await without.inspect()).found).toEqual(['(main in-recovery)']);
  const { found, remedy } = await row.inspect();
  expect(found).toEqual(['main other-model']);
  expect(remedy('other-model')).toMatch(/`npm run ledger -- --stage STAGE set main MODEL`/);
  const other = await without.inspect();
  expect(other.found).toEqual(['main in-recovery']);
  expect(other.remedy('in-recovery')).toMatch(/`npm run ledger -- --stage STAGE set main pg:node1`/);
  // What that command sends.
  await row.apply('node1');
  expect((await row.inspect()).found).toEqual([]);
  expect((await without.inspect()).found).toEqual([]);
});

test('an active model that leads nowhere, or to the PostgreSQL of another cluster, or was removed › is found until it was corrected', async () => {
  await using stack = new AsyncDisposableStack();
  const row = stack.use(await startRow());
  await row.apply('node1');
  const foreign = await startForeign();
  stack.defer(foreign.stop);
  for (const [model, kind, remedy, ...others] of [
    [to(9), 'no-connection', /`barman check main`/],
    [to(foreign.port), 'other-system', /correct conninfo and streaming_conninfo of \[pg:node1\]/],
    [null, 'other-model', /add \[pg:node1\] to barman\.conf again/, 'node1 model-missing', 'server-errors'],
  ] as const) {
    conf.write({ 'pg:node1': model });
    const more = others.map((one) => `main ${one}`);
    expect((await row.inspect()).found).toEqual([`(main ${kind})`, ...more]);
    const report = await row.inspect();
    expect(report.found).toEqual([...more, `main ${kind}`].sort());
    expect(report.remedy(kind)).toMatch(remedy);
    conf.write();
    expect((await row.inspect()).found).toEqual([]);
  }
});

/** Starts a PostgreSQL that belongs to no cluster. */
async function startForeign(): Promise<{ port: number; stop: () => Promise<void> }> {
  const folder = mkdtempSync(join(cluster.folder, 'foreign-'));
  own(folder, 0o700);
  const port = await freePort();
  const program = (name: string, ...words: string[]) => run(asPostgres(join(POSTGRESQL, name), words));
  await program('initdb', '-D', folder, '-A', 'trust', '--no-sync');
  const options = `-p ${port} -c unix_socket_directories= -c fsync=off`;
  await program('pg_ctl', '-D', folder, '-w', '-l', join(folder, 'log'), '-o', options, 'start');
  const connection = `host=127.0.0.1 port=${port} user=postgres dbname=postgres`;
  await program('psql', connection, '-qc', BARMAN_ROLES);
  const stop = async () => {
    await program('pg_ctl', '-D', folder, '-m', 'immediate', 'stop');
    rmSync(folder, { recursive: true });
  };
  return { port, stop };
}

test('a member that is missing or does not answer › is no finding on the first day, and one on the second until the parameter was corrected', async () => {
  await using row = await startRow();
  const [first, , third] = cluster.restUrls as [string, string, string];
  row.put({
    servers: { main: { ...MODELS, node4: 'pg:node3' } },
    patroni: [first, 'http://127.0.0.1:9', third],
  });
  const report = await row.inspect();
  expect(report.found).toEqual([]);
  expect([report.ready('node1'), report.ready('node2'), report.ready('node4')]).toEqual(['yes', '?', '?']);
  pass(DAY);
  const { found, remedy } = await row.inspect();
  expect(found).toEqual(['main node2 member-unreachable', 'main node4 member-unknown']);
  expect(remedy('member-unreachable')).toMatch(/correct its URL in "patroni" of clusters\/main/);
  expect(remedy('member-unknown')).toMatch(/correct its name in clusters\/main, or remove it there/);
  row.put();
  expect((await row.inspect()).found).toEqual([]);
});

test('a cluster after a failover › has no finding, but one of the timeline if its WAL is not archived', async () => {
  await using row = await startRow();
  await row.apply('node1');
  expect((await row.inspect()).found).toEqual([]);
  using cause = breakFolders(0o555, archiveFolders());
  await cluster.patronictl('switchover', 'main', '--force', '--candidate', 'node2');
  expect(await cluster.healthy()).toBe('node2');
  await row.apply('node2');
  const after = await row.inspect();
  expect(after.found).toEqual([]);
  expect(after.servers[0]?.notes).toEqual([expect.stringMatching(/^no base backup on timeline 2 yet/)]);
  const last = await writeSegments(cluster, 'node2', 4);
  expect((await row.inspect()).found).toEqual([]);
  pass(16 * MINUTE);
  expect((await row.inspect()).found).toEqual(['(main timeline-not-archived)']);
  const { found, remedy } = await row.inspect();
  expect(found).toEqual(['main timeline-not-archived']);
  expect(await carryOut(remedy('timeline-not-archived'))).toMatch(/Permission denied/i);
  cause.dispose();
  await isArchived(last);
  const later = await row.inspect();
  expect(later.found).toEqual([]);
  expect(later.servers[0]?.archived).toMatchObject({ timeline: 2 });
});

test('several Barman servers of one cluster › have no finding: a pooler, names, a VIP, WAL that is copied, a standby, a passive node, a member that is down; only one slot for two is one', async () => {
  await using stack = new AsyncDisposableStack();
  const leader = await cluster.healthy();
  const replica = leader === 'node1' ? 'node2' : 'node1';
  await cluster.kill('node3');
  const pooler = await startProxy(portOf(leader));
  stack.defer(pooler.close);

  const server = { ...conf.original.main, ...to(pooler.port) };
  const behind = (primary: NodeName, standby: NodeName) => ({
    ...to(portOf(standby)),
    ...{ cluster: 'standby', primary_conninfo: conninfo(portOf(primary)) },
  });
  const others: Changes = {
    [`pg:${leader}`]: to(pooler.port),
    [`pg:${replica}`]: to(portOf(replica), 'localhost'),
    twin: { ...server, slot_name: 'barman_twin' },
    copied: { ...server, archiver: 'on', streaming_archiver: 'off', slot_name: null },
    standby: { ...server, ...behind(leader, replica), slot_name: 'barman_standby' },
    [`standby:${leader}`]: { model: 'true', ...behind(leader, replica) },
    [`standby:${replica}`]: { model: 'true', ...behind(replica, leader) },
    // No cluster lists it.
    copy: { ...server, cluster: 'copy', primary_ssh_command: 'false' },
  };
  const models = { ...MODELS, node3: 'pg:node3' };
  const standby = { node1: 'standby:node1', node2: 'standby:node2' };
  const row = stack.use(
    await startRow(cluster, 'main', { servers: { main: models, twin: models, copied: models, standby } }),
  );

  conf.write({ ...others, twin: { ...others.twin, slot_name: 'barman' } });
  const shared = await row.inspect();
  expect(shared.found).toEqual(expect.arrayContaining(['main slot-shared', 'twin slot-shared']));
  expect(shared.remedy('slot-shared')).toMatch(/its own slot_name in barman\.conf, and a permanent slot/);
  conf.write(others);
  const slots = ['barman_twin', 'barman_standby'].flatMap((slot) => ['-s', `slots.${slot}.type=physical`]);
  await cluster.patronictl('edit-config', '--force', ...slots, 'main');
  const hasSlots = async () => (await row.inspect()).found.every((one) => !one.includes('slot'));
  await until(hasSlots, () => `the slots are still found\n${cluster.logs()}`);

  const backup = (one: string) => cluster.barman.run(60_000, 'backup', one);
  await Promise.all(['main', 'twin', 'standby'].map(backup));
  // Barman refuses one until WAL has arrived.
  await until(async () => {
    await writeSegments(cluster, leader, 1);
    return !(await backup('copied')).includes('Impossible');
  }, 'Barman makes no backup of the server that WAL is copied to');
  const last = await writeSegments(cluster, leader, 2);
  for (const one of ['main', 'twin', 'standby', 'copied']) await isArchived(last, one);
  await until(async () => {
    const { members } = (await cluster.rest(leader, 'GET', 'cluster')) as { members: { name: string }[] };
    return members.every(({ name }) => name !== 'node3');
  }, 'Patroni still has node3');

  for (const time of [0, 60 * MINUTE]) {
    pass(time);
    const report = await row.inspect();
    expect(report.found).toEqual([]);
    expect(report.servers.map(({ barman_server }) => barman_server)).toEqual([
      'copied',
      'main',
      'standby',
      'twin',
    ]);
    expect(Object.keys(models).map(report.ready)).toEqual(['yes', 'yes', '?']);
    const notes = report.servers.find(({ barman_server }) => barman_server === 'main')?.notes ?? [];
    expect(notes.join('\n')).toMatch(/connects to localhost, and Patroni has 127\.0\.0\.1/);
    expect(notes.join('\n')).toMatch(/connects to 127\.0\.0\.1 port \d+, and Patroni has 127\.0\.0\.1 port/);
  }
  // All models lead to an address that follows the leader.
  const vip = Object.fromEntries(Object.values(models).map((model) => [model, to(pooler.port)]));
  conf.write({ ...others, ...vip });
  const report = await row.inspect();
  expect(report.found).toEqual([]);
  expect(report.servers[0]?.notes.join()).toMatch(/all models connect to 127\.0\.0\.1/);
});

/** A port that leads to another one, as that of a pooler or a VIP. */
async function startProxy(port: number): Promise<{ port: number; close: () => void }> {
  const server = createServer((socket) => {
    const upstream = connect(port, '127.0.0.1');
    upstream.on('error', () => socket.destroy());
    socket.on('error', () => upstream.destroy());
    socket.pipe(upstream).pipe(socket);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { port: (server.address() as AddressInfo).port, close: () => void server.close() };
}

test('a standby site › has no finding', async () => {
  await using stack = new AsyncDisposableStack();
  const standbyOf = { host: '127.0.0.1', port: portOf((await cluster.leader()) as NodeName) };
  const site = stack.adopt(
    await startCluster({ callback, secret, scope: 'dr', standbyOf, nodes: 1 }),
    (one) => one.stop(),
  );
  const row = stack.use(await startRow(site, 'dr', { servers: { main: { node1: 'pg:node1' } } }));
  await site.barmanStreams('node1');
  new BarmanConf(site.folder, { main: { immediate_checkpoint: 'true' } });
  await site.barman.run(60_000, 'backup', 'main');
  const report = await row.inspect();
  expect(report.found).toEqual([]);
  expect(report.ready('node1')).toBe('yes');
});
