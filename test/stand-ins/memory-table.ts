/** A ledger table in memory, with at most one item. */

import type { Item } from '../../functions/config-switch/reconcile/item.ts';
import type { Change, Condition, Table } from '../../functions/config-switch/reconcile/table.ts';
import { changed, holds } from '../model/world.ts';

export class MemoryTable implements Table {
  item: Item | undefined;
  /** The next write takes effect, but its response is lost. */
  loseResponse = false;
  reads = 0;
  writes = 0;

  async get(): Promise<Item | undefined> {
    this.reads += 1;
    return this.item;
  }

  async update(server: string, change: Change, condition: Condition): Promise<Item | undefined> {
    this.writes += 1;
    if (!holds(this.item, condition)) return undefined;
    this.item = changed(this.item, server, change);
    if (!this.loseResponse) return this.item;
    this.loseResponse = false;
    return undefined;
  }

  async delete(_: string, condition: Condition): Promise<boolean> {
    if (!holds(this.item, condition)) return false;
    this.item = undefined;
    return true;
  }

  async scan(): Promise<Item[]> {
    return this.item ? [this.item] : [];
  }
}
