/**
 * The operations of pg-backup-api on the Barman host, and how long to wait for them.
 *
 * A POST creates an operation, which then runs by itself. So a POST without a response may have created one,
 * and the list of operations does not say which of them belongs to it, if any.
 */

import * as v from 'valibot';
import { deadline, sleep } from '../deadline.ts';
import { HttpError, httpErrorFrom, messageOf } from '../errors.ts';
import type { Facts } from '../invocation.ts';
import { BARMAN_NAME, type ConfigTarget, requestBody } from '../target.ts';
import { type ConnectionSource, HttpClient, type HttpClientOptions } from './attempts.ts';
import { DiagnoseOutput, type Diagnosis, readDiagnosis } from './diagnosis.ts';
import { answerOf } from './failures.ts';
import { expectedDuration, firstPollAfter, nextPollAfter } from './polling.ts';

/**
 * Time limit of one attempt at `/diagnose`, which queries every PostgreSQL server (ms): one that hangs makes it
 * take half a minute. Only an inspection has so much time.
 */
const DIAGNOSE_TIMEOUT = 50_000;
/** Time limit of the heartbeat's probe (ms): a host that hangs must not use up the heartbeat. */
const STATUS_TIMEOUT = 15_000;
/**
 * An operation that the first poll finds ended has not ended within this time (ms): its process and that of
 * `barman` take longer to start, 0.4 s on two cores. What says so is the output of an earlier operation with
 * the same id, whose job was deleted. It is not overwritten (pg_backup_api.server_operation, `_write_file`), so the end of the new one remains unknown.
 * A first poll that comes later cannot tell; then only the known ids do.
 */
const EARLIEST_END = 250;
/** Maximum number of attempts at a list. */
const LIST_ATTEMPTS = 3;
/** How many of the newest config switches may be that of a POST without a response. */
const NEWEST = 3;
/** So many lists of its operations that are 404 say that Barman does not have a server. */
const UNKNOWN_SERVER_LISTS = 2;

const OperationId = v.pipe(v.string(), v.maxLength(255), v.regex(BARMAN_NAME));
const CreatedOperation = v.object({ operation_id: OperationId });
const Operation = v.object({ status: v.picklist(['IN_PROGRESS', 'DONE', 'FAILED']) });
export const Operations = v.object({
  operations: v.array(v.object({ id: v.string(), type: v.nullish(v.string()) })),
});
const Status = v.string();

/** What guards the POSTs of one config switch. */
export interface PostGuard {
  /**
   * Called once the connection is made, right before each POST; if it throws, nothing is sent. Afterwards no
   * earlier POST is in doubt any more.
   */
  readonly beforePost: () => Promise<void>;
  /** Called with the id of the operation that was created, right before it is waited for. */
  readonly onCreated: (operation_id: string) => void;
  /** Whether to wait, before another POST, until an operation has ended that may be that of the last one. */
  readonly waits: boolean;
  /**
   * The operation that was applied last: its output is not that of a new operation with the same id, which is
   * expected to take as long (ms).
   */
  readonly applied: { readonly operation_id: string; readonly operation_ms?: number } | undefined;
  /** Whether an operation that was requested, or may have been, may still be running. */
  inDoubt: boolean;
}

export interface PgBackupApiOptions extends Omit<HttpClientOptions, 'onRequest'> {
  /** Where its requests are counted. */
  readonly facts: Pick<Facts, 'attempts' | 'polls'>;
  /** Called with what an operator should know of a server, and what does not keep it from being switched. */
  readonly onFinding?: (barman_server: string, message: string) => void;
}

/** An operation that was waited for. */
export interface EndedOperation {
  readonly status: 'DONE' | 'FAILED';
  /** How long the next operation of that server is expected to take (ms). */
  readonly operation_ms: number;
}

/** The end of an operation is unknown, since its output is that of an earlier one. */
export class EarlierOutput extends Error {}

/** The client of one invocation. */
export class PgBackupApi implements AsyncDisposable {
  readonly #http: HttpClient;
  readonly #options: PgBackupApiOptions;
  /** `server/id` of the operations whose end is known: they are not polled again. */
  readonly #outcomes = new Map<string, 'DONE' | 'FAILED'>();
  /** The last operation that was created here, until it was seen to run: `server/id`, when (`performance.now()`), and whether the id is new. */
  #created: { readonly key: string; readonly at: number; readonly isNew: boolean } | undefined;
  /** Whether an output was not believed. The next one is, so that a very fast host is no endless loop. */
  #disbelieved = false;
  /** `server/id` of the operations that were listed before. */
  readonly #listed = new Set<string>();

  constructor(source: ConnectionSource, options: PgBackupApiOptions) {
    this.#options = options;
    this.#http = new HttpClient(source, {
      ...options,
      onRequest: () => {
        options.facts.attempts += 1;
      },
    });
  }

  /** How long the slowest request took (ms). */
  get slowest(): number {
    return this.#http.slowest;
  }

  /** Whether pg-backup-api itself answered any request. */
  get reached(): boolean {
    return this.#http.reached;
  }

  /** Why the first request failed that it did not answer. */
  get failure(): string | undefined {
    return this.#http.failure;
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
    let listsNotFound = 0;
    let isSent = false;
    const { operation_id } = await this.#http.request({
      method: 'POST',
      path: ['servers', barman_server, 'operations'],
      body: requestBody(target),
      schema: CreatedOperation,
      maxNotFound: this.#options.maxRetries,
      beforeSend: async () => {
        await guard.beforePost();
        guard.inDoubt = true;
        isSent = true;
      },
      onFailure: ({ begun }) => {
        // An attempt without a connection says nothing about an earlier POST.
        if (isSent && begun === 'no') guard.inDoubt = false;
        isSent = false;
      },
      beforeRetry: async (failure) => {
        const { begun, status } = failure;
        // A POST looks the server up in the memory of one of pg-backup-api's workers; this GET makes one read
        // the configuration again, perhaps another one.
        if (status === 404 && !(await this.#isKnown(barman_server))) listsNotFound += 1;
        if (listsNotFound >= UNKNOWN_SERVER_LISTS) {
          throw new HttpError('the list of its operations is 404, too: Barman does not have that server', {
            cause: failure,
          });
        }
        if (begun === 'no') return;
        const running = await this.findRunning(barman_server, guard.waits ? this.#options.signal : undefined);
        if (running) throw new HttpError(`operation ${running}, which may be that of this POST, is running`);
      },
    });
    const key = `${barman_server}/${operation_id}`;
    const isNew = operation_id !== guard.applied?.operation_id && !this.#listed.has(key);
    this.#created = { key, at: this.#http.last.start, isNew };
    return operation_id;
  }

  /**
   * Waits for the end of an operation. Polls when it is expected, and then less and less often: fast for a small
   * host, and gentle to one that needs long for each poll.
   *
   * @param expected how long it is expected to take, if that is known (ms)
   * @param signal instead of the deadline's
   * @returns how it ended, and how long the next one is expected to take
   * @throws HttpError, DeadlineExceeded with the id of the operation, if its end is unknown
   * @throws EarlierOutput once, if an earlier operation had the same id
   */
  async waitForOperation(
    barman_server: string,
    operation_id: string,
    expected?: number,
    signal = this.#options.signal,
  ): Promise<EndedOperation> {
    const created = performance.now();
    const elapsed = () => performance.now() - created;
    try {
      let next = created + firstPollAfter(expected, this.#http.last.time);
      for (let polls = 1; ; polls += 1) {
        await sleep(next - performance.now(), signal);
        const status = await this.operationStatus(barman_server, operation_id, signal);
        if (status !== 'IN_PROGRESS') {
          return { status, operation_ms: expectedDuration(elapsed(), polls, expected) };
        }
        const { start, time } = this.#http.last;
        next = start + nextPollAfter(elapsed(), time);
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
   * Finds a config switch that is running, among the newest ones: it may be that of a POST without a
   * response. What pg-backup-api cannot read is left out, so that nothing depends on it. But with one worker
   * it answers after it has taken an earlier POST, so it must answer.
   *
   * @param patience if given, waits until all have ended, or it aborts
   * @returns its id
   * @throws HttpError if pg-backup-api does not answer; DeadlineExceeded
   */
  async findRunning(barman_server: string, patience?: AbortSignal): Promise<string | undefined> {
    for (const operation_id of await this.#newestOperations(barman_server)) {
      try {
        const status = await this.endOf(barman_server, operation_id, patience);
        if (status === 'IN_PROGRESS') return operation_id;
      } catch (error) {
        if (patience?.aborted && !this.#options.signal.aborted) return operation_id;
        if (!answerOf(error)) throw error;
        this.#options.onFinding?.(barman_server, messageOf(error));
      }
    }
    return undefined;
  }

  /**
   * Polls an operation that began earlier.
   *
   * @param patience if given, and the operation has not ended, waits for its end until this aborts
   * @throws as `waitForOperation` does
   */
  async endOf(
    barman_server: string,
    operation_id: string,
    patience?: AbortSignal,
  ): Promise<'IN_PROGRESS' | 'DONE' | 'FAILED'> {
    const status = await this.operationStatus(barman_server, operation_id);
    if (status !== 'IN_PROGRESS' || !patience) return status;
    return (await this.waitForOperation(barman_server, operation_id, undefined, patience)).status;
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
    const key = `${barman_server}/${operation_id}`;
    const known = this.#outcomes.get(key);
    if (known !== undefined) return known;
    this.#options.facts.polls += 1;
    const path = ['servers', barman_server, 'operations', operation_id];
    const { status } = await this.#http.request({ method: 'GET', path, schema: Operation, signal });
    if (status === 'IN_PROGRESS') {
      // There is no output yet, so the next one is its own.
      if (this.#created?.key === key) this.#created = undefined;
      return status;
    }
    if (this.#isEarlierOutput(key)) {
      this.#disbelieved = true;
      const file = `<barman_home>/${barman_server}/output/${operation_id}.json`;
      const message =
        `${file} is the output of an earlier operation with that id, so the result of the new one is unknown, and it is repeated; ` +
        'the job of the earlier one was deleted: delete only jobs without an output';
      this.#options.onFinding?.(barman_server, message);
      throw new EarlierOutput(message);
    }
    this.#outcomes.set(key, status);
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
   * Checks that pg-backup-api can read the configuration and the operations of a server; `/status` reads
   * neither.
   *
   * @param signal instead of the deadline's
   * @throws HttpError if not
   */
  async readServer(barman_server: string, signal = this.#options.signal): Promise<void> {
    await this.#listOperations(barman_server, LIST_ATTEMPTS, signal);
  }

  /**
   * The servers and models of Barman. Slow, and heavy for the host, which goes on with a request that was given
   * up: so one without a response is not repeated.
   *
   * @param signal instead of the deadline's
   * @throws HttpError
   */
  async diagnose(signal = this.#options.signal): Promise<Diagnosis> {
    const output = await this.#http.request({
      method: 'GET',
      path: ['diagnose'],
      schema: DiagnoseOutput,
      timeout: DIAGNOSE_TIMEOUT,
      signal,
      mayRepeat: ({ begun }) => begun !== 'unknown',
    });
    return readDiagnosis(output);
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

  /** Returns whether pg-backup-api can list a server's operations; an error of the network does not tell. */
  async #isKnown(barman_server: string): Promise<boolean> {
    try {
      await this.#listOperations(barman_server, 1);
      return true;
    } catch (error) {
      if (this.#options.signal.aborted) throw error;
      return answerOf(error)?.status !== 404;
    }
  }

  /** Returns the ids of the newest config switches, the newest first; none if the list cannot be read. */
  async #newestOperations(barman_server: string): Promise<string[]> {
    try {
      const operations = await this.#listOperations(barman_server);
      // An id of another form is not one of ours, and must not reach a URL or the log.
      const ids = operations
        .filter(({ id, type }) => type === 'config_switch' && v.is(OperationId, id))
        .map(({ id }) => id);
      return ids.sort().reverse().slice(0, NEWEST);
    } catch (error) {
      if (!answerOf(error)) throw error;
      this.#options.onFinding?.(barman_server, messageOf(error));
      return [];
    }
  }

  /** Returns whether an operation cannot have ended, so that its output is that of an earlier one. */
  #isEarlierOutput(key: string): boolean {
    const created = this.#created;
    if (created?.key !== key || this.#disbelieved) return false;
    return !created.isNew || performance.now() - created.at < EARLIEST_END;
  }

  /** Lists a server's operations of all time. @param maxRetries maximum number of attempts */
  async #listOperations(barman_server: string, maxRetries = LIST_ATTEMPTS, signal = this.#options.signal) {
    const path = ['servers', barman_server, 'operations'];
    const options = { path, schema: Operations, maxRetries, signal };
    const { operations } = await this.#http.request({ method: 'GET', ...options });
    for (const { id } of operations) this.#listed.add(`${barman_server}/${id}`);
    return operations;
  }
}
