/** The time from the end of an operation to the response, the number of polls, and the time of a skip. */

import { setTimeout as sleep } from 'node:timers/promises';
import type { ResponseBody } from '../../functions/config-switch/event/event.ts';
import type { Heartbeat } from '../../functions/config-switch/reconcile/heartbeat.ts';
import { MODELS, startBarmanHost } from '../stand-ins/barman-host.ts';
import { PgBackupApiStandIn } from '../stand-ins/pg-backup-api.ts';
import { httpEvent, PROMOTION, signedHeaders } from '../stand-ins/webhook.ts';
import { chart, median, ms, percent, quantile, type Row, speedUp, table } from './report.ts';
import { createFunction, hasPatroniBarman, runPatroniBarman, ssm } from './world.ts';

/** A host with so many Barman servers: what a request costs it, and how long an operation takes (ms). */
interface Host {
  readonly servers: number;
  readonly cost: number;
  readonly time: number;
}
const ONE: Host = { servers: 1, cost: 12, time: 700 };
const HUNDRED: Host = { servers: 100, cost: 900, time: 1_600 };
/** Cost of a request for the host (ms). */
const HOSTS = [ONE.cost, HUNDRED.cost];
/** Operation times (ms), and how often each is measured. */
const OPERATIONS = [
  { time: 300, runs: 40 },
  { time: 1_200, runs: 40 },
  { time: 5_000, runs: 20 },
  { time: 20_000, runs: 6 },
];
const COMPARED = [300, ONE.time, 1_200, 2_500, 5_000];
const COMPARED_RUNS = 15;
const HEARTBEATS = 15;
const SKIPS = 2_000;
/** Its multiples spread evenly between whole numbers, however many there are. */
const GOLDEN = 0.618034;

interface Sample {
  /** From the end of the operation to the response (ms). */
  readonly reaction: number;
  readonly polls: number;
  /** Share of the host's one worker that the requests before the last one took, 0 to 1. */
  readonly share: number;
}

/** Spreads an operation time over ±10 %, in no order: the last operation does not tell how long the next one takes. */
const spread = (time: number, run: number) => time * (0.9 + 0.2 * ((run * GOLDEN) % 1));

/** Waits for the next second: operation ids are times in seconds. */
const nextSecond = () => sleep(1_000 - (Date.now() % 1_000) + Math.random() * 200);

async function measure(
  cost: number,
  time: number,
  runs: number,
): Promise<{ samples: Sample[]; concurrent: number }> {
  const path = `/reaction/${cost}-${time}/`;
  await using host = await startBarmanHost({ requestCost: cost }, ssm, path);
  const invoke = await createFunction(path);
  const samples: Sample[] = [];
  for (let run = 0; run < runs; run += 1) {
    const before = host.api.requests.length;
    host.api.plan({ time: spread(time, run) });
    const start = performance.now();
    const response = (await invoke(PROMOTION)) as ResponseBody;
    const end = performance.now();
    if (response.exit_code !== 0) throw new Error(response.message);
    const requests = host.api.requests.slice(before);
    const elapsed = (requests.at(-1)?.at ?? end) - (requests[0]?.at ?? start);
    samples.push({
      reaction: end - (host.api.operations().at(-1)?.endedAt ?? end),
      polls: requests.length - 1,
      share: ((requests.length - 1) * cost) / elapsed,
    });
    await nextSecond();
  }
  return { samples, concurrent: host.api.longestQueue };
}

/** Medians from the call to the response (ms): the function, the command, and an idle heartbeat. */
interface Compared extends Host {
  readonly ours: number;
  readonly theirs: number;
  readonly idle: number;
}

/** Runs the function and the real command in turn, on the same host; then heartbeats. */
async function compare(compared: Host): Promise<Compared> {
  const { cost, time } = compared;
  const path = `/compared/${cost}-${time}/`;
  await using host = await startBarmanHost({}, ssm, path);
  await using api = await PgBackupApiStandIn.start({
    models: MODELS,
    requestCost: cost,
    operationTime: time,
  });
  host.put({ url: api.url, 'allow-plain-http': 'true' });
  const invoke = await createFunction(path);
  const functionTimes: number[] = [];
  const commandTimes: number[] = [];
  for (let run = 0; run < COMPARED_RUNS; run += 1) {
    const plan = () => api.plan({ time: spread(time, run) });
    plan();
    const start = performance.now();
    const response = (await invoke(PROMOTION)) as ResponseBody;
    functionTimes.push(performance.now() - start);
    if (response.exit_code !== 0) throw new Error(response.message);
    await nextSecond();
    plan();
    commandTimes.push(await runPatroniBarman(api.url));
    await nextSecond();
  }
  const idle: number[] = [];
  for (let beat = 0; beat < HEARTBEATS; beat += 1) {
    const start = performance.now();
    const { unreachable } = (await invoke({ heartbeat: true })) as Heartbeat;
    if (unreachable !== undefined) throw new Error(unreachable);
    idle.push(performance.now() - start);
  }
  return { ...compared, ours: median(functionTimes), theirs: median(commandTimes), idle: median(idle) };
}

export async function benchReaction(): Promise<void> {
  if (hasPatroniBarman) {
    const [hundred, ...compared] = await Promise.all([
      compare(HUNDRED),
      ...COMPARED.map((time) => compare({ ...ONE, time })),
    ]);
    const row = ({ cost, time, ours, theirs }: Compared) => ({
      'operation ±10 %': ms(time),
      'the function, warm': ms(ours),
      '`patroni_barman`': ms(theirs),
      // Nothing can know the end before the POST is answered and the operation has ended.
      'at most': speedUp(theirs / (cost + time)),
      'speed-up': speedUp(theirs / ours),
    });
    const title = `From the call to the response, ${COMPARED_RUNS} runs of each in turn`;
    table('compared', title, compared.map(row));
    chart(
      'compared-chart',
      'From the call to the response: patroni_barman above, the function below',
      { title: 'operation (ms)', values: COMPARED },
      [compared.map(({ theirs }) => theirs), compared.map(({ ours }) => ours)],
    );
    table(
      'hosts',
      'The same by the number of Barman servers on the host, and a heartbeat that finds nothing to do',
      [...compared.filter(({ time }) => time === ONE.time), hundred].map((one) => ({
        'Barman servers': one.servers,
        'cost per request': ms(one.cost),
        ...row(one),
        'idle heartbeat': ms(one.idle),
      })),
    );
  }
  const cells = await Promise.all(
    HOSTS.flatMap((cost) =>
      OPERATIONS.map(async (one) => ({ cost, ...one, ...(await measure(cost, one.time, one.runs)) })),
    ),
  );
  table(
    'polling',
    'From the end of the operation to the response',
    cells.map(({ cost, time, runs, samples, concurrent }) => {
      const reactions = samples.map(({ reaction }) => reaction);
      // A tenth of the operation, or one request.
      const limit = Math.max(100, time / 10, cost);
      return {
        'cost per request': ms(cost),
        'operation ±10 %': ms(time),
        runs,
        median: ms(median(reactions)),
        p95: ms(quantile(reactions, 0.95)),
        'limits (median, p95)': `${limit}, ${1.5 * limit} ms`,
        polls: median(samples.map(({ polls }) => polls)),
        "share of the host's time": percent(Math.max(...samples.map(({ share }) => share))),
        'concurrent requests': concurrent,
      };
    }),
  );
}

export async function benchSkips(): Promise<void> {
  const path = '/skip/';
  await using host = await startBarmanHost({}, ssm, path);
  const invoke = await createFunction(path);
  const payload = { ...PROMOTION, role: 'replica' };
  const body = JSON.stringify(payload);
  const rows: Row[] = [];
  const row = (caller: string, time: string, calls: number) => ({
    caller,
    median: time,
    'network calls': calls,
  });
  for (const { name, event } of [
    { name: 'signed webhook', event: () => httpEvent(body, signedHeaders(host.webhookSecret, body)) },
    { name: 'direct invocation', event: () => structuredClone(payload) },
  ]) {
    for (let warm = 0; warm < 100; warm += 1) await invoke(event());
    const before = ssm.requests.length + host.api.requests.length;
    const samples: number[] = [];
    for (let run = 0; run < SKIPS; run += 1) {
      const input = event();
      const start = performance.now();
      await invoke(input);
      samples.push(performance.now() - start);
    }
    const calls = ssm.requests.length + host.api.requests.length - before;
    rows.push(row(name, `${median(samples).toFixed(3)} ms`, calls));
  }
  if (hasPatroniBarman) {
    await using api = await PgBackupApiStandIn.start({ requestCost: 12 });
    const samples: number[] = [];
    for (let run = 0; run < COMPARED_RUNS; run += 1)
      samples.push(await runPatroniBarman(api.url, 'replica', 1));
    rows.push(row('`patroni_barman`, its process', ms(median(samples)), 1));
  }
  table('skips', 'A warm skip, inside the handler', rows);
}
