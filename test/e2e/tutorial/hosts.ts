/**
 * The hosts of docs/tutorial.md, in namespaces of their own: each has its address, and its copy of this machine's files
 * (overlayfs). The test calls `start`, and then runs the commands of the page.
 */

import { execFile } from 'node:child_process';
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { dirname, join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { request as send } from 'undici';
import { CertificateAuthority } from '../../stand-ins/certificates.ts';
import { listen, readBody } from '../../stand-ins/server.ts';
import { etcd } from '../cluster-files.ts';
import { attach, createBridge, on } from '../namespaces.ts';
import {
  atHome,
  type CommandLine,
  outputOf,
  own,
  POSTGRESQL,
  run,
  startLogged,
  until,
} from '../processes.ts';
import { offer } from '../remote.ts';
import { startMinistack } from '../setup.ts';

/** The hosts of the page, and AWS. */
const ADDRESS = {
  node1: '10.0.1.11',
  node2: '10.0.1.12',
  barman: '10.0.3.4',
  machine: '10.0.9.9',
  aws: '10.0.2.2',
} as const;
export type Host = keyof typeof ADDRESS;
const HOSTS = Object.keys(ADDRESS) as Host[];
const NODES = ['node1', 'node2'] as const;
/** Of the bridge: here are etcd, and what has a public address on AWS. */
const OWN_ADDRESS = '10.0.0.1';
const ETCD = { client: `http://${OWN_ADDRESS}:2379`, peer: `http://${OWN_ADDRESS}:2380` };
/** Where the repository is on the reader's machine. */
const REPOSITORY = '/root/barman-config-switch';
/** Between two runs of Barman's cron (ms); in production one minute. */
const CRON = 5_000;

/** Time limit of a step (ms). */
const COMMAND_TIMEOUT = 120_000;

export interface HostsOptions {
  /** For all files. */
  readonly folder: string;
  /** Folder of the programs from PyPI. */
  readonly tools: string;
}

let folder = '';
let tools = '';
/** The URL of AWS. */
let aws = '';

const rootOf = (host: Host) => join(folder, host, 'root');
const fileOf = (host: Host, path: string) => join(rootOf(host), path);

/** What is in the environment of a host's shell. */
function environmentOf(host: Host): Record<string, string> {
  const path = ['/opt/bin', '/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin'];
  const all = { HOME: '/root', LANG: 'C.UTF-8', PATH: path.join(':') };
  if (host === 'barman' || host === 'aws') return all;
  if (host !== 'machine') {
    return { ...all, PATRONICTL_CONFIG_FILE: '/etc/patroni/patroni.yml', SSL_CERT_FILE: '/etc/aws-ca.crt' };
  }
  return {
    ...all,
    PATH: `/opt/bin:${tools}:${process.env.PATH}`,
    AWS_ENDPOINT_URL: aws,
    AWS_ACCESS_KEY_ID: 'test',
    AWS_SECRET_ACCESS_KEY: 'test',
    // npm's own lines are left out.
    npm_config_loglevel: 'silent',
    SLS_TELEMETRY_DISABLED: '1',
    SLS_NOTIFICATIONS_MODE: 'off',
    // The emulator refuses alarms with metric math.
    WITHOUT_METRIC_MATH: 'true',
  };
}

/** @returns the command line that runs a command on a host, among its files and under its name */
function within(host: Host, [command, words]: CommandLine, directory = '/root'): CommandLine {
  const variables = Object.entries(environmentOf(host)).map(([name, value]) => `${name}=${value}`);
  const named = ['--uts', 'sh', '-c', 'hostname "$0" && exec "$@"', host];
  const env = ['chroot', rootOf(host), 'env', '-i', '-C', directory, ...variables];
  return on(host, ['unshare', [...named, ...env, command, ...words]]);
}

const inHost = (host: Host, script: string) => run(within(host, ['bash', ['-euc', script]], '/'));

/** Writes a file of a host. */
function write(host: Host, path: string, text: string, mode = 0o644): void {
  mkdirSync(dirname(fileOf(host, path)), { recursive: true });
  writeFileSync(fileOf(host, path), text);
  chmodSync(fileOf(host, path), mode);
}

/** Shows a folder at another place, where what is written is kept apart from it, in `layers`. */
async function overlay(lower: string, target: string, layers: string): Promise<void> {
  const [upper, work] = [join(layers, 'upper'), join(layers, 'work')];
  for (const one of [target, upper, work]) mkdirSync(one, { recursive: true });
  const options = `lowerdir=${lower},upperdir=${upper},workdir=${work}`;
  await run(['mount', ['-t', 'overlay', 'overlay', '-o', options, target]]);
}

/** Gives a host its files: what it writes is its own. */
async function createRoot(host: Host): Promise<void> {
  const root = rootOf(host);
  await overlay('/', root, join(folder, host));
  const binds = ['/proc', '/dev', '/sys', dirname(tools), resolve('.')];
  for (const path of binds) {
    mkdirSync(join(root, path), { recursive: true });
    await run(['mount', ['--rbind', path, join(root, path)]]);
  }
  await run(['mount', ['-t', 'tmpfs', 'none', join(root, 'run')]]);
  const names = [...HOSTS.map((one) => `${ADDRESS[one]} ${one}`), `${ADDRESS.barman} barman.example.com`];
  write(host, '/etc/hosts', `127.0.0.1 localhost\n${names.join('\n')}\n`);
  for (const name of ['scp', 'systemctl']) {
    write(host, `/opt/bin/${name}`, readFileSync(join(import.meta.dirname, 'bin', name), 'utf8'), 0o755);
  }
  for (const name of ['patroni', 'patronictl', 'barman']) {
    write(host, `/opt/bin/${name}`, `#!/bin/sh\nexec ${tools}/${name} "$@"\n`, 0o755);
  }
}

/** @returns what a server answers; nothing if it does not */
const textOf = (url: string) =>
  fetch(url).then(
    (response) => response.text(),
    () => '',
  );

/** PostgreSQL with Patroni, which does not know of Barman yet. */
async function startNode(name: (typeof NODES)[number]): Promise<void> {
  const address = ADDRESS[name];
  const settings = {
    scope: 'main',
    name,
    restapi: { listen: `${address}:8008`, connect_address: `${address}:8008` },
    etcd3: { hosts: [new URL(ETCD.client).host] },
    bootstrap: {
      dcs: {
        ...{ ttl: 20, loop_wait: 2, retry_timeout: 5 },
        postgresql: { use_pg_rewind: true, parameters: { wal_log_hints: 'on' } },
      },
      initdb: [{ encoding: 'UTF8' }, 'data-checksums'],
    },
    postgresql: {
      listen: `${address}:5432`,
      connect_address: `${address}:5432`,
      data_dir: '/var/lib/postgresql/main',
      bin_dir: POSTGRESQL,
      use_unix_socket: true,
      authentication: { superuser: { username: 'postgres' }, replication: { username: 'postgres' } },
      parameters: {
        ...{ unix_socket_directories: '/run/postgresql', max_wal_senders: 10, shared_buffers: '16MB' },
        ...{ ssl: 'on', ssl_cert_file: '/etc/patroni/server.crt', ssl_key_file: '/etc/patroni/server.key' },
      },
      pg_hba: ['local all all peer', 'hostssl all,replication postgres 10.0.1.0/24 trust'],
    },
  };
  write(name, '/etc/patroni/patroni.yml', JSON.stringify(settings));
  await inHost(
    name,
    `cd /etc/patroni
openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=${name} -keyout server.key -out server.crt 2>/dev/null
install -d -o postgres /run/postgresql /var/log/postgresql
chown -R postgres /etc/patroni /var/lib/postgresql`,
  );
  const patroni: CommandLine = ['runuser', ['-u', 'postgres', '--', 'patroni', '/etc/patroni/patroni.yml']];
  startLogged(within(name, patroni, '/'), join(folder, `${name}.log`));
  const isReady = name === 'node1' ? /"role": "primary"/ : /"replication_state": "streaming"/;
  await until(
    async () => isReady.test(await textOf(`http://${address}:8008/patroni`)),
    `Patroni of ${name} does not run; see ${folder}/${name}.log`,
  );
}

/** What its packages bring to the Barman host; pg-backup-api is the stand-in. */
async function prepareBarmanHost(): Promise<void> {
  const settings = `[barman]
barman_user = barman
configuration_files_directory = /etc/barman.d
barman_home = /var/lib/barman
log_file = /var/log/barman/barman.log
`;
  write('barman', '/etc/barman.conf', settings);
  await inHost(
    'barman',
    `useradd --system --create-home --home-dir /var/lib/barman barman
install -d -o barman /var/log/barman
install -d /etc/barman.d`,
  );
  const standIn = `cd ${resolve('.')} && exec ${process.execPath} test/e2e/tutorial/pg-backup-api.ts`;
  const { PG_BACKUP_API: real } = process.env;
  const gunicorn = atHome(
    'barman',
    ...[`PATH=${real}:$PATH`, 'gunicorn', '--bind', '127.0.0.1:7480', 'pg_backup_api.app'],
  );
  const command = real === undefined ? standIn : `cd / && exec ${gunicorn.flat().join(' ')}`;
  const program = `#!/bin/sh\n${command}\n`;
  write('barman', '/opt/bin/pg-backup-api', program, 0o755);
}

/** The reader's machine: the repository, and the files of the others, for `scp`. */
async function prepareMachine(): Promise<void> {
  for (const host of [...NODES, 'barman'] as const) {
    for (const name of [ADDRESS[host], ...(host === 'barman' ? ['barman.example.com'] : [])]) {
      const mount = fileOf('machine', `/hosts/${name}`);
      mkdirSync(mount, { recursive: true });
      await run(['mount', ['--bind', rootOf(host), mount]]);
    }
  }
  await overlay(resolve('.'), fileOf('machine', REPOSITORY), join(folder, 'repository'));
}

/** The HTTP API of AWS under its public name, which hands each request on to the emulator. */
async function startHttpApi(): Promise<void> {
  const ca = await CertificateAuthority.create('AWS');
  const server = createServer(
    await ca.server(['*.execute-api.eu-central-1.amazonaws.com']),
    async (request, reply) => {
      const { host = '', ...headers } = request.headers;
      const url = new URL(aws);
      const body = await readBody(request);
      const answer = await send(`${aws}${request.url}`, {
        method: request.method as 'POST',
        headers: { ...headers, host: `${host.split('.')[0]}.execute-api.${url.host}` },
        body,
      });
      reply.writeHead(answer.statusCode, answer.headers).end(await answer.body.text());
    },
  );
  await listen(server, 443, OWN_ADDRESS);
  for (const node of NODES) write(node, '/etc/aws-ca.crt', ca.cert);
}

const cron = async () => {
  for (;;) {
    await outputOf(within('barman', atHome('barman', 'barman', 'cron'), '/'), 20_000);
    await sleep(CRON);
  }
};

offer({
  start: async (options: HostsOptions) => {
    ({ folder, tools } = options);
    await run(['mount', ['-t', 'tmpfs', '-o', 'mode=755', 'none', folder]]);
    await createBridge('tutorial', `${OWN_ADDRESS}/16`, '02:00:00:00:00:fe');
    for (const [index, host] of HOSTS.entries()) {
      await attach(host, 'tutorial', `${ADDRESS[host]}/16`, `02:00:00:00:00:0${index + 1}`);
      await createRoot(host);
    }
    mkdirSync(join(folder, 'etcd'));
    own(join(folder, 'etcd'), 0o700);
    startLogged(etcd(folder, ETCD), join(folder, 'etcd.log'));
    for (const node of NODES) await startNode(node);
    await prepareBarmanHost();
    const emulator = join(folder, 'emulator');
    mkdirSync(emulator);
    ({ endpoint: aws } = await startMinistack(tools, emulator, ADDRESS.aws, ([command, words]) =>
      on('aws', ['chroot', [rootOf('aws'), 'env', `MINISTACK_HOST=${ADDRESS.aws}`, command, ...words]]),
    ));
    await prepareMachine();
    await startHttpApi();
  },
  /** Lets the nodes find the HTTP API. */
  name: (host: string) => {
    for (const node of NODES)
      writeFileSync(fileOf(node, '/etc/hosts'), `${OWN_ADDRESS} ${host}\n`, { flag: 'a' });
  },
  /** The last lines of the logs. */
  logs: () => {
    const files = ['pg-backup-api.log', 'barman/barman.log', 'nginx/error.log'].map((name) =>
      fileOf('barman', `/var/log/${name}`),
    );
    const logs = [
      ...files,
      join(folder, 'emulator/ministack.log'),
      ...NODES.map((node) => join(folder, `${node}.log`)),
    ];
    return outputOf(['tail', ['-n', '8', ...logs]], 5_000);
  },
  startCron: () => void cron(),
  /** Adds settings to a YAML file, as an editor would; lists get longer. */
  merge: ({ host, path, yaml }: { host: Host; path: string; yaml: string }) => {
    const script = `import sys, yaml
def merge(old, new):
    if isinstance(old, dict):
        for key, value in new.items(): old[key] = merge(old.get(key), value)
        return old
    return old + new if isinstance(old, list) else new
with open(sys.argv[1], "r+") as file:
    text = yaml.safe_dump(merge(yaml.safe_load(file), yaml.safe_load(sys.argv[2])), width=1000)
    file.seek(0); file.truncate(); file.write(text)`;
    return run(within(host, [join(tools, 'python'), ['-c', script, path, yaml]]));
  },
  /** Runs commands in a shell. @returns the exit status and what they print, in this order */
  run: ({ host, user = 'root', commands }: { host: Host; user?: string; commands: string }) => {
    const directory = host === 'machine' ? REPOSITORY : '/root';
    const words = ['--norc', '-euo', 'pipefail', '-c', `exec 2>&1 </dev/null\n${commands}`];
    const [command, all] =
      user === 'root'
        ? within(host, ['bash', words], directory)
        : within(host, atHome(user, 'bash', ...words), '/');
    return new Promise((done) => {
      execFile(command, all, { maxBuffer: 16 * 1024 * 1024, timeout: COMMAND_TIMEOUT }, (error, output) =>
        done({ status: error ? (error.code ?? 1) : 0, output }),
      );
    });
  },
});
