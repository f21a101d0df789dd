/**
 * The ledger's protocol under crashes, lost and late requests, and failed operations: RUNS random
 * interleavings, many in `npm run model`, some hundreds in `npm test`. A failure prints its seed and path;
 * SEED and PATH_ repeat it.
 */

import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { isPending } from '../../functions/config-switch/ledger/item.ts';
import { MUTANTS, mutate } from './mutants.ts';
import { reset } from './network.ts';
import { scenario } from './scenarios.ts';
import { type Scenario, useClocks, World } from './world.ts';

vi.mock('../../functions/config-switch/http/undici.ts', () => import('./network.ts'));

const runs = Number(process.env.RUNS ?? 400);

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date', 'performance'] });
  useClocks();
});
afterEach(() => {
  vi.restoreAllMocks();
  vi.useRealTimers();
});

/** Runs a scenario, and then waits without faults until the server is in sync. */
async function runScenario({ deliveries, heartbeats, ...rest }: Scenario): Promise<World> {
  vi.clearAllTimers();
  reset();
  vi.setSystemTime(0);
  const world = new World({ deliveries, heartbeats, ...rest });
  // The back-off of pg-backup-api.ts is random too.
  vi.spyOn(Math, 'random').mockImplementation(() => world.random());
  deliveries.forEach((delivery, index) => {
    // Not before it happens.
    const at = Math.max(delivery.at, delivery.event * rest.spacing);
    setTimeout(() => void world.deliver(delivery, `H${index + 1}(${delivery.event})`), at);
  });
  const { byHand, operator = [] } = rest;
  for (const action of operator) setTimeout(() => void world.operate(action), action.at);
  if (byHand) setTimeout(() => world.switchByHand(byHand.event), byHand.at);
  for (const pause of rest.pauses) setTimeout(() => void world.pause(pause), pause.at);
  heartbeats.forEach((at, index) => {
    setTimeout(() => void world.beat(`B${index + 1}`), at);
  });
  let minute = 0;
  const schedule = every(60_000, () => void world.beat(`M${++minute}`));
  await vi.advanceTimersByTimeAsync(rest.faultsUntil);
  if (rest.inTime && world.active !== world.newest)
    world.violate('LATE: Barman is not set to the newest event in time');
  const mustFollow = world.nothingFails && rest.pauses.length === 0;
  if (mustFollow && rest.observation !== undefined) {
    // Four heartbeats after the last role change, whatever events were lost, or after a late event.
    const changed = Math.max(80_000, 4 * rest.spacing, world.lateNameAt);
    await vi.advanceTimersByTimeAsync(changed + 4 * 60_000 + 30_000 - rest.faultsUntil);
    if (world.active !== world.newest)
      world.violate('LATE: four heartbeats later Barman is not set to the leader');
  }
  // Enough for the slowest operation, for the back-off after some that were passed over, and until all is settled.
  for (let minutes = 0; minutes < 600 && !isAtRest(world); minutes += 1)
    await vi.advanceTimersByTimeAsync(60_000);
  schedule.stop();
  await vi.advanceTimersByTimeAsync(60_000);
  return world;
}

/** Whether nothing is running, pending, or in doubt. Of the operations only stuck ones are left. */
function isAtRest({ item, running, newest, active, busy }: World): boolean {
  if (running > 0 || busy) return false;
  if (item === undefined) return newest === 0;
  return !isPending(item) && item.unsettled_since === undefined && active === newest;
}

function every(ms: number, action: () => void): { stop: () => void } {
  let timer = setTimeout(function again() {
    action();
    timer = setTimeout(again, ms);
  }, ms);
  return { stop: () => clearTimeout(timer) };
}

test(`the protocol › ends with Barman set to the newest event, and violates no invariant (${runs} interleavings)`, async () => {
  await fc.assert(
    fc.asyncProperty(scenario, async (given) => {
      const world = await runScenario(given);
      expect(world.violations, world.trace.join('\n')).toEqual([]);
      expect(world.active, world.trace.join('\n')).toBe(world.newest);
      expect(world.item?.unsettled_since, world.trace.join('\n')).toBeUndefined();
    }),
    {
      numRuns: runs,
      // The counterexample of a mutant is not shrunk, because only the fact that there is one matters.
      endOnFailure: process.env.MUTANT !== undefined,
      ...(process.env.SEED ? { seed: Number(process.env.SEED), path: process.env.PATH_ ?? '' } : {}),
    },
  );
}, 3_600_000);

test('the mutants › can be made of the present code', () => {
  for (const { edits } of MUTANTS) {
    for (const edit of edits) expect(() => mutate(readFileSync(edit.file, 'utf8'), edit)).not.toThrow();
  }
});
