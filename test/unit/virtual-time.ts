import { afterEach, beforeEach, expect, vi } from 'vitest';

/** When a test begins, unless it says otherwise (ms since the epoch). */
export const NOW = Date.parse('2026-11-23T06:10:00.000Z');
/** A time as in the ledger, so many ms after that. */
export const at = (ms: number) => new Date(NOW + ms).toISOString();

/**
 * Has each test of a file begin at a time, in virtual time; at its end no timer may be left.
 *
 * @param now ms since the epoch
 */
export function useVirtualTime(now = NOW): void {
  beforeEach(() => {
    // The monotonic clock has run for a while, as in a function that is in use.
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date', 'performance'], now: now - 100_000 });
    vi.advanceTimersByTime(100_000);
  });
  afterEach(() => {
    expect(vi.getTimerCount()).toBe(0);
    vi.useRealTimers();
  });
}
