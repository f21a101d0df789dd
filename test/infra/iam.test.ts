/** The policies for deployments in docs/iam, and the function's role, simulated: enough, and no more. */

import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import {
  functionArn,
  handlerNeeds,
  type Need,
  OSLS_CALLS,
  ofStage,
  RELEASE_CALLS,
  resolved,
  STACK,
  unusedReasons,
} from './deployment-calls.ts';
import {
  ACCOUNT,
  allows,
  arn,
  type Call,
  calls,
  type Policy,
  REGION,
  readPolicy,
  type Statement,
  simulate,
} from './simulate.ts';
import { OPTIONAL, packageStage, REQUIRED, type Template } from './template.ts';

const deploy = readPolicy('deploy');
const network = readPolicy('network');
const domain = readPolicy('domain');
const key = readPolicy('key');
const boundary = readPolicy('boundary');
/** For a stage without `permissions-boundary`, as the documentation says. */
const unbounded: Policy = {
  ...deploy,
  Statement: deploy.Statement.map(({ Condition, ...statement }) =>
    statement.Sid === 'BoundedRole' ? statement : { ...statement, ...(Condition && { Condition }) },
  ),
};

const [full, existing, closed] = await Promise.all([
  packageStage({ ...REQUIRED, ...OPTIONAL }),
  packageStage({ ...REQUIRED, 'ssm-access': 'sg-0123456789abcdef0' }),
  packageStage({
    ...REQUIRED,
    ...{ api: 'none', 'event-bus': 'default', 'alarm-topic': arn('sns', 'alarms') },
    ...{ 'ssm-access': 'nat', 'ledger-access': 'nat' },
  }),
]);
const VARIANTS: readonly (readonly [string, Template, Policy[]])[] = [
  ['every parameter', full.template, [deploy, network, domain, key]],
  ['an existing endpoint of SSM, and without a boundary', existing.template, [unbounded, network]],
  ['a NAT, and without an API and a boundary', closed.template, [unbounded, network]],
];

const list = <T>(value: T | readonly T[]): readonly T[] => (Array.isArray(value) ? value : [value as T]);

/** Returns the calls of a need that AWS has. @throws Error if it has none */
async function callsOf(need: Need): Promise<Call[]> {
  const found: Call[] = [];
  for (const call of need) if ((await allows([], call)) !== undefined) found.push(call);
  return found.length > 0 ? found : need.slice(0, 1).map((call) => ({ ...call, resource: '*' }));
}

const reasons = new Set<string>();
const deployments = await Promise.all(
  VARIANTS.map(async ([name, template, policies]) => {
    const needs = handlerNeeds(template, reasons).map((need) => [JSON.stringify(need), need] as const);
    const needed = await Promise.all([...new Map(needs).values()].map(callsOf));
    return { name, policies, needed: [...OSLS_CALLS, ...RELEASE_CALLS, ...needed.flat()] };
  }),
);

describe.each(deployments)('a deployment with $name', ({ policies, needed }) => {
  test('is allowed to create, update, roll back and remove the stage', async () => {
    const { allowed, denied } = await simulate(policies, needed);
    expect(denied).toEqual([]);
    expect(allowed.length).toBeGreaterThan(300);
  });

  test('is denied all of that for another stage', async () => {
    const others = needed.flatMap((call) => ofStage('test', call) ?? []);
    const { allowed, denied } = await simulate(policies, others);
    expect(allowed).toEqual([]);
    expect(denied.length).toBeGreaterThan(200);
  });
});

test('each reason to leave out a permission of a handler is one for some resource', () => {
  expect(unusedReasons(reasons)).toEqual([]);
});

test('a deployment has no action that nothing needs', () => {
  const needed = new Set(deployments.flatMap((one) => one.needed.map(({ action }) => action.toLowerCase())));
  const patterns = [deploy, network, domain, key].flatMap(({ Statement }) =>
    Statement.flatMap(({ Action }) => list(Action)),
  );
  const unneeded = patterns.filter((pattern) => {
    const matches = new RegExp(`^${pattern.toLowerCase().replaceAll('*', '.*')}$`);
    return ![...needed].some((action) => matches.test(action));
  });
  expect(unneeded).toEqual([]);
});

const ROLE = arn('iam', `role/${STACK}-${REGION}`, `:${ACCOUNT}`);
const BOUNDARY = arn('iam', `policy/${STACK}-boundary`, `:${ACCOUNT}`);
const bounded = { 'iam:PermissionsBoundary': BOUNDARY };
const via = (service: string) => ({ 'kms:ViaService': `${service}.${REGION}.amazonaws.com` });
const api = (path: string) => arn('apigateway', path, `${REGION}:`);
const group = arn('ec2', 'security-group/sg-0aaaaaaaaaaaaaaaa');
const otherVpc = { 'ec2:Vpc': arn('ec2', 'vpc/vpc-0aaaaaaaaaaaaaaaa') };
const ownVpc = { 'ec2:Vpc': arn('ec2', `vpc/${REQUIRED.vpc}`) };
const onOwn = { 'aws:ResourceTag/service': 'barman-config-switch', 'aws:ResourceTag/stage': 'prod' };
const byCloudFormation = { 'aws:CalledViaFirst': 'cloudformation.amazonaws.com' };
const ownTags = { 'aws:RequestTag/service': 'barman-config-switch', 'aws:RequestTag/stage': 'prod' };

/** What no one who deploys may do, however the stage is set up. */
const NO_DEPLOYMENT: Readonly<Record<string, readonly Call[]>> = {
  'more permissions for the role of the function': [
    ...calls('iam', 'CreateRole PutRolePolicy', ROLE),
    ...calls('iam', 'CreateRole PutRolePolicy PutRolePermissionsBoundary', ROLE, {
      'iam:PermissionsBoundary': 'arn:aws:iam::aws:policy/AdministratorAccess',
    }),
    ...calls('iam', 'AttachRolePolicy UpdateAssumeRolePolicy DeleteRolePermissionsBoundary', ROLE, bounded),
    ...calls('iam', 'CreatePolicyVersion SetDefaultPolicyVersion DeletePolicy', BOUNDARY),
  ],
  'other roles and identities': [
    ...calls('iam', 'CreateRole PutRolePolicy', arn('iam', 'role/admin', `:${ACCOUNT}`), bounded),
    ...calls('iam', 'PassRole', arn('iam', 'role/admin', `:${ACCOUNT}`), {
      'iam:PassedToService': 'lambda.amazonaws.com',
    }),
    ...['cloudformation', 'ec2'].flatMap((service) =>
      calls('iam', 'PassRole', ROLE, { 'iam:PassedToService': `${service}.amazonaws.com` }),
    ),
    ...calls('iam', 'CreateUser AttachUserPolicy CreateAccessKey', arn('iam', 'user/eve', `:${ACCOUNT}`)),
    ...calls(
      'iam',
      'CreateServiceLinkedRole',
      arn('iam', 'role/aws-service-role/ecs.amazonaws.com/AWSServiceRoleForECS', `:${ACCOUNT}`),
    ),
  ],
  'another way to the function': [
    ...['*', ACCOUNT, '999999999999', 's3.amazonaws.com'].flatMap((Principal) =>
      calls('lambda', 'AddPermission', functionArn(STACK), { 'lambda:Principal': Principal }),
    ),
    ...calls('lambda', 'CreateFunctionUrlConfig InvokeFunction', functionArn(STACK)),
    ...calls('lambda', 'InvokeFunction', functionArn(STACK, 'inspection')),
  ],
  'what the stage knows': [
    ...['', '-events'].flatMap((suffix) =>
      calls(
        'dynamodb',
        'GetItem Scan Query PutItem UpdateItem DeleteItem RestoreTableFromBackup',
        arn('dynamodb', `table/${STACK}${suffix}`),
      ),
    ),
    ...calls(
      'ssm',
      'GetParameter GetParametersByPath PutParameter',
      arn('ssm', 'parameter/barman-config-switch/prod/url'),
    ),
    ...calls('sqs', 'ReceiveMessage SendMessage PurgeQueue', arn('sqs', `${STACK}-failures`)),
    ...calls('logs', 'FilterLogEvents', arn('logs', `log-group:/aws/lambda/${STACK}`)),
    ...calls('kms', 'Decrypt', OPTIONAL['parameters-key'], via('ssm')),
  ],
  'functions, stacks, buckets and rules of others': [
    ...calls('lambda', 'CreateFunction UpdateFunctionCode DeleteFunction', functionArn('payroll')),
    ...calls('cloudformation', 'CreateChangeSet DeleteStack', arn('cloudformation', 'stack/payroll/1')),
    ...calls('cloudformation', 'CreateChangeSet', arn('cloudformation', `stack/${STACK}/1`), {
      'cloudformation:ImportResourceTypes': 'AWS::EC2::SecurityGroup',
    }),
    ...calls('s3', 'DeleteBucket PutBucketPolicy ListBucket', 'arn:aws:s3:::payroll'),
    ...calls('s3', 'GetObject PutObject DeleteObject', 'arn:aws:s3:::payroll/key'),
    ...calls('s3', 'PutObject DeleteObject', 'arn:aws:s3:::bucket/truststore.pem'),
    ...calls('events', 'PutRule PutTargets DeleteRule', arn('events', 'rule/payroll')),
    ...calls('dynamodb', 'DeleteTable', arn('dynamodb', 'table/payroll')),
    ...calls('logs', 'DeleteLogGroup PutRetentionPolicy', arn('logs', 'log-group:/aws/lambda/payroll')),
    ...calls('cloudwatch', 'DeleteAlarms', arn('cloudwatch', 'alarm:payroll')),
    ...calls('cloudwatch', 'PutDashboard', arn('cloudwatch', 'dashboard/payroll', `:${ACCOUNT}`)),
    ...calls('sns', 'Subscribe DeleteTopic', arn('sns', 'payroll')),
    ...calls('sqs', 'SetQueueAttributes DeleteQueue', arn('sqs', 'payroll')),
  ],
  'EC2 of others': [
    ...calls(
      'ec2',
      'DeleteSecurityGroup AuthorizeSecurityGroupIngress AuthorizeSecurityGroupEgress RevokeSecurityGroupIngress CreateTags DeleteTags',
      group,
      { ...otherVpc, ...ownTags },
    ),
    ...calls('ec2', 'CreateTags', group, { 'ec2:CreateAction': 'RunInstances', ...ownTags }),
    ...calls('ec2', 'CreateTags', arn('ec2', 'instance/i-0aaaaaaaaaaaaaaaa'), {
      ...ownTags,
      ...byCloudFormation,
    }),
    ...calls('ec2', 'CreateTags DeleteTags', arn('ec2', 'instance/i-0aaaaaaaaaaaaaaaa'), onOwn),
    // Of another service, whose stage has the same name.
    ...calls('ec2', 'CreateTags', group, {
      ...ownTags,
      ...ownVpc,
      ...byCloudFormation,
      'aws:RequestTag/service': 'payroll',
    }),
    ...calls('ec2', 'DeleteSecurityGroup', group, { ...onOwn, 'aws:ResourceTag/service': 'payroll' }),
    ...calls(
      'ec2',
      'DeleteVpcEndpoints ModifyVpcEndpoint CreateTags',
      arn('ec2', 'vpc-endpoint/vpce-0a'),
      ownTags,
    ),
    ...calls(
      'ec2',
      'CreateSecurityGroup CreateVpcEndpoint',
      arn('ec2', 'vpc/vpc-0aaaaaaaaaaaaaaaa'),
      ownTags,
    ),
    // Groups without tags, in the VPC of the stage, and what only CloudFormation may do to them, elsewhere.
    ...calls('ec2', 'CreateTags AuthorizeSecurityGroupEgress RevokeSecurityGroupEgress', group, {
      ...ownVpc,
      ...ownTags,
    }),
    ...calls(
      'ec2',
      'DeleteSecurityGroup AuthorizeSecurityGroupIngress RevokeSecurityGroupIngress DeleteTags',
      group,
      { ...ownVpc, ...ownTags, ...byCloudFormation },
    ),
    ...calls('ec2', 'CreateTags AuthorizeSecurityGroupEgress RevokeSecurityGroupEgress', group, {
      ...otherVpc,
      ...ownTags,
      ...byCloudFormation,
    }),
    ...calls('ec2', 'CreateTags AuthorizeSecurityGroupEgress RevokeSecurityGroupEgress', group, {
      ...ownVpc,
      ...ownTags,
      ...byCloudFormation,
      'aws:ResourceTag/service': 'payroll',
    }),
    ...calls('ec2', 'DeleteVpcEndpoints ModifyVpcEndpoint', arn('ec2', 'vpc-endpoint/vpce-0a'), {
      ...ownTags,
      ...byCloudFormation,
    }),
    ...calls('ec2', 'RunInstances TerminateInstances', arn('ec2', 'instance/i-0aaaaaaaaaaaaaaaa')),
    ...calls('ec2', 'DeleteRouteTable CreateRoute', arn('ec2', 'route-table/rtb-0123456789abcdef0')),
  ],
  'APIs of others': [
    ...calls('apigateway', 'PATCH DELETE', api('/apis/x'), { 'apigateway:Resource/ApiName': 'payroll' }),
    ...calls('apigateway', 'PATCH DELETE', api('/apis/x')),
    ...calls('apigateway', 'POST', api('/apis'), { 'apigateway:Request/ApiName': 'payroll' }),
    ...calls('apigateway', 'POST PATCH DELETE', api('/apis/x/authorizers')),
    ...calls('apigateway', 'GET POST', api('/restapis'), { 'apigateway:Request/ApiName': STACK }),
    ...calls('apigateway', 'PATCH DELETE TagResource', api('/restapis/x'), {
      'apigateway:Resource/ApiName': STACK,
    }),
    ...calls('apigateway', 'PATCH DELETE AddCertificateToDomain', api('/domainnames/pay.example.com')),
    ...calls('apigateway', 'PATCH', api('/account')),
  ],
  'keys of others': [
    ...calls('kms', 'CreateGrant Decrypt DescribeKey', arn('kms', 'key/payroll'), via('dynamodb')),
    ...calls('kms', 'CreateGrant Decrypt Encrypt', OPTIONAL.key),
    ...calls('kms', 'ScheduleKeyDeletion PutKeyPolicy', OPTIONAL.key),
  ],
  'Route 53 of others': [
    ...calls('route53', 'ChangeResourceRecordSets', 'arn:aws:route53:::hostedzone/Z0AAAAAAAAAAAAAAAAAAA', {
      'route53:ChangeResourceRecordSetsNormalizedRecordNames': ['barman.example.com'],
      'route53:ChangeResourceRecordSetsRecordTypes': ['A'],
    }),
    ...[
      ['pay.example.com', 'A'],
      ['barman.example.com', 'NS'],
    ].flatMap(([name = '', type = '']) =>
      calls(
        'route53',
        'ChangeResourceRecordSets',
        `arn:aws:route53:::hostedzone/${OPTIONAL['hosted-zone']}`,
        {
          'route53:ChangeResourceRecordSetsNormalizedRecordNames': ['barman.example.com', name],
          'route53:ChangeResourceRecordSetsRecordTypes': ['A', type],
        },
      ),
    ),
    ...calls(
      'route53',
      'GetHostedZone ListResourceRecordSets',
      'arn:aws:route53:::hostedzone/Z0AAAAAAAAAAAAAAAAAAA',
    ),
    ...calls('route53', 'DeleteHostedZone', `arn:aws:route53:::hostedzone/${OPTIONAL['hosted-zone']}`),
  ],
};

test.each(Object.entries(NO_DEPLOYMENT))('a deployment is denied %s', async (_, refused) => {
  const { allowed } = await simulate([deploy, network, domain, key], refused);
  expect(allowed).toEqual([]);
});

const TABLE = arn('dynamodb', `table/${STACK}`);
const LOG_STREAM = arn('logs', `log-group:/aws/lambda/${STACK}:log-stream:1`);
const PARAMETERS = ['', '/'].map((end) => arn('ssm', `parameter/barman-config-switch/prod${end}`));
const INTERFACES = ['network-interface/eni-1', 'subnet/subnet-1', 'security-group/sg-1'].map((name) =>
  arn('ec2', name),
);
const byTheCode = { 'lambda:SourceFunctionArn': functionArn(STACK) };
/** What the code calls, and Lambda with the function's role. */
const FUNCTION_CALLS: readonly Call[] = [
  ...calls('dynamodb', 'GetItem UpdateItem Scan', TABLE),
  ...calls('dynamodb', 'GetItem PutItem', `${TABLE}-events`),
  ...PARAMETERS.flatMap((path) => calls('ssm', 'GetParametersByPath', path, byTheCode)),
  ...calls('sqs', 'SendMessage', arn('sqs', `${STACK}-failures`)),
  ...calls('logs', 'CreateLogStream PutLogEvents', LOG_STREAM),
  ...INTERFACES.slice(1).flatMap((one) => calls('ec2', 'CreateNetworkInterface', one)),
  ...calls(
    'ec2',
    'CreateNetworkInterface DeleteNetworkInterface AssignPrivateIpAddresses UnassignPrivateIpAddresses',
    INTERFACES[0] as string,
  ),
  ...calls('ec2', 'DescribeNetworkInterfaces DescribeSubnets', '*'),
];

/** The same, by the policy that a key adds. */
const KEY_CALLS: Readonly<Record<string, readonly Call[]>> = {
  ParametersKeyPolicy: calls('kms', 'Decrypt', OPTIONAL['parameters-key'], via('ssm')),
  KeyPolicy: [
    ...calls('kms', 'Decrypt', OPTIONAL.key, via('dynamodb')),
    ...calls('kms', 'Decrypt GenerateDataKey', OPTIONAL.key, via('sqs')),
  ],
};

/** What not even a role with every permission may do within the boundary. */
const NO_FUNCTION: readonly Call[] = [
  ...calls('dynamodb', 'DeleteItem DeleteTable', TABLE),
  ...calls('dynamodb', 'DeleteItem', `${TABLE}-events`),
  ...calls('dynamodb', 'GetItem', arn('dynamodb', 'table/barman-config-switch-test')),
  ...calls('ssm', 'GetParametersByPath', arn('ssm', 'parameter/barman-config-switch/test')),
  ...calls('ssm', 'PutParameter DeleteParameter', arn('ssm', 'parameter/barman-config-switch/prod/url')),
  ...calls('sqs', 'ReceiveMessage PurgeQueue', arn('sqs', `${STACK}-failures`)),
  ...calls('logs', 'PutLogEvents', arn('logs', 'log-group:/aws/lambda/payroll:log-stream:1')),
  ...calls('kms', 'Decrypt', OPTIONAL.key),
  ...calls('kms', 'Encrypt', OPTIONAL.key, via('ssm')),
  ...calls('iam', 'CreateUser', arn('iam', 'user/eve', `:${ACCOUNT}`)),
  ...calls('lambda', 'InvokeFunction UpdateFunctionCode', functionArn(STACK)),
  ...calls('s3', 'GetObject', 'arn:aws:s3:::payroll/key'),
  ...INTERFACES.flatMap((one) => calls('ec2', 'CreateNetworkInterface', one, byTheCode)),
  ...calls('ec2', 'DescribeSubnets', '*', byTheCode),
];

/** Returns the policies of the function's role. */
function rolePolicies(template: Template): Policy[] {
  return Object.values(resolved(template)).flatMap(({ Type, Properties }) => {
    if (Type === 'AWS::IAM::Policy') return [Properties.PolicyDocument];
    const inline = Type === 'AWS::IAM::Role' ? Properties.Policies : [];
    return inline.map(({ PolicyDocument }: { PolicyDocument: Policy }) => PolicyDocument);
  });
}

describe.each(VARIANTS)('the function of a stage with %s', (_, template) => {
  const policies = rolePolicies(template);
  const needed = [
    ...FUNCTION_CALLS,
    ...Object.entries(KEY_CALLS).flatMap(([name, called]) => (name in template.Resources ? called : [])),
  ];

  test('is allowed what its code and Lambda call, also within the boundary', async () => {
    expect((await simulate(policies, needed)).denied).toEqual([]);
    expect((await simulate(policies, needed, boundary)).denied).toEqual([]);
  });

  test('is denied everything else', async () => {
    expect((await simulate(policies, NO_FUNCTION)).allowed).toEqual([]);
    const others = needed.flatMap((call) => ofStage('test', call) ?? []);
    expect(others.length).toBeGreaterThan(5);
    expect((await simulate(policies, others)).allowed).toEqual([]);
  });
});

test('the calls of the function are those of its code', () => {
  const sources = readdirSync('functions', { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts'))
    .map((file) => readFileSync(`functions/${file}`, 'utf8'));
  const commands = sources.flatMap((text) => [...text.matchAll(/\bnew (\w+)Command\(|\bpaginate(\w+)\(/g)]);
  const names = new Set(commands.map(([, command, pages]) => command ?? pages));
  // The adapter of the ledger deletes for the CLI.
  names.delete('DeleteItem');
  const called = FUNCTION_CALLS.map(({ action }) => action.replace(/.*:/, ''));
  expect([...names].filter((name) => !called.includes(name as string))).toEqual([]);
  expect(names.size).toBeGreaterThan(4);
});

test('the boundary keeps a role with every permission from everything else', async () => {
  const everything: Policy = {
    Version: '2012-10-17',
    Statement: [{ Effect: 'Allow', Action: '*', Resource: '*' }],
  };
  expect((await simulate([everything], NO_FUNCTION, boundary)).allowed).toEqual([]);
});

describe.each(readdirSync('docs/iam'))('%s', (file) => {
  const policy = readPolicy(file.replace('.json', ''));

  test('is no longer than a managed policy may be, also with the longest names', () => {
    const longest = JSON.stringify(policy)
      .replaceAll('prod', 's'.repeat(20))
      .replaceAll('BUCKET', 'b'.repeat(63));
    expect(longest.length).toBeLessThanOrEqual(6_144);
  });

  test('names its actions, and its resources where AWS knows any', async () => {
    for (const statement of policy.Statement) {
      for (const action of list(statement.Action)) {
        // Patterns only to read a bucket, which has a permission for each of its properties.
        if (!/^s3:Get(Bucket\*|\*Configuration)$/.test(action)) expect(action).not.toContain('*');
      }
      if (list(statement.Resource).includes('*')) await expectNoResources(statement);
    }
  });
});

/** On `*`, although AWS knows resources for them: what each is, and why. */
const EVERYWHERE: Readonly<Record<string, string>> = {
  'cloudformation:GetTemplateSummary': 'of a template that is no stack yet',
  'cloudwatch:DescribeAlarmHistory': 'a list',
  'cloudwatch:DescribeAlarms': 'a list',
  'cloudwatch:GetMetricData': 'metrics have no ARN',
  'cloudwatch:ListMetrics': 'metrics have no ARN',
  'ec2:AssignPrivateIpAddresses': 'Lambda checks it on every resource',
  'ec2:CreateNetworkInterface': 'Lambda checks it on every resource',
  'ec2:DeleteNetworkInterface': 'Lambda checks it on every resource',
  'ec2:UnassignPrivateIpAddresses': 'Lambda checks it on every resource',
  'logs:GetQueryResults': 'AWS knew no resource for it until 2026',
};

async function expectNoResources({ Action }: Statement) {
  for (const action of list(Action).filter((one) => !(one in EVERYWHERE))) {
    const call = { action, resource: arn('ec2', 'vpc/vpc-1') };
    await expect(allows([], call), action).resolves.toBeUndefined();
    await expect(allows([], { action, resource: '*' }), action).resolves.toBe(false);
  }
}
