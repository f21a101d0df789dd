/** Asks Patroni for the leaders of all clusters, at the same time. */

import { deadline } from '../deadline.ts';
import { HttpError, messageOf } from '../errors.ts';
import type { TlsSettings } from '../http/tls.ts';
import { type Cluster, hasMembers, serversOfSeveral } from './cluster.ts';
import { type Observation, observe, type UnknownLeader } from './leader.ts';
import { PatroniClient } from './rest-api.ts';
import { leadingSite } from './sites.ts';
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
  readonly cluster: Pick<
    Cluster,
    'name' | 'scope' | 'servers' | 'streaming_archiver_name' | 'malformed' | 'hasNoValue'
  >;
  /** Set if this is about one of its servers only, which has members in several clusters. */
  readonly barman_server?: string;
  /** The names of these clusters. */
  readonly sites?: readonly string[];
  /** AWS's clock before the first request (ms since the epoch). */
  readonly at: number;
  readonly observation: Observation;
}

/**
 * Observes all clusters that have URLs of Patroni's REST API. With up to 64 nodes in all that takes six
 * seconds at most; with more, clusters wait for their turn. An error of one cluster is that cluster's.
 *
 * @returns one observation for each, and for each cluster whose parameter is malformed, without the servers
 *   that have members in several clusters; and one more for each such server, of the site that it follows
 */
export async function observeClusters({ clusters, tls }: Clusters, signal: AbortSignal): Promise<Observed[]> {
  const ofSeveral = serversOfSeveral(clusters);
  const at = Date.now();
  const sockets = new Sockets();
  const limit = deadline(TIMEOUT);
  const inTime = AbortSignal.any([signal, limit.signal]);
  const observeOne = async (cluster: Cluster): Promise<Observation> => {
    if (tls instanceof HttpError) return { unknown: tls.message };
    const connect = () => new PatroniClient(tls);
    return sockets.observe(cluster.patroni.length, connect, (ask) => observe(cluster, ask, inTime));
  };
  const sites = await Promise.all(
    clusters.map(async (cluster) => {
      return { cluster, observation: await observedOf(cluster, observeOne) };
    }),
  ).finally(limit.clear);

  return [
    ...sites
      .filter(({ cluster }) => isObserved(cluster))
      .map(({ cluster, observation }) => {
        return { cluster: withServers(cluster, (server) => !ofSeveral.has(server)), at, observation };
      }),
    ...[...ofSeveral].map(([barman_server, names]): Observed => {
      const own = sites.filter(({ cluster }) => hasMembers(cluster, barman_server));
      const leading = leadingSite(own);
      const { cluster } = 'site' in leading ? leading.site : (own[0] as (typeof own)[number]);
      const observation = 'site' in leading ? leading.leader : leading;
      return {
        cluster: withServers(cluster, (server) => server === barman_server),
        ...{ barman_server, sites: names },
        at,
        observation,
      };
    }),
  ];
}

/** Returns whether the leader of a cluster should be known. */
export function isObserved({ patroni, malformed }: Cluster): boolean {
  return patroni.length > 0 || malformed !== undefined;
}

/** Returns the leader of a cluster, or why it is unknown, whatever fails. @param observeIt asks Patroni */
export async function observedOf(
  cluster: Cluster,
  observeIt: (cluster: Cluster) => Promise<Observation>,
): Promise<Observation> {
  const internal = (error: unknown) => ({ unknown: `internal error: ${messageOf(error)}` });
  return whyNotAsked(cluster) ?? observeIt(cluster).catch(internal);
}

/** Returns why Patroni is not asked for a cluster, if it is not. */
export function whyNotAsked({ name, patroni, malformed }: Cluster): UnknownLeader | undefined {
  if (malformed !== undefined) return { unknown: malformed };
  if (patroni.length > 0) return undefined;
  return { unknown: `the parameter clusters/${name} has no URLs of Patroni's REST API` };
}

/** Returns a cluster with some of its servers. */
function withServers(cluster: Cluster, isOne: (barman_server: string) => boolean): Cluster {
  return { ...cluster, servers: new Map([...cluster.servers].filter(([server]) => isOne(server))) };
}
