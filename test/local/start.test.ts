import { spawnSync } from 'node:child_process';
import { expect, test } from 'vitest';

test('npm start -- --once › shows a role change with an event and one without, and exits with status 0', {
  timeout: 90_000,
}, () => {
  const { status, stdout, stderr } = spawnSync('node', ['test/local/start.ts', '--once', '--port', '0'], {
    encoding: 'utf8',
  });
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  expect(stdout).toContain('"exit_status": "CONFIG_SWITCH_DONE"');
  expect(stdout).toContain('active model of main  pg:node1 → pg:node2');
  expect(stdout).toContain('model crm:node2 is desired for Barman server crm now');
  expect(stdout).toContain('active model of crm   crm:node1 → crm:node2');
});
