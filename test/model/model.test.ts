/**
 * The ledger's protocol under crashes, lost and late requests, and failed operations: RUNS random interleavings, many in
 * `npm run model`, some hundreds in `npm test`. A failure prints its seed and path; SEED and PATH_ repeat it.
 */

import fc from 'fast-check';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { isPending } from '../../functions/config-switch/reconcile/item.ts';
import { reset } from './network.ts';
import { type Scenario, World } from './world.ts';

vi.mock('../../functions/config-switch/barman/undici.ts', () => import('./network.ts'));

const runs = Number(process.env.RUNS ?? 400);

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date', 'performance'] });
});
afterEach(() => {
  vi.restoreAllMocks();
  vi.useRealTimers();
});

const scenario: fc.Arbitrary<Scenario> = fc.record({
  seed: fc.integer(),
  deliveries: fc.array(
    fc.record({
      event: fc.integer({ min: 1, max: 4 }),
      repeats: fc.boolean(),
      at: fc.oneof(
        fc.integer({ min: 0, max: 3_000 }),
        fc.integer({ min: 13_000, max: 45_000 }),
        fc.integer({ min: 0, max: 90_000 }),
      ),
      time: fc.oneof(fc.constant(28_500), fc.integer({ min: 500, max: 28_500 })),
      crashAt: fc.option(fc.integer({ min: 1, max: 24 }), { nil: undefined }),
    }),
    { minLength: 1, maxLength: 6 },
  ),
  lost: fc.array(fc.integer({ min: 1, max: 4 }), { maxLength: 2 }),
  spacing: fc.constantFrom(1_000, 1_000, 1_000, 20_000),
  observation: fc.option(fc.integer({ min: 0, max: 6_000 }), { nil: undefined, freq: 2 }),
  pauses: fc.array(
    fc.record({
      at: fc.integer({ min: 0, max: 60_000 }),
      for: fc.integer({ min: 1_000, max: 60_000 }),
      resumed: fc.boolean(),
    }),
    { maxLength: 1 },
  ),
  heartbeats: fc.array(fc.integer({ min: 0, max: 90_000 }), { maxLength: 3 }),
  faults: fc.constantFrom(0, 0.05, 0.15, 0.4),
  slowest: fc.constantFrom(2_000, 40_000, 240_000),
  faultsUntil: fc.constant(120_000),
  zone: fc.integer({ min: -48, max: 56 }).map((quarters) => quarters / 4),
  zoneChange: fc.integer({ min: -4, max: 4 }).map((quarters) => quarters / 4),
  proxy: fc.boolean(),
  clockAhead: fc.oneof(fc.constant(0), fc.integer({ min: -7_200_000, max: 7_200_000 })),
  newerSchema: fc.integer({ min: 0, max: 19 }).map((one) => one === 19),
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
  for (const pause of rest.pauses) setTimeout(() => void world.pause(pause), pause.at);
  heartbeats.forEach((at, index) => {
    setTimeout(() => void world.beat(`B${index + 1}`), at);
  });
  const nothingFails =
    rest.faults === 0 &&
    rest.slowest < 60_000 &&
    rest.pauses.length === 0 &&
    !rest.newerSchema &&
    deliveries.every(({ crashAt }) => crashAt === undefined);
  let minute = 0;
  const schedule = every(60_000, () => void world.beat(`M${++minute}`));
  await vi.advanceTimersByTimeAsync(rest.faultsUntil);
  if (nothingFails && rest.observation !== undefined) {
    // The last role change is 80 s old at most: four heartbeats after it, whatever events were lost.
    await vi.advanceTimersByTimeAsync(80_000 + 4 * 60_000 + 30_000 - rest.faultsUntil);
    if (world.active !== world.newest)
      world.violate('LATE: four heartbeats later Barman is not set to the leader');
  }
  // Enough for the slowest operation, and for the back-off after some that were passed over.
  for (let minutes = 0; minutes < 60 && !isAtRest(world); minutes += 1)
    await vi.advanceTimersByTimeAsync(60_000);
  schedule.stop();
  await vi.advanceTimersByTimeAsync(60_000);
  return world;
}

/** Whether nothing is running or pending. Of the operations that were passed over only stuck ones are left. */
function isAtRest({ item, running, newest, active, busy }: World): boolean {
  if (running > 0 || busy) return false;
  if (item?.schema === 2) return true;
  return item === undefined ? newest === 0 : !isPending(item) && active === newest;
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
      if (!given.newerSchema) expect(world.active, world.trace.join('\n')).toBe(world.newest);
    }),
    {
      numRuns: runs,
      // The counterexample of a mutant is not shrunk, because only the fact that there is one matters.
      endOnFailure: process.env.MUTANT !== undefined,
      ...(process.env.SEED ? { seed: Number(process.env.SEED), path: process.env.PATH_ ?? '' } : {}),
    },
  );
}, 3_600_000);
