/**
 * `npm run soak`: a day of one instance of the function in some minutes, a heartbeat for each simulated
 * minute, with what may happen to 200 clusters in a day, and with the inspections that follow from it. The function has a process and a clock of its own,
 * so its memory is not that of the stand-ins. What grows from hour to hour is a leak.
 */

import { fork } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { commandLine } from '../../cli/command-line.ts';
import type { InspectionReport } from '../../functions/config-switch/inspect/report.ts';
import { DynamoDbTable, LedgerClient } from '../../functions/config-switch/ledger/dynamodb.ts';
import { inspectedServer } from '../../functions/config-switch/ledger/inspection.ts';
import { isPending } from '../../functions/config-switch/ledger/item.ts';
import { isServer, STAGE_KEY } from '../../functions/config-switch/ledger/stage.ts';
import type { Heartbeat } from '../../functions/config-switch/reconcile/heartbeat.ts';
import { inOneCluster, startBarmanHost } from '../stand-ins/barman-host.ts';
import { PatroniStandIn } from '../stand-ins/patroni-rest-api.ts';
import { createSecret, httpEvent, PROMOTION, signedHeaders } from '../stand-ins/webhook.ts';
import { median, table } from './report.ts';
import type { Reply, Request, Usage } from './soak-function.ts';
import { dynamoDb, ENVIRONMENT, ssm } from './world.ts';

const HOURS = 24;
const CLUSTERS = 200;
const MINUTE = 60_000;
const LEDGER = 'soak';
const PATH = '/soak/';
/**
 * What a role change has, and what is left for an operation that never ends; Lambda's time-out, which inspections need
 * (ms).
 */
const TIMEOUT = { usual: 29_000, short: 3_000, inspection: 60_000 };
/** Between two inspections by an operator; the others are due by themselves (minutes). */
const CHECK = 12 * 60;
/** Between two changes of a leader; the last ones have to be reconciled before the end (minutes). */
const CHANGE = { every: 5, until: HOURS * 60 - 10 };

/** What may be reached, each measured at the end of an hour. */
const LIMITS = {
  /** From hours 7 to 12 to the last six (bytes): 1.4 KB per heartbeat. Before that V8 compiles. */
  heapGrowth: 2 ** 20,
  /** The same of the whole process (bytes); TLS contexts are not on the heap. */
  residentGrowth: 16 * 2 ** 20,
  /** About 25 are always open; each heartbeat opens 400 connections to Patroni, and closes them. */
  files: 40,
  resources: 10,
  /** The item of a server or of its inspection: the text of an error has 1,000 at most (bytes). */
  largestItem: 8_192,
  /** The one item `@stage`, which lists all clusters; DynamoDB's maximum is 400 KB (bytes). */
  stageItem: CLUSTERS * 512,
  /**
   * The state of each server, and another line if it is inspected. In the first hour all clusters are reconciled: three
   * lines more for each, with its metrics.
   */
  lines: (hour: number) => (hour === 1 ? 5 : 2) * CLUSTERS + 20,
};

interface Hour extends Usage {
  readonly hour: number;
  readonly files: number;
  /** Items in the two tables. */
  readonly servers: number;
  readonly inspections: number;
  readonly events: number;
  /** Events so far that were sent with an id of their own. */
  readonly sent: number;
  /** Bytes. */
  readonly largestItem: number;
  readonly stageItem: number;
  /** Of one heartbeat, at most. */
  readonly lines: number;
}

/** Starts the process of the function. */
async function startProcess(now: number) {
  const child = fork(new URL('soak-function.ts', import.meta.url), [String(now)], {
    execArgv: ['--expose-gc'],
    env: {
      ...process.env,
      ...ENVIRONMENT,
      POWERTOOLS_LOG_LEVEL: 'INFO',
      POWERTOOLS_METRICS_DISABLED: 'false',
      POWERTOOLS_SERVICE_NAME: 'soak',
      POWERTOOLS_METRICS_NAMESPACE: 'Soak',
      PARAMETERS_PATH: PATH,
      LEDGER_TABLE: LEDGER,
      // With the defaults, the hour without pg-backup-api and the operations that never end would mostly be
      // slept through.
      MAX_RETRIES: '2',
      OPERATION_TIMEOUT: '30',
    },
  });
  const exited = once(child, 'exit').then(([code]) => {
    throw new Error(`the process of the function ended with ${code}`);
  });
  exited.catch(() => {});
  const message = async () => (await Promise.race([once(child, 'message'), exited]))[0] as unknown;
  await message();
  return {
    ask: async (request: Request): Promise<Reply> => {
      child.send(request);
      return (await message()) as Reply;
    },
    openFiles: () => readdirSync(`/proc/${child.pid}/fd`).length,
    [Symbol.asyncDispose]: async () => {
      child.kill();
      await exited.catch(() => {});
    },
  };
}

async function startCluster(index: number) {
  const name = `server-${index}`;
  return { name, patroni: await PatroniStandIn.start({ scope: name }), secret: createSecret() };
}

async function soak(): Promise<void> {
  const startedAt = performance.now();
  await using stack = new AsyncDisposableStack();
  const clusters = await Promise.all(Array.from({ length: CLUSTERS }, (_, index) => startCluster(index)));
  for (const { patroni } of clusters) stack.use(patroni);
  const clusterAt = (index: number) => clusters[index % CLUSTERS] as (typeof clusters)[number];
  const servers = inOneCluster(clusters.map(({ name }) => name));
  const host = stack.use(await startBarmanHost({ servers }, ssm, PATH));
  for (const { name, patroni, secret } of clusters) {
    const models = { node1: 'pg:node1', node2: 'pg:node2' };
    const value = { secret, servers: { [name]: models }, patroni: patroni.urls };
    host.put({ [`clusters/${name}`]: JSON.stringify(value) });
  }
  await dynamoDb.createLedger(LEDGER);
  const client = new LedgerClient();
  const scan = (name: string) => new DynamoDbTable(client, name).scan(AbortSignal.timeout(10_000));

  const start = Date.now();
  let now = start;
  const run = stack.use(await startProcess(now));
  const hours: Hour[] = [];
  const seen = { reconciled: 0, unreachable: 0, unknown: 0, notStreaming: 0, unsettled: 0, inspected: 0 };
  let sent = 0;
  let lines = 0;

  const beat = async () => {
    const request = { now, event: { heartbeat: true }, remaining: TIMEOUT.inspection };
    const reply = (await run.ask(request)) as Exclude<Reply, Usage>;
    const heartbeat = reply.response as Heartbeat;
    if (!('pending' in heartbeat)) throw new Error(JSON.stringify(heartbeat));
    lines = Math.max(lines, reply.lines);
    const { first, reconciled } = heartbeat.observed;
    seen.reconciled += first.length + reconciled.length;
    seen.notStreaming += heartbeat.observed.notStreaming.length;
    seen.unknown += heartbeat.observed.unknown.length;
    seen.unreachable += heartbeat.unreachable === undefined ? 0 : 1;
  };

  /** Inspects, as `npm run ledger -- check` does. */
  const check = async () => {
    const request = { now, event: { inspection: true }, remaining: TIMEOUT.inspection, alias: 'inspection' };
    const { response } = (await run.ask(request)) as Exclude<Reply, Usage>;
    const { servers, barman } = response as InspectionReport;
    const isComplete = servers?.length === CLUSTERS && barman.unseen === undefined;
    if (!isComplete) throw new Error(JSON.stringify(response).slice(0, 1_000));
  };

  /** Sends a webhook, as the callback of a node does. */
  const send = async (index: number, role: string, node: string, id: string, remaining = TIMEOUT.usual) => {
    const { name, secret } = clusterAt(index);
    const payload = { ...PROMOTION, role, cluster: name, barman_server: name, barman_model: `pg:${node}` };
    const body = JSON.stringify(payload);
    const headers = signedHeaders(secret, body, { id, at: now });
    await run.ask({ now, event: httpEvent(body, headers, { timeEpoch: now }), remaining });
  };

  /** Changes the leader of a cluster: each third time without an event, each seventh with one sent twice. */
  const change = async (count: number) => {
    const index = count * 37;
    const { patroni } = clusterAt(index);
    const [before, after] = patroni.leader === 'node1' ? ['node1', 'node2'] : ['node2', 'node1'];
    patroni.leader = after;
    if (count % 3 === 0) return;
    const id = `event-${count}`;
    sent += 1;
    const neverEnds = count % 48 === 25;
    if (neverEnds) host.api.plan({ time: Number.POSITIVE_INFINITY });
    await send(index, 'primary', after, id, neverEnds ? TIMEOUT.short : TIMEOUT.usual);
    await send(index, 'replica', before, `${id}-replica`);
    if (count % 7 === 0) await send(index, 'primary', after, id);
  };

  const [hangs, doesNotStream] = [clusterAt(1).patroni, clusterAt(2).patroni];
  const incidents: Record<number, () => unknown> = {
    [5 * 60]: () => host.api.refuse(),
    [6 * 60]: () => host.api.listen(),
    [9 * 60]: () => {
      hangs.answer = () => undefined;
    },
    [9 * 60 + 5]: () => {
      hangs.answer = (_, __, normal) => normal;
    },
    [14 * 60]: () => {
      doesNotStream.barmanStreamsFrom = () => undefined;
    },
    [14 * 60 + 45]: () => {
      doesNotStream.barmanStreamsFrom = () => doesNotStream.leader;
    },
  };

  /** The end of an hour: measures, and renews the client certificate. */
  const measure = async (hour: number) => {
    seen.inspected += host.api.requests.filter(({ path }) => path === '/diagnose').length;
    for (const requests of [
      host.api.requests,
      ssm.requests,
      ...clusters.map(({ patroni }) => patroni.requests),
    ])
      requests.length = 0;
    const { cert, key } = await host.ca.client();
    host.put({ 'client-cert': cert, 'client-key': key });
    const usage = (await run.ask({ now })) as Usage;
    const [items, events] = await Promise.all([scan(LEDGER), scan(`${LEDGER}-events`)]);
    const sizes = (is: (key: string) => boolean) =>
      items
        .filter(({ barman_server }) => is(barman_server))
        .map((item) => Buffer.byteLength(JSON.stringify(item)));
    const servers = sizes(isServer);
    const inspections = sizes((key) => inspectedServer(key) !== undefined);
    seen.unsettled = items.filter(({ unsettled_since }) => unsettled_since !== undefined).length;
    hours.push({
      ...usage,
      hour,
      files: run.openFiles(),
      servers: servers.length,
      inspections: inspections.length,
      events: events.length,
      sent,
      largestItem: Math.max(...servers, ...inspections),
      stageItem: Math.max(...sizes((key) => key === STAGE_KEY)),
      lines,
    });
    lines = 0;
    console.log(`${Math.round((performance.now() - startedAt) / 1_000)} s:`, hours.at(-1));
  };

  for (let minute = 0; minute < HOURS * 60; minute += 1) {
    now = start + minute * MINUTE;
    await incidents[minute]?.();
    await beat();
    now += MINUTE / 3;
    if (minute % CHANGE.every === 2 && minute < CHANGE.until) await change((minute - 2) / CHANGE.every);
    if (minute % CHECK === CHECK - 30) await check();
    if (minute % 60 === 59) await measure((minute + 1) / 60);
  }
  const items = await scan(LEDGER);
  const outOfSync = clusters.filter(({ name, patroni }) => {
    const item = items.find(({ barman_server }) => barman_server === name);
    return item === undefined || isPending(item) || host.api.activeModel(name) !== `pg:${patroni.leader}`;
  });
  console.log('Found by heartbeats:', seen);
  const problems = [
    ...outOfSync.map(({ name }) => `${name} is not in sync with its leader`),
    ...Object.entries(seen).flatMap(([what, count]) => (count === 0 ? [`nothing was ${what}`] : [])),
    ...problemsOf(hours),
  ];
  if (problems.length > 0) throw new Error(problems.join('\n'));
  table(
    'soak',
    `A day with ${CLUSTERS} clusters`,
    hours
      .filter(({ hour }) => hour === 1 || hour % 6 === 0)
      .map((one) => ({
        after: `${one.hour} h`,
        heap: `${(one.heap / 2 ** 20).toFixed(1)} MB`,
        resident: `${(one.resident / 2 ** 20).toFixed(0)} MB`,
        'open files': one.files,
        'items: servers, inspections, events': `${one.servers}, ${one.inspections}, ${one.events}`,
        'largest item': `${one.largestItem} bytes`,
        'the item `@stage`': `${one.stageItem} bytes`,
        'log lines of a heartbeat, at most': one.lines,
      })),
  );
}

/** What grows, or is too much. */
function problemsOf(hours: readonly Hour[]): string[] {
  const growth = (of: 'heap' | 'resident') =>
    median(hours.slice(-6).map((one) => one[of])) - median(hours.slice(6, 12).map((one) => one[of]));
  const limits: [what: string, value: number, limit: number][] = [
    ['bytes more on the heap after twelve hours', growth('heap'), LIMITS.heapGrowth],
    ['bytes more in the process after twelve hours', growth('resident'), LIMITS.residentGrowth],
    ...hours.flatMap((one): typeof limits => [
      [`open files after ${one.hour} h`, one.files, LIMITS.files],
      [`timers, sockets and requests after ${one.hour} h`, one.resources, LIMITS.resources],
      [`bytes in an item after ${one.hour} h`, one.largestItem, LIMITS.largestItem],
      [`bytes in the item ${STAGE_KEY} after ${one.hour} h`, one.stageItem, LIMITS.stageItem],
      [`log lines of a heartbeat in hour ${one.hour}`, one.lines, LIMITS.lines(one.hour)],
      [`servers after ${one.hour} h`, one.servers, CLUSTERS],
      [`inspections after ${one.hour} h`, one.inspections, CLUSTERS],
      [`events after ${one.hour} h`, one.events, one.sent],
    ]),
  ];
  return limits
    .filter(([, value, limit]) => value > limit)
    .map(([what, value, limit]) => `${value} ${what}, at most ${limit} are expected`);
}

await commandLine(
  { name: 'npm run soak', summary: 'Runs a day of heartbeats in some minutes.', options: {} },
  () => {},
);
await soak();
await Promise.all([ssm.close(), dynamoDb.close()]);
