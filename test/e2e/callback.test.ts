/**
 * The callback for Patroni nodes: its own tests, types, lint and Python version, and the rotation of its log.
 */

import { execFile } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, inject, test } from 'vitest';
import { example } from '../documentation.ts';
import { createSecret } from '../stand-ins/webhook.ts';
import { asPostgres, asRoot } from './processes.ts';

const CALLBACK = 'patroni/barman_config_switch.py';
const run = (tool: string, ...args: string[]) => promisify(execFile)(join(inject('tools'), tool), args);

test('the callback › passes its tests over real sockets and real TLS', async () => {
  await run('python', '-B', 'test/patroni/test_barman_config_switch.py');
});

test('the callback › has no type errors (mypy)', async () => {
  await run('mypy', '--strict', '--cache-dir', join(inject('folder'), 'mypy'), CALLBACK);
});

test('the callback › passes the linter and is formatted (ruff)', async () => {
  const shared = ['--no-cache', '--config', 'patroni/ruff.toml', 'patroni', 'test/patroni'];
  await run('ruff', 'check', ...shared);
  await run('ruff', 'format', '--check', ...shared);
});

test('the callback › runs on Python 3.6 (vermin)', async () => {
  await run('vermin', '--quiet', '--target=3.6-', '--violations', CALLBACK);
});

test.each<[string, string]>([
  ['the example', example('logrotate')],
  ["Debian's own file", readFileSync('/etc/logrotate.d/postgresql-common', 'utf8')],
])('the callback › logs to a new file after %s for logrotate has rotated the log', async (_, text) => {
  const parent = mkdtempSync(join(inject('folder'), 'logrotate-'));
  const folder = join(parent, 'log');
  const script = join(parent, 'barman_config_switch.py');
  chmodSync(parent, 0o755);
  copyFileSync(CALLBACK, script);
  try {
    // As Debian creates it; logrotate refuses some owners and modes.
    const owner = asRoot ? ['-o', 'root', '-g', 'postgres'] : [];
    await promisify(execFile)('install', ['-d', ...owner, '-m', '1775', folder]);
    const log = join(folder, 'barman_config_switch.log');
    const configuration = text.replaceAll('/var/log/postgresql', folder);
    writeFileSync(
      join(parent, 'logrotate'),
      // Only root may become another user.
      asRoot ? configuration : configuration.replaceAll(/^ *su .*$| postgres postgres$/gm, ''),
      { mode: 0o644 },
    );
    /** Nothing listens there, and the log names the path. */
    const callback = (path: string) => {
      const [command, words] = asPostgres(join(inject('tools'), 'python'), [
        ...[script, '--url', `http://127.0.0.1:1/${path}`, '--max-retries', '1', '--log-file', log],
        ...['config-switch', '--barman-server', 'main', '--barman-model', 'pg:node1'],
        ...['--switch-when', 'promoted', 'on_role_change', 'primary', 'main'],
      ]);
      const env = { ...process.env, BARMAN_CONFIG_SWITCH_SECRET: createSecret() };
      return expect(promisify(execFile)(command, words, { env })).rejects.toMatchObject({ code: 3 });
    };
    await callback('before');
    const state = ['--state', join(parent, 'state')];
    await promisify(execFile)('/usr/sbin/logrotate', [...state, '--force', join(parent, 'logrotate')]);
    await callback('after');
    const now = readFileSync(log, 'utf8');
    expect(now).toContain('/after');
    expect(now).not.toContain('/before');
    const rotated = readdirSync(folder).filter((file) => file.startsWith('barman_config_switch.log.'));
    expect(rotated).toHaveLength(1);
    const { stdout } = await promisify(execFile)('zcat', ['-f', join(folder, rotated[0] ?? '')]);
    expect(stdout).toContain('/before');
  } finally {
    rmSync(parent, { recursive: true });
  }
});
