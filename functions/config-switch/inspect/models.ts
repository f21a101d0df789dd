/** The rules of the class ready about models: where Barman would connect to after a failover to each member. */

import { isIPv6 } from 'node:net';
import type { Endpoint } from '../barman/conninfo.ts';
import type {
  Connection,
  Connections,
  ConninfoOption,
  DiagnosedModel,
  DiagnosedServer,
  Diagnosis,
} from '../barman/diagnosis.ts';
import type { Members } from '../patroni/cluster.ts';
import type { Member } from '../patroni/survey.ts';
import { listOf } from '../text.ts';
import type { Kind } from './findings.ts';
import type { Collector, Subject, SurveyedCluster } from './subject.ts';

/** What is judged by where a model connects to. */
const BY_CONNECTIONS: readonly Kind[] = [
  'model-connection',
  'model-host',
  'model-host-shared',
  'model-shared',
];
/** What is judged by a model. */
const BY_MODEL: readonly Kind[] = [
  'model-missing',
  'model-of-another-cluster',
  'model-inactive',
  ...BY_CONNECTIONS,
];

/** What the models of one cluster are judged by. */
export interface Mapping {
  readonly subject: Subject;
  readonly surveyed: SurveyedCluster;
  readonly server: DiagnosedServer;
  /** Member → model; null: none, so that the server's own options apply. */
  readonly models: Members;
  /** The models that Barman has; undefined: not seen. */
  readonly known: Diagnosis['models'] | undefined;
}

/** Where Barman would connect to after a failover to a member. */
interface Aim {
  readonly member: string;
  readonly model: string | null;
  /** The section of barman.conf that says so. */
  readonly section: string;
  readonly connections: Connections;
}

/** Judges the model of each member. */
export function judgeModels(mapping: Mapping, collector: Collector): void {
  const aims = [...mapping.models].flatMap(([member, model]): Aim[] => {
    const connections =
      model === null
        ? ownConnections(mapping, member, collector)
        : connectionsOf(mapping, member, model, collector);
    const section = `[${model ?? mapping.subject.barman_server}]`;
    return connections ? [{ member, model, section, connections: judged(connections) }] : [];
  });
  for (const aim of aims) judgeAim(aim, mapping, collector);
  judgeShared(aims, mapping, collector);
}

/** With `primary_conninfo`, the others are those of a standby. */
function judged(connections: Connections): Connections {
  const primary = connections.get('primary_conninfo');
  return primary ? new Map([['primary_conninfo', primary]]) : connections;
}

/** Returns the server's own connections, for a member without a model. Undefined: an active model hides them. */
function ownConnections({ server }: Mapping, member: string, collector: Collector): Connections | undefined {
  if (server.active_model === null) return server.connections;
  const what = 'where Barman connects to without a model: the active one hides it';
  collector.notSeen(what, member, BY_CONNECTIONS);
  return undefined;
}

/** Returns the connections of a model that Barman would apply. */
function connectionsOf(
  mapping: Mapping,
  member: string,
  name: string,
  collector: Collector,
): Connections | undefined {
  const { surveyed, server, known } = mapping;
  const { barman_server } = mapping.subject;
  if (!known) {
    const what = 'its model: Barman before 3.10 has none, or does not show them';
    collector.notSeen(what, member, BY_MODEL);
    return undefined;
  }
  const model = known.get(name);
  if (!model) {
    const names = [...known].flatMap(([one, { cluster }]) => (cluster === server.cluster ? one : []));
    const others = names.length > 0 ? `; it has ${listOf(names)}` : '';
    const remedy = `add [${name}] to barman.conf, or correct its name in clusters/${surveyed.cluster.name}`;
    collector.find('model-missing', `Barman has no model ${name}${others}`, remedy, member);
    return undefined;
  }
  if (model.cluster !== '' && model.cluster !== server.cluster) {
    const what = `its model ${name} is of Barman's cluster ${model.cluster}, and server ${barman_server} of ${server.cluster}`;
    collector.find('model-of-another-cluster', what, remedyOf(mapping, known, name, model), member);
    return undefined;
  }
  judgeState(name, model, member, collector);
  const { connections } = model;
  if (!connections) {
    const what = `where ${name} connects to: Barman does not show the options of models`;
    collector.notSeen(what, member, BY_CONNECTIONS);
    return undefined;
  }
  const missing = neededOf(server, connections).filter((option) => !connections.has(option));
  if (missing.length > 0) {
    const what = `${missing.join(' and ')} of [${name}]: it is not set there, so that of [${barman_server}] applies`;
    collector.notSeen(what, member);
  }
  // Its conninfo may be that of a standby.
  return missing.includes('primary_conninfo') ? undefined : connections;
}

/** Returns the remedy for a model whose cluster is not that of the server. */
function remedyOf(
  { subject, server, models }: Mapping,
  known: Diagnosis['models'],
  name: string,
  { cluster }: DiagnosedModel,
): string {
  const { barman_server } = subject;
  // Without the option, the cluster of a server is its name. If its models agree, it lacks that.
  const named = new Set(models.values());
  const isAlike = [...known].every(([one, model]) => !named.has(one) || model.cluster === cluster);
  return server.cluster === barman_server && isAlike
    ? `set "cluster = ${cluster}" for [${barman_server}] in barman.conf`
    : `set "cluster = ${server.cluster}" for [${name}] in barman.conf`;
}

/** Judges whether a model makes the server idle. */
function judgeState(name: string, model: DiagnosedModel, member: string, collector: Collector): void {
  const { active, disabled } = model;
  if (active !== false && disabled !== true) return;
  const option = active === false ? 'active = false' : 'disabled = true';
  const remedy = `remove "${option}" from [${name}] in barman.conf`;
  collector.find('model-inactive', `its model ${name} has "${option}"`, remedy, member);
}

/** Returns the options that a model has to set, so that Barman uses the right node. */
function neededOf(server: DiagnosedServer, connections: Connections): readonly ConninfoOption[] {
  if (connections.has('primary_conninfo')) return [];
  if (server.connections.has('primary_conninfo')) return ['primary_conninfo'];
  return server.streaming_archiver ? ['conninfo', 'streaming_conninfo'] : ['conninfo'];
}

/** Judges the connections of one member's model. */
function judgeAim(aim: Aim, mapping: Mapping, collector: Collector): void {
  const { member, connections } = aim;
  const members = mapping.surveyed.survey?.members ?? [];
  const own = members.find(({ name }) => name === member);
  const aimed = [...connections].map(([option, connection]) => ({
    option,
    endpoints: endpointsOf(option, connection, aim, collector),
  }));
  if (!own?.host) return;
  const wrong = new Map<Member, Misplaced>();
  const differing: Endpoint[] = [];
  for (const { option, endpoints } of aimed) {
    const [first] = endpoints;
    if (!first) continue;
    const places = endpoints.map((endpoint) => ({ endpoint, of: memberAt(endpoint, members) }));
    if (places.some(({ of }) => of === own)) continue;
    const { endpoint = first, of } = places.find((place) => place.of) ?? {};
    if (of) wrong.set(of, { endpoint, options: [...(wrong.get(of)?.options ?? []), option] });
    else differing.push(first);
  }
  for (const [other, misplaced] of wrong) judgeMisplaced(aim, own, other, misplaced, mapping, collector);
  if (differing.length > 0) noteDifference(aim, own, differing, mapping, collector);
}

/** Options that lead to another member. */
interface Misplaced {
  readonly endpoint: Endpoint;
  readonly options: readonly ConninfoOption[];
}

/** Returns where an option connects to; otherwise says why that is not known. */
function endpointsOf(
  option: ConninfoOption,
  connection: Connection,
  { member, section }: Aim,
  collector: Collector,
): readonly Endpoint[] {
  if ('problem' in connection) {
    const what = `${option} of ${section} ${connection.problem}`;
    collector.find('model-connection', what, `correct ${option} of ${section} in barman.conf`, member);
    return [];
  }
  if (connection.endpoints.length === 0)
    collector.notSeen(`the host in ${option} of ${section}: it is in a service file`, member);
  if (connection.unknown === 0) return connection.endpoints;
  // A newer libpq may know them; or "host" is one of them.
  collector.notSeen(
    `${option} of ${section} has options that libpq 18 does not know: is one misspelt?`,
    member,
  );
  return connection.endpoints.filter(({ host }) => host !== '');
}

function judgeMisplaced(
  { member, model, section }: Aim,
  own: Member,
  other: Member,
  { endpoint, options }: Misplaced,
  { subject, surveyed, models }: Mapping,
  collector: Collector,
): void {
  // Members on one host differ by their port only.
  const withPort = sameHost(own.host, endpoint.host);
  const place = placeText(endpoint, withPort);
  const what = `a failover would set Barman to ${place}, which is ${other.name}`;
  if (models.get(other.name) === model) {
    const shared =
      model === null ? `neither it nor ${other.name} has a model` : `it has the model of ${other.name}`;
    const remedy = `add a model for it to barman.conf, and name it for "${subject.barman_server}" in clusters/${surveyed.cluster.name}`;
    collector.find('model-shared', `${what}, since ${shared}`, remedy, member);
    return;
  }
  const right = placeText(own, withPort);
  const remedy = `correct ${options.join(' and ')} of ${section} in barman.conf: Patroni has ${right} for ${member}`;
  collector.find('model-host', what, remedy, member);
}

/** Notes another host than Patroni's: an address in another network, a VIP, a name. */
function noteDifference(
  { member, section }: Aim,
  own: Member,
  differing: readonly Endpoint[],
  { subject }: Mapping,
  collector: Collector,
): void {
  const seen = subject.before?.connected.find((one) => one.member === member);
  const known = seen
    ? `; Barman was connected through it while ${member} led, on ${seen.at.slice(0, 10)}`
    : '';
  const withPort = differing.some(({ host }) => sameHost(own.host, host));
  const places = new Set(differing.map((endpoint) => placeText(endpoint, withPort)));
  const expected = placeText(own, withPort);
  collector.note(
    `${member}: ${section} connects to ${[...places].join(' and ')}, and Patroni has ${expected}: right if that leads to the same node${known}`,
  );
}

/**
 * Judges whether models lead to the same place, which Patroni does not know. If all do, that may be an address that
 * follows the leader; if only some of those that are known do, one of them was copied and not changed.
 */
function judgeShared(aims: readonly Aim[], { subject, surveyed }: Mapping, collector: Collector): void {
  const { name } = surveyed.cluster;
  const known = aims.filter(({ connections }) => firstEndpoints(connections).length > 0).length;
  for (const [place, group] of groupsOf(aims, surveyed.survey?.members ?? [])) {
    const [first, second] = group;
    if (!first || !second) continue;
    if (group.length === known) {
      collector.note(
        `cluster ${name}: all models connect to ${place}: right if that always leads to the leader`,
      );
      continue;
    }
    for (const { member, model } of group) {
      const other = member === first.member ? second : first;
      if (other.model === model) {
        const remedy = `give each member a model of its own in "${subject.barman_server}" of clusters/${name}`;
        collector.find('model-shared', `its model ${model} is that of ${other.member}, too`, remedy, member);
      } else {
        const what = `its model ${model} and ${other.model} of ${other.member} both connect to ${place}`;
        collector.find('model-host-shared', what, 'correct the wrong one in barman.conf', member);
      }
    }
  }
}

/** Returns where the first option of a model connects to; none if that is not known. */
function firstEndpoints(connections: Connections): readonly Endpoint[] {
  const [connection] = connections.values();
  return connection && 'endpoints' in connection ? connection.endpoints : [];
}

/** Groups models by where they connect to: by their first option, if that is one place, and not a member's. */
function groupsOf(aims: readonly Aim[], members: readonly Member[]): ReadonlyMap<string, readonly Aim[]> {
  const groups = new Map<string, Aim[]>();
  for (const aim of aims) {
    const [endpoint, another] = firstEndpoints(aim.connections);
    // libpq finds the primary among several hosts.
    if (aim.model === null || !endpoint || another || memberAt(endpoint, members)) continue;
    const place = placeText({ host: hostKey(endpoint.host), port: endpoint.port }, true);
    groups.set(place, [...(groups.get(place) ?? []), aim]);
  }
  return groups;
}

/** Returns the member that listens at an endpoint; members on one host differ by port. */
export function memberAt({ host, port }: Endpoint, members: readonly Member[]): Member | undefined {
  const there = members.filter((one) => sameHost(one.host, host));
  return there.length === 1 ? there[0] : there.find((one) => one.port === port);
}

function placeText({ host, port }: Pick<Member, 'host' | 'port'>, withPort: boolean): string {
  return `${host || 'a Unix socket'}${withPort && port !== undefined ? ` port ${port}` : ''}`;
}

function sameHost(one: string | undefined, other: string): boolean {
  return one !== undefined && hostKey(one) === hostKey(other);
}

/** Returns one form of a host: names are the same in capitals and with a dot at the end (RFC 1035), IPv6 has many. */
function hostKey(host: string): string {
  return isIPv6(host)
    ? (URL.parse(`http://[${host}]`)?.hostname ?? host)
    : host.toLowerCase().replace(/\.$/, '');
}
