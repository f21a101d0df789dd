import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { Answer } from '../../functions/config-switch/answer.ts';
import { ExitCode, exitStatus } from '../../functions/config-switch/exit-code.ts';
import { startFunction } from './function.ts';

const FOLLOWED: Record<string, readonly string[]> = {
  promoted: ['primary', 'promoted', 'master'],
  demoted: ['replica', 'demoted'],
  leader: ['primary', 'promoted', 'master', 'standby_leader'],
  always: ['primary', 'promoted', 'master', 'standby_leader', 'replica', 'demoted'],
};

/** A value and whether it is right; now and then it is none at all. */
const field = <T>(right: fc.Arbitrary<T>, wrong: fc.Arbitrary<unknown>, optional: boolean) =>
  fc.oneof(
    { weight: 12, arbitrary: right.map((value) => ({ value: value as unknown, valid: true, given: true })) },
    { weight: 1, arbitrary: wrong.map((value) => ({ value, valid: false, given: true })) },
    { weight: optional ? 4 : 1, arbitrary: fc.constant({ value: undefined, valid: optional, given: false }) },
  );
const noString = fc.oneof(fc.integer(), fc.constant(null), fc.array(fc.anything()), fc.boolean());
const name = fc.stringMatching(/^[A-Za-z0-9_][A-Za-z0-9_.:-]{0,20}$/);
const noName = fc.oneof(noString, fc.constantFrom('', '..', '-x', 'a/b', 'a b', '\ud800', 'x'.repeat(256)));

const event = fc.record({
  action: field(fc.constant('on_role_change'), fc.oneof(noString, fc.constant('on_start')), false),
  role: field(fc.constantFrom(...(FOLLOWED.always ?? [])), fc.oneof(noString, fc.constant('leader')), false),
  cluster: field(fc.string({ minLength: 1, maxLength: 20 }), fc.oneof(noString, fc.constant('')), false),
  barman_server: field(name, noName, false),
  barman_model: field(name, noName, true),
  reset: field(fc.boolean(), fc.constantFrom('true', 1, null), true),
  switch_when: field(
    fc.constantFrom(...Object.keys(FOLLOWED)),
    fc.oneof(noString, fc.constant('never')),
    true,
  ),
  age_ms: field(fc.nat(), fc.constantFrom(-1, 0.5, '1', null, 1e300), true),
  unknown: field(fc.constant(undefined), fc.integer(), true),
});

/** The rules of the design, said once more and in another way. */
function expected(fields: Record<string, { value: unknown; valid: boolean }>): ExitCode {
  if (Object.values(fields).some(({ valid }) => !valid)) return ExitCode.INVALID_ARGS;
  const switchWhen = String(fields.switch_when?.value ?? 'promoted');
  if (!FOLLOWED[switchWhen]?.includes(String(fields.role?.value))) return ExitCode.CONFIG_SWITCH_SKIPPED;
  const model = fields.barman_model?.value !== undefined;
  if (model === (fields.reset?.value === true)) return ExitCode.INVALID_ARGS;
  return ExitCode.HTTP_ERROR;
}

test('any event, over any caller, has the right answer; with pg-backup-api down, that of a switch is HTTP_ERROR', async () => {
  await using run = await startFunction({}, { MAX_RETRIES: '1' });
  await run.host.api.refuse();
  await fc.assert(
    fc.asyncProperty(
      event,
      fc.constantFrom('http', 'base64', 'direct', 'eventbridge'),
      async (fields, caller) => {
        const given = Object.entries(fields).filter(
          ([key, { given }]) => given && !(key === 'unknown' && fields.unknown.valid),
        );
        const payload = Object.fromEntries(given.map(([key, { value }]) => [key, value]));
        const exitCode = expected(fields);
        let answer: Partial<Answer>;
        if (caller === 'direct') {
          answer = await run.invoke(payload);
        } else if (caller === 'eventbridge') {
          const detail: unknown = JSON.parse(JSON.stringify(payload));
          if (exitCode === ExitCode.INVALID_ARGS) {
            await expect(run.eventBridge(detail)).rejects.toMatchObject({ exitCode });
            return;
          }
          answer = await run.eventBridge(detail);
        } else {
          const response = await run.webhook(payload, { base64: caller === 'base64' });
          answer = response.answer;
          expect(response.statusCode).toBe({ 1: 200, 3: 502, 4: 400 }[exitCode as 1 | 3 | 4]);
        }
        expect(answer).toMatchObject({
          exit_code: exitCode,
          exit_status: exitStatus(exitCode),
          message: expect.stringMatching(/./),
          request_id: expect.any(String),
          event_id: expect.any(String),
        });
      },
    ),
    { numRuns: 1_000 },
  );
  expect(run.host.api.requests).toEqual([]);
});

test('any JSON at all, over any caller, is INVALID_ARGS', async () => {
  await using run = await startFunction();
  await fc.assert(
    fc.asyncProperty(fc.jsonValue(), async (value) => {
      expect(await run.invoke(value)).toMatchObject({ exit_code: 4 });
      expect(await run.webhook(JSON.stringify(value))).toMatchObject({
        statusCode: 400,
        answer: { exit_code: 4 },
      });
      await expect(run.eventBridge(value)).rejects.toMatchObject({ exitCode: 4 });
    }),
    { numRuns: 300 },
  );
  expect(run.host.api.requests).toEqual([]);
});
