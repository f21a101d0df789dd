/** The template has no findings of cfn-lint and checkov, unless they are suppressed with a reason. */

import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { OPTIONAL, packageStage, REQUIRED } from '../infra/template.ts';

const run = promisify(execFile);
const tools = inject('tools');

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

describe.each<[string, Record<string, string>]>([
  ['the required parameters', REQUIRED],
  ['a NAT', { ...REQUIRED, 'ssm-access': 'nat', 'ledger-access': 'nat' }],
  ['every parameter', { ...REQUIRED, ...OPTIONAL, 'ssm-access': 'sg-0123456789abcdef0' }],
])('the template with %s', (_, parameters) => {
  const folder = mkdtempSync(join(tmpdir(), 'barman-config-switch-lint-'));
  const file = join(folder, 'template.json');
  beforeAll(async () => {
    const { text } = await packageStage(parameters);
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
