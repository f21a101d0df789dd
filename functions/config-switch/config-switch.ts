/**
 * A role change, from skip to switch. The names and their order are those of `patroni.scripts.barman.config_switch`, which
 * implements `patroni_barman config-switch`.
 */

import { rehearse } from './barman/dry-run.ts';
import type { PgBackupApi } from './barman/pg-backup-api.ts';
import { configTarget } from './barman/target.ts';
import type { RoleChange } from './event/payload.ts';
import { ExitCode, type Result } from './exit-code.ts';
import { recordAndReconcile } from './reconcile/reconcile.ts';

export { switchConfig } from './barman/switch-config.ts';
export { ExitCode } from './exit-code.ts';

/** The roles that match a `switch_when`: as in Patroni's `_should_skip_switch`; "leader" is ours. */
const ROLES_SWITCHED: Record<RoleChange['switch_when'], ReadonlySet<RoleChange['role']> | 'any'> = {
  promoted: new Set(['primary', 'promoted', 'master']),
  demoted: new Set(['replica', 'demoted']),
  leader: new Set(['primary', 'promoted', 'master', 'standby_leader']),
  always: 'any',
};

/**
 * Whether a role change does not match its `switch_when`.
 *
 * @returns true to skip the switch
 */
export function shouldSkipSwitch({ role, switch_when }: Pick<RoleChange, 'role' | 'switch_when'>): boolean {
  const roles = ROLES_SWITCHED[switch_when];
  return roles !== 'any' && !roles.has(role);
}

/**
 * Runs a config switch: skip, one-of check, then dry run or switch.
 *
 * @param options pg-backup-api, which connects at its first request, the ledger, and the time left
 * @param args the role change
 * @param version from `versionOf`
 * @returns DONE or SKIPPED
 * @throws InvalidArgs if the role matches, and both or neither of model and reset are given
 * @throws LedgerError, Busy, ConfigSwitchFailed, HttpError as `recordAndReconcile` does
 */
export async function runBarmanConfigSwitch(
  options: Parameters<typeof recordAndReconcile>[0] & { readonly api: Pick<PgBackupApi, 'diagnose'> },
  args: RoleChange,
  version: string,
): Promise<Result> {
  if (shouldSkipSwitch(args)) {
    return skipped(`skipped: role "${args.role}" does not match switch_when "${args.switch_when}"`);
  }
  const target = configTarget(args);
  if (args.dry_run) {
    return skipped(`dry run: ${rehearse(await options.api.diagnose(), args.barman_server, target)}`);
  }
  return recordAndReconcile(options, {
    barman_server: args.barman_server,
    cluster: args.cluster,
    target,
    version,
  });
}

function skipped(message: string): Result {
  return { exit_code: ExitCode.CONFIG_SWITCH_SKIPPED, message };
}
