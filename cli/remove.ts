/**
 * `npm run remove -- --stage S`: says what the removal of a stage does, and removes it with `--yes`. What would stop
 * the removal half-way stops it before anything is removed.
 */

import { AwsCliError, aws } from './aws.ts';
import { columns, type Program, print, start, type Values } from './command-line.ts';
import { osls, PARAM_OPTION, regionOfStage, STAGE_OPTIONS, unknownStage } from './stage.ts';

const OPTIONS = {
  ...STAGE_OPTIONS,
  ...PARAM_OPTION,
  yes: { type: 'boolean', help: 'removes the stage; without it nothing is removed' },
} as const;

export const REMOVE: Program<typeof OPTIONS> = {
  name: 'npm run remove',
  summary: 'Says what the removal of a stage does, and removes it with --yes.',
  options: OPTIONS,
};

interface Stack {
  readonly EnableTerminationProtection?: boolean;
}

interface StackResource {
  readonly LogicalResourceId: string;
  readonly PhysicalResourceId?: string;
  readonly ResourceStatus?: string;
}

/** A rule of a security group, as EC2 describes it. */
export interface SecurityGroupRule {
  readonly SecurityGroupRuleId: string;
  readonly GroupId: string;
  readonly IsEgress?: boolean;
  readonly ReferencedGroupInfo?: { readonly GroupId?: string };
}

/** What stays (its DeletionPolicy says so): the name in the template → the command that deletes it. */
export const STAYS: Readonly<Record<string, (id: string) => string>> = {
  LedgerTable: deleteTable,
  EventsTable: deleteTable,
  ConfigSwitchLogGroup: deleteLogGroup,
  HttpApiLogGroup: deleteLogGroup,
  LedgerEndpoint: (id) => `aws ec2 delete-vpc-endpoints --vpc-endpoint-ids ${id}`,
};

function deleteTable(name: string) {
  return `aws dynamodb delete-table --table-name ${name}`;
}

function deleteLogGroup(name: string) {
  return `aws logs delete-log-group --log-group-name ${name}`;
}

/**
 * Returns the rules that name the function's security group and stay when the stack is deleted. EC2 does not delete
 * a group that a rule of another group names.
 *
 * @param rules of the groups that may name it
 * @param group the function's security group
 * @param resources physical ids of the stack's resources: its groups, and its rules in other groups
 */
export function rulesInTheWay(
  rules: readonly SecurityGroupRule[],
  group: string,
  resources: ReadonlySet<string>,
): SecurityGroupRule[] {
  return rules.filter(
    ({ SecurityGroupRuleId, GroupId, ReferencedGroupInfo }) =>
      ReferencedGroupInfo?.GroupId === group &&
      !resources.has(GroupId) &&
      !resources.has(SecurityGroupRuleId),
  );
}

/** Removes the stage, or says what that would do. @returns the exit status: 1 without --yes, or that of osls */
export function remove(values: Values<typeof OPTIONS>): number {
  const { stage, param = [], yes } = values;
  const region = regionOfStage(stage, values.region, param);
  const stack = `barman-config-switch-${stage}`;
  if (findStack(region, stage, stack).EnableTerminationProtection) {
    const allow = 'aws cloudformation update-termination-protection --no-enable-termination-protection';
    throw new Error(
      `stage ${stage} is protected from removal (deletion protection is enabled); nothing was removed. To allow it:\n` +
        `  ${allow} --stack-name ${stack} --region ${region}`,
    );
  }
  const { StackResourceSummaries: resources } = aws<{ StackResourceSummaries: StackResource[] }>(
    region,
    'cloudformation',
    'list-stack-resources',
    '--stack-name',
    stack,
  );
  // A first deployment that failed has what it had created, and deleted again.
  const existing = resources.filter(({ ResourceStatus }) => ResourceStatus !== 'DELETE_COMPLETE');
  const idOf = new Map(existing.map((one) => [one.LogicalResourceId, one.PhysicalResourceId ?? '']));
  refuseWhileNamed(region, idOf);
  for (const line of explanation(stage, region, idOf)) print(line);
  if (!yes) {
    print('Nothing was removed. To remove the stage, add --yes.');
    return 1;
  }
  return osls('remove', stage, region, param);
}

/** What a removal does, line by line. @param idOf the stack's resources */
function explanation(stage: string, region: string, idOf: ReadonlyMap<string, string>): string[] {
  const stays = Object.entries(STAYS).flatMap(([name, command]) => {
    const id = idOf.get(name);
    return id ? [[`  ${id}`, `${command(id)} --region ${region}`]] : [];
  });
  return [
    `The stage ${stage} in ${region}, the stack barman-config-switch-${stage}:`,
    // CloudFormation waits for Lambda to release them. AWS names no maximum; users report 20 to 45 minutes.
    '- Its removal takes 20 to 40 minutes: AWS releases the network interfaces of a function in a VPC late.',
    '  If the command is interrupted, it goes on.',
    '- Meanwhile, and afterwards, Barman follows no failover.',
    '- A stage that is deployed again has another URL, unless it has a domain-name: every patroni.yml changes.',
    ...(stays.length === 0
      ? []
      : [
          '- These stay. Deployed again under the same name, the stage fails, unless you take them into the new stack',
          '  (docs/how-to/remove-a-stage.md#deploy-it-again), or delete them:',
          ...columns(stays),
        ]),
    `- The function parameters stay, too: /barman-config-switch/${stage}/…`,
  ];
}

/** @throws Error if there is no such stack, or AWS refuses */
function findStack(region: string, stage: string, stack: string): Stack {
  try {
    const found = aws<{ Stacks: Stack[] }>(
      region,
      'cloudformation',
      'describe-stacks',
      '--stack-name',
      stack,
    );
    return found.Stacks[0] ?? {};
  } catch (error) {
    if (!(error instanceof AwsCliError && error.message.includes('does not exist'))) throw error;
    throw unknownStage(stage, `${region} has no stack ${stack}`, 'give another --stage or --region');
  }
}

/** @param idOf the stack's resources @throws Error naming each rule, and how to remove it */
function refuseWhileNamed(region: string, idOf: ReadonlyMap<string, string>): void {
  const group = idOf.get('FunctionSecurityGroup');
  // A first deployment that failed may have none.
  if (!group) return;
  const naming = ['ip-permission.group-id', 'egress.ip-permission.group-id'].flatMap((filter) => {
    const words = ['ec2', 'describe-security-groups', '--filters', `Name=${filter},Values=${group}`];
    return aws<{ SecurityGroups: { GroupId: string }[] }>(region, ...words).SecurityGroups;
  });
  if (naming.length === 0) return;
  const ids = [...new Set(naming.map(({ GroupId }) => GroupId))].join(',');
  const words = ['ec2', 'describe-security-group-rules', '--filters', `Name=group-id,Values=${ids}`];
  const { SecurityGroupRules } = aws<{ SecurityGroupRules: SecurityGroupRule[] }>(region, ...words);
  const rules = rulesInTheWay(SecurityGroupRules, group, new Set(idOf.values()));
  if (rules.length === 0) return;
  const commands = rules.map(
    ({ IsEgress, GroupId, SecurityGroupRuleId }) =>
      `  aws ec2 revoke-security-group-${IsEgress ? 'egress' : 'ingress'} --group-id ${GroupId} ` +
      `--security-group-rule-ids ${SecurityGroupRuleId} --region ${region}`,
  );
  throw new Error(
    [
      `rules of other security groups name the function's, ${group}, and AWS does not delete a group that is named; nothing was removed.`,
      'Remove them where they are managed (Terraform), or with:',
      ...commands,
    ].join('\n'),
  );
}

if (import.meta.main) start(REMOVE, remove);
