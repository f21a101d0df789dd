/**
 * What real Patroni does with the callback: it runs `on_reload` alongside `on_role_change`, ends a role change
 * that still tries before the next one, and does so also through a script with a second command. The function
 * runs in the process of the test, with stand-ins for the Barman host.
 */

import { execFile } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { documentedBlock, documentedCommand, fill } from '../documentation.ts';
import { type FunctionUnderTest, startFunction } from '../integration/function.ts';
import { createSecret } from '../stand-ins/webhook.ts';
import { startCluster } from './cluster.ts';
import type { NodeName } from './cluster-files.ts';
import { type Endpoint, startEndpoint } from './endpoint.ts';
import { loopback } from './loopback.ts';
import { other, type PatroniCluster } from './patroni-cluster.ts';
import { until, writeOwned } from './processes.ts';

const secret = createSecret();
let run: FunctionUnderTest;
let endpoint: Endpoint;
let cluster: PatroniCluster;
/** The payloads that have arrived. */
const arrived: Record<string, unknown>[] = [];

beforeAll(async () => {
  run = await startFunction();
  endpoint = await startEndpoint(async (body, headers) => {
    arrived.push(JSON.parse(body));
    const { statusCode, response } = await run.webhook(body, { headers });
    return { status: statusCode, response };
  });
  const hosts = await loopback();
  run.host.put({
    'clusters/main': JSON.stringify({
      servers: { main: { node1: 'pg:node1', node2: 'pg:node2' } },
      patroni: [...hosts.nodes.values()].map(({ address, rest }) => `http://${address}:${rest}`),
      secret,
    }),
  });
  cluster = await startCluster({ hosts, callback: ['--url', endpoint.url], secret });
}, 200_000);

afterAll(async () => {
  await cluster?.stop();
  await endpoint?.[Symbol.asyncDispose]();
  await run?.[Symbol.asyncDispose]();
}, 120_000);

const file = (name: string) => join(cluster.folder, name);
/** The lines of a node's callback that have a text. */
const linesWith = (name: NodeName, text: string) =>
  existsSync(file(`${name}-callback.log`))
    ? readFileSync(file(`${name}-callback.log`), 'utf8')
        .split('\n')
        .filter((line) => line.includes(text))
    : [];
const RELOADED = 'CONFIG_SWITCH_SKIPPED skipped: "on_reload" changes no role';
/** The processes of a node's callback for an event. */
async function processes(name: NodeName, event: string): Promise<string[]> {
  const pattern = `${file(`${name}-callback.py`)} .* ${event}`;
  const { stdout } = await promisify(execFile)('pgrep', ['-f', pattern]).catch(() => ({ stdout: '' }));
  return stdout.trim().split('\n').filter(Boolean);
}
const killed = (name: NodeName) =>
  (readFileSync(file(`${name}.log`), 'utf8').match(/Killed .* because it was still running/g) ?? []).length;

/** Lets all nodes read their files again, and waits until each has reported that its callback works. */
async function reload(): Promise<void> {
  const before = cluster.names.map((name) => linesWith(name, RELOADED).length);
  const command = documentedCommand('docs/how-to/private-nodes.md', 'patronictl reload');
  expect(documentedCommand('docs/how-to/several-barman-hosts.md', 'patronictl reload')).toBe(command);
  await cluster.patronictl(...fill(command, { 'patronictl ': '' }).split(' '));
  await until(
    () => cluster.names.every((name, index) => linesWith(name, RELOADED).length > (before[index] ?? 0)),
    () => `a node has not reported\n${cluster.logs()}`,
  );
}

test('patronictl reload › lets the callback of every node report that it works', async () => {
  const leader = await cluster.healthy();
  const before = arrived.length;
  await reload();
  const reports = arrived.slice(before).filter(({ action }) => action === 'on_reload');
  expect(reports.map(({ role }) => role).sort()).toEqual(['primary', 'replica']);
  for (const report of reports) {
    expect(report).toMatchObject({ follow_leader: true, cluster: 'main', node: expect.stringMatching(/./) });
  }
  expect(run.host.api.operations()).toEqual([]);
  expect(await cluster.healthy()).toBe(leader);
});

test('a role change that is retried › is applied, although patronictl reload runs the callback of the same node meanwhile', async () => {
  const listen = await endpoint.refuse();
  const leader = await cluster.switchover();
  await until(() => linesWith(leader, 'retrying').length > 0, 'the callback does not try again');
  const before = await processes(leader, 'on_role_change primary');
  expect(before).toHaveLength(1);
  const [retried, reported] = [killed(leader), linesWith(leader, RELOADED).length];
  await cluster.patronictl('reload', 'main', '--force');
  await until(async () => (await processes(leader, 'on_reload')).length === 1, 'no callback for the reload');
  expect(await processes(leader, 'on_role_change primary')).toEqual(before);
  await listen();
  await until(
    () => linesWith(leader, 'CONFIG_SWITCH_DONE').length > 0,
    () => cluster.logs(),
  );
  expect(run.host.api.activeModel()).toBe(`pg:${leader}`);
  const isReported = () => linesWith(leader, RELOADED).length > reported;
  await until(isReported, () => `the reload is not reported\n${cluster.logs()}`);
  expect(killed(leader)).toBe(retried);
});

test('a script with a second command › runs both, the callback last and in its place, and Patroni ends that before the next role change', async () => {
  const page = readFileSync('docs/how-to/second-callback.md', 'utf8');
  const callbacks = /```yaml\n(.*?)```/s.exec(page)?.[1] ?? '';
  const script = documentedBlock('docs/how-to/second-callback.md', 'if [ "$1" = on_role_change ]');
  for (const name of cluster.names) {
    // It fails, which must not stop the callback.
    const second = `#!/bin/sh\necho "$@" >> ${file(`${name}-second`)}; exit 1\n`;
    writeOwned(file(`${name}-second.sh`), second, 0o755);
    const words = {
      ...cluster.callbackWords(name),
      '/usr/local/bin/move-address': file(`${name}-second.sh`),
    };
    writeOwned(file(`${name}-callback.sh`), fill(script, words), 0o755);
    const yaml = fill(callbacks, { '/etc/patroni/callback.sh': file(`${name}-callback.sh`) });
    writeOwned(join(file(`${name}.d`), '9.yml'), yaml, 0o600);
  }
  // The first one reads the files, and the second one runs what they say.
  await reload();
  await reload();
  for (const name of cluster.names) expect(existsSync(file(`${name}-second`)), name).toBe(false);

  const listen = await endpoint.refuse();
  const leader = await cluster.switchover();
  let pid = '';
  await until(async () => {
    [pid = ''] = await processes(leader, 'on_role_change primary');
    return pid !== '';
  }, 'no callback');
  expect(readFileSync(file(`${leader}-second`), 'utf8')).toBe('on_role_change primary main\n');
  // The parent is Patroni itself, not the script.
  const { stdout: parent } = await promisify(execFile)('ps', ['-o', 'ppid=', '-p', pid]);
  const { stdout: command } = await promisify(execFile)('ps', ['-o', 'args=', '-p', parent.trim()]);
  expect(command).toContain(`/patroni ${file(`${leader}.d`)}`);

  const before = killed(leader);
  expect(await cluster.switchover()).toBe(other(leader));
  await until(async () => !(await processes(leader, '')).includes(pid), 'the callback still runs');
  // Patroni logs it after the process has ended.
  await until(() => killed(leader) > before, 'Patroni does not log that it has killed it');
  const [count, done] = [arrived.length, linesWith(other(leader), 'CONFIG_SWITCH_DONE').length];
  await listen();
  const isDone = () => linesWith(other(leader), 'CONFIG_SWITCH_DONE').length > done;
  await until(isDone, () => `the callback of the new leader is not done\n${cluster.logs()}`);
  expect(run.host.api.activeModel()).toBe(`pg:${other(leader)}`);
  const roles = arrived.slice(count).map(({ action, role }) => `${action} ${role}`);
  expect(roles.filter((one) => one === 'on_role_change primary')).toHaveLength(1);
});
