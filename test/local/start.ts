/**
 * `npm start`: three role changes on this machine, with stand-ins for the Barman host, Patroni and SSM,
 * dynalite for DynamoDB, and the function under serverless-offline behind its HTTP route. The first arrives
 * as a signed webhook with a model; for the second no event is sent, and the heartbeat notices it; the third is a
 * webhook that follows the leader. Then heartbeats go on until Ctrl-C.
 *
 * With `--pg-backup-api` and the options of own-hosts.ts it looks at one's own Barman host and Patroni instead: it
 * inspects them, and says what a failover would do. It changes nothing there without `--apply`.
 */

import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { styleText } from 'node:util';
import * as v from 'valibot';
import { isClean, reportText } from '../../cli/check.ts';
import { type Program, print, run, UsageError, type Values } from '../../cli/command-line.ts';
import { LOCAL_STAGE, type Local, readLocal, STATE_FILE, useLocal } from '../../cli/stage.ts';
import { messageOf } from '../../functions/config-switch/errors.ts';
import { InspectionReport } from '../../functions/config-switch/inspect/report.ts';
import { DynamoDbTable, LedgerClient } from '../../functions/config-switch/ledger/dynamodb.ts';
import { Ledger } from '../../functions/config-switch/ledger/ledger.ts';
import { Operator } from '../../functions/config-switch/ledger/operator.ts';
import type { Heartbeat } from '../../functions/config-switch/reconcile/heartbeat.ts';
import { printableLines } from '../../functions/config-switch/text.ts';
import { MODELS, startBarmanHost } from '../stand-ins/barman-host.ts';
import { type DynamoDb, startDynamoDb } from '../stand-ins/dynamodb.ts';
import { PatroniStandIn } from '../stand-ins/patroni-rest-api.ts';
import type { SeenRequest } from '../stand-ins/pg-backup-api.ts';
import { SsmStandIn } from '../stand-ins/ssm.ts';
import { createSecret } from '../stand-ins/webhook.ts';
import { type Described, describe, HOST_OPTIONS, type OwnHosts, outlook, ownHosts } from './own-hosts.ts';
import { invoke, send, showExchange } from './send.ts';

/** The name of the function, and of the ledger's table. */
const NAME = `barman-config-switch-${LOCAL_STAGE}`;
/** Path of the parameters. */
const PARAMETERS = `/barman-config-switch/${LOCAL_STAGE}/`;
/** Maximum time for serverless-offline to build and listen (ms). */
const START_TIMEOUT = 60_000;
/**
 * Between two heartbeats (s); a deployment has one each minute. Other times are multiples of it: a host that is
 * switched gets those of production.
 */
const HEARTBEAT_INTERVAL = { standIns: 2, looking: 10, applying: 60 };

const OPTIONS = {
  once: {
    type: 'boolean',
    help: 'ends after the three role changes, with 0 if all switches were DONE; with --pg-backup-api after the inspection, with 0 if all is well',
  },
  port: { type: 'string', value: 'PORT', default: '3000', help: 'the port of the route, if it is free' },
  ...HOST_OPTIONS,
} as const;

export const START: Program<typeof OPTIONS> = {
  name: 'npm start',
  summary:
    'Shows three role changes, end to end, on this machine; or looks at your Barman host and Patroni. Then takes more until Ctrl-C.',
  options: OPTIONS,
};

const title = (text: string) => console.log(`\n${styleText('bold', text)}\n`);
const workFolder = `.local/${process.pid}`;
const children: ChildProcess[] = [];
const disposables = new AsyncDisposableStack();
let ending = false;
/** Whether the function's log is shown. */
let following = false;

/** What all that runs here shares. */
interface World {
  readonly local: Local;
  readonly ssm: SsmStandIn;
  readonly dynamoDb: DynamoDb;
  /** Environment of the function. */
  readonly env: NodeJS.ProcessEnv;
  /** Between two heartbeats (s). */
  readonly interval: number;
}

/** Shows the role changes, or one's own hosts. @returns the exit status, with --once */
export async function startLocal({
  once: onlyOnce = false,
  port,
  ...given
}: Values<typeof OPTIONS>): Promise<number> {
  if (!/^\d{1,5}$/.test(port) || Number(port) > 65_535) {
    throw new UsageError(`--port must be a port number, not "${port}"`);
  }
  const hosts = ownHosts(given);
  if (hosts?.apply && onlyOnce)
    throw new UsageError('--once ends before anything is applied; leave out --once or --apply');
  return hosts ? showOwnHosts(hosts, Number(port), onlyOnce) : showRoleChanges(Number(port), onlyOnce);
}

/** Shows three role changes with stand-ins. @returns the exit status, with --once */
async function showRoleChanges(port: number, onlyOnce: boolean): Promise<number> {
  const route = `http://127.0.0.1:${await freePort(port)}`;
  const world = await createWorld(
    route,
    `http://127.0.0.1:${await freePort(0)}`,
    HEARTBEAT_INTERVAL.standIns,
  );
  const { local, ssm, dynamoDb } = world;
  const host = disposables.use(
    await startBarmanHost(
      {
        operationTime: 700,
        requestCost: 12,
        servers: { main: {}, crm: {} },
        models: { ...MODELS, 'crm:node1': { cluster: 'crm' }, 'crm:node2': { cluster: 'crm' } },
      },
      ssm,
      PARAMETERS,
    ),
  );
  const { api } = host;
  api.setActiveModel('pg:node1');
  api.setActiveModel('crm:node1', 'crm');
  const patroni = disposables.use(await PatroniStandIn.start());
  patroni.barmanStreamsFrom = () => api.activeModel()?.replace('pg:', '');
  const members = { node1: 'pg:node1', node2: 'pg:node2' };
  host.put({
    'webhook-secret': local.secret,
    'clusters/main': JSON.stringify({ servers: { main: members }, patroni: patroni.urls }),
  });
  console.log('Starting the function under serverless-offline …');
  await Promise.all([startFunction(world), startOffline(world)]);

  title('barman-config-switch on this machine');
  console.log(`  function       ${local.url}`);
  console.log(`  pg-backup-api  ${api.url}  (stand-in: servers main and crm, a model for each node)`);
  console.log(`  Patroni        ${patroni.urls.join(', ')}  (stand-in: REST API of cluster main)`);
  console.log(`  SSM            ${ssm.url}  (stand-in: parameters under ${PARAMETERS})`);
  console.log(`  DynamoDB       ${dynamoDb.url}  (dynalite: table ${NAME})`);

  title('1. Cluster crm: Patroni promoted node2; its callback sends the model of node2');
  const named = { cluster: 'crm', barman_server: 'crm', barman_model: 'crm:node2' };
  const first = showExchange(await send(local, 'webhook', { role: 'primary', ...named }));
  title('On the Barman host');
  showRequests(api.requests);
  console.log(`\n  active model of crm   crm:node1 → ${api.activeModel('crm') ?? 'none'}`);

  title(
    '2. Cluster main: node2 was promoted by hand while the cluster was paused; Patroni runs no callback then',
  );
  patroni.leader = 'node2';
  await runHeartbeats(world);
  const noticed = api.activeModel();
  console.log(`\n  active model of main  pg:node1 → ${noticed ?? 'none'}`);

  title('3. Cluster main: Patroni promoted node1; the callback of a node sends no model, but follow_leader');
  patroni.leader = 'node1';
  const followed = showExchange(await send(local, 'webhook', { role: 'primary', follow_leader: true }));
  console.log(`\n  active model of main  ${noticed ?? 'none'} → ${api.activeModel() ?? 'none'}`);
  if (onlyOnce) {
    const areRight =
      api.activeModel('crm') === 'crm:node2' && noticed === 'pg:node2' && api.activeModel() === 'pg:node1';
    return first || followed || (areRight ? 0 : 1);
  }

  let seen = api.requests.length;
  setInterval(() => {
    showRequests(api.requests.slice(seen).filter(isOfSwitch));
    seen = api.requests.length;
  }, 1_000).unref();
  return takeMore(world, [
    ['npm run webhook -- --role primary --follow-leader', 'the function asks Patroni who leads'],
    ['npm run webhook -- --role replica', 'a signed webhook; this role is skipped'],
    ['npm run webhook -- --role primary --reset', 'drops the active model'],
    ['npm run webhook -- --role primary --barman-model pg:node9 --dry-run', 'changes nothing'],
    ['npm run invoke  -- --role primary --barman-model pg:node1', 'a direct invocation, as from the console'],
  ]);
}

/** Inspects one's own hosts. @returns the exit status, with --once */
async function showOwnHosts(hosts: OwnHosts, port: number, onlyOnce: boolean): Promise<number> {
  const { apply, connection } = hosts;
  console.log(`Asking ${connection.url.href} and Patroni …`);
  const described = await describe(hosts);
  const { cluster, text, isGuess } = described;
  const origin = `http://127.0.0.1:${await freePort(port)}`;
  const world = await createWorld(origin, origin, HEARTBEAT_INTERVAL[apply ? 'applying' : 'looking']);
  const { local, ssm } = world;
  ssm.put(PARAMETERS, {
    ...Object.fromEntries(hosts.parameters),
    'webhook-secret': local.secret,
    [`clusters/${cluster.name}`]: text,
  });
  if (!apply) {
    const table = new DynamoDbTable(new LedgerClient('command'), NAME);
    const reason = 'npm start runs without --apply';
    await new Operator(new Ledger(table), table).pauseAll(
      { until: undefined, reason },
      AbortSignal.timeout(5_000),
    );
  }
  await startFunction(world, { READ_ONLY: String(!apply) });
  if (isGuess) {
    title(
      `Guessed from Barman's models and Patroni's members: the cluster, as in the parameter clusters/${cluster.name}`,
    );
    console.log(printableLines(JSON.stringify(JSON.parse(text), null, 2)));
    console.log(
      '\nIs it wrong? Write it to a file, correct it, and give it with --cluster instead of --patroni.',
    );
  }
  title('What an inspection finds (as npm run ledger -- check)');
  const report = v.parse(InspectionReport, await invoke(local, { inspection: true }, 'inspection'));
  console.log(printableLines(reportText(report, Date.now(), process.stdout.columns ?? 80)));
  title('What a failover would do');
  for (const line of outlook(report)) print(`  ${line}`);
  if (onlyOnce) return isClean(report) ? 0 : 1;
  console.log(
    apply
      ? '\nFrom now on heartbeats and webhooks switch the Barman host.'
      : '\nNothing is changed on the Barman host: all servers are paused, and only GET requests are sent (--apply switches).',
  );
  return takeMore(world, commandsFor(described));
}

/** Returns what can be sent for a cluster. */
function commandsFor({ cluster }: Described): [string, string][] {
  const [server = 'main'] = cluster.servers.keys();
  const names = `--cluster ${cluster.scope} --barman-server ${server}`;
  return [
    [`npm run webhook -- --role primary --follow-leader ${names}`, 'a signed webhook'],
    [`npm run webhook -- --role primary --follow-leader ${names} --dry-run`, 'says what would happen'],
  ];
}

/**
 * Starts what all needs.
 *
 * @param route where the function's route will be, and invocations where Lambda's API will be
 * @param interval between two heartbeats (s)
 */
async function createWorld(route: string, invocations: string, interval: number): Promise<World> {
  // Certificates of one's own are among the parameters: no other user of this machine may read them.
  const key = `LOCAL${randomBytes(16).toString('hex').toUpperCase()}`;
  const ssm = await SsmStandIn.start(key);
  disposables.defer(() => ssm.close());
  const dynamoDb = await startDynamoDb(key);
  disposables.defer(() => dynamoDb.close());
  const local: Local = {
    pid: process.pid,
    url: `${route}/config-switch`,
    secret: createSecret(),
    aws: {
      AWS_REGION: 'eu-central-1',
      AWS_ACCESS_KEY_ID: key,
      AWS_SECRET_ACCESS_KEY: key,
      AWS_ENDPOINT_URL_SSM: ssm.url,
      AWS_ENDPOINT_URL_DYNAMODB: dynamoDb.url,
      AWS_ENDPOINT_URL_LAMBDA: invocations,
    },
  };
  useLocal(local.aws);
  await dynamoDb.createLedger(NAME);
  const env = {
    ...process.env,
    HEARTBEAT_INTERVAL: String(interval),
    // Heartbeats would ask for a diagnosis more often than in production.
    INSPECTION: 'off',
  };
  return { local, ssm, dynamoDb, env, interval };
}

/** Runs heartbeats until one has applied something, three at most. */
async function runHeartbeats({ local, interval }: World): Promise<void> {
  console.log(`  A deployment has a heartbeat each minute; here it is each ${interval} seconds.\n`);
  for (let count = 1; count <= 3; count += 1) {
    const { observed, applied } = (await invoke(local, { heartbeat: true })) as Heartbeat;
    const [found] = [...observed.first, ...observed.reconciled, ...observed.notStreaming];
    console.log(`  heartbeat ${count}  ${found?.message ?? 'nothing to do'}`);
    if (applied > 0) return;
    await sleep(interval * 1_000);
  }
}

/**
 * Takes more from other terminals, and keeps the heartbeat running.
 *
 * @param commands what may be sent, and what it does
 * @throws Error if the function exits
 */
async function takeMore({ local, interval }: World, commands: [string, string][]): Promise<never> {
  writeFileSync(STATE_FILE, JSON.stringify(local), { mode: 0o600 });
  title('Send more role changes from another terminal, and look at the ledger');
  const all = [
    ...commands,
    ['npm run ledger -- --stage local --watch', 'what the ledger remembers'] as const,
  ];
  const width = Math.max(...all.map(([command]) => command.length));
  for (const [command, meaning] of all) console.log(`  ${command.padEnd(width)}  ${meaning}`);
  console.log(`\nA heartbeat runs every ${interval} seconds. Its log lines are shown when they change.`);
  console.log('Press Ctrl-C to stop. The log of the function follows.\n');
  following = true;
  const exited = Promise.race(children.map((child) => once(child, 'exit'))).then(async () => {
    // Ctrl-C ends it, too; then the process ends by itself.
    if (ending) await new Promise(() => {});
    throw new Error('the function exited');
  });
  for (;;) {
    await Promise.race([
      exited,
      invoke(local, { heartbeat: true }).catch((error) => print(messageOf(error))),
    ]);
    await Promise.race([exited, sleep(interval * 1_000)]);
  }
}

/** Starts serverless-offline with the route, and waits until it listens. */
async function startOffline({ local, env }: World): Promise<void> {
  // The bundle is CommonJS, but this package is an ES module.
  mkdirSync(workFolder, { recursive: true });
  writeFileSync(`${workFolder}/package.json`, '{"type":"commonjs"}');
  const args = [
    'offline',
    '--stage',
    LOCAL_STAGE,
    '--noPrependStageInUrl',
    '--noSponsor',
    '--localEnvironment',
  ];
  const ports = ['--httpPort', new URL(local.url).port, '--lambdaPort', String(await freePort(0))];
  await startChild(
    'serverless-offline',
    ['node_modules/serverless/bin/serverless.js', ...args, '--host', '127.0.0.1', ...ports],
    {
      ...env,
      ESBUILD_WORK_FOLDER: workFolder,
      SLS_TELEMETRY_DISABLED: '1',
      SLS_NOTIFICATIONS_MODE: 'off',
    },
    'Server ready',
  );
}

/** Starts the function for invocations, and waits until it listens. @param more environment */
async function startFunction({ local, env }: World, more: NodeJS.ProcessEnv = {}): Promise<void> {
  mkdirSync('.local', { recursive: true });
  const { port } = new URL(local.aws.AWS_ENDPOINT_URL_LAMBDA ?? '');
  await startChild(
    'the function',
    ['test/local/function.ts'],
    {
      ...env,
      PARAMETERS_PATH: PARAMETERS,
      LEDGER_TABLE: NAME,
      VERSION: process.env.npm_package_version,
      POWERTOOLS_SERVICE_NAME: NAME,
      POWERTOOLS_METRICS_NAMESPACE: 'BarmanConfigSwitch',
      LAMBDA_PORT: port,
      ...more,
    },
    'Function ready',
  );
}

/** Starts a Node.js process. @param ready what it prints when it is @throws Error with its output, if it is not in time */
async function startChild(
  name: string,
  args: readonly string[],
  env: NodeJS.ProcessEnv,
  ready: string,
): Promise<void> {
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'], env });
  children.push(child);
  const output: string[] = [];
  const started = Promise.withResolvers<void>();
  const failed = (why: string) =>
    started.reject(new Error(`${output.join('\n')}\n\nThe function did not start: ${why}`));
  for (const stream of [child.stdout, child.stderr]) {
    createInterface({ input: stream }).on('line', (line) => {
      output.push(line);
      if (line.includes(ready)) started.resolve();
      showLog(line);
    });
  }
  child.once('exit', (code) => failed(`${name} exited with status ${code}`));
  const timer = setTimeout(() => failed(`not ready after ${START_TIMEOUT / 1000} s`), START_TIMEOUT);
  await started.promise.finally(() => clearTimeout(timer));
}

/** What the heartbeats' log lines said since their first line changed. */
const shown = new Set<string>();

/** Prints a line of a child's output only if it is from the function's log, and new if it is from a heartbeat. */
function showLog(line: string): void {
  if (!following || !line.startsWith('{"level"')) return;
  const { caller, message } = JSON.parse(line) as { caller?: string; message: string };
  if (caller === 'heartbeat') {
    if (shown.has(message)) return;
    if (message.startsWith('heartbeat: ')) shown.clear();
    shown.add(message);
  }
  console.log(`  ${styleText('dim', line)}`);
}

/** Whether a request has been answered, and is not one with which heartbeats probe the host. */
function isOfSwitch({ method, path, response }: SeenRequest): boolean {
  return response !== undefined && (method === 'POST' || /\/operations\/.|\/diagnose$/.test(path));
}

function showRequests(requests: readonly SeenRequest[]): void {
  for (const { method, path, body, response } of requests) {
    console.log(`  ${method.padEnd(4)} ${path} ${body}`);
    console.log(
      styleText(
        'dim',
        `       ${response?.status ?? 'no response'} ${response?.body.trim().slice(0, 100) ?? ''}`,
      ),
    );
  }
}

/** @param preferred the port to use if it is free; 0 for any free port */
async function freePort(preferred: number): Promise<number> {
  const server = createServer();
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject).listen(preferred, '127.0.0.1', resolve);
    });
  } catch (error) {
    if (preferred === 0 || !(error instanceof Error)) throw error;
    console.log(
      `Port ${preferred} is not available (${'code' in error ? error.code : error.message}); another port is used.`,
    );
    return freePort(0);
  }
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  return typeof address === 'object' && address ? address.port : preferred;
}

/** Stops everything and exits; does nothing when called again. */
async function end(status: number): Promise<void> {
  if (ending) return;
  ending = true;
  if (isMine()) rmSync(STATE_FILE, { force: true });
  for (const child of children) {
    if (child.exitCode !== null || child.signalCode !== null) continue;
    const ended = once(child, 'exit');
    child.kill('SIGKILL');
    await ended;
  }
  await disposables.disposeAsync();
  rmSync(workFolder, { recursive: true, force: true });
  process.exit(status);
}

/** Returns whether the file of a running `npm start` is that of this one. */
function isMine(): boolean {
  try {
    return readLocal().pid === process.pid;
  } catch {
    return true;
  }
}

if (import.meta.main) {
  process.once('SIGINT', () => void end(130));
  process.once('SIGTERM', () => void end(143));
  await end(await run(START, startLocal, process.argv.slice(2)));
}
