/**
 * The template has no findings of cfn-lint and checkov, unless they are suppressed with a reason. The example for Terraform
 * is valid HCL, and fits the template. What the simulation of IAM knows of CloudFormation is what cfn-lint knows.
 */

import { execFile } from 'node:child_process';
import { globSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { readHandlers } from '../infra/handlers.ts';
import { OPTIONAL, packageStage, REQUIRED } from '../infra/template.ts';

const run = promisify(execFile);
const tools = inject('tools');
/** The types of resources in all templates. */
const types = new Set<string>();

/** Suppressions that hold only without a key of the customer's. */
const WITHOUT_KEY = /^without the parameter key, /;

interface Checked {
  readonly Resources: Readonly<
    Record<string, { readonly Metadata?: { checkov?: { skip: { comment: string }[] } } }>
  >;
}

/** Returns the template without these suppressions: with a key, the checks must pass. */
function withoutSuppressions(text: string): string {
  const template = JSON.parse(text) as Checked;
  let removed = 0;
  for (const { Metadata } of Object.values(template.Resources)) {
    const { checkov } = Metadata ?? {};
    if (!checkov) continue;
    const kept = checkov.skip.filter(({ comment }) => !WITHOUT_KEY.test(comment));
    removed += checkov.skip.length - kept.length;
    checkov.skip = kept;
  }
  // Two tables, the queue, the topic, two log groups.
  expect(removed).toBe(6);
  // checkov prints the lines of a resource with each check: those of a template of one line are the whole template.
  return JSON.stringify(template, null, 2);
}

const ELSEWHERE = 'managed-elsewhere:sg-0123456789abcdef0';
const TOPIC = 'arn:aws:sns:eu-central-1:123456789012:alarms';
const OVER_NAT = { ...REQUIRED, 'ssm-access': 'nat', 'ledger-access': 'nat' };

describe.each<[string, Record<string, string>]>([
  ['the required parameters', REQUIRED],
  ['a NAT', OVER_NAT],
  ['every parameter', { ...REQUIRED, ...OPTIONAL, 'ssm-access': 'sg-0123456789abcdef0' }],
  ['every parameter, and an endpoint of its own', { ...REQUIRED, ...OPTIONAL }],
  [
    'a key, and an endpoint that is managed elsewhere',
    { ...REQUIRED, key: OPTIONAL.key, 'ssm-access': ELSEWHERE },
  ],
  [
    'EventBridge instead of an API',
    { ...OVER_NAT, api: 'none', 'event-bus': 'default', 'alarm-topic': TOPIC },
  ],
])('the template with %s', (_, parameters) => {
  const folder = mkdtempSync(join(tmpdir(), 'barman-config-switch-lint-'));
  const file = join(folder, 'template.json');
  beforeAll(async () => {
    const { template, text } = await packageStage(parameters);
    for (const { Type } of Object.values(template.Resources)) types.add(Type);
    writeFileSync(file, parameters.key ? withoutSuppressions(text) : text);
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  test('has no findings of cfn-lint', async () => {
    await run(join(tools, 'cfn-lint'), ['--format', 'parseable', file]);
  });

  test('has no findings of checkov', async () => {
    const { stdout } = await run(join(tools, 'checkov'), [
      ...['--framework', 'cloudformation', '--file', file, '--output', 'json', '--skip-download'],
    ]);
    const { summary, results } = JSON.parse(stdout) as {
      summary: { passed: number; failed: number };
      results: { skipped_checks: { check_result: { suppress_comment: string } }[] };
    };
    expect(summary.failed).toBe(0);
    expect(summary.passed).toBeGreaterThan(20);
    for (const { check_result } of results.skipped_checks) {
      expect(check_result.suppress_comment.length).toBeGreaterThan(20);
    }
  });
});

/** Resource type → arguments that its page of the provider's documentation has (hashicorp/aws, website/docs/r/). */
const ARGUMENTS: Readonly<Record<string, readonly string[]>> = {
  aws_s3_object: ['bucket', 'key', 'source', 'lifecycle'],
  aws_cloudformation_stack: [
    ...[
      'name',
      'template_url',
      'capabilities',
      'on_failure',
      'parameters',
      'tags',
      'policy_body',
      'timeouts',
      'lifecycle',
    ],
  ],
  // Terraform's own, "The terraform_data Managed Resource Type".
  terraform_data: ['triggers_replace', 'provisioner'],
};
/** Maximum size of a template in S3 (bytes; the page of aws_cloudformation_stack). */
const MAX_TEMPLATE = 460_800;

describe('docs/examples/stage.tf', () => {
  const EXAMPLE = 'docs/examples/stage.tf';
  const text = readFileSync(EXAMPLE, 'utf8');

  test('is valid HCL, with arguments that the provider has, and with its protections', async () => {
    // checkov brings the parser. It makes an array of each value.
    const program = 'import hcl2, json, sys; print(json.dumps(hcl2.load(open(sys.argv[1]))))';
    const { stdout } = await run(join(tools, 'python'), ['-c', program, EXAMPLE]);
    const { resource } = JSON.parse(stdout) as {
      resource: Record<string, Record<string, Record<string, unknown[]>>>[];
    };
    const resources = resource.flatMap((one) =>
      Object.entries(one).flatMap(([type, named]) =>
        Object.entries(named).map(([name, { __start_line__: _, __end_line__: __, ...given }]) => ({
          type,
          name,
          given,
        })),
      ),
    );
    expect(resources.map(({ type, name }) => `${type}.${name}`)).toEqual([
      ...['aws_s3_object.code', 'aws_s3_object.template'],
      ...['aws_cloudformation_stack.stage', 'terraform_data.termination_protection'],
    ]);
    for (const { type, given } of resources)
      expect(ARGUMENTS[type]).toEqual(expect.arrayContaining(Object.keys(given)));
    const stack = resources[2]?.given ?? {};
    expect(Object.keys(stack).sort()).toEqual([...(ARGUMENTS.aws_cloudformation_stack ?? [])].sort());
    expect(stack).toMatchObject({
      capabilities: [['CAPABILITY_NAMED_IAM']],
      parameters: [{ CodeBucket: expect.anything(), CodeKey: expect.anything() }],
      lifecycle: [{ prevent_destroy: [true] }],
    });
    const { provisioner } = resources[3]?.given ?? {};
    expect(JSON.stringify(provisioner)).toContain(
      'update-termination-protection --enable-termination-protection',
    );
  });

  test('has the parameters of a release, outputs that the template has, and all tables of the ledger', async () => {
    const { template, text: packaged } = await packageStage(REQUIRED);
    const named = (pattern: RegExp) => [...text.matchAll(pattern)].map(([, name]) => name);
    const release = readFileSync('cli/release.ts', 'utf8');
    expect(named(/^ {4}(Code\w+) +=/gm)).toEqual(
      [...release.matchAll(/^ {4}(Code\w+): \{/gm)].map(([, name]) => name),
    );
    const outputs = named(/outputs(?:\[|, )"(\w+)"/g);
    expect(outputs).toEqual(['ConfigSwitchUrl', 'FunctionSecurityGroup', 'Dashboard']);
    expect(Object.keys(template.Outputs)).toEqual(expect.arrayContaining(outputs));
    const tables = Object.entries(template.Resources).filter(
      ([, { Type }]) => Type === 'AWS::DynamoDB::Table',
    );
    expect(named(/LogicalResourceId\/(\w+)/g)).toEqual(tables.map(([name]) => name));
    expect(Buffer.byteLength(packaged)).toBeLessThan(MAX_TEMPLATE);
  });
});

test('test/infra/handlers.json has the permissions that cfn-lint has for each type', async () => {
  const schemas = 'lib/python3*/site-packages/cfnlint/data/schemas/resources';
  const [folder = ''] = globSync(join(tools, '..', schemas));
  const handlers = `${JSON.stringify(readHandlers(folder, [...types]), null, 2)}\n`;
  // With -u it is written.
  await expect(handlers).toMatchFileSnapshot('../infra/handlers.json');
});
