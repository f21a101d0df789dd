/** When a heartbeat inspects, and what of the last inspections is reported in every heartbeat. */

import { INSPECTION_AGE, type Inspection } from '../ledger/inspection.ts';
import { type Item, isLeased, isPaused, isPending, timeOf } from '../ledger/item.ts';
import type { Servers } from '../ledger/ledger.ts';
import { isStagePaused } from '../ledger/stage.ts';
import { eventTimeOf } from '../version.ts';

/** Intervals between two heartbeats, of a minute. */
const DAILY = 24 * 60;
/** After a role change: WAL has had time to arrive in the archive. */
const AFTER_CHANGE = 20;
/** While WAL is not archived, and at least between two inspections. */
const WHILE_NOT_ARCHIVED = 15;
/** After an inspection that could not see Barman. */
const AFTER_FAILURE = 60;
/** A switch that was pending for longer is failing, and does not hold up an inspection. */
const SWITCHING = 10;

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
  const isMissing = countedInspections(servers).some(([, { findings }]) =>
    findings.some((one) => one.class === 'archived'),
  );
  if (isMissing) return true;
  if (servers.items.some((item) => isChanged(item, servers, now, interval))) return true;
  if (schedule === 'daily') return since >= DAILY;
  return timeOf(tried_at, 0) < lastTime(schedule, now);
}

/**
 * Returns whether no inspection has seen what came of the last role change, which is long enough ago. By the time of
 * its event: applying again does not start over.
 */
function isChanged(
  { barman_server, applied }: Item,
  { inspections }: Servers,
  now: number,
  interval: number,
) {
  if (!applied) return false;
  const due = eventTimeOf(applied.version) + AFTER_CHANGE * interval;
  const last = inspections.get(barman_server);
  const seenAt = last?.applied_version === applied.version ? Date.parse(last.at) : Number.NEGATIVE_INFINITY;
  return now >= due && seenAt < due;
}

/** Returns when it was that hour last (UTC; ms since the epoch). */
function lastTime(hour: number, now: number): number {
  const today = new Date(now).setUTCHours(hour, 0, 0, 0);
  return today <= now ? today : today - 24 * 3_600_000;
}

/** Returns whether nothing is being switched, or will be soon: `/diagnose` would delay it. */
export function isQuiet({ items }: Servers, now: number, interval: number): boolean {
  return items.every((item) => {
    // Also one that was paused a moment ago.
    if (isLeased(item)) return false;
    if (isPaused(item)) return true;
    if (item.lease) return false;
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
  servers: Servers,
  refused: readonly string[],
  schedule: Schedule,
  now: number,
): Counted {
  const notReady = new Set(
    refused.filter((server) => !isHeld(servers, server)).map((server) => `${server}/`),
  );
  const notArchived = new Set<string>();
  for (const [server, { findings }] of countedInspections(servers)) {
    // What the heartbeat finds itself is among the refused.
    for (const finding of findings.filter(({ counts, kind }) => counts && kind !== 'operations-unreadable')) {
      if (finding.class === 'archived') notArchived.add(server);
      else notReady.add(`${server}/${finding.member ?? ''}`);
    }
  }
  const { first_at, seen_at } = servers.stage.inspection ?? {};
  const isUnknown = schedule !== 'off' && now - timeOf(seen_at ?? first_at, now) >= INSPECTION_AGE;
  return { notReady: notReady.size + (isUnknown ? 1 : 0), notArchived: notArchived.size };
}

function isHeld({ items, stage }: Servers, server: string): boolean {
  return isStagePaused(stage) || items.some((item) => item.barman_server === server && isPaused(item));
}

/** Returns the inspections of servers that still exist, and are not paused. */
function countedInspections(servers: Servers): [string, Inspection][] {
  const { items, inspections, stage } = servers;
  const known = new Set([
    ...items.map(({ barman_server }) => barman_server),
    ...(stage.heartbeat?.clusters ?? []).flatMap((cluster) => cluster.servers.map(({ name }) => name)),
  ]);
  return [...inspections].filter(([server]) => known.has(server) && !isHeld(servers, server));
}
