import { describe, expect, test } from 'vitest';
import { shouldSkipSwitch } from '../../functions/config-switch/config-switch.ts';
import { ExitCode, exitStatus } from '../../functions/config-switch/exit-code.ts';

describe('shouldSkipSwitch', () => {
  test.each([
    ['promoted', ['primary', 'promoted', 'master']],
    ['demoted', ['replica', 'demoted']],
    ['leader', ['primary', 'promoted', 'master', 'standby_leader']],
    ['always', ['primary', 'promoted', 'master', 'standby_leader', 'replica', 'demoted']],
  ] as const)('%s follows %s', (switchWhen, followed) => {
    const roles = ['primary', 'promoted', 'master', 'standby_leader', 'replica', 'demoted'] as const;
    expect(roles.filter((role) => !shouldSkipSwitch({ role, switchWhen }))).toEqual(followed);
  });
});

describe('ExitCode', () => {
  test('has the values that patroni_barman documents', () => {
    expect(ExitCode).toEqual({
      CONFIG_SWITCH_DONE: 0,
      CONFIG_SWITCH_SKIPPED: 1,
      CONFIG_SWITCH_FAILED: 2,
      HTTP_ERROR: 3,
      INVALID_ARGS: 4,
    });
  });

  test.each(Object.entries(ExitCode))('%s is the name of %i', (name, code) => {
    expect(exitStatus(code)).toBe(name);
  });
});
