/**
 * Patroni as second witness, from end to end: real nodes whose REST API requires a client certificate, a real
 * Barman, and the function in the process of the test, with a short interval of its heartbeat. Only the HTTP
 * interface of pg-backup-api is a stand-in. The rows share one cluster, and each has a function of its own.
 */

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { ALARMS, DEFAULTS } from '../../infra/monitoring/alarms.ts';
import { documentedCommand, expectedOf, fill, limitOf } from '../documentation.ts';
import type { FunctionUnderTest } from '../integration/function.ts';
import { CertificateAuthority } from '../stand-ins/certificates.ts';
import { createSecret } from '../stand-ins/webhook.ts';
import { startCluster } from './cluster.ts';
import type { NodeName, RestTls } from './cluster-files.ts';
import { type Endpoint, startEndpoint } from './endpoint.ts';
import { type Beat, type Observer, PROMOTION, startObserver } from './observer.ts';
import { other, type PatroniCluster } from './patroni-cluster.ts';
import { own, send, until, writeOwned } from './processes.ts';

const MODELS = { node1: 'pg:node1', node2: 'pg:node2' };
const secret = createSecret();
let tls: RestTls;
let endpoint: Endpoint;
let cluster: PatroniCluster;
let callbackOptions: readonly string[];
/** The function of the row that runs, and what it answered to callbacks. */
let current: FunctionUnderTest | undefined;
let answers: { exit_code?: number }[] = [];

beforeAll(async () => {
  const ca = await CertificateAuthority.create();
  tls = { ca: ca.cert, server: await ca.server(), client: await ca.client() };
  endpoint = await startEndpoint(async (body, headers) => {
    if (!current) return { status: 503, response: {} };
    const { statusCode, response } = await current.webhook(body, { headers });
    answers.push(response as { exit_code?: number });
    return { status: statusCode, response };
  }, tls.server);
  const caFile = join(inject('folder'), 'observation-ca.pem');
  writeFileSync(caFile, ca.cert);
  callbackOptions = ['--url', endpoint.url, '--ca-file', caFile];
  cluster = await startCluster({ callback: callbackOptions, secret, tls });
}, 200_000);

afterAll(async () => {
  await cluster?.stop();
  await endpoint?.[Symbol.asyncDispose]();
}, 120_000);

/** Starts the function of a row, for a cluster; its name is the one of the parameter, and Patroni's scope. */
async function startRow(of = cluster, name = 'main', { clientCertificate = true } = {}): Promise<Observer> {
  const { cert, key } = tls.client;
  const row = await startObserver(of.barman, {
    'patroni-ca-cert': tls.ca,
    ...(clientCertificate && { 'patroni-client-cert': cert, 'patroni-client-key': key }),
    [`clusters/${name}`]: JSON.stringify({ servers: { main: MODELS }, patroni: of.restUrls, secret }),
  });
  current = row.run;
  answers = [];
  const dispose = async () => {
    current = undefined;
    await row[Symbol.asyncDispose]();
  };
  return { ...row, [Symbol.asyncDispose]: dispose };
}

/** Starts a function that has set Barman to the leader by an event, and sees that Barman streams from it. */
async function startInSync(of = cluster): Promise<Observer & { readonly leader: NodeName }> {
  const leader = await of.healthy();
  const row = await startRow(of);
  try {
    // As the callbacks of the row do: an event that names its model would win over them for half a minute.
    const event = { ...PROMOTION, barman_model: undefined, follow_leader: true };
    expect((await row.run.webhook(event, { secret })).response).toMatchObject({ exit_code: 0 });
    await of.barmanStreams(leader);
    expect((await row.beat()).observed).toEqual({ reconciled: [], first: [], notStreaming: [], unknown: [] });
    return { ...row, leader };
  } catch (error) {
    await row[Symbol.asyncDispose]();
    throw error;
  }
}

/** Whether a node has the slot `barman`. */
const hasSlot = async (name: NodeName) =>
  (await cluster.query(name, "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'barman'")) === '1';
const isKnown = ({ observed }: Beat) => observed.unknown.length === 0;
const isStreaming = ({ metrics }: Beat) => metrics.NotStreaming === 0;
/** Whether a callback of this row has led to a switch that is DONE. */
const switchDone = () => answers.some(({ exit_code }) => exit_code === 0);
const seconds = (from: number, to = Date.now()) => `${((to - from) / 1_000).toFixed(1)} s`;

const WAL_PAGE = 'docs/how-to/wal-does-not-arrive.md';

/** What the documentation says that `barman receive-wal` prints for a cause. */
function printedFor(cause: string): RegExp {
  const lines = readFileSync(WAL_PAGE, 'utf8').split('\n');
  const row = lines.find((line) => line.split(' | ')[1]?.startsWith(cause));
  const words = /^\| `([^`]+)`/.exec(row ?? '')?.[1];
  if (!words) throw new Error(`${WAL_PAGE} does not say what is printed if ${cause}`);
  return new RegExp(words.replace(/[.*+?^$()|[\]{}\\]/g, '\\$&').replaceAll('…', '.*'));
}

test('the leader › is unknown without the client certificate that the REST API requires, and the reason says so', async () => {
  await cluster.healthy();
  await using row = await startRow(cluster, 'main', { clientCertificate: false });
  const { observed, metrics } = await row.beat();
  console.log(`without a client certificate: ${JSON.stringify(observed.unknown)}`);
  expect(observed).toMatchObject({ reconciled: [], notStreaming: [] });
  expect(observed.unknown).toEqual([
    {
      cluster: 'main',
      reason: expect.stringMatching(/^no node answered: .*there is no patroni-client-cert/),
    },
  ]);
  expect(metrics).toMatchObject({ LeaderUnknown: 1, Reconciled: 0 });
  expect(row.run.host.api.operations()).toEqual([]);
});

test('the callback › exits with 4 for a Barman server of another cluster, and nothing is moved', async () => {
  await using row = await startInSync();
  const { api } = row.run.host;
  row.run.host.put({
    'clusters/other': JSON.stringify({ servers: { other: MODELS }, secret: createSecret() }),
  });
  const before = { model: cluster.barman.active, operations: api.operations() };
  const { code, output } = await cluster.callback(
    // It tries a refusal again: the function may not know a new server yet.
    ...['--secret-file', join(cluster.folder, 'webhook-secret'), '--max-retries', '1'],
    ...['config-switch', '--barman-server', 'other', '--barman-model', 'pg:node1'],
    ...['--switch-when', 'promoted', 'on_role_change', 'primary', 'main'],
  );
  expect(output).toMatch(/clusters\/main may not switch Barman server other; add the server there/);
  expect(code).toBe(4);
  expect({ model: cluster.barman.active, operations: api.operations() }).toEqual(before);
  expect(await row.run.ledger.get('other', AbortSignal.timeout(5_000))).toBeUndefined();
});

test('Barman › is set to the leader again within four heartbeats after a replica was applied by hand', async () => {
  await using row = await startInSync();
  const { leader } = row;
  const start = Date.now();
  // One heartbeat stands for one minute.
  const [, leadersModel = ''] = expectedOf('A wrong model by hand').split('. ');
  expect(await cluster.barman.configSwitch('main', `pg:${other(leader)}`)).toBe(true);
  await until(async () => !(await cluster.streamingSince(leader)), 'Barman still streams from the leader');
  await cluster.barmanStreams(other(leader));
  console.log(`replica by hand: receive-wal prints ${await cluster.barman.receiveWal()}`);
  const beats = row.beats();
  await until(() => beats.all.some(({ applied }) => applied === 1), 'the model is not applied again');
  const count = beats.all.findIndex(({ applied }) => applied === 1) + 1;
  expect(count).toBeLessThanOrEqual(limitOf(leadersModel) / 60_000);
  for (const { observed } of beats.all.slice(0, count)) {
    expect(observed).toMatchObject({
      reconciled: [],
      notStreaming: [{ barman_server: 'main' }],
      unknown: [],
    });
  }
  expect(cluster.barman.active.model).toBe(`pg:${leader}`);
  const streams = await cluster.barmanStreams(leader);
  console.log(
    `replica by hand: Barman streams from the leader after ${count} heartbeats, ${seconds(start, streams)}`,
  );
  await beats.next(isStreaming, 'it is still not streaming');
});

test('Barman › does not stream after a switchover to a node without the slot, until the command of the documentation was run', async () => {
  await using row = await startInSync();
  const { leader } = row;
  const { Threshold } = DEFAULTS;
  const { MetricName = '' } = ALARMS['Act now']?.['not-streaming'] ?? {};
  await cluster.patronictl('edit-config', '--force', '-s', 'slots=null', 'main');
  await until(async () => !(await hasSlot(other(leader))), 'the replica still has the slot');
  expect(await cluster.switchover()).toBe(other(leader));
  await until(switchDone, 'no event has switched');
  expect(cluster.barman.active.model).toBe(`pg:${other(leader)}`);
  const start = Date.now();

  const beats = row.beats();
  const alarm = () => beats.all.some(({ metrics }) => Number(metrics[MetricName]) >= Threshold);
  await until(alarm, 'the metric does not raise the alarm');
  console.log(`slot missing: the alarm would come after ${seconds(start)}`);
  for (const { observed } of beats.all.slice(-5)) {
    expect(observed).toMatchObject({ reconciled: [], notStreaming: [{ barman_server: 'main' }] });
  }
  const printed = await cluster.barman.whyNotStreaming();
  console.log(`slot missing: receive-wal prints ${printed}`);
  expect(printed).toMatch(printedFor('the new leader has no slot'));

  const remedied = Date.now();
  const remedy = documentedCommand('docs/how-to/wal-does-not-arrive.md', 'patronictl edit-config');
  await cluster.patronictl(...fill(remedy, { 'patronictl ': '', CLUSTER: 'main' }).split(' '));
  await cluster.barmanStreams(other(leader));
  console.log(`slot missing: Barman streams ${seconds(remedied)} after the remedy`);
  await beats.next(isStreaming, 'it is still not streaming');
  const running = await cluster.barman.receiveWal();
  console.log(`streaming: receive-wal prints ${running}`);
  expect(running).toMatch(printedFor('it streams from another node'));
  // The rows that follow need it.
  await until(() => hasSlot(leader), 'the new replica has no slot');
});

test('Barman › does not stream after a promotion by hand that Patroni has undone, until the commands of the documentation were run', async () => {
  await using row = await startInSync();
  const { leader } = row;
  const replica = other(leader);
  await cluster.caughtUp();
  await cluster.patronictl('pause', 'main', '--wait');
  await cluster.pgCtl(replica, 'promote');
  expect(await cluster.barman.configSwitch('main', `pg:${replica}`)).toBe(true);
  await cluster.barmanStreams(replica);
  const file = await cluster.writeWal(replica);
  await until(() => cluster.barman.received(`${file}.partial`), 'Barman does not receive WAL of the replica');
  const prefix = file.slice(0, 8);
  const timeline = Number.parseInt(prefix, 16);
  // Patroni keeps its leader, and makes the other one a replica again.
  await cluster.patronictl('resume', 'main', '--wait');
  expect(await cluster.healthy()).toBe(leader);

  const beats = row.beats();
  await until(() => cluster.barman.active.model === `pg:${leader}`, 'the model is not applied again');
  await beats.next(({ metrics }) => metrics.NotStreaming === 1, 'no heartbeat reports it');
  const printed = await cluster.barman.whyNotStreaming();
  console.log(`timeline ${timeline} of a promotion by hand: receive-wal prints ${printed}`);
  expect(printed).toMatch(printedFor('Barman had streamed from a node that was promoted by hand'));
  expect(printed).toContain(`starting timeline ${timeline} `);

  const remedied = Date.now();
  // From an earlier promotion with that number.
  mkdirSync(cluster.barman.movedAway, { recursive: true });
  own(cluster.barman.movedAway, 0o755);
  writeOwned(join(cluster.barman.movedAway, `${prefix}.history`), 'earlier', 0o644);
  await cluster.barman.moveTimelineAway(timeline);
  const kept = readFileSync(join(cluster.barman.movedAway, `${prefix}.history.~1~`), 'utf8');
  expect(kept).toBe('earlier');
  await cluster.barmanStreams(leader);
  console.log(`timeline ${timeline}: Barman streams ${seconds(remedied)} after the remedy`);
  await beats.next(isStreaming, 'it is still not streaming');
  // The next promotion begins a timeline with the same number.
  await cluster.caughtUp();
  expect(await cluster.switchover()).toBe(replica);
  await until(switchDone, 'no event has switched');
  await cluster.barmanStreams(replica);
  await cluster.walArrives(replica);
  await until(() => cluster.barman.received(`${prefix}.history`), 'Barman has no history of the timeline');
  expect(await cluster.writeWal(replica)).toMatch(new RegExp(`^${prefix}`));
  // It may refuse the end of the leader's old timeline, a `.partial` file: it has one from when it was set to
  // the replica.
  expect(cluster.barman.log()).not.toMatch(new RegExp(`\\b${prefix}\\S* is already present`));
});

test('Barman › is set once by the event after the leader was killed, and by no heartbeat meanwhile', async () => {
  await using row = await startInSync();
  const { leader } = row;
  await until(() => hasSlot(other(leader)), 'the replica has no slot');
  await cluster.caughtUp();
  const before = { models: cluster.barman.changes.length, operations: row.run.host.api.operations().length };
  const beats = row.beats();
  await cluster.kill(leader);
  const killed = Date.now();
  await until(switchDone, 'no event has switched');
  const switched = Date.now();
  await cluster.barmanStreams(other(leader));
  // Until a heartbeat knows the leader, and that Barman streams from it.
  await beats.next((beat) => isKnown(beat) && isStreaming(beat), 'the leader is still unknown');
  const unknown = beats.all.filter((beat) => !isKnown(beat)).length;
  const count = `${beats.all.length} heartbeats, leader unknown in ${unknown}`;
  console.log(`leader killed: event after ${seconds(killed, switched)}, ${count}`);
  // Nor does any while the old leader comes back.
  cluster.startNode(leader);
  await cluster.healthy();
  await beats.stop();
  expect(beats.all.flatMap(({ observed }) => observed.reconciled)).toEqual([]);
  expect(beats.all.map(({ applied }) => applied)).not.toContain(1);
  expect(cluster.barman.changes.slice(before.models).map(({ model }) => model)).toEqual([
    `pg:${other(leader)}`,
  ]);
  expect(row.run.host.api.operations().slice(before.operations)).toMatchObject([
    { target: `pg:${other(leader)}`, success: true },
  ]);
  expect(await cluster.streamingSince(other(leader))).toBeDefined();
});

test('the leader › is unknown while etcd hangs in failsafe mode, nothing is changed, and it is known again afterwards', async () => {
  await using row = await startInSync();
  const { api } = row.run.host;
  await cluster.patronictl('edit-config', '--force', '-s', 'failsafe_mode=true', 'main');
  // Each node has read whom it has to ask in failsafe mode.
  await until(async () => {
    const asked = cluster.names.map((name) => cluster.rest(name, 'GET', 'failsafe').catch(() => ({})));
    return (await Promise.all(asked)).every((members) => Object.keys(members as object).length === 2);
  }, 'failsafe mode is not active');
  const before = { operations: api.operations(), model: cluster.barman.active };
  const beats = row.beats();
  await beats.next(isKnown, 'no heartbeat');
  await cluster.signal('etcd', 'etcd', 'SIGSTOP');
  const stopped = Date.now();
  try {
    await sleep(60_000);
    // Failsafe mode has kept the primary.
    expect(await cluster.query(row.leader, 'SELECT pg_is_in_recovery()')).toBe('f');
  } finally {
    await cluster.signal('etcd', 'etcd', 'SIGCONT');
  }
  const during = beats.all.filter(({ at }) => at > stopped);
  const unknown = during.filter(({ observed }) => observed.unknown.length > 0);
  const reasons = unknown.map(({ observed }) => observed.unknown[0]?.reason);
  console.log(
    `etcd hangs: the leader is unknown after ${seconds(stopped, unknown[0]?.at)}: ${[...new Set(reasons)].join('; ')}`,
  );
  expect((unknown[0]?.at ?? Number.POSITIVE_INFINITY) - stopped).toBeLessThan(45_000);
  // Once it is unknown, it stays unknown.
  expect(during.slice(-unknown.length)).toEqual(unknown);
  for (const { observed, metrics } of unknown) {
    expect(observed).toMatchObject({
      reconciled: [],
      notStreaming: [],
      unknown: [{ cluster: 'main', reason: expect.stringMatching(/failsafe mode|no answer in time|DCS/) }],
    });
    expect(metrics).toMatchObject({ LeaderUnknown: 1, Reconciled: 0, NotStreaming: 0 });
  }
  expect({ operations: api.operations(), model: cluster.barman.active }).toEqual(before);
  const resumed = Date.now();
  await beats.next(isKnown, 'the leader is still unknown', 90_000);
  console.log(`etcd is back: the leader is known after ${seconds(resumed)}`);
  await cluster.barmanStreams(await cluster.healthy());
});

test('Barman › does not stream if it is ahead of the fork, until the commands of the documentation were run, and misses no WAL', async () => {
  // A cluster of its own: Barman gets WAL here that the rows after it would meet again.
  await using stack = new AsyncDisposableStack();
  const options = { callback: callbackOptions, secret, tls };
  const forked = stack.adopt(await startCluster(options), (one) => one.stop());
  const row = stack.use(await startInSync(forked));
  const { leader } = row;
  const replica = other(leader);
  await forked.caughtUp();
  await forked.patronictl('edit-config', '--force', '-s', 'maximum_lag_on_failover=1073741824', 'main');
  // The leader is cut off from the other node, not from Barman.
  const receiver = Number(await forked.query(replica, 'SELECT pid FROM pg_stat_wal_receiver'));
  send(receiver, 'SIGSTOP');
  // More than the kernel keeps for the receiver, in several segments.
  const write = "SELECT pg_logical_emit_message(false, '', repeat('x', 1048576)) FROM generate_series(1, 16)";
  for (let segment = 0; segment < 5; segment += 1) {
    await forked.query(leader, write);
    await forked.query(leader, 'SELECT pg_switch_wal()');
  }
  const file = await forked.writeWal(leader);
  // At the end of a segment that is the segment before, which is perhaps complete by now.
  const isReceived = () => [file, `${file}.partial`].some((name) => forked.barman.received(name));
  await until(isReceived, 'Barman does not receive WAL of the leader');
  await forked.kill(leader);
  send(receiver, 'SIGCONT');
  await until(switchDone, 'no event has switched');
  expect(forked.barman.active.model).toBe(`pg:${replica}`);
  const fork = await forked.query(replica, 'SELECT pg_walfile_name(pg_current_wal_lsn())');
  expect(fork.slice(8) < file.slice(8), `Barman is not ahead: ${fork}, ${file}`).toBe(true);
  const printed = await forked.barman.whyNotStreaming();
  console.log(`ahead of the fork: receive-wal prints ${printed}`);
  expect(printed).toMatch(printedFor('Barman had received WAL that the new leader never had'));

  const remedied = Date.now();
  await forked.barman.moveAheadAway();
  await forked.barmanStreams(replica);
  console.log(`ahead of the fork: Barman streams ${seconds(remedied)} after the remedy`);
  await forked.walArrives(replica);
  // From the old timeline's last common segment on, nothing is missing.
  const timeline = fork.slice(0, 8);
  await until(() => forked.barman.received(`${timeline}.history`), 'Barman has no history of the timeline');
  await until(() => forked.barman.received(fork), `Barman has not received ${fork}`);
  expect(forked.barman.log()).not.toMatch(/has already been removed/);
});

test('Barman › is set to the new standby leader after a switchover in a standby cluster, by its event, or by the heartbeat without one', async () => {
  const upstream = await cluster.healthy();
  await using stack = new AsyncDisposableStack();
  const standbyOf = { host: '127.0.0.1', port: cluster.address(upstream).postgres };
  const options = { callback: callbackOptions, secret, tls, scope: 'dr', standbyOf };
  const standby = stack.adopt(await startCluster(options), (one) => one.stop());
  const row = stack.use(await startRow(standby, 'dr'));
  const beats = row.beats();
  const leader = await standby.healthy();
  // No event has ever named the server.
  await until(
    () => standby.barman.active.model === `pg:${leader}`,
    'Barman is not set to the standby leader',
  );
  await standby.barmanStreams(leader);
  await beats.next(isStreaming, 'it is not streaming');
  // Without an event.
  standby.disableCallbacks();
  const start = Date.now();
  expect(await standby.switchover()).toBe(other(leader));
  // The first observation counts as a role change of half a minute before it, and another has to wait for one
  // minute after that.
  await until(() => standby.barman.active.model === `pg:${other(leader)}`, 'Barman does not follow', 90_000);
  console.log(
    `standby cluster: Barman's active model ${seconds(start, standby.barman.active.at)} after the switchover began`,
  );
  await standby.barmanStreams(other(leader));
  await beats.next(isStreaming, 'it is not streaming');
  expect(beats.all.flatMap(({ observed }) => [...observed.first, ...observed.reconciled])).toMatchObject([
    { message: expect.stringContaining(`Patroni's leader is ${leader}:`) },
    { message: expect.stringContaining(`Patroni's leader is ${other(leader)}:`) },
  ]);
  // With an event.
  standby.enableCallbacks();
  answers = [];
  expect(await standby.switchover()).toBe(leader);
  await until(switchDone, 'no event has switched');
  await standby.barmanStreams(leader);
  expect(standby.barman.active.model).toBe(`pg:${leader}`);
});
