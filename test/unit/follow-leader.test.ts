/** Whom a role change follows, in virtual time: how often and for how long Patroni is asked. */

import { beforeEach, describe, expect, test, vi } from 'vitest';
import { HttpError, InvalidArgs, LeaderUnknown } from '../../functions/config-switch/errors.ts';
import { type Cluster, withoutValue } from '../../functions/config-switch/patroni/cluster.ts';
import { type FollowingServer, followLeader } from '../../functions/config-switch/patroni/follow-leader.ts';
import type { Clusters } from '../../functions/config-switch/patroni/observe-clusters.ts';
import type { Answer, Ask } from '../../functions/config-switch/patroni/rest-api.ts';
import { NOW, useVirtualTime } from './virtual-time.ts';

/** How long each node takes for an answer (ms); one without never answers. */
const times = new Map<string, number>();
/** Who leads the cluster of a node, by its first letter; and since when another one does (ms). */
let leaders: Record<string, string>;
let changes: readonly { readonly at: number; readonly leaders: Record<string, string> }[];
/** All requests, with their time (ms). */
let requests: string[];

const ask: Ask = async (node, path, signal) => {
  const name = node.hostname;
  requests.push(`${Date.now() - NOW} ${name} /${path}`);
  const time = times.get(name);
  return new Promise<Answer>((resolve) => {
    const giveUp = () => resolve({ error: 'no answer in time' });
    if (signal.aborted) return giveUp();
    const timer = time === undefined ? undefined : setTimeout(() => resolve(answer(name, path)), time);
    signal.addEventListener('abort', () => {
      clearTimeout(timer);
      giveUp();
    });
  });
};
/** A node whose name ends with `s` is at a standby site. */
const answer = (name: string, path: string): Answer => {
  const change = changes.findLast(({ at }) => Date.now() - NOW >= at);
  const leader = { ...leaders, ...change?.leaders }[name.slice(0, 1)];
  if (leader === undefined) return { status: 503, body: {}, date: Date.now() };
  const isStandby = leader.endsWith('s');
  const role = isStandby ? 'standby_leader' : 'leader';
  const members = [{ name: leader, role, state: isStandby ? 'streaming' : 'running' }];
  const patroni = { scope: 'main', name };
  const state = {
    state: 'running',
    role: isStandby ? role : 'primary',
    dcs_last_seen: Date.now() / 1_000,
    patroni,
  };
  if (path === 'cluster') return { status: 200, body: { members }, date: Date.now() };
  return { status: name === leader ? 200 : 503, body: state, date: Date.now() };
};

vi.mock('../../functions/config-switch/patroni/rest-api.ts', () => ({
  PatroniClient: class {
    ask: Ask = (...request) => ask(...request);
    async [Symbol.asyncDispose]() {}
  },
}));
useVirtualTime();
beforeEach(() => {
  times.clear();
  for (const node of ['a1', 'a2', 'a3', 'b1', 'b1s']) times.set(node, 5);
  leaders = { a: 'a1', b: 'b1s' };
  changes = [];
  requests = [];
});

const clusterOf = (name: string, nodes: readonly string[], change: Partial<Cluster> = {}): Cluster => ({
  ...{ name, scope: 'main', secrets: [], streaming_archiver_name: null },
  servers: new Map([['main', new Map(nodes.map((node) => [node, `pg:${node}`]))]]),
  patroni: nodes.map((node) => new URL(`http://${node}`)),
  ...change,
});
const A = clusterOf('a', ['a1', 'a2', 'a3']);
const B = clusterOf('b', ['b1', 'b1s']);

/** Follows the leader. @returns the leader or the error, and after which time (ms) */
async function follow(
  clusters: readonly Cluster[] = [A],
  {
    server = { barman_server: 'main' },
    tls = {},
    reread,
    controller = new AbortController(),
  }: {
    server?: FollowingServer;
    tls?: Clusters['tls'];
    /** The clusters, once they are read again. */
    reread?: readonly Cluster[] | 'too soon';
    controller?: AbortController;
  } = {},
) {
  let now = clusters;
  let rereads = 0;
  const source = {
    clusters: async () => ({ clusters: now, tls }),
    reread: async () => {
      rereads += 1;
      if (reread === 'too soon') return false;
      now = reread ?? now;
      return true;
    },
  };
  let time = Number.NaN;
  const result = followLeader(server, source, controller.signal)
    .catch((error: unknown) => error)
    .finally(() => {
      time = Date.now() - NOW;
    });
  await vi.advanceTimersByTimeAsync(30_000);
  return { result: await result, time, rereads };
}
const followed = (leader: string) => ({ leader, target: { model: `pg:${leader}` } });
const unknown = (reason: string) =>
  new LeaderUnknown(`the leader for Barman server main is not known: ${reason}`);

describe('the leader', () => {
  test('is followed once it was seen twice, half a second apart', async () => {
    expect(await follow()).toEqual({ result: followed('a1'), time: 520, rereads: 0 });
    expect(requests).toHaveLength(2 * 2 * 3);
    expect(requests.filter((request) => request.includes('a1'))).toEqual([
      '0 a1 /cluster',
      '5 a1 /leader',
      '510 a1 /cluster',
      '515 a1 /leader',
    ]);
  });

  test('without a model drops the active one, if its member has null', async () => {
    const servers = new Map([['main', new Map([['a1', null]])]]);
    const { result } = await follow([{ ...A, servers }]);
    expect(result).toEqual({ leader: 'a1', target: { reset: true } });
  });

  test('that changes meanwhile is followed once the new one was seen twice', async () => {
    changes = [{ at: 300, leaders: { a: 'a2' } }];
    expect(await follow()).toMatchObject({ result: followed('a2'), time: 1_030 });
  });

  test('that is unknown for some seconds is asked for every half second', async () => {
    leaders = {};
    changes = [{ at: 2_200, leaders: { a: 'a2' } }];
    expect(await follow()).toMatchObject({ result: followed('a2'), time: 3_045 });
  });

  test('is not awaited from a node that does not answer, after a first second', async () => {
    times.delete('a3');
    expect(await follow()).toMatchObject({ result: followed('a1'), time: 1_515 });
    // Its request goes on: it counts as soon as it answers.
    expect(requests.filter((request) => request.includes('a3'))).toHaveLength(1);
  });

  test('is known within three seconds, whatever one node of three does not answer', async () => {
    for (const silent of ['a2', 'a3']) {
      times.delete(silent);
      const { result, time } = await follow();
      expect(result).toEqual(followed('a1'));
      expect(time).toBeLessThanOrEqual(3_000);
      times.set(silent, 5);
      vi.setSystemTime(NOW);
    }
  });

  test('is followed although it is slow at first', async () => {
    times.set('a1', 1_300);
    setTimeout(() => times.set('a1', 20), 1_000);
    const { result, time } = await follow();
    expect(result).toEqual(followed('a1'));
    expect(time).toBeLessThan(3_000);
  });

  test('is asked again over a new connection if a request hangs for three seconds', async () => {
    times.delete('a1');
    setTimeout(() => times.set('a1', 5), 1_500);
    const { result, time } = await follow();
    expect(result).toEqual(followed('a1'));
    expect(time).toBeLessThan(5_000);
  });

  test.each<[string, () => void, string]>([
    [
      'no node answers',
      () => times.clear(),
      'no node answered: a1: no answer in time, a2: no answer in time, a3: no answer in time',
    ],
    [
      'it changes all the time',
      () => {
        changes = Array.from({ length: 40 }, (_, index) => ({
          at: 250 + 510 * index,
          leaders: { a: index % 2 === 0 ? 'a2' : 'a1' },
        }));
      },
      'a2 was seen only once',
    ],
  ])('is given up after ten seconds if %s, so that the event is sent again', async (_, given, reason) => {
    given();
    const { result, time } = await follow();
    expect(result).toEqual(unknown(reason));
    expect(time).toBe(10_000);
  });

  test('is given up at the deadline', async () => {
    times.clear();
    const controller = new AbortController();
    setTimeout(() => controller.abort(new HttpError('time is up')), 3_333);
    expect(await follow([A], { controller })).toMatchObject({
      result: new HttpError('time is up'),
      time: 3_333,
    });
  });

  test.each<[string, Partial<Cluster>, Clusters['tls'], string]>([
    ['its cluster is malformed', { malformed: 'clusters/a is not JSON' }, {}, 'clusters/a is not JSON'],
    [
      'a certificate is malformed',
      {},
      new HttpError('patroni-ca-cert is malformed'),
      'patroni-ca-cert is malformed',
    ],
  ])('is not asked for if %s', async (_, change, tls, reason) => {
    expect(await follow([{ ...A, ...change }], { tls })).toMatchObject({ result: unknown(reason), time: 0 });
    expect(requests).toEqual([]);
  });
});

describe('a server', () => {
  test.each<[string, readonly Cluster[]]>([
    ['in no cluster', []],
    ['in another cluster', [{ ...A, servers: new Map([['other', new Map([['a1', 'pg:a1']])]]) }]],
    ['without members', [{ ...A, servers: new Map([['main', new Map()]]) }]],
    ['of a cluster without URLs', [{ ...A, patroni: [] }]],
  ])('%s has no leader to follow, also after the parameters were read again', async (_, clusters) => {
    const { result, time, rereads } = await follow(clusters);
    expect(result).toEqual(
      new InvalidArgs(
        'follow_leader needs a parameter clusters/NAME that lists Barman server main with its members, ' +
          'and has the key "patroni"; there is none: add it, or send barman_model or reset instead',
      ),
    );
    expect({ time, rereads }).toEqual({ time: 0, rereads: 1 });
  });

  test('may be in a cluster that cannot be read now, so that the event is sent again', async () => {
    const { result } = await follow([withoutValue('a', 'clusters/a is not JSON')]);
    expect(result).toEqual(
      new LeaderUnknown(
        'follow_leader needs a parameter clusters/NAME that lists Barman server main with its members, and has the key "patroni"; it may be this one: clusters/a is not JSON',
      ),
    );
  });

  test('may have been added since the parameters were read, so that the event is sent again', async () => {
    const { result, rereads } = await follow([], { reread: 'too soon' });
    expect(result).toEqual(
      new LeaderUnknown(
        'follow_leader needs a parameter clusters/NAME that lists Barman server main with its members, and has the key "patroni"; there was none when the parameters were read, less than a minute ago',
      ),
    );
    expect(rereads).toBe(1);
  });

  test('that was just added to a cluster is found', async () => {
    expect(await follow([], { reread: [A] })).toMatchObject({ result: followed('a1'), rereads: 1 });
  });

  test('whose leader was just added to the cluster is found', async () => {
    const servers = new Map([['main', new Map([['a2', 'pg:a2']])]]);
    expect(await follow([{ ...A, servers }], { reread: [A] })).toMatchObject({
      result: followed('a1'),
      rereads: 1,
    });
  });

  test('whose leader has no model is reported, with the parameter', async () => {
    const servers = new Map([['main', new Map([['a2', 'pg:a2']])]]);
    const { result } = await follow([{ ...A, servers }]);
    expect(result).toEqual(
      new LeaderUnknown(
        'the leader a1 has no model for Barman server main; add it to the parameter clusters/a',
      ),
    );
  });
});

describe('of two sites', () => {
  test('the one with the primary is followed', async () => {
    expect(await follow([A, B])).toMatchObject({ result: followed('a1'), time: 520 });
    expect(await follow([B, A], { server: { barman_server: 'main', site: 'a' } })).toMatchObject({
      result: followed('a1'),
    });
  });

  test('the promoted one is left to the heartbeat, which waits for five minutes', async () => {
    leaders = { b: 'b1' };
    const { result } = await follow([A, B], { server: { barman_server: 'main', site: 'a' } });
    expect(result).toEqual(
      new LeaderUnknown(
        'Barman server main follows a, and now the only primary is b1 in b: the heartbeat follows it once that has been so for five minutes',
      ),
    );
    // Within a site nothing waits.
    expect(await follow([A, B], { server: { barman_server: 'main', site: 'b' } })).toMatchObject({
      result: followed('b1'),
    });
  });

  test('a standby leader is followed if its cluster is the only one', async () => {
    expect(await follow([B])).toMatchObject({ result: followed('b1s') });
  });

  test('one that cannot be asked keeps no other one from being followed', async () => {
    expect(await follow([A, { ...B, patroni: [] }])).toMatchObject({ result: followed('a1') });
    // And the other one is waited for.
    changes = [{ at: Date.now() - NOW + 2_000, leaders: { b: 'b1' } }];
    const malformed = { ...A, malformed: 'clusters/a is not JSON' };
    expect(await follow([malformed, B], { server: { barman_server: 'main', site: 'b' } })).toMatchObject({
      result: followed('b1'),
    });
  });

  test('another cluster is followed at once if the last one no longer lists the server', async () => {
    leaders = { b: 'b1' };
    const server = { barman_server: 'main', site: 'a' };
    expect(await follow([B], { server })).toMatchObject({ result: followed('b1') });
    expect(await follow([B, { ...A, servers: new Map() }], { server })).toMatchObject({
      result: followed('b1'),
    });
  });

  test.each<[string, FollowingServer, RegExp]>([
    [
      'the last one',
      { barman_server: 'main', site: 'a' },
      /it follows a, and the parameter clusters\/a is malformed: correct it$/,
    ],
    [
      'one that may have the primary',
      { barman_server: 'main' },
      /b1s in b is a standby leader, and the primary may be in one of these malformed parameters: clusters\/a$/,
    ],
  ])('none is followed while the parameter of %s is malformed', async (_, server, reason) => {
    const { result } = await follow([withoutValue('a', 'clusters/a is not JSON'), B], { server });
    expect(result).toBeInstanceOf(LeaderUnknown);
    expect((result as LeaderUnknown).message).toMatch(reason);
  });

  test('its own one is followed while the parameter of another is malformed', async () => {
    const server = { barman_server: 'main', site: 'b' };
    const lost = withoutValue('a', 'clusters/a is not JSON');
    expect(await follow([lost, B], { server })).toMatchObject({ result: followed('b1s') });
    // A primary is followed: it is no standby of the cluster that cannot be read.
    leaders = { b: 'b1' };
    expect(await follow([lost, B])).toMatchObject({ result: followed('b1') });
  });

  test('a site that does not answer delays the other one by a second at most', async () => {
    times.delete('b1');
    times.delete('b1s');
    const { result, time } = await follow([A, B], { server: { barman_server: 'main', site: 'a' } });
    expect(result).toEqual(followed('a1'));
    expect(time).toBeLessThan(1_600);
  });

  test('none is followed while both have a primary', async () => {
    leaders = { a: 'a1', b: 'b1' };
    expect(await follow([A, B])).toMatchObject({
      result: unknown('several sites have a primary: a1 in a, b1 in b'),
      time: 10_000,
    });
  });
});
