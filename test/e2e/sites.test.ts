/**
 * One Barman server for two sites, from end to end: a primary cluster, a standby cluster of it, each with an
 * etcd of its own, one Barman with models of all their nodes, and the function in the process of the test, with
 * a short interval of its heartbeat. The members of both sites have the same names: the site decides. Only the
 * HTTP interface of pg-backup-api is a stand-in. The tests are steps of one story.
 */

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { CertificateAuthority } from '../stand-ins/certificates.ts';
import { createSecret } from '../stand-ins/webhook.ts';
import { startCluster } from './cluster.ts';
import type { NodeName } from './cluster-files.ts';
import { type Endpoint, startEndpoint } from './endpoint.ts';
import { loopback } from './loopback.ts';
import { type Beat, type Beats, type Observer, startObserver } from './observer.ts';
import type { PatroniCluster } from './patroni-cluster.ts';
import { until } from './processes.ts';

/** Another site is followed after so many intervals of the heartbeat, less a quarter, as the only primary (ms). */
const OTHER_SITE = 4.75 * 5_000;

let endpoint: Endpoint;
let dc1: PatroniCluster;
let dc2: PatroniCluster;
let observer: Observer;
let beats: Beats;

beforeAll(async () => {
  const ca = await CertificateAuthority.create();
  endpoint = await startEndpoint(
    async (body, headers) => {
      if (!observer) return { status: 503, response: {} };
      const { statusCode, response } = await observer.run.webhook(body, { headers });
      return { status: statusCode, response };
    },
    await ca.server(),
  );
  const caFile = join(inject('folder'), 'sites-ca.pem');
  writeFileSync(caFile, ca.cert);
  const [hosts1, hosts2] = [await loopback(), await loopback()];
  const secret = createSecret();
  const callback = ['--url', endpoint.url, '--ca-file', caFile];
  const options = { callback, secret };
  const named = [...hosts2.nodes].map(([name, address]) => [`dc2-${name}`, address] as const);
  const barmanNodes = new Map([...hosts1.nodes, ...named]);
  dc1 = await startCluster({ ...options, hosts: hosts1, scope: 'dc1', barmanNodes });
  const standbyOf = { host: '127.0.0.1', port: dc1.address('node1').postgres };
  dc2 = await startCluster({ ...options, hosts: hosts2, scope: 'dc2', barmanNodes: null, standbyOf });
  const cluster = (of: PatroniCluster, main: Record<string, string>) =>
    JSON.stringify({ servers: { main }, patroni: of.restUrls, secret });
  observer = await startObserver(dc1.barman, {
    'clusters/dc1': cluster(dc1, { node1: 'pg:node1', node2: 'pg:node2' }),
    'clusters/dc2': cluster(dc2, { node1: 'pg:dc2-node1', node2: 'pg:dc2-node2' }),
  });
  beats = observer.beats();
  await barmanFollows(dc1, 'node1');
}, 200_000);

afterAll(async () => {
  await beats?.stop();
  await dc2?.stop();
  await dc1?.stop();
  await observer?.[Symbol.asyncDispose]();
  await endpoint?.[Symbol.asyncDispose]();
}, 120_000);

const modelOf = (site: PatroniCluster, name: NodeName) => (site === dc2 ? `pg:dc2-${name}` : `pg:${name}`);
const active = () => dc1.barman.active.model;
/** How often Barman's model was changed so far. */
const changes = () => dc1.barman.changes.length;
/** Why the leader that Barman follows is unknown, in a heartbeat; empty: it is known. */
const unknown = ({ observed }: Beat) =>
  observed.unknown
    .flatMap(({ barman_server, reason }) => (barman_server === 'main' ? reason : []))
    .join('; ');
const isKnown = (beat: Beat) => unknown(beat) === '';
const seconds = (from: number, to = Date.now()) => `${((to - from) / 1_000).toFixed(1)} s`;

/** Waits until a node's model is the active one, and Barman streams from it. */
async function barmanFollows(site: PatroniCluster, name: NodeName, limit?: number): Promise<void> {
  const model = modelOf(site, name);
  const found = () => `Barman does not follow ${model}, but ${active()}: ${JSON.stringify(beats.all.at(-1))}`;
  await until(() => active() === model, found, limit);
  await site.barmanStreams(name);
  await until(async () => !(await observer.run.item())?.lease, 'the switch does not end');
}

/** Waits for the second heartbeat from now on whose reason why the leader is unknown is as expected. */
async function staysUnknown(reason: RegExp): Promise<void> {
  for (let beat = 0; beat < 2; beat += 1) {
    const last = () => `the reason is not ${reason}: ${unknown(beats.all.at(-1) as Beat)}`;
    const start = Date.now();
    await until(() => beats.all.some((one) => one.at >= start && reason.test(unknown(one))), last);
  }
}

/** Changes the dynamic configuration of a site, also while none of its nodes runs. */
const configure = (site: PatroniCluster, scope: string, ...settings: string[]) =>
  site.patronictl('edit-config', '--force', ...settings.flatMap((one) => ['-s', one]), scope);

test('Barman › follows a switchover inside the primary site, by the event of the new leader', async () => {
  expect(await dc1.switchover()).toBe('node2');
  await barmanFollows(dc1, 'node2', 15_000);
  expect(beats.all.flatMap(({ observed }) => observed.reconciled)).toEqual([]);
});

test('Barman › is not changed by a switchover inside the standby site', async () => {
  const before = changes();
  expect(await dc2.switchover()).toBe('node2');
  await dc2.healthy();
  await beats.next(isKnown, 'the leader is unknown');
  await beats.next(isKnown, 'the leader is unknown');
  expect(changes()).toBe(before);
});

test('Barman › is not changed while the primary site does not answer', async () => {
  const before = changes();
  for (const name of dc1.names) await dc1.signal(name, 'patroni', 'SIGSTOP');
  await staysUnknown(
    /no site has a leader that is known to be a primary: in dc1 .*; in dc2 node2 is a standby/,
  );
  dc1.heal();
  await beats.next(isKnown, 'the leader is still unknown');
  expect(changes()).toBe(before);
});

test('Barman › is not changed while both sites have a primary, nor while one of them does not answer for less than five intervals', async () => {
  const before = changes();
  await configure(dc2, 'dc2', 'standby_cluster=null');
  const both = /several sites have a primary: node2 in dc1, node2 in dc2/;
  await staysUnknown(both);
  for (const name of dc1.names) await dc1.signal(name, 'patroni', 'SIGSTOP');
  await staysUnknown(/follows dc1, and the only primary is in dc2 since .*: it is followed after/);
  dc1.heal();
  await staysUnknown(both);
  expect(changes()).toBe(before);
  expect((await observer.run.item())?.site).toBe('dc1');
  // The reason is in the ledger, for the operator, and in the log.
  const { heartbeat } = await observer.run.ledger.stage(AbortSignal.timeout(5_000));
  const reported = heartbeat?.clusters.flatMap(({ servers }) => servers.map((server) => server.unknown));
  expect(reported).toContainEqual(expect.stringMatching(both));
  expect(observer.run.log()).toContainEqual(
    expect.objectContaining({ level: 'WARN', message: expect.stringMatching(both) }),
  );
});

test('Barman › follows the second site once it has had the only primary for five intervals', async () => {
  const gone = Date.now();
  for (const name of dc1.names) await dc1.kill(name);
  await barmanFollows(dc2, 'node2', 90_000);
  console.log(`the first site is gone: Barman has followed after ${seconds(gone, dc1.barman.active.at)}`);
  expect(dc1.barman.active.at - gone).toBeGreaterThan(OTHER_SITE);
  expect((await observer.run.item())?.site).toBe('dc2');
  await beats.next(isKnown, 'the leader is still unknown');
});

test('Barman › follows the first site again once it was made a standby site, and is promoted instead of the second', async () => {
  const before = changes();
  const standby = (of: PatroniCluster) => [
    'standby_cluster.host=127.0.0.1',
    `standby_cluster.port=${of.address('node2').postgres}`,
  ];
  await configure(dc1, 'dc1', ...standby(dc2));
  for (const name of dc1.names) dc1.startNode(name);
  const leader = await dc1.healthy();
  await beats.next(isKnown, 'the leader is unknown');
  expect(changes()).toBe(before);

  await configure(
    dc2,
    'dc2',
    'standby_cluster.host=127.0.0.1',
    `standby_cluster.port=${dc1.address(leader).postgres}`,
  );
  await configure(dc1, 'dc1', 'standby_cluster=null');
  const promoted = Date.now();
  await barmanFollows(dc1, leader, 90_000);
  console.log(`the first site is back: Barman has followed after ${seconds(promoted, dc1.barman.active.at)}`);
  expect(dc1.barman.active.at - promoted).toBeGreaterThan(OTHER_SITE);
  expect((await observer.run.item())?.site).toBe('dc1');
});
