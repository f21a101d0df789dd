/** The IAM policies in docs/iam: enough for what a stage consists of, and no more than their readers need. */

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { OPTIONAL, packageStage, REQUIRED } from './template.ts';

interface Policy {
  readonly Statement: readonly { readonly Action: readonly string[] | string; readonly Resource: unknown }[];
}

const read = (name: string) => {
  const text = readFileSync(`docs/iam/${name}.json`, 'utf8');
  return { policy: JSON.parse(text) as Policy, text };
};
const deploy = read('deploy');
const operate = read('operate');

/** Whether a policy has an action, with wildcards as IAM has them. */
function allows({ Statement }: Policy, action: string): boolean {
  return Statement.flatMap(({ Action }) => Action).some((pattern) =>
    new RegExp(`^${pattern.replaceAll('*', '.*')}$`).test(action),
  );
}

/** What CloudFormation calls to create, read, change and delete each type ("handlers" of its schemas). */
const ACTIONS: Readonly<Record<string, string>> = {
  'AWS::ApiGatewayV2::Api': 'apigateway: POST GET PATCH DELETE TagResource',
  'AWS::ApiGatewayV2::ApiMapping': 'apigateway: POST GET PATCH DELETE',
  'AWS::ApiGatewayV2::DomainName': 'apigateway: POST GET PATCH DELETE',
  'AWS::ApiGatewayV2::Integration': 'apigateway: POST GET PATCH DELETE',
  'AWS::ApiGatewayV2::Route': 'apigateway: POST GET PATCH DELETE',
  'AWS::ApiGatewayV2::Stage': 'apigateway: POST GET PATCH DELETE',
  'AWS::CloudWatch::Alarm': 'cloudwatch: PutMetricAlarm DescribeAlarms DeleteAlarms TagResource',
  'AWS::CloudWatch::Dashboard': 'cloudwatch: PutDashboard GetDashboard DeleteDashboards',
  'AWS::DynamoDB::Table':
    'dynamodb: CreateTable DescribeTable UpdateTable DeleteTable UpdateContinuousBackups DescribeContinuousBackups UpdateTimeToLive DescribeTimeToLive TagResource',
  'AWS::EC2::SecurityGroup':
    'ec2: CreateSecurityGroup DescribeSecurityGroups AuthorizeSecurityGroupEgress RevokeSecurityGroupEgress DeleteSecurityGroup CreateTags',
  'AWS::EC2::SecurityGroupIngress':
    'ec2: AuthorizeSecurityGroupIngress DescribeSecurityGroupRules RevokeSecurityGroupIngress',
  'AWS::EC2::VPCEndpoint': 'ec2: CreateVpcEndpoint DescribeVpcEndpoints ModifyVpcEndpoint DeleteVpcEndpoints',
  'AWS::Events::Rule': 'events: PutRule DescribeRule PutTargets ListTargetsByRule RemoveTargets DeleteRule',
  'AWS::IAM::Policy': 'iam: PutRolePolicy GetRolePolicy DeleteRolePolicy',
  'AWS::IAM::Role':
    'iam: CreateRole GetRole PutRolePolicy PutRolePermissionsBoundary UpdateAssumeRolePolicy PassRole DeleteRole TagRole',
  'AWS::Lambda::Alias': 'lambda: CreateAlias GetAlias UpdateAlias DeleteAlias',
  'AWS::Lambda::EventInvokeConfig':
    'lambda: PutFunctionEventInvokeConfig GetFunctionEventInvokeConfig UpdateFunctionEventInvokeConfig DeleteFunctionEventInvokeConfig',
  'AWS::Lambda::Function':
    'lambda: CreateFunction GetFunction UpdateFunctionCode UpdateFunctionConfiguration PutFunctionConcurrency DeleteFunction TagResource',
  'AWS::Lambda::Permission': 'lambda: AddPermission GetPolicy RemovePermission',
  'AWS::Logs::LogGroup':
    'logs: CreateLogGroup DescribeLogGroups PutRetentionPolicy DeleteLogGroup TagResource',
  'AWS::Route53::RecordSet': 'route53: ChangeResourceRecordSets GetChange ListResourceRecordSets',
  'AWS::S3::Bucket':
    's3: CreateBucket PutEncryptionConfiguration PutBucketPublicAccessBlock PutBucketTagging ListBucket DeleteBucket PutObject GetObject DeleteObject',
  'AWS::S3::BucketPolicy': 's3: PutBucketPolicy GetBucketPolicy DeleteBucketPolicy',
  'AWS::SNS::Subscription': 'sns: Subscribe GetSubscriptionAttributes Unsubscribe',
  'AWS::SNS::Topic': 'sns: CreateTopic GetTopicAttributes SetTopicAttributes DeleteTopic TagResource',
  'AWS::SQS::Queue': 'sqs: CreateQueue GetQueueAttributes SetQueueAttributes DeleteQueue TagQueue',
  'AWS::SQS::QueuePolicy': 'sqs: SetQueueAttributes GetQueueAttributes',
};

describe('the policy for who deploys', () => {
  test('covers every type of resource', async () => {
    // With an endpoint of SSM, which is the default, a template has all types.
    const { template } = await packageStage({ ...REQUIRED, ...OPTIONAL });
    const types = new Set(Object.values(template.Resources).map(({ Type }) => Type));
    expect(Object.keys(ACTIONS).toSorted()).toEqual([...types].toSorted());
    for (const type of types) {
      const [service, names = ''] = (ACTIONS[type] ?? '').split(': ');
      expect(names, `${type} has no actions in this test`).not.toBe('');
      for (const name of names.split(' ')) {
        expect(allows(deploy.policy, `${service}:${name}`), `${service}:${name}`).toBe(true);
      }
    }
  });

  test.each([
    'dynamodb:GetItem',
    'dynamodb:Scan',
    'sqs:ReceiveMessage',
    'lambda:InvokeFunction',
    'ssm:GetParameter',
  ])('does not allow %s', (action) => {
    expect(allows(deploy.policy, action)).toBe(false);
  });
});

describe('the policy for who operates', () => {
  test('allows each request of the CLI, and to write parameters', () => {
    const sources = readdirSync('cli').map((file) => readFileSync(join('cli', file), 'utf8'));
    const adapter = readFileSync('functions/config-switch/ledger/dynamodb.ts', 'utf8');
    // The CLI does not use the table of events.
    sources.push(adapter.replace(/^export class DynamoDbEvents .*?^}$/ms, ''));
    const commands = sources.flatMap((text) => [
      ...text.matchAll(/new (\w+)Command\(|\b(paginate)?(Scan)\b\(/g),
    ]);
    const names = new Set(commands.map(([, command, , scan]) => command ?? scan));
    expect(names.size).toBeGreaterThan(5);
    for (const name of names) {
      const action = name === 'Invoke' ? 'lambda:InvokeFunction' : `(dynamodb|sqs):${name}`;
      expect(operate.text, action).toMatch(new RegExp(`"${action}"`));
    }
    for (const action of ['ssm:GetParametersByPath', 'ssm:PutParameter', 'dynamodb:Scan']) {
      expect(allows(operate.policy, action)).toBe(true);
    }
  });

  test.each([
    'lambda:UpdateFunctionCode',
    'cloudformation:DeleteStack',
    'iam:PassRole',
    'dynamodb:DeleteTable',
  ])('does not allow %s', (action) => {
    expect(allows(operate.policy, action)).toBe(false);
  });
});

test.each([
  ['deploy', deploy],
  ['operate', operate],
])('%s.json is no longer than a managed policy may be', (_, { policy }) => {
  expect(JSON.stringify(policy).length).toBeLessThanOrEqual(6_144);
});

test('a statement on every resource has only actions that need it', () => {
  const everywhere = [deploy, operate]
    .flatMap(({ policy }) => policy.Statement)
    .filter(({ Resource }) => Resource === '*')
    .flatMap(({ Action }) => Action);
  expect(
    everywhere.filter((action) => !/^(ec2|logs|cloudwatch|cloudformation:ValidateTemplate)/.test(action)),
  ).toEqual([]);
});
