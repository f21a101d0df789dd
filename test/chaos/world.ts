/**
 * What the nemesis disturbs: three Patroni nodes, etcd, a Barman host with nginx and pg-backup-api, and AWS with the function; each on a
 * host of its own. Real software, but for pg-backup-api's HTTP interface and AWS's services.
 */

import { type ChildProcess, execFile } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { BARMAN_ROLES, barman, callbackWithClock, patroni, patroniExamples } from '../e2e/cluster-files.ts';
import { startNginx } from '../e2e/nginx.ts';
import { asPostgres, descendants, own, run, send, startLogged, writeOwned } from '../e2e/processes.ts';
import { POSTGRESQL } from '../e2e/setup.ts';
import { CertificateAuthority } from '../stand-ins/certificates.ts';
import { createSecret } from '../stand-ins/webhook.ts';
import type { AwsReport, AwsSettings } from './aws.ts';
import type { BarmanReport, BarmanSettings } from './barman-host.ts';
import type { History } from './check.ts';
import { ADDRESS, connect, createNetwork, HOSTS, NETWORK, on, pairs } from './network.ts';
import { Remote } from './remote.ts';

export const NODES = ['node1', 'node2', 'node3'] as const;
export type NodeName = (typeof NODES)[number];

const PORT = { postgres: 5432, rest: 8008 };
/** What PostgreSQL and Patroni get if nothing disturbs them (ms). */
const START_TIMEOUT = 120_000;
const PAUSE = 200;

/** Patroni's answer to `GET /cluster`. */
interface Members {
  readonly members: readonly { readonly name: NodeName; readonly role: string; readonly state: string }[];
  readonly pause?: boolean;
}

export interface WorldOptions {
  /** For all files of the run; user postgres can read it. */
  readonly folder: string;
  /** Folder of the programs from PyPI. */
  readonly tools: string;
  /** Between two heartbeats (s). */
  readonly interval: number;
}

export class World {
  readonly folder: string;
  readonly history: History = { answers: [], leases: [], operations: [], beats: [] };
  readonly aws: Remote<AwsReport>;
  readonly barmanHost: Remote<BarmanReport>;
  readonly #tools: string;
  readonly #interval: number;
  readonly #patroni = new Map<NodeName, ChildProcess>();
  #etcd: ChildProcess | undefined;
  /** Processes that are stopped, as on a machine that hangs. */
  readonly #stopped = new Set<number>();

  private constructor({ folder, tools, interval }: WorldOptions) {
    this.folder = folder;
    this.#tools = tools;
    this.#interval = interval;
    const script = (name: string) => [process.execPath, [resolve(`test/chaos/${name}.ts`)]] as const;
    this.aws = new Remote<AwsReport>(on('aws', script('aws')), this.#file('function.log'), (report) => {
      if ('answer' in report) this.history.answers.push(report.answer);
      else if ('lease' in report) this.history.leases.push(report.lease);
      else this.history.beats.push(report.beat);
    });
    const log = this.#file('pg-backup-api.log');
    this.barmanHost = new Remote<BarmanReport>(on('barman', script('barman-host')), log, ({ operation }) =>
      this.history.operations.push(operation),
    );
  }

  static async start(options: WorldOptions): Promise<World> {
    await createNetwork();
    const world = new World(options);
    const ca = await CertificateAuthority.create('Chaos CA');
    const secret = createSecret();
    world.#writeFiles(secret, ca.cert);
    const { url } = await world.#startBarmanHost(ca);
    await world.#startAws(ca, secret, url);
    await world.#startCluster();
    void world.#cron();
    return world;
  }

  /** Starts Patroni on a node, unless it runs. */
  startNode(name: NodeName): void {
    const running = this.#patroni.get(name);
    if (running && running.exitCode === null && running.signalCode === null) return;
    const command = asPostgres(join(this.#tools, 'patroni'), [this.#file(`${name}.d`)]);
    this.#patroni.set(name, startLogged(on(name, command), this.#file(`${name}.log`)));
  }

  /** Sends a signal to a server and all processes that it has started, such as Patroni's callbacks. */
  async signal(
    host: NodeName | 'etcd',
    server: 'patroni' | 'postgres' | 'etcd',
    signal: NodeJS.Signals,
  ): Promise<void> {
    const pid = this.#pid(host, server);
    if (pid === 0) return;
    for (const one of [...(await descendants(pid)), pid]) {
      if (signal === 'SIGSTOP') this.#stopped.add(one);
      send(one, signal);
    }
  }

  /** 0 if it does not run. PostgreSQL is no child of Patroni. */
  #pid(host: NodeName | 'etcd', server: 'patroni' | 'postgres' | 'etcd'): number {
    if (host === 'etcd') return this.#etcd?.pid ?? 0;
    if (server === 'patroni') return this.#patroni.get(host)?.pid ?? 0;
    const file = this.#file(host, 'postmaster.pid');
    return existsSync(file) ? Number(readFileSync(file, 'utf8').split('\n')[0]) : 0;
  }

  /** Runs `pg_ctl` on a node, without Patroni. */
  async pgCtl(name: NodeName, ...words: string[]): Promise<void> {
    await run(asPostgres(join(POSTGRESQL, 'pg_ctl'), [...words, '-D', this.#file(name)]), 20_000);
  }

  /** Runs a command of Barman. @returns what it printed until it ended, or until the time limit (ms) */
  async barman(words: readonly string[], limit = 20_000): Promise<string> {
    const all = ['-c', this.#file('barman.conf'), ...words];
    const [command, args] = on('barman', asPostgres(join(this.#tools, 'barman'), all));
    const { stdout, stderr } = await promisify(execFile)(command, args, { timeout: limit }).catch(
      (error: { stdout: string; stderr: string }) => error,
    );
    return stdout + stderr;
  }

  /** Sends a request to Patroni's REST API of a node. @throws Error without an answer */
  async rest(name: NodeName, method: string, path: string, body?: object): Promise<unknown> {
    const response = await fetch(`http://${ADDRESS[name]}:${PORT.rest}/${path}`, {
      method,
      signal: AbortSignal.timeout(method === 'GET' ? 3_000 : 30_000),
      ...(body && { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    if (!response.ok) throw new Error(`${method} /${path}: ${response.status} ${text.slice(0, 200)}`);
    return text.startsWith('{') ? JSON.parse(text) : text;
  }

  /** The node whose Patroni says that it is the leader, if there is one. */
  async leader(): Promise<NodeName | undefined> {
    const asked = NODES.map((name) =>
      this.rest(name, 'GET', 'leader').then(
        () => name,
        () => undefined,
      ),
    );
    return (await Promise.all(asked)).find((name) => name !== undefined);
  }

  /** The leader on which all nodes agree, if they do. */
  async agreedLeader(): Promise<NodeName | undefined> {
    const asked = NODES.map((name) => this.rest(name, 'GET', 'cluster') as Promise<Members>);
    const answers = await Promise.all(asked).catch(() => []);
    const leaders = answers.map(({ members, pause }) => {
      const all = members.filter(({ role, state }) => role === 'leader' && state === 'running');
      return all.length === 1 && !pause ? all[0]?.name : undefined;
    });
    const [leader] = leaders;
    if (leader === undefined || leaders.some((name) => name !== leader)) return undefined;
    return (await this.leader()) === leader ? leader : undefined;
  }

  /** Whether a leader runs, and all other nodes stream from it. */
  async isHealthy(): Promise<boolean> {
    const leader = await this.agreedLeader();
    if (!leader) return false;
    const { members } = (await this.rest(leader, 'GET', 'cluster')) as Members;
    return (
      members.length === NODES.length &&
      members.every(({ name, state }) => name === leader || state === 'streaming')
    );
  }

  /** Barman's active model. */
  get activeModel(): string {
    const file = this.#file('barman', 'main', '.active-model.auto');
    return existsSync(file) ? readFileSync(file, 'utf8').trim() : '';
  }

  /** Removes what Barman has of the WAL file that it receives. */
  dropPartialWal(): void {
    const folder = this.#file('barman', 'main', 'streaming');
    for (const file of readdirSync(folder).filter((name) => name.endsWith('.partial')))
      rmSync(join(folder, file));
  }

  /** Whether Barman streams from a node, by PostgreSQL there. */
  async streamsFrom(name: NodeName): Promise<boolean> {
    const sql =
      "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'barman_receive_wal' AND state = 'streaming'";
    return (await this.query(name, sql).catch(() => '')).trim() === '1';
  }

  query(name: NodeName, sql: string): Promise<string> {
    const connection = `host=${ADDRESS[name]} port=${PORT.postgres} user=postgres dbname=postgres connect_timeout=3`;
    return run([join(POSTGRESQL, 'psql'), [connection, '-AtXc', sql]], 10_000);
  }

  /** Makes the clock of callbacks wrong, or the callbacks do nothing. @param ahead seconds; null: they do nothing */
  setCallbacks(ahead: number | null, names: readonly NodeName[] = NODES): void {
    const text = ahead === null ? '' : callbackWithClock(this.#file('barman_config_switch.py'), ahead);
    for (const name of names) writeOwned(this.#file(`${name}-callback.py`), text, 0o755);
  }

  /** Ends everything that the nemesis has done. */
  async heal(): Promise<void> {
    for (const [a, b] of pairs(HOSTS)) await connect(a, b);
    for (const pid of this.#stopped) send(pid, 'SIGCONT');
    this.#stopped.clear();
    this.setCallbacks(0);
    for (const name of NODES) this.startNode(name);
    await this.aws.call('deliver', 'normal');
    await this.aws.call('killNext', 0);
    await this.aws.call('ssm', null);
    await this.aws.call('dynamoDb', null);
    await this.barmanHost.call('slow', 0);
    await this.barmanHost.call('noFaults');
    await this.barmanHost.call('listen').catch(() => {});
    await this.until(() => this.setPause(false), 'no node resumes');
  }

  /** Pauses or resumes Patroni. @returns whether a node has accepted that */
  async setPause(pause: boolean): Promise<boolean> {
    for (const name of NODES) {
      const set = this.rest(name, 'PATCH', 'config', { pause: pause || null });
      if (await set.then(() => true).catch(() => false)) return true;
    }
    return false;
  }

  /** Polls a condition. @throws Error with the message after the time limit (ms) */
  async until(condition: () => Promise<unknown>, message: string, limit = START_TIMEOUT): Promise<void> {
    const end = performance.now() + limit;
    while (!(await condition())) {
      if (performance.now() > end) throw new Error(message);
      await sleep(PAUSE);
    }
  }

  #file(...names: string[]): string {
    return join(this.folder, ...names);
  }

  #writeFiles(secret: string, ca: string): void {
    own(this.folder, 0o755);
    const installed = this.#file('barman_config_switch.py');
    writeOwned(installed, readFileSync('patroni/barman_config_switch.py', 'utf8'), 0o755);
    writeOwned(this.#file('webhook-secret'), secret, 0o600);
    writeFileSync(this.#file('ca.pem'), ca);
    const connection = ['--url', `https://${ADDRESS.aws}/config-switch`, '--ca-file', this.#file('ca.pem')];
    this.setCallbacks(0);
    for (const name of NODES) {
      const config = this.#file(`${name}.d`);
      mkdirSync(config);
      own(config, 0o700);
      const command = `${join(this.#tools, 'python')} ${this.#file(`${name}-callback.py`)}`;
      const rest = { etcd: `${ADDRESS.etcd}:2379`, address: ADDRESS[name], tls: false };
      const settings = { scope: 'main', postgresPort: PORT.postgres, restPort: PORT.rest, ...rest };
      const files = [
        ...patroniExamples(name, this.folder, command, connection, { network: NETWORK }),
        patroni(name, this.folder, settings),
        // A node that cannot be rewound is made again: the run goes on for many rounds.
        JSON.stringify({
          postgresql: {
            remove_data_directory_on_rewind_failure: true,
            remove_data_directory_on_diverged_timelines: true,
          },
        }),
      ];
      for (const [order, text] of files.entries()) writeOwned(join(config, `${order}.yml`), text, 0o600);
    }
    const hosts = NODES.map((name) => [name, `${ADDRESS[name]} port=${PORT.postgres}`]);
    writeOwned(this.#file('barman.conf'), barman(this.folder, Object.fromEntries(hosts)), 0o644);
    for (const folder of ['barman', 'barman/main']) {
      mkdirSync(this.#file(folder));
      own(this.#file(folder), 0o755);
    }
  }

  async #startBarmanHost(ca: CertificateAuthority): Promise<{ url: string }> {
    const models = Object.fromEntries(NODES.map((name) => [`pg:${name}`, { cluster: 'main' }]));
    const settings: BarmanSettings = { folder: this.folder, tools: this.#tools, models };
    await this.barmanHost.call('start', settings);
    return startNginx({
      folder: this.#file('nginx'),
      listen: `${ADDRESS.barman}:443`,
      upstream: '127.0.0.1:7480',
      ca: ca.cert,
      server: await ca.server([ADDRESS.barman]),
      on: (command) => on('barman', command),
    });
  }

  async #startAws(ca: CertificateAuthority, secret: string, url: string): Promise<void> {
    const client = await ca.client();
    const models = Object.fromEntries(NODES.map((name) => [name, `pg:${name}`]));
    const patroni = NODES.map((name) => `http://${ADDRESS[name]}:${PORT.rest}`);
    const settings: AwsSettings = {
      certificate: await ca.server([ADDRESS.aws]),
      interval: this.#interval,
      parameters: {
        url,
        'client-cert': client.cert,
        'client-key': client.key,
        'ca-cert': ca.cert,
        'clusters/main': JSON.stringify({ servers: { main: models }, patroni, secret }),
      },
    };
    await this.aws.call('start', settings);
  }

  async #startCluster(): Promise<void> {
    const [client, peer] = [`http://${ADDRESS.etcd}:2379`, `http://${ADDRESS.etcd}:2380`];
    const etcd = asPostgres('etcd', [
      ...['--data-dir', this.#file('etcd'), '--initial-cluster', `default=${peer}`],
      ...['--listen-client-urls', client, '--advertise-client-urls', client],
      ...['--listen-peer-urls', peer, '--initial-advertise-peer-urls', peer],
    ]);
    this.#etcd = startLogged(on('etcd', etcd), this.#file('etcd.log'));
    this.startNode('node1');
    await this.until(async () => (await this.leader()) === 'node1', 'node1 is not the leader');
    await this.query('node1', BARMAN_ROLES);
    this.startNode('node2');
    this.startNode('node3');
    await this.until(() => this.agreedLeader(), 'the nodes do not agree on a leader');
  }

  /** Barman's cron, as often as the heartbeat: each minute in production. */
  async #cron(): Promise<void> {
    for (;;) {
      await this.barman(['cron']);
      await sleep(this.#interval * 1_000);
    }
  }
}
