/** What the commands of this project have in common: options, `--help`, and errors in one line, without a stack trace. */

import { type ParseArgsOptionDescriptor, parseArgs } from 'node:util';
import { ExitCode } from '../functions/config-switch/exit-code.ts';

export interface Option extends Readonly<ParseArgsOptionDescriptor> {
  /** What it does, or what its value is. */
  readonly help: string;
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
  /** What may follow the options, and what that means; absent if nothing may. */
  readonly operands?: { readonly form: string; readonly rows: readonly Row[] };
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
 * @returns the exit status: that of main, 1 if it failed, and 4 (INVALID_ARGS) for a wrong command line
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
    console.error(messageOf(error));
    if (!(error instanceof UsageError)) return 1;
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

/** What went wrong, in words. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
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

function helpOf({ name, summary, options, operands }: Program<Options>): string {
  const rows = Object.entries(options).map(([option, descriptor]): Row => {
    const { help, default: fallback } = descriptor;
    return [
      typedOption(option, descriptor),
      fallback === undefined ? help : `${help} (default: ${fallback})`,
    ];
  });
  const all: Row[] = [...rows, ['--help', 'shows this']];
  return [
    `usage: ${name} -- [OPTIONS] ${operands?.form ?? ''}`.trimEnd(),
    `\n${summary}\n`,
    ...columns(
      [...(operands?.rows ?? []), ...all].map(([typed, meaning]) => [`  ${typed}`, meaning]),
      '  ',
    ),
  ].join('\n');
}

/** An option as one types it, with what its value is called. */
export function typedOption(name: string, { value }: Option): string {
  return value === undefined ? `--${name}` : `--${name} ${value}`;
}

/** Two columns, as lines. */
export function columns(rows: readonly Row[], separator: string): string[] {
  const width = Math.max(...rows.map(([typed]) => typed.length));
  return rows.map(([typed, meaning]) => `${typed.padEnd(width)}${separator}${meaning}`);
}
