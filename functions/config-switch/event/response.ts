/** The response: one table from how a run ended to what the caller gets, for every caller. */

import type { MiddlewareObj } from '@middy/core';
import type { APIGatewayProxyStructuredResultV2 } from 'aws-lambda';
import * as v from 'valibot';
import {
  Busy,
  ConfigSwitchError,
  DeadlineExceeded,
  InvalidArgs,
  LeaderUnknown,
  LedgerError,
  Rejected,
  WrongCluster,
} from '../errors.ts';
import { ExitCode, type ExitStatus, exitStatus, type Result } from '../exit-code.ts';
import { fieldsOf } from '../target.ts';
import { forLog } from '../text.ts';
import { type Event, ResponseBody } from './event.ts';

/** What a program reads of a response. */
export const ResponseSchema = v.pick(ResponseBody, ['exit_code', 'message', 'recorded']);

const HTTP_STATUS: Record<ExitStatus, number> = {
  CONFIG_SWITCH_DONE: 200,
  CONFIG_SWITCH_SKIPPED: 200,
  CONFIG_SWITCH_FAILED: 502,
  HTTP_ERROR: 502,
  INVALID_ARGS: 400,
};
/**
 * The statuses of errors that have their own: 202 while the desired state is recorded and not decided yet.
 */
const STATUS_OF_ERROR = [
  { ErrorClass: WrongCluster, recorded: 403, otherwise: 403 },
  { ErrorClass: LedgerError, recorded: 503, otherwise: 503 },
  { ErrorClass: LeaderUnknown, recorded: 503, otherwise: 503 },
  { ErrorClass: DeadlineExceeded, recorded: 202, otherwise: 504 },
  { ErrorClass: Busy, recorded: 202, otherwise: 503 },
] as const;
/** An unauthenticated caller learns nothing; while the secrets cannot be read, no caller is authenticated. */
const REJECTION: Record<Rejected['why'], readonly [status: number, body: { readonly message: string }]> = {
  signature: [401, { message: 'Unauthorized' }],
  timestamp: [401, { message: 'Unauthorized' }],
  'secret unreadable': [503, { message: 'Service Unavailable' }],
  'body too large': [413, { message: 'Content Too Large' }],
  'payload format': [400, { message: 'Bad Request' }],
};
/** When a sender may try again (s): a dry run after another one has ended. */
const RETRY_AFTER = { dryRun: '60', otherwise: '5' };

/** Responds to the caller, and leaves the response in the event's facts for telemetry. */
export function responding(): MiddlewareObj<Event> {
  return {
    after: (request) => {
      request.response = respond(request.event, request.response);
    },
    onError: (request) => {
      const error = request.error ?? new Error();
      if (error instanceof Rejected) {
        request.response = json(...REJECTION[error.why]);
        return;
      }
      request.response = respond(request.event, error);
    },
  };
}

function respond(event: Event, result: Result | Error): ReturnType<typeof forCaller> {
  const body = responseBody(event, result);
  event.facts.response = body;
  return forCaller(event, result, body);
}

/**
 * Composes the body. An error that is not a ConfigSwitchError is a fault of ours: HTTP_ERROR, with its
 * message in the log only.
 */
function responseBody({ event_id, request_id, facts }: Event, result: Result | Error): ResponseBody {
  const { roleChange, recorded, followed } = facts;
  const { exit_code, message, operation_id } =
    result instanceof Error && !(result instanceof ConfigSwitchError) ? internalError(request_id) : result;
  return {
    exit_code,
    exit_status: exitStatus(exit_code),
    message: forLog(message),
    ...(roleChange && { cluster: roleChange.cluster, barman_server: roleChange.barman_server }),
    ...(roleChange?.barman_model !== undefined && { barman_model: roleChange.barman_model }),
    ...(roleChange?.reset && { reset: true }),
    ...(roleChange?.follow_leader && { follow_leader: true }),
    ...(followed && { leader: followed.leader, ...fieldsOf(followed.target) }),
    ...(operation_id !== undefined && { operation_id }),
    ...(roleChange?.dry_run && { dry_run: true }),
    recorded,
    event_id,
    request_id,
  };
}

/**
 * Returns an HTTP response, the body alone, or undefined to throw the error: an EventBridge event that could
 * not be recorded is retried by Lambda and then kept in the failure queue. One with an invalid payload is
 * not: a retry cannot correct it.
 */
function forCaller(
  { arrived }: Event,
  result: Result | Error,
  body: ResponseBody,
): APIGatewayProxyStructuredResultV2 | ResponseBody | undefined {
  switch (arrived.caller) {
    case 'http': {
      const own = STATUS_OF_ERROR.find(({ ErrorClass }) => result instanceof ErrorClass);
      const status = own?.[body.recorded ? 'recorded' : 'otherwise'] ?? HTTP_STATUS[body.exit_status];
      return json(status, body, RETRY_AFTER[result instanceof Busy ? 'dryRun' : 'otherwise']);
    }
    case 'eventbridge':
      return result instanceof Error && !(result instanceof InvalidArgs) && !body.recorded ? undefined : body;
    case 'direct':
      return body;
  }
}

function json(
  statusCode: number,
  body: object,
  retryAfter = RETRY_AFTER.otherwise,
): APIGatewayProxyStructuredResultV2 {
  return {
    statusCode,
    headers: { 'content-type': 'application/json', ...(statusCode === 503 && { 'retry-after': retryAfter }) },
    body: JSON.stringify(body),
  };
}

function internalError(request_id: string): { exit_code: ExitCode; message: string; operation_id?: string } {
  return {
    exit_code: ExitCode.HTTP_ERROR,
    message: `internal error; see the log of the function, request ${request_id}`,
  };
}
