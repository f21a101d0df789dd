import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { describe, expect, test, vi } from 'vitest';
import { run as runProgram } from '../../cli/command-line.ts';
import { LEDGER, ledger as main } from '../../cli/ledger.ts';
import { createSecret } from '../stand-ins/webhook.ts';
import { runCommand } from './command.ts';
import { at, isPost, MINUTE, NODE1, PROMOTION, RESET, SKIPPED, startFunction } from './function.ts';

const DAY = 1_440 * MINUTE;

/** Runs `npm run ledger` as an operator does, in this process. */
async function ledger(table: string, ...words: string[]) {
  vi.stubEnv('AWS_REGION', process.env.AWS_REGION);
  const stage = table.replace('barman-config-switch-', '');
  const result = await runCommand(() => runProgram(LEDGER, main, ['--stage', stage, ...words]));
  vi.unstubAllEnvs();
  return result;
}

describe('npm run ledger', () => {
  test('shows the desired and the applied state of each server, and why they differ', async () => {
    await using run = await startFunction({}, { MAX_RETRIES: '1' });
    expect((await ledger(run.table)).log).toContain('No role change has been recorded yet');
    await run.invoke(PROMOTION);
    expect((await ledger(run.table)).log).toMatch(/^main +in sync +pg:node2 \d+s +pg:node2 \d+s +– +–$/m);
    await run.host.api.refuse();
    await run.invoke(RESET);
    const { log } = await ledger(run.table);
    expect(log).toMatch(/^SERVER +STATE +DESIRED +APPLIED +LEADER +STREAMING$/m);
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
    const heartbeat = { at: at(0), interval: 60_000, version: '1.2.3' };
    const clusters = [{ name: 'east', servers: ['main', 'crm'].map((name) => ({ name, observed: true })) }];
    await run.setItem({ heartbeat: { ...heartbeat, clusters } } as never, '@stage');
    const paused = await ledger(run.table, 'pause', '--cluster', 'east', '--reason', 'a new disk');
    expect(paused.log).toMatch(/^crm +paused [\s\S]* for: a new disk;\s[\s\S]*^main +paused /m);
    expect((await ledger(run.table, 'resume', '--cluster', 'east')).log).toMatch(/^main +in sync /m);
    expect(await ledger(run.table, 'pause', '--cluster', 'west')).toMatchObject({
      status: 1,
      error: expect.stringContaining('unknown cluster west; the last heartbeat knew: east'),
    });

    const { log } = await ledger(run.table, 'pause', '--all', '--no-wait', '--for', '2h');
    expect(log).toMatch(/^all servers are paused, until 20.* UTC; next: resume --all$/m);
    expect(await run.invoke(NODE1)).toMatchObject({ exit_code: 3, recorded: true });
    expect(run.host.api.activeModel()).toBe('pg:node2');
    expect((await ledger(run.table, 'resume', '--all')).log).toMatch(/^main +pending /m);
  });

  test('forgets no server that a cluster lists', async () => {
    await using run = await startFunction();
    await run.invoke(PROMOTION);
    const heartbeat = { at: at(0), interval: 60_000, version: '1.2.3' };
    await run.setItem(
      {
        heartbeat: {
          ...heartbeat,
          clusters: [{ name: 'east', servers: [{ name: 'main', observed: true }] }],
        },
      } as never,
      '@stage',
    );
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

  test('shows an item that cannot be read beside the others, and forgets it only by force', async () => {
    await using run = await startFunction();
    await run.invoke(PROMOTION);
    await run.setItem({ desired: 'Model pg:node1' } as never, 'by-hand');
    const { log } = await ledger(run.table);
    expect(log).toMatch(
      /^by-hand +unreadable( +–){4}\n {2}- the ledger's item of by-hand cannot be read: desired/m,
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
    ['check', 'the parameters under /barman-config-switch/local/ could not be read from SSM'],
  ])('says without credentials how to sign in (%j)', async (command, what) => {
    await using _ = await startFunction();
    for (const name of ['AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY', 'AWS_SESSION_TOKEN', 'AWS_PROFILE']) {
      vi.stubEnv(name, undefined);
    }
    vi.stubEnv('AWS_EC2_METADATA_DISABLED', 'true');
    for (const name of ['AWS_CONFIG_FILE', 'AWS_SHARED_CREDENTIALS_FILE']) vi.stubEnv(name, '/nowhere');
    const { status, log, error } = await ledger(
      'barman-config-switch-local',
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
    ['local', [], 'eu-central-1'],
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

describe('npm run ledger -- check', () => {
  const linesOf = ({ log }: { log: string }) => log.trim().split('\n');

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
    const checked = await ledger(run.table, 'check');
    expect([checked.status, linesOf(checked)]).toEqual([
      0,
      [
        expect.stringMatching(
          /^ok {5}url, client-cert, client-key, ca-cert: https:\/\/127.0.0.1:\d+\/; the client certificate ends on \d{4}-\d\d-\d\d$/,
        ),
        'ok     webhook-secret: 1 secret, for every Barman server',
        'ok     patroni-ca-cert, patroni-client-cert, patroni-client-key: public CAs, no client certificate',
        'ok     clusters/a: 1 secret; scope a; servers main (node1 → pg:node1, node2 → no model), other (not reconciled); Patroni https://10.0.1.11:8008/; barman_receive_wal',
        'ok     clusters/b: 1 secret; scope b; servers none; Patroni is not asked; barman_receive_wal',
      ],
    ]);
    const { cert, key } = await run.host.ca.client();
    run.host.put({
      'patroni-ca-cert': run.host.ca.cert,
      'patroni-client-cert': cert,
      'patroni-client-key': key,
    });
    expect(linesOf(await ledger(run.table, 'check'))[2]).toMatch(
      /^ok .*: own CA, with a client certificate$/,
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
    });
    const checked = await ledger(run.table, 'check');
    expect(checked.status).toBe(1);
    expect(linesOf(checked).filter((line) => line.startsWith('wrong'))).toEqual([
      expect.stringMatching(
        /^wrong {2}url, client-cert, client-key, ca-cert: SSM parameter .*client-key is malformed; expected/,
      ),
      expect.stringMatching(
        /^wrong {2}clusters\/c: SSM parameter .*clusters\/c is malformed: servers is missing$/,
      ),
      expect.stringMatching(/^wrong {2}secrets: .*clusters\/c is malformed/),
      'wrong  Barman server main: has members in a and b, so none of them reconciles it; leave the members to one, and write {} in the others',
    ]);
    expect(await ledger('barman-config-switch-local', 'check')).toMatchObject({
      status: 1,
      log: expect.stringContaining('wrong  url, client-cert, client-key, ca-cert: '),
    });
  });
});
