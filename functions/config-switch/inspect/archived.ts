/** The rules of the class archived: whether WAL of the leader arrives in Barman's archive now. */

import { type DiagnosedServer, segmentNumber } from '../barman/diagnosis.ts';
import { type Item, isLeased, isPending, timeOf } from '../ledger/item.ts';
import type { LeaderState, Survey } from '../patroni/survey.ts';
import { nameOf, parseTarget, targetText } from '../target.ts';
import { ageOf } from './ready.ts';
import type { Collector, Subject } from './subject.ts';

/** How long WAL may take from its writing to the archive (ms): Barman's cron runs every minute. */
const ARCHIVE_TIME = 15 * 60_000;
/**
 * Barman keeps the newest whole segment until the next one has begun, and the one before until cron has run. So
 * after two whole segments of a timeline one of them must be there, and one more than that may be missing.
 */
const WHOLE_SEGMENTS = 2;
/** How far a slot may be behind: bytes, or segments if that is more. */
const SLOT_BEHIND = { bytes: 2 ** 30, segments: 16 };

/** What a finding of this class is about; with another leader or target, it is another finding. */
export interface Archive {
  readonly leader: LeaderState | undefined;
  readonly timeline: { readonly id: number; readonly since: number; readonly location: number } | undefined;
}

/** Returns the leader's timeline, and since when: by Patroni, or as the first inspection that saw it. */
export function archiveOf({ clusters, before, now }: Subject): Archive {
  // In several clusters, it is not known which of the leaders counts.
  const surveys = clusters.flatMap(({ survey }) => survey ?? []);
  const [survey, ...others] = surveys;
  if (!survey || others.length > 0) return { leader: undefined, timeline: undefined };
  return { leader: survey.leader, timeline: timelineOf(survey, before, now) };
}

function timelineOf(
  { leader, timelineBegan }: Survey,
  before: Subject['before'],
  now: number,
): Archive['timeline'] {
  const { timeline: id, location } = leader ?? {};
  if (id === undefined || location === undefined) return undefined;
  if (timelineBegan) return { id, since: timelineBegan.at, location: timelineBegan.location };
  const seen = before?.timeline;
  return seen?.id === id
    ? { id, since: timeOf(seen.since, now), location: seen.location }
    : { id, since: now, location };
}

/** @param subject whose diagnosis was seen @param server that is active and not passive */
export function judgeArchive(subject: Subject, server: DiagnosedServer, collector: Collector): void {
  const { barman_server, item, changed } = subject;
  if (changed !== undefined) {
    collector.notSeen(`whether WAL is archived: ${changed}`);
    return;
  }
  const { leader, timeline } = archiveOf(subject);
  judgeModel(item, server, collector);

  const { status, connections, streaming_archiver } = server;
  const check = `run \`barman check ${barman_server}\` on the Barman host`;
  const isConnected = status.isInRecovery !== undefined;
  const failing = [
    ...(isConnected ? [] : ['conninfo']),
    ...(streaming_archiver && connections.has('streaming_conninfo') && status.streaming !== true
      ? ['streaming_conninfo']
      : []),
  ];
  if (failing.length > 0) {
    const what = `Barman cannot connect to PostgreSQL by ${failing.join(' and ')}${hostsOf(server, failing)}`;
    collector.find('no-connection', what, check);
  }
  const isPrimary = leader ? leader.isPrimary : promotes(item);
  if (status.isInRecovery && isPrimary && !connections.has('primary_conninfo')) {
    const who = leader
      ? `the leader is ${leader.name}, a primary`
      : `${nameOf(appliedTarget(item))} was applied for a primary`;
    collector.find(
      'in-recovery',
      `Barman is connected to a replica${hostsOf(server, ['conninfo'])}, and ${who}`,
      leader
        ? `correct conninfo of the model of ${leader.name} in barman.conf`
        : 'correct conninfo of that model in barman.conf',
    );
  }
  for (const [option, id] of [
    ['conninfo', status.systemId],
    ['streaming_conninfo', status.streamingSystemId],
  ] as const) {
    if (id === undefined || leader?.systemId === undefined || id === leader.systemId) continue;
    collector.find(
      'other-system',
      `${option} leads to a PostgreSQL with the system identifier ${id}${hostsOf(server, [option])}; that of ${leader.name} is ${leader.systemId}`,
      `correct ${option} in barman.conf, of ${nameOf(appliedTarget(item))} or of [${barman_server}]`,
    );
  }
  if (isConnected) judgeSlot(subject, server, collector);
  judgeSegments(subject, server, leader, timeline, collector);
}

/** Judges whether Barman uses what was applied. While something may still change that, nothing is said. */
function judgeModel(item: Item | undefined, { active_model }: DiagnosedServer, collector: Collector): void {
  if (!item?.applied || isPending(item) || isLeased(item) || item.unsettled_since !== undefined) return;
  const active = targetText(active_model === null ? { reset: true } : { model: active_model });
  if (active === item.applied.target) return;
  const [now, applied] = [active, item.applied.target].map((target) => nameOf(parseTarget(target)));
  collector.find(
    'other-model',
    `Barman uses ${now}, and ${applied} was applied at ${item.applied.applied_at}`,
    `if someone has set it by hand, run \`npm run ledger -- --stage STAGE set ${item.barman_server} …\` with the right one; ` +
      'if the model was removed from barman.conf, add it again',
  );
}

/** Returns whether the last role change was a promotion, so that Barman must be connected to a primary. */
function promotes(item: Item | undefined): boolean {
  const { role = '' } = item?.desired ?? {};
  return item !== undefined && !isPending(item) && ['primary', 'promoted', 'master'].includes(role);
}

function appliedTarget(item: Item | undefined) {
  return parseTarget(item?.applied?.target ?? 'reset');
}

/** Returns the hosts of some connections, in brackets. */
function hostsOf({ connections }: DiagnosedServer, options: readonly string[]): string {
  const hosts = [...connections]
    .filter(([option]) => options.includes(option))
    .flatMap(([, connection]) => ('endpoints' in connection ? connection.endpoints : []))
    .map(({ host, port }) => `${host || 'a Unix socket'} port ${port}`);
  return hosts.length > 0 ? ` (${[...new Set(hosts)].join(', ')})` : '';
}

function judgeSlot(
  { barman_server, clusters }: Subject,
  { status, slot_name, streaming_archiver }: DiagnosedServer,
  collector: Collector,
): void {
  const { slot, currentLsn, segmentSize = 2 ** 24 } = status;
  const isStreamed =
    streaming_archiver && clusters.every(({ cluster }) => cluster.streaming_archiver_name !== null);
  if (!isStreamed || slot_name === undefined || slot === undefined) return;
  if (slot === null) {
    collector.find(
      'slot-missing',
      `the replication slot ${slot_name} does not exist`,
      `make it permanent in Patroni: \`patronictl edit-config -s slots.${slot_name}.type=physical\``,
    );
    return;
  }
  if (!slot.active) {
    collector.find(
      'slot-inactive',
      `nothing streams from the replication slot ${slot_name}`,
      `run \`barman receive-wal ${barman_server}\` on the Barman host: it prints why`,
    );
  }
  const behind = (currentLsn ?? 0) - (slot.restartLsn ?? Number.NEGATIVE_INFINITY);
  if (behind > Math.max(SLOT_BEHIND.bytes, SLOT_BEHIND.segments * segmentSize)) {
    const what = Number.isFinite(behind)
      ? `the replication slot ${slot_name} is ${sizeOf(behind)} behind`
      : `PostgreSQL has given up the WAL of the replication slot ${slot_name}`;
    collector.find(
      'slot-behind',
      what,
      `run \`barman receive-wal ${barman_server}\` on the Barman host: it prints why`,
    );
  }
}

/** Judges whether the leader's WAL is in the archive. */
function judgeSegments(
  { now, barman_server }: Subject,
  { archived, status }: DiagnosedServer,
  leader: LeaderState | undefined,
  timeline: Archive['timeline'],
  collector: Collector,
): void {
  const { segmentSize: size } = status;
  if (!archived) {
    collector.notSeen('what is archived: Barman does not show it');
    return;
  }
  if (!timeline || leader?.location === undefined || size === undefined) return;
  const written = Math.floor(leader.location / size);
  const last = archived.get(timeline.id);
  const remedy = `run \`barman cron\` and \`barman check ${barman_server}\` on the Barman host, and look for full disks and for files in errors/`;
  if (!last) {
    const whole = written - Math.floor(timeline.location / size);
    if (now - timeline.since < ARCHIVE_TIME || whole < WHOLE_SEGMENTS) return;
    const what = `no WAL of timeline ${timeline.id} is in the archive, ${ageOf(now - timeline.since)} after it began, and ${leader.name} has written ${whole} segments of it`;
    collector.find('timeline-not-archived', what, remedy);
    return;
  }
  const missing = written - segmentNumber(last, size) - 1;
  if (missing <= WHOLE_SEGMENTS || now - last.time < ARCHIVE_TIME) return;
  const what = `the archive is ${missing} segments behind ${leader.name}: its last one is ${last.name}, written ${ageOf(now - last.time)} ago`;
  collector.find('archive-behind', what, remedy);
}

/** @returns such as `2 MB`, `1.5 GB` */
export function sizeOf(bytes: number): string {
  const mb = bytes / 2 ** 20;
  return mb < 1_024 ? `${Math.round(mb)} MB` : `${(mb / 1_024).toFixed(1)} GB`;
}
