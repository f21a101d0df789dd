/** One invocation of the function: how much time is left, and what has happened in it. */

import type { Context } from 'aws-lambda';
import { deadline, timeForInspection, timeToDeadline } from './deadline.ts';
import type { ConfigTarget } from './target.ts';

/** What has happened so far, for the response, the log and the metrics; updated in place. */
export interface Facts {
  /** The desired state is in the ledger and will be applied, whatever the response says. */
  recorded: boolean;
  /** The event had already been recorded. */
  duplicate: boolean;
  /** A newer event had already been applied, or was applied instead of this one. */
  superseded: boolean;
  /** The leader that was recorded for a role change that follows it. */
  followed?: { readonly leader: string; readonly target: ConfigTarget };
  /** How long Patroni was asked for it (ms). */
  asked?: number;
  /** Why the ledger does not have that the node of a role change was heard. */
  unheard?: string;
  /** An operation did not end in time, and was passed over. */
  passedOver: boolean;
  /** Time spent waiting for another invocation (ms). */
  waited: number;
  /** Requests to pg-backup-api that were sent. */
  attempts: number;
  /** Those of them that asked for the status of an operation. */
  polls: number;
}

export interface Invocation {
  readonly request_id: string;
  /** When it started, by `performance.now()` (ms). */
  readonly startedAt: number;
  /** Aborts at the deadline. */
  readonly signal: AbortSignal;
  /** Returns the time left before the deadline (ms). */
  readonly remaining: () => number;
  /** Stops the timer of the deadline. */
  readonly clearDeadline: () => void;
  readonly facts: Facts;
}

/** Returns the facts of an invocation in which nothing has happened yet. */
export function newFacts(): Facts {
  return {
    recorded: false,
    duplicate: false,
    superseded: false,
    passedOver: false,
    waited: 0,
    attempts: 0,
    polls: 0,
  };
}

/**
 * Starts the deadline of an invocation.
 *
 * @param context from Lambda
 * @param arrival `requestContext.timeEpoch` of an HTTP request (ms since the epoch); default: now
 */
export function startInvocation(context: Context, arrival = Date.now()): Invocation {
  return start(context, timeToDeadline(context.getRemainingTimeInMillis(), arrival, Date.now()));
}

/** Starts the deadline of an inspection. @param context from Lambda */
export function startInspection(context: Context): Invocation {
  return start(context, timeForInspection(context.getRemainingTimeInMillis()));
}

/** @param time until the deadline (ms) */
function start(context: Context, time: number): Invocation {
  const startedAt = performance.now();
  const { signal, clear } = deadline(time);
  return {
    request_id: context.awsRequestId,
    startedAt,
    signal,
    remaining: () => startedAt + time - performance.now(),
    clearDeadline: clear,
    facts: newFacts(),
  };
}
