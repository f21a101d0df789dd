/**
 * Backups from a standby, from end to end, as docs/how-to/backups-from-a-standby.md has them: two nodes with Patroni, a
 * real Barman, and the function in the process of the test. Only the HTTP interface of pg-backup-api is a stand-in.
 * The tests are steps of one story.
 */

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { blocks, documentedCommand, fill } from '../documentation.ts';
import { ledger, startLambda } from '../integration/ledger-command.ts';
import { createSecret } from '../stand-ins/webhook.ts';
import { BarmanConf, parse } from './barman-conf.ts';
import { startCluster } from './cluster.ts';
import type { NodeName } from './cluster-files.ts';
import { type Endpoint, startEndpoint } from './endpoint.ts';
import { type Observer, startObserver } from './observer.ts';
import { other, type PatroniCluster } from './patroni-cluster.ts';
import { until, writeOwned } from './processes.ts';

const PAGE = 'docs/how-to/backups-from-a-standby.md';
const secret = createSecret();
let endpoint: Endpoint;
let cluster: PatroniCluster;
let conf: BarmanConf;
let observer: Observer | undefined;
/** How many reloads nodes have reported. */
let reloads = 0;

beforeAll(async () => {
  endpoint = await startEndpoint(async (body, headers) => {
    if (body.includes('on_reload')) reloads += 1;
    if (!observer) return { status: 503, response: {} };
    const { statusCode, response } = await observer.run.webhook(body, { headers });
    return { status: statusCode, response };
  });
  cluster = await startCluster({ callback: ['--url', endpoint.url], secret });
  conf = new BarmanConf(cluster.folder, { main: { immediate_checkpoint: 'true' } });
}, 200_000);

afterAll(async () => {
  await cluster?.stop();
  await endpoint?.[Symbol.asyncDispose]();
}, 120_000);

/** The function, with a parameter of the cluster, and `npm run ledger` for it. */
async function startRow(parameter: object) {
  const value = JSON.stringify({ ...parameter, secret });
  const row = await startObserver(cluster.barman, { 'clusters/main': value });
  const lambda = await startLambda((event, alias) => row.run.send(event, 60_000, alias));
  observer = row;
  return {
    ...row,
    ledger: (...words: string[]) => ledger(row.run.table, ...words),
    /** Inspects twice, since a finding about the archive counts then. @returns what was found */
    inspect: async () => {
      await ledger(row.run.table, 'check');
      const { servers } = JSON.parse((await ledger(row.run.table, 'check', '--json')).log);
      return servers.flatMap(({ findings }: { findings: object[] }) => findings);
    },
    [Symbol.asyncDispose]: async () => {
      observer = undefined;
      await lambda[Symbol.asyncDispose]();
      await row[Symbol.asyncDispose]();
    },
  };
}

/** Replaces the last line of each node's callback, and reloads Patroni. */
async function setCallbacks(lineOf: (name: NodeName) => string): Promise<void> {
  for (const name of cluster.names) {
    const file = join(cluster.folder, `${name}.d`, '0.yml');
    const text = readFileSync(file, 'utf8').replace(/config-switch --barman-server .*/, lineOf(name).trim());
    writeOwned(file, text, 0o600);
  }
  const expected = reloads + cluster.names.length;
  await cluster.patronictl('reload', 'main', '--force');
  await until(
    () => reloads >= expected,
    () => `a node has not reported\n${cluster.logs()}`,
  );
}

/** Waits until Barman has the model of a node. */
function barmanHas(model: NodeName): Promise<void> {
  const isActive = () => cluster.barman.active.model === `pg:${model}`;
  return until(isActive, () => `pg:${model} is not the active model\n${cluster.logs()}`);
}

/** The same, and until it streams from a node. */
async function barmanUses(model: NodeName, node: NodeName): Promise<void> {
  await barmanHas(model);
  await cluster.barmanStreams(node);
}

/** Fills a segment of WAL, and begins one more. */
async function fillSegment(leader: NodeName): Promise<void> {
  // Its commit waits until it is on the disk, from which WAL is sent.
  const write = "SELECT pg_logical_emit_message(true, '', 'x')";
  for (const sql of [write, 'SELECT pg_switch_wal()', write]) await cluster.query(leader, sql);
}

/** Waits until PostgreSQL has a limit of the WAL that slots keep. */
async function limitIs(limit: string): Promise<void> {
  const isSet = async () => (await cluster.query('node1', 'SHOW max_slot_wal_keep_size')) === limit;
  await until(isSet, `the limit is not ${limit}`);
}

/** Lets the leader's slot be lost. PostgreSQL keeps less WAL for that than the page has it do. */
async function loseSlot(leader: NodeName): Promise<void> {
  const less = ['wal_keep_size=16MB', 'max_slot_wal_keep_size=16MB'].flatMap((setting) => [
    '-s',
    `postgresql.parameters.${setting}`,
  ]);
  await cluster.patronictl('edit-config', '--force', ...less, 'main');
  await limitIs('16MB');
  for (let segment = 0; segment < 5; segment += 1) await fillSegment(leader);
  await cluster.query(leader, 'CHECKPOINT');
  const log = () => readFileSync(join(cluster.folder, `${leader}.log`), 'utf8');
  await until(() => /slot 'barman' with wal_status=lost/.test(log()), 'the slot is not lost');
}

/** Makes a base backup, and waits until WAL of the leader has made it complete. */
async function backsUpFrom(node: NodeName): Promise<void> {
  const command = (...words: string[]) => cluster.barman.run(60_000, ...words, 'main', 'latest');
  await cluster.barman.run(60_000, 'backup', 'main');
  // PostgreSQL writes there what it was at that time.
  const folder = join(cluster.folder, 'barman/main/base');
  const label = join(folder, readdirSync(folder).toSorted().at(-1) ?? '', 'data/backup_label');
  expect(readFileSync(label, 'utf8')).toContain('BACKUP FROM: standby');
  expect(await command('show-backup')).toMatch(new RegExp(`PGDATA directory +: .*/${node}$`, 'm'));
  await fillSegment(other(node));
  const isDone = async () => / Status +: DONE$/m.test(await command('show-backup'));
  await until(isDone, () => `the backup is not complete\n${cluster.logs()}`);
}

const seconds = (from: number, to = Date.now()) => `${((to - from) / 1_000).toFixed(1)} s`;

test('Barman › backs up from the standby with `--switch-when demoted`, also after a switchover, and no heartbeat moves it', async () => {
  const limit = documentedCommand('docs/how-to/backups-from-a-standby.md', 'patronictl edit-config');
  await cluster.patronictl(...fill(limit, { 'patronictl ': '' }).split(' '));
  await using row = await startRow(JSON.parse(blocks(PAGE, 'json')[0] ?? ''));
  await setCallbacks((name) => fill(blocks(PAGE, 'yaml')[0] ?? '', { node1: name }));
  await row.beat();
  const set = documentedCommand('docs/how-to/backups-from-a-standby.md', 'npm run ledger');
  const words = fill(set, { 'npm run ledger -- --stage prod ': '' }).split(' ');
  const { log, error } = await row.ledger(...words);
  expect(log).toBe(blocks(PAGE, '')[0]);
  expect(error).toBe('');
  await barmanUses('node2', 'node2');
  await limitIs('10GB');
  await backsUpFrom('node2');
  expect(await row.inspect()).toEqual([]);

  await loseSlot('node1');
  const before = cluster.barman.changes.length;
  const start = Date.now();
  expect(await cluster.switchover()).toBe('node2');
  await barmanUses('node1', 'node1');
  console.log(`demoted: Barman streams from the new standby ${seconds(start)} after the switchover began`);
  await cluster.healthy();
  await backsUpFrom('node1');
  for (let beat = 0; beat < 4; beat += 1) {
    expect(await row.beat()).toMatchObject({ applied: 0, metrics: { NotStreaming: 0, LeaderUnknown: 0 } });
  }
  expect(cluster.barman.changes.length).toBe(before + 1);
  expect((await row.ledger()).log).toMatch(/^main +in sync +pg:node1 \w+ +pg:node1 \w+ +– +– /m);
  expect(await row.inspect()).toEqual([]);
  expect(await cluster.barman.run(60_000, 'switch-wal', 'main')).toContain('No switch performed');
});

test('Barman › backs up from the standby by the models with `primary_conninfo`, also after a switchover, and a restore has every row', async () => {
  const leader = await cluster.healthy();
  const standby = other(leader);
  const place = (name: NodeName) => `127.0.0.1 port=${cluster.address(name).postgres}`;
  // That of node1; the other one has the nodes the other way round.
  const [model = ''] = blocks(PAGE, 'ini');
  const modelOf = (name: NodeName) =>
    parse(fill(model, { '10.0.1.11 port=5432': place(name), '10.0.1.12 port=5432': place(other(name)) }))[
      'pg:node1'
    ] ?? {};
  conf.write({ 'pg:node1': modelOf('node1'), 'pg:node2': modelOf('node2') });
  await using row = await startRow({
    servers: { main: { node1: 'pg:node1', node2: 'pg:node2' } },
    patroni: cluster.restUrls,
    ...{ streaming_archiver_name: null },
  });
  await setCallbacks(() => 'config-switch --barman-server main --follow-leader --switch-when promoted');
  const beats = row.beats();
  await barmanUses(leader, standby);
  await backsUpFrom(standby);
  expect(await row.inspect()).toEqual([]);

  const start = Date.now();
  expect(await cluster.switchover()).toBe(standby);
  await barmanUses(standby, leader);
  console.log(
    `primary_conninfo: Barman streams from the new standby ${seconds(start)} after the switchover began`,
  );
  await cluster.healthy();
  await backsUpFrom(leader);
  expect(await row.inspect()).toEqual([]);
  await cluster.query(standby, 'CREATE TABLE rows AS SELECT generate_series(1, 1000)');
  const { answer } = await cluster.barman.restore('SELECT count(*) FROM rows');
  expect(answer).toMatch(/^1000\n/);

  // The node that Barman is connected to leads then, so that no WAL arrives until the other one is back.
  await cluster.kill(standby);
  await barmanHas(leader);
  cluster.startNode(standby);
  await cluster.healthy();
  await barmanUses(leader, standby);
  await backsUpFrom(standby);
  await beats.stop();
  expect(beats.all.map(({ metrics }) => metrics.NotStreaming)).not.toContain(1);
  expect(await row.inspect()).toEqual([]);
});
