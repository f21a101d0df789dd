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

/** Provides the clusters, and the TLS settings for their REST API, or why these cannot be used. */
export interface ClusterSource {
  /** @throws HttpError if they are unavailable */
  clusters(signal: AbortSignal): Promise<{
    readonly clusters: readonly Cluster[];
    /** The parameters that are malformed, by the name of their cluster, and why; with an earlier good value or without. */
    readonly malformed: ReadonlyMap<string, string>;
    readonly tls: TlsSettings | HttpError;
  }>;
}

/** What was observed of a cluster. */
export interface Observed {
  readonly cluster: Pick<Cluster, 'name' | 'scope' | 'servers' | 'streaming_archiver_name'>;
  /** AWS's clock before the first request (ms since the epoch). */
  readonly at: number;
  readonly observation: Observation;
}

/**
 * Observes all clusters that have URLs of Patroni's REST API. With up to 64 nodes in all that takes six
 * seconds at most; with more, clusters wait for their turn. An error of one cluster is that cluster's.
 *
 * @returns one observation for each, without the servers that have members in several clusters; one for each
 *   cluster whose parameter is malformed; and one more for each such server
 */
export async function observeClusters(source: ClusterSource, signal: AbortSignal): Promise<Observed[]> {
  // The probe reports that the parameters are unavailable.
  const none = { clusters: [], malformed: new Map<string, string>(), tls: {} };
  const { clusters, malformed, tls } = await source.clusters(signal).catch(() => none);
  const ambiguous = serversOfSeveral(clusters);
  const at = Date.now();
  const sockets = new Sockets();
  const limit = deadline(TIMEOUT);
  const observeOne = async (cluster: Cluster): Promise<Observation> => {
    const reason = malformed.get(cluster.name);
    if (reason !== undefined) return { unknown: reason };
    if (tls instanceof HttpError) return { unknown: tls.message };
    return sockets.use(cluster.patroni.length, async () => {
      await using client = new PatroniClient(tls);
      return await observe(cluster, sockets.sharing(client.ask), AbortSignal.any([signal, limit.signal]));
    });
  };
  const observed = clusters
    .filter(({ name, patroni }) => patroni.length > 0 || malformed.has(name))
    .map(async (cluster): Promise<Observed> => {
      const internal = (error: unknown) => ({ unknown: `internal error: ${messageOf(error)}` });
      const observation = await observeOne(cluster).catch(internal);
      return { cluster: withServers(cluster, (server) => !ambiguous.has(server)), at, observation };
    });
  const known = await Promise.all(observed).finally(limit.clear);

  const names = new Set(clusters.map(({ name }) => name));
  const withoutValue = [...malformed].filter(([name]) => !names.has(name));
  return [
    ...known,
    ...withoutValue.map(([name, unknown]): Observed => {
      const cluster = { name, scope: name, servers: new Map(), streaming_archiver_name: null };
      return { cluster, at, observation: { unknown } };
    }),
    ...[...ambiguous].flatMap(([barman_server, of]): Observed[] => {
      const unknown = `Barman server ${barman_server} has members in ${of.join(' and ')}, so none of them reconciles it`;
      return clusters
        .filter(({ name }) => name === of[0])
        .map((cluster) => withServers(cluster, (server) => server === barman_server))
        .map((cluster) => ({ cluster, at, observation: { unknown } }));
    }),
  ];
}

/** Returns a cluster with some of its servers. */
function withServers(cluster: Cluster, isOne: (barman_server: string) => boolean): Cluster {
  return { ...cluster, servers: new Map([...cluster.servers].filter(([server]) => isOne(server))) };
}
