/**
 * Which servers and clusters are in a state that someone must act on, and which of them have entered it since
 * the last heartbeat: each one that enters raises the alarm, also while another one is in that state.
 */

/** Heartbeats differ by some seconds: what is to last for so many of them may be a quarter shorter. */
const TOLERANCE = 0.25;
/**
 * How long a state lasts until someone must act (intervals between heartbeats). What is found by five, or
 * ten, heartbeats in a row lasts one interval less.
 */
const LASTS = { pending: 5, notStreaming: 4 - TOLERANCE, leaderUnknown: 9 - TOLERANCE };
/** A memory that is older is not that of the last heartbeat (intervals). */
const REMEMBERED = 3;

export type State = keyof typeof LASTS;
/** State → the names of the servers, or clusters, that are in it. */
export type States = Readonly<Record<State, readonly string[]>>;

/** What the next heartbeat must know. JSON. */
export interface Lasting extends States {
  /** ms since the epoch */
  readonly at: number;
  /** Clusters whose leader is unknown, and since when (ms since the epoch). */
  readonly unknownSince: readonly (readonly [cluster: string, since: number])[];
}

/** What a heartbeat has found. */
export interface Found {
  /** Server → since when it is so (ms since the epoch); undefined if that was not to be seen. */
  readonly pending: ReadonlyMap<string, number> | undefined;
  readonly notStreaming: ReadonlyMap<string, number> | undefined;
  /** Clusters. */
  readonly leaderUnknown: readonly string[];
}

/**
 * Returns what lasts, and what has entered a state.
 *
 * @param before what lasted at the last heartbeat. Without it, and after a gap, all that lasts has entered:
 *   an alarm too many is better than none
 * @param now ms since the epoch
 * @param interval between two heartbeats (ms)
 */
export function whatLasts(
  found: Found,
  before: Lasting | undefined,
  now: number,
  interval: number,
): { readonly lasting: Lasting; readonly entered: States } {
  const last = before && now - before.at <= REMEMBERED * interval ? before : undefined;
  const knownSince = new Map(last?.unknownSince);
  const unknownSince = new Map(found.leaderUnknown.map((name) => [name, knownSince.get(name) ?? now]));
  const inState = (state: State, since: ReadonlyMap<string, number> | undefined): readonly string[] => {
    // What cannot be seen is as it was.
    if (!since) return last?.[state] ?? [];
    return [...since].filter(([, start]) => now - start >= LASTS[state] * interval).map(([name]) => name);
  };
  const states = {
    pending: inState('pending', found.pending),
    notStreaming: inState('notStreaming', found.notStreaming),
    leaderUnknown: inState('leaderUnknown', unknownSince),
  };
  const entered = (state: State) => states[state].filter((name) => !last?.[state].includes(name));
  return {
    lasting: { at: now, unknownSince: [...unknownSince], ...states },
    entered: {
      pending: entered('pending'),
      notStreaming: entered('notStreaming'),
      leaderUnknown: entered('leaderUnknown'),
    },
  };
}
