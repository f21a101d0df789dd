/** The callback for Patroni nodes: its own tests, types, lint and Python version. */

import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { inject, test } from 'vitest';

const CALLBACK = 'patroni/barman_config_switch.py';
const run = (tool: string, ...args: string[]) => promisify(execFile)(join(inject('tools'), tool), args);

test('the callback › passes its tests over real sockets and real TLS', async () => {
  await run('python', '-B', 'test/patroni/test_barman_config_switch.py');
});

test('the callback › has no type errors (mypy)', async () => {
  await run('mypy', '--strict', '--cache-dir', join(inject('folder'), 'mypy'), CALLBACK);
});

test('the callback › passes the linter and is formatted (ruff)', async () => {
  await run('ruff', 'check', '--no-cache', 'patroni');
  await run('ruff', 'format', '--no-cache', '--check', 'patroni');
});

test('the callback › runs on Python 3.6 (vermin)', async () => {
  await run('vermin', '--quiet', '--target=3.6-', '--violations', CALLBACK);
});
