/** What the caller is told: one table from how a run ended to the answer, for every caller. */

import type { MiddlewareObj } from '@middy/core';
import type { APIGatewayProxyStructuredResultV2 } from 'aws-lambda';
import { ConfigSwitchError, HttpError, Rejected } from '../errors.ts';
import { ExitCode, type ExitStatus, exitStatus, type Outcome } from '../exit-code.ts';
import type { ReceivedEvent } from './invocation.ts';
import type { RoleChange } from './payload.ts';

/** The answer to a role change; over HTTP its JSON is the body. */
export interface Answer {
  readonly exit_code: ExitCode;
  readonly exit_status: ExitStatus;
  readonly message: string;
  readonly cluster?: string;
  readonly barman_server?: string;
  readonly barman_model?: string;
  readonly reset?: true;
  readonly operation_id?: string;
  readonly dry_run?: true;
  /** The wish is in the ledger and will be driven on, whatever the code: the caller need not try again. */
  readonly recorded: boolean;
  readonly event_id: string;
  readonly request_id: string;
}

const HTTP_STATUS: Record<ExitStatus, number> = {
  CONFIG_SWITCH_DONE: 200,
  CONFIG_SWITCH_SKIPPED: 200,
  CONFIG_SWITCH_FAILED: 502,
  HTTP_ERROR: 502,
  INVALID_ARGS: 400,
};
const STATUS_OF_HTTP_ERROR = { error: 502, busy: 503, timeout: 504 };
/** When a sender may try again, s. */
const RETRY_AFTER = { 'retry-after': '5' };

/** An event at its end. */
export interface AnsweredEvent extends ReceivedEvent {
  /** Unless the payload could not be read. */
  readonly roleChange?: RoleChange;
  /** Unless the webhook was rejected. */
  readonly answer?: Answer;
}

/** Answers the caller, and leaves the answer in the event for whoever reports it. */
export function response(): MiddlewareObj<AnsweredEvent> {
  return {
    after: (request) => {
      const answer = answerTo(request.event, request.response);
      request.event = { ...request.event, answer };
      request.response = sent(request.event, request.response, answer);
    },
    onError: (request) => {
      const error = request.error ?? new Error('no error');
      if (error instanceof Rejected) {
        request.response = rejection(error);
        return;
      }
      const answer = answerTo(request.event, error);
      request.event = { ...request.event, answer };
      request.response = sent(request.event, error, answer);
    },
  };
}

/** The answer to a run that ended, well or not. An error that is none of ours is told as HTTP_ERROR, without its message. */
function answerTo({ roleChange, eventId, requestId, course }: AnsweredEvent, ended: Outcome | Error): Answer {
  const { exitCode, message, operationId } =
    ended instanceof Error && !(ended instanceof ConfigSwitchError) ? internalError(requestId) : ended;
  return {
    exit_code: exitCode,
    exit_status: exitStatus(exitCode),
    message,
    ...(roleChange && { cluster: roleChange.cluster, barman_server: roleChange.barmanServer }),
    ...(roleChange?.barmanModel !== undefined && { barman_model: roleChange.barmanModel }),
    ...(roleChange?.reset && { reset: true }),
    ...(operationId !== undefined && { operation_id: operationId }),
    ...(roleChange?.dryRun && { dry_run: true }),
    recorded: course.recorded,
    event_id: eventId,
    request_id: requestId,
  };
}

/**
 * What the caller is sent.
 *
 * @returns an HTTP response, the answer, or undefined where the error is to be thrown on: an EventBridge event that
 *   could not be recorded is kept by Lambda's retries and the failure queue
 */
function sent(
  { arrived }: AnsweredEvent,
  ended: Outcome | Error,
  answer: Answer,
): APIGatewayProxyStructuredResultV2 | Answer | undefined {
  switch (arrived.caller) {
    case 'http': {
      const status =
        ended instanceof HttpError ? STATUS_OF_HTTP_ERROR[ended.reason] : HTTP_STATUS[answer.exit_status];
      return json(status, answer, status === 503 ? RETRY_AFTER : {});
    }
    case 'eventbridge':
      return ended instanceof Error && !answer.recorded ? undefined : answer;
    case 'direct':
      return answer;
  }
}

/** To somebody unknown, who learns nothing, or to anybody while the secrets cannot be read. */
function rejection({ why }: Rejected): APIGatewayProxyStructuredResultV2 {
  return why === 'secret unreadable'
    ? json(503, { message: 'Service Unavailable' }, RETRY_AFTER)
    : json(401, { message: 'Unauthorized' });
}

function json(
  statusCode: number,
  body: object,
  headers: Record<string, string> = {},
): APIGatewayProxyStructuredResultV2 {
  return {
    statusCode,
    headers: { 'content-type': 'application/json', ...headers },
    body: JSON.stringify(body),
  };
}

function internalError(requestId: string): { exitCode: ExitCode; message: string; operationId?: string } {
  return {
    exitCode: ExitCode.HTTP_ERROR,
    message: `an error that nobody foresaw; the function's log has it under request id ${requestId}`,
  };
}
