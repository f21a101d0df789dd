/**
 * The files of a cluster: the configuration of Patroni and of Barman, and the callback of a node. They are those of docs/examples, with
 * the names, ports and paths of the test filled in, and with what else the test needs.
 */

import { join } from 'node:path';
import { documentedBlock, example, fill } from '../documentation.ts';
import type { KeyPair } from '../stand-ins/certificates.ts';
import { asPostgres, type CommandLine } from './processes.ts';
import { POSTGRESQL } from './setup.ts';

export type NodeName = 'node1' | 'node2';
export const NODES: readonly NodeName[] = ['node1', 'node2'];

/** Patroni's REST API over https. It requires a client certificate. */
export interface RestTls {
  readonly ca: string;
  readonly server: KeyPair;
  readonly client: KeyPair;
}

export interface NodeSettings {
  readonly scope: string;
  /** `HOST:PORT` of etcd. */
  readonly etcd: string;
  /** Default: loopback. */
  readonly address?: string;
  readonly postgresPort: number;
  readonly restPort: number;
  readonly tls: boolean;
}

/** The TLS files in a cluster's folder: name → content. */
export function tlsFiles({ ca, server, client }: RestTls): Record<string, string> {
  return {
    'rest-ca.pem': ca,
    'rest-server.pem': server.cert,
    'rest-server.key': server.key,
    'rest-client.pem': client.cert,
    'rest-client.key': client.key,
  };
}

/**
 * The examples of a node, in the order in which Patroni reads them.
 *
 * @param command of the callback
 * @param connection the callback's options in the place of `--url`
 * @param standbyOf PostgreSQL's port of the leader that a standby cluster follows
 * @param network of all hosts
 */
export function patroniExamples(
  name: string,
  folder: string,
  command: string,
  connection: readonly string[],
  { standbyOf, network = '127.0.0.1/32' }: { standbyOf?: number | undefined; network?: string } = {},
): string[] {
  const callback = {
    '/etc/patroni/barman_config_switch.py': command,
    '--url https://…/config-switch': connection.join(' '),
    '/etc/patroni/webhook-secret': join(folder, 'webhook-secret'),
    '/var/log/postgresql/barman_config_switch.log': join(folder, `${name}-callback.log`),
    'pg:node1': `pg:${name}`,
  };
  const node = fill(example('patroni.yml'), {
    ...callback,
    hostssl: 'host',
    '10.0.3.4/32 scram-sha-256': `${network} trust`,
    // The test itself, and the other nodes.
    '# … and the lines': `- host all postgres ${network} trust\n    - host replication postgres ${network} trust\n    #`,
  });
  if (standbyOf === undefined) return [node];
  const upstream = { '10.0.1.10': '127.0.0.1', 'port: 5432': `port: ${standbyOf}` };
  return [node, fill(example('patroni-standby.yml'), { ...callback, ...upstream })];
}

/** The command line of etcd. @param client URL for clients @param peer URL for other members */
export function etcd(folder: string, client: string, peer: string): CommandLine {
  return asPostgres('etcd', [
    ...['--data-dir', join(folder, 'etcd'), '--initial-cluster', `default=${peer}`],
    ...['--listen-client-urls', client, '--advertise-client-urls', client],
    ...['--listen-peer-urls', peer, '--initial-advertise-peer-urls', peer],
  ]);
}

/** What else a node needs, in a file that Patroni reads after the example: YAML, of which JSON is a subset. */
export function patroni(
  name: string,
  folder: string,
  { scope, etcd: dcs, address = '127.0.0.1', postgresPort, restPort, tls }: NodeSettings,
): string {
  const file = (one: string) => join(folder, one);
  return JSON.stringify({
    scope,
    name,
    restapi: {
      listen: `${address}:${restPort}`,
      connect_address: `${address}:${restPort}`,
      ...(tls && {
        certfile: file('rest-server.pem'),
        keyfile: file('rest-server.key'),
        cafile: file('rest-ca.pem'),
        verify_client: 'required',
      }),
    },
    // With this patronictl and the other node ask.
    ...(tls && {
      ctl: {
        certfile: file('rest-client.pem'),
        keyfile: file('rest-client.key'),
        cacert: file('rest-ca.pem'),
      },
    }),
    etcd3: { hosts: [dcs] },
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
      listen: `${address}:${postgresPort}`,
      connect_address: `${address}:${postgresPort}`,
      data_dir: file(name),
      bin_dir: POSTGRESQL,
      pgpass: file(`${name}.pgpass`),
      authentication: { superuser: { username: 'postgres' }, replication: { username: 'postgres' } },
      parameters: { unix_socket_directories: '', max_wal_senders: 10, shared_buffers: '16MB' },
    },
  });
}

/**
 * Barman's configuration file.
 *
 * @param nodes node → where its PostgreSQL listens, `HOST port=PORT`; each node that the example does not have gets a model like node2's
 */
export function barman(folder: string, nodes: Readonly<Record<string, string>>): string {
  const text = example('barman.conf');
  const model = text.slice(text.indexOf('[pg:node2]'));
  const others = Object.keys(nodes)
    .filter((name) => !text.includes(`[pg:${name}]`))
    .map((name) => fill(model, { node2: name, '10.0.1.12 port=5432': nodes[name] ?? '' }));
  const server = fill(text, {
    '10.0.1.11 port=5432': nodes.node1 ?? '',
    '10.0.1.12 port=5432': nodes.node2 ?? '',
  });
  return `[barman]
barman_home = ${join(folder, 'barman')}
barman_user = postgres
barman_lock_directory = ${join(folder, 'barman')}
log_file = ${join(folder, 'barman.log')}
path_prefix = ${POSTGRESQL}

${[server, ...others].join('\n')}`;
}

/**
 * The documented commands for a timeline that Patroni has undone: they move away what Barman has of it.
 *
 * @param tools folder of Barman's program
 */
export function moveTimelineAway(folder: string, tools: string, timeline: number): CommandLine {
  return documentedRemedy(folder, tools, documentedBlock('docs/operations.md', 'find streaming wals'), {
    '0000000F': timeline.toString(16).toUpperCase().padStart(8, '0'),
    'barman rebuild-xlogdb SERVER': `${barmanCommand(folder, tools)} rebuild-xlogdb main`,
  });
}

/**
 * The documented commands for a Barman that is ahead of the leader: they move away its partial WAL only.
 *
 * @param tools folder of Barman's program
 */
export function movePartialWalAway(folder: string, tools: string): CommandLine {
  return documentedRemedy(folder, tools, documentedBlock('docs/operations.md', 'find streaming -maxdepth'));
}

function documentedRemedy(
  folder: string,
  tools: string,
  block: string,
  words: Readonly<Record<string, string>> = {},
): CommandLine {
  const commands = fill(block, {
    '/var/lib/barman/SERVER': join(folder, 'barman', 'main'),
    ...words,
    'barman cron': `${barmanCommand(folder, tools)} cron`,
  });
  return asPostgres('bash', ['-ec', commands]);
}

function barmanCommand(folder: string, tools: string): string {
  return `${join(tools, 'barman')} -c ${join(folder, 'barman.conf')}`;
}

/** The roles of Barman. */
export const BARMAN_ROLES = example('barman.sql');

/** A script that runs the unchanged callback with a wrong clock; `ahead` in seconds. */
export function callbackWithClock(callback: string, ahead: number): string {
  return `import runpy, sys, time
real = time.time
time.time = lambda: real() + ${ahead}
sys.argv[0] = ${JSON.stringify(callback)}
runpy.run_path(sys.argv[0], run_name="__main__")
`;
}
