/**
 * The version of a desired state: event time and event id, such as `2026-11-23T06:10:00.000Z#msg_1`. Versions
 * compare as text; greater is newer. The only place that composes one and takes it apart.
 */

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
 * Composes the version of what Patroni says: an event that names its target is more certain, so it wins within
 * half a minute.
 *
 * @param time when the role changed, or Patroni was asked (ms since the epoch)
 */
export function observedVersionOf(time: number, id: string): string {
  return versionOf(time - STALENESS, id);
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
