/**
 * Random events from all three callers: each gets a well-formed response with the expected ExitCode, and an
 * invalid one causes no request to pg-backup-api. `npm run fuzz` sends 100,000 of them; SEED repeats a run.
 */

import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { Ajv } from 'ajv';
import fc from 'fast-check';
import { expect, test, vi } from 'vitest';
import type { ResponseBody } from '../../functions/config-switch/event/event.ts';
import { ExitCode, exitStatus } from '../../functions/config-switch/exit-code.ts';
import { isObject } from '../../functions/config-switch/schema.ts';
import { signedHeaders } from '../stand-ins/webhook.ts';
import {
  type FunctionUnderTest,
  fakeClock,
  type HttpResponse,
  MINUTE,
  pass,
  SKIPPED,
  startFunction,
} from './function.ts';

fakeClock();

const EVENTS = Number(process.env.EVENTS ?? 3_000);
const seed = Number(process.env.SEED ?? Date.now() % 2 ** 31);
// biome-ignore lint/suspicious/noConsole: the seed repeats a run
console.log(`fuzz: SEED=${seed} EVENTS=${EVENTS}`);

/** A share of all events. */
const runs = (share: number) => ({ numRuns: Math.ceil(EVENTS * share), seed });

/** The roles that each `switch_when` matches. */
const MATCHING: Record<string, readonly string[]> = {
  promoted: ['primary', 'promoted', 'master'],
  demoted: ['replica', 'demoted'],
  leader: ['primary', 'promoted', 'master', 'standby_leader'],
  always: ['primary', 'promoted', 'master', 'standby_leader', 'replica', 'demoted'],
};

/** A value and whether it is valid; sometimes it is missing. */
const field = <T>(valid: fc.Arbitrary<T>, invalid: fc.Arbitrary<unknown>, optional: boolean) =>
  fc.oneof(
    { weight: 12, arbitrary: valid.map((value) => ({ value: value as unknown, valid: true, given: true })) },
    { weight: 1, arbitrary: invalid.map((value) => ({ value, valid: false, given: true })) },
    { weight: optional ? 4 : 1, arbitrary: fc.constant({ value: undefined, valid: optional, given: false }) },
  );
const notString = fc.oneof(fc.integer(), fc.constant(null), fc.array(fc.anything()), fc.boolean());
const name = fc.stringMatching(/^[A-Za-z0-9_][A-Za-z0-9_.:@+~=,-]{0,20}$/);
const invalidName = fc.oneof(
  notString,
  fc.constantFrom('', '..', '-x', 'a/b', 'a b', '\ud800', 'x'.repeat(256)),
);

const shaped = fc.record({
  action: field(
    fc.oneof(
      { weight: 9, arbitrary: fc.constant('on_role_change') },
      { weight: 1, arbitrary: fc.constantFrom('on_reload', 'on_start', 'on_restart') },
    ),
    fc.oneof(notString, fc.constant('on_stop')),
    false,
  ),
  role: field(fc.constantFrom(...(MATCHING.always ?? [])), fc.oneof(notString, fc.constant('leader')), false),
  cluster: field(
    fc.string({ minLength: 1, maxLength: 20 }),
    fc.oneof(notString, fc.constantFrom('', '\ud800')),
    false,
  ),
  barman_server: field(name, invalidName, false),
  barman_model: field(name, invalidName, true),
  reset: field(fc.boolean(), fc.constantFrom('true', 1, null), true),
  follow_leader: field(fc.boolean(), fc.constantFrom('true', 1, null), true),
  switch_when: field(
    fc.constantFrom(...Object.keys(MATCHING)),
    fc.oneof(notString, fc.constant('never')),
    true,
  ),
  age_ms: field(fc.nat(), fc.constantFrom(-1, 0.5, '1', null, 1e300), true),
  // Never a reason to reject it.
  node: field(fc.anything(), fc.string(), true).map((one) => ({ ...one, valid: true })),
  unknown: field(fc.constant(undefined), fc.integer(), true),
});

/** The design's rules, implemented independently of the function. */
function expected(fields: Record<string, { value: unknown; valid: boolean }>): ExitCode {
  if (Object.values(fields).some(({ valid }) => !valid)) return ExitCode.INVALID_ARGS;
  if (fields.action?.value !== 'on_role_change') return ExitCode.CONFIG_SWITCH_SKIPPED;
  const switch_when = String(fields.switch_when?.value ?? 'promoted');
  if (!MATCHING[switch_when]?.includes(String(fields.role?.value))) return ExitCode.CONFIG_SWITCH_SKIPPED;
  const targets = [fields.barman_model?.value !== undefined, fields.reset?.value === true];
  // No cluster says who leads, so the leader cannot be followed.
  if (targets.filter(Boolean).length !== 1 || fields.follow_leader?.value === true)
    return ExitCode.INVALID_ARGS;
  return ExitCode.HTTP_ERROR;
}

const isResponse = new Ajv().compile(JSON.parse(readFileSync('docs/schema/response.json', 'utf8')));

/** Expects a well-formed response with an ExitCode. */
function expectResponse(response: Partial<ResponseBody>, exitCode: ExitCode): void {
  expect(isResponse(response), JSON.stringify(isResponse.errors)).toBe(true);
  expect(response).toMatchObject({
    exit_code: exitCode,
    exit_status: exitStatus(exitCode),
    message: expect.stringMatching(/./),
    recorded: exitCode === ExitCode.HTTP_ERROR,
    request_id: expect.any(String),
    event_id: expect.any(String),
  });
}

const HTTP_STATUS = { 1: 200, 3: 502, 4: 400 } as const;
/** pg-backup-api rejects every request with 422, so that a switch is HTTP_ERROR after one request. */
async function start(): Promise<FunctionUnderTest> {
  const run = await startFunction();
  run.host.api.fault({ kind: 'status', status: 422 }, Number.POSITIVE_INFINITY);
  return run;
}

vi.setConfig({ testTimeout: 30_000 + 20 * EVENTS });

test('any payload › gets the expected response from every caller, and only a valid one reaches pg-backup-api', async () => {
  await using run = await start();
  const callers = fc.constantFrom('http', 'base64', 'direct', 'eventbridge');
  await fc.assert(
    fc.asyncProperty(shaped, callers, async (fields, caller) => {
      const given = Object.entries(fields).filter(
        ([key, { given }]) => given && !(key === 'unknown' && fields.unknown.valid),
      );
      const payload: unknown = JSON.parse(
        JSON.stringify(Object.fromEntries(given.map(([key, { value }]) => [key, value]))),
      );
      if (isObject(payload) && payload.follow_leader === true && fields.barman_server.valid) {
        // What is newer and recorded is applied without the leader: so this server is new.
        payload.barman_server = `${payload.barman_server}~${randomUUID()}`;
        // And only once the parameters were read again is it certain that no cluster lists it.
        pass(MINUTE);
      }
      const exitCode = expected(fields);
      const before = run.host.api.requests.length;
      if (caller === 'direct') {
        expectResponse(await run.invoke(payload), exitCode);
      } else if (caller === 'eventbridge') {
        expectResponse(await run.eventBridge(payload, undefined, randomUUID()), exitCode);
      } else {
        const { statusCode, response } = await run.webhook(payload, { base64: caller === 'base64' });
        expect(statusCode).toBe(HTTP_STATUS[exitCode as keyof typeof HTTP_STATUS]);
        expectResponse(response, exitCode);
      }
      expect(run.host.api.requests.length - before).toBe(exitCode === ExitCode.HTTP_ERROR ? 1 : 0);
    }),
    runs(0.6),
  );
});

test('any other JSON › is INVALID_ARGS from every caller', async () => {
  await using run = await start();
  await fc.assert(
    fc.asyncProperty(fc.jsonValue(), async (value) => {
      expectResponse(await run.invoke(value), ExitCode.INVALID_ARGS);
      const { statusCode, response } = await run.webhook(JSON.stringify(value));
      expect(statusCode).toBe(400);
      expectResponse(response, ExitCode.INVALID_ARGS);
      expectResponse(await run.eventBridge(value, undefined, randomUUID()), ExitCode.INVALID_ARGS);
    }),
    runs(0.2 / 3),
  );
  expect(run.host.api.requests).toEqual([]);
});

/** Bodies that are not JSON, some of them almost. */
const raw = fc.oneof(
  fc.string({ unit: 'binary' }),
  fc.string(),
  fc.uint8Array().map((bytes) => Buffer.from(bytes).toString('latin1')),
  fc.jsonValue().map((value) => JSON.stringify(value).slice(0, -1)),
);

test('any other body › is INVALID_ARGS with a valid signature, and unauthenticated without one', async () => {
  await using run = await start();
  const header = fc.option(fc.oneof(fc.string(), fc.constantFrom('v1,', 'v1,AAAA v1a,AAAA', '1e3', ' ')));
  await fc.assert(
    fc.asyncProperty(raw, fc.boolean(), fc.tuple(header, header, header), async (body, base64, headers) => {
      const signed = await run.webhook(body, { base64 });
      expect(signed.statusCode).toBe(400);
      expectResponse(signed.response, ExitCode.INVALID_ARGS);

      const names = ['webhook-id', 'webhook-timestamp', 'webhook-signature'];
      const given = names.flatMap((name, index) => (headers[index] == null ? [] : [[name, headers[index]]]));
      const unsigned = await run.webhook(body, { base64, headers: Object.fromEntries(given) });
      expect(unsigned).toMatchObject({ statusCode: 401, response: { message: 'Unauthorized' } });
    }),
    runs(0.2 / 2),
  );
  expect(run.host.api.requests).toEqual([]);
});

test('any envelope › gets a response, and is never CONFIG_SWITCH_DONE', async () => {
  await using run = await start();
  const body = JSON.stringify(SKIPPED);
  const signed = () => signedHeaders(run.host.webhookSecret, body);
  const odd = fc.oneof(fc.jsonValue(), fc.constant(undefined));
  const event = fc.oneof(
    fc.record({
      version: fc.oneof({ weight: 4, arbitrary: fc.constant('2.0') }, odd),
      headers: fc.oneof({ weight: 2, arbitrary: fc.constant(undefined).map(signed) }, odd),
      body: fc.oneof({ weight: 2, arbitrary: fc.constant(body) }, odd),
      isBase64Encoded: odd,
      requestContext: fc.oneof(
        odd,
        fc.record({ http: odd, requestId: odd, timeEpoch: fc.oneof(fc.double(), odd) }),
      ),
    }),
    fc.record({
      id: odd,
      time: fc.oneof(
        fc.date({ noInvalidDate: true }).map((date) => date.toISOString()),
        odd,
      ),
      'detail-type': fc.oneof(fc.string(), odd),
      detail: fc.oneof(fc.constant(JSON.parse(body) as unknown), odd),
    }),
    odd,
  );
  await fc.assert(
    fc.asyncProperty(event, async (given) => {
      // As Lambda parses it.
      const json = JSON.stringify(given);
      const sent: unknown = json === undefined ? undefined : JSON.parse(json);
      const response = await run.send(sent);
      const { statusCode } = response as HttpResponse;
      const looksLikeHttp = typeof sent === 'object' && sent !== null && 'requestContext' in sent;
      expect(statusCode !== undefined).toBe(looksLikeHttp);
      // Unauthenticated; or it arrived so long ago that no time is left to read the secret.
      if (statusCode === 401 || statusCode === 503) return;
      const body = (
        statusCode === undefined ? response : JSON.parse((response as { body: string }).body)
      ) as ResponseBody;
      // Not payload format 2.0.
      if (statusCode === 400 && body.exit_code === undefined) return;
      expectResponse(
        body,
        body.exit_code === ExitCode.CONFIG_SWITCH_SKIPPED ? body.exit_code : ExitCode.INVALID_ARGS,
      );
    }),
    runs(0.2),
  );
  expect(run.host.api.requests).toEqual([]);
});
