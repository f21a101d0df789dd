/** A restore is the only proof that a backup can be used: by the documented commands, across a switchover. */

import { afterAll, beforeAll, expect, test } from 'vitest';
import { createSecret } from '../stand-ins/webhook.ts';
import { startCluster } from './cluster.ts';
import type { PatroniCluster } from './patroni-cluster.ts';

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
