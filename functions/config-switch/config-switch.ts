/**
 * A role change, from skip to switch: `patroni_barman config-switch`, without its faults. The names and their order are those
 * of `patroni.scripts.barman.config_switch`.
 */

import { rehearse } from './barman/dry-run.ts';
import type { PgBackupApi } from './barman/pg-backup-api.ts';
import { configTarget } from './barman/target.ts';
import type { RoleChange } from './event/payload.ts';
import { ExitCode, type Outcome } from './exit-code.ts';
import { converge, type Driver } from './reconcile/converge.ts';

export { switchConfig } from './barman/switch-config.ts';
export { ExitCode } from './exit-code.ts';

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
 * Runs a config switch from the role change to the outcome: skip, one-of check, switch.
 *
 * @param driver pg-backup-api, which connects only when it is asked something, the ledger, and how much time there is
 * @param args the role change
 * @param key of the wish, `wishKey`
 * @returns DONE or SKIPPED
 * @throws InvalidArgs if the role matches and both or neither of model and reset are given
 * @throws LedgerError, Busy, ConfigSwitchFailed, HttpError as `converge` does
 */
export async function runBarmanConfigSwitch(
  driver: Driver & { readonly api: Pick<PgBackupApi, 'diagnose'> },
  args: RoleChange,
  key: string,
): Promise<Outcome> {
  if (shouldSkipSwitch(args)) {
    return skipped(`nothing to switch: role "${args.role}" does not match switch_when "${args.switchWhen}"`);
  }
  const target = configTarget(args);
  if (args.dryRun) {
    return skipped(`dry run: ${rehearse(await driver.api.diagnose(), args.barmanServer, target)}`);
  }
  return converge(driver, { server: args.barmanServer, cluster: args.cluster, target, key });
}

function skipped(message: string): Outcome {
  return { exitCode: ExitCode.CONFIG_SWITCH_SKIPPED, message };
}
