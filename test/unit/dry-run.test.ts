import * as v from 'valibot';
import { expect, test } from 'vitest';
import type {
  ConninfoOption,
  DiagnosedModel,
  DiagnosedServer,
  Diagnosis,
} from '../../functions/config-switch/barman/diagnosis.ts';
import { DiagnoseOutput, readDiagnosis } from '../../functions/config-switch/barman/diagnosis.ts';
import { rehearse } from '../../functions/config-switch/barman/dry-run.ts';
import type { ConfigTarget } from '../../functions/config-switch/target.ts';

const { servers, models } = readDiagnosis(
  v.parse(DiagnoseOutput, {
    servers: { healthy: { config: { cluster: 'main', streaming_archiver: true } } },
    models: { complete: { config: { cluster: 'main', conninfo: 'host=a', streaming_conninfo: 'host=a' } } },
  }),
);
const [HEALTHY] = [...servers.values()] as [DiagnosedServer];
const [COMPLETE] = [...models.values()] as [DiagnosedModel];
type Server = Partial<DiagnosedServer>;
const serverNamed = (name: string, change: Server = {}): Diagnosis['servers'] =>
  new Map([[name, { ...HEALTHY, ...change }]]);
/** A model that does not set some options. */
const without = (...options: ConninfoOption[]): Partial<DiagnosedModel> => ({
  connections: new Map([...(COMPLETE.connections ?? [])].filter(([option]) => !options.includes(option))),
});
const MAIN = serverNamed('main');
/** So many models, m0 and so on. */
const modelsOf = (count: number, change: Partial<DiagnosedModel> = {}): Diagnosis['models'] =>
  new Map(Array.from({ length: count }, (_, index) => [`m${index}`, { ...COMPLETE, ...change }]));
const FOREIGN = [...modelsOf(14, { cluster: 'payroll' })].map(
  ([name, model]) => [`hr-${name}`, model] as const,
);
const RESET = { reset: true } as const;
const M = { model: 'm' };
const M0 = { model: 'm0' };
const FAILED = 'so the switch would end as CONFIG_SWITCH_FAILED; ';

test.each<[string, ConfigTarget, Diagnosis['servers'], Diagnosis['models']]>([
  [
    'Barman has no server main, so the switch would end as HTTP_ERROR; it has no servers; ' +
      '`barman list-servers` on the Barman host shows their names',
    RESET,
    new Map(),
    new Map(),
  ],
  [
    'Barman has no server main, so the switch would end as HTTP_ERROR; it has 1 server; ' +
      '`barman list-servers` on the Barman host shows their names',
    RESET,
    serverNamed('other'),
    modelsOf(1),
  ],
  ['a switch would drop the active model of main (now no model is active)', RESET, MAIN, modelsOf(0)],
  [
    'a switch would drop the active model of main (now model m is active)',
    RESET,
    serverNamed('main', { active_model: 'm' }),
    modelsOf(0),
  ],
  [
    `Barman has no model m, ${FAILED}cluster main has 10 models: m0, m1, m2, m3, m4, m5, m6, m7, m8, m9; other clusters have none`,
    M,
    MAIN,
    modelsOf(10),
  ],
  [
    `Barman has no model m, ${FAILED}cluster main has 12 models: m0, m1, m2, m3, m4, m5, m6, m7, m8, m9 and 2 more; other clusters have none`,
    M,
    MAIN,
    modelsOf(12),
  ],
  [
    `Barman has no model m, ${FAILED}cluster main has 1 model: m0; other clusters have 14`,
    M,
    MAIN,
    new Map([...FOREIGN, ...modelsOf(1)]),
  ],
  [
    `Barman has no model m, ${FAILED}cluster main has no models; other clusters have 14`,
    M,
    MAIN,
    new Map(FOREIGN),
  ],
  [
    `model m0 belongs to cluster other and server main to main, ${FAILED}give both the same "cluster" in Barman's configuration`,
    M0,
    MAIN,
    modelsOf(1, { cluster: 'other' }),
  ],
  [
    'model m0 is already active on main; a switch would change nothing',
    M0,
    serverNamed('main', { active_model: 'm0' }),
    modelsOf(1),
  ],
  ['a switch would apply model m0 to main (now no model is active)', M0, MAIN, modelsOf(1)],
])('a dry run › says: %s', (outcome, target, servers, models) => {
  expect(rehearse({ servers, models }, 'main', target)).toBe(outcome);
});

const INACTIVE = 'server main is inactive; set "active = true" in Barman\'s configuration';
const DISABLED = 'server main is disabled; set "disabled = false" in Barman\'s configuration';
const ERRORS = 'in the configuration of server main as it is now';
const CHECK = '`barman check main` on the Barman host shows them';
const PASSIVE =
  'server main is passive (primary_ssh_command): it copies from another Barman host; switch it there';
const KEPT = 'so Barman would use what server main has there; add it to the model';

test.each<[string, Server, Partial<DiagnosedModel>]>([
  [INACTIVE, { active: false }, {}],
  [INACTIVE, {}, { active: false }],
  [DISABLED, { disabled: true }, {}],
  [DISABLED, {}, { disabled: true }],
  [`Barman finds 1 error ${ERRORS}; ${CHECK}`, { errors: 1 }, {}],
  [`Barman finds 2 errors ${ERRORS}, and has disabled it; ${CHECK}`, { errors: 2, disabled: true }, {}],
  [PASSIVE, { passive: true }, {}],
  [`the model does not set conninfo, ${KEPT}`, {}, without('conninfo')],
  [`the model does not set streaming_conninfo, ${KEPT}`, {}, without('streaming_conninfo')],
  [
    `the model does not set conninfo and streaming_conninfo, ${KEPT}`,
    {},
    without('conninfo', 'streaming_conninfo'),
  ],
  [`${INACTIVE}; ${PASSIVE}`, { active: false, passive: true }, {}],
])('a dry run › says why WAL may not flow: %s', (why, server, model) => {
  const servers = serverNamed('main', server);
  expect(rehearse({ servers, models: modelsOf(1, model) }, 'main', M0)).toBe(
    `a switch to model m0 would end as CONFIG_SWITCH_DONE, but WAL may not flow: ${why} (now no model is active)`,
  );
});

test('a dry run › says why WAL may not flow with the model that is active, and without one', () => {
  const models = modelsOf(1);
  const servers = serverNamed('main', { active: false, active_model: 'm0' });
  expect(rehearse({ servers, models }, 'main', M0)).toBe(
    `model m0 is already active on main, but WAL may not flow: ${INACTIVE} (now model m0 is active)`,
  );
  expect(rehearse({ servers, models }, 'main', RESET)).toBe(
    `a switch to no model would end as CONFIG_SWITCH_DONE, but WAL may not flow: ${INACTIVE} (now model m0 is active)`,
  );
});

test.each<[string, Server, Partial<DiagnosedModel>]>([
  ['makes an inactive server active', { active: false }, { active: true }],
  ['enables a disabled server', { disabled: true }, { disabled: false }],
  [
    'sets no streaming_conninfo where WAL is not streamed',
    { streaming_archiver: false },
    without('streaming_conninfo'),
  ],
])('a dry run › finds nothing wrong with a model that %s', (_, server, model) => {
  const servers = serverNamed('main', server);
  expect(rehearse({ servers, models: modelsOf(1, model) }, 'main', M0)).toBe(
    'a switch would apply model m0 to main (now no model is active)',
  );
});
