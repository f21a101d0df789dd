/**
 * The heartbeat, every minute: compares Patroni's leaders with what is desired, applies what is pending, and
 * checks the path to pg-backup-api before a failover needs it. Several heartbeats at once do no harm: each
 * applies under a lease, as an event does.
 *
 * No server keeps another one waiting: an error is that of its server, four are applied at a time, nothing
 * waits for an operation of an earlier invocation, and what has failed less often comes first.
 */

import type { PgBackupApi } from '../barman/pg-backup-api.ts';
import { deadline } from '../deadline.ts';
import { messageOf } from '../errors.ts';
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
import { type ClusterReport, isStagePaused, type Lasting, type StageItem } from '../ledger/stage.ts';
import type { Clusters, Observed } from '../patroni/observe-clusters.ts';
import { type Entered, whatLasts } from './lasting.ts';
import { type ObservationResult, recordObservations } from './observations.ts';
import { BarmanHost } from './probe.ts';
import { type ReconcileOptions, reconcile } from './reconcile.ts';
import { mayTakeOver, recordEnd } from './take-over.ts';

/** How many servers are applied at the same time. */
const AT_ONCE = 4;
/**
 * No POST begins with less time before the deadline than the slowest request took, and this (ms): its
 * response, or its operation, would be in doubt.
 */
const SPARE_TIME = 3_000;
/** Time limit of the report, which may begin at the deadline (ms). */
const REPORT_TIME = 1_000;
/** Maximum length of a reason in the ledger (characters): an item has at most 400 KB. */
const REASON_LENGTH = 500;

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
  const { pendingSince, ...applied } = await apply(options, host, items, polled, stage);
  if (!host.isKnown) await host.probe();
  // Not while something may be running, on a host with one worker.
  const isQuiet = !host.isUsed && !items.some((item) => item.lease && !isPaused(item));
  if (isQuiet && host.unreachable === undefined) await host.readOneServer(items);
  const states = {
    pending: pendingSince,
    not_streaming: host.unreachable === undefined ? notStreamingSince(observed, items) : undefined,
    leader_cannot_write: clustersOf(observed.unknown.filter(({ cannotWrite }) => cannotWrite)),
    leader_unknown: clustersOf(observed.unknown.filter(({ cannotWrite }) => !cannotWrite)),
  };
  const { lasting, entered } = whatLasts(states, stage.heartbeat, Date.now(), options.interval);
  // Old values go on being used, so what is pending was applied.
  const unreachable = host.unreachable ?? outdated;
  const reported = report(options, { observed, ...seen }, stage, unreachable, lasting);
  const unreported = await reported.then(() => undefined, messageOf);
  return {
    unreachable,
    certificate,
    observed,
    notReady: [...before.unreadable, ...host.refusals],
    entered,
    ...applied,
    ...(unreported !== undefined && { unreported }),
  };
}

/** Returns some clusters; the heartbeats remember since when their leader is unknown. */
function clustersOf(unknown: ObservationResult['unknown']): Map<string, undefined> {
  return new Map(unknown.map(({ cluster }) => [cluster, undefined]));
}

/** Returns for which servers Barman does not stream, and since when (ms since the epoch). */
function notStreamingSince({ notStreaming }: ObservationResult, items: readonly Item[]) {
  const since = new Map(items.map((item) => [item.barman_server, timeOf(item.streaming_since, Date.now())]));
  return new Map(
    notStreaming.map(({ barman_server }) => [barman_server, since.get(barman_server) ?? Date.now()]),
  );
}

/** Asks Patroni for the leaders, and records what follows. @returns also the items after that */
async function observe({ ledger, signal, interval, ...options }: HeartbeatOptions, known: Servers) {
  // The probe tells if the parameters are unavailable.
  const settings = await options.clusters().catch((): Clusters => ({ clusters: [], tls: {} }));
  const seen = await options.observe(settings);
  const observed = await recordObservations(ledger, known, seen, interval, signal);
  const { reconciled, first, notStreaming } = observed;
  const changed = [...reconciled, ...first, ...notStreaming].length > 0;
  const items = changed ? (await ledger.all(signal)).items : known.items;
  return { clusters: settings.clusters, seen, observed, items };
}

/** What a heartbeat has seen of the clusters. */
interface SeenClusters extends Pick<Clusters, 'clusters'> {
  readonly seen: readonly Observed[];
  readonly observed: ObservationResult;
}

/**
 * Writes what the heartbeat found, for the operator.
 *
 * @param before what the last one found: since when it is so
 * @param unreachable why pg-backup-api is unreachable, if it is
 * @param lasting for the next heartbeat
 */
async function report(
  { ledger, interval, version }: HeartbeatOptions,
  { clusters, seen, observed }: SeenClusters,
  { heartbeat }: StageItem,
  unreachable: string | undefined,
  lasting: readonly Lasting[],
): Promise<void> {
  const at = new Date().toISOString();
  const reports = clusters.map(({ name, servers }): ClusterReport => {
    const one = seen.find(({ cluster }) => cluster.name === name);
    const reasons = observed.unknown.filter(({ cluster }) => cluster === name).map(({ reason }) => reason);
    const known = one !== undefined && reasons.length === 0;
    const observed_at = known
      ? new Date(one.at).toISOString()
      : heartbeat?.clusters.find((cluster) => cluster.name === name)?.observed_at;
    return {
      name,
      servers: [...servers.keys()],
      ...(observed_at !== undefined && { observed_at }),
      ...(reasons.length > 0 && { unknown: reasons.join('; ').slice(0, REASON_LENGTH) }),
    };
  });
  const since = heartbeat?.unreachable_since ?? at;
  // Also if no time was left for anything else: the handler's own reserve covers it.
  const limit = deadline(REPORT_TIME);
  const written = ledger.report(
    {
      ...{ at, interval, version, clusters: reports, lasting },
      ...(unreachable !== undefined && {
        unreachable: unreachable.slice(0, REASON_LENGTH),
        unreachable_since: since,
      }),
    },
    limit.signal,
  );
  await written.finally(limit.clear);
}

/** What became of the expired leases. */
interface Polled {
  readonly applied: ReadonlySet<string>;
  readonly waiting: ReadonlySet<string>;
}

/**
 * Polls the operation of each expired lease once, and records its end, unless the lease may be taken over
 * anyway.
 *
 * @returns the servers whose operation has applied what is desired; and those that go on waiting, or whose
 *   operation FAILED
 */
async function pollExpired(
  options: HeartbeatOptions,
  host: BarmanHost,
  expired: readonly LeasedItem[],
): Promise<Polled> {
  const applied = new Set<string>();
  const waiting = new Set<string>();
  await forEach(expired, async (item) => {
    const { running } = item;
    if (!running || mayTakeOver(item, running, options.operationTimeout)) return;
    const { barman_server, desired } = item;
    await attempt(options, host, item, async (reconcileOptions) => {
      waiting.add(barman_server);
      const hasEnded = await recordEnd(reconcileOptions, item, running);
      waiting.delete(barman_server);
      // What did not end in time, and ran out of it just now, is taken over below.
      if (!hasEnded || running.version !== desired.version) return undefined;
      applied.add(barman_server);
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
): Promise<Applied & { readonly pendingSince: ReadonlyMap<string, number> | undefined }> {
  const now = Date.now();
  const allPending = items.filter(isPending);
  const allPaused = isStagePaused(stage);
  const isHeld = (item: Item) => allPaused || isPaused(item);
  const [paused, pending] = [allPending.filter(isHeld), allPending.filter((item) => !isHeld(item))];
  const age = (item: RecordedItem) => now - pendingSince(item, now);
  const applied = new Set(polled.applied);
  // Otherwise each attempt would only use itself up, and the reason has an alarm of its own.
  if (host.unreachable === undefined) {
    const due = pending.filter(
      (item) =>
        !isLeased(item) &&
        isDue(item) &&
        !applied.has(item.barman_server) &&
        !polled.waiting.has(item.barman_server),
    );
    await forEach(due.sort(byOrder(age)), async (item) => {
      if (options.remaining() < host.slowest + SPARE_TIME) return;
      await attempt(options, host, item, async (reconcileOptions) => {
        const result = await reconcile(reconcileOptions, item.barman_server, item.desired.version);
        applied.add(item.barman_server);
        return result;
      });
    });
  }
  const pausedFor = paused.flatMap((item) => [
    ...(isPaused(item) && !item.paused_until ? [now - timeOf(item.paused_at, now)] : []),
    ...(allPaused && !stage.paused?.until ? [now - timeOf(stage.paused?.at, now)] : []),
  ]);
  const left = pending.filter((item) => !applied.has(item.barman_server));
  const isReported = host.unreachable === undefined;
  return {
    pending: pending.length,
    applied: applied.size,
    pausedPending: paused.length,
    ...(isReported && { oldestPendingAge: oldest(left.map(age)) }),
    pausedPendingAge: oldest(pausedFor),
    pendingSince: isReported
      ? new Map(left.map((item) => [item.barman_server, pendingSince(item, now)]))
      : undefined,
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
    result = error instanceof Error ? error : new Error(String(error));
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
 * has ended by itself, or it was to be applied again.
 */
function pendingSince(item: RecordedItem, now: number): number {
  const { desired, paused_until, apply_again_at } = item;
  const since = isApplied(item, desired.version) ? apply_again_at : desired.recorded_at;
  return Math.max(timeOf(since, now), timeOf(paused_until, 0));
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
