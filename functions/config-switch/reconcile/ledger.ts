/**
 * The ledger: what each Barman server should be set to (desired), what it was last set to (applied), and who
 * may send a POST for it (lease).
 *
 * Role changes arrive late, twice and out of order, and Barman takes no lock. So the desired state is
 * recorded first, and then whoever holds the server's lease applies the newest one. The states of an item:
 *
 *   pending    desired_version > applied_version, no lease
 *   switching  a lease that has not expired; POSTs are sent until 6 s before it expires
 *   expired    its holder crashed or ran out of time, or its POST is in doubt: wait until its operations have ended, at most P, then acquire
 *   in sync    desired_version = applied_version
 *
 *   write     condition (version: mine)                                    otherwise
 *   record    desired_version absent or older                              superseded or duplicate
 *   acquire   applied_version absent or older, or an operation passed      applied, superseded, paused, or another invocation
 *             over has ended; not paused; passed_over as it was read;      is switching
 *             no token, or the one that I hold or have waited out
 *   started   token is mine                                                the lease was lost
 *   complete  token is mine, and desired_version is what I applied         a newer desired state, or the lease was lost
 *   release   token is mine; only if every POST of mine has a known end    the lease was lost
 *   forget    in sync or pending for a day, and as it was read; no token   the operator tries again
 *   drop or   desired_version and passed_over as they were read, no token  the next heartbeat tries again
 *   reapply
 *
 * The running operation belongs to its token: each acquire, complete and release removes it. Acquire adds, in
 * the same write, all operations that are passed over, and marks those that were seen to have ended before
 * it; complete removes the marked ones and no others, because only they cannot take effect after what was
 * applied.
 *
 * The token is new every time a lease is acquired or renewed. Without any one of these conditions an event
 * can be lost or Barman left on an old primary (npm run model:mutants).
 */

import { randomUUID } from 'node:crypto';
import { targetText } from '../target.ts';
import {
  type DesiredState,
  type Item,
  isRecorded,
  mustApplyAgain,
  type PassedOver,
  passedOver,
  passedOverText,
  type RecordedItem,
} from './item.ts';
import {
  type Change,
  type Condition,
  desiredIs,
  either,
  leaderIs,
  leasedBy,
  newerThanApplied,
  newerThanDesired,
  noDesiredState,
  noLease,
  notPaused,
  passedOverIs,
  type Table,
} from './table.ts';

/** How long a lease allows POSTs, from when it was acquired (ms). */
export const POST_WINDOW = 8_000;
/** The longest delay of a POST on its way (ms). */
export const POST_DELAY = 5_000;
/** The largest difference between the clocks of two instances of the function (ms). */
const CLOCK_SKEW = 1_000;
/** How long a lease lasts (ms). */
export const LEASE = POST_WINDOW + POST_DELAY + CLOCK_SKEW;
/** The heartbeat's back-off after a failure (ms): doubled each time, up to the cap. It never gives up. */
const BACKOFF = { base: 60_000, cap: 3_600_000 };

/** The right to send POSTs, and the item as it was when the lease was acquired. */
export interface Lease {
  readonly token: string;
  readonly item: RecordedItem;
  /** The last moment for a POST: by `performance.now()`, and by the wall clock (ms since the epoch). */
  readonly postUntil: { readonly monotonic: number; readonly wall: number };
}

/** What is known of a server's operations before the lease is acquired. */
export interface KnownOperations {
  /** Those to pass over: they have not ended, and are no longer waited for. */
  readonly running?: readonly Pick<PassedOver, 'operation_id' | 'version'>[];
  /** Ids of those passed over earlier that have ended since. */
  readonly ended?: ReadonlySet<string> | undefined;
}

/** What happened to the lease when its application was recorded. */
export type Completion =
  | { readonly lease: 'released' }
  /** Another invocation has acquired it. */
  | { readonly lease: 'lost' }
  /** For a newer desired state. */
  | { readonly lease: 'renewed'; readonly renewed: Lease };

/**
 * Returns whether a POST may still be sent under a lease. By both clocks: the monotonic one may stand still
 * while the function is frozen, and the wall clock may be set back.
 */
export function mayPost({ postUntil }: Pick<Lease, 'postUntil'>): boolean {
  return performance.now() < postUntil.monotonic && Date.now() < postUntil.wall;
}

const NO_RUNNING_OPERATION = { running: null, running_operation: null, running_version: null } as const;
const LEASE_DROPPED = { lease_token: null, lease_expires_at: null, ...NO_RUNNING_OPERATION } as const;
const FAILURES_CLEARED = {
  attempts: null,
  next_attempt_at: null,
  last_error: null,
} as const;

/** The writes of the protocol above. Each throws what the table throws. */
export class Ledger {
  readonly #table: Table;

  constructor(table: Table) {
    this.#table = table;
  }

  get(barman_server: string, signal: AbortSignal): Promise<Item | undefined> {
    return this.#table.get(barman_server, signal);
  }

  /** Returns the items of all servers */
  all(signal: AbortSignal): Promise<Item[]> {
    return this.#table.scan(signal);
  }

  /** Returns whether this is the newest desired state now */
  record(desired: DesiredState, signal: AbortSignal): Promise<boolean> {
    return this.#write(desired.barman_server, recorded(desired), [newerThanDesired(desired.version)], signal);
  }

  /**
   * Records what Patroni's leader asks for, unless something else was recorded since the item was read:
   * another heartbeat may have observed the same.
   *
   * @returns whether this is the newest desired state now
   */
  recordObserved(item: Item, desired: DesiredState, signal: AbortSignal): Promise<boolean> {
    const { desired_version } = item;
    const unchanged = desired_version === undefined ? noDesiredState : desiredIs(desired_version);
    const condition = [newerThanDesired(desired.version), unchanged];
    return this.#write(desired.barman_server, recorded(desired), condition, signal);
  }

  /**
   * Records and acquires in one write.
   *
   * @returns undefined if that is not possible; then nothing is written
   */
  recordAndAcquire(desired: DesiredState, signal: AbortSignal): Promise<Lease | undefined> {
    const condition = [newerThanDesired(desired.version), noLease, notPaused()];
    return this.#lease(desired.barman_server, recorded(desired), condition, signal);
  }

  /**
   * Acquires the lease to apply the newest desired state, or renews it.
   *
   * @param item as it was read; its token, if it has one, was waited out, or is the own one to renew
   * @param version what is to be applied at least; the lease is refused if this version or a newer one is
   *   applied, unless an operation that was passed over has ended
   * @returns undefined if the condition is false
   */
  acquire(
    item: Item,
    version: string,
    signal: AbortSignal,
    { running = [], ended = new Set() }: KnownOperations = {},
  ): Promise<Lease | undefined> {
    const { barman_server, lease_token } = item;
    const now = new Date().toISOString();
    const earlier = passedOver(item).map((one) =>
      ended.has(one.operation_id) ? { ended_at: now, ...one } : one,
    );
    const change: Change = {
      passed_over: passedOverText([...earlier, ...running.map((one) => ({ ...one, since: now }))]),
      ...(running.length > 0 && failedAttempt(item, describePassedOver(running))),
    };
    const condition = [
      ...(mustApplyAgain(item, ended) ? [] : [newerThanApplied(version)]),
      passedOverIs(item.passed_over),
      notPaused(),
      lease_token === undefined ? noLease : either(noLease, leasedBy(lease_token)),
    ];
    return this.#lease(barman_server, change, condition, signal);
  }

  /** Records the operation that was created under a lease. */
  async started({ token, item }: Lease, operation_id: string, signal: AbortSignal): Promise<void> {
    const { barman_server, desired, desired_version } = item;
    const change = { running: desired, running_operation: operation_id, running_version: desired_version };
    await this.#write(barman_server, change, [leasedBy(token)], signal);
  }

  /**
   * Records that the lease's desired state was applied.
   *
   * @param lease the own one, or an expired one whose running operation has ended
   * @param renew whether to renew the lease if there is a newer desired state
   */
  async complete(
    { token, item }: Pick<Lease, 'token' | 'item'>,
    operation_id: string,
    renew: boolean,
    signal: AbortSignal,
  ): Promise<Completion> {
    const { barman_server, desired, desired_version } = item;
    const applied: Change = {
      applied: desired,
      applied_version: desired_version,
      operation_id,
      applied_at: new Date().toISOString(),
      passed_over: passedOverText(passedOver(item).filter(({ ended_at }) => ended_at === undefined)),
    };
    const done = { ...applied, ...LEASE_DROPPED, ...FAILURES_CLEARED };
    if (await this.#write(barman_server, done, [leasedBy(token), desiredIs(desired_version)], signal)) {
      return { lease: 'released' };
    }
    if (renew) {
      const renewed = await this.#lease(barman_server, applied, [leasedBy(token), notPaused()], signal);
      if (renewed) return { lease: 'renewed', renewed };
    }
    const left = { ...applied, ...LEASE_DROPPED };
    return {
      lease: (await this.#write(barman_server, left, [leasedBy(token)], signal)) ? 'released' : 'lost',
    };
  }

  /** Records that applying failed. Only for a lease of which every POST has a known end. */
  async release(
    { token, item }: Pick<Lease, 'token' | 'item'>,
    error: string,
    signal: AbortSignal,
  ): Promise<void> {
    const { barman_server, desired_version } = item;
    const failed = { ...LEASE_DROPPED, ...failedAttempt(item, error) };
    const condition = [leasedBy(token), desiredIs(desired_version)];
    if (await this.#write(barman_server, failed, condition, signal)) return;
    // A newer desired state begins without failures.
    await this.#write(barman_server, LEASE_DROPPED, [leasedBy(token)], signal);
  }

  /**
   * Records what Patroni says about the leader.
   *
   * @param item as it was read, or with only the name of a server that is not in the ledger
   * @returns the item after that; undefined if another leader was recorded meanwhile
   */
  observed(item: Item, change: Change, signal: AbortSignal): Promise<Item | undefined> {
    return this.#table.update(item.barman_server, change, [leaderIs(item.leader)], signal);
  }

  /**
   * Replaces what was passed over: drops what can no longer set Barman back, or adds NOT_STREAMING. Not
   * during a lease: its holder can renew it only while passed_over is as it was.
   *
   * @returns whether nothing has changed since the item was read
   */
  setPassedOver(
    { barman_server, desired_version, passed_over }: RecordedItem,
    entries: readonly PassedOver[],
    signal: AbortSignal,
  ): Promise<boolean> {
    const condition = [desiredIs(desired_version), passedOverIs(passed_over), noLease];
    return this.#write(barman_server, { passed_over: passedOverText(entries) }, condition, signal);
  }

  /** Returns whether the condition was true, so that the change is written */
  async #write(
    barman_server: string,
    change: Change,
    condition: Condition,
    signal: AbortSignal,
  ): Promise<boolean> {
    return (await this.#table.update(barman_server, change, condition, signal)) !== undefined;
  }

  async #lease(
    barman_server: string,
    change: Change,
    condition: Condition,
    signal: AbortSignal,
  ): Promise<Lease | undefined> {
    // Both times are taken before the write, which may be slow.
    const postUntil = { monotonic: performance.now() + POST_WINDOW, wall: Date.now() + POST_WINDOW };
    const lease = {
      ...NO_RUNNING_OPERATION,
      lease_token: randomUUID(),
      lease_expires_at: new Date(Date.now() + LEASE).toISOString(),
    };
    const written = await this.#table.update(barman_server, { ...change, ...lease }, condition, signal);
    // The SDK repeats a write whose response was late or lost. The second one must change nothing, since a
    // newer desired state may have been recorded in between; but the lease is ours if the item has our token.
    const item = written ?? (await this.#table.get(barman_server, signal));
    if (item?.lease_token !== lease.lease_token || !isRecorded(item)) return undefined;
    return { token: lease.lease_token, item, postUntil };
  }
}

function recorded({ target, cluster, version }: DesiredState): Change {
  return {
    desired: targetText(target),
    desired_version: version,
    cluster,
    recorded_at: new Date().toISOString(),
    // The next two observations compare with this.
    differs_since: null,
    ...FAILURES_CLEARED,
  };
}

/** Returns the attributes after one more failed attempt. */
function failedAttempt({ attempts = 0 }: Item, error: string): Change {
  const backoff = Math.min(BACKOFF.cap, BACKOFF.base * 2 ** attempts);
  return {
    attempts: attempts + 1,
    next_attempt_at: new Date(Date.now() + backoff).toISOString(),
    last_error: error.slice(0, 1_000),
  };
}

function describePassedOver(operations: NonNullable<KnownOperations['running']>): string {
  const ids = operations.map(({ operation_id }) => operation_id).join(', ');
  return `passed over, because it did not end in time: operation ${ids}`;
}
