/** Errors as classes with the ExitCode that they mean. Their messages go to the caller: no secret may be in one. */

import { ExitCode } from './exit-code.ts';

/** Why an HTTP_ERROR is one; the answer's HTTP status follows from it. */
export type HttpErrorReason = 'error' | 'timeout' | 'busy';

export abstract class ConfigSwitchError extends Error {
  abstract readonly exitCode: ExitCode;
  /** The operation of pg-backup-api that it is about, where one was created. */
  operationId?: string;
}

/** The payload is wrong; the message names each problem, its field and the remedy. */
export class InvalidArgs extends ConfigSwitchError {
  override readonly name = 'InvalidArgs';
  readonly exitCode = ExitCode.INVALID_ARGS;
}

/** The body is too long to be looked at; anybody may have sent it. */
export class BodyTooLarge extends InvalidArgs {}

/** The operation ended FAILED. */
export class ConfigSwitchFailed extends ConfigSwitchError {
  override readonly name = 'ConfigSwitchFailed';
  readonly exitCode = ExitCode.CONFIG_SWITCH_FAILED;
}

/** pg-backup-api or the credentials for it could not be had, or the outcome is not known at the deadline. */
export class HttpError extends ConfigSwitchError {
  override readonly name = 'HttpError';
  readonly exitCode = ExitCode.HTTP_ERROR;
  readonly reason: HttpErrorReason = 'error';
}

/** The ledger could not be used: without it no switch is begun, or an old event might slip through. */
export class LedgerError extends HttpError {}

/** Somebody else is driving, or nobody may. The wish is recorded, so it will be met. */
export class Busy extends HttpError {
  override readonly reason = 'busy';
}

/** The deadline has come. */
export class DeadlineExceeded extends HttpError {
  override readonly reason = 'timeout';
}

/**
 * An HttpError with more to say, and of the same reason.
 *
 * @param error what was thrown; anything but an HttpError is thrown on as it is
 * @param message makes the new message of the old one
 * @param operationId the operation that it is about
 */
export function httpErrorFrom(
  error: unknown,
  message: (old: string) => string,
  operationId?: string,
): HttpError {
  if (!(error instanceof HttpError)) throw error;
  const ErrorClass = error instanceof DeadlineExceeded ? DeadlineExceeded : HttpError;
  const told = new ErrorClass(message(error.message), { cause: error });
  if (operationId !== undefined) told.operationId = operationId;
  return told;
}

/** A webhook that is not let in: the caller learns nothing but that, and there is no ExitCode. */
export class Rejected extends Error {
  override readonly name = 'Rejected';
  readonly why: 'signature' | 'timestamp' | 'secret unreadable';
  constructor(why: Rejected['why'], message: string, options?: ErrorOptions) {
    super(message, options);
    this.why = why;
  }
}
