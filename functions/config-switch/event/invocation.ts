/** One invocation: what arrived, from which caller, when, and how much time there is. */

import type { MiddlewareObj } from '@middy/core';
import type { APIGatewayProxyEventV2, Context, EventBridgeEvent } from 'aws-lambda';
import type { RequestCounts } from '../barman/pg-backup-api.ts';
import { deadline, timeToDeadline } from '../deadline.ts';
import { newProgress, type Progress } from '../reconcile/reconcile.ts';

/** How it arrived: the webhook of a Patroni callback, an EventBridge rule, or an invocation with the payload itself. */
export type Arrived =
  | { readonly caller: 'http'; readonly event: APIGatewayProxyEventV2 }
  | { readonly caller: 'eventbridge' | 'direct' };

/** What every invocation has, a heartbeat too. */
export interface Invocation {
  readonly requestId: string;
  /** By `performance.now()`, ms. */
  readonly startedAt: number;
  /** Aborts at the deadline. */
  readonly signal: AbortSignal;
  /** Time to the deadline, ms. */
  readonly remaining: () => number;
  /** Ends the deadline's timer. */
  readonly clearDeadline: () => void;
  /** How often pg-backup-api was asked so far. */
  readonly counts: RequestCounts;
}

/** An event, and what has come of it so far. */
export interface ReceivedEvent extends Invocation {
  readonly arrived: Arrived;
  /** The caller's id of the event: the same for each delivery of it. */
  readonly eventId: string;
  /** By a clock of AWS, never of a database node, ms since the epoch. */
  readonly arrivedAt: number;
  readonly progress: Progress;
  /** Parsed from JSON; that of a webhook is looked at only once its signature is verified, and undefined until then. */
  readonly payload: unknown;
}

/** Puts what arrived in the place of Lambda's event, and ends the deadline's timer at the end. */
export function invocation(): MiddlewareObj<ReceivedEvent> {
  const clear = ({ event }: { event: ReceivedEvent }) => event.clearDeadline();
  return {
    before: (request) => {
      request.event = receive(request.event, request.context);
    },
    after: clear,
    onError: clear,
  };
}

/**
 * Begins an invocation: from now on its time runs.
 *
 * @param context Lambda's
 * @param httpArrival `requestContext.timeEpoch` of an HTTP request, ms since the epoch
 */
export function startInvocation(context: Context, httpArrival?: number): Invocation {
  const startedAt = performance.now();
  const time = timeToDeadline(context.getRemainingTimeInMillis(), httpArrival, Date.now());
  const { signal, clear } = deadline(time);
  return {
    requestId: context.awsRequestId,
    startedAt,
    signal,
    remaining: () => startedAt + time - performance.now(),
    clearDeadline: clear,
    counts: { attempts: 0, polls: 0 },
  };
}

/**
 * Reads what every event has, whatever its payload.
 *
 * @param event an HTTP API event (payload format 2.0), an EventBridge event, or the payload itself
 * @param context Lambda's
 */
export function receive(event: unknown, context: Context): ReceivedEvent {
  const now = Date.now();
  const progress = newProgress();
  if (isHttp(event)) {
    const arrivedAt = event.requestContext.timeEpoch;
    const eventId = event.headers?.['webhook-id'] ?? context.awsRequestId;
    const started = startInvocation(context, arrivedAt);
    return {
      ...started,
      progress,
      arrived: { caller: 'http', event },
      arrivedAt,
      eventId,
      payload: undefined,
    };
  }
  const started = { ...startInvocation(context), progress };
  if (isEventBridge(event)) {
    const time = Date.parse(event.time);
    return {
      ...started,
      arrived: { caller: 'eventbridge' },
      // Whoever puts an event may date it: one from the future would be the newest for ever. EventBridge cuts its time to
      // the second, so that it was up to a second later than it says.
      arrivedAt: Number.isNaN(time) ? now : Math.min(time % 1_000 === 0 ? time + 999 : time, now),
      eventId: typeof event.id === 'string' ? event.id : context.awsRequestId,
      payload: event.detail,
    };
  }
  return {
    ...started,
    arrived: { caller: 'direct' },
    arrivedAt: now,
    eventId: context.awsRequestId,
    payload: event,
  };
}

/**
 * When the role changed, ms since the epoch: the arrival by AWS's clock less the age by the sender's monotonic one, so
 * that the wrong clock of a node cannot reorder failovers.
 */
export function eventTime({
  arrivedAt,
  roleChange,
}: Pick<ReceivedEvent, 'arrivedAt'> & { readonly roleChange?: { readonly ageMs: number } }): number {
  return Math.max(0, arrivedAt - (roleChange?.ageMs ?? 0));
}

// Only AWS can shape an event like these: of an HTTP request the sender fills no more than the body and headers.
function isHttp(event: unknown): event is APIGatewayProxyEventV2 {
  return (
    isObject(event) &&
    event.version === '2.0' &&
    (event.body === undefined || typeof event.body === 'string') &&
    isObject(event.requestContext) &&
    isObject(event.requestContext.http) &&
    isTime(event.requestContext.timeEpoch)
  );
}

function isEventBridge(event: unknown): event is EventBridgeEvent<string, unknown> {
  return isObject(event) && typeof event['detail-type'] === 'string' && 'detail' in event;
}

/** What a Date can hold (ECMA-262, "Time Values"), ms since the epoch. */
function isTime(value: unknown): boolean {
  return typeof value === 'number' && Math.abs(value) <= 8.64e15;
}

/** Whether something has properties to look at. */
export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}
