/** What an operator changes in the ledger. The function does not use this. */

import { eventTimeOf } from '../version.ts';
import {
  absent,
  type Change,
  type Condition,
  desiredIs,
  equals,
  exists,
  noLease,
  type Table,
} from './conditions.ts';
import { inspectionKey } from './inspection.ts';
import { type Item, isPending, isRecorded, readItem } from './item.ts';
import type { Ledger } from './ledger.ts';
import { isStagePaused, STAGE_KEY } from './stage.ts';

/**
 * How long ago the desired state must have been recorded when its server may be forgotten (ms): longer than
 * any older event can arrive, whose failure queue keeps it for 14 days.
 */
const FORGET_AFTER = 15 * 24 * 3_600_000;

/** How long a pause lasts, and why. */
export interface Pause {
  /** When it ends by itself (ms since the epoch); undefined: `resume` ends it. */
  readonly until?: number | undefined;
  readonly reason?: string | undefined;
}

/** The operator's writes. Each throws what the table throws. */
export class Operator {
  readonly #ledger: Pick<Ledger, 'get' | 'all' | 'stage'>;
  readonly #table: Table;

  /** @param ledger that uses the same table */
  constructor(ledger: Pick<Ledger, 'get' | 'all' | 'stage'>, table: Table) {
    this.#ledger = ledger;
    this.#table = table;
  }

  /** Makes the next heartbeat try again. @returns undefined for an unknown server */
  retry(barman_server: string, signal: AbortSignal): Promise<Item | undefined> {
    return this.#existing(barman_server, { attempts: null, next_attempt_at: null }, signal);
  }

  /**
   * Stops the POSTs for a server, also for one without an item; events are recorded meanwhile. One that was
   * allowed before may still arrive until the lease expires.
   */
  async pause(barman_server: string, { until, reason }: Pause, signal: AbortSignal): Promise<Item> {
    const change: Change = {
      paused: true,
      paused_at: new Date().toISOString(),
      paused_until: until === undefined ? null : new Date(until).toISOString(),
      pause_reason: reason ?? null,
      next_attempt_at: null,
    };
    const stored = await this.#table.update(barman_server, change, [], signal);
    return readItem(stored ?? { barman_server });
  }

  /**
   * Stops the POSTs for all servers, later ones included. An invocation that has begun before does not know
   * it; it ends within 30 s.
   */
  async pauseAll({ until, reason }: Pause, signal: AbortSignal): Promise<void> {
    const paused = {
      at: new Date().toISOString(),
      ...(until !== undefined && { until: new Date(until).toISOString() }),
      ...(reason !== undefined && { reason }),
    };
    await this.#table.update(STAGE_KEY, { paused }, [], signal);
  }

  /**
   * Ends the pause of all servers, if there is one; those that are paused themselves stay so. When it ended
   * is kept: what is pending could not be applied before.
   */
  async resumeAll(signal: AbortSignal): Promise<void> {
    const stage = await this.#ledger.stage(signal);
    if (!stage.paused || !isStagePaused(stage)) return;
    const paused = { ...stage.paused, until: new Date().toISOString() };
    await this.#table.update(STAGE_KEY, { paused }, [], signal);
  }

  /**
   * Ends a pause; what is pending counts as recorded now, as it could not be applied before.
   *
   * @returns undefined for an unknown server
   */
  async resume(barman_server: string, signal: AbortSignal): Promise<Item | undefined> {
    for (;;) {
      const item = await this.#ledger.get(barman_server, signal);
      if (!item) return undefined;
      const { desired } = item;
      const change: Change = {
        ...{ paused: null, paused_at: null, paused_until: null, pause_reason: null, next_attempt_at: null },
        ...(desired && { desired: { ...desired, recorded_at: new Date().toISOString() } }),
      };
      // A newer desired state may be recorded meanwhile.
      const condition = [desired ? desiredIs(desired.version) : absent('desired')];
      const stored = await this.#table.update(barman_server, change, condition, signal);
      if (stored) return readItem(stored);
    }
  }

  /**
   * Deletes the item of a server. The item is the memory of the order: a late event would be the newest
   * afterwards.
   *
   * @param item as it was read
   * @returns whether it was in sync and settled, without a lease, and unchanged since, and its desired state
   *   is older than any event that may still arrive
   */
  async forget(item: Item, signal: AbortSignal): Promise<boolean> {
    const { barman_server, desired, applied } = item;
    const since = isRecorded(item) ? eventTimeOf(item.desired.version) : 0;
    if (isPending(item) || Date.now() - since < FORGET_AFTER) return false;
    const unchanged = [
      desired ? desiredIs(desired.version) : absent('desired'),
      applied ? equals('applied.version', applied.version) : absent('applied'),
      absent('unsettled_since'),
    ];
    return this.#delete(barman_server, [noLease, ...unchanged], signal);
  }

  /**
   * Deletes the item of a server that Barman does not have, whatever is pending for it.
   *
   * @param item as it was read
   * @returns whether it was without a lease, and nothing newer was recorded since
   */
  async forgetUnknown({ barman_server, desired }: Item, signal: AbortSignal): Promise<boolean> {
    const unchanged = desired ? desiredIs(desired.version) : absent('desired');
    return this.#delete(barman_server, [exists, noLease, unchanged], signal);
  }

  /**
   * Deletes an item whatever it says: also one that cannot be read. One that can must be without a lease. If there is
   * none, deletes who was heard of the server, whose name may be misspelt.
   *
   * @returns whether there was an item without a lease, or no item, and a node that was heard
   */
  async forgetByForce(barman_server: string, signal: AbortSignal): Promise<boolean> {
    const { items, unreadable } = await this.#ledger.all(signal);
    const isIn = (list: readonly { readonly barman_server: string }[]) =>
      list.some((one) => one.barman_server === barman_server);
    const cannotBeRead = isIn(unreadable);
    if (!cannotBeRead && !isIn(items)) {
      return this.#table.delete(inspectionKey(barman_server), [exists], signal);
    }
    return this.#delete(barman_server, cannotBeRead ? [exists] : [exists, noLease], signal);
  }

  /** Deletes an item, and then what inspections have found of its server. */
  async #delete(barman_server: string, condition: Condition, signal: AbortSignal): Promise<boolean> {
    if (!(await this.#table.delete(barman_server, condition, signal))) return false;
    await this.#table.delete(inspectionKey(barman_server), [exists], signal);
    return true;
  }

  async #existing(barman_server: string, change: Change, signal: AbortSignal): Promise<Item | undefined> {
    const item = await this.#ledger.get(barman_server, signal);
    if (!item) return undefined;
    const stored = await this.#table.update(barman_server, change, [exists], signal);
    return stored && readItem(stored);
  }
}
