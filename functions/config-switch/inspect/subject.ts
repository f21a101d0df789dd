/** What an inspection has seen of one Barman server, and what the rules make of it. */

import type { Diagnosis } from '../barman/diagnosis.ts';
import type { Inspection } from '../ledger/inspection.ts';
import type { Item } from '../ledger/item.ts';
import type { Cluster } from '../patroni/cluster.ts';
import type { Survey } from '../patroni/survey.ts';
import type { Finding } from './findings.ts';

/** A Patroni cluster that lists the server with members, and what was seen of it. */
export interface SurveyedCluster {
  readonly cluster: Pick<Cluster, 'name' | 'servers' | 'streaming_archiver_name'>;
  /** Undefined: its parameter names no URLs. */
  readonly survey: Survey | undefined;
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
  /** What the last inspection found. */
  readonly before: Inspection | undefined;
  /** When the inspection began (ms since the epoch). */
  readonly now: number;
}

/** What the rules say of it. */
export interface Verdict {
  readonly findings: readonly Finding[];
  /** Not counted: what an operator should know. */
  readonly notes: readonly string[];
  /** What could not be seen; of one member, or of the server. */
  readonly unseen: readonly Unseen[];
}

export interface Unseen {
  readonly what: string;
  /** The member that may not be ready therefore; `true`: none of them may be; absent: it does not matter for that. */
  readonly member?: string | true;
}

/** Collects what the rules say. */
export class Collector implements Verdict {
  readonly findings: Finding[] = [];
  readonly notes: string[] = [];
  readonly unseen: Unseen[] = [];
  /** Members that are missing or do not answer: if they still are a day later, that is a finding. */
  readonly missing = new Set<string>();

  find(kind: Finding['kind'], what: string, remedy: string, member?: string): void {
    this.findings.push({ kind, ...(member !== undefined && { member }), what, remedy });
  }

  note(text: string): void {
    this.notes.push(text);
  }

  notSeen(what: string, member?: string | true): void {
    this.unseen.push({ ...(member !== undefined && { member }), what });
  }
}
