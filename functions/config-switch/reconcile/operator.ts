/** What an operator changes in the ledger. The function does not use this. */

import { type Item, isPending, timeOf } from './item.ts';
import type { Ledger } from './ledger.ts';
import { absent, type Change, equals, noLease, type Table } from './table.ts';

/**
 * How long a desired state has been pending at least when its server may be forgotten (ms): Barman does not
 * have it.
 */
const FORGET_PENDING_AFTER = 24 * 3_600_000;

/** The operator's writes. Each throws what the table throws. */
export class Operator {
  readonly #ledger: Pick<Ledger, 'get'>;
  readonly #table: Table;

  /** @param ledger that uses the same table */
  constructor(ledger: Pick<Ledger, 'get'>, table: Table) {
    this.#ledger = ledger;
    this.#table = table;
  }

  /** Makes the next heartbeat try again. @returns undefined for an unknown server */
  retry(barman_server: string, signal: AbortSignal): Promise<Item | undefined> {
    return this.#existing(barman_server, { attempts: null, next_attempt_at: null }, signal);
  }

  /**
   * Stops the POSTs for a server; events are recorded meanwhile. One that was allowed before may still arrive
   * until the lease expires.
   *
   * @param until when the pause ends by itself (ms since the epoch); undefined: `resume` ends it
   * @returns undefined for an unknown server
   */
  pause(barman_server: string, until: number | undefined, signal: AbortSignal): Promise<Item | undefined> {
    const change: Change = {
      paused: true,
      paused_at: new Date().toISOString(),
      paused_until: until === undefined ? null : new Date(until).toISOString(),
      next_attempt_at: null,
    };
    return this.#existing(barman_server, change, signal);
  }

  /**
   * Ends a pause; what is pending counts as recorded now, as it could not be applied before.
   *
   * @returns undefined for an unknown server
   */
  resume(barman_server: string, signal: AbortSignal): Promise<Item | undefined> {
    const recorded_at = new Date().toISOString();
    const change = { paused: null, paused_at: null, paused_until: null, next_attempt_at: null, recorded_at };
    return this.#existing(barman_server, change, signal);
  }

  /**
   * Deletes the item of a server that Barman no longer has, or never had. The item is the memory of
   * the order: a late event would be the newest afterwards.
   *
   * @param item as it was read
   * @returns whether it was in sync or had been pending for a day, without a lease, and unchanged since
   */
  async forget(item: Item, signal: AbortSignal): Promise<boolean> {
    if (isPending(item) && Date.now() - timeOf(item.recorded_at, 0) < FORGET_PENDING_AFTER) return false;
    const unchanged = (['desired_version', 'applied_version', 'recorded_at'] as const).map((name) => {
      const value = item[name];
      return value === undefined ? absent(name) : equals(name, value);
    });
    return this.#table.delete(item.barman_server, [noLease, ...unchanged], signal);
  }

  async #existing(barman_server: string, change: Change, signal: AbortSignal): Promise<Item | undefined> {
    const item = await this.#ledger.get(barman_server, signal);
    return item && this.#table.update(barman_server, change, [], signal);
  }
}
