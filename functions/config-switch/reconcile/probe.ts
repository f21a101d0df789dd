/** The path to pg-backup-api, checked before a failover needs it. */

import { answerOf } from '../barman/failures.ts';
import type { PgBackupApi } from '../barman/pg-backup-api.ts';
import { messageOf } from '../errors.ts';
import { type Facts, newFacts } from '../invocation.ts';
import type { Item } from '../ledger/item.ts';
import type { ServerMessage } from '../ledger/ledger.ts';

interface BarmanHostOptions {
  /** Creates a client for pg-backup-api, whose requests are counted in `facts`. */
  readonly connect: (facts: Facts) => PgBackupApi;
  /** Of the heartbeat: the sum of its requests. */
  readonly facts: Pick<Facts, 'attempts' | 'polls'>;
}

/** pg-backup-api, as the requests of one heartbeat find it. */
export class BarmanHost {
  readonly #options: BarmanHostOptions;
  readonly #refusals = new Map<string, string>();
  readonly #asked = new Set<string>();
  #reached = false;
  #failure: string | undefined;
  #isProbed = false;
  #isUsed = false;
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

  /** Whether it was probed, so that `unreachable` is not about the requests of one server. */
  get isProbed(): boolean {
    return this.#isProbed;
  }

  /** Whether anything was asked to switch a server. */
  get isUsed(): boolean {
    return this.#isUsed;
  }

  /** Servers that cannot be switched, although pg-backup-api responds, and why. */
  get refusals(): ServerMessage[] {
    return [...this.#refusals].map(([barman_server, message]) => ({ barman_server, message }));
  }

  /** Whether pg-backup-api was asked about a server, and answered. */
  hasAsked(barman_server: string): boolean {
    return this.#asked.has(barman_server);
  }

  /**
   * Sends the requests that switch a server, with a client of their own, which are counted in `facts`.
   *
   * @throws what they throw
   */
  async ask<T>(barman_server: string, facts: Facts, requests: (api: PgBackupApi) => Promise<T>): Promise<T> {
    this.#isUsed = true;
    try {
      const result = await this.#ask(facts, requests);
      this.#asked.add(barman_server);
      return result;
    } catch (error) {
      if (answerOf(error)) this.#refuse(barman_server, messageOf(error));
      throw error;
    }
  }

  async #ask<T>(facts: Facts, requests: (api: PgBackupApi) => Promise<T>): Promise<T> {
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

  #refuse(barman_server: string, message: string): void {
    this.#asked.add(barman_server);
    this.#refusals.set(barman_server, message);
  }

  /** Asks for the status with the real credentials. */
  async probe(): Promise<void> {
    this.#isProbed = true;
    try {
      await this.#ask(newFacts(), (api) => api.status());
    } catch (error) {
      // Whatever was answered, it is not what pg-backup-api answers.
      this.#reached = false;
      this.#failure ??= messageOf(error);
    }
  }

  /**
   * Reads the configuration and the operations of one server, another one every minute: `/status` is fine
   * while they cannot be read.
   */
  async readOneServer(items: readonly Item[], signal: AbortSignal): Promise<void> {
    const servers = items.map(({ barman_server }) => barman_server).sort();
    const barman_server = servers[Math.floor(Date.now() / 60_000) % servers.length];
    if (barman_server === undefined) return;
    try {
      await this.#ask(newFacts(), (api) => api.readServer(barman_server));
      this.#asked.add(barman_server);
    } catch (error) {
      // The deadline says nothing about the server.
      if (signal.aborted) return;
      this.#refuse(barman_server, `its operations in Barman cannot be read: ${messageOf(error)}`);
    }
  }
}
