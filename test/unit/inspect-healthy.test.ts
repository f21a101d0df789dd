/** Set-ups in which nothing is wrong: no inspection finds anything in them, however unusual they are. */

import { describe, expect, test } from 'vitest';
import { FINDINGS } from '../../functions/config-switch/inspect/findings.ts';
import { judge, readyOf } from '../../functions/config-switch/inspect/judge.ts';
import type { Survey } from '../../functions/config-switch/patroni/survey.ts';
import {
  ago,
  backup,
  type Change,
  clusterOf,
  conninfos,
  DAY,
  HOUR,
  heardInSites,
  heardOf,
  itemOf,
  judged,
  LEADER,
  LEADERLESS,
  MINUTE,
  MODELS,
  memberOf,
  modelOf,
  NOW,
  nodeOf,
  SEGMENT,
  SURVEY,
  serverOf,
  silentNode,
  standby,
  subjectOf,
  TWO_SITES,
  UNSURVEYED,
  wal,
  without,
} from './subjects.ts';

const members = (change: object): Partial<Survey> => ({
  members: SURVEY.members?.map((member) => ({ ...member, ...change })),
});
const leader = (change: object): Partial<Survey> => ({ leader: { ...LEADER, ...change } });
/** The leader's WAL has got so far, in segments. */
const at = (segments: number): Partial<Survey> => leader({ location: segments * SEGMENT });
const archivedWal = (name: string, age?: number) => ({
  wals: { last_archived_wal_per_timeline: wal(name, age) },
});
const allModels = (host: string, change: object = {}) => ({
  'pg:node1': modelOf(host, change),
  'pg:node2': modelOf(host, change),
  'pg:node3': modelOf(host, change),
});
const ports = { node1: 5433, node2: 5434, node3: 5435 };
const onOneHost: Partial<Survey> = {
  members: Object.entries(ports).map(([name, port]) => memberOf(name, '10.0.1.11', { port })),
};
const modelsByPort = Object.fromEntries(
  Object.entries(ports).map(([name, port]) => [`pg:${name}`, modelOf('', conninfos('10.0.1.11', port))]),
);
const ipv6 = (name: string, host: string) => ({
  [`pg:${name}`]: modelOf('', {
    conninfo: `postgresql://[${host}]/?user=x`,
    ...{ streaming_conninfo: `host=${host}` },
  }),
});

/** More members than are remembered as heard. */
const OTHERS = Array.from({ length: 18 }, (_, index) => [`node${index + 4}`, `10.0.2.${index}`] as const);

/** Neither findings nor doubts. */
const READY: readonly [string, Change][] = [
  ['three members, each with its model', {}],
  [
    'a host name in capitals, and with a dot at the end',
    {
      survey: {
        members: [
          memberOf('node1', 'node1.example'),
          memberOf('node2', 'Node2.Example'),
          memberOf('node3', 'node3.example.'),
        ],
      },
      models: {
        'pg:node1': modelOf('NODE1.example.'),
        'pg:node2': modelOf('node2.example'),
        'pg:node3': modelOf('node3.EXAMPLE'),
      },
    },
  ],
  [
    'IPv6 addresses in other forms',
    {
      survey: {
        members: [memberOf('node1', 'fd00::1'), memberOf('node2', 'fd00::2'), memberOf('node3', 'fd00::a')],
      },
      models: {
        ...ipv6('node1', 'FD00:0:0::1'),
        ...ipv6('node2', 'fd00:0::0:2'),
        ...ipv6('node3', 'fd00::000A'),
      },
    },
  ],
  [
    'an IPv6 address with a zone',
    {
      survey: { members: [memberOf('node1', 'fe80::1%eth0'), ...(SURVEY.members ?? []).slice(1)] },
      models: { 'pg:node1': modelOf('fe80::1%eth0') },
    },
  ],
  [
    'models whose cluster Barman does not show',
    {
      models: {
        'pg:node1': modelOf('10.0.1.11', { cluster: null }),
        'pg:node2': modelOf('10.0.1.12', { cluster: null }),
        'pg:node3': modelOf('10.0.1.13', { cluster: null }),
      },
    },
  ],
  [
    'the port of a pgbouncer on each node',
    {
      models: {
        'pg:node1': modelOf('', conninfos('10.0.1.11', 6432)),
        'pg:node2': modelOf('', conninfos('10.0.1.12', 6432)),
        'pg:node3': modelOf('', conninfos('10.0.1.13', 6432)),
      },
    },
  ],
  [
    'several hosts in each model, among which libpq finds the primary',
    {
      models: allModels('', {
        conninfo: 'host=10.0.1.11,10.0.1.12,10.0.1.13 target_session_attrs=read-write',
        streaming_conninfo: 'host=10.0.1.11,10.0.1.12,10.0.1.13 target_session_attrs=read-write',
      }),
    },
  ],
  [
    'one model with several hosts for all members',
    {
      mapping: { main: { node1: 'pg:all', node2: 'pg:all', node3: 'pg:all' } },
      models: {
        'pg:all': modelOf('', {
          conninfo: 'host=10.0.1.11,10.0.1.12,10.0.1.13 target_session_attrs=primary',
          streaming_conninfo: 'host=10.0.1.11,10.0.1.12,10.0.1.13 target_session_attrs=primary',
        }),
      },
      active_model: 'pg:all',
      item: itemOf('pg:all'),
    },
  ],
  ['members on one host, which differ by port', { survey: onOneHost, models: modelsByPort }],
  [
    'another name than the host in `host`, with `hostaddr`',
    {
      models: {
        'pg:node2': modelOf('', {
          conninfo: 'host=db hostaddr=10.0.1.12',
          streaming_conninfo: 'host=10.0.1.12',
        }),
      },
    },
  ],
  ['a cascading and a synchronous standby', { survey: members({}) }],
  [
    'a member that cannot lead, and has no URL',
    {
      survey: {
        members: SURVEY.members?.map((one) => ({ ...one, canLead: one.name !== 'node3' })),
        nodes: SURVEY.nodes.slice(0, 2),
      },
    },
  ],
  [
    'a member that cannot lead, and has no model',
    {
      survey: {
        members: [...(SURVEY.members ?? []), memberOf('node4', '10.0.1.14', { canLead: false })],
        nodes: [...SURVEY.nodes, nodeOf('node4', '10.0.1.14')],
      },
    },
  ],
  [
    'a leader whose own REST API says nothing of a permanent slot that Barman makes itself',
    {
      config: { create_slot: 'auto' },
      survey: { slots: [] },
    },
  ],
  [
    'WAL that arrives by archive_command only',
    {
      config: { streaming_archiver: false, slot_name: 'barman', streaming_conninfo: null },
      status: { streaming: undefined, streaming_systemid: undefined, replication_slot: null },
      survey: { slots: [] },
    },
  ],
  [
    'WAL that arrives in another way, by the parameter',
    {
      status: { replication_slot: null },
      survey: { slots: [] },
      clusters: [
        {
          cluster: { ...clusterOf().cluster, streaming_archiver_name: null },
          survey: { ...SURVEY, slots: [] },
        },
      ],
    },
  ],
  [
    'Barman without slots',
    {
      config: { slot_name: null },
      status: { replication_slot: null },
      survey: { slots: [] },
    },
  ],
  [
    'an old Patroni, whose slots Barman does not use',
    {
      config: { slot_name: null },
      status: { replication_slot: null },
      survey: { nodes: SURVEY.nodes.map((node) => ({ ...node, version: '3.1.2' })) },
    },
  ],
  [
    'the first Patroni that keeps slots on replicas',
    { survey: { nodes: SURVEY.nodes.map((node) => ({ ...node, version: '3.2.0' })) } },
  ],
  [
    'two Barman servers of one cluster, each with its slot',
    {
      mapping: { main: MODELS, second: MODELS },
      servers: { second: serverOf({ config: { slot_name: 'second' } }) },
      survey: { slots: ['barman', 'second'] },
    },
  ],
  [
    'a second server that is inactive, and had the same slot',
    {
      mapping: { main: MODELS, old: MODELS },
      servers: { old: serverOf({ config: { active: false }, status: {} }) },
    },
  ],
  [
    'a passive copy that no cluster lists',
    {
      servers: { copy: serverOf({ config: { primary_ssh_command: 'ssh barman@a barman' }, status: {} }) },
    },
  ],
  [
    'a server that is listed without members elsewhere',
    {
      clusters: [clusterOf(), clusterOf(LEADERLESS, { main: {} }, 'other')],
    },
  ],
  [
    'primary_conninfo: Barman is connected to a standby on purpose',
    {
      config: { ...conninfos('10.0.1.13'), primary_conninfo: 'host=10.0.1.11' },
      status: { is_in_recovery: true, current_lsn: '0/43000000' },
      models: {
        'pg:node1': modelOf('10.0.1.13', { primary_conninfo: 'host=10.0.1.11' }),
        'pg:node2': modelOf('10.0.1.13', { primary_conninfo: 'host=10.0.1.12' }),
        'pg:node3': modelOf('10.0.1.12', { primary_conninfo: 'host=10.0.1.13' }),
      },
    },
  ],
  [
    'a model with primary_conninfo only: after a failover, Barman is connected to the node of the server',
    {
      models: {
        'pg:node3': modelOf('', {
          ...{ conninfo: null, streaming_conninfo: null },
          primary_conninfo: 'host=10.0.1.13',
        }),
      },
    },
  ],
  [
    'a standby cluster',
    {
      status: { is_in_recovery: true, current_lsn: '0/43000000' },
      survey: { ...leader({ isPrimary: false }), timelineBegan: undefined },
    },
  ],
  [
    'a primary site and a standby site, where the slot waits for its promotion',
    {
      clusters: [
        clusterOf(),
        clusterOf(
          {
            ...standby('b1'),
            members: [memberOf('b1', '10.0.2.11'), memberOf('b2', '10.0.2.12')],
            nodes: [nodeOf('b1', '10.0.2.11'), nodeOf('b2', '10.0.2.12')],
            ...{ slots: [], timelineBegan: undefined },
          },
          { main: { b1: 'pg:b1', b2: 'pg:b2' } },
          'standby',
        ),
      ],
      models: { 'pg:b1': modelOf('10.0.2.11'), 'pg:b2': modelOf('10.0.2.12') },
    },
  ],
  [
    'a weekly backup that took longer than the last one',
    { backups: backup({ end_time: ago(7 * DAY + 20 * HOUR) }) },
  ],
  ['a backup that is as old as it may be', { backups: backup({ end_time: ago(8 * DAY) }) }],
  [
    'an old backup of an earlier timeline, beside a new one',
    { backups: { ...backup(), a: { status: 'DONE', timeline: 4, end_time: ago(9 * DAY) } } },
  ],
  [
    'a backup that waits for WAL, and a failed one',
    {
      backups: {
        ...backup({ status: 'WAITING_FOR_WALS' }),
        b: { status: 'FAILED', timeline: 5, end_time: null },
        c: { status: 'STARTED', timeline: 5, end_time: null },
      },
    },
  ],
  [
    'a monthly backup, by last_backup_maximum_age',
    {
      config: { last_backup_maximum_age: '32 days' },
      backups: backup({ end_time: ago(30 * DAY) }),
    },
  ],
  [
    'a clock of Barman that is an hour ahead',
    {
      ...archivedWal('000000050000000000000042', -HOUR),
      backups: backup({ end_time: ago(-HOUR) }),
    },
  ],
  [
    'a leader at the end of a segment, of which Barman keeps back two',
    {
      ...archivedWal('000000050000000000000042', DAY),
      survey: at(0x45),
    },
  ],
  ['an idle leader', { ...archivedWal('000000050000000000000042', 30 * DAY) }],
  [
    'a bulk load that the archive is far behind, but follows',
    {
      ...archivedWal('000000050000000000000042', 14 * MINUTE),
      survey: at(0x200),
    },
  ],
  [
    'a timeline that began an hour ago, and has written one whole segment',
    {
      wals: { last_archived_wal_per_timeline: wal('000000040000000000000042') },
      backups: backup({ timeline: 5 }),
      survey: { ...at(0x44), timelineBegan: { at: NOW - HOUR, location: 0x43 * SEGMENT + 0xa0 } },
    },
  ],
  [
    'a timeline that began a minute ago, and has written many segments',
    {
      wals: { last_archived_wal_per_timeline: wal('000000040000000000000042') },
      survey: { ...at(0x80), timelineBegan: { at: NOW - MINUTE, location: 0x43 * SEGMENT + 0xa0 } },
    },
  ],
  [
    'a promotion a second ago, of which /history says nothing yet',
    {
      wals: { last_archived_wal_per_timeline: wal('000000040000000000000042') },
      survey: { ...at(0x80), timelineBegan: undefined },
    },
  ],
  [
    'segments of 1 GB',
    {
      status: {
        xlog_segment_size: 2 ** 30,
        ...{ current_lsn: '5/C0000000', replication_slot: ['barman', true, '2/00000000'] },
      },
      ...archivedWal('000000050000000500000001', DAY),
      survey: leader({ location: 0x5c0000000 }),
    },
  ],
  [
    'a slot that is a segment behind, while Barman catches up',
    {
      status: { replication_slot: ['barman', true, '0/42000000'] },
    },
  ],
  [
    'a switch that is unsettled',
    {
      active_model: 'pg:node2',
      item: itemOf('pg:node1', { unsettled_since: ago(HOUR), apply_again_at: ago(-HOUR) }),
    },
  ],
  ['a server that has never been switched', { active_model: null, item: undefined }],
  [
    'a reset that was applied',
    {
      active_model: null,
      item: itemOf('x', {
        applied: { target: 'reset', version: '9', operation_id: 'op', applied_at: ago(DAY) },
      }),
    },
  ],
  [
    'members without a model, if the server itself leads to one of several hosts',
    {
      mapping: { main: { node1: null, node2: null, node3: null } },
      config: {
        conninfo: 'host=10.0.1.11,10.0.1.12,10.0.1.13 target_session_attrs=primary',
        streaming_conninfo: 'host=10.0.1.11,10.0.1.12,10.0.1.13 target_session_attrs=primary',
      },
      ...{ active_model: null, item: undefined },
    },
  ],
  ['a Barman that does not say why a fact is missing', { msg_list: undefined }],
  ['callbacks that name no node', { heard: [] }],
  ['callbacks of all members, by their names', { heard: heardOf('node3', 'node1', 'node2') }],
  [
    'callbacks of all members, by host names with a domain and in capitals',
    { heard: heardOf('NODE1.db.example', 'node2.db.example.', 'Node3') },
  ],
  [
    "callbacks of all members, by Patroni's host and by a URL of its REST API",
    {
      heard: heardOf('pg-a', 'pg-b.db.example', 'pg-c'),
      survey: {
        members: [
          memberOf('node1', 'pg-a.db.example'),
          memberOf('node2', 'pg-b.db.example'),
          memberOf('node3', '10.0.1.13'),
        ],
        nodes: [
          nodeOf('node1', 'pg-a.db.example'),
          nodeOf('node2', 'pg-b.db.example'),
          nodeOf('node3', 'pg-c.db.example'),
        ],
      },
      models: {
        'pg:node1': modelOf('pg-a.db.example'),
        'pg:node2': modelOf('pg-b.db.example'),
      },
    },
  ],
  [
    'callbacks of so many members that the first one has been forgotten',
    {
      heard: heardOf(...Array.from({ length: 20 }, (_, index) => `node${index + 2}`)),
      survey: {
        members: [
          ...(SURVEY.members ?? []),
          ...OTHERS.map(([name, host]) => memberOf(name, host, { canLead: false })),
        ],
        nodes: [...SURVEY.nodes, ...OTHERS.map(([name, host]) => nodeOf(name, host))],
      },
    },
  ],
  [
    'callbacks of all members of two sites with the same names',
    {
      ...TWO_SITES,
      heard: heardInSites(['node1', 'dc1'], ['node2', 'dc1'], ['node1.db.example', 'dc2'], ['node2', 'dc2']),
    },
  ],
  [
    'callbacks of two sites from before clusters were remembered: each may be of either',
    { ...TWO_SITES, heard: heardOf('node1', 'node2') },
  ],
  [
    'callbacks of one cluster that send another scope',
    { heard: heardInSites(['node1', 'other'], ['node2', 'other'], ['node3', 'main']) },
  ],
  [
    'no callback of a member that cannot lead',
    {
      heard: heardOf('node1', 'node2'),
      survey: {
        members: SURVEY.members?.map((one) => ({ ...one, canLead: one.name !== 'node3' })),
      },
    },
  ],
];

describe('nothing is found, noted or doubted with', () => {
  test.each(READY)('%s', (_, change) => {
    const inspection = judged(change);
    const { findings, notes, unseen } = inspection;
    expect({ findings, notes, unseen }).toEqual({ findings: [], notes: [], unseen: [] });
    for (const { cluster } of subjectOf(change).clusters) {
      for (const member of cluster.servers.get('main')?.keys() ?? []) {
        expect(`${member} ${readyOf(member, inspection)}`).toBe(`${member} yes`);
      }
    }
  });
});

/** What may be right or not: without a finding, and not ready for sure. */
const DOUBTED: readonly [string, Change][] = [
  [
    'a switch that runs: Barman may use either model',
    {
      active_model: 'pg:node2',
      item: itemOf('pg:node1', { lease: { token: 'token', expires_at: ago(MINUTE) } }),
    },
  ],
  [
    'an address that follows the leader in all models',
    {
      models: allModels('10.0.1.100'),
      config: conninfos('10.0.1.100'),
    },
  ],
  [
    'one model with such an address for all members',
    {
      mapping: { main: { node1: 'pg:vip', node2: 'pg:vip', node3: 'pg:vip' } },
      models: { 'pg:vip': modelOf('10.0.1.100') },
      active_model: 'pg:vip',
      item: itemOf('pg:vip'),
    },
  ],
  [
    'several hosts in some models, where Patroni is not asked',
    {
      models: {
        'pg:node1': modelOf('10.0.1.11,10.0.1.12'),
        'pg:node2': modelOf('10.0.1.11,10.0.1.12'),
      },
      clusters: [UNSURVEYED],
    },
  ],
  [
    'such an address in the server itself, for two members without a model',
    {
      mapping: { main: { ...MODELS, node1: null, node2: null } },
      config: conninfos('10.0.1.100'),
      ...{ active_model: null, item: undefined },
    },
  ],
  [
    'such an address where Patroni is not asked',
    {
      models: allModels('db.example'),
      clusters: [UNSURVEYED],
    },
  ],
  [
    'DNS names',
    {
      models: {
        'pg:node1': modelOf('node1.example'),
        'pg:node2': modelOf('node2.example'),
        'pg:node3': modelOf('node3.example'),
      },
    },
  ],
  [
    'a pgbouncer where members share a host',
    {
      survey: onOneHost,
      models: { ...modelsByPort, 'pg:node2': modelOf('', conninfos('10.0.1.11', 6432)) },
    },
  ],
  ['members without a model', { mapping: { main: { ...MODELS, node2: null, node3: null } } }],
  [
    'a member that is down for an hour',
    {
      survey: {
        ...without('node3'),
        nodes: [...SURVEY.nodes.slice(0, 2), silentNode('10.0.1.13', 'ECONNREFUSED')],
      },
      before: judge({ ...subjectOf({ survey: without('node3') }), now: NOW - HOUR }),
    },
  ],
  [
    'a member that was stopped',
    {
      survey: {
        members: [
          ...(SURVEY.members?.slice(0, 2) ?? []),
          memberOf('node3', '10.0.1.13', { isRunning: false }),
        ],
      },
    },
  ],
  [
    'a member whose PostgreSQL was stopped just now',
    {
      survey: { nodes: [...SURVEY.nodes.slice(0, 2), nodeOf('node3', '10.0.1.13', { isRunning: false })] },
    },
  ],
  [
    'a REST API that did not answer this time',
    {
      survey: {
        nodes: [...SURVEY.nodes.slice(0, 2), silentNode('10.0.1.13', 'time-out')],
      },
    },
  ],
  ['an unknown leader', { survey: LEADERLESS }],
  [
    'an unknown leader, while all nodes are replicas',
    {
      survey: LEADERLESS,
      status: { is_in_recovery: true },
    },
  ],
  [
    'no answer of Patroni',
    {
      survey: {
        ...LEADERLESS,
        ...{ members: undefined, slots: undefined },
        observation: { unknown: 'no node answered: 10.0.1.11:8008: time-out' },
        nodes: SURVEY.nodes.map((node) => ({
          ...node,
          member: undefined,
          isRunning: false,
          error: 'time-out',
        })),
      },
    },
  ],
  ['no URLs of Patroni', { clusters: [UNSURVEYED] }],
  [
    'two primaries, in two clusters',
    {
      clusters: [clusterOf(), clusterOf(leader({ name: 'node1', timeline: 6 }), { main: MODELS }, 'second')],
    },
  ],
  ['Barman before 3.10, without models', { models: undefined }],
  ['Barman that shows no WAL and no backups', { wals: undefined, backups: undefined }],
  [
    'facts of another form',
    {
      status: { is_in_recovery: 'no', streaming: 'yes', replication_slot: {}, xlog_segment_size: '16MB' },
      backups: backup({ end_time: 'yesterday' }),
      wals: 7,
    },
  ],
  [
    'no status at all',
    { status: Object.fromEntries(Object.keys(serverOf().status).map((key) => [key, undefined])) },
  ],
  [
    'a model that inherits a connection',
    {
      models: { 'pg:node2': modelOf('10.0.1.12', { streaming_conninfo: null }) },
    },
  ],
  [
    'a model without primary_conninfo, if the server has one',
    {
      config: { ...conninfos('10.0.1.13'), primary_conninfo: 'host=10.0.1.100' },
      status: { is_in_recovery: true },
      models: {
        'pg:node1': modelOf('10.0.1.13'),
        'pg:node2': modelOf('10.0.1.13'),
        'pg:node3': modelOf('10.0.1.12'),
      },
    },
  ],
  [
    'a service file',
    {
      models: { 'pg:node2': modelOf('10.0.1.12', { conninfo: 'service=node2' }) },
    },
  ],
  [
    'an option of a newer libpq',
    {
      models: {
        'pg:node2': modelOf('', {
          conninfo: 'host=10.0.1.12 new_option=1',
          streaming_conninfo: 'host=10.0.1.12',
        }),
      },
    },
  ],
  [
    'a change during the inspection',
    {
      changed: 'the leader has changed meanwhile',
      status: { is_in_recovery: true },
    },
  ],
  ['callbacks of nodes that are no member by name or host', { heard: heardOf('pg-a', 'pg-b') }],
  [
    'a member whose host has another name than all that Patroni says',
    { heard: heardOf('node1', 'node2', 'pg-c') },
  ],
  ['host names that look like the first number of an address', { heard: heardOf('10') }],
  [
    'no callback of a member that does not run yet',
    {
      heard: heardOf('node1', 'node2'),
      survey: {
        members: SURVEY.members?.map((one) => ({ ...one, isRunning: one.name !== 'node3' })),
      },
    },
  ],
  ['callbacks, and no URLs of Patroni', { heard: heardOf('node1', 'pg-b'), clusters: [UNSURVEYED] }],
];

test.each(DOUBTED)('nothing is found with %s', (_, change) => {
  const { findings, notes, unseen } = judged(change);
  expect(findings).toEqual([]);
  expect([...notes, ...unseen]).not.toEqual([]);
});

test('each kind has a sentence for the documentation', () => {
  for (const { means } of Object.values(FINDINGS)) expect(means).toMatch(/^\S.{20,200}\.$/);
});
