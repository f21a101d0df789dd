/**
 * `npm run bench`: how long the function takes beyond the operation itself, how often it asks, and what a skip costs.
 * The Barman host is the stand-in, whose one worker takes a given time for each request.
 */

import { setTimeout as sleep } from 'node:timers/promises';
import type { Context } from 'aws-lambda';
import type { Answer } from '../../functions/config-switch/answer.ts';
import { startBarmanHost } from '../stand-ins/barman-host.ts';
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

const ssm = await SsmStandIn.start();
Object.assign(process.env, {
  AWS_ENDPOINT_URL_SSM: ssm.url,
  AWS_REGION: 'eu-central-1',
  AWS_ACCESS_KEY_ID: 'bench',
  AWS_SECRET_ACCESS_KEY: 'bench',
  POWERTOOLS_LOG_LEVEL: 'SILENT',
  POWERTOOLS_METRICS_DISABLED: 'true',
});
const { createHandler } = await import('../../functions/config-switch/handler.ts');
const context = () => ({ awsRequestId: 'bench', getRemainingTimeInMillis: () => 60_000 }) as Context;
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
  const handler = createHandler({ PARAMETERS_PATH: path });
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

function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? Number.NaN;
}

const row = (...cells: unknown[]) => console.log(`| ${cells.join(' | ')} |`);
const ms = (value: number) => `${Math.round(value)} ms`;

const skips = await warmSkips();
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
await ssm.close();
