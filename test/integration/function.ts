/**
 * Starts the function with its own Barman host and ledger, and invokes it as each of its three callers does.
 */

import { inspect } from 'node:util';
import type { Context } from 'aws-lambda';
import { beforeEach, expect, vi } from 'vitest';
import type { ResponseBody } from '../../functions/config-switch/event/event.ts';
import { DynamoDbTable, LedgerClient } from '../../functions/config-switch/ledger/dynamodb.ts';
import type { Item } from '../../functions/config-switch/ledger/item.ts';
import { Ledger } from '../../functions/config-switch/ledger/ledger.ts';
import { Operator } from '../../functions/config-switch/ledger/operator.ts';
import type { Heartbeat } from '../../functions/config-switch/reconcile/heartbeat.ts';
import { type BarmanHost, startBarmanHost } from '../stand-ins/barman-host.ts';
import { type DynamoDb, startDynamoDb } from '../stand-ins/dynamodb.ts';
import { loadFunction } from '../stand-ins/load-function.ts';
import type { PgBackupApiOptions, SeenRequest } from '../stand-ins/pg-backup-api.ts';
import { SsmStandIn } from '../stand-ins/ssm.ts';
import { httpEvent, PROMOTION, signedHeaders } from '../stand-ins/webhook.ts';

export { PROMOTION };

/** One for each test file, as the SDK reads its endpoint from the environment. */
const ssm = await SsmStandIn.start();
process.env.AWS_ENDPOINT_URL_SSM = ssm.url;
const dynamoDb = await startDynamoDb();
process.env.AWS_ENDPOINT_URL_DYNAMODB = dynamoDb.url;

let count = 0;

/** Another one. */
export const NODE1 = { ...PROMOTION, barman_model: 'pg:node1' };
export const RESET = { ...PROMOTION, barman_model: undefined, reset: true };
/** A payload that names no model. */
const { barman_model: _, ...UNNAMED } = PROMOTION;
export const FOLLOWING = { ...UNNAMED, follow_leader: true };
/** A payload that is skipped. */
export const SKIPPED = { ...PROMOTION, role: 'replica' };

export const MINUTE = 60_000;
export const signal = () => AbortSignal.timeout(5_000);
/** @param ms from now */
export const at = (ms: number) => new Date(Date.now() + ms).toISOString();
export const isPost = ({ method }: SeenRequest) => method === 'POST';
export const isPoll = ({ path }: SeenRequest) => /operations\/./.test(path);

/** For each test of a file: only the clock is faked; sockets and timers are real. */
export function fakeClock(): void {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['Date'], shouldAdvanceTime: true, advanceTimeDelta: 5 });
    return () => vi.useRealTimers();
  });
}
/** Moves that clock (ms). */
export const pass = (ms: number) => vi.setSystemTime(Date.now() + ms);

export interface HttpResponse {
  readonly statusCode: number;
  readonly headers: Record<string, string>;
  /** The parsed body. */
  readonly response: Partial<ResponseBody>;
}

export interface WebhookOptions {
  /** Lambda's remaining time (ms). */
  readonly remaining?: number;
  /** Replace the valid signature headers. */
  readonly headers?: Record<string, string>;
  readonly secret?: string;
  /** The event id, `webhook-id`. */
  readonly id?: string;
  /** The sender's clock (ms since the epoch). */
  readonly at?: number;
  /** API Gateway's clock (ms since the epoch). */
  readonly timeEpoch?: number;
  readonly base64?: boolean;
}

/** A line of the function's log, or a metrics record. */
export type LogLine = Record<string, unknown>;

export interface FunctionUnderTest extends AsyncDisposable {
  readonly host: BarmanHost;
  readonly ssm: SsmStandIn;
  readonly dynamoDb: DynamoDb;
  readonly ledger: Ledger;
  readonly operator: Operator;
  /** Name of the ledger's table. */
  readonly table: string;
  /** The ledger's item of `main`. */
  item(): Promise<Item | undefined>;
  /** Writes attributes of a ledger item, by default of `main`. */
  setItem(attributes: Omit<Item, 'barman_server'>, server?: string): Promise<void>;
  /** Sets the lease of `main` to expired, if there is one. */
  expireLease(): Promise<void>;
  /** Invokes the function directly, with the payload as JSON. */
  invoke(payload: unknown, remaining?: number): Promise<ResponseBody>;
  /** Invokes the function with any event. */
  send(event: unknown, remaining?: number, alias?: string): Promise<unknown>;
  /** @param body a payload, or a raw body; bytes are sent in base64 */
  webhook(body: unknown, options?: WebhookOptions): Promise<HttpResponse>;
  eventBridge(detail: unknown, time?: string, id?: string): Promise<ResponseBody>;
  heartbeat(remaining?: number): Promise<Heartbeat>;
  /** Its log lines so far. */
  log(): LogLine[];
  /** Its metrics records so far. */
  metrics(): LogLine[];
  /** Expects that a log line so far has these fields. */
  expectLog(fields: LogLine): void;
  /** Expects that a metrics record so far has these metrics. */
  expectMetrics(metrics: LogLine): void;
}

/** The function is loaded, and reads SSM, at the first call; until then parameters can be changed. */
export async function startFunction(
  options: Omit<PgBackupApiOptions, 'tls'> = {},
  settings: {
    MAX_RETRIES?: string;
    LEDGER_TABLE?: string;
    OPERATION_TIMEOUT?: string;
    HEARTBEAT_INTERVAL?: string;
    INSPECTION?: string;
  } = {},
): Promise<FunctionUnderTest> {
  count += 1;
  const table = `barman-config-switch-test-${count}`;
  const items = new DynamoDbTable(new LedgerClient(), table);
  const ledger = new Ledger(items);
  await dynamoDb.createLedger(table);
  const host = await startBarmanHost(
    { distinctIds: true, ...options },
    ssm,
    `/barman-config-switch/test-${count}/`,
  );
  const output: string[] = [];
  const spies = (['stdout', 'stderr'] as const).map((stream) =>
    vi.spyOn(process[stream], 'write').mockImplementation((chunk) => {
      output.push(...String(chunk).split('\n').filter(Boolean));
      return true;
    }),
  );
  let handler: ReturnType<typeof loadFunction> | undefined;
  let requests = 0;

  const send = async (event: unknown, remaining = 29_000, alias?: string): Promise<unknown> => {
    handler ??= loadFunction({
      ...{ PARAMETERS_PATH: host.path, LEDGER_TABLE: table },
      // A heartbeat would ask for a diagnosis at once.
      ...{ INSPECTION: 'off', ...settings },
    });
    requests += 1;
    const end = performance.now() + remaining;
    const context = {
      awsRequestId: `request-${requests}`,
      invokedFunctionArn: `arn:aws:lambda:eu-central-1:123456789012:function:f${alias ? `:${alias}` : ''}`,
      getRemainingTimeInMillis: () => end - performance.now(),
    } as Context;
    try {
      const response = await (await handler)(event, context);
      output.push(JSON.stringify(response) ?? '');
      return response;
    } catch (error) {
      output.push(inspect(error));
      throw error;
    }
  };
  const setItem = async (attributes: Omit<Item, 'barman_server'>, server = 'main') => {
    await items.update(server, attributes, [], signal());
  };
  const lines = (key: string) =>
    output
      .filter((line) => line.startsWith('{') && line.includes(`"${key}":`))
      .map((line) => JSON.parse(line) as LogLine);
  const [log, metrics] = [() => lines('level'), () => lines('_aws')];

  return {
    host,
    ssm,
    dynamoDb,
    ledger,
    operator: new Operator(ledger, items),
    table,
    item: () => ledger.get('main', signal()),
    setItem,
    expireLease: async () => {
      const { lease } = (await ledger.get('main', signal())) ?? {};
      if (lease) await setItem({ lease: { ...lease, expires_at: at(-1) } });
    },
    send,
    invoke: (payload, remaining) => {
      const json = JSON.stringify(payload);
      return send(json === undefined ? undefined : JSON.parse(json), remaining) as Promise<ResponseBody>;
    },
    webhook: async (body, { remaining, secret = host.webhookSecret, ...given } = {}) => {
      const text = typeof body === 'string' || Buffer.isBuffer(body) ? body : JSON.stringify(body);
      const base64 = given.base64 ?? Buffer.isBuffer(body);
      const { id, at } = given;
      const headers =
        given.headers ??
        signedHeaders(secret, text, { ...(id !== undefined && { id }), ...(at !== undefined && { at }) });
      const timeEpoch = given.timeEpoch ?? Date.now();
      const response = (await send(httpEvent(text, headers, { timeEpoch, base64 }), remaining)) as {
        statusCode: number;
        headers: Record<string, string>;
        body: string;
      };
      return {
        statusCode: response.statusCode,
        headers: response.headers,
        response: JSON.parse(response.body) as Partial<ResponseBody>,
      };
    },
    eventBridge: (detail, time = new Date().toISOString(), id = 'event-1') =>
      send({
        version: '0',
        id,
        source: 'patroni',
        'detail-type': 'Patroni role change',
        account: '123456789012',
        region: 'eu-central-1',
        time,
        resources: [],
        detail,
      }) as Promise<ResponseBody>,
    heartbeat: (remaining) => send({ heartbeat: true }, remaining) as Promise<Heartbeat>,
    log,
    metrics,
    expectLog: (fields) => expect(log()).toContainEqual(expect.objectContaining(fields)),
    expectMetrics: (fields) => expect(metrics()).toContainEqual(expect.objectContaining(fields)),
    [Symbol.asyncDispose]: async () => {
      for (const spy of spies) spy.mockRestore();
      ssm.delay = 0;
      await host[Symbol.asyncDispose]();
      for (const line of output) expectNoSecretIn(line);
    },
  };
}

/** Expects that a text has no secret, key or certificate that was ever a parameter. */
export function expectNoSecretIn(text: string): void {
  const secrets = [...ssm.issued].flatMap((value) =>
    value.split(/[\s,]+/).filter((part) => part.length > 20),
  );
  expect(secrets.some((secret) => text.includes(secret.replace(/^whsec_/, '')))).toBe(false);
}
