/** Starts the function with its own Barman host and ledger, and invokes it as each of its three callers does. */

import { inspect } from 'node:util';
import type { Context } from 'aws-lambda';
import { expect, vi } from 'vitest';
import { DynamoDbTable, LedgerClient } from '../../functions/config-switch/aws/dynamodb.ts';
import type { ResponseBody } from '../../functions/config-switch/event/event.ts';
import type { Item } from '../../functions/config-switch/reconcile/item.ts';
import { Ledger } from '../../functions/config-switch/reconcile/ledger.ts';
import { Operator } from '../../functions/config-switch/reconcile/operator.ts';
import { type BarmanHost, startBarmanHost } from '../stand-ins/barman-host.ts';
import { type DynamoDb, startDynamoDb } from '../stand-ins/dynamodb.ts';
import { loadFunction } from '../stand-ins/load-function.ts';
import type { PgBackupApiOptions } from '../stand-ins/pg-backup-api.ts';
import { SsmStandIn } from '../stand-ins/ssm.ts';
import { httpEvent, PROMOTION, signedHeaders } from '../stand-ins/webhook.ts';

export { PROMOTION };

/** One for each test file, as the SDK reads its endpoint from the environment. */
const ssm = await SsmStandIn.start();
process.env.AWS_ENDPOINT_URL_SSM = ssm.url;
const dynamoDb = await startDynamoDb();
process.env.AWS_ENDPOINT_URL_DYNAMODB = dynamoDb.url;

let count = 0;

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
  /** Writes attributes of a ledger item. */
  putItem(item: Item): Promise<void>;
  /** Sets the lease of a server to expired. */
  expireLease(server?: string): Promise<void>;
  /** Moves `recorded_at` of `main` into the past (ms). */
  ageDesired(ms: number): Promise<void>;
  /** Invokes the function directly, with the payload as JSON. */
  invoke(payload: unknown, remaining?: number): Promise<ResponseBody>;
  /** Invokes the function with any event. */
  send(event: unknown, remaining?: number): Promise<unknown>;
  /** @param body a payload, or a raw body; bytes are sent in base64 */
  webhook(body: unknown, options?: WebhookOptions): Promise<HttpResponse>;
  eventBridge(detail: unknown, time?: string, id?: string): Promise<ResponseBody>;
  /** Its log lines so far. */
  log(): LogLine[];
  /** Its metrics records so far. */
  metrics(): LogLine[];
}

/** The function is loaded, and reads SSM, at the first call; until then parameters can be changed. */
export async function startFunction(
  options: Omit<PgBackupApiOptions, 'tls'> = {},
  settings: {
    MAX_RETRIES?: string;
    LEDGER_TABLE?: string;
    OPERATION_TIMEOUT?: string;
    HEARTBEAT_INTERVAL?: string;
  } = {},
): Promise<FunctionUnderTest> {
  count += 1;
  const table = `barman-config-switch-test-${count}`;
  const items = new DynamoDbTable(new LedgerClient(), table);
  const ledger = new Ledger(items);
  await dynamoDb.createLedger(table);
  const host = await startBarmanHost(options, ssm, `/barman-config-switch/test-${count}/`);
  const output: string[] = [];
  const spies = (['stdout', 'stderr'] as const).map((stream) =>
    vi.spyOn(process[stream], 'write').mockImplementation((chunk) => {
      output.push(...String(chunk).split('\n').filter(Boolean));
      return true;
    }),
  );
  let handler: ReturnType<typeof loadFunction> | undefined;
  let requests = 0;

  const send = async (event: unknown, remaining = 29_000): Promise<unknown> => {
    handler ??= loadFunction({ PARAMETERS_PATH: host.path, LEDGER_TABLE: table, ...settings });
    requests += 1;
    const end = performance.now() + remaining;
    const context = {
      awsRequestId: `request-${requests}`,
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
  const lines = () =>
    output.filter((line) => /^\{.*"(level|_aws)":/.test(line)).map((line) => JSON.parse(line) as LogLine);

  return {
    host,
    ssm,
    dynamoDb,
    ledger,
    operator: new Operator(ledger, items),
    table,
    ageDesired: async (ms) => {
      const recorded_at = new Date(Date.now() - ms).toISOString();
      await items.update(
        'main',
        { recorded_at, next_attempt_at: recorded_at },
        [],
        AbortSignal.timeout(5_000),
      );
    },
    putItem: async ({ barman_server, ...attributes }) => {
      await items.update(barman_server, attributes, [], AbortSignal.timeout(5_000));
    },
    expireLease: async (server = 'main') => {
      const lease_expires_at = new Date(Date.now() - 1).toISOString();
      await items.update(server, { lease_expires_at }, [], AbortSignal.timeout(5_000));
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
    log: () => lines().filter((line) => 'level' in line),
    metrics: () => lines().filter((line) => '_aws' in line),
    [Symbol.asyncDispose]: async () => {
      for (const spy of spies) spy.mockRestore();
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
