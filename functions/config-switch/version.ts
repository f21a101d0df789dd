/**
 * The version of a desired state: event time and event id, such as `2026-11-23T06:10:00.000Z#msg_1`. Versions
 * compare as text; greater is newer. The only place that composes one and takes it apart.
 */

import type { RequestedTarget } from './target.ts';

/**
 * Composes a version.
 *
 * @param eventTime when the role changed (ms since the epoch)
 */
export function versionOf(eventTime: number, eventId: string): string {
  return `${new Date(eventTime).toISOString()}#${eventId}`;
}

/** How old an answer of Patroni may be (ms). */
const STALENESS = 30_000;

/**
 * Composes the version of what Patroni says, as old as its answer may be: an event that names its target wins.
 *
 * @param askedAt when Patroni was asked (ms since the epoch)
 */
export function observedVersionOf(askedAt: number, id: string): string {
  return versionOf(askedAt - STALENESS, id);
}

/**
 * Composes the version of an event.
 *
 * @param time when the role changed (ms since the epoch)
 */
export function eventVersionOf({ time, event_id }: EventTime, target: RequestedTarget): string {
  return ('follow_leader' in target ? observedVersionOf : versionOf)(time, event_id);
}

/** Which event it is, and when the role changed (ms since the epoch). */
export interface EventTime {
  readonly event_id: string;
  readonly time: number;
}

/** Returns the id of the event that a version came from. */
export function eventIdOf(version: string): string {
  return version.slice(version.indexOf('#') + 1);
}

/** Returns when the role changed that a version came from (ms since the epoch); 0 if the text has no time. */
export function eventTimeOf(version: string): number {
  const time = Date.parse(version.split('#')[0] ?? '');
  return Number.isNaN(time) ? 0 : time;
}
