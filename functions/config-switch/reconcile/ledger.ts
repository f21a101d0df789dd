/**
 * The ledger: what each Barman server is to be brought to, what it was last brought to, and who may send a POST.
 *
 * Role changes come late, twice and out of order, and Barman takes no lock. So a wish is recorded first, and then whoever
 * holds the server's lease drives Barman to the newest one. An item's states, for the wish with key k:
 *
 *   behind      desired_key > applied_key, nobody holds the lease    take: set holder, until
 *   driven      holder and until are set; POSTs until 6 s before it  result, release; or left behind by a crash or deadline
 *   left behind until has passed                                     settle: see operations end, at most P after until; take
 *   there       applied_key = desired_key
 *
 *   write    condition                                                       otherwise
 *   record   desired_key absent or < k, and the event not in events          a newer wish, or this one, is known
 *   take     (applied_key absent or < k), not held,                          applied, superseded, or somebody else drives
 *            (no holder, or it is me or the one that I settled)
 *   result   holder is me, and desired_key is what I applied                 a newer wish is there, or the lease is lost
 *   release  holder is me; only if every POST of mine has a known end        the lease is lost
 *
 * A token is new each time that the lease is taken or renewed. Without any one of these conditions an event can be lost or
 * Barman left on an old primary (npm run model).
 */

import { randomUUID } from 'node:crypto';
import { type ConfigTarget, targetText } from '../barman/target.ts';
import {
  absent,
  type Change,
  type Clause,
  type Condition,
  either,
  equals,
  type Item,
  isWished,
  lacks,
  less,
  type Table,
  timeOf,
  type Wished,
} from './table.ts';

/** How long after it was taken a lease lets POSTs be sent, ms. */
export const POST_WINDOW = 8_000;
/** The longest that a POST may be on its way, ms. */
export const POST_DELAY = 5_000;
/** How far the clocks of two instances of the function may be apart, ms. */
const CLOCK_SKEW = 1_000;
/** How long a lease lasts, ms. */
export const LEASE = POST_WINDOW + POST_DELAY + CLOCK_SKEW;
/** How many events are known by their ids. */
const EVENTS = 10;
/** The heartbeat's back-off after a failure, ms: doubled each time, up to the cap. */
const BACKOFF = { base: 60_000, cap: 600_000 };

/** What an event wants a Barman server to be brought to. */
export interface Wish {
  readonly server: string;
  readonly cluster: string;
  readonly target: ConfigTarget;
  /** Of `wishKey`. */
  readonly key: string;
}

/** The right to send POSTs, and the item as it was when it was given. */
export interface Lease {
  readonly token: string;
  readonly item: Wished;
  /** The last moment for a POST, by `performance.now()`. */
  readonly postUntil: number;
}

/** What became of the lease whose result was written. */
export type AfterResult =
  | { readonly lease: 'released' }
  /** Somebody else has taken it over. */
  | { readonly lease: 'lost' }
  /** A newer wish is there, to be driven under the lease that is renewed. */
  | { readonly lease: 'renewed'; readonly renewed: Lease };

/** A wish's key. @param eventTime ms since the epoch */
export function wishKey(eventTime: number, eventId: string): string {
  return `${new Date(eventTime).toISOString()}#${eventId}`;
}

/** The event's id in a key. */
export function eventIdOf(key: string): string {
  return key.slice(key.indexOf('#') + 1);
}

/** Whether Barman has not been brought yet to the newest wish. */
export function isBehind(item: Item): item is Wished {
  return isWished(item) && (item.applied_key === undefined || item.applied_key < item.desired_key);
}

/** Whether somebody may still send a POST, or one may still arrive. */
export function isLeased({ holder, until }: Item): boolean {
  return holder !== undefined && Date.now() < timeOf(until, 0);
}

// The conditions of the writes.
const notHeld = absent('held');
const free = absent('holder');
const heldBy = (token: string) => equals('holder', token);
const newerThanDesired = (key: string) => either(absent('desired_key'), less('desired_key', key));
const newerThanApplied = (key: string) => either(absent('applied_key'), less('applied_key', key));
const desiredIs = (key: string) => equals('desired_key', key);
const isNew = (key: string): Condition => [newerThanDesired(key), lacks(eventIdOf(key))];

const NO_LEASE = { holder: null, until: null } as const;
const NO_FAILURE = { attempts: null, next_attempt_at: null, last_error: null, parked: null } as const;

/** The writes of the protocol above. Each throws what the table throws. */
export class Ledger {
  readonly #table: Table;

  constructor(table: Table) {
    this.#table = table;
  }

  get(server: string, signal: AbortSignal): Promise<Item | undefined> {
    return this.#table.get(server, signal);
  }

  all(signal: AbortSignal): Promise<Item[]> {
    return this.#table.scan(signal);
  }

  /** @returns whether it is the newest wish now */
  record(wish: Wish, signal: AbortSignal): Promise<boolean> {
    return this.#write(wish.server, recorded(wish), isNew(wish.key), signal);
  }

  /** Both in one write, where nobody holds the lease. @returns undefined if it is not so simple; nothing is written then */
  recordAndTake(wish: Wish, signal: AbortSignal): Promise<Lease | undefined> {
    return this.#lease(wish.server, recorded(wish), [...isNew(wish.key), free, notHeld], signal);
  }

  /**
   * Takes the lease to drive the newest wish, whoever's it is.
   *
   * @param key of the wish that is to be met; one that is applied, or older than the applied one, is not driven
   * @param seen the holder whose operations have been settled, or the token to renew
   * @param change what else is to be written with it
   */
  take(
    server: string,
    key: string,
    seen: string | undefined,
    signal: AbortSignal,
    change: Change = {},
  ): Promise<Lease | undefined> {
    const mayTake: Clause = seen === undefined ? free : either(free, heldBy(seen));
    return this.#lease(server, change, [newerThanApplied(key), notHeld, mayTake], signal);
  }

  /**
   * Barman was brought to the wish that the lease drives.
   *
   * @param goOn whether to keep the lease, renewed, if a newer wish is there
   */
  async result(
    { token, item }: Lease,
    operationId: string,
    goOn: boolean,
    signal: AbortSignal,
  ): Promise<AfterResult> {
    const { barman_server, desired, desired_key } = item;
    const applied: Change = {
      applied: desired,
      applied_key: desired_key,
      operation_id: operationId,
      applied_at: new Date().toISOString(),
      events: { keep: EVENTS },
    };
    const done = { ...applied, ...NO_LEASE, ...NO_FAILURE };
    if (await this.#write(barman_server, done, [heldBy(token), desiredIs(desired_key)], signal)) {
      return { lease: 'released' };
    }
    if (goOn) {
      const renewed = await this.#lease(barman_server, applied, [heldBy(token)], signal);
      return renewed ? { lease: 'renewed', renewed } : { lease: 'lost' };
    }
    const left = await this.#write(barman_server, { ...applied, ...NO_LEASE }, [heldBy(token)], signal);
    return { lease: left ? 'released' : 'lost' };
  }

  /** The wish that the lease drives could not be met, and every POST of it has a known end. */
  async release({ token, item }: Lease, error: string, signal: AbortSignal): Promise<void> {
    const { barman_server, desired_key, attempts = 0 } = item;
    const backoff = Math.min(BACKOFF.cap, BACKOFF.base * 2 ** attempts);
    const failed: Change = {
      ...NO_LEASE,
      attempts: attempts + 1,
      next_attempt_at: new Date(Date.now() + backoff).toISOString(),
      last_error: error.slice(0, 1_000),
    };
    const told = await this.#write(barman_server, failed, [heldBy(token), desiredIs(desired_key)], signal);
    // A newer wish starts afresh.
    if (!told) await this.#write(barman_server, NO_LEASE, [heldBy(token)], signal);
  }

  /** Gives up a wish that could not be met for long. @returns whether it still was the newest one */
  park(
    { barman_server, desired_key }: Pick<Wished, 'barman_server' | 'desired_key'>,
    signal: AbortSignal,
  ): Promise<boolean> {
    return this.#write(barman_server, { parked: true }, [desiredIs(desired_key)], signal);
  }

  /** What is active was compared with `applied`. @param again whether it is to be applied again */
  async compared(server: string, appliedKey: string, again: boolean, signal: AbortSignal): Promise<void> {
    const change: Change = { overtaken: null, ...(again ? { applied_key: null } : {}) };
    await this.#write(server, change, [equals('applied_key', appliedKey), free], signal);
  }

  /** Has the heartbeat try at its next turn. @returns undefined if there is no such server */
  retry(server: string, signal: AbortSignal): Promise<Item | undefined> {
    return this.#existing(
      server,
      { attempts: null, next_attempt_at: null, parked: null, recorded_at: new Date().toISOString() },
      signal,
    );
  }

  /** Stops, or starts again, all POSTs for a server; wishes are recorded meanwhile. */
  hold(server: string, held: boolean, signal: AbortSignal): Promise<Item | undefined> {
    return this.#existing(server, { held: held || null, next_attempt_at: null }, signal);
  }

  /** @returns whether the condition held, so that it is written */
  async #write(server: string, change: Change, condition: Condition, signal: AbortSignal): Promise<boolean> {
    return (await this.#table.update(server, change, condition, signal)) !== undefined;
  }

  async #existing(server: string, change: Change, signal: AbortSignal): Promise<Item | undefined> {
    const item = await this.#table.get(server, signal);
    return item && this.#table.update(server, change, [], signal);
  }

  async #lease(
    server: string,
    change: Change,
    condition: Condition,
    signal: AbortSignal,
  ): Promise<Lease | undefined> {
    // Both before the write, which may take long.
    const postUntil = performance.now() + POST_WINDOW;
    const token = randomUUID();
    const until = new Date(Date.now() + LEASE).toISOString();
    const taken = await this.#table.update(server, { ...change, holder: token, until }, condition, signal);
    // The SDK sends a write again whose answer was late or lost. The second one must change nothing, since a newer wish may
    // have been recorded between the two; but the lease is ours if it is this very token that is there.
    const item = taken ?? (await this.#table.get(server, signal));
    return item?.holder === token && isWished(item) ? { token, item, postUntil } : undefined;
  }
}

function recorded({ target, cluster, key }: Wish): Change {
  return {
    desired: targetText(target),
    desired_key: key,
    events: { prepend: eventIdOf(key) },
    cluster,
    recorded_at: new Date().toISOString(),
    ...NO_FAILURE,
  };
}
