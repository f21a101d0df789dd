import { getEventListeners } from 'node:events';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { deadline, sleep, timeToDeadline, within } from '../../functions/config-switch/deadline.ts';
import { DeadlineExceeded } from '../../functions/config-switch/errors.ts';

describe('the time to the deadline', () => {
  test.each([
    ["30 s minus the time for the response, if Lambda's time is that of an inspection", 60_000, 0, 28_500],
    ["the rest of API Gateway's 30 s, if that is less", 29_000, -2_000, 26_500],
    ["Lambda's remaining time, if that is less", 5_000, -2_000, 3_500],
    ["0, if Lambda's remaining time is less than the response needs", 1_000, 0, 0],
    ['0, if the request is older than 30 s', 29_000, -31_000, 0],
  ])('is %s', (_, remaining, age, expected) => {
    const now = 1_795_000_000_000;
    expect(timeToDeadline(remaining, now + age, now)).toBe(expected);
  });

  test("is never negative and never more than Lambda's remaining time", () => {
    fc.assert(
      fc.property(fc.integer(), fc.integer(), fc.integer(), (remaining, arrival, now) => {
        const time = timeToDeadline(remaining, arrival, now);
        expect(time).toBeGreaterThanOrEqual(0);
        expect(time).toBeLessThanOrEqual(Math.max(0, remaining));
      }),
    );
  });
});

describe('a deadline', () => {
  test('interrupts a sleep', async () => {
    const expected = new DeadlineExceeded('no result within the 10 ms of this invocation');
    await expect(sleep(60_000, deadline(10.4).signal)).rejects.toThrow(expected);
  });

  test('that has passed rejects everything immediately', async () => {
    const { signal } = deadline(0);
    expect(signal.aborted).toBe(true);
    await expect(within(signal, new Promise(() => {}))).rejects.toThrow(DeadlineExceeded);
    await expect(sleep(0, signal)).rejects.toThrow(DeadlineExceeded);
  });

  test.each([-1, -(2 ** 40), Number.NEGATIVE_INFINITY, 2 ** 31, Number.POSITIVE_INFINITY])(
    'of %d ms sets a timer that Node.js does not warn about, and that does not fire early',
    async (ms) => {
      const warnings: string[] = [];
      const onWarning = ({ name }: Error) => void warnings.push(name);
      process.on('warning', onWarning);
      const { signal, clear } = deadline(ms);
      // Warnings come in the next tick, and timers that are due after it.
      await new Promise((resolve) => setTimeout(resolve, 2));
      process.off('warning', onWarning);
      clear();
      expect([signal.aborted, warnings]).toEqual([ms < 0, []]);
    },
  );

  test('does not affect what finishes in time, and keeps nothing of it', async () => {
    const { signal, clear } = deadline(60_000);
    await sleep(1, signal);
    await sleep(-5, signal);
    expect(await within(signal, Promise.resolve('done'))).toBe('done');
    await expect(within(signal, Promise.reject(new TypeError('theirs')))).rejects.toThrow(TypeError);
    expect(getEventListeners(signal, 'abort')).toEqual([]);
    clear();
  });
});
