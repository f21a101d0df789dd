/**
 * The ledger: what each Barman server should be set to (desired), what it was last set to (applied), and who
 * may send a POST for it (lease).
 *
 * Role changes arrive late, twice and out of order, and Barman takes no lock. So the desired state is
 * recorded first, and then whoever holds the server's lease applies the newest one. The states of an item:
 *
 *   pending    desired is newer than applied, or apply_again_at has passed; no lease
 *   switching  a lease that has not expired: POSTs are sent in its first 8 s
 *   expired    its holder crashed or ran out of time, or its POST is in doubt: its operation is polled, then it is taken over
 *   in sync    desired and applied are the same
 *
 * A POST or an operation is in doubt if it may still take effect, and no invocation waits for its end. An
 * item is unsettled since the last doubt, for as long as one can last, 24 h. Applying a model is idempotent,
 * so doubt is answered by doing it again: while an item is unsettled, the desired state is applied again, at
 * growing intervals, and a last time after 24 h.
 *
 *   write        condition (version: mine)                                otherwise
 *   record       desired absent or older                                  superseded or duplicate
 *   acquire,     desired is there; applied is absent or older, or         applied, superseded, paused, or another invocation
 *   renew,       apply_again_at has passed, and is as it was read; not    is switching
 *   take over    paused; the token is as it was read: none, my own one,
 *                the expired one
 *   started      token is mine                                            the lease was lost
 *   complete     token is mine, or that of the expired lease whose        the lease was lost
 *                running operation is DONE
 *   release      the same, FAILED; no POST of the lease is in doubt       the lease was lost
 *   apply again  desired as it was read; no lease                         the next heartbeat tries again
 *   forget       as it was read; in sync and settled; no lease            the operator tries again
 *
 * To take over, and to renew while a POST is in doubt, marks the item unsettled in the same write. Complete
 * ends that only if its lease was acquired after the 24 h: what was sent before can no longer take effect
 * after what was applied. The running operation belongs to its token: each of acquire, renew, take over,
 * complete and release removes it.
 *
 * The token is new every time a lease is acquired, renewed or taken over. Without any one of these conditions
 * an event can be lost or Barman left on an old primary (npm run model:mutants).
 */

import { randomUUID } from 'node:crypto';
import { ATTEMPT_TIMEOUT, sleep } from '../deadline.ts';
import { ConfigSwitchError, LedgerError, messageOf } from '../errors.ts';
import { ExitCode } from '../exit-code.ts';
import { targetText } from '../target.ts';
import {
  absent,
  applyAgainAtIs,
  type Change,
  type Condition,
  desiredIs,
  either,
  heardIs,
  isDesired,
  leaderIs,
  leasedBy,
  less,
  newerThanApplied,
  newerThanDesired,
  noDesiredState,
  noLease,
  notPaused,
  type StoredChange,
  type Table,
} from './conditions.ts';
import { addHeard, type HeardNode, readHeard } from './heard.ts';
import { type Inspection, inspectedServer, inspectionKey, readInspection } from './inspection.ts';
import {
  type DesiredState,
  type Item,
  isApplied,
  isRecorded,
  type LeasedItem,
  type RecordedItem,
  readItem,
  timeOf,
} from './item.ts';
import {
  type HeartbeatReport,
  type InspectionTimes,
  isServer,
  readStage,
  STAGE_KEY,
  type StageItem,
} from './stage.ts';

/** How long a lease allows POSTs, from when it was acquired (ms). */
export const POST_WINDOW = 8_000;
/** The largest difference between the clocks of two instances of the function (ms). */
const CLOCK_SKEW = 1_000;
/** How long a lease lasts (ms): a POST arrives within its attempt, or never (http/agent.ts). */
export const LEASE = POST_WINDOW + ATTEMPT_TIMEOUT + CLOCK_SKEW;
/** The heartbeat's back-off after a failure (ms): doubled each time, up to the cap. It never gives up. */
const BACKOFF = { base: 60_000, cap: 3_600_000 };

/**
 * How often to write that a node was heard, and the back-off between two attempts (ms), doubled each time, up to the
 * cap: all nodes of a cluster may be heard at the same moment.
 */
const HEARING = { attempts: 10, base: 50, cap: 1_000 };

/** Times that tests shorten. */
export interface LedgerTimes {
  /** How long something in doubt may still take effect (ms). */
  readonly unsettled: number;
  /** How long after a doubt the desired state is applied again for the first time (ms). */
  readonly applyAgain: number;
}

const TIMES: LedgerTimes = { unsettled: 24 * 3_600_000, applyAgain: 120_000 };

/** The right to send POSTs, and the item as it was when the lease was acquired. */
export interface Lease {
  readonly token: string;
  readonly item: RecordedItem;
  /** When it was acquired, at the latest (ms since the epoch). */
  readonly acquiredAt: number;
  /** The last moment for a POST: by `performance.now()`, and by the wall clock (ms since the epoch). */
  readonly postUntil: { readonly monotonic: number; readonly wall: number };
}

/** An operation that was created under a lease, and what it applies. */
export type Operation = NonNullable<Item['running']>;

/** A lease whose operation has ended: the own one, or an expired one, whose duration is unknown. */
export type EndedLease = Omit<Lease, 'postUntil'> & {
  readonly operation: Operation;
  /** How long the next operation is expected to take (ms). */
  readonly operation_ms?: number;
};

/** A Barman server, and what is to be said about it. */
export interface ServerMessage {
  readonly barman_server: string;
  readonly message: string;
}

/** All servers of the ledger, and what the last heartbeat found. */
export interface Servers {
  readonly items: readonly Item[];
  /** Those whose item cannot be read, and why. */
  readonly unreadable: readonly ServerMessage[];
  readonly stage: StageItem;
  /** What the last inspection of each server found; those that cannot be read are left out. */
  readonly inspections: ReadonlyMap<string, Inspection>;
  /** The nodes that were heard, by server; the one heard last is the first. */
  readonly heard: ReadonlyMap<string, readonly HeardNode[]>;
}

/**
 * Returns whether a POST may still be sent under a lease. By both clocks: the monotonic one may stand still
 * while the function is frozen, and the wall clock may be set back.
 */
export function mayPost({ postUntil }: Pick<Lease, 'postUntil'>): boolean {
  return performance.now() < postUntil.monotonic && Date.now() < postUntil.wall;
}

/** Returns an expired lease with its running operation, which has ended. */
export function endedLease(item: LeasedItem, operation: Operation): EndedLease {
  const { token, expires_at } = item.lease;
  return { token, item, acquiredAt: timeOf(expires_at, 0) - LEASE, operation };
}

const NO_LEASE = { lease: null, running: null } as const;
const NO_FAILURES = {
  attempts: null,
  next_attempt_at: null,
  last_error: null,
  last_exit_code: null,
} as const;

/** The writes of the protocol above. Each throws LedgerError if the table is unavailable. */
export class Ledger {
  readonly #table: Table;
  readonly #times: LedgerTimes;

  constructor(table: Table, times: Partial<LedgerTimes> = {}) {
    this.#table = table;
    this.#times = { ...TIMES, ...times };
  }

  /** @throws LedgerError also if the item cannot be read */
  async get(barman_server: string, signal: AbortSignal): Promise<Item | undefined> {
    const stored = await this.#table.get(barman_server, signal);
    return stored && readItem(stored);
  }

  /** Returns the items of all servers, and those that cannot be read. */
  async all(signal: AbortSignal): Promise<Servers> {
    const items: Item[] = [];
    const unreadable: ServerMessage[] = [];
    const inspections = new Map<string, Inspection>();
    const heard = new Map<string, readonly HeardNode[]>();
    let stage: StageItem = {};
    for (const stored of await this.#table.scan(signal)) {
      if (stored.barman_server === STAGE_KEY) stage = readStage(stored);
      const inspected = inspectedServer(stored.barman_server);
      const inspection = inspected === undefined ? undefined : readInspection(stored);
      if (inspected !== undefined && inspection) inspections.set(inspected, inspection);
      if (inspected !== undefined) heard.set(inspected, readHeard(stored).nodes);
      if (!isServer(stored.barman_server)) continue;
      try {
        items.push(readItem(stored));
      } catch (error) {
        unreadable.push({ barman_server: stored.barman_server, message: messageOf(error) });
      }
    }
    return { items, unreadable, stage, inspections, heard };
  }

  /** Returns what the ledger remembers of the whole stage. */
  async stage(signal: AbortSignal): Promise<StageItem> {
    return readStage(await this.#table.get(STAGE_KEY, signal));
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
    const unchanged = item.desired === undefined ? noDesiredState : desiredIs(item.desired.version);
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
   * Acquires the lease to apply the newest desired state.
   *
   * @param item as it was read, without a lease
   * @param version what is to be applied at least; the lease is refused if this version or a newer one is
   *   applied, unless it is to be applied again
   * @returns undefined if the condition is false
   */
  acquire(item: RecordedItem, version: string, signal: AbortSignal): Promise<Lease | undefined> {
    return this.#lease(item.barman_server, {}, [...mayApply(item, version), noLease], signal);
  }

  /**
   * Renews a lease.
   *
   * @param inDoubt whether a POST of it is: then the item is unsettled from now on
   * @returns undefined if the condition is false
   */
  renew(
    { token, item }: Pick<Lease, 'token' | 'item'>,
    version: string,
    inDoubt: boolean,
    signal: AbortSignal,
  ): Promise<Lease | undefined> {
    const change = inDoubt ? unsettled() : {};
    return this.#lease(item.barman_server, change, [...mayApply(item, version), leasedBy(token)], signal);
  }

  /**
   * Takes over an expired lease: its POST or its operation is in doubt. That counts as a failed attempt.
   *
   * @param item as it was read
   * @param why what is not known, for the operator
   * @returns undefined if the condition is false
   */
  takeOver(item: LeasedItem, version: string, why: string, signal: AbortSignal): Promise<Lease | undefined> {
    const change = { ...unsettled(), ...failedAttempt(item, why) };
    const condition = [...mayApply(item, version), leasedBy(item.lease.token)];
    return this.#lease(item.barman_server, change, condition, signal);
  }

  /** Records the operation that was created under a lease. */
  async started({ token, item }: Lease, operation_id: string, signal: AbortSignal): Promise<void> {
    const { target, version } = item.desired;
    const change = { running: { operation_id, target, version } };
    await this.#write(item.barman_server, change, [leasedBy(token)], signal);
  }

  /**
   * Records that an operation was applied, and drops the lease.
   *
   * @returns the item after that; undefined if the lease was lost
   */
  async complete(lease: EndedLease, signal: AbortSignal): Promise<Item | undefined> {
    const { operation_id, target, version } = lease.operation;
    // What the one before took says nothing of one that outlived its lease.
    const { operation_ms } = lease;
    const change: Change = {
      applied: {
        ...{ target, version, operation_id, applied_at: new Date().toISOString() },
        ...(operation_ms !== undefined && { operation_ms }),
      },
      ...NO_LEASE,
      ...NO_FAILURES,
      ...this.#settle(lease, version),
    };
    const { barman_server } = lease.item;
    const stored = await this.#table.update(barman_server, change, [leasedBy(lease.token)], signal);
    return stored && readItem(stored);
  }

  /**
   * Records that applying failed, and drops the lease. Only if none of its POSTs is in doubt.
   *
   * @param error what was thrown
   */
  async release(
    { token, item }: Pick<Lease, 'token' | 'item'>,
    version: string,
    error: unknown,
    signal: AbortSignal,
  ): Promise<void> {
    const { barman_server } = item;
    const failed = { ...NO_LEASE, ...failedAttempt(item, error) };
    if (await this.#write(barman_server, failed, [leasedBy(token), desiredIs(version)], signal)) return;
    // A newer desired state begins without failures.
    await this.#write(barman_server, NO_LEASE, [leasedBy(token)], signal);
  }

  /**
   * Records what Patroni says about the leader.
   *
   * @param item as it was read, or with only the name of a server that is not in the ledger
   * @returns the item after that; undefined if another leader was recorded meanwhile
   */
  async observed(item: Item, change: Change, signal: AbortSignal): Promise<Item | undefined> {
    const stored = await this.#table.update(item.barman_server, change, [leaderIs(item.leader)], signal);
    return stored && readItem(stored);
  }

  /**
   * Has the desired state applied again now.
   *
   * @param item as it was read, in sync
   * @returns whether nothing newer was recorded since then, and nothing is being applied
   */
  applyAgain({ barman_server, desired }: RecordedItem, signal: AbortSignal): Promise<boolean> {
    const change = { apply_again_at: new Date().toISOString() };
    return this.#write(barman_server, change, [desiredIs(desired.version), noLease], signal);
  }

  /** Writes what an inspection found. */
  async inspected(barman_server: string, inspection: Inspection, signal: AbortSignal): Promise<void> {
    await this.#table.update(inspectionKey(barman_server), { inspection }, [], signal);
  }

  /**
   * Writes that the callback of a node was heard, unless the node was heard later.
   *
   * @throws LedgerError also if other nodes were heard at the same moment, in each of ten attempts
   */
  async hear(barman_server: string, heard: HeardNode, signal: AbortSignal): Promise<void> {
    const key = inspectionKey(barman_server);
    for (let attempt = 1; attempt <= HEARING.attempts; attempt += 1) {
      const { revision, nodes: before } = readHeard(await this.#table.get(key, signal));
      const nodes = addHeard(before, heard);
      // Also if a write of this invocation was done, and only its response was lost.
      if (!nodes) return;
      const change = { heard: { revision: randomUUID(), nodes } };
      if (await this.#write(key, change, [heardIs(revision)], signal)) return;
      await sleep(Math.random() * Math.min(HEARING.cap, HEARING.base * 2 ** attempt), signal);
    }
    throw new LedgerError(
      `too many callbacks of ${barman_server} are heard at the same moment; send the event again`,
    );
  }

  /** Writes when Barman was inspected, and whether it could be seen. */
  async inspectionTried(inspection: InspectionTimes, signal: AbortSignal): Promise<void> {
    await this.#table.update(STAGE_KEY, { inspection }, [], signal);
  }

  /** Writes what a heartbeat found. */
  async report(heartbeat: HeartbeatReport, signal: AbortSignal): Promise<void> {
    await this.#table.update(STAGE_KEY, { heartbeat }, [], signal);
  }

  /**
   * Acquires the right to ask `/diagnose`: one at a time, as it keeps pg-backup-api's only worker busy.
   *
   * @param time how long it may take (ms)
   * @returns whether no other invocation has it
   */
  acquireDiagnosis(time: number, signal: AbortSignal): Promise<boolean> {
    const now = Date.now();
    const diagnose_until = new Date(now + time).toISOString();
    const isFree = either(absent('diagnose_until'), less('diagnose_until', new Date(now).toISOString()));
    return this.#write(STAGE_KEY, { diagnose_until }, [isFree], signal);
  }

  /** Keeps the others from asking, since Barman may go on with a diagnosis that was given up. @param time ms */
  async holdDiagnosis(time: number, signal: AbortSignal): Promise<void> {
    const diagnose_until = new Date(Date.now() + time).toISOString();
    await this.#table.update(STAGE_KEY, { diagnose_until }, [], signal);
  }

  /** Gives it back; not after one that was given up, which goes on for pg-backup-api. */
  async releaseDiagnosis(signal: AbortSignal): Promise<void> {
    await this.#table.update(STAGE_KEY, { diagnose_until: null }, [], signal);
  }

  /** Returns what an application changes: whether the item is settled, or when to apply again. */
  #settle({ item, acquiredAt }: EndedLease, version: string): Change {
    if (item.unsettled_since === undefined) return { apply_again_at: null };
    const now = Date.now();
    const { unsettled, applyAgain } = this.#times;
    // Against something newer the doubt starts over.
    const since = isApplied(item, version) ? timeOf(item.unsettled_since, now) : now;
    if (acquiredAt - since >= unsettled) return { unsettled_since: null, apply_again_at: null };
    const again = Math.min(now + Math.max(applyAgain, now - since), since + unsettled);
    return {
      unsettled_since: new Date(since).toISOString(),
      apply_again_at: new Date(again).toISOString(),
    };
  }

  /** Returns whether the condition was true, so that the change is written */
  async #write(
    barman_server: string,
    change: StoredChange,
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
    // All times are taken before the write, which may be slow.
    const acquiredAt = Date.now();
    const postUntil = { monotonic: performance.now() + POST_WINDOW, wall: acquiredAt + POST_WINDOW };
    const token = randomUUID();
    const lease = { token, expires_at: new Date(acquiredAt + LEASE).toISOString() };
    const written = await this.#table.update(
      barman_server,
      { ...change, lease, running: null },
      condition,
      signal,
    );
    // The SDK repeats a write whose response was late or lost. The second one must change nothing, since a
    // newer desired state may have been recorded in between; but the lease is ours if the item has our token.
    const stored = written ?? (await this.#table.get(barman_server, signal));
    const item = stored && readItem(stored);
    if (!isRecorded(item) || item.lease?.token !== token) return undefined;
    return { token, item, acquiredAt, postUntil };
  }
}

/**
 * Returns the condition under which a version is applied, or applied again.
 *
 * @param item as it was read
 */
function mayApply(item: RecordedItem, version: string): Condition {
  const { apply_again_at } = item;
  const isAgain = isApplied(item, version) && apply_again_at !== undefined;
  return [isDesired, notPaused(), isAgain ? applyAgainAtIs(apply_again_at) : newerThanApplied(version)];
}

function recorded({ target, cluster, role, version }: DesiredState): Change {
  return {
    desired: {
      ...{ target: targetText(target), version, cluster, ...(role !== undefined && { role }) },
      recorded_at: new Date().toISOString(),
    },
    // The next two observations compare with this.
    differs_since: null,
    ...NO_FAILURES,
  };
}

/** Returns the change that marks an item: something in doubt may still take effect. */
function unsettled(): Change {
  return { unsettled_since: new Date().toISOString() };
}

/** Returns the attributes after one more failed attempt. @param error what was thrown */
function failedAttempt({ attempts = 0 }: Item, error: unknown): Change {
  const backoff = Math.min(BACKOFF.cap, BACKOFF.base * 2 ** attempts);
  return {
    attempts: attempts + 1,
    next_attempt_at: new Date(Date.now() + backoff).toISOString(),
    last_error: messageOf(error).slice(0, 1_000),
    last_exit_code: error instanceof ConfigSwitchError ? error.exit_code : ExitCode.HTTP_ERROR,
  };
}
