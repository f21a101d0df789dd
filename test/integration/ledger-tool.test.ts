import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import * as v from 'valibot';
import { describe, expect, test, vi } from 'vitest';
import { InspectionReport } from '../../functions/config-switch/inspect/report.ts';
import { commandsOf, documentedBlock, documentedCommand, fill } from '../documentation.ts';
import { inOneCluster } from '../stand-ins/barman-host.ts';
import { PatroniStandIn } from '../stand-ins/patroni-rest-api.ts';
import { listen } from '../stand-ins/server.ts';
import { createSecret } from '../stand-ins/webhook.ts';
import { at, isPost, MINUTE, NODE1, PROMOTION, RESET, SKIPPED, signal, startFunction } from './function.ts';
import { ledger, startLambda } from './ledger-command.ts';

const DAY = 1_440 * MINUTE;
const HEARTBEAT = { at: at(0), interval: 60_000, version: '1.2.3' };
const UNREADABLE = { desired: 'Model pg:node1' } as never;
/** An item as version 0.1.0 wrote it. */
const OF_0_1_0 = {
  ...{ schema: 1, desired: 'model pg:node1', desired_version: `${at(-DAY)}#msg_1`, events: ['msg_1'] },
  ...{
    cluster: 'main',
    recorded_at: at(-DAY),
    applied: 'model pg:node1',
    applied_version: `${at(-DAY)}#msg_1`,
  },
  ...{ operation_id: '20261123T061000', applied_at: at(-DAY) },
} as never;

/** `pause --all` waits for so long. */
vi.mock('node:timers/promises', async (load) => {
  const real = await load<typeof import('node:timers/promises')>();
  const setTimeout: typeof real.setTimeout = (ms, ...rest) =>
    real.setTimeout(ms === 30_000 ? 1 : ms, ...rest);
  return { ...real, setTimeout };
});

/** A cluster of the last heartbeat, with these servers. */
const clusterOf = (name: string, servers: readonly string[]) => ({
  name,
  servers: servers.map((server) => ({ name: server, observed: true })),
  observed_at: HEARTBEAT.at,
});

const clustersNamed = (count: number) =>
  Array.from({ length: count }, (_, index) => clusterOf(`c${index}`, [`s${index}`]));

describe('npm run ledger', () => {
  test('shows the desired and the applied state of each server, and why they differ', async () => {
    await using run = await startFunction({}, { MAX_RETRIES: '1' });
    expect((await ledger(run.table)).log).toContain('No role change has been recorded yet');
    await run.invoke(PROMOTION);
    expect((await ledger(run.table)).log).toMatch(/^main +in sync +pg:node2 \d+s +pg:node2 \d+s +– +– +\?$/m);
    await run.host.api.refuse();
    await run.invoke(RESET);
    const { log } = await ledger(run.table);
    expect(log).toMatch(/^SERVER +STATE +DESIRED +APPLIED +LEADER +STREAMING +READY$/m);
    expect(log).toMatch(
      /^main +pending +no model .*\n {2}- the next attempt is in \d+s; next: retry main\n {2}- failed once: [\s\S]*ECONNREFUSED/m,
    );
  });

  test('shows the operation that outlasted its invocation', async () => {
    await using run = await startFunction();
    await run.invoke(SKIPPED);
    run.host.api.plan({ time: Number.POSITIVE_INFINITY });
    await run.webhook(PROMOTION, { remaining: 2_500 });
    await run.expireLease();
    const [operation] = run.host.api.operations();
    expect((await ledger(run.table)).log.replaceAll(/\s+/g, ' ')).toContain(
      `the next heartbeat asks for the end of operation ${operation?.id}`,
    );
  });

  test('pauses and resumes a server', async () => {
    await using run = await startFunction();
    await run.invoke(PROMOTION);
    expect((await ledger(run.table, 'pause', 'main')).log).toMatch(
      / nothing is sent to Barman, since 20.* UTC; next: resume main$/m,
    );
    expect((await run.invoke(NODE1)).exit_code).toBe(3);
    expect((await ledger(run.table)).log).toMatch(
      / paused [\s\S]* a desired state is\s+pending; next: resume main$/m,
    );
    expect((await ledger(run.table, 'resume', 'main')).log).toMatch(
      / made by the next heartbeat; next: retry main$/m,
    );
    const { log } = await ledger(run.table, 'pause', 'main', '--for', '90m');
    const until = at(90 * MINUTE)
      .slice(0, 13)
      .replace('T', ' ');
    expect(log).toMatch(new RegExp(`, until ${until}:.* UTC; a desired state`));
  });

  test('pauses all servers, or those of a cluster, with the reason, and resumes them', async () => {
    await using run = await startFunction();
    await run.invoke(PROMOTION);
    const clusters = [clusterOf('east', ['main', 'crm'])];
    await run.setItem({ heartbeat: { ...HEARTBEAT, clusters } } as never, '@stage');
    const paused = await ledger(run.table, 'pause', '--cluster', 'east', '--reason', 'a new disk');
    expect(paused.log).toMatch(/^crm +paused [\s\S]* for: a new disk;\s[\s\S]*^main +paused /m);
    expect((await ledger(run.table, 'resume', '--cluster', 'east')).log).toMatch(/^main +in sync /m);
    expect(await ledger(run.table, 'pause', '--cluster', 'west')).toMatchObject({
      status: 1,
      error: `unknown cluster west in the last heartbeat and in the ledger of ${run.table}; known: east, ${PROMOTION.cluster}\n`,
    });

    const { log } = await ledger(run.table, 'pause', '--all', '--no-wait', '--for', '2h');
    expect(log).toMatch(/^all servers are paused, until 20.* UTC; next: resume --all$/m);
    expect(log).toMatch(/^main +paused /m);
    expect(await run.invoke(NODE1)).toMatchObject({ exit_code: 3, recorded: true });
    expect(run.host.api.activeModel()).toBe('pg:node2');
    expect((await ledger(run.table, 'resume', '--all')).log).toMatch(/^main +pending /m);
  });

  test('pauses and resumes the other servers of a cluster if one has no item, or one that cannot be read', async () => {
    await using run = await startFunction();
    await run.invoke(PROMOTION);
    const clusters = [clusterOf('east', ['absent', 'broken', 'main']), clusterOf('west', ['crm'])];
    await run.setItem({ heartbeat: { ...HEARTBEAT, clusters } } as never, '@stage');
    await run.setItem(UNREADABLE, 'broken');
    const paused = await ledger(run.table, 'pause', '--cluster', 'east');
    expect([paused.status, paused.error]).toEqual([
      1,
      expect.stringMatching(/^broken: the ledger's item of broken cannot be read: .*\n$/),
    ]);
    expect(paused.log).toMatch(/^absent +paused [\s\S]*^broken +unreadable [\s\S]*^main +paused /m);
    expect(paused.log).not.toMatch(/^crm /m);

    await run.operator.forgetByForce('absent', signal());
    const resumed = await ledger(run.table, 'resume', '--cluster', 'east');
    expect([resumed.status, resumed.error]).toEqual([
      1,
      expect.stringMatching(
        /^absent: not in the ledger, so there is no pause to end\nbroken: the ledger's item .*\n$/,
      ),
    ]);
    expect(resumed.log).toMatch(/^absent +new [\s\S]*^main +in sync /m);

    await run.operator.forgetByForce('broken', signal());
    expect((await ledger(run.table, 'resume', '--cluster', 'east')).status).toBe(0);
  });

  test('shows an item of version 0.1.0 as unreadable, and names the page; the function sends nothing for it', async () => {
    await using run = await startFunction();
    await run.setItem(OF_0_1_0);
    const remedy =
      'version 0.1.0 wrote it; remove the stage and deploy it again (docs/how-to/upgrade.md#from-010)';
    expect(await run.invoke(PROMOTION)).toMatchObject({
      ...{ exit_code: 3, exit_status: 'HTTP_ERROR' },
      message: expect.stringContaining(remedy),
    });
    expect(run.host.api.requests.filter(isPost)).toEqual([]);
    const { log } = await ledger(run.table);
    expect(log).toMatch(/^main +unreadable /m);
    expect(log.replaceAll(/\s+/g, ' ')).toContain(`desired is "model pg:node1", not Object; ${remedy}`);
  });

  test('pauses all servers, and says what it waits for, also if an item cannot be read', async () => {
    await using run = await startFunction();
    await run.invoke(PROMOTION);
    await run.setItem(UNREADABLE, 'broken');
    const { status, log, error } = await ledger(run.table, 'pause', '--all');
    expect([status, error]).toEqual([
      1,
      expect.stringMatching(
        /^All servers are paused\. An invocation that began before may not know that; waiting 30 s until it has ended\.\nbroken: the ledger's item of broken cannot be read: .*\n$/,
      ),
    ]);
    expect(log).toMatch(/^broken +unreadable [\s\S]*^main +paused /m);
    await run.operator.forgetByForce('broken', signal());
    expect((await ledger(run.table, 'pause', '--all')).status).toBe(0);
  });

  test('pauses the servers whose newest role change came from a Patroni scope, without clusters', async () => {
    await using run = await startFunction();
    await run.invoke(PROMOTION);
    expect((await ledger(run.table, 'pause', '--cluster', PROMOTION.cluster)).log).toMatch(/^main +paused /m);
    await run.setItem({ heartbeat: { ...HEARTBEAT, clusters: clustersNamed(12) } } as never, '@stage');
    expect((await ledger(run.table, 'pause', '--cluster', 'west')).error).toMatch(
      /; known: (c\d+, ){9}c\d+ and 3 more\n$/,
    );
  });

  test('shows some servers only after a command for them, and what the heartbeat found of all clusters', async () => {
    await using run = await startFunction();
    await run.invoke(PROMOTION);
    await run.setItem({ heartbeat: { ...HEARTBEAT, clusters: clustersNamed(2) } } as never, '@stage');
    const { log } = await ledger(run.table, 'pause', 'main', '--no-wait');
    expect(log).toMatch(/^heartbeat .*; 2 of 2\s+clusters known$/m);
    expect(log.match(/^(main|s\d)(?= )/gm)).toEqual(['main']);
    const { servers } = JSON.parse((await ledger(run.table, 'pause', 'main', '--no-wait', '--json')).log);
    expect(servers).toEqual([expect.objectContaining({ barman_server: 'main' })]);
  });

  test('warns of a server that neither the ledger nor a cluster has, which may be misspelt', async () => {
    await using run = await startFunction();
    await using _ = await startLambda((event) => run.send(event));
    await run.invoke(PROMOTION);
    await run.setItem(
      { heartbeat: { ...HEARTBEAT, clusters: [clusterOf('a', ['crm'])] } } as never,
      '@stage',
    );
    const warning = `Warning: neither the ledger of ${run.table} nor a cluster has a server mian; known: crm, main. If the name is misspelt, run afterwards: forget mian\n`;
    for (const words of [
      ['pause', 'mian'],
      ['reset', 'mian'],
      ['set', 'mian', 'm'],
    ]) {
      await run.operator.forgetByForce('mian', signal());
      expect((await ledger(run.table, ...words)).error).toBe(warning);
      expect((await ledger(run.table, ...words)).error).toBe('');
    }
    expect((await ledger(run.table, 'pause', 'crm')).error).toBe('');
  });

  test('forgets no server that a cluster lists', async () => {
    await using run = await startFunction();
    await run.invoke(PROMOTION);
    const clusters = [clusterOf('east', ['main'])];
    await run.setItem({ heartbeat: { ...HEARTBEAT, clusters } } as never, '@stage');
    expect(await ledger(run.table, 'forget', 'main')).toMatchObject({
      status: 1,
      error: expect.stringContaining('clusters/east lists main: remove it there first'),
    });
  });

  test('pauses a server only once its switch has ended, unless --no-wait is given', async () => {
    await using run = await startFunction({ operationTime: 2_500 });
    const response = run.invoke(PROMOTION);
    await expect.poll(() => run.host.api.operations().length).toBe(1);
    const at = performance.now();
    expect((await ledger(run.table, 'pause', 'main', '--no-wait')).log).toMatch(/ switching /);
    expect((await run.host.api.operations())[0]?.endedAt).toBeUndefined();
    const { log, error } = await ledger(run.table, 'pause', 'main');
    expect(error).toMatch(/^A switch of main has begun; waiting until it ends, at most until 20.* UTC\.$/m);
    expect(log).toMatch(/ paused /);
    expect(run.host.api.operations()[0]?.endedAt).toBeGreaterThan(at);
    expect((await response).exit_code).toBe(0);
  });

  test('says since when a server is unsettled, and what that means for a model set by hand', async () => {
    await using run = await startFunction();
    run.host.api.fault({ kind: 'lose response' }, 1, isPost);
    await run.invoke(PROMOTION);
    const { log } = await ledger(run.table);
    expect(log).toMatch(/^main +in sync /m);
    expect(log.replaceAll(/\s+/g, ' ')).toMatch(
      / - unsettled since 20\S+ \S+ UTC: .* applied again at growing intervals, next 20\S+ \S+ UTC; .* pause the server before you set one $/,
    );
  });

  test('shows an item that cannot be read alongside the others, and forgets it only by force', async () => {
    await using run = await startFunction();
    await run.invoke(PROMOTION);
    await run.setItem({ desired: 'Model pg:node1' } as never, 'by-hand');
    const { log } = await ledger(run.table);
    expect(log).toMatch(
      /^by-hand +unreadable( +–){4} +\?\n {2}- the ledger's item of by-hand cannot be read: desired/m,
    );
    expect(log).toMatch(/^main +in sync /m);
    expect(JSON.parse((await ledger(run.table, '--json')).log).servers).toEqual([
      {
        ...{ barman_server: 'by-hand', state: 'unreadable', leader_known: false },
        message: expect.stringContaining('desired is'),
      },
      expect.objectContaining({ barman_server: 'main', state: 'in sync' }),
    ]);
    expect(await ledger(run.table, 'forget', 'by-hand')).toMatchObject({
      status: 1,
      error: expect.stringMatching(
        /cannot be read: .*\n?.* or delete the item with .* forget by-hand --force/,
      ),
    });
    expect((await ledger(run.table, 'forget', 'by-hand', '--force')).log).toBe('by-hand is forgotten.\n');
    expect((await ledger(run.table)).log).not.toContain('by-hand');
  });

  test('forgets a server without a role change for 15 days, or by force; never one that is being switched', async () => {
    await using run = await startFunction();
    const forget = (...words: string[]) => ledger(run.table, 'forget', 'main', ...words);
    const refused = (state: string) => ({
      status: 1,
      error: expect.stringMatching(
        new RegExp(
          `^main is ${state}: only a server that Barman does not have, or that is in sync and settled, and has had no role change for 15 days[\\s\\S]* Barman could not be asked: `,
        ),
      ),
    });
    run.host.api.fault({ kind: 'lose response' }, 1, isPost);
    await run.invoke(PROMOTION);
    expect(await forget()).toMatchObject(refused('in sync, unsettled'));
    const { desired, applied } = (await run.item()) ?? {};
    if (!desired || !applied) throw new Error('not recorded');
    const old = { version: `${at(-15 * DAY)}#event` };
    await run.setItem({ desired: { ...desired, ...old }, applied: { ...applied, ...old } });
    expect(await forget()).toMatchObject(refused('in sync, unsettled'));
    await run.setItem({ unsettled_since: null } as never);
    expect((await forget()).log).toBe('main is forgotten.\n');

    await run.invoke(PROMOTION);
    expect(await forget()).toMatchObject(refused('in sync'));
    expect((await forget('--force')).log).toBe('main is forgotten.\n');

    run.host.api.plan({ time: Number.POSITIVE_INFINITY });
    await run.webhook(PROMOTION, { remaining: 2_500 });
    await run.expireLease();
    expect(await forget()).toMatchObject(refused('expired'));
    expect(await forget('--force')).toMatchObject({
      status: 1,
      error: expect.stringMatching(/^main is not in the ledger, or a switch of it has not ended/),
    });
  });

  test('forgets a server that Barman does not have, and no other, whatever its last error says', async () => {
    await using run = await startFunction({}, { MAX_RETRIES: '1' });
    await using _ = await startLambda((event) => run.send(event));
    const unknown = 'Barman has no server main, so the switch would end as HTTP_ERROR';
    await run.invoke(PROMOTION);
    await run.setItem({ apply_again_at: at(-1), attempts: 1, last_error: unknown });
    const refused = await ledger(run.table, 'forget', 'main');
    expect([refused.status, refused.error]).toEqual([
      1,
      expect.stringMatching(/^main is pending: only .* --force does it nevertheless\n$/),
    ]);
    await run.invoke({ ...PROMOTION, barman_server: 'gone' });
    expect(await ledger(run.table, 'forget', 'gone')).toMatchObject({
      status: 0,
      log: 'gone is forgotten.\n',
    });
  });

  test('says why Barman could not be asked for the server that is to be forgotten', async () => {
    await using run = await startFunction({}, { MAX_RETRIES: '1' });
    await using _ = await startLambda((event) => run.send(event));
    await run.invoke(PROMOTION);
    await run.host.api.refuse();
    const error = async () => (await ledger(run.table, 'forget', 'main')).error;
    expect(await error()).toMatch(
      /^main is in sync: only .* --force does it nevertheless\. Barman could not be asked: .*ECONNREFUSED/,
    );
    await run.ledger.acquireDiagnosis(MINUTE, signal());
    expect(await error()).toMatch(
      /\. Barman could not be asked: another dry run or inspection is under way, /,
    );
  });

  test('says what a retry has tried, and that all servers are paused', async () => {
    await using run = await startFunction();
    await using _ = await startLambda((event) => run.send(event));
    await run.invoke(PROMOTION);
    await run.operator.pauseAll({}, signal());
    await run.invoke(NODE1);
    expect(await ledger(run.table, 'retry', 'main')).toMatchObject({
      log: expect.stringMatching(/^main +paused /m),
      error: 'Not tried, because all servers are paused; next: resume --all\n',
    });
    await run.operator.resumeAll(signal());
    expect((await ledger(run.table, 'retry', 'main')).error).toBe(
      'Tried, and done: Barman is set to pg:node1.\n',
    );
  });

  test('applies the model of a promoted standby site, and pauses for a drill, by the commands in the documentation', async () => {
    const models = inOneCluster(['pg:node1', 'pg:dc2-node1']);
    await using run = await startFunction({ models });
    await using _ = await startLambda((event) => run.send(event));
    await run.invoke(NODE1);
    const printed: string[] = [];
    for (const command of [
      documentedCommand('docs/how-to/standby-site.md', 'npm run ledger -- --stage prod set'),
      documentedCommand('docs/how-to/standby-site.md', 'npm run ledger -- --stage prod pause'),
      documentedCommand('docs/how-to/standby-site.md', 'npm run ledger -- --stage prod resume'),
    ]) {
      const words = fill(command, { 'npm run ledger -- --stage prod ': '' }).split(' ');
      const { status, log, error } = await ledger(
        run.table,
        ...words,
        ...(words[0] === 'pause' ? ['--no-wait'] : []),
      );
      expect([status, error]).toEqual([0, '']);
      printed.push(log);
    }
    expect(printed).toEqual([
      'Barman server main now uses model pg:dc2-node1\n',
      expect.stringMatching(/^main +paused /m),
      expect.stringMatching(/^main +in sync /m),
    ]);
    expect(run.host.api.activeModel()).toBe('pg:dc2-node1');
  });

  test('sets a server without members to a standby, by the command in docs/how-to/backups-from-a-standby.md, and no heartbeat undoes that', async () => {
    await using patroni = await PatroniStandIn.start();
    await using run = await startFunction();
    await using _ = await startLambda((event) => run.send(event));
    const page = readFileSync('docs/how-to/backups-from-a-standby.md', 'utf8');
    const [, cluster = ''] = /^```json\n(.*?)^```$/ms.exec(page) ?? [];
    // Even if Patroni could be asked.
    const { servers } = JSON.parse(cluster) as { servers: object };
    run.host.put({ 'clusters/main': JSON.stringify({ servers, patroni: patroni.urls }) });
    const command = documentedCommand('docs/how-to/backups-from-a-standby.md', 'npm run ledger');
    const words = fill(command, { 'npm run ledger -- --stage prod ': '' }).split(' ');
    const { status, log } = await ledger(run.table, ...words);
    expect([status, page]).toEqual([0, expect.stringContaining(`\`\`\`\n${log}\`\`\``)]);
    for (let count = 0; count < 4; count += 1) await run.heartbeat();
    expect(run.host.api.activeModel()).toBe('pg:node2');
  });

  test('says that the outcome is unknown if the function did not respond, or failed', async () => {
    await using run = await startFunction();
    await run.invoke(PROMOTION);
    const set = async (invoke: () => Promise<unknown>) => {
      await using _ = await startLambda(invoke);
      const { status, error } = await ledger(run.table, 'set', 'main', 'pg:node1');
      return [status, error];
    };
    const look = `so the outcome is unknown; look with: npm run ledger -- --stage ${run.table.replace('barman-config-switch-', '')}`;
    expect(await set(() => Promise.reject(new Error('Task timed out')))).toEqual([
      1,
      `the function failed, ${look}: {"errorMessage":"Error: Task timed out"}\n`,
    ]);
    expect(await set(async () => undefined)).toEqual([
      1,
      expect.stringMatching(new RegExp(`^the function's response was lost, ${look}: ECONNRESET; .*\n$`)),
    ]);
    const timeout = AbortSignal.timeout;
    const spy = vi
      .spyOn(AbortSignal, 'timeout')
      .mockImplementation((ms) => timeout.call(AbortSignal, ms === 45_000 ? 100 : ms));
    expect(await set(() => new Promise(() => {}))).toEqual([
      1,
      `the function did not respond within 45 s, ${look}\n`,
    ]);
    spy.mockRestore();
  });

  test('prints JSON for scripts', async () => {
    await using run = await startFunction();
    await run.invoke(PROMOTION);
    for (const words of [[], ['pause', 'main', '--no-wait']]) {
      const { status, log } = await ledger(run.table, '--json', ...words);
      const state = words.length > 0 ? 'paused' : 'in sync';
      expect([status, JSON.parse(log).servers]).toEqual([
        0,
        [
          expect.objectContaining({
            barman_server: 'main',
            state,
            applied: expect.objectContaining({ target: 'model pg:node2' }),
          }),
        ],
      ]);
    }
  });

  test('shows the ledger again and again with --watch', async () => {
    await using run = await startFunction();
    const stage = run.table.replace('barman-config-switch-', '');
    const child = spawn(process.execPath, ['cli/ledger.ts', '--stage', stage, '--watch']);
    let output = '';
    child.stdout.on('data', (data) => {
      output += data;
    });
    await expect.poll(() => output, { timeout: 20_000 }).toContain('No role change has been recorded yet.');
    await run.invoke(PROMOTION);
    await expect.poll(() => output, { timeout: 20_000 }).toMatch(/^main +in sync /m);
    const ended = once(child, 'exit');
    child.kill('SIGINT');
    expect(await ended).toEqual([null, 'SIGINT']);
  });

  test('names the servers of the ledger if it does not have the one that is given', async () => {
    await using run = await startFunction();
    await run.invoke(PROMOTION);
    const { status, error } = await ledger(run.table, 'resume', 'nope');
    expect([status, error]).toEqual([1, `unknown server nope in the ledger of ${run.table}; known: main\n`]);
  });

  test('names ten servers of a large ledger, and the number of the others', async () => {
    await using run = await startFunction();
    for (let index = 0; index < 12; index += 1) {
      await run.setItem({ leader: 'node1' } as never, `s${index}`);
    }
    const { error } = await ledger(run.table, 'resume', 'nope');
    expect(error).toMatch(/; known: (s\d+, ){9}s\d+ and 2 more\n$/);
  });

  test.each([
    ['', 'the ledger is unavailable'],
    ['check', 'the parameters under /barman-config-switch/example/ could not be read from SSM'],
  ])('says without credentials how to sign in (%j)', async (command, what) => {
    await using _ = await startFunction();
    for (const name of ['AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY', 'AWS_SESSION_TOKEN', 'AWS_PROFILE']) {
      vi.stubEnv(name, undefined);
    }
    vi.stubEnv('AWS_EC2_METADATA_DISABLED', 'true');
    for (const name of ['AWS_CONFIG_FILE', 'AWS_SHARED_CREDENTIALS_FILE']) vi.stubEnv(name, '/nowhere');
    const { status, log, error } = await ledger(
      'barman-config-switch-example',
      ...command.split(' ').filter(Boolean),
    );
    expect([status, log]).toEqual([1, '']);
    expect(error).toMatch(
      new RegExp(
        `^${what}: CredentialsProviderError: .*; sign in to AWS, .*AWS_PROFILE.* shows who you are\n$`,
      ),
    );
  });

  test.each([
    ['nowhere', [], 'us-east-1'],
    ['nowhere', ['--region', 'us-west-2'], 'us-west-2'],
    ['nowhere', ['retry', 'main'], 'us-east-1'],
    ['nowhere', ['check'], 'us-east-1'],
    ['nowhere', ['redrive'], 'us-east-1'],
    // Its file in infra/stages names the region.
    ['example', [], 'eu-central-1'],
  ])('reports that stage %s is unknown (%j)', async (stage, words, region) => {
    await using _ = await startFunction();
    vi.stubEnv('AWS_REGION', 'us-east-1');
    const { status, log, error } = await ledger(`barman-config-switch-${stage}`, ...words);
    expect([status, log]).toEqual([1, '']);
    expect(error).toMatch(
      new RegExp(
        `^unknown stage ${stage}: table barman-config-switch-${stage} does not exist in ${region} ` +
          `\\(infra/stages has: .*\\); .* npm run deploy -- --stage ${stage}\n$`,
      ),
    );
  });
});

/** What is typed after `npm run ledger -- --stage prod` in a documented command, for the server main. */
function wordsOf(command: string): string[] {
  const names = { SERVER: 'main', MODEL: 'pg:node2', CLUSTER: 'east' };
  const typed = Object.entries(names).reduce(
    (text, [from, to]) => text.replace(from, to),
    fill(`${command} `, { 'npm run ledger -- --stage prod ': '' }),
  );
  return [...typed.matchAll(/"([^"]*)"|\S+/g)].map(([word, quoted]) => quoted ?? word);
}

describe('the how-to pages', () => {
  test('remove a server › forgets it, also by force, and says so', async () => {
    await using run = await startFunction();
    await using _ = await startLambda((event) => run.send(event));
    const page = readFileSync('docs/how-to/remove-a-node-or-server.md', 'utf8');
    const forget = documentedBlock(
      'docs/how-to/remove-a-node-or-server.md',
      'npm run ledger -- --stage prod forget',
    );
    const force = documentedBlock(
      'docs/how-to/remove-a-node-or-server.md',
      'npm run ledger -- --stage prod forget SERVER --force',
    );
    await run.invoke(PROMOTION);
    expect(await ledger(run.table, ...wordsOf(forget.trim()))).toMatchObject({
      status: 1,
      error: expect.stringContaining('main is in sync: only a server that Barman does not have'),
    });
    const { log } = await ledger(run.table, ...wordsOf(force.trim()));
    expect(page).toContain(`\n${forget}\`\`\`\n\n\`\`\`\n${log}\`\`\`\n`);
    expect(await run.item()).toBeUndefined();
  });

  test('drills › show, pause and resume a server', async () => {
    await using run = await startFunction();
    await run.invoke(PROMOTION);
    const watch = documentedCommand('docs/how-to/drills.md', 'npm run ledger -- --stage prod --watch');
    const pause = documentedCommand('docs/how-to/drills.md', 'npm run ledger -- --stage prod pause');
    const resume = documentedCommand('docs/how-to/drills.md', 'npm run ledger -- --stage prod resume');
    expect(wordsOf(watch)).toEqual(['--watch']);
    expect((await ledger(run.table, ...wordsOf(pause))).log).toMatch(/^main +paused /m);
    expect((await ledger(run.table, ...wordsOf(resume))).log).toMatch(/^main +in sync /m);
  });

  test('read the ledger › shows it, and tries again what is pending', async () => {
    await using run = await startFunction();
    await using _ = await startLambda(() => run.heartbeat());
    await run.invoke(PROMOTION);
    const commands = commandsOf(
      documentedBlock('docs/how-to/read-the-ledger.md', 'npm run ledger -- --stage prod'),
    );
    expect(commands.map((command) => wordsOf(command))).toEqual([[], ['--watch']]);
    expect((await ledger(run.table, ...wordsOf(commands[0] ?? ''))).log).toMatch(/^main +in sync /m);
    const retry = documentedCommand('docs/how-to/read-the-ledger.md', 'npm run ledger -- --stage prod retry');
    expect(retry).toMatch(/ retry crm$/);
    expect((await ledger(run.table, ...wordsOf(retry.replace('crm', 'main')))).error).toBe(
      'Nothing to try: main is in sync.\n',
    );
  });

  test('pause › pauses a server, a cluster or all, and resumes them', async () => {
    await using run = await startFunction();
    await run.invoke(PROMOTION);
    const clusters = [clusterOf('east', ['main'])];
    await run.setItem({ heartbeat: { ...HEARTBEAT, clusters } } as never, '@stage');
    const one = documentedCommand('docs/how-to/pause.md', 'npm run ledger -- --stage prod pause SERVER');
    const cluster = documentedCommand(
      'docs/how-to/pause.md',
      'npm run ledger -- --stage prod pause --cluster',
    );
    const all = documentedCommand('docs/how-to/pause.md', 'npm run ledger -- --stage prod pause --all');
    const ends = commandsOf(documentedBlock('docs/how-to/pause.md', 'npm run ledger -- --stage prod resume'));
    expect(ends).toHaveLength(3);
    for (const [index, command] of [one, cluster, all].entries()) {
      expect((await ledger(run.table, ...wordsOf(command))).log, command).toMatch(
        /^main +paused [\s\S]*(?:until 20|all servers are paused)/m,
      );
      expect((await ledger(run.table, ...wordsOf(ends[index] ?? ''))).log, command).toMatch(
        /^main +in sync /m,
      );
    }
    const { log } = await ledger(run.table, ...wordsOf(one));
    expect(log.replaceAll(/\s+/g, ' ')).toContain(', for: new disk;');
  });

  test('switch by hand › sets a model, keeps it with a pause, and drops it', async () => {
    await using run = await startFunction();
    await using _ = await startLambda((event) => run.send(event));
    await run.invoke(NODE1);
    const page = 'docs/how-to/switch-by-hand.md';
    const set = documentedBlock('docs/how-to/switch-by-hand.md', 'npm run ledger -- --stage prod set');
    const { log, ...rest } = await ledger(run.table, ...wordsOf(set.trim()));
    expect(rest).toEqual({ status: 0, error: '' });
    expect(readFileSync(page, 'utf8')).toContain(`\n${set}\`\`\`\n\n\`\`\`\n${log}\`\`\`\n`);
    expect(run.host.api.activeModel()).toBe('pg:node2');
    const pause = documentedCommand('docs/how-to/switch-by-hand.md', 'npm run ledger -- --stage prod pause');
    expect((await ledger(run.table, ...wordsOf(pause))).log).toMatch(/^main +paused /m);
    const reset = documentedCommand('docs/how-to/switch-by-hand.md', 'npm run ledger -- --stage prod reset');
    // During the pause it is recorded only.
    expect(await ledger(run.table, ...wordsOf(reset))).toMatchObject({
      status: 0,
      log: expect.stringContaining('is paused'),
    });
    await run.operator.resume('main', signal());
    await ledger(run.table, ...wordsOf(reset));
    expect(run.host.api.activeModel()).toBeNull();
  });
});

describe('npm run ledger -- check', () => {
  /** What was checked, one line each: lines that continue others are joined to them. */
  const linesOf = ({ log }: { log: string }) =>
    log
      .trim()
      .replaceAll(/\n {7}/g, ' ')
      .split('\n');

  test('describes the parameters as the function reads them, without secrets', async () => {
    await using run = await startFunction();
    const clusters = {
      a: {
        secret: createSecret(),
        servers: { main: { node1: 'pg:node1', node2: null }, other: {} },
        patroni: ['https://10.0.1.11:8008'],
      },
      b: { secret: createSecret(), servers: {} },
    };
    run.host.put({ 'clusters/a': JSON.stringify(clusters.a), 'clusters/b': JSON.stringify(clusters.b) });
    await using _ = await startLambda((event, alias) => run.send(event, 60_000, alias));
    const command = documentedCommand(
      'docs/how-to/remove-a-node-or-server.md',
      'npm run ledger -- --stage prod check',
    );
    const checked = await ledger(run.table, ...wordsOf(command));
    expect(linesOf(checked).slice(0, 5)).toEqual([
      expect.stringMatching(
        /^ok {5}url, client-cert, client-key, ca-cert: https:\/\/127.0.0.1:\d+\/; client-cert ends in \d+ days, on \d{4}-\d\d-\d\d; ca-cert ends in \d+ days, on /,
      ),
      'ok     webhook-secret: 1 secret, for every Barman server',
      'ok     patroni-ca-cert, patroni-client-cert, patroni-client-key: public CAs, no client certificate',
      'ok     clusters/a: 1 secret; scope a; servers main (node1 → pg:node1, node2 → no model), other (not reconciled); Patroni https://10.0.1.11:8008/; barman_receive_wal',
      'ok     clusters/b: 1 secret; scope b; servers none; Patroni is not asked; barman_receive_wal',
    ]);
    const { cert, key } = await run.host.ca.client();
    run.host.put({
      'patroni-ca-cert': run.host.ca.cert,
      'patroni-client-cert': cert,
      'patroni-client-key': key,
    });
    expect(linesOf(await ledger(run.table, 'check'))[2]).toMatch(
      /^ok .*: own CA, with a client certificate; /,
    );
  });

  test('names what is wrong, also for a stage that is not deployed yet', async () => {
    await using run = await startFunction();
    const cluster = JSON.stringify({ servers: { main: { node1: 'pg:node1' } } });
    run.host.put({
      'webhook-secret': undefined,
      'client-key': 'x',
      'clusters/a': cluster,
      'clusters/b': cluster,
      'clusters/c': '{}',
      'clusters/d': cluster,
      servers: '{ "main": ["a", "b"] }',
    });
    const command = documentedCommand(
      'docs/how-to/broken-job-file.md',
      'npm run ledger -- --stage prod check',
    );
    const checked = await ledger(run.table, ...wordsOf(command));
    expect(checked.status).toBe(1);
    expect(linesOf(checked).filter((line) => line.startsWith('wrong'))).toEqual([
      expect.stringMatching(
        /^wrong {2}url, client-cert, client-key, ca-cert: SSM parameter .*client-key is malformed; expected/,
      ),
      expect.stringMatching(
        /^wrong {2}clusters\/c: SSM parameter .*clusters\/c is malformed: servers is missing$/,
      ),
      expect.stringMatching(
        /^wrong {2}clusters\/d: SSM parameter .* lists Barman server main, which SSM parameter .*servers does not bind to it; /,
      ),
      expect.stringMatching(/^wrong {2}secrets: .*clusters\/c is malformed/),
    ]);
    expect(linesOf(checked)).toContain('ok     servers: a cluster may list main only in a, b');
    expect(linesOf(checked)).toContain(
      'ok     Barman server main: has members in a and b, its sites: it follows the only one that has a primary',
    );
    expect(await ledger('barman-config-switch-example', 'check')).toMatchObject({
      status: 1,
      log: expect.stringContaining('wrong  url, client-cert, client-key, ca-cert: '),
      error: expect.stringMatching(/^Only the parameters were checked, from here: unknown stage example: /),
    });
  });

  /** A function, and a Patroni cluster that it may ask. @param members of the parameter */
  async function inspectable(members: object = { node1: 'pg:node1', node2: 'pg:node2' }) {
    const stack = new AsyncDisposableStack();
    const patroni = stack.use(await PatroniStandIn.start());
    const run = stack.use(await startFunction());
    run.host.put({ 'clusters/main': JSON.stringify({ servers: { main: members }, patroni: patroni.urls }) });
    stack.use(await startLambda((event, alias) => run.send(event, 60_000, alias)));
    return { run, patroni, [Symbol.asyncDispose]: () => stack.disposeAsync() };
  }

  test('makes the function inspect, and ends with 0 if all is well', async () => {
    await using set = await inspectable();
    const command = documentedCommand('docs/how-to/check.md', 'npm run ledger -- --stage prod check');
    // Other pages have the same command, one of them for a second stage.
    expect([
      documentedCommand('docs/how-to/add-a-cluster.md', 'npm run ledger -- --stage prod check'),
      documentedCommand('docs/how-to/add-a-node.md', 'npm run ledger -- --stage prod check'),
      documentedCommand('docs/how-to/private-nodes.md', 'npm run ledger -- --stage prod check'),
      documentedCommand('docs/how-to/rotate.md', 'npm run ledger -- --stage prod check'),
      documentedCommand('docs/how-to/several-barman-hosts.md', 'npm run ledger -- --stage prod check'),
      documentedCommand('docs/how-to/several-barman-hosts.md', 'npm run ledger -- --stage dr check').replace(
        'dr',
        'prod',
      ),
    ]).toEqual(Array(6).fill(command));
    const words = fill(command, { 'npm run ledger -- --stage prod ': '' }).split(' ');
    const { status, log, error } = await ledger(set.run.table, ...words);
    expect([status, error]).toEqual([0, '']);
    const [checked = '', main] = log.trimEnd().split('\n\n');
    expect(
      checked
        .replaceAll(/:\d{4,5}\//g, ':8008/')
        .split('\n')
        .slice(-3),
    ).toEqual([
      'ok     /diagnose: Barman 3.19.1',
      'ok     http://127.0.0.1:8008/: node1',
      'ok     http://127.0.0.1:8008/: node2',
    ]);
    expect(main?.split('\n')).toEqual([
      'main: leader node1, timeline 1, Patroni 4.1.5; Barman 3.19.1, server main',
      "MEMBER  MODEL     BARMAN'S HOST  PATRONI'S HOST  SLOT  CALLBACK  READY",
      'node1   pg:node1  10.0.1.11      10.0.1.11       yes   never     yes',
      'node2   pg:node2  10.0.1.12      10.0.1.12       yes   never     yes',
      expect.stringMatching(/^archive: timeline 1, 00000001…0009, \d+s ago; slot 16 MB behind$/),
      expect.stringMatching(/^backup: {2}\d{8}T\d{6}, 60m ago \(timeline 1\)$/),
      '  no findings',
    ]);
    for (const line of log.split('\n')) expect(line.length, line).toBeLessThanOrEqual(80);
  });

  test('ends with 1 if there are findings, and says of each what to do', async () => {
    await using set = await inspectable({ node1: 'pg:node1' });
    const { status, log } = await ledger(set.run.table, 'check');
    expect(status).toBe(1);
    expect(log).toMatch(/^node2 .* no$/m);
    expect(log.replaceAll(/\s+/g, ' ')).toContain(' - node2: ');
  });

  test('ends with 1 if it is unknown whether a member is ready', async () => {
    await using set = await inspectable();
    await set.run.host.api.refuse();
    const { status, log } = await ledger(set.run.table, 'check');
    expect(status).toBe(1);
    expect(log).toMatch(/^wrong {2}\/diagnose: .*ECONNREFUSED.*^node1 [^\n]* \?\nnode2 [^\n]* \?\n/ms);
    expect(log).not.toContain('no findings');
  });

  test('prints the report as JSON for scripts', async () => {
    await using set = await inspectable({ node1: 'pg:node1' });
    const { status, log } = await ledger(set.run.table, 'check', '--json');
    expect(status).toBe(1);
    expect(v.parse(InspectionReport, JSON.parse(log))).toMatchObject({
      barman: { version: '3.19.1' },
      servers: [{ barman_server: 'main', findings: [{ kind: 'member-without-model', member: 'node2' }] }],
    });
  });

  test('says first which servers are pending, since their archives are not judged', async () => {
    await using set = await inspectable();
    const { run } = set;
    run.host.api.fault({ kind: 'status', status: 422 }, 1, isPost);
    await run.invoke(PROMOTION);
    const { log, error } = await ledger(run.table, 'check');
    expect(error).toBe('A switch is pending, so the archive is not judged: main\n');
    expect(log).toContain('  not seen: whether WAL is archived: a switch is pending\n');
  });

  test('reads the parameters from here if the function or its alias is not deployed, and says so', async () => {
    await using run = await startFunction();
    const lambda = await listen(
      createServer((_, response) => {
        response.writeHead(404, { 'x-amzn-errortype': 'ResourceNotFoundException' });
        response.end(JSON.stringify({ Type: 'User', Message: 'Function not found: f:inspection' }));
      }),
    );
    process.env.AWS_ENDPOINT_URL_LAMBDA = `http://127.0.0.1:${lambda.port}`;
    const { status, log, error } = await ledger(run.table, 'check');
    const asJson = await ledger(run.table, 'check', '--json');
    delete process.env.AWS_ENDPOINT_URL_LAMBDA;
    await lambda.close();
    expect([status, linesOf({ log })[0]]).toEqual([1, expect.stringMatching(/^ok {5}url, client-cert, /)]);
    expect(error).toMatch(/^Only the parameters were checked, from here: .*Function not found: f:inspection/);
    const url = { ok: true, name: 'url, client-cert, client-key, ca-cert' };
    expect([asJson.status, JSON.parse(asJson.log).parameters[0]]).toEqual([1, expect.objectContaining(url)]);
  });

  test('says why an inspection failed, or that the function that is deployed knows none', async () => {
    await using run = await startFunction();
    const error = async (response: unknown) => {
      await using _ = await startLambda(async () => response);
      const checked = await ledger(run.table, 'check');
      return [checked.status, checked.error];
    };
    expect(await error({ message: 'the ledger is unavailable' })).toEqual([
      1,
      'the inspection failed: the ledger is unavailable\n',
    ]);
    expect(await error({ at: 1 })).toEqual([
      1,
      'the inspection failed: its response is not as expected; is an older version deployed?\n',
    ]);
  });
});
