/** Whether WAL arrives: each kind of finding of the class archived, and what is next to it but healthy. */

import { describe, expect, test } from 'vitest';
import { sizeOf } from '../../functions/config-switch/inspect/archived.ts';
import { classOf, FINDINGS, type Finding } from '../../functions/config-switch/inspect/findings.ts';
import type { Inspection } from '../../functions/config-switch/ledger/inspection.ts';
import type { Item } from '../../functions/config-switch/ledger/item.ts';
import type { Survey } from '../../functions/config-switch/patroni/survey.ts';
import {
  ago,
  type Change,
  clusterOf,
  conninfos,
  DAY,
  found,
  HOUR,
  itemOf,
  judged,
  LEADER,
  LEADERLESS,
  MINUTE,
  MODELS,
  memberOf,
  modelOf,
  NOW,
  SEGMENT,
  SYSTEM,
  standby,
  TWO_SITES,
  UNSURVEYED,
  wal,
} from './subjects.ts';

type Row = readonly [title: string, Change, ...(readonly [Finding['kind'], string, string])[]];

const at = (segments: number): Partial<Survey> => ({ leader: { ...LEADER, location: segments * SEGMENT } });
const began = (age: number) => ({ timelineBegan: { at: NOW - age, location: 0x43 * SEGMENT + 0xa0 } });
const last = (name: string, age?: number) => ({ wals: { last_archived_wal_per_timeline: wal(name, age) } });
const OTHERS = [memberOf('node2', '10.0.1.12'), memberOf('node3', '10.0.1.13')];
const replica = { is_in_recovery: true };
const checkMain = 'run `barman check main` on the Barman host';
const receiveWal = 'run `barman receive-wal main` on the Barman host: it prints why';
const createSlot = 'run `barman receive-wal main --create-slot` on the Barman host';
const cron = 'run `barman archive-wal main` on the Barman host, which prints why';
const set = (model: string) => `run \`npm run ledger -- --stage STAGE set main ${model}\``;
const appliedAt = ago(2 * DAY);
const HIDDEN = { is_in_recovery: undefined };
const slot = (active: boolean, lsn: string | null) => ({
  status: { replication_slot: ['barman', active, lsn] },
});

const ROWS: readonly Row[] = [
  [
    'another model than the one that was applied',
    { active_model: 'pg:node3' },
    [
      'other-model',
      `Barman uses model pg:node3, and model pg:node1 was applied at ${appliedAt}`,
      'run `npm run ledger -- --stage STAGE set main MODEL` with the right model (without one: `reset`)',
    ],
  ],
  [
    'no model, since it is of another cluster',
    {
      active_model: null,
      mapping: { main: { node1: null, node2: null, node3: null } },
      models: { 'pg:node1': modelOf('10.0.1.11', { cluster: 'other' }) },
      clusters: [],
    },
    [
      'other-model',
      `Barman uses no model, and model pg:node1 was applied at ${appliedAt}`,
      'set "cluster = main" for [pg:node1] in barman.conf',
    ],
  ],
  [
    'no model, since it was removed',
    { active_model: null, item: itemOf('pg:gone'), clusters: [] },
    [
      'other-model',
      `Barman uses no model, and model pg:gone was applied at ${appliedAt}`,
      'add [pg:gone] to barman.conf again',
    ],
  ],
  [
    'a model, although none was applied',
    {
      item: itemOf('x', {
        applied: { target: 'reset', version: '9', operation_id: 'op', applied_at: appliedAt },
      }),
    },
    [
      'other-model',
      `Barman uses model pg:node1, and no model was applied at ${appliedAt}`,
      'run `npm run ledger -- --stage STAGE set main MODEL` with the right model (without one: `reset`)',
    ],
  ],
  [
    'that conninfo fails',
    { status: { is_in_recovery: null, replication_slot: null } },
    ['no-connection', 'Barman cannot connect to PostgreSQL by conninfo (10.0.1.11 port 5432)', checkMain],
  ],
  [
    'that streaming_conninfo fails',
    { status: { streaming: null } },
    [
      'no-connection',
      'Barman cannot connect to PostgreSQL by streaming_conninfo (10.0.1.11 port 5432)',
      checkMain,
    ],
  ],
  [
    'that both fail',
    { status: { is_in_recovery: null, streaming: false }, config: { streaming_conninfo: 'host=10.0.1.12' } },
    [
      'no-connection',
      'Barman cannot connect to PostgreSQL by conninfo and streaming_conninfo (10.0.1.11 port 5432, 10.0.1.12 port 5432)',
      checkMain,
    ],
  ],
  [
    'that Barman cannot use its conninfo',
    { status: { is_in_recovery: undefined }, config: { conninfo: '10.0.1.11:5432' } },
    ['no-connection', 'Barman cannot connect to PostgreSQL by conninfo', checkMain],
  ],
  [
    'that a conninfo without a host fails',
    { status: { is_in_recovery: null }, config: { conninfo: 'user=barman dbname=postgres' } },
    ['no-connection', 'Barman cannot connect to PostgreSQL by conninfo', checkMain],
  ],
  [
    'a replica, by the model of the leader',
    { status: replica },
    [
      'in-recovery',
      'Barman is connected to a replica (10.0.1.11 port 5432), and the leader is node1, a primary',
      'correct conninfo of [pg:node1] in barman.conf',
    ],
  ],
  [
    'a replica, by the model of another member',
    {
      ...{ status: replica, active_model: 'pg:node2', config: conninfos('10.0.1.12') },
      item: itemOf('pg:node2'),
    },
    [
      'in-recovery',
      'Barman is connected to a replica (10.0.1.12 port 5432), and the leader is node1, a primary',
      set('pg:node1'),
    ],
  ],
  [
    'a replica, where the leader has no model',
    {
      ...{ status: replica, active_model: 'pg:node2', config: conninfos('10.0.1.12') },
      ...{ item: itemOf('pg:node2'), mapping: { main: { ...MODELS, node1: null } } },
    },
    [
      'in-recovery',
      'Barman is connected to a replica (10.0.1.12 port 5432), and the leader is node1, a primary',
      'run `npm run ledger -- --stage STAGE reset main`',
    ],
  ],
  [
    'a replica, where the parameter does not have the leader',
    {
      ...{ status: replica, active_model: 'pg:node2', config: conninfos('10.0.1.12') },
      ...{ item: itemOf('pg:node2'), mapping: { main: { node2: 'pg:node2', node3: 'pg:node3' } } },
      survey: { members: [memberOf('node1', '10.0.1.11', { canLead: false }), ...OTHERS] },
    },
    [
      'in-recovery',
      'Barman is connected to a replica (10.0.1.12 port 5432), and the leader is node1, a primary',
      'add [pg:node1] to barman.conf, and "node1": "pg:node1" to "main" in clusters/main',
    ],
  ],
  [
    'a replica, of a standby site, while another site is primary',
    {
      status: replica,
      clusters: [clusterOf(), clusterOf(standby(), { main: MODELS }, 'b')],
    },
    [
      'in-recovery',
      'Barman is connected to a replica (10.0.1.11 port 5432), and the leader is node1, a primary',
      'correct conninfo of [pg:node1] in barman.conf',
    ],
  ],
  [
    'a replica after a promotion, where no cluster is described',
    { status: replica, clusters: [] },
    [
      'in-recovery',
      'Barman is connected to a replica (10.0.1.11 port 5432), although the last switch was for a promotion',
      'correct conninfo of [pg:node1] in barman.conf',
    ],
  ],
  [
    'a replica after a promotion, where Patroni is not asked',
    { status: replica, clusters: [UNSURVEYED] },
    [
      'in-recovery',
      'Barman is connected to a replica (10.0.1.11 port 5432), although the last switch was for a promotion',
      'correct conninfo of [pg:node1] in barman.conf',
    ],
  ],
  [
    'another PostgreSQL',
    { status: { postgres_systemid: '1', streaming_systemid: '1' } },
    [
      'other-system',
      `conninfo and streaming_conninfo of main lead to PostgreSQL with the system identifier 1 (10.0.1.11 port 5432); that of node1 is ${SYSTEM}`,
      'correct conninfo and streaming_conninfo of [pg:node1] in barman.conf',
    ],
  ],
  [
    'another PostgreSQL by streaming_conninfo',
    {
      status: { streaming_systemid: '1' },
      config: { streaming_conninfo: 'host=10.0.9.9' },
      ...{ active_model: null, item: undefined },
    },
    [
      'other-system',
      `streaming_conninfo of main leads to PostgreSQL with the system identifier 1 (10.0.9.9 port 5432); that of node1 is ${SYSTEM}`,
      'correct streaming_conninfo of [main] in barman.conf',
    ],
  ],
  [
    'no slot, although it is permanent',
    { status: { replication_slot: null } },
    ['slot-missing', 'the replication slot barman does not exist', createSlot],
  ],
  [
    'no slot, while the leader is unknown',
    { status: { replication_slot: null }, survey: LEADERLESS },
    ['slot-missing', 'the replication slot barman does not exist', createSlot],
  ],
  [
    'no slot, while it is unknown whether it is permanent',
    { status: { replication_slot: null }, survey: { slots: undefined } },
    ['slot-missing', 'the replication slot barman does not exist', createSlot],
  ],
  [
    'a slot that nothing streams from, where no cluster is described',
    { ...slot(false, '0/42000000'), clusters: [] },
    ['slot-inactive', 'nothing streams from the replication slot barman', receiveWal],
  ],
  [
    'a slot that nothing streams from',
    slot(false, '0/42000000'),
    ['slot-inactive', 'nothing streams from the replication slot barman', receiveWal],
  ],
  [
    'a slot that nothing streams from, far behind',
    {
      ...slot(false, '0/42000000'),
      survey: at(0x44),
      status: { current_lsn: '0/83000000', ...slot(false, '0/42000000').status },
    },
    ['slot-inactive', 'nothing streams from the replication slot barman, which is 1.0 GB behind', receiveWal],
  ],
  [
    'a slot that another receiver holds',
    { survey: { observation: { leader: 'node1', streaming: false } } },
    ['slot-inactive', 'the replication slot barman is in use, and not by Barman', receiveWal],
  ],
  [
    'a slot that is far behind',
    { status: { current_lsn: '0/A3000000', ...slot(true, '0/42000000').status } },
    [
      'slot-behind',
      'the replication slot barman is 1.5 GB behind',
      'run `barman check main` on the Barman host, and look whether its disk or network is too slow',
    ],
  ],
  [
    'a slot that PostgreSQL keeps no WAL for',
    slot(false, null),
    [
      'slot-behind',
      'PostgreSQL keeps no WAL for the replication slot barman',
      'run `barman receive-wal main --drop-slot`, `barman receive-wal main --create-slot` and then `barman backup main` on the Barman host',
    ],
  ],
  [
    'no WAL of the timeline',
    { ...last('000000040000000000000042'), survey: { ...at(0x45), ...began(15 * MINUTE) } },
    [
      'timeline-not-archived',
      'no WAL of timeline 5 is in the archive, 15 minutes after it began, and node1 has written 2 segments of it',
      cron,
    ],
  ],
  [
    'no WAL of a timeline that an inspection saw first',
    {
      wals: { last_archived_wal_per_timeline: {} },
      survey: { ...at(0x45), timelineBegan: undefined },
      before: {
        ...judged(),
        timeline: { id: 5, since: ago(3 * HOUR), location: 0x43 * SEGMENT + 0xa0 },
      },
    },
    [
      'timeline-not-archived',
      'no WAL of timeline 5 is in the archive, 3 hours after it began, and node1 has written 2 segments of it',
      cron,
    ],
  ],
  [
    'an archive that is behind',
    { ...last('000000050000000000000042', 15 * MINUTE), survey: at(0x46) },
    [
      'archive-behind',
      'the archive is 3 segments behind node1: its last one is 000000050000000000000042, received 15 minutes ago',
      cron,
    ],
  ],
];

describe('is found', () => {
  test.each(ROWS.map(([title, change, ...rows]) => ({ title, change, rows })))(
    '$title',
    ({ change, rows }) => {
      expect(found(change)).toEqual(rows.map(([kind, what, remedy]) => ({ kind, what, remedy })));
    },
  );

  test('each kind of the class archived', () => {
    const kinds = Object.keys(FINDINGS).filter(
      (kind) => classOf({ kind: kind as Finding['kind'] }) === 'archived',
    );
    expect(new Set(ROWS.flatMap(([, , ...rows]) => rows.map(([kind]) => kind)))).toEqual(new Set(kinds));
  });

  test('a slot that is missing since it is not permanent, with the remedy for that', () => {
    const remedy = 'run `patronictl edit-config -s slots.barman.type=physical` on a database node';
    const findings = found({ status: { replication_slot: null }, survey: { slots: [] } });
    expect(findings.map(({ kind }) => kind)).toEqual(['slot-not-permanent', 'slot-missing']);
    expect(findings.map((one) => one.remedy)).toEqual([remedy, remedy]);
  });
});

/** The callback was called for `always`. */
const FOR_ANY_ROLE: Item['desired'] = {
  ...{ target: 'model pg:node1', version: `${appliedAt}#1`, cluster: 'main' },
  recorded_at: appliedAt,
};
const [DC1 = clusterOf(), DC2 = clusterOf()] = TWO_SITES.clusters ?? [];
const WITHOUT_STREAMING = { ...DC2, cluster: { ...DC2.cluster, streaming_archiver_name: null } };

/** What is next to a finding, and none. */
const NONE: readonly [string, Change][] = [
  [
    'a replica, if the last switch was for a demotion',
    {
      ...{ status: replica, clusters: [] },
      item: itemOf('pg:node1', {
        desired: {
          target: 'model pg:node1',
          version: '1',
          cluster: 'main',
          role: 'replica',
          recorded_at: appliedAt,
        },
      }),
    },
  ],
  [
    'a replica, if a promotion is pending',
    {
      ...{ status: replica, clusters: [] },
      item: itemOf('pg:node1', {
        desired: {
          target: 'model pg:node2',
          version: '9',
          cluster: 'main',
          role: 'promoted',
          recorded_at: appliedAt,
        },
      }),
    },
  ],
  [
    'a replica, if the last switch was for any role',
    { status: replica, clusters: [], item: itemOf('pg:node1', { desired: FOR_ANY_ROLE }) },
  ],
  ['a replica, of a server without an item', { status: replica, clusters: [], item: undefined }],
  [
    'a replica, of a server without a desired state',
    { status: replica, clusters: [], item: { barman_server: 'main' } },
  ],
  [
    'a replica after a promotion, while another switch is in doubt',
    { status: replica, clusters: [], item: itemOf('pg:node1', { unsettled_since: ago(0) }) },
  ],
  [
    'another model, while a switch is in doubt',
    { active_model: 'pg:node2', clusters: [], item: itemOf('pg:node1', { unsettled_since: ago(0) }) },
  ],
  [
    'a replica after a promotion, while Patroni could not be asked',
    { status: replica, clusters: [{ ...UNSURVEYED, unseen: 'malformed' }] },
  ],
  ['a replica after a promotion, while the leader is unknown', { status: replica, survey: LEADERLESS }],
  [
    'another model, while it is applied again',
    {
      active_model: 'pg:node2',
      clusters: [UNSURVEYED],
      item: itemOf('pg:node1', { apply_again_at: ago(0) }),
    },
  ],
  [
    'streaming_conninfo that fails, where Barman does not stream',
    { config: { streaming_archiver: false }, status: { streaming: null } },
  ],
  [
    'a system identifier that the leader did not give',
    { status: { postgres_systemid: '1' }, survey: { leader: { ...LEADER, systemId: undefined } } },
  ],
  [
    'a slot that is 1 GB behind',
    { status: { current_lsn: '0/82000000', ...slot(true, '0/42000000').status } },
  ],
  [
    'a slot that nothing streams from, where WAL of one site arrives in another way',
    { ...slot(false, '0/42000000'), ...TWO_SITES, clusters: [DC1, WITHOUT_STREAMING] },
  ],
  ['a slot whose node does not say where it is', { status: { current_lsn: null } }],
  [
    'a timeline that began 14 minutes ago',
    { ...last('000000040000000000000042'), survey: { ...at(0x80), ...began(15 * MINUTE - 1) } },
  ],
  [
    'a timeline that has written one segment and almost another',
    {
      ...last('000000040000000000000042'),
      survey: { leader: { ...LEADER, location: 0x45 * SEGMENT - 1 }, ...began(DAY) },
    },
  ],
  [
    'an archive that is two segments behind',
    {
      ...last('000000050000000000000042', DAY),
      survey: { leader: { ...LEADER, location: 0x46 * SEGMENT - 1 } },
    },
  ],
  [
    'an archive that is behind, and got a segment 14 minutes ago',
    { ...last('000000050000000000000042', 15 * MINUTE - 1), survey: at(0x80) },
  ],
];

test.each(NONE)('nothing is found with %s', (_, change) => {
  expect(found(change)).toEqual([]);
});

test('the slot of a wrong node is not judged, but the archive is', () => {
  const change = { ...slot(false, '0/42000000'), ...last('000000050000000000000042', DAY), survey: at(0x80) };
  expect(found({ ...change, active_model: 'pg:node3' }).map(({ kind }) => kind)).toEqual([
    'other-model',
    'archive-behind',
  ]);
});

describe('it is not seen', () => {
  test.each<[string, Change, string]>([
    [
      'after a change',
      { changed: 'the leader was node1, and is node2' },
      'whether WAL is archived: the leader was node1, and is node2',
    ],
    [
      'while a switch is pending',
      { status: replica, item: itemOf('pg:node1', { applied: undefined as never }) },
      'whether WAL is archived: the switch to model pg:node1 has not ended yet',
    ],
    [
      'while a switch runs',
      { status: replica, item: itemOf('pg:node1', { lease: { token: 't', expires_at: ago(0) } }) },
      'whether WAL is archived: the switch to model pg:node1 has not ended yet',
    ],
    [
      'whether Barman can connect',
      { status: { is_in_recovery: undefined } },
      'whether Barman can connect to PostgreSQL: it does not show it',
    ],
    ['which WAL is archived', { wals: 7 }, 'what is archived: Barman does not show it'],
    [
      'how large a segment is',
      { status: { xlog_segment_size: null } },
      'whether WAL of the leader is archived: Barman does not show how large a segment is',
    ],
    [
      'how far the leader has got',
      { survey: { leader: { ...LEADER, location: undefined } } },
      'whether WAL of the leader is archived: node1 does not say how far its WAL has got',
    ],
    [
      'who leads',
      { survey: LEADERLESS },
      'whether WAL of the leader is archived: 10.0.1.12:8008 knows no leader',
    ],
    [
      'what the leader says',
      { survey: { leader: undefined } },
      'whether WAL of the leader is archived: node1 did not answer with its state',
    ],
    [
      'which of two primaries leads',
      { clusters: [clusterOf(), clusterOf({}, { main: MODELS }, 'b')] },
      'whether WAL of the leader is archived: several sites have a primary: node1 in main, node1 in b',
    ],
    [
      'which of two sites is primary',
      {
        clusters: [clusterOf(standby()), { ...UNSURVEYED, cluster: { ...UNSURVEYED.cluster, name: 'b' } }],
      },
      'whether WAL of the leader is archived: no site has a leader that is known to be a primary: in main node1 is a standby leader; in b the leader is unknown: clusters/b has no URLs of Patroni',
    ],
  ])('%s', (_, change, what) => {
    expect(found(change)).toEqual([]);
    expect(judged(change).unseen).toContainEqual({ what });
  });
});

test.each<[string, Change, Inspection['unseen']]>([
  [
    'nothing of Barman whose conninfo cannot be used: that is a finding',
    { status: { is_in_recovery: undefined }, config: { conninfo: '10.0.1.11:5432' } },
    [],
  ],
  ['nothing of a leader, where no cluster is described', { clusters: [] }, []],
  [
    'nothing more of the leader, if the members are not seen either',
    { survey: { ...LEADERLESS, members: undefined } },
    [{ what: 'the members of cluster main: 10.0.1.12:8008 knows no leader', member: true }],
  ],
])('what is not seen: %s', (_, change, unseen) => {
  expect(judged(change).unseen).toEqual(unseen);
});

/** Whether what the last inspection has found is still so, is decided by the rules that see all that they need. */
describe('of earlier findings', () => {
  const KINDS = Object.keys(FINDINGS).filter(
    (kind) => classOf({ kind: kind as Finding['kind'] }) === 'archived',
  );
  const findings = KINDS.map((kind) => ({
    ...{ kind, class: 'archived' as const, what: 'earlier', remedy: 'r', since: ago(DAY), counts: true },
  }));
  const NODE = ['in-recovery', 'other-system'];
  const SLOT = ['slot-missing', 'slot-inactive', 'slot-behind'];
  const SEGMENTS = ['timeline-not-archived', 'archive-behind'];

  test.each<[string, Change, readonly string[]]>([
    ['none stay once all is seen to be right', {}, []],
    ['none stay where no cluster is described, but those about segments', { clusters: [] }, SEGMENTS],
    ['all stay after a change', { changed: 'the leader has changed' }, KINDS],
    [
      'those about node and slot stay, if Barman uses another model',
      { active_model: 'pg:node3' },
      [...NODE, ...SLOT],
    ],
    ['those about the slot stay, if Barman uses another node', { status: replica }, SLOT],
    [
      'those about the connection stay, if Barman does not show it',
      { status: HIDDEN },
      ['no-connection', 'in-recovery'],
    ],
    [
      'that about the system stays, if Barman does not show it',
      { status: { postgres_systemid: null, streaming_systemid: null } },
      ['other-system'],
    ],
    [
      'that about the system stays, if the leader does not say it',
      { survey: { leader: { ...LEADER, systemId: undefined } } },
      ['other-system'],
    ],
    [
      'that about a replica stays, if neither Patroni is asked nor Barman shows it',
      { clusters: [UNSURVEYED], status: HIDDEN },
      ['no-connection', 'in-recovery', ...SEGMENTS],
    ],
    ['those about the slot stay, if Barman does not show it', { status: { replication_slot: 7 } }, SLOT],
    ['those about the slot go, if Barman uses none', { config: { slot_name: null } }, []],
    [
      'those about the leader stay while it is unknown',
      { survey: LEADERLESS },
      ['in-recovery', 'other-system', 'slot-inactive', ...SEGMENTS],
    ],
    ['none stay where Patroni is not asked, but those about segments', { clusters: [UNSURVEYED] }, SEGMENTS],
    ['those about segments stay, if Barman does not show them', { wals: 7 }, SEGMENTS],
    [
      'those about segments stay, if Barman does not show their size',
      { status: { xlog_segment_size: null } },
      SEGMENTS,
    ],
    [
      'those about segments stay, if the leader does not say where it is',
      { survey: { leader: { ...LEADER, location: undefined } } },
      SEGMENTS,
    ],
  ])('%s', (_, change, kinds) => {
    const before = { ...judged({ clusters: change.clusters ?? [clusterOf()] }), findings };
    const stay = judged({ ...change, before }).findings.filter(({ what }) => what === 'earlier');
    expect(stay.map(({ kind }) => kind)).toEqual(kinds);
  });
});

test('a timeline is remembered only with where the leader was', () => {
  const since = { timelineBegan: undefined };
  expect(judged({ survey: since }).timeline).toEqual({ id: 5, since: ago(0), location: LEADER.location });
  const survey = { ...since, leader: { ...LEADER, location: undefined } };
  expect(judged({ survey })).not.toHaveProperty('timeline');
});

test.each([
  [0, '0 MB'],
  [2 ** 24, '16 MB'],
  [2 ** 30 - 2 ** 20, '1023 MB'],
  [2 ** 30, '1.0 GB'],
  [1.5 * 2 ** 30, '1.5 GB'],
])('the size of %d bytes is %s', (bytes, text) => {
  expect(sizeOf(bytes)).toBe(text);
});
