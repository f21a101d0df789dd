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
    resets: fc.integer({ min: 1, max: 8 }),
    observation: fc.option(fc.integer({ min: 0, max: 6_000 }), { nil: undefined, freq: 2 }),
    pauses: fc.array(
      fc.record({
        at: fc.integer({ min: 0, max: 60_000 }),
        for: fc.integer({ min: 1_000, max: 60_000 }),
        resumed: fc.boolean(),
        all: fc.boolean(),
      }),
      { maxLength: 1 },
    ),
    operator: fc.array(
      fc.record({
        at: fc.integer({ min: 0, max: 90_000 }),
        command: fc.constantFrom('retry' as const, 'forget' as const, 'check' as const, 'reload' as const),
      }),
      { maxLength: 1 },
    ),
    heartbeats: fc.array(fc.integer({ min: 0, max: 90_000 }), { maxLength: 3 }),
    faults: fc.constantFrom(0, 0.05, 0.15, 0.4),
    slowest: fc.constantFrom(2_000, 40_000, 240_000),
    operations: fc.constant([]),
    faultsUntil: fc.constant(120_000),
    workers: fc.constantFrom(1 as const, 1 as const, 2 as const),
    strict: fc.boolean(),
    unreadable: fc.constantFrom(false, false, false, false, true),
    clockSet: fc.oneof(fc.constant(0), fc.integer({ min: -7_200_000, max: 7_200_000 })),
    withoutStreaming: fc.boolean(),
    byHand: fc.option(
      fc.record({ at: fc.integer({ min: 60_000, max: 118_000 }), event: fc.integer({ min: 1, max: 4 }) }),
      { nil: undefined },
    ),
  })
  .map((given) => {
    const strict = given.strict && given.workers === 1;
    return {
      ...given,
      strict,
      // What the strict promise assumes: an operation ends soon, the list is right, the clock is not set.
      ...(strict && { slowest: Math.min(given.slowest, 40_000), unreadable: false, clockSet: 0 }),
      // It is noticed only by an observation.
      byHand: given.observation === undefined || given.withoutStreaming ? undefined : given.byHand,
    };
  });

/** A time from `least` to `most` (ms). */
const ms = (least: number, most: number) => fc.integer({ min: least, max: most });

type Faults = {
  readonly [F in
    | 'crashAt'
    | 'doneLate'
    | 'connects'
    | 'resends'
    | 'posts'
    | 'startedLate'
    | 'time']?: fc.Arbitrary<Exclude<Delivery[F], undefined>>;
};

/** The delivery of an event at some time. */
const delivery = (event: number, at: fc.Arbitrary<number>, faults: Faults = {}): fc.Arbitrary<Delivery> =>
  fc
    .record({ at, ...faults })
    .map((given) => ({ event, repeats: false, time: 28_500, crashAt: undefined, ...given }));

// The steps of a delivery, at which it may crash.
/** Put, get the stage, record and acquire, POST. */
const POST = fc.constant(4);
/** Put, get the stage, record and acquire, POST, started. */
const STARTED = fc.constant(5);
/** Put, get the stage, record and acquire, get, record, get, poll, take over, POST, started. */
const STARTED_AFTER_PASSING_OVER = fc.constant(10);
/** Put, get the stage, record and acquire, connect, POST. */
const POST_AFTER_CONNECT = fc.constant(5);

/** A POST that is carried out after some time, while its sender sees a broken connection. */
const late = (time: fc.Arbitrary<number>) => fc.tuple(fc.record({ late: time }));

type Operation = Scenario['operations'][number];

/** An operation that ends after some time. */
const operation = (duration: fc.Arbitrary<number>, fate: Operation['fate'] = 'done') =>
  fc.record({ fate: fc.constant(fate), duration });
const done = operation(ms(300, 1_500));
const failed = operation(ms(300, 1_500), 'failed');
/** An operation that writes at once, and ends after some time. */
const longEnd = (duration: fc.Arbitrary<number>) =>
  fc.record({ fate: fc.constant('done' as const), duration, writesAt: fc.constant(500) });

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
  workers: 1,
  strict: false,
  clockSet: 0,
};
const SEVERAL = fc.constant(2 as const);
const STRICT = fc.constant(true);
const ONCE = fc.constant(1);

/** A scenario in which everything goes smoothly, except for what is given. */
function directed(given: { readonly [A in keyof Scenario]?: fc.Arbitrary<Exclude<Scenario[A], undefined>> }) {
  return fc.record({ seed: fc.integer(), ...given }).map((chosen) => ({ ...SMOOTH, ...chosen }) as Scenario);
}

/**
 * Each with what it is directed at. M1, M2, … are the heartbeats of each minute; events 1, 2, … happen
 * `spacing` apart.
 */
const DIRECTED: readonly fc.Arbitrary<Scenario>[] = [
  // A POST that had no response is carried out by another worker, after its event and a newer one are DONE.
  directed({
    deliveries: fc.tuple(
      delivery(1, ms(1_000, 1_100), { posts: late(ms(8_000, 500_000)) }),
      delivery(2, ms(3_000, 7_000)),
    ),
    workers: SEVERAL,
    faultsUntil: fc.constant(600_000),
  }),
  // The same, and the newer one comes when the doubt is old.
  directed({
    deliveries: fc.tuple(
      delivery(1, ms(1_000, 1_100), { posts: late(ms(262_000, 285_000)) }),
      delivery(2, ms(245_000, 255_000)),
    ),
    workers: SEVERAL,
    faultsUntil: fc.constant(600_000),
  }),
  // The same, and the sender gives up, so that its lease is taken over.
  directed({
    deliveries: fc.tuple(
      delivery(1, ms(1_000, 1_100), { posts: late(ms(26_000, 500_000)), time: ms(500, 3_000) }),
      delivery(2, ms(22_500, 24_000)),
    ),
    workers: SEVERAL,
    faultsUntil: fc.constant(600_000),
  }),
  // All POSTs of an event are late.
  directed({
    deliveries: fc.tuple(
      delivery(1, ms(1_000, 1_100), {
        posts: fc.array(fc.record({ late: ms(26_000, 100_000) }), { minLength: 5, maxLength: 5 }),
      }),
      delivery(2, ms(3_000, 28_000)),
    ),
    workers: SEVERAL,
    faultsUntil: fc.constant(180_000),
  }),
  // A POST has no response, and then no connection is made any more.
  directed({
    deliveries: fc.tuple(
      delivery(1, ms(1_000, 1_100), {
        posts: late(ms(8_000, 500_000)),
        connects: fc.constant([1, 1, 'refused', 'refused', 'refused', 'refused'] as const),
      }),
      delivery(2, ms(8_000, 28_000)),
    ),
    workers: SEVERAL,
    faultsUntil: fc.constant(600_000),
  }),
  // An operation writes early and ends late: what is older writes in between, and the 24 h end in between.
  directed({
    deliveries: fc.tuple(
      delivery(1, ms(1_000, 1_100), { posts: late(ms(722_000, 738_000)), time: ms(500, 3_000) }),
      delivery(2, ms(22_500, 24_000)),
    ),
    operations: fc.tuple(done, done, done, longEnd(ms(28_000, 70_000))),
    workers: SEVERAL,
    faultsUntil: fc.constant(900_000),
  }),
  // The operation of a POST without a response still runs when the lease has expired.
  directed({
    deliveries: fc.tuple(
      delivery(1, ms(1_000, 1_100), { posts: fc.constant(['response lost' as const]), time: ms(500, 3_000) }),
      delivery(2, ms(22_500, 24_000)),
    ),
    operations: fc.tuple(operation(ms(26_000, 70_000)), done),
    strict: STRICT,
    faultsUntil: fc.constant(180_000),
  }),
  // … and when its sender would send another one, by then for a newer event.
  directed({
    deliveries: fc.tuple(
      delivery(1, ms(1_000, 1_100), { posts: fc.constant(['response lost' as const]) }),
      delivery(2, ms(1_100, 1_400)),
    ),
    operations: fc.tuple(operation(ms(4_000, 20_000)), done),
    strict: STRICT,
  }),
  // An operation that is known still runs when its lease has expired.
  directed({
    deliveries: fc.tuple(
      delivery(1, ms(1_000, 1_100), { time: ms(3_000, 5_000) }),
      delivery(2, ms(22_500, 24_000)),
    ),
    operations: fc.tuple(operation(ms(26_000, 70_000)), done),
    strict: STRICT,
    faultsUntil: fc.constant(180_000),
  }),
  // The first one that there is takes long: it is not sent again.
  directed({
    deliveries: fc.tuple(delivery(1, ms(1_000, 1_100))),
    operations: fc.tuple(operation(ms(100_000, 500_000))),
    mostPosts: ONCE,
    faultsUntil: fc.constant(600_000),
  }),
  // One takes long on a host where the last one took long, too.
  directed({
    deliveries: fc.tuple(delivery(1, ms(1_000, 1_100)), delivery(2, ms(25_000, 30_000))),
    operations: fc.tuple(operation(ms(15_000, 20_000)), operation(ms(120_000, 200_000))),
    mostPosts: ONCE,
    faultsUntil: fc.constant(300_000),
  }),
  // One takes long on a host where the last one outlived its lease, and the one before did not.
  directed({
    deliveries: fc.tuple(
      delivery(1, ms(1_000, 1_100)),
      delivery(2, ms(5_000, 5_100)),
      delivery(3, ms(65_000, 100_000)),
    ),
    operations: fc.tuple(done, operation(ms(40_000, 50_000)), operation(ms(120_000, 200_000))),
    mostPosts: ONCE,
    faultsUntil: fc.constant(400_000),
  }),
  // One takes a minute on a host where the last one did not.
  directed({
    deliveries: fc.tuple(delivery(1, ms(1_000, 1_100)), delivery(2, ms(5_000, 60_000))),
    operations: fc.tuple(done, operation(ms(40_000, 75_000))),
    mostPosts: ONCE,
    faultsUntil: fc.constant(180_000),
  }),
  // One ends on such a host while pg-backup-api is unreachable, and its event comes again.
  directed({
    deliveries: fc.tuple(
      delivery(1, ms(1_000, 1_100)),
      delivery(2, ms(5_000, 5_100)),
      delivery(2, ms(60_000, 140_000)),
    ),
    operations: fc.tuple(done, operation(ms(3_000, 10_000))),
    outage: fc.record({ from: ms(6_500, 7_500), until: ms(150_000, 200_000) }),
    mostPosts: ONCE,
    faultsUntil: fc.constant(300_000),
  }),
  // The process of one has died on a host where the last one did not take long.
  directed({
    deliveries: fc.tuple(delivery(1, ms(1_000, 1_100)), delivery(2, ms(5_000, 60_000))),
    operations: fc.tuple(done, operation(ms(300, 1_500), 'stuck')),
    inTime: fc.constant(true),
    // Two and a half minutes after the last event, as guarantees.md says.
    faultsUntil: fc.constant(210_000),
  }),
  // Several invocations find the same lease expired.
  directed({
    deliveries: fc.tuple(
      delivery(1, ms(1_000, 1_100), { posts: late(ms(40_000, 90_000)), time: ms(500, 3_000) }),
      ...[2, 3, 3, 4, 4].map((event) => delivery(event, ms(22_500, 22_700))),
    ),
    workers: SEVERAL,
    faultsUntil: fc.constant(180_000),
  }),
  // One crashes, and several deliveries of the next event find its lease expired.
  directed({
    deliveries: fc.tuple(
      delivery(1, ms(1_000, 1_100), { crashAt: STARTED }),
      ...[2, 2, 2, 2, 2].map((event) => delivery(event, ms(22_500, 22_600))),
    ),
    workers: SEVERAL,
    faultsUntil: fc.constant(180_000),
  }),
  // The operator forgets a server that failed, while its event is delivered again.
  directed({
    deliveries: fc.tuple(
      delivery(1, ms(1_000, 1_100)),
      ...[1, 1, 1].map((event) => delivery(event, ms(5_000, 5_020))),
      delivery(1, ms(60_500, 62_000)),
    ),
    operations: fc.tuple(failed),
    operator: fc.tuple(fc.record({ at: ms(5_100, 5_350), command: fc.constant('forget --force' as const) })),
  }),
  // A newer event and a pause come during a slow operation.
  directed({
    deliveries: fc.tuple(delivery(1, ms(1_000, 1_100)), delivery(2, ms(3_000, 12_000))),
    pauses: fc.tuple(fc.record({ at: ms(1_400, 2_500), for: ms(30_000, 60_000), resumed: fc.boolean() })),
    operations: fc.tuple(operation(ms(15_500, 17_500))),
  }),
  // All servers are paused, and events and heartbeats come long after that.
  directed({
    deliveries: fc.tuple(
      delivery(1, ms(1_000, 1_100)),
      delivery(2, ms(40_000, 50_000)),
      delivery(3, ms(60_000, 100_000)),
    ),
    pauses: fc.tuple(
      fc.record({ at: ms(2_000, 2_500), for: ms(100_000, 140_000), resumed: fc.boolean(), all: STRICT }),
    ),
    faultsUntil: fc.constant(180_000),
  }),
  // A pause comes while a POST is in doubt.
  directed({
    deliveries: fc.tuple(delivery(1, ms(1_000, 1_100), { posts: fc.constant(['response late' as const]) })),
    pauses: fc.tuple(fc.record({ at: ms(1_400, 9_000), for: ms(60_000, 90_000), resumed: fc.boolean() })),
    operations: fc.tuple(operation(ms(5_000, 9_000))),
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
  // Someone applies another model by hand.
  directed({
    observation: ms(0, 6_000),
    deliveries: fc.tuple(delivery(1, ms(1_000, 1_100))),
    byHand: fc.record({ at: ms(62_000, 118_000), event: fc.constant(3) }),
  }),
  // No operation succeeds for a long time, and Barman does not stream.
  directed({
    observation: ms(0, 6_000),
    deliveries: fc.tuple(delivery(1, ms(1_000, 1_100))),
    operations: fc.array(failed, { minLength: 4, maxLength: 4 }),
  }),
  // No poll is answered for a time, while an operation is running.
  directed({
    deliveries: fc.tuple(delivery(1, ms(1_000, 1_100)), delivery(2, ms(7_500, 9_000))),
    operations: fc.tuple(operation(ms(8_000, 20_000))),
    outage: fc.record({ from: ms(1_450, 1_600), until: ms(6_500, 7_500) }),
  }),
  // An operation outlasts its lease, and another invocation sees its end first.
  directed({
    deliveries: fc.tuple(delivery(1, ms(1_000, 1_100)), delivery(2, ms(22_300, 23_000))),
    operations: fc.tuple(operation(ms(22_000, 24_500)), operation(ms(2_000, 5_000))),
  }),
  // The SDK sends each write again, and a newer event is recorded in between.
  directed({
    deliveries: fc.tuple(
      delivery(1, ms(1_000, 1_100), { resends: ms(1_500, 2_500) }),
      delivery(2, ms(3_400, 4_400)),
    ),
  }),
  // Connections take longer than the lease.
  directed({
    deliveries: fc.tuple(
      delivery(1, ms(1_000, 1_100), { connects: fc.tuple(ms(12_500, 13_500), ms(9_500, 11_500)) }),
      delivery(2, ms(17_000, 23_000)),
    ),
    operations: fc.tuple(operation(ms(4_000, 8_000))),
  }),
  // A POST is sent at the end of its window, and arrives late.
  directed({
    deliveries: fc.tuple(
      delivery(1, ms(1_000, 1_100), {
        connects: fc.tuple(ms(6_500, 7_800)),
        crashAt: POST_AFTER_CONNECT,
        doneLate: ms(8_000, 11_800),
      }),
      delivery(2, ms(9_000, 16_000)),
    ),
    operations: fc.tuple(operation(ms(4_000, 8_000)), operation(ms(4_000, 8_000))),
    strict: STRICT,
  }),
  // An operation takes effect in time, but never ends.
  directed({
    deliveries: fc.tuple(delivery(1, ms(1_000, 1_100)), delivery(2, ms(16_000, 18_000))),
    operations: fc.tuple(operation(ms(22_000, 38_000), 'stuck, applied')),
  }),
  // A write that records a running operation arrives under the lease of another invocation.
  directed({
    deliveries: fc.tuple(
      delivery(1, ms(1_000, 1_100), { crashAt: STARTED, doneLate: ms(20_000, 55_000) }),
      delivery(2, ms(22_500, 24_000)),
    ),
    operations: fc.tuple(done, operation(ms(46_000, 56_000))),
  }),
  // … also when its own sender has completed meanwhile.
  directed({
    deliveries: fc.tuple(
      delivery(1, ms(1_000, 1_100), { startedLate: ms(5_000, 20_000) }),
      delivery(2, ms(3_000, 4_000)),
    ),
    operations: fc.tuple(done, operation(ms(65_000, 100_000)), done),
    faultsUntil: fc.constant(180_000),
  }),
  // An invocation passes an operation over that will fail, and crashes before it records its own one.
  directed({
    deliveries: fc.tuple(
      delivery(1, ms(1_000, 1_100)),
      delivery(2, ms(84_000, 98_000), {
        crashAt: STARTED_AFTER_PASSING_OVER,
        doneLate: ms(140_000, 150_000),
      }),
    ),
    operations: fc.tuple(operation(ms(100_000, 117_000), 'failed'), operation(ms(100_000, 200_000)), done),
    faultsUntil: fc.constant(240_000),
  }),
  // An operation that was passed over takes effect after a newer event was applied, at the second attempt.
  directed({
    deliveries: fc.tuple(delivery(1, ms(1_000, 1_100)), delivery(2, ms(85_000, 100_000))),
    operations: fc.tuple(operation(ms(190_000, 400_000)), failed, done),
    faultsUntil: fc.constant(240_000),
  }),
  // An invocation crashes before it records its operation, which takes effect after a newer one.
  directed({
    deliveries: fc.tuple(
      delivery(1, ms(1_000, 1_100), { crashAt: POST, doneLate: ms(100, 2_000) }),
      delivery(2, ms(80_000, 85_000)),
    ),
    operations: fc.tuple(operation(ms(100_000, 300_000)), done),
    clockSet: fc.constant(-3_600_000),
    faultsUntil: fc.constant(2_000),
  }),
  // No POST has a response for a long time: six in fifteen minutes, and five while it is unsettled.
  directed({
    deliveries: fc.tuple(delivery(1, ms(1_000, 1_100), { time: ms(500, 1_000) })),
    responsesLostUntil: fc.constant(900_000),
    mostPosts: fc.constant(12),
    faultsUntil: fc.constant(900_000),
  }),
  // No operation ends for a long time, so that the next one is due later and later.
  directed({
    deliveries: fc.tuple(delivery(1, ms(1_000, 1_100))),
    operations: fc.array(operation(ms(1_000, 10_000), 'stuck, applied'), { minLength: 4, maxLength: 4 }),
  }),
];

/** How old Patroni's answers are at most (ms): as long as a dead leader is named. */
const ANSWERS = ms(0, 27_000);
/** Deliveries of role changes 1 to 3: up to four minutes late, twice, with a model or for the leader. */
const rolesChanged = fc.array(
  fc.record({
    event: fc.integer({ min: 1, max: 3 }),
    repeats: fc.boolean(),
    follows: fc.option(fc.constantFrom('role change' as const, 'role change' as const, 'alone' as const), {
      nil: undefined,
    }),
    at: ms(0, 260_000),
  }),
  { minLength: 1, maxLength: 6 },
);
const whole = (given: Partial<Delivery> & Pick<Delivery, 'event' | 'at'>): Delivery => ({
  ...{ repeats: false, time: 28_500, crashAt: undefined },
  ...given,
  ...(given.follows === 'alone' && { event: 0 }),
});

/** An event that follows the leader, and event 2, which names its model, at some time. */
const besideNamed = (
  follows: { readonly [A in 'event' | 'follows' | 'at']: fc.Arbitrary<Delivery[A]> },
  at: fc.Arbitrary<number>,
): fc.Arbitrary<Delivery[]> =>
  fc
    .tuple(fc.record(follows), fc.record({ event: fc.constant(2), at }))
    .map((deliveries) => deliveries.map(whole));

/** Events that follow the leader: some lost, late, twice, beside others with a model, and answered with an old leader. */
const FOLLOWING: readonly fc.Arbitrary<Scenario>[] = [
  directed({
    answers: ANSWERS,
    observation: ANSWERS,
    spacing: fc.constantFrom(12_000, 20_000, 45_000, 70_000),
    lost: fc.constantFrom([1], [1, 2], [1, 2, 3]),
    deliveries: rolesChanged.map((deliveries) => deliveries.map(whole)),
    faultsUntil: fc.constant(300_000),
  }),
  // The leader is asked for right before it changes, and the event of that change names its model.
  directed({
    answers: ANSWERS,
    observation: ANSWERS,
    spacing: ms(20_000, 70_000),
    deliveries: besideNamed(
      {
        event: fc.constantFrom(1, 2),
        follows: fc.constantFrom('role change', 'alone'),
        at: ms(20_000, 150_000),
      },
      ms(0, 150_000),
    ),
    faultsUntil: fc.constant(300_000),
  }),
  // An event names the new leader's model, and one of the same role change is answered with the old leader.
  directed({
    answers: ANSWERS,
    observation: ANSWERS,
    spacing: ms(20_000, 30_000),
    lost: fc.constant([1]),
    deliveries: besideNamed(
      { event: fc.constant(2), follows: fc.constant('role change'), at: ms(0, 60_000) },
      ms(0, 60_000),
    ),
    faultsUntil: fc.constant(300_000),
  }),
  // Events that no role change has sent, for ever.
  directed({
    answers: ms(0, 15_000),
    observation: ANSWERS,
    spacing: ms(12_000, 40_000),
    deliveries: fc
      .record({ event: fc.integer({ min: 1, max: 3 }), at: ms(0, 200_000) })
      .map((named) => [
        whole(named),
        ...Array.from({ length: 16 }, (_, index) =>
          whole({ event: 0, follows: 'alone', at: 30_000 * (index + 1) }),
        ),
      ]),
    faultsUntil: fc.constant(300_000),
  }),
];

export const scenario: fc.Arbitrary<Scenario> = fc.oneof(
  { weight: DIRECTED.length, arbitrary: random },
  ...DIRECTED.map((arbitrary) => ({ weight: 1, arbitrary })),
  ...FOLLOWING.map((arbitrary) => ({ weight: 3, arbitrary })),
);
