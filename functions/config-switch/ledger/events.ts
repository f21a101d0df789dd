/**
 * The events table: the version and target of each event, fixed at its first delivery.
 *
 * An event may be delivered again, by another path, or by a sender that repeats a request byte for byte, with
 * another arrival and age. Computed again, its version would be newer, and could bring Barman back to an old
 * primary. So the version is stored before the desired state is recorded, and whoever finds the event there
 * uses the stored one.
 */

import { InvalidArgs } from '../errors.ts';
import { targetText } from '../target.ts';
import { eventIdOf } from '../version.ts';
import type { RequestedState } from './item.ts';

/** How long an event is known (s): longer than any replay. The failure queue keeps events for 14 days. */
const LIFETIME = 15 * 86_400;

/** What is stored of an event. */
export interface StoredEvent {
  readonly barman_server: string;
  readonly event_id: string;
  readonly version: string;
  /** As the ledger's `desired`, or `leader`: whose leader that is, is asked again at each delivery. */
  readonly target: string;
  /** When DynamoDB may delete it (s since the epoch; DynamoDB Developer Guide, "Time to Live"). */
  readonly expires_at: number;
}

export interface EventTable {
  /**
   * Stores an event, unless its id is already stored for its server.
   *
   * @returns what is stored now: this event, or its first delivery
   */
  putIfAbsent(event: StoredEvent, signal: AbortSignal): Promise<StoredEvent>;
}

/**
 * Fixes the version of an event.
 *
 * @returns the desired state with the version of the event's first delivery
 * @throws InvalidArgs if the event id was used for another target
 * @throws LedgerError if the table is unavailable
 */
export async function fixVersion<T extends RequestedState>(
  events: EventTable,
  desired: T,
  signal: AbortSignal,
): Promise<T> {
  const event: StoredEvent = {
    barman_server: desired.barman_server,
    event_id: eventIdOf(desired.version),
    version: desired.version,
    target: targetText(desired.target),
    expires_at: Math.floor(Date.now() / 1_000) + LIFETIME,
  };
  const stored = await events.putIfAbsent(event, signal);
  if (stored.target === event.target) return { ...desired, version: stored.version };
  throw new InvalidArgs(
    `event id ${event.event_id} was already used for ${stored.target} on ${desired.barman_server}, and now for ${event.target}; ` +
      'give each role change an id of its own',
  );
}
