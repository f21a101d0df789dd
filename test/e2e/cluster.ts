/**
 * A PostgreSQL cluster of two nodes with Patroni and etcd, and a Barman that streams from its leader: the real software on
 * loopback.
 */

import { type ChildProcess, execFile } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { type IncomingMessage, request as plainRequest } from 'node:http';
import { request as tlsRequest } from 'node:https';
import { createServer } from 'node:net';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { inject } from 'vitest';
import { documentedBlock, fill } from '../documentation.ts';
import { readBody } from '../stand-ins/server.ts';
import {
  BARMAN_ROLES,
  barman,
  callbackWithClock,
  etcd,
  moveTimelineAway,
  NODES,
  type NodeName,
  patroni,
  patroniExamples,
  type RestTls,
  tlsFiles,
} from './cluster-files.ts';
import {
  asPostgres,
  asRoot,
  outputOf,
  own,
  postmasterPid,
  processTree,
  run,
  send,
  startLogged,
  writeOwned,
} from './processes.ts';
import { POSTGRESQL } from './setup.ts';

/** Interval of Barman's cron (ms); in production one minute. */
const CRON = 2_000;

export type { NodeName } from './cluster-files.ts';

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
  /** Patroni's scope; default `main`. */
  readonly scope?: string;
  /** Patroni's REST API is https, and requires a client certificate. Default: plain http. */
  readonly tls?: RestTls;
  /** Makes it a standby cluster: PostgreSQL's port of the leader that it follows. */
  readonly standbyOf?: number;
}

/** A change of Barman's active model, and when it was seen (ms since the epoch). */
export interface ActiveModel {
  readonly model: string;
  readonly at: number;
}

export class Cluster {
  readonly folder: string;
  readonly #nodes: Readonly<Record<NodeName, Node>>;
  readonly #etcd: ChildProcess;
  readonly #cron: { stop: () => Promise<void> };
  readonly #watch: ReturnType<typeof watchModel>;
  readonly #options: ClusterOptions;

  private constructor(
    folder: string,
    nodes: Readonly<Record<NodeName, Node>>,
    etcd: ChildProcess,
    parts: {
      cron: { stop: () => Promise<void> };
      watch: ReturnType<typeof watchModel>;
      options: ClusterOptions;
    },
  ) {
    this.folder = folder;
    this.#nodes = nodes;
    this.#etcd = etcd;
    this.#cron = parts.cron;
    this.#watch = parts.watch;
    this.#options = parts.options;
  }

  static async start(options: ClusterOptions): Promise<Cluster> {
    const { callback, secret, clocks = {}, scope = 'main', tls, standbyOf } = options;
    const folder = mkdtempSync(join(inject('folder'), 'cluster-'));
    own(folder, 0o755);
    await install(folder, secret);
    for (const [file, text] of Object.entries(tls ? tlsFiles(tls) : {}))
      writeOwned(join(folder, file), text, 0o600);

    const [client = 0, peer = 0, ...ports] = await freePorts(6);
    const urls = [client, peer].map((port) => `http://127.0.0.1:${port}`) as [string, string];
    const etcdProcess = startLogged(etcd(folder, ...urls), join(folder, 'etcd.log'));

    const nodes = Object.fromEntries(
      NODES.map((name, index) => {
        const [postgresPort = 0, restPort = 0] = ports.slice(2 * index);
        // Patroni reads all files of a folder, in the order of their names.
        const config = join(folder, `${name}.d`);
        mkdirSync(config);
        own(config, 0o700);
        const clock = join(folder, `${name}-callback.py`);
        writeOwned(
          clock,
          callbackWithClock(join(folder, 'barman_config_switch.py'), clocks[name] ?? 0),
          0o755,
        );
        const command = `${join(inject('tools'), 'python')} ${clock}`;
        const settings = {
          scope,
          etcd: `127.0.0.1:${client}`,
          postgresPort,
          restPort,
          tls: tls !== undefined,
        };
        const files = [
          ...patroniExamples(name, folder, command, callback, { standbyOf }),
          patroni(name, folder, settings),
        ];
        for (const [order, text] of files.entries()) writeOwned(join(config, `${order}.yml`), text, 0o600);
        return [name, { postgresPort, restPort, config, log: join(folder, `${name}.log`) } satisfies Node];
      }),
    ) as unknown as Record<NodeName, Node>;
    const hosts = Object.entries(nodes).map(([name, { postgresPort }]) => [
      name,
      `127.0.0.1 port=${postgresPort}`,
    ]);
    writeOwned(join(folder, 'barman.conf'), barman(folder, Object.fromEntries(hosts)), 0o644);
    mkdirSync(join(folder, 'barman', 'main'), { recursive: true });
    own(join(folder, 'barman'), 0o755);
    own(join(folder, 'barman', 'main'), 0o755);

    const watch = watchModel(join(folder, 'barman', 'main', '.active-model.auto'));
    const cluster = new Cluster(folder, nodes, etcdProcess, {
      cron: repeat(CRON, () => runBarman(folder, 'cron')),
      watch,
      options,
    });
    await cluster.startNode('node1');
    await cluster.#until(async () => (await cluster.leader()) === 'node1', 60_000, 'node1 is not the leader');
    // A standby cluster has the roles of the leader that it follows.
    if (standbyOf === undefined) await cluster.query('node1', BARMAN_ROLES);
    await cluster.startNode('node2');
    await cluster.healthy();
    return cluster;
  }

  /** Starts Patroni on a node. */
  async startNode(name: NodeName): Promise<void> {
    const node = this.#nodes[name];
    node.process = startLogged(asPostgres(join(inject('tools'), 'patroni'), [node.config]), node.log);
  }

  /** URLs of Patroni's REST API on the nodes. */
  get restUrls(): string[] {
    const { tls } = this.#options;
    return NODES.map((name) => `http${tls ? 's' : ''}://127.0.0.1:${this.#nodes[name].restPort}`);
  }

  postgresPort(name: NodeName): number {
    return this.#nodes[name].postgresPort;
  }

  /** Makes the callbacks of all nodes do nothing. @returns what restores them */
  disableCallbacks(): () => void {
    const files = NODES.map((name) => join(this.folder, `${name}-callback.py`));
    const scripts = files.map((file) => readFileSync(file, 'utf8'));
    for (const file of files) writeOwned(file, '', 0o755);
    return () => {
      for (const [index, file] of files.entries()) writeOwned(file, scripts[index] ?? '', 0o755);
    };
  }

  /** Kills Patroni and PostgreSQL of a node, as in a crash. */
  async kill(name: NodeName): Promise<void> {
    const { process: patroni } = this.#nodes[name];
    if (!patroni?.pid || patroni.exitCode !== null || patroni.signalCode !== null) return;
    const ended = once(patroni, 'exit');
    const pids = [...(await processTree(patroni.pid)), postmasterPid(join(this.folder, name))];
    for (const pid of pids) send(pid, 'SIGKILL');
    await ended;
  }

  /** @returns the node whose Patroni says that it is the primary, or the standby leader, if there is one */
  async leader(): Promise<NodeName | undefined> {
    const path = this.#options.standbyOf === undefined ? 'primary' : 'standby-leader';
    for (const name of NODES) {
      if ((await this.ask(name, path)).status === 200) return name;
    }
    return undefined;
  }

  /** Waits until one node is the leader and the other streams from it. @returns the leader */
  async healthy(): Promise<NodeName> {
    await this.#until(
      async () => {
        const leader = await this.leader();
        if (!leader) return false;
        const { body } = await this.ask(other(leader), 'replica?lag=1MB');
        return /"replication_state": *"streaming"/.test(body);
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
    await this.query(leader, 'CHECKPOINT');
    const sql =
      'SELECT count(*) FROM pg_stat_replication WHERE replay_lsn = pg_current_wal_lsn() AND application_name';
    const replayed = async () => (await this.query(leader, `${sql} = '${other(leader)}'`)).trim() === '1';
    await this.#until(replayed, 60_000, 'the replica lags');
  }

  /** Runs `patronictl switchover`. @returns the new leader */
  async switchover(): Promise<NodeName> {
    const leader = await this.healthy();
    const { scope = 'main' } = this.#options;
    await this.patronictl('switchover', scope, '--force', '--leader', leader, '--candidate', other(leader));
    return other(leader);
  }

  async patronictl(...words: string[]): Promise<void> {
    const command = join(inject('tools'), 'patronictl');
    await run(asPostgres(command, ['-c', this.#nodes.node1.config, ...words]));
  }

  /** Runs `pg_ctl` on a node, without Patroni. */
  async pgCtl(name: NodeName, ...words: string[]): Promise<void> {
    const command = join(POSTGRESQL, 'pg_ctl');
    await run(asPostgres(command, [...words, '-D', join(this.folder, name)]));
  }

  /** When Patroni last promoted a node (ms since the epoch). @throws Error if it never did */
  promotedAt(name: NodeName): number {
    const lines = readFileSync(this.#nodes[name].log, 'utf8').split('\n');
    const line = lines.findLast((line) => /promoted self to (a standby )?leader/.test(line));
    if (!line) throw new Error(`Patroni never promoted ${name}`);
    return new Date(line.slice(0, 23).replace(',', '.')).getTime();
  }

  /** Barman's active model, and since when. */
  get active(): ActiveModel {
    return this.#watch.changes.at(-1) ?? { model: '', at: 0 };
  }

  /** All changes of Barman's active model so far. */
  get activeModels(): readonly ActiveModel[] {
    return this.#watch.changes;
  }

  /** Since when Barman streams from a node (ms since the epoch), by PostgreSQL there; undefined if it does not. */
  async streamingSince(name: NodeName): Promise<number | undefined> {
    const sql =
      'SELECT extract(epoch FROM max(backend_start)) * 1000 FROM pg_stat_replication ' +
      "WHERE application_name = 'barman_receive_wal' AND state = 'streaming'";
    const since = await this.query(name, sql).catch(() => '');
    return since.trim() === '' ? undefined : Number(since);
  }

  /** Waits until Barman streams from a node. @returns since when (ms since the epoch) */
  async barmanStreams(name: NodeName, timeout = 60_000): Promise<number> {
    let since: number | undefined;
    const streams = async () => {
      since = await this.streamingSince(name);
      return since !== undefined;
    };
    await this.#until(streams, timeout, `Barman does not stream from ${name}`);
    return since as number;
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

  /** Writes WAL on a node. @returns the name of the file */
  async writeWal(name: NodeName): Promise<string> {
    const sql = 'SELECT pg_walfile_name(pg_current_wal_lsn()) FROM (SELECT txid_current()) AS written';
    return (await this.query(name, sql)).trim();
  }

  /** Writes WAL on a node, and waits until Barman has that file. */
  async walArrives(name: NodeName): Promise<void> {
    const file = await this.writeWal(name);
    await this.query(name, 'SELECT pg_switch_wal()');
    await this.#until(async () => this.received(file), 90_000, `Barman has not received ${file} of ${name}`);
  }

  /** Whether Barman has a WAL file. */
  received(file: string): boolean {
    return ['streaming', 'wals'].some((folder) => {
      const path = join(this.folder, 'barman', 'main', folder);
      return (
        existsSync(path) && readdirSync(path, { recursive: true }).some((one) => String(one).endsWith(file))
      );
    });
  }

  /** Runs `barman config-switch`, as pg-backup-api's helper does. @returns whether it succeeded */
  async configSwitch(server: string, model: string | null): Promise<boolean> {
    return runBarman(this.folder, 'config-switch', server, model ?? '--reset').then(
      () => true,
      () => false,
    );
  }

  /** Runs a command of Barman. @returns what it printed until it ended, or until the time limit (ms) */
  barman(limit: number, ...words: string[]): Promise<string> {
    return outputOf(asPostgres(join(inject('tools'), 'barman'), barmanWords(this.folder, words)), limit);
  }

  /** What Barman has logged. */
  barmanLog(): string {
    return readFileSync(join(this.folder, 'barman.log'), 'utf8');
  }

  /** Moves away what Barman has of a timeline, as documented. */
  async moveTimelineAway(timeline: number): Promise<void> {
    await run(moveTimelineAway(this.folder, inject('tools'), timeline));
  }

  /** Runs the callback by hand, with its connection options. @returns its exit status and output */
  async callback(...words: string[]): Promise<{ code: number; output: string }> {
    const script = join(this.folder, 'barman_config_switch.py');
    return promisify(execFile)(join(inject('tools'), 'python'), [
      script,
      ...this.#options.callback,
      ...words,
    ]).then(
      ({ stdout, stderr }) => ({ code: 0, output: stdout + stderr }),
      ({ code, stdout, stderr }) => ({ code, output: stdout + stderr }),
    );
  }

  /** Stops etcd, as a machine that hangs. @returns what lets it continue */
  async suspendEtcd(): Promise<() => void> {
    const all = await processTree(this.#etcd.pid ?? 0);
    for (const one of all) send(one, 'SIGSTOP');
    return () => {
      for (const one of all) send(one, 'SIGCONT');
    };
  }

  async stop(): Promise<void> {
    this.#watch.stop();
    await this.#cron.stop();
    for (const name of NODES) {
      await this.kill(name);
    }
    const { stdout } = await promisify(execFile)('pgrep', ['-f', this.folder]).catch(() => ({ stdout: '' }));
    for (const pid of stdout.trim().split('\n').filter(Boolean)) send(Number(pid), 'SIGKILL');
    send(this.#etcd.pid ?? 0, 'SIGKILL');
    rmSync(this.folder, { recursive: true, force: true, maxRetries: 5 });
  }

  /** Asks Patroni's REST API on a node. The status is 0 without an answer. */
  ask(name: NodeName, path: string): Promise<{ status: number; body: string }> {
    const { tls } = this.#options;
    const options = {
      host: '127.0.0.1',
      port: this.#nodes[name].restPort,
      path: `/${path}`,
      agent: false,
      timeout: 5_000,
    };
    return new Promise((resolve) => {
      const none = () => resolve({ status: 0, body: '' });
      const read = async (response: IncomingMessage) =>
        resolve({ status: response.statusCode ?? 0, body: await readBody(response).catch(() => '') });
      const request = tls
        ? tlsRequest({ ...options, ...tls.client, ca: tls.ca }, read)
        : plainRequest(options, read);
      request
        .on('error', none)
        .on('timeout', () => request.destroy())
        .end();
    });
  }

  /** Runs a query on a node. @returns the values, without alignment */
  async query(name: NodeName, sql: string): Promise<string> {
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

function barmanWords(folder: string, words: readonly string[]): string[] {
  return ['-c', join(folder, 'barman.conf'), ...words];
}

async function runBarman(folder: string, ...words: string[]): Promise<string> {
  return run(asPostgres(join(inject('tools'), 'barman'), barmanWords(folder, words)));
}

/** Installs the callback and the secret with the commands of the README, into a folder in the place of /etc/patroni. */
async function install(folder: string, secret: string): Promise<void> {
  const download = join(folder, 'download');
  mkdirSync(download);
  writeFileSync(join(download, 'webhook-secret'), secret);
  symlinkSync(resolve('patroni'), join(download, 'patroni'));
  const commands = fill(documentedBlock('README.md', 'install -o root'), {
    '/etc/patroni': folder,
    // Only root may give files away.
    ...(!asRoot && { '-o root ': '', '-o postgres ': '' }),
  });
  await promisify(execFile)('bash', ['-euc', commands], { cwd: download });
  rmSync(download, { recursive: true });
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
  const changes: ActiveModel[] = [];
  const read = () => {
    const model = existsSync(file) ? readFileSync(file, 'utf8').trim() : '';
    if (model !== (changes.at(-1)?.model ?? '')) changes.push({ model, at: Date.now() });
  };
  const timer = setInterval(read, 10);
  return { stop: () => clearInterval(timer), changes };
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
