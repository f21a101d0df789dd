import type { Context } from 'aws-lambda';
import { describe, expect, test } from 'vitest';
import type { Diagnosis } from '../../functions/config-switch/barman/pg-backup-api.ts';
import {
  runBarmanConfigSwitch,
  shouldSkipSwitch,
  switchConfig,
} from '../../functions/config-switch/config-switch.ts';
import { ConfigSwitchFailed, HttpError } from '../../functions/config-switch/errors.ts';
import { parseRoleChange } from '../../functions/config-switch/event/payload.ts';
import { receive } from '../../functions/config-switch/event/receive.ts';
import {
  authenticate,
  authorise,
  type PermittedRoleChange,
} from '../../functions/config-switch/event/sender.ts';
import { ExitCode, exitStatus } from '../../functions/config-switch/exit-code.ts';
import { newFacts } from '../../functions/config-switch/invocation.ts';
import { Ledger } from '../../functions/config-switch/reconcile/ledger.ts';
import type { ConfigTarget } from '../../functions/config-switch/target.ts';
import { versionOf } from '../../functions/config-switch/version.ts';
import { MemoryEvents } from '../stand-ins/memory-events.ts';
import { MemoryTable } from '../stand-ins/memory-table.ts';

describe('shouldSkipSwitch', () => {
  test.each([
    ['promoted', ['primary', 'promoted', 'master']],
    ['demoted', ['replica', 'demoted']],
    ['leader', ['primary', 'promoted', 'master', 'standby_leader']],
    ['always', ['primary', 'promoted', 'master', 'standby_leader', 'replica', 'demoted']],
  ] as const)('switches with switch_when %s for the roles %s', (switch_when, accepted) => {
    const roles = ['primary', 'promoted', 'master', 'standby_leader', 'replica', 'demoted'] as const;
    expect(roles.filter((role) => !shouldSkipSwitch({ role, switch_when }))).toEqual(accepted);
  });
});

const REQUIRED = { action: 'on_role_change', role: 'primary', cluster: 'main', barman_server: 'main' };

/** A role change of a direct invocation, which may switch every server. */
async function permittedRoleChange(payload: object): Promise<PermittedRoleChange> {
  const event = receive(payload, { getRemainingTimeInMillis: () => 0 } as Context);
  const source = { secrets: async () => [], rereadSecrets: async () => undefined };
  const sender = await authenticate(event, source);
  return authorise(sender, parseRoleChange(sender.payload()), source, event.signal);
}

/** A guard in doubt, as after the POST. */
const newGuard = () => ({
  inDoubt: true,
  beforePost: async () => {},
  onCreated: () => {},
  passedOver: new Set<string>(),
});

describe('switchConfig', () => {
  const apiWithResult = (status: 'DONE' | 'FAILED') => ({
    createConfigSwitchOperation: async () => 'id',
    waitForOperation: async () => status,
  });
  const file = 'the reason is in <barman_home>/main/output/id.json on the Barman host';

  test.each<[ConfigTarget, string, string]>([
    [{ model: 'm' }, 'Barman server main now uses model m', 'Barman could not apply model m on main'],
    [
      { reset: true },
      'Barman server main now uses no model',
      'Barman could not drop the active model on main',
    ],
  ])('to %j reports what was done, or where to find the reason', async (target, done, failed) => {
    const guard = newGuard();
    expect(await switchConfig(apiWithResult('DONE'), 'main', target, guard)).toEqual({
      exit_code: 0,
      message: done,
      operation_id: 'id',
    });
    expect(guard.inDoubt).toBe(false);
    guard.inDoubt = true;
    const error = await switchConfig(apiWithResult('FAILED'), 'main', target, guard).catch(
      (error: unknown) => error,
    );
    expect(guard.inDoubt).toBe(false);
    expect(error).toBeInstanceOf(ConfigSwitchFailed);
    expect(error).toMatchObject({
      message: `${failed}: operation id ended FAILED; ${file}`,
      operation_id: 'id',
    });
  });
});

describe('switchConfig for an operation with an unknown result', () => {
  test('keeps it in doubt', async () => {
    const guard = newGuard();
    const api = {
      createConfigSwitchOperation: async () => 'id',
      waitForOperation: () => Promise.reject(new HttpError('not known')),
    };
    await expect(switchConfig(api, 'main', { reset: true }, guard)).rejects.toThrow(
      new HttpError('not known'),
    );
    expect(guard.inDoubt).toBe(true);
  });
});

describe('runBarmanConfigSwitch', () => {
  const run = async (change: object, diagnosis?: Diagnosis) => {
    const table = new MemoryTable();
    const targets: ConfigTarget[] = [];
    const api = {
      diagnose: async () => {
        if (diagnosis) return diagnosis;
        throw new Error('unexpected call of diagnose');
      },
      createConfigSwitchOperation: async (_: string, target: ConfigTarget) => {
        targets.push(target);
        return 'id';
      },
      waitForOperation: async () => 'DONE' as const,
      recentOperations: async () => [],
      endOf: async () => 'DONE' as const,
    };
    const options = {
      api,
      ledger: new Ledger(table),
      events: new MemoryEvents(),
      signal: new AbortController().signal,
      remaining: () => 28_500,
      operationTimeout: 60_000,
      facts: newFacts(),
    };
    const args = await permittedRoleChange({ ...REQUIRED, ...change });
    const result = await runBarmanConfigSwitch(options, args, versionOf(0, 'event'));
    return { result, targets, item: table.item };
  };

  test('checks the role before model and reset', async () => {
    const { result, item } = await run({ role: 'replica' });
    expect(result).toEqual({
      exit_code: 1,
      message: 'skipped: role "replica" does not match switch_when "promoted"',
    });
    expect(item).toBeUndefined();
  });

  test('records and applies the desired state', async () => {
    const { result, targets, item } = await run({ barman_model: 'm' });
    expect(result).toEqual({
      exit_code: 0,
      message: 'Barman server main now uses model m',
      operation_id: 'id',
    });
    expect(targets).toEqual([{ model: 'm' }]);
    expect(item).toMatchObject({
      cluster: 'main',
      desired_version: versionOf(0, 'event'),
      applied: 'model m',
    });
    expect((await run({ reset: true })).targets).toEqual([{ reset: true }]);
  });

  const modelNames = (count: number) => Array.from({ length: count }, (_, index) => `s${index}`);
  const barman = (models: readonly string[], active: string | null = null): Diagnosis => ({
    servers: new Map([['main', { active_model: active, cluster: 'main' }]]),
    models: new Map(models.map((name) => [name, { cluster: name === 'foreign' ? 'other' : 'main' }])),
  });
  const nothing: Diagnosis = { servers: new Map(), models: new Map() };

  test.each<[string, object, Diagnosis]>([
    [
      'Barman has no server main, so the switch would end as HTTP_ERROR; it has no servers',
      { reset: true },
      nothing,
    ],
    [
      'Barman has no server main, so the switch would end as HTTP_ERROR; its servers are other',
      { reset: true },
      { ...nothing, servers: new Map([['other', { active_model: null, cluster: 'main' }]]) },
    ],
    [
      'a switch would drop the active model of main (now model m is active)',
      { reset: true },
      barman([], 'm'),
    ],
    ['a switch would drop the active model of main (now no model is active)', { reset: true }, barman([])],
    [
      'Barman has no model m, so the switch would end as CONFIG_SWITCH_FAILED; its models are ' +
        's0, s1, s2, s3, s4, s5, s6, s7, s8, s9',
      { barman_model: 'm' },
      barman(modelNames(10)),
    ],
    [
      'Barman has no model m, so the switch would end as CONFIG_SWITCH_FAILED; its models are ' +
        's0, s1, s2, s3, s4, s5, s6, s7, s8, s9, …',
      { barman_model: 'm' },
      barman(modelNames(11)),
    ],
    [
      'model foreign belongs to cluster other and server main to main, so the switch would end as ' +
        'CONFIG_SWITCH_FAILED; give both the same "cluster" in Barman\'s configuration',
      { barman_model: 'foreign' },
      barman(['foreign']),
    ],
    [
      'model s0 is already active on main; a switch would change nothing',
      { barman_model: 's0' },
      barman(modelNames(1), 's0'),
    ],
    [
      'a switch would apply model s0 to main (now no model is active)',
      { barman_model: 's0' },
      barman(modelNames(1)),
    ],
  ])('dry run: %s', async (outcome, change, diagnosis) => {
    const { result, item } = await run({ ...change, dry_run: true }, diagnosis);
    expect(item).toBeUndefined();
    expect(result).toEqual({
      exit_code: 1,
      message: `dry run: ${outcome}`,
    });
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
