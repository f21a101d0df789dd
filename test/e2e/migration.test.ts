/** docs/migration.md: its example and its commands, on a folder instead of /etc/patroni. */

import { execFile, execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, inject, test } from 'vitest';
import { documentedBlock } from '../documentation.ts';
import { startFunction } from '../integration/function.ts';
import { startEndpoint } from './endpoint.ts';
import { asRoot } from './processes.ts';

const page = readFileSync('docs/migration.md', 'utf8');

test('a node of patroni_barman › uses the function after the documented commands, and the way back restores it', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'barman-config-switch-migration-'));
  const download = join(folder, 'download');
  mkdirSync(download);
  await using run = await startFunction();
  await using endpoint = await startEndpoint(async (body, headers) => {
    const { statusCode, response } = await run.webhook(body, { headers });
    return { status: statusCode, response };
  });
  try {
    const here = (text: string) =>
      text
        .replaceAll('/etc/patroni', folder)
        .replaceAll('/var/log/patroni', folder)
        .replaceAll('https://…/config-switch', endpoint.url)
        // Only root may give files away.
        .replaceAll(/-o (root|postgres) /g, asRoot ? '$&' : '');
    const shell = (commands: string) => execFileSync('bash', ['-euc', here(commands)], { cwd: download });
    const example = /```yaml\n([\s\S]*?)```/.exec(page)?.[1] ?? '';
    const file = join(folder, 'patroni.yml');
    writeFileSync(file, here(example));
    writeFileSync(join(download, 'webhook-secret'), run.host.webhookSecret);
    copyFileSync('patroni/barman_config_switch.py', join(download, 'barman_config_switch.py'));
    shell(documentedBlock('docs/migration.md', 'install -o root'));
    // Patroni reads the file in this way, and appends three words.
    const read =
      "import sys, yaml; print(yaml.safe_load(open(sys.argv[1]))['postgresql']['callbacks']['on_role_change'])";
    const callback = () =>
      execFileSync(join(inject('tools'), 'python'), ['-c', read, file], { encoding: 'utf8' }).trim();
    const command = callback();
    expect(command).not.toMatch(/patroni_barman|api-url|cert-file|key-file/);
    await promisify(execFile)('bash', ['-c', `${command} on_role_change primary main`]);
    expect(run.host.api.activeModel()).toBe('pg:node1');
    expect(readFileSync(join(folder, 'barman.log'), 'utf8')).toContain('CONFIG_SWITCH_DONE');
    shell(documentedBlock('docs/migration.md', 'sed -E -i'));
    expect(callback()).toBe(command.replace('--barman-model pg:node1', '--follow-leader'));
    shell(documentedBlock('docs/migration.md', 'mv /etc/patroni/patroni.yml.before'));
    expect(readFileSync(file, 'utf8')).toBe(here(example));
  } finally {
    rmSync(folder, { recursive: true });
  }
});
