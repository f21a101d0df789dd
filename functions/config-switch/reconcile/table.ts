/** The ledger's table: the item of each Barman server, and the conditions of its writes. */

/** The item of one Barman server. Times are ISO 8601 in UTC with milliseconds, so that they compare as text. */
export interface Item {
  readonly barman_server: string;
  /** The format of the item, raised only by an incompatible change; absent before the first record. */
  readonly schema?: number;
  /** The newest desired state: `model <name>` or `reset`. */
  readonly desired?: string;
  /** Its version, event time and event id: `2026-11-23T06:10:00.000Z#<event id>`. Greater is newer. */
  readonly desired_version?: string;
  /** The Patroni cluster that the desired state came from, for the operator. */
  readonly cluster?: string;
  readonly recorded_at?: string;
  /** What Barman was last set to, by which operation, and when. */
  readonly applied?: string;
  readonly applied_version?: string;
  readonly operation_id?: string;
  readonly applied_at?: string;
  /** The lease: its token, and until when a POST sent under it may still arrive. */
  readonly lease_token?: string;
  readonly lease_expires_at?: string;
  /** Failed attempts at the desired state, when the heartbeat makes the next one, and why the last one failed. */
  readonly attempts?: number;
  readonly next_attempt_at?: string;
  readonly last_error?: string;
  /** True after the heartbeat has given up. */
  readonly parked?: boolean;
  /** True while the operator wants nothing sent to Barman. */
  readonly paused?: boolean;
  /** True after an operation was passed over: if it ended late, `applied` is not what is active. */
  readonly passed_over?: boolean;
}

/** An item with a desired state: what a lease is given for. */
export type RecordedItem = Item & Required<Pick<Item, 'desired' | 'desired_version'>>;

export type Attribute = Exclude<keyof Item, 'barman_server'>;

/** New values; null removes the attribute. */
export type Change = { readonly [A in Attribute]?: Exclude<Item[A], undefined> | null };

export type Comparison = readonly [Attribute, 'absent'] | readonly [Attribute, '=' | '<', string | number];
/** True if one of the comparisons is. */
export type Clause = readonly Comparison[];
/** True if all of the clauses are. */
export type Condition = readonly Clause[];

export const absent = (attribute: Attribute): Clause => [[attribute, 'absent']];
export const equals = (attribute: Attribute, value: string | number): Clause => [[attribute, '=', value]];
/** Compares as text; false for an attribute that is absent. */
export const less = (attribute: Attribute, value: string): Clause => [[attribute, '<', value]];
export const either = (one: Clause, other: Clause): Clause => [...one, ...other];

/** A table of items, with consistent reads and conditional writes; DynamoDB's in a deployment. */
export interface Table {
  get(server: string, signal: AbortSignal): Promise<Item | undefined>;
  /** @returns the whole item after the change, or undefined if the condition is false */
  update(
    server: string,
    change: Change,
    condition: Condition,
    signal: AbortSignal,
  ): Promise<Item | undefined>;
  scan(signal: AbortSignal): Promise<Item[]>;
}

/** Whether an item has a desired state, applied or not. */
export function isRecorded(item: Item): item is RecordedItem {
  return item.desired !== undefined && item.desired_version !== undefined;
}

/**
 * Reads a time of an item.
 *
 * @param iso the attribute
 * @param fallback for an attribute that is absent or not a time
 * @returns ms since the epoch
 */
export function timeOf(iso: string | undefined, fallback: number): number {
  const time = Date.parse(iso ?? '');
  return Number.isNaN(time) ? fallback : time;
}
