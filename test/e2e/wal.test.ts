/**
 * WAL that does not arrive, and what docs/how-to/wal-does-not-arrive.md says about it. A restore is the judge: it has every
 * row that was committed on the new leader's timeline, and none that only the old leader had.
 */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { expect, inject, test } from 'vitest';
import { documentedBlock, fill } from '../documentation.ts';
import { type Failover, Fork } from './fork.ts';
import { asPostgres, own, POSTGRESQL, until } from './processes.ts';

const NOT_IN_HISTORY = /is not in this server's history[\s\S]*forked from timeline 1 at (\w+\/\w+)/;
const REMOVED = /requested WAL segment (\w+) has already been removed/;

const start = () => Fork.start(inject('folder'), inject('tools'));

/** @returns the SQL of a documented block with psql */
const sqlOf = (block: string) => /^psql -c "([^"]*)"$/m.exec(block)?.[1] ?? '';

/** Asks by the documented query whether Barman's slot is early enough. @returns that, and the first segment */
async function early(fork: Fork, printed: string): Promise<{ slot: string; first: string }> {
  const [, lsn = ''] = NOT_IN_HISTORY.exec(printed) ?? [];
  const block = documentedBlock('docs/how-to/wal-does-not-arrive.md', 'psql -c "SELECT restart_lsn');
  const sql = sqlOf(fill(block, { '0/7000098': lsn }));
  const [slot = '', first = ''] = (await fork.sql('node2', sql)).split('|');
  return { slot, first };
}

/** Writes a row after the remedy. @returns the rows that a restore has */
async function rowsAfterRemedy(fork: Fork, backup?: string): Promise<string[]> {
  await fork.streams('node2');
  await fork.insert('node2', 'after');
  return fork.restored('node2', backup);
}

test.each<Failover>([
  { slot: 'a segment behind the fork', ahead: 0 },
  { slot: 'in the segment of the fork', ahead: 0 },
])(
  'Barman › follows the fork by itself, if that is in the segment that it receives, and its slot $slot',
  async (failover) => {
    await using fork = await start();
    await fork.failover(failover);
    const rows = await rowsAfterRemedy(fork);
    console.log(`${JSON.stringify(failover)}: ${rows}`);
    expect(rows).toEqual(rowsWith(failover, 'during', 'after'));
  },
);

test.each<Failover>([
  { slot: 'a segment behind the fork', ahead: 2 },
  { slot: 'a segment behind the fork', ahead: 2, archived: true },
  { slot: 'in the segment of the fork', ahead: 1, archived: true },
  { slot: 'a segment behind the fork', ahead: 1, complete: true },
])(
  'Barman › misses no WAL after what is ahead of the fork was moved away: $slot, $ahead segments ahead, archived $archived, complete $complete',
  async (failover) => {
    await using fork = await start();
    await fork.failover(failover);
    const printed = await fork.barman.whyNotStreaming();
    expect(printed).toMatch(NOT_IN_HISTORY);
    expect((await early(fork, printed)).slot).toBe('t');
    await fork.barman.moveAheadAway();
    const rows = await rowsAfterRemedy(fork);
    console.log(`${JSON.stringify(failover)}: ${rows}`);
    expect(rows).toEqual(rowsWith(failover, 'during', 'after'));
  },
);

test('Barman › misses no WAL after --reset, which makes it say wrongly that WAL has been removed', async () => {
  const failover: Failover = { slot: 'a segment behind the fork', ahead: 1, archived: true };
  await using fork = await start();
  await fork.failover(failover);
  const { first } = await early(fork, await fork.barman.whyNotStreaming());
  await fork.barman.run(20_000, 'receive-wal', '--reset', 'main');
  const [, segment = first] = REMOVED.exec(await fork.barman.receiveWal()) ?? [];
  // Such a segment never existed.
  expect(segment < first, `${segment}, ${first}`).toBe(true);
  await fork.barman.moveAheadAway();
  expect(await rowsAfterRemedy(fork)).toEqual(rowsWith(failover, 'during', 'after'));
});

test('Barman › misses no WAL without a slot on the new leader, if an empty file tells it where to start', async () => {
  const failover: Failover = { slot: 'missing', ahead: 2 };
  await using fork = await start();
  await fork.failover(failover);
  expect(await fork.barman.whyNotStreaming()).toMatch(/replication slot 'barman' doesn't exist/);
  await fork.barman.remedy(
    documentedBlock('docs/how-to/wal-does-not-arrive.md', 'barman receive-wal --create-slot'),
  );
  const { slot, first } = await early(fork, await fork.barman.whyNotStreaming());
  expect(slot).toBe('');
  await fork.barman.remedy(documentedBlock('docs/how-to/wal-does-not-arrive.md', 'touch streaming'), {
    '000000020000000000000007': first,
  });
  expect(await rowsAfterRemedy(fork)).toEqual(rowsWith(failover, 'during', 'after'));
});

test('a restore › silently follows the dead branch after a new slot, until its segments were moved away and there is a new backup', async () => {
  const failover: Failover = { slot: 'a segment behind the fork', ahead: 2, archived: true };
  await using fork = await start();
  await fork.failover(failover);
  const { first } = await early(fork, await fork.barman.whyNotStreaming());
  // The wrong remedy: the new leader still has that WAL.
  await fork.barman.dropSlot();
  await fork.barman.remedy(
    documentedBlock('docs/how-to/wal-does-not-arrive.md', 'barman receive-wal --create-slot'),
  );
  await fork.nextSegment('node2');
  await fork.barman.moveAheadAway();
  const wrong = await rowsAfterRemedy(fork);
  console.log(`new slot: a restore has ${wrong}`);
  expect(wrong).toContain('lost');
  expect(wrong).not.toContain('during');

  await fork.barman.remedy(documentedBlock('docs/how-to/wal-does-not-arrive.md', 'for file in streaming'), {
    '000000010000000000000007': first.replace(/^.{8}/, '00000001'),
  });
  await fork.backup('node2');
  expect(await rowsAfterRemedy(fork)).toEqual(rowsWith(failover, 'during', 'after', 'after'));
  const older = await fork.restored('node2', 'first');
  console.log(`new slot: a restore of the older backup has ${older}`);
  expect(older).toEqual(['before1', 'before2']);
});

test('Barman › has a gap after the leader has removed WAL, and a new backup ends it', async () => {
  await using fork = await start();
  await fork.insert('node1', 'before');
  await fork.barman.stopReceiving();
  // The slot is lost.
  await setting(fork, "max_slot_wal_keep_size = '16MB'");
  for (let segment = 0; segment < 4; segment += 1) await fork.nextSegment('node1');
  await fork.insert('node1', 'during');
  await fork.sql('node1', 'CHECKPOINT');
  await setting(fork, "max_slot_wal_keep_size = '-1'");
  expect(await fork.barman.receiveWal()).toMatch(REMOVED);
  await fork.barman.moveAheadAway();
  await fork.barman.dropSlot();
  await fork.barman.remedy(
    documentedBlock('docs/how-to/wal-does-not-arrive.md', 'barman receive-wal --create-slot'),
  );
  await fork.streams('node1');
  await fork.backup('node1');
  await fork.insert('node1', 'after');
  expect(await fork.restored('node1')).toEqual(['before', 'during', 'after']);
  expect(await fork.restored('node1', 'first')).not.toContain('during');
});

test('Barman › streams again after the other receiver of its slot was found and ended', async () => {
  await using fork = await start();
  await fork.insert('node1', 'before');
  await fork.barman.stopReceiving();
  const folder = mkdtempSync(join(inject('folder'), 'receiver-'));
  own(folder, 0o700);
  const words = ['-n', '-D', folder, '-S', 'barman', '-d', fork.connection('node1', 'streaming_barman')];
  const [command, all] = asPostgres(join(POSTGRESQL, 'pg_receivewal'), words);
  const other = spawn(command, all, { stdio: 'ignore' });
  const ended = once(other, 'exit');
  const isHeld = async () => (await fork.sql('node1', 'SELECT active FROM pg_replication_slots')) === 't';
  await until(isHeld, 'the other receiver does not stream');
  expect(await fork.barman.receiveWal()).toMatch(/replication slot 'barman' is already in use/);
  expect(
    await fork.sql(
      'node1',
      sqlOf(documentedBlock('docs/how-to/wal-does-not-arrive.md', 'psql -c "SELECT client_addr')),
    ),
  ).toMatch(/^127\.0\.0\.1\|pg_receivewal\|/);
  expect(
    await fork.sql(
      'node1',
      sqlOf(documentedBlock('docs/how-to/wal-does-not-arrive.md', 'psql -c "SELECT pg_terminate_backend')),
    ),
  ).toBe('t');
  await ended;
  rmSync(folder, { recursive: true });
  await fork.streams('node1');
  await fork.insert('node1', 'after');
  expect(await fork.restored('node1')).toEqual(['before', 'after']);
});

/** The rows of a failover that were committed on the new leader's timeline. @param more after it */
function rowsWith({ slot }: Failover, ...more: string[]): string[] {
  return ['before1', ...(slot === 'a segment behind the fork' ? ['before2'] : []), 'before3', ...more];
}

/** Changes a setting of node1. */
async function setting(fork: Fork, text: string): Promise<void> {
  await fork.sql('node1', `ALTER SYSTEM SET ${text}`);
  await fork.sql('node1', 'SELECT pg_reload_conf()');
}
