/** What a stage can have only once it is deployed. */

import { type Osls, refuse } from './osls.ts';
import { resolved } from './parameters/index.ts';
import type { ParameterName } from './parameters/table.ts';

/**
 * Looks whether the stage is deployed, which needs credentials of AWS.
 *
 * @param parameter the one that is true, for the error
 * @param reason why it must not be true in a first deployment
 * @throws Error if the stage is not deployed yet, or its first deployment failed
 */
export async function expectDeployed(
  { resolveVariable }: Osls,
  parameter: ParameterName,
  reason: string,
): Promise<void> {
  const stage = await resolveVariable('sls:stage');
  if (await resolveVariable(`cf:barman-config-switch-${stage}.LedgerTable, null`)) return;
  refuse(`${parameter} is true, but stage ${stage} is not deployed yet: ${reason}; deploy once without it`);
}

/** For the ledger's tables: whether DynamoDB refuses to delete them. @throws Error in a first deployment */
export async function tableProtection(osls: Osls): Promise<boolean> {
  const isProtected = (await resolved(osls))['table-protection'];
  if (isProtected) {
    const reason = 'if its first deployment failed, its protected tables would stay, and block the next one';
    await expectDeployed(osls, 'table-protection', reason);
  }
  return isProtected;
}
