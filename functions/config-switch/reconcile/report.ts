/** What a heartbeat found, for the operator and for the next heartbeat: one item of the ledger. */

import { deadline } from '../deadline.ts';
import type { Ledger } from '../ledger/ledger.ts';
import { type HeartbeatReport, REASON_LENGTH, type StageItem } from '../ledger/stage.ts';
import type { Cluster } from '../patroni/cluster.ts';
import type { Observed } from '../patroni/observe-clusters.ts';
import type { UnknownOf } from './observations.ts';

/** Time limit of the report, which may begin at the deadline (ms). */
const REPORT_TIME = 1_000;

/** What a heartbeat has seen of the clusters. */
export interface SeenClusters {
  /** The clusters among the parameters, or why these are unavailable. */
  readonly clusters: readonly Cluster[] | Error;
  readonly seen: readonly Observed[];
  readonly unknown: readonly UnknownOf[];
}

/** What else it found. */
export type Found = Required<Pick<HeartbeatReport, 'not_ready' | 'lasting'>> & {
  /** Why pg-backup-api is unreachable, if it is. */
  readonly unreachable: string | undefined;
};

/**
 * Returns what a heartbeat found, as the ledger has it.
 *
 * @param before what the last one found: since when it is so
 */
export function reportOf(
  { interval, version }: Pick<HeartbeatReport, 'interval' | 'version'>,
  clusters: SeenClusters,
  { unreachable, not_ready, lasting }: Found,
  before: StageItem['heartbeat'],
): HeartbeatReport {
  const at = new Date().toISOString();
  return {
    ...{ at, interval, version, lasting },
    clusters: clusterReports(clusters, before?.clusters ?? []),
    not_ready: not_ready.map((one) => ({ ...one, message: one.message.slice(0, REASON_LENGTH) })),
    ...(unreachable !== undefined && {
      unreachable: unreachable.slice(0, REASON_LENGTH),
      unreachable_since: before?.unreachable_since ?? at,
    }),
  };
}

/** Writes that into the ledger. @throws LedgerError */
export async function report(ledger: Ledger, heartbeat: HeartbeatReport): Promise<void> {
  // Also if no time was left for anything else: the handler's own reserve covers it.
  const limit = deadline(REPORT_TIME);
  await ledger.report(heartbeat, limit.signal).finally(limit.clear);
}

/** Returns what is known of each cluster; that of the last heartbeat while the parameters are unavailable. */
function clusterReports(
  { clusters, seen, unknown }: SeenClusters,
  before: HeartbeatReport['clusters'],
): HeartbeatReport['clusters'] {
  if (clusters instanceof Error) {
    const reason = clusters.message.slice(0, REASON_LENGTH);
    return before.map((cluster) => ({ ...cluster, unknown: reason }));
  }
  return clusters.map(({ name, servers }) => {
    const reasonOf = (barman_server?: string) =>
      unknown
        .find((one) => one.cluster === name && one.barman_server === barman_server)
        ?.reason.slice(0, REASON_LENGTH);
    const own = seen.filter(({ cluster }) => cluster.name === name);
    const one = own.find(({ barman_server }) => barman_server === undefined);
    const reason = reasonOf();
    const known_at = one && new Date(one.at).toISOString();
    const observed_at =
      reason === undefined ? known_at : before.find((last) => last.name === name)?.observed_at;
    return {
      name,
      servers: [...servers].map(([barman_server, { size }]) => {
        const why = reasonOf(barman_server);
        // One in several clusters is in that of the site that it follows.
        const observed = size > 0 && own.some(({ cluster }) => cluster.servers.has(barman_server));
        return { name: barman_server, observed, ...(why !== undefined && { unknown: why }) };
      }),
      ...(observed_at !== undefined && { observed_at }),
      ...(reason !== undefined && { unknown: reason }),
    };
  });
}
