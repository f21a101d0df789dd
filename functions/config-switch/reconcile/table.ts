/** The ledger's table, and the conditions of its writes. */

import type { Item } from './item.ts';

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

// The conditions of the ledger's writes.
export const notPaused = () => either(absent('paused'), less('paused_until', new Date().toISOString()));
export const noLease = absent('lease_token');
export const leasedBy = (token: string) => equals('lease_token', token);
export const newerThanDesired = (version: string) =>
  either(absent('desired_version'), less('desired_version', version));
export const newerThanApplied = (version: string) =>
  either(absent('applied_version'), less('applied_version', version));
export const noDesiredState = absent('desired_version');
export const desiredIs = (version: string) => equals('desired_version', version);
export const leaderIs = (leader: string | undefined) =>
  leader === undefined ? absent('leader') : equals('leader', leader);
export const passedOverIs = (text: string | undefined) =>
  text === undefined ? absent('passed_over') : equals('passed_over', text);

/** A table of items, with consistent reads and conditional writes; DynamoDB's in a deployment. */
export interface Table {
  get(barman_server: string, signal: AbortSignal): Promise<Item | undefined>;
  /** Returns the whole item after the change, or undefined if the condition is false */
  update(
    barman_server: string,
    change: Change,
    condition: Condition,
    signal: AbortSignal,
  ): Promise<Item | undefined>;
  /** Returns whether the condition was true, so that the item is deleted */
  delete(barman_server: string, condition: Condition, signal: AbortSignal): Promise<boolean>;
  scan(signal: AbortSignal): Promise<Item[]>;
}
