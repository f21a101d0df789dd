/**
 * A role change from end to end: Patroni promotes a node, its callback calls the deployed function, and a
 * real Barman follows. Only the HTTP interface of pg-backup-api is a stand-in, behind nginx as in
 * docs/examples.
 */

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import {
  commandsOf,
  documentedBlock,
  documentedCommand,
  expectedOf,
  fill,
  limitOf,
} from '../documentation.ts';
import { MODELS } from '../stand-ins/barman-host.ts';
import { CertificateAuthority } from '../stand-ins/certificates.ts';
import { PgBackupApiStandIn } from '../stand-ins/pg-backup-api.ts';
import { createSecret } from '../stand-ins/webhook.ts';
import { startCluster } from './cluster.ts';
import type { NodeName } from './cluster-files.ts';
import { Deployment, PARAMETERS, shell } from './deployment.ts';
import { type Endpoint, startEndpoint } from './endpoint.ts';
import { loopback } from './loopback.ts';
import { type Nginx, startNginx } from './nginx.ts';
import { other, type PatroniCluster } from './patroni-cluster.ts';
import { asRoot } from './processes.ts';

const folder = mkdtempSync(join(tmpdir(), 'barman-config-switch-patroni-'));
const caFile = join(inject('folder'), 'callback-ca.pem');
const stage = new Deployment('patroni', PARAMETERS);
const secret = createSecret();
let ca: CertificateAuthority;
let api: PgBackupApiStandIn;
let nginx: Nginx;
let endpoint: Endpoint;
let cluster: PatroniCluster;

beforeAll(async () => {
  ca = await CertificateAuthority.create();
  api = await PgBackupApiStandIn.start({
    models: MODELS,
    barman: (server, model) => cluster.barman.configSwitch(server, model),
    diagnose: () => cluster.barman.diagnose(),
  });
  nginx = await startNginx({
    folder: join(folder, 'nginx'),
    upstream: new URL(api.url).host,
    ca,
  });
  await stage.deploy();
  await stage.putParameters({ ...nginx.parameters, 'webhook-secret': secret });
  endpoint = await startEndpoint((body, headers) => stage.post(body, headers), await ca.server());
  writeFileSync(caFile, ca.cert);
  const hosts = await loopback();
  const [node1, node2] = [...hosts.nodes.values()].map(({ address, rest }) => `http://${address}:${rest}`);
  // The callbacks follow the leader of this cluster, so the function has to know it first.
  await shell(documentedBlock('docs/how-to/set-up.md', 'umask 077'), folder);
  const commands = fill(documentedBlock('docs/how-to/set-up.md', 'cat > secrets/cluster.json'), {
    'https://10.0.1.11:8008': node1 ?? '',
    'https://10.0.1.12:8008': node2 ?? '',
    '/barman-config-switch/prod/': `/barman-config-switch/${stage.stage}/`,
  });
  await shell(commands, folder);
  cluster = await startCluster({
    hosts,
    callback: ['--url', endpoint.url, '--ca-file', caFile],
    secret,
    clocks: { node2: 240 },
  });
}, 400_000);

afterAll(async () => {
  await cluster?.stop();
  await endpoint?.[Symbol.asyncDispose]();
  await nginx?.stop();
  await api?.close();
  await stage.remove();
  rmSync(folder, { recursive: true });
}, 120_000);

/**
 * Waits until Barman follows a node: active model, connection and WAL. Prints how long the model took from
 * the promotion, and how long Barman's WAL sender.
 *
 * @param title of the line that is printed
 * @param timeout for the active model (ms)
 * @param promoted when the node was promoted (ms since the epoch), if Patroni did not do that
 */
async function barmanFollows(
  name: NodeName,
  title: string,
  timeout = 60_000,
  promoted?: number,
): Promise<void> {
  await expect
    .poll(() => cluster.barman.active.model, {
      timeout,
      interval: 20,
      message: `${title}\n${cluster.logs()}`,
    })
    .toBe(`pg:${name}`);
  const took = cluster.barman.active.at - (promoted ?? cluster.promotedAt(name));
  console.log(`${title}: ${(took / 1_000).toFixed(1)} s from the promotion to Barman's active model`);
  const servers = await cluster.barman.run(60_000, 'show-servers', 'main');
  expect(servers).toMatch(new RegExp(`^\\s*conninfo: .*port=${cluster.address(name).postgres}\\b`, 'm'));
  const streams = (await cluster.barmanStreams(name)) - (promoted ?? cluster.promotedAt(name));
  console.log(`${title}: ${(streams / 1_000).toFixed(1)} s from the promotion to Barman's WAL sender`);
  await cluster.walArrives(name);
  // Nothing that arrived late has set Barman back meanwhile.
  expect(cluster.barman.active.model).toBe(`pg:${name}`);
}

/** Runs the callback by hand. @returns its exit status and output */
function callback(model: string, ...options: string[]): Promise<{ code: number; output: string }> {
  return cluster.callback(
    ...options,
    ...['config-switch', '--barman-server', 'main', '--barman-model', model, '--switch-when', 'always'],
    ...['on_role_change', 'primary', 'main'],
  );
}

/** How late a heartbeat of the emulator may be on a busy machine (ms). */
const LATE = 30_000;
/** The last line of a node's callback about a role change. */
const lastLine = (name: NodeName) =>
  readFileSync(join(cluster.folder, `${name}-callback.log`), 'utf8')
    .trimEnd()
    .split('\n')
    .findLast((line) => !line.includes('"on_reload" changes no role'));
/** Runs the ledger's command line. @returns its output */
const ledger = (words = '') => shell(`npm run ledger -- --stage ${stage.stage} ${words}`);

test('Barman › follows a switchover and the switchover back, with the clock of node2 four minutes fast', async () => {
  await barmanFollows(await cluster.switchover(), 'switchover');
  await barmanFollows(await cluster.switchover(), 'switchover back');
}, 300_000);

test('Barman › follows a failover after the leader was killed', async () => {
  const leader = await cluster.healthy();
  await cluster.caughtUp();
  await cluster.kill(leader);
  await barmanFollows(other(leader), 'failover', 120_000);
  cluster.startNode(leader);
  await cluster.healthy();
}, 400_000);

test('Barman › follows a switchover although the function is unreachable for the first 15 s', async () => {
  await cluster.healthy();
  const listenAgain = await endpoint.refuse();
  const leader = await cluster.switchover();
  await sleep(15_000);
  await listenAgain();
  await barmanFollows(leader, 'function unreachable for 15 s', 120_000);
}, 400_000);

test('Barman › follows a switchover by the heartbeat after pg-backup-api was unreachable for 90 s', async () => {
  await cluster.healthy();
  await api.refuse();
  const leader = await cluster.switchover();
  await sleep(90_000);
  const expected = expectedOf('pg-backup-api is down');
  try {
    expect(expected).toContain("the callback's log says `(recorded)`. The state is `expired`");
    await expect.poll(() => lastLine(leader)).toContain('(recorded)');
    expect(await ledger()).toMatch(/^main +expired /m);
  } finally {
    await api.listen();
  }
  await barmanFollows(leader, 'pg-backup-api unreachable for 90 s', limitOf(expected) + LATE);
}, 600_000);

test('Barman › follows a switchover during a pause after it, and the drill says what is seen', async () => {
  const expected = expectedOf('A pause');
  const words = ['is paused', '(recorded)', 'paused', 'a desired state is pending', 'in sync', 'resume'];
  expect([...expected.matchAll(/`(.*?)`/g)].map(([, word]) => word)).toEqual(words);
  await cluster.healthy();
  await ledger('pause main');
  const leader = await cluster.switchover();
  await expect.poll(() => lastLine(leader), { timeout: 30_000 }).toMatch(/is paused.*\(recorded\)$/);
  expect(await ledger()).toMatch(/^main +paused .*a\s+desired\s+state\s+is\s+pending/ms);
  await ledger('resume main');
  await barmanFollows(leader, 'paused', limitOf(expected) + LATE);
  await expect.poll(() => ledger(), { timeout: 30_000 }).toMatch(/^main +in sync /m);
}, 400_000);

test('Barman › follows the last of three switchovers in a row, as fast as Patroni allows', async () => {
  await cluster.switchover();
  await cluster.switchover();
  await barmanFollows(await cluster.switchover(), 'three switchovers', 120_000);
}, 400_000);

test('the callback › exits with 3 for a wrong secret and names the cause, and Barman is not changed', async () => {
  // What is desired, since a server that is unsettled is applied again meanwhile.
  const desired = async () =>
    JSON.parse(await shell(`npm run -s ledger -- --stage ${stage.stage} --json`)).servers[0].desired;
  const before = { model: cluster.barman.active.model, desired: await desired() };
  const wrong = join(folder, 'wrong');
  writeFileSync(wrong, createSecret(), { mode: 0o600 });
  // A refusal is tried again: right after a rotation the function may not know the new secret yet.
  const { code, output } = await callback('pg:node1', '--secret-file', wrong, '--max-retries', '2');
  expect(code).toBe(3);
  expect(output).toMatch(/401.*secret.*retrying/);
  expect(output).toMatch(/401.*secret.*giving up/);
  expect(cluster.barman.active.model).toBe(before.model);
  expect(await desired()).toEqual(before.desired);
  await expect.poll(() => stage.logs(), { timeout: 30_000 }).toContain('"WebhookRejected":1');
});

test('the callback › changes nothing with --dry-run, by the documented command, and prints what it says', async () => {
  const leader = await cluster.healthy();
  const models = { leader: `pg:${leader}`, other: `pg:${other(leader)}` };
  const command = fill(documentedCommand('docs/how-to/set-up.md', 'runuser -u postgres'), {
    ...(!asRoot && { 'runuser -u postgres -- ': '' }),
    '/etc/patroni': cluster.folder,
    'https://…/config-switch': `${endpoint.url} --ca-file ${caFile}`,
  });
  // As on the day of the set-up: Barman has the model of another node.
  expect(await cluster.barman.configSwitch('main', models.other)).toBe(true);
  const output = await shell(`${command} || echo "exit code $?"`);
  const { model } = cluster.barman.active;
  expect(await cluster.barman.configSwitch('main', models.leader)).toBe(true);
  expect(output).toContain('exit code 1\n');
  const [, printed = ''] =
    /^… (INFO: .* dry run: .*)$/m.exec(readFileSync('docs/how-to/set-up.md', 'utf8')) ?? [];
  const words = {
    'https://…/config-switch': endpoint.url,
    'model pg:node2, of the leader node2,': `model ${models.leader}, of the leader ${leader},`,
    'now model pg:node1': `now model ${models.other}`,
  };
  expect(output).toContain(fill(printed, words));
  expect(model).toBe(models.other);
});

test('the callback › checks the model that a node names with --dry-run, by the command in docs/how-to/model-on-each-node.md, and prints what it says', async () => {
  const leader = await cluster.healthy();
  const models = { named: `pg:${other(leader)}`, active: `pg:${leader}` };
  const command = fill(documentedCommand('docs/how-to/model-on-each-node.md', 'runuser -u postgres'), {
    ...(!asRoot && { 'runuser -u postgres -- ': '' }),
    '/etc/patroni': cluster.folder,
    'https://…/config-switch': `${endpoint.url} --ca-file ${caFile}`,
    'pg:node1': models.named,
  });
  const output = await shell(`${command} || echo "exit code $?"`);
  expect(output).toContain('exit code 1\n');
  const page = readFileSync('docs/how-to/model-on-each-node.md', 'utf8');
  const [, printed = ''] = /^… (INFO: .* dry run: .*)$/m.exec(page) ?? [];
  const words = {
    'https://…/config-switch': endpoint.url,
    'model pg:node1 to': `model ${models.named} to`,
    'now model pg:node2': `now model ${models.active}`,
  };
  expect(output).toContain(fill(printed, words));
  expect(cluster.barman.active.model).toBe(models.active);
});

test('the callback › writes no secret to a log', () => {
  expect(cluster.logs()).not.toContain(secret.slice(6));
  expect(readFileSync(join(cluster.folder, 'webhook-secret'), 'utf8')).toBe(secret);
});

test('Barman › follows a switchover by the heartbeat alone, while every callback is disabled', async () => {
  await cluster.healthy();
  cluster.disableCallbacks();
  const leader = await cluster.switchover();
  await barmanFollows(leader, 'no callback', limitOf(expectedOf('A broken callback')));
  cluster.enableCallbacks();
}, 600_000);

test('Barman › follows a failover by the heartbeat alone, after the leader and the callback of the new one were killed', async () => {
  const leader = await cluster.healthy();
  await cluster.caughtUp();
  cluster.disableCallbacks();
  await cluster.kill(leader);
  await barmanFollows(other(leader), 'leader and callback killed', 300_000);
  cluster.enableCallbacks();
  cluster.startNode(leader);
  await cluster.healthy();
}, 600_000);

test('Barman › follows a promotion by hand in a paused cluster, for which Patroni runs no callback', async () => {
  const leader = await cluster.healthy();
  await cluster.caughtUp();
  await cluster.patronictl('pause', 'main', '--wait');
  const promoted = Date.now();
  await cluster.pgCtl(other(leader), 'promote');
  await cluster.pgCtl(leader, 'stop', '-m', 'fast');
  await barmanFollows(other(leader), 'promotion by hand in a paused cluster', 300_000, promoted);
  await cluster.patronictl('resume', 'main', '--wait');
  await cluster.healthy();
}, 600_000);

test('the commands for after a failover › show that all is well, and make a backup', async () => {
  await barmanFollows(await cluster.switchover(), 'switchover');
  const [show = '', ...commands] = commandsOf(
    documentedBlock('docs/how-to/after-a-failover.md', 'barman check SERVER'),
  );
  expect(expectedOf('A switchover')).toMatch(/`in sync`.*STREAMING `yes`\.$/);
  // The next heartbeat sees that Barman streams.
  const shown = () => shell(fill(show, { '--stage prod': `--stage ${stage.stage}` }));
  await expect.poll(shown, { timeout: 120_000, interval: 2_000 }).toMatch(/^main +in sync .* yes \d+s +\S/m);
  expect(commands.length).toBeGreaterThan(2);
  for (const command of commands) {
    const [barman, ...words] = fill(command, { SERVER: 'main' }).split(' ');
    expect(barman).toBe('barman');
    const output = await cluster.barman.run(120_000, ...words);
    expect(output, command).not.toMatch(/FAILED|ERROR/);
  }
}, 400_000);
