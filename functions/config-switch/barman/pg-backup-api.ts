/**
 * The operations of pg-backup-api on the Barman host, and how long to wait for them.
 *
 * A POST creates an operation, which then runs by itself. So a POST without a response may have created one,
 * and Barman takes no lock: another POST is sent only after such an operation has ended.
 */

import * as v from 'valibot';
import { deadline, sleep, stopwatch } from '../deadline.ts';
import { httpErrorFrom } from '../errors.ts';
import type { Facts } from '../invocation.ts';
import { BARMAN_NAME, type ConfigTarget, requestBody } from '../target.ts';
import { type ConnectionSource, HttpClient, type HttpClientOptions } from './attempts.ts';

/**
 * Time limit of one attempt at `/diagnose`, which queries every PostgreSQL server (ms): more than any
 * invocation has.
 */
const DIAGNOSE_TIMEOUT = 60_000;
/** Time limits of the heartbeat's probes (ms): a host that hangs must not use up the heartbeat. */
const STATUS_TIMEOUT = 15_000;
const READ_SERVER_TIMEOUT = 5_000;
/**
 * First poll after the creation, and shortest interval between the starts of two polls (ms), or this share of
 * the time elapsed. For an operation of 1.2 s that is three polls more than with 100 ms and a tenth, and a
 * response 25 ms sooner.
 */
const POLL = { first: 150, interval: 75, share: 1 / 16 };
const HOUR = 3_600_000;
/** All time zones differ by multiples of this (ms). */
const QUARTER_HOUR = HOUR / 4;
/**
 * The largest difference between the clocks of the Barman host and of the proxy that sends the `Date` (ms).
 */
const HOST_CLOCK_SKEW = 15_000;

const CreatedOperation = v.object({
  operation_id: v.pipe(v.string(), v.maxLength(255), v.regex(BARMAN_NAME)),
});
const Operation = v.object({ status: v.picklist(['IN_PROGRESS', 'DONE', 'FAILED']) });
const Operations = v.object({ operations: v.array(v.object({ id: v.string(), type: v.string() })) });
const Clustered = v.object({ cluster: v.nullish(v.string()) });
const Status = v.string();
export const DiagnoseOutput = v.object({
  servers: v.record(v.string(), v.object({ active_model: v.nullish(v.string()), config: Clustered })),
  // Barman before 3.10 has no models.
  models: v.optional(v.record(v.string(), v.object({ config: Clustered })), {}),
});

/** The part of `/diagnose` that matters to a switch. */
export interface Diagnosis {
  readonly servers: ReadonlyMap<string, { readonly active_model: string | null; readonly cluster: string }>;
  readonly models: ReadonlyMap<string, { readonly cluster: string }>;
}

/** What guards the POSTs of one config switch. */
export interface PostGuard {
  /** Called right before each POST; if it throws, nothing is sent. */
  readonly beforePost: () => Promise<void>;
  /** Called with the id of the operation that was created, right before it is waited for. */
  readonly onCreated: (operation_id: string) => void;
  /** Operations that are not waited for before another POST. */
  readonly passedOver: ReadonlySet<string>;
  /** Whether an operation that was requested, or may have been, may still be running. */
  inDoubt: boolean;
}

export interface PgBackupApiOptions extends Omit<HttpClientOptions, 'onRequest'> {
  /** How long a POST without a response may still be on its way (ms). */
  readonly postDelay: number;
  /** Where its requests are counted. */
  readonly facts: Pick<Facts, 'attempts' | 'polls'>;
}

/** The client of one invocation. */
export class PgBackupApi implements AsyncDisposable {
  readonly #http: HttpClient;
  readonly #options: PgBackupApiOptions;
  /** `server/id` of the operations whose end is known: they are not polled again. */
  readonly #outcomes = new Map<string, 'DONE' | 'FAILED'>();

  constructor(source: ConnectionSource, options: PgBackupApiOptions) {
    this.#options = options;
    this.#http = new HttpClient(source, {
      ...options,
      onRequest: () => {
        options.facts.attempts += 1;
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
  async createConfigSwitchOperation(
    barman_server: string,
    target: ConfigTarget,
    guard: PostGuard,
  ): Promise<string> {
    const { operation_id } = await this.#http.request({
      method: 'POST',
      path: ['servers', barman_server, 'operations'],
      body: requestBody(target),
      schema: CreatedOperation,
      beforeSend: async () => {
        await guard.beforePost();
        guard.inDoubt = true;
      },
      onFailure: ({ begun }) => {
        if (begun === 'no') guard.inDoubt = false;
      },
      beforeRetry: async ({ begun, status }, elapsed) => {
        // A POST looks the server up in the memory of pg-backup-api's worker; this GET makes it read the
        // configuration again.
        if (status === 404) await this.#listOperations(barman_server, this.#options.signal, 1);
        if (begun === 'no') return;
        if (begun === 'unknown') {
          await sleep(this.#options.postDelay - elapsed(), this.#options.signal);
        }
        for (const id of await this.recentOperations(barman_server, elapsed())) {
          if (!guard.passedOver.has(id)) await this.endOf(barman_server, id);
        }
        guard.inDoubt = false;
      },
    });
    return operation_id;
  }

  /**
   * Waits for the end of an operation. Polls soon and then less and less often: fast for a small host, and
   * gentle to one that needs long for each poll.
   *
   * @param signal instead of the deadline's
   * @returns how it ended
   * @throws HttpError, DeadlineExceeded with the id of the operation, if its end is unknown
   */
  async waitForOperation(
    barman_server: string,
    operation_id: string,
    signal = this.#options.signal,
  ): Promise<'DONE' | 'FAILED'> {
    const start = performance.now();
    try {
      for (let soonest = start + POLL.first; ; soonest = this.#http.last.start + POLL.interval) {
        const now = performance.now();
        // A share of the time elapsed keeps the reaction fast; twice the last request leaves the host half of
        // its time.
        const pause = Math.max((now - start) * POLL.share, 2 * this.#http.last.time);
        const next = Math.max(soonest, this.#http.last.start + pause);
        await sleep(next - now, signal);
        const status = await this.operationStatus(barman_server, operation_id, signal);
        if (status !== 'IN_PROGRESS') return status;
      }
    } catch (error) {
      throw httpErrorFrom(
        error,
        (message) =>
          `the result of operation ${operation_id} on ${barman_server} is unknown: ${message}; ` +
          `it will be in <barman_home>/${barman_server}/output/${operation_id}.json on the Barman host`,
        operation_id,
      );
    }
  }

  /**
   * Returns the config switches that a POST of unknown outcome may have created. The list does not say which
   * of them belongs to that POST, if any, so none is taken for it.
   *
   * @param age how long ago that POST may have been sent (ms)
   * @returns their ids, the oldest first
   * @throws HttpError
   */
  async recentOperations(barman_server: string, age: number): Promise<string[]> {
    const asked = stopwatch();
    const operations = await this.#listOperations(barman_server, this.#options.signal);
    const ids = operations.filter(({ type }) => type === 'config_switch').map(({ id }) => id);
    return recent(ids.sort(), age + asked(), this.#http.last.hostTime);
  }

  /**
   * Waits for the end of an operation that began earlier: polls it at once, whatever the signal is, and then
   * as `waitForOperation` does.
   *
   * @param signal instead of the deadline's
   * @throws as `waitForOperation` does
   */
  async endOf(
    barman_server: string,
    operation_id: string,
    signal = this.#options.signal,
  ): Promise<'DONE' | 'FAILED'> {
    const status = await this.operationStatus(barman_server, operation_id);
    return status === 'IN_PROGRESS' ? this.waitForOperation(barman_server, operation_id, signal) : status;
  }

  /**
   * Returns the status of an operation; one that has ended is not asked for again.
   *
   * @param signal instead of the deadline's
   * @throws HttpError
   */
  async operationStatus(
    barman_server: string,
    operation_id: string,
    signal = this.#options.signal,
  ): Promise<'IN_PROGRESS' | 'DONE' | 'FAILED'> {
    const known = this.#outcomes.get(`${barman_server}/${operation_id}`);
    if (known !== undefined) return known;
    this.#options.facts.polls += 1;
    const path = ['servers', barman_server, 'operations', operation_id];
    const { status } = await this.#http.request({ method: 'GET', path, schema: Operation, signal });
    if (status !== 'IN_PROGRESS') this.#outcomes.set(`${barman_server}/${operation_id}`, status);
    return status;
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
  readServer(barman_server: string): Promise<void> {
    return this.#within(READ_SERVER_TIMEOUT, async (signal) => {
      await this.#listOperations(barman_server, signal);
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
          { active_model: active_model ?? null, cluster: config.cluster ?? name },
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
  async #listOperations(barman_server: string, signal: AbortSignal, maxRetries = this.#options.maxRetries) {
    const path = ['servers', barman_server, 'operations'];
    return (await this.#http.request({ method: 'GET', path, schema: Operations, signal, maxRetries }))
      .operations;
  }
}

/**
 * Returns the operations that a POST of so many ms ago may have created. Ids are local times of the Barman
 * host, whose time zone is unknown, and whose clock may have been set. So of the ids from 13 h before the
 * POST to 14 h after now, the extremes of all time zones, these count: where the host's clock is known, those
 * that fit the time since the POST in any zone, which is a multiple of a quarter of an hour from UTC; the
 * newest of all, in case the clock is wrong; and every id that is not a time.
 *
 * @param ids sorted
 * @param elapsed since the POST (ms)
 * @param hostTime the host's clock now (ms since the epoch), if it is known
 */
function recent(ids: readonly string[], elapsed: number, hostTime: number | undefined): string[] {
  const now = hostTime ?? Date.now();
  // Ids and the host's clock are truncated to the second.
  const oldest = now - elapsed - HOST_CLOCK_SKEW - 1_000;
  const newest = now + HOST_CLOCK_SKEW + 1_000;
  return ids.filter((id, index) => {
    const time = timeOf(id);
    if (time === undefined || index === ids.length - 1) return true;
    if (time < oldest - 13 * HOUR || time > newest + 14 * HOUR) return false;
    const sinceOldest = (time - oldest) % QUARTER_HOUR;
    return hostTime === undefined || (sinceOldest + QUARTER_HOUR) % QUARTER_HOUR <= newest - oldest;
  });
}

/** Returns the time in the id of an operation (`%Y%m%dT%H%M%S`), as if it were UTC (ms since the epoch). */
function timeOf(operation_id: string): number | undefined {
  const time = Date.parse(operation_id.replace(/(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)/, '-$1-$2T$3:$4:$5Z'));
  return Number.isNaN(time) ? undefined : time;
}
