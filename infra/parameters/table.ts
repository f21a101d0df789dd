/** The parameters of a stage: what each one means, its form, and its default. */

import { isIPv4 } from 'node:net';

export interface Parameter {
  /** What is expected, and what for (Markdown): in docs/configuration.md, and in errors after "expected". */
  readonly text: string;
  /** Returns the value for the templates; undefined if it is malformed. */
  readonly parse: (value: string) => unknown;
  /** For a stage that does not set it; null: not used. Without one, the parameter is required. */
  readonly default?: string | number | null | ((stage: string) => string);
  /** For docs/configuration.md, in place of the default. */
  readonly defaultInWords?: string;
}

export const PARAMETERS = {
  region: {
    text: 'an AWS region, such as `eu-central-1`; `--region` has precedence. Without both it is that in the environment variable `AWS_REGION`',
    parse: matching(/^[a-z]{2}(-[a-z]+)+-\d$/),
    default: 'eu-central-1',
  },
  vpc: {
    text: "the VPC's id, such as `vpc-0123456789abcdef0`",
    parse: matching(/^vpc-[0-9a-f]{8,17}$/),
  },
  subnets: {
    text: 'subnets of that VPC, one in each zone, separated by commas, such as `subnet-0123456789abcdef0,subnet-0fedcba9876543210`; private ones are sufficient',
    parse: listOf(matching(/^subnet-[0-9a-f]{8,17}$/)),
  },
  'barman-host': {
    text: "the Barman host's address as a CIDR block, such as `10.0.3.4/32`, or its security group, such as `sg-0123456789abcdef0`; the function may connect to it",
    parse: host,
  },
  'barman-port': {
    text: "the port of pg-backup-api, or of the reverse proxy in front of it, 1 to 65535; the same as in the function's parameter `url`",
    parse: whole(1, 65_535),
    default: 443,
  },
  'patroni-hosts': {
    text: "the database nodes' addresses as CIDR blocks, such as `10.0.1.0/24`, or their security groups, such as `sg-0123456789abcdef0`, separated by commas; the function may connect to Patroni's REST API there. Without it Patroni is not asked",
    parse: listOf(host),
    default: null,
  },
  'patroni-port': {
    text: "the port of Patroni's REST API, 1 to 65535",
    parse: whole(1, 65_535),
    default: 8008,
  },
  'ssm-access': {
    text: '`endpoint`, `nat`, `sg-…` or `managed-elsewhere:sg-…`: how the function reaches SSM. `endpoint` creates an interface endpoint (about 7 USD per month and zone). `nat` uses the NAT of the VPC. `sg-…` is the security group of an existing endpoint with private DNS, and gets a rule for the function. `managed-elsewhere:sg-…` is such a group that [you give that rule](how-to/endpoint-managed-elsewhere.md), because it is managed elsewhere',
    parse: matching(/^(endpoint|nat|(managed-elsewhere:)?sg-[0-9a-f]{8,17})$/),
    default: 'endpoint',
  },
  'ledger-access': {
    text: "`nat` or `pl-…`: how the function reaches DynamoDB. `nat` uses the NAT of the VPC. `pl-…` is DynamoDB's prefix list, such as `pl-66a5400f`, and uses a gateway endpoint, which is free of charge. To find it: `aws ec2 describe-managed-prefix-lists --filters Name=prefix-list-name,Values=com.amazonaws.eu-central-1.dynamodb`",
    parse: matching(/^(nat|pl-[0-9a-f]{8,17})$/),
  },
  dns: {
    text: "addresses of the VPC's DNS servers as CIDR blocks, such as `10.0.0.10/32`, separated by commas, if its DHCP options name other ones than Amazon's, which needs no rule",
    parse: listOf(cidr),
    default: null,
  },
  'route-tables': {
    text: 'route tables of the subnets, such as `rtb-0123456789abcdef0`, separated by commas, to create the gateway endpoint of DynamoDB in; omit it if there is one. The endpoint stays when the stage is [removed](how-to/remove-a-stage.md), because others may use it',
    parse: listOf(matching(/^rtb-[0-9a-f]{8,17}$/)),
    default: null,
  },
  'deletion-protection': {
    text: '`true` or `false`: `true` protects the stage from being removed by mistake (termination protection of its stack). To [remove](how-to/remove-a-stage.md) it, first deploy it with `false`',
    parse: flag,
    default: (stage: string) => String(stage.startsWith('prod')),
    defaultInWords: '`true` for stages named `prod…`, otherwise `false`',
  },
  'table-protection': {
    text: '`true` or `false`: `true` makes DynamoDB refuse to delete the tables of the ledger. Not for the first deployment: the protected tables of one that fails would stay, and block the next one',
    parse: flag,
    default: 'false',
  },
  rollback: {
    text: '`true` or `false`: `true` lets CloudFormation watch the alarms pg-backup-api-unreachable, heartbeat-lost and function-errors for 15 minutes after a deployment, and undo it if one is raised. Not for the first deployment, nor to repair a stage on which one is raised already',
    parse: flag,
    default: 'false',
  },
  'parameters-key': {
    text: "the ARN of the KMS key that encrypts the function's parameters, if it is not `aws/ssm`, such as `arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab`; not an alias, which IAM policies cannot name",
    parse: kmsKey,
    default: null,
  },
  key: {
    text: "the ARN of [a KMS key of yours](how-to/customer-key.md), in the form of `parameters-key`, that encrypts the ledger's tables, the failure queue, the topic of the alarms and the logs. Its policy must allow what they need",
    parse: kmsKey,
    default: null,
  },
  'permissions-boundary': {
    text: "the ARN of the IAM policy that bounds the function's role, such as `arn:aws:iam::123456789012:policy/barman-config-switch-prod-boundary`, where your account or [who deploys](reference/permissions.md#the-boundary) needs one",
    parse: matching(/^arn:aws[a-z-]*:iam::(\d{12}|aws):policy\/\S+$/),
    default: null,
  },
  api: {
    text: '`public` or `none`: `public` is an HTTP API for the callbacks. With `none` there is no public endpoint, and role changes arrive over EventBridge (`event-bus`) or by direct invocation only',
    parse: matching(/^(public|none)$/),
    default: 'public',
  },
  'event-bus': {
    text: 'the name of the event bus on which role changes arrive, such as `default`: with the source `patroni.<stage>`. Without it none are accepted [over EventBridge](#over-eventbridge)',
    parse: matching(/^(?!aws\.)[\w./-]{1,256}$/),
    default: null,
  },
  'throttling-rate': {
    text: 'requests per second that the API accepts, 1 to 10000; above that it returns 429, and the callbacks try again',
    parse: whole(1, 10_000),
    default: 50,
  },
  'throttling-burst': {
    text: 'concurrent requests that the API accepts, 1 to 5000',
    parse: whole(1, 5_000),
    default: 100,
  },
  'reserved-concurrency': {
    text: "concurrent executions reserved for the function, 2 to 1000, which are also its maximum. Set it where other functions may use up the account's limit; omit it in a new account, which may have only 10 in total, because 100 must stay unreserved",
    parse: whole(2, 1_000),
    default: null,
  },
  inspection: {
    text: '`daily`, `off`, or an hour of the day in UTC, 0 to 23: when heartbeats [check](how-to/check.md) that a failover would work. After a switch, and while WAL is not archived, they check also at other times. `off`: only `npm run ledger -- check` does',
    parse: matching(/^(daily|off|1?\d|2[0-3])$/),
    default: 'daily',
  },
  'log-retention': {
    text: 'days that logs are kept, as CloudWatch Logs accepts them: 7, 14, 30, 60, 90, 180, 365 …',
    parse: (value: string) =>
      [
        1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288,
        3653,
      ].find((days) => String(days) === value),
    default: 365,
  },
  'alarm-email': {
    text: "an e-mail address, such as `dba@example.com`, that receives the alarms, once AWS's confirmation mail is answered",
    parse: matching(/^[^@\s]+@[^@\s]+\.[^@\s]+$/),
    default: null,
  },
  'alarm-topic': {
    text: 'the ARN of an existing SNS topic, such as `arn:aws:sns:eu-central-1:123456789012:alarms`, that receives the alarms, and a message when one is over; without it the stage has its own, for alarms only',
    parse: matching(/^arn:aws[a-z-]*:sns:[a-z0-9-]+:\d{12}:[\w-]+$/),
    default: null,
  },
  'domain-name': {
    text: "a custom domain for the API, such as `barman.example.com`, with mutual TLS; the API's default endpoint is disabled then. Requires `certificate` and `truststore`",
    parse: matching(/^(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}$/),
    default: null,
  },
  certificate: {
    text: "the ARN of the domain's certificate in ACM, in the region of the stage, such as `arn:aws:acm:eu-central-1:123456789012:certificate/1234abcd-12ab-34cd-56ef-1234567890ab`",
    parse: matching(/^arn:aws[a-z-]*:acm:[a-z0-9-]+:\d{12}:certificate\/[\w-]+$/),
    default: null,
  },
  'ownership-certificate': {
    text: 'the ARN of a public certificate of ACM for `domain-name`, in the region of the stage. Required if `certificate` was imported, or is of a private CA: with mutual TLS, AWS verifies by it that the name is yours',
    parse: matching(/^arn:aws[a-z-]*:acm:[a-z0-9-]+:\d{12}:certificate\/[\w-]+$/),
    default: null,
  },
  truststore: {
    text: "the CA certificates (PEM) that the callbacks' client certificates are verified against, in S3, such as `s3://bucket/truststore.pem`",
    parse: matching(/^s3:\/\/[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\/\S+$/),
    default: null,
  },
  'truststore-version': {
    text: 'the S3 version of the truststore; change it after writing a new one, otherwise AWS does not notice',
    parse: matching(/^\S{1,1024}$/),
    default: null,
  },
  'hosted-zone': {
    text: 'the Route 53 hosted zone of the domain name, such as `Z0123456789ABCDEFGHIJ`; without it, point the name to the output `DomainTarget` yourself',
    parse: matching(/^Z[A-Z0-9]{1,31}$/),
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
