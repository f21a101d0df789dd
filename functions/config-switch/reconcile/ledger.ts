/**
 * The ledger: what each Barman server should be set to (desired), what it was last set to (applied), and who may send a POST
 * for it (lease).
 *
 * Role changes arrive late, twice and out of order, and Barman takes no lock. So the desired state is recorded first, and
 * then whoever holds the server's lease applies the newest one. The states of an item:
 *
 *   pending    desired_version > applied_version, no lease
 *   switching  a lease that has not expired; POSTs are sent until 6 s before it expires
 *   expired    its holder crashed or ran out of time: wait until its operations have ended, at most P, then acquire
 *   in sync    desired_version = applied_version
 *
 *   write     condition (version: mine)                                    otherwise
 *   record    desired_version absent or older                              superseded or duplicate
 *   acquire   applied_version absent or older, not paused, and             applied, superseded, paused, or another invocation
 *             no token, or the one that I hold or have waited out          is switching
 *   complete  token is mine, and desired_version is what I applied         a newer desired state, or the lease was lost
 *   release   token is mine; only if every POST of mine has a known end    the lease was lost
 *
 * Every write also requires that the item's schema is known: a version of the function never touches what a newer one wrote in
 * another format.
 *
 * The token is new each time that a lease is acquired or renewed. Without any one of these conditions an event can be lost
 * or Barman left on an old primary (npm run model:mutants).
 */

import { randomUUID } from 'node:crypto';
import { type ConfigTarget, targetText } from '../barman/target.ts';
import { LedgerError } from '../errors.ts';
import {
  absent,
  type Change,
  type Clause,
  type Condition,
  either,
  equals,
  type Item,
  isRecorded,
  less,
  type RecordedItem,
  type Table,
  timeOf,
} from './table.ts';

/** The format of the items that this version reads and writes. */
const SCHEMA = 1;
/** How long a lease allows POSTs, from when it was acquired (ms). */
export const POST_WINDOW = 8_000;
/** The longest delay of a POST on its way (ms). */
export const POST_DELAY = 5_000;
/** The largest difference between the clocks of two instances of the function (ms). */
const CLOCK_SKEW = 1_000;
/** How long a lease lasts (ms). */
export const LEASE = POST_WINDOW + POST_DELAY + CLOCK_SKEW;
/** The heartbeat's back-off after a failure (ms): doubled each time, up to the cap. */
const BACKOFF = { base: 60_000, cap: 600_000 };

/** What an event wants a Barman server to be set to. */
export interface DesiredState {
  readonly server: string;
  readonly cluster: string;
  readonly target: ConfigTarget;
  /** From `versionOf`. */
  readonly version: string;
}

/** The right to send POSTs, and the item as it was when the lease was acquired. */
export interface Lease {
  readonly token: string;
  readonly item: RecordedItem;
  /** The last moment for a POST: by `performance.now()`, and by the wall clock (ms since the epoch). */
  readonly postUntil: { readonly monotonic: number; readonly wall: number };
}

/** What happened to the lease when its application was recorded. */
export type Completion =
  | { readonly lease: 'released' }
  /** Another invocation has acquired it. */
  | { readonly lease: 'lost' }
  /** For a newer desired state. */
  | { readonly lease: 'renewed'; readonly renewed: Lease };

/**
 * The version of a desired state. Versions compare as text; greater is newer.
 *
 * @param eventTime ms since the epoch
 */
export function versionOf(eventTime: number, eventId: string): string {
  return `${new Date(eventTime).toISOString()}#${eventId}`;
}

/** The id of the event that a version came from. */
export function eventIdOf(version: string): string {
  return version.slice(version.indexOf('#') + 1);
}

/** Whether this version of the function knows the format of an item. */
export function isKnownSchema({ schema = SCHEMA }: Item): boolean {
  return schema === SCHEMA;
}

/** Whether the newest desired state has not been applied. */
export function isPending(item: Item): item is RecordedItem {
  return (
    isRecorded(item) && (item.applied_version === undefined || item.applied_version < item.desired_version)
  );
}

/**
 * Whether a POST may still be sent under a lease. By both clocks: the monotonic one may stand still while the function is frozen, and
 * the wall clock may be set back.
 */
export function mayPost({ postUntil }: Pick<Lease, 'postUntil'>): boolean {
  return performance.now() < postUntil.monotonic && Date.now() < postUntil.wall;
}

/** Whether another invocation may still send a POST, or one may still arrive. */
export function isLeased({ lease_token, lease_expires_at }: Item): boolean {
  return lease_token !== undefined && Date.now() < timeOf(lease_expires_at, 0);
}

// The conditions of the writes.
const knownSchema = either(absent('schema'), equals('schema', SCHEMA));
const notPaused = absent('paused');
const noLease = absent('lease_token');
const leasedBy = (token: string) => equals('lease_token', token);
const newerThanDesired = (version: string) =>
  either(absent('desired_version'), less('desired_version', version));
const newerThanApplied = (version: string) =>
  either(absent('applied_version'), less('applied_version', version));
const desiredIs = (version: string) => equals('desired_version', version);

const LEASE_DROPPED = { lease_token: null, lease_expires_at: null } as const;
const FAILURES_CLEARED = {
  attempts: null,
  next_attempt_at: null,
  last_error: null,
  parked: null,
} as const;

/** The writes of the protocol above. Each throws what the table throws. */
export class Ledger {
  readonly #table: Table;

  constructor(table: Table) {
    this.#table = table;
  }

  /** @throws LedgerError also for an item of an unknown schema */
  async get(server: string, signal: AbortSignal): Promise<Item | undefined> {
    const item = await this.#table.get(server, signal);
    if (item === undefined || isKnownSchema(item)) return item;
    throw new LedgerError(
      `the ledger's item of ${server} has schema ${item.schema}, which this version does not know; ` +
        'deploy the version that wrote it, or a newer one',
    );
  }

  /** @returns the items of all servers, those of an unknown schema included */
  all(signal: AbortSignal): Promise<Item[]> {
    return this.#table.scan(signal);
  }

  /** @returns whether this is the newest desired state now */
  record(desired: DesiredState, signal: AbortSignal): Promise<boolean> {
    return this.#write(desired.server, recorded(desired), [newerThanDesired(desired.version)], signal);
  }

  /** Records and acquires in one write. @returns undefined if that is not possible; then nothing is written */
  recordAndAcquire(desired: DesiredState, signal: AbortSignal): Promise<Lease | undefined> {
    const condition = [newerThanDesired(desired.version), noLease, notPaused];
    return this.#lease(desired.server, recorded(desired), condition, signal);
  }

  /**
   * Acquires the lease to apply the newest desired state, or renews it.
   *
   * @param version what is to be applied at least; the lease is refused if this version or a newer one is applied
   * @param seen the token that was waited out, or the own one to renew
   * @param change what else is to be written with it
   * @returns undefined if the condition is false
   */
  acquire(
    server: string,
    version: string,
    seen: string | undefined,
    signal: AbortSignal,
    change: Change = {},
  ): Promise<Lease | undefined> {
    const available: Clause = seen === undefined ? noLease : either(noLease, leasedBy(seen));
    return this.#lease(server, change, [newerThanApplied(version), notPaused, available], signal);
  }

  /**
   * Records that the lease's desired state was applied.
   *
   * @param renew whether to renew the lease if there is a newer desired state
   */
  async complete(
    { token, item }: Lease,
    operationId: string,
    renew: boolean,
    signal: AbortSignal,
  ): Promise<Completion> {
    const { barman_server, desired, desired_version } = item;
    const applied: Change = {
      applied: desired,
      applied_version: desired_version,
      operation_id: operationId,
      applied_at: new Date().toISOString(),
    };
    const done = { ...applied, ...LEASE_DROPPED, ...FAILURES_CLEARED };
    if (await this.#write(barman_server, done, [leasedBy(token), desiredIs(desired_version)], signal)) {
      return { lease: 'released' };
    }
    if (renew) {
      const renewed = await this.#lease(barman_server, applied, [leasedBy(token)], signal);
      return renewed ? { lease: 'renewed', renewed } : { lease: 'lost' };
    }
    const left = { ...applied, ...LEASE_DROPPED };
    return {
      lease: (await this.#write(barman_server, left, [leasedBy(token)], signal)) ? 'released' : 'lost',
    };
  }

  /** Records that applying failed. Only for a lease of which every POST has a known end. */
  async release({ token, item }: Lease, error: string, signal: AbortSignal): Promise<void> {
    const { barman_server, desired_version, attempts = 0 } = item;
    const backoff = Math.min(BACKOFF.cap, BACKOFF.base * 2 ** attempts);
    const failed: Change = {
      ...LEASE_DROPPED,
      attempts: attempts + 1,
      next_attempt_at: new Date(Date.now() + backoff).toISOString(),
      last_error: error.slice(0, 1_000),
    };
    const condition = [leasedBy(token), desiredIs(desired_version)];
    if (await this.#write(barman_server, failed, condition, signal)) return;
    // A newer desired state begins without failures.
    await this.#write(barman_server, LEASE_DROPPED, [leasedBy(token)], signal);
  }

  /** Gives up on a desired state. @returns whether it was still the newest one */
  park(
    { barman_server, desired_version }: Pick<RecordedItem, 'barman_server' | 'desired_version'>,
    signal: AbortSignal,
  ): Promise<boolean> {
    return this.#write(barman_server, { parked: true }, [desiredIs(desired_version)], signal);
  }

  /**
   * Records that the active model was compared with `applied` after an operation was passed over.
   *
   * @param differs whether `applied` is to be applied again
   */
  async compared(server: string, version: string, differs: boolean, signal: AbortSignal): Promise<void> {
    const change: Change = { passed_over: null, ...(differs ? { applied_version: null } : {}) };
    await this.#write(server, change, [equals('applied_version', version), noLease], signal);
  }

  /** Makes the next heartbeat try again. @returns undefined for an unknown server */
  retry(server: string, signal: AbortSignal): Promise<Item | undefined> {
    const recorded_at = new Date().toISOString();
    const change = { attempts: null, next_attempt_at: null, parked: null, recorded_at };
    return this.#existing(server, change, signal);
  }

  /** Stops all POSTs for a server; events are recorded meanwhile. @returns undefined for an unknown server */
  pause(server: string, signal: AbortSignal): Promise<Item | undefined> {
    return this.#existing(server, { paused: true, next_attempt_at: null }, signal);
  }

  /** Ends a pause. @returns undefined for an unknown server */
  resume(server: string, signal: AbortSignal): Promise<Item | undefined> {
    return this.#existing(server, { paused: null, next_attempt_at: null }, signal);
  }

  /** @returns whether the condition was true, so that the change is written */
  async #write(server: string, change: Change, condition: Condition, signal: AbortSignal): Promise<boolean> {
    return (await this.#table.update(server, change, [knownSchema, ...condition], signal)) !== undefined;
  }

  async #existing(server: string, change: Change, signal: AbortSignal): Promise<Item | undefined> {
    const item = await this.get(server, signal);
    return item && this.#table.update(server, change, [knownSchema], signal);
  }

  async #lease(
    server: string,
    change: Change,
    condition: Condition,
    signal: AbortSignal,
  ): Promise<Lease | undefined> {
    // Both times are taken before the write, which may be slow.
    const postUntil = { monotonic: performance.now() + POST_WINDOW, wall: Date.now() + POST_WINDOW };
    const lease = {
      lease_token: randomUUID(),
      lease_expires_at: new Date(Date.now() + LEASE).toISOString(),
    };
    const guarded = [knownSchema, ...condition];
    const written = await this.#table.update(server, { ...change, ...lease }, guarded, signal);
    // The SDK repeats a write whose response was late or lost. The second one must change nothing, since a newer desired
    // state may have been recorded in between; but the lease is ours if the item has our token.
    const item = written ?? (await this.#table.get(server, signal));
    if (item?.lease_token !== lease.lease_token || !isRecorded(item)) return undefined;
    return { token: lease.lease_token, item, postUntil };
  }
}

function recorded({ target, cluster, version }: DesiredState): Change {
  return {
    schema: SCHEMA,
    desired: targetText(target),
    desired_version: version,
    cluster,
    recorded_at: new Date().toISOString(),
    ...FAILURES_CLEARED,
  };
}
