/** What the parameters choose: optional files of infra/, and single values elsewhere in serverless.yml. */

import { existingEndpoint } from './network.ts';
import type { ParameterName, Parameters } from './table.ts';

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

const QUEUE = { 'Fn::GetAtt': ['FailureQueue', 'Arn'] };
/** Who may put an event into the failure queue: the rule for role changes. Lambda does with the function's role. */
const FROM_RULE = {
  Effect: 'Allow',
  Principal: { Service: 'events.amazonaws.com' },
  Action: 'sqs:SendMessage',
  Resource: QUEUE,
  Condition: { ArnEquals: { 'aws:SourceArn': { 'Fn::GetAtt': ['RoleChangeRule', 'Arn'] } } },
};
const ONLY_TLS = {
  Effect: 'Deny',
  Principal: '*',
  Action: 'sqs:*',
  Resource: QUEUE,
  Condition: { Bool: { 'aws:SecureTransport': 'false' } },
};

/**
 * Returns parameter → what it chooses; an optional file is named after it, and after its value if there are
 * several.
 */
export function choose(parameters: Parameters) {
  const {
    api,
    'event-bus': bus,
    'ssm-access': ssm,
    'domain-name': domain,
    'alarm-topic': topic,
  } = parameters;
  const isPublic = api === 'public';
  const endpoint = existingEndpoint(ssm);
  const ssmAccess = endpoint === undefined ? ssm : ssm === endpoint ? 'existing' : 'elsewhere';
  return {
    api: {
      file: optional('api/api', isPublic),
      events: isPublic ? [{ httpApi: 'POST /config-switch' }] : [],
    },
    'event-bus': {
      file: optional('events/role-change', bus),
      // Whole, because a list in YAML has no optional element.
      queuePolicy: [...(bus ? [FROM_RULE] : []), ONLY_TLS],
    },
    'ssm-access': {
      file: optional(`network/ssm-access-${ssmAccess}`, ssm !== 'nat'),
      group: endpoint,
      // The endpoint's own DNS name: it has no private DNS, so the region's name does not lead to it.
      environment: ssm === 'endpoint' ? { AWS_ENDPOINT_URL_SSM: { 'Fn::Sub': ENDPOINT_URL } } : {},
    },
    'route-tables': { file: optional('network/route-tables', parameters['route-tables']) },
    'parameters-key': { file: optional('function/parameters-key', parameters['parameters-key']) },
    key: {
      file: optional('function/key', parameters.key),
      sqsManagedSse: parameters.key ? null : true,
    },
    'permissions-boundary': { arn: parameters['permissions-boundary'] ?? { Ref: 'AWS::NoValue' } },
    'domain-name': {
      file: optional('api/domain-name', domain),
      disableDefaultEndpoint: domain !== null,
      url: domain
        ? `https://${domain}/config-switch`
        : { 'Fn::Sub': 'https://${HttpApi}.execute-api.${AWS::Region}.${AWS::URLSuffix}/config-switch' },
    },
    'hosted-zone': { file: optional('api/hosted-zone', domain && parameters['hosted-zone']) },
    'alarm-topic': {
      file: optional('monitoring/alarm-topic', !topic),
      arn: topic ?? { Ref: 'AlarmTopic' },
      // Tools for incidents close theirs then. For people it would be a mail for each of these alarms at the first
      // deployment, when its metric has its first value.
      ok: topic ? [topic] : { Ref: 'AWS::NoValue' },
    },
    'alarm-email': { file: optional('monitoring/alarm-email', parameters['alarm-email']) },
  } satisfies Partial<Record<ParameterName, object>>;
}

/** A file of infra/ for serverless.yml, or nothing. */
function optional(name: string, wanted: unknown) {
  return wanted ? `\${file(infra/${name}.yml)}` : {};
}
