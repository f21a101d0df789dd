/**
 * Hosts on one machine: network namespaces on one bridge, within namespaces of our own, with which they end.
 * Packages: iproute2.
 */

import { spawnSync } from 'node:child_process';
import { asRoot, type CommandLine, run } from './processes.ts';

export const ip = (...words: string[]) => run(['ip', words]);

/**
 * @returns the command line that runs a program in namespaces of its own (unshare(1)): nothing leaves the machine, and
 *   nothing outlives it
 * @throws Error unless root runs it
 */
export function namespaced(words: readonly string[]): CommandLine {
  if (!asRoot) throw new Error('namespaces need root: run it as root, or with sudo');
  // Process 1 must collect what is orphaned, as a shell does.
  const script = 'mkdir -p /run/netns && mount -t tmpfs none /run/netns && "$@"; exit $?';
  const namespaces = ['--net', '--mount', '--pid', '--fork', '--mount-proc', '--kill-child'];
  return ['unshare', [...namespaces, 'bash', '-c', script, 'namespaces', ...words]];
}

/** Runs a program in namespaces of its own. @returns its exit status @throws Error unless root runs it */
export function inNamespaces(words: readonly string[], env: Readonly<Record<string, string>>): number {
  const { status } = spawnSync(...namespaced(words), { stdio: 'inherit', env: { ...process.env, ...env } });
  return status ?? 1;
}

/** Creates the bridge that connects the hosts. @param address its own, with the length of the prefix */
export async function createBridge(name: string, address: string, mac: string): Promise<void> {
  await ip('link', 'set', 'lo', 'up');
  await ip('link', 'add', name, 'address', mac, 'type', 'bridge');
  await ip('link', 'set', name, 'up');
  await ip('addr', 'add', address, 'dev', name);
}

/** Creates a host on a bridge. @param address with the length of the prefix */
export async function attach(host: string, bridge: string, address: string, mac: string): Promise<void> {
  await ip('netns', 'add', host);
  await ip('link', 'add', host, 'type', 'veth', 'peer', 'name', 'eth0', 'address', mac, 'netns', host);
  await ip('link', 'set', host, 'master', bridge, 'up');
  await ip('-n', host, 'link', 'set', 'lo', 'up');
  await ip('-n', host, 'addr', 'add', address, 'dev', 'eth0');
  await ip('-n', host, 'link', 'set', 'eth0', 'up');
}

/** @returns the command line that runs a command on a host */
export function on(host: string, [command, words]: CommandLine): CommandLine {
  return ['ip', ['netns', 'exec', host, command, ...words]];
}
