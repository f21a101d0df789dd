/**
 * Records a desired state, and brings Barman up to the newest one. The protocol is in ledger/ledger.ts and
 * ledger/events.ts; here is who waits for whom, and which result an event gets.
 */

import type { PgBackupApi, PostGuard } from '../barman/pg-backup-api.ts';
import { switchConfig } from '../barman/switch-config.ts';
import { sleep } from '../deadline.ts';
import { Busy, LedgerError } from '../errors.ts';
import { ExitCode, type Result } from '../exit-code.ts';
import type { Facts } from '../invocation.ts';
import { type EventTable, fixVersion } from '../ledger/events.ts';
import {
  type DesiredState,
  isApplied,
  isExpired,
  isLeased,
  isPaused,
  isRecorded,
  mustApplyAgain,
  type RecordedItem,
  type RequestedState,
} from '../ledger/item.ts';
import { type EndedLease, type Lease, mayPost } from '../ledger/ledger.ts';
import { isStagePaused } from '../ledger/stage.ts';
import type { FollowedLeader, LeaderOf } from '../patroni/follow-leader.ts';
import { parseTarget } from '../target.ts';
import { type TakeOverOptions, takeOver } from './take-over.ts';

/** How long to wait for another invocation's lease, and how often to read the item meanwhile (ms). */
const WAIT = { most: 5_000, interval: 250 };
/**
 * With less time than this before the deadline, a newer desired state is left to its own event or the
 * heartbeat (ms).
 */
const NEWER_TIME = 10_000;

export interface ReconcileOptions extends TakeOverOptions {
  /** Whether the operator has paused all servers; as it was when the invocation began. */
  readonly allPaused: boolean;
  readonly api: TakeOverOptions['api'] &
    Pick<PgBackupApi, 'createConfigSwitchOperation' | 'waitForOperation'>;
}

export interface RecordOptions extends Omit<ReconcileOptions, 'caller' | 'allPaused'> {
  readonly events: EventTable;
  readonly leaderOf: LeaderOf;
}

/** Another invocation has the lease. */
class LeaseLost extends Error {}
/** The lease was renewed, and is for a newer desired state now. */
class NewerDesired extends Error {}

/**
 * Fixes the version of an event, finds out what it asks for, records that as the desired state, then reconciles.
 *
 * @returns DONE if Barman was set to this desired state, SKIPPED if it was set to a newer one
 * @throws InvalidArgs if the event id was used for another target, or no cluster has the leader to follow
 * @throws LeaderUnknown if the leader is not known in time; nothing is recorded
 * @throws LedgerError if the ledger is unavailable
 * @throws Busy if another invocation is switching, or the server is paused
 * @throws ConfigSwitchFailed, HttpError as `switchConfig` does
 */
export async function recordAndReconcile(options: RecordOptions, requested: RequestedState): Promise<Result> {
  const { ledger, events, signal, facts } = options;
  const [event, stage] = await Promise.all([fixVersion(events, requested, signal), ledger.stage(signal)]);
  const { barman_server, version } = event;
  const allPaused = isStagePaused(stage);
  const followed = 'follow_leader' in event.target ? await findLeader(options, event) : undefined;
  const desired = followed ? { ...event, target: followed.target } : event;
  const lease = hasTarget(desired) && !allPaused ? await ledger.recordAndAcquire(desired, signal) : undefined;
  // Without a lease: another invocation holds it, or this event or a newer one is recorded.
  const isNewest = lease !== undefined || (hasTarget(desired) && (await ledger.record(desired, signal)));
  facts.recorded = true;
  facts.duplicate = version !== requested.version;
  if (followed && isNewest) facts.followed = followed;
  return reconcile({ ...options, caller: 'event', allPaused }, barman_server, version, lease);
}

/**
 * Returns the leader that an event follows; undefined if it, or something newer, is already recorded.
 *
 * @throws InvalidArgs, HttpError as `followLeader` does
 */
async function findLeader(
  { ledger, leaderOf, facts, signal }: RecordOptions,
  { barman_server, version }: RequestedState,
): Promise<FollowedLeader | undefined> {
  const item = await ledger.get(barman_server, signal);
  if (isRecorded(item) && item.desired.version >= version) return undefined;
  const start = performance.now();
  try {
    return await leaderOf(item ?? { barman_server }, signal);
  } finally {
    facts.asked = performance.now() - start;
  }
}

function hasTarget(state: RequestedState): state is DesiredState {
  return !('follow_leader' in state.target);
}

/**
 * Applies the newest desired state of a server, unless it is already applied.
 *
 * @param version what is to be applied at least; the newest one is not older
 * @param acquired the lease, if it was already acquired
 * @throws as `recordAndReconcile` does
 */
export async function reconcile(
  options: ReconcileOptions,
  barman_server: string,
  version: string,
  acquired?: Lease,
): Promise<Result> {
  const { ledger, signal, facts, remaining } = options;
  let lease = acquired;
  /** The event's result, once its desired state or a newer one is applied. */
  let result: Result | undefined;
  try {
    for (;;) {
      if (!lease) {
        const next = await acquire(options, barman_server, version);
        if ('result' in next) return next.result;
        lease = next.lease;
      }
      const applied: Applied = await apply(options, version, lease);
      lease = applied.status === 'newer desired' ? applied.lease : undefined;
      if (applied.status !== 'done') continue;
      const item = await ledger.complete(applied.lease, signal);
      // Another invocation has taken the lease over; the item says what was applied.
      if (!item) continue;
      const { operation } = applied.lease;
      if (operation.version === version) result = applied.result;
      else result ??= superseded(facts, `Barman was set to ${operation.target} for ${operation.version}`);
      if (!isRecorded(item) || isApplied(item, item.desired.version) || remaining() < NEWER_TIME)
        return result;
      // The event of what is newer may have stopped waiting. If it still waits, it has the lease.
      lease = await ledger.acquire(item, item.desired.version, signal);
      if (!lease) return result;
    }
  } catch (error) {
    // The event has its result; the newer desired state is in the ledger, for its own event or the heartbeat.
    if (result) return result;
    throw error;
  }
}

/** How an application under a lease ended that did not throw. */
type Applied =
  | { readonly status: 'done'; readonly lease: EndedLease; readonly result: Result }
  | { readonly status: 'lease lost' }
  /** Nothing was sent: the lease was renewed, and is for a newer desired state now. */
  | { readonly status: 'newer desired'; readonly lease: Lease };

/**
 * Applies the lease's desired state: one config switch, whose POSTs are sent only while the lease allows it.
 */
async function apply(
  { ledger, api, signal, caller }: ReconcileOptions,
  version: string,
  acquired: Lease,
): Promise<Applied> {
  let lease = acquired;
  const { barman_server, desired, applied } = lease.item;
  const finished = new AbortController();
  const guard: PostGuard = {
    inDoubt: false,
    waits: caller === 'event',
    applied,
    // This write is not waited for: without it, the lease is taken over once it has expired.
    onCreated: (operation_id) => {
      ledger.started(lease, operation_id, AbortSignal.any([signal, finished.signal])).catch(() => {});
    },
    beforePost: async () => {
      while (guard.inDoubt || !mayPost(lease)) {
        const renewed = await ledger.renew(lease, version, guard.inDoubt, signal);
        if (!renewed) {
          const item = await ledger.get(barman_server, signal);
          if (isRecorded(item) && isPaused(item)) throw paused(item);
          throw new LeaseLost();
        }
        lease = renewed;
        guard.inDoubt = false;
        if (renewed.item.desired.version !== desired.version) throw new NewerDesired();
      }
    },
  };
  try {
    const { result, operation_ms } = await switchConfig(
      api,
      barman_server,
      parseTarget(desired.target),
      guard,
    );
    const { target, version } = desired;
    const operation = { operation_id: result.operation_id, target, version };
    return { status: 'done', lease: { ...lease, operation, operation_ms }, result };
  } catch (error) {
    if (error instanceof LeaseLost) return { status: 'lease lost' };
    if (error instanceof NewerDesired) return { status: 'newer desired', lease };
    // In doubt: the lease is kept, and whoever takes it over marks the item.
    if (!guard.inDoubt && !signal.aborted) {
      // If this fails, the lease expires by itself.
      await ledger.release(lease, desired.version, error, signal).catch(() => {});
    }
    throw error;
  } finally {
    finished.abort();
  }
}

/** The lease, or the result that makes it unnecessary. */
type Acquired = { readonly lease: Lease } | { readonly result: Result };

/** Waits for the lease, or for a result that makes it unnecessary. @throws Busy after 5 s */
async function acquire(options: ReconcileOptions, barman_server: string, version: string): Promise<Acquired> {
  const { ledger, signal, facts, caller, allPaused } = options;
  const start = performance.now();
  for (;;) {
    const item = await ledger.get(barman_server, signal);
    if (!isRecorded(item)) {
      facts.recorded = false;
      throw new LedgerError(
        `the ledger's item of ${barman_server} was deleted meanwhile; send the event again`,
      );
    }
    const { applied } = item;
    const again = caller === 'heartbeat' && mustApplyAgain(item);
    if (applied && isApplied(item, version) && !again) {
      const message = `Barman was set to ${applied.target}`;
      const result =
        applied.version === version
          ? alreadyApplied(facts, message, applied.operation_id)
          : superseded(facts, `${message} for ${applied.version}`);
      return { result };
    }
    if (isPaused(item) || allPaused) throw paused(item);
    if (isLeased(item)) {
      const left = WAIT.most - (performance.now() - start);
      if (left <= 0 || caller === 'heartbeat') {
        throw new Busy(
          `another invocation is switching ${barman_server}: the desired state is recorded, and will be applied after that`,
        );
      }
      const slept = Math.min(WAIT.interval, left);
      await sleep(slept, signal);
      facts.waited += slept;
      continue;
    }
    const lease = isExpired(item)
      ? await takeOver(options, item, version)
      : await ledger.acquire(item, version, signal);
    if (lease) return { lease };
  }
}

function paused({ barman_server }: RecordedItem): Busy {
  return new Busy(
    `Barman server ${barman_server} is paused: the desired state is recorded, and will be applied after the pause`,
  );
}

function alreadyApplied(facts: Facts, message: string, operation_id: string): Result {
  facts.duplicate = true;
  return {
    exit_code: ExitCode.CONFIG_SWITCH_DONE,
    message: `this event was already applied: ${message}`,
    operation_id,
  };
}

function superseded(facts: Facts, message: string): Result {
  facts.superseded = true;
  return { exit_code: ExitCode.CONFIG_SWITCH_SKIPPED, message: `superseded by a newer event: ${message}` };
}
