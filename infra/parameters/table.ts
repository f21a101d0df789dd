/** The parameters of a stage: what each one means, its form, and its default. */

import { isIPv4 } from 'node:net';

/** The sections of docs/reference/stage-parameters.md, by the names of their markers there. */
export const GROUPS = [
  'place',
  'hosts',
  'aws',
  'callbacks',
  'domain',
  'alarms',
  'protection',
  'keys',
] as const;

export interface Parameter {
  readonly group: (typeof GROUPS)[number];
  /** What is expected (Markdown, at most 120 characters): a cell of the reference, and in errors after "expected". */
  readonly text: string;
  /** What else the reference says of it, below the table (Markdown, a list item each). */
  readonly notes?: readonly string[];
  /** Returns the value for the templates; undefined if it is malformed. */
  readonly parse: (value: string) => unknown;
  /** For a stage that does not set it; null: not used. Without one, the parameter is required. */
  readonly default?: string | number | null | ((stage: string) => string);
  /** For the reference, instead of the default. */
  readonly defaultInWords?: string;
}

export const PARAMETERS = {
  region: {
    group: 'place',
    text: 'an AWS region, such as `eu-central-1`',
    notes: [
      '`--region` has precedence. Without both, it is the region in the environment variable `AWS_REGION`.',
    ],
    parse: matching(/^[a-z]{2}(-[a-z]+)+-\d$/),
    default: 'eu-central-1',
  },
  vpc: {
    group: 'place',
    text: "the VPC's id, such as `vpc-0123456789abcdef0`",
    parse: matching(/^vpc-[0-9a-f]{8,17}$/),
  },
  subnets: {
    group: 'place',
    text: 'subnets of that VPC, separated by commas, such as `subnet-0123456789abcdef0,subnet-0fedcba9876543210`',
    notes: ['One in each zone. Private subnets are sufficient.'],
    parse: listOf(matching(/^subnet-[0-9a-f]{8,17}$/)),
  },
  'barman-host': {
    group: 'hosts',
    text: "the Barman host's CIDR block, such as `10.0.3.4/32`, or its security group, such as `sg-0123456789abcdef0`",
    parse: host,
  },
  'barman-port': {
    group: 'hosts',
    text: 'the port of pg-backup-api, or of the reverse proxy in front of it, 1 to 65535',
    notes: ['It is the port in the function parameter [`url`](function-parameters.md).'],
    parse: whole(1, 65_535),
    default: 443,
  },
  'patroni-hosts': {
    group: 'hosts',
    text: "the database nodes' CIDR blocks or security groups, separated by commas, such as `10.0.1.0/24`",
    notes: ["Patroni's REST API is there. Without this parameter, the function does not ask Patroni."],
    parse: listOf(host),
    default: null,
  },
  'patroni-port': {
    group: 'hosts',
    text: "the port of Patroni's REST API, 1 to 65535",
    parse: whole(1, 65_535),
    default: 8008,
  },
  'ledger-access': {
    group: 'aws',
    text: "`nat`, or DynamoDB's prefix list, such as `pl-66a5400f`: how the function reaches DynamoDB",
    notes: [
      '`nat` uses the NAT of the VPC.',
      'A prefix list `pl-…` uses a gateway endpoint, which is free of charge. [Find it](#find-the-prefix-list) below.',
    ],
    parse: matching(/^(nat|pl-[0-9a-f]{8,17})$/),
  },
  'ssm-access': {
    group: 'aws',
    text: '`endpoint`, `nat`, `sg-…` or `managed-elsewhere:sg-…`: how the function reaches SSM',
    notes: [
      '`endpoint` creates an interface endpoint. It costs about 7 USD per month and zone.',
      '`nat` uses the NAT of the VPC.',
      '`sg-…` is the security group of an existing endpoint with private DNS. The stage adds a rule for the function to it.',
      '`managed-elsewhere:sg-…` is such a group that is managed elsewhere. [You give it that rule](../how-to/endpoint-managed-elsewhere.md) yourself.',
    ],
    parse: matching(/^(endpoint|nat|(managed-elsewhere:)?sg-[0-9a-f]{8,17})$/),
    default: 'endpoint',
  },
  'route-tables': {
    group: 'aws',
    text: 'route tables of the subnets, separated by commas, such as `rtb-0123456789abcdef0`',
    notes: [
      'The gateway endpoint of DynamoDB is created in them. Omit the parameter if there is one already.',
      'The endpoint stays when the stage is [removed](../how-to/remove-a-stage.md), because others may use it.',
    ],
    parse: listOf(matching(/^rtb-[0-9a-f]{8,17}$/)),
    default: null,
  },
  dns: {
    group: 'aws',
    text: "the VPC's own DNS servers as CIDR blocks, separated by commas, such as `10.0.0.10/32`",
    notes: [
      "You need it if the VPC's DHCP options name other DNS servers than Amazon's. Those need no rule.",
    ],
    parse: listOf(cidr),
    default: null,
  },
  api: {
    group: 'callbacks',
    text: '`public` or `none`',
    notes: [
      '`public` is an HTTP API for the callbacks.',
      '`none` leaves it out. Role changes then arrive over EventBridge (`event-bus`) or by direct invocation only.',
    ],
    parse: matching(/^(public|none)$/),
    default: 'public',
  },
  'event-bus': {
    group: 'callbacks',
    text: 'the name of the event bus on which role changes arrive, such as `default`',
    notes: [
      'The stage takes events with the source `patroni.<stage>`. Without this parameter it takes none [over EventBridge](../how-to/eventbridge.md).',
    ],
    parse: matching(/^(?!aws\.)[\w./-]{1,256}$/),
    default: null,
  },
  'throttling-rate': {
    group: 'callbacks',
    text: 'requests per second that the API accepts, 1 to 10000',
    notes: ['Above that the API returns 429, and the callbacks try again.'],
    parse: whole(1, 10_000),
    default: 50,
  },
  'throttling-burst': {
    group: 'callbacks',
    text: 'concurrent requests that the API accepts, 1 to 5000',
    parse: whole(1, 5_000),
    default: 100,
  },
  'reserved-concurrency': {
    group: 'callbacks',
    text: 'concurrent executions reserved for the function, 2 to 1000, which are also its maximum',
    notes: [
      "Set it if other functions may use up the account's limit.",
      'Omit it in a new account. Such an account may have only 10 executions in total, and 100 must stay unreserved.',
    ],
    parse: whole(2, 1_000),
    default: null,
  },
  'domain-name': {
    group: 'domain',
    text: 'a custom domain for the API, such as `barman.example.com`, with mutual TLS',
    notes: ["It requires `certificate` and `truststore`. The API's default endpoint is disabled then."],
    parse: matching(/^(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}$/),
    default: null,
  },
  certificate: {
    group: 'domain',
    text: "the ARN of the domain's certificate, such as `arn:aws:acm:eu-central-1:123456789012:certificate/1234abcd-…`",
    notes: ['It is in ACM, in the region of the stage.'],
    parse: matching(/^arn:aws[a-z-]*:acm:[a-z0-9-]+:\d{12}:certificate\/[\w-]+$/),
    default: null,
  },
  'ownership-certificate': {
    group: 'domain',
    text: 'the ARN of a public certificate of ACM for `domain-name`, in the region of the stage',
    notes: [
      'It is required if `certificate` was imported, or is of a private CA. With mutual TLS, AWS verifies by it that the name is yours.',
    ],
    parse: matching(/^arn:aws[a-z-]*:acm:[a-z0-9-]+:\d{12}:certificate\/[\w-]+$/),
    default: null,
  },
  truststore: {
    group: 'domain',
    text: 'the S3 URI of CA certificates (PEM), such as `s3://bucket/truststore.pem`',
    notes: ["The callbacks' client certificates are verified against them."],
    parse: matching(/^s3:\/\/[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\/\S+$/),
    default: null,
  },
  'truststore-version': {
    group: 'domain',
    text: 'the S3 version of the truststore',
    notes: ['Change it after you have written a new truststore. Otherwise AWS does not notice it.'],
    parse: matching(/^\S{1,1024}$/),
    default: null,
  },
  'hosted-zone': {
    group: 'domain',
    text: 'the Route 53 hosted zone of the domain name, such as `Z0123456789ABCDEFGHIJ`',
    notes: ['Without it, point the name to the output `DomainTarget` yourself.'],
    parse: matching(/^Z[A-Z0-9]{1,31}$/),
    default: null,
  },
  'alarm-email': {
    group: 'alarms',
    text: 'an e-mail address that receives the alarms, such as `dba@example.com`',
    notes: ["It receives none before you have answered AWS's confirmation mail."],
    parse: matching(/^[^@\s]+@[^@\s]+\.[^@\s]+$/),
    default: null,
  },
  'alarm-topic': {
    group: 'alarms',
    text: 'the ARN of an existing SNS topic, such as `arn:aws:sns:eu-central-1:123456789012:alarms`',
    notes: [
      'It receives the alarms, and a message when one is over. Without this parameter the stage has its own topic, for alarms only.',
    ],
    parse: matching(/^arn:aws[a-z-]*:sns:[a-z0-9-]+:\d{12}:[\w-]+$/),
    default: null,
  },
  inspection: {
    group: 'alarms',
    text: '`daily`, `off`, or an hour of the day in UTC, 0 to 23',
    notes: [
      'It is when heartbeats [inspect](findings.md#when-an-inspection-runs). They also do after a role change, and while WAL is not archived.',
      'With `off`, only `npm run ledger -- check` does.',
    ],
    parse: matching(/^(daily|off|1?\d|2[0-3])$/),
    default: 'daily',
  },
  'log-retention': {
    group: 'alarms',
    text: 'days that logs are kept, as CloudWatch Logs accepts them: 7, 14, 30, 60, 90, 180, 365 …',
    parse: (value: string) =>
      [
        1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288,
        3653,
      ].find((days) => String(days) === value),
    default: 365,
  },
  'deletion-protection': {
    group: 'protection',
    text: '`true` or `false`: whether the stage is protected from being removed by mistake',
    notes: [
      'It is the termination protection of the stack. [End it](../how-to/remove-a-stage.md#see-what-happens) before you remove the stage.',
    ],
    parse: flag,
    default: (stage: string) => String(stage.startsWith('prod')),
    defaultInWords: '`true` for stages named `prod…`, otherwise `false`',
  },
  'table-protection': {
    group: 'protection',
    text: '`true` or `false`: whether DynamoDB refuses to delete the tables of the ledger',
    notes: [
      'Leave it `false` for the first deployment. If that fails, its protected tables would stay, and block the next one.',
    ],
    parse: flag,
    default: 'false',
  },
  rollback: {
    group: 'protection',
    text: '`true` or `false`: whether a deployment is undone if it raises an alarm',
    notes: [
      'CloudFormation watches the alarms pg-backup-api-unreachable, heartbeat-lost and function-errors for 15 minutes after a deployment.',
      'Leave it `false` for the first deployment, and to repair a stage on which one of them is raised.',
    ],
    parse: flag,
    default: 'false',
  },
  'parameters-key': {
    group: 'keys',
    text: 'the ARN of a KMS key, such as `arn:aws:kms:eu-central-1:123456789012:key/1234abcd-…`',
    notes: [
      'It encrypts the function parameters, if that is not `aws/ssm`. Do not give an alias, because IAM policies cannot name one.',
    ],
    parse: kmsKey,
    default: null,
  },
  key: {
    group: 'keys',
    text: 'the ARN of a KMS key, such as `arn:aws:kms:eu-central-1:123456789012:key/1234abcd-…`',
    notes: [
      "[This key of yours](../how-to/customer-key.md) encrypts the ledger's tables, the failure queue, the topic of the alarms and the logs.",
    ],
    parse: kmsKey,
    default: null,
  },
  'permissions-boundary': {
    group: 'keys',
    text: 'the ARN of an IAM policy, such as `arn:aws:iam::123456789012:policy/barman-config-switch-prod-boundary`',
    notes: [
      "It bounds the function's role. Set it if your account needs one, or if [who deploys](permissions.md#the-boundary) does.",
    ],
    parse: matching(/^arn:aws[a-z-]*:iam::(\d{12}|aws):policy\/\S+$/),
    default: null,
  },
} satisfies Record<string, Parameter>;

export type ParameterName = keyof typeof PARAMETERS;

/** The values of a stage; null where a parameter is not used. */
export type Parameters = {
  readonly [Name in ParameterName]: Value<(typeof PARAMETERS)[Name]>;
};

type Value<P extends Parameter> =
  | Exclude<ReturnType<P['parse']>, undefined>
  | (P extends { readonly default: null } ? null : never);

function matching(pattern: RegExp) {
  return (value: string) => (pattern.test(value) ? value : undefined);
}

function whole(least: number, most: number) {
  return (value: string) =>
    /^\d+$/.test(value) && Number(value) >= least && Number(value) <= most ? Number(value) : undefined;
}

function flag(value: string) {
  return value === 'true' ? true : value === 'false' ? false : undefined;
}

/** The ARN of a KMS key. */
function kmsKey(value: string) {
  return matching(/^arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key\/[\w-]+$/)(value);
}

/** An IPv4 CIDR block. */
function cidr(value: string) {
  const [address = '', prefix = ''] = value.split('/');
  return isIPv4(address) && whole(0, 32)(prefix) !== undefined ? value : undefined;
}

/** A CIDR block or a security group. */
function host(value: string) {
  return cidr(value) ?? matching(/^sg-[0-9a-f]{8,17}$/)(value);
}

/** One or more, separated by commas. */
function listOf(parse: (value: string) => string | undefined) {
  return (value: string) => {
    const parts = value
      .split(',')
      .map((part) => part.trim())
      .filter(Boolean);
    return parts.length > 0 && parts.every((part) => parse(part) !== undefined) ? parts : undefined;
  };
}
