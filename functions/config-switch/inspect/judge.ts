/** The rules of an inspection: what was seen of one Barman server → findings, notes, and what could not be seen. */

import type { DiagnosedServer } from '../barman/diagnosis.ts';
import type { Inspection } from '../ledger/inspection.ts';
import { archiveOf, judgeArchive } from './archived.ts';
import { classOf, concernsAllMembers } from './findings.ts';
import { judgeMembers, judgeServer } from './ready.ts';
import { Collector, type Subject, type Verdict } from './subject.ts';

/** How long a connection to a member that led is remembered (ms). */
const REMEMBERED = 400 * 24 * 3_600_000;
/** How many are. */
const MAX_CONNECTED = 20;

/** What is known of a member: whether a failover to it would end with Barman streaming from it. */
export type Ready = 'yes' | 'no' | '?';

/**
 * Judges a server.
 *
 * @returns what is stored for the next inspection and for the operator
 */
export function judge(subject: Subject): Inspection {
  const collector = new Collector();
  const { barman_server, clusters, diagnosis } = subject;
  const server = 'unseen' in diagnosis ? undefined : diagnosis.servers.get(barman_server);
  if ('unseen' in diagnosis) collector.notSeen(`Barman: ${diagnosis.unseen}`, true);
  else judgeServer(subject, server, collector);
  for (const cluster of clusters) {
    if (!cluster.survey) {
      collector.notSeen(`Patroni: clusters/${cluster.cluster.name} names no URLs`, true);
    }
    judgeMembers(subject, cluster, server, collector);
  }
  if (server?.active && !server.passive) judgeArchive(subject, server, collector);
  return memoryOf(subject, server, collector);
}

/** Returns what the next inspection has to know, with the findings. */
function memoryOf(
  subject: Subject,
  server: DiagnosedServer | undefined,
  { findings, notes, unseen, missing }: Verdict & { readonly missing: ReadonlySet<string> },
): Inspection {
  const { before, item, now } = subject;
  const at = new Date(now).toISOString();
  const { leader, timeline } = archiveOf(subject);
  const applied_version = item?.applied?.version;
  const isSame = before?.leader === leader?.name && before?.applied_version === applied_version;
  const isConnected =
    leader?.systemId !== undefined &&
    server?.status.systemId === leader.systemId &&
    server.status.isInRecovery === !leader.isPrimary;
  const earlier = (before?.connected ?? []).filter(
    (one) => one.member !== leader?.name && now - Date.parse(one.at) < REMEMBERED,
  );
  const connected =
    isConnected && leader ? [{ member: leader.name, at }, ...earlier] : (before?.connected ?? []);
  return {
    at,
    findings: findings.map((finding) => {
      const same = before?.findings.find((one) => one.kind === finding.kind && one.member === finding.member);
      const isArchived = classOf(finding) === 'archived';
      return {
        ...finding,
        class: classOf(finding),
        since: same && (!isArchived || isSame) ? same.since : at,
        counts: !isArchived || (same !== undefined && isSame),
      };
    }),
    notes: [...notes],
    unseen: [...unseen],
    ...(leader && { leader: leader.name }),
    ...(applied_version !== undefined && { applied_version }),
    missing: [...missing].map((member) => ({
      member,
      since: before?.missing.find((one) => one.member === member)?.since ?? at,
    })),
    connected: connected.slice(0, MAX_CONNECTED),
    ...(timeline && { timeline: { ...timeline, since: new Date(timeline.since).toISOString() } }),
  };
}

/** Returns whether a failover to a member would end with Barman streaming from it. */
export function readyOf(
  member: string,
  { findings, unseen }: Pick<Inspection, 'findings' | 'unseen'>,
): Ready {
  const isBlocking = (finding: Inspection['findings'][number]) =>
    finding.member === member ||
    (finding.member === undefined && concernsAllMembers(finding as Parameters<typeof concernsAllMembers>[0]));
  if (findings.some((finding) => finding.class === 'ready' && isBlocking(finding))) return 'no';
  return unseen.some((one) => one.member === true || one.member === member) ? '?' : 'yes';
}
