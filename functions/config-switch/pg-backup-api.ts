/**
 * pg-backup-api on the Barman host: which requests there are, how often they are tried, how long is waited.
 *
 * An operation is created by a POST and runs on by itself. So a POST that had no answer may have created one, and
 * Barman takes no lock: another POST is sent only after such an operation has ended.
 */

import { createSecureContext, type SecureContext } from 'node:tls';
import { isDeepStrictEqual } from 'node:util';
import * as v from 'valibot';
import { deadline, sleep, within } from './deadline.ts';
import { DeadlineExceeded, HttpError, httpErrorFrom } from './errors.ts';
import { POST_DELAY } from './ledger.ts';
import { BARMAN_NAME, type ConfigTarget } from './payload.ts';
import { failureOf, RequestFailure, refusalOf, timedOut, unexpected } from './request-failure.ts';

/** Time for TCP and TLS, ms. */
const CONNECT_TIMEOUT = 3_000;
/** Time for one attempt, body included, ms: a host with a thousand servers takes 11 s to answer. */
const ATTEMPT_TIMEOUT = 12_000;
/** The same for `/diagnose`, which asks every PostgreSQL server, ms: more than any invocation has. */
const DIAGNOSE_TIMEOUT = 60_000;
/** For all attempts at `/status`, ms: a host that hangs must not take the whole heartbeat. */
const STATUS_TIMEOUT = 15_000;
/** Attempts at something that is not there, of all attempts: a 404 can be false, but seldom three times. */
const NOT_FOUND_ATTEMPTS = 3;
/** Back-off between attempts, ms: a random part of the base doubled at each attempt, at most the cap ("full jitter"). */
const BACKOFF = { base: 250, cap: 4_000 };
/** What is waited besides, ms. For the file of a false 404 to be written; for the second of an operation's id to pass. */
const SPACING: Readonly<Record<string, number>> = { 'GET 404': 100, 'POST 404': 100, 'POST 500': 1_000 };
/**
 * First poll after the creation, and shortest time from the start of a poll to the start of the next, ms; or that part of the
 * time elapsed: at an operation of 1.2 s three polls more than with 100 ms and a tenth, and the answer 25 ms sooner.
 */
const POLL = { first: 150, interval: 75, share: 1 / 16 };
const HOUR = 3_600_000;
/** Room for a `/diagnose` that lists every backup, bytes. */
const MAX_RESPONSE_SIZE = 16 * 1024 * 1024;

const CreatedOperation = v.object({
  operation_id: v.pipe(v.string(), v.maxLength(255), v.regex(BARMAN_NAME)),
});
const Operation = v.object({ status: v.picklist(['IN_PROGRESS', 'DONE', 'FAILED']) });
const Operations = v.object({ operations: v.array(v.object({ id: v.string(), type: v.string() })) });
const Clustered = v.object({ cluster: v.nullish(v.string()) });
const Status = v.string();
const DiagnoseOutput = v.object({
  servers: v.record(v.string(), v.object({ active_model: v.nullish(v.string()), config: Clustered })),
  // Barman before 3.10 has no models.
  models: v.optional(v.record(v.string(), v.object({ config: Clustered })), {}),
});

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

/** What `/diagnose` says that matters to a switch. */
export interface Diagnosis {
  readonly servers: ReadonlyMap<string, { readonly activeModel: string | null; readonly cluster: string }>;
  readonly models: ReadonlyMap<string, { readonly cluster: string }>;
}

export interface PgBackupApiOptions {
  /** Aborts everything at the deadline. */
  readonly signal: AbortSignal;
  /** Attempts at one request, the first included (`--max-retries` of patroni_barman counts the same way). */
  readonly maxRetries: number;
  /** Told of each failed attempt. */
  readonly onFailure?: (failure: { request: string; attempt: number; error: RequestFailure }) => void;
  /** Until when a POST without an answer may still arrive, ms after it was sent: POST_DELAY unless a test knows better. */
  readonly postDelay?: number;
}

type Undici = typeof import('./undici.ts');

interface Link {
  readonly connection: Connection;
  readonly agent: InstanceType<Undici['Agent']>;
  readonly request: Undici['request'];
  answered: boolean;
}

interface Request<T> {
  readonly method: 'GET' | 'POST';
  readonly path: readonly string[];
  readonly schema: v.GenericSchema<unknown, T>;
  readonly body?: object;
  /** In place of the deadline's. */
  readonly signal?: AbortSignal;
  /** One attempt's time, ms. */
  readonly timeout?: number;
  /** Called before another attempt. */
  readonly beforeRetry?: (failure: RequestFailure, sentAt: number) => Promise<void>;
}

/** One invocation's way to pg-backup-api: one connection, made at the first request, one request at a time. */
export class PgBackupApi implements AsyncDisposable {
  /** Requests sent. */
  attempts = 0;
  /** Requests for an operation's status. */
  polls = 0;
  /** Called right before each POST; what it throws keeps it from being sent. */
  beforePost: (() => Promise<void>) | undefined;
  /** Whether an operation that was asked for, or may have been, may still be running. */
  inDoubt = false;
  readonly #source: ConnectionSource;
  readonly #options: PgBackupApiOptions & { readonly postDelay: number };
  #link: Link | undefined;
  #rereadDone = false;
  /** When the last request was sent, by `performance.now()`, and how long it took, ms: what one costs the host. */
  #last = { start: 0, time: 0 };

  constructor(source: ConnectionSource, options: PgBackupApiOptions) {
    this.#source = source;
    this.#options = { postDelay: POST_DELAY, ...options };
  }

  /**
   * Asks for a config switch.
   *
   * @returns the operation's id
   * @throws HttpError if it was refused or could not be asked for
   */
  createConfigSwitchOperation(server: string, target: ConfigTarget): Promise<string> {
    return this.#request({
      method: 'POST',
      path: ['servers', server, 'operations'],
      body: {
        type: 'config_switch',
        ...('model' in target ? { model_name: target.model } : { reset: true }),
      },
      schema: CreatedOperation,
      beforeRetry: async (failure, sentAt) => {
        if (failure.begun === 'unknown') {
          await sleep(this.#options.postDelay - (performance.now() - sentAt), this.#options.signal);
        }
        if (failure.begun !== 'no') await this.settle(server, performance.now() - sentAt);
      },
    }).then((created) => created.operation_id);
  }

  /**
   * Waits for the end of an operation: polls soon and then less and less often, quick on a small host and gentle on
   * one where each poll takes long.
   *
   * @param signal in place of the deadline's
   * @returns how it ended
   * @throws HttpError, DeadlineExceeded with the operation's id: its end is not known
   */
  async waitForOperation(
    server: string,
    operationId: string,
    signal = this.#options.signal,
  ): Promise<'DONE' | 'FAILED'> {
    const start = performance.now();
    try {
      for (let soonest = start + POLL.first; ; soonest = this.#last.start + POLL.interval) {
        const now = performance.now();
        // A part of the time elapsed keeps the answer prompt; twice the last request leaves half of the host's time.
        const pause = Math.max((now - start) * POLL.share, 2 * this.#last.time);
        const next = Math.max(soonest, this.#last.start + pause);
        await sleep(next - now, signal);
        const status = await this.#getOperationStatus(server, operationId, signal);
        if (status === 'IN_PROGRESS') continue;
        this.inDoubt = false;
        return status;
      }
    } catch (error) {
      throw httpErrorFrom(
        error,
        (message) =>
          `the end of operation ${operationId} on ${server} is not known: ${message}; ` +
          `it will be in <barman_home>/${server}/output/${operationId}.json on the Barman host`,
        operationId,
      );
    }
  }

  /**
   * Whether pg-backup-api answers, to our certificate too.
   *
   * @throws HttpError
   */
  async status(): Promise<void> {
    const limit = deadline(STATUS_TIMEOUT);
    const signal = AbortSignal.any([this.#options.signal, limit.signal]);
    try {
      await this.#request({ method: 'GET', path: ['status'], schema: Status, signal });
    } finally {
      limit.clear();
    }
  }

  /**
   * What servers and models Barman has. Slow and heavy for the host.
   *
   * @throws HttpError
   */
  async diagnose(): Promise<Diagnosis> {
    const { servers, models } = await this.#request({
      method: 'GET',
      path: ['diagnose'],
      schema: DiagnoseOutput,
      timeout: DIAGNOSE_TIMEOUT,
    });
    return {
      // Without a cluster of its own, a server is its own cluster (barman.config, ServerConfig.DEFAULTS).
      servers: new Map(
        Object.entries(servers).map(([name, { active_model, config }]) => [
          name,
          { activeModel: active_model ?? null, cluster: config.cluster ?? name },
        ]),
      ),
      models: new Map(
        Object.entries(models).map(([name, { config }]) => [name, { cluster: config.cluster ?? '' }]),
      ),
    };
  }

  /** Closes the connection: one kept over a frozen invocation dies silently, and costs a time-out just when it matters. */
  async [Symbol.asyncDispose](): Promise<void> {
    const link = this.#link;
    this.#link = undefined;
    // While it connects it cannot be destroyed, and no answer waits for that.
    link?.agent.destroy().catch(() => {});
  }

  async #getOperationStatus(
    server: string,
    operationId: string,
    signal: AbortSignal,
  ): Promise<'IN_PROGRESS' | 'DONE' | 'FAILED'> {
    this.polls += 1;
    const path = ['servers', server, 'operations', operationId];
    return (await this.#request({ method: 'GET', path, schema: Operation, signal })).status;
  }

  /**
   * Sees to their end the config switches that a POST without a known end may have created. Which of them is that
   * POST's, if any, the list does not tell, so none is taken for it.
   *
   * @param age how long ago that POST may have been sent, ms
   * @param signal in place of the deadline's
   * @throws HttpError
   */
  async settle(server: string, age: number, signal = this.#options.signal): Promise<void> {
    const asked = performance.now();
    const { operations } = await this.#request({
      method: 'GET',
      path: ['servers', server, 'operations'],
      schema: Operations,
      signal,
    });
    const ids = operations.filter(({ type }) => type === 'config_switch').map(({ id }) => id);
    // Ids are times of the Barman host, in a zone that we do not know. Ours is no older than the POST, so no older than
    // the newest id by more than the time since, and an hour where clocks were set back; and no zone is 13 hours behind.
    const newest = Math.max(...ids.map(timeOf).filter((time) => !Number.isNaN(time)));
    const elapsed = age + performance.now() - asked;
    const since = Math.max(newest - HOUR, Date.now() - 13 * HOUR) - elapsed - 1_000;
    for (const id of ids.filter((id) => !(timeOf(id) < since)).sort()) {
      const status = await this.#getOperationStatus(server, id, signal);
      if (status === 'IN_PROGRESS') await this.waitForOperation(server, id, signal);
    }
    this.inDoubt = false;
  }

  /** Tries a request as often as it makes sense, until the deadline. */
  async #request<T>(request: Request<T>): Promise<T> {
    const { maxRetries, onFailure } = this.#options;
    const { signal = this.#options.signal } = request;
    const post = request.method === 'POST';
    const name = `${request.method} /${request.path.join('/')}`;
    for (let attempt = 1, notFound = 0; ; attempt += 1) {
      if (signal.aborted) throw new DeadlineExceeded(`time ran out before ${name} was sent`);
      this.#link ??= await this.#connect(this.#source.connection(signal));
      const link = this.#link;
      if (post) await this.beforePost?.();
      this.inDoubt ||= post;
      const sentAt = performance.now();
      try {
        return await this.#send(link, request, signal);
      } catch (error) {
        const mayHaveBegun = post ? '; a switch may have begun all the same' : '';
        if (signal.aborted) {
          throw new DeadlineExceeded(`time ran out before ${name} was answered${mayHaveBegun}`, {
            cause: error,
          });
        }
        if (!(error instanceof RequestFailure)) throw error;
        onFailure?.({ request: name, attempt, error });
        if (error.status === 404) notFound += 1;
        if (post && error.begun === 'no') this.inDoubt = false;
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

    this.attempts += 1;
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
      throw unexpected(status, 'not with JSON');
    }
    const result = v.safeParse(schema, json);
    if (result.success) return result.output;
    const [issue] = result.issues;
    throw unexpected(
      status,
      `its JSON is not the expected one: ${v.getDotPath(issue) ?? 'it'} is not ${issue.expected}`,
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

/** The time in an operation's id (`%Y%m%dT%H%M%S`), ms, or NaN; good for distances only. */
function timeOf(operationId: string): number {
  return Date.parse(operationId.replace(/(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)/, '-$1-$2T$3:$4:$5Z'));
}
