/**
 * The operations of pg-backup-api on the Barman host, and how long to wait for them.
 *
 * A POST creates an operation, which then runs by itself. So a POST without a response may have created one, and Barman
 * takes no lock: another POST is sent only after such an operation has ended.
 */

import * as v from 'valibot';
import { deadline, sleep } from '../deadline.ts';
import { httpErrorFrom } from '../errors.ts';
import { type ConnectionSource, HttpClient, type HttpClientOptions } from './http-client.ts';
import { BARMAN_NAME, type ConfigTarget, requestBody } from './target.ts';

/** Time limit of one attempt at `/diagnose`, which queries every PostgreSQL server (ms): more than any invocation has. */
const DIAGNOSE_TIMEOUT = 60_000;
/** Time limits of the heartbeat's probes (ms): a host that hangs must not use up the heartbeat. */
const STATUS_TIMEOUT = 15_000;
const READ_SERVER_TIMEOUT = 5_000;
/**
 * First poll after the creation, and shortest interval between the starts of two polls (ms), or this share of the time
 * elapsed. For an operation of 1.2 s that is three polls more than with 100 ms and a tenth, and a response 25 ms sooner.
 */
const POLL = { first: 150, interval: 75, share: 1 / 16 };
const HOUR = 3_600_000;

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

/** The part of `/diagnose` that matters to a switch. */
export interface Diagnosis {
  readonly servers: ReadonlyMap<string, { readonly activeModel: string | null; readonly cluster: string }>;
  readonly models: ReadonlyMap<string, { readonly cluster: string }>;
}

/** What guards the POSTs of one config switch. */
export interface PostGuard {
  /** Called right before each POST; if it throws, nothing is sent. */
  readonly beforePost: () => Promise<void>;
  /** Whether an operation that was requested, or may have been, may still be running. */
  inDoubt: boolean;
}

/** The number of requests to pg-backup-api. */
export interface RequestCounts {
  /** All requests that were sent. */
  attempts: number;
  /** Requests for the status of an operation. */
  polls: number;
}

export interface PgBackupApiOptions extends Omit<HttpClientOptions, 'onRequest'> {
  /** How long a POST without a response may still be on its way (ms). */
  readonly postDelay: number;
  /** Where its requests are counted. */
  readonly counts: RequestCounts;
}

/** The client of one invocation. */
export class PgBackupApi implements AsyncDisposable {
  readonly #http: HttpClient;
  readonly #options: PgBackupApiOptions;

  constructor(source: ConnectionSource, options: PgBackupApiOptions) {
    this.#options = options;
    this.#http = new HttpClient(source, {
      ...options,
      onRequest: () => {
        options.counts.attempts += 1;
      },
    });
  }

  /**
   * Requests a config switch.
   *
   * @param guard is in doubt afterwards, until the end of the operation is known
   * @returns the id of the operation
   * @throws HttpError if it was refused, or all attempts failed
   */
  async createConfigSwitchOperation(server: string, target: ConfigTarget, guard: PostGuard): Promise<string> {
    const { operation_id } = await this.#http.request({
      method: 'POST',
      path: ['servers', server, 'operations'],
      body: requestBody(target),
      schema: CreatedOperation,
      beforeSend: async () => {
        await guard.beforePost();
        guard.inDoubt = true;
      },
      onFailure: ({ begun }) => {
        if (begun === 'no') guard.inDoubt = false;
      },
      beforeRetry: async ({ begun, status }, sentAt) => {
        // A POST looks the server up in the memory of pg-backup-api's worker; this GET makes it read the configuration again.
        if (status === 404) await this.#listOperations(server, this.#options.signal, 1);
        if (begun === 'no') return;
        if (begun === 'unknown') {
          await sleep(this.#options.postDelay - (performance.now() - sentAt), this.#options.signal);
        }
        await this.waitForRecentOperations(server, performance.now() - sentAt);
        guard.inDoubt = false;
      },
    });
    return operation_id;
  }

  /**
   * Waits for the end of an operation. Polls soon and then less and less often: fast for a small host, and gentle to one
   * that needs long for each poll.
   *
   * @param signal instead of the deadline's
   * @returns how it ended
   * @throws HttpError, DeadlineExceeded with the id of the operation, if its end is unknown
   */
  async waitForOperation(
    server: string,
    operationId: string,
    signal = this.#options.signal,
  ): Promise<'DONE' | 'FAILED'> {
    const start = performance.now();
    try {
      for (let soonest = start + POLL.first; ; soonest = this.#http.last.start + POLL.interval) {
        const now = performance.now();
        // A share of the time elapsed keeps the reaction fast; twice the last request leaves the host half of its time.
        const pause = Math.max((now - start) * POLL.share, 2 * this.#http.last.time);
        const next = Math.max(soonest, this.#http.last.start + pause);
        await sleep(next - now, signal);
        const status = await this.#getOperationStatus(server, operationId, signal);
        if (status !== 'IN_PROGRESS') return status;
      }
    } catch (error) {
      throw httpErrorFrom(
        error,
        (message) =>
          `the result of operation ${operationId} on ${server} is unknown: ${message}; ` +
          `it will be in <barman_home>/${server}/output/${operationId}.json on the Barman host`,
        operationId,
      );
    }
  }

  /**
   * Waits for the config switches that a POST of unknown outcome may have created. The list does not say which of them
   * belongs to that POST, if any, so none is taken for it.
   *
   * @param age how long ago that POST may have been sent (ms)
   * @param signal instead of the deadline's
   * @throws HttpError
   */
  async waitForRecentOperations(server: string, age: number, signal = this.#options.signal): Promise<void> {
    const asked = performance.now();
    const operations = await this.#listOperations(server, signal);
    const elapsed = age + performance.now() - asked;
    const ids = operations.filter(({ type }) => type === 'config_switch').map(({ id }) => id);
    for (const id of recent(ids, elapsed).sort()) {
      const status = await this.#getOperationStatus(server, id, signal);
      if (status === 'IN_PROGRESS') await this.waitForOperation(server, id, signal);
    }
  }

  /**
   * Checks that pg-backup-api responds and accepts the client certificate.
   *
   * @throws HttpError if not
   */
  status(): Promise<void> {
    return this.#within(STATUS_TIMEOUT, async (signal) => {
      await this.#http.request({ method: 'GET', path: ['status'], schema: Status, signal });
    });
  }

  /**
   * Checks that pg-backup-api can read the configuration of a server; `/status` reads none.
   *
   * @throws HttpError if not; DeadlineExceeded after five seconds
   */
  readServer(server: string): Promise<void> {
    return this.#within(READ_SERVER_TIMEOUT, async (signal) => {
      await this.#listOperations(server, signal);
    });
  }

  /**
   * The servers and models of Barman. Slow, and heavy for the host.
   *
   * @throws HttpError
   */
  async diagnose(): Promise<Diagnosis> {
    const { servers, models } = await this.#http.request({
      method: 'GET',
      path: ['diagnose'],
      schema: DiagnoseOutput,
      timeout: DIAGNOSE_TIMEOUT,
    });
    return {
      // The default of a server's cluster is its name (barman.config, ServerConfig.DEFAULTS).
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

  [Symbol.asyncDispose](): Promise<void> {
    return this.#http[Symbol.asyncDispose]();
  }

  /** Sends requests within a time limit (ms) and the deadline. */
  async #within(ms: number, requests: (signal: AbortSignal) => Promise<void>): Promise<void> {
    const limit = deadline(ms);
    try {
      await requests(AbortSignal.any([this.#options.signal, limit.signal]));
    } finally {
      limit.clear();
    }
  }

  /** Lists a server's operations of all time. @param maxRetries maximum number of attempts */
  async #listOperations(server: string, signal: AbortSignal, maxRetries = this.#options.maxRetries) {
    const path = ['servers', server, 'operations'];
    return (await this.#http.request({ method: 'GET', path, schema: Operations, signal, maxRetries }))
      .operations;
  }

  async #getOperationStatus(
    server: string,
    operationId: string,
    signal: AbortSignal,
  ): Promise<'IN_PROGRESS' | 'DONE' | 'FAILED'> {
    this.#options.counts.polls += 1;
    const path = ['servers', server, 'operations', operationId];
    return (await this.#http.request({ method: 'GET', path, schema: Operation, signal })).status;
  }
}

/**
 * The operations that a POST of so many ms ago may have created. Ids are local times of the Barman host, whose time zone is
 * unknown, and whose clock may have been set: so every id from 13 h before the POST to 14 h after now, the extremes of all time
 * zones, and one from the future hides none of the others. An id that is not a time is included.
 *
 * @param elapsed since the POST (ms)
 */
function recent(ids: readonly string[], elapsed: number): string[] {
  // Ids are truncated to the second.
  const oldest = Date.now() - 13 * HOUR - elapsed - 1_000;
  const newest = Date.now() + 14 * HOUR;
  return ids.filter((id) => {
    const time = timeOf(id);
    return time === undefined || (time >= oldest && time <= newest);
  });
}

/** The time in the id of an operation (`%Y%m%dT%H%M%S`), as if it were UTC (ms since the epoch). */
function timeOf(operationId: string): number | undefined {
  const time = Date.parse(operationId.replace(/(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)/, '-$1-$2T$3:$4:$5Z'));
  return Number.isNaN(time) ? undefined : time;
}
