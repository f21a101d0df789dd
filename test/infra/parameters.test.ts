/** The parameters of a stage: what is read, what is rejected, and what they choose. */

import { afterEach, describe, expect, test } from 'vitest';
import { parameters } from '../../infra/parameters/index.ts';
import { egressRules } from '../../infra/parameters/network.ts';
import { readParameters } from '../../infra/parameters/rules.ts';
import { OPTIONAL, REQUIRED } from './template.ts';

const DOMAIN = {
  'domain-name': OPTIONAL['domain-name'],
  certificate: OPTIONAL.certificate,
  truststore: OPTIONAL.truststore,
};
const TOPIC = 'arn:aws:sns:eu-central-1:123456789012:alarms';

/** The error for what a stage sets. */
function errorOf(given: Readonly<Record<string, string>>): string {
  try {
    readParameters('prod', given);
  } catch (error) {
    return (error as Error).message;
  }
  throw new Error('accepted');
}

describe('readParameters', () => {
  test.each(Object.keys(REQUIRED))('rejects a stage without %s', (name) => {
    const rest = Object.fromEntries(Object.entries(REQUIRED).filter(([other]) => other !== name));
    expect(errorOf(rest)).toMatch(
      new RegExp(`^infra/stages/prod.yml .*\n- ${name} is missing; expected .*such as.*$`),
    );
  });

  test('rejects malformed values; the error names each, with what is expected', () => {
    const wrong = {
      vpc: 'my-vpc',
      subnets: 'subnet-0123456789abcdef0,eu-central-1a',
      'barman-host': '10.0.300.4/32',
      'barman-port': '70000',
      'patroni-hosts': ',',
      'patroni-port': '0',
      'ssm-access': 'yes',
      'ledger-access': 'endpoint',
      'route-tables': 'main',
      region: 'Frankfurt',
      dns: '10.0.0.10',
      'permissions-boundary': 'boundary',
      api: 'private',
      'table-protection': 'on',
      rollback: 'on',
      'alarm-topic': 'alarms',
      'deletion-protection': 'yes',
      'parameters-key': 'alias/mine',
      key: 'alias/mine',
      'event-bus': 'a bus',
      'throttling-rate': '0',
      'throttling-burst': 'many',
      'reserved-concurrency': '1',
      inspection: '24',
      'log-retention': '42',
      'alarm-email': 'dba',
      'domain-name': 'https://barman.example.com',
      certificate: 'cert.pem',
      'ownership-certificate': 'ownership.pem',
      truststore: 'truststore.pem',
      'truststore-version': '1 2',
      'hosted-zone': 'example.com',
    };
    const problems = errorOf(wrong).split('\n- ').slice(1);
    for (const [name, value] of Object.entries(wrong)) {
      expect(problems).toContainEqual(expect.stringContaining(`${name} is "${value}"; expected `));
    }
    expect(problems).toHaveLength(Object.keys(wrong).length);
  });

  test('rejects an unknown parameter; the error lists the valid ones', () => {
    expect(errorOf({ ...REQUIRED, barmanhost: '10.0.3.4/32' })).toMatch(
      /unknown parameter barmanhost; valid: region, vpc, subnets, barman-host,/,
    );
  });

  test.each(['Prod', 'anameoftwentyonecharac'.slice(0, 21), '1st', 'prod-events', ''])(
    'rejects the stage name %s',
    (stage) => {
      expect(() => readParameters(stage, REQUIRED)).toThrow(
        /stage is ".*"; expected a name of at most 20 lower-case letters and digits, without hyphens/,
      );
    },
  );

  test.each([
    [{ 'domain-name': OPTIONAL['domain-name'] }, 'certificate, truststore: set all of them, or none'],
    [
      { 'ownership-certificate': OPTIONAL['ownership-certificate'] },
      'ownership-certificate is for domain-name; set that, or omit it',
    ],
    [{ 'ledger-access': 'nat', 'route-tables': OPTIONAL['route-tables'] }, 'omit route-tables, or set'],
    [{ api: 'none', ...DOMAIN }, 'are for the API, but api is none; omit them'],
    ...Object.entries({
      'alarm-topic': 'sns:us-east-1:123456789012:alarms',
      certificate: 'acm:us-east-1:123456789012:certificate/1',
      'ownership-certificate': 'acm:us-east-1:123456789012:certificate/1',
      'parameters-key': 'kms:us-east-1:123456789012:key/1',
      key: 'kms:us-east-1:123456789012:key/1',
    }).map(([name, rest]): [Record<string, string>, string] => [
      { ...DOMAIN, [name]: `arn:aws:${rest}` },
      `${name} is in the region us-east-1, and the stage in eu-central-1; give one that is in eu-central-1`,
    ]),
    [{ 'alarm-topic': TOPIC, 'alarm-email': 'dba@example.com' }, 'subscribe there, and omit alarm-email'],
  ])('rejects the combination %j', (set, message) => {
    expect(errorOf({ ...REQUIRED, ...(set as Record<string, string>) })).toContain(message);
  });

  test('protects stages named prod… from removal, unless deletion-protection is false', () => {
    const isProtected = (stage: string, given = {}) =>
      readParameters(stage, { ...REQUIRED, ...given })['deletion-protection'];
    expect([isProtected('prodeu'), isProtected('dev')]).toEqual([true, false]);
    expect(isProtected('prod', { 'deletion-protection': 'false' })).toBe(false);
  });
});

test("parameters › reads the stage's file, and options with precedence", async () => {
  const resolved: Record<string, unknown> = {
    'sls:stage': 'prod',
    'file(infra/stages/prod.yml), null': { ...REQUIRED, subnets: ['subnet-00000001', 'subnet-00000002'] },
  };
  const read = await parameters({
    options: { param: ['vpc=vpc-00000001', 'truststore-version=a=b'] },
    resolveVariable: async (name) => resolved[name],
  });
  expect(read).toMatchObject({
    vpc: 'vpc-00000001',
    subnets: ['subnet-00000001', 'subnet-00000002'],
    'barman-host': REQUIRED['barman-host'],
    'truststore-version': 'a=b',
  });
});

describe('parameters › has the region of', () => {
  const REGION = process.env.AWS_REGION;
  afterEach(() => {
    delete process.env.AWS_REGION;
    if (REGION) process.env.AWS_REGION = REGION;
  });

  test.each([
    ['--region', { option: 'eu-west-1', file: 'eu-west-2', environment: 'eu-west-3' }, 'eu-west-1'],
    ['--param', { param: 'eu-west-1', file: 'eu-west-2', environment: 'eu-west-3' }, 'eu-west-1'],
    ['the file', { file: 'eu-west-2', environment: 'eu-west-3' }, 'eu-west-2'],
    ['the environment', { environment: 'eu-west-3' }, 'eu-west-3'],
    ['the default', {}, 'eu-central-1'],
  ])('%s', async (_, { option, param, file, environment }: Partial<Record<string, string>>, expected) => {
    delete process.env.AWS_REGION;
    if (environment) process.env.AWS_REGION = environment;
    const inFile = { ...REQUIRED, ...(file && { region: file }) };
    const read = await parameters({
      options: { ...(option && { region: option }), ...(param && { param: [`region=${param}`] }) },
      resolveVariable: async (name) => (name === 'sls:stage' ? 'prod' : inFile),
    });
    expect(read.region).toBe(expected);
  });
});

test.each(['sg-00000002', 'managed-elsewhere:sg-00000002'])(
  'egressRules › has the security group of an existing endpoint (%s)',
  (ssm) => {
    const rules = egressRules(readParameters('prod', { ...REQUIRED, 'ssm-access': ssm }));
    expect(rules).toContainEqual(expect.objectContaining({ DestinationSecurityGroupId: 'sg-00000002' }));
  },
);

test('egressRules › has a security group for barman-host in place of a CIDR block', () => {
  const [rule] = egressRules(readParameters('prod', { ...REQUIRED, 'barman-host': 'sg-00000001' }));
  expect(rule).toMatchObject({ DestinationSecurityGroupId: 'sg-00000001' });
  expect(rule).not.toHaveProperty('CidrIp');
});
