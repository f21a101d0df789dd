/**
 * Cold starts under AWS's own runtime interface client: the time from the start of the process to the
 * response of a switch or a heartbeat, and the memory of the process.
 */

import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once as event } from 'node:events';
import { mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { type BuildOptions, build } from 'esbuild';
import type { ResponseBody } from '../../functions/config-switch/event/event.ts';
import type { Heartbeat } from '../../functions/config-switch/reconcile/heartbeat.ts';
import { bundle as OPTIONS } from '../../infra/function/esbuild.ts';
import { inOneCluster, startBarmanHost } from '../stand-ins/barman-host.ts';
import { PatroniStandIn } from '../stand-ins/patroni-rest-api.ts';
import { startRuntimeApi } from '../stand-ins/runtime-api.ts';
import { PROMOTION } from '../stand-ins/webhook.ts';
import { once } from '../tools.ts';
import { median, ms, percent, type Row, table } from './report.ts';
import { dynamoDb, ENVIRONMENT, FOLDER, ssm } from './world.ts';

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

/**
 * Builds the bundles: a handler that does nothing, the function as it is deployed, and the function with
 * esbuild's defaults and all clients loaded at the start.
 *
 * @returns their folders
 */
async function bundles(): Promise<Record<'empty' | 'deployed' | 'naive', string>> {
  const { outputWorkFolder: _, exclude, ...options } = OPTIONS;
  const { bundle, platform, target, format } = options;
  const deployedOptions = { ...options, external: exclude };
  const naiveOptions = { bundle, platform, target, format } as BuildOptions;
  const handler = `export { handler } from ${JSON.stringify(resolve('functions/config-switch/index.ts'))};`;
  const clients = ['undici', '@aws-sdk/client-dynamodb', '@aws-sdk/client-ssm'].map((name, index) => {
    return `import * as client${index} from '${name}'; globalThis['${name}'] = client${index};`;
  });
  const write = async (name: string, options: BuildOptions, ...lines: string[]) => {
    const folder = join(FOLDER, name);
    const stdin = { contents: lines.join('\n'), resolveDir: resolve(), loader: 'ts' } as const;
    await build({ ...options, stdin, outfile: join(folder, 'index.js') });
    return folder;
  };
  return {
    empty: await write('empty', deployedOptions, 'export const handler = async () => ({ exit_code: 0 });'),
    deployed: await write('deployed', deployedOptions, handler),
    naive: await write('naive', naiveOptions, ...clients, handler),
  };
}

/** A function: its bundle, the path of its parameters, and its ledger. */
interface Deployed {
  readonly folder: string;
  readonly path: string;
  readonly ledger: string;
}

/** Starts a process of the function as Lambda does. */
async function start(ric: string, { folder, path, ledger }: Deployed, nodeOptions = '') {
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
      LEDGER_TABLE: ledger,
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
  /** From the start of the process to the first response, without the time of the second one. */
  readonly loading: number;
}

/** What is started, and how often it was. */
interface Subject extends Deployed {
  readonly handler: string;
  readonly event: () => object;
  readonly starts: Start[];
}

/** Starts a Barman host, and a cluster whose leader it follows, so that a heartbeat finds nothing to do. */
async function startWorldInSync(ric: string, deployed: Deployed) {
  const stack = new AsyncDisposableStack();
  const patroni = stack.use(await PatroniStandIn.start());
  const host = stack.use(await startBarmanHost({ requestCost: 12 }, ssm, deployed.path));
  const servers = { main: { node1: 'pg:node1', node2: 'pg:node2' } };
  host.put({ 'clusters/main': JSON.stringify({ servers, patroni: patroni.urls }) });
  await dynamoDb.createLedger(deployed.ledger);
  await using one = await start(ric, deployed);
  for (const event of [{ ...PROMOTION, barman_model: 'pg:node1' }, { heartbeat: true }]) {
    await one.api.invoke(event);
  }
  return stack;
}

/**
 * Starts a process, and invokes it twice.
 *
 * @throws Error if a switch is not DONE, or a heartbeat has found anything to do
 */
async function coldStart(ric: string, subject: Subject): Promise<Start> {
  await using one = await start(ric, subject);
  await one.api.ready();
  const ready = performance.now() - one.startedAt;
  const invoke = async () => {
    const event = subject.event();
    const before = performance.now();
    const response = (await one.api.invoke(event)) as Partial<ResponseBody & Heartbeat>;
    const took = performance.now() - before;
    const { exit_code, pending, unreachable } = response;
    if (exit_code !== 0 && (pending !== 0 || unreachable !== undefined))
      throw new Error(JSON.stringify(response));
    return took;
  };
  const first = await invoke();
  const second = await invoke();
  return { ready, first, second, loading: ready + first - second };
}

async function coldStarts(ric: string): Promise<void> {
  const { empty, deployed, naive } = await bundles();
  let server = 0;
  const inSync = { folder: deployed, path: '/cold-heartbeat/', ledger: 'bench-cold-heartbeat' };
  const switching = {
    path: '/cold/',
    ledger: 'bench-cold',
    event: () => ({ ...PROMOTION, barman_server: `s${server++}` }),
  };
  const subjects: Subject[] = [
    { handler: 'empty', folder: empty, ...switching, starts: [] },
    { handler: 'the function, a switch', folder: deployed, ...switching, starts: [] },
    { handler: 'the function, a heartbeat', ...inSync, event: () => ({ heartbeat: true }), starts: [] },
    { handler: "naive bundle, esbuild's defaults, a switch", folder: naive, ...switching, starts: [] },
  ];
  const options = { servers: servers(2 * STARTS * subjects.length), requestCost: 12 };
  await using _host = await startBarmanHost(options, ssm, switching.path);
  await dynamoDb.createLedger(switching.ledger);
  await using _inSync = await startWorldInSync(ric, inSync);
  for (let round = 0; round < STARTS; round += 1) {
    for (const subject of subjects) subject.starts.push(await coldStart(ric, subject));
  }

  const [nothing, asDeployed, , asNaive] = subjects as [Subject, Subject, Subject, Subject];
  /** Loading times, minus that of the empty handler that was started in the same round (ms). */
  const added = ({ starts }: Subject) =>
    starts.map(({ loading }, round) => loading - (nothing.starts[round]?.loading ?? 0));
  table(
    'cold',
    `Cold starts under ${RIC}, ${STARTS} of each in turn`,
    subjects.map((subject) => {
      const cell = (column: keyof Start) => ms(median(subject.starts.map((one) => one[column])));
      const unlessEmpty = (text: string) => (subject === nothing ? '–' : text);
      return {
        handler: subject.handler,
        bundle: `${Math.round(statSync(join(subject.folder, 'index.js')).size / 1024)} KB`,
        'start to ready': cell('ready'),
        'first response': unlessEmpty(cell('first')),
        'second response': unlessEmpty(cell('second')),
        'start and load': cell('loading'),
        'added to empty': unlessEmpty(ms(median(added(subject)))),
      };
    }),
  );
  const addedByNaive = added(asNaive);
  const share = median(added(asDeployed).map((one, round) => one / (addedByNaive[round] ?? one)));
  console.log(
    `\nThe function adds ${percent(share)} of the time that the naive bundle adds to the empty handler.`,
  );
}

/**
 * Peak memory of a process over many switches. V8's generations are limited, because they otherwise grow
 * while there is room, which would hide a leak.
 */
async function memory(ric: string): Promise<void> {
  const deployed = { folder: (await bundles()).deployed, path: '/memory/', ledger: 'bench-memory' };
  await using host = await startBarmanHost({ servers: servers(SWITCHES) }, ssm, deployed.path);
  await dynamoDb.createLedger(deployed.ledger);
  await using one = await start(ric, deployed, '--max-semi-space-size=4 --max-old-space-size=48');
  const rows: Row[] = [];
  for (let count = 1; count <= SWITCHES; count += 1) {
    const response = (await one.api.invoke({ ...PROMOTION, barman_server: `s${count - 1}` })) as ResponseBody;
    if (response.exit_code !== 0) throw new Error(response.message);
    if (![1, 10, 100, 250, 500, SWITCHES].includes(count)) continue;
    const status = readFileSync(`/proc/${one.pid}/status`, 'utf8');
    const mb = (name: string) =>
      `${Math.round(Number(new RegExp(`${name}:\\s+(\\d+)`).exec(status)?.[1]) / 1024)} MB`;
    rows.push({ switches: count, resident: mb('VmRSS'), peak: mb('VmHWM') });
  }
  table('memory', 'Memory of one process', rows);
  if (host.api.operations('s0').length !== 1) throw new Error('no operation was created');
}

/** `s0`, `s1`, … */
const servers = (count: number) => inOneCluster(Array.from({ length: count }, (_, index) => `s${index}`));

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
