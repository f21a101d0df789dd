/**
 * Which servers and clusters are in a state that someone must act on, and which of them have entered it since
 * the last heartbeat: each one that enters raises the alarm, also while another one is in that state.
 */

import { timeOf } from '../ledger/item.ts';
import type { HeartbeatReport, Lasting } from '../ledger/stage.ts';

/**
 * Heartbeats differ by some seconds: what is to last for so many intervals may be a quarter of one shorter.
 */
export const TOLERANCE = 0.25;
/**
 * How long a state lasts until someone must act (intervals between heartbeats). What is found by five, or
 * ten, heartbeats in a row lasts one interval less.
 */
const LASTS = {
  pending: 5,
  not_streaming: 4 - TOLERANCE,
  leader_cannot_write: 4 - TOLERANCE,
  leader_unknown: 9 - TOLERANCE,
};
/** How long a state is remembered (intervals): after a longer gap, the alarm may have been missed. */
const REMEMBERED = 10;

export type State = keyof typeof LASTS;
export const STATES = Object.keys(LASTS) as readonly State[];
/** State → the servers, or clusters, that have entered it. */
export type Entered = Readonly<Record<State, readonly string[]>>;

/**
 * What a heartbeat has found: state → server or cluster → since when it is so (ms since the epoch), undefined
 * if the heartbeats themselves have to remember that. A state that was not to be seen is undefined.
 */
export type Found = Readonly<Record<State, ReadonlyMap<string, number | undefined> | undefined>>;

/**
 * Returns what lasts, and what has entered a state.
 *
 * @param before what the last heartbeat left. Without it, and after a long gap, all that lasts has entered:
 *   an alarm too many is better than none
 * @param now ms since the epoch
 * @param interval between two heartbeats (ms)
 */
export function whatLasts(
  found: Found,
  before: Pick<HeartbeatReport, 'at' | 'lasting'> | undefined,
  now: number,
  interval: number,
): { readonly lasting: readonly Lasting[]; readonly entered: Entered } {
  const isRecent = now - timeOf(before?.at, 0) <= REMEMBERED * interval;
  const last = (isRecent && before?.lasting) || [];
  const lastOf = (state: State, name: string) => last.find((one) => one.state === state && one.name === name);
  const lasting = STATES.flatMap((state): Lasting[] => {
    const names = found[state];
    // What cannot be seen is as it was.
    if (!names) return last.filter((one) => one.state === state);
    return [...names].map(([name, seen]) => {
      const since = seen ?? timeOf(lastOf(state, name)?.since, now);
      const raised = now - since >= LASTS[state] * interval;
      return { state, name, since: new Date(since).toISOString(), raised };
    });
  });
  const entered = (state: State) =>
    lasting
      .filter((one) => one.state === state && one.raised && !lastOf(state, one.name)?.raised)
      .map(({ name }) => name);
  return {
    lasting,
    entered: {
      pending: entered('pending'),
      not_streaming: entered('not_streaming'),
      leader_cannot_write: entered('leader_cannot_write'),
      leader_unknown: entered('leader_unknown'),
    },
  };
}
