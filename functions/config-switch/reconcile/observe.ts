/**
 * Compares what Patroni says with what is desired, so that Barman follows even if no event arrives: a callback may be broken, or
 * Patroni may fire none (a promotion while the cluster is paused, bootstrap).
 *
 * An observation is weaker than an event: it may be some seconds old. So it becomes a desired state only if two in a row, at
 * least three quarters of a heartbeat's interval apart, find the same leader and the same difference, and no event has been
 * recorded lately; and its version is older than the second of them, so that an event that arrives late still wins.
 */

import { type ConfigTarget, nameOf, parseTarget, targetText } from '../barman/target.ts';
import type { Observed } from '../patroni/observe-clusters.ts';
import { eventTimeOf, type Item, timeOf, versionOf } from './item.ts';
import type { Ledger } from './ledger.ts';

/** How old an observation may be (ms): its version is that much older than its first request. */
const STALENESS = 30_000;
/** How old a desired state must be before an observation replaces it (ms). */
const GRACE = 60_000;

/** What follows from some observations. */
export interface ObservationResult {
  /** Servers whose desired state came from an observation, and why. */
  readonly reconciled: readonly { readonly server: string; readonly message: string }[];
  /** Clusters whose leader is unknown, or has no model, and why. */
  readonly unknown: readonly { readonly cluster: string; readonly reason: string }[];
}

/**
 * Records the leaders of some clusters, and what is desired where that differs from its leader's model.
 *
 * @param items of all servers in the ledger
 * @param interval between two heartbeats (ms)
 * @throws LedgerError
 */
export async function recordObservations(
  ledger: Ledger,
  items: readonly Item[],
  observed: readonly Observed[],
  interval: number,
  signal: AbortSignal,
): Promise<ObservationResult> {
  const reconciled: ObservationResult['reconciled'][number][] = [];
  const unknown: ObservationResult['unknown'][number][] = [];
  for (const { cluster, at, observation } of observed) {
    if ('unknown' in observation) {
      unknown.push({ cluster: cluster.name, reason: observation.unknown });
      continue;
    }
    const { leader } = observation;
    for (const [server, members] of cluster.servers) {
      if (members.size === 0) continue;
      const model = members.get(leader);
      if (model === undefined) {
        const reason = `its leader ${leader} has no model for Barman server ${server}; add it to clusters/${cluster.name}`;
        unknown.push({ cluster: cluster.name, reason });
        continue;
      }
      const target: ConfigTarget = model === null ? { reset: true } : { model };
      const item = items.find(({ barman_server }) => barman_server === server);
      const seen = { server, cluster: cluster.scope, leader, target, at };
      const message = await recordLeader(ledger, seen, item, interval, signal);
      if (message !== undefined) reconciled.push({ server, message });
    }
  }
  return { reconciled, unknown };
}

/** The leader of a server's cluster, and its target. */
interface LeaderSeen {
  readonly server: string;
  readonly cluster: string;
  readonly leader: string;
  readonly target: ConfigTarget;
  readonly at: number;
}

/** @returns why the leader's target was recorded as desired, if it was */
async function recordLeader(
  ledger: Ledger,
  { server, cluster, leader, target, at }: LeaderSeen,
  item: Item | undefined,
  interval: number,
  signal: AbortSignal,
): Promise<string | undefined> {
  const now = new Date(at).toISOString();
  const differs = item?.desired !== targetText(target);
  if (item?.leader !== leader) {
    const change = { leader, leader_since: now, differs_since: differs ? now : null };
    await ledger.observed(server, item, change, signal);
    return undefined;
  }
  const { desired, desired_version, differs_since } = item;
  if (differs !== (differs_since !== undefined)) {
    await ledger.observed(server, item, { differs_since: differs ? now : null }, signal);
    return undefined;
  }
  if (!differs || at - timeOf(differs_since, at) < 0.75 * interval) return undefined;
  if (eventTimeOf(desired_version) >= at - GRACE) return undefined;
  const version = versionOf(at - STALENESS, `leader:${encodeURIComponent(leader)}`);
  if (!(await ledger.recordObserved(item, { server, cluster, target, version }, signal))) return undefined;
  const before = desired === undefined ? 'nothing' : nameOf(parseTarget(desired));
  return (
    `Patroni's leader is ${leader}: ${nameOf(target)} is desired for Barman server ${server} now, and was ${before}; ` +
    'no event has said so, so a callback may be broken'
  );
}
