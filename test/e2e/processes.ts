/** Processes of the real software and their files, of user postgres: PostgreSQL refuses to run as root. */

import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { chmodSync, chownSync, existsSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';

/** A command and its arguments. */
export type CommandLine = readonly [command: string, words: readonly string[]];

/** PostgreSQL's major version; `npm run e2e:17` sets another one. */
export const POSTGRESQL_VERSION = process.env.POSTGRESQL_VERSION ?? '15';
/** Debian's folder of PostgreSQL's programs. */
export const POSTGRESQL = `/usr/lib/postgresql/${POSTGRESQL_VERSION}/bin`;
/** Whether the tests run as root. */
export const asRoot = process.getuid?.() === 0;

/** @returns the command line that runs a command as user postgres */
export function asPostgres(command: string, words: readonly string[]): CommandLine {
  return asRoot ? ['runuser', ['-u', 'postgres', '--', command, ...words]] : [command, words];
}

/** @returns the command line that runs a command as a user of a service, with the home of that user */
export function atHome(user: string, ...words: string[]): CommandLine {
  return ['runuser', ['-u', user, '--', 'env', `HOME=/var/lib/${user}`, ...words]];
}

/** Runs a command to its end. @returns what it printed @throws as `execFile` does */
export async function run([command, words]: CommandLine, timeout = 0): Promise<string> {
  return (await promisify(execFile)(command, words, { timeout })).stdout;
}

/** Runs a command. @returns what it printed until it ended, or failed, or until the time limit (ms) */
export async function outputOf([command, words]: CommandLine, timeout: number): Promise<string> {
  const { stdout, stderr } = await promisify(execFile)(command, words, { timeout }).catch(
    (error: { stdout: string; stderr: string }) => error,
  );
  return stdout + stderr;
}

/** Starts a process that writes to a log file. */
export function startLogged([command, words]: CommandLine, log: string): ChildProcess {
  const file = openSync(log, 'a');
  return spawn(command, words, { stdio: ['ignore', file, file] });
}

/** @returns whether a process has not ended yet */
export function isRunning(child: ChildProcess | undefined): child is ChildProcess {
  return child !== undefined && child.exitCode === null && child.signalCode === null;
}

/** Writes a file that postgres owns. */
export function writeOwned(file: string, text: string, mode: number): void {
  writeFileSync(file, text);
  own(file, mode);
}

/** Sets the mode, and makes postgres the owner. */
export function own(file: string, mode: number): void {
  chmodSync(file, mode);
  if (!asRoot) return;
  const [, , uid, gid] = (/^postgres:.*$/m.exec(readFileSync('/etc/passwd', 'utf8'))?.[0] ?? '').split(':');
  chownSync(file, Number(uid), Number(gid));
}

/** @returns the ids of a process and of all that it has started; its own is the last */
export async function processTree(pid: number): Promise<number[]> {
  const { stdout } = await promisify(execFile)('pgrep', ['-P', String(pid)]).catch(() => ({ stdout: '' }));
  const children = stdout.trim().split('\n').filter(Boolean).map(Number);
  return [...(await Promise.all(children.map(processTree))).flat(), pid];
}

/** @returns the id of the PostgreSQL server that uses a data directory; 0 if none does */
export function postmasterPid(dataDirectory: string): number {
  const file = join(dataDirectory, 'postmaster.pid');
  return existsSync(file) ? Number(readFileSync(file, 'utf8').split('\n')[0]) : 0;
}

/** Sends a signal, unless the process has already ended. */
export function send(pid: number, signal: NodeJS.Signals): void {
  try {
    if (pid > 0) process.kill(pid, signal);
  } catch {
    // It has already ended.
  }
}

/**
 * Polls a condition.
 *
 * @param limit ms
 * @throws Error with the message if it does not hold within the limit
 */
export async function until(
  condition: () => unknown,
  message: string | (() => string),
  limit = 60_000,
): Promise<void> {
  const end = performance.now() + limit;
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(typeof message === 'string' ? message : message());
    await sleep(100);
  }
}
