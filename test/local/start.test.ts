import { execFile, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { type Local, STATE_FILE } from '../../cli/stage.ts';
import { commandsOf, documentedBlock, documentedCommand, fill } from '../documentation.ts';
import { inOneCluster, MODELS, startBarmanHost } from '../stand-ins/barman-host.ts';
import { CertificateAuthority } from '../stand-ins/certificates.ts';
import { PatroniStandIn } from '../stand-ins/patroni-rest-api.ts';

const GUIDE = 'docs/how-to/try-your-hosts.md';
/** Its commands: to look at both hosts, to correct the cluster, and to watch it. */
const [, LOOK = ''] = commandsOf(documentedBlock('docs/how-to/try-your-hosts.md', 'npm ci'));
const CORRECT = documentedCommand('docs/how-to/try-your-hosts.md', 'npm start -- --once --cluster');
const WATCH = commandsOf(documentedBlock('docs/how-to/try-your-hosts.md', 'npm run ledger'));
const CTRL_C = 'Press Ctrl-C to stop.';

/** Of a shell without credentials, whose profile does not exist. */
const { AWS_ACCESS_KEY_ID: _, AWS_SECRET_ACCESS_KEY: __, ...rest } = process.env;
const env = { ...rest, AWS_PROFILE: 'nowhere' };

/** Runs a command of the documentation. @returns how it ended; it does not throw */
async function type(command: string) {
  const ended = await promisify(execFile)('bash', ['-c', command], { env }).then(
    ({ stdout, stderr }) => ({ code: 0, stdout, stderr }),
    (error: { code: number; stdout: string; stderr: string }) => error,
  );
  return { status: ended.code, stdout: ended.stdout, stderr: ended.stderr };
}

/** Starts a command that runs until Ctrl-C. */
function typeAndWait(command: string) {
  const child = spawn('bash', ['-c', `exec ${command}`], { env, detached: true });
  const ended = once(child, 'exit');
  const output = { text: '' };
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (data) => {
      output.text += data;
    });
  }
  return {
    output,
    /** Waits until it takes role changes from other terminals. */
    ready: () => expect.poll(() => output.text, { timeout: 60_000 }).toContain(CTRL_C),
    [Symbol.asyncDispose]: async () => {
      // As a terminal does: to all processes of the group.
      process.kill(-(child.pid ?? 0), 'SIGINT');
      expect(await ended).toEqual([130, null]);
      expect(output.text).not.toContain('exited');
    },
  };
}

/** Returns the message of a response, or all that was printed. */
function messageIn({ stdout }: { readonly stdout: string }): string {
  return /"message": "(.*)"/.exec(stdout)?.[1] ?? stdout;
}

test('npm start -- --once › shows a model, no event, and follow_leader, and exits with status 0', {
  timeout: 90_000,
}, async () => {
  // npm ci has run already.
  const start = fill(documentedCommand('README.md', 'npm ci && npm start'), { 'npm ci && ': '' });
  const { status, stdout, stderr } = await type(`${start} -- --once --port 0`);
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  const shown = [
    '"barman_model":"crm:node2"',
    '"exit_status": "CONFIG_SWITCH_DONE"',
    'active model of crm   crm:node1 → crm:node2',
    "Patroni's leader is node2: model pg:node2 is desired for Barman server main now",
    'active model of main  pg:node1 → pg:node2',
    '"follow_leader":true',
    '"exit_status": "CONFIG_SWITCH_DONE"',
    'active model of main  pg:node2 → pg:node1',
  ];
  let left = stdout;
  for (const text of shown) {
    expect(left).toContain(text);
    left = left.slice(left.indexOf(text) + text.length);
  }
});

test('npm run webhook and npm run ledger › explain that the function is not running', () => {
  for (const [status, ...args] of [
    [3, 'test/local/send.ts', 'webhook'],
    [1, 'cli/ledger.ts', '--stage', 'local'],
    [1, 'cli/ledger.ts', '--stage', 'local', 'check'],
  ] as const) {
    const ended = spawnSync('node', args, { encoding: 'utf8', env });
    expect([ended.status, ended.stderr]).toEqual([
      status,
      expect.stringMatching(/^the function is not running: run `npm start`.*\n$/),
    ]);
  }
});

test("npm start › takes the README's commands from another terminal, until Ctrl-C", {
  timeout: 90_000,
}, async () => {
  await using start = typeAndWait('node test/local/start.ts --port 0');
  await start.ready();
  const shown: string[] = [];
  for (const command of commandsOf(documentedBlock('README.md', 'npm run webhook'))) {
    // It exits with the ExitCode, as the callback does.
    shown.push(messageIn(await type(command)));
  }
  expect(shown).toEqual([
    'Barman server main now uses model pg:node1',
    'Barman server main now uses no model',
    expect.stringMatching(/^dry run: Barman has no model pg:node9/),
    'Barman server main now uses model pg:node1',
    expect.stringMatching(
      /^heartbeat \ds ago; .*\nSERVER .*\ncrm +in sync +crm:node2 .*\nmain +in sync +pg:node1 /ms,
    ),
  ]);
  // The log of the function follows, with that of heartbeats.
  await expect
    .poll(() => start.output.text)
    .toContain('"message":"Barman server main now uses model pg:node1"');
  await expect.poll(() => start.output.text).toContain('"message":"heartbeat: 0 pending, 0 applied');
  const { stdout } = await type('npm run -s ledger -- --stage local check');
  expect(stdout).toContain('ok     clusters/main: ');
  expect(stdout).toContain('ok     /diagnose: Barman ');
  expect(await type('npm run -s ledger -- --stage local pause main')).toMatchObject({
    status: 0,
    stdout: expect.stringMatching(/^main +paused /m),
  });
  expect(await type('npm run -s ledger -- --stage local redrive')).toMatchObject({
    status: 1,
    stderr: '`npm start` has no failure queue\n',
  });
});

/** A Barman host and a Patroni cluster as one's own, with TLS and client certificates, and the files for both. */
async function ownHosts({ nodes = ['node1', 'node2'], models = MODELS } = {}) {
  const stack = new AsyncDisposableStack();
  const { api, ca } = stack.use(await startBarmanHost({ models, operationTime: 100 }));
  const [server, client] = await Promise.all([ca.server(), ca.client()]);
  const patroni = stack.use(await PatroniStandIn.start({ nodes, tls: { ...server, ca: ca.cert } }));
  // Without a model, the server's own conninfo leads to the leader.
  patroni.barmanStreamsFrom = () => api.activeModel()?.replace('pg:', '') ?? patroni.leader;
  const folder = mkdtempSync(join(tmpdir(), 'own-hosts-'));
  stack.defer(() => rmSync(folder, { recursive: true }));
  const write = (name: string, text: string) => writeFileSync(join(folder, name), text);
  write('client-cert', client.cert);
  write('client-key', client.key);
  write('ca-cert', ca.cert);
  const file = (name: string) => join(folder, name);
  const barman = `--pg-backup-api ${api.url} --client-cert ${file('client-cert')} --client-key ${file('client-key')} --ca-cert ${file('ca-cert')}`;
  const tls = `--patroni-ca-cert ${file('ca-cert')} --patroni-client-cert ${file('client-cert')} --patroni-client-key ${file('client-key')}`;
  return {
    ...{ api, patroni, file, write, barman, tls },
    urls: patroni.urls.map((url) => `--patroni ${url}`).join(' '),
    /** A command of the guide, with the files and the Barman host here. */
    filled: (command: string) =>
      fill(command, {
        'npm start --': 'node test/local/start.ts --port 0',
        'https://barman.example.com/pgbapi': api.url,
        ' secrets/client-cert': ` ${file('client-cert')}`,
        ' secrets/client-key': ` ${file('client-key')}`,
        ' secrets/ca-cert': ` ${file('ca-cert')}`,
      }),
    start: (options: string) => `node test/local/start.ts --port 0 ${options}`,
    posts: () => api.requests.filter(({ method }) => method !== 'GET'),
    /** Expects that a text has nothing of what is secret. */
    expectNoSecretIn: (text: string) => {
      const [, line = ''] = client.key.split('\n');
      expect(line).toMatch(/^[A-Za-z0-9+/]{40}/);
      expect(text).not.toContain(line);
      expect(text).not.toMatch(/PRIVATE KEY|whsec_/);
    },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

test('npm start --pg-backup-api › says what each failover would do, as the guide shows', {
  timeout: 60_000,
}, async () => {
  await using own = await ownHosts({ nodes: ['node1', 'node2', 'node3'] });
  const [first = '', ...others] = own.patroni.urls;
  const command = fill(own.filled(LOOK), {
    'https://10.0.1.11:8008': first,
    'https://10.0.1.12:8008': others[0] ?? '',
    'https://10.0.1.13:8008': others[1] ?? '',
  });
  const { status, stdout, stderr } = await type(`${command} ${own.tls}`);
  expect([status, stderr]).toEqual([1, '']);
  const guide = readFileSync(GUIDE, 'utf8');
  const [, outlook = ''] = stdout.split('What a failover would do\n\n');
  expect(outlook.trim().split('\n')).toHaveLength(3);
  expect(guide).toContain(`What a failover would do\n\n${outlook}`);
  const [, guess = ''] = /(\{\n.*\n\}\n)\nIs it wrong/s.exec(stdout) ?? [];
  const cluster = { servers: { main: { node1: 'pg:node1', node2: 'pg:node2' } }, patroni: own.patroni.urls };
  expect(JSON.parse(guess)).toEqual(cluster);
  expect(guide).toContain(JSON.stringify(cluster.servers, null, 2).split('\n').slice(1, -1).join('\n  '));
  expect(own.posts()).toEqual([]);
  own.expectNoSecretIn(stdout);
});

test('npm start --pg-backup-api --once › ends with 0 if every member is ready', {
  timeout: 60_000,
}, async () => {
  await using own = await ownHosts();
  const { status, stdout } = await type(own.start(`--once ${own.barman} ${own.urls} ${own.tls}`));
  expect([status, stdout]).toEqual([
    0,
    expect.stringContaining('if node2 became the leader: Barman would apply pg:node2 to main: ready\n'),
  ]);
});

test('npm start --pg-backup-api › sends no POST without --apply, although Barman is on the wrong model', {
  timeout: 120_000,
}, async () => {
  await using own = await ownHosts();
  own.api.setActiveModel('pg:node1');
  own.patroni.leader = 'node2';
  await using start = typeAndWait(own.start(`${own.barman} ${own.urls} ${own.tls}`));
  await start.ready();
  // The second heartbeat has noticed it.
  const noticed = 'model pg:node2 is desired for Barman server main now';
  await expect.poll(() => start.output.text, { timeout: 30_000 }).toContain(noticed);
  await expect
    .poll(() => start.output.text, { timeout: 30_000 })
    .toContain('0 applied, 1 paused and pending');
  const [list = '', check = '', follow = ''] = WATCH;
  expect((await type(list)).stdout).toMatch(/^main +paused +pg:node2 /m);
  expect((await type(check)).stdout).toContain('leader node2, ');
  expect(messageIn(await type(follow))).toContain('is paused');
  const webhook = 'npm run -s webhook -- --role primary';
  expect(messageIn(await type(`${webhook} --barman-model pg:node2`))).toContain('is paused');
  // The end of the pause changes nothing.
  const ledger = 'npm run -s ledger -- --stage local';
  expect(await type(`${ledger} resume --all`)).toMatchObject({ status: 0 });
  const refused = 'nothing was sent to Barman: npm start runs without --apply';
  expect(messageIn(await type(`${webhook} --barman-model pg:node2`))).toBe(refused);
  expect(messageIn(await type('npm run -s invoke -- --role primary --barman-model pg:node2'))).toBe(refused);
  expect(await type(`${ledger} retry main`)).toMatchObject({ stderr: `Tried, and failed: ${refused}\n` });
  expect((await type(`${ledger} set main pg:node2`)).stdout).toBe(`${refused}\n`);
  expect(own.posts()).toEqual([]);
  expect(own.api.activeModel()).toBe('pg:node1');
  own.expectNoSecretIn(start.output.text);

  // The parameters, the ledger and the function are for this user only.
  const { aws } = JSON.parse(readFileSync(STATE_FILE, 'utf8')) as Local;
  const path = '/2015-03-31/functions/barman-config-switch-local/invocations';
  for (const url of [
    aws.AWS_ENDPOINT_URL_SSM,
    aws.AWS_ENDPOINT_URL_DYNAMODB,
    `${aws.AWS_ENDPOINT_URL_LAMBDA}${path}`,
  ]) {
    expect((await fetch(url ?? '', { method: 'POST', body: '{}' })).status).toBe(403);
  }
});

test('npm start --pg-backup-api --apply › lets webhooks switch, with the cluster of a file', {
  timeout: 60_000,
}, async () => {
  await using own = await ownHosts();
  own.patroni.leader = 'node2';
  const secret = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw';
  const members = { node1: 'pg:node1', node2: 'pg:node2' };
  const cluster = { secret, servers: { main: members }, patroni: own.patroni.urls };
  own.write('cluster.json', JSON.stringify(cluster));
  const command = fill(own.filled(CORRECT), { ' cluster.json': ` ${own.file('cluster.json')}` });
  expect(await type(`${command} ${own.tls}`)).toMatchObject({ status: 0, stderr: '' });
  expect(own.posts()).toEqual([]);
  await using start = typeAndWait(fill(`${command} ${own.tls}`, { '--once': '--apply' }));
  await start.ready();
  expect(messageIn(await type('npm run -s webhook -- --role primary --follow-leader'))).toBe(
    'Barman server main now uses model pg:node2',
  );
  expect(own.api.activeModel()).toBe('pg:node2');
  own.expectNoSecretIn(start.output.text);
});

test('npm start --pg-backup-api › names the option, and the remedy, if a host does not answer', {
  timeout: 120_000,
}, async () => {
  await using own = await ownHosts();
  const other = await CertificateAuthority.create('Another CA');
  const stranger = await other.client();
  own.write('other-ca', other.cert);
  own.write('other-cert', stranger.cert);
  own.write('other-key', stranger.key);
  own.write('elsewhere.json', JSON.stringify({ servers: {}, patroni: ['http://127.0.0.1:9'] }));
  const url = `--pg-backup-api ${own.api.url}`;
  const files = (cert: string, key: string, ca: string) =>
    `--client-cert ${own.file(cert)} --client-key ${own.file(key)} --ca-cert ${own.file(ca)}`;
  const good = files('client-cert', 'client-key', 'ca-cert');
  const cases: [string, string][] = [
    [
      `--pg-backup-api http://127.0.0.1:9 --allow-plain-http ${own.urls}`,
      '--pg-backup-api: .* refused (ECONNREFUSED); check the URL',
    ],
    [
      `${url}/elsewhere ${good} ${own.urls}`,
      '--pg-backup-api: .* 404 .*; check the URL, --client-cert, --client-key and --ca-cert',
    ],
    [
      `${url} ${files('other-cert', 'other-key', 'ca-cert')} ${own.urls}`,
      '--pg-backup-api: .* may have refused client-cert; check .* --client-cert, .*',
    ],
    [
      `${url} ${files('client-cert', 'client-key', 'other-ca')} ${own.urls}`,
      '--pg-backup-api: the certificate of the Barman host is not trusted: .* --ca-cert',
    ],
    [
      `${own.barman} --patroni http://127.0.0.1:9`,
      '--patroni: no node answers as Patroni: http://127.0.0.1:9/ (ECONNREFUSED); check the URLs, .*',
    ],
    [
      `${own.barman} --cluster ${own.file('elsewhere.json')}`,
      'the key "patroni" of --cluster: no node answers as Patroni: .*',
    ],
    [`${own.barman} ${own.urls}`, '--patroni: no node answers .* --patroni-ca-cert, .*'],
    [
      `${own.barman} ${own.urls} --patroni-ca-cert ${own.file('ca-cert')}`,
      '--patroni: .* may require a client certificate.* --patroni-client-cert .*',
    ],
    [
      `${own.barman} ${own.urls} ${own.tls} --barman-server crm`,
      '--barman-server: Barman has no server crm; it has main',
    ],
  ];
  for (const [options, reason] of cases) {
    const { status, stderr } = await type(own.start(`--once ${options}`));
    const pattern = reason.replace(/[()]/g, '\\$&');
    expect([status, stderr]).toEqual([1, expect.stringMatching(new RegExp(`^${pattern}\n$`))]);
  }
});

test('npm start --patroni › says what to write if no model matches a member', {
  timeout: 60_000,
}, async () => {
  await using own = await ownHosts({ nodes: ['a', 'b'], models: inOneCluster(['first', 'second']) });
  const { status, stderr } = await type(own.start(`--once ${own.barman} ${own.urls} ${own.tls}`));
  expect([status, stderr]).toEqual([
    1,
    expect.stringMatching(
      /^no model of Barman .*: Barman has the models first, second, Patroni the members a \(a\), b \(b\); write .* --cluster instead of --patroni\n$/,
    ),
  ]);
});
