/** Whose turn it is, and for how long, if there are more nodes than sockets. */

import { expect, test, vi } from 'vitest';
import { type Cluster, SOCKETS } from '../../functions/config-switch/patroni/cluster.ts';
import { observeClusters } from '../../functions/config-switch/patroni/observe-clusters.ts';
import type { Answer, Ask } from '../../functions/config-switch/patroni/rest-api.ts';
import { NOW, useVirtualTime } from './virtual-time.ts';

/** How long a node takes for each answer (ms), by its host name; one without does not answer. */
const times = new Map<string, number>();
/** All requests so far, with their time (ms). */
const requests: string[] = [];
let open = 0;
let most = 0;

const answer = (node: URL, path: string): Answer => {
  const name = node.hostname.replace(/\..*/, '');
  const body =
    path === 'cluster'
      ? { members: [{ name: 'leader', role: 'leader', state: 'running' }] }
      : { state: 'running', role: 'primary', dcs_last_seen: NOW / 1_000, patroni: { scope: 's', name } };
  return { status: path === 'cluster' || name === 'leader' ? 200 : 503, body, date: NOW };
};
const ask: Ask = async (node, path, signal) => {
  requests.push(`${Date.now() - NOW} ${node.hostname} /${path}`);
  const time = times.get(node.hostname.replace(/\..*/, ''));
  return new Promise<Answer>((resolve) => {
    const giveUp = () => resolve({ error: 'no answer in time' });
    if (signal.aborted) giveUp();
    signal.addEventListener('abort', giveUp);
    if (time !== undefined) setTimeout(() => resolve(answer(node, path)), time);
  });
};

vi.mock('../../functions/config-switch/patroni/rest-api.ts', () => ({
  PatroniClient: class {
    ask: Ask = async (...request) => {
      open += 1;
      most = Math.max(most, open);
      return ask(...request).finally(() => {
        open -= 1;
      });
    };
    async [Symbol.asyncDispose]() {}
  },
}));
useVirtualTime();

/** Observes so many clusters of some nodes each. @returns how many leaders are known, and the time (ms) */
async function observe(count: number, ...nodes: readonly string[]) {
  requests.length = 0;
  most = 0;
  const clusters = Array.from(
    { length: count },
    (_, index): Cluster => ({
      ...{ name: `c${index}`, scope: 's', secrets: [], servers: new Map(), streaming_archiver_name: null },
      patroni: nodes.map((node) => new URL(`http://${node}.c${index}`)),
    }),
  );
  let time = Number.NaN;
  const observed = observeClusters({ clusters, tls: {} }, new AbortController().signal).finally(() => {
    time = Date.now() - NOW;
  });
  await vi.advanceTimersByTimeAsync(30_000);
  const known = (await observed).filter(({ observation }) => 'leader' in observation).length;
  vi.setSystemTime(NOW);
  return { known, time, observed: await observed };
}

test('as many nodes as sockets › are asked at the same time, and have three seconds for each answer', async () => {
  times.set('leader', 2_999);
  expect(await observe(SOCKETS / 2, 'leader', 'silent')).toMatchObject({ known: SOCKETS / 2, time: 6_000 });
  expect(most).toBe(SOCKETS);
  // The silent ones are asked again: they may be what says that a leader is not one.
  expect(requests.filter((request) => request.includes('silent'))).toHaveLength(SOCKETS);
});

test('more nodes than sockets › wait for their turn, and have half a second while others do', async () => {
  times.set('leader', 499);
  const { known, time } = await observe(SOCKETS * 3, 'leader', 'silent');
  expect(most).toBe(SOCKETS);
  expect(known).toBe(SOCKETS * 3);
  // Five turns in which a silent node is given up after 500 ms and not asked again, and the last one.
  expect(time).toBe(5 * (500 + 499) + 6_000);
});

test('more nodes than sockets › have three seconds for each answer in a second turn, if they were too slow', async () => {
  times.set('leader', 2_999);
  const { known, time } = await observe(SOCKETS + 2, 'leader');
  expect(known).toBe(SOCKETS + 2);
  // Two are given up for the two that wait; these, and then those two again, have both rounds.
  expect(time).toBe(2 * 2 * 2_999);
  expect(requests.filter((request) => request.startsWith('500 '))).toHaveLength(2);
});

test('more nodes than sockets › say why they are unknown after twelve seconds', async () => {
  const { known, time, observed } = await observe(SOCKETS * 8, 'silent');
  expect([known, time]).toEqual([0, 12_000]);
  const { observation } = observed.at(-1) ?? {};
  expect(observation).toEqual({
    unknown: expect.stringMatching(/^no node answered: silent.c511: no answer in time$/),
  });
});

test('330 clusters of three nodes › are all known within twelve seconds if each has a node that does not answer', async () => {
  times.set('leader', 50).set('replica', 50);
  const { known, time } = await observe(330, 'leader', 'replica', 'silent');
  expect({ known, most }).toEqual({ known: 330, most: 63 });
  expect(time).toBeLessThanOrEqual(12_000);
});

test('330 clusters of three nodes › are given up after twelve seconds', async () => {
  times.set('leader', 499);
  const { known, time } = await observe(330, 'leader', 'leader', 'leader');
  expect(time).toBe(12_000);
  expect(known).toBeGreaterThan(200);
});
