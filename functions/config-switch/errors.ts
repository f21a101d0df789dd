/**
 * Errors as classes with the ExitCode that they mean. Their messages go to the caller, so they must not hold
 * a secret.
 */

import { ExitCode } from './exit-code.ts';

export abstract class ConfigSwitchError extends Error {
  abstract readonly exit_code: ExitCode;
  /** The operation of pg-backup-api that it is about, if one was created. */
  operation_id?: string;
}

/** The payload is wrong; the message names each problem, its field and the remedy. */
export class InvalidArgs extends ConfigSwitchError {
  override readonly name: string = 'InvalidArgs';
  readonly exit_code = ExitCode.INVALID_ARGS;
}

/** The secret of a webhook may not switch its Barman server. */
export class WrongCluster extends InvalidArgs {
  override readonly name = 'WrongCluster';
}

/** The operation ended FAILED. */
export class ConfigSwitchFailed extends ConfigSwitchError {
  override readonly name = 'ConfigSwitchFailed';
  readonly exit_code = ExitCode.CONFIG_SWITCH_FAILED;
}

/** pg-backup-api or the credentials for it are unavailable, or the result is not known at the deadline. */
export class HttpError extends ConfigSwitchError {
  override readonly name: string = 'HttpError';
  readonly exit_code = ExitCode.HTTP_ERROR;
}

/** The ledger is unavailable. Without it nothing is switched: an old event could bring Barman back. */
export class LedgerError extends HttpError {
  override readonly name = 'LedgerError';
}

/** Patroni does not say who the leader is, or it has no model: a role change that follows it is sent again. */
export class LeaderUnknown extends HttpError {
  override readonly name = 'LeaderUnknown';
}

/**
 * Another invocation is switching, or the server is paused. The desired state is recorded and will be
 * applied.
 */
export class Busy extends HttpError {
  override readonly name = 'Busy';
}

/** The deadline has passed. */
export class DeadlineExceeded extends HttpError {
  override readonly name = 'DeadlineExceeded';
}

/**
 * Makes an HttpError, or a DeadlineExceeded from one, with a longer message.
 *
 * @param error what was thrown
 * @param message makes the new message from the old one
 * @param operation_id the operation that it is about
 * @throws error itself, if it is not an HttpError
 */
export function httpErrorFrom(
  error: unknown,
  message: (old: string) => string,
  operation_id?: string,
): HttpError {
  if (!(error instanceof HttpError)) throw error;
  const ErrorClass = error instanceof DeadlineExceeded ? DeadlineExceeded : HttpError;
  const longer = new ErrorClass(message(error.message), { cause: error });
  if (operation_id !== undefined) longer.operation_id = operation_id;
  return longer;
}

/**
 * A webhook that is rejected before its payload is read: the response says nothing about the reason, and has
 * no ExitCode.
 */
export class Rejected extends Error {
  override readonly name = 'Rejected';
  readonly why: 'signature' | 'timestamp' | 'secret unreadable' | 'body too large' | 'payload format';
  constructor(why: Rejected['why'], message: string, options?: ErrorOptions) {
    super(message, options);
    this.why = why;
  }
}

/** Returns what was thrown, in words: the message of an error, or the value itself as text. */
export function messageOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}

/** Returns what was thrown, as an error. */
export function errorOf(thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error(String(thrown));
}
