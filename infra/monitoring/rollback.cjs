/** What CloudFormation watches after a deployment (its "RollbackConfiguration"), if the stage parameter `rollback` is true. */

/** They show that the function is broken, and not only Barman. */
const WATCHED = ['pg-backup-api-unreachable', 'heartbeat-lost', 'function-errors'];

/**
 * Called by osls. Not part of parameters.cjs: the account is known only once the region is, which is a parameter.
 *
 * @throws Error if the stage is not deployed yet
 */
module.exports = async ({ resolveVariable }) => {
  const { rollback } = await resolveVariable('self:custom.parameters');
  // Empty, because CloudFormation otherwise keeps what the last deployment gave.
  if (!rollback) return { RollbackTriggers: [], MonitoringTimeInMinutes: 0 };
  const stage = await resolveVariable('sls:stage');
  const stack = `barman-config-switch-${stage}`;
  if (!(await resolveVariable(`cf:${stack}.LedgerTable, null`))) {
    const message = `rollback is true, but stage ${stage} is not deployed yet: CloudFormation fails if an alarm to watch does not exist; deploy once without it`;
    // osls prints the stack.
    throw Object.assign(new Error(message), { stack: message });
  }
  const [region, account] = [await resolveVariable('aws:region'), await resolveVariable('aws:accountId')];
  const partition = region.startsWith('cn-') ? 'aws-cn' : region.startsWith('us-gov-') ? 'aws-us-gov' : 'aws';
  return {
    RollbackTriggers: WATCHED.map((name) => ({
      Arn: `arn:${partition}:cloudwatch:${region}:${account}:alarm:${stack}-${name}`,
      Type: 'AWS::CloudWatch::Alarm',
    })),
    MonitoringTimeInMinutes: 10,
  };
};
