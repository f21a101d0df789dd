import { describe, expect, test } from 'vitest';
import {
  Busy,
  ConfigSwitchFailed,
  DeadlineExceeded,
  HttpError,
  InvalidArgs,
  LedgerError,
  Rejected,
  WrongCluster,
} from '../../functions/config-switch/errors.ts';
import type { Arrived, Event, EventFacts } from '../../functions/config-switch/event/event.ts';
import { parseRoleChange } from '../../functions/config-switch/event/payload.ts';
import { responding } from '../../functions/config-switch/event/response.ts';
import type { Result } from '../../functions/config-switch/exit-code.ts';
import { newFacts } from '../../functions/config-switch/invocation.ts';

const DONE: Result = { exit_code: 0, message: 'main now uses model m', operation_id: 'op1' };
const SKIPPED: Result = { exit_code: 1, message: 'skipped' };
const PAYLOAD = {
  action: 'on_role_change',
  role: 'primary',
  cluster: 'patroni',
  barman_server: 'main',
  barman_model: 'm',
};
const IDS = { event_id: 'e1', request_id: 'r1' };
const OF_PAYLOAD = { cluster: 'patroni', barman_server: 'main', barman_model: 'm' };

interface Given {
  readonly caller?: Arrived['caller'];
  /** null: it could not be read. */
  readonly payload?: object | null;
  readonly recorded?: boolean;
}
/** Ends an event. @returns what the caller gets, and the response in the event */
async function end(
  result: Result | Error | undefined,
  { caller = 'direct', payload = PAYLOAD, recorded = false }: Given = {},
) {
  const facts: EventFacts = {
    ...newFacts(),
    recorded,
    ...(payload && { roleChange: parseRoleChange(payload) }),
  };
  const event = { request_id: 'r1', event_id: 'e1', arrived: { caller }, facts };
  const request: { event: Event; response?: unknown; error?: unknown } = { event: event as unknown as Event };
  const middleware = responding();
  if (result && !(result instanceof Error)) {
    request.response = result;
    await middleware.after?.(request as never);
  } else {
    request.error = result;
    await middleware.onError?.(request as never);
  }
  return { caller: request.response, facts };
}
async function endHttp(result: Result | Error, recorded = false) {
  const { caller, facts } = await end(result, { caller: 'http', recorded });
  const { statusCode, headers, body } = caller as {
    statusCode: number;
    headers: Record<string, string>;
    body: string;
  };
  return { status: statusCode, headers, body: JSON.parse(body) as object, facts };
}

describe('the body', () => {
  test('names the role change, the result and the ids', async () => {
    const body = {
      exit_code: 0,
      exit_status: 'CONFIG_SWITCH_DONE',
      message: 'main now uses model m',
      ...OF_PAYLOAD,
      operation_id: 'op1',
      recorded: true,
      ...IDS,
    };
    const { caller, facts } = await end(DONE, { recorded: true });
    expect([caller, facts.response]).toStrictEqual([body, body]);
  });

  test('names a reset and a dry run, and no operation where there is none', async () => {
    const { barman_model: _, ...rest } = PAYLOAD;
    const { caller } = await end(SKIPPED, { payload: { ...rest, reset: true, dry_run: true } });
    expect(caller).toStrictEqual({
      exit_code: 1,
      exit_status: 'CONFIG_SWITCH_SKIPPED',
      message: 'skipped',
      cluster: 'patroni',
      barman_server: 'main',
      reset: true,
      dry_run: true,
      recorded: false,
      ...IDS,
    });
  });

  test('has only the problem if the payload could not be read', async () => {
    const { caller, facts } = await end(new InvalidArgs('role is missing'), { payload: null });
    expect(caller).toStrictEqual({
      exit_code: 4,
      exit_status: 'INVALID_ARGS',
      message: 'role is missing',
      recorded: false,
      ...IDS,
    });
    expect(facts.response).toBe(caller);
  });

  test('names the operation of an error', async () => {
    const error = Object.assign(new HttpError('unknown end'), { operation_id: 'op2' });
    expect((await end(error)).caller).toMatchObject({ exit_code: 3, operation_id: 'op2' });
  });

  test.each([new TypeError('x is undefined'), undefined])('hides an internal error (%s)', async (error) => {
    expect((await end(error)).caller).toStrictEqual({
      exit_code: 3,
      exit_status: 'HTTP_ERROR',
      message: 'internal error; see the log of the function, request r1',
      ...OF_PAYLOAD,
      recorded: false,
      ...IDS,
    });
  });
});

describe('over HTTP', () => {
  test.each<[string, Result | Error, { recorded: number; otherwise: number }]>([
    ['a switch', DONE, { recorded: 200, otherwise: 200 }],
    ['an event that is skipped', SKIPPED, { recorded: 200, otherwise: 200 }],
    ['an operation that FAILED', new ConfigSwitchFailed('FAILED'), { recorded: 502, otherwise: 502 }],
    ['an invalid payload', new InvalidArgs('invalid'), { recorded: 400, otherwise: 400 }],
    ['the secret of another cluster', new WrongCluster('not yours'), { recorded: 403, otherwise: 403 }],
    ['a failed request', new HttpError('ECONNREFUSED'), { recorded: 502, otherwise: 502 }],
    ['an unavailable ledger', new LedgerError('throttled'), { recorded: 503, otherwise: 503 }],
    ['a missed deadline', new DeadlineExceeded('late'), { recorded: 202, otherwise: 504 }],
    ['a lease of another invocation', new Busy('leased'), { recorded: 202, otherwise: 503 }],
    ['an internal error', new Error('bug'), { recorded: 502, otherwise: 502 }],
  ])(
    '%s has its status, which may depend on whether the desired state is recorded',
    async (_, result, status) => {
      const [recorded, otherwise] = [await endHttp(result, true), await endHttp(result, false)];
      expect({ recorded: recorded.status, otherwise: otherwise.status }).toEqual(status);
      expect(recorded.body).toEqual(recorded.facts.response);
      expect(recorded.body).toMatchObject({ recorded: true, ...IDS });
    },
  );

  test('the body is JSON, and only a 503 asks to try again', async () => {
    expect((await endHttp(DONE)).headers).toStrictEqual({ 'content-type': 'application/json' });
    expect((await endHttp(new LedgerError('throttled'))).headers).toStrictEqual({
      'content-type': 'application/json',
      'retry-after': '5',
    });
  });

  test.each([
    ['signature', 401, 'Unauthorized'],
    ['timestamp', 401, 'Unauthorized'],
    ['secret unreadable', 503, 'Service Unavailable'],
    ['body too large', 413, 'Content Too Large'],
    ['payload format', 400, 'Bad Request'],
  ] as const)(
    'an unauthenticated caller (%s) learns nothing but its status',
    async (why, status, message) => {
      const rejected = await endHttp(new Rejected(why, 'the whole story'));
      expect([rejected.status, rejected.body]).toEqual([status, { message }]);
      expect(rejected.facts).not.toHaveProperty('response');
    },
  );
});

describe('an EventBridge event', () => {
  test.each<[string, Result | Error, boolean]>([
    ['that could not be recorded', new LedgerError('throttled'), false],
    ['that met an internal error', new Error('bug'), false],
  ])('%s is thrown back to Lambda, which tries again', async (_, result, recorded) => {
    const { caller, facts } = await end(result, { caller: 'eventbridge', recorded });
    expect(caller).toBeUndefined();
    expect(facts.response).toMatchObject({ exit_code: 3, recorded: false });
  });

  test.each<[string, Result | Error, boolean]>([
    ['was applied', DONE, true],
    ['was skipped', SKIPPED, false],
    ['is recorded, and will be applied later', new Busy('leased'), true],
    ['is invalid: another attempt cannot correct it', new InvalidArgs('invalid'), false],
  ])('has a response if it %s', async (_, result, recorded) => {
    const { caller, facts } = await end(result, { caller: 'eventbridge', recorded });
    expect(caller).toBe(facts.response);
    expect(caller).toMatchObject(IDS);
  });
});

test('a direct invocation › gets each error as a response', async () => {
  expect((await end(new LedgerError('throttled'))).caller).toMatchObject({ exit_code: 3, recorded: false });
});
