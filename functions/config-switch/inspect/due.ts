/** When a heartbeat inspects, and what of the last inspections is reported in every heartbeat. */

import { type Item, isLeased, isPaused, isPending, timeOf } from '../ledger/item.ts';
import type { Servers } from '../ledger/ledger.ts';
import { isStagePaused } from '../ledger/stage.ts';

/** Intervals between two heartbeats, of a minute. */
const DAILY = 24 * 60;
/** After another target was applied: WAL has had time to arrive in the archive. */
const AFTER_CHANGE = 20;
/** While WAL is not archived, and at least between two inspections. */
const WHILE_NOT_ARCHIVED = 15;
/** After an inspection that could not see Barman. */
const AFTER_FAILURE = 60;
/** A switch that was pending for longer is failing, and does not hold up an inspection. */
const SWITCHING = 10;
/** Without a successful inspection for so long, it is not known whether anything is ready. */
const UNKNOWN_AFTER = 2 * DAILY;

/** `daily`, `off`, or the hour of the day in UTC. */
export type Schedule = 'daily' | 'off' | number;

/**
 * Returns whether an inspection is due.
 *
 * @param servers of the ledger
 * @param now ms since the epoch
 * @param interval between two heartbeats (ms)
 */
export function isDue(servers: Servers, schedule: Schedule, now: number, interval: number): boolean {
  if (schedule === 'off') return false;
  const { tried_at, unseen } = servers.stage.inspection ?? {};
  const since = (now - timeOf(tried_at, 0)) / interval;
  if (since < WHILE_NOT_ARCHIVED) return false;
  if (unseen !== undefined) return since >= AFTER_FAILURE;
  const { items, inspections } = servers;
  const isArchived = [...inspections.values()].every(({ findings }) =>
    findings.every((one) => one.class !== 'archived'),
  );
  if (!isArchived) return true;
  if (items.some((item) => isChanged(item, servers, now, interval))) return true;
  if (schedule === 'daily') return since >= DAILY;
  return timeOf(tried_at, 0) < lastTime(schedule, now);
}

/** Returns whether another target was applied since the last inspection, long enough ago. */
function isChanged(
  { barman_server, applied }: Item,
  { inspections }: Servers,
  now: number,
  interval: number,
) {
  if (!applied || inspections.get(barman_server)?.applied_version === applied.version) return false;
  return now - timeOf(applied.applied_at, now) >= AFTER_CHANGE * interval;
}

/** Returns when it was that hour last (UTC; ms since the epoch). */
function lastTime(hour: number, now: number): number {
  const today = new Date(now).setUTCHours(hour, 0, 0, 0);
  return today <= now ? today : today - 24 * 3_600_000;
}

/** Returns whether nothing is being switched, or will be soon: `/diagnose` would delay it. */
export function isQuiet({ items }: Servers, now: number, interval: number): boolean {
  return items.every((item) => {
    if (isPaused(item)) return true;
    if (isLeased(item) || item.lease) return false;
    return !isPending(item) || now - timeOf(item.desired.recorded_at, 0) >= SWITCHING * interval;
  });
}

/** What the last inspections have found, each member or server once. */
export interface Counted {
  /** Members, or servers, to which a failover would not work. */
  readonly notReady: number;
  /** Servers whose WAL does not arrive in the archive. */
  readonly notArchived: number;
}

/**
 * Counts findings; those of paused servers are only shown.
 *
 * @param refused servers that a heartbeat has found not to be ready
 */
export function count(
  { items, inspections, stage }: Servers,
  refused: readonly string[],
  schedule: Schedule,
  now: number,
  interval: number,
): Counted {
  const isHeld = (server: string) =>
    isStagePaused(stage) || items.some((item) => item.barman_server === server && isPaused(item));
  // One that was forgotten is not inspected any more.
  const known = new Set([
    ...items.map(({ barman_server }) => barman_server),
    ...(stage.heartbeat?.clusters ?? []).flatMap((cluster) => cluster.servers.map(({ name }) => name)),
  ]);
  const notReady = new Set(refused.map((server) => `${server}/`));
  const notArchived = new Set<string>();
  for (const [server, { findings }] of inspections) {
    if (isHeld(server) || !known.has(server)) continue;
    for (const finding of findings.filter(({ counts }) => counts)) {
      if (finding.class === 'archived') notArchived.add(server);
      else notReady.add(`${server}/${finding.member ?? ''}`);
    }
  }
  const { first_at, seen_at } = stage.inspection ?? {};
  const isUnknown = schedule !== 'off' && now - timeOf(seen_at ?? first_at, now) >= UNKNOWN_AFTER * interval;
  return { notReady: notReady.size + (isUnknown ? 1 : 0), notArchived: notArchived.size };
}
