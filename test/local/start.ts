/**
 * `npm start`: two role changes on this machine, with stand-ins for the Barman host, Patroni and SSM,
 * dynalite for DynamoDB, and the function under serverless-offline behind its HTTP route. The first arrives
 * as a signed webhook; for the second no event is sent, and the heartbeat notices it.
 *
 * `-- --once` exits then: with the ExitCode of the webhook's response, or 1 if the heartbeat did not notice.
 */

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { styleText } from 'node:util';
import { type Program, run, UsageError, type Values } from '../../cli/command-line.ts';
import type { Heartbeat } from '../../functions/config-switch/reconcile/heartbeat.ts';
import { type BarmanHost, MODELS, startBarmanHost } from '../stand-ins/barman-host.ts';
import { type DynamoDb, startDynamoDb } from '../stand-ins/dynamodb.ts';
import { PatroniStandIn } from '../stand-ins/patroni-rest-api.ts';
import type { SeenRequest } from '../stand-ins/pg-backup-api.ts';
import { FUNCTION_NAME, type Local, STATE_FILE, send, showExchange } from './send.ts';

const STAGE = 'local';
const LEDGER = `barman-config-switch-${STAGE}`;
/** Maximum time for serverless-offline to build and listen (ms). */
const START_TIMEOUT = 60_000;
/** Between two heartbeats here (s); a deployment has one each minute. */
const HEARTBEAT_INTERVAL = 2;

const OPTIONS = {
  once: { type: 'boolean', help: 'ends after the two role changes, with 0 if both switches were DONE' },
  port: { type: 'string', value: 'PORT', default: '3000', help: 'the port of the route, if it is free' },
} as const;

export const START: Program<typeof OPTIONS> = {
  name: 'npm start',
  summary: 'Shows two role changes, end to end, on this machine; then takes more until Ctrl-C.',
  options: OPTIONS,
};

const title = (text: string) => console.log(`\n${styleText('bold', text)}\n`);
const workFolder = `.local/${process.pid}`;
let offline: ChildProcess | undefined;
let host: BarmanHost | undefined;
let patroni: PatroniStandIn | undefined;
let dynamoDb: DynamoDb | undefined;
let ending = false;
/** Whether the function's log is shown. */
let following = false;

/** Shows the role changes. @returns the exit status, with --once */
export async function startLocal({ once: onlyOnce, port }: Values<typeof OPTIONS>): Promise<number> {
  if (!/^\d{1,5}$/.test(port) || Number(port) > 65_535) {
    throw new UsageError(`--port must be a port number, not "${port}"`);
  }
  host = await startBarmanHost({
    operationTime: 700,
    requestCost: 12,
    servers: { main: {}, crm: {} },
    models: { ...MODELS, 'crm:node1': { cluster: 'crm' }, 'crm:node2': { cluster: 'crm' } },
  });
  const { api } = host;
  api.setActiveModel('pg:node1');
  api.setActiveModel('crm:node1', 'crm');
  patroni = await PatroniStandIn.start({ scope: 'crm' });
  patroni.barmanStreamsFrom = () => api.activeModel('crm')?.replace('crm:', '');
  const members = { node1: 'crm:node1', node2: 'crm:node2' };
  host.put({ 'clusters/crm': JSON.stringify({ servers: { crm: members }, patroni: patroni.urls }) });
  dynamoDb = await startDynamoDb();
  await dynamoDb.createLedger(LEDGER);
  const local: Local = {
    url: `http://127.0.0.1:${await freePort(Number(port))}/config-switch`,
    invokeUrl: `http://127.0.0.1:${await freePort(0)}/2015-03-31/functions/${FUNCTION_NAME}-${STAGE}/invocations`,
    secret: host.webhookSecret,
  };
  console.log('Starting the function under serverless-offline …');
  await startOffline(local, host, dynamoDb);

  title('barman-config-switch on this machine');
  console.log(`  function       ${local.url}`);
  console.log(`  pg-backup-api  ${api.url}  (stand-in: servers main and crm, a model for each node)`);
  console.log(`  Patroni        ${patroni.urls.join(', ')}  (stand-in: REST API of cluster crm)`);
  console.log(`  SSM            ${host.ssm.url}  (stand-in: parameters under ${host.path})`);
  console.log(`  DynamoDB       ${dynamoDb.url}  (dynalite: table ${LEDGER})`);

  title('Cluster main: Patroni promoted node2; its callback sends');
  const exitCode = showExchange(await send(local, 'webhook', { role: 'primary', barman_model: 'pg:node2' }));
  title('On the Barman host');
  showRequests(api.requests);
  console.log(`\n  active model of main  pg:node1 → ${api.activeModel() ?? 'none'}`);

  title(
    'Cluster crm: node2 was promoted by hand while the cluster was paused; Patroni runs no callback then',
  );
  patroni.leader = 'node2';
  await runHeartbeats(local);
  console.log(`\n  active model of crm   crm:node1 → ${api.activeModel('crm') ?? 'none'}`);
  if (onlyOnce) return api.activeModel('crm') === 'crm:node2' ? exitCode : 1;

  writeFileSync(STATE_FILE, JSON.stringify(local), { mode: 0o600 });
  title('Send more role changes from another terminal');
  console.log(
    '  npm run webhook -- --role replica                    a signed webhook; this role is skipped',
  );
  console.log('  npm run webhook -- --role primary --reset            drops the active model');
  console.log('  npm run webhook -- --role primary --barman-model pg:node9 --dry-run');
  console.log(
    '  npm run invoke  -- --role primary --barman-model pg:node1   a direct invocation, as from the console',
  );
  console.log('\nPress Ctrl-C to stop. The log of the function follows.\n');
  following = true;
  let seen = api.requests.length;
  setInterval(() => {
    showRequests(api.requests.slice(seen).filter((request) => request.response !== undefined));
    seen = api.requests.length;
  }, 1_000).unref();
  await once(offline as ChildProcess, 'exit');
  throw new Error('serverless-offline exited');
}

/** Runs heartbeats until one has applied something, three at most. */
async function runHeartbeats({ invokeUrl }: Local): Promise<void> {
  console.log(`  A deployment has a heartbeat each minute; here it is each ${HEARTBEAT_INTERVAL} seconds.\n`);
  for (let count = 1; count <= 3; count += 1) {
    const response = await fetch(invokeUrl, { method: 'POST', body: '{"heartbeat":true}' });
    const { observed, applied } = (await response.json()) as Heartbeat;
    const [found] = [...observed.first, ...observed.reconciled, ...observed.notStreaming];
    console.log(`  heartbeat ${count}  ${found?.message ?? 'nothing to do'}`);
    if (applied > 0) return;
    await sleep(HEARTBEAT_INTERVAL * 1_000);
  }
}

/** Starts serverless-offline and waits until the route listens. */
async function startOffline(local: Local, { ssm }: BarmanHost, { url }: DynamoDb): Promise<void> {
  // The bundle is CommonJS, but this package is an ES module.
  mkdirSync(workFolder, { recursive: true });
  writeFileSync(`${workFolder}/package.json`, '{"type":"commonjs"}');
  const child = spawn(
    process.execPath,
    [
      'node_modules/serverless/bin/serverless.js',
      'offline',
      ...[
        '--stage',
        STAGE,
        '--noPrependStageInUrl',
        '--noSponsor',
        '--localEnvironment',
        '--host',
        '127.0.0.1',
      ],
      ...['--httpPort', new URL(local.url).port, '--lambdaPort', new URL(local.invokeUrl).port],
    ],
    {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: {
        ...process.env,
        ESBUILD_WORK_FOLDER: workFolder,
        HEARTBEAT_INTERVAL: String(HEARTBEAT_INTERVAL),
        AWS_ENDPOINT_URL_SSM: ssm.url,
        AWS_ENDPOINT_URL_DYNAMODB: url,
        AWS_REGION: 'eu-central-1',
        AWS_ACCESS_KEY_ID: 'local',
        AWS_SECRET_ACCESS_KEY: 'local',
        SLS_TELEMETRY_DISABLED: '1',
        SLS_NOTIFICATIONS_MODE: 'off',
      },
    },
  );
  offline = child;
  const output: string[] = [];
  const ready = Promise.withResolvers<void>();
  const failed = (why: string) =>
    ready.reject(new Error(`${output.join('\n')}\n\nThe function did not start: ${why}`));
  for (const stream of [child.stdout, child.stderr]) {
    createInterface({ input: stream }).on('line', (line) => {
      output.push(line);
      if (line.includes('Server ready')) ready.resolve();
      showLog(line);
    });
  }
  child.once('exit', (code) => failed(`serverless-offline exited with status ${code}`));
  const timer = setTimeout(() => failed(`not ready after ${START_TIMEOUT / 1000} s`), START_TIMEOUT);
  await ready.promise.finally(() => clearTimeout(timer));
}

/** Prints a line of serverless-offline's output only if it is from the function's log. */
function showLog(line: string): void {
  if (following && line.startsWith('{"level"')) console.log(`  ${styleText('dim', line)}`);
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
  rmSync(STATE_FILE, { force: true });
  if (offline && offline.exitCode === null && offline.signalCode === null) {
    const ended = once(offline, 'exit');
    offline.kill('SIGKILL');
    await ended;
  }
  await patroni?.[Symbol.asyncDispose]();
  await host?.[Symbol.asyncDispose]();
  await dynamoDb?.close();
  rmSync(workFolder, { recursive: true, force: true });
  process.exit(status);
}

if (import.meta.main) {
  process.once('SIGINT', () => void end(130));
  process.once('SIGTERM', () => void end(143));
  await end(await run(START, startLocal, process.argv.slice(2)));
}
