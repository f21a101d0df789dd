/**
 * The parameters of a stage: from `--param name=value`, otherwise from `infra/stages/<stage>.yml`. A missing or
 * malformed one stops the deployment before anything is changed.
 */

/**
 * Each has a description for docs/configuration.md (`npm run docs`, Markdown), its form for error messages, a check, and a
 * default unless it is required; null means "not used".
 */
const PARAMETERS = {
  region: {
    description:
      'AWS region of the stage; `--region` has precedence. Without both it is `AWS_REGION`, or `eu-central-1`',
    form: 'an AWS region, such as eu-central-1',
    check: matches(/^[a-z]{2}(-[a-z]+)+-\d$/),
    default: null,
  },
  vpc: {
    description: 'id of the VPC',
    form: "the VPC's id, such as vpc-0123456789abcdef0",
    check: matches(/^vpc-[0-9a-f]{8,17}$/),
  },
  subnets: {
    description: 'subnets of that VPC, one per zone, separated by commas; private ones are sufficient',
    form: 'subnets of that VPC, one in each zone, such as subnet-0123456789abcdef0,subnet-0fedcba9876543210',
    check: (value) => list(value).length > 0 && list(value).every(matches(/^subnet-[0-9a-f]{8,17}$/)),
    parse: list,
  },
  'barman-host': {
    description:
      "the Barman host's address as a CIDR block, or its security group; the function may connect to it",
    form: "the Barman host's address as a CIDR block, such as 10.0.3.4/32, or its security group, such as sg-0123456789abcdef0",
    check: (value) => isCidr(value) || isSecurityGroup(value),
  },
  'barman-port': {
    description:
      "port of pg-backup-api, or of the reverse proxy in front of it; the same as in the function's parameter `url`",
    form: 'the port of pg-backup-api, 1 to 65535',
    check: (value) => isWhole(value, 1, 65_535),
    parse: Number,
    default: 443,
  },
  'patroni-hosts': {
    description:
      "the database nodes' addresses as CIDR blocks, or their security groups, separated by commas; the function may connect to Patroni's REST API there. Without it Patroni is not asked",
    form: "the database nodes' addresses as CIDR blocks, such as 10.0.1.0/24, or their security groups, such as sg-0123456789abcdef0, separated by commas",
    check: (value) =>
      list(value).length > 0 && list(value).every((one) => isCidr(one) || isSecurityGroup(one)),
    parse: list,
    default: null,
  },
  'patroni-port': {
    description: "port of Patroni's REST API",
    form: "the port of Patroni's REST API, 1 to 65535",
    check: (value) => isWhole(value, 1, 65_535),
    parse: Number,
    default: 8008,
  },
  'ssm-access': {
    description:
      "how the function reaches SSM: `endpoint` creates an interface endpoint (about 7 USD per month and zone); `nat` uses the VPC's NAT; `sg-…` uses an existing endpoint with private DNS, and adds the function to its security group",
    form: 'endpoint (creates one), nat (the VPC has a NAT), or the security group of an existing endpoint, such as sg-0123456789abcdef0',
    check: (value) => value === 'endpoint' || value === 'nat' || isSecurityGroup(value),
    default: 'endpoint',
  },
  'ledger-access': {
    description:
      "how the function reaches DynamoDB: `nat` uses the VPC's NAT; DynamoDB's prefix list, `pl-…`, uses a gateway endpoint, which is free of charge. To find it: `aws ec2 describe-managed-prefix-lists --filters Name=prefix-list-name,Values=com.amazonaws.eu-central-1.dynamodb`",
    form: 'nat (the VPC has a NAT), or the prefix list of DynamoDB, such as pl-66a5400f, to use a gateway endpoint (aws ec2 describe-managed-prefix-lists --filters Name=prefix-list-name,Values=com.amazonaws.<region>.dynamodb)',
    check: matches(/^(nat|pl-[0-9a-f]{8,17})$/),
  },
  dns: {
    description:
      "addresses of the VPC's DNS servers as CIDR blocks, separated by commas, if its DHCP options name other ones than Amazon's, which needs no rule",
    form: "the addresses of the VPC's own DNS servers as CIDR blocks, such as 10.0.0.10/32, separated by commas",
    check: (value) => list(value).length > 0 && list(value).every(isCidr),
    parse: list,
    default: null,
  },
  'route-tables': {
    description:
      'route tables of the subnets, to create that gateway endpoint in; omit it if there is one. The endpoint stays when the stage is removed, because others may use it',
    form: "the subnets' route tables, such as rtb-0123456789abcdef0, to create the gateway endpoint in; omit it if there is one",
    check: (value) => list(value).length > 0 && list(value).every(matches(/^rtb-[0-9a-f]{8,17}$/)),
    parse: list,
    default: null,
  },
  'deletion-protection': {
    description:
      '`true` protects the stage from being removed by mistake (termination protection of its stack); to remove it, first deploy it with `false`',
    form: 'true (the stage cannot be removed by mistake) or false',
    check: matches(/^(true|false)$/),
    parse: (value) => value === 'true',
    // Decided below.
    default: null,
    defaultInWords: '`true` for stages named `prod…`, otherwise `false`',
  },
  rollback: {
    description:
      '`true` lets CloudFormation watch the alarms pg-backup-api-unreachable, heartbeat-lost and function-errors for 10 minutes after a deployment, and undo it if one is raised; not for the first deployment, nor to repair a stage on which one is raised already',
    form: 'true (undo a deployment that raises an alarm) or false',
    check: matches(/^(true|false)$/),
    parse: (value) => value === 'true',
    default: 'false',
  },
  'parameters-key': {
    description:
      "ARN of the KMS key that encrypts the function's parameters, if it is not `aws/ssm`; a key, not an alias",
    form: 'the ARN of the KMS key that encrypts the parameters, if it is not aws/ssm, such as arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab; not an alias, which IAM policies cannot name',
    check: matches(/^arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key\/[\w-]+$/),
    default: null,
  },
  'permissions-boundary': {
    description: "ARN of the IAM policy that bounds the function's role, where your account demands one",
    form: 'the ARN of an IAM policy, such as arn:aws:iam::123456789012:policy/boundary',
    check: matches(/^arn:aws[a-z-]*:iam::(\d{12}|aws):policy\/\S+$/),
    default: null,
  },
  api: {
    description:
      '`public`: an HTTP API for the callbacks; `none`: no public endpoint, where role changes arrive over EventBridge or by direct invocation only',
    form: 'public (an HTTP API for the callbacks) or none (EventBridge and direct invocation only)',
    check: matches(/^(public|none)$/),
    default: 'public',
  },
  'event-bus': {
    description: 'event bus on which role changes arrive',
    form: 'the name of an event bus, such as default',
    check: matches(/^(?!aws\.)[\w./-]{1,256}$/),
    default: 'default',
  },
  'throttling-rate': {
    description:
      'requests per second that the API accepts; above that it returns 429, and the callbacks try again',
    form: 'requests per second, 1 to 10000',
    check: (value) => isWhole(value, 1, 10_000),
    parse: Number,
    default: 50,
  },
  'throttling-burst': {
    description: 'concurrent requests that the API accepts',
    form: 'concurrent requests, 1 to 5000',
    check: (value) => isWhole(value, 1, 5_000),
    parse: Number,
    default: 100,
  },
  'reserved-concurrency': {
    description:
      "concurrent executions reserved for the function, which are also its maximum. Set it where other functions may use up the account's limit; omit it in a new account, which may have only 10 in total, because 100 must stay unreserved",
    form: 'a number of concurrent executions, 2 to 1000',
    check: (value) => isWhole(value, 2, 1_000),
    parse: Number,
    default: null,
  },
  'log-retention': {
    description: 'days that logs are kept',
    form: 'a number of days that CloudWatch Logs accepts: 7, 14, 30, 60, 90, 180, 365 …',
    check: (value) =>
      [
        1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288,
        3653,
      ]
        .map(String)
        .includes(value),
    parse: Number,
    default: 365,
  },
  'alarm-email': {
    description: "e-mail address that receives the alarms, once AWS's confirmation mail is answered",
    form: 'an e-mail address, such as dba@example.com',
    check: matches(/^[^@\s]+@[^@\s]+\.[^@\s]+$/),
    default: null,
  },
  'alarm-topic': {
    description: 'ARN of an existing SNS topic that receives the alarms; without it the stage has its own',
    form: 'the ARN of an SNS topic, such as arn:aws:sns:eu-central-1:123456789012:alarms',
    check: matches(/^arn:aws[a-z-]*:sns:[a-z0-9-]+:\d{12}:[\w-]+$/),
    default: null,
  },
  'domain-name': {
    description:
      "custom domain for the API, with mutual TLS; the API's default endpoint is disabled then. Requires `certificate` and `truststore`",
    form: 'a host name for the API, such as barman.example.com',
    check: matches(/^(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}$/),
    default: null,
  },
  certificate: {
    description: "ARN of the domain's certificate in ACM, in the same region",
    form: "the ARN of the domain's certificate in ACM, in the same region, such as arn:aws:acm:eu-central-1:123456789012:certificate/1234abcd-12ab-34cd-56ef-1234567890ab",
    check: matches(/^arn:aws[a-z-]*:acm:[a-z0-9-]+:\d{12}:certificate\/[\w-]+$/),
    default: null,
  },
  truststore: {
    description:
      "`s3://…`: the CA certificates (PEM) that the callbacks' client certificates are verified against",
    form: 'the CA certificates that client certificates are verified against, PEM, in S3, such as s3://bucket/truststore.pem',
    check: matches(/^s3:\/\/[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\/\S+$/),
    default: null,
  },
  'truststore-version': {
    description:
      'S3 version of the truststore; change it after writing a new one, otherwise AWS does not notice',
    form: 'the S3 version of the truststore',
    check: matches(/^\S{1,1024}$/),
    default: null,
  },
  'hosted-zone': {
    description:
      'Route 53 hosted zone of the domain name; without it, point the name to the output `DomainTarget` yourself',
    form: 'the Route 53 hosted zone of the domain name, such as Z0123456789ABCDEFGHIJ',
    check: matches(/^Z[A-Z0-9]{1,31}$/),
    default: null,
  },
};

/** The parameters of a custom domain: all or none of them. */
const DOMAIN = ['domain-name', 'certificate', 'truststore'];

/** From the first of the endpoint's DNS entries, each of which is `<hosted zone>:<name>`. */
const ENDPOINT_URL = [
  'https://${host}',
  {
    host: {
      'Fn::Select': [
        1,
        { 'Fn::Split': [':', { 'Fn::Select': [0, { 'Fn::GetAtt': ['SsmEndpoint', 'DnsEntries'] }] }] },
      ],
    },
  },
];

const ENDPOINT_SECURITY_GROUP = { 'Fn::GetAtt': ['SsmEndpointSecurityGroup', 'GroupId'] };

/**
 * Called by osls.
 *
 * @returns the parameters by name, and `files`, the optional parts of the infrastructure that they choose
 * @throws Error naming each invalid parameter and its expected form
 */
module.exports = async ({ options, resolveVariable }) => {
  const stage = await resolveVariable('sls:stage');
  const file = `infra/stages/${stage}.yml`;
  const given = {
    ...(await resolveVariable(`file(${file}), null`)),
    ...Object.fromEntries(list(options.param ?? []).map((pair) => pair.split(/=(.*)/s, 2))),
  };

  const problems = [];
  if (!/^[a-z][a-z0-9-]{0,19}$/.test(stage)) {
    problems.push(
      `stage is "${stage}"; expected a name of at most 20 lower-case letters, digits and hyphens`,
    );
  }
  for (const name of Object.keys(given).filter((name) => !Object.hasOwn(PARAMETERS, name))) {
    problems.push(`unknown parameter ${name}; valid: ${Object.keys(PARAMETERS).join(', ')}`);
  }
  const parameters = {};
  for (const [name, { form, check, parse, ...rest }] of Object.entries(PARAMETERS)) {
    const value = given[name] ?? rest.default;
    if (value === undefined) problems.push(`${name} is missing; expected ${form}`);
    else if (value !== null && !check(String(value)))
      problems.push(`${name} is "${value}"; expected ${form}`);
    else parameters[name] = value === null || !parse ? value : parse(String(value));
  }
  if (DOMAIN.some((name) => parameters[name]) && !DOMAIN.every((name) => parameters[name])) {
    problems.push(`${DOMAIN.join(', ')}: set all of them, or none`);
  }
  if (parameters['route-tables'] && parameters['ledger-access'] === 'nat') {
    problems.push(
      'route-tables is for a gateway endpoint, but ledger-access is nat; omit route-tables, or set ledger-access to pl-…',
    );
  }
  if (parameters.api === 'none' && DOMAIN.some((name) => parameters[name])) {
    problems.push(`${DOMAIN.join(', ')} are for the API, but api is none; omit them`);
  }
  if (parameters['alarm-topic'] && parameters['alarm-email']) {
    problems.push(
      'alarm-email is for the topic of the stage, but alarm-topic is another one; subscribe there, and omit alarm-email',
    );
  }
  if (problems.length > 0) {
    const message = [`${file} (see infra/stages/example.yml), or --param:`, ...problems].join('\n- ');
    // osls prints the stack.
    throw Object.assign(new Error(message), { stack: message });
  }

  // A file that a parameter chooses is called after it, and after its value if there are several.
  const optional = (name, wanted = true) => (wanted ? `\${file(infra/${name}.yml)}` : {});
  const access = parameters['ssm-access'];
  return {
    ...parameters,
    'deletion-protection': parameters['deletion-protection'] ?? stage.startsWith('prod'),
    egress: egressRules(parameters),
    permissionsBoundary: parameters['permissions-boundary'] ?? { Ref: 'AWS::NoValue' },
    alarmTopic: parameters['alarm-topic'] ?? { Ref: 'AlarmTopic' },
    events: parameters.api === 'none' ? [] : [{ httpApi: 'POST /config-switch' }],
    url: parameters['domain-name']
      ? `https://${parameters['domain-name']}/config-switch`
      : { 'Fn::Sub': 'https://${HttpApi}.execute-api.${AWS::Region}.${AWS::URLSuffix}/config-switch' },
    // The endpoint's own DNS name: it has no private DNS, so the region's name does not lead to it.
    environment: access === 'endpoint' ? { AWS_ENDPOINT_URL_SSM: { 'Fn::Sub': ENDPOINT_URL } } : {},
    customDomain: parameters['domain-name'] !== null,
    files: {
      ssmAccess:
        access === 'nat' ? {} : optional(`network/ssm-access-${access === 'endpoint' ? access : 'existing'}`),
      ledgerEndpoint: optional('network/route-tables', parameters['route-tables']),
      parametersKey: optional('function/parameters-key', parameters['parameters-key']),
      domain: optional('api/domain-name', parameters['domain-name']),
      hostedZone: optional('api/hosted-zone', parameters['domain-name'] && parameters['hosted-zone']),
      api: optional('api/api', parameters.api !== 'none'),
      topic: optional('monitoring/topic', !parameters['alarm-topic']),
      alarmEmail: optional('monitoring/alarm-email', parameters['alarm-email']),
    },
  };
};

module.exports.PARAMETERS = PARAMETERS;

/** What the function may connect to; it has no ingress. Security groups do not filter queries to Amazon's DNS servers. */
function egressRules(parameters) {
  const { 'ssm-access': ssm, 'ledger-access': ledger, 'barman-host': barman, dns } = parameters;
  const overNat = [...(ssm === 'nat' ? ['SSM'] : []), ...(ledger === 'nat' ? ['DynamoDB'] : [])];
  const rules = [
    egress('pg-backup-api on the Barman host', barman, parameters['barman-port']),
    ...(parameters['patroni-hosts'] ?? []).map((host) =>
      egress('REST API of Patroni on the database nodes', host, parameters['patroni-port']),
    ),
    // Their public addresses change.
    ...(overNat.length > 0 ? [egress(`${overNat.join(' and ')} over the NAT`, '0.0.0.0/0', 443)] : []),
    ...(ssm === 'endpoint' ? [egress('SSM at its endpoint', ENDPOINT_SECURITY_GROUP, 443)] : []),
    ...(isSecurityGroup(ssm) ? [egress('SSM at the endpoint of the VPC', ssm, 443)] : []),
    ...(ledger === 'nat' ? [] : [egress('DynamoDB at its gateway endpoint', ledger, 443)]),
    ...(dns ?? []).flatMap((server) => [
      egress('DNS', server, 53, 'udp'),
      egress('DNS over TCP', server, 53),
    ]),
  ];
  // EC2 refuses a list in which two rules have the same target.
  const target = ({ Description: _, ...rule }) => JSON.stringify(rule);
  return rules.filter((rule, index) => rules.findIndex((one) => target(one) === target(rule)) === index);
}

/** @param to a CIDR block, a prefix list, or a security group; CloudFormation accepts only one of them */
function egress(description, to, port, protocol = 'tcp') {
  return {
    Description: description,
    IpProtocol: protocol,
    FromPort: port,
    ToPort: port,
    ...(typeof to === 'string' && isCidr(to)
      ? { CidrIp: to }
      : typeof to === 'string' && to.startsWith('pl-')
        ? { DestinationPrefixListId: to }
        : { DestinationSecurityGroupId: to }),
  };
}

function list(value) {
  return (Array.isArray(value) ? value : String(value).split(',')).map((one) => one.trim()).filter(Boolean);
}

function matches(pattern) {
  return (value) => pattern.test(value);
}

function isWhole(value, least, most) {
  return /^\d+$/.test(value) && Number(value) >= least && Number(value) <= most;
}

function isSecurityGroup(value) {
  return /^sg-[0-9a-f]{8,17}$/.test(value);
}

/** An IPv4 CIDR block. */
function isCidr(value) {
  const [address, prefix = ''] = value.split('/');
  return require('node:net').isIPv4(address) && isWhole(prefix, 0, 32);
}
