/**
 * The heartbeat, every minute: compares Patroni's leaders with what is desired, applies what is pending, and
 * checks the path to pg-backup-api before a failover needs it. Several heartbeats at once do no harm: each
 * applies under a lease, as an event does.
 */

import type { PgBackupApi } from '../barman/pg-backup-api.ts';
import { deadline } from '../deadline.ts';
import { DeadlineExceeded, messageOf } from '../errors.ts';
import type { Result } from '../exit-code.ts';
import { type Facts, type Invocation, newFacts } from '../invocation.ts';
import type { Observed } from '../patroni/observe-clusters.ts';
import {
  type Item,
  isLeased,
  isPaused,
  isPending,
  isRecorded,
  passedOver,
  type RecordedItem,
  timeOf,
} from './item.ts';
import type { Ledger } from './ledger.ts';
import { type ObservationResult, recordObservations } from './observe.ts';
import { reconcile } from './reconcile.ts';

/** How long an operation that was passed over is polled (ms). */
const DROP_AFTER = 24 * 3_600_000;
/**
 * Time limit for the polls of the operations that were passed over (ms): a slow host must not use up the
 * heartbeat.
 */
const POLL_TIME = 5_000;
/** With less time than this before the deadline no more servers are reconciled (ms). */
const APPLY_TIME = 8_000;

export interface HeartbeatOptions extends Pick<Invocation, 'signal' | 'remaining'> {
  readonly ledger: Ledger;
  readonly api: PgBackupApi;
  /**
   * When the certificates among the parameters expire: parameter → ms since the epoch.
   *
   * @throws HttpError if that is unknown
   */
  readonly expiries: () => Promise<ReadonlyMap<string, number>>;
  /** How long to wait for an operation of unknown end after its lease has expired (ms). */
  readonly operationTimeout: number;
  /** Between two heartbeats (ms). */
  readonly interval: number;
  /** Asks Patroni for the leaders. @throws HttpError if that cannot be tried */
  readonly observe: () => Promise<readonly Observed[]>;
  /** Called after each server that was reconciled, or failed. */
  readonly onReconciled: (reconciled: Reconciled) => void;
}

/** How one server was reconciled. */
export interface Reconciled {
  /** The item, as it was before. */
  readonly item: RecordedItem;
  readonly result: Result | Error;
  readonly facts: Facts;
  /** ms */
  readonly duration: number;
}

/** What a heartbeat found and did. */
export interface Heartbeat extends Probed, Applied {
  /** What follows from what Patroni says. */
  readonly observed: ObservationResult;
}

/** What a heartbeat knows about the path to pg-backup-api. */
interface Probed {
  /** Why pg-backup-api is unreachable, if it is. */
  readonly unreachable?: string;
  /** The certificate that expires first: its parameter, and the whole days until then. */
  readonly certificate?: { readonly parameter: string; readonly daysLeft: number } | undefined;
}

/** What was pending, and is now. */
interface Applied {
  /** Servers that were pending when the heartbeat began. */
  readonly pending: number;
  /** How many of them were applied. */
  readonly applied: number;
  /** Servers that are pending, but paused. */
  readonly pausedPending: number;
  /**
   * Age of the oldest desired state that is still pending (s); 0 without one, undefined while pg-backup-api
   * is unreachable.
   */
  readonly oldestPendingAge?: number;
  /**
   * How long servers have been paused at most that are pending, and whose pause does not end by itself (s).
   */
  readonly pausedPendingAge: number;
}

/**
 * Probes pg-backup-api, observes the clusters, and applies what is pending.
 *
 * @throws LedgerError if the ledger is unavailable
 */
export async function beat(options: HeartbeatOptions): Promise<Heartbeat> {
  const before = await options.ledger.all(options.signal);
  const [probed, { observed, items }] = await Promise.all([probe(options), observe(options, before)]);
  const reachable = probed.unreachable === undefined;
  const unreadable = reachable ? await probeServer(options, items) : undefined;
  const applied = await apply(options, items, reachable);
  return { ...probed, ...(unreadable !== undefined && { unreachable: unreadable }), observed, ...applied };
}

/** Asks for the status with the real credentials, and finds the certificate that expires first. */
async function probe({ api, expiries }: HeartbeatOptions): Promise<Probed> {
  // The status tells if the parameters are unavailable.
  const certificate = firstToExpire(await expiries().catch(() => new Map()));
  try {
    await api.status();
    return { certificate };
  } catch (error) {
    return { certificate, unreachable: messageOf(error) };
  }
}

/** @param expiries parameter → ms since the epoch */
function firstToExpire(expiries: ReadonlyMap<string, number>): Probed['certificate'] {
  const [first] = [...expiries].sort(([, a], [, b]) => a - b);
  return first && { parameter: first[0], daysLeft: Math.floor((first[1] - Date.now()) / 86_400_000) };
}

/**
 * Reads the configuration of one known server, another one every minute: `/status` is fine while it cannot be
 * read.
 *
 * @returns why it cannot be read; undefined also if that takes too long: a host with a thousand servers is
 *   slow, not broken
 */
async function probeServer({ api }: HeartbeatOptions, items: readonly Item[]): Promise<string | undefined> {
  const servers = items.map(({ barman_server }) => barman_server).sort();
  const barman_server = servers[Math.floor(Date.now() / 60_000) % servers.length];
  if (barman_server === undefined) return undefined;
  try {
    await api.readServer(barman_server);
    return undefined;
  } catch (error) {
    if (error instanceof DeadlineExceeded) return undefined;
    return `the configuration of ${barman_server} cannot be read: ${messageOf(error)}`;
  }
}

/** Asks Patroni for the leaders, and records what follows. @returns also the items after that */
async function observe({ ledger, signal, interval, ...options }: HeartbeatOptions, items: readonly Item[]) {
  const observed = await recordObservations(ledger, items, await options.observe(), interval, signal);
  const changed = observed.reconciled.length + observed.notStreaming.length > 0;
  return { observed, items: changed ? await ledger.all(signal) : items };
}

/**
 * Applies what is pending and due.
 *
 * @param reachable whether pg-backup-api is reachable; otherwise each attempt would only use itself up, and
 *   the reason for what is pending has an alarm of its own
 */
async function apply(
  options: HeartbeatOptions,
  items: readonly Item[],
  reachable: boolean,
): Promise<Applied> {
  const ended = reachable ? await pollPassedOver(options, items) : new Map<string, Set<string>>();
  const now = Date.now();
  const allPending = items.filter((item) => isPending(item, ended.get(item.barman_server)));
  const [paused, pending] = [allPending.filter(isPaused), allPending.filter((item) => !isPaused(item))];
  const age = (item: RecordedItem) => now - pendingSince(item, now);
  const due = pending.filter((item) => isDue(item, now)).sort(byOrder(age));
  const applied = reachable ? await reconcileAll(options, due, ended) : new Set();
  const pausedFor = paused
    .filter((item) => !item.paused_until)
    .map((item) => now - timeOf(item.paused_at, now));
  return {
    pending: pending.length,
    applied: applied.size,
    pausedPending: paused.length,
    ...(reachable && {
      oldestPendingAge: oldest(pending.filter((item) => !applied.has(item.barman_server)).map(age)),
    }),
    pausedPendingAge: oldest(pausedFor),
  };
}

/**
 * Polls the operations that were passed over, and drops those that can no longer set Barman back: an
 * operation of the desired state that has ended, or one that has not ended within a day.
 *
 * @returns for each server those that have ended, so that its desired state must be applied again
 */
async function pollPassedOver(
  { ledger, api, signal }: HeartbeatOptions,
  items: readonly Item[],
): Promise<Map<string, Set<string>>> {
  const ended = new Map<string, Set<string>>();
  const limit = deadline(POLL_TIME);
  const limited = AbortSignal.any([signal, limit.signal]);
  try {
    for (const item of items.filter(isRecorded)) {
      const harmless = new Set<string>();
      for (const { operation_id, version, since } of passedOver(item).filter((one) => !one.ended_at)) {
        const status = await api.operationStatus(item.barman_server, operation_id, limited).catch(() => {});
        if (status === 'DONE' || status === 'FAILED') {
          if (version === item.desired_version) harmless.add(operation_id);
          else ended.set(item.barman_server, (ended.get(item.barman_server) ?? new Set()).add(operation_id));
        } else if (Date.now() - timeOf(since, 0) > DROP_AFTER) {
          harmless.add(operation_id);
        }
      }
      if (harmless.size > 0) {
        const left = passedOver(item).filter(({ operation_id }) => !harmless.has(operation_id));
        await ledger.setPassedOver(item, left, signal);
      }
    }
  } finally {
    limit.clear();
  }
  return ended;
}

/**
 * Reconciles one server after the other: a host with many servers needs long for each request.
 *
 * @returns those that were applied
 */
async function reconcileAll(
  options: HeartbeatOptions,
  due: readonly RecordedItem[],
  endedOf: ReadonlyMap<string, ReadonlySet<string>>,
): Promise<Set<string>> {
  const applied = new Set<string>();
  for (const item of due) {
    if (options.remaining() < APPLY_TIME) break;
    const { barman_server, desired_version } = item;
    const facts = { ...newFacts(), recorded: true };
    const start = performance.now();
    let result: Result | Error;
    try {
      const ended = endedOf.get(barman_server) ?? new Set();
      result = await reconcile({ ...options, facts, ended }, barman_server, desired_version);
      applied.add(barman_server);
    } catch (error) {
      result = error instanceof Error ? error : new Error(String(error));
    }
    options.onReconciled({ item, result, facts, duration: performance.now() - start });
  }
  return applied;
}

/**
 * Returns the order in which servers are reconciled: fewest attempts first, so that those that fail do not
 * delay the others; expired leases last, because their operations have to be waited for; then the oldest.
 */
function byOrder(age: (item: RecordedItem) => number): (a: RecordedItem, b: RecordedItem) => number {
  const attempts = (item: Item) => item.attempts ?? 0;
  const expired = ({ lease_token }: Item) => (lease_token === undefined ? 0 : 1);
  return (a, b) => attempts(a) - attempts(b) || expired(a) - expired(b) || age(b) - age(a);
}

/**
 * Returns since when a server is pending (ms since the epoch): since its desired state was recorded, a pause
 * has ended by itself, or what was passed over has ended.
 */
function pendingSince(item: RecordedItem, now: number): number {
  if ((item.applied_version ?? '') < item.desired_version) {
    return Math.max(timeOf(item.recorded_at, now), timeOf(item.paused_until, 0));
  }
  return Math.min(now, ...passedOver(item).map(({ ended_at }) => timeOf(ended_at, now)));
}

/**
 * Returns whether to reconcile a server now. The end of an operation under an expired lease is not an
 * attempt, and always due.
 */
function isDue(item: Item, now: number): boolean {
  if (isLeased(item)) return false;
  return item.lease_token !== undefined || timeOf(item.next_attempt_at ?? item.recorded_at, now) <= now;
}

/** Returns the greatest of some ages (ms), in seconds; 0 for none. */
function oldest(ages: readonly number[]): number {
  return Math.round(Math.max(0, ...ages) / 1_000);
}
