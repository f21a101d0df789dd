/** The callback for a Patroni node: its own tests, and what the usual tools say of it. */

import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { inject, test } from 'vitest';

const CALLBACK = 'patroni/barman_config_switch.py';
const run = (tool: string, ...words: string[]) => promisify(execFile)(join(inject('tools'), tool), words);

test('passes its tests, over real sockets and real TLS', async () => {
  await run('python', '-B', 'test/patroni/test_barman_config_switch.py');
});

test('is well typed (mypy)', async () => {
  await run('mypy', '--strict', '--cache-dir', join(inject('folder'), 'mypy'), CALLBACK);
});

test('is linted and formatted (ruff)', async () => {
  await run('ruff', 'check', '--no-cache', 'patroni');
  await run('ruff', 'format', '--no-cache', '--check', 'patroni');
});

test('runs on Python 3.6 (vermin)', async () => {
  await run('vermin', '--quiet', '--target=3.6-', '--violations', CALLBACK);
});
