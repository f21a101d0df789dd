/**
 * From Patroni's promotion until Barman streams from the new leader: real Patroni, etcd, PostgreSQL and Barman,
 * each on a host of its own (network namespaces), and the function in this process. Only the HTTP interface of
 * pg-backup-api, SSM and DynamoDB are stand-ins. There is no heartbeat: only the callback makes Barman follow.
 */

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Context } from 'aws-lambda';
import { ADDRESS, createNetwork, isolate, NETWORK, OWN_ADDRESS, rejoin } from '../chaos/network.ts';
import type { NodeName } from '../e2e/cluster-files.ts';
import { inNamespaces, on } from '../e2e/namespaces.ts';
import { other, PatroniCluster } from '../e2e/patroni-cluster.ts';
import { asRoot, until, writeOwned } from '../e2e/processes.ts';
import { FOLDER, installTools } from '../e2e/setup.ts';
import { startBarmanHost } from '../stand-ins/barman-host.ts';
import { startDynamoDb } from '../stand-ins/dynamodb.ts';
import { loadFunction } from '../stand-ins/load-function.ts';
import { listen, readBody } from '../stand-ins/server.ts';
import { SsmStandIn } from '../stand-ins/ssm.ts';
import { httpEvent, webhookHeaders } from '../stand-ins/webhook.ts';
import { median, ms, type Row, table } from './report.ts';
import { watchPatroni } from './time-line.ts';

/** How often each is measured. */
const RUNS = Number(process.env.RUNS ?? 10);
const PATH = '/failover/';
/** Between two runs of Barman's cron (ms), as in production: it restarts a receive-wal that has failed. */
const CRON = 60_000;
/** Time limit until Barman streams from the new leader (ms). */
const LIMIT = 150_000;

/** What the callbacks of the nodes ask for. */
const CALLBACKS = ['--follow-leader', '--barman-model'] as const;
type Callback = (typeof CALLBACKS)[number];
const FAULTS = ['switchover', 'SIGKILL of the leader', "the leader's host cut off"] as const;
type Fault = (typeof FAULTS)[number];

/** What is measured with a configuration of Patroni (s). */
interface Part {
  /** Of its table. */
  readonly name: string;
  readonly title: string;
  readonly settings: Readonly<Record<'loop_wait' | 'ttl' | 'retry_timeout', number>>;
  /** Fault → the callbacks, in turn. */
  readonly measured: Readonly<Partial<Record<Fault, readonly Callback[]>>>;
}
const PARTS: readonly Part[] = [
  {
    name: 'failover',
    title: 'From the promotion until Barman streams from the new leader (loop_wait 2, ttl 20)',
    settings: { loop_wait: 2, ttl: 20, retry_timeout: 5 },
    measured: {
      switchover: CALLBACKS,
      'SIGKILL of the leader': CALLBACKS,
      "the leader's host cut off": ['--follow-leader'],
    },
  },
  {
    name: 'failover-defaults',
    title: "The same with Patroni's defaults (loop_wait 10, ttl 30)",
    settings: { loop_wait: 10, ttl: 30, retry_timeout: 10 },
    measured: {
      switchover: CALLBACKS,
      'SIGKILL of the leader': ['--follow-leader'],
      "the leader's host cut off": ['--follow-leader'],
    },
  },
];

/** One role change. All in ms after the promotion. */
interface Sample {
  /** When its webhook arrived. */
  readonly called: number;
  /** How long the function asked Patroni, if it did. */
  readonly asked: number | undefined;
  /** When the function responded. */
  readonly responded: number;
  /** When Barman's WAL sender began on the new leader. */
  readonly streams: number;
}

/** A webhook, and what the function logged. */
interface Call {
  readonly arrived: number;
  readonly responded: number;
  readonly status: number;
  readonly log: Readonly<Record<string, unknown>>;
}

/** Measures in namespaces of its own, which need root. */
export async function benchFailover(): Promise<void> {
  if (!asRoot) return console.log('failover is not measured: it needs root, for network namespaces');
  const FAILOVER_TOOLS = installTools();
  const FAILOVER_FOLDER = mkdtempSync(join(FOLDER, 'failover-'));
  const status = inNamespaces([process.execPath, import.meta.filename], { FAILOVER_TOOLS, FAILOVER_FOLDER });
  if (status !== 0) throw new Error(`failover ended with ${status}; the logs are in ${FAILOVER_FOLDER}`);
  rmSync(FAILOVER_FOLDER, { recursive: true, force: true });
}

async function measureAll(folder: string, tools: string): Promise<void> {
  const { cluster, calls, use } = await startWorld(folder, tools);
  for (const { name, title, settings, measured } of PARTS) {
    await cluster.rest(await cluster.healthy(), 'PATCH', 'config', settings);
    // Each node reads it within the loop_wait that it had.
    await sleep(12_000);
    const rows: Row[] = [];
    for (const fault of FAULTS) {
      const callbacks = measured[fault] ?? [];
      const samples = new Map(callbacks.map((callback): [Callback, Sample[]] => [callback, []]));
      for (let run = 0; run < RUNS; run += 1) {
        // In turn, and each from both nodes.
        for (const callback of run % 2 === 0 ? callbacks : callbacks.toReversed()) {
          use(callback);
          const sample = await measure(cluster, calls, fault, run === 0);
          samples.get(callback)?.push(sample);
          console.log(`${fault}, ${callback}: ${JSON.stringify(sample)}`);
        }
      }
      for (const [callback, all] of samples) rows.push(rowOf(fault, callback, all));
      if (callbacks.length > 0) table(name, title, rows);
    }
  }
  await cluster.stop();
}

function rowOf(fault: Fault, callback: Callback, samples: readonly Sample[]): Row {
  const of = (key: 'called' | 'responded' | 'streams') => samples.map((sample) => sample[key]);
  const asked = samples.flatMap((sample) => sample.asked ?? []);
  return {
    'role change': fault,
    callback: `\`${callback}\``,
    runs: samples.length,
    'callback arrives': ms(median(of('called'))),
    'leader known after': asked.length > 0 ? ms(median(asked)) : '–',
    response: ms(median(of('responded'))),
    'Barman streams: median': ms(median(of('streams'))),
    maximum: ms(Math.max(...of('streams'))),
  };
}

/** Makes the other node the leader, and measures that. @param isShown whether to print what Patroni answers */
async function measure(
  cluster: PatroniCluster,
  calls: readonly Call[],
  fault: Fault,
  isShown: boolean,
): Promise<Sample> {
  const leader = await cluster.healthy();
  const next = other(leader);
  await barmanStreams(cluster, leader);
  await cluster.caughtUp();
  const start = Date.now();
  const watch = isShown ? watchPatroni(cluster.restUrls) : undefined;
  if (fault === 'switchover') await cluster.switchover();
  else if (fault === 'SIGKILL of the leader') await cluster.kill(leader);
  else await isolate(leader);
  const promotedAt = () => {
    try {
      return cluster.promotedAt(next);
    } catch {
      return 0;
    }
  };
  await until(() => promotedAt() > start, `Patroni does not promote ${next}`, LIMIT);
  let streams: number | undefined;
  const isStreaming = async () => {
    streams = await cluster.streamingSince(next);
    return streams !== undefined;
  };
  const unfollowed = () => `Barman does not follow ${next}: ${JSON.stringify(calls.slice(-3))}`;
  await until(isStreaming, unfollowed, LIMIT);
  const promoted = promotedAt();
  const call = () => calls.find(({ arrived, log }) => arrived > promoted - 500 && log.exit_code === 0);
  await until(call, unfollowed, 30_000);
  await watch?.stop(promoted);
  if (fault === 'SIGKILL of the leader') cluster.startNode(leader);
  else if (fault !== 'switchover') await rejoin(leader);
  const { arrived, responded, log } = call() as Call;
  const ofAll = calls.filter((one) => one.arrived > promoted - 500);
  for (const one of ofAll.filter(({ log: { exit_code } }) => exit_code !== 1 && exit_code !== 0))
    console.log(`not at once: ${JSON.stringify(one)}`);
  const { leader_known_ms } = log as { leader_known_ms?: number };
  return {
    called: Math.round(arrived - promoted),
    asked: leader_known_ms,
    responded: Math.round(responded - promoted),
    streams: Math.round((streams as number) - promoted),
  };
}

/** Waits until Barman streams from a node; cron starts its receive-wal. */
async function barmanStreams(cluster: PatroniCluster, name: NodeName): Promise<void> {
  const streams = async () => {
    if (await cluster.streamingSince(name)) return true;
    await cluster.barman.run(20_000, 'cron');
    await sleep(1_000);
    return false;
  };
  await until(streams, () => `Barman does not stream from ${name}\n${cluster.logs()}`, LIMIT);
}

async function startWorld(folder: string, tools: string) {
  await createNetwork();
  const [ssm, dynamoDb] = [await SsmStandIn.start(), await startDynamoDb()];
  Object.assign(process.env, {
    AWS_ENDPOINT_URL_SSM: ssm.url,
    AWS_ENDPOINT_URL_DYNAMODB: dynamoDb.url,
    AWS_REGION: 'eu-central-1',
    AWS_ACCESS_KEY_ID: 'bench',
    AWS_SECRET_ACCESS_KEY: 'bench',
    // Its log is read; the other parts of `npm run bench` have none.
    POWERTOOLS_LOG_LEVEL: 'INFO',
    POWERTOOLS_METRICS_DISABLED: 'true',
  });
  let cluster: PatroniCluster;
  const host = await startBarmanHost(
    { barman: (server, model) => cluster.barman.configSwitch(server, model) },
    ssm,
    PATH,
  );
  const ports = { postgres: 5432, rest: 8008 };
  const names = ['node1', 'node2'] as const;
  host.put({
    'clusters/main': JSON.stringify({
      servers: { main: { node1: 'pg:node1', node2: 'pg:node2' } },
      patroni: names.map((name) => `http://${ADDRESS[name]}:${ports.rest}`),
    }),
  });
  // A ledger of its own for each: an event with a model is newer than one that follows the leader 30 s later.
  const handlers = new Map<Callback, Awaited<ReturnType<typeof loadFunction>>>();
  for (const callback of CALLBACKS) {
    const table = `failover${callback}`;
    await dynamoDb.createLedger(table);
    handlers.set(
      callback,
      await loadFunction({ PARAMETERS_PATH: PATH, LEDGER_TABLE: table, INSPECTION: 'off' }),
    );
  }
  const lines = logLines();
  let used: Callback = CALLBACKS[0];
  const calls: Call[] = [];
  const server = createServer(await host.ca.server([OWN_ADDRESS]), async (request, reply) => {
    const arrived = Date.now();
    const event = httpEvent(await readBody(request), webhookHeaders(request));
    const request_id = `request-${arrived}-${calls.length}`;
    const end = performance.now() + 30_000;
    const context = {
      awsRequestId: request_id,
      invokedFunctionArn: 'arn:aws:lambda:eu-central-1:123456789012:function:f',
      getRemainingTimeInMillis: () => end - performance.now(),
    } as Context;
    const response = (await handlers.get(used)?.(event, context)) as { statusCode: number; body: string };
    const log = lines.findLast((line) => line.request_id === request_id) ?? {};
    calls.push({ arrived, responded: Date.now(), status: response.statusCode, log });
    reply.writeHead(response.statusCode, { 'content-type': 'application/json' }).end(response.body);
  });
  await listen(server, 443, OWN_ADDRESS);
  const caFile = join(folder, 'ca.pem');
  writeFileSync(caFile, host.ca.cert);
  cluster = await PatroniCluster.start({
    hosts: {
      nodes: new Map(names.map((name) => [name, { address: ADDRESS[name], ...ports }])),
      etcd: { client: `http://${ADDRESS.etcd}:2379`, peer: `http://${ADDRESS.etcd}:2380` },
      network: NETWORK,
      on,
    },
    folder,
    tools,
    callback: ['--url', `https://${OWN_ADDRESS}/config-switch`, '--ca-file', caFile],
    secret: host.webhookSecret,
    cron: CRON,
  });
  const use = (callback: Callback) => {
    used = callback;
    for (const name of cluster.names) writeCallback(cluster.folder, name, callback);
  };
  return { cluster, calls, use };
}

/** Writes the script that Patroni runs on a node: the unchanged callback, with or without a model. */
function writeCallback(folder: string, name: NodeName, callback: Callback): void {
  const words = callback === '--follow-leader' ? [callback] : [callback, `pg:${name}`];
  const script = `import runpy, sys
sys.argv[0] = ${JSON.stringify(join(folder, 'barman_config_switch.py'))}
at = sys.argv.index("--follow-leader")
sys.argv[at : at + 1] = ${JSON.stringify(words)}
runpy.run_path(sys.argv[0], run_name="__main__")
`;
  writeOwned(join(folder, `${name}-callback.py`), script, 0o755);
}

/** Takes the function's log lines out of what this process prints. @returns them, so far */
function logLines(): Record<string, unknown>[] {
  const lines: Record<string, unknown>[] = [];
  for (const stream of [process.stdout, process.stderr]) {
    const write = stream.write.bind(stream) as (...words: unknown[]) => boolean;
    stream.write = (chunk: unknown, ...others: unknown[]) => {
      const text = String(chunk);
      if (!text.startsWith('{"level"')) return write(chunk, ...others);
      lines.push(JSON.parse(text));
      return true;
    };
  }
  return lines;
}

const { FAILOVER_FOLDER: folder, FAILOVER_TOOLS: tools } = process.env;
if (import.meta.main && folder !== undefined && tools !== undefined) {
  await measureAll(folder, tools);
  process.exit();
}
