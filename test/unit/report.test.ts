/** What the response of an inspection says of what was seen, for `npm run ledger -- check`. */

import * as v from 'valibot';
import { describe, expect, test } from 'vitest';
import type { Inspected, InspectedCluster } from '../../functions/config-switch/inspect/inspect.ts';
import { judge } from '../../functions/config-switch/inspect/judge.ts';
import { InspectionReport, reportOf } from '../../functions/config-switch/inspect/report.ts';
import type { SurveyedCluster } from '../../functions/config-switch/inspect/subject.ts';
import type { Survey } from '../../functions/config-switch/patroni/survey.ts';
import {
  ago,
  backup,
  type Change,
  clusterOf,
  HOUR,
  heardInSites,
  heardOf,
  judged,
  LEADER,
  LEADERLESS,
  MODELS,
  memberOf,
  modelOf,
  NOW,
  nodeOf,
  SURVEY,
  silentNode,
  subjectOf,
  TWO_SITES,
  UNSURVEYED,
  wal,
} from './subjects.ts';

type Server = InspectionReport['servers'][number];
type Member = Server['members'][number];

/** What is other than in a healthy cluster, or why Barman was not seen. */
type Seen = Change & Partial<Pick<Inspected, 'diagnosis'>>;
const BARMAN_UNSEEN: Seen = { diagnosis: { unseen: 'no answer in time' } };
const PARAMETERS = [{ ok: true, name: 'url', text: 'https://barman.example.com/pgbapi' }];
const inspectedCluster = ({ cluster, survey, unseen }: SurveyedCluster): InspectedCluster => ({
  cluster: { ...cluster, secrets: [], patroni: [] },
  ...{ survey, unseen },
});

/** Returns what an inspection has seen: a healthy cluster, with changes. */
function inspected(change: Seen = {}): Inspected {
  const subject = subjectOf(change);
  const { clusters, diagnosis, heard } = subject;
  return {
    ...{ at: NOW, diagnosis, clusters: clusters.map(inspectedCluster) },
    servers: new Map([['main', { paused: false, inspection: judge(subject), heard }]]),
  };
}

/** Returns the report. @throws ValiError if its reader would reject it: also if what was not seen is undefined */
const report = (seen: Inspected): InspectionReport => v.parse(InspectionReport, reportOf(seen, PARAMETERS));

/** Returns the server main of the report. */
function serverOf(change: Seen): Server {
  const [server] = report(inspected(change)).servers;
  if (!server) throw new Error('the report has no server');
  return server;
}
const membersOf = (change: Seen): readonly Member[] => serverOf(change).members;
/** Returns one fact of each member. */
const each = <K extends keyof Member>(key: K, change: Seen): readonly Member[K][] =>
  membersOf(change).map((one) => one[key]);

test('the report of a healthy cluster has all that was seen', () => {
  const [first, second, third] = heardOf('node1', 'node2', 'node3');
  const member = (number: number) => ({
    ...{ member: `node${number}`, cluster: 'main', model: `pg:node${number}` },
    ...{ barman_host: `10.0.1.1${number}`, patroni_host: `10.0.1.1${number}`, slot: 'yes', ready: 'yes' },
  });
  const urls = [1, 2, 3].map((number) => ({
    url: `https://10.0.1.1${number}:8008/`,
    member: `node${number}`,
  }));
  expect(report(inspected({ heard: heardOf('node1', 'node2', 'node3') }))).toEqual({
    at: ago(0),
    parameters: PARAMETERS,
    barman: { version: '3.19.1' },
    clusters: [{ name: 'main', leader: 'node1', timeline: 5, patroni: '4.1.5', urls }],
    servers: [
      {
        ...{ barman_server: 'main', at: ago(0), paused: false },
        members: [
          { ...member(1), callback: first },
          { ...member(2), callback: second },
          { ...member(3), callback: third },
        ],
        archived: { timeline: 5, name: '000000050000000000000042', at: ago(40_000) },
        slot_behind: 0x100,
        backup: { id: '20261128T030000', at: ago(9 * HOUR), timeline: 5 },
        ...{ findings: [], notes: [], unseen: [] },
      },
    ],
  });
});

describe('of Barman there is', () => {
  const seen = inspected();
  test.each<[string, Inspected['diagnosis'], InspectionReport['barman']]>([
    ['its version', subjectOf().diagnosis, { version: '3.19.1' }],
    [
      'no version, if it was not seen',
      { version: undefined, servers: new Map(), models: new Map(), showsModels: true },
      {},
    ],
    ['why it was not seen', { unseen: 'no answer in time' }, { unseen: 'no answer in time' }],
  ])('%s', (_, diagnosis, barman) => {
    expect(report({ ...seen, diagnosis }).barman).toEqual(barman);
  });
});

describe('of a cluster there is', () => {
  type Cluster = InspectionReport['clusters'][number];
  const surveyed = (survey: Partial<Survey>) => clusterOf({ nodes: [], ...survey });
  const known: Cluster = { name: 'main', leader: 'node1', timeline: 5, urls: [] };

  test.each<[string, SurveyedCluster, Cluster]>([
    ['its name, if it has no URLs', UNSURVEYED, { name: 'main', urls: [] }],
    [
      'why it could not be asked',
      { ...UNSURVEYED, unseen: 'clusters/main is malformed' },
      { name: 'main', unseen: 'clusters/main is malformed', urls: [] },
    ],
    [
      'why the leader is unknown',
      surveyed(LEADERLESS),
      { name: 'main', unknown: '10.0.1.12:8008 knows no leader', urls: [] },
    ],
    [
      'the leader without a timeline, if it does not say it',
      surveyed({ leader: { ...LEADER, timeline: undefined } }),
      { name: 'main', leader: 'node1', urls: [] },
    ],
    [
      'the leader only, if it did not answer with its state',
      surveyed({ leader: undefined }),
      { name: 'main', leader: 'node1', urls: [] },
    ],
    [
      "the version of the leader's Patroni, and not another's",
      surveyed({
        nodes: [
          nodeOf('node2', '10.0.1.12', { version: '4.0.0' }),
          nodeOf('node1', '10.0.1.11', { version: '4.1.5' }),
        ],
      }),
      {
        ...{ ...known, patroni: '4.1.5' },
        urls: [
          { url: 'https://10.0.1.12:8008/', member: 'node2' },
          { url: 'https://10.0.1.11:8008/', member: 'node1' },
        ],
      },
    ],
    [
      'no version, if the leader does not say it',
      surveyed({ nodes: [nodeOf('node1', '10.0.1.11', { version: undefined })] }),
      { ...known, urls: [{ url: 'https://10.0.1.11:8008/', member: 'node1' }] },
    ],
    [
      'no version, if a Patroni without a name says it while the leader is unknown',
      surveyed({ ...LEADERLESS, nodes: [nodeOf('', '10.0.1.11', { member: undefined, version: '3.1.2' })] }),
      {
        ...{ name: 'main', unknown: '10.0.1.12:8008 knows no leader' },
        urls: [{ url: 'https://10.0.1.11:8008/' }],
      },
    ],
    [
      'why a URL did not answer',
      surveyed({ nodes: [silentNode('10.0.1.12', 'ECONNREFUSED')] }),
      { ...known, urls: [{ url: 'https://10.0.1.12:8008/', error: 'ECONNREFUSED' }] },
    ],
  ])('%s', (_, cluster, expected) => {
    expect(report({ ...inspected(), clusters: [inspectedCluster(cluster)] }).clusters).toEqual([expected]);
  });

  test('as much as of another one', () => {
    const { clusters } = report(inspected(TWO_SITES));
    expect(clusters.map(({ name, leader }) => [name, leader])).toEqual([
      ['dc1', 'node1'],
      ['dc2', 'node1'],
    ]);
  });
});

describe('of a server there is', () => {
  test('when it was seen, whether it is paused, and what was found and not seen', () => {
    const inspection = {
      ...judged({ backups: {}, survey: { slots: undefined } }),
      ...{ at: ago(HOUR), notes: ['a note'] },
    };
    const servers = new Map([
      ['crm', { paused: true, inspection, heard: [] }],
      ['main', { paused: false, inspection: judged(), heard: [] }],
    ]);
    const { findings, unseen } = inspection;
    expect(findings).toMatchObject([{ kind: 'no-backup' }]);
    expect(unseen).toHaveLength(1);
    expect(report({ ...inspected(), servers }).servers).toEqual([
      {
        ...{ barman_server: 'crm', at: ago(HOUR), paused: true, members: [] },
        ...{ findings, unseen, notes: ['a note'] },
      },
      expect.objectContaining({ barman_server: 'main', at: ago(0), paused: false, findings: [] }),
    ]);
  });

  const last = (...names: readonly string[]): Change => ({
    wals: { last_archived_wal_per_timeline: Object.assign({}, ...names.map((name) => wal(name))) },
  });
  const ended = (hours: number, change: object = {}) => ({
    ...{ status: 'DONE', timeline: 5, end_time: ago(hours * HOUR) },
    ...change,
  });
  const slot = (lsn: string | null): Change => ({ status: { replication_slot: ['barman', true, lsn] } });

  test.each<[string, Seen, Server['archived']]>([
    [
      "the last segment of the leader's timeline, and not of another",
      last('000000040000000000000042', '000000050000000000000041', '000000060000000000000001'),
      { timeline: 5, name: '000000050000000000000041', at: ago(40_000) },
    ],
    ['no segment, if none of that timeline is archived', last('000000040000000000000042'), undefined],
    ['no segment, if the timeline is unknown', { survey: LEADERLESS }, undefined],
    ['no segment, if Barman does not show what is archived', { wals: 7 }, undefined],
    ['no segment, if Barman does not have the server', { servers: null }, undefined],
    ['no segment, if Barman was not seen', BARMAN_UNSEEN, undefined],
  ])('%s', (_, change, expected) => {
    expect(serverOf(change).archived).toEqual(expected);
  });

  test.each<[string, Seen, number | undefined]>([
    ['how far its slot is behind', slot('0/42FFFF00'), 0x200],
    ['no slot that is ahead of where the node was before', slot('0/44000000'), 0],
    ['no distance of a slot that does not exist', { status: { replication_slot: null } }, undefined],
    ['no distance of a slot that PostgreSQL keeps no WAL for', slot(null), undefined],
    ['no distance, if the node does not say where it is', { status: { current_lsn: null } }, undefined],
    ['no distance, if Barman was not seen', BARMAN_UNSEEN, undefined],
  ])('%s', (_, change, expected) => {
    expect(serverOf(change).slot_behind).toBe(expected);
  });

  test.each<[string, Change['backups'], Server['backup']]>([
    [
      'the newest base backup, by its end',
      { a: ended(20), b: ended(9), c: ended(30) },
      { id: 'b', at: ago(9 * HOUR), timeline: 5 },
    ],
    [
      'the newest base backup that can be recovered from',
      { a: ended(20), failed: ended(9, { status: 'FAILED' }), old: ended(40) },
      { id: 'a', at: ago(20 * HOUR), timeline: 5 },
    ],
    [
      'the newest base backup, also while it waits for WAL',
      { a: ended(20), b: ended(9, { status: 'WAITING_FOR_WALS' }) },
      { id: 'b', at: ago(9 * HOUR), timeline: 5 },
    ],
    [
      'the newest base backup with an end, whatever is next to it',
      {
        x: ended(0, { end_time: null }),
        a: ended(20),
        y: ended(0, { end_time: null }),
        b: ended(9),
        z: ended(0, { end_time: null }),
      },
      { id: 'b', at: ago(9 * HOUR), timeline: 5 },
    ],
    [
      'a base backup without a timeline, if Barman does not show it',
      backup({ timeline: null }),
      { id: '20261128T030000', at: ago(9 * HOUR) },
    ],
    ['no base backup without an end', backup({ end_time: null }), undefined],
    ['no base backup, if there is none', {}, undefined],
    ['no base backup, if Barman does not show them', undefined, undefined],
  ])('%s', (_, backups, expected) => {
    expect(serverOf({ backups }).backup).toEqual(expected);
  });

  test('no base backup, if Barman was not seen', () => {
    expect(serverOf(BARMAN_UNSEEN).backup).toBeUndefined();
  });
});

describe('the members of a server', () => {
  const mapping = (models: Record<string, string | null>) => ({ mapping: { main: models } });

  test.each<[string, Seen, readonly string[]]>([
    [
      'are those of Patroni and of the parameter, by name',
      {
        ...mapping({ node9: 'pg:node9', node0: 'pg:node0', node2: 'pg:node2' }),
        survey: { members: [memberOf('node5', '10.0.1.15'), memberOf('node2', '10.0.1.12')] },
      },
      ['node0', 'node2', 'node5', 'node9'],
    ],
    [
      'are without one that cannot lead and has no model',
      {
        ...mapping({ node1: 'pg:node1', node2: 'pg:node2' }),
        survey: {
          members: ['node1', 'node2', 'node3'].map((name) => memberOf(name, '10.0.1.11', { canLead: false })),
        },
      },
      ['node1', 'node2'],
    ],
    [
      'are those of the parameter, if Patroni did not give them',
      { survey: { members: undefined } },
      Object.keys(MODELS),
    ],
    ['are those of the parameter, if Patroni is not asked', { clusters: [UNSURVEYED] }, Object.keys(MODELS)],
    ['are none, where no cluster lists the server', { clusters: [clusterOf({}, { other: MODELS })] }, []],
  ])('%s', (_, change, names) => {
    expect(each('member', change)).toEqual(names);
  });

  test('are listed by cluster', () => {
    expect(membersOf(TWO_SITES)).toMatchObject([
      {
        cluster: 'dc1',
        member: 'node1',
        model: 'pg:node1',
        barman_host: '10.0.1.11',
        patroni_host: '10.0.1.11',
      },
      {
        cluster: 'dc1',
        member: 'node2',
        model: 'pg:node2',
        barman_host: '10.0.1.12',
        patroni_host: '10.0.1.12',
      },
      {
        cluster: 'dc2',
        member: 'node1',
        model: 'pg:dc2-1',
        barman_host: '10.0.2.11',
        patroni_host: '10.0.2.11',
      },
      {
        cluster: 'dc2',
        member: 'node2',
        model: 'pg:dc2-2',
        barman_host: '10.0.2.12',
        patroni_host: '10.0.2.12',
      },
    ]);
  });

  test('have their model: null for none, absent if the parameter does not have them', () => {
    const models = each('model', mapping({ node1: 'pg:node1', node2: null }));
    expect(models).toEqual(['pg:node1', null, undefined]);
  });

  test('have the host by Patroni, if it has one', () => {
    const members = [memberOf('node1', '10.0.1.11'), memberOf('node2', '', { host: undefined })];
    expect(each('patroni_host', { survey: { members } })).toEqual(['10.0.1.11', undefined, undefined]);
  });

  const model = (config: object): Change => ({
    ...mapping({ node1: 'pg:node1' }),
    survey: { members: [memberOf('node1', '10.0.1.11')] },
    models: { 'pg:node1': { config: { cluster: 'main', model: true, ...config } } },
  });
  test.each<[string, Seen, string | undefined]>([
    ['the host of conninfo', model({ conninfo: 'host=a', streaming_conninfo: 'host=b' }), 'a'],
    [
      'the host of streaming_conninfo, if the model sets only that',
      model({ conninfo: null, streaming_conninfo: 'host=b' }),
      'b',
    ],
    ['several hosts, in their order', model({ conninfo: 'host=b,a' }), 'b,a'],
    ['a Unix socket, if no host is given', model({ conninfo: 'dbname=postgres' }), 'Unix socket'],
    ['no host, if the model sets no connection', model({ conninfo: null }), undefined],
    ['no host, if Barman does not show the connections', model({}), undefined],
    ['no host of a conninfo that cannot be used', model({ conninfo: '10.0.1.11:5432' }), undefined],
    ['no host of a conninfo whose service may have it', model({ conninfo: 'service=main' }), undefined],
    ['no host of no model', { ...model({ conninfo: 'host=a' }), ...mapping({ node1: null }) }, undefined],
    [
      'no host of a model that Barman does not have',
      { ...model({}), ...mapping({ node1: 'pg:gone' }) },
      undefined,
    ],
    ['no host, if Barman was not seen', { ...model({}), ...BARMAN_UNSEEN }, undefined],
  ])("have by Barman's model %s", (_, change, host) => {
    expect(each('barman_host', change)).toEqual([host]);
  });

  const withoutStreaming = clusterOf();
  test.each<[string, Seen, Member['slot']]>([
    ['yes, if Patroni keeps the slot', { survey: { slots: ['other', 'barman'] } }, 'yes'],
    ['no, if Patroni keeps only others', { survey: { slots: ['other'] } }, 'no'],
    ['unknown, if Patroni did not give its slots', { survey: { slots: undefined } }, '?'],
    ['unknown, if Patroni is not asked', { clusters: [UNSURVEYED] }, '?'],
    ['unknown, if Barman was not seen', BARMAN_UNSEEN, '?'],
    ['–, if Barman makes the slot by itself', { config: { create_slot: 'auto' } }, '–'],
    ['–, if Barman uses no slot', { config: { slot_name: null } }, '–'],
    ['–, if Barman does not stream', { config: { streaming_archiver: false } }, '–'],
    [
      '–, if WAL of the cluster arrives in another way',
      {
        clusters: [
          { ...withoutStreaming, cluster: { ...withoutStreaming.cluster, streaming_archiver_name: null } },
        ],
      },
      '–',
    ],
    ['–, if Barman does not have the server', { servers: null }, '–'],
  ])('have for their slot: %s', (_, change, slot) => {
    expect(each('slot', change)).toEqual([slot, slot, slot]);
  });

  const first = { node: 'node2', at: ago(HOUR) };
  const removed = { ...judged(), callbacks: heardOf('gone') };
  test.each<[string, Seen, readonly Member['callback'][]]>([
    ['when it was heard, and that others never were', { heard: heardOf('node2') }, [null, first, null]],
    ['that none was ever heard', {}, [null, null, null]],
    [
      'nothing of those that a stranger may be',
      { heard: heardOf('node2', 'stranger') },
      [undefined, first, undefined],
    ],
    [
      'that none was ever heard, but of a member that was removed',
      { heard: heardOf('gone'), before: removed },
      [null, null, null],
    ],
    [
      'when it was heard, of a member that only the parameter has',
      {
        heard: heardOf('node2'),
        survey: { members: SURVEY.members?.filter(({ name }) => name !== 'node2') },
      },
      [null, first, null],
    ],
    [
      'when it was heard in their cluster',
      { ...TWO_SITES, heard: heardInSites(['node2', 'dc2']) },
      [null, null, null, { ...first, cluster: 'dc2' }],
    ],
  ])('have of their callback: %s', (_, change, callbacks) => {
    expect(each('callback', change)).toEqual(callbacks);
  });

  test('are ready or not, or that is unknown', () => {
    const models = { 'pg:node2': modelOf('10.0.1.13') };
    const survey = {
      members: ['node1', 'node2', 'node3'].map((name, index) =>
        memberOf(name, `10.0.1.1${index + 1}`, { isRunning: name !== 'node3' }),
      ),
    };
    expect(each('ready', { models, survey })).toEqual(['yes', 'no', '?']);
    expect(each('ready', BARMAN_UNSEEN)).toEqual(['?', '?', '?']);
  });
});
