import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type History, outdatedOperations, promise, wrongModels } from '../chaos/check.ts';
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
  answers: [],
  leases: [lease(1, 'node1', 1), lease(3, 'node2', 2)],
  operations: [],
  items: [],
  byHand: [],
  beats: [],
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

test('a chaos run › is promised what is promised in production, for the heartbeat of production', () => {
  expect(promise(60_000)).toBe(4 * 60_000);
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
