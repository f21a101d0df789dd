/**
 * Barman with Patroni, without the function: a restore by the documented commands, the only proof that a backup can be used,
 * and Barman as a synchronous standby.
 */

import { afterAll, beforeAll, expect, test } from 'vitest';
import { documentedBlock, documentedCommand, fill } from '../documentation.ts';
import { createSecret } from '../stand-ins/webhook.ts';
import { startCluster } from './cluster.ts';
import type { PatroniCluster } from './patroni-cluster.ts';
import { until } from './processes.ts';

let cluster: PatroniCluster;

beforeAll(async () => {
  cluster = await startCluster({ callback: ['--url', 'http://127.0.0.1:9'], secret: createSecret() });
  cluster.disableCallbacks();
}, 200_000);

afterAll(() => cluster?.stop(), 120_000);

test('the documented restore › has the rows from before a switchover, and those from after it', async () => {
  const { barman } = cluster;
  const leader = await cluster.healthy();
  await cluster.query(leader, 'CREATE TABLE written AS SELECT 1 AS number');
  await cluster.barmanStreams(leader);
  expect(await barman.run(60_000, 'backup', '--wait', 'main')).not.toMatch(/ERROR/);
  await cluster.query(leader, 'INSERT INTO written VALUES (2)');

  const promoted = await cluster.switchover();
  expect(await barman.configSwitch('main', `pg:${promoted}`)).toBe(true);
  await cluster.barmanStreams(promoted);
  await cluster.query(promoted, 'INSERT INTO written VALUES (3)');
  const inserted = Date.now();

  const { committed, answer } = await barman.restore('SELECT array_agg(number ORDER BY number) FROM written');
  expect(answer).toMatch(/^\{1,2,3\}$/m);
  const [, time = committed] = /^ (20\d\d-\d\d-\d\d \S+)$/m.exec(committed) ?? [];
  expect(Math.abs(Date.parse(`${time}:00`) - inserted), time).toBeLessThan(5_000);
}, 300_000);

test('a commit › waits while Barman is the only synchronous standby and does not stream, until the documented command', async () => {
  const { barman } = cluster;
  const leader = await cluster.healthy();
  await cluster.barmanStreams(leader);
  await cluster.query(leader, 'CREATE TABLE committed (number int)');
  const putIn = documentedCommand(
    'docs/how-to/wal-does-not-arrive.md',
    'patronictl edit-config --force -s postgresql.parameters.synchronous_standby_names=barman',
  );
  const takeOut = documentedCommand(
    'docs/how-to/wal-does-not-arrive.md',
    'patronictl edit-config --force -s postgresql.parameters.synchronous_standby_names= ',
  );
  await run(putIn);
  const names = () => cluster.query(leader, 'SHOW synchronous_standby_names');
  await until(async () => (await names()) === 'barman_receive_wal', 'Barman is no synchronous standby');
  // It has not been restarted, so it streams and does not confirm.
  const [, sql = ''] =
    /^psql -c "(.*)"$/m.exec(
      documentedBlock('docs/how-to/wal-does-not-arrive.md', 'psql -c "SELECT pid, query_start'),
    ) ?? [];
  const insert = 'INSERT INTO committed VALUES (1)';
  const inserted = cluster.query(leader, insert).then(Date.now);
  await until(async () => (await cluster.query(leader, sql)).includes(insert), 'the commit does not wait');
  expect(await cluster.streamingSince(leader)).toBeDefined();

  const remedied = Date.now();
  await run(takeOut);
  console.log(`a commit waited until ${(await inserted) - remedied} ms after Barman was taken out`);

  await run(putIn);
  await until(async () => (await names()) === 'barman_receive_wal', 'Barman is no synchronous standby');
  await barman.remedy(documentedBlock('docs/how-to/wal-does-not-arrive.md', 'barman receive-wal --stop'));
  await cluster.barmanStreams(leader);
  const start = Date.now();
  await cluster.query(leader, 'INSERT INTO committed VALUES (2)');
  console.log(`with Barman as a synchronous standby a commit takes ${Date.now() - start} ms`);
}, 120_000);

/** Runs a documented command of patronictl. */
const run = (command: string) =>
  cluster.patronictl(...fill(command, { 'patronictl ': '', CLUSTER: 'main' }).split(' '));
