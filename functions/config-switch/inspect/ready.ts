/** The rules of the class ready: what a failover to each member would lack. */

import type { DiagnosedModel, DiagnosedServer, Diagnosis } from '../barman/diagnosis.ts';
import { timeOf } from '../ledger/item.ts';
import type { Member, Survey } from '../patroni/survey.ts';
import { listOf } from '../text.ts';
import type { Collector, Subject, SurveyedCluster } from './subject.ts';

const DAY = 24 * 3_600_000;
/** Daily inspections may be an hour early or late: what is missing in two of them is missing for this time (ms). */
const MISSING_FOR = 23 * 3_600_000;
/** How old the newest base backup may be where Barman does not say (ms): a weekly one, and a day. */
const BACKUP_AGE = 8 * DAY;
/** Statuses of a base backup that can be recovered from (barman.infofile, `BackupInfo.STATUS_COPY_DONE`). */
const USABLE = ['DONE', 'WAITING_FOR_WALS'];
/** From this version on Patroni keeps permanent physical slots on replicas (its release notes). */
const KEEPS_SLOTS = [3, 2] as const;

/** @param subject whose diagnosis was seen @param server undefined: Barman does not have it */
export function judgeServer(
  subject: Subject,
  server: DiagnosedServer | undefined,
  collector: Collector,
): void {
  const { barman_server, notReady } = subject;
  if (!server) {
    collector.find(
      'server-missing',
      `Barman has no server ${barman_server}`,
      `correct its name in clusters/… and in the callbacks, or add [${barman_server}] to barman.conf; \`barman list-servers\` shows the names`,
    );
    return;
  }
  const edit = (option: string) => `set "${option}" for [${barman_server}] in barman.conf`;
  if (!server.active) {
    collector.find('server-inactive', `Barman's server ${barman_server} is inactive`, edit('active = true'));
  }
  if (server.errors > 0) {
    const what = `Barman finds ${server.errors === 1 ? 'an error' : `${server.errors} errors`} in the configuration of ${barman_server}`;
    collector.find('server-errors', what, `run \`barman check ${barman_server}\` on the Barman host`);
  } else if (server.disabled) {
    collector.find(
      'server-disabled',
      `Barman's server ${barman_server} is disabled`,
      edit('disabled = false'),
    );
  }
  if (server.passive) {
    collector.find(
      'server-passive',
      `Barman's server ${barman_server} is passive: it copies from another Barman host`,
      'list the server of that host in clusters/…, not this one',
    );
  }
  if (notReady !== undefined) {
    collector.find(
      'operations-unreadable',
      notReady,
      'read the error log of pg-backup-api on the Barman host',
    );
  }
  if (server.active && !server.passive) judgeBackups(subject, server, collector);
}

function judgeBackups(
  { barman_server, clusters, now }: Subject,
  { backups, maximumBackupAge }: DiagnosedServer,
  collector: Collector,
): void {
  if (!backups) {
    collector.notSeen('its base backups: Barman does not show them');
    return;
  }
  const usable = backups.filter(({ status }) => USABLE.includes(status));
  const newest = usable.reduce((latest, { end = 0 }) => Math.max(latest, end), 0);
  const remedy = `run \`barman backup ${barman_server}\` on the Barman host`;
  const longest = maximumBackupAge ?? BACKUP_AGE;
  if (usable.length === 0) {
    collector.find('no-backup', `there is no base backup of ${barman_server}`, remedy);
  } else if (now - newest > longest) {
    const what = `the newest base backup ended ${ageOf(now - newest)} ago, and at most ${ageOf(longest)} are expected`;
    collector.find('backup-old', what, remedy);
  }
  const [survey] = clusters.flatMap((one) => one.survey ?? []);
  const timeline = survey?.leader?.timeline;
  if (timeline !== undefined && usable.length > 0 && !usable.some((backup) => backup.timeline === timeline)) {
    const since = survey?.timelineBegan;
    collector.note(
      `no base backup on timeline ${timeline} yet${since ? ` (${ageOf(now - since.at)})` : ''}; a recovery replays WAL across the failover`,
    );
  }
}

/** Judges the members of one cluster. @param server undefined: not seen, or Barman does not have it */
export function judgeMembers(
  subject: Subject,
  { cluster, survey }: SurveyedCluster,
  server: DiagnosedServer | undefined,
  collector: Collector,
): void {
  const { barman_server, diagnosis, before } = subject;
  const models = cluster.servers.get(barman_server) ?? new Map<string, string | null>();
  if (survey) judgeMembership(subject, cluster.name, survey, models, collector);
  if ('unseen' in diagnosis || !server) return;

  for (const [member, name] of models) {
    const [twin] = [...models].find(([other, model]) => other !== member && model === name) ?? [];
    if (twin !== undefined) {
      collector.find(
        'model-shared',
        name === null
          ? `it has no model, and neither has ${twin}`
          : `its model ${name} is that of ${twin}, too`,
        `give each member a model of its own in "${barman_server}" of clusters/${cluster.name}`,
        member,
      );
    }
    if (name === null) continue;
    const model = diagnosis.models.get(name);
    if (!model) {
      const own = [...diagnosis.models].filter(([, one]) => one.cluster === server.cluster);
      const known = listOf(own.map(([one]) => one));
      collector.find(
        'model-missing',
        `Barman has no model ${name}`,
        `add [${name}] to barman.conf, or correct it in clusters/${cluster.name}${known && `; models of this server: ${known}`}`,
        member,
      );
    } else if (model.cluster !== server.cluster) {
      collector.find(
        'model-of-another-cluster',
        `the model ${name} belongs to Barman's cluster ${model.cluster}, and the server ${barman_server} to ${server.cluster}`,
        `set "cluster = ${server.cluster}" for [${name}] in barman.conf`,
        member,
      );
    } else {
      judgeConnections({ member, name, model, members: survey?.members, before }, collector);
    }
  }
  judgeSharedHosts(models, diagnosis, collector);
  judgeSlot(subject, { cluster, survey }, server, collector);
}

/** Judges whether parameter and Patroni have the same members, and whether each can be asked. */
function judgeMembership(
  { barman_server, before, now }: Subject,
  cluster: string,
  { members, nodes, observation }: Survey,
  models: ReadonlyMap<string, string | null>,
  collector: Collector,
): void {
  if (!members) {
    const why = 'unknown' in observation ? observation.unknown : 'no node answered';
    collector.notSeen(`the members of cluster ${cluster}: ${why}`, true);
    return;
  }
  const missingFor = (member: string) =>
    now - timeOf(before?.missing.find((one) => one.member === member)?.since, now);
  for (const { name, canLead, isRunning } of members) {
    if (!models.has(name) && canLead) {
      const model = modelLike(models, name);
      collector.find(
        'member-without-model',
        `it has no model for Barman server ${barman_server}`,
        `add [${model}] to barman.conf, and "${name}": "${model}" to "${barman_server}" in clusters/${cluster}`,
        name,
      );
    }
    if (!isRunning || nodes.some((node) => node.member === name && node.isRunning)) continue;
    collector.missing.add(name);
    const silent = nodes.filter(({ error }) => error !== undefined);
    if (silent.length === 0) {
      collector.find(
        'member-without-url',
        'none of the URLs is that of its REST API',
        `add it to "patroni" in clusters/${cluster}`,
        name,
      );
    } else {
      const errors = silent.map(({ url, error }) => `${url.host}: ${error}`).join(', ');
      if (missingFor(name) < MISSING_FOR) collector.notSeen(`its REST API did not answer (${errors})`, name);
      else {
        collector.find(
          'member-unreachable',
          `its REST API has not answered for a day (${errors})`,
          `check its URL in "patroni" of clusters/${cluster}, and that the function may reach it (patroni-hosts, patroni-port)`,
          name,
        );
      }
    }
  }
  for (const member of models.keys()) {
    if (members.some(({ name }) => name === member)) continue;
    collector.missing.add(member);
    const days = missingFor(member);
    if (days >= MISSING_FOR) {
      collector.find(
        'member-unknown',
        `Patroni has not had it for ${ageOf(days)}; members: ${listOf(members.map(({ name }) => name))}`,
        `correct its name in clusters/${cluster}, or remove it there`,
        member,
      );
    } else {
      collector.notSeen('Patroni does not have it now: it is down, or its name is misspelt', member);
    }
  }
}

/** Returns a name for the model of a new member, like those of the others. */
function modelLike(models: ReadonlyMap<string, string | null>, member: string): string {
  const pattern = [...models].find(([name, model]) => model?.includes(name));
  return pattern ? (pattern[1] ?? '').replace(pattern[0], () => member) : `pg:${member}`;
}

/** A model, and the member that it is for. */
interface MemberModel {
  readonly member: string;
  readonly name: string;
  readonly model: DiagnosedModel;
  /** The members that Patroni has; undefined: not seen. */
  readonly members: readonly Member[] | undefined;
  readonly before: Subject['before'];
}

/** Judges where a model connects to. */
function judgeConnections({ member, name, model, members, before }: MemberModel, collector: Collector): void {
  const { connections } = model;
  if (!connections) {
    collector.notSeen(`what ${name} connects to: Barman does not show the options of models`, member);
    return;
  }
  const own = members?.find((one) => one.name === member);
  // With primary_conninfo, the others are those of a standby.
  const primary = connections.get('primary_conninfo');
  const judged = primary ? ([['primary_conninfo', primary]] as const) : [...connections];
  const differing = new Set<string>();
  for (const [option, connection] of judged) {
    if ('problem' in connection) {
      const remedy = `correct ${option} of [${name}] in barman.conf`;
      collector.find(
        'model-connection',
        `${option} of its model ${name} ${connection.problem}`,
        remedy,
        member,
      );
      continue;
    }
    if (connection.endpoints.length === 0)
      collector.notSeen(`the host in ${option} of ${name}: it is in a service file`, member);
    if (connection.unknown > 0) {
      collector.note(
        `${option} of [${name}] has options that libpq 18 does not know: look for a misspelt one`,
      );
    }
    if (!members || !own?.host) continue;
    const places = connection.endpoints.map((endpoint) => ({ endpoint, of: memberAt(endpoint, members) }));
    if (places.some(({ of }) => of?.name === member)) continue;
    const wrong = places.find(({ of }) => of !== undefined);
    const [first] = places;
    if (wrong?.of) {
      // Members on one host differ by their port only.
      const withPort = wrong.of.host === own.host;
      const text = ({ host, port }: Place) => `${host || 'a Unix socket'}${withPort ? ` port ${port}` : ''}`;
      collector.find(
        'model-host',
        `a failover would set Barman to ${text(wrong.endpoint)}, which is ${wrong.of.name}; Patroni has ${text(own)} for ${member}`,
        `correct ${option} of [${name}] in barman.conf`,
        member,
      );
    } else if (first) {
      differing.add(first.endpoint.host || 'a Unix socket');
    }
  }
  if (differing.size > 0 && own?.host) {
    const seen = before?.connected.find((one) => one.member === member);
    const known = seen
      ? `; Barman was connected through it while ${member} led, on ${seen.at.slice(0, 10)}`
      : '';
    collector.note(
      `${member}: its model ${name} connects to ${[...differing].join(' and ')}, and Patroni has ${own.host}: right if that is the same node${known}`,
    );
  }
}

/** A host and port, of an endpoint or of a member. */
interface Place {
  readonly host: string | undefined;
  readonly port: number | undefined;
}

/** Returns the member that listens at a place; members on one host differ by port. */
function memberAt({ host, port }: Place, members: readonly Member[]): Member | undefined {
  const there = members.filter((one) => one.host?.toLowerCase() === host?.toLowerCase());
  return there.length === 1 ? there[0] : there.find((one) => one.port === port);
}

/** Judges whether two models are the same place. */
function judgeSharedHosts(
  models: ReadonlyMap<string, string | null>,
  diagnosis: Diagnosis,
  collector: Collector,
): void {
  const first = new Map<string, readonly [member: string, model: string]>();
  for (const [member, name] of models) {
    const connection = diagnosis.models.get(name ?? '')?.connections?.get('conninfo');
    if (name === null || !connection || 'problem' in connection || connection.endpoints.length === 0)
      continue;
    const place = connection.endpoints
      .map(({ host, port }) => `${host.toLowerCase()} port ${port}`)
      .join(', ');
    const [other, model] = first.get(place) ?? [];
    first.set(place, first.get(place) ?? [member, name]);
    if (other === undefined || model === name) continue;
    collector.find(
      'model-host-shared',
      `its model ${name} and ${model} of ${other} both connect to ${place}`,
      `correct conninfo of one of them in barman.conf`,
      member,
    );
  }
}

/** Judges whether the members keep Barman's replication slot. */
function judgeSlot(
  subject: Subject,
  { cluster, survey }: SurveyedCluster,
  server: DiagnosedServer,
  collector: Collector,
): void {
  const { barman_server, diagnosis } = subject;
  const { slot_name: slot, createsSlot, streaming_archiver, passive } = server;
  const usesSlot = streaming_archiver && cluster.streaming_archiver_name !== null && !passive;
  if (!usesSlot || slot === undefined || 'unseen' in diagnosis) return;

  const sharing = [...cluster.servers].filter(([other, { size }]) => {
    const one = diagnosis.servers.get(other);
    return (
      other !== barman_server && size > 0 && one?.streaming_archiver && !one.passive && one.slot_name === slot
    );
  });
  if (sharing.length > 0) {
    collector.find(
      'slot-shared',
      `the Barman servers ${listOf([barman_server, ...sharing.map(([other]) => other)])} have the same slot_name ${slot}`,
      'give each its own slot_name in barman.conf, and a permanent slot in Patroni',
    );
  }
  if (createsSlot || !survey) return;
  if (!survey.slots) {
    collector.notSeen(
      `the permanent slots of cluster ${cluster.name}: Patroni's /config did not answer`,
      true,
    );
  } else if (!survey.slots.includes(slot)) {
    collector.find(
      'slot-not-permanent',
      `Patroni has no permanent slot ${slot}${survey.slots.length > 0 ? `; it has ${listOf(survey.slots)}` : ''}`,
      `run \`patronictl edit-config -s slots.${slot}.type=physical\` on a database node`,
    );
  }
  for (const { member, version } of survey.nodes) {
    if (version === undefined || member === undefined || keepsSlots(version)) continue;
    const what = `its Patroni is ${version}, and keeps no slot on a replica`;
    collector.find('patroni-old', what, 'update Patroni to 3.2 or newer', member);
  }
}

function keepsSlots(version: string): boolean {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  return major > KEEPS_SLOTS[0] || (major === KEEPS_SLOTS[0] && minor >= KEEPS_SLOTS[1]);
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
