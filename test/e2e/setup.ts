/** Setup of the end-to-end tests: the tools from Debian and PyPI, and an emulator of AWS on loopback. */

import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, openSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { TestProject } from 'vitest/node';
import { installFromPyPI, toolFolder } from '../tools.ts';
import { freePort } from './loopback.ts';
import { type CommandLine, POSTGRESQL, POSTGRESQL_VERSION } from './processes.ts';

/** Readable by user postgres. */
export const FOLDER = toolFolder('e2e');
const REQUIREMENTS = 'test/e2e/requirements.txt';
/** Time limit for the emulator to listen (ms). */
const START_TIMEOUT = 60_000;

declare module 'vitest' {
  export interface ProvidedContext {
    /** URL of the emulator. */
    endpoint: string;
    /** Folder of the tools' programs. */
    tools: string;
    /** Folder for temporary files. */
    folder: string;
  }
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const tools = installTools();
  const { endpoint, child } = await startMinistack(tools, FOLDER);
  project.provide('endpoint', endpoint);
  project.provide('tools', tools);
  project.provide('folder', FOLDER);
  return async () => {
    const ended = once(child, 'exit');
    child.kill();
    await ended;
  };
}

/** Files that show whether a Debian package is installed. */
const PACKAGES: Readonly<Record<string, string>> = {
  '/usr/bin/curl': 'curl',
  '/usr/bin/etcd': 'etcd-server',
  // Barman looks at WAL with it.
  '/usr/bin/file': 'file',
  '/usr/bin/jq': 'jq',
  '/usr/sbin/ip': 'iproute2',
  '/usr/sbin/logrotate': 'logrotate',
  '/usr/sbin/nginx': 'nginx-light',
  '/usr/bin/openssl': 'openssl',
  '/usr/bin/pgrep': 'procps',
  '/usr/bin/rsync': 'rsync',
  [`${POSTGRESQL}/postgres`]: `postgresql-${POSTGRESQL_VERSION}`,
  '/usr/share/doc/python3-venv': 'python3-venv',
};

/** Installs what the tests need, where it is missing. @returns the folder of the programs from PyPI */
export function installTools(): string {
  installPackages();
  console.log(`The tools of ${REQUIREMENTS} are installed from PyPI into ${FOLDER}`);
  return installFromPyPI(FOLDER, readFileSync(REQUIREMENTS, 'utf8'));
}

function installPackages(): void {
  const missing = Object.keys(PACKAGES)
    .filter((path) => !existsSync(path))
    .map((path) => PACKAGES[path] as string);
  if (missing.length === 0) return;
  console.log(`Installing ${missing.join(', ')} from Debian …`);
  const apt = (...words: string[]) => {
    const command = ['apt-get', '-qq', ...words];
    if (process.getuid?.() !== 0) command.unshift('sudo', '--preserve-env=DEBIAN_FRONTEND,RUNLEVEL');
    // In runlevel 1 the installed services are not started.
    const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive', RUNLEVEL: '1' };
    execFileSync(command[0] as string, command.slice(1), { stdio: ['ignore', 'ignore', 'inherit'], env });
  };
  apt('update');
  apt('install', '-y', ...missing);
}

/**
 * Starts the emulator of AWS.
 *
 * @param tools the folder of its program
 * @param folder for its files
 * @param address on which it listens
 * @param on makes the command line that runs a command on its host; default: this one
 * @returns once it listens @throws Error with its log if it does not
 */
export async function startMinistack(
  tools: string,
  folder: string,
  address = '127.0.0.1',
  on = (command: CommandLine) => command,
): Promise<{ endpoint: string; child: ChildProcess }> {
  const port = await freePort();
  const log = join(folder, 'ministack.log');
  const output = openSync(log, 'w');
  const child = spawn(...on([join(tools, 'ministack'), []]), {
    cwd: folder,
    stdio: ['ignore', output, output],
    env: {
      ...process.env,
      // It runs functions with the first `node` in PATH: the project's Node.js 24.
      PATH: `${resolve('node_modules/.bin')}:${process.env.PATH}`,
      GATEWAY_PORT: String(port),
      BIND_HOST: address,
      // Functions find it there.
      AWS_ENDPOINT_URL: `http://${address}:${port}`,
      // Lambda itself waits one minute before it retries an asynchronous invocation.
      LAMBDA_ASYNC_RETRY_BASE_SECONDS: '1',
    },
  });
  const endpoint = `http://${address}:${port}`;
  const end = performance.now() + START_TIMEOUT;
  while (
    !(await fetch(`${endpoint}/_ministack/health`).then(
      ({ ok }) => ok,
      () => false,
    ))
  ) {
    if (child.exitCode !== null || performance.now() > end) {
      child.kill();
      throw new Error(`ministack did not start:\n${readFileSync(log, 'utf8')}`);
    }
    await sleep(100);
  }
  return { endpoint, child };
}

// Run as a script, it only installs the tools.
if (import.meta.main) installTools();
