/** Why Barman may not stream from the leader, and the remedies: docs/how-to/wal-does-not-arrive.md. */

import type { Barman } from '../e2e/barman.ts';

/** Time limit of a command (ms). */
const TIMEOUT = 20_000;

export interface Cause {
  /** What `barman receive-wal` prints. */
  readonly prints: RegExp;
  /** @param printed what matched */
  readonly remedy: (barman: Barman, printed: RegExpExecArray) => Promise<unknown>;
}

export const CAUSES: readonly Cause[] = [
  {
    prints: /replication slot 'barman' doesn't exist/,
    remedy: (barman) => barman.run(TIMEOUT, 'receive-wal', '--create-slot', 'main'),
  },
  {
    prints: /requested WAL segment \S+ has already been removed/,
    // The slot is lost: its WAL was removed.
    remedy: async (barman) => {
      await barman.run(TIMEOUT, 'receive-wal', '--drop-slot', 'main');
      await barman.moveAheadAway();
      await barman.run(TIMEOUT, 'receive-wal', '--create-slot', 'main');
    },
  },
  {
    prints: /is not in this server's history/,
    remedy: (barman) => barman.moveAheadAway(),
  },
  {
    prints: /starting timeline (\d+) is not present in the server/,
    remedy: (barman, [, timeline]) => barman.moveTimelineAway(Number(timeline)),
  },
];
