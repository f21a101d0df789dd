import { describe, expect, test } from 'vitest';
import { count, isDue, isQuiet, type Schedule } from '../../functions/config-switch/inspect/due.ts';
import type { Inspection } from '../../functions/config-switch/ledger/inspection.ts';
import type { Item } from '../../functions/config-switch/ledger/item.ts';
import type { Servers } from '../../functions/config-switch/ledger/ledger.ts';
import type { InspectionTimes } from '../../functions/config-switch/ledger/stage.ts';
import { versionOf } from '../../functions/config-switch/version.ts';
import { at, NOW } from './virtual-time.ts';

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
/** Of a role change at NOW. */
const VERSION = versionOf(NOW, 'e');

const inspection = (change: Partial<Inspection> = {}): Inspection => ({
  ...{ at: at(0), findings: [], notes: [], unseen: [], missing: [], connected: [] },
  ...change,
});
const finding = (kind: 'ready' | 'archived', change: object = {}) => ({
  ...{ kind: 'no-backup', class: kind, what: 'w', remedy: 'r', since: at(0), counts: true },
  ...change,
});
const desired = (ms: number) => ({ target: 'model m', version: 'v2', cluster: 'c', recorded_at: at(ms) });
const applied = (ms: number, version = 'v2') => ({
  applied: { target: 'model m', version, operation_id: 'op', applied_at: at(ms) },
});
const servers = (
  items: readonly Item[],
  inspections: Readonly<Record<string, Inspection>> = {},
  times?: Partial<InspectionTimes>,
): Servers => ({
  items,
  unreadable: [],
  inspections: new Map(Object.entries(inspections)),
  heard: new Map(),
  stage: times ? { inspection: { first_at: at(0), tried_at: at(0), ...times } } : {},
});
/** So long after NOW, an inspection at NOW being the last. */
const due = (ms: number, known: Servers, schedule: Schedule = 'daily') =>
  isDue(known, schedule, NOW + ms, MINUTE);

describe('an inspection is due', () => {
  const IN_SYNC = { barman_server: 'main', desired: desired(-HOUR), ...applied(-HOUR) };
  const known = (change: Partial<Inspection> = {}, items: readonly Item[] = [IN_SYNC]) =>
    servers(items, { main: inspection({ applied_version: 'v2', ...change }) }, { seen_at: at(0) });

  test('if there was none yet, unless they are off', () => {
    expect(due(0, servers([]))).toBe(true);
    expect(due(0, servers([]), 'off')).toBe(false);
    expect(due(0, servers([]), 3)).toBe(true);
  });

  test('a day after the last one', () => {
    expect([24 * HOUR - 1, 24 * HOUR].map((ms) => due(ms, known()))).toEqual([false, true]);
  });

  test('once a day at its hour, in UTC', () => {
    // NOW is at 06:10.
    const at3 = [20 * HOUR, 20 * HOUR + 50 * MINUTE, 21 * HOUR].map((ms) => due(ms, known(), 3));
    expect(at3).toEqual([false, true, true]);
    expect([HOUR, 3 * HOUR + 50 * MINUTE].map((ms) => due(ms, known(), 10))).toEqual([false, true]);
    expect(due(10 * MINUTE, known(), 6)).toBe(false);
  });

  test('not again, if the last one was at that hour', () => {
    const atSix = servers([], {}, { tried_at: at(-10 * MINUTE), seen_at: at(-10 * MINUTE) });
    expect(
      [10 * MINUTE, 24 * HOUR - 11 * MINUTE, 24 * HOUR - 10 * MINUTE].map((ms) => due(ms, atSix, 6)),
    ).toEqual([false, false, true]);
  });

  test('20 minutes after a role change, also if there was one in between, and not after it was applied again', () => {
    const changed = (last: string) =>
      known({ applied_version: last, at: at(10 * MINUTE) }, [{ ...IN_SYNC, ...applied(0, VERSION) }]);
    for (const last of ['before', VERSION]) {
      expect([20 * MINUTE - 1, 20 * MINUTE].map((ms) => due(ms, changed(last)))).toEqual([false, true]);
    }
    const later = { applied_version: VERSION, at: at(20 * MINUTE) };
    const again = [{ ...IN_SYNC, ...applied(19 * MINUTE, VERSION) }];
    expect([21 * MINUTE, 40 * MINUTE].map((ms) => due(ms, known(later, again)))).toEqual([false, false]);
  });

  test.each<[string, Record<string, Inspection>]>([
    ['that no inspection has seen', {}],
    // The switch was still pending.
    [
      'that the last inspection has not seen',
      { main: inspection({ applied_version: 'before', at: at(25 * MINUTE) }) },
    ],
  ])('15 minutes after the last one, because of a role change %s', (_, inspections) => {
    const changed = [{ ...IN_SYNC, ...applied(30 * MINUTE, VERSION) }];
    const seen = servers(changed, inspections, { tried_at: at(25 * MINUTE), seen_at: at(25 * MINUTE) });
    expect([40 * MINUTE - 1, 40 * MINUTE].map((ms) => due(ms, seen))).toEqual([false, true]);
  });

  test('not because of a server to which nothing was applied yet', () => {
    const pending = [{ barman_server: 'main', desired: desired(0) }];
    expect([HOUR, 24 * HOUR].map((ms) => due(ms, known({}, pending)))).toEqual([false, true]);
  });

  test('never while they are off, whatever the last one has found', () => {
    const bad = known({ findings: [finding('archived')] });
    expect(due(HOUR, bad)).toBe(true);
    expect([HOUR, 48 * HOUR].map((ms) => due(ms, bad, 'off'))).toEqual([false, false]);
  });

  test('not because of a server that is paused, or was forgotten', () => {
    const bad = { main: inspection({ applied_version: 'v2', findings: [finding('archived')] }) };
    expect(due(HOUR, servers([{ ...IN_SYNC, paused: true }], bad, { seen_at: at(0) }))).toBe(false);
    expect(due(HOUR, servers([], bad, { seen_at: at(0) }))).toBe(false);
  });

  test('every 15 minutes while WAL is not archived', () => {
    const bad = known({ findings: [finding('archived', { counts: false })] });
    expect([15 * MINUTE - 1, 15 * MINUTE].map((ms) => due(ms, bad))).toEqual([false, true]);
    expect(due(HOUR, known({ findings: [finding('ready')] }))).toBe(false);
  });

  test('an hour after one that could not see Barman, whatever was found before', () => {
    const bad = { main: inspection({ findings: [finding('archived')] }) };
    const failed = servers([], bad, { unseen: 'no answer' });
    expect([HOUR - 1, HOUR].map((ms) => due(ms, failed))).toEqual([false, true]);
  });
});

describe('nothing is being switched', () => {
  const quiet = (item: Partial<Item>) => isQuiet(servers([{ barman_server: 'main', ...item }]), NOW, MINUTE);
  const lease = (ms: number) => ({ lease: { token: 't', expires_at: at(ms) } });

  test.each<[string, Partial<Item>, boolean]>([
    ['without a desired state', {}, true],
    ['in sync', { desired: desired(-HOUR), ...applied(-HOUR) }, true],
    ['during a lease', { desired: desired(-HOUR), ...lease(1) }, false],
    ['while a lease is expired', { desired: desired(-HOUR), ...lease(-1) }, false],
    ['while a server is pending', { desired: desired(-10 * MINUTE + 1) }, false],
    ['if that one has been failing for ten minutes', { desired: desired(-10 * MINUTE) }, true],
    ['while it is paused', { desired: desired(0), ...lease(-1), paused: true }, true],
    ['while one that was paused is still being switched', { ...lease(9e12), paused: true }, false],
  ])('%s: %s', (_, item, expected) => {
    expect(quiet(item)).toBe(expected);
  });

  test('only if nothing is at any server', () => {
    const pending = { barman_server: 'b', desired: desired(0) };
    expect(isQuiet(servers([{ barman_server: 'a' }, pending]), NOW, MINUTE)).toBe(false);
    expect(isQuiet(servers([pending, { barman_server: 'a' }]), NOW, MINUTE)).toBe(false);
  });
});

describe('findings are counted', () => {
  const items = ['a', 'b', 'paused'].map((barman_server) => ({
    barman_server,
    ...(barman_server === 'paused' && { paused: true }),
  }));
  const counted = (inspections: Record<string, Inspection>, refused: string[] = [], times = {}, ms = 0) =>
    count(servers(items, inspections, { seen_at: at(0), ...times }), refused, 'daily', NOW + ms);

  test('once for each member, and for each server', () => {
    const findings = [
      finding('ready', { member: 'node1' }),
      finding('ready', { member: 'node1', kind: 'model-host' }),
      finding('ready', { member: 'node2' }),
      finding('ready'),
      finding('archived'),
      finding('archived', { kind: 'slot-missing' }),
    ];
    expect(counted({ a: inspection({ findings }), b: inspection() }, ['a', 'b', 'paused'])).toEqual({
      notReady: 4,
      notArchived: 1,
    });
  });

  test('with the servers that a heartbeat has found not to be ready, unless they are paused', () => {
    expect(counted({}, ['a', 'b']).notReady).toBe(2);
    expect(counted({}, ['a', 'b', 'paused']).notReady).toBe(2);
    expect(counted({}, ['paused']).notReady).toBe(0);
  });

  test('once for a server that a heartbeat and an inspection have found not to be ready', () => {
    const found = { a: inspection({ findings: [finding('ready')] }) };
    expect(counted(found, ['a']).notReady).toBe(1);
    expect(counted(found, ['b']).notReady).toBe(2);
  });

  test('but not those of paused servers, nor those that only one inspection has found', () => {
    const findings = [finding('ready'), finding('archived')];
    const refused = inspection({ findings: [finding('ready', { kind: 'operations-unreadable' })] });
    expect(counted({ a: refused })).toEqual({ notReady: 0, notArchived: 0 });
    const once = [finding('archived', { counts: false })];
    const found = { paused: inspection({ findings }), a: inspection({ findings: once }) };
    expect(counted(found)).toEqual({ notReady: 0, notArchived: 0 });
  });

  test('but not while all servers are paused, nor those of a server that was forgotten', () => {
    const found = {
      a: inspection({ findings: [finding('ready')] }),
      gone: inspection({ findings: [finding('ready')] }),
    };
    expect(counted(found).notReady).toBe(1);
    const known = servers(items, found, { seen_at: at(0) });
    const paused = { ...known, stage: { ...known.stage, paused: { at: at(0) } } };
    expect(count(paused, [], 'daily', NOW)).toEqual({ notReady: 0, notArchived: 0 });
    const clusters = [{ name: 'c', servers: [{ name: 'gone', observed: true }] }];
    const heartbeat = { at: at(0), interval: MINUTE, version: '1', clusters };
    const listed = { ...known, stage: { ...known.stage, heartbeat } };
    expect(count(listed, [], 'daily', NOW).notReady).toBe(2);
  });

  test('and two days without a successful inspection', () => {
    const none = { notReady: 0, notArchived: 0 };
    expect(counted({}, [], {}, 48 * HOUR - 1)).toEqual(none);
    expect(counted({}, [], {}, 48 * HOUR)).toEqual({ ...none, notReady: 1 });
    const never = servers([], {}, { unseen: 'no answer' });
    expect(count(never, [], 'daily', NOW + 48 * HOUR).notReady).toBe(1);
    expect(count(never, [], 'off', NOW + 48 * HOUR).notReady).toBe(0);
    expect(count(servers([]), [], 'daily', NOW)).toEqual(none);
  });
});
