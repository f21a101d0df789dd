/** One invocation: what arrived, from which caller, when, and how much time is left. */

import type { MiddlewareObj } from '@middy/core';
import type { APIGatewayProxyEventV2, Context, EventBridgeEvent } from 'aws-lambda';
import type { RequestCounts } from '../barman/pg-backup-api.ts';
import { deadline, timeToDeadline } from '../deadline.ts';
import { newProgress, type Progress } from '../reconcile/reconcile.ts';
import type { SignedWebhook } from './signature.ts';

/** An event id becomes part of a version and of a key: printable ASCII without spaces. */
const EVENT_ID = /^[!-~]{1,128}$/;
/** Length of what anyone can send, in a log line or a response: a header may have 10 KB. */
const MAX_LOGGED = 200;

/** How an event arrived: as the webhook of a Patroni callback, from an EventBridge rule, or as the payload itself. */
export type Arrived =
  /** `event` is absent if it is not in payload format 2.0. */
  | { readonly caller: 'http'; readonly event?: APIGatewayProxyEventV2 }
  | { readonly caller: 'eventbridge' | 'direct' };

/** What every invocation has, including the heartbeat. */
export interface Invocation {
  readonly requestId: string;
  /** When it started, by `performance.now()` (ms). */
  readonly startedAt: number;
  /** Aborts at the deadline. */
  readonly signal: AbortSignal;
  /** Time left before the deadline (ms). */
  readonly remaining: () => number;
  /** Stops the timer of the deadline. */
  readonly clearDeadline: () => void;
  /** Requests to pg-backup-api so far. */
  readonly counts: RequestCounts;
}

/** An event, and its progress. */
export interface ReceivedEvent extends Invocation {
  readonly arrived: Arrived;
  /** The id that the caller gave the event: the same for each delivery. That of a webhook is valid once it is verified. */
  readonly eventId: string;
  /** By a clock of AWS, never of a database node (ms since the epoch). */
  readonly arrivedAt: number;
  readonly progress: Progress;
  /** Of a webhook, once its signature is verified. */
  readonly webhook?: SignedWebhook;
  /** Parsed from JSON; undefined for a webhook until its signature is verified. */
  readonly payload: unknown;
}

/** Replaces Lambda's event by the received one, and stops the timer of the deadline at the end. */
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
 * Starts the deadline of an invocation.
 *
 * @param context from Lambda
 * @param httpArrival `requestContext.timeEpoch` of an HTTP request (ms since the epoch)
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
 * Reads what every event has, independent of its payload.
 *
 * @param event an HTTP API event (payload format 2.0), an EventBridge event, or the payload itself; an HTTP request in another
 *   format is never taken for the payload, which needs no signature
 * @param context from Lambda
 */
export function receive(event: unknown, context: Context): ReceivedEvent {
  const now = Date.now();
  const progress = newProgress();
  if (isHttp(event)) {
    const arrivedAt = event.requestContext.timeEpoch;
    const eventId = (event.headers['webhook-id'] ?? context.awsRequestId).slice(0, MAX_LOGGED);
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
  if (looksLikeHttp(event)) {
    return {
      ...started,
      arrived: { caller: 'http' },
      arrivedAt: now,
      eventId: context.awsRequestId,
      payload: undefined,
    };
  }
  if (isEventBridge(event)) {
    const time = Date.parse(event.time);
    return {
      ...started,
      arrived: { caller: 'eventbridge' },
      // The sender of an event may set its time: one in the future would stay the newest for ever. EventBridge truncates
      // the time to the second, so the event may have been up to a second later.
      arrivedAt: Number.isNaN(time) ? now : Math.min(time % 1_000 === 0 ? time + 999 : time, now),
      eventId: isEventId(event.id) ? event.id : context.awsRequestId,
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
 * When the role changed (ms since the epoch): the arrival by AWS's clock minus the age by the sender's monotonic clock, so
 * that the wrong clock of a node cannot reorder failovers.
 */
export function eventTime({
  arrivedAt,
  roleChange,
}: Pick<ReceivedEvent, 'arrivedAt'> & { readonly roleChange?: { readonly ageMs: number } }): number {
  return Math.max(0, arrivedAt - (roleChange?.ageMs ?? 0));
}

/** Whether a value has the form of an event id: 1 to 128 printable ASCII characters without spaces. */
export function isEventId(value: unknown): value is string {
  return typeof value === 'string' && EVENT_ID.test(value);
}

/** Every event of API Gateway (HTTP, REST and WebSocket APIs), a load balancer or a function URL has a request context. */
function looksLikeHttp(event: unknown): boolean {
  return isObject(event) && 'requestContext' in event;
}

// Only AWS can create events of these shapes: the sender of an HTTP request controls the body and headers only.
function isHttp(event: unknown): event is APIGatewayProxyEventV2 {
  return (
    isObject(event) &&
    event.version === '2.0' &&
    isHeaders(event.headers) &&
    (event.body === undefined || typeof event.body === 'string') &&
    isObject(event.requestContext) &&
    isObject(event.requestContext.http) &&
    isTime(event.requestContext.timeEpoch)
  );
}

export function isEventBridge(event: unknown): event is EventBridgeEvent<string, unknown> {
  return isObject(event) && typeof event['detail-type'] === 'string' && 'detail' in event;
}

function isHeaders(value: unknown): boolean {
  return isObject(value) && Object.values(value).every((header) => typeof header === 'string');
}

/** A value that a Date can have (ECMA-262, "Time Values"), in ms since the epoch. */
function isTime(value: unknown): boolean {
  return typeof value === 'number' && Math.abs(value) <= 8.64e15;
}

/** Whether a value is an object, so that its properties can be read. */
export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}
