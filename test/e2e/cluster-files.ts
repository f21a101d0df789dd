/** The files of a cluster: the configuration of Patroni and of Barman, and the callback of a node. */

import { join } from 'node:path';
import type { KeyPair } from '../stand-ins/certificates.ts';
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
  /** etcd's port. */
  readonly client: number;
  readonly postgresPort: number;
  readonly restPort: number;
  /** Command line of the callback. */
  readonly command: string;
  readonly tls: boolean;
  /** PostgreSQL's port of the leader that a standby cluster follows. */
  readonly standbyOf?: number | undefined;
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

/** Patroni's configuration file: YAML, of which JSON is a subset. */
export function patroni(
  name: NodeName,
  folder: string,
  { scope, client, postgresPort, restPort, command, tls, standbyOf }: NodeSettings,
): string {
  const file = (one: string) => join(folder, one);
  return JSON.stringify({
    scope,
    name,
    restapi: {
      listen: `127.0.0.1:${restPort}`,
      connect_address: `127.0.0.1:${restPort}`,
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
    etcd3: { hosts: [`127.0.0.1:${client}`] },
    bootstrap: {
      dcs: {
        ttl: 20,
        loop_wait: 2,
        retry_timeout: 5,
        slots: { barman: { type: 'physical' } },
        postgresql: { use_pg_rewind: true, parameters: { wal_keep_size: '256MB', wal_log_hints: 'on' } },
        ...(standbyOf !== undefined && { standby_cluster: { host: '127.0.0.1', port: standbyOf } }),
      },
      initdb: [{ encoding: 'UTF8' }, 'data-checksums'],
    },
    postgresql: {
      listen: `127.0.0.1:${postgresPort}`,
      connect_address: `127.0.0.1:${postgresPort}`,
      data_dir: file(name),
      bin_dir: POSTGRESQL,
      pgpass: file(`${name}.pgpass`),
      pg_hba: ['host all all 127.0.0.1/32 trust', 'host replication all 127.0.0.1/32 trust'],
      authentication: { superuser: { username: 'postgres' }, replication: { username: 'postgres' } },
      parameters: { unix_socket_directories: '', max_wal_senders: 10, shared_buffers: '16MB' },
      callbacks: { on_role_change: command },
    },
  });
}

/** Barman's configuration file, with one model per node. */
export function barman(
  folder: string,
  nodes: Readonly<Record<NodeName, { readonly postgresPort: number }>>,
): string {
  const at = (name: NodeName) =>
    `host=127.0.0.1 port=${nodes[name].postgresPort} user=postgres dbname=postgres`;
  const model = (name: NodeName) => `
[pg:${name}]
cluster = main
model = true
conninfo = ${at(name)}
streaming_conninfo = ${at(name)}
`;
  return `[barman]
barman_home = ${join(folder, 'barman')}
barman_user = postgres
barman_lock_directory = ${join(folder, 'barman')}
log_file = ${join(folder, 'barman.log')}
path_prefix = ${POSTGRESQL}

[main]
cluster = main
description = the cluster
conninfo = ${at('node1')}
streaming_conninfo = ${at('node1')}
backup_method = postgres
streaming_archiver = on
slot_name = barman
${NODES.map(model).join('')}`;
}

/** A script that runs the unchanged callback with a wrong clock; `ahead` in seconds. */
export function callbackWithClock(callback: string, ahead: number): string {
  return `import runpy, sys, time
real = time.time
time.time = lambda: real() + ${ahead}
sys.argv[0] = ${JSON.stringify(callback)}
runpy.run_path(sys.argv[0], run_name="__main__")
`;
}
