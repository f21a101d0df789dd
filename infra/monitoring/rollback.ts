/** What CloudFormation watches after a deployment, if the stage parameter `rollback` is true. */

import { expectDeployed } from '../deployed.ts';
import type { Osls } from '../osls.ts';
import { resolved } from '../parameters/index.ts';

/** They show that the function is broken, and not only Barman. */
const WATCHED = ['pg-backup-api-unreachable', 'heartbeat-lost', 'function-errors'];

/** Twice as long as the slowest of them takes (minutes). */
const MONITORING_TIME = 15;

/** CloudFormation's "RollbackConfiguration", which watches the alarms of one stage. */
export function watching(stage: string, region: string, account: string) {
  const partition = region.startsWith('cn-') ? 'aws-cn' : region.startsWith('us-gov-') ? 'aws-us-gov' : 'aws';
  return {
    RollbackTriggers: WATCHED.map((name) => ({
      Arn: `arn:${partition}:cloudwatch:${region}:${account}:alarm:barman-config-switch-${stage}-${name}`,
      Type: 'AWS::CloudWatch::Alarm',
    })),
    MonitoringTimeInMinutes: MONITORING_TIME,
  };
}

/**
 * Returns CloudFormation's "RollbackConfiguration" for osls. Not part of the parameters: the account is known only
 * once the region is, which is a parameter.
 *
 * @throws Error if the stage is not deployed yet
 */
export async function rollbackConfiguration(osls: Osls) {
  const { resolveVariable } = osls;
  const { rollback } = await resolved(osls);
  // Empty, because CloudFormation otherwise keeps what the last deployment gave.
  if (!rollback) return { RollbackTriggers: [], MonitoringTimeInMinutes: 0 };
  await expectDeployed(osls, 'rollback', 'CloudFormation fails if an alarm to watch does not exist');
  const stage = String(await resolveVariable('sls:stage'));
  const region = String(await resolveVariable('aws:region'));
  return watching(stage, region, String(await resolveVariable('aws:accountId')));
}
