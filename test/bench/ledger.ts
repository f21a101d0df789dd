/** What the ledger adds to a switch, and how the function copes with many events at once. */

import { randomUUID } from 'node:crypto';
import { DynamoDbEvents, DynamoDbTable, LedgerClient } from '../../functions/config-switch/aws/dynamodb.ts';
import { fixVersion } from '../../functions/config-switch/reconcile/events.ts';
import { Ledger } from '../../functions/config-switch/reconcile/ledger.ts';
import { versionOf } from '../../functions/config-switch/version.ts';
import { startBarmanHost } from '../stand-ins/barman-host.ts';
import { STORM_HOST, storm } from '../stand-ins/storm.ts';
import { median, ms, percent, quantile, table } from './report.ts';
import { createFunction, dynamoDb, ssm } from './world.ts';

const SWITCHES = 500;

/** Measures the writes of a switch: those that it waits for, and the one of the running operation beside its first poll. */
export async function benchLedger(): Promise<void> {
  await dynamoDb.createLedger('bench-ledger');
  const client = new LedgerClient();
  const ledger = new Ledger(new DynamoDbTable(client, 'bench-ledger'));
  const events = new DynamoDbEvents(client, 'bench-ledger-events');
  const signal = AbortSignal.timeout(60_000);
  const samples: number[] = [];
  const beside: number[] = [];
  for (let run = 0; run < SWITCHES; run += 1) {
    const start = performance.now();
    const desired = { barman_server: 'main', cluster: 'main', target: { model: 'pg:node1' } };
    const version = versionOf(Date.now() + run, randomUUID());
    const lease = await ledger.recordAndAcquire(
      await fixVersion(events, { ...desired, version }, signal),
      signal,
    );
    if (!lease) throw new Error('no lease');
    const created = performance.now();
    await ledger.started(lease, 'operation', signal);
    const ended = performance.now();
    await ledger.complete(lease, 'operation', true, signal);
    beside.push(ended - created);
    samples.push(performance.now() - start - (ended - created));
  }
  table(
    'ledger',
    'What the ledger adds to a switch, with dynalite on the same machine',
    ['writes', 'median', 'p95', 'share of a 1.2 s operation'],
    [
      [
        '3, which the switch waits for',
        `${median(samples).toFixed(1)} ms`,
        `${quantile(samples, 0.95).toFixed(1)} ms`,
        percent(median(samples) / 1_200),
      ],
      [
        '1, of the running operation, within the 150 ms before the first poll',
        `${median(beside).toFixed(1)} ms`,
        `${quantile(beside, 0.95).toFixed(1)} ms`,
        '–',
      ],
    ],
  );
}

/** Measures a storm of events; see test/stand-ins/storm.ts. */
export async function benchStorm(): Promise<void> {
  const path = '/storm/';
  await using host = await startBarmanHost(STORM_HOST, ssm, path);
  const invoke = await createFunction(path);
  const { events, respondedAfter, inSyncAfter, wrong } = await storm(host, invoke);
  const operations = Object.keys(STORM_HOST.servers).flatMap((server) => host.api.operations(server)).length;
  // If each event had its own operation, it would take at least two requests: the creation and one poll.
  const most = 1_000 / (2 * STORM_HOST.requestCost);
  const rate = (1_000 * events) / respondedAfter;
  table(
    'storm',
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
