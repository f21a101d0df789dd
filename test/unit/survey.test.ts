/** What the inspection sees of a cluster, from answers as Patroni 4.1.5 and 3.1.2 gave them. */

import fc from 'fast-check';
import { describe, expect, test, vi } from 'vitest';
import type { Cluster } from '../../functions/config-switch/patroni/cluster.ts';
import type { Answer, Path } from '../../functions/config-switch/patroni/rest-api.ts';
import { type Survey, survey } from '../../functions/config-switch/patroni/survey.ts';
import { isObject } from '../../functions/config-switch/schema.ts';
import { NOW, useVirtualTime } from './virtual-time.ts';

useVirtualTime();

const [URL1, URL2] = [new URL('https://10.0.0.1:8008'), new URL('https://10.0.0.2:8008')];
const CLUSTER: Cluster = {
  name: 'main',
  scope: 'main',
  secrets: [],
  servers: new Map(),
  patroni: [URL1, URL2],
  streaming_archiver_name: null,
};
type Body = Record<string, unknown>;
const ok = (body: unknown): Answer => ({ status: 200, body, date: NOW });
const notLeader = (body: unknown): Answer => ({ status: 503, body, date: NOW });
const DOWN: Answer = { error: 'ECONNREFUSED' };

const LAGS = { receive_lag: 0, replay_lag: 0, lag: 0 };
const LSNS = { receive_lsn: '0/D0000A0', replay_lsn: '0/D0000A0', lsn: '0/D0000A0' };
const leader = (change: Body = {}): Body => ({
  ...{ name: 'node1', role: 'leader', state: 'running', api_url: 'http://10.0.0.1:8008/patroni' },
  ...{ host: '10.0.1.11', port: 5432, timeline: 2, ...change },
});
const replica = (change: Body = {}): Body => ({
  ...{ name: 'node2', role: 'replica', state: 'streaming', api_url: 'http://10.0.0.2:8008/patroni' },
  ...{ host: '10.0.1.12', port: 5432, timeline: 2, ...LAGS, ...LSNS, ...change },
});
const members = (...all: unknown[]): Body => ({ members: all, scope: 'main' });
const primary = (change: Body = {}): Body => ({
  ...{ state: 'running', postmaster_start_time: '2026-11-28 22:52:44.905611+00:00', role: 'primary' },
  ...{ server_version: 150018, xlog: { location: 268435616 }, timeline: 2, dcs_last_seen: NOW / 1_000 },
  ...{ database_system_identifier: '7713359089133147388' },
  ...{ patroni: { version: '4.1.5', scope: 'main', name: 'node1' }, ...change },
});
const standby = (change: Body = {}): Body => ({
  ...primary({ role: 'replica', replication_state: 'streaming' }),
  ...{ xlog: { received_location: 268435616, replayed_location: 268435616, paused: false } },
  ...{ patroni: { version: '4.1.5', scope: 'main', name: 'node2' }, ...change },
});
const CONFIG = { ttl: 20, loop_wait: 2, slots: { barman: { type: 'physical' } }, postgresql: {} };
const BEGAN = '2026-11-28T22:53:41.538393+00:00';
const HISTORY = [[1, 218103968, 'no recovery target specified', BEGAN, 'node1']];

type Answers = Readonly<Record<Path, Answer>>;
const node = (name: 'node1' | 'node2', change: Partial<Answers> = {}): Answers => ({
  cluster: ok(members(leader(), replica())),
  leader: name === 'node1' ? ok(primary()) : notLeader(standby()),
  config: ok(CONFIG),
  history: ok(HISTORY),
  ...change,
});
const SILENT: Answers = { cluster: DOWN, leader: DOWN, config: DOWN, history: DOWN };

/** @param first what node 1 answers: everything as in a healthy cluster, but for a change */
function run(first: Partial<Answers> = {}, second: Partial<Answers> = first): Promise<Survey> {
  const nodes = [node('node1', first), node('node2', { ...second, leader: notLeader(standby()) })] as const;
  return ask(nodes);
}

function ask([first, second]: readonly [Answers, Answers]): Promise<Survey> {
  const answer = async (url: URL, path: Path) => (url === URL1 ? first : second)[path];
  return survey(CLUSTER, answer, new AbortController().signal);
}

const NODE1 = { url: URL1, member: 'node1', isRunning: true, version: '4.1.5', error: undefined };
const NODE2 = { ...NODE1, url: URL2, member: 'node2' };
const notSeen = (url: URL, error: string) => ({
  ...{ url, member: undefined, isRunning: false, version: undefined, error },
});
const MEMBER1 = { name: 'node1', host: '10.0.1.11', port: 5432, isRunning: true, canLead: true };
const MEMBER2 = { ...MEMBER1, name: 'node2', host: '10.0.1.12' };

describe('a healthy cluster', () => {
  test('is seen whole', async () => {
    expect(await run()).toEqual({
      observation: { leader: 'node1', system_id: '7713359089133147388' },
      members: [MEMBER1, MEMBER2],
      nodes: [NODE1, NODE2],
      leader: {
        ...{ name: 'node1', isPrimary: true, timeline: 2, systemId: '7713359089133147388' },
        location: 268435616,
      },
      slots: ['barman'],
      timelineBegan: { at: Date.parse('2026-11-28T22:53:41.538Z'), location: 218103968 },
    });
  });

  test('is described by the leader, whatever the other node has', async () => {
    const stale = {
      cluster: ok(members(leader(), replica(), replica({ name: 'node3' }))),
      config: ok({ slots: { other: {} } }),
      history: ok([]),
    };
    const result = await ask([node('node1'), node('node2', stale)]);
    expect(result).toEqual(await run());
    expect(await ask([node('node2', stale), node('node1')])).toMatchObject({ members: result.members });
  });

  test('in pause, with synchronous and cascading standbys, is as any other', async () => {
    const tags = { replicatefrom: 'node1', noloadbalance: true, nosync: true, custom: 'x' };
    const all = [leader(), replica({ role: 'sync_standby', tags }), replica({ role: 'quorum_standby' })];
    const cluster = ok({ members: all, pause: true, scope: 'main' });
    expect((await run({ cluster })).members).toEqual([MEMBER1, MEMBER2, MEMBER2]);
  });

  test('is asked for no other URLs than those of the parameter', async () => {
    const asked: string[] = [];
    const answer = async (url: URL, path: Path) => {
      asked.push(`${url.hostname} ${path}`);
      return node(url === URL1 ? 'node1' : 'node2')[path];
    };
    await survey(CLUSTER, answer, new AbortController().signal);
    expect(asked).toEqual([
      ...['10.0.0.1 cluster', '10.0.0.2 cluster', '10.0.0.1 leader', '10.0.0.2 leader'],
      ...['10.0.0.1 config', '10.0.0.1 history'],
    ]);
  });
});

describe('a member', () => {
  const seen = async (change: Body) =>
    (await run({ cluster: ok(members(leader(), replica(change))) })).members;

  test.each([
    ['running', true],
    ['streaming', true],
    ['in archive recovery', true],
    ['stopped', false],
    ['starting', false],
    ['creating replica', false],
    ['start failed', false],
    ['', false],
  ])('whose state is "%s" runs: %s', async (state, isRunning) => {
    expect((await seen({ state }))?.[1]).toEqual({ ...MEMBER2, isRunning });
  });

  test('that is stopped has no timeline, and texts in place of numbers', async () => {
    const unknown = Object.fromEntries(Object.keys({ ...LAGS, ...LSNS }).map((key) => [key, 'unknown']));
    const stopped = { state: 'stopped', timeline: undefined, ...unknown };
    expect((await seen(stopped))?.[1]).toEqual({ ...MEMBER2, isRunning: false });
  });

  test.each<[string, Body, Partial<typeof MEMBER2> | { host: undefined } | { port: undefined }]>([
    ['no host', { host: undefined, port: undefined }, { host: undefined, port: undefined }],
    ['a host that is no text', { host: 7 }, { host: undefined }],
    ['a host that is too long for the ledger', { host: 'x'.repeat(256) }, { host: undefined }],
    ['a port that is no number', { port: '5432' }, { port: undefined }],
    ['tags that are no object', { tags: 'nofailover' }, {}],
    ['tags that are null', { tags: null }, {}],
    ['LSNs of another form', { lsn: {}, lag: 'unknown', api_url: 7 }, {}],
  ])('with %s keeps what else is known of it', async (_, change, expected) => {
    expect((await seen(change))?.[1]).toEqual({ ...MEMBER2, ...expected });
  });

  test.each<[string, unknown]>([
    ['that is no object', 7],
    ['without a name', replica({ name: undefined })],
    ['with a name that cannot be stored', replica({ name: 'a\ud800' })],
    ['with a name that is too long for the ledger', replica({ name: 'x'.repeat(256) })],
    ['with a state that is no text', replica({ state: {} })],
  ])('%s makes the answer none', async (_, odd) => {
    const cluster = ok(members(leader(), odd));
    expect(await run({ cluster })).toMatchObject({
      members: undefined,
      leader: undefined,
      slots: ['barman'],
    });
    expect((await run({ cluster }, {})).members).toEqual([MEMBER1, MEMBER2]);
  });

  test.each<[string, boolean]>([
    ['{}', true],
    ['{"nofailover": true, "noloadbalance": true, "nosync": true}', false],
    ['{"failover_priority": 0, "nosync": true}', false],
    ['{"failover_priority": "0"}', false],
    ['{"failover_priority": -1, "nofailover": "false", "sync_priority": 3}', false],
    ['{"failover_priority": -1}', false],
    ['{"failover_priority": 2, "replicatefrom": "node3", "custom": "x"}', true],
    ['{"nofailover": false, "failover_priority": 0}', true],
    ['{"nofailover": "true", "failover_priority": 5, "clonefrom": true}', false],
    ['{"nofailover": true, "failover_priority": 5, "nostream": true}', false],
    ['{"nofailover": null, "failover_priority": 0}', false],
    ['{"failover_priority": null}', true],
    ['{"failover_priority": "high"}', true],
    ['{"failover_priority": {"toString": 0}}', true],
  ])('with the tags %s may lead: %s', async (tags, canLead) => {
    expect((await seen({ tags: JSON.parse(tags) }))?.[1]).toEqual({ ...MEMBER2, canLead });
  });
});

describe('a node', () => {
  test('that does not answer is not seen, with the reason; the other one describes the cluster', async () => {
    const result = await ask([SILENT, node('node2')]);
    expect(result).toMatchObject({
      observation: { unknown: expect.stringContaining('node1 does not confirm that it is the leader') },
      members: [MEMBER1, MEMBER2],
      nodes: [notSeen(URL1, 'ECONNREFUSED'), NODE2],
      slots: ['barman'],
    });
    expect([result.leader, result.timelineBegan]).toEqual([undefined, undefined]);
    expect(await ask([node('node1'), SILENT])).toMatchObject({
      leader: { name: 'node1' },
      nodes: [NODE1, notSeen(URL2, 'ECONNREFUSED')],
    });
  });

  test.each<[string, Answer, string]>([
    ['500 and HTML', { status: 500, body: undefined, date: Number.NaN }, '500, not a state of Patroni'],
    ['HTML', ok(undefined), '200, not a state of Patroni'],
    ['an array', ok([primary()]), '200, not a state of Patroni'],
    ['null', ok(null), '200, not a state of Patroni'],
    ['an empty object', notLeader({}), '503, not a state of Patroni'],
    ['a state without Patroni', ok(primary({ patroni: undefined })), '200, not a state of Patroni'],
    [
      'the state of another cluster',
      notLeader(standby({ patroni: { version: '4.1.5', scope: 'other', name: 'node1' } })),
      'belongs to scope other, not main',
    ],
  ])('that answers %s is not seen', async (_, answer, error) => {
    const broken = { cluster: answer, leader: answer, config: answer, history: answer };
    const result = await ask([broken, node('node2')]);
    expect(result).toMatchObject({
      nodes: [notSeen(URL1, error), NODE2],
      leader: undefined,
      slots: ['barman'],
    });
  });

  test('of another cluster does not describe this one', async () => {
    const other = node('node1', {
      cluster: ok({ members: [leader({ host: '10.9.9.9' })], scope: 'other' }),
      leader: notLeader(standby({ patroni: { scope: 'other', name: 'node1' } })),
      config: ok({}),
    });
    expect(await ask([other, node('node2')])).toMatchObject({
      members: [MEMBER1, MEMBER2],
      slots: ['barman'],
    });
  });

  test.each<[string, Body]>([
    ['a stopped PostgreSQL', { state: 'stopped', role: 'demoted', timeline: undefined, xlog: undefined }],
    ['a state that is no text', { state: 7 }],
  ])('with %s is a member that does not run', async (_, change) => {
    const { nodes } = await ask([node('node1'), node('node2', { leader: notLeader(standby(change)) })]);
    expect(nodes).toEqual([NODE1, { ...NODE2, isRunning: false }]);
  });

  test('with a name or version of another form is an unnamed member', async () => {
    const patroni = { version: 7, scope: [], name: {} };
    const { nodes } = await ask([node('node1'), node('node2', { leader: notLeader(standby({ patroni })) })]);
    expect(nodes[1]).toEqual({ ...NODE2, member: undefined, version: undefined });
  });

  test('of Patroni 3.1.2 has no name, and names no scope: the leader is unknown, the rest is seen', async () => {
    const old = (body: Body) => ({ ...body, role: 'master', patroni: { version: '3.1.2', scope: 'main' } });
    const cluster = ok({ members: [leader(), replica({ receive_lsn: undefined, replay_lsn: undefined })] });
    const first = node('node1', { cluster, leader: ok(old(primary())) });
    const result = await ask([first, node('node2', { cluster, leader: notLeader(old(standby())) })]);
    const unnamed = { member: undefined, version: '3.1.2' };
    expect(result).toEqual({
      observation: { unknown: '10.0.0.1:8008 answered something else than its state' },
      members: [MEMBER1, MEMBER2],
      nodes: [
        { ...NODE1, ...unnamed },
        { ...NODE2, ...unnamed },
      ],
      slots: ['barman'],
      ...{ leader: undefined, timelineBegan: undefined },
    });
  });

  test('that hangs costs three seconds for each question', async () => {
    const answer = (url: URL, path: Path, signal: AbortSignal) => {
      if (url === URL2) return Promise.resolve(node('node2')[path]);
      return new Promise<Answer>((resolve) =>
        signal.addEventListener('abort', () => resolve({ error: 'no answer in time' })),
      );
    };
    const start = Date.now();
    const surveyed = survey(CLUSTER, answer, new AbortController().signal);
    await vi.advanceTimersByTimeAsync(6_000);
    expect(await surveyed).toMatchObject({
      nodes: [notSeen(URL1, 'no answer in time'), NODE2],
      slots: ['barman'],
    });
    expect(Date.now() - start).toBe(6_000);
  });

  test('is not waited for after the end of the time', async () => {
    const ended = new AbortController();
    const answer = (_: URL, __: Path, signal: AbortSignal) =>
      new Promise<Answer>((resolve) => {
        const late = () => resolve({ error: 'no answer in time' });
        if (signal.aborted) late();
        signal.addEventListener('abort', late);
      });
    const surveyed = survey(CLUSTER, answer, ended.signal);
    ended.abort();
    expect(await surveyed).toMatchObject({ members: undefined, leader: undefined, slots: undefined });
  });
});

describe('the leader', () => {
  const leading = async (body: Body, role = 'leader', state = 'running') => {
    const cluster = ok(members(leader({ role, state }), replica()));
    return (await ask([node('node1', { cluster, leader: ok(body) }), node('node2', { cluster })])).leader;
  };

  test('is a primary under its older name, too', async () => {
    expect(await leading(primary({ role: 'master' }))).toMatchObject({ isPrimary: true });
  });

  test('of a standby cluster has the WAL that it has received or replayed', async () => {
    const of = (received_location: number, replayed_location: number) =>
      leading(
        standby({
          ...{ role: 'standby_leader', xlog: { received_location, replayed_location } },
          patroni: { version: '4.1.5', scope: 'main', name: 'node1' },
        }),
        'standby_leader',
        received_location > 0 ? 'streaming' : 'in archive recovery',
      );
    expect(await of(2080374920, 2080374000)).toMatchObject({ isPrimary: false, location: 2080374920 });
    // It has received nothing if it replays from an archive.
    expect(await of(0, 2080374000)).toMatchObject({ isPrimary: false, location: 2080374000 });
  });

  test.each<[string, Body, Body]>([
    ['no timeline', { timeline: undefined }, { timeline: undefined }],
    ['a timeline that is no number', { timeline: '2' }, { timeline: undefined }],
    ['a timeline that the ledger cannot have', { timeline: 1e-200 }, { timeline: undefined }],
    ['no WAL location', { xlog: undefined }, { location: undefined }],
    ['a WAL location below 0', { xlog: { location: -1 } }, { location: undefined }],
    ['a WAL location that is no number', { xlog: { location: '0/1' } }, { location: undefined }],
    ['a WAL location that is null', { xlog: null }, { location: undefined }],
    ['a system identifier that is no text', { database_system_identifier: 7 }, { systemId: undefined }],
  ])('with %s keeps what else is known of it', async (_, change, expected) => {
    const healthy = await leading(primary());
    expect(await leading(primary(change))).toEqual({ ...healthy, ...expected });
  });
});

describe('permanent slots', () => {
  const slotsOf = async (config: unknown) => (await run({ config: ok(config) })).slots;
  const SITE = { standby_cluster: { host: '10.0.1.10', port: 5432 } };
  const barman = (slot: unknown) => ({ slots: { barman: slot } });

  test.each<[string, unknown, readonly string[]]>([
    ['if there are none', {}, []],
    ['if the key is empty', { slots: {} }, []],
    ['if the key is null', { slots: null }, []],
    ['if the key is no object', { slots: 'barman' }, []],
    ['that are physical', barman({ type: 'physical' }), ['barman']],
    ['without a type', barman({}), ['barman']],
    ['that are null', barman(null), ['barman']],
    ['that are empty arrays', barman([]), ['barman']],
    ['that are a text', barman('physical'), []],
    ['with a type that is null', barman({ type: null }), []],
    ['with an unknown type', barman({ type: 'other' }), []],
    ['that are logical', barman({ type: 'logical', database: 'postgres', plugin: 'pgoutput' }), []],
    ['that are logical without a type', barman({ database: 'postgres', plugin: 'pgoutput' }), []],
    [
      'that are physical with a database',
      barman({ type: 'physical', database: 'a', plugin: 'b' }),
      ['barman'],
    ],
    [
      'of both types',
      { slots: { a: { type: 'logical', database: 'a', plugin: 'b' }, b: {}, c: { type: 'physical' } } },
      ['b', 'c'],
    ],
    ['with a name that PostgreSQL does not allow', { slots: { Barman: {}, 'a-b': {}, a_b: {} } }, ['a_b']],
    ['under an older key', { permanent_slots: { a: {} }, slots: { b: {} } }, ['a']],
    [
      'under the oldest key',
      { permanent_replication_slots: { a: {} }, permanent_slots: { b: {} }, slots: { c: {} } },
      ['a'],
    ],
    [
      'if an older key is empty',
      { permanent_replication_slots: {}, permanent_slots: null, slots: { c: {} } },
      ['c'],
    ],
    ['of primaries', barman({ cluster_type: 'primary' }), ['barman']],
    [
      'of standby clusters in a primary cluster: 4.1.5 makes them',
      barman({ cluster_type: 'standby' }),
      ['barman'],
    ],
    ['in a standby cluster', { ...SITE, ...barman({}) }, ['barman']],
    ['of standby clusters in one', { ...SITE, ...barman({ cluster_type: 'standby' }) }, ['barman']],
    ['of primaries in a standby cluster', { ...SITE, ...barman({ cluster_type: 'primary' }) }, []],
    [
      'of primaries in a cluster whose standby_cluster is empty',
      { standby_cluster: {}, ...barman({ cluster_type: 'primary' }) },
      ['barman'],
    ],
    ['if slots are not used', { postgresql: { use_slots: false }, ...barman({}) }, []],
    ['if slots are not used, as a text', { postgresql: { use_slots: 'off' }, ...barman({}) }, []],
    ['if slots are used explicitly', { postgresql: { use_slots: true }, ...barman({}) }, ['barman']],
    ['next to settings of an unknown form', { postgresql: 7, standby_cluster: 7, ...barman({}) }, ['barman']],
  ])('%s', async (_, config, expected) => {
    expect(await slotsOf(config)).toEqual(expected);
  });

  test.each<[string, Answer]>([
    ['502', { status: 502, body: undefined, date: NOW }],
    ['HTML', ok(undefined)],
    ['an array', ok([])],
    ['a body with another status', { status: 503, body: CONFIG, date: NOW }],
    ['nothing', DOWN],
  ])('are not seen if the answer is %s', async (_, config) => {
    expect(await run({ config })).toMatchObject({ slots: undefined, leader: { name: 'node1' } });
  });
});

describe('the timeline', () => {
  const began = async (history: unknown, timeline = 2) =>
    (await run({ history: ok(history), leader: ok(primary({ timeline })) })).timelineBegan;
  const row = (...end: unknown[]) => [1, 218103968, 'no recovery target specified', ...end];

  test('began when the one before ended', async () => {
    const rows = [...HISTORY, [2, 268435616, 'x', '2026-11-29T04:28:51.246+05:30', 'node2']];
    expect(await began(rows, 3)).toEqual({ at: Date.parse('2026-11-28T22:58:51.246Z'), location: 268435616 });
    expect(await began(rows, 2)).toEqual({ at: Date.parse(BEGAN), location: 218103968 });
  });

  test('began at a known time although that of an older one is unknown', async () => {
    // Patroni has no times for what happened before it had the cluster.
    const rows = [row(), [2, 268435616, 'x', BEGAN, 'node2']];
    expect(await began(rows, 3)).toEqual({ at: Date.parse(BEGAN), location: 268435616 });
    expect(await began(rows, 2)).toBeUndefined();
  });

  test.each<[string, unknown]>([
    ['an empty history: on timeline 1, in a standby cluster, and right after a promotion', []],
    ['that of an older timeline', [[0, 7, 'x', BEGAN, 'node1']]],
    ['one without a time', [row()]],
    ['a time that is none', [row('yesterday', 'node2')]],
    ['a time that is null', [row(null, 'node2')]],
    ['texts in place of numbers', [['1', '218103968', 'x', BEGAN]]],
    ['a number that the ledger cannot have', [[1, 1e-200, 'x', BEGAN]]],
    ['no list', { 1: row(BEGAN) }],
    ['rows that are no lists', [7, null, {}]],
    ['HTML', undefined],
  ])('has no known begin with %s', async (_, history) => {
    expect(await began(history)).toBeUndefined();
  });
});

/** JSON, and what is odd in it. */
const ODD = fc.oneof(
  fc.jsonValue({ maxDepth: 3 }),
  fc.constantFrom<unknown>(
    ...[undefined, '', 'unknown', '\ud800', 'x'.repeat(300), Number.NaN, Number.POSITIVE_INFINITY, -1],
    ...[{ toString: 0, valueOf: 0 }, JSON.parse('{"__proto__": {"constructor": 7}}'), [[]], [null]],
  ),
);

/** Values like a sample, in which something else stands here and there, or something is absent. */
function like(sample: unknown): fc.Arbitrary<unknown> {
  const fields = (value: Body) =>
    Object.fromEntries(Object.entries(value).map(([key, one]) => [key, like(one)]));
  const rest: fc.Arbitrary<unknown> = Array.isArray(sample)
    ? fc.tuple(...sample.map(like))
    : isObject(sample)
      ? fc.oneof(
          { weight: 5, arbitrary: fc.record(fields(sample)) },
          fc.record(fields(sample), { requiredKeys: [] }),
        )
      : fc.constant(sample);
  return fc.oneof({ weight: 80, arbitrary: rest }, { weight: 1, arbitrary: ODD });
}

const TAGS = { nofailover: false, failover_priority: 0, nosync: true };
const answers = (name: 'node1' | 'node2'): fc.Arbitrary<Answers> => {
  const healthy = node(name, { cluster: ok(members(leader({ tags: TAGS }), replica({ tags: TAGS }))) });
  const answer = (path: Path): fc.Arbitrary<Answer> => {
    const { status, body } = healthy[path] as Answer & { status: number; body: unknown };
    const date = fc.constantFrom(NOW, Number.NaN);
    const given = (statuses: fc.Arbitrary<number>) => fc.record({ status: statuses, body: like(body), date });
    return fc.oneof(
      { weight: 8, arbitrary: given(fc.constant(status)) },
      given(fc.constantFrom(200, 401, 404, 500, 502, 503)),
      fc.constant(DOWN),
    );
  };
  return fc.record({
    ...{ cluster: answer('cluster'), leader: answer('leader') },
    ...{ config: answer('config'), history: answer('history') },
  });
};

test('whatever nodes answer, there is a survey, and it can be stored', async () => {
  let known = 0;
  const property = fc.asyncProperty(fc.tuple(answers('node1'), answers('node2')), async (both) => {
    const {
      observation,
      members: all = [],
      nodes,
      leader: leading,
      slots = [],
      timelineBegan,
    } = await ask(both);
    known += 'leader' in observation ? 1 : 0;
    const texts = [
      ...all.flatMap(({ name, host = '' }) => [name, host]),
      ...nodes.flatMap(({ member = '', version = '' }) => [member, version]),
      ...slots,
      ...[leading?.name ?? '', leading?.systemId ?? ''],
    ];
    expect(texts.filter((text) => text.length > 255 || !text.isWellFormed())).toEqual([]);
    expect(nodes.map(({ url }) => url)).toEqual([URL1, URL2]);
    expect(timelineBegan?.at).not.toBeNaN();
  });
  await fc.assert(property, { numRuns: 2_000 });
  // Otherwise nearly nothing was read.
  expect(known).toBeGreaterThan(200);
});
