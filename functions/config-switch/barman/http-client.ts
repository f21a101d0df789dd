/** Requests to pg-backup-api: one connection, each request tried as often as it makes sense, until the deadline. */

import { createSecureContext, type SecureContext } from 'node:tls';
import { isDeepStrictEqual } from 'node:util';
import * as v from 'valibot';
import { deadline, sleep, within } from '../deadline.ts';
import { DeadlineExceeded, HttpError, httpErrorFrom } from '../errors.ts';
import { failureOf, RequestFailure, refusalOf, timedOut, unexpected } from './request-failure.ts';

/** Time for TCP and TLS, ms. */
const CONNECT_TIMEOUT = 3_000;
/** Time for one attempt, body included, ms: a host with a thousand servers takes 11 s to respond. */
const ATTEMPT_TIMEOUT = 12_000;
/** Attempts at something that is not there, of all attempts: a 404 can be false, but seldom three times. */
const NOT_FOUND_ATTEMPTS = 3;
/** Back-off between attempts, ms: a random part of the base doubled at each attempt, at most the cap ("full jitter"). */
const BACKOFF = { base: 250, cap: 4_000 };
/** What is waited besides, ms. For the file of a false 404 to be written; for the second of an operation's id to pass. */
const SPACING: Readonly<Record<string, number>> = { 'GET 404': 100, 'POST 404': 100, 'POST 500': 1_000 };
/** Room for a `/diagnose` that lists every backup, bytes. */
const MAX_RESPONSE_SIZE = 16 * 1024 * 1024;

/** Where pg-backup-api is, and how it knows us. */
export interface Connection {
  readonly url: URL;
  /** PEM; absent where plain HTTP is allowed. */
  readonly tls?: { readonly cert: string; readonly key: string; readonly ca: string };
}

/** Who knows where pg-backup-api is. Both throw HttpError where it cannot be known. */
export interface ConnectionSource {
  connection(signal: AbortSignal): Promise<Connection>;
  /** The same, read anew: the one at hand was refused. */
  rereadConnection(signal: AbortSignal): Promise<Connection>;
}

export interface HttpClientOptions {
  /** Aborts everything at the deadline. */
  readonly signal: AbortSignal;
  /** Attempts at one request, the first included (`--max-retries` of patroni_barman counts the same way). */
  readonly maxRetries: number;
  /** Called after each failed attempt. */
  readonly onFailure?: (failure: { request: string; attempt: number; error: RequestFailure }) => void;
  /** Called for each request that is sent. */
  readonly onRequest?: () => void;
}

export interface Request<T> {
  readonly method: 'GET' | 'POST';
  readonly path: readonly string[];
  /** Of the JSON that a success brings. */
  readonly schema: v.GenericSchema<unknown, T>;
  readonly body?: object;
  /** In place of the deadline's. */
  readonly signal?: AbortSignal;
  /** One attempt's time, ms. */
  readonly timeout?: number;
  /** Called right before each attempt; what it throws keeps it from being sent. */
  readonly beforeSend?: () => Promise<void>;
  /** Called after each failed attempt. */
  readonly onFailure?: (failure: RequestFailure) => void;
  /** Called before another attempt. @param sentAt when the last one was sent, by `performance.now()` */
  readonly beforeRetry?: (failure: RequestFailure, sentAt: number) => Promise<void>;
}

type Undici = typeof import('./undici.ts');

interface Link {
  readonly connection: Connection;
  readonly agent: InstanceType<Undici['Agent']>;
  readonly request: Undici['request'];
  answered: boolean;
}

/** One invocation's connection to pg-backup-api, made at the first request; one request at a time. */
export class HttpClient implements AsyncDisposable {
  readonly #source: ConnectionSource;
  readonly #options: HttpClientOptions;
  #link: Link | undefined;
  #rereadDone = false;
  #last = { start: 0, time: 0 };

  constructor(source: ConnectionSource, options: HttpClientOptions) {
    this.#source = source;
    this.#options = options;
  }

  /** When the last request was sent, by `performance.now()`, and how long it took, ms: what one costs the host. */
  get last(): { readonly start: number; readonly time: number } {
    return this.#last;
  }

  /**
   * Tries a request as often as it makes sense, until the deadline.
   *
   * @returns its JSON
   * @throws HttpError if it was refused, or failed at each attempt
   * @throws DeadlineExceeded once the signal has aborted
   */
  async request<T>(request: Request<T>): Promise<T> {
    const { maxRetries } = this.#options;
    const { signal = this.#options.signal } = request;
    const name = `${request.method} /${request.path.join('/')}`;
    for (let attempt = 1, notFound = 0; ; attempt += 1) {
      if (signal.aborted) throw new DeadlineExceeded(`time ran out before ${name} was sent`);
      this.#link ??= await this.#connect(this.#source.connection(signal));
      const link = this.#link;
      await request.beforeSend?.();
      const sentAt = performance.now();
      try {
        return await this.#send(link, request, signal);
      } catch (error) {
        const mayHaveBegun = request.method === 'POST' ? '; a switch may have begun nevertheless' : '';
        if (signal.aborted) {
          throw new DeadlineExceeded(`time ran out before ${name} was answered${mayHaveBegun}`, {
            cause: error,
          });
        }
        if (!(error instanceof RequestFailure)) throw error;
        this.#options.onFailure?.({ request: name, attempt, error });
        request.onFailure?.(error);
        if (error.status === 404) notFound += 1;
        const renewed = error.doubtsCredentials && (await this.#rereadCredentials(link));
        const again = error.transient && notFound < NOT_FOUND_ATTEMPTS && attempt < maxRetries;
        if (!again && !renewed) {
          const attempts = attempt > 1 ? ` (${attempt} attempts)` : '';
          throw new HttpError(`${error.message}${attempts}${error.begun === 'no' ? '' : mayHaveBegun}`, {
            cause: error,
          });
        }
        try {
          const spacing = SPACING[`${request.method} ${error.status}`] ?? 0;
          const backoff = renewed
            ? 0
            : Math.random() * Math.min(BACKOFF.cap, BACKOFF.base * 2 ** (attempt - 1));
          await sleep(spacing + backoff, signal);
          await request.beforeRetry?.(error, sentAt);
        } catch (later) {
          throw httpErrorFrom(later, (message) => `${error.message}; then ${message}`);
        }
      }
    }
  }

  /** Closes the connection: one kept over a frozen invocation dies silently, and costs a time-out just when it matters. */
  async [Symbol.asyncDispose](): Promise<void> {
    const link = this.#link;
    this.#link = undefined;
    // While it connects it cannot be destroyed, and no response waits for that.
    link?.agent.destroy().catch(() => {});
  }

  /** Sends a request once. @throws RequestFailure */
  async #send<T>(
    link: Link,
    { method, path, schema, body, timeout = ATTEMPT_TIMEOUT }: Request<T>,
    signal: AbortSignal,
  ): Promise<T> {
    const { connection } = link;
    const url = new URL(connection.url);
    url.pathname = `${url.pathname.replace(/\/+$/, '')}/${path.map(encodeURIComponent).join('/')}`;
    const attempt = deadline(timeout);
    const ended = AbortSignal.any([signal, attempt.signal]);

    this.#options.onRequest?.();
    const start = performance.now();
    let status: number;
    let text: string;
    try {
      const sent = link.request(link.agent, {
        origin: url.origin,
        path: url.pathname,
        method,
        signal: ended,
        headers: {
          accept: 'application/json',
          'user-agent': 'barman-config-switch',
          ...(body ? { 'content-type': 'application/json' } : {}),
        },
        body: body ? JSON.stringify(body) : null,
      });
      // undici heeds the signal only once it is connected; what is connected later is not sent any more.
      const response = await within(ended, sent);
      link.answered = true;
      status = response.statusCode;
      text = await response.body.text();
    } catch (error) {
      if (attempt.signal.aborted) throw timedOut(timeout);
      throw failureOf(error, connection.tls !== undefined && !link.answered) ?? error;
    } finally {
      attempt.clear();
      this.#last = { start, time: performance.now() - start };
    }

    if (status < 200 || status > 299) throw refusalOf(status, text);
    let json: unknown;
    try {
      json = JSON.parse(text);
    } catch {
      throw unexpected(status, 'its body is not JSON');
    }
    const result = v.safeParse(schema, json);
    if (result.success) return result.output;
    const [issue] = result.issues;
    throw unexpected(
      status,
      `its JSON is not as expected: ${v.getDotPath(issue) ?? 'it'} is not ${issue.expected}`,
    );
  }

  /** Loads undici and makes the agent. undici is loaded only here, for a real switch, while SSM answers. */
  async #connect(source: Promise<Connection>): Promise<Link> {
    const [{ Agent, request }, connection] = await Promise.all([import('./undici.ts'), source]);
    const agent = new Agent({
      connections: 1,
      pipelining: 1,
      allowH2: false,
      maxResponseSize: MAX_RESPONSE_SIZE,
      // The attempt's signal covers headers and body together.
      headersTimeout: 0,
      bodyTimeout: 0,
      connect: {
        timeout: CONNECT_TIMEOUT,
        rejectUnauthorized: true,
        ...(connection.tls && { secureContext: secureContextOf(connection.tls) }),
      },
    });
    return { connection, agent, request, answered: false };
  }

  /** @returns whether there are other credentials than the ones that were refused */
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

const secureContexts = new WeakMap<NonNullable<Connection['tls']>, SecureContext>();

/** Made once for each set of credentials: it is large, beyond the sight of the garbage collector, and slow to make. */
function secureContextOf(tls: NonNullable<Connection['tls']>): SecureContext {
  const context = secureContexts.get(tls) ?? createSecureContext(tls);
  secureContexts.set(tls, context);
  return context;
}
