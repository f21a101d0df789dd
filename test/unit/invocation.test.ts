import type { Context } from 'aws-lambda';
import { describe, expect, test, vi } from 'vitest';
import { DeadlineExceeded } from '../../functions/config-switch/errors.ts';
import { newFacts, startInspection, startInvocation } from '../../functions/config-switch/invocation.ts';
import { useVirtualTime } from './virtual-time.ts';

const NOW = Date.parse('2026-11-23T06:10:00.500Z');
const CONTEXT = { awsRequestId: 'request-1', getRemainingTimeInMillis: () => 29_000 } as Context;
useVirtualTime(NOW);

describe('the deadline of an invocation', () => {
  test('leaves the time that Lambda leaves, less that for the response', async () => {
    const { signal, remaining, startedAt, request_id, facts } = startInvocation(CONTEXT);
    expect([request_id, startedAt, facts]).toEqual(['request-1', performance.now(), newFacts()]);
    expect(facts.recorded).toBe(false);
    expect(remaining()).toBe(27_500);
    await vi.advanceTimersByTimeAsync(27_499);
    expect([remaining(), signal.aborted]).toEqual([1, false]);
    await vi.advanceTimersByTimeAsync(1);
    expect([remaining(), signal.reason]).toEqual([0, expect.any(DeadlineExceeded)]);
  });

  test('is that of API Gateway if that is earlier', () => {
    const { remaining, clearDeadline } = startInvocation(CONTEXT, NOW - 10_000);
    expect(remaining()).toBe(18_500);
    clearDeadline();
  });

  test('of an inspection is not that of API Gateway, and never negative', () => {
    const inspection = (ms: number) => {
      const { remaining, clearDeadline } = startInspection({
        ...CONTEXT,
        getRemainingTimeInMillis: () => ms,
      });
      clearDeadline();
      return remaining();
    };
    expect([60_000, 2_000, 1_000].map(inspection)).toEqual([58_500, 500, 0]);
  });
});
