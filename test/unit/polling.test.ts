import { describe, expect, test } from 'vitest';
import {
  expectedDuration,
  firstPollAfter,
  nextPollAfter,
} from '../../functions/config-switch/barman/polling.ts';

/**
 * Polls operations of a server one after another, each with what the last one says.
 *
 * @param durations of the operations (ms)
 * @param request how long a request takes, whose status is read at its end (ms)
 * @param expected duration of the first one
 * @returns of each: how many polls, and how long after its end the response came (ms)
 */
function poll(durations: readonly number[], request: number, expected?: number) {
  let known = expected;
  return durations.map((duration) => {
    let at = firstPollAfter(known, request);
    let polls = 1;
    for (; at + request < duration; polls += 1) at += nextPollAfter(at + request, request);
    known = expectedDuration(at + request, polls, known);
    return { polls, late: at + request - duration };
  });
}
/** So many operations that take as long. */
const times = (count: number, duration: number) => Array.from({ length: count }, () => duration);

describe('the first poll', () => {
  test.each([
    ['comes after 150 ms without an expected duration', undefined, 12, 150],
    ['leaves a slow host as long as the creation took', undefined, 900, 900],
    ['… but comes within 2 s, since the creation may have waited for a diagnosis', undefined, 28_000, 2_000],
    ['has its response at 0.9 of the expected duration', 400, 12, 348],
    ['… on a slow host too', 2_000, 900, 900],
    ['comes after 150 ms if less is expected', 1, 12, 150],
    ['… or a request takes as long as the operation', 900, 900, 150],
    ['comes within 2 s, whatever is expected', 86_400_000, 12, 2_000],
    ['comes after 150 ms whatever the ledger says', -1, 12, 150],
  ])('%s', (_, expected, request, at) => {
    expect(firstPollAfter(expected, request)).toBe(at);
  });
});

describe('the next poll', () => {
  test.each([
    ['75 ms after the last one', 400, 12, 75],
    ['1/16 of the time elapsed', 8_000, 12, 500],
    ['one and a half times what the last request took', 8_000, 900, 1_350],
  ])('comes after %s', (_, elapsed, request, interval) => {
    expect(nextPollAfter(elapsed, request)).toBe(interval);
  });
});

describe('the expected duration', () => {
  test.each([
    ['is what the last operation took, in whole ms', 400.4, 2, undefined, 400],
    ['… also if that was less than expected', 400, 2, 500, 400],
    ['grows by half at most', 1_400, 9, 400, 600],
    ['… also from a value that is too small to grow', 400, 4, 0, 225],
    ['… or is not one', 400, 4, -1, 225],
    ['is less if the operation had ended at its first poll', 400, 1, 500, 300],
  ])('%s', (_, took, polls, expected, next) => {
    expect(expectedDuration(took, polls, expected)).toBe(next);
  });
});

describe('operations of a small host', () => {
  /** Durations that vary by 10 %. */
  const usual = [400, 420, 390, 410, 430, 380, 400, 440, 385, 415, 395];
  const median = (values: readonly number[]) => [...values].sort((a, b) => a - b)[values.length >> 1];

  test('that is known need two polls in the median, and are answered within 75 ms', () => {
    const known = poll([400, ...usual], 12).slice(1);
    expect(median(known.map(({ polls }) => polls))).toBeLessThanOrEqual(2);
    expect(Math.max(...known.map(({ late }) => late))).toBeLessThanOrEqual(75);
  });

  test('are polled as without any at first, and when far less is expected', () => {
    const [first] = poll([400], 12);
    expect(first).toEqual({ polls: 5, late: 62 });
    expect(poll([400], 12, 1)).toEqual([first]);
  });

  test('are answered within 250 ms after one that took a second more, and within 75 ms two later', () => {
    const late = poll([400, 1_400, ...times(6, 400)], 12).map((one) => one.late);
    expect(Math.max(...late)).toBeLessThanOrEqual(250);
    expect(Math.max(...late.slice(4))).toBeLessThanOrEqual(75);
  });

  test('that have become slower are known after three', () => {
    const polls = poll([400, ...times(6, 1_400)], 12).map((one) => one.polls);
    expect(median(polls.slice(1, 4))).toBeGreaterThan(3);
    expect(median(polls.slice(4))).toBeLessThanOrEqual(3);
  });

  test('for which far more is expected are answered after 2 s, and known after four', () => {
    const late = poll(times(10, 400), 12, 86_400_000).map((one) => one.late);
    expect(late[0]).toBe(1_612);
    expect(Math.max(...late.slice(4))).toBeLessThanOrEqual(75);
  });

  test('for which far less is expected are known after three', () => {
    const polls = poll(times(8, 400), 12, 1).map((one) => one.polls);
    expect(median(polls.slice(3))).toBeLessThanOrEqual(2);
  });
});

test('operations of a host with a hundred servers are answered within a request, in the median', () => {
  const durations = Array.from({ length: 101 }, (_, run) => 1_600 * (0.9 + (0.2 * ((run * 37) % 101)) / 100));
  const late = poll(durations, 900).map((one) => one.late);
  expect(late.sort((a, b) => a - b)[50]).toBeLessThan(900);
});
