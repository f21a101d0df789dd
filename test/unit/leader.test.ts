/** Who is the leader, from answers as Patroni 4.1.5 and 3.3.2 gave them: with etcd, ttl 20, loop_wait 2. */

import { describe, expect, test, vi } from 'vitest';
import type { Cluster } from '../../functions/config-switch/patroni/cluster.ts';
import { observe } from '../../functions/config-switch/patroni/leader.ts';
import type { Answer } from '../../functions/config-switch/patroni/rest-api.ts';

const NOW = 1_795_500_643_000;
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
const replicaOf = (name: string, change: Body = {}) => ({
  name,
  role: 'replica',
  state: 'streaming',
  timeline: 1,
  lag: 0,
  ...change,
});
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
const CONFIRMED = [ok(state('node1')), notLeader(state('node2', { role: 'replica' }))] as const;
const DOWN: Answer = { error: 'ECONNREFUSED' };

/** @param cluster what the two nodes answer for `/cluster` @param leader and for `/leader` */
function run(
  cluster: readonly [Answer, Answer],
  leader: readonly [Answer, Answer] = CONFIRMED,
  streaming_archiver_name: string | null = null,
) {
  const ask = async (node: URL, path: 'cluster' | 'leader') =>
    (path === 'cluster' ? cluster : leader)[node.hostname === '10.0.0.1' ? 0 : 1];
  return observe({ ...CLUSTER, streaming_archiver_name }, ask, new AbortController().signal);
}

describe('the leader is known', () => {
  test('at once, without a timer that stays', async () => {
    vi.useFakeTimers();
    expect(await run([NORMAL, NORMAL])).toEqual({ leader: 'node1' });
    expect(vi.getTimerCount()).toBe(0);
    vi.useRealTimers();
  });

  test.each<[string, readonly [Answer, Answer], (readonly [Answer, Answer])?]>([
    ['if all nodes name it and it confirms', [NORMAL, NORMAL]],
    ['if the other node does not answer', [NORMAL, DOWN], [CONFIRMED[0], DOWN]],
    ['if the other node answers with an error', [NORMAL, notLeader({})], [CONFIRMED[0], notLeader({})]],
    [
      'in a paused cluster',
      [ok({ members: [leaderOf('node1')], scope: 'main', pause: true }), NORMAL],
      [ok(state('node1', { pause: true })), DOWN],
    ],
    ['as Patroni 3.3.2 calls it', [NORMAL, NORMAL], [ok(state('node1', { role: 'master' })), CONFIRMED[1]]],
    [
      'if a member without PostgreSQL has no timeline',
      [members(leaderOf('node1'), { name: 'node2', role: 'replica', state: 'stopped' }), NORMAL],
    ],
    [
      'in a standby cluster',
      [members(leaderOf('node1', { role: 'standby_leader', state: 'streaming' }), replicaOf('node2')), DOWN],
      [ok(state('node1', { role: 'standby_leader' })), DOWN],
    ],
    [
      'with a sync standby',
      [members(leaderOf('node1'), replicaOf('node2', { role: 'sync_standby' })), NORMAL],
    ],
    ['if its scope is not in the list of members', [ok({ members: [leaderOf('node1')] }), DOWN]],
    [
      'if it saw the DCS 30 s ago',
      [NORMAL, NORMAL],
      [ok(state('node1', { dcs_last_seen: NOW / 1_000 - 30 })), DOWN],
    ],
  ])('%s', async (_, cluster, leader) => {
    expect(await run(cluster, leader)).toEqual({ leader: 'node1' });
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
  test.each<[string, Body, boolean | undefined]>([
    ['streams from the leader', { replication: [sender('node2', 'streaming'), barman('streaming')] }, true],
    ['streams while it catches up', { replication: [barman('catchup')] }, true],
    ['does not stream while it connects', { replication: [barman('startup')] }, false],
    [
      'does not stream with a base backup',
      { replication: [sender('barman_streaming_backup', 'backup')] },
      false,
    ],
    ['does not stream if only a replica does', { replication: [sender('node2', 'streaming')] }, false],
    ['does not stream if nothing does', { replication: undefined }, false],
    [
      'does not stream with a name or state that is null',
      { replication: [sender(null, null), barman(null)] },
      false,
    ],
    ['may stream if PostgreSQL did not answer', { state: 'unknown', replication: undefined }, undefined],
  ])('%s', async (_, change, streaming) => {
    const leader = [ok(state('node1', change)), CONFIRMED[1]] as const;
    expect(await run([NORMAL, NORMAL], leader, 'barman_receive_wal')).toEqual({ leader: 'node1', streaming });
  });

  test('streams under the name that its configuration has', async () => {
    const leader = [ok(state('node1', { replication: [sender('wal_of_main', 'streaming')] })), DOWN] as const;
    expect(await run([NORMAL, NORMAL], leader, 'wal_of_main')).toMatchObject({ streaming: true });
    expect(await run([NORMAL, NORMAL], leader, 'barman_receive_wal')).toMatchObject({ streaming: false });
    expect(await run([NORMAL, NORMAL], leader, null)).toMatchObject({ streaming: undefined });
  });
});

describe('the leader is unknown', () => {
  test.each<[string, readonly [Answer, Answer], readonly [Answer, Answer] | undefined, string]>([
    [
      'if no node answers',
      [DOWN, { error: 'no answer in time' }],
      undefined,
      'no node answered: 10.0.0.1:8008: ECONNREFUSED, 10.0.0.2:8008: no answer in time',
    ],
    ['just after etcd is back', [members(), NORMAL], undefined, '10.0.0.1:8008 knows no leader'],
    [
      'if nodes disagree',
      [NORMAL, members(replicaOf('node1'), leaderOf('node2'))],
      undefined,
      'one node names node1, and 10.0.0.2:8008 node2',
    ],
    [
      'if a node knows two',
      [members(leaderOf('node1'), leaderOf('node2')), DOWN],
      undefined,
      '10.0.0.1:8008 knows 2 leaders',
    ],
    [
      'while it starts',
      [members(leaderOf('node1', { state: 'starting' })), DOWN],
      undefined,
      'node1 is starting, by 10.0.0.1:8008',
    ],
    [
      'while a standby leader does not stream',
      [members(leaderOf('node1', { role: 'standby_leader' })), DOWN],
      undefined,
      'node1 is running, by 10.0.0.1:8008',
    ],
    [
      'if another member has a higher timeline',
      [members(leaderOf('node1'), replicaOf('node2', { timeline: 2 })), DOWN],
      undefined,
      'node2 has a higher timeline than the leader node1, by 10.0.0.1:8008',
    ],
    [
      'in another scope',
      [ok({ members: [leaderOf('node1')], scope: 'other' }), NORMAL],
      undefined,
      '10.0.0.1:8008 belongs to scope other, not main',
    ],
    [
      'if an answer is no cluster',
      [ok('<html>'), NORMAL],
      undefined,
      '10.0.0.1:8008 answered something else than a cluster',
    ],
    [
      'if an answer is not JSON',
      [ok(undefined), NORMAL],
      undefined,
      '10.0.0.1:8008 answered something else than a cluster',
    ],
    [
      'if a name cannot be stored',
      [members(leaderOf('a\ud800')), NORMAL],
      undefined,
      '10.0.0.1:8008 answered something else than a cluster',
    ],
    [
      'if it was killed: the other names it for the whole ttl',
      [DOWN, NORMAL],
      [DOWN, CONFIRMED[1]],
      'node1 does not confirm that it is the leader: 10.0.0.1:8008: ECONNREFUSED, 10.0.0.2:8008: 503',
    ],
    [
      'after SIGSTOP and SIGCONT',
      [NORMAL, NORMAL],
      [notLeader(state('node1')), CONFIRMED[1]],
      'node1 does not confirm that it is the leader: 10.0.0.1:8008: 503, 10.0.0.2:8008: 503',
    ],
    [
      'in the first moments of a switchover',
      [NORMAL, NORMAL],
      [ok(state('node1', { role: 'replica' })), CONFIRMED[1]],
      'node1 is still replica',
    ],
    [
      'while nodes still name the old one',
      [NORMAL, NORMAL],
      [DOWN, ok(state('node2'))],
      'node2 claims to be the leader as well as node1',
    ],
    [
      'in pause without etcd',
      [NORMAL, NORMAL],
      [ok(state('node1', { cluster_unlocked: true })), DOWN],
      'node1 does not hold the lock',
    ],
    [
      'in failsafe mode',
      [NORMAL, NORMAL],
      [ok(state('node1', { failsafe_mode_is_active: true })), DOWN],
      'node1 is in failsafe mode',
    ],
    [
      'if it is cut off from etcd',
      [NORMAL, NORMAL],
      [ok(state('node1', { dcs_last_seen: NOW / 1_000 - 31 })), DOWN],
      'node1 has not seen the DCS for more than 30 s',
    ],
    [
      'if it does not say when it saw the DCS',
      [NORMAL, NORMAL],
      [ok(state('node1', { dcs_last_seen: undefined })), DOWN],
      'node1 has not seen the DCS for more than 30 s',
    ],
    [
      'if its answer has no date',
      [NORMAL, NORMAL],
      [{ status: 200, body: state('node1'), date: Number.NaN }, DOWN],
      'node1 has not seen the DCS for more than 30 s',
    ],
    [
      'if it belongs to another scope',
      [NORMAL, NORMAL],
      [ok(state('node1', { patroni: { scope: 'other', name: 'node1' } })), DOWN],
      '10.0.0.1:8008 belongs to scope other, not main',
    ],
    [
      'if its answer is no state',
      [NORMAL, NORMAL],
      [ok({}), DOWN],
      '10.0.0.1:8008 answered something else than its state',
    ],
  ])('%s', async (_, cluster, leader, unknown) => {
    expect(await run(cluster, leader)).toEqual({ unknown });
  });

  test('does not hide an internal error', async () => {
    const ask = () => Promise.reject(new TypeError('bug'));
    await expect(observe(CLUSTER, ask, new AbortController().signal)).rejects.toThrow('bug');
  });

  test('after three seconds for each round, whatever a node does', async () => {
    vi.useFakeTimers();
    const rounds: string[] = [];
    const ask = (node: URL, path: 'cluster' | 'leader', signal: AbortSignal) => {
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
      unknown:
        'node1 does not confirm that it is the leader: 10.0.0.1:8008: no answer in time, 10.0.0.2:8008: no answer in time',
    });
    expect([rounds, Date.now() - start]).toEqual([['cluster', 'cluster', 'leader', 'leader'], 6_000]);
    expect(vi.getTimerCount()).toBe(0);
    vi.useRealTimers();
  });
});
