import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { inflateRawSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { STAYS } from '../../cli/remove.ts';
import { bundleFunction } from '../../cli/sbom.ts';
import { ExitCode } from '../../functions/config-switch/exit-code.ts';
import { tableProtection } from '../../infra/deployed.ts';
import { rollbackConfiguration } from '../../infra/monitoring/rollback.ts';
import { resourcesByFile } from '../../infra/resources.ts';
import { OPTIONAL, packageStage, REQUIRED, type Resource, type Template } from './template.ts';

const STAGE = 'barman-config-switch-prod';
const alarmsPage = readFileSync('docs/reference/alarms.md', 'utf8');

const TOPIC = 'arn:aws:sns:eu-central-1:123456789012:alarms';

const [least, most, closed] = await Promise.all([
  packageStage(REQUIRED),
  packageStage({ ...REQUIRED, ...OPTIONAL, 'ssm-access': 'sg-0123456789abcdef0' }),
  packageStage({
    ...REQUIRED,
    ...{ api: 'none', 'event-bus': 'default' },
    ...{ 'alarm-topic': TOPIC, 'ssm-access': 'nat', 'ledger-access': 'nat' },
  }),
]);
const withApi: [string, Template][] = [
  ['only the required parameters', least.template],
  ['every parameter', most.template],
];
const all: [string, Template][] = [...withApi, ['a NAT, and without an API', closed.template]];

function ofType({ Resources }: Template, type: string): Resource[] {
  return Object.values(Resources).filter(({ Type }) => Type === type);
}

function only(template: Template, type: string): Resource {
  const [resource, ...more] = ofType(template, type);
  if (!resource || more.length > 0) throw new Error(`${more.length + 1} of ${type}`);
  return resource;
}

/** Every object in a template that satisfies a test, at any depth. */
function* everyObject(value: unknown): Generator<Record<string, unknown>> {
  if (typeof value !== 'object' || value === null) return;
  if (!Array.isArray(value)) yield value as Record<string, unknown>;
  for (const child of Object.values(value)) yield* everyObject(child);
}

interface Widget extends Readonly<Record<'x' | 'y' | 'width' | 'height', number>> {
  readonly type: string;
  readonly properties: { readonly title: string; readonly alarms?: readonly string[] };
}

const list = (value: unknown): unknown[] => (Array.isArray(value) ? value : [value]);

/** Permissions that need a `*`, and why. */
const FORCED: Readonly<Record<string, string>> = {
  'ec2:CreateNetworkInterface *': 'Lambda checks it on every resource',
  'ec2:DescribeNetworkInterfaces *': 'it has no resource-level permissions',
  'ec2:DescribeSubnets *': 'it has no resource-level permissions',
  'ec2:DeleteNetworkInterface *': 'Lambda checks it on every resource',
  'ec2:AssignPrivateIpAddresses *': 'Lambda checks it on every resource',
  'ec2:UnassignPrivateIpAddresses *': 'Lambda checks it on every resource',
  [`logs:CreateLogStream log-group:/aws/lambda/${STAGE}:log-stream:*`]: 'Lambda names the streams',
  [`logs:PutLogEvents log-group:/aws/lambda/${STAGE}:log-stream:*`]: 'Lambda names the streams',
  'ssm:GetParametersByPath parameter/barman-config-switch/prod/*': 'a path is granted in this form',
};

describe.each(all)('template with %s', (kind, template) => {
  test('uses a wildcard only where AWS requires one', () => {
    const statements = [...everyObject(template.Resources)].filter(({ Effect }) => Effect === 'Allow');
    expect(statements.length).toBeGreaterThan(5);
    for (const { Action, NotAction, NotResource, Resource: resource, Principal } of statements) {
      expect(NotAction ?? NotResource).toBeUndefined();
      expect(JSON.stringify(Principal ?? '')).not.toContain('*');
      for (const action of list(Action)) {
        for (const one of list(resource)) {
          const text = JSON.stringify(one ?? '');
          const name = text === '"*"' ? '*' : text.replace(/^.*AccountId}:|"}$/g, '');
          const permission = `${String(action)} ${name}`;
          if (permission.includes('*')) expect(Object.keys(FORCED)).toContain(permission);
        }
      }
    }
    expect([...everyObject(template.Resources)].filter((one) => 'ManagedPolicyArns' in one)).toEqual([]);
  });

  test('denies the function code access to network interfaces', () => {
    const denied = [...everyObject(ofType(template, 'AWS::IAM::Role'))].find(
      ({ Effect }) => Effect === 'Deny',
    );
    expect(denied?.Action).toContain('ec2:CreateNetworkInterface');
    expect(JSON.stringify(denied?.Condition)).toContain(`function:${STAGE}`);
  });

  test('allows the function egress to the Barman host, Patroni, SSM, DynamoDB and DNS, and no ingress', () => {
    const { VpcConfig } = only(template, 'AWS::Lambda::Function').Properties;
    expect(VpcConfig.SecurityGroupIds).toEqual([{ 'Fn::GetAtt': ['FunctionSecurityGroup', 'GroupId'] }]);
    const { SecurityGroupEgress, SecurityGroupIngress } =
      template.Resources.FunctionSecurityGroup?.Properties ?? {};
    expect(SecurityGroupIngress).toBeUndefined();
    const tcp = (port: number, target: object) => ({
      Description: expect.any(String),
      IpProtocol: 'tcp',
      FromPort: port,
      ToPort: port,
      ...target,
    });
    const dynamoDb = tcp(443, { DestinationPrefixListId: 'pl-66a5400f' });
    const endpoint = { 'Fn::GetAtt': ['SsmEndpointSecurityGroup', 'GroupId'] };
    expect(SecurityGroupEgress).toEqual(
      {
        'only the required parameters': [
          tcp(443, { CidrIp: '10.0.3.4/32' }),
          tcp(443, { DestinationSecurityGroupId: endpoint }),
          dynamoDb,
        ],
        // One rule for both: EC2 refuses two with the same target.
        'a NAT, and without an API': [tcp(443, { CidrIp: '10.0.3.4/32' }), tcp(443, { CidrIp: '0.0.0.0/0' })],
        'every parameter': [
          tcp(7480, { CidrIp: '10.0.3.4/32' }),
          tcp(8009, { CidrIp: '10.0.1.0/24' }),
          tcp(8009, { DestinationSecurityGroupId: 'sg-0fedcba9876543210' }),
          tcp(443, { DestinationSecurityGroupId: 'sg-0123456789abcdef0' }),
          dynamoDb,
          ...['10.0.0.10/32', '10.0.1.10/32'].flatMap((CidrIp) => [
            { ...tcp(53, { CidrIp }), IpProtocol: 'udp' },
            tcp(53, { CidrIp }),
          ]),
        ],
      }[kind],
    );
  });

  test('has a security group that no parameter but the VPC replaces', () => {
    expect(ofType(template, 'AWS::EC2::SecurityGroup').length).toBe(template === least.template ? 2 : 1);
    const { GroupDescription, GroupName, VpcId } = template.Resources.FunctionSecurityGroup?.Properties ?? {};
    expect([GroupDescription, GroupName, VpcId]).toEqual([
      `${STAGE.replace(/-prod$/, ' prod')}, the function`,
      undefined,
      REQUIRED.vpc,
    ]);
  });
});

describe.each(withApi)('template with %s', (_, template) => {
  test('has the function with its runtime, time-out, role and environment, and no versions', () => {
    expect(only(template, 'AWS::Lambda::Function').Properties).toMatchObject({
      FunctionName: STAGE,
      Runtime: 'nodejs24.x',
      Architectures: ['arm64'],
      Timeout: 60,
      Role: { 'Fn::GetAtt': ['FunctionRole', 'Arn'] },
      LoggingConfig: { LogFormat: 'JSON' },
      Environment: {
        Variables: { PARAMETERS_PATH: '/barman-config-switch/prod/', LEDGER_TABLE: STAGE },
      },
    });
    expect(ofType(template, 'AWS::Lambda::Version')).toEqual([]);
  });

  test('leaves retries and time-outs to the defaults in the code', () => {
    const { Variables } = only(template, 'AWS::Lambda::Function').Properties.Environment;
    expect(Object.keys(Variables).filter((name) => /RETRIES|TIMEOUT/.test(name))).toEqual([]);
  });

  test('keeps logs for log-retention days', () => {
    const groups = ofType(template, 'AWS::Logs::LogGroup').map(({ Properties }) => Properties);
    expect(groups.map(({ LogGroupName }) => LogGroupName).sort()).toEqual([
      `/aws/lambda/${STAGE}`,
      `/aws/vendedlogs/http-api/${STAGE}`,
    ]);
    const days = template === most.template ? 30 : 365;
    expect(groups.map(({ RetentionInDays }) => RetentionInDays)).toEqual([days, days]);
  });

  test('has an API with one route, throttling, and a JSON access log that no sender can forge', () => {
    expect(only(template, 'AWS::ApiGatewayV2::Route').Properties.RouteKey).toBe('POST /config-switch');
    expect(only(template, 'AWS::ApiGatewayV2::Integration').Properties.PayloadFormatVersion).toBe('2.0');
    const { DefaultRouteSettings, AccessLogSettings } = only(template, 'AWS::ApiGatewayV2::Stage').Properties;
    expect(DefaultRouteSettings.ThrottlingRateLimit).toBe(template === most.template ? 5 : 50);
    expect(DefaultRouteSettings.ThrottlingBurstLimit).toBe(template === most.template ? 10 : 100);
    expect(DefaultRouteSettings.DetailedMetricsEnabled).toBe(false);
    const line = AccessLogSettings.Format.replace(/"\$[\w.]+"/g, '"x"').replace(/\$[\w.]+/g, '1');
    expect(JSON.parse(line)).toMatchObject({ service: STAGE, requestId: 'x', status: 1, latency_ms: 'x' });
    expect(AccessLogSettings.Format).not.toMatch(/userAgent|header|path|error\.message/);
  });

  test('has the failure queue as the destination of asynchronous invocations, after two retries', () => {
    const [invocation] = ofType(template, 'AWS::Lambda::EventInvokeConfig').filter(
      ({ Properties }) => Properties.Qualifier === '$LATEST',
    );
    expect(invocation?.Properties).toMatchObject({
      MaximumRetryAttempts: 2,
      DestinationConfig: { OnFailure: { Destination: { 'Fn::GetAtt': ['FailureQueue', 'Arn'] } } },
    });
  });

  test('has a failure queue that is encrypted, and keeps events for 14 days', () => {
    const { MessageRetentionPeriod, SqsManagedSseEnabled, KmsMasterKeyId } = only(
      template,
      'AWS::SQS::Queue',
    ).Properties;
    expect(MessageRetentionPeriod).toBe(14 * 86_400);
    expect([SqsManagedSseEnabled, KmsMasterKeyId]).toEqual(
      template === most.template ? [undefined, OPTIONAL.key] : [true, undefined],
    );
    const statements = only(template, 'AWS::SQS::QueuePolicy').Properties.PolicyDocument.Statement;
    expect(statements.at(-1)).toMatchObject({
      ...{ Effect: 'Deny', Principal: '*', Condition: { Bool: { 'aws:SecureTransport': 'false' } } },
    });
  });

  test('has a ledger whose tables are on demand, encrypted, restorable, and open only to the function', () => {
    const tables = ofType(template, 'AWS::DynamoDB::Table').map(({ Properties }) => Properties);
    for (const table of tables) {
      expect(table).toMatchObject({
        BillingMode: 'PAY_PER_REQUEST',
        SSESpecification: { SSEEnabled: true },
        PointInTimeRecoverySpecification: { PointInTimeRecoveryEnabled: true },
      });
    }
    const server = { AttributeName: 'barman_server', KeyType: 'HASH' };
    expect(tables).toEqual([
      expect.objectContaining({ TableName: STAGE, KeySchema: [server] }),
      expect.objectContaining({
        TableName: `${STAGE}-events`,
        KeySchema: [server, { AttributeName: 'event_id', KeyType: 'RANGE' }],
        TimeToLiveSpecification: { AttributeName: 'expires_at', Enabled: true },
      }),
    ]);
    const statements = [...everyObject(template.Resources)].filter(({ Action }) =>
      JSON.stringify(Action ?? '').includes('dynamodb:'),
    );
    expect(statements).toEqual([
      {
        Effect: 'Allow',
        Action: ['dynamodb:GetItem', 'dynamodb:UpdateItem', 'dynamodb:Scan'],
        Resource: { 'Fn::GetAtt': ['LedgerTable', 'Arn'] },
      },
      {
        Effect: 'Allow',
        Action: ['dynamodb:GetItem', 'dynamodb:PutItem'],
        Resource: { 'Fn::GetAtt': ['EventsTable', 'Arn'] },
      },
    ]);
  });

  test('invokes the heartbeat each minute, and does not repeat one that crashed', () => {
    const { ScheduleExpression, Targets } = template.Resources.HeartbeatRule?.Properties ?? {};
    expect(ScheduleExpression).toBe('rate(1 minute)');
    expect(Targets).toEqual([expect.objectContaining({ Input: '{"heartbeat":true}' })]);
    const alias = { Ref: 'HeartbeatAlias' };
    expect(Targets[0].Arn).toEqual(alias);
    expect(template.Resources.HeartbeatPermission?.Properties).toMatchObject({
      FunctionName: alias,
      SourceArn: { 'Fn::GetAtt': ['HeartbeatRule', 'Arn'] },
    });
    expect(template.Resources.HeartbeatAlias?.Properties).toMatchObject({ FunctionVersion: '$LATEST' });
    expect(template.Resources.HeartbeatInvocation?.Properties).toEqual({
      FunctionName: { Ref: 'ConfigSwitchLambdaFunction' },
      Qualifier: 'heartbeat',
      MaximumRetryAttempts: 0,
      MaximumEventAgeInSeconds: 60,
    });
  });

  test('has an alias for inspections, which nothing but a person may invoke', () => {
    const aliases = ofType(template, 'AWS::Lambda::Alias').map(({ Properties }) => Properties);
    const ofFunction = { FunctionName: { Ref: 'ConfigSwitchLambdaFunction' }, FunctionVersion: '$LATEST' };
    expect(aliases).toEqual(
      ['heartbeat', 'inspection'].map((Name) => ({
        ...{ ...ofFunction, Name },
        Description: expect.stringMatching(/./),
      })),
    );
    // Neither a permission nor a target, a mapping or a route refers to it.
    const others = Object.entries(template.Resources).filter(([name]) => !name.startsWith('Inspection'));
    expect(JSON.stringify(others)).not.toMatch(/InspectionAlias|:inspection\b/);
    const invoked = ofType(template, 'AWS::Lambda::Permission').map(
      ({ Properties }) => Properties.FunctionName,
    );
    expect(invoked.length).toBeGreaterThan(0);
    expect(template.Resources.InspectionInvocation?.Properties).toMatchObject({
      ...{ Qualifier: 'inspection', MaximumRetryAttempts: 0 },
    });
    expect(JSON.stringify(invoked)).not.toContain('nspection');
  });

  test('has the alarms, each with an urgency, one first thing to do, and a section in docs/reference/alarms.md', () => {
    const alarms = ofType(template, 'AWS::CloudWatch::Alarm').map(({ Properties }) => Properties);
    const names = alarms.map(({ AlarmName }) => AlarmName.replace(`${STAGE}-`, ''));
    const urgent = (words: string) =>
      names.filter((_, index) => alarms[index]?.AlarmDescription.startsWith(`${words}. `));
    expect(urgent('Act now')).toEqual([
      'switch-failed',
      'pending',
      'not-streaming',
      'not-archived',
      'leader-cannot-write',
      'pg-backup-api-unreachable',
      'heartbeat-lost',
      'event-lost',
      'ledger-unreachable',
      'function-errors',
    ]);
    expect(urgent('Act this week')).toEqual([
      'not-ready',
      'invalid-args',
      'wrong-cluster',
      'webhooks-rejected',
      'undeliverable-events',
      'certificate-30-days',
      'certificate-7-days',
      'reconciled',
      'leader-unknown',
      'paused-pending',
    ]);
    for (const [index, { AlarmDescription, AlarmActions }] of alarms.entries()) {
      const name = names[index] ?? '';
      expect(AlarmActions).toEqual([{ Ref: 'AlarmTopic' }]);
      expect(AlarmDescription).toMatch(/\b(Run|Read|read|run|Fix|Compare) /);
      expect(AlarmDescription.length, 'AWS::CloudWatch::Alarm').toBeLessThanOrEqual(1_024);
      expect(AlarmDescription).toContain(`(docs/reference/alarms.md#${name})`);
      expect(alarmsPage, `${name} in docs/reference/alarms.md`).toContain(`### ${name}\n`);
    }
  });

  test('has one alarm with metric math, which fills in the heartbeats that are missing', () => {
    const alarms = ofType(template, 'AWS::CloudWatch::Alarm').map(({ Properties }) => Properties);
    const [lost, ...more] = alarms.filter(({ MetricName }) => !MetricName);
    expect(more).toEqual([]);
    expect(lost).toEqual({
      AlarmName: `${STAGE}-heartbeat-lost`,
      AlarmDescription: expect.stringContaining('Act now. '),
      Metrics: [
        {
          Id: 'reported',
          MetricStat: {
            Metric: {
              Namespace: 'BarmanConfigSwitch',
              MetricName: 'Heartbeat',
              Dimensions: [{ Name: 'service', Value: STAGE }],
            },
            Period: 60,
            Stat: 'Sum',
          },
          ReturnData: false,
        },
        { Id: 'filled', Expression: 'FILL(reported, 0)', Label: 'Heartbeat', ReturnData: true },
      ],
      EvaluationPeriods: 5,
      ComparisonOperator: 'LessThanThreshold',
      Threshold: 1,
      TreatMissingData: 'breaching',
      AlarmActions: [{ Ref: 'AlarmTopic' }],
      OKActions: { Ref: 'AWS::NoValue' },
    });
  });

  test('has alarms and a dashboard for metrics that the function reports', () => {
    const telemetry = readFileSync('functions/config-switch/telemetry.ts', 'utf8');
    const statuses = Object.keys(ExitCode);
    const dashboard = JSON.stringify(only(template, 'AWS::CloudWatch::Dashboard').Properties);
    const own = [
      ...ofType(template, 'AWS::CloudWatch::Alarm')
        .map(({ Properties }) => Properties.Metrics?.[0].MetricStat.Metric ?? Properties)
        .filter(({ Namespace }) => Namespace === 'BarmanConfigSwitch')
        .map(({ MetricName }) => MetricName),
      ...[...dashboard.matchAll(/BarmanConfigSwitch\W+(\w+)/g)].map(([, name]) => name),
    ];
    expect(own.length).toBeGreaterThan(30);
    for (const name of own)
      expect(statuses.includes(name) || telemetry.includes(`'${name}'`), name).toBe(true);
  });

  test('has a dashboard that shows every alarm at a glance, and whose widgets do not overlap', () => {
    const body = only(template, 'AWS::CloudWatch::Dashboard').Properties.DashboardBody['Fn::Sub'];
    const { widgets } = JSON.parse(body) as { widgets: Widget[] };
    expect(widgets.slice(0, 6).map(({ type }) => type)).toEqual([
      ...['metric', 'metric', 'metric', 'metric'],
      ...['alarm', 'log'],
    ]);
    const alarms = Object.keys(template.Resources).filter(
      (name) => template.Resources[name]?.Type === 'AWS::CloudWatch::Alarm',
    );
    expect(widgets[4]?.properties.alarms).toEqual(alarms.map((name) => `\${${name}.Arn}`));
    expect(alarms.length).toBeLessThanOrEqual(100);
    for (const [index, one] of widgets.entries()) {
      expect(one.x + one.width).toBeLessThanOrEqual(24);
      for (const other of widgets.slice(index + 1)) {
        const isBeside = one.x + one.width <= other.x || other.x + other.width <= one.x;
        const isAbove = one.y + one.height <= other.y || other.y + other.height <= one.y;
        expect(isBeside || isAbove, `${one.properties.title} and ${other.properties.title}`).toBe(true);
      }
    }
  });
});

describe('event-bus', () => {
  test.each([
    ['patroni', most.template],
    ['default', closed.template],
  ])(
    '%s › invokes the function for the role changes of this stage, and has undeliverable ones in the failure queue',
    (bus, template) => {
      const rule = template.Resources.RoleChangeRule?.Properties;
      expect(rule).toMatchObject({
        EventBusName: bus,
        // The same bus may have rules of other stages.
        EventPattern: { source: ['patroni.prod'], 'detail-type': ['Patroni role change'] },
      });
      expect(rule.Targets).toEqual([
        expect.objectContaining({ DeadLetterConfig: { Arn: { 'Fn::GetAtt': ['FailureQueue', 'Arn'] } } }),
      ]);
      const source = { 'Fn::GetAtt': ['RoleChangeRule', 'Arn'] };
      expect(template.Resources.RoleChangePermission?.Properties).toMatchObject({
        ...{ Principal: 'events.amazonaws.com', SourceArn: source },
      });
      const [allow] = only(template, 'AWS::SQS::QueuePolicy').Properties.PolicyDocument.Statement;
      expect(allow).toMatchObject({
        ...{ Effect: 'Allow', Principal: { Service: 'events.amazonaws.com' }, Action: 'sqs:SendMessage' },
        Condition: { ArnEquals: { 'aws:SourceArn': source } },
      });
      const dashboard = JSON.stringify(only(template, 'AWS::CloudWatch::Dashboard').Properties);
      const dimensions = bus === 'default' ? '' : `"EventBusName","${bus}",`;
      expect(JSON.parse(`"${dashboard.replaceAll('\\"', "'").replaceAll('"', "'")}"`)).toContain(
        `'InvocationsFailedToBeSentToDlq',${dimensions}"RuleName","${STAGE}"`.replaceAll('"', "'"),
      );
    },
  );

  test('not set › lets nothing in from EventBridge but the heartbeat', () => {
    const { Resources } = least.template;
    expect(ofType(least.template, 'AWS::Events::Rule').map(({ Properties }) => Properties.Name)).toEqual([
      `${STAGE}-heartbeat`,
    ]);
    const byEvents = ofType(least.template, 'AWS::Lambda::Permission').filter(
      ({ Properties }) => Properties.Principal === 'events.amazonaws.com',
    );
    expect(byEvents).toEqual([Resources.HeartbeatPermission]);
    const [deny, ...more] = only(least.template, 'AWS::SQS::QueuePolicy').Properties.PolicyDocument.Statement;
    expect([deny.Effect, more]).toEqual(['Deny', []]);
    expect(JSON.stringify(Resources)).not.toMatch(/RoleChangeRule|AWS\/Events/);
  });
});

test('a removed stage › leaves its tables, its logs and the gateway endpoint, which npm run remove lists; a failed first deployment leaves nothing', () => {
  const stays = Object.entries(most.template.Resources).filter(([, { DeletionPolicy }]) => DeletionPolicy);
  expect(stays.map(([name]) => name).toSorted()).toEqual(Object.keys(STAYS).toSorted());
  for (const [, { DeletionPolicy, UpdateReplacePolicy }] of stays) {
    expect([DeletionPolicy, UpdateReplacePolicy]).toEqual(['RetainExceptOnCreate', 'Retain']);
  }
});

describe('ssm-access', () => {
  test("endpoint › creates an endpoint without private DNS, restricted to the stage's parameters", () => {
    const { Properties } = only(least.template, 'AWS::EC2::VPCEndpoint');
    expect(Properties.VpcEndpointType).toBe('Interface');
    expect(Properties.PrivateDnsEnabled).toBe(false);
    expect(Properties.PolicyDocument.Statement).toEqual([
      expect.objectContaining({
        Principal: { AWS: { 'Fn::GetAtt': ['FunctionRole', 'Arn'] } },
        Action: 'ssm:GetParametersByPath',
      }),
    ]);
    const { Variables } = only(least.template, 'AWS::Lambda::Function').Properties.Environment;
    expect(JSON.stringify(Variables.AWS_ENDPOINT_URL_SSM)).toContain('["SsmEndpoint","DnsEntries"]');
    expect(least.template.Resources.SsmEndpointSecurityGroup?.Properties).toMatchObject({
      SecurityGroupEgress: [{ CidrIp: '127.0.0.1/32' }],
    });
    expect(only(least.template, 'AWS::EC2::SecurityGroupIngress').Properties).toMatchObject({
      GroupId: { 'Fn::GetAtt': ['SsmEndpointSecurityGroup', 'GroupId'] },
      FromPort: 443,
      ToPort: 443,
      SourceSecurityGroupId: { 'Fn::GetAtt': ['FunctionSecurityGroup', 'GroupId'] },
    });
  });

  test.each([
    ['nat', closed.template],
    ['sg-…', most.template],
  ])('%s › creates no endpoint', (_, template) => {
    expect(template.Resources).not.toHaveProperty('SsmEndpoint');
    expect(only(template, 'AWS::Lambda::Function').Properties.Environment.Variables).not.toHaveProperty(
      'AWS_ENDPOINT_URL_SSM',
    );
  });

  test('managed-elsewhere:sg-… › changes no group, and has the rule to add as an output', async () => {
    const { template } = await packageStage({
      ...REQUIRED,
      'ssm-access': 'managed-elsewhere:sg-0123456789abcdef0',
    });
    expect(ofType(template, 'AWS::EC2::SecurityGroupIngress')).toEqual([]);
    expect(template.Outputs.SsmAccessRule).toMatchObject({
      Value: {
        'Fn::Sub': expect.stringMatching(
          /^sg-0123456789abcdef0: TCP 443 from \$\{FunctionSecurityGroup\.GroupId\}$/,
        ),
      },
    });
    expect(template.Resources).not.toHaveProperty('SsmEndpoint');
  });

  test('sg-… › allows ingress from the function in that security group', () => {
    expect(only(most.template, 'AWS::EC2::SecurityGroupIngress').Properties).toMatchObject({
      GroupId: 'sg-0123456789abcdef0',
      FromPort: 443,
      ToPort: 443,
      SourceSecurityGroupId: { 'Fn::GetAtt': ['FunctionSecurityGroup', 'GroupId'] },
    });
  });
});

describe('optional parameters', () => {
  test('route-tables › creates the gateway endpoint of DynamoDB in them, which stays when the stage is removed, but not after a failed first deployment', () => {
    expect(only(most.template, 'AWS::EC2::VPCEndpoint')).toMatchObject({
      DeletionPolicy: 'RetainExceptOnCreate',
      UpdateReplacePolicy: 'Retain',
      Properties: {
        VpcEndpointType: 'Gateway',
        RouteTableIds: ['rtb-0123456789abcdef0', 'rtb-0fedcba9876543210'],
      },
    });
  });

  test("permissions-boundary › bounds the function's role", () => {
    const boundary = (template: Template) => only(template, 'AWS::IAM::Role').Properties.PermissionsBoundary;
    expect(boundary(most.template)).toBe(OPTIONAL['permissions-boundary']);
    expect(boundary(least.template)).toEqual({ Ref: 'AWS::NoValue' });
  });

  test('api and alarm-topic › leave out the public endpoint and the topic of the stage', () => {
    const { template } = closed;
    const types = new Set(Object.values(template.Resources).map(({ Type }) => Type));
    expect([...types].filter((type) => /ApiGateway|SNS/.test(type))).toEqual([]);
    expect(Object.keys(template.Outputs)).not.toContain('ConfigSwitchUrl');
    expect(JSON.stringify(template)).not.toMatch(/HttpApi|AlarmTopic/);
    for (const { Properties } of ofType(template, 'AWS::CloudWatch::Alarm')) {
      expect(Properties.AlarmActions).toEqual([TOPIC]);
    }
  });

  test('alarm-topic › also gets a message when a state is over; the topic of the stage does not', () => {
    const withOk = (template: Template) =>
      ofType(template, 'AWS::CloudWatch::Alarm')
        .map(({ Properties }) => Properties)
        .filter(({ OKActions }) => Array.isArray(OKActions))
        .map(({ AlarmName, OKActions }) => [AlarmName.replace(`${STAGE}-`, ''), OKActions]);
    // Only where the metric reports a state: no further failure does not mean that all is well again.
    expect(withOk(closed.template)).toEqual(
      [
        'not-archived',
        'pg-backup-api-unreachable',
        'heartbeat-lost',
        'not-ready',
        'undeliverable-events',
        'certificate-30-days',
        'certificate-7-days',
        'paused-pending',
      ].map((name) => [name, [TOPIC]]),
    );
    // There, each would be a mail at the first deployment.
    expect(withOk(least.template)).toEqual([]);
  });

  test('create nothing by default', () => {
    for (const type of [
      'AWS::ApiGatewayV2::DomainName',
      'AWS::IAM::Policy',
      'AWS::SNS::Subscription',
      'AWS::Route53::RecordSet',
    ]) {
      expect(ofType(least.template, type)).toEqual([]);
    }
    expect(only(least.template, 'AWS::Lambda::Function').Properties).not.toHaveProperty(
      'ReservedConcurrentExecutions',
    );
    expect(only(least.template, 'AWS::ApiGatewayV2::Api').Properties.DisableExecuteApiEndpoint).toBe(false);
  });

  test('parameters-key › allows only kms:Decrypt, only on that key, only through SSM', () => {
    expect(most.template.Resources.ParametersKeyPolicy?.Properties.PolicyDocument.Statement).toEqual([
      {
        Effect: 'Allow',
        Action: 'kms:Decrypt',
        Resource: OPTIONAL['parameters-key'],
        Condition: { StringEquals: { 'kms:ViaService': { 'Fn::Sub': expect.stringMatching(/^ssm\./) } } },
      },
    ]);
  });

  test('key › encrypts tables, queue, topic and logs; the function may use it only through DynamoDB and SQS', () => {
    const { Resources } = most.template;
    const key = Object.entries({
      LedgerTable: 'SSESpecification',
      EventsTable: 'SSESpecification',
      FailureQueue: 'KmsMasterKeyId',
      AlarmTopic: 'KmsMasterKeyId',
      ConfigSwitchLogGroup: 'KmsKeyId',
      HttpApiLogGroup: 'KmsKeyId',
    }).map(([name, property]) => Resources[name]?.Properties[property]);
    const ofTable = { SSEEnabled: true, SSEType: 'KMS', KMSMasterKeyId: OPTIONAL.key };
    expect(key).toEqual([ofTable, ofTable, OPTIONAL.key, OPTIONAL.key, OPTIONAL.key, OPTIONAL.key]);
    const through = (service: string, Action: string | string[]) => ({
      ...{ Effect: 'Allow', Action, Resource: OPTIONAL.key },
      Condition: {
        StringEquals: { 'kms:ViaService': { 'Fn::Sub': `${service}.\${AWS::Region}.\${AWS::URLSuffix}` } },
      },
    });
    expect(Resources.KeyPolicy?.Properties.PolicyDocument.Statement).toEqual([
      through('dynamodb', 'kms:Decrypt'),
      through('sqs', ['kms:Decrypt', 'kms:GenerateDataKey']),
    ]);
    expect(/"(Kms\w+|KMS\w+|kms:\w+)"/.exec(JSON.stringify(least.template))?.[0]).toBeUndefined();
  });

  test('docs/examples/key-policy.json › allows each service that uses the key, for this stage', () => {
    const text = readFileSync('docs/examples/key-policy.json', 'utf8');
    const { Statement } = JSON.parse(text) as { Statement: { Principal: { Service?: string } }[] };
    expect(Statement.flatMap(({ Principal }) => Principal.Service ?? [])).toEqual([
      'logs.eu-central-1.amazonaws.com',
      'cloudwatch.amazonaws.com',
      'events.amazonaws.com',
      'dynamodb.amazonaws.com',
    ]);
    for (const { Properties } of ofType(most.template, 'AWS::Logs::LogGroup')) {
      expect(text).toContain(`:log-group:${Properties.LogGroupName}"`);
    }
    expect(text).toContain(`:alarm:${STAGE}-*"`);
  });

  test('domain-name › creates a domain with mutual TLS, and disables the default endpoint', () => {
    expect(only(most.template, 'AWS::ApiGatewayV2::DomainName').Properties.MutualTlsAuthentication).toEqual({
      TruststoreUri: OPTIONAL.truststore,
      TruststoreVersion: OPTIONAL['truststore-version'],
    });
    expect(only(most.template, 'AWS::ApiGatewayV2::Api').Properties.DisableExecuteApiEndpoint).toBe(true);
    expect(ofType(most.template, 'AWS::ApiGatewayV2::ApiMapping')).toHaveLength(1);
    expect(most.template.Outputs.ConfigSwitchUrl).toMatchObject({
      Value: 'https://barman.example.com/config-switch',
    });
    expect(only(most.template, 'AWS::Route53::RecordSet').Properties.Name).toBe(OPTIONAL['domain-name']);
  });

  test('ownership-certificate › proves the ownership of the domain name', () => {
    const domain = only(most.template, 'AWS::ApiGatewayV2::DomainName').Properties;
    expect(domain.DomainNameConfigurations).toEqual([
      {
        CertificateArn: OPTIONAL.certificate,
        OwnershipVerificationCertificateArn: OPTIONAL['ownership-certificate'],
        EndpointType: 'REGIONAL',
        SecurityPolicy: 'TLS_1_2',
      },
    ]);
  });

  test('rollback › watches three alarms for 15 minutes, and nothing if it is off', async () => {
    const resolved = (on: boolean, region: string): Readonly<Record<string, unknown>> => ({
      'self:custom.parameters': { rollback: on },
      'sls:stage': 'prod',
      'cf:barman-config-switch-prod.LedgerTable, null': STAGE,
      'aws:region': region,
      'aws:accountId': '123456789012',
    });
    const configuration = (on: boolean, region = 'eu-central-1') =>
      rollbackConfiguration({ options: {}, resolveVariable: async (name) => resolved(on, region)[name] });
    const alarms = new Set(
      ofType(least.template, 'AWS::CloudWatch::Alarm').map(({ Properties }) => Properties.AlarmName),
    );
    const { RollbackTriggers, MonitoringTimeInMinutes } = await configuration(true);
    expect([RollbackTriggers.length, MonitoringTimeInMinutes]).toEqual([3, 15]);
    for (const { Arn, Type } of RollbackTriggers) {
      expect(Type).toBe('AWS::CloudWatch::Alarm');
      const [, name] = /^arn:aws:cloudwatch:eu-central-1:123456789012:alarm:(.*)$/.exec(Arn) ?? [];
      expect(alarms).toContain(name);
    }
    expect((await configuration(true, 'cn-north-1')).RollbackTriggers[0]?.Arn).toMatch(/^arn:aws-cn:/);
    expect(await configuration(false)).toEqual({ RollbackTriggers: [], MonitoringTimeInMinutes: 0 });
  });

  test('table-protection › protects both tables, and is refused in a first deployment', async () => {
    expect(least.template.Resources.LedgerTable?.Properties.DeletionProtectionEnabled).toBe(false);
    expect(least.template.Resources.EventsTable?.Properties.DeletionProtectionEnabled).toBe(false);
    const isProtected = (on: boolean, deployed: string | null) =>
      tableProtection({
        options: {},
        resolveVariable: async (name) =>
          ({
            'self:custom.parameters': { 'table-protection': on },
            'sls:stage': 'prod',
            'cf:barman-config-switch-prod.LedgerTable, null': deployed,
          })[name],
      });
    expect([await isProtected(false, null), await isProtected(true, STAGE)]).toEqual([false, true]);
    await expect(isProtected(true, null)).rejects.toThrow(
      /^table-protection is true, but stage prod is not deployed yet: .*deploy once without it$/,
    );
  });

  test('reserved-concurrency and alarm-email › are set', () => {
    expect(only(most.template, 'AWS::Lambda::Function').Properties.ReservedConcurrentExecutions).toBe(10);
    expect(only(most.template, 'AWS::SNS::Subscription').Properties.Endpoint).toBe('dba@example.com');
  });
});

test('a malformed parameter stops the deployment, and the error has no stack', async () => {
  const message = await packageStage({ ...REQUIRED, vpc: 'my-vpc' }).then(() => '', String);
  expect(message).toMatch(/^- vpc is "my-vpc"; expected the VPC's id, such as/m);
  expect(message).not.toContain('    at ');
});

test('resourcesByFile › finds the file of each resource; osls generates the others', () => {
  const { 'serverless.yml, infra/function/function.yml': generated, ...ours } = resourcesByFile(
    most.template,
  );
  expect(generated).toEqual([
    'ServerlessDeploymentBucket',
    'ServerlessDeploymentBucketPolicy',
    'ConfigSwitchLogGroup',
    'ConfigSwitchLambdaFunction',
    'ConfigSwitchLambdaEvConf',
    'HttpApi',
    'HttpApiLogGroup',
    'HttpApiStage',
    'ConfigSwitchLambdaPermissionHttpApi',
    'HttpApiIntegrationConfigSwitch',
    'HttpApiRoutePostConfigDashswitch',
  ]);
  expect(ours).toMatchObject({
    'infra/function/iam.yml': ['FunctionRole'],
    'infra/ledger.yml': ['LedgerTable', 'EventsTable'],
    'infra/monitoring/dashboard.ts': ['Dashboard'],
    'infra/api/hosted-zone.yml': ['DomainRecord'],
    'infra/monitoring/alarms.ts': expect.arrayContaining(['HeartbeatLostAlarm']),
  });
  expect(Object.values(ours).flat().length + (generated?.length ?? 0)).toBe(
    Object.keys(most.template.Resources).length,
  );
});

test('the dashboard has the region in its name, because an account has its dashboards for all regions', () => {
  const { DashboardName } = only(least.template, 'AWS::CloudWatch::Dashboard').Properties;
  expect(DashboardName).toBe(`${STAGE}-eu-central-1`);
  expect(JSON.stringify(least.template.Outputs.Dashboard)).toContain(`dashboards:name=${DashboardName}"`);
});

test('two stages › have no resource name in common: in each, the stage is a whole word', () => {
  const names = [...everyObject(most.template.Resources)].flatMap((one) =>
    Object.entries(one)
      .filter(([key, value]) => /^(\w+Name|Name)$/.test(key) && typeof value === 'string')
      .map(([, value]) => value as string)
      .filter((value) => value.includes('barman-config-switch')),
  );
  expect(new Set(names).size).toBeGreaterThan(20);
  for (const name of names) expect(name).toMatch(/barman-config-switch[-/]prod\b/);
});

test('package › contains one file, the bundle, without a source map', () => {
  // The names in a zip's central directory (PKZIP application note, 4.3.12).
  const names = least.zip
    .toString('latin1')
    .split('PK\x01\x02')
    .slice(1)
    .map((entry) => entry.slice(42).split('PK')[0] ?? '');
  expect(names).toHaveLength(1);
  expect(names[0]).toMatch(/^functions\/config-switch\/index\.js/);
  expect(least.zip.length).toBeLessThan(1024 * 1024);
  // Its external attributes: Lambda runs the function as another user, which must be able to read it.
  expect((least.zip.readUInt32LE(least.zip.indexOf('PK\x01\x02') + 38) >>> 16) & 0o777).toBe(0o644);
});

/** The first file of a zip. */
function unzip(zip: Buffer): Buffer {
  // A header of 30 bytes, its name, an extra field, and the data (PKZIP application note, 4.3.7). The sizes are
  // those of the central directory (4.3.12).
  const central = zip.indexOf('PK\x01\x02');
  const size = zip.readUInt32LE(central + 20);
  const data = 30 + zip.readUInt16LE(26) + zip.readUInt16LE(28);
  return inflateRawSync(zip.subarray(data, data + size));
}

test('package › has the code that the SBOM of a release is of', async () => {
  const { code } = await bundleFunction();
  // packageStage works in a copy of the project, with a link to its packages.
  const withoutPaths = (bytes: Uint8Array) =>
    Buffer.from(bytes)
      .toString()
      .replaceAll(/[\w./-]*node_modules\//g, '');
  expect(withoutPaths(unzip(least.zip)) === withoutPaths(code)).toBe(true);
});

test('package › has a handler of two parameters: nodejs24.x rejects one with a callback as its third', () => {
  const program = `${unzip(least.zip)}\nprocess.stdout.write(String(module.exports.handler.length));`;
  const environment = {
    ...{ AWS_REGION: 'eu-central-1', PARAMETERS_PATH: '/barman-config-switch/prod/', LEDGER_TABLE: STAGE },
    ...{ POWERTOOLS_SERVICE_NAME: STAGE, POWERTOOLS_METRICS_NAMESPACE: 'BarmanConfigSwitch' },
  };
  const output = execFileSync(process.execPath, ['--input-type=commonjs'], {
    ...{ input: program, encoding: 'utf8', env: environment },
  });
  expect(output).toBe('2');
});
