/**
 * Cold starts under AWS's own runtime interface client: the time from the start of the process to the response of a switch or a
 * heartbeat, and the memory of the process.
 */

import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once as event } from 'node:events';
import { mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { type BuildOptions, build } from 'esbuild';
import type { ResponseBody } from '../../functions/config-switch/event/event.ts';
import type { Heartbeat } from '../../functions/config-switch/reconcile/heartbeat.ts';
import { bundle as OPTIONS } from '../../infra/function/esbuild.ts';
import { MODELS, startBarmanHost } from '../stand-ins/barman-host.ts';
import { PatroniStandIn } from '../stand-ins/patroni-rest-api.ts';
import { startRuntimeApi } from '../stand-ins/runtime-api.ts';
import { once } from '../tools.ts';
import { median, ms, percent, table } from './report.ts';
import { dynamoDb, ENVIRONMENT, FOLDER, PAYLOAD, ssm } from './world.ts';

const RIC = 'aws-lambda-ric@4.0.2';
const STARTS = 40;
const SWITCHES = 1_000;

/** Installs AWS's runtime interface client, which is built from source. @returns the path of its program */
function installRic(): string {
  const folder = join(FOLDER, 'ric');
  mkdirSync(folder, { recursive: true });
  once(folder, RIC, () => {
    console.log(`Building ${RIC}, which takes a minute, a C++ compiler, make and cmake …`);
    writeFileSync(join(folder, 'package.json'), '{"private":true,"allowScripts":{"aws-lambda-ric":true}}');
    execFileSync('npm', ['install', '--silent', RIC], {
      cwd: folder,
      stdio: ['ignore', 'ignore', 'inherit'],
    });
  });
  return join(folder, 'node_modules/aws-lambda-ric/index.mjs');
}

type Bundle = 'empty' | 'deployed' | 'naive';

/**
 * Builds the bundles: a handler that does nothing, the function as it is deployed, and the function with esbuild's defaults and
 * all clients loaded at the start.
 *
 * @returns their folders
 */
async function bundles(): Promise<Record<Bundle, string>> {
  const { outputWorkFolder: _, exclude, ...options } = OPTIONS;
  const { bundle, platform, target, format } = options;
  const naiveOptions: BuildOptions = { bundle, platform, target, format };
  const deployedOptions = { ...options, external: exclude };
  const entry = resolve('functions/config-switch/index.ts');
  const clients = ['undici', '@aws-sdk/client-dynamodb', '@aws-sdk/client-ssm'];
  const sources = {
    empty: { options: deployedOptions, contents: 'export const handler = async () => ({ exit_code: 0 });' },
    deployed: { options: deployedOptions, contents: `export { handler } from ${JSON.stringify(entry)};` },
    naive: {
      options: naiveOptions,
      contents: `${clients
        .map(
          (name) => `import * as _${name.replace(/\W/g, '')} from '${name}';
globalThis[${JSON.stringify(name)}] = _${name.replace(/\W/g, '')};`,
        )
        .join('\n')}
export { handler } from ${JSON.stringify(entry)};`,
    },
  };
  const folders = Object.entries(sources).map(async ([name, { options, contents }]) => {
    const outfile = join(FOLDER, name, 'index.js');
    await build({ ...options, stdin: { contents, resolveDir: resolve(), loader: 'ts' }, outfile });
    return [name, join(FOLDER, name)];
  });
  return Object.fromEntries(await Promise.all(folders)) as Record<Bundle, string>;
}

/** Starts a process of the function as Lambda does. */
async function start(ric: string, folder: string, path: string, table: string, nodeOptions = '') {
  const api = await startRuntimeApi();
  const startedAt = performance.now();
  const child: ChildProcess = spawn(process.execPath, [ric], {
    cwd: folder,
    stdio: ['ignore', 'ignore', 'inherit'],
    env: {
      PATH: process.env.PATH,
      NODE_OPTIONS: nodeOptions,
      ...ENVIRONMENT,
      AWS_LAMBDA_RUNTIME_API: api.address,
      LAMBDA_TASK_ROOT: folder,
      _HANDLER: 'index.handler',
      AWS_LAMBDA_FUNCTION_NAME: 'bench',
      AWS_LAMBDA_FUNCTION_VERSION: '$LATEST',
      AWS_LAMBDA_FUNCTION_MEMORY_SIZE: '1024',
      AWS_LAMBDA_LOG_GROUP_NAME: '/aws/lambda/bench',
      AWS_LAMBDA_LOG_STREAM_NAME: 'bench',
      PARAMETERS_PATH: path,
      LEDGER_TABLE: table,
    },
  });
  child.once('exit', (code) => api.fail(new Error(`the process ended with ${code}`)));
  return {
    startedAt,
    api,
    pid: child.pid,
    [Symbol.asyncDispose]: async () => {
      if (child.exitCode === null) {
        const ended = event(child, 'exit');
        child.kill('SIGKILL');
        await ended;
      }
      await api.close();
    },
  };
}

/** One cold start (ms). */
interface Start {
  /** From the start of the process until it asks for its first event. */
  readonly ready: number;
  /** The first switch or heartbeat, and the second. */
  readonly first: number;
  readonly second: number;
  /** From the start of the process to the first response, minus the time of the second switch or heartbeat. */
  readonly loading: number;
}

/** What is started: the bundles, and that of the function for a heartbeat. */
type Started = Bundle | 'heartbeat';

/** Starts a Barman host, and a cluster whose leader it follows, so that a heartbeat finds nothing to do. */
async function startWorldInSync(ric: string, folder: string, path: string, table: string) {
  const stack = new AsyncDisposableStack();
  const patroni = stack.use(await PatroniStandIn.start());
  const host = stack.use(await startBarmanHost({ requestCost: 12 }, ssm, path));
  const servers = { main: { node1: 'pg:node1', node2: 'pg:node2' } };
  host.put({ 'clusters/main': JSON.stringify({ servers, patroni: patroni.urls }) });
  await dynamoDb.createLedger(table);
  await using one = await start(ric, folder, path, table);
  for (const event of [{ ...PAYLOAD, barman_model: 'pg:node1' }, { heartbeat: true }]) {
    await one.api.invoke(event);
  }
  return stack;
}

async function coldStarts(ric: string): Promise<void> {
  const { empty, deployed, naive } = await bundles();
  const folders: Record<Started, string> = { empty, deployed, heartbeat: deployed, naive };
  const names = Object.keys(folders) as Started[];
  const path = '/cold/';
  await using _host = await startBarmanHost(
    { servers: serversOf(2 * STARTS * names.length), requestCost: 12 },
    ssm,
    path,
  );
  await dynamoDb.createLedger('bench-cold');
  const [syncPath, syncLedger] = ['/cold-heartbeat/', 'bench-cold-heartbeat'];
  await using _inSync = await startWorldInSync(ric, deployed, syncPath, syncLedger);
  const samples = new Map(names.map((name) => [name, [] as Start[]]));
  let server = 0;
  for (let run = 0; run < STARTS; run += 1) {
    for (const name of names) {
      const heartbeat = name === 'heartbeat';
      await using one = await start(
        ric,
        folders[name],
        heartbeat ? syncPath : path,
        heartbeat ? syncLedger : 'bench-cold',
      );
      await one.api.ready();
      const ready = performance.now() - one.startedAt;
      const times: number[] = [];
      for (let count = 0; count < 2; count += 1) {
        const event = heartbeat ? { heartbeat } : { ...PAYLOAD, barman_server: `s${server++}` };
        const before = performance.now();
        const response = await one.api.invoke(event);
        times.push(performance.now() - before);
        checkResponse(response);
      }
      const [first = 0, second = 0] = times;
      samples.get(name)?.push({ ready, first, second, loading: ready + first - second });
    }
  }
  const valuesOf = (name: Started, column: keyof Start) =>
    (samples.get(name) ?? []).map((one) => one[column]);
  const cell = (name: Started, column: keyof Start) => ms(median(valuesOf(name, column)));
  /** Loading times, minus that of the empty handler that was started in the same round (ms). */
  const added = (name: Started) => {
    const empty = valuesOf('empty', 'loading');
    return valuesOf(name, 'loading').map((one, run) => one - (empty[run] ?? 0));
  };
  table(
    'cold',
    `Cold starts under ${RIC}, ${STARTS} of each in turn`,
    [
      'handler',
      'bundle',
      'start to ready',
      'first response',
      'second response',
      'start and load',
      'added to empty',
    ],
    names.map((name) => [
      {
        empty: 'empty',
        deployed: 'the function, a switch',
        heartbeat: 'the function, a heartbeat',
        naive: "naive bundle, esbuild's defaults, a switch",
      }[name],
      `${Math.round(statSync(join(folders[name], 'index.js')).size / 1024)} KB`,
      cell(name, 'ready'),
      name === 'empty' ? '–' : cell(name, 'first'),
      name === 'empty' ? '–' : cell(name, 'second'),
      cell(name, 'loading'),
      name === 'empty' ? '–' : ms(median(added(name))),
    ]),
  );
  const addedByNaive = added('naive');
  const share = median(added('deployed').map((one, run) => one / (addedByNaive[run] ?? one)));
  console.log(
    `\nThe function adds ${percent(share)} of the time that the naive bundle adds to the empty handler.`,
  );
}

/** @throws Error if a switch is not DONE, or a heartbeat has found anything to do */
function checkResponse(response: unknown): void {
  const { exit_code, pending, unreachable } = response as Partial<ResponseBody & Heartbeat>;
  if (exit_code === 0 || (pending === 0 && unreachable === undefined)) return;
  throw new Error(JSON.stringify(response));
}

/**
 * Peak memory of a process over many switches. V8's generations are limited, because they otherwise grow while there is room,
 * which would hide a leak.
 */
async function memory(ric: string): Promise<void> {
  const { deployed } = await bundles();
  const path = '/memory/';
  await using host = await startBarmanHost({ servers: serversOf(SWITCHES) }, ssm, path);
  await dynamoDb.createLedger('bench-memory');
  await using one = await start(
    ric,
    deployed,
    path,
    'bench-memory',
    '--max-semi-space-size=4 --max-old-space-size=48',
  );
  const rows: string[][] = [];
  for (let count = 1; count <= SWITCHES; count += 1) {
    const response = (await one.api.invoke({ ...PAYLOAD, barman_server: `s${count - 1}` })) as ResponseBody;
    if (response.exit_code !== 0) throw new Error(response.message);
    if (![1, 10, 100, 250, 500, SWITCHES].includes(count)) continue;
    const status = readFileSync(`/proc/${one.pid}/status`, 'utf8');
    const mb = (name: string) =>
      `${Math.round(Number(new RegExp(`${name}:\\s+(\\d+)`).exec(status)?.[1]) / 1024)} MB`;
    rows.push([String(count), mb('VmRSS'), mb('VmHWM')]);
  }
  table('memory', 'Memory of one process', ['switches', 'resident', 'peak'], rows);
  if (host.api.operations('s0').length !== 1) throw new Error('no operation was created');
}

const serversOf = (count: number) =>
  Object.fromEntries(
    Array.from({ length: count }, (_, index) => [`s${index}`, { cluster: MODELS['pg:node2'].cluster }]),
  );

export async function benchCold(): Promise<void> {
  let ric: string;
  try {
    ric = installRic();
  } catch (error) {
    rmSync(join(FOLDER, 'ric'), { recursive: true, force: true });
    console.log(`Cold starts and memory are not measured: ${RIC} could not be built: ${error}`);
    return;
  }
  await coldStarts(ric);
  await memory(ric);
}
