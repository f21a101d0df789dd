/** Asks Patroni for the leaders of all clusters, at the same time. */

import { HttpError } from '../errors.ts';
import type { TlsSettings } from '../http/tls.ts';
import { type Cluster, serversOfSeveral } from './cluster.ts';
import { type Observation, observe } from './leader.ts';
import { PatroniClient } from './rest-api.ts';

/** Provides the clusters, and the TLS settings for their REST API, or why these cannot be used. */
export interface ClusterSource {
  /** @throws HttpError if they are unavailable */
  clusters(
    signal: AbortSignal,
  ): Promise<{ readonly clusters: readonly Cluster[]; readonly tls: TlsSettings | HttpError }>;
}

/** What was observed of a cluster. */
export interface Observed {
  readonly cluster: Pick<Cluster, 'name' | 'scope' | 'servers'>;
  /** AWS's clock before the first request (ms since the epoch). */
  readonly at: number;
  readonly observation: Observation;
}

/**
 * Observes all clusters that have URLs of Patroni's REST API, within six seconds.
 *
 * @returns one observation for each, without the servers that have members in several clusters; and one more
 *   for each such server
 */
export async function observeClusters(source: ClusterSource, signal: AbortSignal): Promise<Observed[]> {
  // The probe reports that the parameters are unavailable.
  const { clusters, tls } = await source.clusters(signal).catch(() => ({ clusters: [], tls: {} }));
  const ambiguous = serversOfSeveral(clusters);
  const at = Date.now();
  const unknown = [...ambiguous].map(([barman_server, names]): Observed => {
    const reason = `Barman server ${barman_server} has members in ${names.join(' and ')}, so none of them reconciles it`;
    return {
      cluster: { name: names[0] ?? '', scope: '', servers: new Map() },
      at,
      observation: { unknown: reason },
    };
  });
  await using client = new PatroniClient(tls instanceof HttpError ? {} : tls);
  const observed = clusters
    .filter(({ patroni }) => patroni.length > 0)
    .map(async (cluster): Promise<Observed> => {
      const servers = new Map(
        [...cluster.servers].filter(([barman_server]) => !ambiguous.has(barman_server)),
      );
      const observation =
        tls instanceof HttpError ? { unknown: tls.message } : await observe(cluster, client.ask, signal);
      return { cluster: { ...cluster, servers }, at, observation };
    });
  return [...(await Promise.all(observed)), ...unknown];
}
