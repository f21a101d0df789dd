/**
 * PostgreSQL nodes with Patroni, the callback and etcd, and a Barman that streams from their leader: the real
 * software. Where its servers run is described by `Hosts`: on ports of loopback, or each on a host of its
 * own.
 */

import { type ChildProcess, execFile } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { Agent, request } from 'undici';
import { documentedCommand, fill } from '../documentation.ts';
import { Barman } from './barman.ts';
import {
  BARMAN_ROLES,
  type ClusterOptions,
  callbackWords,
  etcd,
  type NodeAddress,
  type NodeName,
  writeCallback,
  writeNodeFiles,
} from './cluster-files.ts';
import {
  asPostgres,
  isRunning,
  POSTGRESQL,
  postmasterPid,
  processTree,
  run,
  send,
  startLogged,
  until,
} from './processes.ts';

/** Time limits (ms): for PostgreSQL and Patroni, if nothing disturbs them, and for a command. */
const HEALTHY_TIMEOUT = 90_000;
const COMMAND_TIMEOUT = 20_000;

/** What Patroni answers to `GET /cluster`. */
interface View {
  readonly members: readonly { readonly name: NodeName; readonly role: string; readonly state: string }[];
  readonly pause?: boolean;
}

export class PatroniCluster {
  readonly barman: Barman;
  readonly names: readonly NodeName[];
  readonly #options: ClusterOptions;
  readonly #agent: Agent;
  readonly #patroni = new Map<NodeName, ChildProcess>();
  #etcd: ChildProcess | undefined;
  /** Processes that are stopped, as on a machine that hangs. */
  readonly #stopped = new Set<number>();

  private constructor(options: ClusterOptions) {
    const { folder, tools, hosts, tls } = options;
    this.#options = options;
    this.names = [...hosts.nodes.keys()];
    this.barman = new Barman(folder, tools, (command) => hosts.on('barman', command));
    this.#agent = new Agent({ pipelining: 0, ...(tls && { connect: { ca: tls.ca, ...tls.client } }) });
  }

  /** @returns a cluster with all nodes healthy; the first one is the leader */
  static async start(options: ClusterOptions): Promise<PatroniCluster> {
    const { folder, hosts, cron, standbyOf, barmanNodes = hosts.nodes } = options;
    const cluster = new PatroniCluster(options);
    await writeNodeFiles(options);
    if (barmanNodes) cluster.barman.start(barmanNodes, cron);
    cluster.#etcd = startLogged(hosts.on('etcd', etcd(folder, hosts.etcd)), cluster.#file('etcd.log'));
    const [first, ...others] = cluster.names as [NodeName, ...NodeName[]];
    try {
      cluster.startNode(first);
      await cluster.#until(async () => (await cluster.leader()) === first, `${first} is not the leader`);
      // A standby cluster has the roles of the leader that it follows.
      if (standbyOf === undefined) await cluster.query(first, BARMAN_ROLES);
      for (const name of others) cluster.startNode(name);
      await cluster.healthy();
    } catch (error) {
      await cluster.stop();
      throw error;
    }
    return cluster;
  }

  get folder(): string {
    return this.#options.folder;
  }

  /** Where a node's servers listen. */
  address(name: NodeName): NodeAddress {
    return this.#options.hosts.nodes.get(name) as NodeAddress;
  }

  /** URLs of Patroni's REST API on the nodes. */
  get restUrls(): string[] {
    return this.names.map((name) => this.#restUrl(name));
  }

  // The nodes' processes

  /** Starts Patroni on a node, unless it runs. */
  startNode(name: NodeName): void {
    if (isRunning(this.#patroni.get(name))) return;
    const command = asPostgres(join(this.#options.tools, 'patroni'), [this.#file(`${name}.d`)]);
    this.#patroni.set(name, startLogged(this.#options.hosts.on(name, command), this.#file(`${name}.log`)));
  }

  /** Kills Patroni and PostgreSQL of a node, as in a crash. */
  async kill(name: NodeName): Promise<void> {
    const patroni = this.#patroni.get(name);
    const ended = isRunning(patroni) && once(patroni, 'exit');
    await this.signal(name, 'patroni', 'SIGKILL');
    await this.signal(name, 'postgres', 'SIGKILL');
    await ended;
  }

  /** Sends a signal to a server that runs, and to all that it has started, such as Patroni's callbacks. */
  async signal(
    host: NodeName | 'etcd',
    server: 'patroni' | 'postgres' | 'etcd',
    signal: NodeJS.Signals,
  ): Promise<void> {
    const pid = this.#pid(host, server);
    for (const one of pid === 0 ? [] : await processTree(pid)) {
      if (signal === 'SIGSTOP') this.#stopped.add(one);
      send(one, signal);
    }
  }

  /** 0 if it does not run. PostgreSQL is no child of Patroni. */
  #pid(host: NodeName | 'etcd', server: 'patroni' | 'postgres' | 'etcd'): number {
    if (server === 'postgres') return postmasterPid(this.#file(host));
    const child = host === 'etcd' ? this.#etcd : this.#patroni.get(host);
    return isRunning(child) ? (child.pid ?? 0) : 0;
  }

  /** Lets all stopped processes continue, starts all nodes, and enables their callbacks. */
  heal(): void {
    for (const pid of this.#stopped) send(pid, 'SIGCONT');
    this.#stopped.clear();
    this.enableCallbacks();
    for (const name of this.names) this.startNode(name);
  }

  /** Kills everything, and removes the folder. */
  async stop(): Promise<void> {
    await this.barman.stop();
    for (const name of this.names) await this.kill(name);
    const { stdout } = await promisify(execFile)('pgrep', ['-f', this.folder]).catch(() => ({ stdout: '' }));
    for (const pid of stdout.trim().split('\n').filter(Boolean)) send(Number(pid), 'SIGKILL');
    send(this.#etcd?.pid ?? 0, 'SIGKILL');
    rmSync(this.folder, { recursive: true, force: true, maxRetries: 5 });
  }

  // The callbacks

  /** Makes the callbacks of all nodes do nothing. */
  disableCallbacks(): void {
    for (const name of this.names) writeCallback(this.folder, name, null);
  }

  /** Makes the callbacks work. @param clocks how far a node's clock is ahead of the others (s) */
  enableCallbacks(clocks = this.#options.clocks ?? {}): void {
    for (const name of this.names) writeCallback(this.folder, name, clocks[name] ?? 0);
  }

  /** Runs the callback by hand, with its connection options. @returns its exit status and output */
  async callback(...words: string[]): Promise<{ code: number; output: string }> {
    const all = [this.#file('barman_config_switch.py'), ...this.#options.callback, ...words];
    return promisify(execFile)(join(this.#options.tools, 'python'), all).then(
      ({ stdout, stderr }) => ({ code: 0, output: stdout + stderr }),
      ({ code, stdout, stderr }) => ({ code, output: stdout + stderr }),
    );
  }

  /** What a node has instead of the paths and the URL in the documentation of the callback. */
  callbackWords(name: NodeName): Record<string, string> {
    return callbackWords(name, this.#options);
  }

  // Patroni

  /** Sends a request to Patroni's REST API of a node. @throws Error unless it answers with 2xx */
  async rest(
    name: NodeName,
    method: 'GET' | 'PATCH' | 'POST',
    path: string,
    content?: object,
  ): Promise<unknown> {
    const { statusCode, body } = await request(`${this.#restUrl(name)}/${path}`, {
      method,
      dispatcher: this.#agent,
      signal: AbortSignal.timeout(method === 'GET' ? 3_000 : 30_000),
      ...(content && { body: JSON.stringify(content) }),
    });
    const text = await body.text();
    if (statusCode >= 300) throw new Error(`${method} /${path}: ${statusCode} ${text.slice(0, 200)}`);
    return text.startsWith('{') ? JSON.parse(text) : text;
  }

  #restUrl(name: NodeName): string {
    const { address, rest } = this.address(name);
    return `http${this.#options.tls ? 's' : ''}://${address}:${rest}`;
  }

  /** The node whose Patroni says that it has the leader's lock, if there is one. */
  leader(): Promise<NodeName | undefined> {
    const asked = this.names.map((name) => this.rest(name, 'GET', 'leader').then(() => name));
    return Promise.any(asked).catch(() => undefined);
  }

  /** The leader on which all nodes agree, if they do and Patroni is not paused. */
  async agreedLeader(): Promise<NodeName | undefined> {
    return this.#agreedIn(await this.#views());
  }

  async #agreedIn(views: readonly View[]): Promise<NodeName | undefined> {
    const [leader, ...others] = views.map(leaderIn);
    if (leader === undefined || others.some((name) => name !== leader)) return undefined;
    return (await this.leader()) === leader ? leader : undefined;
  }

  /** What each node says of the cluster; nothing, unless all answer. */
  async #views(): Promise<View[]> {
    const asked = this.names.map((name) => this.rest(name, 'GET', 'cluster') as Promise<View>);
    return Promise.all(asked).catch(() => []);
  }

  /** The nodes that neither are the leader nor stream from it, or of which another one does not know yet that they run. */
  async unhealthy(): Promise<NodeName[]> {
    const views = await this.#views();
    const leader = await this.#agreedIn(views);
    const isSeen = (name: NodeName) =>
      views.length > 0 &&
      views.every(({ members }) => members.some((one) => one.name === name && isRunningMember(one)));
    const streams = async (name: NodeName) => {
      const answer = await this.rest(name, 'GET', 'replica?lag=1MB').catch(() => ({}));
      return (answer as { replication_state?: string }).replication_state === 'streaming';
    };
    const healthy = await Promise.all(
      this.names.map(async (name) => isSeen(name) && (name === leader || (await streams(name)))),
    );
    return this.names.filter((_, index) => !healthy[index]);
  }

  /** Waits until the nodes agree on a leader, and the others stream from it. @returns the leader */
  async healthy(): Promise<NodeName> {
    let leader: NodeName | undefined;
    const isHealthy = async () => {
      if ((await this.unhealthy()).length > 0) return false;
      // It may be unknown again a moment later.
      leader = await this.leader();
      return leader !== undefined;
    };
    await this.#until(isHealthy, 'the cluster is not healthy', HEALTHY_TIMEOUT);
    return leader as unknown as NodeName;
  }

  /** Pauses or resumes Patroni. @returns whether a node has accepted that */
  async setPause(pause: boolean): Promise<boolean> {
    for (const name of this.names) {
      const set = this.rest(name, 'PATCH', 'config', { pause: pause || null });
      if (await set.then(() => true).catch(() => false)) return true;
    }
    return false;
  }

  async patronictl(...words: string[]): Promise<void> {
    const command = join(this.#options.tools, 'patronictl');
    await run(asPostgres(command, ['-c', this.#file(`${this.names[0]}.d`), ...words]));
  }

  /** Runs `patronictl switchover` in a cluster of two nodes. @returns the new leader */
  async switchover(): Promise<NodeName> {
    const leader = await this.healthy();
    const { scope = 'main' } = this.#options;
    const command = documentedCommand('docs/how-to/drills.md', 'patronictl switchover');
    const words = fill(command, { 'patronictl ': '', CLUSTER: scope }).split(' ');
    await this.patronictl(...words, '--force', '--leader', leader, '--candidate', other(leader));
    return other(leader);
  }

  /** When Patroni last promoted a node (ms since the epoch). @throws Error if it never did */
  promotedAt(name: NodeName): number {
    const lines = readFileSync(this.#file(`${name}.log`), 'utf8').split('\n');
    const line = lines.findLast((line) => /promoted self to (a standby )?leader/.test(line));
    if (!line) throw new Error(`Patroni never promoted ${name}`);
    return new Date(line.slice(0, 23).replace(',', '.')).getTime();
  }

  // PostgreSQL

  /** Runs `pg_ctl` on a node, without Patroni. */
  async pgCtl(name: NodeName, ...words: string[]): Promise<void> {
    await run(asPostgres(join(POSTGRESQL, 'pg_ctl'), [...words, '-D', this.#file(name)]), COMMAND_TIMEOUT);
  }

  /** Runs a query on a node. @returns the values, without alignment */
  async query(name: NodeName, sql: string): Promise<string> {
    const { address, postgres } = this.address(name);
    const connection = `host=${address} port=${postgres} user=postgres dbname=postgres connect_timeout=3`;
    return (await run([join(POSTGRESQL, 'psql'), [connection, '-AtXc', sql]], COMMAND_TIMEOUT)).trim();
  }

  /**
   * Waits until the replica of two nodes has replayed all WAL of the leader, so that Barman is not ahead of
   * it after a failover. The checkpoint writes some WAL: pg_receivewal cannot continue if a timeline ends at
   * the end of a segment.
   */
  async caughtUp(): Promise<void> {
    const leader = await this.healthy();
    await this.query(leader, 'CHECKPOINT');
    const sql =
      'SELECT count(*) FROM pg_stat_replication WHERE replay_lsn = pg_current_wal_lsn() AND application_name';
    const replayed = async () => (await this.query(leader, `${sql} = '${other(leader)}'`)) === '1';
    await this.#until(replayed, 'the replica lags');
  }

  // Barman's streaming

  /** Since when Barman streams from a node (ms since the epoch), by PostgreSQL; undefined: it does not. */
  async streamingSince(name: NodeName): Promise<number | undefined> {
    const sql =
      'SELECT extract(epoch FROM max(backend_start)) * 1000 FROM pg_stat_replication ' +
      "WHERE application_name = 'barman_receive_wal' AND state = 'streaming'";
    const since = await this.query(name, sql).catch(() => '');
    return since === '' ? undefined : Number(since);
  }

  /** Waits until Barman streams from a node. @returns since when (ms since the epoch) */
  async barmanStreams(name: NodeName): Promise<number> {
    let since: number | undefined;
    const streams = async () => {
      since = await this.streamingSince(name);
      return since !== undefined;
    };
    await this.#until(streams, `Barman does not stream from ${name}`);
    return since as number;
  }

  /** Writes WAL on a node. @returns the name of the file */
  writeWal(name: NodeName): Promise<string> {
    return this.query(
      name,
      'SELECT pg_walfile_name(pg_current_wal_lsn()) FROM (SELECT txid_current()) AS written',
    );
  }

  /** Writes WAL on a node, and waits until Barman has that file. */
  async walArrives(name: NodeName): Promise<void> {
    const file = await this.writeWal(name);
    await this.query(name, 'SELECT pg_switch_wal()');
    await this.#until(() => this.barman.received(file), `Barman has not received ${file} of ${name}`, 90_000);
  }

  /** The last lines of all logs. */
  logs(): string {
    return readdirSync(this.folder)
      .filter((file) => file.endsWith('.log'))
      .map((file) => `== ${file}\n${readFileSync(this.#file(file), 'utf8').slice(-1_500)}`)
      .join('\n');
  }

  /** Polls a condition. @throws Error with the message and the logs, after the time limit (ms) */
  #until(condition: () => unknown, message: string, limit?: number): Promise<void> {
    return until(condition, () => `${message}\n${this.logs()}`, limit);
  }

  #file(...names: string[]): string {
    return join(this.folder, ...names);
  }
}

function isRunningMember({ state }: View['members'][number]): boolean {
  return ['running', 'streaming'].includes(state);
}

/** @returns the leader that a node sees, unless Patroni is paused */
function leaderIn({ members, pause }: View): NodeName | undefined {
  const leaders = members.filter(
    (member) => /^(standby_)?leader$/.test(member.role) && isRunningMember(member),
  );
  return leaders.length === 1 && !pause ? leaders[0]?.name : undefined;
}

/** @returns the other one of two nodes */
export function other(name: NodeName): NodeName {
  return name === 'node1' ? 'node2' : 'node1';
}
