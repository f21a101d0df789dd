/**
 * WAL across a failover: two PostgreSQL nodes without Patroni, and Barman. So the test decides where the timeline forks,
 * how far Barman is ahead of that, and how far its slot is behind.
 */

import { appendFileSync, mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { documentedBlock } from '../documentation.ts';
import { Barman } from './barman.ts';
import { BARMAN_ROLES, type NodeAddress } from './cluster-files.ts';
import { loopback } from './loopback.ts';
import { asPostgres, outputOf, own, POSTGRESQL, run, until } from './processes.ts';

type Node = 'node1' | 'node2';

/** Time limit of a command (ms). */
const TIMEOUT = 30_000;
/** Interval of Barman's cron (ms): it runs when the test says so. */
const NEVER = 2 ** 31 - 1;

const SETTINGS = `
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
shared_buffers = '16MB'
fsync = off
`;

/** What happens until Barman is set to the new leader. */
export interface Failover {
  /** Where Barman's slot on the new leader is. */
  readonly slot: 'a segment behind the fork' | 'in the segment of the fork' | 'missing';
  /** How many segments Barman has completed that contain what only the old leader has. */
  readonly ahead: number;
  /** Whether `barman cron` has archived them. */
  readonly archived?: boolean;
  /** The old leader ends with a complete segment, so that Barman has no `.partial` file. */
  readonly complete?: boolean;
}

export class Fork {
  readonly barman: Barman;
  readonly #folder: string;
  readonly #nodes: ReadonlyMap<string, NodeAddress>;

  private constructor(folder: string, tools: string, nodes: ReadonlyMap<string, NodeAddress>) {
    this.#folder = folder;
    this.#nodes = nodes;
    this.barman = new Barman(folder, tools);
  }

  /**
   * @param parent of the folder for all files
   * @param tools folder of Barman's programs
   * @returns once node2 and Barman stream from node1, and Barman has a base backup
   */
  static async start(parent: string, tools: string): Promise<Fork> {
    const folder = mkdtempSync(join(parent, 'fork-'));
    own(folder, 0o755);
    const { nodes } = await loopback(2);
    const fork = new Fork(folder, tools, nodes);
    try {
      await fork.#startNodes();
      fork.barman.start(nodes, NEVER);
      await fork.streams('node1');
      await fork.backup('node1');
    } catch (error) {
      await fork[Symbol.asyncDispose]();
      throw error;
    }
    return fork;
  }

  async #startNodes(): Promise<void> {
    const [first, second] = [this.#file('node1'), this.#file('node2')];
    await this.#program('initdb', '-D', first, '-A', 'trust', '-U', 'postgres', '--no-sync');
    appendFileSync(join(first, 'postgresql.conf'), SETTINGS);
    await this.#startNode('node1');
    await this.sql('node1', BARMAN_ROLES);
    await this.sql('node1', 'CREATE TABLE written (at text)');
    const copy = ['-D', second, '-d', this.connection('node1'), '-R', '-c', 'fast', '--no-sync'];
    await this.#program('pg_basebackup', ...copy);
    await this.#startNode('node2');
    for (const node of ['node1', 'node2'] as const) {
      await this.sql(node, "SELECT pg_create_physical_replication_slot('barman', true)");
    }
  }

  async #startNode(node: Node): Promise<void> {
    const options = ['-l', this.#file(`${node}.log`), '-o', `-p ${this.#address(node).postgres}`];
    await this.#program('pg_ctl', '-D', this.#file(node), ...options, 'start');
  }

  /** Kills PostgreSQL, as in a crash. */
  async kill(node: Node): Promise<void> {
    await outputOf(this.#command('pg_ctl', '-D', this.#file(node), '-m', 'immediate', 'stop'), TIMEOUT);
  }

  /** Makes a failover from node1 to node2, and sets Barman to node2. */
  async failover({ slot, ahead, archived = false, complete = false }: Failover): Promise<void> {
    await this.insert('node1', 'before1');
    await this.nextSegment('node1');
    await this.#caughtUp();
    await this.sql('node2', "SELECT pg_replication_slot_advance('barman', pg_last_wal_replay_lsn())");
    if (slot === 'a segment behind the fork') {
      await this.insert('node1', 'before2');
      await this.nextSegment('node1');
    }
    await this.insert('node1', 'before3');
    await this.#caughtUp();
    await this.#cutOff();
    await this.insert('node1', 'lost');
    for (let segment = 0; segment < ahead; segment += 1) {
      await this.nextSegment('node1');
      if (!complete || segment < ahead - 1) await this.insert('node1', 'lost');
    }
    await this.#received('node1');
    if (archived) await this.barman.run(TIMEOUT, 'archive-wal', 'main');
    if (slot === 'missing') await this.sql('node2', "SELECT pg_drop_replication_slot('barman')");
    await this.kill('node1');
    await this.#program('pg_ctl', '-D', this.#file('node2'), 'promote');
    await this.insert('node2', 'during');
    if (!(await this.barman.configSwitch('main', 'pg:node2'))) throw new Error('the config switch failed');
  }

  /** Writes a row. */
  async insert(node: Node, at: string): Promise<void> {
    await this.sql(node, `INSERT INTO written VALUES ('${at}')`);
  }

  /** Ends the segment of WAL. */
  async nextSegment(node: Node): Promise<void> {
    await this.sql(node, "SELECT pg_logical_emit_message(false, '', repeat('x', 1000))");
    await this.sql(node, 'SELECT pg_switch_wal()');
  }

  /** Makes a base backup by the documented command. @param leader of which it is */
  async backup(leader: Node): Promise<void> {
    await this.whileWriting(leader, () =>
      this.barman.remedy(documentedBlock('docs/how-to/wal-does-not-arrive.md', 'barman backup --wait')),
    );
  }

  /** Runs a query. @returns the values, without alignment */
  async sql(node: Node, sql: string): Promise<string> {
    return (await this.#program('psql', this.connection(node), '-AtXqc', sql)).trim();
  }

  /** Waits until Barman streams from a node; its cron runs meanwhile. */
  async streams(node: Node): Promise<void> {
    const sql = "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'barman_receive_wal'";
    await until(async () => {
      await this.barman.run(TIMEOUT, 'cron');
      return (await this.sql(node, sql)) === '1';
    }, `Barman does not stream from ${node}`);
  }

  /**
   * Restores a backup by the documented commands.
   *
   * @param leader of which the newest WAL is archived before
   * @param backup default: the newest
   * @returns the rows that it has
   */
  async restored(leader: Node, backup?: string): Promise<string[]> {
    const sql = 'SELECT string_agg(at, chr(32) ORDER BY ctid) FROM written';
    const { answer } = await this.whileWriting(leader, () => this.barman.restore(sql, backup));
    return answer.trim().split('\n')[0]?.split(' ') ?? [];
  }

  /** Parameters of a connection to a node. */
  connection(node: Node, user = 'postgres'): string {
    const { address, postgres } = this.#address(node);
    return `host=${address} port=${postgres} user=${user} dbname=postgres connect_timeout=3`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.barman.stop();
    for (const node of ['node1', 'node2'] as const) await this.kill(node);
    await this.barman.stopReceiving();
    rmSync(this.#folder, { recursive: true, force: true, maxRetries: 5 });
  }

  /** Barman archives a complete segment once there is WAL of the next one: a real leader writes all the time. */
  async whileWriting<T>(leader: Node, work: () => Promise<T>): Promise<T> {
    const ended = new AbortController();
    const { signal } = ended;
    const writes = (async () => {
      while (!signal.aborted) {
        await this.sql(leader, 'SELECT txid_current()');
        await sleep(300, undefined, { signal }).catch(() => {});
      }
    })();
    try {
      return await work();
    } finally {
      ended.abort();
      await writes;
    }
  }

  /** Waits until node2 has replayed all WAL of node1. */
  async #caughtUp(): Promise<void> {
    const lsn = await this.sql('node1', 'SELECT pg_current_wal_lsn()');
    const sql = `SELECT pg_last_wal_replay_lsn() >= '${lsn}'`;
    await until(async () => (await this.sql('node2', sql)) === 't', 'node2 lags');
  }

  /** Cuts node2 off from node1. */
  async #cutOff(): Promise<void> {
    await this.sql('node2', "ALTER SYSTEM SET primary_conninfo = ''");
    await this.sql('node2', 'SELECT pg_reload_conf()');
    const sql = 'SELECT count(*) FROM pg_stat_wal_receiver';
    await until(async () => (await this.sql('node2', sql)) === '0', 'node2 still streams');
  }

  /** Waits until Barman has received all WAL of a node. */
  async #received(node: Node): Promise<void> {
    const lsn = await this.sql(node, 'SELECT pg_current_wal_lsn()');
    const sql = `SELECT write_lsn >= '${lsn}' FROM pg_stat_replication WHERE application_name = 'barman_receive_wal'`;
    await until(async () => (await this.sql(node, sql)) === 't', 'Barman does not receive WAL', TIMEOUT);
  }

  #address(node: Node): NodeAddress {
    return this.#nodes.get(node) as NodeAddress;
  }

  #program(name: string, ...words: string[]): Promise<string> {
    return run(this.#command(name, ...words), TIMEOUT);
  }

  #command(name: string, ...words: string[]) {
    return asPostgres(join(POSTGRESQL, name), words);
  }

  #file(...names: string[]): string {
    return join(this.#folder, ...names);
  }
}
