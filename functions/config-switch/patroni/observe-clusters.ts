/** Asks Patroni for the leaders of all clusters, at the same time. */

import { deadline } from '../deadline.ts';
import { HttpError, messageOf } from '../errors.ts';
import type { TlsSettings } from '../http/tls.ts';
import { type Cluster, serversOfSeveral } from './cluster.ts';
import { type Observation, observe } from './leader.ts';
import { PatroniClient } from './rest-api.ts';
import { Sockets } from './sockets.ts';

/**
 * Time limit for all clusters (ms): without a lack of sockets they take two rounds of three seconds, and the
 * heartbeat needs the rest of its time.
 */
const TIMEOUT = 12_000;

/** The clusters among the parameters, and how their REST API is asked. */
export interface Clusters {
  readonly clusters: readonly Cluster[];
  /** The TLS settings for their REST API, or why these cannot be used. */
  readonly tls: TlsSettings | HttpError;
}

/** What was observed of a cluster. */
export interface Observed {
  readonly cluster: Pick<Cluster, 'name' | 'scope' | 'servers' | 'streaming_archiver_name'>;
  /** Set if this is about one of its servers only. */
  readonly barman_server?: string;
  /** AWS's clock before the first request (ms since the epoch). */
  readonly at: number;
  readonly observation: Observation;
}

/**
 * Observes all clusters that have URLs of Patroni's REST API. With up to 64 nodes in all that takes six
 * seconds at most; with more, clusters wait for their turn. An error of one cluster is that cluster's.
 *
 * @returns one observation for each, and for each cluster whose parameter is malformed, without the servers
 *   that have members in several clusters; and one more for each such server
 */
export async function observeClusters({ clusters, tls }: Clusters, signal: AbortSignal): Promise<Observed[]> {
  const ambiguous = serversOfSeveral(clusters);
  const at = Date.now();
  const sockets = new Sockets();
  const limit = deadline(TIMEOUT);
  const observeOne = async (cluster: Cluster): Promise<Observation> => {
    if (cluster.malformed !== undefined) return { unknown: cluster.malformed };
    if (tls instanceof HttpError) return { unknown: tls.message };
    const connect = () => new PatroniClient(tls);
    const inTime = AbortSignal.any([signal, limit.signal]);
    return sockets.observe(cluster.patroni.length, connect, (ask) => observe(cluster, ask, inTime));
  };
  const observed = clusters
    .filter(({ patroni, malformed }) => patroni.length > 0 || malformed !== undefined)
    .map(async (cluster): Promise<Observed> => {
      const internal = (error: unknown) => ({ unknown: `internal error: ${messageOf(error)}` });
      const observation = await observeOne(cluster).catch(internal);
      return { cluster: withServers(cluster, (server) => !ambiguous.has(server)), at, observation };
    });
  const known = await Promise.all(observed).finally(limit.clear);

  return [
    ...known,
    ...[...ambiguous].flatMap(([barman_server, of]): Observed[] => {
      const unknown = `Barman server ${barman_server} has members in ${of.join(' and ')}, so none of them reconciles it`;
      return clusters
        .filter(({ name }) => name === of[0])
        .map((cluster) => withServers(cluster, (server) => server === barman_server))
        .map((cluster) => ({ cluster, barman_server, at, observation: { unknown } }));
    }),
  ];
}

/** Returns a cluster with some of its servers. */
function withServers(cluster: Cluster, isOne: (barman_server: string) => boolean): Cluster {
  return { ...cluster, servers: new Map([...cluster.servers].filter(([server]) => isOne(server))) };
}
