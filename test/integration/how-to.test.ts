/** Commands of how-to pages that a shell runs: what they read, write and delete. */

import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { documentedBlock, documentedCommand, fill } from '../documentation.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'how-to-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

const shell = (commands: string) =>
  execFileSync('bash', ['-ec', commands], { cwd: folder, encoding: 'utf8' });

test('remove a cluster › deletes its parameter', () => {
  const remove = documentedCommand('docs/how-to/remove-a-node-or-server.md', 'aws ssm delete-parameters');
  expect(shell(`aws() { echo "$*"; }\n${remove}`)).toContain('/barman-config-switch/prod/clusters/main');
});

describe('a broken job file', () => {
  test('is listed and deleted only if it is empty and has no output', () => {
    for (const name of ['jobs', 'output']) mkdirSync(join(folder, name));
    const files = {
      'jobs/20261124T115900.json': '{}',
      'jobs/20261124T120000.json': '',
      'jobs/20261124T120100.json': '',
      'output/20261124T120100.json': '{}',
    };
    for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text);
    const here = (block: string) => shell(fill(block, { '/var/lib/barman/SERVER': folder }));
    const list = documentedBlock('docs/how-to/broken-job-file.md', 'cd /var/lib/barman/SERVER');
    const printed = here(list);
    expect(readFileSync('docs/how-to/broken-job-file.md', 'utf8')).toContain(`\`\`\`\n${printed}\`\`\`\n`);
    expect(readdirSync(join(folder, 'jobs'))).toHaveLength(3);
    const remove = documentedBlock(
      'docs/how-to/broken-job-file.md',
      'for job in $(find jobs -name "*.json" -size 0); do [ -e "output/$(basename "$job")" ] || rm',
    );
    expect(remove).not.toBe(list);
    here(remove);
    expect(readdirSync(join(folder, 'jobs'))).toEqual(['20261124T115900.json', '20261124T120100.json']);
  });
});
