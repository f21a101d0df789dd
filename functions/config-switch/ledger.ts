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
import type { ConfigTarget } from './payload.ts';

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

/** The item of one Barman server. Times are UTC with ms, as ISO 8601, so that they compare and read well. */
export interface Item {
  readonly barman_server: string;
  /** The newest wish: `model <name>` or `reset`. */
  readonly desired?: string;
  /** Its event's time and id: `2026-11-23T06:10:00.000Z#<event id>`; a greater one is newer. */
  readonly desired_key?: string;
  /**
   * The ids of the last events that were recorded, newest first. An event may come again with another time: a sender that
   * repeats itself does not know better.
   */
  readonly events?: readonly string[];
  /** The cluster that it came from, for the operator. */
  readonly cluster?: string;
  readonly recorded_at?: string;
  /** What Barman was last brought to, by which operation, and when. */
  readonly applied?: string;
  readonly applied_key?: string;
  readonly operation_id?: string;
  readonly applied_at?: string;
  /** The lease: its token, and until when a POST sent under it may still arrive. */
  readonly holder?: string;
  readonly until?: string;
  /** Failed attempts at the wish, when the heartbeat makes the next, and how the last one failed. */
  readonly attempts?: number;
  readonly next_attempt_at?: string;
  readonly last_error?: string;
  /** True once the heartbeat has given the wish up. */
  readonly parked?: boolean;
  /** True while the operator wants nothing to be sent to Barman. */
  readonly held?: boolean;
  /** True after an operation was not waited for any longer: `applied` may not be what is active. */
  readonly overtaken?: boolean;
}

/** An item with a wish in it: what a lease is given for. */
export type Wished = Item & Required<Pick<Item, 'desired' | 'desired_key'>>;

export type Attribute = Exclude<keyof Item, 'barman_server' | 'events'>;

/** New values; null removes the attribute. Of `events`, one more is put first, or no more than so many are kept. */
export type Change = { readonly [A in Attribute]?: Exclude<Item[A], undefined> | null } & {
  readonly events?: { readonly prepend: string } | { readonly keep: number };
};

/** Holds if, in each row, one of the comparisons does. */
export type Condition = readonly (readonly Comparison[])[];
export type Comparison =
  | readonly ['events', 'lacks', string]
  | readonly [Attribute, 'absent']
  | readonly [Attribute, '=' | '<', string];

/** A table of items, read consistently and written conditionally; DynamoDB's in a deployment. */
export interface Table {
  get(server: string, signal: AbortSignal): Promise<Item | undefined>;
  /** @returns the whole item after the change, or undefined if the condition does not hold */
  update(
    server: string,
    change: Change,
    condition: Condition,
    signal: AbortSignal,
  ): Promise<Item | undefined>;
  scan(signal: AbortSignal): Promise<Item[]>;
}

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

/** A wish's key. @param eventTime ms since the epoch */
export function wishKey(eventTime: number, eventId: string): string {
  return `${new Date(eventTime).toISOString()}#${eventId}`;
}

/** The event's id in a key. */
export function eventIdOf(key: string): string {
  return key.slice(key.indexOf('#') + 1);
}

/** What an item's `desired` or `applied` says. */
export function targetOf(text: string): ConfigTarget {
  return text.startsWith(MODEL) ? { model: text.slice(MODEL.length) } : { reset: true };
}

export function targetText(target: ConfigTarget): string {
  return 'model' in target ? `${MODEL}${target.model}` : 'reset';
}

const MODEL = 'model ';

/** Whether Barman has not been brought yet to the newest wish. */
export function isBehind(item: Item): item is Wished {
  const { desired_key, applied_key } = item;
  return desired_key !== undefined && (applied_key === undefined || applied_key < desired_key);
}

/** Whether somebody may still send a POST, or one may still arrive. */
export function isLeased({ holder, until }: Item): boolean {
  return holder !== undefined && Date.now() < Date.parse(String(until));
}

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
  async record(wish: Wish, signal: AbortSignal): Promise<boolean> {
    const change = recorded(wish);
    return (await this.#table.update(wish.server, change, isNew(wish.key), signal)) !== undefined;
  }

  /** Both in one write, where nobody holds the lease. @returns undefined if it is not so simple; nothing is written then */
  recordAndTake(wish: Wish, signal: AbortSignal): Promise<Lease | undefined> {
    return this.#lease(
      wish.server,
      recorded(wish),
      [...isNew(wish.key), [['holder', 'absent']], [['held', 'absent']]],
      signal,
    );
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
    return this.#lease(
      server,
      change,
      [
        [
          ['applied_key', 'absent'],
          ['applied_key', '<', key],
        ],
        [['held', 'absent']],
        [['holder', 'absent'], ...(seen === undefined ? [] : [['holder', '=', seen] as const])],
      ],
      signal,
    );
  }

  /**
   * Barman was brought to the wish that the lease drives.
   *
   * @param goOn whether to keep the lease, renewed, if a newer wish is there
   * @returns `released`, `lost`, or the lease to drive the newer wish with
   */
  async result(
    { token, item }: Lease,
    operationId: string,
    goOn: boolean,
    signal: AbortSignal,
  ): Promise<Lease | 'released' | 'lost'> {
    const { barman_server, desired, desired_key } = item;
    const applied: Change = {
      applied: desired,
      applied_key: desired_key,
      operation_id: operationId,
      applied_at: new Date().toISOString(),
      events: { keep: EVENTS },
    };
    const release: Change = { holder: null, until: null };
    const mine = [['holder', '=', token]] as const;
    const done = await this.#table.update(
      barman_server,
      { ...applied, ...release, attempts: null, next_attempt_at: null, last_error: null, parked: null },
      [mine, [['desired_key', '=', desired_key]]],
      signal,
    );
    if (done) return 'released';
    if (goOn) return (await this.#lease(barman_server, applied, [mine], signal)) ?? 'lost';
    const left = await this.#table.update(barman_server, { ...applied, ...release }, [mine], signal);
    return left ? 'released' : 'lost';
  }

  /** The wish that the lease drives could not be met, and every POST of it has a known end. */
  async release({ token, item }: Lease, error: string, signal: AbortSignal): Promise<void> {
    const { barman_server, desired_key, attempts = 0 } = item;
    const mine = [['holder', '=', token]] as const;
    const release: Change = { holder: null, until: null };
    const backoff = Math.min(BACKOFF.cap, BACKOFF.base * 2 ** attempts);
    const told = await this.#table.update(
      barman_server,
      {
        ...release,
        attempts: attempts + 1,
        next_attempt_at: new Date(Date.now() + backoff).toISOString(),
        last_error: error.slice(0, 1_000),
      },
      [mine, [['desired_key', '=', desired_key]]],
      signal,
    );
    // A newer wish starts afresh.
    if (!told) await this.#table.update(barman_server, release, [mine], signal);
  }

  /** Gives up a wish that could not be met for long. @returns whether it still was the newest one */
  async park(
    { barman_server, desired_key }: Pick<Wished, 'barman_server' | 'desired_key'>,
    signal: AbortSignal,
  ): Promise<boolean> {
    return (
      (await this.#table.update(
        barman_server,
        { parked: true },
        [[['desired_key', '=', desired_key]]],
        signal,
      )) !== undefined
    );
  }

  /** What is active was compared with `applied`. @param again whether it is to be applied again */
  async compared(server: string, appliedKey: string, again: boolean, signal: AbortSignal): Promise<void> {
    await this.#table.update(
      server,
      { overtaken: null, ...(again ? { applied_key: null } : {}) },
      [[['applied_key', '=', appliedKey]], [['holder', 'absent']]],
      signal,
    );
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
    if (taken) return { token, item: taken as Wished, postUntil };
    // The SDK sends a write again whose answer was late or lost. The second one must change nothing, since a newer wish may
    // have been recorded between the two; but the lease is ours if it is this very token that is there.
    const item = await this.#table.get(server, signal);
    return item?.holder === token ? { token, item: item as Wished, postUntil } : undefined;
  }
}

function recorded({ target, cluster, key }: Wish): Change {
  return {
    desired: targetText(target),
    desired_key: key,
    events: { prepend: eventIdOf(key) },
    cluster,
    recorded_at: new Date().toISOString(),
    attempts: null,
    next_attempt_at: null,
    last_error: null,
    parked: null,
  };
}

function isNew(key: string): Condition {
  return [
    [
      ['desired_key', 'absent'],
      ['desired_key', '<', key],
    ],
    [['events', 'lacks', eventIdOf(key)]],
  ];
}
