/** A real Barman: its files, its cron, and its commands. */

import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { documentedBlock, documentedCommand, fill } from '../documentation.ts';
import { barmanConfiguration, type NodeAddress } from './cluster-files.ts';
import {
  asPostgres,
  type CommandLine,
  outputOf,
  own,
  POSTGRESQL,
  run,
  until,
  writeOwned,
} from './processes.ts';

/** Time limit of `barman cron` (ms). */
const CRON_TIMEOUT = 20_000;

/** A change of Barman's active model, and when it was seen (ms since the epoch). */
export interface ActiveModel {
  readonly model: string;
  readonly at: number;
}

export class Barman {
  /** All changes of the active model so far. */
  readonly changes: ActiveModel[] = [];
  readonly #folder: string;
  readonly #tools: string;
  readonly #on: (command: CommandLine) => CommandLine;
  readonly #ended = new AbortController();
  #cron: Promise<void> | undefined;

  /**
   * @param folder of its configuration file
   * @param tools folder of its programs
   * @param on makes the command line that runs a command on its host; default: this one
   */
  constructor(folder: string, tools: string, on = (command: CommandLine) => command) {
    this.#folder = folder;
    this.#tools = tools;
    this.#on = on;
  }

  /** Writes its files, and runs its cron. @param interval of the cron (ms); in production one minute */
  start(nodes: ReadonlyMap<string, NodeAddress>, interval: number): void {
    writeOwned(this.#file('barman.conf'), barmanConfiguration(this.#folder, nodes), 0o644);
    for (const folder of ['barman', 'barman/main']) {
      mkdirSync(this.#file(folder));
      own(this.#file(folder), 0o755);
    }
    const { signal } = this.#ended;
    this.#cron = (async () => {
      while (!signal.aborted) {
        await this.run(CRON_TIMEOUT, 'cron');
        await sleep(interval, undefined, { signal }).catch(() => {});
      }
    })();
    const watch = setInterval(() => this.#readActiveModel(), 10);
    signal.addEventListener('abort', () => clearInterval(watch));
  }

  /** Changes its configuration file. @returns what writes it as it was */
  edit(change: (text: string) => string): () => void {
    const file = this.#file('barman.conf');
    const text = readFileSync(file, 'utf8');
    const write = (text: string) => writeOwned(file, text, 0o644);
    write(change(text));
    return () => write(text);
  }

  /** Ends the cron. */
  async stop(): Promise<void> {
    this.#ended.abort();
    await this.#cron;
  }

  /** The active model, and since when. */
  get active(): ActiveModel {
    return this.changes.at(-1) ?? { model: '', at: 0 };
  }

  /** Runs a command. @returns what it printed until it ended, or until the time limit (ms) */
  run(limit: number, ...words: string[]): Promise<string> {
    return outputOf(this.#command(...words), limit);
  }

  /** Runs `barman config-switch`, as pg-backup-api's helper does. @returns whether it succeeded */
  async configSwitch(server: string, model: string | null): Promise<boolean> {
    return run(this.#command('config-switch', server, model ?? '--reset')).then(
      () => true,
      () => false,
    );
  }

  /** Ends `barman receive-wal`, which its cron starts again. @returns what it printed */
  stopReceiving(): Promise<string> {
    return this.run(60_000, 'receive-wal', '--stop', 'main');
  }

  /** Drops its slot, as documented: `barman cron` may have started the receiver, which uses it. */
  async dropSlot(): Promise<void> {
    const block = documentedBlock('docs/how-to/wal-does-not-arrive.md', 'barman receive-wal --drop-slot');
    const isDropped = () =>
      this.remedy(block).then(
        () => true,
        () => this.stopReceiving().then(() => false),
      );
    await until(isDropped, 'the slot cannot be dropped');
  }

  /** What `barman diagnose` prints, also if it then ends with an error. @throws Error if it prints nothing */
  diagnose(): Promise<string> {
    return run(this.#command('diagnose')).catch((error: { stdout: string }) => {
      if (!error.stdout) throw error;
      return error.stdout;
    });
  }

  /** What `barman receive-wal` prints in five seconds, by the documented command. */
  receiveWal(): Promise<string> {
    const command = documentedCommand(
      'docs/how-to/wal-does-not-arrive.md',
      'sudo -u barman barman receive-wal',
    );
    const words = fill(command, { 'sudo -u barman barman ': '', SERVER: 'main' });
    return this.run(5_000, ...words.split(' '));
  }

  /**
   * What it prints if Barman does not stream. For a moment it may be the one that `barman cron` starts that
   * finds the cause.
   *
   * @param limit ms
   * @throws Error if another one is always running
   */
  async whyNotStreaming(limit?: number): Promise<string> {
    let printed = '';
    const isFound = async () => {
      printed = await this.receiveWal();
      return !printed.includes('already running');
    };
    await until(isFound, 'receive-wal is always running', limit);
    return printed;
  }

  /** Whether it has a WAL file. */
  received(file: string): boolean {
    return this.#has('main', ['streaming', 'wals'], file);
  }

  /** Whether a WAL file is in the archive of a server. */
  archived(file: string, server = 'main'): boolean {
    return this.#has(server, ['wals'], file);
  }

  #has(server: string, folders: readonly string[], file: string): boolean {
    return folders.some((name) => {
      const folder = this.#file('barman', server, name);
      return (
        existsSync(folder) && readdirSync(folder, { recursive: true }).some((one) => `${one}`.endsWith(file))
      );
    });
  }

  /** What it has logged. */
  log(): string {
    return readFileSync(this.#file('barman.log'), 'utf8');
  }

  /** The folder for what the documented commands move away. */
  get movedAway(): string {
    return this.#file('barman/main/moved-away');
  }

  /** Moves away what it was receiving when it stopped, with the documented commands. */
  moveAheadAway(): Promise<void> {
    const files = readdirSync(this.#file('barman/main/streaming'));
    const isPartial = files.some((file) => file.endsWith('.partial'));
    const block = isPartial
      ? documentedBlock('docs/how-to/wal-does-not-arrive.md', 'mv --backup=numbered streaming/*.partial')
      : documentedBlock('docs/how-to/wal-does-not-arrive.md', 'mv --backup=numbered streaming/* ');
    return this.remedy(block);
  }

  /** Moves away what it has of a timeline, with the documented commands. */
  moveTimelineAway(timeline: number): Promise<void> {
    const prefix = timeline.toString(16).toUpperCase().padStart(8, '0');
    const block = documentedBlock('docs/how-to/wal-does-not-arrive.md', 'find streaming wals');
    return this.remedy(block, { '0000000F': prefix });
  }

  /**
   * Runs a block of documented commands.
   *
   * @param words to replace in it
   * @throws Error if a command fails
   */
  async remedy(block: string, words: Readonly<Record<string, string>> = {}): Promise<void> {
    const commands = fill(block, words)
      .replaceAll('/var/lib/barman/SERVER', this.#file('barman/main'))
      .replaceAll(/^barman /gm, `${this.#barman} `)
      .replaceAll('SERVER', 'main');
    await run(this.#on(asPostgres('bash', ['-ec', commands])));
  }

  /**
   * Restores a backup into a folder of its own, starts PostgreSQL there, asks it, and removes it, with the documented
   * commands.
   *
   * @param sql is asked besides
   * @param backup default: the newest
   * @returns when the newest transaction was committed that it has, by the documented query, and the answer to sql
   */
  async restore(
    sql: string,
    backup = 'latest',
  ): Promise<{ readonly committed: string; readonly answer: string }> {
    const words = { '/var/tmp/restore': this.#file('restore') };
    const restore = fill(documentedBlock('docs/how-to/restore.md', 'barman recover'), {
      ...words,
      '/usr/lib/postgresql/17/bin': POSTGRESQL,
      'barman switch-wal': `${this.#barman} switch-wal`,
      'barman recover': `${this.#barman} recover`,
      'SERVER latest': `main ${backup}`,
      SERVER: 'main',
    });
    const query = /^psql .*$/m.exec(restore)?.[0] ?? '';
    const remove = fill(documentedBlock('docs/how-to/restore.md', 'rm -r /var/tmp/restore'), words);
    const more = query.replace(/-c '.*'/, `-Atc "${sql}"`);
    const commands = [restore, "echo '---'", more, remove].join('\n');
    const printed = await run(this.#on(asPostgres('bash', ['-ec', commands])));
    const [committed = '', answer = ''] = printed.split('\n---\n');
    return { committed, answer };
  }

  get #barman(): string {
    return `${join(this.#tools, 'barman')} -c ${this.#file('barman.conf')}`;
  }

  #command(...words: string[]): CommandLine {
    return this.#on(asPostgres(join(this.#tools, 'barman'), ['-c', this.#file('barman.conf'), ...words]));
  }

  #readActiveModel(): void {
    const file = this.#file('barman/main/.active-model.auto');
    const isReset = !existsSync(file);
    const model = isReset ? '' : readFileSync(file, 'utf8').trim();
    // Barman is just writing it.
    if (model === '' && !isReset) return;
    if (model !== this.active.model) this.changes.push({ model, at: Date.now() });
  }

  #file(...names: string[]): string {
    return join(this.#folder, ...names);
  }
}
