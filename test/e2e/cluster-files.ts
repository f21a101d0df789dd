/**
 * The files of a cluster: the configuration of Patroni and of Barman, and the callback of a node. They are
 * those of docs/examples, with the names, ports and paths of the test filled in, and with what else the test
 * needs.
 */

import { execFile } from 'node:child_process';
import { copyFileSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { documentedBlock, example, fill } from '../documentation.ts';
import type { KeyPair } from '../stand-ins/certificates.ts';
import { asPostgres, asRoot, type CommandLine, own, POSTGRESQL, writeOwned } from './processes.ts';

/** `site1` is a node of a standby site. */
export type NodeName = 'node1' | 'node2' | 'node3' | 'site1';

/** Where a node's servers listen: PostgreSQL, and Patroni's REST API. */
export interface NodeAddress {
  readonly address: string;
  readonly postgres: number;
  readonly rest: number;
}

/** Where the servers of a cluster run. */
export interface Hosts {
  readonly nodes: ReadonlyMap<NodeName, NodeAddress>;
  /** etcd's URLs for clients, and for other members. */
  readonly etcd: { readonly client: string; readonly peer: string };
  /** CIDR of all of them, and of the test itself. */
  readonly network: string;
  /** Makes the command line that runs a command on a host. */
  on(host: NodeName | 'etcd' | 'barman', command: CommandLine): CommandLine;
}

/** Patroni's REST API over https. It requires a client certificate. */
export interface RestTls {
  readonly ca: string;
  readonly server: KeyPair;
  readonly client: KeyPair;
}

export interface ClusterOptions {
  readonly hosts: Hosts;
  /** For all files; the caller creates it. */
  readonly folder: string;
  /** Folder of the programs from PyPI. */
  readonly tools: string;
  /** The callback's connection options, instead of `--url`. */
  readonly callback: readonly string[];
  /** The callback's. */
  readonly secret: string;
  /** The callback of each node names its own model, instead of following the leader. */
  readonly models?: boolean;
  /** How far a node's clock is ahead of the others (s), for its callback only. */
  readonly clocks?: Partial<Record<NodeName, number>>;
  /** Interval of Barman's cron (ms). */
  readonly cron: number;
  /** Patroni's scope; default `main`. */
  readonly scope?: string;
  /** Patroni's REST API is https, and requires a client certificate. Default: plain http. */
  readonly tls?: RestTls;
  /** Makes it a standby cluster: where the leader is that it follows; several hosts with commas. */
  readonly standbyOf?: { readonly host: string; readonly port: number };
  /**
   * The nodes of which Barman has a model, `pg:` and the name. Default: those of this cluster; null: Barman is that
   * of another site, and follows primaries only.
   */
  readonly barmanNodes?: ReadonlyMap<string, NodeAddress> | null;
  /** What else a node's Patroni is configured with. */
  readonly settings?: (name: NodeName) => object;
}

/** The roles of Barman: SQL. */
export const BARMAN_ROLES = example('barman.sql');

/** Writes the files of all nodes, callbacks included. */
export async function writeNodeFiles(options: ClusterOptions): Promise<void> {
  const { folder, hosts, secret, tls, clocks } = options;
  own(folder, 0o755);
  await installCallback(folder, secret);
  if (tls) {
    const pem = ({ cert, key }: KeyPair) => `${cert}\n${key}`;
    writeOwned(join(folder, 'rest-ca.pem'), tls.ca, 0o600);
    writeOwned(join(folder, 'rest-server.pem'), pem(tls.server), 0o600);
    writeOwned(join(folder, 'rest-client.pem'), pem(tls.client), 0o600);
  }
  for (const [name, address] of hosts.nodes) {
    writeCallback(folder, name, clocks?.[name] ?? 0);
    // Patroni reads all files of a folder, in the order of their names.
    const config = join(folder, `${name}.d`);
    mkdirSync(config);
    own(config, 0o700);
    const texts = [...examples(name, options), settings(name, address, options)];
    if (options.settings) texts.push(JSON.stringify(options.settings(name)));
    for (const [order, text] of texts.entries()) writeOwned(join(config, `${order}.yml`), text, 0o600);
  }
}

/** Installs the callback and its secret with the documented commands, into a folder instead of /etc/patroni. */
async function installCallback(folder: string, secret: string): Promise<void> {
  const download = join(folder, 'download');
  mkdirSync(download);
  writeFileSync(join(download, 'webhook-secret'), secret);
  copyFileSync('patroni/barman_config_switch.py', join(download, 'barman_config_switch.py'));
  const commands = fill(documentedBlock('docs/how-to/set-up.md', 'install -o root'), {
    '/etc/patroni': folder,
    // Only root may give files away.
    ...(!asRoot && { '-o root ': '', '-o postgres ': '' }),
  });
  await promisify(execFile)('bash', ['-euc', commands], { cwd: download });
  rmSync(download, { recursive: true });
}

/**
 * Writes the script that Patroni runs on a node: the unchanged callback, with a clock that may be wrong.
 *
 * @param ahead seconds; null: it does nothing
 */
export function writeCallback(folder: string, name: NodeName, ahead: number | null): void {
  const script = `import runpy, sys, time
real = time.time
time.time = lambda: real() + ${ahead}
sys.argv[0] = ${JSON.stringify(join(folder, 'barman_config_switch.py'))}
runpy.run_path(sys.argv[0], run_name="__main__")
`;
  writeOwned(join(folder, `${name}-callback.py`), ahead === null ? '' : script, 0o755);
}

/** The command line of etcd. */
export function etcd(folder: string, { client, peer }: Hosts['etcd']): CommandLine {
  return asPostgres('etcd', [
    ...['--data-dir', join(folder, 'etcd'), '--initial-cluster', `default=${peer}`],
    ...['--listen-client-urls', client, '--advertise-client-urls', client],
    ...['--listen-peer-urls', peer, '--initial-advertise-peer-urls', peer],
  ]);
}

/** What a node has instead of the paths and the URL in the documentation of the callback. */
export function callbackWords(
  name: NodeName,
  { folder, tools, callback }: ClusterOptions,
): Record<string, string> {
  return {
    '/etc/patroni/barman_config_switch.py': `${join(tools, 'python')} ${join(folder, `${name}-callback.py`)}`,
    '--url https://…/config-switch': callback.join(' '),
    '/etc/patroni/webhook-secret': join(folder, 'webhook-secret'),
    '/var/log/postgresql/barman_config_switch.log': join(folder, `${name}-callback.log`),
  };
}

/** The examples for a node. */
function examples(name: NodeName, options: ClusterOptions): string[] {
  const { hosts, models, standbyOf, barmanNodes } = options;
  const { network } = hosts;
  const words = {
    ...callbackWords(name, options),
    ...(models && { '--follow-leader': `--barman-model pg:${name}` }),
  };
  const node = fill(example('patroni.yml'), {
    ...words,
    hostssl: 'host',
    '10.0.3.4/32 scram-sha-256': `${network} trust`,
    // The test itself, and the other nodes.
    '# … and the lines': `- host all,replication postgres ${network} trust\n    #`,
  });
  if (standbyOf === undefined) return [node];
  const upstream = { '10.0.1.10': standbyOf.host, 'port: 5432': `port: ${standbyOf.port}` };
  const when = barmanNodes === null && { '--switch-when leader': '--switch-when promoted' };
  return [node, fill(example('patroni-standby.yml'), { ...words, ...upstream, ...when })];
}

/** What else a node needs: YAML, of which JSON is a subset. */
function settings(
  name: NodeName,
  { address, postgres, rest }: NodeAddress,
  { folder, hosts, scope = 'main', tls }: ClusterOptions,
): string {
  const file = (one: string) => join(folder, one);
  const listen = (port: number) => ({
    listen: `${address}:${port}`,
    connect_address: `${address}:${port}`,
  });
  return JSON.stringify({
    scope,
    name,
    restapi: {
      ...listen(rest),
      ...(tls && {
        certfile: file('rest-server.pem'),
        cafile: file('rest-ca.pem'),
        verify_client: 'required',
      }),
    },
    // With this patronictl and the other nodes ask.
    ...(tls && { ctl: { certfile: file('rest-client.pem'), cacert: file('rest-ca.pem') } }),
    etcd3: { hosts: [new URL(hosts.etcd.client).host] },
    bootstrap: {
      dcs: {
        ttl: 20,
        loop_wait: 2,
        retry_timeout: 5,
        slots: { barman: { type: 'physical' } },
        postgresql: { use_pg_rewind: true, parameters: { wal_keep_size: '256MB', wal_log_hints: 'on' } },
      },
      initdb: [{ encoding: 'UTF8' }, 'data-checksums'],
    },
    postgresql: {
      ...listen(postgres),
      data_dir: file(name),
      bin_dir: POSTGRESQL,
      pgpass: file(`${name}.pgpass`),
      authentication: { superuser: { username: 'postgres' }, replication: { username: 'postgres' } },
      parameters: { unix_socket_directories: '', max_wal_senders: 10, shared_buffers: '16MB' },
      // A node that cannot be rewound is made again.
      remove_data_directory_on_rewind_failure: true,
      remove_data_directory_on_diverged_timelines: true,
    },
  });
}

/** Barman's configuration file. A node that the example does not have gets a model like node2's. */
export function barmanConfiguration(folder: string, nodes: ReadonlyMap<string, NodeAddress>): string {
  const text = example('barman.conf');
  const model = text.slice(text.indexOf('[pg:node2]'));
  const hosts = new Map([...nodes].map(([name, one]) => [name, `${one.address} port=${one.postgres}`]));
  const others = [...hosts]
    .filter(([name]) => !text.includes(`[pg:${name}]`))
    .map(([name, host]) => fill(model, { node2: name, '10.0.1.12 port=5432': host }));
  const server = fill(text, {
    '10.0.1.11 port=5432': hosts.get('node1') ?? '',
    '10.0.1.12 port=5432': hosts.get('node2') ?? '',
  });
  return `[barman]
barman_home = ${join(folder, 'barman')}
barman_user = postgres
barman_lock_directory = ${join(folder, 'barman')}
log_file = ${join(folder, 'barman.log')}
path_prefix = ${POSTGRESQL}

${[server, ...others].join('\n')}`;
}
