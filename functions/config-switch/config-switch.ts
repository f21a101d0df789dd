/**
 * Applies a Barman configuration model through pg-backup-api: `patroni_barman config-switch`, without its faults.
 * The names and their order are those of `patroni.scripts.barman.config_switch`.
 */

import { ConfigSwitchFailed } from './errors.ts';
import { ExitCode } from './exit-code.ts';
import { type ConfigTarget, configTarget, type RoleChange } from './payload.ts';
import type { Diagnosis, PgBackupApi } from './pg-backup-api.ts';

/** How a run ended that did not throw: Barman is where it was wished, or nothing was to be done. */
export interface Outcome {
  readonly exitCode: typeof ExitCode.CONFIG_SWITCH_DONE | typeof ExitCode.CONFIG_SWITCH_SKIPPED;
  /** One sentence for a person. */
  readonly message: string;
  readonly operationId?: string;
}

/** Which roles a `switch_when` lets through; "leader" is ours, the rest as in Patroni's `_should_skip_switch`. */
const ROLES_SWITCHED: Record<RoleChange['switchWhen'], ReadonlySet<RoleChange['role']> | 'any'> = {
  promoted: new Set(['primary', 'promoted', 'master']),
  demoted: new Set(['replica', 'demoted']),
  leader: new Set(['primary', 'promoted', 'master', 'standby_leader']),
  always: 'any',
};

/**
 * Whether the role change is none that the operator wants to follow.
 *
 * @param args the role change
 * @returns true if the switch is to be skipped
 */
export function shouldSkipSwitch({ role, switchWhen }: Pick<RoleChange, 'role' | 'switchWhen'>): boolean {
  const roles = ROLES_SWITCHED[switchWhen];
  return roles !== 'any' && !roles.has(role);
}

/**
 * Brings a Barman server to a model, or to none, and sees the operation to its end.
 *
 * @param api pg-backup-api; its deadline is the deadline of this
 * @param barmanServer the server in Barman's configuration
 * @param target the model to apply, or `reset`
 * @returns the DONE outcome
 * @throws ConfigSwitchFailed if the operation ended FAILED
 * @throws HttpError if pg-backup-api could not be asked, refused, or the outcome is not known at the deadline
 */
export async function switchConfig(
  api: Pick<PgBackupApi, 'createConfigSwitchOperation' | 'waitForOperation'>,
  barmanServer: string,
  target: ConfigTarget,
): Promise<Outcome & { operationId: string }> {
  const operationId = await api.createConfigSwitchOperation(barmanServer, target);
  const status = await api.waitForOperation(barmanServer, operationId);
  if (status === 'FAILED') {
    const error = new ConfigSwitchFailed(
      `Barman could not ${describe(target)} on ${barmanServer}: operation ${operationId} ended FAILED; ` +
        `the reason is in <barman_home>/${barmanServer}/output/${operationId}.json on the Barman host`,
    );
    error.operationId = operationId;
    throw error;
  }
  return {
    exitCode: ExitCode.CONFIG_SWITCH_DONE,
    message:
      'model' in target
        ? `Barman server ${barmanServer} now uses model ${target.model}`
        : `Barman server ${barmanServer} now uses no model`,
    operationId,
  };
}

/**
 * Runs a config switch from the role change to the outcome: skip, one-of check, switch.
 *
 * @param api pg-backup-api, which connects only when it is asked something
 * @param args the role change
 * @param switchTo brings Barman there, in the right order
 * @returns DONE or SKIPPED
 * @throws InvalidArgs if the role matches and both or neither of model and reset are given
 * @throws ConfigSwitchFailed, HttpError as `switchTo` does
 */
export async function runBarmanConfigSwitch(
  api: Pick<PgBackupApi, 'diagnose'>,
  args: RoleChange,
  switchTo: (barmanServer: string, target: ConfigTarget) => Promise<Outcome>,
): Promise<Outcome> {
  if (shouldSkipSwitch(args)) {
    return skipped(`nothing to switch: role "${args.role}" does not match switch_when "${args.switchWhen}"`);
  }
  const target = configTarget(args);
  if (args.dryRun) return skipped(`dry run: ${rehearse(await api.diagnose(), args.barmanServer, target)}`);
  return switchTo(args.barmanServer, target);
}

/**
 * What Barman would do with a target: says whether server and model exist and belong together.
 * The rules are those of `barman config-switch` (barman.config, `ServerConfig.apply_model`).
 */
function rehearse({ servers, models }: Diagnosis, barmanServer: string, target: ConfigTarget): string {
  const server = servers.get(barmanServer);
  if (server === undefined) {
    return `Barman knows no server ${barmanServer}, so the switch would end as HTTP_ERROR; ${known('servers', servers)}`;
  }
  const active = server.activeModel === null ? 'no model is active' : `model ${server.activeModel} is active`;
  if (!('model' in target)) {
    return `a switch would drop the active model of ${barmanServer} (now ${active})`;
  }
  const model = models.get(target.model);
  if (model === undefined) {
    return `Barman knows no model ${target.model}, so the switch would end as CONFIG_SWITCH_FAILED; ${known('models', models)}`;
  }
  if (model.cluster !== server.cluster) {
    return (
      `model ${target.model} belongs to cluster ${model.cluster} and server ${barmanServer} to ${server.cluster}, ` +
      `so the switch would end as CONFIG_SWITCH_FAILED; give both the same "cluster" in Barman's configuration`
    );
  }
  return server.activeModel === target.model
    ? `model ${target.model} is already active on ${barmanServer}; a switch would change nothing`
    : `a switch would apply model ${target.model} to ${barmanServer} (now ${active})`;
}

function known(what: string, names: ReadonlyMap<string, unknown>): string {
  const shown = [...names.keys()].slice(0, 10).join(', ');
  return names.size === 0 ? `it knows no ${what}` : `its ${what} are ${shown}${names.size > 10 ? ', …' : ''}`;
}

function skipped(message: string): Outcome {
  return { exitCode: ExitCode.CONFIG_SWITCH_SKIPPED, message };
}

function describe(target: ConfigTarget): string {
  return 'model' in target ? `apply model ${target.model}` : 'drop the active model';
}
