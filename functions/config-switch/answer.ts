/** What the caller is told: one table from how a run ended to the answer, for every caller. */

import type { APIGatewayProxyStructuredResultV2 } from 'aws-lambda';
import type { Outcome } from './config-switch.ts';
import { ConfigSwitchError, DeadlineExceeded, Rejected } from './errors.ts';
import { ExitCode, type ExitStatus, exitStatus } from './exit-code.ts';
import type { Invocation } from './invocation.ts';

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
const TIMED_OUT = 504;
/** When a sender may try again what could not be looked at, s. */
const RETRY_AFTER = 5;

/** The answer to a run that ended, well or not. An error that is none of ours is told as HTTP_ERROR, without its message. */
function answerTo(
  { roleChange, eventId, requestId }: Pick<Invocation, 'roleChange' | 'eventId' | 'requestId'>,
  ended: Outcome | Error,
): Answer {
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
    event_id: eventId,
    request_id: requestId,
  };
}

/**
 * What the caller is sent.
 *
 * @param invocation whose answer is set here, unless the caller is somebody unknown
 * @param ended the outcome, or what was thrown
 * @returns an HTTP response, the answer, or undefined where the error is to be thrown on: an EventBridge event that
 *   could not be switched is kept by Lambda's retries and the failure queue
 */
export function respond(
  invocation: Invocation,
  ended: Outcome | Error,
): APIGatewayProxyStructuredResultV2 | Answer | undefined {
  if (ended instanceof Rejected) return rejection(ended);
  invocation.answer = answerTo(invocation, ended);
  switch (invocation.arrived.caller) {
    case 'http':
      return json(
        ended instanceof DeadlineExceeded ? TIMED_OUT : HTTP_STATUS[invocation.answer.exit_status],
        invocation.answer,
      );
    case 'eventbridge':
      return ended instanceof Error ? undefined : invocation.answer;
    case 'direct':
      return invocation.answer;
  }
}

/** To somebody unknown, who learns nothing, or to anybody while the secrets cannot be read. */
function rejection({ why }: Rejected): APIGatewayProxyStructuredResultV2 {
  return why === 'secret unreadable'
    ? json(503, { message: 'Service Unavailable' }, { 'retry-after': String(RETRY_AFTER) })
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
