/** What all commands have in common: options, `--help`, and errors in one line, without a stack trace. */

import { type ParseArgsOptionDescriptor, parseArgs } from 'node:util';
import { messageOf } from '../functions/config-switch/errors.ts';
import { ExitCode } from '../functions/config-switch/exit-code.ts';
import { printable, printableLines } from '../functions/config-switch/text.ts';

export interface Option extends Readonly<ParseArgsOptionDescriptor> {
  /** What it does, or what its value is; absent if the operands explain it. */
  readonly help?: string;
  /** What its value is called; of strings only. */
  readonly value?: string;
}

export type Options = Readonly<Record<string, Option>>;

/** A command, as `--help` shows it. */
export interface Program<T extends Options> {
  /** As one types it: `npm run ledger`. */
  readonly name: string;
  readonly summary: string;
  readonly options: T;
  /** What may be typed besides the options, and what that does; absent if nothing may. */
  readonly operands?: readonly Row[];
  /** The exit status of a failure, if it is not 1. */
  readonly failure?: number;
}

/** What is typed, and what it means. */
export type Row = readonly [typed: string, meaning: string];

export type Values<T extends Options> = ReturnType<typeof parseArgs<{ options: T }>>['values'];

/** Carries out a command. @returns the exit status */
export type Main<T extends Options> = (
  values: Values<T>,
  operands: readonly string[],
) => number | Promise<number>;

/** The command line is wrong; the message says what, and what is expected. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}

/**
 * Parses the command line, and runs the command or shows its help.
 *
 * @param args without those of Node.js
 * @returns the exit status: that of main, or of a failure, or 4 (INVALID_ARGS) for a wrong command line
 */
export async function run<const T extends Options>(
  program: Program<T>,
  main: Main<T>,
  args: readonly string[],
): Promise<number> {
  if (args.includes('--help')) {
    console.log(helpOf(program));
    return 0;
  }
  try {
    const { values, operands } = parse(program, args);
    return await main(values, operands);
  } catch (error) {
    console.error(printableLines(messageOf(error)));
    if (!(error instanceof UsageError)) return program.failure ?? 1;
    console.error(`${program.name} -- --help shows what is valid.`);
    return ExitCode.INVALID_ARGS;
  }
}

/** Runs a command as the process: its exit status is that of the process. */
export function start<const T extends Options>(
  program: Program<T>,
  main: Main<T>,
  args: readonly string[] = process.argv.slice(2),
): void {
  void run(program, main, args).then((status) => {
    process.exitCode = status;
  });
}

/**
 * Parses the command line of a script; the process ends if it is wrong, or after its help.
 *
 * @param check throws UsageError
 * @returns what check makes of it
 */
export async function commandLine<const T extends Options, R>(
  program: Program<T>,
  check: (...given: Parameters<Main<T>>) => R,
): Promise<R> {
  const results: R[] = [];
  const parsed = (...given: Parameters<Main<T>>) => results.push(check(...given));
  const status = await run(program, parsed, process.argv.slice(2));
  for (const result of results) return result;
  process.exit(status);
}

function parse<T extends Options>({ options, operands: allowed }: Program<T>, args: readonly string[]) {
  try {
    const { values, positionals } = parseArgs({
      args: [...args],
      options,
      allowPositionals: allowed !== undefined,
    });
    return { values: values as Values<T>, operands: positionals };
  } catch (error) {
    // Node.js adds how to write an operand that begins with a hyphen; there is none here.
    throw new UsageError(messageOf(error).split(/\.\s/)[0]);
  }
}

function helpOf({ name, summary, options, operands = [] }: Program<Options>): string {
  const rows = Object.entries(options).flatMap(([option, { help, value, default: fallback }]): Row[] => {
    if (help === undefined) return [];
    const typed = value === undefined ? `--${option}` : `--${option} ${value}`;
    return [[typed, fallback === undefined ? help : `${help} (default: ${fallback})`]];
  });
  const all: Row[] = [...operands, ...rows, ['--help', 'shows this']];
  return [
    `usage: ${name} -- …\n\n${summary}\n`,
    ...columns(all.map(([typed, meaning]) => [`  ${typed}`, meaning])),
  ].join('\n');
}

/** Prints one line, whatever came from outside in it. */
export function print(line: string): void {
  console.log(printableLines(printable(line)));
}

/** Aligns the columns of a table. @returns its lines */
export function columns(rows: readonly (readonly string[])[]): string[] {
  const widths = rows[0]?.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0))) ?? [];
  return rows.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd(),
  );
}
