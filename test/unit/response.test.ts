import { describe, expect, test } from 'vitest';
import {
  Busy,
  ConfigSwitchFailed,
  DeadlineExceeded,
  HttpError,
  InvalidArgs,
  LeaderUnknown,
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

/** How an event arrived, and what is known of it. */
interface Given {
  readonly caller?: Arrived['caller'];
  /** null: it could not be read. */
  readonly payload?: object | null;
  readonly recorded?: boolean;
  readonly followed?: NonNullable<EventFacts['followed']>;
}
/** Ends an event. @returns what the caller gets, and the facts with the response */
async function end(
  result: Result | Error | undefined,
  { caller = 'direct', payload = PAYLOAD, recorded = false, followed }: Given = {},
) {
  const roleChange = payload && { roleChange: parseRoleChange(payload) };
  const facts: EventFacts = { ...newFacts(), recorded, ...roleChange, ...(followed && { followed }) };
  const event = { request_id: 'r1', event_id: 'e1', arrived: { caller }, facts } as unknown as Event;
  const failed = result === undefined || result instanceof Error;
  const request = { event, error: failed ? result : null, response: failed ? undefined : result };
  await responding()[failed ? 'onError' : 'after']?.(request as never);
  return { caller: request.response as unknown, facts };
}
async function endHttp(result: Result | Error, recorded = false) {
  const { caller, facts } = await end(result, { caller: 'http', recorded });
  const { statusCode, headers, body } = caller as { statusCode: number; headers: object; body: string };
  return { status: statusCode, headers, body: JSON.parse(body) as object, facts };
}

describe('the body', () => {
  test('names the role change, the result and the ids', async () => {
    const body = { ...DONE, exit_status: 'CONFIG_SWITCH_DONE', ...OF_PAYLOAD, recorded: true, ...IDS };
    const { caller, facts } = await end(DONE, { recorded: true });
    expect([caller, facts.response]).toStrictEqual([body, body]);
  });

  test('names a reset and a dry run, and no operation where there is none', async () => {
    const { barman_model: _, ...rest } = PAYLOAD;
    const { caller } = await end(SKIPPED, { payload: { ...rest, reset: true, dry_run: true } });
    expect(caller).toStrictEqual({
      ...SKIPPED,
      exit_status: 'CONFIG_SWITCH_SKIPPED',
      cluster: 'patroni',
      barman_server: 'main',
      reset: true,
      dry_run: true,
      recorded: false,
      ...IDS,
    });
  });

  const { barman_model: __, ...UNNAMED } = PAYLOAD;
  test.each([
    [{ model: 'pg:node2' }, { barman_model: 'pg:node2' }],
    [{ reset: true } as const, { reset: true }],
  ])('names the leader that was followed, and its target (%j)', async (target, fields) => {
    const followed = { leader: 'node2', target };
    const { caller } = await end(DONE, { payload: { ...UNNAMED, follow_leader: true }, followed });
    expect(caller).toStrictEqual({
      ...{ ...DONE, exit_status: 'CONFIG_SWITCH_DONE', cluster: 'patroni', barman_server: 'main' },
      ...{ follow_leader: true, leader: 'node2', ...fields, recorded: false, ...IDS },
    });
  });

  test('names no leader that is not known', async () => {
    const { caller } = await end(SKIPPED, { payload: { ...UNNAMED, follow_leader: true } });
    expect(caller).toMatchObject({ follow_leader: true });
    expect(caller).not.toHaveProperty('leader');
    expect(caller).not.toHaveProperty('barman_model');
  });

  test('has a printable message without a secret, of 4,000 characters at most', async () => {
    const secret = `whsec_${'c2VjcmV0'.repeat(4)}`;
    const { facts } = await end(new HttpError(`a\u202e ${secret} ${'x'.repeat(500_000)}`));
    expect(facts.response?.message).toMatch(/^a\\u202e whsec_… x+… \(5000\d\d characters\)$/);
    expect(facts.response?.message.length).toBeLessThan(4_050);
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
  test.each<[string, Result | Error, recorded: number, otherwise: number]>([
    ['a switch', DONE, 200, 200],
    ['an event that is skipped', SKIPPED, 200, 200],
    ['an operation that FAILED', new ConfigSwitchFailed('FAILED'), 502, 502],
    ['an invalid payload', new InvalidArgs('invalid'), 400, 400],
    ['the secret of another cluster', new WrongCluster('not yours'), 403, 403],
    ['a failed request', new HttpError('ECONNREFUSED'), 502, 502],
    ['an unavailable ledger', new LedgerError('throttled'), 503, 503],
    ['an unknown leader', new LeaderUnknown('no node answered'), 503, 503],
    ['a missed deadline', new DeadlineExceeded('late'), 202, 504],
    ['a lease of another invocation', new Busy('leased'), 202, 503],
    ['an internal error', new Error('bug'), 502, 502],
  ])('%s has its status if the desired state is recorded, or not', async (_, result, recorded, otherwise) => {
    const ended = await endHttp(result, true);
    expect([ended.status, (await endHttp(result)).status]).toEqual([recorded, otherwise]);
    expect(ended.body).toEqual(ended.facts.response);
    expect(ended.body).toMatchObject({ recorded: true, ...IDS });
  });

  test('the body is JSON, and only a 503 asks to try again', async () => {
    const json = { 'content-type': 'application/json' };
    expect((await endHttp(DONE)).headers).toStrictEqual(json);
    const { headers } = await endHttp(new LedgerError('throttled'));
    expect(headers).toStrictEqual({ ...json, 'retry-after': '5' });
  });

  test.each([
    ['signature', 401, 'Unauthorized'],
    ['timestamp', 401, 'Unauthorized'],
    ['secret unreadable', 503, 'Service Unavailable'],
    ['body too large', 413, 'Content Too Large'],
    ['payload format', 400, 'Bad Request'],
  ] as const)('an unauthenticated caller (%s) learns nothing but its status', async (why, code, message) => {
    const { status, body, facts } = await endHttp(new Rejected(why, 'the whole story'));
    expect([status, body]).toEqual([code, { message }]);
    expect(facts).not.toHaveProperty('response');
  });
});

describe('an EventBridge event', () => {
  test.each([
    ['that could not be recorded', new LedgerError('throttled')],
    ['that met an internal error', new Error('bug')],
  ])('%s is thrown back to Lambda, which tries again', async (_, error) => {
    const { caller, facts } = await end(error, { caller: 'eventbridge' });
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
