import { beforeEach, describe, expect, test } from 'vitest';
import { InvalidArgs } from '../../functions/config-switch/errors.ts';
import { fixVersion } from '../../functions/config-switch/ledger/events.ts';
import type { DesiredState } from '../../functions/config-switch/ledger/item.ts';
import { versionOf } from '../../functions/config-switch/version.ts';
import { MemoryEvents } from '../stand-ins/memory-events.ts';
import { useVirtualTime } from './virtual-time.ts';

const NOW = Date.parse('2026-11-23T06:10:00.500Z');
const { signal } = new AbortController();

let events: MemoryEvents;
useVirtualTime(NOW);
beforeEach(() => {
  events = new MemoryEvents();
});

const desired = (ms: number, change: Partial<DesiredState> = {}): DesiredState => ({
  barman_server: 'main',
  cluster: 'patroni',
  target: { model: 'pg:node1' },
  version: versionOf(NOW + ms, 'event'),
  ...change,
});

describe('fixVersion', () => {
  test('stores version and target of a new event for 15 days', async () => {
    expect(await fixVersion(events, desired(0), signal)).toEqual(desired(0));
    expect([...events.stored.values()]).toEqual([
      {
        barman_server: 'main',
        event_id: 'event',
        version: '2026-11-23T06:10:00.500Z#event',
        target: 'model pg:node1',
        expires_at: Date.parse('2026-12-08T06:10:00Z') / 1_000,
      },
    ]);
  });

  test('returns the version of the first delivery for a duplicate', async () => {
    await fixVersion(events, desired(0), signal);
    expect(await fixVersion(events, desired(60_000), signal)).toEqual(desired(0));
  });

  test('treats the same id for another Barman server as another event', async () => {
    await fixVersion(events, desired(0), signal);
    const other = desired(60_000, { barman_server: 'other', target: { reset: true } });
    expect(await fixVersion(events, other, signal)).toEqual(other);
  });

  test('rejects an id that was used for another target', async () => {
    await fixVersion(events, desired(0), signal);
    await expect(fixVersion(events, desired(1, { target: { reset: true } }), signal)).rejects.toThrow(
      new InvalidArgs(
        'event id event was already used for model pg:node1 on main, and now for reset; ' +
          'give each role change an id of its own',
      ),
    );
  });
});
