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
import { type Clusters, isObserved, observedOf, whyNotAsked } from './observe-clusters.ts';
import { PatroniClient } from './rest-api.ts';
import { changesSite, leadingSite, malformedAmong } from './sites.ts';

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
  /** Reads the parameters again; false if that was done less than a minute ago. @throws HttpError */
  reread(signal: AbortSignal): Promise<boolean>;
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
 * @param source of the clusters, read again for a server or a member that was perhaps just added
 * @param signal aborts at the deadline
 * @throws InvalidArgs if no cluster lists the server with its members, and has URLs of Patroni's REST API
 * @throws LeaderUnknown if the leader is not known within ten seconds, has no model, or is that of another site:
 *   the heartbeat follows that one later
 * @throws HttpError if the parameters are unavailable
 */
export async function followLeader(
  server: FollowingServer,
  source: ClusterSource,
  signal: AbortSignal,
): Promise<FollowedLeader> {
  const { barman_server } = server;
  let read = await source.clusters(signal);
  let isNew = false;
  const reread = async () => {
    isNew = await source.reread(signal);
    if (isNew) read = await source.clusters(signal);
    return isNew;
  };
  let sites = sitesOf(read, barman_server);
  if (sites.length === 0 && (await reread())) sites = sitesOf(read, barman_server);
  if (sites.length === 0) throw notListed(barman_server, read, isNew);
  const { name, leader } = await leaderKnownTwice(server, sites, read, signal);
  const targetIn = () => {
    const members = sitesOf(read, barman_server)
      .find((one) => one.name === name)
      ?.servers.get(barman_server);
    return members && modelTarget(members, leader);
  };
  const target = targetIn() ?? ((await reread()) ? targetIn() : undefined);
  if (target) return { leader, target };
  throw new LeaderUnknown(
    `the leader ${leader} has no model for Barman server ${barman_server}; add it to the parameter clusters/${name}`,
  );
}

/** Returns the clusters that list a server with members, if at least one of them can be asked. */
function sitesOf({ clusters }: Clusters, barman_server: string): readonly Cluster[] {
  const sites = clusters.filter((cluster) => hasMembers(cluster, barman_server));
  return sites.some(isObserved) ? sites : [];
}

/** Returns what a role change that follows the leader needs, for a message. */
export function needsCluster(barman_server: string): string {
  return `follow_leader needs a parameter clusters/NAME that lists Barman server ${barman_server} with its members, and has the key "patroni"`;
}

/**
 * Returns why there is no leader to follow.
 *
 * @param isNew whether the parameters were read for this event; otherwise, and if one is malformed, it may be worth
 *   another attempt
 */
function notListed(
  barman_server: string,
  { clusters }: Clusters,
  isNew: boolean,
): InvalidArgs | LeaderUnknown {
  const wanted = needsCluster(barman_server);
  const malformed = clusters.flatMap((cluster) => cluster.malformed ?? []);
  if (malformed.length > 0) return new LeaderUnknown(`${wanted}; it may be this one: ${listOf(malformed)}`);
  if (!isNew)
    return new LeaderUnknown(
      `${wanted}; there was none when the parameters were read, less than a minute ago`,
    );
  return new InvalidArgs(`${wanted}; there is none: add it, or send barman_model or reset instead`);
}

/** A leader, and the name of its cluster. */
interface NamedLeader {
  readonly name: string;
  readonly leader: string;
}

/** Returns the leader that two observations in a row agree on. @throws LeaderUnknown */
async function leaderKnownTwice(
  { barman_server, site: last }: FollowingServer,
  sites: readonly Cluster[],
  { clusters, tls }: Clusters,
  signal: AbortSignal,
): Promise<NamedLeader> {
  const unknown = (reason: string) =>
    new LeaderUnknown(`the leader for Barman server ${barman_server} is not known: ${reason}`);
  if (tls instanceof HttpError) throw unknown(tls.message);
  const limit = deadline(TIMEOUT);
  const inTime = AbortSignal.any([signal, limit.signal]);
  const round: Round = { limit: ROUND, pending: new Set() };
  const listing = { sites: sites.map(({ name }) => name), ...malformedAmong(clusters) };
  await using client = new PatroniClient(tls);
  const observeSites = () =>
    Promise.all(
      sites.map(async (cluster) => {
        const ask = () => observe(cluster, client.ask, inTime, round);
        return { cluster, observation: await observedOf(cluster, ask) };
      }),
    );
  let before: NamedLeader | undefined;
  let reason = 'no node was asked in time';
  try {
    for (;;) {
      const leading = leadingSite(await observeSites());
      if (inTime.aborted) break;
      if ('unknown' in leading) {
        before = undefined;
        reason = leading.unknown;
        if (sites.every(whyNotAsked)) break;
      } else {
        const seen = { name: leading.site.cluster.name, leader: leading.leader.leader };
        if (seen.name === before?.name && seen.leader === before.leader) {
          const changes = changesSite(last, { site: seen.name, leader: leading.leader }, listing);
          if (changes === false) return seen;
          if (changes !== true) throw unknown(changes.unknown);
          throw new LeaderUnknown(
            `Barman server ${barman_server} follows ${last}, and now the only primary is ${seen.leader} in ${seen.name}: ` +
              'the heartbeat follows it once that has been so for five minutes',
          );
        }
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
