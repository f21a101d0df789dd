/** A ledger table in memory, and what DynamoDB does with a condition and a change. */

import type { Change, Condition, Path, Table } from '../../functions/config-switch/ledger/conditions.ts';
import type { Item } from '../../functions/config-switch/ledger/item.ts';

/** Evaluates a condition as DynamoDB does. @throws Error for a comparison that DynamoDB does not have */
export function holds(item: Item | undefined, condition: Condition): boolean {
  return condition.every((row) =>
    row.some(([path, operator, operand]) => {
      const value = valueAt(item, path);
      if (operator === 'absent') return value === undefined;
      if (operator === 'exists') return value !== undefined;
      if (operator === 'not text') return typeof value !== 'string';
      if (operand === undefined || !['=', '<'].includes(operator)) {
        throw new Error(`DynamoDB has no comparison "${path} ${operator} ${operand}"`);
      }
      if (operator === '=') return value === operand;
      return typeof value === 'string' && value < String(operand);
    }),
  );
}

/** @returns the value at a path, `undefined` for one that does not exist */
function valueAt(item: Item | undefined, path: Path): unknown {
  return path.split('.').reduce<unknown>((value, part) => Object(value)[part], item);
}

/** @returns the item of a server after a change */
export function changed(item: Item | undefined, server: string, change: Change): Item {
  const next: Record<string, unknown> = { ...item, barman_server: server };
  for (const [attribute, value] of Object.entries(change)) {
    if (value === null) delete next[attribute];
    else next[attribute] = value;
  }
  return next as unknown as Item;
}

export class MemoryTable implements Table {
  readonly items = new Map<string, Item>();
  /** The next write takes effect, but its response is lost. */
  loseResponse = false;
  reads = 0;
  writes = 0;

  /** The item of `main`. */
  get item(): Item | undefined {
    return this.items.get('main');
  }

  set item(item: Item | undefined) {
    this.items.delete('main');
    if (item) this.items.set('main', item);
  }

  async get(server: string): Promise<Item | undefined> {
    this.reads += 1;
    return this.items.get(server);
  }

  async update(
    server: string,
    change: Change,
    condition: Condition,
    _signal?: AbortSignal,
  ): Promise<Item | undefined> {
    this.writes += 1;
    const item = this.items.get(server);
    if (!holds(item, condition)) return undefined;
    const next = changed(item, server, change);
    this.items.set(server, next);
    if (!this.loseResponse) return next;
    this.loseResponse = false;
    return undefined;
  }

  async delete(server: string, condition: Condition): Promise<boolean> {
    if (!holds(this.items.get(server), condition)) return false;
    this.items.delete(server);
    return true;
  }

  async scan(): Promise<Item[]> {
    return [...this.items.values()];
  }
}
