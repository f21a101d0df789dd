/** The item of each Barman server in the ledger: desired and applied state, and what they say. */

import type { ConfigTarget } from '../target.ts';

/** What an event wants a Barman server to be set to. */
export interface DesiredState {
  readonly barman_server: string;
  readonly cluster: string;
  readonly target: ConfigTarget;
  /** From `versionOf`. */
  readonly version: string;
}

/**
 * The item of one Barman server. Times are ISO 8601 in UTC with milliseconds, so that they compare as text. A
 * format that an older version of the function could not read gets a table of its own: two versions run at
 * the same time during a deployment.
 */
export interface Item {
  readonly barman_server: string;
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
  /**
   * The operation that was created under the lease, and what it applies: the target and its version. Whoever
   * finds the lease expired waits for this one.
   */
  readonly running_operation?: string;
  readonly running?: string;
  readonly running_version?: string;
  /**
   * Failed attempts at the desired state, when the heartbeat makes the next one, and why the last one failed.
   */
  readonly attempts?: number;
  readonly next_attempt_at?: string;
  readonly last_error?: string;
  /**
   * True while the operator wants nothing sent to Barman, since when, and until when if the pause ends by
   * itself.
   */
  readonly paused?: boolean;
  readonly paused_at?: string;
  readonly paused_until?: string;
  /** The leader that Patroni last named, since when, and since when its model is not the desired one. */
  readonly leader?: string;
  readonly leader_since?: string;
  readonly differs_since?: string;
  /** Whether Barman streams WAL from the leader, and since when it does or does not. */
  readonly streaming?: boolean;
  readonly streaming_since?: string;
  /**
   * The operations that were passed over (PassedOver), as JSON, so that a condition can compare them as a
   * whole.
   */
  readonly passed_over?: string;
}

/** An item with a desired state: what a lease is given for. */
export type RecordedItem = Item & Required<Pick<Item, 'desired' | 'desired_version'>>;

/**
 * An operation that was passed over: it had not ended in time, and is no longer waited for, so that it cannot
 * block its server. But it may still take effect, and set Barman back. So it stays in the item until it has
 * ended, and until an application that began after that is complete, whatever it did in between.
 */
export interface PassedOver {
  readonly operation_id: string;
  /** The version that it applies, where that is known. */
  readonly version?: string | undefined;
  readonly since: string;
  /** Set by the acquire that follows its end: the application under that lease undoes its effect. */
  readonly ended_at?: string;
}

/**
 * Instead of an operation id: Barman does not stream, so the desired state is applied again. This entry
 * has ended from the start.
 */
export const NOT_STREAMING = 'not-streaming';

/** Returns the operations of an item that were passed over. */
export function passedOver({ passed_over }: Item): readonly PassedOver[] {
  try {
    const entries: unknown = JSON.parse(passed_over ?? '[]');
    return Array.isArray(entries) ? entries.filter((entry) => typeof entry?.operation_id === 'string') : [];
  } catch {
    // It was edited by hand. The desired state matters more.
    return [];
  }
}

/** Returns the attribute for so many entries; null for none */
export function passedOverText(entries: readonly PassedOver[]): string | null {
  return entries.length > 0 ? JSON.stringify(entries) : null;
}

/**
 * Returns whether the desired state must be applied again, because an operation that was passed over has
 * ended.
 *
 * @param ended ids of operations whose end was seen just now
 */
export function mustApplyAgain(item: Item, ended: ReadonlySet<string> = new Set()): boolean {
  return passedOver(item).some(
    ({ operation_id, ended_at }) => ended_at !== undefined || ended.has(operation_id),
  );
}

/** Returns whether an item has a desired state, applied or not. */
export function isRecorded(item: Item): item is RecordedItem {
  return item.desired !== undefined && item.desired_version !== undefined;
}

/**
 * Returns whether the newest desired state has not been applied, or must be applied again.
 *
 * @param ended as for `mustApplyAgain`
 */
export function isPending(item: Item, ended?: ReadonlySet<string>): item is RecordedItem {
  if (!isRecorded(item)) return false;
  return (item.applied_version ?? '') < item.desired_version || mustApplyAgain(item, ended);
}

/** Returns whether the operator wants nothing sent to Barman for a server. */
export function isPaused({ paused, paused_until }: Item): boolean {
  return paused === true && Date.now() < timeOf(paused_until, Number.POSITIVE_INFINITY);
}

/** Returns whether another invocation may still send a POST, or one may still arrive. */
export function isLeased({ lease_token, lease_expires_at }: Item): boolean {
  return lease_token !== undefined && Date.now() < timeOf(lease_expires_at, 0);
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
