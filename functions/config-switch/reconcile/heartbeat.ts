/**
 * The heartbeat, every minute: compares Patroni's leaders with what is desired, applies what is pending, and
 * checks the path to pg-backup-api before a failover needs it. Several heartbeats at once do no harm: each
 * applies under a lease, as an event does.
 *
 * No server keeps another one waiting: an error is that of its server, four are applied at a time, nothing
 * waits for an operation of an earlier invocation, and what has failed less often comes first.
 */

import type { PgBackupApi } from '../barman/pg-backup-api.ts';
import { errorOf, messageOf } from '../errors.ts';
import { ExitCode, type Result } from '../exit-code.ts';
import { type Facts, type Invocation, newFacts } from '../invocation.ts';
import {
  type Item,
  isApplied,
  isDue,
  isExpired,
  isLeased,
  isPaused,
  isPending,
  type LeasedItem,
  type RecordedItem,
  timeOf,
} from '../ledger/item.ts';
import type { Ledger, ServerMessage, Servers } from '../ledger/ledger.ts';
import { isStagePaused, type StageItem } from '../ledger/stage.ts';
import type { Clusters, Observed } from '../patroni/observe-clusters.ts';
import { type Entered, whatLasts } from './lasting.ts';
import { type ObservationResult, recordObservations } from './observations.ts';
import { BarmanHost } from './probe.ts';
import { type ReconcileOptions, reconcile } from './reconcile.ts';
import { report, reportOf } from './report.ts';
import { recordEnd } from './take-over.ts';

/** How many servers are applied at the same time. */
const AT_ONCE = 4;
/**
 * No POST begins with less time before the deadline than the slowest request took, and this (ms): its
 * response, or its operation, would be in doubt.
 */
const SPARE_TIME = 3_000;

export interface HeartbeatOptions extends Pick<Invocation, 'signal' | 'remaining' | 'facts'> {
  readonly ledger: Ledger;
  /** Creates a client for pg-backup-api, whose requests are counted in `facts`. */
  readonly connect: (facts: Facts) => PgBackupApi;
  /**
   * When the certificates among the parameters expire: parameter → ms since the epoch.
   *
   * @throws HttpError if that is unknown
   */
  readonly expiries: () => Promise<ReadonlyMap<string, number>>;
  /** Returns why the function depends on old parameters, if it has for long. */
  readonly outdated: () => Promise<string | undefined>;
  /** How long to wait for an operation of unknown end after its lease has expired (ms). */
  readonly operationTimeout: number;
  /** Between two heartbeats (ms). */
  readonly interval: number;
  /** The version of this project. */
  readonly version: string;
  /** Returns the clusters among the parameters. @throws HttpError if the parameters are unavailable */
  readonly clusters: () => Promise<Clusters>;
  /** Asks Patroni for the leaders of some clusters. */
  readonly observe: (clusters: Clusters) => Promise<readonly Observed[]>;
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
export interface Heartbeat extends Applied {
  /** Why pg-backup-api is unreachable, or can be reached with old parameters only. */
  readonly unreachable?: string | undefined;
  /** The certificate that expires first: its parameter, and the whole days until then. */
  readonly certificate?: { readonly parameter: string; readonly daysLeft: number } | undefined;
  /** Why what it found is not in the ledger, if it is not. */
  readonly unreported?: string;
  /** What follows from what Patroni says. */
  readonly observed: ObservationResult;
  /**
   * Servers that could not be switched now: their item cannot be read, or pg-backup-api responds, but not for
   * them.
   */
  readonly notReady: readonly ServerMessage[];
  /** What has entered a state since the last heartbeat. */
  readonly entered: Entered;
  /** Whether nothing was asked of a server in this heartbeat, and pg-backup-api is reachable. */
  readonly isQuiet: boolean;
  /** What the ledger had before anything was applied, and what this heartbeat reports. */
  readonly servers: Servers;
}

/** What was pending, and is now. */
interface Applied {
  /** Servers that were pending when the heartbeat began, or that an observation has found. */
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
 * Polls what is in doubt, or probes pg-backup-api; observes the clusters; and applies what is pending.
 *
 * @throws LedgerError if the ledger is unavailable
 */
export async function beat(options: HeartbeatOptions): Promise<Heartbeat> {
  const { ledger, signal } = options;
  const before = await ledger.all(signal);
  const host = new BarmanHost(options);
  const expired = before.items.filter(isExpired);
  const [certificate, outdated, { observed, items, ...seen }, polled] = await Promise.all([
    options.expiries().then(firstToExpire, () => undefined),
    options.outdated(),
    observe(options, before),
    pollExpired(options, host, expired),
    // Its own probe must not keep the only worker of a slow host from what is in doubt.
    expired.some((item) => item.running || isDue(item)) ? undefined : host.probe(),
  ]);
  // The request of one server may fail for that server only.
  if (host.unreachable !== undefined && !host.isProbed) await host.probe();
  const { stage } = before;
  const { pendingServers, ...applied } = await apply(options, host, items, polled, stage);
  if (!host.isKnown) await host.probe();
  // Not while something may be running, on a host with one worker.
  const isQuiet = !host.isUsed && !items.some((item) => item.lease && !isPaused(item));
  if (isQuiet && host.unreachable === undefined) await host.readOneServer(items, signal);
  const isReachable = host.unreachable === undefined;
  const since = new Map(observed.notStreaming.map((one) => [one.barman_server, one.since]));
  const states = {
    pending: isReachable ? pendingServers : undefined,
    not_streaming: isReachable ? since : undefined,
    leader_cannot_write: clustersOf(observed.unknown.filter(({ cannotWrite }) => cannotWrite)),
    leader_unknown: clustersOf(observed.unknown.filter(({ cannotWrite }) => !cannotWrite)),
  };
  const { lasting, entered } = whatLasts(states, stage.heartbeat, Date.now(), options.interval);
  // While Barman's only worker is busy with a diagnosis, an answer that is late says nothing.
  const isBusy = Date.now() < timeOf(stage.diagnose_until, 0) && stage.heartbeat?.unreachable === undefined;
  // Old values go on being used, so what is pending was applied.
  const unreachable = (isBusy ? undefined : host.unreachable) ?? outdated;
  const not_ready = refusals(host, items, stage);
  const found = { unreachable, not_ready, lasting };
  const reported = reportOf(options, { ...seen, unknown: observed.unknown }, found, stage.heartbeat);
  const unreported = await report(ledger, reported).then(() => undefined, messageOf);
  return {
    unreachable,
    certificate,
    observed,
    notReady: [...before.unreadable, ...not_ready],
    entered,
    isQuiet: isQuiet && isReachable,
    servers: { ...before, items, stage: { ...stage, heartbeat: reported } },
    ...applied,
    ...(unreported !== undefined && { unreported }),
  };
}

/** Returns the servers that cannot be switched: those found now, and those found earlier and not asked again. */
function refusals(host: BarmanHost, items: readonly Item[], { heartbeat }: StageItem): ServerMessage[] {
  const known = new Set(items.map(({ barman_server }) => barman_server));
  const earlier = (heartbeat?.not_ready ?? []).filter(
    ({ barman_server }) => known.has(barman_server) && !host.hasAsked(barman_server),
  );
  return [...host.refusals, ...earlier];
}

/** Returns some clusters; the heartbeats remember since when their leader is unknown. */
function clustersOf(unknown: ObservationResult['unknown']): Map<string, undefined> {
  return new Map(unknown.map(({ cluster }) => [cluster, undefined]));
}

/** Asks Patroni for the leaders, and records what follows. @returns also the items after that */
async function observe({ ledger, signal, interval, ...options }: HeartbeatOptions, known: Servers) {
  // The probe reports it if the parameters are unavailable.
  const settings = await options.clusters().catch(errorOf);
  const seen = settings instanceof Error ? [] : await options.observe(settings);
  const observed = await recordObservations(ledger, known, seen, interval, signal);
  const { reconciled, first, notStreaming } = observed;
  const changed = [...reconciled, ...first, ...notStreaming].length > 0;
  const items = changed ? (await ledger.all(signal)).items : known.items;
  const clusters = settings instanceof Error ? settings : settings.clusters;
  return { clusters, seen, observed, items };
}

/** What became of the expired leases. */
interface Polled {
  /** Server → version. Meanwhile something newer may have been recorded. */
  readonly applied: ReadonlyMap<string, string>;
  readonly waiting: ReadonlySet<string>;
}

/**
 * Polls the operation of each expired lease once, and records its end.
 *
 * @returns the servers whose operation has applied what is desired; and those that go on waiting, or whose
 *   operation FAILED
 */
async function pollExpired(
  options: HeartbeatOptions,
  host: BarmanHost,
  expired: readonly LeasedItem[],
): Promise<Polled> {
  const applied = new Map<string, string>();
  const waiting = new Set<string>();
  await forEach(expired, async (item) => {
    const { running } = item;
    if (!running) return;
    const { barman_server, desired } = item;
    await attempt(options, host, item, async (reconcileOptions) => {
      waiting.add(barman_server);
      const hasEnded = await recordEnd(reconcileOptions, item, running);
      waiting.delete(barman_server);
      // The lease of one that did not end in time is taken over below.
      if (!hasEnded || running.version !== desired.version) return undefined;
      applied.set(barman_server, running.version);
      const { operation_id, target } = running;
      const message = `Barman was set to ${target} by operation ${operation_id} of an earlier invocation`;
      return { exit_code: ExitCode.CONFIG_SWITCH_DONE, message, operation_id };
    });
  });
  return { applied, waiting };
}

/**
 * Applies what is pending and due, and neither applied by now nor waiting for an operation.
 */
async function apply(
  options: HeartbeatOptions,
  host: BarmanHost,
  items: readonly Item[],
  polled: Polled,
  stage: StageItem,
): Promise<Applied & { readonly pendingServers: ReadonlyMap<string, number> }> {
  const now = Date.now();
  const allPending = items.filter(isPending);
  const allPaused = isStagePaused(stage);
  const isHeld = (item: Item) => allPaused || isPaused(item);
  const [paused, pending] = [allPending.filter(isHeld), allPending.filter((item) => !isHeld(item))];
  const sinceOf = (item: RecordedItem) => pendingSince(item, stage, now);
  const age = (item: RecordedItem) => now - sinceOf(item);
  const applied = new Map(polled.applied);
  const isDone = ({ barman_server, desired }: RecordedItem) =>
    (applied.get(barman_server) ?? '') >= desired.version;
  // Otherwise each attempt would only use itself up, and the reason has an alarm of its own.
  if (host.unreachable === undefined) {
    const due = pending.filter(
      (item) => !isLeased(item) && isDue(item) && !isDone(item) && !polled.waiting.has(item.barman_server),
    );
    await forEach(due.sort(byOrder(age)), async (item) => {
      if (options.remaining() < host.slowest + SPARE_TIME) return;
      await attempt(options, host, item, async (reconcileOptions) => {
        const result = await reconcile(reconcileOptions, item.barman_server, item.desired.version);
        applied.set(item.barman_server, item.desired.version);
        return result;
      });
    });
  }
  const pausedFor = paused.flatMap((item) => [
    ...(isPaused(item) && !item.paused_until ? [now - timeOf(item.paused_at, now)] : []),
    ...(allPaused && !stage.paused?.until ? [now - timeOf(stage.paused?.at, now)] : []),
  ]);
  const left = pending.filter((item) => !isDone(item));
  return {
    pending: pending.length,
    applied: applied.size,
    pausedPending: paused.length,
    ...(host.unreachable === undefined && { oldestPendingAge: oldest(left.map(age)) }),
    pausedPendingAge: oldest(pausedFor),
    pendingServers: new Map(left.map((item) => [item.barman_server, sinceOf(item)])),
  };
}

/** Does something for one server, with a client of its own, and reports how it ended. */
async function attempt(
  options: HeartbeatOptions,
  host: BarmanHost,
  item: RecordedItem,
  action: (options: ReconcileOptions) => Promise<Result | undefined>,
): Promise<void> {
  const facts = { ...newFacts(), recorded: true };
  const start = performance.now();
  let result: Result | Error | undefined;
  try {
    const { barman_server } = item;
    result = await host.ask(barman_server, facts, (api) =>
      action({ ...options, api, facts, caller: 'heartbeat', allPaused: false }),
    );
  } catch (error) {
    result = errorOf(error);
  }
  if (result) options.onReconciled({ item, result, facts, duration: performance.now() - start });
}

/** Does something for each item, for four at a time, in their order. */
async function forEach<T>(items: readonly T[], action: (item: T) => Promise<void>): Promise<void> {
  const queue = items.values();
  const work = async () => {
    for (const item of queue) await action(item);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
}

/**
 * Returns the order in which servers are reconciled: those that failed least often first, so that the others
 * do not delay them, then the oldest. What is in doubt has failed once more.
 */
function byOrder(age: (item: RecordedItem) => number): (a: RecordedItem, b: RecordedItem) => number {
  const failures = (item: Item) => (item.attempts ?? 0) + (isExpired(item) ? 1 : 0);
  return (a, b) => failures(a) - failures(b) || age(b) - age(a);
}

/**
 * Returns since when a server is pending (ms since the epoch): since its desired state was recorded, a pause
 * has ended, or it was to be applied again.
 */
function pendingSince(item: RecordedItem, { paused }: StageItem, now: number): number {
  const { desired, paused_until, apply_again_at } = item;
  const since = isApplied(item, desired.version) ? apply_again_at : desired.recorded_at;
  return Math.max(timeOf(since, now), timeOf(paused_until, 0), timeOf(paused?.until, 0));
}

/** Returns the certificate that expires first. @param expiries parameter → ms since the epoch */
function firstToExpire(expiries: ReadonlyMap<string, number>): Heartbeat['certificate'] {
  const [first] = [...expiries].sort(([, a], [, b]) => a - b);
  return first && { parameter: first[0], daysLeft: Math.floor((first[1] - Date.now()) / 86_400_000) };
}

/** Returns the greatest of some ages (ms), in seconds; 0 for none. */
function oldest(ages: readonly number[]): number {
  return Math.round(Math.max(0, ...ages) / 1_000);
}
