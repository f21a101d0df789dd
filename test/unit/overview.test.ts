/** A server at a glance: what the dashboard shows in addition to `npm run ledger`, whose cells are in show.test.ts. */

import { describe, expect, test } from 'vitest';
import { FINDINGS } from '../../functions/config-switch/inspect/findings.ts';
import type { Inspection, StoredFinding } from '../../functions/config-switch/ledger/inspection.ts';
import type { Item } from '../../functions/config-switch/ledger/item.ts';
import type { Servers } from '../../functions/config-switch/ledger/ledger.ts';
import { age, overviewOf, rowsOf } from '../../functions/config-switch/ledger/overview.ts';

const NOW = Date.parse('2026-11-24T12:00:00.000Z');
const ago = (hours: number) => new Date(NOW - 3_600_000 * hours).toISOString();
const HOUR = 1;

const applied = { target: 'model m', version: `${ago(9)}#e`, operation_id: 'op', applied_at: ago(9) };
const item: Item = {
  ...{ barman_server: 'main', applied },
  desired: { target: 'model m', version: applied.version, cluster: 'c', recorded_at: ago(9) },
  ...{ leader: 'node1', leader_since: ago(9), streaming: true, streaming_since: ago(9) },
};
const inspection: Inspection = {
  ...{ at: ago(3 * HOUR), findings: [], notes: [], unseen: [], missing: [], connected: [] },
  ...{ leader: 'node1', applied_version: applied.version },
  timeline: { id: 1, since: ago(9), location: 1 },
};
const finding = (kind: keyof typeof FINDINGS, counts = true): StoredFinding => ({
  ...{ kind, class: FINDINGS[kind].class, counts },
  ...{ what: 'w', remedy: 'r', since: ago(3) },
});
const heartbeat = {
  ...{ at: ago(0), interval: 60_000, version: '1' },
  clusters: [{ name: 'c', servers: [{ name: 'main', observed: true }], observed_at: ago(0) }],
};
function archived(
  change: Partial<Inspection> = {},
  row: Partial<Item> = {},
  stage: Servers['stage'] = { heartbeat },
) {
  const servers = {
    ...{ items: [], unreadable: [], stage, heard: new Map() },
    inspections: new Map([['main', { ...inspection, ...change }]]),
  };
  return overviewOf({ ...item, ...row }, servers, NOW).archived;
}

describe('archived is', () => {
  test('yes, if the last inspection has seen WAL of this leader, and how long ago', () => {
    expect(archived()).toBe('yes 3h');
  });

  test('no, with the number of findings that count', () => {
    expect(archived({ findings: [finding('archive-behind')] })).toBe('no: 1 finding');
    expect(
      archived({ findings: [finding('slot-missing'), finding('archive-behind'), finding('no-backup')] }),
    ).toBe('no: 2 findings');
  });

  test.each<[string, Partial<Inspection>, Partial<Item>?, Servers['stage']?]>([
    ['a finding was seen once', { findings: [finding('archive-behind', false)] }],
    ['there is another leader since', {}, { leader: 'node2' }],
    ['another model was applied since', {}, { applied: { ...applied, version: `${ago(1)}#f` } }],
    ['the leader is not known now', {}, {}, { heartbeat: { ...heartbeat, clusters: [] } }],
    ['no leader was ever seen', { timeline: undefined } as object],
    ['something of the archive was not seen', { unseen: [{ what: 'what is archived' }] }],
    ['Barman was not seen', { unseen: [{ what: 'Barman', member: true }] }],
    ['Barman does not receive WAL for the server', { findings: [finding('server-inactive')] }],
    ['Barman does not have the server', { findings: [finding('server-missing')] }],
    ['another Barman host receives it', { findings: [finding('server-passive')] }],
  ])('unknown, if %s', (_, change, row, stage) => {
    expect(archived(change, row, stage)).toBe('? 3h');
  });

  test('unknown, if the inspection is two days old, although it found something', () => {
    expect(archived({ at: ago(49), findings: [finding('archive-behind')] })).toBe('? 2d');
    expect(archived({ at: ago(48) })).toBe('yes 2d');
  });

  test('yes also for a server that was never switched, and whose leader was known two heartbeats ago', () => {
    const { applied_version: _, ...never } = inspection;
    const { applied: __, desired: ___, ...observed } = item;
    const [cluster] = heartbeat.clusters;
    const at = new Date(NOW - 2 * heartbeat.interval).toISOString();
    const servers = {
      ...{ items: [], unreadable: [], heard: new Map(), inspections: new Map([['main', never]]) },
      stage: {
        heartbeat: { ...heartbeat, clusters: [{ ...cluster, observed_at: at } as typeof cluster & object] },
      },
    };
    expect(overviewOf(observed, servers, NOW)).toMatchObject({
      state: 'observed',
      leader: 'node1 9h',
      archived: 'yes 3h',
    });
  });

  test('not hidden by a member that was not seen: that concerns only whether it is ready', () => {
    expect(archived({ unseen: [{ what: 'node2', member: 'node2' }] })).toBe('yes 3h');
  });

  test('unknown without an inspection, or for a server without an item', () => {
    const stage = { heartbeat };
    const empty = { items: [], unreadable: [], stage, heard: new Map(), inspections: new Map() };
    expect(overviewOf(item, empty, NOW).archived).toBe('?');
    const inspections = new Map([['main', inspection]]);
    const [row] = rowsOf({ ...empty, inspections });
    expect(row && overviewOf(row, { ...empty, inspections }, NOW)).toEqual({
      ...{ barman_server: 'main', state: 'new' },
      ...{ desired: '–', applied: '–', leader: '–', streaming: '–', ready: 'yes 3h', archived: '?' },
    });
  });
});

test.each([
  [119_999, '119s'],
  [120_000, '2m'],
  [7_199_999, '119m'],
  [7_200_000, '2h'],
  [172_799_999, '47h'],
  [172_800_000, '2d'],
  [-1, '0s'],
  [Number.NaN, ''],
])('an age of %d ms › is %s', (ms, text) => {
  expect(age(ms)).toBe(text);
});
