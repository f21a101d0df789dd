/** One deadline per invocation, carried by one AbortSignal through everything that waits. */

import { DeadlineExceeded } from './errors.ts';

/** API Gateway gives up after 30 s (quota "Integration timeout" of HTTP APIs), counted from the request's arrival. */
const API_GATEWAY_TIMEOUT = 30_000;
/** What the response itself may take: closing, logging, and the way back. */
const ANSWER_TIME = 1_500;

/**
 * The time that an invocation has.
 *
 * @param remaining what Lambda leaves it, ms
 * @param httpArrival `requestContext.timeEpoch` of an HTTP request, ms since the epoch
 * @param now ms since the epoch
 * @returns ms from now, never negative
 */
export function timeToDeadline(remaining: number, httpArrival: number | undefined, now: number): number {
  const left =
    httpArrival === undefined ? remaining : Math.min(remaining, httpArrival + API_GATEWAY_TIMEOUT - now);
  return Math.max(0, left - ANSWER_TIME);
}

/**
 * A signal that aborts with DeadlineExceeded.
 *
 * @param ms from now
 * @returns the signal, and what ends its timer
 */
export function deadline(ms: number): { signal: AbortSignal; clear: () => void } {
  const controller = new AbortController();
  const expire = () =>
    controller.abort(new DeadlineExceeded(`no result within the ${Math.round(ms)} ms of this invocation`));
  if (ms <= 0) expire();
  const timer = setTimeout(expire, ms);
  return { signal: controller.signal, clear: () => clearTimeout(timer) };
}

/**
 * Waits for a promise, but not beyond the signal; for what takes no signal of its own.
 *
 * @throws what the promise throws, or the signal's reason
 */
export async function within<T>(signal: AbortSignal, promise: Promise<T>): Promise<T> {
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const onAbort = () => reject(signal.reason);
  if (signal.aborted) onAbort();
  signal.addEventListener('abort', onAbort);
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}

/**
 * Sleeps.
 *
 * @param ms how long; not at all if negative
 * @throws the signal's reason, as soon as it aborts
 */
export function sleep(ms: number, signal: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, Math.max(0, ms));
  return within(signal, promise).finally(() => clearTimeout(timer));
}
