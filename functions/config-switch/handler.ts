/**
 * The middy pipeline: receive an event, let only signed webhooks in, read the role change, switch, answer, report.
 * Each step leaves what it found in the invocation, which takes the event's place.
 */

import middy from '@middy/core';
import type { Context } from 'aws-lambda';
import { respond } from './answer.ts';
import { type Outcome, runBarmanConfigSwitch } from './config-switch.ts';
import { Credentials } from './credentials.ts';
import { type Invocation, receive } from './invocation.ts';
import { parseJson, parseRoleChange, type RoleChange } from './payload.ts';
import { PgBackupApi } from './pg-backup-api.ts';
import { signedBody } from './signature.ts';
import { logger, report } from './telemetry.ts';

/** As `--max-retries` of patroni_barman. */
const DEFAULT_MAX_RETRIES = 5;

/** What a deployment sets, as environment variables. */
export interface Settings {
  /** SSM path of the parameters, `/barman-config-switch/<stage>/`. */
  readonly PARAMETERS_PATH?: string | undefined;
  /** Attempts at one request to pg-backup-api. */
  readonly MAX_RETRIES?: string | undefined;
}

type Request = middy.Request<Invocation>;

/**
 * Makes the function's handler, and begins to read the parameters.
 *
 * @param settings see `Settings`
 * @returns the handler for HTTP API events (payload format 2.0), EventBridge events and the payload itself. It answers
 *   with an HTTP response or with the answer itself; for an EventBridge event it throws what could not be switched
 * @throws Error if a setting is wrong
 */
export function createHandler(settings: Settings): (event: unknown, context: Context) => Promise<unknown> {
  const { path, maxRetries } = read(settings);
  const credentials = new Credentials(path, (message, cause) =>
    logger.warn(message, cause instanceof Error ? { error: cause } : {}),
  );

  const receiveEvent = (request: Request) => {
    request.event = receive(request.event, request.context);
  };

  const parsePayload = async ({ event: { arrived, arrivedAt, signal }, event }: Request) => {
    const payload =
      arrived.caller === 'http'
        ? parseJson(await signedBody(arrived.event, arrivedAt, credentials, signal))
        : arrived.payload;
    event.roleChange = parseRoleChange(payload);
  };

  const configSwitch = async (invocation: Invocation): Promise<Outcome> => {
    const { requestId, signal, roleChange } = invocation;
    await using api = new PgBackupApi(credentials, {
      signal,
      maxRetries,
      onFailure: ({ request, attempt, error }) =>
        logger.warn(error.message, { request_id: requestId, request, attempt, max_retries: maxRetries }),
    });
    invocation.api = api;
    return runBarmanConfigSwitch(api, roleChange as RoleChange);
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

/** @throws Error naming the environment variable that is wrong */
function read({ PARAMETERS_PATH: path, MAX_RETRIES }: Settings): { path: string; maxRetries: number } {
  const maxRetries = Number(MAX_RETRIES ?? DEFAULT_MAX_RETRIES);
  if (!Number.isInteger(maxRetries) || maxRetries < 1) {
    throw new Error(`environment variable MAX_RETRIES must be a whole number from 1, not "${MAX_RETRIES}"`);
  }
  if (path === undefined || !/^\/.+\/$/.test(path)) {
    throw new Error(
      'environment variable PARAMETERS_PATH must be an SSM path such as /barman-config-switch/prod/',
    );
  }
  return { path, maxRetries };
}
