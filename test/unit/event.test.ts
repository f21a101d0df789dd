import { describe, expect, test } from 'vitest';
import { eventTime, isEventId } from '../../functions/config-switch/event/event.ts';
import type { RoleChange } from '../../functions/config-switch/event/payload.ts';
import { newFacts } from '../../functions/config-switch/invocation.ts';

const NOW = Date.parse('2026-11-23T06:10:00.500Z');

describe('the time of an event', () => {
  test.each([
    ['its arrival', NOW, undefined, NOW],
    ['its arrival, less its age', NOW, { age_ms: 2_000 }, NOW - 2_000],
    ['never before 1970', 1_000, { age_ms: 2_000 }, 0],
  ])('is %s', (_, arrivedAt, roleChange, time) => {
    const facts = { ...newFacts(), ...(roleChange && { roleChange: roleChange as RoleChange }) };
    expect(eventTime({ arrivedAt, facts })).toBe(time);
  });
});

test.each<[unknown, boolean]>([
  ['!', true],
  ['~'.repeat(128), true],
  ['', false],
  ['x'.repeat(129), false],
  ['a b', false],
  ['a\n', false],
  [' a', false],
  ['ä', false],
  [7, false],
  [undefined, false],
])('an event id › is 1 to 128 printable ASCII characters without spaces (%j: %s)', (id, valid) => {
  expect(isEventId(id)).toBe(valid);
});
