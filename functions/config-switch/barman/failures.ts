/**
 * Failed requests to pg-backup-api: one table from HTTP status or error code to what may be done about it.
 */

import { DeadlineExceeded } from '../errors.ts';
import { networkFailureOf } from '../http/network-errors.ts';
import { cut, printable } from '../text.ts';

/** Length of a message (characters): a key of JSON or the names in a certificate can be very long. */
const MAX_MESSAGE = 1_000;

/** A request without a usable response. The message says why, for the response and the log. */
export class RequestFailure extends Error {
  override readonly name = 'RequestFailure';
  /** Another attempt may succeed. */
  readonly transient: boolean;
  /** Whether a POST has begun its operation. "unknown": it may not even have arrived yet. */
  readonly begun: 'no' | 'yes' | 'unknown';
  /** The client certificate, key or CA may be wrong, or was replaced. */
  readonly doubtsCredentials: boolean;
  readonly status: number | undefined;
  /** Appended to the message if this is how the last attempt failed; a single such failure needs none. */
  readonly remedy: string;

  constructor(
    message: string,
    traits: Partial<Pick<RequestFailure, 'transient' | 'begun' | 'doubtsCredentials' | 'status' | 'remedy'>>,
    options?: ErrorOptions,
  ) {
    super(cut(message, MAX_MESSAGE), options);
    this.transient = traits.transient ?? false;
    this.begun = traits.begun ?? 'no';
    this.doubtsCredentials = traits.doubtsCredentials ?? false;
    this.status = traits.status;
    this.remedy = traits.remedy ?? '';
  }

  /** Whether pg-backup-api itself has refused the request, and not a proxy, a redirect or the network. */
  get isAnswer(): boolean {
    return (this.status ?? 0) >= 400 && !this.doubtsCredentials && this.begun === 'no';
  }
}

/**
 * Returns the failure of a request that ended without a response.
 *
 * @param error what undici threw
 * @param freshTls whether this was the first request of a new TLS session: with TLS 1.3 a server that refuses
 *   the client certificate completes the handshake and then closes the connection
 * @param written whether the request was written; what was not has begun nothing
 * @returns the failure, or undefined for an error that did not come from the network
 */
export function failureOf(error: unknown, freshTls: boolean, written: boolean): RequestFailure | undefined {
  const failure = networkFailureOf(error);
  if (!failure) return undefined;
  const { code } = failure;
  const sent = written && failure.sent;
  const unanswered = sent ? 'did not respond' : 'is unreachable';
  const reason = `${failure.reason} (${code})`;
  const inDoubt = { transient: true, begun: sent ? 'unknown' : 'no' } as const;
  const cause = { cause: error };
  switch (failure.kind) {
    case 'unreachable':
      return new RequestFailure(`pg-backup-api ${unanswered}: ${reason}`, inDoubt, cause);
    case 'untrusted':
      return new RequestFailure(
        `the certificate of the Barman host is not trusted: ${reason}; check ca-cert and url`,
        { doubtsCredentials: true },
        cause,
      );
    case 'tls':
      return new RequestFailure(
        `TLS with the Barman host failed: ${reason}; check client-cert, client-key and ca-cert`,
        { doubtsCredentials: true },
        cause,
      );
    case 'cut off': {
      const hint = freshTls ? '; the Barman host may have refused client-cert' : '';
      return new RequestFailure(
        `pg-backup-api ${unanswered}: ${reason}${hint}`,
        { ...inDoubt, doubtsCredentials: freshTls },
        cause,
      );
    }
    case 'unusable':
      return new RequestFailure(`the response of pg-backup-api is not usable: ${reason}`, inDoubt, cause);
  }
}

/**
 * Returns the failure of an attempt that was not made, because the client certificate has expired: many
 * servers only close the connection then.
 *
 * @param notAfter its end (ms since the epoch)
 */
export function expiredCertificate(notAfter: number): RequestFailure {
  const end = new Date(notAfter).toISOString().replace('.000', '');
  return new RequestFailure(
    `the client certificate expired on ${end}; write a new one, with its key, to the parameters client-cert and client-key`,
    { doubtsCredentials: true },
  );
}

/**
 * Returns the failure of an attempt that took too long.
 *
 * @param ms its time limit
 * @param written whether the request was written
 */
export function timedOut(ms: number, written: boolean): RequestFailure {
  const what = written ? 'pg-backup-api did not respond' : 'nothing could be sent to pg-backup-api';
  return new RequestFailure(`${what} within ${ms / 1000} s`, {
    transient: true,
    begun: written ? 'unknown' : 'no',
  });
}

/**
 * Returns the failure of a response with a successful status, but without the expected JSON.
 *
 * @param what what is wrong with it
 */
export function unexpected(status: number, what: string): RequestFailure {
  return new RequestFailure(`pg-backup-api answered ${status}, but ${what}`, {
    transient: true,
    begun: 'yes',
    status,
  });
}

/**
 * Returns the failure of a response with an unsuccessful status.
 *
 * @param status the HTTP status, not 2xx
 * @param body its text becomes part of the message
 * @param request what was refused, for the remedy
 */
export function refusalOf(
  status: number,
  body: string,
  request?: { readonly method: string; readonly path: readonly string[] },
): RequestFailure {
  const words = wordsOf(body);
  // pg-backup-api and nginx begin with the status themselves.
  const repeated = new RegExp(`^${status}\\b`).test(words);
  const reason = repeated ? words.slice(String(status).length) : words && `: ${words}`;
  const message = `pg-backup-api answered ${status}${reason}`;
  if (status >= 300 && status < 400) {
    return new RequestFailure(`${message} (redirects are not followed; set url to the final URL)`, {
      status,
    });
  }
  // nginx responds 400 (or 495, 496) to a client certificate that is missing or does not verify.
  if (status === 401 || status === 403 || (status === 400 && /SSL certificate/i.test(words))) {
    return new RequestFailure(`${message} (check client-cert and client-key)`, {
      status,
      doubtsCredentials: true,
    });
  }
  // It can be false: while the output file of an operation is open but not yet written, the operation does
  // not exist.
  if (status === 404) return new RequestFailure(message, { status, transient: true });
  // The request was rejected, not begun: it arrived incomplete (408; RFC 9110, 15.5.9), too early (425; RFC
  // 8470, 5.2) or too often (429; RFC 6585, 4).
  if (status === 408 || status === 425 || status === 429) {
    return new RequestFailure(message, { status, transient: true });
  }
  // 500 comes from pg-backup-api: another operation was created in the same second, or no process could be
  // started. Any other 5xx comes from a proxy, which does not know: Apache also responds 503 if its
  // connection to the server broke.
  if (status >= 500) {
    return new RequestFailure(message, {
      status,
      transient: true,
      begun: status === 500 ? 'no' : 'unknown',
      ...(status === 500 && request && { remedy: remedyOf(request) }),
    });
  }
  return new RequestFailure(message, { status });
}

/** Length of the path of a list, `/servers/S/operations`. */
const LIST_PATH = 3;

/**
 * Returns the remedy for a 500 of a server's operations. pg-backup-api reads the job files of all of them for
 * a list; for a POST it writes one, and then starts a helper process with the command of its own name
 * (pg_backup_api.logic.utility_controller, `servers_operations_post`).
 */
function remedyOf({ method, path }: { readonly method: string; readonly path: readonly string[] }): string {
  const jobs = `<barman_home>/${path[1]}/jobs`;
  const log = '; see the error log of pg-backup-api on the Barman host';
  if (method === 'POST') {
    return (
      `${log}. If it cannot start its helper process, add the directory of the command pg-backup-api to the PATH of its service, ` +
      `and delete the jobs that it left in ${jobs}: only jobs without an output in output/`
    );
  }
  if (path.length !== LIST_PATH) return '';
  return `${log}. The usual cause is a job file of 0 bytes in ${jobs}, which a full disk leaves: delete it unless output/ has its output`;
}

/** Returns the text of an error's body: the `error` of a JSON object, or the text of an HTML page. */
function wordsOf(whole: string): string {
  // The patterns below take quadratic time on a crafted body.
  const body = whole.slice(0, 4096);
  let words = body;
  try {
    const { error } = Object(JSON.parse(body));
    if (error !== undefined) words = String(error);
  } catch {
    words = body.replace(/<(script|style|title)[\s\S]*?<\/\1>/gi, ' ').replace(/<[^>]*>/g, ' ');
  }
  words = printable(words.replace(/[\s\p{Cc}]+/gu, ' ').trim());
  return words.length > 300 ? `${words.slice(0, 300)}…` : words;
}

/** Returns the refusal of pg-backup-api itself, if that is what an error is about. */
export function answerOf(error: unknown): RequestFailure | undefined {
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    if (cause instanceof RequestFailure && cause.isAnswer) return cause;
  }
  return undefined;
}

/**
 * Returns whether pg-backup-api may still be working on a request that failed: it goes on when its client has
 * gone.
 *
 * @param error what was thrown instead of the response
 */
export function isUnanswered(error: unknown): boolean {
  let failure: unknown = error;
  while (failure instanceof Error && !(failure instanceof RequestFailure)) {
    if (failure instanceof DeadlineExceeded) return true;
    failure = failure.cause;
  }
  return failure instanceof RequestFailure && failure.begun === 'unknown';
}
