/** What a chaos run records, and what must be true of it. Times are ms since the epoch. */

import type { ObservationResult } from '../../functions/config-switch/reconcile/observations.ts';
import { eventIdOf } from '../../functions/config-switch/version.ts';

/** An answer to a webhook. */
export interface Answer {
  readonly at: number;
  readonly eventId: string;
  readonly status: number;
  /** Null without one. */
  readonly exitCode: number | null;
}

/** A lease, when it was acquired, and what is applied under it. */
export interface Lease {
  readonly at: number;
  readonly target: string;
  readonly version: string;
}

/** An operation that pg-backup-api has created. */
export interface Operation {
  readonly at: number;
  readonly target: string;
}

/** A heartbeat, and what it answered. */
export interface Beat {
  readonly at: number;
  readonly result: { readonly message?: string; readonly observed?: ObservationResult };
}

export interface History {
  readonly answers: Answer[];
  readonly leases: Lease[];
  readonly operations: Operation[];
  readonly beats: Beat[];
}

/** Four minutes are promised for the heartbeat of production: two of its intervals, and this (ms). */
const FIXED = 120_000;

/**
 * Within which time Barman follows after Patroni has agreed on a leader.
 *
 * @param interval between two heartbeats (ms)
 * @returns ms: two observations, at least a minute after an earlier event, and a minute for an operation of
 * unknown end
 */
export function promise(interval: number): number {
  return FIXED + 2 * interval;
}

/**
 * The operations that were older than an event that had been answered DONE before they were created.
 *
 * An operation belongs to the newest lease before it that has its target. So a wrong one may go unnoticed,
 * but none is accused wrongly.
 *
 * @returns a sentence for each
 */
export function outdatedOperations({ answers, leases, operations }: History): string[] {
  const versions = new Map(leases.map(({ version }) => [eventIdOf(version), version]));
  const done = answers.flatMap(({ at, exitCode, eventId }) => {
    const version = versions.get(eventId);
    return exitCode === 0 && version !== undefined ? [{ at, version }] : [];
  });
  return operations.flatMap(({ at, target }) => {
    const when = new Date(at).toISOString();
    const lease = leases.findLast((one) => one.at <= at && one.target === target);
    if (!lease) return [`${when}: an operation for ${target} without a lease`];
    const newer = done.find((one) => one.at < at && one.version > lease.version);
    if (!newer) return [];
    return [
      `${when}: an operation for ${target} of ${lease.version}, after ${newer.version} was answered DONE`,
    ];
  });
}
