import { expect, test } from 'vitest';
import { rehearse } from '../../functions/config-switch/barman/dry-run.ts';
import type { Diagnosis } from '../../functions/config-switch/barman/pg-backup-api.ts';
import type { ConfigTarget } from '../../functions/config-switch/target.ts';

const serverNamed = (name: string, active_model: string | null = null): Diagnosis['servers'] =>
  new Map([[name, { active_model, cluster: 'main' }]]);
const MAIN = serverNamed('main');
/** So many models, m0 and so on. */
const modelsOf = (count: number, cluster = 'main'): Diagnosis['models'] =>
  new Map(Array.from({ length: count }, (_, index) => [`m${index}`, { cluster }]));
const RESET = { reset: true } as const;
const M0 = { model: 'm0' };

test.each<[string, ConfigTarget, Diagnosis['servers'], Diagnosis['models']]>([
  [
    'Barman has no server main, so the switch would end as HTTP_ERROR; it has no servers',
    RESET,
    new Map(),
    new Map(),
  ],
  [
    'Barman has no server main, so the switch would end as HTTP_ERROR; its servers are other',
    RESET,
    serverNamed('other'),
    modelsOf(1),
  ],
  ['a switch would drop the active model of main (now no model is active)', RESET, MAIN, modelsOf(0)],
  [
    'a switch would drop the active model of main (now model m is active)',
    RESET,
    serverNamed('main', 'm'),
    modelsOf(0),
  ],
  [
    'Barman has no model m, so the switch would end as CONFIG_SWITCH_FAILED; its models are m0, m1, m2, m3, m4, m5, m6, m7, m8, m9',
    { model: 'm' },
    MAIN,
    modelsOf(10),
  ],
  [
    'Barman has no model m, so the switch would end as CONFIG_SWITCH_FAILED; its models are m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, …',
    { model: 'm' },
    MAIN,
    modelsOf(11),
  ],
  [
    'model m0 belongs to cluster other and server main to main, so the switch would end as CONFIG_SWITCH_FAILED; ' +
      'give both the same "cluster" in Barman\'s configuration',
    M0,
    MAIN,
    modelsOf(1, 'other'),
  ],
  [
    'model m0 is already active on main; a switch would change nothing',
    M0,
    serverNamed('main', 'm0'),
    modelsOf(1),
  ],
  ['a switch would apply model m0 to main (now no model is active)', M0, MAIN, modelsOf(1)],
])('a dry run › says: %s', (outcome, target, servers, models) => {
  expect(rehearse({ servers, models }, 'main', target)).toBe(outcome);
});
