/** The ledger's table: the item of each Barman server, and the conditions of its writes. */

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

export type Comparison =
  | readonly ['events', 'lacks', string]
  | readonly [Attribute, 'absent']
  | readonly [Attribute, '=' | '<', string];
/** Holds if one of the comparisons does. */
export type Clause = readonly Comparison[];
/** Holds if all of the clauses do. */
export type Condition = readonly Clause[];

/** The attribute is not there. */
export const absent = (attribute: Attribute): Clause => [[attribute, 'absent']];
export const equals = (attribute: Attribute, value: string): Clause => [[attribute, '=', value]];
/** As text; an attribute that is not there is not less. */
export const less = (attribute: Attribute, value: string): Clause => [[attribute, '<', value]];
/** The event is not among the last ones. */
export const lacks = (eventId: string): Clause => [['events', 'lacks', eventId]];
export const either = (one: Clause, other: Clause): Clause => [...one, ...other];

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

/** Whether an item has a wish, met or not. */
export function isWished(item: Item): item is Wished {
  return item.desired !== undefined && item.desired_key !== undefined;
}

/** A time of an item, ms since the epoch. @param otherwise where there is none, or none that can be read */
export function timeOf(iso: string | undefined, otherwise: number): number {
  const time = Date.parse(iso ?? '');
  return Number.isNaN(time) ? otherwise : time;
}
