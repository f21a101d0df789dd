/** The rules of an inspection: what was seen of one Barman server → findings, notes, and what could not be seen. */

import type { DiagnosedServer } from '../barman/diagnosis.ts';
import { type Inspection, looksForWal, type StoredFinding } from '../ledger/inspection.ts';
import { judgeArchive, timelineOf } from './archived.ts';
import { type Callbacks, callbacksOf, judgeCallbacks, matchedNodes } from './callbacks.ts';
import { classOf, concernsAllMembers, type Finding, type Kind, wasJudged } from './findings.ts';
import { judgeCluster, judgeServer } from './ready.ts';
import {
  Collector,
  clustersOf,
  lacksMembers,
  leadingOf,
  modelsOf,
  type Subject,
  serverIn,
} from './subject.ts';

/** How long a connection to a member that led is remembered (ms). */
const REMEMBERED = 400 * 24 * 3_600_000;
/** How many are. */
const MAX_CONNECTED = 20;

/** The kinds that are about a cluster, and not about one of its members. */
const OF_CLUSTERS: readonly Kind[] = ['slot-not-permanent', 'patroni-old', 'slot-shared'];

/** What is known of a member: whether a failover to it would end with Barman streaming from it. */
export type Ready = 'yes' | 'no' | '?';

/**
 * Judges a server.
 *
 * @returns what is stored for the next inspection and for the operator
 */
export function judge(seen: Subject): Inspection {
  const { barman_server, diagnosis } = seen;
  const clusters = clustersOf(seen.clusters, barman_server);
  const unlisted = clusters.length === 0 ? seen.clusters.filter(({ cluster }) => cluster.hasNoValue) : [];
  const subject = { ...seen, clusters };
  const collector = new Collector();
  const server = serverIn(diagnosis, barman_server);
  if ('unseen' in diagnosis) collector.notSeen(`Barman: ${diagnosis.unseen}`, true);
  else judgeServer(subject, server, collector);
  for (const surveyed of clusters) judgeCluster(subject, surveyed, server, collector);
  for (const { unseen } of unlisted)
    collector.notSeen(`whether a cluster lists it: ${unseen}`, true, OF_CLUSTERS);
  const callbacks = callbacksOf(clusters, subject.heard, subject);
  judgeCallbacks(subject, callbacks, collector);
  if (server && looksForWal(collector.findings)) judgeArchive(subject, server, collector);
  return memoryOf(subject, server, callbacks, collector, unlisted.length > 0);
}

/**
 * Returns what the next inspection has to know, with the findings.
 *
 * @param mayBeListed whether no cluster lists the server, but one whose value was never read may do so
 */
function memoryOf(
  subject: Subject,
  server: DiagnosedServer | undefined,
  callbacks: Callbacks,
  collector: Collector,
  mayBeListed: boolean,
): Inspection {
  const { findings, notes, unseen, missing, silent } = collector;
  const { before, item, now } = subject;
  const at = new Date(now).toISOString();
  const leading = leadingOf(subject);
  // While the leader is unknown, the last one goes on being counted.
  const leader = 'leader' in leading ? leading.leader.name : before?.leader;
  const applied_version = item?.applied?.version;
  const isSame = before?.leader === leader && before?.applied_version === applied_version;
  const withTime = (members: ReadonlySet<string>, earlier: Inspection['missing'] | undefined) =>
    [...members].map((member) => ({
      member,
      since: earlier?.find((one) => one.member === member)?.since ?? at,
    }));
  const timeline = timelineOf(leading, before, now);
  const earlier = (before?.findings ?? []).filter(
    (one) => !findings.some(isOf(one)) && isAsBefore(one, subject, collector, isSame, mayBeListed),
  );
  return {
    at,
    findings: [...findings.map((finding) => storedFinding(finding, before, isSame, at)), ...earlier],
    notes: [...notes],
    unseen: [...unseen],
    ...(leader !== undefined && { leader }),
    ...(applied_version !== undefined && { applied_version }),
    missing: mayBeListed ? (before?.missing ?? []) : withTime(missing, before?.missing),
    silent: mayBeListed ? (before?.silent ?? []) : withTime(silent, before?.silent),
    connected: connectedMembers(subject, server, at),
    callbacks: matchedNodes(callbacks),
    ...(timeline
      ? { timeline: { ...timeline, since: new Date(timeline.since).toISOString() } }
      : before?.timeline && { timeline: before.timeline }),
  };
}

/** Returns what is true for a finding of the same kind and member. */
function isOf({ kind, member }: Pick<StoredFinding, 'kind' | 'member'>) {
  return (one: Pick<StoredFinding, 'kind' | 'member'>) => one.kind === kind && one.member === member;
}

/**
 * Returns whether an earlier finding stays, because its rule could not see what it needs.
 *
 * @param isSame whether the last inspection has seen the same leader and the same applied version
 * @param mayBeListed as for `memoryOf`
 */
function isAsBefore(
  finding: StoredFinding,
  { clusters, diagnosis, barman_server }: Subject,
  { findings, judged, unjudged }: Collector,
  isSame: boolean,
  mayBeListed: boolean,
): boolean {
  const { kind, member } = finding;
  const barman = !('unseen' in diagnosis);
  if (finding.class === 'archived') {
    // One that does not count yet has to be seen again. A server that Barman does not have has none.
    const isJudged = barman && !looksForWal(findings);
    const wasSeen: ReadonlySet<string> = judged;
    return finding.counts && isSame && !isJudged && !wasSeen.has(kind);
  }
  if (mayBeListed && member !== undefined) return true;
  const listing = clusters.filter(
    ({ cluster }) => member !== undefined && modelsOf(cluster, barman_server).has(member),
  );
  const isListed = member === undefined || listing.length > 0;
  if (isListed && unjudged.some(isOf(finding))) return true;
  return !wasJudged(finding, {
    barman,
    members: !clusters.some(lacksMembers),
    isListed,
    isMember: listing.every(({ survey }) => !survey || survey.members?.some(({ name }) => name === member)),
  });
}

/**
 * Returns a finding with its time.
 *
 * @param isSame whether the last inspection has seen the same leader and the same applied version: otherwise a
 *   finding of the class archived is another one than then
 */
function storedFinding(
  finding: Finding,
  before: Inspection | undefined,
  isSame: boolean,
  at: string,
): StoredFinding {
  const isArchived = classOf(finding) === 'archived';
  const same = isSame || !isArchived ? before?.findings.find(isOf(finding)) : undefined;
  return {
    ...finding,
    class: classOf(finding),
    since: same?.since ?? at,
    counts: !isArchived || same !== undefined,
  };
}

/** Returns the members through whose model Barman was connected while they led, the last one first. */
function connectedMembers(
  subject: Subject,
  server: DiagnosedServer | undefined,
  at: string,
): Inspection['connected'] {
  const { barman_server, before, now } = subject;
  const earlier = before?.connected.filter((one) => now - Date.parse(one.at) < REMEMBERED) ?? [];
  const leading = leadingOf(subject);
  if (!server || 'unseen' in leading) return earlier;
  const { cluster, leader } = leading;
  const isConnected =
    leader.systemId !== undefined &&
    server.status.systemId === leader.systemId &&
    server.status.isInRecovery === !leader.isPrimary &&
    // Through another model, that of the leader has not been tried.
    server.active_model === modelsOf(cluster, barman_server).get(leader.name);
  if (!isConnected) return earlier;
  const others = earlier.filter(({ member }) => member !== leader.name);
  return [{ member: leader.name, at }, ...others].slice(0, MAX_CONNECTED);
}

/** Returns the findings because of which a failover to a member would not end with Barman streaming from it. */
export function blocking(member: string, findings: readonly StoredFinding[]): readonly StoredFinding[] {
  return findings.filter(
    (finding) =>
      finding.class === 'ready' &&
      (finding.member === undefined ? concernsAllMembers(finding) : finding.member === member),
  );
}

/** Returns whether a failover to a member would end with Barman streaming from it. */
export function readyOf(
  member: string,
  { findings, unseen }: Pick<Inspection, 'findings' | 'unseen'>,
): Ready {
  if (blocking(member, findings).length > 0) return 'no';
  return unseen.some((one) => one.member === true || one.member === member) ? '?' : 'yes';
}
