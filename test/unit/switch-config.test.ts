import { describe, expect, test, vi } from 'vitest';
import { EarlierOutput } from '../../functions/config-switch/barman/pg-backup-api.ts';
import { switchConfig } from '../../functions/config-switch/config-switch.ts';
import { ConfigSwitchFailed, HttpError } from '../../functions/config-switch/errors.ts';
import type { ConfigTarget } from '../../functions/config-switch/target.ts';

/**
 * A switch of main, whose operation ends in a way.
 *
 * @returns the result or the error, and whether it is in doubt
 */
async function run(target: ConfigTarget, end: () => Promise<'DONE' | 'FAILED'>) {
  const create = vi.fn(async () => 'id');
  const waitForOperation = async () => ({ status: await end(), operation_ms: 500 });
  const api = { createConfigSwitchOperation: create, waitForOperation };
  // In doubt, as after the POST.
  const guard = {
    inDoubt: true,
    beforePost: async () => {},
    onCreated: () => {},
    waits: true,
    applied: undefined,
  };
  const result = await switchConfig(api, 'main', target, guard).catch((error: unknown) => error);
  return { result, inDoubt: guard.inDoubt, posts: create.mock.calls.length };
}

describe('switchConfig', () => {
  test.each<[ConfigTarget, string, string]>([
    [{ model: 'm' }, 'now uses model m', 'apply model m on main'],
    [{ reset: true }, 'now uses no model', 'drop the active model on main'],
  ])('to %j reports what was done, or where to find the reason', async (target, done, failed) => {
    expect(await run(target, async () => 'DONE')).toEqual({
      result: {
        result: { exit_code: 0, message: `Barman server main ${done}`, operation_id: 'id' },
        operation_ms: 500,
      },
      inDoubt: false,
      posts: 1,
    });
    const { result, inDoubt } = await run(target, async () => 'FAILED');
    expect([result, inDoubt]).toEqual([expect.any(ConfigSwitchFailed), false]);
    expect(result).toMatchObject({
      message:
        `Barman could not ${failed}: operation id ended FAILED; ` +
        'the reason is in <barman_home>/main/output/id.json on the Barman host',
      operation_id: 'id',
    });
  });

  test('keeps an operation with an unknown result in doubt', async () => {
    const unknown = new HttpError('not known');
    const ended = await run({ reset: true }, () => Promise.reject(unknown));
    expect(ended).toEqual({ result: unknown, inDoubt: true, posts: 1 });
  });

  test('repeats an operation whose output is that of an earlier one, once', async () => {
    const ends = [() => Promise.reject(new EarlierOutput('id')), async () => 'DONE' as const];
    const target = { model: 'm' };
    const again = await run(target, () => ends.shift()?.() ?? Promise.reject('no more'));
    expect(again).toMatchObject({ result: { result: { exit_code: 0 } }, inDoubt: false, posts: 2 });
    const error = new EarlierOutput('id');
    expect(await run(target, () => Promise.reject(error))).toEqual({
      result: error,
      inDoubt: true,
      posts: 2,
    });
  });

  test.each([
    ['as long as the operation is expected to take', '20261123T061000', 400],
    ['without an expectation if its id is that of the last one', '20261123T061001', undefined],
    ['without an expectation if its id is older: the clock was set back', '20261123T061002', undefined],
  ])('waits %s', async (_, last, expected) => {
    const waitForOperation = vi.fn(async (..._: unknown[]) => ({
      status: 'DONE' as const,
      operation_ms: 500,
    }));
    const api = { createConfigSwitchOperation: async () => '20261123T061001', waitForOperation };
    const guard = {
      ...{ inDoubt: true, beforePost: async () => {}, onCreated: () => {}, waits: true },
      applied: { operation_id: last, operation_ms: 400 },
    };
    await switchConfig(api, 'main', { reset: true }, guard);
    expect(waitForOperation.mock.calls).toEqual([['main', '20261123T061001', expected]]);
  });
});
