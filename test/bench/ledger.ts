/** What the ledger adds to a switch, and how it stands a storm. */

import { randomUUID } from 'node:crypto';
import { DynamoDbTable } from '../../functions/config-switch/aws/dynamodb-table.ts';
import { Ledger, versionOf } from '../../functions/config-switch/reconcile/ledger.ts';
import { startBarmanHost } from '../stand-ins/barman-host.ts';
import { STORM_HOST, storm } from '../stand-ins/storm.ts';
import { median, ms, percent, quantile, table } from './report.ts';
import { createFunction, dynamoDb, ssm } from './world.ts';

const SWITCHES = 500;

/** The two writes that a switch costs. */
export async function benchLedger(): Promise<void> {
  await dynamoDb.createLedger('bench-ledger');
  const ledger = new Ledger(new DynamoDbTable('bench-ledger'));
  const signal = AbortSignal.timeout(60_000);
  const taken: number[] = [];
  for (let run = 0; run < SWITCHES; run += 1) {
    const start = performance.now();
    const desired = { server: 'main', cluster: 'main', target: { model: 'pg:node1' } };
    const lease = await ledger.recordAndAcquire(
      { ...desired, version: versionOf(Date.now() + run, randomUUID()) },
      signal,
    );
    if (!lease) throw new Error('no lease');
    await ledger.complete(lease, 'operation', true, signal);
    taken.push(performance.now() - start);
  }
  table(
    'What the ledger adds to a switch, with dynalite on the same machine',
    ['writes', 'median', 'p95', 'of an operation of 1.2 s'],
    [
      [
        2,
        `${median(taken).toFixed(1)} ms`,
        `${quantile(taken, 0.95).toFixed(1)} ms`,
        percent(median(taken) / 1_200),
      ],
    ],
  );
}

export async function benchStorm(): Promise<void> {
  const path = '/storm/';
  await using host = await startBarmanHost(STORM_HOST, ssm, path);
  const invoke = await createFunction(path);
  const { events, respondedAfter, inSyncAfter, wrong } = await storm(host, invoke);
  const operations = Object.keys(STORM_HOST.servers).flatMap((server) => host.api.operations(server)).length;
  // At least a creation and one poll for each event, if each had its operation.
  const most = 1_000 / (2 * STORM_HOST.requestCost);
  const rate = (1_000 * events) / respondedAfter;
  table(
    `A storm: ${events} events for ${Object.keys(STORM_HOST.servers).length} Barman servers, ${STORM_HOST.requestCost} ms per request, one worker`,
    [
      'all responses after',
      'events per second',
      'switches per second, at most',
      'ratio',
      'operations',
      'all in sync after',
      'lost or wrong',
    ],
    [
      [
        ms(respondedAfter),
        rate.toFixed(0),
        most.toFixed(0),
        percent(rate / most),
        operations,
        ms(inSyncAfter),
        wrong.length,
      ],
    ],
  );
}
