/** The ledger's table, and the conditions of its writes. */

import type { Item } from './item.ts';

export type Attribute = Exclude<keyof Item, 'barman_server'>;
/** An attribute, or a part of one that is a map. */
export type Path =
  | keyof Item
  | 'diagnose_until'
  | 'heard.revision'
  | 'desired.version'
  | 'applied.version'
  | 'lease.token';

/** New values; null removes the attribute. */
export type Change = { readonly [A in Attribute]?: Exclude<Item[A], undefined> | null };

/** What an attribute may have. */
export type Value = string | number | boolean | readonly Value[] | { readonly [part: string]: Value };
/** A change of any item. */
export type StoredChange = Readonly<Record<string, Value | null>>;

export type Comparison =
  | readonly [Path, 'absent']
  | readonly [Path, 'exists']
  /** Absent, or of another type than text. */
  | readonly [Path, 'not text']
  | readonly [Path, '=' | '<', string | number | boolean];
/** True if one of the comparisons is. */
export type Clause = readonly Comparison[];
/** True if all of the clauses are. */
export type Condition = readonly Clause[];

export const absent = (path: Path): Clause => [[path, 'absent']];
export const equals = (path: Path, value: string | number | boolean): Clause => [[path, '=', value]];
/** Compares as text; false for an attribute that is absent. */
export const less = (path: Path, value: string): Clause => [[path, '<', value]];
export const either = (one: Clause, other: Clause): Clause => [...one, ...other];

// The conditions of the ledger's writes.
export const exists: Clause = [['barman_server', 'exists']];
export const notPaused = () => either(absent('paused'), less('paused_until', new Date().toISOString()));
export const noLease = absent('lease');
export const leasedBy = (token: string) => equals('lease.token', token);
export const newerThanDesired = (version: string) =>
  either(absent('desired'), less('desired.version', version));
export const newerThanApplied = (version: string) =>
  either(absent('applied'), less('applied.version', version));
export const isDesired: Clause = [['desired', 'exists']];
export const noDesiredState = absent('desired');
export const desiredIs = (version: string) => equals('desired.version', version);
export const applyAgainAtIs = (time: string) => equals('apply_again_at', time);
export const leaderIs = (leader: string | undefined) =>
  leader === undefined ? absent('leader') : equals('leader', leader);
/** A revision that is no text was written in another format: it cannot be read, and is replaced. */
export const heardIs = (revision: string | undefined): Clause =>
  revision === undefined ? [['heard.revision', 'not text']] : equals('heard.revision', revision);

/** An item as it is in the table. */
export type Stored = Readonly<Record<string, unknown>> & { readonly barman_server: string };

/** A table of items, with consistent reads and conditional writes; DynamoDB's in a deployment. */
export interface Table {
  get(barman_server: string, signal: AbortSignal): Promise<Stored | undefined>;
  /** Returns the whole item after the change, or undefined if the condition is false */
  update(
    barman_server: string,
    change: StoredChange,
    condition: Condition,
    signal: AbortSignal,
  ): Promise<Stored | undefined>;
  /** Returns whether the condition was true, so that the item is deleted */
  delete(barman_server: string, condition: Condition, signal: AbortSignal): Promise<boolean>;
  scan(signal: AbortSignal): Promise<Stored[]>;
}
