/** The commands of the how-to pages that write parameters: what they write is what the function accepts. */

import { execFileSync } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { HttpError } from '../../functions/config-switch/errors.ts';
import { type Parts, partsOf } from '../../functions/config-switch/settings/parameters.ts';
import { documentedBlock, fill } from '../documentation.ts';
import { CertificateAuthority } from '../stand-ins/certificates.ts';
import { createSecret } from '../stand-ins/webhook.ts';
import { fakeClock, MINUTE, pass, SKIPPED, startFunction } from './function.ts';

/** Instead of the AWS CLI: each parameter is a file in $STORE. What it prints ends with a line break, as there. */
const AWS = `aws() {
  case "$*" in ssm*'--region eu-central-1'*) action=$2 ;; *) return 2 ;; esac
  while [ $# -gt 0 ]; do
    case $1 in
      --name) file=$STORE/$(printf %s "$2" | sed 's|^/barman-config-switch/prod/||; s|^/barman-config-switch/dr/|dr-|; s|/|+|') ;;
      --value) value=$2 ;;
      --overwrite) overwrite=yes ;;
    esac
    shift
  done
  case $action in
    get-parameter) cat "$file" && echo ;;
    put-parameter) { [ ! -e "$file" ] || [ "\${overwrite-}" ]; } && cp "\${value#file://}" "$file" ;;
    *) return 2 ;;
  esac
}`;

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'how-to-'));
  execFileSync('mkdir', ['store', 'work', 'etc'], { cwd: folder });
});
afterEach(() => rmSync(folder, { recursive: true }));

/** Runs commands in a folder of a new shell. @param editor the command that edits a file @returns what they print */
function shell(commands: string, editor = 'false', cwd = 'work'): string {
  return execFileSync('bash', ['-euc', `${AWS}\n${commands}`], {
    cwd: join(folder, cwd),
    encoding: 'utf8',
    env: { ...process.env, STORE: join(folder, 'store'), EDITOR: editor },
  });
}

/** Writes a parameter, without the commands. */
const store = (name: string, value: string) =>
  writeFileSync(join(folder, 'store', name.replace('/', '+')), value);

/** Returns the values of all parameters by name. */
const stored = () =>
  new Map(
    readdirSync(join(folder, 'store')).map((file) => [
      file.replace('+', '/'),
      readFileSync(join(folder, 'store', file), 'utf8'),
    ]),
  );

/** Returns what the parameters mean. */
const parts = () => partsOf(stored(), '/barman-config-switch/prod/');

/** @throws HttpError if the part is unavailable */
function usable<Name extends keyof Parts>(name: Name): Exclude<Parts[Name], HttpError | undefined> {
  const part = parts()[name];
  if (part === undefined || part instanceof HttpError) throw part ?? new Error(`no ${name}`);
  return part as Exclude<Parts[Name], HttpError | undefined>;
}

/** Returns a cluster, with its servers as objects. */
function clusterNamed(name: string) {
  const cluster = parts().clusters.get(name);
  if (cluster === undefined || cluster instanceof HttpError) throw cluster ?? new Error(`no ${name}`);
  const servers = [...cluster.servers].map(([server, members]) => [server, Object.fromEntries(members)]);
  return {
    secrets: cluster.secrets.length,
    servers: Object.fromEntries(servers),
    patroni: cluster.patroni.map(({ href }) => href),
  };
}

/** Copies a file of `secrets` to a node. @returns the folder there */
function onNode(name: string): string {
  execFileSync('mkdir', ['node'], { cwd: folder });
  execFileSync('cp', [`work/secrets/${name}`, 'node'], { cwd: folder });
  return 'node';
}

/** Commands of user root, who gives a file to postgres. */
const onlyHere = (commands: string) =>
  fill(commands, { '-o postgres ': '', '/etc/patroni': `${folder}/etc` });

/** No file but the ones in $STORE has a secret any more. */
const leftOver = () => readdirSync(join(folder, 'work')).filter((name) => name === 'secrets');

const MAIN = `{ "secret": "${createSecret()}", "servers": { "main": { "node1": "pg:node1", "node2": "pg:node2" } },
  "patroni": ["https://10.0.1.11:8008", "https://10.0.1.12:8008"] }`;

test('docs/how-to/add-a-cluster.md › writes a parameter that the function accepts, with the secret of the nodes, and leaves no copy', () => {
  const commands = documentedBlock('docs/how-to/add-a-cluster.md', 'secret="whsec_');
  const secret = shell(`${commands}\ncat webhook-secret`).trim();
  expect(clusterNamed('hr')).toEqual({
    secrets: 1,
    servers: { hr: { node1: 'hr:node1', node2: 'hr:node2' } },
    patroni: ['https://10.0.5.11:8008/', 'https://10.0.5.12:8008/'],
  });
  expect(stored().get('clusters/hr')).toContain(secret);
  const secrets = join(folder, 'work/secrets');
  expect([statSync(secrets).mode & 0o777, statSync(join(secrets, 'webhook-secret')).mode & 0o777]).toEqual([
    0o700, 0o600,
  ]);
  shell(documentedBlock('docs/how-to/add-a-cluster.md', 'rm -r secrets'), 'false', 'work/secrets');
  expect(leftOver()).toEqual([]);
});

test('docs/how-to/add-a-node.md › adds a member and its URL to the parameter, as the page shows it, and leaves no copy', () => {
  store('clusters/main', MAIN);
  const page = readFileSync('docs/how-to/add-a-node.md', 'utf8');
  const [, edited = ''] = /^```json\n(.*?)^```$/ms.exec(page) ?? [];
  writeFileSync(join(folder, 'edited'), fill(edited, { 'whsec_…': createSecret() }));
  shell(documentedBlock('docs/how-to/add-a-node.md', 'aws ssm get-parameter'), 'cp ../../edited');
  expect(clusterNamed('main')).toEqual({
    secrets: 1,
    servers: { main: { node1: 'pg:node1', node2: 'pg:node2', node3: 'pg:node3' } },
    patroni: ['https://10.0.1.11:8008/', 'https://10.0.1.12:8008/', 'https://10.0.1.13:8008/'],
  });
  expect(leftOver()).toEqual([]);
});

test('docs/how-to/remove-a-node-or-server.md › removes a member from the parameter, deletes a parameter, and leaves no copy', () => {
  store('clusters/main', MAIN);
  const edit = join(folder, 'edit');
  writeFileSync(edit, 'sed -i \'s|, "node2": "pg:node2"||; s|, "https://10.0.1.12:8008"||\' "$1"');
  shell(documentedBlock('docs/how-to/remove-a-node-or-server.md', 'aws ssm get-parameter'), `sh ${edit}`);
  expect(clusterNamed('main')).toEqual({
    ...{ secrets: 1, servers: { main: { node1: 'pg:node1' } }, patroni: ['https://10.0.1.11:8008/'] },
  });
  expect(leftOver()).toEqual([]);
});

test('docs/how-to/set-up.md › writes the CA of Patroni', () => {
  execFileSync('mkdir', ['work/secrets'], { cwd: folder });
  writeFileSync(join(folder, 'work/secrets/patroni-ca-cert'), 'CA');
  shell(documentedBlock('docs/how-to/set-up.md', 'aws ssm put-parameter --region eu-central-1 --overwrite'));
  expect(stored().get('patroni-ca-cert')).toBe('CA');
});

test('docs/how-to/upgrade.md › gets the certificates into a folder for its owner only', () => {
  for (const name of ['client-cert', 'client-key', 'ca-cert']) store(name, name);
  shell(documentedBlock('docs/how-to/upgrade.md', 'for name in client-cert'));
  for (const name of ['client-cert', 'client-key', 'ca-cert']) {
    const file = join(folder, 'work/secrets', name);
    expect([readFileSync(file, 'utf8').trim(), statSync(file).mode & 0o777]).toEqual([name, 0o600]);
  }
  shell(documentedBlock('docs/how-to/upgrade.md', 'rm -r secrets'));
  expect(leftOver()).toEqual([]);
});

test('docs/how-to/several-barman-hosts.md › makes a file with the secrets of both stages, for its owner only', () => {
  const secrets = [createSecret(), createSecret()];
  store('webhook-secret', secrets[0] as string);
  store('dr-webhook-secret', secrets[1] as string);
  shell(documentedBlock('docs/how-to/several-barman-hosts.md', 'for stage in prod dr'));
  const file = join(folder, 'work/secrets/webhook-secret');
  expect(readFileSync(file, 'utf8').trim().split(/\s+/)).toEqual(secrets);
  expect(statSync(file).mode & 0o777).toBe(0o600);
  const node = onNode('webhook-secret');
  shell(
    onlyHere(documentedBlock('docs/how-to/several-barman-hosts.md', 'install -o postgres')),
    'false',
    node,
  );
  expect(readFileSync(join(folder, 'etc/webhook-secret'))).toEqual(readFileSync(file));
  expect(readdirSync(join(folder, node))).toEqual([]);
  shell(documentedBlock('docs/how-to/several-barman-hosts.md', 'rm -r secrets'), 'false', 'work/secrets');
  expect(leftOver()).toEqual([]);
});

describe('docs/how-to/rotate.md', () => {
  fakeClock();

  test('replaces the webhook secret, and each one is accepted until the page says that it is rejected', async () => {
    await using run = await startFunction();
    const old = run.host.webhookSecret;
    store('webhook-secret', old);
    const status = async (secret: string) => (await run.webhook(SKIPPED, { secret })).statusCode;
    expect(await status(old)).toBe(200);

    shell(documentedBlock('docs/how-to/rotate.md', 'cat old new'));
    run.host.put({ 'webhook-secret': stored().get('webhook-secret') });
    const node = onNode('new');
    shell(onlyHere(documentedBlock('docs/how-to/rotate.md', 'install -o postgres')), 'false', node);
    expect(readdirSync(join(folder, node))).toEqual([]);
    const compare = fill(documentedBlock('docs/how-to/rotate.md', 'sha256sum new'), {
      '/etc/patroni': `${folder}/etc`,
    });
    const [here, there, ...more] = shell(compare, 'false', 'work/secrets').match(/^\w{64}/gm) ?? [];
    expect([there, more]).toEqual([here, []]);
    const file = join(folder, 'etc/webhook-secret');
    const renewed = readFileSync(file, 'utf8').trim();
    expect(statSync(file).mode & 0o777).toBe(0o600);
    // An unknown secret lets the function read its parameters again.
    expect([await status(renewed), await status(old)]).toEqual([200, 200]);

    const last = documentedBlock(
      'docs/how-to/rotate.md',
      'aws ssm put-parameter --name /barman-config-switch/prod/webhook-secret --value file://new ',
    );
    shell(last, 'false', 'work/secrets');
    run.host.put({ 'webhook-secret': stored().get('webhook-secret') });
    pass(6 * MINUTE);
    await expect.poll(() => status(old), { timeout: 10_000 }).toBe(401);
    expect(await status(renewed)).toBe(200);
    expect(leftOver()).toEqual([]);
  });

  test("replaces a cluster's secret, and leaves the rest of its parameter as it is", () => {
    store('clusters/main', MAIN);
    const before = clusterNamed('main');
    // The person at the editor appends what the commands have printed, and later removes the old one.
    const append = join(folder, 'append');
    writeFileSync(append, 'sed -i "s|\\"secret\\": \\"[^\\"]*|& $(cat new)|" "$1"');
    const printed = shell(documentedBlock('docs/how-to/rotate.md', 'cat new'), `sh ${append}`).trim();
    expect(printed).toMatch(/^whsec_/);
    expect(stored().get('clusters/main')).toContain(` ${printed}"`);
    expect(clusterNamed('main')).toEqual({ ...before, secrets: 2 });
    const last = documentedBlock('docs/how-to/rotate.md', 'cp cluster.json only-new.json');
    shell(last, 'sed -i s|"whsec_.*[[:space:]]whsec|"whsec|', 'work/secrets');
    expect(stored().get('clusters/main')).toContain(`"secret": "${printed}"`);
    expect(clusterNamed('main')).toEqual(before);
    expect(leftOver()).toEqual([]);
  });

  describe('with a stage that has certificates', () => {
    let ca: CertificateAuthority;
    beforeEach(async () => {
      ca = await CertificateAuthority.create('old');
      const client = await ca.client();
      store('url', 'https://barman.example.com/pgbapi');
      store('client-cert', client.cert);
      store('client-key', client.key);
      store('ca-cert', ca.cert);
    });

    test('replaces the client certificate by one that the CA has signed', () => {
      const subject = ['-newkey', 'rsa:2048', '-nodes', '-subj', '/CN=function CA', '-days', '30'];
      const files = ['-keyout', 'function-ca.key', '-out', 'function-ca.crt'];
      execFileSync('openssl', ['req', '-x509', ...subject, ...files], {
        cwd: join(folder, 'work'),
        stdio: 'ignore',
      });
      const authority = new X509Certificate(readFileSync(join(folder, 'work/function-ca.crt')));
      const renew = fill(documentedBlock('docs/how-to/rotate.md', 'openssl req'), {
        '~/CA/function-ca': join(folder, 'work/function-ca'),
      });
      shell(`${renew} 2>/dev/null`);
      shell(documentedBlock('docs/how-to/rotate.md', 'for name in'), 'false', 'work/secrets');
      const { tls } = usable('connection');
      const certificate = new X509Certificate(tls?.cert ?? '');
      expect(certificate.verify(authority.publicKey)).toBe(true);
      const days = ((tls?.notAfter ?? 0) - Date.now()) / 86_400_000;
      expect([Math.round(days), certificate.subject]).toEqual([365, 'CN=barman-config-switch']);
      expect(leftOver()).toEqual([]);
    });

    test('replaces the CA of the Barman host, and trusts both meanwhile', async () => {
      const renewed = await CertificateAuthority.create('new');
      writeFileSync(join(folder, 'work/barman-ca-new.crt'), renewed.cert);
      const trusted = () =>
        (usable('connection').tls?.ca.match(/-----BEGIN [\s\S]*?-----END [^-]*-----/g) ?? []).map(
          (cert) => new X509Certificate(cert).subject,
        );
      expect(trusted()).toEqual(['CN=old']);
      shell(documentedBlock('docs/how-to/rotate.md', 'cat barman-ca-old.crt'));
      expect(trusted()).toEqual(['CN=old', 'CN=new']);
      shell(
        documentedBlock(
          'docs/how-to/rotate.md',
          'aws ssm put-parameter --name /barman-config-switch/prod/ca-cert --value file://barman-ca-new.crt',
        ),
      );
      expect(trusted()).toEqual(['CN=new']);
    });
  });

  test("installs the Barman host's certificate, its key for its owner only, and reloads nginx only if that accepts them", () => {
    const commands = fill(documentedBlock('docs/how-to/rotate.md', 'nginx -t'), {
      '/etc/nginx': `${folder}/etc`,
    });
    for (const name of ['barman.crt', 'barman.key']) writeFileSync(join(folder, 'work', name), name);
    const reloaded = (status: number) =>
      shell(
        `nginx() { return ${status}; }\nsystemctl() { echo "$*"; }\n${commands.trimEnd()} || echo refused`,
      );
    expect([reloaded(0), reloaded(1)]).toEqual(['reload nginx\n', 'refused\n']);
    expect(statSync(join(folder, 'etc/barman.key')).mode & 0o777).toBe(0o600);
    expect(existsSync(join(folder, 'etc/barman.crt'))).toBe(true);
  });
});
