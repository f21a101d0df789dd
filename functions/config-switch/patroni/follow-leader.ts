/**
 * Who the leader is, asked for one role change. A heartbeat has a minute; here a failover waits. So the rounds
 * are short and often, and the leader is known once two observations in a row agree: right after a promotion
 * the nodes contradict each other for a moment.
 */

import { deadline, sleep } from '../deadline.ts';
import { HttpError, InvalidArgs, LeaderUnknown } from '../errors.ts';
import type { ConfigTarget } from '../target.ts';
import { listOf } from '../text.ts';
import { type Cluster, hasMembers, modelTarget } from './cluster.ts';
import { observe, type Round } from './leader.ts';
import { type Clusters, isObserved, whyNotAsked } from './observe-clusters.ts';
import { PatroniClient } from './rest-api.ts';
import { leadingSite } from './sites.ts';

/** Time limit of all rounds together (ms): the rest of the deadline is for the switch. */
const TIMEOUT = 10_000;
/** Time between two observations (ms): what a promotion makes the nodes contradict is over by then. */
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

/** Finds the leader that a role change follows; see `followLeader`. */
export type LeaderOf = (server: FollowingServer, signal: AbortSignal) => Promise<FollowedLeader>;

/** A Barman server, and the site that it followed last, if its leader was ever seen. */
export interface FollowingServer {
  readonly barman_server: string;
  readonly site?: string;
}

/**
 * Asks Patroni which leader a Barman server follows, until two observations in a row agree.
 *
 * @param source of the clusters, asked again for a server or a member that was perhaps just added
 * @param signal aborts at the deadline
 * @throws InvalidArgs if no cluster lists the server with its members, and has URLs of Patroni's REST API
 * @throws LeaderUnknown if the leader is not known within ten seconds, has no model, or is that of another site:
 *   the heartbeat follows that one later
 * @throws HttpError if the parameters are unavailable
 */
export async function followLeader(
  { barman_server, site }: FollowingServer,
  source: ClusterSource,
  signal: AbortSignal,
): Promise<FollowedLeader> {
  const reread = () => source.rereadSecrets(signal).catch(() => undefined);
  let followed = await followedBy(barman_server, source, signal);
  if (!followed && (await reread())) followed = await followedBy(barman_server, source, signal);
  if (!followed) throw await notFollowed(barman_server, source, signal);
  const { name, leader } = await leaderKnownTwice(barman_server, followed, signal);
  if (followed.sites.length > 1 && site !== undefined && name !== site) {
    throw new LeaderUnknown(
      `Barman server ${barman_server} follows ${site}, and now the only primary is ${leader} in ${name}: ` +
        'the heartbeat follows it once that has been so for five minutes',
    );
  }
  const targetIn = ({ sites }: Followed) => {
    const members = sites.find((one) => one.name === name)?.servers.get(barman_server);
    return members && modelTarget(members, leader);
  };
  let target = targetIn(followed);
  if (!target && (await reread())) {
    const again = await followedBy(barman_server, source, signal);
    target = again && targetIn(again);
  }
  if (target) return { leader, target };
  throw new LeaderUnknown(
    `the leader ${leader} has no model for Barman server ${barman_server}; add it to the parameter clusters/${name}`,
  );
}

/** Whom a Barman server follows. */
interface Followed extends Pick<Clusters, 'tls'> {
  /** One cluster, or several: its sites. */
  readonly sites: readonly Cluster[];
}

/** Returns the clusters that a Barman server follows, if at least one of them can be asked. */
async function followedBy(
  barman_server: string,
  source: ClusterSource,
  signal: AbortSignal,
): Promise<Followed | undefined> {
  const { clusters, tls } = await source.clusters(signal);
  const sites = clusters.filter((cluster) => hasMembers(cluster, barman_server));
  return sites.some(isObserved) ? { sites, tls } : undefined;
}

/** Returns why there is no leader to follow: it may be in a cluster that cannot be read now. */
async function notFollowed(
  barman_server: string,
  source: ClusterSource,
  signal: AbortSignal,
): Promise<InvalidArgs | LeaderUnknown> {
  const wanted = `follow_leader needs a parameter clusters/NAME that lists Barman server ${barman_server} with its members, and has the key "patroni"`;
  const { clusters } = await source.clusters(signal);
  const malformed = clusters.flatMap((cluster) => cluster.malformed ?? []);
  if (malformed.length > 0) return new LeaderUnknown(`${wanted}; it may be this one: ${listOf(malformed)}`);
  return new InvalidArgs(`${wanted}; there is none: add it, or send barman_model or reset instead`);
}

/** Returns the leader, and the name of its cluster. @throws LeaderUnknown */
async function leaderKnownTwice(
  barman_server: string,
  { sites, tls }: Followed,
  signal: AbortSignal,
): Promise<{ readonly name: string; readonly leader: string }> {
  const unknown = (reason: string) =>
    new LeaderUnknown(`the leader for Barman server ${barman_server} is not known: ${reason}`);
  if (tls instanceof HttpError) throw unknown(tls.message);
  const limit = deadline(TIMEOUT);
  const inTime = AbortSignal.any([signal, limit.signal]);
  const round: Round = { limit: ROUND, silent: new Set() };
  await using client = new PatroniClient(tls);
  const askAll = () =>
    Promise.all(
      sites.map(async (cluster) => {
        const unasked = whyNotAsked(cluster);
        return { cluster, observation: unasked ?? (await observe(cluster, client.ask, inTime, round)) };
      }),
    );
  let before: { readonly name: string; readonly leader: string } | undefined;
  let reason = 'no node was asked in time';
  try {
    for (;;) {
      const leading = leadingSite(await askAll());
      if (inTime.aborted) break;
      if ('unknown' in leading) {
        before = undefined;
        reason = leading.unknown;
        if (sites.every(whyNotAsked)) break;
      } else {
        const seen = { name: leading.site.cluster.name, leader: leading.leader.leader };
        if (seen.name === before?.name && seen.leader === before.leader) return seen;
        before = seen;
        reason = `${seen.leader} was seen only once`;
      }
      await sleep(INTERVAL, inTime);
    }
  } catch (error) {
    if (!inTime.aborted) throw error;
  } finally {
    limit.clear();
  }
  signal.throwIfAborted();
  throw unknown(reason);
}
