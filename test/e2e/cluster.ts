/**
 * A PostgreSQL cluster of two nodes with Patroni and etcd, and a Barman that streams from its leader: the real software on
 * loopback. If the tests run as root, it runs as user postgres, because PostgreSQL refuses to run as root.
 */

import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { inject } from 'vitest';
import { POSTGRESQL } from './setup.ts';

const asRoot = process.getuid?.() === 0;
/** Interval of Barman's cron (ms); in production one minute. */
const CRON = 2_000;

/** @returns the command line that runs a command as user postgres */
function asPostgres(command: string, words: readonly string[]): [string, string[]] {
  return asRoot ? ['runuser', ['-u', 'postgres', '--', command, ...words]] : [command, [...words]];
}

export type NodeName = 'node1' | 'node2';
const NODES: readonly NodeName[] = ['node1', 'node2'];

interface Node {
  readonly postgresPort: number;
  readonly restPort: number;
  readonly config: string;
  readonly log: string;
  process?: ChildProcess;
}

export interface ClusterOptions {
  /** The callback's connection options. */
  readonly callback: readonly string[];
  readonly secret: string;
  /** How far a node's clock is ahead of the others (s), for its callback only. */
  readonly clocks?: Partial<Record<NodeName, number>>;
}

export class Cluster {
  readonly folder: string;
  readonly #nodes: Readonly<Record<NodeName, Node>>;
  readonly #etcd: ChildProcess;
  readonly #cron: { stop: () => Promise<void> };
  /** Barman's active model, and since when (ms since the epoch). */
  readonly #watch: { stop: () => void; since: () => { model: string; at: number } };

  private constructor(
    folder: string,
    nodes: Readonly<Record<NodeName, Node>>,
    etcd: ChildProcess,
    parts: Pick<Cluster, never> & {
      cron: { stop: () => Promise<void> };
      watch: ReturnType<typeof watchModel>;
    },
  ) {
    this.folder = folder;
    this.#nodes = nodes;
    this.#etcd = etcd;
    this.#cron = parts.cron;
    this.#watch = parts.watch;
  }

  static async start({ callback, secret, clocks = {} }: ClusterOptions): Promise<Cluster> {
    const folder = mkdtempSync(join(inject('folder'), 'cluster-'));
    own(folder, 0o755);
    const script = resolve('patroni/barman_config_switch.py');
    const installed = join(folder, 'barman_config_switch.py');
    writeFileSync(installed, readFileSync(script));
    own(installed, 0o755);
    write(join(folder, 'webhook-secret'), secret, 0o600);

    const [client = 0, peer = 0, ...ports] = await freePorts(6);
    const etcdUrl = `http://127.0.0.1:${client}`;
    const peerUrl = `http://127.0.0.1:${peer}`;
    const etcd = start('etcd', join(folder, 'etcd.log'), [
      ...['--data-dir', join(folder, 'etcd'), '--initial-cluster', `default=${peerUrl}`],
      ...['--listen-client-urls', etcdUrl, '--advertise-client-urls', etcdUrl],
      ...['--listen-peer-urls', peerUrl, '--initial-advertise-peer-urls', peerUrl],
    ]);

    const nodes = Object.fromEntries(
      NODES.map((name, index) => {
        const [postgresPort = 0, restPort = 0] = ports.slice(2 * index);
        const config = join(folder, `${name}.json`);
        const clock = join(folder, `${name}-callback.py`);
        write(clock, callbackWithClock(installed, clocks[name] ?? 0), 0o755);
        const command = [
          join(inject('tools'), 'python'),
          clock,
          ...callback,
          ...['--secret-file', join(folder, 'webhook-secret')],
          ...['--log-file', join(folder, `${name}-callback.log`)],
          ...['config-switch', '--barman-server', 'main', '--barman-model', `pg:${name}`],
          ...['--switch-when', 'promoted'],
        ].join(' ');
        write(config, patroni(name, folder, { client, postgresPort, restPort, command }), 0o600);
        return [name, { postgresPort, restPort, config, log: join(folder, `${name}.log`) } satisfies Node];
      }),
    ) as unknown as Record<NodeName, Node>;
    write(join(folder, 'barman.conf'), barman(folder, nodes), 0o644);
    mkdirSync(join(folder, 'barman', 'main'), { recursive: true });
    own(join(folder, 'barman'), 0o755);
    own(join(folder, 'barman', 'main'), 0o755);

    const watch = watchModel(join(folder, 'barman', 'main', '.active-model.auto'));
    const cluster = new Cluster(folder, nodes, etcd, {
      cron: repeat(CRON, () => runBarman(folder, 'cron')),
      watch,
    });
    await cluster.startNode('node1');
    await cluster.#until(async () => (await cluster.leader()) === 'node1', 60_000, 'node1 is not the leader');
    await cluster.startNode('node2');
    await cluster.healthy();
    return cluster;
  }

  /** Starts Patroni on a node. */
  async startNode(name: NodeName): Promise<void> {
    const node = this.#nodes[name];
    node.process = start(join(inject('tools'), 'patroni'), node.log, [node.config]);
  }

  /** URLs of Patroni's REST API on the nodes. */
  get restUrls(): string[] {
    return NODES.map((name) => `http://127.0.0.1:${this.#nodes[name].restPort}`);
  }

  /** Makes the callbacks of all nodes do nothing. @returns what restores them */
  disableCallbacks(): () => void {
    const files = NODES.map((name) => join(this.folder, `${name}-callback.py`));
    const scripts = files.map((file) => readFileSync(file, 'utf8'));
    for (const file of files) write(file, '', 0o755);
    return () => {
      for (const [index, file] of files.entries()) write(file, scripts[index] ?? '', 0o755);
    };
  }

  /** Kills Patroni and PostgreSQL of a node, as in a crash. */
  async kill(name: NodeName): Promise<void> {
    const { process: patroni } = this.#nodes[name];
    if (!patroni?.pid || patroni.exitCode !== null || patroni.signalCode !== null) return;
    const ended = once(patroni, 'exit');
    const postmaster = join(this.folder, name, 'postmaster.pid');
    const pid = existsSync(postmaster) ? Number(readFileSync(postmaster, 'utf8').split('\n')[0]) : 0;
    for (const child of await descendants(patroni.pid)) kill(child);
    kill(patroni.pid);
    kill(pid);
    await ended;
  }

  /** @returns the node whose Patroni says that it is the primary, if there is one */
  async leader(): Promise<NodeName | undefined> {
    for (const name of NODES) {
      const { restPort } = this.#nodes[name];
      const status = await fetch(`http://127.0.0.1:${restPort}/primary`).then(
        (response) => response.status,
        () => 0,
      );
      if (status === 200) return name;
    }
    return undefined;
  }

  /** Waits until one node is the leader and the other streams from it. @returns the leader */
  async healthy(): Promise<NodeName> {
    await this.#until(
      async () => {
        const leader = await this.leader();
        if (!leader) return false;
        const { restPort } = this.#nodes[other(leader)];
        const response = await fetch(`http://127.0.0.1:${restPort}/replica?lag=1MB`).then(
          async (response) => (await response.json()) as { replication_state?: string },
          () => undefined,
        );
        return response?.replication_state === 'streaming';
      },
      90_000,
      'the cluster is not healthy',
    );
    return (await this.leader()) as NodeName;
  }

  /**
   * Waits until the replica has replayed all WAL of the leader, so that Barman is not ahead of it after a failover. The
   * checkpoint writes some WAL: pg_receivewal cannot continue if a timeline ends at the end of a segment.
   */
  async caughtUp(): Promise<void> {
    const leader = await this.healthy();
    await this.#psql(leader, 'CHECKPOINT');
    const sql =
      'SELECT count(*) FROM pg_stat_replication WHERE replay_lsn = pg_current_wal_lsn() AND application_name';
    const replayed = async () => (await this.#psql(leader, `${sql} = '${other(leader)}'`)).trim() === '1';
    await this.#until(replayed, 60_000, 'the replica lags');
  }

  /** Runs `patronictl switchover`. @returns the new leader */
  async switchover(): Promise<NodeName> {
    const leader = await this.healthy();
    await this.patronictl('switchover', 'main', '--force', '--leader', leader, '--candidate', other(leader));
    return other(leader);
  }

  async patronictl(...words: string[]): Promise<void> {
    const command = join(inject('tools'), 'patronictl');
    await promisify(execFile)(...asPostgres(command, ['-c', this.#nodes.node1.config, ...words]));
  }

  /** Runs `pg_ctl` on a node, without Patroni. */
  async pgCtl(name: NodeName, ...words: string[]): Promise<void> {
    const command = join(POSTGRESQL, 'pg_ctl');
    await promisify(execFile)(...asPostgres(command, [...words, '-D', join(this.folder, name)]));
  }

  /** When Patroni last promoted a node (ms since the epoch). @throws Error if it never did */
  promotedAt(name: NodeName): number {
    const lines = readFileSync(this.#nodes[name].log, 'utf8').split('\n');
    const line = lines.findLast((line) => line.includes('promoted self to leader'));
    if (!line) throw new Error(`Patroni never promoted ${name}`);
    return new Date(line.slice(0, 23).replace(',', '.')).getTime();
  }

  /** Barman's active model, and since when (ms since the epoch). */
  get active(): { readonly model: string; readonly at: number } {
    return this.#watch.since();
  }

  /** The log of a node's callback. */
  callbackLog(name: NodeName): string {
    const log = join(this.folder, `${name}-callback.log`);
    return existsSync(log) ? readFileSync(log, 'utf8') : '';
  }

  /** The node that Barman follows, according to `barman show-servers`. */
  async followedNode(): Promise<NodeName | undefined> {
    const output = await runBarman(this.folder, 'show-servers', 'main');
    const port = /^\s*conninfo: .*port=(\d+)/m.exec(output)?.[1];
    return NODES.find((name) => String(this.#nodes[name].postgresPort) === port);
  }

  /** Writes WAL on a node, and waits until Barman has that file. */
  async walArrives(name: NodeName): Promise<void> {
    const sql = 'SELECT pg_walfile_name(pg_current_wal_lsn()) FROM (SELECT txid_current()) AS written';
    const file = (await this.#psql(name, sql)).trim();
    await this.#psql(name, 'SELECT pg_switch_wal()');
    const received = async () =>
      ['streaming', 'wals'].some((folder) => {
        const path = join(this.folder, 'barman', 'main', folder);
        return (
          existsSync(path) && readdirSync(path, { recursive: true }).some((one) => String(one).endsWith(file))
        );
      });
    await this.#until(received, 90_000, `Barman has not received ${file} of ${name}`);
  }

  /** Runs `barman config-switch`, as pg-backup-api's helper does. @returns whether it succeeded */
  async configSwitch(server: string, model: string | null): Promise<boolean> {
    return runBarman(this.folder, 'config-switch', server, model ?? '--reset').then(
      () => true,
      () => false,
    );
  }

  async stop(): Promise<void> {
    this.#watch.stop();
    await this.#cron.stop();
    for (const name of NODES) {
      await this.kill(name);
    }
    const { stdout } = await promisify(execFile)('pgrep', ['-f', this.folder]).catch(() => ({ stdout: '' }));
    for (const pid of stdout.trim().split('\n').filter(Boolean)) kill(Number(pid));
    kill(this.#etcd.pid ?? 0);
    rmSync(this.folder, { recursive: true, force: true, maxRetries: 5 });
  }

  async #psql(name: NodeName, sql: string): Promise<string> {
    const connection = `host=127.0.0.1 port=${this.#nodes[name].postgresPort} user=postgres dbname=postgres`;
    return (await promisify(execFile)(join(POSTGRESQL, 'psql'), [connection, '-AtXc', sql])).stdout;
  }

  /** Polls a condition. @throws Error with the message and the logs, after the time-out (ms) */
  async #until(condition: () => Promise<boolean>, timeout: number, message: string): Promise<void> {
    const end = performance.now() + timeout;
    while (!(await condition())) {
      if (performance.now() > end) throw new Error(`${message}\n${this.logs()}`);
      await sleep(100);
    }
  }

  /** The last lines of all logs. */
  logs(): string {
    return readdirSync(this.folder)
      .filter((file) => file.endsWith('.log'))
      .map((file) => `== ${file}\n${readFileSync(join(this.folder, file), 'utf8').slice(-1_500)}`)
      .join('\n');
  }
}

/** @returns the other node */
export function other(name: NodeName): NodeName {
  return name === 'node1' ? 'node2' : 'node1';
}

async function runBarman(folder: string, ...words: string[]): Promise<string> {
  const [command, args] = asPostgres(join(inject('tools'), 'barman'), [
    '-c',
    join(folder, 'barman.conf'),
    ...words,
  ]);
  return (await promisify(execFile)(command, args)).stdout;
}

/** Patroni's configuration file: YAML, of which JSON is a subset. */
function patroni(
  name: NodeName,
  folder: string,
  {
    client,
    postgresPort,
    restPort,
    command,
  }: { client: number; postgresPort: number; restPort: number; command: string },
): string {
  return JSON.stringify({
    scope: 'main',
    name,
    restapi: { listen: `127.0.0.1:${restPort}`, connect_address: `127.0.0.1:${restPort}` },
    etcd3: { hosts: [`127.0.0.1:${client}`] },
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
      listen: `127.0.0.1:${postgresPort}`,
      connect_address: `127.0.0.1:${postgresPort}`,
      data_dir: join(folder, name),
      bin_dir: POSTGRESQL,
      pgpass: join(folder, `${name}.pgpass`),
      pg_hba: ['host all all 127.0.0.1/32 trust', 'host replication all 127.0.0.1/32 trust'],
      authentication: { superuser: { username: 'postgres' }, replication: { username: 'postgres' } },
      parameters: { unix_socket_directories: '', max_wal_senders: 10, shared_buffers: '16MB' },
      callbacks: { on_role_change: command },
    },
  });
}

/** Barman's configuration file, with one model per node. */
function barman(folder: string, nodes: Readonly<Record<NodeName, Node>>): string {
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
function callbackWithClock(callback: string, ahead: number): string {
  return `import runpy, sys, time
real = time.time
time.time = lambda: real() + ${ahead}
sys.argv[0] = ${JSON.stringify(callback)}
runpy.run_path(sys.argv[0], run_name="__main__")
`;
}

function start(command: string, log: string, words: readonly string[]): ChildProcess {
  const output = openSync(log, 'a');
  return spawn(...asPostgres(command, words), { stdio: ['ignore', output, output] });
}

function write(file: string, text: string, mode: number): void {
  writeFileSync(file, text);
  own(file, mode);
}

/** Sets the mode, and makes postgres the owner. */
function own(file: string, mode: number): void {
  chmodSync(file, mode);
  if (!asRoot) return;
  const [, , uid, gid] = (/^postgres:.*$/m.exec(readFileSync('/etc/passwd', 'utf8'))?.[0] ?? '').split(':');
  chownSync(file, Number(uid), Number(gid));
}

async function descendants(pid: number): Promise<number[]> {
  const { stdout } = await promisify(execFile)('pgrep', ['-P', String(pid)]).catch(() => ({ stdout: '' }));
  const children = stdout.trim().split('\n').filter(Boolean).map(Number);
  return [...children, ...(await Promise.all(children.map(descendants))).flat()];
}

function kill(pid: number): void {
  try {
    if (pid > 0) process.kill(pid, 'SIGKILL');
  } catch {
    // The process has already ended.
  }
}

/** Runs an action again and again, with a pause after each (ms). */
function repeat(ms: number, action: () => Promise<unknown>): { stop: () => Promise<void> } {
  let running = true;
  const done = (async () => {
    while (running) {
      // Barman's cron fails while no node is up.
      await action().catch(() => {});
      await sleep(ms);
    }
  })();
  return {
    stop: async () => {
      running = false;
      await done;
    },
  };
}

/** Reads the file in which Barman keeps the active model, every 10 ms. */
function watchModel(file: string) {
  let since = { model: '', at: 0 };
  const read = () => {
    const model = existsSync(file) ? readFileSync(file, 'utf8').trim() : '';
    if (model !== since.model) since = { model, at: Date.now() };
  };
  const timer = setInterval(read, 10);
  return { stop: () => clearInterval(timer), since: () => since };
}

async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer().listen(0, '127.0.0.1'));
  await Promise.all(servers.map((server) => once(server, 'listening')));
  const ports = servers.map((server) => {
    const address = server.address();
    return typeof address === 'object' && address ? address.port : 0;
  });
  for (const server of servers) server.close();
  return ports;
}
