/**
 * `npm run bench`: how long the function takes beyond the operation itself, how often it asks, what a skip costs, and what
 * the ledger adds.
 * The Barman host is the stand-in, whose one worker takes a given time for each request.
 */

import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Context } from 'aws-lambda';
import type { Answer } from '../../functions/config-switch/answer.ts';
import { DynamoDbTable } from '../../functions/config-switch/dynamodb-table.ts';
import { Ledger, wishKey } from '../../functions/config-switch/ledger.ts';
import { startBarmanHost } from '../stand-ins/barman-host.ts';
import { startDynamoDb } from '../stand-ins/dynamodb.ts';
import { SsmStandIn } from '../stand-ins/ssm.ts';
import { signedHeaders } from '../stand-ins/webhook.ts';

const HOSTS = [12, 900];
/** Operation times, ms, and how often each is measured. */
const OPERATIONS = [
  { time: 200, runs: 30 },
  { time: 1_200, runs: 30 },
  { time: 5_000, runs: 12 },
  { time: 20_000, runs: 4 },
];
const SKIPS = 2_000;
const LEDGER_SWITCHES = 500;

const ssm = await SsmStandIn.start();
const dynamoDb = await startDynamoDb();
Object.assign(process.env, {
  AWS_ENDPOINT_URL_SSM: ssm.url,
  AWS_ENDPOINT_URL_DYNAMODB: dynamoDb.url,
  AWS_REGION: 'eu-central-1',
  AWS_ACCESS_KEY_ID: 'bench',
  AWS_SECRET_ACCESS_KEY: 'bench',
  POWERTOOLS_LOG_LEVEL: 'SILENT',
  POWERTOOLS_METRICS_DISABLED: 'true',
});
const { createHandler } = await import('../../functions/config-switch/handler.ts');
const context = () => ({ awsRequestId: randomUUID(), getRemainingTimeInMillis: () => 60_000 }) as Context;
const payload = {
  action: 'on_role_change',
  role: 'primary',
  cluster: 'main',
  barman_server: 'main',
  barman_model: 'pg:node2',
};

interface Sample {
  /** From the call to the answer, ms. */
  readonly total: number;
  /** From the operation's end to the answer, ms. */
  readonly reaction: number;
  readonly polls: number;
}

async function measure(cost: number, time: number, runs: number): Promise<Sample[]> {
  const path = `/bench/${cost}-${time}/`;
  await using host = await startBarmanHost({ requestCost: cost, operationTime: time }, ssm, path);
  const table = `bench-${cost}-${time}`;
  await dynamoDb.createLedger(table);
  const handler = createHandler({ PARAMETERS_PATH: path, LEDGER_TABLE: table });
  const samples: Sample[] = [];
  for (let run = 0; run < runs; run += 1) {
    const before = host.api.requests.length;
    // Not always the same moment between two polls.
    host.api.plan({ time: time * (0.9 + 0.2 * Math.random()) });
    const start = performance.now();
    const answer = (await handler(payload, context())) as Answer;
    const end = performance.now();
    if (answer.exit_code !== 0) throw new Error(answer.message);
    const operation = host.api.operations().at(-1);
    const polls = host.api.requests.slice(before).filter(({ method }) => method === 'GET').length;
    samples.push({ total: end - start, reaction: end - (operation?.endedAt ?? end), polls });
    // The next operation needs the next second for its id.
    await sleep(1_000 - (Date.now() % 1_000) + Math.random() * 200);
  }
  return samples;
}

async function warmSkips(): Promise<{ name: string; median: number; calls: number }[]> {
  const path = '/bench/skip/';
  await using host = await startBarmanHost({}, ssm, path);
  const handler = createHandler({ PARAMETERS_PATH: path });
  const body = JSON.stringify({ ...payload, role: 'replica' });
  const webhook = () => ({
    version: '2.0',
    headers: signedHeaders(host.webhookSecret, body),
    body,
    isBase64Encoded: false,
    requestContext: { http: { method: 'POST' }, requestId: 'bench', timeEpoch: Date.now() },
  });
  const results = [];
  for (const { name, event } of [
    { name: 'signed webhook', event: webhook },
    { name: 'direct invocation', event: () => JSON.parse(body) as unknown },
  ]) {
    for (let warm = 0; warm < 100; warm += 1) await handler(event(), context());
    const before = ssm.requests.length + host.api.requests.length;
    const times: number[] = [];
    for (let run = 0; run < SKIPS; run += 1) {
      const given = event();
      const start = performance.now();
      await handler(given, context());
      times.push(performance.now() - start);
    }
    results.push({
      name,
      median: quantile(times, 0.5),
      calls: ssm.requests.length + host.api.requests.length - before,
    });
  }
  return results;
}

/** The two writes that the ledger adds to a switch, ms each time. */
async function ledgerWrites(): Promise<number[]> {
  await dynamoDb.createLedger('bench-ledger');
  const ledger = new Ledger(new DynamoDbTable('bench-ledger'));
  const signal = AbortSignal.timeout(60_000);
  const times: number[] = [];
  for (let run = 0; run < LEDGER_SWITCHES; run += 1) {
    const start = performance.now();
    const wish = { server: 'main', cluster: 'main', target: { model: 'pg:node1' } };
    const lease = await ledger.recordAndTake(
      { ...wish, key: wishKey(Date.now() + run, randomUUID()) },
      signal,
    );
    if (!lease) throw new Error('no lease');
    await ledger.result(lease, 'operation', true, signal);
    times.push(performance.now() - start);
  }
  return times;
}

function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? Number.NaN;
}

const row = (...cells: unknown[]) => console.log(`| ${cells.join(' | ')} |`);
const ms = (value: number) => `${Math.round(value)} ms`;

const skips = await warmSkips();
const writes = await ledgerWrites();
console.log('\nFrom the end of the operation to the answer\n');
row(
  'a request costs the host',
  'operation ±10 %',
  'runs',
  'median',
  'p95',
  'of the operation',
  'polls',
  'call to answer',
);
row('---', '---', '---', '---', '---', '---', '---', '---');
const cells = await Promise.all(
  HOSTS.flatMap((cost) =>
    OPERATIONS.map(async ({ time, runs }) => ({
      cost,
      time,
      runs,
      samples: await measure(cost, time, runs),
    })),
  ),
);
for (const { cost, time, runs, samples } of cells) {
  const reactions = samples.map(({ reaction }) => reaction);
  const median = quantile(reactions, 0.5);
  const of = (pick: (sample: Sample) => number) => quantile(samples.map(pick), 0.5);
  const share = `${((100 * median) / time).toFixed(1)} %`;
  const total = ms(of(({ total }) => total));
  row(
    ms(cost),
    ms(time),
    runs,
    ms(median),
    ms(quantile(reactions, 0.95)),
    share,
    of(({ polls }) => polls),
    total,
  );
}
console.log('\nA warm skip, inside the handler\n');
row('caller', 'median', 'network calls');
row('---', '---', '---');
for (const { name, median, calls } of skips) row(name, `${median.toFixed(3)} ms`, calls);
const added = quantile(writes, 0.5);
console.log('\nWhat the ledger adds to a switch, with dynalite on the same machine\n');
row('writes', 'median', 'p95', 'of an operation of 1.2 s');
row('---', '---', '---', '---');
row(2, `${added.toFixed(1)} ms`, `${quantile(writes, 0.95).toFixed(1)} ms`, `${(added / 12).toFixed(2)} %`);
await Promise.all([ssm.close(), dynamoDb.close()]);
