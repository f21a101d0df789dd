import type { Context } from 'aws-lambda';
import { afterEach, describe, expect, test, vi } from 'vitest';
import type { Event } from '../../functions/config-switch/event/event.ts';
import { receive, receiving } from '../../functions/config-switch/event/receive.ts';
import { newFacts } from '../../functions/config-switch/invocation.ts';
import { httpEvent } from '../stand-ins/webhook.ts';
import { useVirtualTime } from './virtual-time.ts';

const NOW = Date.parse('2026-11-23T06:10:00.500Z');
const CONTEXT = { awsRequestId: 'request-1', getRemainingTimeInMillis: () => 29_000 } as Context;

useVirtualTime(NOW);
let received: Event | undefined;
afterEach(() => received?.clearDeadline());
function receiveNow(event: unknown): Event {
  received = receive(event, CONTEXT);
  return received;
}

describe('a webhook', () => {
  const http = (change: object = {}, headers: object = { 'webhook-id': 'msg_1' }) => ({
    ...httpEvent('{}', headers as Record<string, string>, { timeEpoch: NOW - 100 }),
    ...change,
  });

  test('has the id of its header, and the arrival at API Gateway; its body is not parsed before it is authenticated', () => {
    const event = http();
    expect(receiveNow(event)).toMatchObject({
      request_id: 'request-1',
      arrived: { caller: 'http', event },
      arrivedAt: NOW - 100,
      event_id: 'msg_1',
      facts: newFacts(),
    });
  });

  test('without an id has the one of the request', () => {
    expect(receiveNow(http({}, {})).event_id).toBe('request-1');
  });

  test('has its id cut to a length that can be logged', () => {
    expect(receiveNow(http({}, { 'webhook-id': 'x'.repeat(201) })).event_id).toBe('x'.repeat(200));
  });

  test.each<[string, { readonly timeEpoch?: number; readonly body?: undefined }]>([
    ['has no body', { body: undefined }],
    ['arrived at the first moment that a Date can have', { timeEpoch: -8.64e15 }],
    ['arrived at the last one', { timeEpoch: 8.64e15 }],
  ])('is recognised if it %s', (_, { timeEpoch = NOW, ...change }) => {
    const event = http({ requestContext: { http: {}, timeEpoch }, ...change });
    expect(receiveNow(event)).toMatchObject({ arrived: { caller: 'http', event }, arrivedAt: timeEpoch });
  });

  test('must be answered within the 30 s of API Gateway, less the time for the response', () => {
    const event = receiveNow(http({ requestContext: { http: {}, timeEpoch: NOW - 20_000 } }));
    expect(event.remaining()).toBe(8_500);
  });

  test.each<[string, object]>([
    ['another version', { version: '1.0' }],
    ['no headers', { headers: null }],
    ['a header that is not text', { headers: { a: 'b', c: ['d'] } }],
    ['a body that is not text', { body: 7 }],
    ['no request context', { requestContext: null }],
    ['no method', { requestContext: { timeEpoch: NOW } }],
    ['an arrival as text', { requestContext: { http: {}, timeEpoch: String(NOW) } }],
    ['an arrival that no Date can have', { requestContext: { http: {}, timeEpoch: 8.64e15 + 2 } }],
  ])('in another format (%s) is never taken for a payload', (_, change) => {
    const event = receiveNow({ ...http(change), action: 'on_role_change' });
    expect(event).toMatchObject({ arrivedAt: NOW, event_id: 'request-1' });
    expect(event.arrived).toEqual({ caller: 'http' });
    expect(event.facts).toEqual(newFacts());
  });
});

describe('an EventBridge event', () => {
  const eventBridge = (change: object = {}) => ({
    id: 'event-1',
    'detail-type': 'Patroni role change',
    time: '2026-11-23T06:09:00Z',
    detail: { role: 'primary' },
    ...change,
  });

  test('has its own id, and its detail is the payload', () => {
    expect(receiveNow(eventBridge())).toMatchObject({
      request_id: 'request-1',
      arrived: { caller: 'eventbridge', payload: { role: 'primary' } },
      event_id: 'event-1',
      facts: newFacts(),
    });
  });

  test.each([
    ['the end of the second that EventBridge has cut it to', '2026-11-23T06:09:00Z', '06:09:00.999Z'],
    ['its time, if that has milliseconds', '2026-11-23T06:09:00.001Z', '06:09:00.001Z'],
    ['now, if the second has not ended', '2026-11-23T06:10:00Z', '06:10:00.500Z'],
    ['now, if its time is in the future', '2026-11-23T07:00:00.001Z', '06:10:00.500Z'],
    ['now, if its time is none', 'yesterday', '06:10:00.500Z'],
    ['now, if its time is a number', 2026, '06:10:00.500Z'],
    ['now, if its time is an object that has no text', { toString: false }, '06:10:00.500Z'],
  ])('arrived at %s', (_, time: unknown, arrivedAt) => {
    const event = receiveNow(eventBridge({ time }));
    expect(new Date(event.arrivedAt).toISOString()).toBe(`2026-11-23T${arrivedAt}`);
  });

  test('with an id that cannot be stored has the one of the request', () => {
    expect(receiveNow(eventBridge({ id: 'a b' })).event_id).toBe('request-1');
  });

  test.each<[string, object]>([
    ['a detail', { detail: undefined }],
    ['a type that is text', { 'detail-type': 7 }],
  ])('needs %s; otherwise the whole is the payload', (_, change) => {
    const event: Record<string, unknown> = eventBridge(change);
    if (event.detail === undefined) delete event.detail;
    expect(receiveNow(event)).toMatchObject({ arrived: { caller: 'direct', payload: event } });
  });
});

describe('a direct invocation', () => {
  test.each([null, undefined, 7, 'x', [], {}, { action: 'on_role_change' }])(
    'has %j as payload',
    (payload) => {
      const event = receiveNow(payload);
      const ids = { request_id: 'request-1', event_id: 'request-1' };
      expect(event).toMatchObject({ ...ids, arrivedAt: NOW, facts: newFacts() });
      expect(event.arrived).toEqual({ caller: 'direct', payload });
    },
  );
});

test.each([
  [{ custom: { operator: 'dba@host' } }, 'dba@host'],
  [{ custom: { operator: 'x'.repeat(300) } }, 'x'.repeat(200)],
  [{ custom: { operator: 7 } }, undefined],
  [{ custom: null }, undefined],
])('a direct invocation › says who it is from, as its client context %j does', (clientContext, operator) => {
  const { arrived, clearDeadline } = receive({}, { ...CONTEXT, clientContext } as never);
  clearDeadline();
  expect(arrived).toEqual({ caller: 'direct', payload: {}, ...(operator && { operator }) });
});

describe('the deadline', () => {
  test.each(['after', 'onError'] as const)('ends with the event (%s)', async (end) => {
    const middleware = receiving();
    const request = { event: { role: 'primary' } as unknown, context: CONTEXT };
    await middleware.before?.(request as never);
    expect(request.event).toMatchObject({ arrived: { caller: 'direct', payload: { role: 'primary' } } });
    expect(vi.getTimerCount()).toBe(1);
    await middleware[end]?.(request as never);
    expect(vi.getTimerCount()).toBe(0);
  });
});
