/** One deadline per invocation; one AbortSignal carries it to everything that waits. */

import { DeadlineExceeded } from './errors.ts';

/**
 * Time-out of API Gateway, from the arrival of the request (ms; quota "Maximum integration timeout" of HTTP
 * APIs).
 */
const API_GATEWAY_TIMEOUT = 30_000;
/**
 * Time limit of one attempt at a request to pg-backup-api, from connecting to the end of the body (ms): a
 * host with a thousand servers needs 11 s to respond. A POST arrives within it, or never.
 */
export const ATTEMPT_TIMEOUT = 12_000;
/** Time reserved for the response: closing, logging, and the way back (ms). */
const ANSWER_TIME = 1_500;

/**
 * Returns the time from now to the deadline of an invocation. Only an inspection may use all of Lambda's time:
 * everything else has as much as an HTTP request has.
 *
 * @param remaining Lambda's remaining time (ms)
 * @param arrival when the request arrived (ms since the epoch); `requestContext.timeEpoch` of an HTTP request
 * @param now ms since the epoch
 * @returns ms, never negative
 */
export function timeToDeadline(remaining: number, arrival: number, now: number): number {
  return Math.max(0, Math.min(remaining, arrival + API_GATEWAY_TIMEOUT - now) - ANSWER_TIME);
}

/** Returns the time from now to the deadline of an inspection (ms). @param remaining Lambda's remaining time (ms) */
export function timeForInspection(remaining: number): number {
  return Math.max(0, remaining - ANSWER_TIME);
}

/** Longest time of a timer (ms): Node.js fires a longer one at once, and warns (timers, `TIMEOUT_MAX`). */
const LONGEST_TIMER = 2 ** 31 - 1;

/** Returns a time (ms) that a timer accepts without a warning: what has passed is 0. */
function timerTime(ms: number): number {
  return Math.min(Math.max(0, ms), LONGEST_TIMER);
}

/**
 * Returns a signal that aborts with DeadlineExceeded.
 *
 * @param ms from now
 * @returns the signal, and a function that stops its timer
 */
export function deadline(ms: number): { signal: AbortSignal; clear: () => void } {
  const controller = new AbortController();
  const expire = () =>
    controller.abort(new DeadlineExceeded(`no result within the ${Math.round(ms)} ms of this invocation`));
  if (ms <= 0) expire();
  const timer = setTimeout(expire, timerTime(ms));
  return { signal: controller.signal, clear: () => clearTimeout(timer) };
}

/**
 * Waits for a promise until the signal aborts; for calls that do not accept a signal.
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
 * Waits for some time.
 *
 * @param ms how long; a negative time counts as 0, and 24 days are the most
 * @throws the reason of the signal, as soon as it aborts
 */
export function sleep(ms: number, signal: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, timerTime(ms));
  return within(signal, promise).finally(() => clearTimeout(timer));
}
