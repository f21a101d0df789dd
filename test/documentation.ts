/** Commands and examples of the documentation, so that tests use what is written there. */

import { readFileSync } from 'node:fs';

/** @returns the blocks of a document in a language; without a name: of output */
export function blocks(page: string, language: string): string[] {
  const all = readFileSync(page, 'utf8').matchAll(/^```(\w*)\n(.*?)^```$/gms);
  return [...all].flatMap(([, name, block = '']) => (name === language ? block : []));
}

/** @returns the blocks of shell commands of a document */
export function shellBlocks(page: string): string[] {
  return blocks(page, 'sh');
}

/** @returns the commands of a block: without comments, and with the lines that continue them */
export function commandsOf(block: string): string[] {
  const lines = block.replaceAll(/(^|\s+)# .*$/gm, '').split(/(?<!\\)\n/);
  return lines.filter((line) => line.trim() !== '');
}

/** @returns the block in which a command begins so @throws Error if there is none */
export function documentedBlock(page: string, start: string): string {
  const found = shellBlocks(page).find((block) => commandsOf(block).some((line) => line.startsWith(start)));
  if (found === undefined) throw new Error(`${page} has no command that begins with "${start}"`);
  return found;
}

/** @returns the first command that begins so @throws Error if there is none */
export function documentedCommand(page: string, start: string): string {
  return commandsOf(documentedBlock(page, start)).find((line) => line.startsWith(start)) as string;
}

/**
 * @returns what docs/how-to/drills.md expects of the drill with this heading
 *
 * @throws Error if there is none
 */
export function expectedOf(drill: string): string {
  const sections = readFileSync('docs/how-to/drills.md', 'utf8').split(/^## /m);
  const section = sections.find((text) => text.startsWith(`${drill}\n`)) ?? '';
  const [, expected] = /\nExpected: (.*?)(?:\n\n|$)/s.exec(section) ?? [];
  if (expected === undefined)
    throw new Error(`docs/how-to/drills.md expects nothing of the drill "${drill}"`);
  return expected.trim().replaceAll(/\s+/g, ' ');
}

/** @returns the first time limit that a text names (ms) @throws Error if it names none */
export function limitOf(text: string): number {
  const [, minutes] = /within (\d+|a) minutes?/.exec(text) ?? [];
  if (minutes === undefined) throw new Error(`no time limit in: ${text}`);
  return (minutes === 'a' ? 1 : Number(minutes)) * 60_000;
}

export function example(name: string): string {
  return readFileSync(`docs/examples/${name}`, 'utf8');
}

/** Replaces words. @throws Error if the text does not have one of them */
export function fill(text: string, words: Readonly<Record<string, string>>): string {
  return Object.entries(words).reduce((filled, [from, to]) => {
    if (!filled.includes(from)) throw new Error(`"${from}" is not in: ${text}`);
    return filled.replaceAll(from, to);
  }, text);
}
