/** A stage, deployed with the documented commands, and called in every way that it offers. */

import { randomUUID } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type ExitCode, exitStatus } from '../../functions/config-switch/exit-code.ts';
import { commandsOf, documentedBlock, documentedCommand, fill } from '../documentation.ts';
import { inOneCluster, MODELS } from '../stand-ins/barman-host.ts';
import { CertificateAuthority } from '../stand-ins/certificates.ts';
import { PgBackupApiStandIn } from '../stand-ins/pg-backup-api.ts';
import { PROMOTION, signedHeaders } from '../stand-ins/webhook.ts';
import { aws, Deployment, PARAMETERS, shell } from './deployment.ts';

const folder = mkdtempSync(join(tmpdir(), 'barman-config-switch-e2e-'));
const ca = await CertificateAuthority.create();
const api = await PgBackupApiStandIn.start({
  models: MODELS,
  servers: inOneCluster(['main', 'stuck', 'killed', 'direct']),
  operationTime: 300,
  tls: { ...(await ca.server()), ca: ca.cert },
});
/** A repository with the project as it is here, and a clone of it from which the stage is deployed. */
const [origin, clone] = ['origin', 'clone'].map((name) => join(folder, name)) as [string, string];
const prod = new Deployment('prod', {}, clone);
/** On the same bus. */
const bare = new Deployment('bare', { ...PARAMETERS, 'event-bus': 'patroni' });
let secret = '';

const webhook = (payload: unknown, at = Date.now(), signedWith = secret) => {
  const body = typeof payload === 'string' ? payload : JSON.stringify(payload);
  return prod.post(body, signedHeaders(signedWith, body, { at }));
};

/** Invokes the function with the AWS CLI. @returns its response; empty for an asynchronous invocation */
async function invoke(
  event: unknown,
  type = 'RequestResponse',
  qualifier = '$LATEST',
): Promise<Record<string, unknown>> {
  writeFileSync(join(folder, 'event.json'), JSON.stringify(event));
  await shell(
    `aws lambda invoke --function-name ${prod.name} --qualifier '${qualifier}' --invocation-type ${type} --payload fileb://event.json response.json`,
    folder,
  );
  return JSON.parse(readFileSync(join(folder, 'response.json'), 'utf8') || '{}') as Record<string, unknown>;
}

/** How many operations pg-backup-api was asked for. */
/** Without those for a server that Barman does not have, which heartbeats repeat. */
const posts = () =>
  api.requests.filter(({ method, path }) => method === 'POST' && !path.includes('/nope/')).length;

/** Puts an event on the bus. */
async function putEvent(detail: object, source = 'patroni.prod'): Promise<void> {
  const entry = { Source: source, DetailType: 'Patroni role change', EventBusName: 'patroni' };
  const entries = JSON.stringify([{ ...entry, Detail: JSON.stringify(detail) }]);
  await aws('events', 'put-events', '--entries', entries);
}

/** Waits until a model is active. */
const becomesActive = (model: string) =>
  expect.poll(() => api.activeModel(), { timeout: 30_000 }).toBe(model);

/** Of the log group (days). */
async function logRetention(): Promise<number | undefined> {
  const { logGroups } = await aws<{ logGroups: { retentionInDays: number }[] }>(
    ...['logs', 'describe-log-groups', '--log-group-name-prefix', `/aws/lambda/${prod.name}`],
  );
  expect(logGroups).toHaveLength(1);
  return logGroups[0]?.retentionInDays;
}

/** Reads the messages of the failure queue, and leaves them there. */
async function failures(): Promise<Record<string, unknown>[]> {
  const { Messages = [] } =
    (await aws<{ Messages?: { Body: string }[] } | null>(
      ...['sqs', 'receive-message', '--queue-url', prod.outputs.FailureQueue ?? ''],
      ...['--max-number-of-messages', '10', '--visibility-timeout', '0'],
    )) ?? {};
  return Messages.map(({ Body }) => JSON.parse(Body) as Record<string, unknown>);
}

const inOrigin = (words: string) =>
  shell(
    `git --git-dir ${origin}/.git --work-tree . -c user.name=test -c user.email=test@example.com ${words}`,
  );
/** What the first deployment printed. */
let deployed = '';

beforeAll(async () => {
  await shell('aws events create-event-bus --name patroni');
  await shell(`git init --quiet ${origin}`);
  await inOrigin('add --all');
  await inOrigin('commit --quiet --message test');
  await shell(`git clone --quiet ${origin} ${clone}`);
  // The steps of docs/how-to/set-up.md.
  const file = /```yaml\n(region: .*?)```/s.exec(readFileSync('docs/how-to/set-up.md', 'utf8'))?.[1] ?? '';
  const prefixLists = documentedCommand(
    'docs/reference/stage-parameters.md',
    'aws ec2 describe-managed-prefix-lists',
  );
  const [found = ''] = /^pl-[0-9a-f]+$/m.exec(await shell(prefixLists)) ?? [];
  writeFileSync(
    join(clone, 'infra/stages/prod.yml'),
    fill(file, {
      'pl-66a5400f': found,
      'alarm-email': `ssm-access: ${PARAMETERS['ssm-access']}\nevent-bus: patroni\nalarm-email`,
    }),
  );
  await shell(documentedBlock('docs/how-to/set-up.md', 'umask 077'), folder);
  const secrets = join(folder, 'secrets');
  const client = await ca.client();
  for (const [name, value] of Object.entries({
    'client-cert': client.cert,
    'client-key': client.key,
    'ca-cert': ca.cert,
  })) {
    writeFileSync(join(secrets, name), value, { mode: 0o600 });
  }
  const parameters = documentedBlock('docs/how-to/set-up.md', 'echo https://barman.example.com/pgbapi');
  await shell(fill(parameters, { 'https://barman.example.com/pgbapi': api.url }), folder);
  deployed = await prod.run(documentedBlock('docs/how-to/set-up.md', 'npm run deploy'));
  await prod.readOutputs();
  secret = readFileSync(join(secrets, 'webhook-secret'), 'utf8').trim();
  // Only its user may read what is in it.
  expect(statSync(secrets).mode & 0o777).toBe(0o700);
  await shell(documentedCommand('docs/how-to/set-up.md', 'rm -r secrets'), folder);
});

afterAll(async () => {
  await api.close();
  rmSync(folder, { recursive: true });
});

describe('the HTTP API', () => {
  test('is served by a function on Node.js 24', async () => {
    expect(await shell('node --version')).toMatch(/^v24\./);
    const { Configuration } = await aws<{ Configuration: { Runtime: string } }>(
      ...['lambda', 'get-function', '--function-name', prod.name],
    );
    expect(Configuration.Runtime).toBe('nodejs24.x');
  });

  test.each<[number, ExitCode, string, object, RegExp, string | null]>([
    [200, 0, 'a primary with a model, which is active then', {}, /now uses model pg:node2/, 'pg:node2'],
    [200, 0, 'a reset, and no model is active then', { barman_model: undefined, reset: true }, /main/, null],
    [200, 1, 'a replica', { role: 'replica' }, /role "replica" does not match/, null],
    [200, 1, 'a dry run', { dry_run: true }, /a switch would apply model pg:node2/, null],
    [502, 2, 'a model of another cluster', { barman_model: 'pg:node9' }, /FAILED/, null],
    [502, 3, 'an unknown server', { barman_server: 'nope' }, /Server 'nope' does not exist/, null],
    [400, 4, 'an invalid payload', { role: 'leader', swich_when: 'always' }, /role.*swich_when/s, null],
  ])('returns %i and ExitCode %i for %s', async (status, exit_code, _, change, message, active) => {
    const payload = { ...PROMOTION, ...change };
    const result = { exit_code, exit_status: exitStatus(exit_code), message: expect.stringMatching(message) };
    const dryRun = 'dry_run' in change && { dry_run: true };
    expect(await webhook(payload)).toMatchObject({ status, response: { ...result, ...dryRun } });
    expect(api.activeModel()).toBe(active);
  });

  test('returns 202 and ExitCode 3 for a stuck operation, before API Gateway times out', async () => {
    api.plan({ time: Number.POSITIVE_INFINITY });
    const start = performance.now();
    const { status, response } = await webhook({ ...PROMOTION, barman_server: 'stuck' });
    expect([status, response.exit_code, response.recorded]).toEqual([202, 3, true]);
    expect(performance.now() - start).toBeLessThan(30_000);
  });

  test('returns 401 and no details for a wrong signature or a stale timestamp', async () => {
    const wrong = await webhook(PROMOTION, Date.now(), `whsec_${Buffer.alloc(32, 7).toString('base64')}`);
    const stale = await webhook(PROMOTION, Date.now() - 6 * 60_000);
    for (const { status, response } of [wrong, stale]) {
      expect([status, response]).toEqual([401, { message: 'Unauthorized' }]);
    }
  });
});

describe('the other callers', () => {
  test('a direct invocation returns the response body', async () => {
    expect(await invoke({ ...PROMOTION, barman_model: 'pg:node1' })).toMatchObject({ exit_code: 0 });
    expect(api.activeModel()).toBe('pg:node1');
  });

  test('an event on the bus is applied', async () => {
    await putEvent(PROMOTION);
    await becomesActive('pg:node2');
  });

  test('the callback with --event-bus puts an event, which is applied', async () => {
    const example = /on_role_change: &callback >-\n([\s\S]*?) on_reload:/.exec(
      readFileSync('docs/how-to/eventbridge.md', 'utf8'),
    )?.[1];
    const callback = (model: string, role: string) => {
      const command = (example ?? 'no example in docs/how-to/eventbridge.md')
        .replaceAll(/\s+/g, ' ')
        .replace('/etc/patroni/barman_config_switch.py', 'python3 -B patroni/barman_config_switch.py')
        .replace('--event-bus default', '--event-bus patroni')
        .replace(/--log-file \S+/, '')
        .replace('--follow-leader', `--barman-model ${model}`);
      return shell(`${command} on_role_change ${role} main`);
    };
    expect(await callback('pg:node1', 'primary')).toContain('accepted by EventBridge');
    await becomesActive('pg:node1');
    expect(await callback('pg:node2', 'master')).toContain('accepted by EventBridge');
    await becomesActive('pg:node2');
  });

  test('events of other sources and stages are ignored', async () => {
    const before = posts();
    for (const source of ['other', 'patroni', 'patroni.test', 'patroni.prod2']) {
      await putEvent(PROMOTION, source);
    }
    // An event that matches follows: once it is applied, the others would have arrived.
    await putEvent({ ...PROMOTION, barman_model: 'pg:node1' });
    await becomesActive('pg:node1');
    expect(posts()).toBe(before + 1);
  });

  test('an event that cannot be recorded goes to the failure queue with its payload unchanged', async () => {
    expect(await failures()).toEqual([]);
    const id = '6a7e8feb-b491-4cf7-a9f1-bf3703467718';
    // A known event without a version is an error of the ledger.
    const unusable = JSON.stringify({ barman_server: { S: 'unusable' }, event_id: { S: id } });
    await aws('dynamodb', 'put-item', '--table-name', `${prod.name}-events`, '--item', unusable);
    const event = {
      version: '0',
      id,
      'detail-type': 'Patroni role change',
      source: 'patroni.prod',
      account: '123456789012',
      time: new Date().toISOString(),
      region: 'eu-central-1',
      resources: [],
      detail: { ...PROMOTION, barman_server: 'unusable' },
    };
    // An invalid one does not: a retry could not correct it.
    await invoke({ ...event, id: randomUUID(), detail: { ...PROMOTION, role: 'leader' } }, 'Event');
    await invoke(event, 'Event');
    await expect.poll(failures, { timeout: 60_000, interval: 500 }).toHaveLength(1);
    const [message] = await failures();
    expect(message?.requestPayload).toEqual(event);
    expect(JSON.stringify(message)).toContain(`the event ${id} of unusable was deleted meanwhile`);
  });
});

describe('the ledger', () => {
  test('returns the recorded result for a duplicate webhook, without another POST', async () => {
    const body = JSON.stringify(PROMOTION);
    const headers = signedHeaders(secret, body);
    const first = await prod.post(body, headers);
    const before = posts();
    const second = await prod.post(body, headers);
    expect([first.status, second.status]).toEqual([200, 200]);
    expect(second.response).toMatchObject({ exit_code: 0, operation_id: first.response.operation_id });
    expect(posts()).toBe(before);
  });

  test('skips an EventBridge event that is older than the applied webhook', async () => {
    // The emulator sets the time of an event, so only `age_ms` makes it older.
    const before = posts();
    await putEvent({ ...PROMOTION, barman_model: 'pg:node1', age_ms: 60_000 });
    const superseded = 'superseded by a newer event';
    await expect.poll(() => prod.logs(), { timeout: 30_000, interval: 1_000 }).toContain(superseded);
    expect(api.activeModel()).toBe('pg:node2');
    expect(posts()).toBe(before);
  });

  test('redrives the failure queue with the documented command', async () => {
    const command = documentedCommand('docs/how-to/redrive.md', 'npm run ledger -- --stage prod redrive');
    /** @returns its lines about messages, without their ids */
    const redrive = async () => {
      const output = await shell(`${command} || true`);
      return output.match(/(?<=: )(?:deleted|left in the queue): .*/g) ?? [];
    };
    const queue = prod.outputs.FailureQueue ?? '';
    const put = (message: unknown) =>
      aws(
        ...['sqs', 'send-message', '--queue-url', queue, '--message-body'],
        typeof message === 'string' ? message : JSON.stringify(message),
      );
    const now = () => new Date().toISOString();
    const ofLambda = (requestPayload: unknown) => ({
      timestamp: now(),
      requestContext: { requestId: randomUUID(), condition: 'RetriesExhausted' },
      requestPayload,
    });
    const ofEventBridge = (detail: unknown, time: string) => ({
      id: randomUUID(),
      'detail-type': 'Patroni role change',
      source: 'patroni.prod',
      time,
      detail,
    });

    // The message of the test above cannot be recorded, and stays in the queue.
    expect(await redrive()).toEqual([expect.stringMatching(/^left in the queue: .*was deleted meanwhile/)]);
    expect(await failures()).toHaveLength(1);
    await shell(`aws --endpoint-url "$AWS_ENDPOINT_URL" sqs purge-queue --queue-url ${queue}`);

    const before = posts();
    await put(ofLambda(ofEventBridge({ ...PROMOTION, barman_model: 'pg:node1' }, now())));
    await put('not JSON');
    await put(ofEventBridge({ ...PROMOTION, age_ms: 3_600_000 }, now()));
    await put(ofLambda({ ...PROMOTION, barman_server: 'direct' }));
    await put(ofLambda(PROMOTION));
    expect((await redrive()).sort()).toEqual([
      expect.stringMatching(/^deleted: Barman server direct now uses model pg:node2/),
      expect.stringMatching(/^deleted: Barman server main now uses model pg:node1/),
      expect.stringMatching(/^deleted: superseded by a newer event/),
      expect.stringMatching(
        /^left in the queue: a direct invocation carries no time, and main has a role change/,
      ),
      expect.stringMatching(
        /^left in the queue: malformed: it is neither an event of EventBridge nor of Lambda/,
      ),
    ]);
    expect([api.activeModel(), api.activeModel('direct'), posts() - before]).toEqual([
      'pg:node1',
      'pg:node2',
      2,
    ]);
    await shell(`aws --endpoint-url "$AWS_ENDPOINT_URL" sqs purge-queue --queue-url ${queue}`);
    // As the tests below expect it.
    expect((await webhook(PROMOTION)).status).toBe(200);
  });

  test("is changed with a cluster's own secret only for that cluster's servers, set up with the documented commands", async () => {
    const commands = fill(documentedBlock('docs/how-to/add-a-cluster.md', 'secret="whsec_'), {
      'clusters/hr': 'clusters/main',
      '"hr"': '"main"',
      'hr:node': 'pg:node',
    });
    const output = await shell(`${commands}\necho "secret=$secret"`, folder);
    const own = /secret=(whsec_\S+)/.exec(output)?.[1] ?? '';
    try {
      // An unknown secret makes the function read SSM again, once a minute at most.
      const status = async () => (await webhook(PROMOTION, Date.now(), own)).status;
      await expect.poll(status, { timeout: 90_000, interval: 1_000 }).toBe(200);
      const { status: refused, response } = await webhook(
        { ...PROMOTION, barman_server: 'stuck' },
        Date.now(),
        own,
      );
      expect([refused, response.exit_code, response.recorded]).toEqual([403, 4, false]);
      expect(response.message).toContain('the secret in clusters/main may not switch Barman server stuck');
    } finally {
      await shell(`aws ssm delete-parameter --name /barman-config-switch/prod/clusters/main`);
    }
  });

  test('is shown and changed by the documented commands', async () => {
    const ledger = 'npm run ledger -- --stage prod';
    const commands = commandsOf(documentedBlock('docs/reference/cli.md', 'npm run ledger -- --stage prod'));
    const outputs = new Map<string, string>();
    for (const command of commands) {
      const words = command
        .replace(ledger, '')
        .replace('SERVER', 'direct')
        .replace('MODEL', 'pg:node2')
        .replace('CLUSTER', 'main')
        .trim();
      const once = {
        // This one runs until Ctrl-C.
        '--watch': `timeout --signal INT 5 ${command} || true`,
        // Refused, since its role has just changed.
        'forget direct': `${ledger} ${words} 2>&1 || true`,
        // Some servers of this file are unknown to Barman.
        check: `${ledger} ${words} || true`,
      }[words];
      outputs.set(words, await shell(once ?? `${ledger} ${words}`));
    }
    expect(Object.fromEntries(outputs)).toEqual({
      '': expect.stringMatching(/^main +in sync /m),
      '--watch': expect.stringMatching(/UTC\n\n.*^SERVER .*^main +in sync /ms),
      '--json': expect.stringMatching(/"state": "in sync"/),
      'retry direct': expect.stringMatching(/^direct +in sync /m),
      'pause direct': expect.stringMatching(/^direct +paused .*, since /ms),
      'pause direct --for 2h': expect.stringMatching(/^direct +paused .*, until /ms),
      'pause --cluster main': expect.stringMatching(/^direct +paused .*^main +paused /ms),
      'pause --all': expect.stringMatching(/^all servers are paused, since /m),
      // All servers are still paused, but these are not paused themselves any more.
      'resume direct': expect.stringMatching(/^direct +paused .*, because all servers are paused; /ms),
      'resume --cluster main': expect.stringMatching(
        /^direct +paused .*, because all servers are paused; .*^main +paused .*, because all servers are paused; /ms,
      ),
      'resume --all': expect.stringMatching(/^direct +in sync .*^main +in sync /ms),
      'set direct pg:node2': expect.stringContaining('Barman server direct now uses model pg:node2'),
      'reset direct': expect.stringContaining('Barman server direct now uses no model'),
      'forget direct': expect.stringMatching(/direct is in sync: .* no role change for 15 days/),
      'forget direct --force': expect.stringContaining('direct is forgotten.'),
      check: expect.stringMatching(/^ok {5}url, client-cert, client-key, ca-cert: https/m),
      redrive: expect.stringContaining('0 deleted, 0 left in the queue'),
    });
  });

  test.each([
    ['the servers', '', true],
    ['the events', '-events', false],
  ])(
    'answers 503 and records nothing while the table of %s is lost; it remembers the order once that is restored with the documented commands',
    async (_, suffix, isHeartbeatStopped) => {
      const table = `${prod.name}${suffix}`;
      const newest = await webhook(PROMOTION);
      expect([newest.status, api.activeModel()]).toEqual([200, 'pg:node2']);
      // AWS makes one when a table is deleted.
      await aws('dynamodb', 'create-backup', '--table-name', table, '--backup-name', 'deleted');
      await aws('dynamodb', 'delete-table', '--table-name', table);

      const { status, response } = await webhook({ ...PROMOTION, barman_model: 'pg:node1' });
      expect([status, response.exit_code, response.recorded]).toEqual([503, 3, false]);
      expect(response.message).toContain(`table ${table} does not exist`);
      expect((await webhook({ ...PROMOTION, role: 'replica' })).response).toMatchObject({ exit_code: 1 });
      const { message = '' } = await invoke({ heartbeat: true }, 'RequestResponse', 'heartbeat');
      expect(String(message).includes(`table ${table} does not exist`)).toBe(isHeartbeatStopped);
      expect(api.activeModel()).toBe('pg:node2');

      const restore = documentedBlock('docs/how-to/ledger-lost.md', 'table=barman-config-switch-prod');
      const settings = documentedBlock('docs/how-to/ledger-lost.md', 'arn=$(aws dynamodb describe-table');
      await shell(fill(restore, { 'table=barman-config-switch-prod': `table=${table}` }) + settings);
      if (suffix)
        await shell(documentedCommand('docs/how-to/ledger-lost.md', 'aws dynamodb update-time-to-live'));
      const older = await webhook({ ...PROMOTION, barman_model: 'pg:node1', age_ms: 600_000 });
      expect(older.response).toMatchObject({ exit_code: 1, recorded: true });
      expect(older.response.message).toContain('superseded');
      expect(api.activeModel()).toBe('pg:node2');
    },
  );

  test('gets an item of the past back with the documented commands', async () => {
    const item = async () => {
      const key = '{"barman_server":{"S":"main"}}';
      const { Item } = await aws<{ Item: { desired: { M: { target: { S: string } } }; paused?: object } }>(
        ...['dynamodb', 'get-item', '--table-name', prod.name, '--key', key],
      );
      return [Item.desired.M.target.S, Item.paused];
    };
    expect(await item()).toEqual(['model pg:node2', undefined]);
    await shell(documentedBlock('docs/how-to/ledger-lost.md', 'aws dynamodb restore-table-to-point-in-time'));
    expect((await webhook({ ...PROMOTION, barman_model: 'pg:node1' })).status).toBe(200);
    try {
      await shell(documentedBlock('docs/how-to/ledger-lost.md', 'aws dynamodb get-item'));
      expect(await item()).toEqual(['model pg:node2', undefined]);
    } finally {
      rmSync('item.json', { force: true });
    }
    expect((await webhook({ ...PROMOTION })).status).toBe(200);
  });

  test('blocks a server only until the lease expires if the function is killed during a switch', async () => {
    api.plan({ time: 6_000 });
    const killed = { ...PROMOTION, barman_server: 'killed' };
    const response = webhook(killed).catch(() => undefined);
    await expect.poll(() => api.operations('killed').length).toBe(1);
    // The emulator runs each instance of the function in its own process.
    for (const pid of (await shell(`pgrep -f ministack-lambda-${prod.name}-`)).trim().split('\n')) {
      process.kill(Number(pid), 'SIGKILL');
    }
    expect((await response)?.response).not.toHaveProperty('exit_code');
    const resend = async () => (await webhook({ ...killed, barman_model: 'pg:node1' })).status;
    await expect.poll(resend, { timeout: 40_000, interval: 500 }).toBe(200);
    expect(api.activeModel('killed')).toBe('pg:node1');
  });

  test('keeps an event while pg-backup-api is down for two minutes, and the heartbeat applies it afterwards', async () => {
    await api.refuse();
    const { status, response } = await webhook({ ...PROMOTION, barman_model: 'pg:node1' });
    expect([status, response.exit_code, response.recorded]).toEqual([502, 3, true]);
    await sleep(120_000);
    expect(api.activeModel()).toBe('pg:node2');
    await api.listen();
    await expect.poll(() => api.activeModel(), { timeout: 240_000, interval: 1_000 }).toBe('pg:node1');
  }, 400_000);
});

describe('a stage', () => {
  test('is deployed with the documented commands, which show its outputs', () => {
    for (const name of ['ConfigSwitchUrl', 'FunctionSecurityGroup']) {
      expect(deployed).toContain(`${name}: ${prod.outputs[name]}`);
    }
  });

  test('is upgraded with the documented commands, and has no changes if the code is the same', async () => {
    const before = await prod.resources();
    await inOrigin('commit --quiet --allow-empty --message newer');
    // Some servers of this file are unknown to Barman.
    const commands = documentedBlock('docs/how-to/upgrade.md', 'git pull').replace(
      /check$/m,
      'check || true',
    );
    const output = await prod.run(commands);
    expect(output).toContain('Fast-forward');
    expect(output).toContain('No changes to deploy');
    expect(output).toMatch(/^ok {5}url, client-cert, client-key, ca-cert: https/m);
    expect(await prod.resources()).toEqual(before);
  }, 300_000);

  test('changes only the log retention and the protection of its tables if it is deployed again with others', async () => {
    const before = await prod.resources();
    const changes = { 'log-retention': '30', rollback: 'true', 'table-protection': 'true' };
    await new Deployment('prod', changes, clone).deploy();
    expect(await logRetention()).toBe(30);
    const deletion = aws('dynamodb', 'delete-table', '--table-name', prod.name);
    await expect(deletion).rejects.toThrow(/ValidationException.*protected against deletion/);
    expect(await prod.resources()).toEqual(before);
    expect((await webhook({ ...PROMOTION, role: 'replica' })).status).toBe(200);
  });

  test('a key of the customer is created with the documented commands', async () => {
    const commands = documentedBlock('docs/how-to/customer-key.md', 'sed');
    const words = { ACCOUNT: '000000000000', REGION: 'eu-central-1', STAGE: 'prod' };
    try {
      expect(await shell(fill(commands, words))).toMatch(/^arn:aws:kms:eu-central-1:000000000000:key\//m);
      expect(readFileSync('key-policy.json', 'utf8')).toBe(
        readFileSync('docs/examples/key-policy.json', 'utf8').replaceAll('123456789012', '000000000000'),
      );
    } finally {
      rmSync('key-policy.json', { force: true });
    }
  });

  test('returns to its deployment before with the documented commands', async () => {
    const list = await prod.run(documentedCommand('docs/how-to/roll-back.md', 'npx serverless deploy list'));
    const timestamps = [...list.matchAll(/^Timestamp: (\d+)$/gm)].map(([, one]) => one);
    expect(timestamps.length).toBeGreaterThan(1);
    const rollback = documentedCommand('docs/how-to/roll-back.md', 'npx serverless rollback');
    await prod.run(fill(rollback, { TIMESTAMP: timestamps.at(-2) ?? '' }));
    expect(await logRetention()).toBe(365);
    expect((await webhook({ ...PROMOTION, role: 'replica' })).status).toBe(200);
  });

  test.each(['rollback', 'table-protection'])(
    'is not deployed for the first time with %s: it would fail, or block the next one',
    async (parameter) => {
      const first = new Deployment('bare', { ...PARAMETERS, [parameter]: 'true' });
      await expect(first.deploy()).rejects.toThrow(
        new RegExp(`${parameter} is true, but stage bare is not deployed yet: .*deploy once without it`),
      );
    },
  );

  test('can be deployed from a release, also again with what stayed; it is independent of another stage on the same bus, and rejects webhooks without function parameters', async () => {
    await shell('aws s3 mb s3://releases');
    await bare.deployRelease('releases');
    const { Stacks } = await aws<{ Stacks: { EnableTerminationProtection: boolean; Tags: object[] }[] }>(
      ...['cloudformation', 'describe-stacks', '--stack-name', bare.name],
    );
    expect(Stacks[0]?.EnableTerminationProtection).toBe(true);
    expect(Stacks[0]?.Tags).toEqual([
      { Key: 'service', Value: 'barman-config-switch' },
      { Key: 'stage', Value: 'bare' },
    ]);
    const body = JSON.stringify(PROMOTION);
    const { status, headers, response } = await bare.post(body, signedHeaders(secret, body));
    expect([status, headers.get('retry-after'), response]).toEqual([
      503,
      '5',
      { message: 'Service Unavailable' },
    ]);
    expect((await webhook({ ...PROMOTION, role: 'replica' })).status).toBe(200);

    const other = { ...PROMOTION, cluster: 'of-the-other-stage', barman_model: 'pg:node1' };
    const [active, before] = [api.activeModel(), posts()];
    await putEvent(other, 'patroni.bare');
    await expect.poll(() => bare.logs(), { timeout: 30_000, interval: 500 }).toContain(other.cluster);
    const skipped = { ...PROMOTION, role: 'replica', cluster: 'of-this-stage' };
    await putEvent(skipped);
    await expect.poll(() => prod.logs(), { timeout: 30_000, interval: 500 }).toContain(skipped.cluster);
    expect([api.activeModel(), posts()]).toEqual([active, before]);
    expect(await prod.logs()).not.toContain(other.cluster);
    expect(await bare.logs()).not.toContain(skipped.cluster);
    // The emulator ignores what is to be watched.
    await bare.deployReleaseWithRollback('releases');
    expect(readFileSync('dist/triggers.json', 'utf8')).toContain(
      `arn:aws:cloudwatch:eu-central-1:000000000000:alarm:${bare.name}-heartbeat-lost`,
    );
    const allow = documentedCommand(
      'docs/how-to/remove-a-stage.md',
      'aws cloudformation update-termination-protection',
    );
    await shell(fill(allow, { [prod.name]: bare.name }));
    const item = { barman_server: { S: 'old' } };
    await aws('dynamodb', 'put-item', '--table-name', bare.name, '--item', JSON.stringify(item));
    const remove = `aws cloudformation delete-stack --stack-name ${bare.name}
aws cloudformation wait stack-delete-complete --stack-name ${bare.name}`;
    await shell(remove);
    await bare.deployAgain('releases');
    const key = ['--table-name', bare.name, '--key', JSON.stringify(item)];
    expect(await aws('dynamodb', 'get-item', ...key)).toEqual({ Item: item });
    // The commands have protected it again.
    await shell(fill(allow, { [prod.name]: bare.name }));
    await shell(remove);
    for (const table of [bare.name, `${bare.name}-events`]) {
      await shell(`aws dynamodb update-table --no-deletion-protection-enabled --table-name ${table}`);
    }
    await bare.deleteRest();
    expect((await webhook({ ...PROMOTION, role: 'replica' })).status).toBe(200);
  });

  test('is removed with the documented commands, unless it is protected or rules of other groups name its own; tables, logs and function parameters stay', async () => {
    const before = await prod.resources();
    const see = () =>
      prod.run(documentedCommand('docs/how-to/remove-a-stage.md', 'npm run remove -- --stage prod'));
    await expect(see()).rejects.toThrow(/deletion protection is enabled/);
    await expect(prod.remove()).rejects.toThrow(/deletion protection is enabled/);
    await shell(
      documentedCommand('docs/how-to/remove-a-stage.md', 'aws cloudformation update-termination-protection'),
    );

    const group = prod.outputs.FunctionSecurityGroup ?? '';
    const { GroupId } = await aws<{ GroupId: string }>(
      ...['ec2', 'create-security-group', '--group-name', 'barman', '--description', 'the Barman host'],
      ...['--vpc-id', PARAMETERS.vpc],
    );
    const allow = documentedCommand(
      'docs/how-to/endpoint-managed-elsewhere.md',
      'aws ec2 authorize-security-group-ingress',
    );
    await shell(fill(allow, { 'sg-0123456789abcdef0': GroupId, 'sg-0fedcba9876543210': group }));
    const refused = await prod.remove().then(
      () => 'removed',
      (error) => String(error),
    );
    expect(refused).toContain(`rules of other security groups name the function's, ${group}`);
    expect(await prod.resources()).toEqual(before);
    await shell(/^ +aws ec2 revoke-.*$/m.exec(refused)?.[0] ?? 'false');

    const seen = await see().catch(String);
    expect(seen).toContain('Nothing was removed. To remove the stage, add --yes.');
    expect(await prod.resources()).toEqual(before);
    await prod.remove();
    const remaining = async () => {
      const responses = await Promise.all(
        [
          ['cloudformation', 'describe-stacks'],
          ['lambda', 'list-functions'],
          ['apigatewayv2', 'get-apis'],
          ['iam', 'list-roles'],
          ['ec2', 'describe-security-groups'],
          ['sqs', 'list-queues'],
          ['sns', 'list-topics'],
          ['dynamodb', 'list-tables'],
          ['events', 'list-rules', '--event-bus-name', 'patroni'],
          ['events', 'list-rules'],
          ['cloudwatch', 'describe-alarms'],
          ['cloudwatch', 'list-dashboards'],
          // In the emulator a function that still logs creates its log group again; on AWS its role may not.
          ['logs', 'describe-log-groups', '--query', 'logGroups[?retentionInDays]'],
          ['s3api', 'list-buckets'],
        ].map(async (command) => [command.join(' '), JSON.stringify(await aws(...command))] as const),
      );
      return responses
        .filter(([, response]) => response.includes('barman-config-switch'))
        .map(([command]) => command.split(' ').slice(0, 2).join(' '));
    };
    expect(await remaining()).toEqual(['dynamodb list-tables', 'logs describe-log-groups']);
    // The names that the command says, which are those of the documented commands.
    const names = (text: string) =>
      [...text.matchAll(/ (?:--table-name|--log-group-name) (\S+)/g)].map(([, name]) => name).toSorted();
    const documented = documentedBlock('docs/how-to/remove-a-stage.md', 'aws dynamodb delete-table');
    expect(names(seen)).toEqual(names(documented));
    await prod.deleteRest();
    expect(await remaining()).toEqual([]);

    const parameters = async () => {
      const { Parameters } = await aws<{ Parameters: { Name: string }[] }>(
        ...['ssm', 'get-parameters-by-path', '--path', '/barman-config-switch/prod'],
      );
      return Parameters.map(({ Name }) => Name);
    };
    expect(await parameters()).toHaveLength(5);
    await shell(documentedCommand('docs/how-to/remove-a-stage.md', 'aws ssm get-parameters-by-path'));
    expect(await parameters()).toEqual([]);
  }, 300_000);
});
