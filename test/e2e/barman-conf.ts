/** The configuration file of a Barman, edited as an operator does. */

import { mkdirSync, readFileSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { own, writeOwned } from './processes.ts';

/** Options by section. */
export type Sections = Readonly<Record<string, Readonly<Record<string, string>>>>;
/** What is different; null: the section, or the option, is not there. */
export type Changes = Readonly<Record<string, Readonly<Record<string, string | null>> | null>>;

export class BarmanConf {
  readonly #folder: string;
  /** The sections without any change. */
  readonly original: Sections;

  /** @param folder of the cluster @param options to add to sections */
  constructor(folder: string, options: Sections = {}) {
    this.#folder = folder;
    const written = parse(readFileSync(this.#file, 'utf8'));
    this.original = Object.fromEntries(
      Object.entries(written).map(([name, section]) => [name, { ...section, ...options[name] }]),
    );
    this.write();
  }

  /** Writes the original sections with some changes. Barman reads them whenever one of its commands starts. */
  write(changes: Changes = {}): void {
    const names = new Set([...Object.keys(this.original), ...Object.keys(changes)]);
    const text = [...names]
      .filter((name) => changes[name] !== null)
      .map((name) => sectionText(name, { ...this.original[name], ...changes[name] }));
    for (const name of names) if (!this.original[name]) this.#createFolder(name);
    // A command that starts meanwhile reads one file or the other.
    writeOwned(`${this.#file}.new`, text.join('\n'), 0o644);
    renameSync(`${this.#file}.new`, this.#file);
  }

  /** Barman does not create that of a server. */
  #createFolder(server: string): void {
    if (server.includes(':')) return;
    const folder = join(this.#folder, 'barman', server);
    mkdirSync(folder, { recursive: true });
    own(folder, 0o755);
  }

  get #file(): string {
    return join(this.#folder, 'barman.conf');
  }
}

/** Reads the sections of a configuration file. */
export function parse(text: string): Sections {
  const [, ...sections] = text.split(/^\[/m);
  return Object.fromEntries(
    sections.map((section) => [
      section.slice(0, section.indexOf(']')),
      Object.fromEntries(
        [...section.matchAll(/^(\w+) = (.*)$/gm)].map(([, option, value]) => [option, value]),
      ),
    ]),
  );
}

function sectionText(name: string, options: Readonly<Record<string, string | null>>): string {
  const lines = Object.entries(options).flatMap(([option, value]) =>
    value === null ? [] : `${option} = ${value}\n`,
  );
  return `[${name}]\n${lines.join('')}`;
}
