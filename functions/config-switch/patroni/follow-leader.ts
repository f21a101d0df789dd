/**
 * Who the leader is, asked for one role change. A heartbeat has a minute; here a failover waits. So the rounds
 * are short and often, and the leader is known once two observations in a row agree: right after a promotion
 * the nodes contradict each other for a moment.
 */

import { deadline, sleep } from '../deadline.ts';
import { HttpError, InvalidArgs, LeaderUnknown } from '../errors.ts';
import type { ConfigTarget } from '../target.ts';
import { type Cluster, modelTarget } from './cluster.ts';
import { type Observation, observe, type Round } from './leader.ts';
import type { Clusters } from './observe-clusters.ts';
import { PatroniClient } from './rest-api.ts';

/** Time limit of all rounds together (ms): the rest of the deadline is for the switch. */
const TIMEOUT = 10_000;
/** Time between the starts of two observations (ms). */
const INTERVAL = 500;
/** Time limit of a round (ms). */
const ROUND = 1_000;

/** Provides the clusters among the parameters. */
export interface ClusterSource {
  /** @throws HttpError if the parameters are unavailable */
  clusters(signal: AbortSignal): Promise<Clusters>;
  /** Reads the parameters again, at most once a minute. */
  rereadSecrets(signal: AbortSignal): Promise<unknown>;
}

/** The leader that a role change follows, and its target for one Barman server. */
export interface FollowedLeader {
  /** Patroni member. */
  readonly leader: string;
  readonly target: ConfigTarget;
}

/**
 * Asks Patroni who the leader of a Barman server's cluster is, until two observations in a row agree.
 *
 * @param source of the clusters, asked again for a server or a member that was perhaps just added
 * @param signal aborts at the deadline
 * @throws InvalidArgs if no cluster lists the server with its members, and has URLs of Patroni's REST API
 * @throws LeaderUnknown if the leader is not known within ten seconds, or has no model
 * @throws HttpError if the parameters are unavailable
 */
export async function followLeader(
  barman_server: string,
  source: ClusterSource,
  signal: AbortSignal,
): Promise<FollowedLeader> {
  const reread = () => source.rereadSecrets(signal).catch(() => undefined);
  let followed = await clusterOf(barman_server, source, signal);
  if (!followed && (await reread())) followed = await clusterOf(barman_server, source, signal);
  if (!followed) {
    throw new InvalidArgs(
      `follow_leader needs a parameter clusters/NAME that lists Barman server ${barman_server} with its members, ` +
        'and has the key "patroni"; there is none: add it, or send barman_model or reset instead',
    );
  }
  const leader = await leaderKnownTwice(followed, signal);
  const targetIn = ({ servers }: Cluster) => modelTarget(servers.get(barman_server) ?? new Map(), leader);
  let target = targetIn(followed.cluster);
  if (!target && (await reread())) {
    const again = await clusterOf(barman_server, source, signal);
    target = again && targetIn(again.cluster);
  }
  if (target) return { leader, target };
  throw new LeaderUnknown(
    `the leader ${leader} has no model for Barman server ${barman_server}; add it to the parameter clusters/${followed.cluster.name}`,
  );
}

interface Followed extends Pick<Clusters, 'tls'> {
  readonly cluster: Cluster;
}

/** Returns the cluster that a Barman server follows, if there is one. @throws LeaderUnknown if there are several */
async function clusterOf(
  barman_server: string,
  source: ClusterSource,
  signal: AbortSignal,
): Promise<Followed | undefined> {
  const { clusters, tls } = await source.clusters(signal);
  const [cluster, ...more] = clusters.filter(
    ({ servers, patroni }) => (servers.get(barman_server)?.size ?? 0) > 0 && patroni.length > 0,
  );
  if (cluster && more.length > 0) {
    const names = [cluster, ...more].map(({ name }) => name);
    throw new LeaderUnknown(`Barman server ${barman_server} has members in ${names.join(' and ')}`);
  }
  return cluster && { cluster, tls };
}

/** Returns the leader of a cluster. @throws LeaderUnknown */
async function leaderKnownTwice({ cluster, tls }: Followed, signal: AbortSignal): Promise<string> {
  if (cluster.malformed !== undefined) throw new LeaderUnknown(unknown(cluster, cluster.malformed));
  if (tls instanceof HttpError) throw new LeaderUnknown(unknown(cluster, tls.message));
  const limit = deadline(TIMEOUT);
  const inTime = AbortSignal.any([signal, limit.signal]);
  const round: Round = { limit: ROUND, silent: new Set() };
  await using client = new PatroniClient(tls);
  let before: Observation = { unknown: 'no node was asked in time' };
  try {
    for (;;) {
      const start = performance.now();
      const seen = await observe(cluster, client.ask, inTime, round);
      if (inTime.aborted) break;
      if ('leader' in seen && 'leader' in before && seen.leader === before.leader) return seen.leader;
      before = seen;
      await sleep(start + INTERVAL - performance.now(), inTime);
    }
  } catch (error) {
    if (!inTime.aborted) throw error;
  } finally {
    limit.clear();
  }
  signal.throwIfAborted();
  throw new LeaderUnknown(
    unknown(cluster, 'unknown' in before ? before.unknown : `${before.leader} was seen once only`),
  );
}

function unknown({ name }: Cluster, reason: string): string {
  return `the leader of cluster ${name} is not known yet: ${reason}`;
}
