/** Why Barman may not stream although its model is the leader's, and what remedies that: as in docs/operations.md, "WAL does not arrive". */

import type { World } from './world.ts';

export interface Cause {
  /** What `barman receive-wal` prints. */
  readonly prints: RegExp;
  /** @param printed what matched */
  readonly remedy: (world: World, printed: RegExpExecArray) => Promise<unknown>;
}

export const CAUSES: readonly Cause[] = [
  {
    prints: /replication slot 'barman' doesn't exist/,
    remedy: (world) => world.barman(['receive-wal', '--create-slot', 'main']),
  },
  {
    prints: /requested WAL segment \S+ has already been removed/,
    remedy: async (world) => {
      await world.barman(['receive-wal', '--drop-slot', 'main']);
      await world.movePartialWalAway();
      await world.barman(['receive-wal', '--create-slot', 'main']);
    },
  },
  {
    prints: /is not in this server's history/,
    remedy: (world) => world.movePartialWalAway(),
  },
  {
    prints: /starting timeline (\d+) is not present in the server/,
    remedy: (world, [, timeline]) => world.moveTimelineAway(Number(timeline)),
  },
];
