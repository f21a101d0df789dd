/** What is in AWS: the function's instances, its HTTPS endpoint, its schedule, SSM and DynamoDB. */

import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:https';
import { setTimeout as sleep } from 'node:timers/promises';
import { offer } from '../e2e/remote.ts';
import type { KeyPair } from '../stand-ins/certificates.ts';
import { type DynamoDbFault, startDynamoDb, type UpdatedItem } from '../stand-ins/dynamodb.ts';
import { listen, readBody } from '../stand-ins/server.ts';
import { type SsmFault, SsmStandIn } from '../stand-ins/ssm.ts';
import { httpEvent, webhookHeaders } from '../stand-ins/webhook.ts';
import type { Answer, Beat, ItemState, Lease } from './check.ts';
import { ADDRESS } from './network.ts';

export interface AwsSettings {
  readonly certificate: KeyPair;
  /** Of the function, by name. */
  readonly parameters: Readonly<Record<string, string>>;
  /** Between two heartbeats (s). */
  readonly interval: number;
}

/** What the network does with webhooks. */
export type Delivery = 'normal' | 'lost' | 'late' | 'doubled';

export type AwsReport =
  | { cut: number }
  | { answer: Answer }
  | { lease: Lease }
  | { item: ItemState }
  | { beat: Beat };

/** The function's timeout (ms), as in serverless.yml. */
const TIMEOUT = 60_000;
/** How late a webhook is, at most (ms). */
const LATE = 20_000;
/** When an instance is killed, at most, after its event has arrived (ms). */
const MID_SWITCH = 800;
const PATH = '/barman-config-switch/chaos/';

const ssm = await SsmStandIn.start();
const dynamoDb = await startDynamoDb();
await dynamoDb.createLedger('chaos');
const idle: ChildProcess[] = [];
const running = new Set<ChildProcess>();
const webhooks: { body: string; headers: Record<string, string> }[] = [];
let environment: NodeJS.ProcessEnv = {};
/** The parameter of the cluster. */
let cluster = '';
let delivery: Delivery = 'normal';
/** How many of the next invocations are killed. */
let kills = 0;
/** Whether the next POST to the Barman host is cut off. */
let cutsPost = false;

const report = offer<AwsReport>({
  start: async ({ certificate, parameters, interval }: AwsSettings) => {
    ssm.put(PATH, parameters);
    cluster = parameters['clusters/main'] ?? '';
    environment = {
      ...process.env,
      AWS_ENDPOINT_URL_SSM: ssm.url,
      AWS_ENDPOINT_URL_DYNAMODB: dynamoDb.url,
      AWS_REGION: 'eu-central-1',
      AWS_ACCESS_KEY_ID: 'test',
      AWS_SECRET_ACCESS_KEY: 'test',
      POWERTOOLS_SERVICE_NAME: 'barman-config-switch-chaos',
      POWERTOOLS_METRICS_NAMESPACE: 'BarmanConfigSwitch',
      PARAMETERS_PATH: PATH,
      LEDGER_TABLE: 'chaos',
      HEARTBEAT_INTERVAL: String(interval),
    };
    const endpoint = createServer(certificate, async (request, reply) => {
      const webhook = { body: await readBody(request), headers: webhookHeaders(request) };
      webhooks.push(webhook);
      if (delivery === 'lost') return request.socket.destroy();
      if (delivery === 'late') await sleep(Math.random() * LATE);
      if (delivery === 'doubled') void deliver(webhook);
      const { statusCode, body } = await deliver(webhook);
      return reply.writeHead(statusCode, { 'content-type': 'application/json' }).end(body);
    });
    await listen(endpoint, 443, ADDRESS.aws);
    setInterval(() => void heartbeat(), interval * 1_000);
  },
  deliver: (how: Delivery) => {
    delivery = how;
  },
  /** @returns the report of an inspection */
  inspect: () => invoke({ inspection: true }, 'inspection'),
  /** Sends an earlier webhook again, byte for byte. */
  replay: async (choice: number) => {
    const webhook = webhooks.at(-1 - (choice % Math.max(1, Math.min(10, webhooks.length))));
    if (!webhook) throw new Error('there was no webhook yet');
    return `${(await deliver(webhook)).statusCode}`;
  },
  killNext: (count: number) => {
    kills = count;
  },
  cutPost: (cuts: boolean) => {
    cutsPost = cuts;
    if (cuts) return;
    for (const instance of running) if (instance.connected) instance.send({ cut: false });
  },
  /** Changes the parameter of the cluster; null: it is as it was. */
  cluster: (text: string | null) => ssm.put(PATH, { 'clusters/main': text ?? cluster }),
  ssm: (fault: SsmFault | null) => {
    if (fault) ssm.faults.set('*', fault);
    else ssm.faults.clear();
  },
  /** Every other request fails. */
  dynamoDb: (fault: DynamoDbFault | null) => {
    dynamoDb.fault = fault ? () => (Math.random() < 0.5 ? fault : undefined) : undefined;
  },
});

let lastToken = '';
let lastItem = '';
dynamoDb.onUpdated = (item) => {
  const at = Date.now();
  const state = stateOf(item);
  const text = JSON.stringify(state);
  if (text !== lastItem) report({ item: { at, ...state } });
  lastItem = text;
  const token = item.lease?.M?.token?.S ?? '';
  if (token === '' || token === lastToken) return;
  lastToken = token;
  const { target, version } = item.desired?.M ?? {};
  report({ lease: { at, target: target?.S ?? '', version: version?.S ?? '' } });
};

/** What an item says of Barman. */
function stateOf({ desired, applied, unsettled_since }: UpdatedItem): Omit<ItemState, 'at'> {
  const [wanted, last] = [desired?.M?.version?.S ?? '', applied?.M];
  const target = (last?.version?.S ?? '') >= wanted ? last?.target?.S : undefined;
  return { ...(target !== undefined && { applied: target }), isUnsettled: unsettled_since !== undefined };
}

/** API Gateway: hands a webhook to the function. */
async function deliver({ body, headers }: (typeof webhooks)[number]) {
  const eventId = headers['webhook-id'] ?? '';
  try {
    const response = (await invoke(httpEvent(body, headers))) as { statusCode: number; body: string };
    // Without one, the webhook was rejected.
    const { exit_code: exitCode = null } = JSON.parse(response.body) as { exit_code?: number };
    report({ answer: { at: Date.now(), eventId, status: response.statusCode, exitCode } });
    return response;
  } catch {
    report({ answer: { at: Date.now(), eventId, status: 500, exitCode: null } });
    return { statusCode: 500, body: '{"message":"Internal Server Error"}' };
  }
}

async function heartbeat(): Promise<void> {
  const at = Date.now();
  const result = await invoke({ heartbeat: true }).catch((error) => ({ message: String(error) }));
  report({ beat: { at, result: result as Beat['result'] } });
}

interface InstanceMessage {
  readonly response?: unknown;
  readonly error?: string;
  /** It has cut the path to the Barman host, and goes on. */
  readonly isCut?: true;
}

/** @throws Error if the instance was killed, or time ran out */
async function invoke(event: object, alias = ''): Promise<unknown> {
  const instance =
    idle.pop() ??
    fork(new URL('function.ts', import.meta.url), { env: environment, stdio: 'inherit', execArgv: [] });
  instance.kill('SIGCONT');
  running.add(instance);
  const timers = [setTimeout(() => instance.kill('SIGKILL'), TIMEOUT)];
  if (kills > 0) {
    kills -= 1;
    timers.push(setTimeout(() => instance.kill('SIGKILL'), Math.random() * MID_SWITCH));
  }
  const ended = new AbortController();
  try {
    const dead = once(instance, 'exit', { signal: ended.signal }).then(() => {
      throw new Error('the instance of the function has ended');
    });
    const answered = new Promise<InstanceMessage>((resolve) => {
      const onMessage = (message: InstanceMessage) => {
        if (!message.isCut) return resolve(message);
        // The next ones are not: nothing else reaches the Barman host.
        cutsPost = false;
        report({ cut: Date.now() });
      };
      instance.on('message', onMessage);
      ended.signal.addEventListener('abort', () => instance.off('message', onMessage));
    });
    instance.send({ event, alias, deadline: Date.now() + TIMEOUT, cut: cutsPost });
    const { response, error } = await Promise.race([dead, answered]);
    instance.kill('SIGSTOP');
    idle.push(instance);
    if (error !== undefined) throw new Error(error);
    return response;
  } finally {
    running.delete(instance);
    ended.abort();
    for (const timer of timers) clearTimeout(timer);
  }
}
