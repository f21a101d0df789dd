/** Who is the leader, from answers as Patroni 4.1.5 and 3.3.2 gave them: with etcd, ttl 20, loop_wait 2. */

import { BlockList } from 'node:net';
import { describe, expect, test, vi } from 'vitest';
import type { Cluster } from '../../functions/config-switch/patroni/cluster.ts';
import { observe } from '../../functions/config-switch/patroni/leader.ts';
import type { Answer } from '../../functions/config-switch/patroni/rest-api.ts';
import { NOW, useVirtualTime } from './virtual-time.ts';

useVirtualTime();

const CLUSTER: Cluster = {
  name: 'main',
  scope: 'main',
  secrets: [],
  servers: new Map(),
  patroni: [new URL('https://10.0.0.1:8008'), new URL('https://10.0.0.2:8008')],
  streaming_archiver_name: null,
};
type Body = Record<string, unknown>;
const ok = (body: unknown): Answer => ({ status: 200, body, date: NOW });
const notLeader = (body: Body): Answer => ({ status: 503, body, date: NOW });
const leaderOf = (name: string, change: Body = {}) => ({
  name,
  role: 'leader',
  state: 'running',
  timeline: 1,
  ...change,
});
const replicaOf = (name: string, change: Body = {}) =>
  leaderOf(name, { role: 'replica', state: 'streaming', lag: 0, ...change });
const members = (...all: Body[]) => ok({ members: all, scope: 'main' });
const state = (name: string, change: Body = {}): Body => ({
  state: 'running',
  role: 'primary',
  timeline: 1,
  replication: [],
  dcs_last_seen: NOW / 1_000,
  patroni: { version: '4.1.5', scope: 'main', name },
  ...change,
});
const NORMAL = members(leaderOf('node1'), replicaOf('node2'));
const DOWN: Answer = { error: 'ECONNREFUSED' };
/** Node 1 confirms that it is the leader, except for a change. */
const confirms = (change: Body = {}) => ok(state('node1', change));
const REPLICA = notLeader(state('node2', { role: 'replica' }));
const UNLISTED = 'if none of these is node1, add its URL to the key "patroni" of the parameter clusters/main';

type Answers = readonly Answer[];
/**
 * @param cluster what the two nodes answer for `/cluster`; down without an answer
 *
 * @param leader and for `/leader`
 */
function run(
  cluster: Answers,
  leader: Answers = [confirms(), REPLICA],
  name: string | null = null,
  change: Partial<Cluster> = {},
) {
  const ask = async (node: URL, path: string) =>
    (path === 'cluster' ? cluster : leader)[node.hostname === '10.0.0.1' ? 0 : 1] ?? DOWN;
  return observe({ ...CLUSTER, streaming_archiver_name: name, ...change }, ask, new AbortController().signal);
}

describe('the leader is known', () => {
  const standbyLeader = leaderOf('node1', { role: 'standby_leader', state: 'streaming' });
  test.each<[string, Answers, Answers?]>([
    ['if all nodes name it and it confirms', [NORMAL, NORMAL]],
    ['if the other node does not answer', [NORMAL], [confirms()]],
    ['if the other node answers with an error', [NORMAL, notLeader({})], [confirms(), notLeader({})]],
    [
      'in a paused cluster',
      [ok({ members: [leaderOf('node1')], scope: 'main', pause: true }), NORMAL],
      [confirms({ pause: true })],
    ],
    ['as Patroni 3.3.2 calls it', [NORMAL, NORMAL], [confirms({ role: 'master' }), REPLICA]],
    [
      'if a member without PostgreSQL has no timeline',
      [members(leaderOf('node1'), { name: 'node2', role: 'replica', state: 'stopped' }), NORMAL],
    ],
    [
      'if a timeline is no number',
      [members(leaderOf('node1'), replicaOf('node2', { timeline: { toString: 0 } })), NORMAL],
    ],
    ['with a sync standby', [members(leaderOf('node1'), replicaOf('node2', { role: 'sync_standby' }))]],
    ['if its scope is not in the list of members', [ok({ members: [leaderOf('node1')] })]],
    ['if it saw the DCS 30 s ago', [NORMAL, NORMAL], [confirms({ dcs_last_seen: NOW / 1_000 - 30 })]],
  ])('%s', async (_, cluster, leader) => {
    expect(await run(cluster, leader)).toEqual({ leader: 'node1' });
  });

  test.each([
    ['a standby cluster', standbyLeader],
    ['a standby cluster that replays from an archive', { ...standbyLeader, state: 'in archive recovery' }],
  ])('in %s, as a standby leader', async (_, leader) => {
    expect(await run([members(leader, replicaOf('node2'))], [confirms({ role: 'standby_leader' })])).toEqual({
      leader: 'node1',
      isStandby: true,
    });
  });

  test.each([
    ['7713359089133147388', { system_id: '7713359089133147388' }],
    [7713359089, {}],
    [null, {}],
  ])('with the system identifier of PostgreSQL (%j), if that is a text', async (id, seen) => {
    expect(await run([NORMAL], [confirms({ database_system_identifier: id })])).toEqual({
      leader: 'node1',
      ...seen,
    });
  });
});

describe('Barman', () => {
  const sender = (application_name: unknown, state: unknown) => ({
    usename: 'postgres',
    application_name,
    client_addr: '127.0.0.1',
    state,
    sync_state: 'async',
    sync_priority: 0,
  });
  const barman = (walSenderState: unknown) => sender('barman_receive_wal', walSenderState);
  const streaming = (change: Body, name: string | null = 'barman_receive_wal') =>
    run([NORMAL, NORMAL], [confirms(change), REPLICA], name);

  test.each<[string, Body[] | undefined, boolean]>([
    ['streams from the leader', [sender('node2', 'streaming'), barman('streaming')], true],
    ['streams while it catches up', [barman('catchup')], true],
    ['does not stream while it connects', [barman('startup')], false],
    ['does not stream with a base backup', [sender('barman_streaming_backup', 'backup')], false],
    ['does not stream if only a replica does', [sender('node2', 'streaming')], false],
    ['does not stream if nothing does', undefined, false],
    ['does not stream with a name or state that is null', [sender(null, null), barman(null)], false],
  ])('%s', async (_, replication, expected) => {
    expect(await streaming({ replication })).toEqual({ leader: 'node1', streaming: expected });
  });

  test('may stream if PostgreSQL did not answer', async () => {
    const change = { state: 'unknown', replication: undefined };
    expect(await streaming(change)).toEqual({ leader: 'node1', streaming: undefined });
  });

  test('streams under the name that its configuration has', async () => {
    const change = { replication: [sender('wal_of_main', 'streaming')] };
    expect(await streaming(change, 'wal_of_main')).toMatchObject({ streaming: true });
    expect(await streaming(change)).toMatchObject({ streaming: false });
    expect(await streaming(change, null)).toEqual({ leader: 'node1' });
  });

  const addresses = new BlockList();
  addresses.addSubnet('10.0.3.0', 24, 'ipv4');
  addresses.addSubnet('fd00::', 64, 'ipv6');
  const from = (client_addr: unknown) => ({ ...barman('streaming'), client_addr });
  const other = (otherReceiver: string) => ({ leader: 'node1', streaming: false, otherReceiver });
  test.each<[string, unknown[], object]>([
    ['streams from one of its addresses', ['10.0.3.4'], { leader: 'node1', streaming: true }],
    ['streams from one of IPv6', ['fd00::7'], { leader: 'node1', streaming: true }],
    ['streams beside another receiver', ['10.0.4.4', '10.0.3.4'], { leader: 'node1', streaming: true }],
    ['does not stream if another receiver does', ['10.0.4.4'], other('10.0.4.4')],
    ['does not stream if another one of IPv6 does', ['fd00:0:0:1::7'], other('fd00:0:0:1::7')],
    ['does not stream if one on its own network does', ['fe80::1%eth0'], other('fe80::1')],
    ['does not stream if one on the same host does', [null], other('a Unix socket')],
    ['does not stream if one from nowhere does', ['x'.repeat(999)], other('an unknown address')],
    ['does not stream if nothing does', [], { leader: 'node1', streaming: false }],
  ])('that has addresses %s', async (_, clients, expected) => {
    const name = 'barman_receive_wal';
    const replies = [confirms({ replication: clients.map(from) }), REPLICA];
    expect(await run([NORMAL, NORMAL], replies, name, { barman_addresses: addresses })).toEqual(expected);
  });
});

describe('the leader is unknown', () => {
  test.each<[string, Answers, string]>([
    [
      'if no node answers',
      [DOWN, { error: 'no answer in time' }],
      'no node answered: 10.0.0.1:8008: ECONNREFUSED, 10.0.0.2:8008: no answer in time',
    ],
    ['just after etcd is back', [members(), NORMAL], '10.0.0.1:8008 knows no leader'],
    [
      'if nodes disagree',
      [NORMAL, members(replicaOf('node1'), leaderOf('node2'))],
      'one node names node1, and 10.0.0.2:8008 node2',
    ],
    ['if a node knows two', [members(leaderOf('node1'), leaderOf('node2'))], '10.0.0.1:8008 knows 2 leaders'],
    [
      'while it starts',
      [members(leaderOf('node1', { state: 'starting' }))],
      'node1 is starting, by 10.0.0.1:8008',
    ],
    [
      'while a standby leader does not stream',
      [members(leaderOf('node1', { role: 'standby_leader' }))],
      'node1 is running, by 10.0.0.1:8008',
    ],
    [
      'while a leader that is a primary replays from an archive',
      [members(leaderOf('node1', { state: 'in archive recovery' }))],
      'node1 is in archive recovery, by 10.0.0.1:8008',
    ],
    [
      'if another member has a higher timeline',
      [members(leaderOf('node1'), replicaOf('node2', { timeline: 2 }))],
      'node2 has a higher timeline than the leader node1, by 10.0.0.1:8008',
    ],
    [
      'in another scope',
      [ok({ members: [leaderOf('node1')], scope: 'other' }), NORMAL],
      '10.0.0.1:8008 belongs to scope other, not main',
    ],
  ])('%s', async (_, cluster, unknown) => {
    expect(await run(cluster)).toEqual({ unknown });
  });

  test.each([
    ['no cluster', ok('<html>')],
    ['not JSON', ok(undefined)],
    ['one with a name that cannot be stored', members(leaderOf('a\ud800'))],
    ['one with a name that is too long for the log', members(leaderOf('a', { state: 'x'.repeat(256) }))],
    ['one with a scope that is too long for the log', ok({ members: [], scope: 'x'.repeat(256) })],
  ])('if an answer is %s', async (_, answer) => {
    const unknown = '10.0.0.1:8008 answered something else than a cluster';
    expect(await run([answer, NORMAL])).toEqual({ unknown });
  });

  test('if an answer is wrong many times, and is not checked any further', async () => {
    let checked = 0;
    const wrong = () => ({
      get name(): number {
        checked += 1;
        return 7;
      },
    });
    await run([members(wrong(), wrong(), wrong()), NORMAL]);
    expect(checked).toBe(1);
  });

  const NOT_SEEN = 'node1 has not seen the DCS for more than 30 s';
  test.each<[string, Answers, string]>([
    [
      'if it was killed: the other names it for the whole ttl',
      [DOWN, REPLICA],
      `node1 does not confirm that it is the leader: 10.0.0.1:8008: ECONNREFUSED, 10.0.0.2:8008: 503; ${UNLISTED}`,
    ],
    [
      'after SIGSTOP and SIGCONT',
      [notLeader(state('node1')), REPLICA],
      'node1 does not confirm that it is the leader: 10.0.0.1:8008: 503, 10.0.0.2:8008: 503',
    ],
    [
      'if none of the URLs is its own',
      [notLeader(state('node3', { role: 'replica' })), REPLICA],
      'the leader is node1, and the key "patroni" of the parameter clusters/main has no URL of it: add it there',
    ],
    [
      'if the only URL that answers is not its own',
      [notLeader({}), REPLICA],
      `node1 does not confirm that it is the leader: 10.0.0.1:8008: 503, 10.0.0.2:8008: 503; ${UNLISTED}`,
    ],
    [
      'while nodes still name the old one',
      [DOWN, ok(state('node2'))],
      'node2 claims to be the leader as well as node1',
    ],
    ['in pause without etcd', [confirms({ cluster_unlocked: true })], 'node1 does not hold the lock'],
    ['in failsafe mode', [confirms({ failsafe_mode_is_active: true })], 'node1 is in failsafe mode'],
    ['if it is cut off from etcd', [confirms({ dcs_last_seen: NOW / 1_000 - 31 })], NOT_SEEN],
    ['if it does not say when it saw the DCS', [confirms({ dcs_last_seen: undefined })], NOT_SEEN],
    ['if its answer has no date', [{ status: 200, body: state('node1'), date: Number.NaN }], NOT_SEEN],
    [
      'if it belongs to another scope',
      [confirms({ patroni: { scope: 'other', name: 'node1' } })],
      '10.0.0.1:8008 belongs to scope other, not main',
    ],
    ['if its answer is no state', [ok({})], '10.0.0.1:8008 answered something else than its state'],
  ])('%s', async (_, leader, unknown) => {
    expect(await run([NORMAL, NORMAL], leader)).toEqual({ unknown });
  });

  test('if it cannot write: for a moment in a switchover, or as long as PostgreSQL hangs in recovery', async () => {
    expect(await run([NORMAL, NORMAL], [confirms({ role: 'replica' }), REPLICA])).toEqual({
      unknown:
        'node1 holds the leader lock, but its role is replica, which cannot write. In a switchover that lasts less than a second; if it lasts longer, act now: read the logs of Patroni and PostgreSQL on node1',
      cannotWrite: true,
    });
  });

  test('does not hide an internal error', async () => {
    const ask = () => Promise.reject(new TypeError('bug'));
    await expect(observe(CLUSTER, ask, new AbortController().signal)).rejects.toThrow('bug');
  });

  test('after three seconds for each round, whatever a node does', async () => {
    const rounds: string[] = [];
    const ask = (node: URL, path: string, signal: AbortSignal) => {
      rounds.push(path);
      if (path === 'cluster' && node.hostname === '10.0.0.1') return Promise.resolve(NORMAL);
      return new Promise<Answer>((resolve) =>
        signal.addEventListener('abort', () => resolve({ error: 'no answer in time' })),
      );
    };
    const start = Date.now();
    const observed = observe(CLUSTER, ask, new AbortController().signal);
    await vi.advanceTimersByTimeAsync(6_000);
    expect(await observed).toEqual({
      unknown: `node1 does not confirm that it is the leader: 10.0.0.1:8008: no answer in time, 10.0.0.2:8008: no answer in time; ${UNLISTED}`,
    });
    expect([rounds, Date.now() - start]).toEqual([['cluster', 'cluster', 'leader', 'leader'], 6_000]);
  });
});
