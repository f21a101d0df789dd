/**
 * docs/how-to/repmgr.md: its script and its command, with the real callback. repmgr itself is not needed: it
 * replaces the placeholders and calls system(3) (dbutils.c, `_create_event`).
 */

import { execFile } from 'node:child_process';
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { documentedBlock, fill } from '../documentation.ts';
import { type FunctionUnderTest, startFunction } from '../integration/function.ts';
import { type Endpoint, startEndpoint } from './endpoint.ts';
import { until } from './processes.ts';

const PAGE = readFileSync('docs/how-to/repmgr.md', 'utf8');
const folder = mkdtempSync(join(tmpdir(), 'barman-config-switch-repmgr-'));
const log = join(folder, 'barman_config_switch.log');
let run: FunctionUnderTest;
let endpoint: Endpoint;
let command: string;

beforeAll(async () => {
  run = await startFunction();
  // Without Patroni's REST API, as the page says.
  run.host.put({
    'clusters/main': JSON.stringify({
      servers: { main: { node1: 'pg:node1', node2: 'pg:node2' } },
      secret: run.host.webhookSecret,
    }),
  });
  endpoint = await startEndpoint(async (body, headers) => {
    const { statusCode, response } = await run.webhook(body, { headers });
    return { status: statusCode, response };
  });
  copyFileSync('patroni/barman_config_switch.py', join(folder, 'callback.py'));
  writeFileSync(join(folder, 'webhook-secret'), run.host.webhookSecret, { mode: 0o600 });
  const script = fill(documentedBlock('docs/how-to/repmgr.md', '[ "$2" = 1 ]'), {
    '/etc/repmgr/barman_config_switch.py': `${join(inject('tools'), 'python')} ${join(folder, 'callback.py')}`,
    '/etc/repmgr/webhook-secret': join(folder, 'webhook-secret'),
    '/var/log/postgresql/barman_config_switch.log': log,
    'https://…/config-switch': endpoint.url,
  });
  writeFileSync(join(folder, 'barman.sh'), script, { mode: 0o755 });
  const [, documented = ''] = /^event_notification_command='(.*)'$/m.exec(PAGE) ?? [];
  command = fill(documented, { '/etc/repmgr': folder });
});

afterAll(async () => {
  await endpoint?.[Symbol.asyncDispose]();
  await run?.[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true });
});

/** Runs the command as repmgr does for an event. @returns once the shell has ended, as repmgr waits for it */
function notify(node: number, successful: 0 | 1): Promise<unknown> {
  return promisify(execFile)('sh', ['-c', fill(command, { '%n': String(node), '%s': String(successful) })]);
}
const lines = () => readFileSync(log, { encoding: 'utf8', flag: 'a+' }).trimEnd().split('\n').filter(Boolean);

test('repmgr › is notified of the two events of a promotion', () => {
  expect(PAGE).toContain("\nevent_notifications='standby_promote,repmgrd_failover_promote'\n");
});

test('the command of repmgr › sets Barman to the node that was promoted, and not after a promotion that failed', async () => {
  await notify(1, 0);
  await notify(2, 1);
  await until(() => lines().length === 1, 'the callback has not ended');
  expect(lines()[0]).toContain('CONFIG_SWITCH_DONE');
  expect(run.host.api.activeModel()).toBe('pg:node2');
  expect(run.host.api.operations()).toHaveLength(1);
  // The second event of an automatic failover.
  await notify(2, 1);
  await until(() => lines().length === 2, 'the second callback has not ended');
  expect(run.host.api.operations().map(({ target }) => target)).toEqual(['pg:node2', 'pg:node2']);
});

test('the command of repmgr › returns at once, while the callback tries again', async () => {
  const listen = await endpoint.refuse();
  await notify(1, 1);
  expect(run.host.api.activeModel()).toBe('pg:node2');
  await until(() => lines().at(-1)?.includes('retrying') ?? false, 'the callback does not try again');
  await listen();
  await until(() => run.host.api.activeModel() === 'pg:node1', 'Barman is not set');
  await until(() => lines().at(-1)?.includes('CONFIG_SWITCH_DONE') ?? false, 'the callback has not ended');
});
