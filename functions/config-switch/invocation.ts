/** One invocation: what arrived, from which caller, when, and how much time there is. */

import type { APIGatewayProxyEventV2, Context, EventBridgeEvent } from 'aws-lambda';
import type { Answer } from './answer.ts';
import { type Course, newCourse } from './converge.ts';
import { deadline, timeToDeadline } from './deadline.ts';
import type { Heartbeat } from './heartbeat.ts';
import type { RoleChange } from './payload.ts';
import type { PgBackupApi } from './pg-backup-api.ts';

/** How it arrived: the webhook of a Patroni callback, an EventBridge rule, an invocation with the payload itself, or the schedule. */
export type Arrived =
  | { readonly caller: 'http'; readonly event: APIGatewayProxyEventV2 }
  | { readonly caller: 'eventbridge'; readonly payload: unknown }
  | { readonly caller: 'direct'; readonly payload: unknown }
  | { readonly caller: 'heartbeat' };

export interface Invocation {
  readonly arrived: Arrived;
  readonly requestId: string;
  /** The caller's id of the event: the same for each delivery of it. */
  readonly eventId: string;
  /** By a clock of AWS, never of a database node, ms since the epoch. */
  readonly arrivedAt: number;
  /** By `performance.now()`, ms. */
  readonly startedAt: number;
  /** Aborts at the deadline. */
  readonly signal: AbortSignal;
  /** Time to the deadline, ms. */
  readonly remaining: () => number;
  /** Ends the deadline's timer. */
  readonly clearDeadline: () => void;
  /** What has come of it so far. */
  readonly course: Course;
  heartbeat?: Heartbeat;
  roleChange?: RoleChange;
  api?: PgBackupApi;
  answer?: Answer;
}

/**
 * Reads what every invocation has, whatever its payload.
 *
 * @param event an HTTP API event (payload format 2.0), an EventBridge event, `{"heartbeat":true}`, or the payload itself
 * @param context Lambda's
 */
export function receive(event: unknown, context: Context): Invocation {
  const now = Date.now();
  const startedAt = performance.now();
  const common = { requestId: context.awsRequestId, startedAt, course: newCourse() };
  const remaining = context.getRemainingTimeInMillis();
  const begin = (httpArrival?: number) => {
    const time = timeToDeadline(remaining, httpArrival, now);
    const { signal, clear } = deadline(time);
    return { signal, clearDeadline: clear, remaining: () => startedAt + time - performance.now() };
  };

  if (isHttp(event)) {
    const arrivedAt = event.requestContext.timeEpoch;
    const eventId = event.headers?.['webhook-id'] ?? context.awsRequestId;
    return { ...common, ...begin(arrivedAt), arrived: { caller: 'http', event }, arrivedAt, eventId };
  }
  if (isEventBridge(event)) {
    const time = Date.parse(event.time);
    return {
      ...common,
      ...begin(),
      arrived: { caller: 'eventbridge', payload: event.detail },
      // Whoever puts an event may date it: one from the future would be the newest for ever. EventBridge cuts its time to
      // the second, so that it was up to a second later than it says.
      arrivedAt: Number.isNaN(time) ? now : Math.min(time % 1_000 === 0 ? time + 999 : time, now),
      eventId: typeof event.id === 'string' ? event.id : context.awsRequestId,
    };
  }
  const heartbeat = isObject(event) && event.heartbeat === true;
  return {
    ...common,
    ...begin(),
    arrived: heartbeat ? { caller: 'heartbeat' } : { caller: 'direct', payload: event },
    arrivedAt: now,
    eventId: context.awsRequestId,
  };
}

/**
 * When the role changed, ms since the epoch: the arrival by AWS's clock less the age by the sender's monotonic one, so
 * that the wrong clock of a node cannot reorder failovers.
 */
export function eventTime({ arrivedAt, roleChange }: Invocation): number {
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

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}
