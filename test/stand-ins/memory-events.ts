/** The events table in memory. */

import type { EventTable, StoredEvent } from '../../functions/config-switch/ledger/events.ts';

export class MemoryEvents implements EventTable {
  readonly stored = new Map<string, StoredEvent>();

  async putIfAbsent(event: StoredEvent): Promise<StoredEvent> {
    const key = `${event.barman_server} ${event.event_id}`;
    const stored = this.stored.get(key) ?? event;
    this.stored.set(key, stored);
    return stored;
  }
}
