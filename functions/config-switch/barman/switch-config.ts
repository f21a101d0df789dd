/** One config switch, from request to end: `switch_config` of `patroni.scripts.barman.config_switch`. */

import { ConfigSwitchFailed } from '../errors.ts';
import { ExitCode, type Result } from '../exit-code.ts';
import { type ConfigTarget, describe, nameOf } from '../target.ts';
import { EarlierOutput, type PgBackupApi, type PostGuard } from './pg-backup-api.ts';

/** A config switch that is DONE. */
export interface Switched {
  readonly result: Result & { readonly operation_id: string };
  /** How long the next operation of that server is expected to take (ms). */
  readonly operation_ms: number;
}

/**
 * Sets a Barman server to a model, or to none, and waits for the operation to end.
 *
 * @param api pg-backup-api, which also has the deadline
 * @param barman_server the server in Barman's configuration
 * @param target the model to apply, or `reset`
 * @param guard when a POST may be sent, and whether an operation may still be running
 * @returns the DONE result, and how long the next operation is expected to take
 * @throws ConfigSwitchFailed if the operation ended FAILED
 * @throws HttpError if pg-backup-api is unreachable or refuses, or the result is unknown at the deadline
 */
export async function switchConfig(
  api: Pick<PgBackupApi, 'createConfigSwitchOperation' | 'waitForOperation'>,
  barman_server: string,
  target: ConfigTarget,
  guard: PostGuard,
): Promise<Switched> {
  const run = async () => {
    const operation_id = await api.createConfigSwitchOperation(barman_server, target, guard);
    guard.onCreated(operation_id);
    return {
      operation_id,
      ...(await api.waitForOperation(barman_server, operation_id, expectedOf(operation_id, guard))),
    };
  };
  const { operation_id, operation_ms, status } = await run().catch((error) => {
    if (!(error instanceof EarlierOutput)) throw error;
    // In doubt, as a POST without a response; another one gets another id.
    return run();
  });
  guard.inDoubt = false;
  if (status === 'FAILED') throw operationFailed(barman_server, target, operation_id);
  const message = `Barman server ${barman_server} now uses ${nameOf(target)}`;
  return { result: { exit_code: ExitCode.CONFIG_SWITCH_DONE, message, operation_id }, operation_ms };
}

/**
 * Returns how long an operation is expected to take (ms). Ids are times of the Barman host, such as `20261123T061000`. If
 * that of a new operation is not newer than the last one, its clock was set back. Then there may be an output of an earlier
 * operation with the same id, which only a first poll at once can notice (`EarlierOutput`): nothing is expected.
 */
function expectedOf(operation_id: string, { applied }: PostGuard): number | undefined {
  return applied && operation_id > applied.operation_id ? applied.operation_ms : undefined;
}

/** Returns the error for an operation that ended FAILED. */
export function operationFailed(
  barman_server: string,
  target: ConfigTarget,
  operation_id: string,
): ConfigSwitchFailed {
  const error = new ConfigSwitchFailed(
    `Barman could not ${describe(target)} on ${barman_server}: operation ${operation_id} ended FAILED; ` +
      `the reason is in <barman_home>/${barman_server}/output/${operation_id}.json on the Barman host`,
  );
  error.operation_id = operation_id;
  return error;
}
