import { beforeEach, describe, expect, test, vi } from 'vitest';
import { LedgerError } from '../../functions/config-switch/errors.ts';
import type { Item, RecordedItem } from '../../functions/config-switch/ledger/item.ts';
import { Ledger } from '../../functions/config-switch/ledger/ledger.ts';
import type { StageItem } from '../../functions/config-switch/ledger/stage.ts';
import type { Observed } from '../../functions/config-switch/patroni/observe-clusters.ts';
import { recordObservations } from '../../functions/config-switch/reconcile/observations.ts';
import { versionOf } from '../../functions/config-switch/version.ts';
import { MemoryTable } from '../stand-ins/memory-table.ts';
import { at, NOW } from './virtual-time.ts';

const MINUTE = 60_000;
const { signal } = new AbortController();
const MEMBERS = { node1: 'pg:node1', node2: 'pg:node2', node3: null };

/** Set to the model of node1 ten minutes ago. */
const TARGET = { target: 'model pg:node1', version: versionOf(NOW - 10 * MINUTE, 'e') };
const DESIRED = { ...TARGET, cluster: 'scope', recorded_at: at(-10 * MINUTE) };
const APPLIED = { ...TARGET, operation_id: 'op', applied_at: at(-10 * MINUTE) };
const IN_SYNC: RecordedItem = {
  barman_server: 'main',
  desired: DESIRED,
  applied: APPLIED,
  leader: 'node1',
  leader_since: at(-10 * MINUTE),
  site: 'parameter',
};
/** Something else is desired. */
const OTHER = { desired: { ...DESIRED, target: 'model other' } };

let table: MemoryTable;
beforeEach(() => {
  table = new MemoryTable();
});

const clusterWith = (servers: Record<string, Record<string, string | null>>) => ({
  name: 'parameter',
  scope: 'scope',
  streaming_archiver_name: 'barman_receive_wal',
  servers: new Map(
    Object.entries(servers).map(([server, members]) => [server, new Map(Object.entries(members))]),
  ),
});
const CLUSTER = clusterWith({ main: MEMBERS });
type Observation = Observed['observation'];
/** Records one observation, so many ms after NOW. @param read the items as they were read, if not now */
const observe = async (
  ms: number,
  observation: Observation,
  {
    cluster = CLUSTER,
    read,
    site,
    sites = ['a', 'b', 'c'],
    ...last
  }: {
    cluster?: Observed['cluster'];
    read?: Item[];
    stage?: StageItem;
    site?: string;
    sites?: readonly string[];
  } = {},
) => {
  const observed: Observed[] =
    site === undefined
      ? [{ cluster, at: NOW + ms, observation }]
      : [
          {
            cluster: { ...cluster, name: site },
            ...{ barman_server: 'main', sites, at: NOW + ms, observation },
          },
        ];
  const ledger = new Ledger(table);
  const known = read ? { items: read, unreadable: [], stage: {} } : await ledger.all(signal);
  return recordObservations(ledger, { ...known, ...last }, observed, MINUTE, signal);
};
const NOTHING = { reconciled: [], first: [], notStreaming: [], unknown: [] };

describe('what Patroni says', () => {
  test('is recorded for a server that is not in the ledger', async () => {
    expect(await observe(0, { leader: 'node1', streaming: true })).toEqual(NOTHING);
    expect(table.item).toEqual({
      barman_server: 'main',
      leader: 'node1',
      site: 'parameter',
      leader_since: at(0),
      differs_since: at(0),
      streaming: true,
      streaming_since: at(0),
    });
  });

  test.each<[string, Partial<Item>, Observation]>([
    ['is', { streaming: true, streaming_since: at(-MINUTE) }, { leader: 'node1', streaming: true }],
    ['differs', { leader: 'node2', differs_since: at(-1) }, { leader: 'node2' }],
  ])('is not written if it %s as before', async (_, change, observation) => {
    table.item = { ...IN_SYNC, ...change };
    expect(await observe(0, observation)).toEqual(NOTHING);
    expect(table.writes).toBe(0);
  });

  test('is not written if it is as before where streaming is not checked', async () => {
    table.item = IN_SYNC;
    const cluster = { ...CLUSTER, streaming_archiver_name: null };
    expect(await observe(0, { leader: 'node1' }, { cluster })).toEqual(NOTHING);
    expect(table.writes).toBe(0);
  });

  test('ends the difference once it is what is desired', async () => {
    table.item = { ...IN_SYNC, differs_since: at(-MINUTE) };
    expect(await observe(0, { leader: 'node1' })).toEqual(NOTHING);
    expect(table.item).toEqual(IN_SYNC);
  });

  test('begins a difference as soon as something else is desired', async () => {
    table.item = { ...IN_SYNC, ...OTHER };
    await observe(0, { leader: 'node1' });
    expect(table.item).toEqual({ ...IN_SYNC, ...OTHER, differs_since: at(0) });
  });

  test('starts over with another leader', async () => {
    table.item = { ...IN_SYNC, leader: 'node2', leader_since: at(-MINUTE), differs_since: at(-MINUTE) };
    expect(await observe(0, { leader: 'node3' })).toEqual(NOTHING);
    expect(table.item).toEqual({ ...IN_SYNC, leader: 'node3', leader_since: at(0), differs_since: at(0) });
  });

  test.each<[string, boolean | undefined, object]>([
    ['does not stream either', false, { streaming: false, streaming_since: at(0) }],
    ['streams', true, { streaming: true, streaming_since: at(0) }],
    ['may stream', undefined, {}],
  ])('of another leader is no longer known if this one %s', async (_, streaming, expected) => {
    const old = { streaming: false, streaming_since: at(-MINUTE) };
    table.item = { ...IN_SYNC, ...old, leader: 'node2', differs_since: at(-MINUTE) };
    await observe(0, { leader: 'node1', streaming });
    expect(table.item).toEqual({ ...IN_SYNC, leader_since: at(0), ...expected });
  });

  test.each([
    ['another leader', IN_SYNC],
    ['the first leader', { barman_server: 'main' }],
  ])('is dropped if another heartbeat has seen %s meanwhile', async (_, before) => {
    const now = { ...IN_SYNC, leader: 'node3' };
    table.item = now;
    const cluster = clusterWith({ main: MEMBERS, other: MEMBERS });
    const seen = { leader: 'node2', streaming: false };
    const { notStreaming } = await observe(0, seen, { cluster, read: [before] });
    expect(notStreaming).toMatchObject([{ barman_server: 'other' }]);
    expect(table.item).toEqual(now);
  });

  test('is the reason why a leader is unknown', async () => {
    const unknown = [{ cluster: 'parameter', reason: 'no node answered' }];
    expect(await observe(0, { unknown: 'no node answered' })).toEqual({ ...NOTHING, unknown });
    expect(table.writes).toBe(0);
  });

  test('does not matter for a server without members, and is unknown for one without that member', async () => {
    const cluster = clusterWith({ a: {}, b: { node2: 'pg:node2' }, main: MEMBERS });
    const reason = 'its leader node1 has no model for Barman server b; add it to clusters/parameter';
    const unknown = [{ cluster: 'parameter', barman_server: 'b', reason }];
    expect(await observe(0, { leader: 'node1' }, { cluster })).toEqual({ ...NOTHING, unknown });
    expect([...table.items.keys()]).toEqual(['main']);
  });

  test('is not written where the item cannot be read, but everywhere else', async () => {
    const broken = { barman_server: 'broken', desired: 'model x' } as unknown as Item;
    table.items.set('broken', broken);
    expect(
      await observe(0, { leader: 'node1' }, { cluster: clusterWith({ broken: MEMBERS, main: MEMBERS }) }),
    ).toEqual(NOTHING);
    expect([table.items.get('broken'), table.item?.leader]).toEqual([broken, 'node1']);
  });
});

describe('a server that cannot be written', () => {
  test('is unknown with the reason, and keeps no other one from being observed', async () => {
    const cluster = clusterWith({ a: MEMBERS, bad: MEMBERS, main: MEMBERS });
    const { update } = table;
    table.update = async (server, ...rest) => {
      if (server === 'bad') throw new LedgerError('the ledger is unavailable: ThrottlingException');
      return update.call(table, server, ...rest);
    };
    const reason =
      'its leader node1 could not be recorded for Barman server bad: the ledger is unavailable: ThrottlingException';
    const { unknown, notStreaming } = await observe(0, { leader: 'node1', streaming: false }, { cluster });
    expect(unknown).toEqual([{ cluster: 'parameter', barman_server: 'bad', reason }]);
    expect(notStreaming.map(({ barman_server }) => barman_server)).toEqual(['a', 'bad', 'main']);
    expect([...table.items.keys()]).toEqual(['a', 'main']);
  });

  test.each<[string, Partial<Item>, number | undefined]>([
    ['since when it did not before', { streaming: false, streaming_since: at(-MINUTE) }, NOW - MINUTE],
    ['from now on if it streamed before', { streaming: true, streaming_since: at(-MINUTE) }, undefined],
    [
      'from now on if it did not stream from another leader',
      { leader: 'node2', streaming: false, streaming_since: at(-MINUTE) },
      undefined,
    ],
  ])('is reported as one for which Barman does not stream, %s', async (_, change, since) => {
    // Set to another model than its leader's since a moment, so that there is something to write.
    const read = [{ ...IN_SYNC, ...OTHER, ...change }];
    table.update = () => Promise.reject(new LedgerError('the ledger is unavailable'));
    const { notStreaming } = await observe(0, { leader: 'node1', streaming: false }, { read });
    const message = `Barman does not stream from node1 for server main, at least since ${at((since ?? NOW) - NOW)}`;
    expect(notStreaming).toEqual([{ barman_server: 'main', message, since }]);
  });

  test('does not take more than ten seconds, together with all that cannot', async () => {
    vi.useFakeTimers({ now: NOW });
    const cluster = clusterWith({ a: MEMBERS, b: MEMBERS, c: MEMBERS });
    table.update = (_server, _change, _condition, until = signal) =>
      new Promise<never>((_, reject) => {
        if (until.aborted) reject(until.reason);
        until.addEventListener('abort', () => reject(until.reason));
      });
    const observed = observe(0, { leader: 'node1' }, { cluster });
    await vi.advanceTimersByTimeAsync(10_000);
    expect((await observed).unknown).toHaveLength(3);
    expect(Date.now() - NOW).toBe(10_000);
    vi.useRealTimers();
  });
});

describe("the leader's model", () => {
  const DIFFERENT: RecordedItem = { ...IN_SYNC, leader: 'node2', differs_since: at(0) };

  test('becomes what is desired at the second observation, with a version that is half a minute older', async () => {
    table.item = DIFFERENT;
    const message =
      "Patroni's leader is node2: model pg:node2 is desired for Barman server main now (before: model pg:node1); " +
      'no event reported it, so a callback may be broken';
    const reconciled = [{ barman_server: 'main', message }];
    expect(await observe(45_000, { leader: 'node2' })).toEqual({ ...NOTHING, reconciled });
    expect(table.item).toMatchObject({
      desired: {
        target: 'model pg:node2',
        version: '2026-11-23T06:10:15.000Z#leader:node2',
        cluster: 'scope',
      },
      applied: APPLIED,
    });
    expect(table.item).not.toHaveProperty('differs_since');
  });

  test('does not become it less than three quarters of an interval after the first one', async () => {
    table.item = DIFFERENT;
    expect(await observe(44_999, { leader: 'node2' })).toEqual(NOTHING);
    expect(table.writes).toBe(0);
  });

  test('becomes it for a server that no event has named', async () => {
    await observe(0, { leader: 'node1' });
    const message =
      "Patroni's leader is node1: model pg:node1 is desired for Barman server main now; nothing was before";
    // No event was missed, so nothing is to be repaired.
    const first = [{ barman_server: 'main', message }];
    expect(await observe(MINUTE, { leader: 'node1' })).toEqual({ ...NOTHING, first });
    expect(table.item).toMatchObject({ desired: { target: 'model pg:node1' } });
  });

  test('may be no model', async () => {
    table.item = { ...DIFFERENT, leader: 'node3' };
    expect((await observe(MINUTE, { leader: 'node3' })).reconciled).toMatchObject([
      { message: expect.stringContaining('no model is desired for Barman server main now') },
    ]);
    expect(table.item).toMatchObject({ desired: { target: 'reset' } });
  });

  test.each([
    ['not become it while an event is at most a minute old', MINUTE, []],
    ['become it a moment later', MINUTE + 1, [expect.anything()]],
  ])('does %s', async (_, age, reconciled) => {
    table.item = { ...DIFFERENT, desired: { ...DESIRED, version: versionOf(NOW + MINUTE - age, 'event') } };
    expect(await observe(MINUTE, { leader: 'node2' })).toEqual({ ...NOTHING, reconciled });
  });

  test.each([
    ['something', DIFFERENT],
    ['nothing', { barman_server: 'main', site: 'parameter', leader: 'node2', differs_since: at(0) }],
  ])('does not become it if %s was desired, and an event was recorded meanwhile', async (_, before) => {
    const event = { ...DIFFERENT, desired: { ...DESIRED, version: versionOf(NOW - 9 * MINUTE, 'event') } };
    table.item = event;
    expect(await observe(MINUTE, { leader: 'node2' }, { read: [before] })).toEqual(NOTHING);
    expect(table.item).toEqual(event);
  });

  test('has a version without the spaces that a member may have in its name', async () => {
    table.item = { ...DIFFERENT, leader: 'node 2#' };
    const cluster = clusterWith({ main: { 'node 2#': 'pg:node2' } });
    await observe(MINUTE, { leader: 'node 2#' }, { cluster });
    expect(table.item.desired?.version).toBe('2026-11-23T06:10:30.000Z#leader:node%202%23');
  });
});

describe('a server for which Barman does not stream', () => {
  const STREAMED: Item = { ...IN_SYNC, streaming: true, streaming_since: at(-10 * MINUTE) };
  const STOPPED: Item = { ...IN_SYNC, streaming: false, streaming_since: at(0) };
  const message = `Barman does not stream from node1 for server main, at least since ${at(0)}`;
  const found = (text: string) => ({
    ...NOTHING,
    notStreaming: [{ barman_server: 'main', message: text, since: NOW }],
  });
  const notStreaming = { leader: 'node1', streaming: false };

  test('is reported from the first observation on', async () => {
    table.item = STREAMED;
    expect(await observe(0, notStreaming)).toEqual(found(message));
    expect(table.item).toEqual(STOPPED);
  });

  test('is not reported if nothing is known about that, or while it is paused', async () => {
    table.item = STREAMED;
    expect(await observe(0, { leader: 'node1', streaming: undefined })).toEqual(NOTHING);
    // That it streams is not known any more.
    expect(table.item).toEqual(IN_SYNC);
    table.item = { ...STREAMED, paused: true };
    expect(await observe(0, notStreaming)).toEqual(NOTHING);
    expect(table.item).toEqual({ ...STOPPED, paused: true });
  });

  test('is reported with the address of another receiver that has its name', async () => {
    table.item = STREAMED;
    const text = `${message}; another receiver with Barman's name streams from 10.0.4.4, which is not in barman_addresses`;
    expect(await observe(0, { ...notStreaming, otherReceiver: '10.0.4.4' })).toEqual(found(text));
  });

  const last = 'at least since 2026-11-23T06:10:00.000Z; it is not known whether it does now';
  test.each<[string, Observation]>([
    ['the leader is unknown', { unknown: 'no node answered' }],
    ['the leader has no model', { leader: 'node4', streaming: true }],
    ['PostgreSQL does not answer', { leader: 'node1', streaming: undefined }],
  ])('goes on being reported while %s', async (_, observation) => {
    const text = `Barman did not stream from node1 for server main when that was last known, ${last}`;
    table.item = { ...STOPPED, streaming_since: at(0) };
    expect((await observe(3 * MINUTE, observation)).notStreaming).toEqual(found(text).notStreaming);
    expect(table.item).toEqual(STOPPED);
    expect(table.writes).toBe(0);
  });

  test('goes on being reported with the time at which its leader was last known', async () => {
    table.item = STOPPED;
    const clusters = [
      { name: 'parameter', servers: [{ name: 'main', observed: true }], observed_at: at(MINUTE) },
    ];
    const stage = { heartbeat: { at: at(2 * MINUTE), interval: MINUTE, version: '1', clusters } };
    const text = `Barman did not stream from node1 for server main when last seen at ${at(MINUTE)}, ${last}`;
    const { notStreaming: reported } = await observe(3 * MINUTE, { unknown: 'no node answered' }, { stage });
    expect(reported).toEqual(found(text).notStreaming);
  });

  test('is not reported with a time at which the leader of another cluster was known', async () => {
    const heartbeat = (...clusters: [string, number][]) => ({
      ...{ at: at(2 * MINUTE), interval: MINUTE, version: '1' },
      clusters: clusters.map(([name, ms]) => ({ name, servers: [], observed_at: at(ms) })),
    });
    const reported = async (item: Item, ...clusters: [string, number][]) => {
      table.item = item;
      const stage = { heartbeat: heartbeat(...clusters) };
      const { notStreaming: found } = await observe(3 * MINUTE, { unknown: 'no node answered' }, { stage });
      return found.map((one) => one.message);
    };
    const text = (when: string) => [`Barman did not stream from node1 for server main ${when}, ${last}`];
    const known = text(`when last seen at ${at(MINUTE)}`);
    expect(await reported(STOPPED, ['east', 0], ['parameter', MINUTE])).toEqual(known);
    expect(await reported({ ...STOPPED, site: 'east' }, ['parameter', MINUTE])).toEqual(
      text('when that was last known'),
    );
    // An item that does not have its cluster yet is of this one.
    const { site: _, ...unsited } = STOPPED;
    expect(await reported(unsited, ['parameter', MINUTE])).toEqual(known);
  });

  test('is reported without a time if the ledger has lost that', async () => {
    const { streaming_since: _, ...damaged } = STOPPED;
    table.item = damaged;
    const { notStreaming: reported } = await observe(0, { unknown: 'no node answered' });
    const text =
      'Barman did not stream from node1 for server main when that was last known, ' +
      'at least since an unknown time; it is not known whether it does now';
    expect(reported).toEqual([{ barman_server: 'main', message: text, since: undefined }]);
  });

  test.each<[string, Item, object]>([
    ['if it streamed', STREAMED, {}],
    ['while it is paused', { ...STOPPED, paused: true }, {}],
    ['where that is not checked', STOPPED, { streaming_archiver_name: null }],
  ])('is not reported while the leader is unknown, %s', async (_, item, change) => {
    table.item = item;
    const cluster = { ...CLUSTER, ...change };
    expect((await observe(0, { unknown: 'no node answered' }, { cluster })).notStreaming).toEqual([]);
  });

  test.each<[string, Observation]>([
    ['is seen', notStreaming],
    ['is unknown', { unknown: 'no node answered' }],
  ])('is not reported while all servers are paused, whether its leader %s', async (_, observation) => {
    table.item = STOPPED;
    const stage = { paused: { at: at(0) } };
    expect((await observe(3 * MINUTE, observation, { stage })).notStreaming).toEqual([]);
    expect(table.item).toEqual(STOPPED);
  });

  test('is forgotten once that is no longer checked', async () => {
    table.item = STOPPED;
    const cluster = { ...CLUSTER, streaming_archiver_name: null };
    expect(await observe(0, { leader: 'node1' }, { cluster })).toEqual(NOTHING);
    expect(table.item).toEqual(IN_SYNC);
  });

  test('has its model applied again after almost two intervals', async () => {
    table.item = STOPPED;
    expect(await observe(104_999, notStreaming)).toEqual(found(message));
    expect(table.item).toEqual(STOPPED);
    expect(await observe(105_000, notStreaming)).toEqual(found(`${message}; its model is applied again`));
    expect(table.item).toEqual({ ...STOPPED, apply_again_at: expect.stringMatching(/Z$/) });
  });

  test.each([
    ['once it was', 105_000, 10 * MINUTE, false],
    ['until ten intervals later', 105_000, 705_000 - 1, false],
    ['but then it is', 105_000, 705_000, true],
    ['also if it was a moment too early', 704_999, 705_000, true],
    ['but not if it was just now', 705_000, 705_000, false],
    ['and each ten intervals after that', 705_000, 1_305_000, true],
  ])('does not have it applied again, %s', async (_, applied, now, again) => {
    table.item = { ...STOPPED, applied: { ...APPLIED, applied_at: at(applied) } };
    const text = again ? `${message}; its model is applied again` : message;
    expect(await observe(now, notStreaming)).toEqual(found(text));
  });

  test.each<[string, Partial<Item>]>([
    ['is not what is desired', { ...OTHER, differs_since: at(4 * MINUTE) }],
    ['is not applied yet', { applied: { ...APPLIED, version: versionOf(NOW - 11 * MINUTE, 'e') } }],
  ])('does not have it applied again if it %s', async (_, change) => {
    table.item = { ...STOPPED, ...change };
    expect(await observe(4 * MINUTE, notStreaming)).toEqual(found(message));
    expect(table.item).not.toHaveProperty('apply_again_at');
  });

  test('does not have it applied again if nothing was applied yet', async () => {
    const { applied: _, ...neverApplied } = STOPPED;
    table.item = neverApplied;
    expect(await observe(4 * MINUTE, notStreaming)).toEqual(found(message));
    expect(table.item).toEqual(neverApplied);
  });

  test('does not have it applied again if something was recorded meanwhile', async () => {
    table.item = { ...STOPPED, lease: { token: 'another', expires_at: at(0) } };
    expect(await observe(2 * MINUTE, notStreaming, { read: [STOPPED] })).toEqual(found(message));
    expect(table.item).not.toHaveProperty('apply_again_at');
  });
});

describe('of a server with several sites', () => {
  const A: Item = { ...IN_SYNC, site: 'a' };
  const node2 = { leader: 'node2' };
  const waiting = (since: number) =>
    `Barman server main follows a, and the only primary is in b since ${at(since)}: it is followed after 5 minutes`;
  const unknownIn = (cluster: string, reason: string) => ({
    ...NOTHING,
    unknown: [{ cluster, barman_server: 'main', reason }],
  });

  test('the first site that has the only primary is followed as any leader', async () => {
    table.item = IN_SYNC;
    expect(await observe(0, node2, { site: 'b' })).toEqual(NOTHING);
    expect(table.item).toMatchObject({ site: 'b', leader: 'node2', differs_since: at(0) });
    expect(await observe(MINUTE, node2, { site: 'b' })).toMatchObject({
      reconciled: [{ barman_server: 'main' }],
    });
  });

  test('another leader of the same site is followed at once', async () => {
    table.item = A;
    expect(await observe(0, node2, { site: 'a' })).toEqual(NOTHING);
    expect(table.item).toMatchObject({ site: 'a', leader: 'node2', differs_since: at(0) });
  });

  test('another site is followed once it has had the only primary for five minutes', async () => {
    table.item = A;
    for (const minute of [0, 1, 2, 3, 4]) {
      expect(await observe(minute * MINUTE, node2, { site: 'b' })).toEqual(unknownIn('b', waiting(0)));
      expect(table.item).toEqual({
        ...A,
        other_site: { name: 'b', since: at(0), seen: at(minute * MINUTE) },
      });
    }
    expect(await observe(4.75 * MINUTE - 1, node2, { site: 'b' })).toEqual(unknownIn('b', waiting(0)));
    // A heartbeat may be early.
    expect(await observe(4.75 * MINUTE, node2, { site: 'b' })).toEqual(NOTHING);
    expect(table.item).toEqual({
      ...A,
      ...{ site: 'b', leader: 'node2', leader_since: at(4.75 * MINUTE), differs_since: at(4.75 * MINUTE) },
    });
    expect(await observe(6 * MINUTE, node2, { site: 'b' })).toMatchObject({
      reconciled: [{ barman_server: 'main' }],
    });
  });

  test.each<[string, string, Observation]>([
    ['its leader is unknown once', 'b', { unknown: 'several sites have a primary' }],
    ['the last site has the only primary once', 'a', { leader: 'node1' }],
  ])('the five minutes start over if %s', async (_, site, observation) => {
    table.item = A;
    await observe(0, node2, { site: 'b' });
    await observe(4 * MINUTE, observation, { site });
    expect(table.item).toEqual(A);
    expect(await observe(5 * MINUTE, node2, { site: 'b' })).toEqual(unknownIn('b', waiting(5 * MINUTE)));
    for (const minute of [6, 7, 8, 9]) {
      const seen = await observe(minute * MINUTE, node2, { site: 'b' });
      expect(seen).toEqual(unknownIn('b', waiting(5 * MINUTE)));
    }
    expect(await observe(10 * MINUTE, node2, { site: 'b' })).toEqual(NOTHING);
    expect(table.item).toMatchObject({ site: 'b' });
  });

  test.each([
    [1.75 * MINUTE, 0],
    [1.75 * MINUTE + 1, 1.75 * MINUTE + 1],
  ])('the five minutes start over if a heartbeat was lost (%d ms)', async (gap, since) => {
    table.item = A;
    await observe(0, node2, { site: 'b' });
    expect(await observe(gap, node2, { site: 'b' })).toEqual(unknownIn('b', waiting(since)));
  });

  test('the five minutes start over if the last site has a primary without a model', async () => {
    table.item = A;
    await observe(0, node2, { site: 'b' });
    await observe(MINUTE, { leader: 'node9' }, { site: 'a' });
    expect(table.item).toEqual(A);
  });

  test('it is waited for no longer once its leader has a model', async () => {
    table.item = A;
    for (const minute of [0, 1, 2, 3, 4]) await observe(minute * MINUTE, { leader: 'node9' }, { site: 'b' });
    const reason = 'its leader node9 has no model for Barman server main; add it to clusters/b';
    for (const minute of [5, 6, 7, 8]) {
      expect(await observe(minute * MINUTE, { leader: 'node9' }, { site: 'b' })).toEqual(
        unknownIn('b', reason),
      );
    }
    expect(await observe(9 * MINUTE, node2, { site: 'b' })).toEqual(NOTHING);
  });

  test('another cluster is followed as any leader once the last one does not list it', async () => {
    table.item = A;
    expect(await observe(0, node2, { site: 'b', sites: ['b', 'c'] })).toEqual(NOTHING);
    expect(table.item).toMatchObject({ site: 'b', leader: 'node2' });
  });

  test('nothing is followed while the parameter of the last one is malformed, and known by no good value', async () => {
    table.item = A;
    const clusters: Observed[] = [
      {
        cluster: { ...clusterWith({}), name: 'a', malformed: 'no JSON', hasNoValue: true },
        at: NOW,
        observation: { unknown: 'no JSON' },
      },
      { cluster: { ...CLUSTER, name: 'b' }, at: NOW, observation: { leader: 'node2', isStandby: true } },
    ];
    const ledger = new Ledger(table);
    const { unknown } = await recordObservations(ledger, await ledger.all(signal), clusters, MINUTE, signal);
    expect(unknown).toEqual([
      { cluster: 'a', reason: 'no JSON' },
      {
        ...{ cluster: 'b', barman_server: 'main' },
        reason: 'it follows a, and the parameter clusters/a is malformed: correct it',
      },
    ]);
    expect(table.item).toEqual(A);
  });

  test('the five minutes start over with a third site', async () => {
    table.item = A;
    await observe(0, node2, { site: 'b' });
    await observe(4 * MINUTE, node2, { site: 'c' });
    expect(table.item).toEqual({
      ...A,
      other_site: { name: 'c', since: at(4 * MINUTE), seen: at(4 * MINUTE) },
    });
  });

  test.each([
    ['the last site leads again', 'a'],
    ['the other site has been waited for', 'b'],
  ])('nothing is written if another heartbeat has seen another leader meanwhile, and %s', async (_, site) => {
    const read = [{ ...A, other_site: { name: 'b', since: at(0), seen: at(4 * MINUTE) } }];
    const now = { ...A, leader: 'node3' };
    table.item = now;
    expect(await observe(5 * MINUTE, { leader: 'node1' }, { site, read })).toEqual(NOTHING);
    expect(table.item).toEqual(now);
  });

  test('it alone is unknown if the sites do not show which one leads', async () => {
    table.item = A;
    const reason = 'several sites have a primary';
    expect(await observe(0, { unknown: reason }, { site: 'b' })).toEqual(unknownIn('b', reason));
  });

  test('a leader with the same name at another site is a new one', async () => {
    table.item = {
      ...A,
      streaming: true,
      streaming_since: at(-MINUTE),
      other_site: { name: 'b', since: at(-5 * MINUTE), seen: at(-MINUTE) },
    };
    await observe(0, { leader: 'node1' }, { site: 'b' });
    expect(table.item).toEqual({ ...IN_SYNC, site: 'b', leader_since: at(0) });
  });

  test('nothing is remembered once it has one cluster only', async () => {
    table.item = { ...A, other_site: { name: 'b', since: at(-MINUTE), seen: at(-MINUTE) } };
    await observe(0, { leader: 'node1' });
    expect(table.item).toEqual({ ...IN_SYNC, leader_since: at(0) });
  });

  test('it goes on being counted that Barman did not stream, while another site is waited for', async () => {
    table.item = { ...A, streaming: false, streaming_since: at(-MINUTE) };
    expect(await observe(0, node2, { site: 'b' })).toMatchObject({
      notStreaming: [{ barman_server: 'main', since: NOW - MINUTE }],
    });
  });

  test('an error of the ledger is the reason why the leader is unknown', async () => {
    table.item = { ...A, other_site: { name: 'c', since: at(-MINUTE), seen: at(-MINUTE) } };
    using observed = vi.spyOn(Ledger.prototype, 'observed');
    observed.mockRejectedValue(new LedgerError('the ledger is unavailable'));
    const failed = 'its leader node2 could not be recorded for Barman server main: the ledger is unavailable';
    expect(await observe(0, node2, { site: 'b' })).toEqual(unknownIn('b', failed));
    const unrecorded =
      'that its leader is unknown could not be recorded for Barman server main: the ledger is unavailable';
    expect((await observe(0, { unknown: 'none' }, { site: 'b' })).unknown).toEqual([
      { cluster: 'b', barman_server: 'main', reason: 'none' },
      { cluster: 'b', barman_server: 'main', reason: unrecorded },
    ]);
  });
});
