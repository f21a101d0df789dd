/**
 * The scenarios of the model test: random ones, and directed ones. A directed one makes a coincidence of
 * seconds frequent that random ones almost never have: the times are chosen so that it happens, and nothing
 * else fails.
 */

import fc from 'fast-check';
import type { Delivery, Scenario } from './world.ts';

const random: fc.Arbitrary<Scenario> = fc
  .record({
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
    operations: fc.constant([]),
    faultsUntil: fc.constant(120_000),
    zone: fc.integer({ min: -48, max: 56 }).map((quarters) => quarters / 4),
    zoneChange: fc.integer({ min: -4, max: 4 }).map((quarters) => quarters / 4),
    proxy: fc.boolean(),
    clockAhead: fc.oneof(fc.constant(0), fc.integer({ min: -7_200_000, max: 7_200_000 })),
    withoutStreaming: fc.boolean(),
    byHand: fc.option(
      fc.record({ at: fc.integer({ min: 60_000, max: 118_000 }), event: fc.integer({ min: 1, max: 4 }) }),
      { nil: undefined },
    ),
  })
  // It is noticed only by an observation.
  .map((given) => ({
    ...given,
    byHand: given.observation === undefined || given.withoutStreaming ? undefined : given.byHand,
  }));

/** A time from `least` to `most` (ms). */
const ms = (least: number, most: number) => fc.integer({ min: least, max: most });

/** The delivery of an event at some time. */
const delivery = (
  event: number,
  at: fc.Arbitrary<number>,
  faults: { readonly [F in 'crashAt' | 'doneLate' | 'connects' | 'resends']?: fc.Arbitrary<number> } = {},
): fc.Arbitrary<Delivery> =>
  fc
    .record({ at, ...faults })
    .map((given) => ({ event, repeats: false, time: 28_500, crashAt: undefined, ...given }));

// The steps of a delivery, at which it may crash.
/** Put, record and acquire, POST. */
const POST = fc.constant(3);
/** Put, record and acquire, POST, started. */
const STARTED = fc.constant(4);
/** Put, record and acquire, connect, POST. */
const POST_AFTER_CONNECT = fc.constant(4);
/** Put, record and acquire, get, record, get, get, acquire. */
const ACQUIRE_OF_REPEATED = fc.constant(7);
/** Put, record and acquire, get, record, get, poll, acquire, POST, started. */
const STARTED_AFTER_PASSING_OVER = fc.constant(9);

type Operation = Scenario['operations'][number];

/** An operation that ends after some time. */
const operation = (duration: fc.Arbitrary<number>, fate: Operation['fate'] = 'done') =>
  fc.record({ fate: fc.constant(fate), duration });
const done = operation(ms(300, 1_500));
const failed = operation(ms(300, 1_500), 'failed');

/** Nothing fails, and all is over when `faultsUntil` has passed. */
const SMOOTH: Omit<Scenario, 'seed'> = {
  deliveries: [],
  lost: [],
  spacing: 1_000,
  observation: undefined,
  pauses: [],
  heartbeats: [],
  faults: 0,
  slowest: 2_000,
  operations: [],
  faultsUntil: 120_000,
  zone: 0,
  zoneChange: 0,
  proxy: false,
  clockAhead: 0,
};

/** A scenario in which everything goes smoothly, except for what is given. */
function directed(given: { readonly [A in keyof Scenario]?: fc.Arbitrary<Scenario[A]> }) {
  return fc.record({ seed: fc.integer(), ...given }).map((chosen) => ({ ...SMOOTH, ...chosen }) as Scenario);
}

/**
 * Each with what it is directed at. M1, M2, … are the heartbeats of each minute; events 1, 2, … happen
 * `spacing` apart.
 */
const DIRECTED: readonly fc.Arbitrary<Scenario>[] = [
  // A late acquire brings back passed_over from before M1 passed an operation over. The clocks differ, so
  // only the newest operation counts as recent.
  directed({
    deliveries: fc.tuple(
      delivery(1, ms(1_000, 1_500)),
      delivery(1, ms(4_000, 4_500), { crashAt: ACQUIRE_OF_REPEATED, doneLate: ms(78_000, 140_000) }),
      delivery(1, ms(5_000, 5_500)),
      delivery(2, ms(30_000, 44_000)),
    ),
    operations: fc.tuple(failed, operation(ms(130_000, 400_000)), failed),
    proxy: fc.constant(true),
    clockAhead: fc.constant(450_000),
  }),
  // An operation that was passed over ends, and a newer event is applied, while M3 observes.
  directed({
    spacing: fc.constant(60_000),
    observation: ms(0, 6_000),
    // Otherwise the heartbeat reads the item again, since Barman does not stream from the new leader.
    withoutStreaming: fc.constant(true),
    deliveries: fc.tuple(delivery(1, ms(61_000, 61_200)), delivery(3, ms(180_100, 181_000))),
    operations: fc.tuple(operation(ms(120_300, 123_500)), done, done),
    faultsUntil: fc.constant(240_000),
  }),
  // A second operation is passed over while a heartbeat observes that will drop the first one.
  directed({
    spacing: fc.constant(60_000),
    observation: ms(0, 6_000),
    deliveries: fc.tuple(
      delivery(1, ms(61_000, 61_200)),
      delivery(1, ms(212_000, 212_500)),
      delivery(4, ms(240_000, 245_000)),
    ),
    heartbeats: fc.tuple(ms(211_300, 212_300)),
    operations: fc.tuple(operation(ms(127_000, 148_000)), operation(ms(115_000, 270_000))),
    faultsUntil: fc.constant(300_000),
  }),
  // M2 drops an operation that was passed over, while an event has the lease, and is about to renew it.
  directed({
    deliveries: fc.tuple(
      delivery(1, ms(1_000, 1_500)),
      delivery(1, ms(113_000, 119_500), { connects: ms(8_000, 8_800) }),
    ),
    operations: fc.tuple(operation(ms(80_000, 118_000)), failed),
  }),
  // A newer event and a pause come during a slow operation.
  directed({
    deliveries: fc.tuple(delivery(1, ms(1_000, 1_100)), delivery(2, ms(3_000, 12_000))),
    pauses: fc.tuple(fc.record({ at: ms(1_400, 2_500), for: ms(30_000, 60_000), resumed: fc.boolean() })),
    operations: fc.tuple(operation(ms(15_500, 17_500))),
  }),
  // M2 is the second to see a leader that has just changed, and the event of that change comes after M2.
  directed({
    spacing: ms(28_600, 29_900),
    observation: fc.constant(6_000),
    lost: fc.constant([1]),
    deliveries: fc.tuple(delivery(4, ms(121_000, 150_000))),
    faultsUntil: fc.constant(180_000),
  }),
  // Two heartbeats at once are both the second to see a leader.
  directed({
    observation: ms(0, 6_000),
    lost: fc.constant([1]),
    heartbeats: fc.tuple(ms(118_000, 122_000)),
  }),
  // The host's clock is set back, so that the operation of an invocation that crashed is not the newest by
  // its id.
  directed({
    deliveries: fc.tuple(
      delivery(1, ms(1_000, 1_100)),
      delivery(2, ms(61_000, 62_000), { crashAt: POST, doneLate: ms(100, 2_000) }),
      delivery(3, ms(80_000, 85_000)),
    ),
    operations: fc.tuple(done, operation(ms(30_000, 45_000))),
    zoneChange: fc.constant(-1),
  }),
  // No operation succeeds for a long time, and Barman does not stream.
  directed({
    observation: ms(0, 6_000),
    deliveries: fc.tuple(delivery(1, ms(1_000, 1_100))),
    operations: fc.array(failed, { minLength: 4, maxLength: 4 }),
  }),
  // Someone applies another model by hand.
  directed({
    observation: ms(0, 6_000),
    deliveries: fc.tuple(delivery(1, ms(1_000, 1_100))),
    byHand: fc.record({ at: ms(62_000, 118_000), event: fc.constant(3) }),
  }),
  // No poll is answered for a time, while an operation is running.
  directed({
    deliveries: fc.tuple(delivery(1, ms(1_000, 1_100)), delivery(2, ms(7_500, 9_000))),
    operations: fc.tuple(operation(ms(8_000, 20_000))),
    outage: fc.record({ from: ms(1_450, 1_600), until: ms(6_500, 7_500) }),
  }),
  // An operation outlasts its lease, and another invocation sees its end first.
  directed({
    deliveries: fc.tuple(delivery(1, ms(1_000, 1_100)), delivery(2, ms(15_000, 16_000))),
    operations: fc.tuple(operation(ms(15_000, 18_000)), operation(ms(2_000, 5_000))),
  }),
  // The SDK sends each write again, and a newer event is recorded in between.
  directed({
    deliveries: fc.tuple(
      delivery(1, ms(1_000, 1_100), { resends: ms(1_500, 2_500) }),
      delivery(2, ms(3_400, 4_400)),
    ),
  }),
  // A connection takes longer than the lease.
  directed({
    deliveries: fc.tuple(
      delivery(1, ms(1_000, 1_100), { connects: ms(15_000, 19_000) }),
      delivery(2, ms(11_000, 15_500)),
    ),
    operations: fc.tuple(operation(ms(4_000, 8_000))),
  }),
  // A POST is sent at the end of its window, and arrives late.
  directed({
    deliveries: fc.tuple(
      delivery(1, ms(1_000, 1_100), {
        connects: ms(6_500, 7_800),
        crashAt: POST_AFTER_CONNECT,
        doneLate: ms(1_000, 4_900),
      }),
      delivery(2, ms(5_000, 9_000)),
    ),
    operations: fc.tuple(operation(ms(4_000, 8_000)), operation(ms(4_000, 8_000))),
  }),
  // An operation takes effect within P, but never ends.
  directed({
    deliveries: fc.tuple(delivery(1, ms(1_000, 1_100)), delivery(2, ms(16_000, 18_000))),
    operations: fc.tuple(operation(ms(22_000, 38_000), 'stuck, applied')),
  }),
  // A write that records a running operation arrives under the lease of another invocation.
  directed({
    deliveries: fc.tuple(
      delivery(1, ms(1_000, 1_100), { crashAt: STARTED, doneLate: ms(20_000, 55_000) }),
      delivery(2, ms(15_500, 17_000)),
    ),
    operations: fc.tuple(done, operation(ms(46_000, 56_000))),
  }),
  // An operation that was passed over still runs while a newer event is applied, at the second attempt.
  directed({
    deliveries: fc.tuple(delivery(1, ms(1_000, 1_100)), delivery(2, ms(85_000, 100_000))),
    operations: fc.tuple(operation(ms(190_000, 400_000)), done, failed),
  }),
  // An invocation passes an operation over, and crashes before it records its own one.
  directed({
    deliveries: fc.tuple(
      delivery(1, ms(40_000, 40_500)),
      delivery(2, ms(115_000, 119_000), {
        crashAt: STARTED_AFTER_PASSING_OVER,
        doneLate: ms(60_000, 150_000),
      }),
      delivery(2, ms(136_000, 145_000)),
    ),
    operations: fc.tuple(operation(ms(80_000, 92_000)), operation(ms(40_000, 68_000))),
    faultsUntil: fc.constant(240_000),
  }),
  // No operation ever ends, so that the next one is due later and later.
  directed({
    deliveries: fc.tuple(delivery(1, ms(1_000, 1_100))),
    operations: fc.array(operation(ms(1_000, 10_000), 'stuck, applied'), { minLength: 20, maxLength: 20 }),
  }),
];

export const scenario: fc.Arbitrary<Scenario> = fc.oneof(
  { weight: 30, arbitrary: random },
  ...DIRECTED.map((arbitrary) => ({ weight: 1, arbitrary })),
);
