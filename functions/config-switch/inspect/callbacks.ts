/** The rule of the class ready about callbacks: a member's was never heard, although others of the server were. */

import { isIP } from 'node:net';
import { type HeardNode, MAX_HEARD } from '../ledger/heard.ts';
import type { Inspection } from '../ledger/inspection.ts';
import type { Member } from '../patroni/survey.ts';
import { listOf, printable } from '../text.ts';
import { ageOf } from './ready.ts';
import { type Collector, modelsOf, type Subject, type SurveyedCluster } from './subject.ts';

/** A member that parameter or Patroni have, and the node of its that was heard last. */
interface HeardMember {
  readonly cluster: SurveyedCluster['cluster'];
  readonly name: string;
  /** As Patroni has it; undefined: only the parameter has it. */
  readonly seen: Member | undefined;
  readonly heard: HeardNode | undefined;
}

/** Who was heard of a server. */
export interface Callbacks {
  readonly members: readonly HeardMember[];
  /** Nodes that are no member by name or host: each may be any of the members that were not heard. */
  readonly strangers: readonly HeardNode[];
  /** Whether all others were never heard: no stranger may be one of them, and none has been forgotten. */
  readonly isComplete: boolean;
  /** Nodes with a member. A node stays here when its member is removed, until it is heard again. */
  readonly matched: readonly HeardNode[];
  /** Whether several clusters list the server: its sites. */
  readonly isSeveral: boolean;
}

/**
 * Finds the member of each node that was heard, by its host name. Two sites may have members of the same name: a node
 * is looked for in the cluster with its scope only. With one cluster the scope does not matter.
 *
 * @param clusters that list the server with members
 * @param heard the one heard last is the first
 * @param before has the nodes for which the last inspection found a member: if there is no such member now, and the node
 *   was not heard since, its member was removed
 */
export function callbacksOf(
  clusters: readonly SurveyedCluster[],
  heard: readonly HeardNode[],
  { barman_server, before }: Pick<Subject, 'barman_server' | 'before'>,
): Callbacks {
  const members = clusters.flatMap((surveyed) => membersOf(surveyed, barman_server));
  const isSeveral = clusters.length > 1;
  const membersIn = (scope: string | undefined) =>
    isSeveral && scope !== undefined ? members.filter(({ cluster }) => cluster.scope === scope) : members;
  const pairs = heard.map((node) => ({ node, members: membersNamed(node.node, membersIn(node.cluster)) }));
  const hasLeft = ({ node, cluster, at }: HeardNode) =>
    before?.callbacks?.some((one) => one.node === node && one.cluster === cluster && one.at === at) === true;
  const strangers = pairs.filter((one) => one.members.length === 0 && !hasLeft(one.node));
  return {
    members: members.map((member) => ({
      ...{ cluster: member.cluster, name: member.name, seen: member.seen },
      heard: pairs.find((one) => one.members.includes(member))?.node,
    })),
    strangers: strangers.map(({ node }) => node),
    isComplete: strangers.length === 0 && heard.length < MAX_HEARD,
    matched: pairs.filter((one) => !strangers.includes(one)).map(({ node }) => node),
    isSeveral,
  };
}

/** Judges whose callback was heard, and notes who cannot be told. */
export function judgeCallbacks(
  subject: Subject,
  { members, strangers, isComplete, isSeveral }: Callbacks,
  collector: Collector,
): void {
  const nameOf = ({ node, cluster }: HeardNode) =>
    isSeveral && cluster !== undefined ? `${node} of ${printable(cluster)}` : node;
  const unheard = members.filter(({ seen, heard }) => seen?.canLead && seen.isRunning && !heard);
  if (strangers.length > 0) {
    const names = strangers.map((one) => `${nameOf(one)} (${ageOf(subject.now - Date.parse(one.at))} ago)`);
    const unknown =
      unheard.length > 0
        ? `, so it is unknown whether those of ${listOf(unheard.map(({ name }) => name))} were`
        : '';
    collector.note(
      `callbacks were heard of ${listOf(names)}, and no member${isSeveral ? ' of that scope' : ''} has such a name or host${unknown}`,
    );
  }
  const nodes = subject.heard.map(nameOf);
  if (nodes.length === 0 || !isComplete) return;
  for (const { cluster, name } of unheard) {
    const what = `its callback was never heard; those of ${listOf(nodes)} were`;
    // An older callback sends no host name, so its node is never heard.
    const remedy = `install the current barman_config_switch.py there, run \`patronictl reload ${cluster.scope} ${name}\` (\`on_reload: *callback\` in patroni.yml), and read the callback's log file`;
    collector.find('callback-unheard', what, remedy, name);
  }
}

/** Returns what the next inspection has to know. */
export function matchedNodes({ matched }: Callbacks): NonNullable<Inspection['callbacks']> {
  return matched.map(({ version: _, ...node }) => node);
}

interface NamedMember extends Omit<HeardMember, 'heard'> {
  /** Host names that may be its. */
  readonly hosts: readonly string[];
}

function membersOf({ cluster, survey }: SurveyedCluster, barman_server: string): NamedMember[] {
  const seen = new Map((survey?.members ?? []).map((one) => [one.name, one]));
  const names = new Set([...seen.keys(), ...modelsOf(cluster, barman_server).keys()]);
  return [...names].map((name) => {
    const nodes = survey?.nodes.filter(({ member }) => member === name) ?? [];
    const hosts = [name, seen.get(name)?.host ?? name, ...nodes.map(({ url }) => url.hostname)];
    return { cluster, name, seen: seen.get(name), hosts: hosts.map(hostName) };
  });
}

/**
 * Returns the members that a node may be: those with the same full name or host, otherwise those with the same first
 * label. Members of two sites may differ by the rest.
 */
function membersNamed(node: string, members: readonly NamedMember[]): readonly NamedMember[] {
  const name = hostName(node);
  const same = members.filter(({ hosts }) => hosts.includes(name));
  if (same.length > 0) return same;
  return members.filter(({ hosts }) => hosts.some((host) => firstLabel(host) === firstLabel(name)));
}

/** Returns a host name in its one form: capitals and a dot at the end do not matter (RFC 1035). */
function hostName(text: string): string {
  return text.toLowerCase().replace(/\.$/, '');
}

/** An address has no labels. */
function firstLabel(host: string): string {
  return isIP(host) ? host : (host.split('.')[0] ?? host);
}
