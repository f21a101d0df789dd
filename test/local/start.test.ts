import { execFile, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { commandsOf, documentedBlock, documentedCommand, fill } from '../documentation.ts';

test('npm start -- --once › shows a role change with an event and one without, and exits with status 0', {
  timeout: 90_000,
}, () => {
  // npm ci has run already.
  const start = fill(documentedCommand('README.md', 'npm ci && npm start'), { 'npm ci && ': '' });
  const { status, stdout, stderr } = spawnSync('bash', ['-c', `${start} -- --once --port 0`], {
    encoding: 'utf8',
  });
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  expect(stdout).toContain('"exit_status": "CONFIG_SWITCH_DONE"');
  expect(stdout).toContain('active model of main  pg:node1 → pg:node2');
  expect(stdout).toContain('model crm:node2 is desired for Barman server crm now');
  expect(stdout).toContain('active model of crm   crm:node1 → crm:node2');
});

test('npm run webhook › explains that the function is not running', () => {
  const { status, stderr } = spawnSync('node', ['test/local/send.ts', 'webhook'], { encoding: 'utf8' });
  expect([status, stderr]).toEqual([
    3,
    expect.stringMatching(/^the function is not running: run `npm start`.*\n$/),
  ]);
});

test("npm start › takes the README's role changes from another terminal, until Ctrl-C", {
  timeout: 90_000,
}, async () => {
  const child = spawn('node', ['test/local/start.ts', '--port', '0']);
  const ended = once(child, 'exit');
  let output = '';
  child.stdout.on('data', (data) => {
    output += data;
  });
  try {
    await expect.poll(() => output, { timeout: 60_000 }).toContain('Press Ctrl-C to stop.');
    const shown: string[] = [];
    for (const command of commandsOf(documentedBlock('README.md', 'npm run webhook'))) {
      // It exits with the ExitCode, as the callback does.
      const { stdout } = await promisify(execFile)('bash', ['-c', command]).catch(
        (error: { stdout: string }) => error,
      );
      shown.push(/"message": "(.*)"/.exec(stdout)?.[1] ?? stdout);
    }
    expect(shown).toEqual([
      expect.stringContaining('does not match switch_when'),
      'Barman server main now uses no model',
      expect.stringMatching(/^dry run: Barman has no model pg:node9/),
      'Barman server main now uses model pg:node1',
    ]);
    // The log of the function follows.
    await expect.poll(() => output).toContain('"message":"Barman server main now uses model pg:node1"');
  } finally {
    child.kill('SIGINT');
    expect(await ended).toEqual([130, null]);
  }
});
