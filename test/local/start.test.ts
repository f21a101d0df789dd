import { spawnSync } from 'node:child_process';
import { expect, test } from 'vitest';

test('npm start -- --once › shows one complete role change and exits with status 0', {
  timeout: 90_000,
}, () => {
  const { status, stdout, stderr } = spawnSync('node', ['test/local/start.ts', '--once', '--port', '0'], {
    encoding: 'utf8',
  });
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  expect(stdout).toContain('"exit_status": "CONFIG_SWITCH_DONE"');
  expect(stdout).toContain('active model   pg:node1 → pg:node2');
});
