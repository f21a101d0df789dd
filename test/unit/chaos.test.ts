import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  emptyHistory,
  type History,
  outdatedOperations,
  overlooked,
  promise,
  type Restored,
  wrongFindings,
  wrongModels,
  wrongRows,
} from '../chaos/check.ts';
import { FAULTS, plan } from '../chaos/nemesis.ts';

const version = (second: number, id: string) => `2026-11-23T06:10:0${second}.000Z#${id}`;
const lease = (at: number, node: string, second: number) => ({
  at,
  target: `model pg:${node}`,
  version: version(second, node),
});
const operation = (at: number, node: string) => ({ at, target: `model pg:${node}` });
const done = (at: number, eventId: string) => ({ at, eventId, status: 200, exitCode: 0 });
const history = (given: Partial<History>): History => ({
  ...emptyHistory(),
  leases: [lease(1, 'node1', 1), lease(3, 'node2', 2)],
  ...given,
});

test.each<[string, Partial<History>, number]>([
  ['in the order of the events', { operations: [operation(2, 'node1'), operation(4, 'node2')] }, 0],
  [
    'of an older event before the newer one is DONE',
    { operations: [operation(4, 'node1')], answers: [done(5, 'node2')] },
    0,
  ],
  [
    'of an older event after the newer one is DONE',
    { operations: [operation(6, 'node1')], answers: [done(5, 'node2')] },
    1,
  ],
  [
    'of an older event after the newer one was skipped',
    { operations: [operation(6, 'node1')], answers: [{ ...done(5, 'node2'), exitCode: 1 }] },
    0,
  ],
  [
    'of an older event after the newer one is DONE, while unsettled',
    {
      operations: [operation(6, 'node1')],
      answers: [done(5, 'node2')],
      items: [{ at: 4, applied: 'model pg:node2', isUnsettled: true }],
    },
    0,
  ],
  ['of the newest event again', { operations: [operation(6, 'node2')], answers: [done(5, 'node2')] }, 0],
  ['without a lease', { operations: [operation(2, 'node2')] }, 1],
])('a chaos run › operations %s: %j has %i violations', (_, given, count) => {
  expect(outdatedOperations(history(given))).toHaveLength(count);
});

const MINUTE = 60_000;
const settled = { at: 0, applied: 'model pg:node2', isUnsettled: false };
const unsettled = { ...settled, isUnsettled: true };
const right = { at: 0, model: 'pg:node2' };
const late = { at: MINUTE, model: 'pg:node1' };

test.each<[string, Partial<History>, { at: number; model: string }[], number]>([
  ['what was applied', { items: [settled] }, [right], 0],
  ['something else, settled', { items: [settled] }, [right, late], 1],
  ['no model, settled', { items: [settled] }, [{ at: 0, model: '' }], 1],
  ['no model after a reset', { items: [{ ...settled, applied: 'reset' }] }, [{ at: 0, model: '' }], 0],
  [
    'it a second after the item',
    { items: [settled] },
    [
      { ...late, at: 0 },
      { ...right, at: 1_000 },
    ],
    0,
  ],
  [
    'something else, unsettled, for 3 minutes',
    { items: [unsettled] },
    [right, late, { ...right, at: 4 * MINUTE }],
    0,
  ],
  ['something else, unsettled, for longer', { items: [unsettled] }, [right, late], 1],
  [
    'something else, settled later',
    { items: [unsettled, { ...settled, at: 2 * MINUTE }] },
    [right, late, { ...right, at: 3 * MINUTE }],
    1,
  ],
  [
    'something else until something newer is desired',
    { items: [unsettled, { at: 2 * MINUTE, isUnsettled: true }] },
    [right, late],
    0,
  ],
  [
    'something else by hand',
    { items: [settled], byHand: [{ from: MINUTE - 9, to: MINUTE + 9 }] },
    [right, late],
    0,
  ],
])('a chaos run › Barman uses %s: %j, %j has %i violations', (_, given, models, count) => {
  expect(wrongModels(history(given), models, 5 * MINUTE)).toHaveLength(count);
});

const rows = [1, 2, 3].map((id) => ({ id, node: 'node1', timeline: '00000001', at: id }));
const restored = (ids: readonly number[], given: Partial<Restored> = {}): Restored => ({
  before: new Set([1, 2]),
  after: new Set([1, 2, 4]),
  ids: new Set(ids),
  beforeGap: false,
  ...given,
});

test.each<[string, Restored, readonly RegExp[]]>([
  ['all rows', restored([1, 2]), []],
  ['a row that was committed meanwhile', restored([1, 2, 4]), []],
  ['no row at the end', restored([1]), [/lacks .*: 1 rows, from 2 of node1, timeline 00000001/]],
  ['no row in the middle', restored([2, 4]), [/lacks .*: 1 rows, from 1 of node1/]],
  ['a row of a dead branch', restored([1, 2, 3]), [/dead branch: 1 rows, from 3 of node1/]],
  ['an unknown row', restored([1, 2, 5]), [/dead branch: 1 rows, from 5, not acknowledged/]],
  ['nothing', restored([]), [/lacks .*: 2 rows/]],
  ['a dead branch instead', restored([1, 3]), [/lacks/, /dead branch/]],
  ['no row after a gap, and is older', restored([1], { beforeGap: true }), []],
  ['a row of a dead branch, and is older', restored([1, 3], { beforeGap: true }), [/dead branch/]],
])('a chaos run › a restore has %s: %j', (_, one, expected) => {
  expect(wrongRows(rows, one)).toEqual(expected.map((sentence) => expect.stringMatching(sentence)));
});

const now = '2026-11-23T06:10:00.000Z';
const slotInactive = {
  kind: 'slot-inactive',
  class: 'archived' as const,
  what: 'w',
  remedy: 'r',
  since: now,
};
const slotMissing = { ...slotInactive, kind: 'slot-not-permanent', class: 'ready' as const, counts: true };
type Report = Parameters<typeof wrongFindings>[0]['servers'][number];
const report = (given: Partial<Report>): Report => ({
  barman_server: 'main',
  at: now,
  paused: false,
  members: [{ member: 'node1', cluster: 'main', slot: 'yes', ready: 'yes' }],
  findings: [],
  notes: [],
  unseen: [],
  ...given,
});
const notReady = (ready: 'no' | '?') => ({
  members: [{ member: 'node1', cluster: 'main', slot: 'yes' as const, ready }],
});

test.each<[string, Partial<Report>, boolean, readonly RegExp[]]>([
  ['nothing, while Barman streams', {}, true, []],
  ['nothing, while Barman does not stream', {}, false, [/archived, and Barman does not stream/]],
  ['no stream', { findings: [{ ...slotInactive, counts: false }] }, false, []],
  ['no stream, falsely', { findings: [{ ...slotInactive, counts: true }] }, true, [/finds slot-inactive/]],
  ['no stream, for a moment', { findings: [{ ...slotInactive, counts: false }] }, true, []],
  ['a slot missing, falsely', { findings: [slotMissing], ...notReady('no') }, true, [/slot-not-permanent/]],
  ['a member not ready, without a finding', notReady('?'), true, [/READY node1: \?/]],
  [
    'a standby site that is down',
    {
      members: [...report({}).members, { member: 'site1', cluster: 'site', slot: 'yes', ready: 'no' }],
      findings: [{ ...slotMissing, member: 'site1' }],
    },
    true,
    [],
  ],
  ['that it cannot see', { unseen: [{ what: 'whether WAL is archived' }] }, false, []],
])('a chaos run › an inspection finds %s: %j, streaming %s', (_, given, streams, expected) => {
  const sentences = expected.map((sentence) => expect.stringMatching(sentence));
  expect(wrongFindings({ servers: [report(given)] }, streams)).toEqual(sentences);
});

const foundMissing = { ...slotMissing, kind: 'model-missing', member: 'node1' };

test.each<[string, Partial<Report>, readonly RegExp[]]>([
  ['it', { findings: [foundMissing], ...notReady('no') }, []],
  ['it of all members', { findings: [{ ...slotMissing, kind: 'model-missing' }], ...notReady('no') }, []],
  ['nothing', {}, [/overlooks model-missing, and says READY node1: yes/]],
  ['it, and says READY', { findings: [foundMissing] }, [/finds model-missing, and says READY node1: yes/]],
  [
    'it of another member',
    { findings: [{ ...foundMissing, member: 'node2' }], ...notReady('no') },
    [/overlooks/],
  ],
  ['something else', { findings: [slotMissing], ...notReady('no') }, [/overlooks/]],
  ['that it cannot see', notReady('?'), [/overlooks model-missing, and says READY node1: \?/]],
])('a chaos run › a model is missing, and an inspection finds %s: %j', (_, given, expected) => {
  const sentences = expected.map((sentence) => expect.stringMatching(sentence));
  expect(overlooked({ servers: [report(given)] }, { kind: 'model-missing', members: ['node1'] })).toEqual(
    sentences,
  );
});

test('a chaos run › is promised what is promised in production, for the heartbeat of production', () => {
  expect(promise(60_000)).toBe(4 * 60_000);
  expect(promise(60_000, true)).toBe(9 * 60_000);
});

test('a chaos run › has the same plan for the same seed, and every fault within its first 200 rounds', () => {
  fc.assert(
    fc.property(fc.integer(), (seed) => {
      const rounds = plan(seed, 200);
      expect(plan(seed, 200)).toEqual(rounds);
      expect(new Set(rounds.flat().map(({ fault }) => fault))).toEqual(new Set(Object.keys(FAULTS)));
    }),
    { numRuns: 10 },
  );
});
