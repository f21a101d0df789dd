/**
 * A role change, from skip to switch. The names and their order are those of
 * `patroni.scripts.barman.config_switch`, which implements `patroni_barman config-switch`.
 */

import { rehearse } from './barman/dry-run.ts';
import type { PgBackupApi } from './barman/pg-backup-api.ts';
import type { RoleChange } from './event/payload.ts';
import type { PermittedRoleChange } from './event/sender.ts';
import { ExitCode, type Result } from './exit-code.ts';
import { recordAndReconcile } from './reconcile/reconcile.ts';
import { configTarget } from './target.ts';

export { switchConfig } from './barman/switch-config.ts';
export { ExitCode } from './exit-code.ts';

/** The roles that match a `switch_when`: as in Patroni's `_should_skip_switch`; "leader" is ours. */
const ROLES_SWITCHED: Record<RoleChange['switch_when'], ReadonlySet<RoleChange['role']> | 'any'> = {
  promoted: new Set(['primary', 'promoted', 'master']),
  demoted: new Set(['replica', 'demoted']),
  leader: new Set(['primary', 'promoted', 'master', 'standby_leader']),
  always: 'any',
};

declare const decided: unique symbol;
/**
 * For the compiler only: what `shouldSkipSwitch` has not yet decided may be either, and only what is to be
 * switched is recorded.
 */
interface ToSkip {
  readonly [decided]?: 'skip';
}
interface ToSwitch {
  readonly [decided]?: 'switch';
}

/**
 * Returns whether a role change does not match its `switch_when`, so that the switch is skipped.
 */
export function shouldSkipSwitch<T extends Pick<RoleChange, 'role' | 'switch_when'>>(
  args: T & (ToSkip | ToSwitch),
): args is T & ToSkip {
  const roles = ROLES_SWITCHED[args.switch_when];
  return roles !== 'any' && !roles.has(args.role);
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
  args: PermittedRoleChange & (ToSkip | ToSwitch),
  version: string,
): Promise<Result> {
  if (shouldSkipSwitch<PermittedRoleChange>(args)) {
    return skipped(`skipped: role "${args.role}" does not match switch_when "${args.switch_when}"`);
  }
  const { barman_server, cluster, target, dry_run } = toSwitch(args);
  if (dry_run) return skipped(`dry run: ${rehearse(await options.api.diagnose(), barman_server, target)}`);
  return recordAndReconcile(options, { barman_server, cluster, target, version });
}

/** Returns a role change that is not skipped, with its target. @throws InvalidArgs as `configTarget` does */
function toSwitch(args: PermittedRoleChange & ToSwitch) {
  return { ...args, target: configTarget(args) };
}

function skipped(message: string): Result {
  return { exit_code: ExitCode.CONFIG_SWITCH_SKIPPED, message };
}
