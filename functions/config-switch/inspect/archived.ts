/** The rules of the class archived: whether WAL of the leader arrives in Barman's archive now. */

import {
  type Connection,
  type ConninfoOption,
  type DiagnosedServer,
  segmentNumber,
} from '../barman/diagnosis.ts';
import type { Inspection } from '../ledger/inspection.ts';
import { type Item, isApplied, timeOf } from '../ledger/item.ts';
import { type ConfigTarget, nameOf, parseTarget, targetText } from '../target.ts';
import { addModel, ageOf, makePermanent, usesSlot } from './ready.ts';
import { type Collector, type Leading, leadingOf, modelsOf, type Subject } from './subject.ts';

/** How long WAL may take from its writing to the archive (ms): Barman's cron runs every minute. */
const ARCHIVE_TIME = 15 * 60_000;
/**
 * Barman keeps the newest whole segment until the next one has begun, and the one before until cron has run. So
 * after two whole segments of a timeline one of them must be there, and one more than that may be missing.
 */
const WHOLE_SEGMENTS = 2;
/** How far a slot may be behind: bytes, or segments if that is more. */
const SLOT_BEHIND = { bytes: 2 ** 30, segments: 16 };
/** Roles of a promotion to a primary, as Patroni gives them to callbacks. */
const PROMOTED = ['primary', 'promoted', 'master'];

/** A timeline, since when it is known (ms since the epoch), and how far WAL had got then (bytes). */
interface Timeline {
  readonly id: number;
  readonly since: number;
  readonly location: number;
}

/** Returns the leader's timeline, since when: by Patroni, or as the first inspection that saw it. */
export function timelineOf(
  leading: Leading | { readonly unseen: string },
  before: Inspection | undefined,
  now: number,
): Timeline | undefined {
  if ('unseen' in leading) return undefined;
  const { leader, survey } = leading;
  const { timeline: id, location } = leader;
  if (id === undefined || location === undefined) return undefined;
  const { timelineBegan } = survey;
  if (timelineBegan) return { id, since: timelineBegan.at, location: timelineBegan.location };
  const seen = before?.timeline;
  return seen?.id === id
    ? { id, since: timeOf(seen.since, now), location: seen.location }
    : { id, since: now, location };
}

/** @param subject whose diagnosis was seen @param server that is active and not passive */
export function judgeArchive(subject: Subject, server: DiagnosedServer, collector: Collector): void {
  const { changed = pendingSwitch(subject.item), clusters } = subject;
  if (changed !== undefined) {
    collector.notSeen(`whether WAL is archived: ${changed}`);
    return;
  }
  const leading = leadingOf(subject);
  const found = collector.findings.length;
  judgeConnections(subject, server, collector);
  judgeModel(subject, server, collector);
  collector.judged.add('other-model');
  // With another model, Barman is connected to another node, and the slot of that says nothing.
  const isRight = () => collector.findings.length === found;
  if (isRight()) {
    if ('unseen' in leading) judgeRole(subject, server, collector);
    else judgeNode(subject, server, leading, collector);
  }
  if (isRight()) judgeSlot(subject, server, leading, collector);
  if (!('unseen' in leading)) judgeSegments(subject, server, leading, collector);
  // Without members, it has been said why already.
  else if (clusters.some(({ survey }) => survey?.members))
    collector.notSeen(`whether WAL of the leader is archived: ${leading.unseen}`);
}

/** Returns what is going on, if Barman is not set to what is desired yet. */
function pendingSwitch(item: Item | undefined): string | undefined {
  const { desired, lease } = item ?? {};
  if (!item || !desired || (lease === undefined && isApplied(item, desired.version))) return undefined;
  return `the switch to ${nameOf(parseTarget(desired.target))} has not ended yet`;
}

/** Returns whether nothing may still set Barman to something else. */
function isSettled({ unsettled_since, apply_again_at }: Item): boolean {
  return unsettled_since === undefined && apply_again_at === undefined;
}

/** Judges whether Barman uses what was applied. While something may still change that, nothing is said. */
function judgeModel(
  { barman_server, item, diagnosis }: Subject,
  { active_model, cluster }: DiagnosedServer,
  collector: Collector,
): void {
  if (!item?.applied || !isSettled(item)) return;
  const active: ConfigTarget = active_model === null ? { reset: true } : { model: active_model };
  const applied = parseTarget(item.applied.target);
  if (targetText(active) === targetText(applied)) return;
  const what = `Barman uses ${nameOf(active)}, and ${nameOf(applied)} was applied at ${item.applied.applied_at}`;
  let remedy = `run \`npm run ledger -- --stage STAGE set ${barman_server} MODEL\` with the right model (without one: \`reset\`)`;
  if ('model' in applied && 'models' in diagnosis) {
    const model = diagnosis.models.get(applied.model);
    if (!model) remedy = `add [${applied.model}] to barman.conf again`;
    else if (model.cluster !== cluster)
      remedy = `set "cluster = ${cluster}" for [${applied.model}] in barman.conf`;
  }
  collector.find('other-model', what, remedy);
}

/** Judges whether Barman can connect. */
function judgeConnections({ barman_server }: Subject, server: DiagnosedServer, collector: Collector): void {
  const { status, connections, streaming_archiver } = server;
  if (status.isInRecovery === undefined && !isUnusable(connections.get('conninfo')))
    collector.notSeen('whether Barman can connect to PostgreSQL: it does not show it');
  else collector.judged.add('no-connection');
  const isConnected = {
    conninfo: status.isInRecovery === undefined ? undefined : status.isInRecovery !== null,
    streaming_conninfo: streaming_archiver ? status.streaming : true,
  };
  const failing = (['conninfo', 'streaming_conninfo'] as const).filter((option) =>
    isConnected[option] === undefined ? isUnusable(connections.get(option)) : !isConnected[option],
  );
  if (failing.length === 0) return;
  const what = `Barman cannot connect to PostgreSQL by ${failing.join(' and ')}${hostsOf(server, failing)}`;
  collector.find('no-connection', what, `run \`barman check ${barman_server}\` on the Barman host`);
}

function isUnusable(connection: Connection | undefined): boolean {
  return connection !== undefined && 'problem' in connection;
}

/** Judges whether Barman is connected to the leader's cluster, and to a primary if the leader is one. */
function judgeNode(
  { barman_server }: Subject,
  server: DiagnosedServer,
  { cluster, leader }: Leading,
  collector: Collector,
): void {
  const { active_model, status } = server;
  if (status.isInRecovery !== undefined) collector.judged.add('in-recovery');
  if (leader.isPrimary && isReplica(server)) {
    const models = modelsOf(cluster, barman_server);
    const model = models.get(leader.name);
    let remedy = `correct conninfo of [${active_model ?? barman_server}] in barman.conf`;
    if (model === undefined) remedy = addModel(barman_server, cluster.name, models, leader.name);
    else if (model !== active_model)
      remedy = `run \`npm run ledger -- --stage STAGE ${model === null ? `reset ${barman_server}` : `set ${barman_server} ${model}`}\``;
    const what = `Barman is connected to a replica${hostsOf(server, ['conninfo'])}, and the leader is ${leader.name}, a primary`;
    collector.find('in-recovery', what, remedy);
  }
  const seen = { conninfo: status.systemId, streaming_conninfo: status.streamingSystemId };
  const shown = (['conninfo', 'streaming_conninfo'] as const).filter((option) => seen[option] !== undefined);
  if (leader.systemId !== undefined && shown.length > 0) collector.judged.add('other-system');
  const foreign = shown.filter((option) => seen[option] !== leader.systemId);
  const [first] = foreign;
  if (!first || leader.systemId === undefined) return;
  const options = foreign.join(' and ');
  const what = `${options} of ${barman_server} lead${foreign.length === 1 ? 's' : ''} to PostgreSQL with the system identifier ${seen[first]}${hostsOf(server, foreign)}; that of ${leader.name} is ${leader.systemId}`;
  collector.find(
    'other-system',
    what,
    `correct ${options} of [${active_model ?? barman_server}] in barman.conf`,
  );
}

/** Judges by the role that was applied last, where Patroni is not asked. */
function judgeRole(
  { barman_server, clusters, item }: Subject,
  server: DiagnosedServer,
  collector: Collector,
): void {
  if (isAsked(clusters)) return;
  // There is no leader to compare with.
  collector.judged.add('other-system');
  if (server.status.isInRecovery !== undefined) collector.judged.add('in-recovery');
  const isPromotion = item && isSettled(item) && PROMOTED.some((role) => role === item.desired?.role);
  if (!isPromotion || !isReplica(server)) return;
  const what = `Barman is connected to a replica${hostsOf(server, ['conninfo'])}, although the last switch was for a promotion`;
  const section = server.active_model ?? barman_server;
  collector.find('in-recovery', what, `correct conninfo of [${section}] in barman.conf`);
}

/** Returns whether a leader should be known. */
function isAsked(clusters: Subject['clusters']): boolean {
  return clusters.some(({ survey, unseen }) => survey || unseen !== undefined);
}

/** Returns whether Barman takes a replica for the primary. With `primary_conninfo`, it knows that it is one. */
function isReplica({ status, connections }: DiagnosedServer): boolean {
  return status.isInRecovery === true && !connections.has('primary_conninfo');
}

/** Returns the hosts of some connections, in brackets. */
function hostsOf({ connections }: DiagnosedServer, options: readonly ConninfoOption[]): string {
  const hosts = options
    .map((option) => connections.get(option))
    .flatMap((connection) => (connection && 'endpoints' in connection ? connection.endpoints : []))
    .flatMap(({ host, port }) => (host === '' ? [] : `${host} port ${port}`));
  return hosts.length > 0 ? ` (${[...new Set(hosts)].join(', ')})` : '';
}

/** Judges the slot of the node that Barman is connected to. */
function judgeSlot(
  { barman_server, clusters }: Subject,
  server: DiagnosedServer,
  leading: Leading | { readonly unseen: string },
  collector: Collector,
): void {
  const { status, slot_name: name = '' } = server;
  const { slot, currentLsn, segmentSize = 2 ** 24 } = status;
  const isUsed = clusters.every(({ cluster }) => usesSlot(server, cluster)) && usesSlot(server);
  if (isUsed && slot === undefined) return;
  collector.judged.add('slot-missing').add('slot-behind');
  // While the leader is unknown, so is who streams from it.
  if (!('unseen' in leading && isAsked(clusters))) collector.judged.add('slot-inactive');
  if (!isUsed || slot === undefined) return;
  const receive = `barman receive-wal ${barman_server}`;
  if (slot === null) {
    const isPermanent = 'unseen' in leading || leading.survey.slots?.includes(name) !== false;
    const remedy = isPermanent ? `run \`${receive} --create-slot\` on the Barman host` : makePermanent(name);
    collector.find('slot-missing', `the replication slot ${name} does not exist`, remedy);
    return;
  }
  if (slot.restartLsn === undefined) {
    const remedy = `run \`${receive} --drop-slot\`, \`${receive} --create-slot\` and then \`barman backup ${barman_server}\` on the Barman host`;
    collector.find('slot-behind', `PostgreSQL keeps no WAL for the replication slot ${name}`, remedy);
    return;
  }
  const behind = (currentLsn ?? 0) - slot.restartLsn;
  const isBehind = behind > Math.max(SLOT_BEHIND.bytes, SLOT_BEHIND.segments * segmentSize);
  const distance = isBehind ? `, which is ${sizeOf(behind)} behind` : '';
  const observation = 'unseen' in leading ? undefined : leading.survey.observation;
  const isTaken = observation && 'leader' in observation && observation.streaming === false;
  if (!slot.active || isTaken) {
    const what = slot.active
      ? `the replication slot ${name} is in use, and not by Barman${distance}`
      : `nothing streams from the replication slot ${name}${distance}`;
    collector.find('slot-inactive', what, `run \`${receive}\` on the Barman host: it prints why`);
  } else if (isBehind) {
    const remedy = `run \`barman check ${barman_server}\` on the Barman host, and look whether its disk or network is too slow`;
    collector.find('slot-behind', `the replication slot ${name} is ${sizeOf(behind)} behind`, remedy);
  }
}

/** Judges whether the leader's WAL is in the archive. */
function judgeSegments(
  subject: Subject,
  { archived, status }: DiagnosedServer,
  leading: Leading,
  collector: Collector,
): void {
  const { now, barman_server, before } = subject;
  const { name, location } = leading.leader;
  const { segmentSize: size } = status;
  const timeline = timelineOf(leading, before, now);
  if (!archived) {
    collector.notSeen('what is archived: Barman does not show it');
    return;
  }
  if (!timeline || location === undefined || size === undefined) {
    const why = timeline
      ? 'Barman does not show how large a segment is'
      : `${name} does not say how far its WAL has got`;
    collector.notSeen(`whether WAL of the leader is archived: ${why}`);
    return;
  }
  collector.judged.add('timeline-not-archived').add('archive-behind');
  // The number of the segment that is being written; those before it are whole.
  const current = Math.floor(location / size);
  const last = archived.get(timeline.id);
  const remedy = `run \`barman archive-wal ${barman_server}\` on the Barman host, which prints why`;
  if (!last) {
    const age = now - timeline.since;
    const whole = current - Math.floor(timeline.location / size);
    if (age < ARCHIVE_TIME || whole < WHOLE_SEGMENTS) return;
    const what = `no WAL of timeline ${timeline.id} is in the archive, ${ageOf(age)} after it began, and ${name} has written ${whole} segments of it`;
    collector.find('timeline-not-archived', what, remedy);
    return;
  }
  const age = now - last.time;
  const missing = current - segmentNumber(last, size) - 1;
  if (age < ARCHIVE_TIME || missing <= WHOLE_SEGMENTS) return;
  const what = `the archive is ${missing} segments behind ${name}: its last one is ${last.name}, received ${ageOf(age)} ago`;
  collector.find('archive-behind', what, remedy);
}

/** @returns such as `2 MB`, `1.5 GB` */
export function sizeOf(bytes: number): string {
  const mb = bytes / 2 ** 20;
  return mb < 1_024 ? `${Math.round(mb)} MB` : `${(mb / 1_024).toFixed(1)} GB`;
}
