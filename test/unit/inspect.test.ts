/** What an inspection remembers and counts, which members it calls ready, and that nothing makes it fail. */

import fc from 'fast-check';
import * as v from 'valibot';
import { describe, expect, test } from 'vitest';
import { DiagnoseOutput, readDiagnosis } from '../../functions/config-switch/barman/diagnosis.ts';
import { sentenceOf } from '../../functions/config-switch/inspect/findings.ts';
import { judge, readyOf } from '../../functions/config-switch/inspect/judge.ts';
import type { Subject } from '../../functions/config-switch/inspect/subject.ts';
import { readInspection } from '../../functions/config-switch/ledger/inspection.ts';
import type { Survey } from '../../functions/config-switch/patroni/survey.ts';
import {
  ago,
  backup,
  type Change,
  clusterOf,
  DAY,
  HOUR,
  heardInSites,
  heardOf,
  itemOf,
  judged,
  judgedTwice,
  LEADER,
  LEADERLESS,
  MINUTE,
  MODELS,
  memberOf,
  modelOf,
  NEVER_READ,
  NOW,
  nodeOf,
  SEGMENT,
  SURVEY,
  SYSTEM,
  serverOf,
  silentNode,
  sitesWith,
  standby,
  subjectOf,
  TWO_SITES,
  UNSURVEYED,
  wal,
  without,
} from './subjects.ts';

const REFUSED: Change = { status: { is_in_recovery: null } };
/** The archive has not moved for a day. */
const BEHIND: Change = {
  wals: { last_archived_wal_per_timeline: wal('000000050000000000000030', DAY) },
};
const UNREADY: Change = { survey: { slots: [] } };
const ledBy = (name: string): Partial<Survey> => ({
  observation: { leader: name },
  leader: { ...LEADER, name },
});
const silent: Partial<Survey> = {
  nodes: [...SURVEY.nodes.slice(0, 2), silentNode('10.0.1.13', 'time-out')],
};

describe('a finding', () => {
  const [first, second] = [ago(15 * MINUTE), ago(0)];

  test('of the class ready counts at once, and has the time when it was found first', () => {
    expect(judged(UNREADY).findings).toMatchObject([{ class: 'ready', counts: true, since: second }]);
    expect(judgedTwice(UNREADY, UNREADY).findings).toMatchObject([{ since: first, counts: true }]);
    const elsewhere = { ...UNREADY, survey: { ...UNREADY.survey, ...ledBy('node2') } };
    expect(judgedTwice(elsewhere, UNREADY).findings).toMatchObject([{ since: first, counts: true }]);
  });

  test('of the class archived counts once two inspections in a row have it', () => {
    expect(judged(REFUSED).findings).toMatchObject([{ class: 'archived', counts: false, since: second }]);
    expect(judgedTwice(REFUSED, REFUSED).findings).toMatchObject([{ counts: true, since: first }]);
    expect(judgedTwice({}, REFUSED).findings).toMatchObject([{ counts: false, since: second }]);
    expect(judgedTwice({ status: { is_in_recovery: true } }, REFUSED).findings).toMatchObject([
      { kind: 'no-connection', counts: false, since: second },
    ]);
    expect(judgedTwice(REFUSED, {}).findings).toEqual([]);
  });

  test.each<[string, Change]>([
    ['leader', { ...REFUSED, survey: ledBy('node2') }],
    ['leader, which is unknown', { ...REFUSED, survey: LEADERLESS }],
    [
      'applied version',
      { ...REFUSED, item: itemOf('pg:node1', { applied: undefined as never, desired: undefined as never }) },
    ],
  ])('of the class archived does not count after another %s', (_, before) => {
    expect(judgedTwice(before, REFUSED).findings).toMatchObject([{ counts: false, since: second }]);
  });

  test('of the class archived counts without Patroni, too', () => {
    const change = { ...REFUSED, clusters: [] };
    expect(judgedTwice(change, change).findings).toMatchObject([{ counts: true, since: first }]);
  });

  const gone = { is_in_recovery: null, current_lsn: undefined, xlog_segment_size: undefined };
  test.each<[string, Subject]>([
    ['while the leader is unknown', subjectOf({ survey: LEADERLESS })],
    ['while the leader changes', subjectOf({ changed: 'the leader has changed' })],
    ['while Barman cannot connect', subjectOf({ status: gone })],
    ['while Barman cannot be seen', { ...subjectOf(), diagnosis: { unseen: 'no answer' } }],
  ])('of the class archived that counts stays %s, with its time', (_, unseen) => {
    const before = judgedTwice(BEHIND, BEHIND);
    expect(before.findings).toMatchObject([{ kind: 'archive-behind', since: first, counts: true }]);
    const { findings } = judge({ ...unseen, before, now: NOW + 15 * MINUTE });
    expect(findings).toContainEqual(before.findings[0]);
    const after = { ...subjectOf(), before: { ...before, findings }, now: NOW + 30 * MINUTE };
    expect(judge(after).findings).toEqual([]);
  });

  test.each<[string, Change]>([
    ['slot, although the leader is unknown', { survey: LEADERLESS }],
    ['server, since it is inactive', { config: { active: false } }],
  ])('of the class archived goes if it was about a %s', (_, change) => {
    const slot = { status: { replication_slot: null } };
    const before = judgedTwice(slot, slot);
    expect(before.findings).toMatchObject([{ kind: 'slot-missing', counts: true }]);
    const { findings } = judge({ ...subjectOf(change), before, now: NOW + 15 * MINUTE });
    expect(findings.filter((one) => one.class === 'archived')).toEqual([]);
  });

  test('of the class ready that needs only Barman goes once it is repaired, whatever Patroni shows', () => {
    const clusters = [{ ...clusterOf(), survey: undefined, unseen: undefined }];
    const before = judged({ clusters, backups: {} });
    expect(before.findings).toMatchObject([{ kind: 'no-backup' }]);
    expect(judge({ ...subjectOf({ clusters }), before }).findings).toEqual([]);
    const unreachable = { clusters: [{ ...clusterOf(), survey: undefined, unseen: 'time-out' }] };
    expect(judge({ ...subjectOf(unreachable), before }).findings).toEqual([]);
  });

  test('of the class archived goes once another model was applied, whatever can be seen', () => {
    const item = itemOf('pg:node2', { desired: undefined as never });
    const change = { item, changed: 'a switch was made meanwhile' };
    const older = {
      ...REFUSED,
      item: itemOf('pg:node1', { applied: undefined as never, desired: undefined as never }),
    };
    expect(judgedTwice(older, change).findings).toEqual([]);
  });

  test('of a member stays while Patroni cannot be seen, and goes once it can', () => {
    const wrong = { models: { 'pg:node2': modelOf('10.0.1.13') } };
    expect(judgedTwice(wrong, { survey: { members: undefined } }).findings).toMatchObject([
      { kind: 'model-host', member: 'node2', since: first, counts: true },
    ]);
    expect(judgedTwice(wrong, {}).findings).toEqual([]);
  });

  test('has its own time, and stays or goes by itself, whatever is found about other members', () => {
    const one = { models: { 'pg:node2': modelOf('10.0.1.11') } };
    const both = { models: { ...one.models, 'pg:node3': modelOf('10.0.1.11') } };
    expect(judgedTwice(one, both).findings).toMatchObject([
      { kind: 'model-host', member: 'node2', since: first },
      { kind: 'model-host', member: 'node3', since: second },
    ]);
    expect(judgedTwice(both, one).findings).toMatchObject([{ member: 'node2', since: first }]);
    // That of a member that is down stays, and has its own time.
    expect(judgedTwice(both, { ...one, survey: without('node3') }).findings).toMatchObject([
      { kind: 'model-host', member: 'node2', since: first },
      { kind: 'model-host', member: 'node3', since: first },
    ]);
  });

  test('is a sentence, with its member if it has one', () => {
    const [unready] = judged(UNREADY).findings;
    expect(sentenceOf(unready as Parameters<typeof sentenceOf>[0])).toBe(
      'Patroni has no permanent slot barman: run `patronictl edit-config -s slots.barman.type=physical` on a database node',
    );
    const [finding] = judged({ models: { 'pg:node2': modelOf('10.0.1.13') } }).findings;
    expect(sentenceOf(finding as Parameters<typeof sentenceOf>[0])).toBe(
      'node2: a failover would set Barman to 10.0.1.13, which is node3: correct conninfo and streaming_conninfo of [pg:node2] in barman.conf: Patroni has 10.0.1.12 for node2',
    );
  });
});

describe('an earlier finding of the class ready', () => {
  const first = ago(15 * MINUTE);
  const noAnswer = { survey: { members: undefined } };
  const noBarman = { diagnosis: { unseen: 'no answer' } } as Change;
  const noUrls = { clusters: [UNSURVEYED] };
  const noConfig = { survey: { slots: undefined } };
  const noBackups = { backups: undefined };
  const withNode4Listed = { main: { ...MODELS, node4: 'pg:node4' } };
  const wrongHost = { models: { 'pg:node2': modelOf('10.0.1.13') } };
  const withoutNode2 = { main: { node1: 'pg:node1', node3: 'pg:node3' } };
  const missing = { survey: without('node2') };
  const withNode4: Partial<Survey> = {
    members: [...(SURVEY.members ?? []), memberOf('node4', '10.0.1.14')],
    nodes: [...SURVEY.nodes, nodeOf('node4', '10.0.1.14')],
  };
  const unlisted = { survey: withNode4 };
  const oldNode3 = nodeOf('node3', '10.0.1.13', { version: '3.1.2' });
  const node2WithoutModel = { main: { ...MODELS, node2: null } };

  const hosts = { b1: '10.0.2.11', b2: '10.0.2.12', b3: '10.0.2.13' };
  const listed = { b1: 'pg:b1', b2: 'pg:b2', b3: 'pg:b3' };
  const members = Object.entries(hosts).map(([name, host]) => memberOf(name, host));
  const nodes = Object.entries(hosts).map(([name, host]) => nodeOf(name, host));
  const models = { 'pg:b1': modelOf(hosts.b1), 'pg:b2': modelOf(hosts.b2), 'pg:b3': modelOf(hosts.b3) };
  /** A standby site beside the cluster. @param survey what is other there; undefined: it has no URLs */
  const site = (survey: Partial<Survey> | undefined, mapping: Record<string, string> = listed): Change => {
    const one = clusterOf({ ...standby('b1'), members, nodes, ...survey }, { main: mapping }, 'standby');
    return { models, clusters: [clusterOf(), survey ? one : { ...one, survey }] };
  };
  const withWrongHost = (change: Change): Change => ({
    ...change,
    models: { ...models, 'pg:b1': modelOf(hosts.b2) },
  });

  /** What is found, of which kind and member; then what the next inspection sees: all is right there. */
  type Row = readonly [title: string, kind: string, member: string | undefined, found: Change, next: Change];

  test.each<Row>([
    ['no slot, while Patroni does not answer', 'slot-not-permanent', undefined, UNREADY, noAnswer],
    ['no slot, while /config does not answer', 'slot-not-permanent', undefined, UNREADY, noConfig],
    [
      'no slot, while the leader of that site is unknown',
      ...(['slot-not-permanent', undefined] as const),
      sitesWith(0, { slots: [] }),
      sitesWith(0, LEADERLESS),
    ],
    [
      'an old Patroni, while that node does not answer',
      ...(['patroni-old', undefined] as const),
      { survey: { nodes: [...SURVEY.nodes.slice(0, 2), oldNode3] } },
      { survey: silent },
    ],
    ['no backup, while Barman does not show backups', 'no-backup', undefined, { backups: {} }, noBackups],
    [
      'an old backup, while Barman does not show backups',
      ...(['backup-old', undefined] as const),
      { backups: backup({ end_time: ago(9 * DAY) }) },
      noBackups,
    ],
    [
      'an old backup, while Barman does not show when backups ended',
      ...(['backup-old', undefined] as const),
      { backups: backup({ end_time: ago(9 * DAY) }) },
      { backups: backup({ end_time: null }) },
    ],
    [
      'a connection without a model, while an active model hides it',
      ...(['model-connection', 'node2'] as const),
      { mapping: node2WithoutModel, active_model: null, config: { conninfo: 'host' } },
      { mapping: node2WithoutModel },
    ],
    [
      'a model that is missing, while Barman does not show models',
      ...(['model-missing', 'node2'] as const),
      { mapping: { main: { ...MODELS, node2: 'pg:gone' } } },
      { models: undefined },
    ],
    [
      'a wrong host, while Barman does not show the options of models',
      ...(['model-host', 'node2'] as const),
      wrongHost,
      { models: { 'pg:node2': { config: { cluster: 'main' } } } },
    ],
    [
      'no URL, while one of the others does not answer',
      ...(['member-without-url', 'node4'] as const),
      { survey: { ...withNode4, nodes: SURVEY.nodes }, mapping: withNode4Listed },
      { survey: { ...withNode4, ...silent }, mapping: withNode4Listed },
    ],
    [
      'no model, while the parameter was never read, so that it is not known who lists the server',
      ...(['member-without-model', 'node4'] as const),
      unlisted,
      { clusters: [NEVER_READ] },
    ],
    [
      'no slot, while the parameter was never read',
      ...(['slot-not-permanent', undefined] as const),
      UNREADY,
      { clusters: [NEVER_READ] },
    ],
    ['no model, while Patroni does not answer', 'member-without-model', 'node4', unlisted, noAnswer],
    [
      'no model, while Patroni is not asked, since the parameter is malformed',
      ...(['member-without-model', 'node4'] as const),
      unlisted,
      { clusters: [{ ...UNSURVEYED, unseen: 'clusters/main is malformed' }] },
    ],
    [
      'no model, while only the Patroni of the other site answers',
      ...(['member-without-model', 'b2'] as const),
      site({}, { b1: 'pg:b1', b3: 'pg:b3' }),
      site({ members: undefined }),
    ],
    [
      'a model that is missing, while Barman cannot be seen',
      ...(['model-missing', 'node2'] as const),
      { mapping: { main: { ...MODELS, node2: 'pg:gone' } } },
      noBarman,
    ],
    ['a wrong host, while Patroni does not have its member', 'model-host', 'node2', wrongHost, missing],
    [
      'a wrong host, while the Patroni of that site does not have its member',
      ...(['model-host', 'b1'] as const),
      withWrongHost(site({})),
      site({ members: members.slice(1), nodes: nodes.slice(1) }),
    ],
    [
      'a wrong host, while the Patroni of one site does not have its member, and that of the other one its namesake',
      ...(['model-host', 'node2'] as const),
      { ...TWO_SITES, models: { ...TWO_SITES.models, 'pg:dc2-2': modelOf('10.0.2.11') } },
      sitesWith(1, { members: [memberOf('node1', '10.0.2.11')] }),
    ],
  ])('stays with its time if it is %s', (_, kind, member, found, next) => {
    const finding = expect.objectContaining({ kind, ...(member !== undefined && { member }), since: first });
    expect(judgedTwice(found, found).findings).toContainEqual(finding);
    expect(judgedTwice(found, next).findings).toContainEqual(finding);
  });

  test.each<Row>([
    ['a wrong host, after another look', 'model-host', 'b1', withWrongHost(site({})), site({})],
    [
      'a wrong host, and its member is gone, although Barman cannot be seen',
      ...(['model-host', 'node2'] as const),
      wrongHost,
      { ...noBarman, clusters: [clusterOf(missing.survey, withoutNode2)] },
    ],
    [
      'an unknown member that the parameter does not list any more, although Patroni does not answer',
      ...(['member-unknown', 'node2'] as const),
      { ...missing, before: judge({ ...subjectOf(missing), now: NOW - 2 * DAY }) },
      { ...noAnswer, mapping: withoutNode2 },
    ],
    [
      'no model, and the parameter has one now, although Barman cannot be seen',
      ...(['member-without-model', 'node4'] as const),
      unlisted,
      { ...noBarman, clusters: [clusterOf(withNode4, { main: { ...MODELS, node4: 'pg:node4' } })] },
    ],
    [
      'an old Patroni, and all nodes have a newer one',
      ...(['patroni-old', undefined] as const),
      { survey: { nodes: [...SURVEY.nodes.slice(0, 2), oldNode3] } },
      {},
    ],
    [
      'an inactive server that is active now, although the parameter was never read',
      ...(['server-inactive', undefined] as const),
      { config: { active: false } },
      { clusters: [NEVER_READ] },
    ],
    ['no model, and the cluster has no URLs any more', 'member-without-model', 'node4', unlisted, noUrls],
    ['a shared host, without URLs', 'model-host-shared', 'node2', { ...wrongHost, ...noUrls }, noUrls],
    [
      'a shared host of a site without URLs, although the other one has some',
      ...(['model-host-shared', 'b1'] as const),
      withWrongHost(site(undefined)),
      site(undefined),
    ],
  ])('goes if it was %s', (_, kind, member, found, next) => {
    const before = judge({ ...subjectOf(found), now: NOW - 15 * MINUTE });
    const finding = expect.objectContaining({ kind, ...(member !== undefined && { member }) });
    expect(before.findings).toContainEqual(finding);
    expect(judge({ ...subjectOf(next), before }).findings).toEqual([]);
  });
});

describe('the next inspection knows', () => {
  test('leader, applied version, timeline and who was connected', () => {
    expect(judged()).toEqual({
      at: ago(0),
      ...{ findings: [], notes: [], unseen: [], missing: [], silent: [] },
      leader: 'node1',
      applied_version: `${ago(2 * DAY)}#1`,
      connected: [{ member: 'node1', at: ago(0) }],
      callbacks: [],
      timeline: { id: 5, since: ago(2 * DAY), location: 0x30 * SEGMENT + 0xa0 },
    });
  });

  test('nothing of a leader and an applied version, if there are none', () => {
    const inspection = judged({ survey: LEADERLESS, item: undefined });
    expect(Object.keys(inspection)).not.toContain('leader');
    expect(Object.keys(inspection)).not.toContain('applied_version');
  });

  test('which nodes that were heard are a member, or were when they were heard', () => {
    const heard = heardOf('node1', 'node2', 'pg-c');
    const first = judged({ heard });
    expect(first.callbacks).toEqual(heard.slice(0, 2));
    const gone = judged({
      heard,
      before: first,
      survey: without('node2'),
      mapping: { main: { node1: 'pg:node1' } },
    });
    expect(gone.callbacks).toEqual(heard.slice(0, 2));
    // It was heard since: not as that member.
    const again = heardOf('node2', 'node1', 'pg-c');
    expect(
      judged({
        heard: again,
        before: gone,
        survey: without('node2'),
        mapping: { main: { node1: 'pg:node1' } },
      }).callbacks,
    ).toEqual([{ node: 'node1', at: ago(2 * HOUR) }]);
  });

  test('which nodes are members of the parameter, where Patroni is not asked', () => {
    const heard = heardOf('node1', 'pg-b');
    expect(judged({ heard, clusters: [UNSURVEYED] }).callbacks).toEqual(heard.slice(0, 1));
  });

  test('which site the nodes are of', () => {
    const heard = heardInSites(['node1', 'dc1'], ['node1', 'dc2'], ['node2', 'dc3']);
    const first = judged({ ...TWO_SITES, heard });
    expect(first.callbacks).toEqual(heard.slice(0, 2));
    // Its namesake of dc2 was heard at that moment: that says nothing about it.
    const at = heard[1]?.at ?? '';
    const other = { node: 'node1', cluster: 'dc3', at };
    const later = judged({ ...TWO_SITES, heard: [other], before: first });
    expect(later.callbacks).toEqual([]);
  });

  test('all of it from the ledger', () => {
    const inspection = judged({ ...UNREADY, notReady: 'x' });
    expect(readInspection({ inspection: JSON.parse(JSON.stringify(inspection)) })).toEqual(inspection);
  });

  test('since when a member is missing, until it is back', () => {
    const gone = { survey: without('node3') };
    const missing = judgedTwice(gone, gone, HOUR);
    expect(missing.missing).toEqual([{ member: 'node3', since: ago(HOUR) }]);
    expect(missing.findings).toEqual([]);
    expect(judgedTwice(gone, gone, 23 * HOUR).findings).toMatchObject([{ kind: 'member-unknown' }]);
    expect(judged({ before: missing }).missing).toEqual([]);
  });

  test('since when each member is missing', () => {
    const both = { survey: without('node2', 'node3') };
    expect(judgedTwice({ survey: without('node3') }, both, HOUR).missing).toEqual([
      { member: 'node2', since: ago(0) },
      { member: 'node3', since: ago(HOUR) },
    ]);
  });

  test('that a member was missing, although Patroni did not answer meanwhile', () => {
    const before = judgedTwice({ survey: without('node3') }, { survey: { members: undefined } }, 23 * HOUR);
    expect(before.missing).toEqual([{ member: 'node3', since: ago(23 * HOUR) }]);
  });

  test.each<[string, Change]>([
    ['no node answered', { survey: { ...LEADERLESS, members: undefined } }],
    ['the parameter was malformed', { clusters: [{ ...UNSURVEYED, unseen: 'clusters/main is malformed' }] }],
    ['the parameter was never read', { clusters: [NEVER_READ] }],
  ])('that members were missing and silent, although %s meanwhile', (_, meanwhile) => {
    const survey = { ...silent, members: SURVEY.members?.filter(({ name }) => name !== 'node2') };
    const before = judgedTwice({ survey }, meanwhile, 23 * HOUR);
    expect(before.missing).toEqual([{ member: 'node2', since: ago(23 * HOUR) }]);
    expect(before.silent).toEqual([{ member: 'node3', since: ago(23 * HOUR) }]);
    const later = judge({ ...subjectOf({ survey }), before });
    expect(later.findings.map(({ kind }) => kind)).toEqual(['member-unreachable', 'member-unknown']);
  });

  test('of no missing or silent member at first, if the parameter was never read', () => {
    expect(judged({ clusters: [NEVER_READ] })).toMatchObject({ missing: [], silent: [] });
  });

  test('nothing of members that were missing, once the cluster has no URLs', () => {
    const before = judgedTwice({ survey: without('node3') }, { clusters: [UNSURVEYED] }, HOUR);
    expect(before.missing).toEqual([]);
  });

  test('that a member was silent, which is not that it was missing', () => {
    const inspection = judgedTwice({ survey: silent }, { survey: without('node3') }, DAY);
    expect(inspection).toMatchObject({ findings: [], silent: [], missing: [{ since: ago(0) }] });
    expect(judgedTwice({ survey: silent }, { survey: silent }, 23 * HOUR)).toMatchObject({
      findings: [{ kind: 'member-unreachable' }],
      silent: [{ member: 'node3', since: ago(23 * HOUR) }],
    });
  });

  test('when it saw the timeline first, also after an unknown leader', () => {
    const noHistory = { timelineBegan: undefined };
    const seen = { id: 5, since: ago(HOUR), location: LEADER.location };
    expect(judged({ survey: noHistory }).timeline).toEqual({ ...seen, since: ago(0) });
    const later = { ...noHistory, leader: { ...LEADER, location: 0x50 * SEGMENT } };
    expect(judgedTwice({ survey: noHistory }, { survey: later }, HOUR).timeline).toEqual(seen);
    const unknown = judgedTwice({ survey: noHistory }, { survey: LEADERLESS }, HOUR);
    expect(judged({ survey: later, before: unknown }).timeline).toEqual(seen);
    const next = { ...noHistory, leader: { ...LEADER, timeline: 6 } };
    expect(judged({ survey: next, before: unknown }).timeline).toMatchObject({ id: 6, since: ago(0) });
  });

  test.each<[string, Change]>([
    ['another model', { active_model: 'pg:node2' }],
    ['a replica', { status: { is_in_recovery: true } }],
    ['another PostgreSQL', { status: { postgres_systemid: '1' } }],
    [
      'PostgreSQL, and neither says of which cluster',
      { status: { postgres_systemid: undefined }, survey: { leader: { ...LEADER, systemId: undefined } } },
    ],
    ['nothing', REFUSED],
  ])('nothing of the model of the leader, if Barman is connected to %s', (_, change) => {
    expect(judged(change).connected).toEqual([]);
  });

  test('once that Barman was connected to a member: the last time', () => {
    const connected = ['node2', 'node1'].map((member) => ({ member, at: ago(DAY) }));
    expect(judged({ before: { ...judged(), connected } }).connected).toEqual([
      { member: 'node1', at: ago(0) },
      { member: 'node2', at: ago(DAY) },
    ]);
  });

  test('at most 20 members that Barman was connected to, for 400 days', () => {
    const connected = Array.from({ length: 30 }, (_, index) => ({
      member: `m${index}`,
      at: ago(index * 20 * DAY),
    }));
    const before = { ...judged(), connected };
    expect(judged({ before }).connected).toEqual([
      { member: 'node1', at: ago(0) },
      ...connected.slice(0, 19),
    ]);
    expect(judged({ ...REFUSED, before }).connected).toEqual(connected.slice(0, 20));
  });
});

describe('a member', () => {
  const ready = (change: Change, names = Object.keys(MODELS)) =>
    names.map((name) => readyOf(name, judged(change)));

  test('is ready if nothing is found, and all was seen', () => {
    expect(ready({})).toEqual(['yes', 'yes', 'yes']);
  });

  test('is not ready after a finding about it, or about all', () => {
    expect(ready({ models: { 'pg:node2': modelOf('10.0.1.13') } })).toEqual(['yes', 'no', 'yes']);
    expect(ready(UNREADY)).toEqual(['no', 'no', 'no']);
  });

  test('is ready although the server has no backup, or archives nothing', () => {
    expect(ready({ backups: {} })).toEqual(['yes', 'yes', 'yes']);
    expect(ready(REFUSED)).toEqual(['yes', 'yes', 'yes']);
  });

  test('is ready after a finding of the class archived that names it', () => {
    const finding = { kind: 'other-model', what: 'x', remedy: 'y', since: ago(0), counts: true } as const;
    const findings = [{ ...finding, class: 'archived', member: 'node1' } as const];
    expect(readyOf('node1', { findings, unseen: [] })).toBe('yes');
  });

  test('may be ready if it was not seen', () => {
    expect(ready({ survey: without('node3') })).toEqual(['yes', 'yes', '?']);
    expect(ready({ survey: { ...without('node3'), slots: [] } })).toEqual(['no', 'no', 'no']);
    expect(readyOf('node1', judge({ ...subjectOf(), diagnosis: { unseen: 'x' } }))).toBe('?');
    expect(ready({ wals: 7 })).toEqual(['yes', 'yes', 'yes']);
  });

  test('is ready after a finding of a kind that a newer version had', () => {
    const finding = { what: 'x', remedy: 'y', since: ago(0), class: 'ready', counts: true } as const;
    const findings = ['constructor', 'new-kind'].map((kind) => ({ ...finding, kind }));
    expect(readyOf('node1', { findings, unseen: [] })).toBe('yes');
  });
});

test('findings, notes and what was not seen are 100 at most, the first ones', () => {
  const names = Array.from({ length: 101 }, (_, index) => `m${index}`);
  const members = names.map((name) => memberOf(name, `${name}.example`, { isRunning: false }));
  const models = names.map((name) => [`pg:${name}`, modelOf(`other-${name}`, { disabled: true })] as const);
  const { findings, notes, unseen } = judged({
    survey: { members },
    mapping: { main: Object.fromEntries(names.map((name) => [name, `pg:${name}`])) },
    models: Object.fromEntries(models),
  });
  const first = names.slice(0, 100);
  expect(findings.map(({ member }) => member)).toEqual(first);
  expect(notes.map((note) => note.split(':')[0])).toEqual(first);
  expect(unseen.map(({ member }) => member)).toEqual(first);
});

test('texts of any length and number fit in an item of the ledger', () => {
  const members = Array.from({ length: 500 }, (_, index) => memberOf(`m${index}${'x'.repeat(240)}`, 'h'));
  const long = 'y'.repeat(1_000_000);
  const inspection = judged({
    survey: { members },
    models: { 'pg:node1': modelOf(long), 'pg:node2': modelOf('10.0.1.12', { cluster: long }) },
    config: { cluster: long, slot_name: long },
  });
  expect(JSON.stringify(inspection).length).toBeLessThan(300_000);
});

const SECRET = 'Geh3im';
const word = fc.constantFrom(
  '',
  'main',
  'pg:node1',
  'node1',
  '0/43000000',
  '1 day',
  '10.0.1.11',
  'DONE',
  SYSTEM,
  '-1',
);
const any = fc.oneof(fc.jsonValue({ maxDepth: 2 }), word, fc.boolean(), fc.constant(null), fc.double());
/** The same object, with any values in some places. */
const altered = (raw: object): fc.Arbitrary<object> =>
  fc.record(
    Object.fromEntries(
      Object.entries(raw).map(([key, value]) => {
        const inner =
          typeof value === 'object' && value && !Array.isArray(value) ? altered(value) : fc.constant(value);
        return [key, fc.oneof({ weight: 7, arbitrary: inner }, { weight: 1, arbitrary: any })];
      }),
    ),
    { requiredKeys: [] },
  ) as fc.Arbitrary<object>;
/** A conninfo with a password, also one that Barman or libpq rejects. */
const conninfo = fc.constantFrom(
  `host=10.0.1.13 password=${SECRET}`,
  `host=10.0.1.13 password = ${SECRET}`,
  `host=10.0.1.13 password='a ${SECRET}'`,
  `password=x ${SECRET} host=10.0.1.13`,
  `password=x${SECRET}=y ${SECRET}=z host=10.0.1.12`,
  `host= password=${SECRET}`,
  `postgres://u:${SECRET}@10.0.1.13`,
  `postgresql://u:x@${SECRET}@10.0.1.13/?a=b`,
  `postgresql://u:${SECRET}:x@10.0.1.13/?a=b`,
  `postgresql://10.0.1.13/?user=u&password=${SECRET}`,
  `postgresql://10.0.1.13/?password=x=${SECRET}`,
  SECRET,
  `password=${SECRET}`,
);
const secretConfig = fc.record({
  conninfo,
  streaming_conninfo: conninfo,
  primary_conninfo: fc.option(conninfo),
});
const text = fc.oneof(word, fc.string());
// JSON has neither NaN nor infinity.
const number = fc.oneof(
  fc.integer(),
  fc.double({ noNaN: true, noDefaultInfinity: true }),
  fc.constantFrom(5, 0x43 * SEGMENT, 0x80 * SEGMENT),
);
const maybe = <T>(arbitrary: fc.Arbitrary<T>) => fc.option(arbitrary, { nil: undefined });
const names = fc.constantFrom('node1', 'node2', 'node3', 'node4', '__proto__', '');
const hosts = fc.oneof(fc.constantFrom('10.0.1.11', '10.0.1.12', '10.0.1.13', '::1', ''), text);
const anySurvey: fc.Arbitrary<Survey> = fc.record({
  observation: fc.oneof(fc.record({ leader: names }), fc.record({ unknown: text })),
  members: maybe(
    fc.array(
      fc.record({
        ...{ name: names, host: maybe(hosts), port: maybe(number) },
        ...{ isRunning: fc.boolean(), canLead: fc.boolean() },
      }),
      { maxLength: 5 },
    ),
  ),
  nodes: fc.array(
    fc.record({
      url: fc.constant(new URL('https://10.0.1.11:8008')),
      ...{ member: maybe(names), isRunning: fc.boolean(), version: maybe(text), error: maybe(text) },
    }),
    { maxLength: 5 },
  ),
  leader: maybe(
    fc.record({
      ...{ name: names, isPrimary: fc.boolean(), timeline: maybe(number) },
      ...{ systemId: maybe(text), location: maybe(number) },
    }),
  ),
  slots: maybe(fc.array(text)),
  timelineBegan: maybe(
    fc.record({ at: fc.date({ noInvalidDate: true }).map((date) => date.getTime()), location: number }),
  ),
});

test('whatever Barman and Patroni answer, it is judged, and no password is in a text', () => {
  let judgedOnes = 0;
  const diagnoses = fc.record({
    server: fc.tuple(altered(serverOf()), secretConfig, fc.boolean()).map(([server, config, isSecret]) =>
      isSecret
        ? {
            ...server,
            msg_list: [config.conninfo],
            config: { ...serverOf().config, ...config },
            status: { ...serverOf().status, connection_error: config.conninfo },
          }
        : server,
    ),
    models: fc.record({
      'pg:node1': fc.oneof(
        altered(modelOf('10.0.1.11')),
        secretConfig.map((config) => modelOf('', config)),
      ),
      'pg:node2': secretConfig.map((config) => modelOf('', config)),
      'pg:node3': fc.oneof(any, fc.constant(modelOf('10.0.1.12'))),
    }),
  });
  const models = fc.dictionary(names, fc.option(fc.constantFrom('pg:node1', 'pg:node2', 'pg:gone')));
  const property = fc.property(
    ...[
      diagnoses,
      fc.array(fc.tuple(maybe(anySurvey), models), { maxLength: 3 }),
      fc.integer({ min: 0, max: DAY }),
    ],
    ({ server, models: diagnosed }, surveys, apart) => {
      const output = v.safeParse(DiagnoseOutput, { servers: { main: server }, models: diagnosed });
      if (!output.success) return;
      judgedOnes += 1;
      const clusters = surveys.map(([survey, mapping], index) => ({
        ...clusterOf({}, { main: mapping }, `c${index}`),
        survey,
      }));
      const subject = { ...subjectOf(), clusters, diagnosis: readDiagnosis(output.output) };
      const before = judge(subject);
      const inspection = judge({ ...subject, before, now: NOW + apart });
      expect(JSON.stringify(inspection)).not.toContain(SECRET);
      expect(readInspection({ inspection })).toEqual(inspection);
      for (const member of Object.keys(MODELS))
        expect(['yes', 'no', '?']).toContain(readyOf(member, inspection));
    },
  );
  fc.assert(property, { numRuns: 1_000 });
  expect(judgedOnes).toBeGreaterThan(200);
});
