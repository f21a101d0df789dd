/** What every event has, independent of its payload: how it arrived, when, and its id. */

import type { MiddlewareObj } from '@middy/core';
import type { APIGatewayProxyEventV2, Context, EventBridgeEvent } from 'aws-lambda';
import { startInvocation } from '../invocation.ts';
import { isObject } from '../schema.ts';
import { type Arrived, type Event, isEventId } from './event.ts';

/** Length of what anyone can send, in a log line or a response: a header may have 10 KB. */
const MAX_LOGGED = 200;

/** Receives the event that Lambda passes, and stops the timer of the deadline at the end. */
export function receiving(): MiddlewareObj<Event> {
  const clear = ({ event }: { event: Event }) => event.clearDeadline();
  return {
    before: (request) => {
      request.event = receive(request.event, request.context);
    },
    after: clear,
    onError: clear,
  };
}

/**
 * Reads what every event has.
 *
 * @param event an HTTP API event (payload format 2.0), an EventBridge event, or the payload itself; an HTTP
 *   request in another format is never taken for the payload, which needs no signature
 * @param context from Lambda
 */
export function receive(event: unknown, context: Context): Event {
  const now = Date.now();
  const received = (arrived: Arrived, arrivedAt: number, event_id: string): Event => ({
    ...startInvocation(context, arrived.caller === 'http' && arrived.event ? arrivedAt : Date.now()),
    arrived,
    arrivedAt,
    event_id,
  });
  if (isHttp(event)) {
    const event_id = (event.headers['webhook-id'] ?? context.awsRequestId).slice(0, MAX_LOGGED);
    return received({ caller: 'http', event }, event.requestContext.timeEpoch, event_id);
  }
  if (looksLikeHttp(event)) return received({ caller: 'http' }, now, context.awsRequestId);
  if (isEventBridge(event)) {
    const time = eventBridgeTime(event);
    // The sender of an event may set its time: one in the future would stay the newest for ever. EventBridge
    // truncates the time to the second, so the event may have been up to a second later.
    const arrivedAt = Number.isNaN(time) ? now : Math.min(time % 1_000 === 0 ? time + 999 : time, now);
    const event_id = isEventId(event.id) ? event.id : context.awsRequestId;
    return received({ caller: 'eventbridge', payload: event.detail }, arrivedAt, event_id);
  }
  const operator = operatorOf(context);
  const direct = { caller: 'direct', payload: event, ...(operator && { operator }) } as const;
  return received(direct, now, context.awsRequestId);
}

/** Returns who invokes the function, as the client context says (cli/ledger.ts). */
function operatorOf({ clientContext }: Context): string | undefined {
  const { operator } = Object(Object(clientContext).custom);
  return typeof operator === 'string' ? operator.slice(0, MAX_LOGGED) : undefined;
}

/**
 * Every event of API Gateway (HTTP, REST and WebSocket APIs), a load balancer or a function URL has a request
 * context.
 */
function looksLikeHttp(event: unknown): boolean {
  return isObject(event) && 'requestContext' in event;
}

// Only AWS can create events of these shapes: the sender of an HTTP request controls the body and headers
// only.
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

/** An EventBridge event. Whoever may invoke the function can send one with any `id` and `time`. */
type FromEventBridge = Pick<EventBridgeEvent<string, unknown>, 'detail-type' | 'detail'> & {
  readonly id?: unknown;
  readonly time?: unknown;
};

/** Returns whether an event has the form of EventBridge's ("AWS service events", in its user guide). */
export function isEventBridge(event: unknown): event is FromEventBridge {
  return isObject(event) && typeof event['detail-type'] === 'string' && 'detail' in event;
}

/** Returns the time of an EventBridge event (ms since the epoch); NaN if it has none that can be read. */
export function eventBridgeTime({ time }: FromEventBridge): number {
  return typeof time === 'string' ? Date.parse(time) : Number.NaN;
}

function isHeaders(value: unknown): boolean {
  return isObject(value) && Object.values(value).every((header) => typeof header === 'string');
}

/** Returns whether a value is one that a Date can have (ECMA-262, "Time Values"; ms since the epoch). */
function isTime(value: unknown): boolean {
  return typeof value === 'number' && Math.abs(value) <= 8.64e15;
}
