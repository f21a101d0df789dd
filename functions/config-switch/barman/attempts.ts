/** Attempts at requests to pg-backup-api, over one connection, until the deadline. */

import { isDeepStrictEqual } from 'node:util';
import * as v from 'valibot';
import { ATTEMPT_TIMEOUT, deadline, sleep } from '../deadline.ts';
import { DeadlineExceeded, HttpError, httpErrorFrom, messageOf } from '../errors.ts';
import { Agent, type Hooks, loadUndici } from '../http/agent.ts';
import { parseJson } from '../http/json.ts';
import { secureContextOf, type TlsCredentials } from '../http/tls.ts';
import {
  expiredCertificate,
  failureOf,
  RequestFailure,
  refusalOf,
  timedOut,
  unexpected,
} from './failures.ts';

/** Time limit for TCP and TLS together (ms). */
const CONNECT_TIMEOUT = 3_000;
/** Maximum number of 404: one can be false, but three in a row hardly ever are. */
const NOT_FOUND_ATTEMPTS = 3;
/**
 * Back-off between attempts (ms): random up to the base, which doubles at each attempt up to the cap ("full
 * jitter").
 */
const BACKOFF = { base: 250, cap: 4_000 };
/**
 * Additional wait (ms): until the file behind a false 404 is written; until the second in an operation's id
 * has passed.
 */
const SPACING: Readonly<Record<string, number>> = { 'GET 404': 100, 'POST 404': 100, 'POST 500': 1_000 };
/** Maximum response size (bytes): `/diagnose` lists every backup. */
const MAX_RESPONSE_SIZE = 16 * 1024 * 1024;

/** The URL of pg-backup-api, and the certificates and key for it. */
export interface Connection {
  readonly url: URL;
  /** Absent where plain HTTP is allowed. */
  readonly tls?: TlsCredentials;
}

/** Provides the connection. Both methods throw HttpError if it is unavailable. */
export interface ConnectionSource {
  connection(signal: AbortSignal): Promise<Connection>;
  /** Reads the connection again, because its credentials were refused. */
  rereadConnection(signal: AbortSignal): Promise<Connection>;
}

export interface HttpClientOptions {
  /** Aborts everything at the deadline. */
  readonly signal: AbortSignal;
  /** Maximum number of attempts per request, including the first, as `--max-retries` of patroni_barman. */
  readonly maxRetries: number;
  /** Called after each failed attempt. */
  readonly onFailure?: (failure: { request: string; attempt: number; error: RequestFailure }) => void;
  /** Called for each attempt. */
  readonly onRequest: () => void;
}

export interface Request<T> {
  readonly method: 'GET' | 'POST';
  readonly path: readonly string[];
  /** Of the JSON of a successful response. */
  readonly schema: v.GenericSchema<unknown, T>;
  readonly body?: object;
  /** Instead of the deadline's. */
  readonly signal?: AbortSignal;
  /** Time limit of one attempt (ms). */
  readonly timeout?: number;
  /** Maximum number of attempts, instead of the client's. */
  readonly maxRetries?: number;
  /** Maximum number of 404, instead of three. */
  readonly maxNotFound?: number;
  /**
   * Called in each attempt once the connection is made, right before the request is written. If it throws,
   * nothing is sent, and what it throws is thrown unchanged: it is not a failed attempt.
   */
  readonly beforeSend?: () => Promise<void>;
  /** Called after each failed attempt. */
  readonly onFailure?: (failure: RequestFailure) => void;
  /** Whether it may be sent again after a failure; default: after each transient one. */
  readonly mayRepeat?: (failure: RequestFailure) => boolean;
  /** Called before each further attempt. */
  readonly beforeRetry?: (failure: RequestFailure) => Promise<void>;
}

/** The last request that was written. */
export interface LastRequest {
  /** When it was written (`performance.now()`). */
  readonly start: number;
  /** How long it took from then on (ms): its cost for the host, without connecting. */
  readonly time: number;
}

/** How far an attempt has come. */
interface Progress {
  /** `beforeSend` has thrown. */
  refused: boolean;
  /** When the request was written (`performance.now()`); undefined before. */
  writtenAt: number | undefined;
}

interface Link {
  readonly connection: Connection;
  readonly agent: Agent;
  answered: boolean;
}

/** The connection of one invocation, opened at the first request; one request at a time. */
export class HttpClient implements AsyncDisposable {
  readonly #source: ConnectionSource;
  readonly #options: HttpClientOptions;
  #link: Link | undefined;
  #rereadDone = false;
  #last: LastRequest = { start: 0, time: 0 };
  #slowest = 0;
  #reached = false;
  #failure: string | undefined;

  constructor(source: ConnectionSource, options: HttpClientOptions) {
    this.#source = source;
    this.#options = options;
  }

  get last(): LastRequest {
    return this.#last;
  }

  /** How long the slowest request took (ms). */
  get slowest(): number {
    return this.#slowest;
  }

  /** Whether pg-backup-api itself answered any request, as expected or not. */
  get reached(): boolean {
    return this.#reached;
  }

  /** Why the first request failed that pg-backup-api did not answer. */
  get failure(): string | undefined {
    return this.#failure;
  }

  /**
   * Sends a request, with retries until the deadline.
   *
   * @returns the JSON of the response
   * @throws HttpError if it was refused, or all attempts failed
   * @throws DeadlineExceeded once the signal has aborted
   */
  async request<T>(request: Request<T>): Promise<T> {
    const { signal, maxRetries, maxNotFound = NOT_FOUND_ATTEMPTS } = { ...this.#options, ...request };
    const name = `${request.method} /${request.path.join('/')}`;
    for (let attempt = 1, notFound = 0; ; attempt += 1) {
      if (signal.aborted) throw new DeadlineExceeded(`time ran out before ${name} was sent`);
      this.#link ??= await this.#connect(this.#source.connection(signal)).catch((error) => {
        this.#failure ??= messageOf(error);
        throw error;
      });
      const link = this.#link;
      const progress: Progress = { refused: false, writtenAt: undefined };
      try {
        const response = await this.#send(link, request, signal, progress);
        this.#reached = true;
        return response;
      } catch (error) {
        if (progress.refused) throw error;
        const mayHaveBegun = request.method === 'POST' ? '; a switch may have begun nevertheless' : '';
        if (signal.aborted) {
          const state = progress.writtenAt ? `answered${mayHaveBegun}` : 'sent';
          throw new DeadlineExceeded(`time ran out before ${name} was ${state}`, { cause: error });
        }
        if (!(error instanceof RequestFailure)) throw error;
        this.#options.onFailure?.({ request: name, attempt, error });
        request.onFailure?.(error);
        if (error.isAnswer) this.#reached = true;
        if (error.status === 404) notFound += 1;
        const renewed = error.doubtsCredentials && (await this.#rereadCredentials(link));
        const mayRepeat = error.transient && (request.mayRepeat?.(error) ?? true);
        const again = mayRepeat && notFound < maxNotFound && attempt < maxRetries;
        if (!again && !renewed) {
          const attempts = attempt > 1 ? ` (${attempt} attempts)` : '';
          const doubt = error.begun === 'no' ? '' : mayHaveBegun;
          const message = `${error.message}${attempts}${doubt}${error.remedy}`;
          if (!error.isAnswer) this.#failure ??= message;
          throw new HttpError(message, { cause: error });
        }
        try {
          const spacing = SPACING[`${request.method} ${error.status}`] ?? 0;
          const backoff = renewed
            ? 0
            : Math.random() * Math.min(BACKOFF.cap, BACKOFF.base * 2 ** (attempt - 1));
          await sleep(spacing + backoff, signal);
          await request.beforeRetry?.(error);
        } catch (later) {
          throw httpErrorFrom(later, (message) => `${error.message}; then ${message}`);
        }
      }
    }
  }

  /** Closes the connection. */
  async [Symbol.asyncDispose](): Promise<void> {
    const link = this.#link;
    this.#link = undefined;
    await link?.agent[Symbol.asyncDispose]();
  }

  /** Sends a request once. @throws RequestFailure */
  async #send<T>(
    link: Link,
    { method, path, schema, body, beforeSend, timeout = ATTEMPT_TIMEOUT }: Request<T>,
    signal: AbortSignal,
    progress: Progress,
  ): Promise<T> {
    const { connection } = link;
    const { notAfter = Number.POSITIVE_INFINITY } = connection.tls ?? {};
    if (notAfter < Date.now()) throw expiredCertificate(notAfter);
    const attempt = deadline(timeout);
    const limited = AbortSignal.any([signal, attempt.signal]);

    const hooks: Hooks = {
      beforeWrite: async () => {
        progress.refused = true;
        await beforeSend?.();
        progress.refused = false;
      },
      onWrite: () => {
        progress.writtenAt = performance.now();
      },
    };

    this.#options.onRequest();
    let status: number;
    let text: string;
    try {
      const response = await link.agent.send({ method, base: connection.url, path, body }, limited, hooks);
      link.answered = true;
      status = response.status;
      text = await response.text();
    } catch (error) {
      if (progress.refused) throw error;
      const written = progress.writtenAt !== undefined;
      if (attempt.signal.aborted) throw timedOut(timeout, written);
      throw failureOf(error, connection.tls !== undefined && !link.answered, written) ?? error;
    } finally {
      attempt.clear();
      if (progress.writtenAt !== undefined) {
        this.#last = { start: progress.writtenAt, time: performance.now() - progress.writtenAt };
        this.#slowest = Math.max(this.#slowest, this.#last.time);
      }
    }

    if (status < 200 || status > 299) throw refusalOf(status, text, { method, path });
    let json: unknown;
    try {
      json = parseJson(text);
    } catch (error) {
      throw unexpected(status, `its body is ${messageOf(error)}`);
    }
    // Only the first issue is used; a long list can have millions.
    const result = v.safeParse(schema, json, { abortEarly: true });
    if (result.success) return result.output;
    const [issue] = result.issues;
    throw unexpected(
      status,
      `its JSON is not as expected: ${v.getDotPath(issue) ?? 'it'} is not ${issue.expected}`,
    );
  }

  /** Creates the agent; undici is loaded while SSM responds. */
  async #connect(source: Promise<Connection>): Promise<Link> {
    const [connection] = await Promise.all([source, loadUndici()]);
    const agent = new Agent({
      secureContext: connection.tls && secureContextOf(connection.tls),
      connectTimeout: CONNECT_TIMEOUT,
      maxResponseSize: MAX_RESPONSE_SIZE,
    });
    return { connection, agent, answered: false };
  }

  /** Returns whether the credentials differ from those that were refused */
  async #rereadCredentials(link: Link): Promise<boolean> {
    if (this.#rereadDone) return false;
    this.#rereadDone = true;
    const connection = await this.#source.rereadConnection(this.#options.signal);
    if (isDeepStrictEqual(connection, link.connection)) return false;
    await this[Symbol.asyncDispose]();
    this.#link = await this.#connect(Promise.resolve(connection));
    return true;
  }
}
