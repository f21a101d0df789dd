/**
 * Which servers and clusters are in a state that someone must act on, and which of them have entered it since
 * the last heartbeat: each one that enters raises the alarm, also while another one is in that state.
 */

import { timeOf } from '../ledger/item.ts';
import type { HeartbeatReport, Lasting } from '../ledger/stage.ts';

/** Heartbeats differ by some seconds: what is to last for so many of them may be a quarter shorter. */
const TOLERANCE = 0.25;
/**
 * How long a state lasts until someone must act (intervals between heartbeats). What is found by five, or
 * ten, heartbeats in a row lasts one interval less.
 */
const LASTS = { pending: 5, not_streaming: 4 - TOLERANCE, leader_unknown: 9 - TOLERANCE };
/** So long is remembered what lasted (intervals): after a longer gap, the alarm may have been missed. */
const REMEMBERED = 10;

export type State = keyof typeof LASTS;
/** State → the names of the servers, or clusters, that are in it. */
export type States = Readonly<Record<State, readonly string[]>>;

/** What a heartbeat has found. */
export interface Found {
  /** Server → since when it is so (ms since the epoch); undefined if that was not to be seen. */
  readonly pending: ReadonlyMap<string, number> | undefined;
  readonly not_streaming: ReadonlyMap<string, number> | undefined;
  /** Clusters. */
  readonly leader_unknown: readonly string[];
}

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
): { readonly lasting: Lasting; readonly entered: States } {
  const last = now - timeOf(before?.at, 0) <= REMEMBERED * interval ? before?.lasting : undefined;
  const knownSince = new Map(last?.unknown_since.map(({ cluster, since }) => [cluster, since]));
  const unknownSince = new Map(
    found.leader_unknown.map((name) => [name, timeOf(knownSince.get(name), now)] as const),
  );
  const inState = (state: State, since: ReadonlyMap<string, number> | undefined): string[] => {
    // What cannot be seen is as it was.
    if (!since) return last?.[state] ?? [];
    return [...since].filter(([, start]) => now - start >= LASTS[state] * interval).map(([name]) => name);
  };
  const states = {
    pending: inState('pending', found.pending),
    not_streaming: inState('not_streaming', found.not_streaming),
    leader_unknown: inState('leader_unknown', unknownSince),
  };
  const entered = (state: State) => states[state].filter((name) => !last?.[state].includes(name));
  const unknown_since = [...unknownSince].map(([cluster, since]) => ({
    cluster,
    since: new Date(since).toISOString(),
  }));
  return {
    lasting: { ...states, unknown_since },
    entered: {
      pending: entered('pending'),
      not_streaming: entered('not_streaming'),
      leader_unknown: entered('leader_unknown'),
    },
  };
}
