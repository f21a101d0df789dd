/** What an inspection has seen of one Barman server, and what the rules make of it. */

import type { DiagnosedServer, Diagnosis } from '../barman/diagnosis.ts';
import type { HeardNode } from '../ledger/heard.ts';
import type { Inspection } from '../ledger/inspection.ts';
import type { Item } from '../ledger/item.ts';
import { type Cluster, hasMembers, type Members } from '../patroni/cluster.ts';
import type { Observation } from '../patroni/leader.ts';
import { leadingSite } from '../patroni/sites.ts';
import type { LeaderState, Survey } from '../patroni/survey.ts';
import { cut } from '../text.ts';
import type { Finding, Kind } from './findings.ts';

/** Maximum length of a text: names in it may be of any length (characters). */
const MAX_TEXT = 500;
/** Maximum number of findings, of notes, and of what was not seen: they are an item of the ledger. */
const MAX_LINES = 100;

/** A Patroni cluster that lists the server with members, and what was seen of it. */
export interface SurveyedCluster {
  readonly cluster: Pick<Cluster, 'name' | 'scope' | 'servers' | 'streaming_archiver_name' | 'hasNoValue'>;
  /** Undefined: its parameter has no URLs, or it could not be asked. */
  readonly survey: Survey | undefined;
  /** Why it could not be asked. */
  readonly unseen?: string | undefined;
}

/** What was seen of one server. */
export interface Subject {
  readonly barman_server: string;
  readonly clusters: readonly SurveyedCluster[];
  readonly diagnosis: Diagnosis | { readonly unseen: string };
  /** Its item in the ledger; undefined: none. */
  readonly item: Item | undefined;
  /** Why its operations cannot be read, by the last heartbeats. */
  readonly notReady: string | undefined;
  /** Why what archived findings depend on has changed during the inspection, if it has. */
  readonly changed: string | undefined;
  /** The nodes whose callback has been heard; the one heard last is the first. */
  readonly heard: readonly HeardNode[];
  /** What the last inspection found. */
  readonly before: Inspection | undefined;
  /** When the inspection began (ms since the epoch). */
  readonly now: number;
}

export interface Unseen {
  readonly what: string;
  /** The member that may not be ready therefore; `true`: none of them may be; absent: it does not matter for that. */
  readonly member?: string | true;
}

/** Collects what the rules say of a server. */
export class Collector {
  readonly findings: Finding[] = [];
  /** Not counted: what an operator should know. */
  readonly notes: string[] = [];
  /** What could not be seen; of one member, or of the server. */
  readonly unseen: Unseen[] = [];
  /** Members that Patroni does not have, or did not have when it was last asked. */
  readonly missing = new Set<string>();
  /** Members that run, by Patroni, but whose REST API does not answer. */
  readonly silent = new Set<string>();
  /** The kinds of the class archived whose rules could see all that they need. */
  readonly judged = new Set<Kind>();
  /** The kinds of the class ready whose rules could not; of one member, or of the server. */
  readonly unjudged: Pick<Finding, 'kind' | 'member'>[] = [];

  /** @param what without a member's name, which is put before it @param remedy in the imperative */
  find(kind: Finding['kind'], what: string, remedy: string, member?: string): void {
    if (this.findings.length >= MAX_LINES) return;
    this.findings.push({
      kind,
      ...(member !== undefined && { member }),
      what: cut(what, MAX_TEXT),
      remedy: cut(remedy, MAX_TEXT),
    });
  }

  note(text: string): void {
    if (this.notes.length < MAX_LINES) this.notes.push(cut(text, MAX_TEXT));
  }

  /** @param kinds what it may have to do with: an earlier finding of these stays */
  notSeen(what: string, member?: string | true, kinds: readonly Kind[] = []): void {
    for (const kind of kinds) this.unjudged.push({ kind, ...(typeof member === 'string' && { member }) });
    if (this.unseen.length >= MAX_LINES) return;
    this.unseen.push({ ...(member !== undefined && { member }), what: cut(what, MAX_TEXT) });
  }
}

/** Returns the clusters that list a server with members. */
export function clustersOf<T extends SurveyedCluster>(clusters: readonly T[], barman_server: string): T[] {
  return clusters.filter(({ cluster }) => hasMembers(cluster, barman_server));
}

/** Returns whether the members of a cluster should have been seen, and were not. One without URLs is never asked. */
export function lacksMembers({ survey, unseen }: SurveyedCluster): boolean {
  return survey ? survey.members === undefined : unseen !== undefined;
}

/** Returns what a diagnosis says of a server; undefined: it was not seen, or Barman does not have it. */
export function serverIn(
  diagnosis: Subject['diagnosis'],
  barman_server: string,
): DiagnosedServer | undefined {
  return 'unseen' in diagnosis ? undefined : diagnosis.servers.get(barman_server);
}

/** Returns the models that a cluster names for a Barman server: none if it does not list the server. */
export function modelsOf({ servers }: Pick<Cluster, 'servers'>, barman_server: string): Members {
  return servers.get(barman_server) ?? new Map();
}

/** The leader that Barman must be connected to. */
export interface Leading extends SurveyedCluster {
  readonly survey: Survey;
  readonly leader: LeaderState;
}

/**
 * Returns the leader that the server follows; of several clusters (sites) that of `leadingSite`.
 *
 * @returns otherwise why it is unknown
 */
export function leadingOf({ clusters }: Pick<Subject, 'clusters'>): Leading | { readonly unseen: string } {
  const leading = leadingSite(clusters.map((one) => ({ ...one, observation: observationOf(one) })));
  if ('unknown' in leading) return { unseen: leading.unknown };
  const { cluster, survey } = leading.site;
  if (survey?.leader) return { cluster, survey, leader: survey.leader };
  return { unseen: `${leading.leader.leader} did not answer with its state` };
}

function observationOf({ cluster: { name }, survey, unseen }: SurveyedCluster): Observation {
  return survey?.observation ?? { unknown: unseen ?? `clusters/${name} has no URLs of Patroni` };
}
