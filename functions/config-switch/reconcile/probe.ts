/** The path to pg-backup-api, checked before a failover needs it. */

import type { PgBackupApi } from '../barman/pg-backup-api.ts';
import { messageOf } from '../errors.ts';
import { type Facts, newFacts } from '../invocation.ts';
import type { Item } from '../ledger/item.ts';
import type { Unreadable } from '../ledger/ledger.ts';

interface BarmanHostOptions {
  /** Creates a client for pg-backup-api, whose requests are counted in `facts`. */
  readonly connect: (facts: Facts) => PgBackupApi;
  /** Of the heartbeat: the sum of its requests. */
  readonly facts: Pick<Facts, 'attempts' | 'polls'>;
}

/** pg-backup-api, as the requests of one heartbeat find it. */
export class BarmanHost {
  readonly #options: BarmanHostOptions;
  #reached = false;
  #failure: string | undefined;
  /** How long the slowest request took (ms). */
  slowest = 0;

  constructor(options: BarmanHostOptions) {
    this.#options = options;
  }

  /** Whether any request says whether pg-backup-api is reachable. */
  get isKnown(): boolean {
    return this.#reached || this.#failure !== undefined;
  }

  /** Why pg-backup-api is unreachable; undefined if it is not, or nothing was sent yet. */
  get unreachable(): string | undefined {
    return this.#reached ? undefined : this.#failure;
  }

  /** Sends requests with a client of their own, which are counted in `facts`. */
  async ask<T>(facts: Facts, requests: (api: PgBackupApi) => Promise<T>): Promise<T> {
    await using api = this.#options.connect(facts);
    try {
      return await requests(api);
    } finally {
      this.#reached ||= api.reached;
      this.#failure ??= api.failure;
      this.slowest = Math.max(this.slowest, api.slowest);
      this.#options.facts.attempts += facts.attempts;
      this.#options.facts.polls += facts.polls;
    }
  }

  /** Asks for the status with the real credentials. */
  async probe(): Promise<void> {
    try {
      await this.ask(newFacts(), (api) => api.status());
    } catch (error) {
      // Whatever was answered, it is not what pg-backup-api answers.
      this.#reached = false;
      this.#failure = messageOf(error);
    }
  }

  /**
   * Reads the configuration and the operations of one server, another one every minute: `/status` is fine
   * while they cannot be read.
   *
   * @returns why they cannot be read
   */
  async readOneServer(items: readonly Item[]): Promise<Unreadable | undefined> {
    const servers = items.map(({ barman_server }) => barman_server).sort();
    const barman_server = servers[Math.floor(Date.now() / 60_000) % servers.length];
    if (barman_server === undefined) return undefined;
    try {
      await this.ask(newFacts(), (api) => api.readServer(barman_server));
      return undefined;
    } catch (error) {
      return { barman_server, message: `its operations in Barman cannot be read: ${messageOf(error)}` };
    }
  }
}
