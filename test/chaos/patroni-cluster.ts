/** A cluster of three PostgreSQL nodes with Patroni and etcd, each on a host of its own. */

import type { ChildProcess } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { BARMAN_ROLES, callbackWithClock, etcd, patroni, patroniExamples } from '../e2e/cluster-files.ts';
import {
  asPostgres,
  own,
  postmasterPid,
  processTree,
  run,
  send,
  startLogged,
  writeOwned,
} from '../e2e/processes.ts';
import { POSTGRESQL } from '../e2e/setup.ts';
import { ADDRESS, NETWORK, on } from './network.ts';

export const NODES = ['node1', 'node2', 'node3'] as const;
export type NodeName = (typeof NODES)[number];

export const PORT = { postgres: 5432, rest: 8008 };
/** What PostgreSQL and Patroni get if nothing disturbs them (ms). */
const START_TIMEOUT = 120_000;
const PAUSE = 200;
/** How long a healthy node may need to stream again (ms). */
const PATIENCE = 40_000;

/** Patroni's answer to `GET /cluster`. */
interface Members {
  readonly members: readonly { readonly name: NodeName; readonly role: string; readonly state: string }[];
  readonly pause?: boolean;
}

export class PatroniCluster {
  readonly #folder: string;
  readonly #tools: string;
  readonly #patroni = new Map<NodeName, ChildProcess>();
  #etcd: ChildProcess | undefined;
  /** Processes that are stopped, as on a machine that hangs. */
  readonly #stopped = new Set<number>();

  /** @param folder for all files @param tools folder of Patroni */
  constructor(folder: string, tools: string) {
    this.#folder = folder;
    this.#tools = tools;
  }

  /** @param secret of the callbacks @param ca certificate of the function's endpoint, PEM */
  async start(secret: string, ca: string): Promise<void> {
    this.#writeFiles(secret, ca);
    const [client, peer] = [2379, 2380].map((port) => `http://${ADDRESS.etcd}:${port}`) as [string, string];
    this.#etcd = startLogged(on('etcd', etcd(this.#folder, client, peer)), this.#file('etcd.log'));
    this.startNode('node1');
    await until(async () => (await this.leader()) === 'node1', 'node1 is not the leader');
    await this.query('node1', BARMAN_ROLES);
    this.startNode('node2');
    this.startNode('node3');
    await until(() => this.agreedLeader(), 'the nodes do not agree on a leader');
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
    for (const one of await processTree(pid)) {
      if (signal === 'SIGSTOP') this.#stopped.add(one);
      send(one, signal);
    }
  }

  /** 0 if it does not run. PostgreSQL is no child of Patroni. */
  #pid(host: NodeName | 'etcd', server: 'patroni' | 'postgres' | 'etcd'): number {
    if (host === 'etcd') return this.#etcd?.pid ?? 0;
    if (server === 'patroni') return this.#patroni.get(host)?.pid ?? 0;
    return postmasterPid(this.#file(host));
  }

  /** Runs `pg_ctl` on a node, without Patroni. */
  async pgCtl(name: NodeName, ...words: string[]): Promise<void> {
    await run(asPostgres(join(POSTGRESQL, 'pg_ctl'), [...words, '-D', this.#file(name)]), 20_000);
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
    const answers = await Promise.all(this.#askForMembers()).catch(() => []);
    const leaders = answers.map(({ members, pause }) => {
      const all = members.filter(({ role, state }) => role === 'leader' && state === 'running');
      return all.length === 1 && !pause ? all[0]?.name : undefined;
    });
    const [leader] = leaders;
    if (leader === undefined || leaders.some((name) => name !== leader)) return undefined;
    return (await this.leader()) === leader ? leader : undefined;
  }

  /**
   * Waits until all nodes are healthy, with an operator's help: PostgreSQL may be unable to go on with what SIGKILL has left.
   *
   * @throws Error if a node is not healthy even after that
   */
  async repair(say: (text: string) => void): Promise<void> {
    const healthy = async () => (await this.#unhealthy()).length === 0;
    const recovers = until(healthy, '', PATIENCE).then(() => true);
    if (await recovers.catch(() => false)) return;
    if (!(await this.agreedLeader())) {
      const { members } = await this.#members();
      const name = members.find(({ role }) => role === 'leader')?.name ?? NODES[0];
      say(`there is no leader: kill ${name}, so that another one is promoted`);
      await this.signal(name, 'patroni', 'SIGKILL');
      await this.signal(name, 'postgres', 'SIGKILL');
      await until(() => this.leader(), 'no other node is promoted');
      this.startNode(name);
      await until(() => this.agreedLeader(), 'the nodes do not agree on a leader');
    }
    for (const name of await this.#unhealthy()) {
      say(`reinitialize ${name}, which does not stream`);
      await this.rest(name, 'POST', 'reinitialize', { force: true }).catch(({ message }) => say(message));
    }
    await until(healthy, 'a node is not healthy after it was reinitialized');
  }

  /** The nodes that neither are the leader nor stream from it. */
  async #unhealthy(): Promise<NodeName[]> {
    const leader = await this.agreedLeader();
    const { members } = await this.#members();
    return NODES.filter((name) => {
      const member = members.find((one) => one.name === name);
      return name !== leader && member?.state !== 'streaming';
    });
  }

  /** Patroni's view of the cluster, by the first node that answers. */
  async #members(): Promise<Members> {
    return Promise.any(this.#askForMembers()).catch(() => ({ members: [] }));
  }

  #askForMembers(): Promise<Members>[] {
    return NODES.map((name) => this.rest(name, 'GET', 'cluster') as Promise<Members>);
  }

  query(name: NodeName, sql: string): Promise<string> {
    const connection = `host=${ADDRESS[name]} port=${PORT.postgres} user=postgres dbname=postgres connect_timeout=3`;
    return run([join(POSTGRESQL, 'psql'), [connection, '-AtXc', sql]], 10_000);
  }

  /** Makes a leader remove the WAL that Barman needs, as after a mistake with slots. Patroni creates the slot again. */
  async removeWal(leader: NodeName): Promise<void> {
    const slot = "FROM pg_replication_slots WHERE slot_name = 'barman'";
    const statements = [
      `SELECT pg_terminate_backend(active_pid, 5000) ${slot} AND active`,
      // More segments than wal_keep_size keeps.
      `DO $$ BEGIN FOR n IN 1..2 +
        pg_size_bytes(current_setting('wal_keep_size')) / pg_size_bytes(current_setting('wal_segment_size')) LOOP
        PERFORM pg_logical_emit_message(false, 'chaos', ''); PERFORM pg_switch_wal();
      END LOOP; END $$`,
      // A new slot reserves WAL from the last checkpoint on.
      'CHECKPOINT',
      `SELECT pg_drop_replication_slot(slot_name) ${slot}`,
      'CHECKPOINT',
    ];
    for (const sql of statements) await this.query(leader, sql);
  }

  /** Makes the clock of callbacks wrong, or the callbacks do nothing. @param ahead seconds; null: they do nothing */
  setCallbacks(ahead: number | null, names: readonly NodeName[] = NODES): void {
    const text = ahead === null ? '' : callbackWithClock(this.#file('barman_config_switch.py'), ahead);
    for (const name of names) writeOwned(this.#file(`${name}-callback.py`), text, 0o755);
  }

  /** Ends what the nemesis has done to the nodes and etcd. */
  heal(): void {
    for (const pid of this.#stopped) send(pid, 'SIGCONT');
    this.#stopped.clear();
    this.setCallbacks(0);
    for (const name of NODES) this.startNode(name);
  }

  /** Pauses or resumes Patroni. @returns whether a node has accepted that */
  async setPause(pause: boolean): Promise<boolean> {
    for (const name of NODES) {
      const set = this.rest(name, 'PATCH', 'config', { pause: pause || null });
      if (await set.then(() => true).catch(() => false)) return true;
    }
    return false;
  }

  #file(...names: string[]): string {
    return join(this.#folder, ...names);
  }

  #writeFiles(secret: string, ca: string): void {
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
        ...patroniExamples(name, this.#folder, command, connection, { network: NETWORK }),
        patroni(name, this.#folder, settings),
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
  }
}

/** Polls a condition. @throws Error with the message after the time limit (ms) */
export async function until(
  condition: () => Promise<unknown>,
  message: string,
  limit = START_TIMEOUT,
): Promise<void> {
  const end = performance.now() + limit;
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(message);
    await sleep(PAUSE);
  }
}
