/** What the callback for Patroni nodes repeats, because it is one file that is copied to a node. */

import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { BARMAN_NAME, MAX_NAME_LENGTH } from '../../functions/config-switch/target.ts';
import { STAGE_NAME } from '../../infra/parameters/rules.ts';

const CALLBACK = readFileSync('patroni/barman_config_switch.py', 'utf8');

/** Returns the value of a constant of the callback, as it is written. */
function constant(name: string): string | undefined {
  return new RegExp(`^${name} = "?(.*?)"?$`, 'm').exec(CALLBACK)?.[1];
}

test('the callback › has the version of package.json', () => {
  const { version } = JSON.parse(readFileSync('package.json', 'utf8')) as { version: string };
  expect(version).toMatch(/^\d+\.\d+\.\d+/);
  expect(constant('VERSION')).toBe(version);
});

test('the callback › accepts the names that the function accepts', () => {
  expect(`^${constant('BARMAN_NAME')}$`).toBe(BARMAN_NAME.source);
  expect(`^${constant('STAGE_NAME')}$`).toBe(STAGE_NAME.source);
  expect(constant('MAX_NAME_LENGTH')).toBe(String(MAX_NAME_LENGTH));
});
