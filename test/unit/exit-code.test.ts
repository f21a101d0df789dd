import { expect, test } from 'vitest';
import { ExitCode } from '../../functions/config-switch/config-switch.ts';
import { exitStatus } from '../../functions/config-switch/exit-code.ts';

test('ExitCode › has the values that patroni_barman documents, each with its name', () => {
  expect(ExitCode).toEqual({
    CONFIG_SWITCH_DONE: 0,
    CONFIG_SWITCH_SKIPPED: 1,
    CONFIG_SWITCH_FAILED: 2,
    HTTP_ERROR: 3,
    INVALID_ARGS: 4,
  });
  expect(Object.values(ExitCode).map(exitStatus)).toEqual(Object.keys(ExitCode));
});
