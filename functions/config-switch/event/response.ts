/** The response: one table from how a run ended to what the caller gets, for every caller. */

import type { MiddlewareObj } from '@middy/core';
import type { APIGatewayProxyStructuredResultV2 } from 'aws-lambda';
import * as v from 'valibot';
import {
  ConfigSwitchError,
  HttpError,
  type HttpErrorReason,
  InvalidArgs,
  Rejected,
  WrongCluster,
} from '../errors.ts';
import { ExitCode, type ExitStatus, exitStatus, type Result } from '../exit-code.ts';
import type { ReceivedEvent } from './invocation.ts';
import type { RoleChange } from './payload.ts';

/** The response to a role change; over HTTP it is the body, as JSON. */
export interface ResponseBody {
  readonly exit_code: ExitCode;
  readonly exit_status: ExitStatus;
  readonly message: string;
  readonly cluster?: string;
  readonly barman_server?: string;
  readonly barman_model?: string;
  readonly reset?: true;
  readonly operation_id?: string;
  readonly dry_run?: true;
  /** The desired state is in the ledger and will be applied, whatever the code: the caller need not try again. */
  readonly recorded: boolean;
  readonly event_id: string;
  readonly request_id: string;
}

/** What a program reads of a response. */
export const ResponseSchema = v.object({
  exit_code: v.enum(ExitCode),
  message: v.string(),
  recorded: v.boolean(),
}) satisfies v.GenericSchema<unknown, Pick<ResponseBody, 'exit_code' | 'message' | 'recorded'>>;

const HTTP_STATUS: Record<ExitStatus, number> = {
  CONFIG_SWITCH_DONE: 200,
  CONFIG_SWITCH_SKIPPED: 200,
  CONFIG_SWITCH_FAILED: 502,
  HTTP_ERROR: 502,
  INVALID_ARGS: 400,
};
/** The HTTP status of an HTTP_ERROR: 202 while the desired state is recorded and not decided yet. */
const STATUS_OF_HTTP_ERROR: Record<
  HttpErrorReason,
  { readonly recorded: number; readonly otherwise: number }
> = {
  error: { recorded: 502, otherwise: 502 },
  ledger: { recorded: 503, otherwise: 503 },
  timeout: { recorded: 202, otherwise: 504 },
  busy: { recorded: 202, otherwise: 503 },
};
/** An unauthenticated caller learns nothing; while the secrets cannot be read, no caller is authenticated. */
const REJECTION: Record<Rejected['why'], readonly [status: number, body: { readonly message: string }]> = {
  signature: [401, { message: 'Unauthorized' }],
  timestamp: [401, { message: 'Unauthorized' }],
  'secret unreadable': [503, { message: 'Service Unavailable' }],
  'body too large': [413, { message: 'Content Too Large' }],
  'payload format': [400, { message: 'Bad Request' }],
};
/** When a sender may try again (s). */
const RETRY_AFTER = { 'retry-after': '5' };

/** An event at its end. */
export interface CompletedEvent extends ReceivedEvent {
  /** Absent if the payload could not be read. */
  readonly roleChange?: RoleChange;
  /** Absent if the webhook was rejected. */
  readonly response?: ResponseBody;
}

/** Responds to the caller, and leaves the response in the event for telemetry. */
export function response(): MiddlewareObj<CompletedEvent> {
  return {
    after: (request) => {
      const body = responseBody(request.event, request.response);
      request.response = forCaller(request.event, request.response, body);
      request.event = { ...request.event, response: body };
    },
    onError: (request) => {
      const error = request.error ?? new Error();
      if (error instanceof Rejected) {
        request.response = json(...REJECTION[error.why]);
        return;
      }
      const body = responseBody(request.event, error);
      request.response = forCaller(request.event, error, body);
      request.event = { ...request.event, response: body };
    },
  };
}

/** An error that is not a ConfigSwitchError is a fault of ours: HTTP_ERROR, with its message in the log only. */
function responseBody(
  { roleChange, eventId, requestId, progress }: CompletedEvent,
  result: Result | Error,
): ResponseBody {
  const { exitCode, message, operationId } =
    result instanceof Error && !(result instanceof ConfigSwitchError) ? internalError(requestId) : result;
  return {
    exit_code: exitCode,
    exit_status: exitStatus(exitCode),
    message,
    ...(roleChange && { cluster: roleChange.cluster, barman_server: roleChange.barmanServer }),
    ...(roleChange?.barmanModel !== undefined && { barman_model: roleChange.barmanModel }),
    ...(roleChange?.reset && { reset: true }),
    ...(operationId !== undefined && { operation_id: operationId }),
    ...(roleChange?.dryRun && { dry_run: true }),
    recorded: progress.recorded,
    event_id: eventId,
    request_id: requestId,
  };
}

/**
 * @returns an HTTP response, the body alone, or undefined to throw the error: an EventBridge event that could not be recorded
 *   is retried by Lambda and then kept in the failure queue. One with an invalid payload is not: a retry cannot correct it
 */
function forCaller(
  { arrived }: CompletedEvent,
  result: Result | Error,
  body: ResponseBody,
): APIGatewayProxyStructuredResultV2 | ResponseBody | undefined {
  switch (arrived.caller) {
    case 'http': {
      const status =
        result instanceof WrongCluster
          ? 403
          : result instanceof HttpError
            ? STATUS_OF_HTTP_ERROR[result.reason][body.recorded ? 'recorded' : 'otherwise']
            : HTTP_STATUS[body.exit_status];
      return json(status, body);
    }
    case 'eventbridge':
      return result instanceof Error && !(result instanceof InvalidArgs) && !body.recorded ? undefined : body;
    case 'direct':
      return body;
  }
}

function json(statusCode: number, body: object): APIGatewayProxyStructuredResultV2 {
  return {
    statusCode,
    headers: { 'content-type': 'application/json', ...(statusCode === 503 && RETRY_AFTER) },
    body: JSON.stringify(body),
  };
}

function internalError(requestId: string): { exitCode: ExitCode; message: string; operationId?: string } {
  return {
    exitCode: ExitCode.HTTP_ERROR,
    message: `internal error; see the log of the function, request ${requestId}`,
  };
}
