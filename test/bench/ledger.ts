/** What the ledger adds to a switch. */

import { randomUUID } from 'node:crypto';
import {
  DynamoDbEvents,
  DynamoDbTable,
  LedgerClient,
} from '../../functions/config-switch/ledger/dynamodb.ts';
import { fixVersion } from '../../functions/config-switch/ledger/events.ts';
import { Ledger } from '../../functions/config-switch/ledger/ledger.ts';
import { versionOf } from '../../functions/config-switch/version.ts';
import { median, percent, quantile, table } from './report.ts';
import { dynamoDb } from './world.ts';

const SWITCHES = 500;

/** Measures the writes of a switch: those that it waits for, and the one alongside its first poll. */
export async function benchLedger(): Promise<void> {
  await dynamoDb.createLedger('bench-ledger');
  const client = new LedgerClient();
  const ledger = new Ledger(new DynamoDbTable(client, 'bench-ledger'));
  const events = new DynamoDbEvents(client, 'bench-ledger-events');
  const signal = AbortSignal.timeout(60_000);
  const waited: number[] = [];
  const alongside: number[] = [];
  for (let run = 0; run < SWITCHES; run += 1) {
    const start = performance.now();
    const desired = { barman_server: 'main', cluster: 'main', target: { model: 'pg:node1' } };
    const version = versionOf(Date.now() + run, randomUUID());
    const operation = { operation_id: 'operation', target: 'model pg:node1', version };
    const lease = await ledger.recordAndAcquire(
      await fixVersion(events, { ...desired, version }, signal),
      signal,
    );
    if (!lease) throw new Error('no lease');
    const created = performance.now();
    await ledger.started(lease, operation.operation_id, signal);
    const ended = performance.now();
    await ledger.complete({ ...lease, operation }, signal);
    alongside.push(ended - created);
    waited.push(performance.now() - start - (ended - created));
  }
  const row = (writes: string, times: readonly number[], share: string) => ({
    writes,
    median: `${median(times).toFixed(1)} ms`,
    p95: `${quantile(times, 0.95).toFixed(1)} ms`,
    'share of a 1.2 s operation': share,
  });
  table('ledger', 'What the ledger adds to a switch, with dynalite on the same machine', [
    row('3, which the switch waits for', waited, percent(median(waited) / 1_200)),
    row('1, of the running operation, within the 150 ms before the first poll', alongside, '–'),
  ]);
}
