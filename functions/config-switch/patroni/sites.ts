/**
 * Which site a Barman server follows, if several clusters list it with members: a primary site and its standby
 * sites, of which at most one has a primary.
 */

import { listOf } from '../text.ts';
import type { Cluster } from './cluster.ts';
import type { Leader, Observation, UnknownLeader } from './leader.ts';

/** A cluster that lists a server with members, and what was observed of it. */
export interface Site {
  readonly cluster: Pick<Cluster, 'name'>;
  readonly observation: Observation;
}

/** The site that a server follows, and its leader. */
export interface LeadingSite<T extends Site> {
  readonly site: T;
  readonly leader: Leader;
}

/**
 * Returns the site whose leader a server follows: of one cluster its leader, of several the only one that is
 * known to be a primary.
 *
 * @returns why that is unknown: none is, several are, or they are not copies of one cluster
 */
export function leadingSite<T extends Site>(sites: readonly T[]): LeadingSite<T> | UnknownLeader {
  const known = sites.flatMap((site) =>
    'leader' in site.observation ? [{ site, leader: site.observation }] : [],
  );
  if (sites.length === 1) return known[0] ?? (sites[0]?.observation as UnknownLeader);
  const systems = new Set(known.flatMap(({ leader }) => leader.system_id ?? []));
  if (systems.size > 1) {
    const ids = known.map(
      ({ site, leader }) => `${site.cluster.name} has ${leader.system_id ?? 'an unknown one'}`,
    );
    return {
      unknown: `the leaders have different system identifiers, so these are not sites of one cluster: ${listOf(ids)}`,
    };
  }
  const primaries = known.filter(({ leader }) => !leader.isStandby);
  const [one, ...more] = primaries;
  if (one && more.length === 0) return one;
  if (one) {
    const names = primaries.map(({ site, leader }) => `${leader.leader} in ${site.cluster.name}`);
    return { unknown: `several sites have a primary: ${listOf(names)}` };
  }
  const reasons = sites.map(({ cluster: { name }, observation }) =>
    'leader' in observation
      ? `in ${name} ${observation.leader} is a standby leader`
      : `in ${name} the leader is unknown: ${observation.unknown}`,
  );
  return { unknown: `no site has a leader that is known to be a primary: ${reasons.join('; ')}` };
}

/** The clusters that may list a server. */
export interface Listing {
  /** Names of those that list it with members. */
  readonly sites: readonly string[];
  /** Names of those whose parameter is malformed now, so that Patroni is not asked. */
  readonly malformed: readonly string[];
  /** Names of those among them that have no good value: whether they list it is unknown. */
  readonly unreadable: readonly string[];
}

/** Returns which clusters cannot be asked: what a listing has besides the sites of its server. */
export function malformedAmong(
  clusters: readonly Pick<Cluster, 'name' | 'malformed' | 'hasNoValue'>[],
): Omit<Listing, 'sites'> {
  const namesOf = (some: typeof clusters) => some.map(({ name }) => name);
  return {
    malformed: namesOf(clusters.filter(({ malformed }) => malformed !== undefined)),
    unreadable: namesOf(clusters.filter(({ hasNoValue }) => hasNoValue)),
  };
}

/**
 * Returns whether a server would change to another site than the last one.
 *
 * @param last the site that it followed; undefined: none was seen yet
 * @param site that leads now
 * @returns why that is unknown: the last site, or the primary, may be in a cluster whose parameter is malformed
 */
export function changesSite(
  last: string | undefined,
  { site, leader }: { readonly site: string; readonly leader: Leader },
  { sites, malformed, unreadable }: Listing,
): boolean | UnknownLeader {
  if (site === last) return false;
  if (last !== undefined && malformed.includes(last)) {
    return { unknown: `it follows ${last}, and the parameter clusters/${last} is malformed: correct it` };
  }
  if (last !== undefined && sites.includes(last)) return true;
  if (leader.isStandby && unreadable.length > 0) {
    const names = listOf(unreadable.map((name) => `clusters/${name}`));
    return {
      unknown: `${leader.leader} in ${site} is a standby leader, and the primary may be in one of these malformed parameters: ${names}`,
    };
  }
  return false;
}
