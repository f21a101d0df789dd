/**
 * Compares what Patroni says with what is desired, so that Barman follows even if no event arrives: a
 * callback may be broken, or Patroni may fire none (a promotion while the cluster is paused, bootstrap). And
 * checks that Barman streams from the leader: someone may have applied another model by hand, or the slot may
 * be missing.
 *
 * An observation is weaker than an event: it may be some seconds old. So it becomes a desired state only if
 * two in a row, at least three quarters of a heartbeat's interval apart, find the same leader and the same
 * difference, and what is desired is more than a minute old; and its version is older than the second of
 * them, so that an event that arrives late still wins.
 */

import type { Change } from '../ledger/conditions.ts';
import { type Item, isPaused, isPending, isRecorded, timeOf } from '../ledger/item.ts';
import type { Ledger, Servers } from '../ledger/ledger.ts';
import type { Observed } from '../patroni/observe-clusters.ts';
import { type ConfigTarget, nameOf, parseTarget, targetText } from '../target.ts';
import { eventTimeOf, versionOf } from '../version.ts';

/** How old an observation may be (ms): its version is that much older than its first request. */
const STALENESS = 30_000;
/** How old a desired state must be before an observation replaces it (ms). */
const GRACE = 60_000;
/**
 * Heartbeats differ by some seconds: what is to last for so many intervals may be a quarter of one shorter.
 */
const TOLERANCE = 0.25;
/**
 * How long Barman does not stream until the desired state is applied again, and how long until the next time
 * (intervals).
 */
const REAPPLY = { after: 2 - TOLERANCE, every: 10 };

/** A Barman server, and what is to be said about it. */
export interface Finding {
  readonly barman_server: string;
  readonly message: string;
}

/** What follows from some observations. */
export interface ObservationResult {
  /** Servers whose desired state came from an observation, and why. */
  readonly reconciled: readonly Finding[];
  /** Servers for which Barman does not stream from the leader; without those that are paused. */
  readonly notStreaming: readonly Finding[];
  /** Clusters whose leader is unknown, or has no model, and why. */
  readonly unknown: readonly { readonly cluster: string; readonly reason: string }[];
}

/**
 * Records the leaders of some clusters, and what is desired where that differs from its leader's model.
 *
 * @param known all servers of the ledger; those that cannot be read are left alone
 * @param interval between two heartbeats (ms)
 * @throws LedgerError
 */
export async function recordObservations(
  ledger: Ledger,
  known: Servers,
  observed: readonly Observed[],
  interval: number,
  signal: AbortSignal,
): Promise<ObservationResult> {
  const reconciled: Finding[] = [];
  const notStreaming: Finding[] = [];
  const unknown: ObservationResult['unknown'][number][] = [];
  for (const { cluster, at, observation } of observed) {
    if ('unknown' in observation) {
      unknown.push({ cluster: cluster.name, reason: observation.unknown });
      continue;
    }
    const { leader, streaming } = observation;
    for (const [barman_server, members] of cluster.servers) {
      const isThisOne = (one: Pick<Item, 'barman_server'>) => one.barman_server === barman_server;
      if (members.size === 0 || known.unreadable.some(isThisOne)) continue;
      const model = members.get(leader);
      if (model === undefined) {
        const reason = `its leader ${leader} has no model for Barman server ${barman_server}; add it to clusters/${cluster.name}`;
        unknown.push({ cluster: cluster.name, reason });
        continue;
      }
      const target: ConfigTarget = model === null ? { reset: true } : { model };
      const seen = { barman_server, cluster: cluster.scope, leader, target, streaming, at };
      const item = await recordSeen(ledger, seen, known.items.find(isThisOne), signal);
      if (!item) continue;
      const why = await recordDesired(ledger, seen, item, interval, signal);
      if (why !== undefined) reconciled.push({ barman_server, message: why });
      if (streaming !== false || isPaused(item)) continue;
      notStreaming.push({ barman_server, message: await reapply(ledger, seen, item, interval, signal) });
    }
  }
  return { reconciled, notStreaming, unknown };
}

/** What was seen of a server's cluster: its leader, that one's target, and whether Barman streams from it. */
interface Seen {
  readonly barman_server: string;
  readonly cluster: string;
  readonly leader: string;
  readonly target: ConfigTarget;
  readonly streaming: boolean | undefined;
  readonly at: number;
}

/**
 * Records what was seen, if it is new.
 *
 * @returns the item with it; undefined if another heartbeat has seen another leader meanwhile
 */
async function recordSeen(
  ledger: Ledger,
  { barman_server, leader, target, streaming, at }: Seen,
  item: Item = { barman_server },
  signal: AbortSignal,
): Promise<Item | undefined> {
  const now = new Date(at).toISOString();
  const differs = item.desired?.target !== targetText(target);
  const change: Change = {
    ...(item.leader !== leader && { leader, leader_since: now }),
    // Another leader starts over.
    ...((item.leader !== leader || differs !== (item.differs_since !== undefined)) && {
      differs_since: differs ? now : null,
    }),
    ...(streaming !== undefined && item.streaming !== streaming && { streaming, streaming_since: now }),
  };
  if (Object.keys(change).length === 0) return item;
  return ledger.observed(item, change, signal);
}

/** Returns why the leader's target was recorded as desired, if it was */
async function recordDesired(
  ledger: Ledger,
  { barman_server, cluster, leader, target, at }: Seen,
  item: Item,
  interval: number,
  signal: AbortSignal,
): Promise<string | undefined> {
  const { desired, differs_since } = item;
  if (at - timeOf(differs_since, Number.POSITIVE_INFINITY) < (1 - TOLERANCE) * interval) return undefined;
  if (eventTimeOf(desired?.version ?? '') >= at - GRACE) return undefined;
  const version = versionOf(at - STALENESS, `leader:${encodeURIComponent(leader)}`);
  if (!(await ledger.recordObserved(item, { barman_server, cluster, target, version }, signal)))
    return undefined;
  const before = desired === undefined ? 'nothing' : nameOf(parseTarget(desired.target));
  return (
    `Patroni's leader is ${leader}: ${nameOf(target)} is desired for Barman server ${barman_server} now (before: ${before}); ` +
    'no event has said so, so a callback may be broken'
  );
}

/**
 * Has the desired state applied again at times while Barman does not stream.
 *
 * @returns what is to be said about the server
 */
async function reapply(
  ledger: Ledger,
  { barman_server, leader, at }: Seen,
  item: Item,
  interval: number,
  signal: AbortSignal,
): Promise<string> {
  const since = timeOf(item.streaming_since, at);
  const message = `Barman does not stream from ${leader} for server ${barman_server}, at least since ${new Date(since).toISOString()}`;
  const overdue = at - since - REAPPLY.after * interval;
  const due = at - (overdue % (REAPPLY.every * interval));
  if (overdue < 0 || timeOf(item.applied?.applied_at, 0) >= due) return message;
  // Only what should lead to streaming: it is the leader's model, and applied.
  if (item.differs_since !== undefined || isPending(item) || !isRecorded(item)) return message;
  return (await ledger.applyAgain(item, signal)) ? `${message}; its model is applied again` : message;
}
