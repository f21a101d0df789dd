/** What an inspection has seen, as its response has it: for `npm run ledger -- check`. */

import * as v from 'valibot';
import { type Connections, type DiagnosedServer, isUsable } from '../barman/diagnosis.ts';
import { HeardNode } from '../ledger/heard.ts';
import { Inspection } from '../ledger/inspection.ts';
import { type Callbacks, callbacksOf } from './callbacks.ts';
import type { Inspected, InspectedCluster, InspectedServer } from './inspect.ts';
import { readyOf } from './judge.ts';
import { usesSlot } from './ready.ts';
import { clustersOf, modelsOf, serverIn } from './subject.ts';

const optionalText = v.exactOptional(v.string());

const ClusterSeen = v.object({
  name: v.string(),
  /** Why it could not be asked. */
  unseen: optionalText,
  leader: optionalText,
  /** Why the leader is unknown. */
  unknown: optionalText,
  timeline: v.exactOptional(v.number()),
  /** The leader's Patroni. */
  patroni: optionalText,
  urls: v.array(v.object({ url: v.string(), member: optionalText, error: optionalText })),
});

const Yes = v.picklist(['yes', 'no', '?', '–']);

const MemberSeen = v.object({
  member: v.string(),
  cluster: v.string(),
  /** Null: no model. Absent: it has none in the parameter. */
  model: v.exactOptional(v.nullable(v.string())),
  /** Where its model connects to, and where Patroni says that it listens. */
  barman_host: optionalText,
  patroni_host: optionalText,
  /** Whether it keeps Barman's slot; `–`: Barman needs none there. */
  slot: Yes,
  /** When its callback was last heard. Null: never. Absent: unknown, since another node was heard that may be its, or too many were. */
  callback: v.exactOptional(v.nullable(HeardNode)),
  /** Whether a failover to it would end with Barman streaming from it. */
  ready: Yes,
});

const ServerSeen = v.object({
  barman_server: v.string(),
  /** When its findings and notes were seen: earlier than now while Barman cannot be seen. */
  at: v.string(),
  paused: v.boolean(),
  members: v.array(MemberSeen),
  /** The last segment in the archive of the leader's timeline. */
  archived: v.exactOptional(v.object({ timeline: v.number(), name: v.string(), at: v.string() })),
  /** How far the slot is behind (bytes). */
  slot_behind: v.exactOptional(v.number()),
  /** The newest base backup that can be recovered from. */
  backup: v.exactOptional(
    v.object({ id: v.string(), at: v.string(), timeline: v.exactOptional(v.number()) }),
  ),
  ...v.pick(Inspection, ['findings', 'notes', 'unseen']).entries,
});

/** The response of an inspection. */
export const InspectionReport = v.object({
  at: v.string(),
  parameters: v.array(v.object({ ok: v.boolean(), name: v.string(), text: v.string() })),
  barman: v.object({ version: optionalText, unseen: optionalText }),
  clusters: v.array(ClusterSeen),
  servers: v.array(ServerSeen),
});
export type InspectionReport = v.InferOutput<typeof InspectionReport>;

/** Returns the report. @param parameters a line for each */
export function reportOf(
  { at, diagnosis, clusters, servers }: Inspected,
  parameters: InspectionReport['parameters'],
): InspectionReport {
  return {
    at: new Date(at).toISOString(),
    parameters,
    barman:
      'unseen' in diagnosis
        ? { unseen: diagnosis.unseen }
        : { ...(diagnosis.version !== undefined && { version: diagnosis.version }) },
    clusters: clusters.map(clusterSeen),
    servers: [...servers].map(([name, server]) => serverSeen(name, server, clusters, diagnosis)),
  };
}

function clusterSeen({ cluster, survey, unseen }: InspectedCluster): v.InferOutput<typeof ClusterSeen> {
  const { observation, nodes = [], leader } = survey ?? {};
  // A Patroni before 3.2 gives a version and no name: it may be that of any member.
  const version = leader && nodes.find(({ member }) => member === leader.name)?.version;
  return {
    name: cluster.name,
    ...(unseen !== undefined && { unseen }),
    ...(observation && 'leader' in observation && { leader: observation.leader }),
    ...(observation && 'unknown' in observation && { unknown: observation.unknown }),
    ...(leader?.timeline !== undefined && { timeline: leader.timeline }),
    ...(version !== undefined && { patroni: version }),
    urls: nodes.map(({ url, member, error }) => ({
      url: url.href,
      ...(member !== undefined && { member }),
      ...(error !== undefined && { error }),
    })),
  };
}

function serverSeen(
  barman_server: string,
  { paused, inspection, heard }: InspectedServer,
  clusters: readonly InspectedCluster[],
  diagnosis: Inspected['diagnosis'],
): v.InferOutput<typeof ServerSeen> {
  const { findings, notes, unseen, timeline } = inspection;
  const server = serverIn(diagnosis, barman_server);
  const archived = timeline && server?.archived?.get(timeline.id);
  const { currentLsn, slot } = server?.status ?? {};
  const [backup] = (server?.backups ?? []).filter(isUsable).sort((a, b) => (b.end ?? 0) - (a.end ?? 0));
  const listing = clustersOf(clusters, barman_server);
  const callbacks = callbacksOf(listing, heard, { barman_server, before: inspection });
  return {
    barman_server,
    at: inspection.at,
    paused,
    members: listing.flatMap((one) => membersSeen(barman_server, one, inspection, diagnosis, callbacks)),
    ...(archived && {
      archived: {
        timeline: archived.timeline,
        name: archived.name,
        at: new Date(archived.time).toISOString(),
      },
    }),
    ...(currentLsn !== undefined &&
      slot?.restartLsn !== undefined && { slot_behind: Math.max(0, currentLsn - slot.restartLsn) }),
    ...(backup?.end !== undefined && {
      backup: {
        id: backup.id,
        at: new Date(backup.end).toISOString(),
        ...(backup.timeline !== undefined && { timeline: backup.timeline }),
      },
    }),
    ...{ findings, notes, unseen },
  };
}

/** Returns the members that parameter or Patroni have, without those that cannot lead and have no model. */
function membersSeen(
  barman_server: string,
  { cluster, survey }: InspectedCluster,
  inspection: Inspection,
  diagnosis: Inspected['diagnosis'],
  callbacks: Callbacks,
): v.InferOutput<typeof MemberSeen>[] {
  const models = modelsOf(cluster, barman_server);
  const known = survey?.members ?? [];
  const names = known.filter(({ canLead }) => canLead).map(({ name }) => name);
  // Without Barman it is unknown whether it needs a slot.
  const slot = 'unseen' in diagnosis ? '?' : slotOf(serverIn(diagnosis, barman_server), cluster, survey);
  return [...new Set([...names, ...models.keys()])].sort().map((member) => {
    const model = models.get(member);
    const connections = 'unseen' in diagnosis ? undefined : diagnosis.models.get(model ?? '')?.connections;
    const hosts = hostsOf(connections);
    const host = known.find(({ name }) => name === member)?.host;
    return {
      member,
      cluster: cluster.name,
      ...(model !== undefined && { model }),
      ...(hosts !== undefined && { barman_host: hosts }),
      ...(host !== undefined && { patroni_host: host }),
      slot,
      ...callbackOf(cluster.name, member, callbacks),
      ready: readyOf(member, inspection),
    };
  });
}

/** Returns whether the members of a cluster keep Barman's slot. */
function slotOf(
  server: DiagnosedServer | undefined,
  cluster: InspectedCluster['cluster'],
  survey: InspectedCluster['survey'],
): v.InferOutput<typeof MemberSeen>['slot'] {
  if (!server?.slot_name || server.createsSlot || !usesSlot(server, cluster)) return '–';
  if (!survey?.slots) return '?';
  return survey.slots.includes(server.slot_name) ? 'yes' : 'no';
}

function callbackOf(
  cluster: string,
  member: string,
  { members, isComplete }: Callbacks,
): Pick<v.InferOutput<typeof MemberSeen>, 'callback'> {
  const heard = members.find((one) => one.cluster.name === cluster && one.name === member)?.heard;
  if (heard) return { callback: heard };
  return isComplete ? { callback: null } : {};
}

/** Returns the hosts of a model's connection, separated by commas. */
function hostsOf(connections: Connections | undefined): string | undefined {
  const connection = connections?.get('conninfo') ?? connections?.get('streaming_conninfo');
  if (!connection || 'problem' in connection || connection.endpoints.length === 0) return undefined;
  return connection.endpoints.map(({ host }) => host || 'Unix socket').join(',');
}
