/** What a deployment calls: CloudFormation's handlers for each resource of a packaged template, and osls itself. */

import { readFileSync } from 'node:fs';
import { HANDLERS_FILE, type Handlers } from './handlers.ts';
import { ACCOUNT, arn, type Call, type Context, calls, REGION } from './simulate.ts';
import type { Resource, Template } from './template.ts';

/** The stack, and what most names begin with. */
export const STACK = 'barman-config-switch-prod';
const SERVICE = 'barman-config-switch';
const STAGE = 'prod';
const API = 'a1b2c3d4e5';
/** CloudFormation cuts a stack's name to 24 or 25 characters in that of a bucket, which has at most 63. */
const BUCKET_STACK = STACK.slice(0, 24);
const BUCKET = `${BUCKET_STACK}-serverlessdeploymentbuck-1p6f52dnzsq77`;
const PACKAGE = `arn:aws:s3:::${BUCKET}/serverless/${SERVICE}/${STAGE}/1-2026-11-29/configSwitch.zip`;

/** The stack's tags, on a resource that has them already, and in a request that sets them. */
const TAGGED: Context = { 'aws:ResourceTag/service': SERVICE, 'aws:ResourceTag/stage': STAGE };
const TAGGING: Context = {
  'aws:RequestTag/service': SERVICE,
  'aws:RequestTag/stage': STAGE,
  'aws:TagKeys': ['service', 'stage'],
};

/** What is needed only where a resource names a key of the customer. */
const ENCRYPTION = /^kms:|:(Disa|A)ssociateKmsKey$/;
const WITHOUT_KEY = "the resource is not encrypted with a customer's key";
const KEY = /arn:aws:kms:[\w-]+:\d+:key\/[\w-]+/;

/** Handlers' permissions that are not needed here, and why. Everything else has to be allowed. */
const NOT_NEEDED: readonly (readonly [types: RegExp, permissions: RegExp, reason: string])[] = [
  [
    /./,
    /^(codedeploy|elasticfilesystem|firehose|kinesis|s3files|s3tables|vpc-lattice|vpce):/,
    'services that the stage does not use',
  ],
  [/./, /^kms:(ListAliases|RevokeGrant)$/, 'a key is named by its ARN, and stays'],
  [/./, ENCRYPTION, WITHOUT_KEY],
  [/Integration|Rule|SNS|Bucket$/, /^iam:(GetRole|PassRole)$/, 'only the function has a role'],
  [/V2::Api$/, /^s3:getObject$/, 'for an OpenAPI document in S3'],
  [
    /V2::(ApiMapping|Integration|Route)$/,
    /^apigateway:PUT$/,
    'PUT imports an API or sets tags, which these types do not have',
  ],
  [/Table$/, /^(s3|logs):/, 'for an import from S3'],
  [
    /Table$/,
    /:(Scan|Query|BatchWriteItem|(Get|Put|Update|Delete)Item|(Create|Associate)TableReplica)$/,
    'for replicas in other regions',
  ],
  [/Table$/, /^iam:CreateServiceLinkedRole$/, 'for replicas and Kinesis'],
  [
    /Table$/,
    /:(ImportTable|DescribeImport|(Enable|Disable|Update)KinesisStreamingDestination|UpdateContributorInsights|(Put|Delete)ResourcePolicy)$/,
    'for properties that the tables do not have',
  ],
  [/Policy$/, /^iam:\w+(User|Group)Policy$/, "the policy is the role's"],
  [/Role$/, /^iam:(Attach|Detach)RolePolicy$/, 'the role has no managed policies, and must not get one'],
  [/Role$/, /^iam:UpdateAssumeRolePolicy$/, 'who may assume the role never changes'],
  [/Role$/, /^iam:DeleteRolePermissionsBoundary$/, 'the boundary stays'],
  [/Alias$/, /:(Put|Delete)ProvisionedConcurrencyConfig$/, 'there is no provisioned concurrency'],
  [
    /Function$/,
    /:(GetCodeSigningConfig|(Put|Delete)FunctionCodeSigningConfig|GetLayerVersion|Put(FunctionRecursion|FunctionScaling|RuntimeManagement)Config|PassCapacityProvider|PublishVersion|AssociateRuntimeAlias)$/,
    'for properties that the function does not have',
  ],
  [
    /LogGroup$/,
    /:(\w+LogDelivery|PutDataProtectionPolicy|(Put|Delete)(Index|Resource)Policy|PutBearerTokenAuthentication|PutLogGroupDeletionProtection|DeleteRetentionPolicy|REST\.PUT\.OBJECT)$/,
    'for properties that the log groups do not have',
  ],
  [
    /Bucket$/,
    /^s3:(Put|Delete|Create|Update)(?!Bucket$|Object$|EncryptionConfiguration|BucketPublicAccessBlock|BucketTagging)\w+$/,
    'for properties that the bucket does not have',
  ],
  [/Bucket$/, /^s3:DeleteBucketTagging$/, 'the tags stay'],
  [/Topic$/, /:PutDataProtectionPolicy$/, 'for properties that the topic does not have'],
];

/** What handlers need besides, by AWS's documentation. */
const BESIDES: Readonly<Record<string, string>> = {
  // DynamoDB Developer Guide, "Using AWS KMS keys": of whoever chooses a customer's key.
  'AWS::DynamoDB::Table':
    'kms:GenerateDataKey kms:GenerateDataKeyWithoutPlaintext kms:ReEncryptFrom kms:ReEncryptTo',
  // See UNLISTED.
  'AWS::ApiGatewayV2::DomainName': 'apigateway:TagResource apigateway:UntagResource',
  // API Gateway Developer Guide, "Configure logging for HTTP APIs", and "Using service-linked roles".
  'AWS::ApiGatewayV2::Stage':
    'logs:CreateLogDelivery logs:UpdateLogDelivery logs:DeleteLogDelivery logs:GetLogDelivery logs:ListLogDeliveries logs:PutResourcePolicy logs:DescribeResourcePolicies logs:DescribeLogGroups iam:CreateServiceLinkedRole',
};

/** A resource of AWS that handlers call something on. */
interface Target {
  readonly arn: string;
  /** Whether it is the stage's own: only these get tags. */
  readonly own?: boolean;
  readonly context?: Context;
}

/** Of what CloudFormation calls for whoever deploys (IAM User Guide, "Global condition keys", aws:CalledVia). */
const BY_CLOUDFORMATION: Context = {
  'aws:CalledVia': ['cloudformation.amazonaws.com'],
  'aws:CalledViaFirst': 'cloudformation.amazonaws.com',
};

interface Kind {
  readonly targets: readonly Target[];
  /** Condition keys of the requests. */
  readonly context?: Context;
}

// Properties are JSON of many shapes.
// biome-ignore lint/suspicious/noExplicitAny: see above
type Properties = any;

const SERVICE_LINKED_ROLE = arn(
  'iam',
  'role/aws-service-role/ops.apigateway.amazonaws.com/AWSServiceRoleForAPIGateway',
  `:${ACCOUNT}`,
);
const own = (...arns: string[]): Kind => ({
  targets: arns.map((one) => ({ arn: one, own: true, context: TAGGED })),
});
const role = (name: string) => arn('iam', `role/${name}`, `:${ACCOUNT}`);
const ec2 = (name: string) => arn('ec2', name);
/** In one part of API Gateway: the collection, what is in it, and its tags. */
const api = (collection: string, item: string, context: Context = {}): Kind => {
  const [all = '', one = ''] = [collection, `${collection}/${item}`].map((path) =>
    arn('apigateway', path, `${REGION}:`),
  );
  const tags = arn('apigateway', `/tags/${encodeURIComponent(one)}`, `${REGION}:`);
  return { targets: [all, one, tags].map((name) => ({ arn: name, own: true })), context };
};
const ruleName = ({ EventBusName = 'default', Name }: Properties) =>
  arn('events', `rule/${EventBusName === 'default' ? '' : `${EventBusName}/`}${Name}`);
const bounded = ({ PermissionsBoundary }: Properties): Context =>
  PermissionsBoundary === undefined ? {} : { 'iam:PermissionsBoundary': PermissionsBoundary };

/** Type → what its handlers call something on, from its resolved properties; `id` is of the logical resource. */
const KINDS: Readonly<Record<string, (properties: Properties, id: string, all: Resources) => Kind>> = {
  'AWS::ApiGatewayV2::Api': ({ Name }) =>
    api('/apis', API, { 'apigateway:Request/ApiName': Name, 'apigateway:Resource/ApiName': Name }),
  'AWS::ApiGatewayV2::ApiMapping': ({ DomainName }) => api(`/domainnames/${DomainName}/apimappings`, 'x1'),
  'AWS::ApiGatewayV2::DomainName': ({ DomainName, MutualTlsAuthentication }) => {
    const { targets } = api('/domainnames', DomainName);
    const truststore = MutualTlsAuthentication.TruststoreUri.replace('s3://', 'arn:aws:s3:::');
    return { targets: [...targets, { arn: truststore }] };
  },
  'AWS::ApiGatewayV2::Integration': ({ ApiId }) => api(`/apis/${ApiId}/integrations`, 'x1'),
  'AWS::ApiGatewayV2::Route': ({ ApiId }) => api(`/apis/${ApiId}/routes`, 'x1'),
  'AWS::ApiGatewayV2::Stage': ({ ApiId, StageName }) => {
    const { targets } = api(`/apis/${ApiId}/stages`, StageName);
    return { targets: [...targets, { arn: SERVICE_LINKED_ROLE }] };
  },
  'AWS::CloudWatch::Alarm': ({ AlarmName }) => own(arn('cloudwatch', `alarm:${AlarmName}`)),
  'AWS::CloudWatch::Dashboard': ({ DashboardName }) =>
    own(arn('cloudwatch', `dashboard/${DashboardName}`, `:${ACCOUNT}`)),
  'AWS::DynamoDB::Table': ({ TableName }) => own(arn('dynamodb', `table/${TableName}`)),
  'AWS::EC2::SecurityGroup': ({ VpcId }, id) => ({
    targets: [
      { arn: ec2(`security-group/${id}`), own: true, context: TAGGED },
      { arn: ec2('security-group-rule/sgr-0123456789abcdef0') },
      { arn: ec2(`vpc/${VpcId}`) },
    ],
    context: { 'ec2:VpcID': VpcId },
  }),
  'AWS::EC2::SecurityGroupIngress': ({ GroupId }, _, all) => ({
    targets: [
      { arn: ec2(`security-group/${GroupId}`), context: GroupId in all ? TAGGED : {} },
      { arn: ec2('security-group-rule/sgr-0123456789abcdef0') },
    ],
  }),
  'AWS::EC2::VPCEndpoint': (properties) => {
    const { VpcId, SubnetIds = [], SecurityGroupIds = [], RouteTableIds = [] } = properties;
    return {
      targets: [
        { arn: ec2('vpc-endpoint/vpce-0123456789abcdef0'), own: true, context: TAGGED },
        ...SecurityGroupIds.map((one: string) => ({ arn: ec2(`security-group/${one}`), context: TAGGED })),
        ...[`vpc/${VpcId}`].map((one) => ({ arn: ec2(one) })),
        ...SubnetIds.map((one: string) => ({ arn: ec2(`subnet/${one}`) })),
        ...RouteTableIds.map((one: string) => ({ arn: ec2(`route-table/${one}`) })),
      ],
      context: { 'ec2:VpcID': VpcId },
    };
  },
  'AWS::Events::Rule': (properties) => own(ruleName(properties)),
  'AWS::IAM::Policy': ({ Roles: [name] }, _, all) => ({
    ...own(role(name)),
    context: bounded(Object.values(all).find(({ Type }) => Type === 'AWS::IAM::Role')?.Properties),
  }),
  'AWS::IAM::Role': (properties) => ({
    ...own(role(properties.RoleName)),
    context: bounded(properties),
  }),
  'AWS::Lambda::Alias': ({ FunctionName, Name }) =>
    own(functionArn(FunctionName), functionArn(FunctionName, Name)),
  'AWS::Lambda::EventInvokeConfig': ({ FunctionName, Qualifier }) =>
    own(functionArn(FunctionName, Qualifier)),
  'AWS::Lambda::Function': ({ FunctionName, Role }) => ({
    targets: [...own(functionArn(FunctionName)).targets, { arn: Role }, { arn: PACKAGE }],
    context: { 'iam:PassedToService': 'lambda.amazonaws.com' },
  }),
  'AWS::Lambda::Permission': ({ FunctionName, Principal }) => ({
    ...own(FunctionName.startsWith('arn:') ? FunctionName : functionArn(FunctionName)),
    context: { 'lambda:Principal': Principal },
  }),
  'AWS::Logs::LogGroup': ({ LogGroupName }) =>
    own(...['', ':log-stream:'].map((end) => arn('logs', `log-group:${LogGroupName}${end}`))),
  'AWS::Route53::RecordSet': ({ HostedZoneId, Name, Type }) => ({
    targets: [
      { arn: `arn:aws:route53:::hostedzone/${HostedZoneId}` },
      { arn: 'arn:aws:route53:::change/C0123456789ABCDEFGHIJ' },
    ],
    context: {
      'route53:ChangeResourceRecordSetsActions': ['CREATE', 'UPSERT', 'DELETE'],
      'route53:ChangeResourceRecordSetsNormalizedRecordNames': [Name],
      'route53:ChangeResourceRecordSetsRecordTypes': [Type],
    },
  }),
  'AWS::S3::Bucket': () => own(`arn:aws:s3:::${BUCKET}`, PACKAGE),
  'AWS::S3::BucketPolicy': () => own(`arn:aws:s3:::${BUCKET}`),
  'AWS::SNS::Subscription': ({ TopicArn }) =>
    own(TopicArn, `${TopicArn}:01234567-89ab-cdef-0123-456789abcdef`),
  'AWS::SNS::Topic': ({ TopicName }) => own(arn('sns', TopicName)),
  'AWS::SQS::Queue': ({ QueueName }) => own(arn('sqs', QueueName)),
  'AWS::SQS::QueuePolicy': ({ PolicyDocument }) => own(PolicyDocument.Statement[0].Resource),
};

export function functionArn(name: string, qualifier?: string): string {
  return arn('lambda', `function:${name}${qualifier === undefined ? '' : `:${qualifier}`}`);
}

type Resources = Readonly<Record<string, Resource>>;

/** Returns the physical name of a resource as `Ref` has it, and its ARN. */
function physical({ Type, Properties }: Resource, id: string): { ref: string; arn: string } {
  const name = { ref: id, arn: id };
  switch (Type) {
    case 'AWS::ApiGatewayV2::Api':
      return { ...name, ref: API };
    case 'AWS::ApiGatewayV2::DomainName':
      return { ...name, ref: Properties.DomainName };
    case 'AWS::DynamoDB::Table':
      return { ref: Properties.TableName, arn: arn('dynamodb', `table/${Properties.TableName}`) };
    case 'AWS::Events::Rule':
      return { ref: Properties.Name, arn: ruleName(Properties) };
    case 'AWS::IAM::Role':
      return { ref: Properties.RoleName, arn: role(Properties.RoleName) };
    case 'AWS::Lambda::Alias': {
      const alias = functionArn(STACK, Properties.Name);
      return { ref: alias, arn: alias };
    }
    case 'AWS::Lambda::Function':
      return { ref: Properties.FunctionName, arn: functionArn(Properties.FunctionName) };
    case 'AWS::S3::Bucket':
      return { ref: BUCKET, arn: `arn:aws:s3:::${BUCKET}` };
    case 'AWS::SNS::Topic': {
      const topic = arn('sns', Properties.TopicName);
      return { ref: topic, arn: topic };
    }
    case 'AWS::SQS::Queue':
      return { ...name, arn: arn('sqs', Properties.QueueName) };
    default:
      return name;
  }
}

/** CloudFormation's pseudo parameters. */
const PSEUDO: Readonly<Record<string, string | undefined>> = {
  'AWS::AccountId': ACCOUNT,
  'AWS::Partition': 'aws',
  'AWS::Region': REGION,
  'AWS::URLSuffix': 'amazonaws.com',
  'AWS::NoValue': undefined,
};

/** Returns a template's resources with the functions of their properties evaluated, as far as IAM needs it. */
export function resolved({ Resources }: Template): Resources {
  const reference = (name: string, attribute?: string): string | undefined => {
    const resource = Resources[name];
    if (resource === undefined) return PSEUDO[name];
    const { ref, arn: resourceArn } = physical(resource, name);
    return attribute === 'Arn' ? resourceArn : ref;
  };
  const evaluate = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(evaluate);
    if (typeof value !== 'object' || value === null) return value;
    const { Ref, 'Fn::GetAtt': attribute, 'Fn::Sub': text } = value as Record<string, unknown>;
    if (typeof Ref === 'string') return reference(Ref);
    if (Array.isArray(attribute)) return reference(...(attribute as [string, string]));
    if (typeof text === 'string') {
      return text.replaceAll(/\$\{([\w:]+)(?:\.(\w+))?\}/g, (_, ...words) =>
        String(reference(words[0], words[1])),
      );
    }
    return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, evaluate(one)]));
  };
  return evaluate(Resources) as Resources;
}

/** What a handler calls: one action, on those of the resources that AWS has for it, or else on `*`. */
export type Need = readonly Call[];

/**
 * Returns what CloudFormation needs to create, read, update and delete the resources of a template.
 *
 * @param reasons gets the reasons for which permissions were left out
 * @throws Error for a type that is not known here
 */
export function handlerNeeds(template: Template, reasons: Set<string>): Need[] {
  const handlers = JSON.parse(readFileSync(HANDLERS_FILE, 'utf8')) as Handlers;
  const resources = resolved(template);
  const needs: Need[] = [];
  for (const [id, { Type, Properties }] of Object.entries(resources)) {
    const kind = KINDS[Type]?.(Properties, id, resources);
    const [key] = KEY.exec(JSON.stringify(Properties)) ?? [];
    const permissions = handlers[Type];
    if (kind === undefined || permissions === undefined) {
      throw new Error(
        `${Type} is new: add it to KINDS, and write ${HANDLERS_FILE} with npm run e2e -- test/e2e/lint.test.ts -u`,
      );
    }
    const all = { ...permissions, besides: BESIDES[Type] ?? '' };
    for (const [handler, actions] of Object.entries(all)) {
      for (const action of actions.split(' ').filter(Boolean)) {
        const [, , reason] =
          NOT_NEEDED.find(
            ([type, name, why]) =>
              type.test(Type) && name.test(action) && !(why === WITHOUT_KEY && key !== undefined),
          ) ?? [];
        if (reason === undefined) needs.push(callsOf(action, handler, withKey(kind, key, Type)));
        else reasons.add(reason);
      }
    }
  }
  return needs;
}

/** The reasons that leave something out in no template. */
export function unusedReasons(reasons: ReadonlySet<string>): string[] {
  return NOT_NEEDED.map(([, , reason]) => reason).filter((reason) => !reasons.has(reason));
}

/** Adds the key, which a service uses for whoever deploys. */
function withKey({ targets, context }: Kind, key: string | undefined, type: string): Kind {
  if (key === undefined) return { targets, ...(context && { context }) };
  const [, service = ''] = type.toLowerCase().split('::');
  const via = { 'kms:ViaService': `${service}.${REGION}.amazonaws.com` };
  return { targets: [...targets, { arn: key, context: via }], ...(context && { context }) };
}

const isTagging = (action: string) => /(^ec2:(Create|Delete)Tags|:(Unt|T)ag\w+)$/.test(action);

function callsOf(action: string, handler: string, { targets, context }: Kind): Call[] {
  const request = { ...TAGGING, ...BY_CLOUDFORMATION, ...context };
  const chosen = action.startsWith('apigateway:')
    ? apiTargets(action, targets)
    : targets.filter((target) => target.own || !isTagging(action));
  return chosen.flatMap((target) => {
    const { arn: resource } = target;
    const call = { action, resource, context: { ...request, ...target.context } };
    if (handler !== 'create' || !target.own) return [call];
    // What is created has no tags yet. AWS does not say whether CloudFormation sets them with that request, or last: the
    // schemas have tagOnCreate, aws-cdk issue 13204 says last.
    const untagged = { ...BY_CLOUDFORMATION, 'ec2:Vpc': ec2(`vpc/${context?.['ec2:VpcID']}`) };
    switch (action) {
      case 'ec2:CreateSecurityGroup':
      case 'ec2:CreateVpcEndpoint':
        return [{ action, resource, context: request }];
      case 'ec2:CreateTags':
        return [request, { ...TAGGING, ...untagged }].map((one) => ({ action, resource, context: one }));
      case 'ec2:AuthorizeSecurityGroupEgress':
      case 'ec2:RevokeSecurityGroupEgress':
        return [call, { action, resource, context: untagged }];
      default:
        return [call];
    }
  });
}

/** API Gateway's actions are verbs of HTTP, and its resources the paths. */
function apiTargets(action: string, [collection, item, tags]: readonly Target[]): Target[] {
  const byVerb: Readonly<Record<string, readonly (Target | undefined)[]>> = {
    GET: [item, tags],
    PATCH: [item],
    DELETE: [item, tags],
    POST: [collection, tags],
    PUT: [tags],
    TagResource: [collection, item],
    UntagResource: [item],
    AddCertificateToDomain: [collection, item],
    RemoveCertificateFromDomain: [item],
  };
  const found = byVerb[action.replace('apigateway:', '')];
  if (found === undefined) throw new Error(`${action} is new`);
  return found.filter((target) => target !== undefined);
}

const stack = arn('cloudformation', `stack/${STACK}/12345678-1234-1234-1234-123456789012`);

/** What osls itself calls, by its commands (its `lib/plugins/aws`); also what undoes a failed update. */
export const OSLS_CALLS: readonly Call[] = [
  ...calls(
    'cloudformation',
    'DescribeStacks CreateChangeSet DescribeChangeSet ExecuteChangeSet DeleteChangeSet DescribeStackEvents DescribeStackResource DescribeStackResources ListStackResources GetTemplate UpdateTerminationProtection DeleteStack ContinueUpdateRollback',
    stack,
  ),
  ...calls('cloudformation', 'TagResource UntagResource', stack, TAGGING),
  ...calls('cloudformation', 'ValidateTemplate GetTemplateSummary', '*'),
  // HeadBucket and ListObjectsV2.
  ...calls('s3', 'ListBucket', `arn:aws:s3:::${BUCKET}`),
  // HeadObject is GetObject, too.
  ...calls('s3', 'GetObject PutObject DeleteObject', PACKAGE),
  ...calls('lambda', 'GetFunction ListVersionsByFunction', functionArn(STACK)),
  ...calls('apigateway', 'GET', arn('apigateway', `/apis/${API}`, `${REGION}:`)),
];

const RELEASE = 'arn:aws:s3:::BUCKET/barman-config-switch/1.0.0.zip';

/** What a release without osls calls, with AWS's own command. */
export const RELEASE_CALLS: readonly Call[] = [
  ...calls('s3', 'GetObject PutObject', RELEASE),
  ...calls(
    'cloudformation',
    'DescribeStacks CreateChangeSet DescribeChangeSet ExecuteChangeSet UpdateStack DeleteStack UpdateTerminationProtection',
    stack,
  ),
  ...calls('cloudformation', 'TagResource', stack, TAGGING),
  ...calls('cloudformation', 'GetTemplateSummary', '*'),
];

/**
 * Returns the same call for another stage; undefined for one that is not for a stage.
 *
 * @param stage its name, which does not begin with the same three letters
 */
export function ofStage(stage: string, { action, resource, context = {} }: Call): Call | undefined {
  const name = `${SERVICE}-${stage}`;
  const replaced = (text: string) =>
    text.replaceAll(STACK, name).replaceAll(BUCKET_STACK, name.slice(0, BUCKET_STACK.length));
  const other = replaced(resource);
  const entries = Object.entries(context).map(([key, value]) => {
    if (typeof value !== 'string') return [key, value];
    return [key, key.endsWith('/stage') ? stage : replaced(value)];
  });
  // EC2 chooses its names itself, so there the tags decide. It creates what it is asked for in the VPC.
  const isTagged =
    /:(security-group|vpc-endpoint)\/(?!sg-)/.test(resource) &&
    Object.keys(context).some((key) => key.endsWith('/stage')) &&
    !/^ec2:Create(SecurityGroup|VpcEndpoint)$/.test(action);
  if (other === resource && !isTagged) return undefined;
  return { action, resource: other, context: Object.fromEntries(entries) };
}
