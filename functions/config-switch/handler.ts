/**
 * The middy pipeline: receive an event, let only signed webhooks in, read the role change, record and switch, answer,
 * report. Each step leaves what it found in the invocation, which takes the event's place.
 */

import middy from '@middy/core';
import type { Context } from 'aws-lambda';
import { respond } from './answer.ts';
import { type Outcome, runBarmanConfigSwitch } from './config-switch.ts';
import { converge } from './converge.ts';
import { Credentials } from './credentials.ts';
import { DynamoDbTable } from './dynamodb-table.ts';
import { LedgerError } from './errors.ts';
import { beat } from './heartbeat.ts';
import { eventTime, type Invocation, receive } from './invocation.ts';
import { Ledger, wishKey } from './ledger.ts';
import { parseJson, parseRoleChange, type RoleChange } from './payload.ts';
import { PgBackupApi } from './pg-backup-api.ts';
import { signedBody } from './signature.ts';
import { logger, report, reportDriven } from './telemetry.ts';

/** As `--max-retries` of patroni_barman. */
const DEFAULT_MAX_RETRIES = 5;
/** An operation takes a second, and up to half a minute on a host with many servers, s. */
const DEFAULT_OPERATION_TIMEOUT = 60;

/** What a deployment sets, as environment variables. */
export interface Settings {
  /** SSM path of the parameters, `/barman-config-switch/<stage>/`. */
  readonly PARAMETERS_PATH?: string | undefined;
  /** Attempts at one request to pg-backup-api. */
  readonly MAX_RETRIES?: string | undefined;
  /** How long an operation without a known end is waited for before another is sent, s. */
  readonly OPERATION_TIMEOUT?: string | undefined;
  /** The ledger's table in DynamoDB. Without it nothing is switched. */
  readonly LEDGER_TABLE?: string | undefined;
}

type Request = middy.Request<Invocation>;

/**
 * Makes the function's handler, and begins to read the parameters.
 *
 * @param settings see `Settings`
 * @returns the handler for HTTP API events (payload format 2.0), EventBridge events, the payload itself and the heartbeat.
 *   It answers with an HTTP response or with the answer itself; for an EventBridge event it throws what could not be
 *   recorded
 * @throws Error if a setting is wrong
 */
export function createHandler(settings: Settings): (event: unknown, context: Context) => Promise<unknown> {
  const { path, maxRetries, operationTimeout, table } = read(settings);
  const ledger = table === undefined ? undefined : new Ledger(new DynamoDbTable(table));
  const credentials = new Credentials(path, (message, cause) =>
    logger.warn(message, cause instanceof Error ? { error: cause } : {}),
  );

  const receiveEvent = (request: Request) => {
    request.event = receive(request.event, request.context);
  };

  const parsePayload = async ({ event: { arrived, arrivedAt, signal }, event }: Request) => {
    if (arrived.caller === 'heartbeat') return;
    const payload =
      arrived.caller === 'http'
        ? parseJson(await signedBody(arrived.event, arrivedAt, credentials, signal))
        : arrived.payload;
    event.roleChange = parseRoleChange(payload);
  };

  const configSwitch = async (invocation: Invocation): Promise<Outcome | undefined> => {
    const { requestId, signal, course, remaining } = invocation;
    const roleChange = invocation.roleChange as RoleChange;
    await using api = new PgBackupApi(credentials, {
      signal,
      maxRetries,
      onFailure: ({ request, attempt, error }) =>
        logger.warn(error.message, { request_id: requestId, request, attempt, max_retries: maxRetries }),
    });
    invocation.api = api;
    const driver = { api, signal, remaining, operationTimeout };
    if (invocation.arrived.caller === 'heartbeat') {
      const onDriven = reportDriven(requestId);
      invocation.heartbeat = await beat({ ...driver, ledger: needed(ledger), credentials, onDriven });
      return undefined;
    }
    return runBarmanConfigSwitch(api, roleChange, (server, target) => {
      const key = wishKey(eventTime(invocation), invocation.eventId);
      const wish = { server, target, cluster: roleChange.cluster, key };
      return converge({ ...driver, ledger: needed(ledger), course }, wish);
    });
  };

  const answer = {
    after: (request: Request) => {
      request.response = respond(request.event, request.response);
    },
    onError: (request: Request) => {
      request.response = respond(request.event, request.error as Error);
    },
  };

  const reportEnd = ({ event, error }: middy.Request) => {
    const invocation = event as Invocation;
    invocation.clearDeadline();
    report(invocation, error);
  };

  // No early time-out of middy's: it covers the handler alone, and the deadline covers everything.
  return middy<Invocation>({ timeoutEarlyInMillis: 0, requestEnd: reportEnd })
    .before(receiveEvent)
    .use(answer)
    .before(parsePayload)
    .handler(configSwitch) as unknown as ReturnType<typeof createHandler>;
}

/** @throws LedgerError if there is none: a late event might bring Barman back to an old primary */
function needed(ledger: Ledger | undefined): Ledger {
  if (ledger) return ledger;
  throw new LedgerError(
    'nothing is switched without the ledger: environment variable LEDGER_TABLE is missing; deploy the stage again',
  );
}

/** @throws Error naming the environment variable that is wrong */
function read({ PARAMETERS_PATH: path, LEDGER_TABLE: table, MAX_RETRIES, OPERATION_TIMEOUT }: Settings): {
  path: string;
  maxRetries: number;
  operationTimeout: number;
  table: string | undefined;
} {
  const maxRetries = wholeNumber('MAX_RETRIES', MAX_RETRIES, DEFAULT_MAX_RETRIES);
  const seconds = wholeNumber('OPERATION_TIMEOUT', OPERATION_TIMEOUT, DEFAULT_OPERATION_TIMEOUT);
  if (path === undefined || !/^\/.+\/$/.test(path)) {
    throw new Error(
      'environment variable PARAMETERS_PATH must be an SSM path such as /barman-config-switch/prod/',
    );
  }
  return { path, maxRetries, operationTimeout: seconds * 1_000, table };
}

function wholeNumber(name: string, given: string | undefined, otherwise: number): number {
  const value = Number(given ?? otherwise);
  if (Number.isInteger(value) && value >= 1) return value;
  throw new Error(`environment variable ${name} must be a whole number from 1, not "${given}"`);
}
