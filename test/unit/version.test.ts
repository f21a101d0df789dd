import { expect, test } from 'vitest';
import { eventIdOf, eventTimeOf, versionOf } from '../../functions/config-switch/version.ts';

const NOW = Date.parse('2026-11-23T06:10:00.000Z');

test('a version › is the event time in UTC, to the millisecond, and the event id', () => {
  const version = versionOf(NOW, 'msg#1');
  expect(version).toBe('2026-11-23T06:10:00.000Z#msg#1');
  expect([eventTimeOf(version), eventIdOf(version)]).toEqual([NOW, 'msg#1']);
});

test('a version › is greater for a newer event', () => {
  expect(versionOf(NOW + 1, 'a') > versionOf(NOW, 'b')).toBe(true);
});

test.each(['', 'x#msg_1'])('a version › without a time has the earliest one (%j)', (version) => {
  expect(eventTimeOf(version)).toBe(0);
});
