/**
 * A role change, from skip to switch. The names and their order are those of
 * `patroni.scripts.barman.config_switch`, which implements `patroni_barman config-switch`.
 */

import { rehearse } from './barman/dry-run.ts';
import type { PgBackupApi } from './barman/pg-backup-api.ts';
import type { RoleChange } from './event/payload.ts';
import type { PermittedRoleChange } from './event/sender.ts';
import { ExitCode, type Result } from './exit-code.ts';
import { type HearOptions, hear, whileHearing } from './hear.ts';
import { whileDiagnosing } from './inspect/diagnose.ts';
import { type Item, isLeased, isPaused, isPending } from './ledger/item.ts';
import { isStagePaused } from './ledger/stage.ts';
import { recordAndReconcile } from './reconcile/reconcile.ts';
import { type ConfigTarget, type RequestedTarget, requestedTarget } from './target.ts';
import { type EventTime, eventVersionOf } from './version.ts';

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

type RunOptions = Parameters<typeof recordAndReconcile>[0] &
  HearOptions & { readonly api: Pick<PgBackupApi, 'diagnose'> };

/**
 * Runs a config switch: skip, one-of check, then dry run or switch.
 *
 * @param options pg-backup-api, which connects at its first request, the ledger, and the time left
 * @param args the role change
 * @param when the role changed
 * @returns DONE or SKIPPED
 * @throws InvalidArgs if the role matches, and none or several of model, reset and leader are given
 * @throws LeaderUnknown, LedgerError, HttpError also for a dry run: a switch would end so, too
 * @throws LedgerError for an action that changes no role, so that the callback sends it again
 * @throws Busy, ConfigSwitchFailed as `recordAndReconcile` does
 */
export async function runBarmanConfigSwitch(
  options: RunOptions,
  args: PermittedRoleChange & (ToSkip | ToSwitch),
  when: EventTime,
): Promise<Result> {
  if (args.action !== 'on_role_change') return skipped(await hear(options, args));
  if (shouldSkipSwitch<PermittedRoleChange>(args)) {
    return skipped(`skipped: role "${args.role}" does not match switch_when "${args.switch_when}"`);
  }
  const { barman_server, cluster, role, switch_when, target, dry_run } = toSwitch(args);
  return whileHearing(options, barman_server, async () => {
    if (dry_run) return skipped(`dry run: ${await dryRun(options, barman_server, target)}`);
    const version = eventVersionOf(when, target);
    // With "always", as by hand, the role says nothing about the target.
    const because = switch_when !== 'always' && { role };
    return recordAndReconcile(options, { barman_server, cluster, ...because, target, version });
  });
}

/** Returns a role change that is not skipped, with its target. @throws InvalidArgs as `requestedTarget` does */
function toSwitch(args: PermittedRoleChange & ToSwitch) {
  return { ...args, target: requestedTarget(args) };
}

/** Returns what a switch would do, judged by the server's item in the ledger and by Barman's configuration. */
async function dryRun(
  options: RunOptions,
  barman_server: string,
  requested: RequestedTarget,
): Promise<string> {
  const { ledger, leaderOf, facts, signal } = options;
  // Before /diagnose, which takes long: without the ledger there is no switch.
  const [item, stage] = await Promise.all([ledger.get(barman_server, signal), ledger.stage(signal)]);
  let target: ConfigTarget;
  if ('follow_leader' in requested) {
    facts.followed = await leaderOf(item ?? { barman_server }, signal);
    target = facts.followed.target;
  } else target = requested;
  const diagnosis = await whileDiagnosing(options, (diagnose) => diagnose());
  const outcome = rehearse(diagnosis, barman_server, target, facts.followed?.leader);
  const stated = item ? inItsState(item, outcome) : outcome;
  if (!isStagePaused(stage)) return stated;
  return `all servers are paused: a role change would only be recorded; without that pause, ${stated}`;
}

/** Returns an outcome with what the item of the server says about it. */
function inItsState(item: Item, outcome: string): string {
  const { barman_server, attempts = 0, last_error, unsettled_since } = item;
  const notes: string[] = [];
  if (isLeased(item)) notes.push('an invocation is switching it now');
  else if (isPending(item)) {
    const failed = attempts > 0 && last_error !== undefined ? `, last attempt: ${last_error}` : '';
    notes.push(`${item.desired.target} is pending, which a role change now would replace${failed}`);
  }
  if (unsettled_since !== undefined) {
    notes.push(
      `it is unsettled since ${unsettled_since}: an older switch may still take effect, so what is desired is applied again`,
    );
  }
  const state = notes.length > 0 ? `; in the ledger: ${notes.join('; ')}` : '';
  if (!isPaused(item)) return `${outcome}${state}`;
  const until = item.paused_until === undefined ? 'until it is resumed' : `until ${item.paused_until}`;
  return `${barman_server} is paused ${until}: a role change would only be recorded; without the pause, ${outcome}${state}`;
}

function skipped(message: string): Result {
  return { exit_code: ExitCode.CONFIG_SWITCH_SKIPPED, message };
}
