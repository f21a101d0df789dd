/** The item of each Barman server in the ledger: desired and applied state, and what they say. */

import * as v from 'valibot';
import { LedgerError } from '../errors.ts';
import { ExitCode } from '../exit-code.ts';
import { type ConfigTarget, isTargetText, type RequestedTarget } from '../target.ts';

/** What an event wants a Barman server to be set to. */
export interface DesiredState {
  readonly barman_server: string;
  readonly cluster: string;
  /** The role of the event, for which it names its target; undefined for `always`, and for an observation. */
  readonly role?: string;
  readonly target: ConfigTarget;
  /** From `versionOf`. */
  readonly version: string;
}

/** The same, while the leader is not known yet. */
export interface RequestedState extends Omit<DesiredState, 'target'> {
  readonly target: RequestedTarget;
}

/** ISO 8601 in UTC with milliseconds, so that times compare as text. */
export const Time = v.pipe(
  v.string(),
  v.check((text) => !Number.isNaN(Date.parse(text)), 'a time such as 2026-11-23T06:10:00.000Z'),
);
const Target = v.pipe(v.string(), v.check(isTargetText, '"model NAME" or "reset"'));
/** Event time and event id: `2026-11-23T06:10:00.000Z#<event id>`. Greater is newer. */
const Version = v.string();

/** An item as it is read from the table. Anything else in the table is an error of that server. */
const Item = v.object({
  barman_server: v.string(),
  /** The newest desired state, and the Patroni cluster that it came from. */
  desired: v.exactOptional(
    v.object({
      target: Target,
      version: Version,
      cluster: v.string(),
      role: v.exactOptional(v.string()),
      recorded_at: Time,
    }),
  ),
  /** What Barman was last set to, by which operation, when, and how long the next one is expected to take (ms). */
  applied: v.exactOptional(
    v.object({
      target: Target,
      version: Version,
      operation_id: v.string(),
      applied_at: Time,
      operation_ms: v.exactOptional(v.number()),
    }),
  ),
  /** The right to send a POST: its token, and until when a POST sent under it may still arrive. */
  lease: v.exactOptional(v.object({ token: v.string(), expires_at: Time })),
  /** The operation that was created under the lease, and what it applies. */
  running: v.exactOptional(v.object({ operation_id: v.string(), target: Target, version: Version })),
  /** Since when something in doubt may still set Barman back; absent: settled. */
  unsettled_since: v.exactOptional(Time),
  /** When the desired state is applied again, although it is applied. */
  apply_again_at: v.exactOptional(Time),
  /**
   * Failed attempts at the desired state, when the heartbeat makes the next one, and how the last one ended.
   */
  attempts: v.exactOptional(v.number()),
  next_attempt_at: v.exactOptional(Time),
  last_error: v.exactOptional(v.string()),
  last_exit_code: v.exactOptional(v.enum(ExitCode)),
  /**
   * True while the operator wants nothing sent to Barman, since when, until when if the pause ends by itself,
   * and why.
   */
  paused: v.exactOptional(v.boolean()),
  paused_at: v.exactOptional(Time),
  paused_until: v.exactOptional(Time),
  pause_reason: v.exactOptional(v.string()),
  /** The leader that Patroni last named, since when, and since when its model is not the desired one. */
  leader: v.exactOptional(v.string()),
  leader_since: v.exactOptional(Time),
  /** The cluster of this leader. Another one that has the only primary: since when, and when that was last seen. */
  site: v.exactOptional(v.string()),
  other_site: v.exactOptional(v.object({ name: v.string(), since: Time, seen: Time })),
  differs_since: v.exactOptional(Time),
  /** Whether Barman streams WAL from the leader, and since when it does or does not. */
  streaming: v.exactOptional(v.boolean()),
  streaming_since: v.exactOptional(Time),
});

export type Item = Readonly<v.InferOutput<typeof Item>>;
/** An item with a desired state: what a lease is given for. */
export type RecordedItem = Item & Required<Pick<Item, 'desired'>>;
/** An item whose lease has expired, or not yet. */
export type LeasedItem = RecordedItem & Required<Pick<Item, 'lease'>>;

/**
 * Reads an item.
 *
 * @param stored as it is in the table
 * @throws LedgerError that names the attribute
 */
export function readItem(stored: Readonly<Record<string, unknown>>): Item {
  const result = v.safeParse(Item, stored);
  if (result.success) return result.output;
  const [issue] = result.issues;
  const { barman_server } = stored;
  const remedy =
    'desired_version' in stored
      ? 'version 0.1.0 wrote it; remove the stage and deploy it again (docs/how-to/upgrade.md#from-010)'
      : `correct the attribute, or delete the item with \`npm run ledger -- --stage STAGE forget ${barman_server} --force\``;
  throw new LedgerError(
    `the ledger's item of ${barman_server} cannot be read: ${v.getDotPath(issue)} is ${issue.received}, not ${issue.expected ?? issue.message}; ${remedy}`,
  );
}

/** Returns whether an item has a desired state, applied or not. */
export function isRecorded(item: Item | undefined): item is RecordedItem {
  return item?.desired !== undefined;
}

/** Returns whether the newest desired state has not been applied, or must be applied again. */
export function isPending(item: Item): item is RecordedItem {
  if (!isRecorded(item)) return false;
  return !isApplied(item, item.desired.version) || mustApplyAgain(item);
}

/** Returns whether a version, or a newer one, is applied. */
export function isApplied({ applied }: Item, version: string): boolean {
  return applied !== undefined && applied.version >= version;
}

/** Returns whether it is time to apply the desired state again, although it is applied. */
export function mustApplyAgain({ apply_again_at }: Item): boolean {
  return timeOf(apply_again_at, Number.POSITIVE_INFINITY) <= Date.now();
}

/** Returns whether the operator wants nothing sent to Barman for a server. */
export function isPaused({ paused, paused_until }: Item): boolean {
  return paused === true && Date.now() < timeOf(paused_until, Number.POSITIVE_INFINITY);
}

/** Returns whether another invocation may still send a POST, or one may still arrive. */
export function isLeased({ lease }: Item): boolean {
  return lease !== undefined && Date.now() < timeOf(lease.expires_at, 0);
}

/** Returns whether the lease has expired: its holder crashed or ran out of time, or its POST is in doubt. */
export function isExpired(item: Item): item is LeasedItem {
  return isRecorded(item) && item.lease !== undefined && !isLeased(item);
}

/** Returns whether the time of the next attempt has come. */
export function isDue({ next_attempt_at }: Item): boolean {
  return timeOf(next_attempt_at, 0) <= Date.now();
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
