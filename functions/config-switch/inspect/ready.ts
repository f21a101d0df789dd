/** The rules of the class ready about the server and its cluster; those about models are in models.ts. */

import { type DiagnosedServer, type Diagnosis, isUsable } from '../barman/diagnosis.ts';
import { timeOf } from '../ledger/item.ts';
import type { Members } from '../patroni/cluster.ts';
import type { Member, Survey } from '../patroni/survey.ts';
import { listOf } from '../text.ts';
import { judgeModels } from './models.ts';
import {
  type Collector,
  lacksMembers,
  leadingOf,
  modelsOf,
  type Subject,
  type SurveyedCluster,
} from './subject.ts';

const DAY = 24 * 3_600_000;
/** Daily inspections may be an hour early or late: what is missing in two of them is missing for this time (ms). */
const MISSING_FOR = 23 * 3_600_000;
/** How old the newest base backup may be where Barman does not say (ms): a weekly one, and a day. */
const BACKUP_AGE = 8 * DAY;
/** From this version on Patroni keeps permanent physical slots on replicas (its release notes). */
const KEEPS_SLOTS = [3, 2] as const;

/** @param subject whose diagnosis was seen @param server undefined: Barman does not have it */
export function judgeServer(
  subject: Subject,
  server: DiagnosedServer | undefined,
  collector: Collector,
): void {
  const { barman_server: name, notReady } = subject;
  if (!server) {
    const remedy = `correct the name in clusters/… and in the callbacks, or add [${name}] to barman.conf; \`barman list-servers\` shows the names`;
    collector.find('server-missing', `Barman has no server ${name}`, remedy);
    return;
  }
  judgeState(name, server, collector);
  if (server.passive) {
    const what = `server ${name} is passive: it copies from another Barman host`;
    collector.find(
      'server-passive',
      what,
      'switch the server of that host instead: change the name in clusters/… and in the callbacks',
    );
  }
  if (notReady !== undefined) {
    const remedy = 'read the error log of pg-backup-api on the Barman host';
    collector.find('operations-unreadable', `the operations of ${name} cannot be read (${notReady})`, remedy);
  }
  if (server.active && !server.passive) judgeBackups(subject, server, collector);
}

/** Judges whether Barman works with the server. */
function judgeState(name: string, server: DiagnosedServer, collector: Collector): void {
  if (!server.active) {
    collector.find(
      'server-inactive',
      `server ${name} is inactive`,
      `set "active = true" for it in barman.conf`,
    );
  }
  const check = `run \`barman check ${name}\` on the Barman host`;
  if (server.errors > 0) {
    const count = server.errors === 1 ? 'an error' : `${server.errors} errors`;
    const disabled = server.disabled ? ', and has disabled it' : '';
    const what = `Barman finds ${count} in the configuration of ${name}${disabled}`;
    collector.find('server-errors', what, `${check}, which prints them`);
  } else if (server.disabled) {
    // Barman 3.13 does not say why.
    const remedy = `${check}; if it prints no error of the configuration, remove "disabled" from its active model in barman.conf`;
    collector.find('server-disabled', `server ${name} is disabled`, remedy);
  }
}

function judgeBackups(
  subject: Subject,
  { backups, maximumBackupAge = BACKUP_AGE }: DiagnosedServer,
  collector: Collector,
): void {
  const { barman_server, now } = subject;
  if (!backups) {
    collector.notSeen('its base backups: Barman does not show them', undefined, ['no-backup', 'backup-old']);
    return;
  }
  const usable = backups.filter(isUsable);
  const remedy = `run \`barman backup ${barman_server}\` on the Barman host`;
  if (usable.length === 0) {
    collector.find('no-backup', `there is no base backup of ${barman_server}`, remedy);
    return;
  }
  const ends = usable.flatMap(({ end }) => end ?? []);
  const age = now - Math.max(...ends);
  if (ends.length === 0)
    collector.notSeen('when its base backups ended: Barman does not show it', undefined, ['backup-old']);
  else if (age > maximumBackupAge) {
    const what = `the newest base backup of ${barman_server} ended ${ageOf(age)} ago; the maximum age is ${ageOf(maximumBackupAge)}`;
    collector.find('backup-old', what, remedy);
  }
  const leading = leadingOf(subject);
  if ('unseen' in leading) return;
  const { leader, survey } = leading;
  const isOnTimeline = usable.some(({ timeline = leader.timeline }) => timeline === leader.timeline);
  if (leader.timeline === undefined || isOnTimeline) return;
  const since = survey.timelineBegan && ` (${ageOf(now - survey.timelineBegan.at)})`;
  collector.note(
    `no base backup on timeline ${leader.timeline} yet${since ?? ''}; a recovery replays WAL across the failover`,
  );
}

/** Judges one cluster of the server. @param server undefined: not seen, or Barman does not have it */
export function judgeCluster(
  subject: Subject,
  surveyed: SurveyedCluster,
  server: DiagnosedServer | undefined,
  collector: Collector,
): void {
  const { barman_server, diagnosis } = subject;
  const { cluster, survey, unseen } = surveyed;
  const models = modelsOf(cluster, barman_server);
  if (survey) judgeMembership(subject, cluster.name, survey, models, collector);
  else collector.notSeen(`Patroni: ${unseen ?? `clusters/${cluster.name} has no URLs`}`, true);
  if (lacksMembers(surveyed)) keepCounting(subject, models, collector);
  if ('unseen' in diagnosis || !server) return;
  const { models: known, showsModels } = diagnosis;
  judgeModels({ subject, surveyed, server, models, known: showsModels ? known : undefined }, collector);
  if (usesSlot(server, cluster)) judgeSlot(subject, surveyed, server, diagnosis, collector);
}

/** Goes on counting for how long members have been missing or silent, if that cannot be seen now. */
function keepCounting({ before }: Subject, models: Members, collector: Collector): void {
  for (const name of models.keys()) {
    if (before?.missing.some(({ member }) => member === name)) collector.missing.add(name);
    if (before?.silent?.some(({ member }) => member === name)) collector.silent.add(name);
  }
}

/** Judges whether parameter and Patroni have the same members, and whether each can be asked. */
function judgeMembership(
  subject: Subject,
  cluster: string,
  { members, nodes, observation }: Survey,
  models: Members,
  collector: Collector,
): void {
  const { barman_server } = subject;
  if (!members) {
    const why = 'unknown' in observation ? observation.unknown : 'no node lists them';
    collector.notSeen(`the members of cluster ${cluster}: ${why}`, true);
    return;
  }
  for (const { name, canLead } of members) {
    if (models.has(name) || !canLead) continue;
    const remedy = addModel(barman_server, cluster, models, name);
    collector.find('member-without-model', `it has no model for server ${barman_server}`, remedy, name);
  }
  for (const { name, isRunning } of members) {
    // The other members may not know it yet.
    if (isRunning && nodes.find(({ member }) => member === name)?.isRunning !== false) continue;
    collector.notSeen('whether it is ready: it does not run now', name);
  }
  judgeUrls(subject, cluster, members, nodes, collector);
  const names = members.map(({ name }) => name);
  for (const member of models.keys()) {
    if (!names.includes(member)) judgeMissing(subject, cluster, member, names, collector);
  }
}

/** Returns the remedy for a member that has no model for a server: one that is named as the others are. */
export function addModel(barman_server: string, cluster: string, models: Members, member: string): string {
  const [prefix = 'pg:'] = [...models].flatMap(([one, model]) =>
    model?.endsWith(one) ? model.slice(0, -one.length) : [],
  );
  const model = `${prefix}${member}`;
  return `add [${model}] to barman.conf, and "${member}": "${model}" to "${barman_server}" in clusters/${cluster}`;
}

/** Judges whether the REST API of each member that runs is among the URLs, and answers. */
function judgeUrls(
  subject: Subject,
  cluster: string,
  members: readonly Member[],
  nodes: Survey['nodes'],
  collector: Collector,
): void {
  const unnamed = nodes.filter(({ member, error }) => member === undefined && error === undefined);
  if (unnamed.length > 0) {
    const hosts = listOf(unnamed.map(({ url }) => url.host));
    collector.notSeen(`which members answer at ${hosts}: this Patroni does not give its name`, true);
    return;
  }
  const failed = nodes.flatMap(({ url, error }) => (error === undefined ? [] : `${url.host}: ${error}`));
  for (const { name, isRunning, canLead } of members) {
    if (!isRunning || nodes.some(({ member }) => member === name)) continue;
    if (failed.length === 0) {
      const remedy = `add the URL of its REST API to "patroni" in clusters/${cluster}`;
      if (canLead) collector.find('member-without-url', 'no URL of the cluster leads to it', remedy, name);
      continue;
    }
    collector.silent.add(name);
    const time = timeSince(subject.before?.silent, name, subject.now);
    if (time < MISSING_FOR) {
      const what = `its REST API did not answer (${failed.join(', ')})`;
      collector.notSeen(what, name, ['member-without-url']);
    } else {
      const what = `its REST API has not answered for ${ageOf(time)} (${failed.join(', ')})`;
      const remedy = `correct its URL in "patroni" of clusters/${cluster}, or let the function reach it (patroni-hosts, patroni-port)`;
      collector.find('member-unreachable', what, remedy, name);
    }
  }
}

/** Judges a member that Patroni does not have. @param names of those that it has */
function judgeMissing(
  { before, now }: Subject,
  cluster: string,
  member: string,
  names: readonly string[],
  collector: Collector,
): void {
  collector.missing.add(member);
  const time = timeSince(before?.missing, member, now);
  if (time < MISSING_FOR) {
    collector.notSeen('Patroni does not have it now: it is down, or its name is misspelt', member);
    return;
  }
  const what = `Patroni has not had it for ${ageOf(time)}, and has ${listOf(names) || 'no members'}`;
  collector.find(
    'member-unknown',
    what,
    `correct its name in clusters/${cluster}, or remove it there`,
    member,
  );
}

/** Returns for how long a member has been in a list (ms). */
function timeSince(
  list: readonly { readonly member: string; readonly since: string }[] | undefined,
  member: string,
  now: number,
): number {
  return now - timeOf(list?.find((one) => one.member === member)?.since, now);
}

/** Returns whether Barman streams from a slot of its own. */
export function usesSlot(
  { active, passive, streaming_archiver, slot_name }: DiagnosedServer,
  cluster?: SurveyedCluster['cluster'],
): boolean {
  const streams = active && !passive && streaming_archiver && cluster?.streaming_archiver_name !== null;
  return streams && slot_name !== undefined;
}

/** Judges whether the members keep Barman's replication slot. @param server that uses one */
function judgeSlot(
  { barman_server, clusters }: Subject,
  { cluster, survey }: SurveyedCluster,
  { slot_name: slot = '', createsSlot }: DiagnosedServer,
  { servers }: Diagnosis,
  collector: Collector,
): void {
  const sharing = [...cluster.servers.keys()].filter((other) => {
    const one = other === barman_server ? undefined : servers.get(other);
    return one?.slot_name === slot && usesSlot(one);
  });
  if (sharing.length > 0) {
    const what = `the servers ${listOf([barman_server, ...sharing])} have the same slot_name ${slot}`;
    const remedy = 'give each its own slot_name in barman.conf, and a permanent slot in Patroni';
    collector.find('slot-shared', what, remedy);
  }
  if (createsSlot || !survey?.members) return;
  judgeVersions(survey, collector);
  // A standby site may have it from its promotion on only (`cluster_type: primary`): until then, nothing streams.
  const isSite = clusters.length > 1;
  if (isSite && survey.leader?.isPrimary === false) return;
  if (!survey.slots || (isSite && !survey.leader)) {
    const why = survey.slots ? 'its leader is unknown' : '/config of Patroni did not answer';
    const what = `the permanent slots of cluster ${cluster.name}: ${why}`;
    collector.notSeen(what, true, ['slot-not-permanent']);
  } else if (!survey.slots.includes(slot)) {
    const others = survey.slots.length > 0 ? `; it has ${listOf(survey.slots)}` : '';
    const what = `Patroni has no permanent slot ${slot}${others}`;
    collector.find('slot-not-permanent', what, makePermanent(slot));
  }
}

/** Returns the remedy for a slot that Patroni does not keep. */
export function makePermanent(slot: string): string {
  return `run \`patronictl edit-config -s slots.${slot}.type=physical\` on a database node`;
}

function judgeVersions({ nodes }: Survey, collector: Collector): void {
  const old = nodes.filter(({ version }) => version !== undefined && !keepsSlots(version));
  const [first] = old;
  if (!first) {
    if (nodes.some(({ version }) => version === undefined)) collector.unjudged.push({ kind: 'patroni-old' });
    return;
  }
  const what = `Patroni ${first.version} keeps no slots on replicas (${listOf(old.map(({ url }) => url.host))})`;
  collector.find('patroni-old', what, 'update Patroni to 3.2 or newer');
}

function keepsSlots(version: string): boolean {
  const [major = 0, minor = 0] = version.split('.').map((part) => Number.parseInt(part, 10));
  return !(major < KEEPS_SLOTS[0] || (major === KEEPS_SLOTS[0] && minor < KEEPS_SLOTS[1]));
}

/** @param ms @returns such as `40 minutes`, `3 hours`, `12 days`, rounded down */
export function ageOf(ms: number): string {
  const minutes = Math.max(0, Math.floor(ms / 60_000));
  const [count, unit] =
    minutes < 120
      ? [minutes, 'minute']
      : minutes < 48 * 60
        ? [Math.floor(minutes / 60), 'hour']
        : [Math.floor(minutes / 1_440), 'day'];
  return `${count} ${unit}${count === 1 ? '' : 's'}`;
}
