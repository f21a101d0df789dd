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

describe.each<[string, Record<string, string>]>([
  ['the required parameters', REQUIRED],
  ['a NAT', { ...REQUIRED, 'ssm-access': 'nat', 'ledger-access': 'nat' }],
  ['every parameter', { ...REQUIRED, ...OPTIONAL, 'ssm-access': 'sg-0123456789abcdef0' }],
])('the template with %s', (_, parameters) => {
  const folder = mkdtempSync(join(tmpdir(), 'barman-config-switch-lint-'));
  const file = join(folder, 'template.json');
  beforeAll(async () => writeFileSync(file, (await packageStage(parameters)).text));
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
