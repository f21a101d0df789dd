/** One config switch, from request to end: `switch_config` of `patroni.scripts.barman.config_switch`. */

import { ConfigSwitchFailed } from '../errors.ts';
import { ExitCode, type Result } from '../exit-code.ts';
import type { PgBackupApi, PostGuard } from './pg-backup-api.ts';
import { type ConfigTarget, describe, nameOf } from './target.ts';

/**
 * Sets a Barman server to a model, or to none, and waits for the operation to end.
 *
 * @param api pg-backup-api, which also has the deadline
 * @param barmanServer the server in Barman's configuration
 * @param target the model to apply, or `reset`
 * @param guard when a POST may be sent, and whether an operation may still be running
 * @returns the DONE result
 * @throws ConfigSwitchFailed if the operation ended FAILED
 * @throws HttpError if pg-backup-api is unreachable or refuses, or the result is unknown at the deadline
 */
export async function switchConfig(
  api: Pick<PgBackupApi, 'createConfigSwitchOperation' | 'waitForOperation'>,
  barmanServer: string,
  target: ConfigTarget,
  guard: PostGuard,
): Promise<Result & { operationId: string }> {
  const operationId = await api.createConfigSwitchOperation(barmanServer, target, guard);
  guard.onCreated(operationId);
  const status = await api.waitForOperation(barmanServer, operationId);
  guard.inDoubt = false;
  if (status === 'FAILED') throw operationFailed(barmanServer, target, operationId);
  return {
    exitCode: ExitCode.CONFIG_SWITCH_DONE,
    message: `Barman server ${barmanServer} now uses ${nameOf(target)}`,
    operationId,
  };
}

/** The error for an operation that ended FAILED. */
export function operationFailed(
  barmanServer: string,
  target: ConfigTarget,
  operationId: string,
): ConfigSwitchFailed {
  const error = new ConfigSwitchFailed(
    `Barman could not ${describe(target)} on ${barmanServer}: operation ${operationId} ended FAILED; ` +
      `the reason is in <barman_home>/${barmanServer}/output/${operationId}.json on the Barman host`,
  );
  error.operationId = operationId;
  return error;
}
