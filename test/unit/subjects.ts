/** What an inspection may have seen: a healthy cluster, and changes to it. */

import * as v from 'valibot';
import { DiagnoseOutput, readDiagnosis } from '../../functions/config-switch/barman/diagnosis.ts';
import type { Finding } from '../../functions/config-switch/inspect/findings.ts';
import { judge } from '../../functions/config-switch/inspect/judge.ts';
import type { Subject, SurveyedCluster } from '../../functions/config-switch/inspect/subject.ts';
import type { HeardNode } from '../../functions/config-switch/ledger/heard.ts';
import type { Inspection } from '../../functions/config-switch/ledger/inspection.ts';
import type { Item } from '../../functions/config-switch/ledger/item.ts';
import { withoutValue } from '../../functions/config-switch/patroni/cluster.ts';
import type { LeaderState, Member, Node, Survey } from '../../functions/config-switch/patroni/survey.ts';

export const NOW = Date.parse('2026-11-28T12:00:00.000Z');
export const MINUTE = 60_000;
export const HOUR = 60 * MINUTE;
export const DAY = 24 * HOUR;
export const ago = (ms: number) => new Date(NOW - ms).toISOString();
/** Bytes of a segment of WAL. */
export const SEGMENT = 2 ** 24;
export const SYSTEM = '7713359089133147388';

/** `conninfo` and `streaming_conninfo` that lead to a host. */
export const conninfos = (host: string, port = 5432) => ({
  conninfo: `host=${host} port=${port} user=barman password=geheim dbname=postgres`,
  streaming_conninfo: `host=${host} port=${port} user=streaming_barman password=geheim`,
});
export const modelOf = (host: string, change: object = {}) => ({
  config: { cluster: 'main', model: true, ...conninfos(host), ...change },
});
export const wal = (name: string, age = 40_000) => ({
  [name.slice(0, 8)]: { name, time: (NOW - age) / 1_000, size: SEGMENT, compression: null },
});
export const backup = (change: object = {}) => ({
  '20261128T030000': { status: 'DONE', timeline: 5, end_time: ago(9 * HOUR), ...change },
});

/** A Barman server in `/diagnose`, of Barman 3.19.1. */
export const serverOf = ({ config = {}, status = {}, ...change }: RawServer = {}) => ({
  active_model: 'pg:node1',
  msg_list: [],
  wals: { last_archived_wal_per_timeline: wal('000000050000000000000042') },
  backups: backup(),
  ...change,
  config: {
    ...{ cluster: 'main', active: true, disabled: false, primary_ssh_command: null },
    ...{ streaming_archiver: true, slot_name: 'barman', create_slot: 'manual' },
    ...{ last_backup_maximum_age: null, primary_conninfo: null },
    ...conninfos('10.0.1.11'),
    ...config,
  },
  status: {
    ...{ connection_error: null, is_in_recovery: false, streaming: true, timeline: 5 },
    ...{ postgres_systemid: SYSTEM, streaming_systemid: SYSTEM },
    ...{ current_lsn: '0/43000100', xlog_segment_size: SEGMENT },
    replication_slot: ['barman', true, '0/43000000'],
    ...status,
  },
});
export interface RawServer {
  readonly config?: object;
  readonly status?: object;
  readonly active_model?: unknown;
  readonly msg_list?: unknown;
  readonly wals?: unknown;
  readonly backups?: unknown;
}

/** Nodes that were heard an hour ago, and every hour before. */
export const heardOf = (...nodes: readonly string[]): HeardNode[] =>
  nodes.map((node, index) => ({ node, at: ago((index + 1) * HOUR) }));

export const memberOf = (name: string, host: string, change: Partial<Member> = {}): Member => ({
  name,
  host,
  ...{ port: 5432, isRunning: true, canLead: true },
  ...change,
});
export const nodeOf = (member: string, host: string, change: Partial<Node> = {}): Node => ({
  url: new URL(`https://${host}:8008`),
  member,
  ...{ isRunning: true, version: '4.1.5', error: undefined },
  ...change,
});

/** A node that does not answer. */
export const silentNode = (host: string, error: string): Node =>
  nodeOf('', host, { member: undefined, isRunning: false, version: undefined, error });

export const LEADER: LeaderState = {
  ...{ name: 'node1', isPrimary: true, timeline: 5, systemId: SYSTEM },
  location: 0x43 * SEGMENT + 0x100,
};
export const SURVEY: Survey = {
  observation: { leader: 'node1', streaming: true },
  members: [memberOf('node1', '10.0.1.11'), memberOf('node2', '10.0.1.12'), memberOf('node3', '10.0.1.13')],
  nodes: [nodeOf('node1', '10.0.1.11'), nodeOf('node2', '10.0.1.12'), nodeOf('node3', '10.0.1.13')],
  leader: LEADER,
  slots: ['barman'],
  timelineBegan: { at: NOW - 2 * DAY, location: 0x30 * SEGMENT + 0xa0 },
};
/** Members that Patroni has, without some. */
export const without = (...names: readonly string[]): Partial<Survey> => ({
  members: SURVEY.members?.filter(({ name }) => !names.includes(name)),
});
/** The leader is a standby leader. */
export const standby = (name = 'node1'): Partial<Survey> => ({
  observation: { leader: name, isStandby: true },
  leader: { ...LEADER, name, isPrimary: false },
});
/** The leader is unknown. */
export const LEADERLESS: Partial<Survey> = {
  observation: { unknown: '10.0.1.12:8008 knows no leader' },
  ...{ leader: undefined, timelineBegan: undefined },
};

export const MODELS = { node1: 'pg:node1', node2: 'pg:node2', node3: 'pg:node3' };
export const clusterOf = (
  survey: Partial<Survey> | undefined = {},
  servers: Record<string, Record<string, string | null>> = { main: MODELS },
  name = 'main',
): SurveyedCluster => ({
  cluster: {
    name,
    scope: name,
    servers: new Map(Object.entries(servers).map(([one, models]) => [one, new Map(Object.entries(models))])),
    streaming_archiver_name: 'barman_receive_wal',
  },
  survey: survey && { ...SURVEY, ...survey },
});
/** Two sites, dc1 and dc2, with members of the same names; dc1 leads. */
export const TWO_SITES: Pick<Change, 'clusters' | 'models'> = {
  clusters: [
    clusterOf(without('node3'), { main: { node1: 'pg:node1', node2: 'pg:node2' } }, 'dc1'),
    clusterOf(
      {
        ...standby(),
        members: [memberOf('node1', '10.0.2.11'), memberOf('node2', '10.0.2.12')],
        nodes: [nodeOf('node1', '10.0.2.11'), nodeOf('node2', '10.0.2.12')],
        ...{ slots: [], timelineBegan: undefined },
      },
      { main: { node1: 'pg:dc2-1', node2: 'pg:dc2-2' } },
      'dc2',
    ),
  ],
  models: { 'pg:dc2-1': modelOf('10.0.2.11'), 'pg:dc2-2': modelOf('10.0.2.12') },
};
/** The two sites, one of which was seen otherwise. @param site 0: dc1, 1: dc2 */
export const sitesWith = (site: number, survey: Partial<Survey>): Pick<Change, 'clusters' | 'models'> => ({
  ...TWO_SITES,
  clusters: (TWO_SITES.clusters ?? []).map((one, index) =>
    index === site ? { ...one, survey: one.survey && { ...one.survey, ...survey } } : one,
  ),
});
/** Nodes that were heard an hour ago, and every hour before; each is `[node, cluster]`. */
export const heardInSites = (...nodes: readonly (readonly [string, string])[]): HeardNode[] =>
  heardOf(...nodes.map(([node]) => node)).map((one, index) => ({ ...one, cluster: nodes[index]?.[1] ?? '' }));

/** A cluster whose parameter has no URLs. */
export const UNSURVEYED: SurveyedCluster = { ...clusterOf(), survey: undefined };

/** A cluster whose parameter was never read: whether it lists the server is unknown. */
export const NEVER_READ: SurveyedCluster = {
  ...{ cluster: withoutValue('main', 'clusters/main is malformed'), survey: undefined },
  unseen: 'clusters/main is malformed',
};

const applied_at = ago(2 * DAY);
export const itemOf = (model: string, change: Partial<Item> = {}): Item => ({
  barman_server: 'main',
  desired: {
    ...{ target: `model ${model}`, version: `${applied_at}#1`, cluster: 'main', role: 'promoted' },
    recorded_at: applied_at,
  },
  applied: { target: `model ${model}`, version: `${applied_at}#1`, operation_id: 'op', applied_at },
  ...change,
});

/** What is other than in a healthy cluster. */
export interface Change extends RawServer, Partial<Omit<Subject, 'diagnosis' | 'clusters'>> {
  /** Other Barman servers; null: none of them, nor main. */
  readonly servers?: object | null;
  readonly models?: object | undefined;
  readonly survey?: Partial<Survey>;
  /** Barman server → member → model. */
  readonly mapping?: Record<string, Record<string, string | null>>;
  readonly clusters?: readonly SurveyedCluster[];
}

/** Returns what was seen of the server main, with `/diagnose` as it arrives. */
export function subjectOf(change: Change = {}): Subject {
  const { config, status, active_model, msg_list, wals, backups, ...rest } = change;
  const { servers = {}, survey, mapping, ...facts } = rest;
  const given = { config, status, active_model, msg_list, wals, backups };
  const main = serverOf(Object.fromEntries(Object.entries(given).filter(([key]) => key in change)));
  const models = {
    'pg:node1': modelOf('10.0.1.11'),
    'pg:node2': modelOf('10.0.1.12'),
    'pg:node3': modelOf('10.0.1.13'),
  };
  const output = {
    global: { system_info: { barman_ver: '3.19.1' } },
    servers: servers === null ? {} : { main, ...servers },
    ...('models' in change && !change.models ? {} : { models: { ...models, ...change.models } }),
  };
  const { models: _, ...subject } = facts;
  return {
    ...{ barman_server: 'main', item: itemOf('pg:node1'), notReady: undefined, changed: undefined },
    ...{ heard: [], before: undefined, now: NOW },
    clusters: [clusterOf(survey, mapping)],
    diagnosis: readDiagnosis(v.parse(DiagnoseOutput, output)),
    ...subject,
  };
}

/** Judges a healthy cluster with changes. */
export const judged = (change: Change = {}): Inspection => judge(subjectOf(change));

/** Returns what was found. */
export const found = (change: Change = {}): Finding[] =>
  judged(change).findings.map(({ kind, member, what, remedy }) => ({
    kind: kind as Finding['kind'],
    ...(member !== undefined && { member }),
    ...{ what, remedy },
  }));

/** Judges twice, some time apart. @returns the second inspection */
export function judgedTwice(first: Change, second: Change, apart = 15 * MINUTE): Inspection {
  const before = judge({ ...subjectOf(first), now: NOW - apart });
  return judge({ ...subjectOf(second), before });
}
