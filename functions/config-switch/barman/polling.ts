/**
 * When to poll an operation. Each poll slows it, since the host reads its whole configuration for one; and
 * each one that is missing makes the response later. Barman itself never waits for a poll.
 */

/**
 * Earliest first poll after the creation, and shortest interval between the starts of two polls (ms), or this share
 * of the time elapsed, or so many times what the last request took. For an operation of 1.2 s that is three polls
 * more than with 100 ms and a tenth, and a response 25 ms sooner.
 */
const POLL = { first: 150, interval: 75, share: 1 / 16, requests: 1.5 };
/**
 * Latest first poll after the creation (ms): what the last operation or the creation took may be wrong by far, such as
 * for a host that was busy, or a creation that waited for a diagnosis.
 */
const LATEST_FIRST_POLL = 2_000;
/** The first poll is answered after this share of the expected duration: few operations are faster by more. */
const EXPECTED_SHARE = 0.9;
/** The expected duration grows by this factor at most: one slow operation must not make the next responses late. */
const LARGEST_GROWTH = 1.5;
/** An operation that has ended at its first poll took less, by an unknown time: so this share of it is expected. */
const SHRINKING = 0.75;

/**
 * Returns when to poll an operation for the first time: so that the response comes when it can be expected to have ended.
 * pg-backup-api reads the status at the end of the request.
 *
 * @param expected duration, from `expectedDuration`; undefined if it is unknown (ms)
 * @param request how long the last request took (ms)
 * @returns ms after the operation was created
 */
export function firstPollAfter(expected: number | undefined, request: number): number {
  // Without one, it leaves the host as long as the creation took.
  const after = expected === undefined ? request : expected * EXPECTED_SHARE - request;
  return Math.min(Math.max(after, POLL.first), LATEST_FIRST_POLL);
}

/**
 * Returns the interval from the start of a poll to the next one: a share of the time elapsed keeps the reaction fast, and
 * one and a half times the last request leaves the host a third of its time.
 *
 * @param elapsed since the operation was created (ms)
 * @param request how long the last request took (ms)
 */
export function nextPollAfter(elapsed: number, request: number): number {
  return Math.max(POLL.interval, elapsed * POLL.share, POLL.requests * request);
}

/**
 * Returns the expected duration of the next operation of a server.
 *
 * @param took from the creation of the operation to the response that it has ended (ms)
 * @param polls how many that needed
 * @param expected duration of this operation; undefined if it was unknown (ms)
 * @returns whole ms
 */
export function expectedDuration(took: number, polls: number, expected: number | undefined): number {
  const seen = polls === 1 ? took * SHRINKING : took;
  const most = expected === undefined ? seen : Math.max(expected, POLL.first) * LARGEST_GROWTH;
  return Math.round(Math.min(seen, most));
}
