/** Hosts on one machine: network namespaces on one bridge, and cuts between them. Packages: iproute2. */

import { spawnSync } from 'node:child_process';
import type { NodeName } from '../e2e/cluster-files.ts';
import { asRoot, type CommandLine, run } from '../e2e/processes.ts';

/** Host → address. The nemesis itself has the bridge's address, and is never cut off. */
export const ADDRESS = {
  node1: '10.77.0.11',
  node2: '10.77.0.12',
  node3: '10.77.0.13',
  etcd: '10.77.0.2',
  aws: '10.77.0.3',
  barman: '10.77.0.4',
} as const;
export type Host = keyof typeof ADDRESS;
export const HOSTS = Object.keys(ADDRESS) as Host[];
export const NODES: readonly NodeName[] = ['node1', 'node2', 'node3'];
/** Of all hosts, and of the nemesis. */
export const NETWORK = '10.77.0.0/24';
/** The bridge's address. */
export const OWN_ADDRESS = '10.77.0.254';
const BRIDGE = 'chaos';
const BRIDGE_MAC = '02:00:00:00:00:fe';
/** No host has this one, so that what is sent to it is lost without an error, as in a broken network. */
const NOWHERE = '02:00:00:00:00:ff';

const ip = (...words: string[]) => run(['ip', words]);
const macOf = (host: Host) => `02:00:00:00:00:${String(HOSTS.indexOf(host) + 1).padStart(2, '0')}`;

/**
 * Runs a program in namespaces of its own (unshare(1)): nothing leaves the machine, and nothing outlives it.
 *
 * @returns its exit status
 */
export function inNamespaces(words: readonly string[], env: Readonly<Record<string, string>>): number {
  if (!asRoot) throw new Error('namespaces need root: run it as root, or with sudo');
  // Process 1 must collect what is orphaned, as a shell does.
  const script = 'mkdir -p /run/netns && mount -t tmpfs none /run/netns && "$@"; exit $?';
  const namespaces = ['--net', '--mount', '--pid', '--fork', '--mount-proc', '--kill-child'];
  const all = [...namespaces, 'bash', '-c', script, 'namespaces', ...words];
  const { status } = spawnSync('unshare', all, { stdio: 'inherit', env: { ...process.env, ...env } });
  return status ?? 1;
}

/** Creates the hosts. Only in namespaces of our own (`inNamespaces`): they end with them. */
export async function createNetwork(): Promise<void> {
  await ip('link', 'set', 'lo', 'up');
  // Without an address of its own it would change with its ports, and the kernel forget all neighbours then.
  await ip('link', 'add', BRIDGE, 'address', BRIDGE_MAC, 'type', 'bridge');
  await ip('link', 'set', BRIDGE, 'up');
  await ip('addr', 'add', `${OWN_ADDRESS}/24`, 'dev', BRIDGE);
  for (const host of HOSTS) {
    await ip('netns', 'add', host);
    const peer = ['peer', 'name', 'eth0', 'address', macOf(host), 'netns', host];
    await ip('link', 'add', host, 'type', 'veth', ...peer);
    await ip('link', 'set', host, 'master', BRIDGE, 'up');
    await ip('-n', host, 'link', 'set', 'lo', 'up');
    await ip('-n', host, 'addr', 'add', `${ADDRESS[host]}/24`, 'dev', 'eth0');
    await ip('-n', host, 'link', 'set', 'eth0', 'up');
  }
  for (const [a, b] of pairs(HOSTS)) await connect(a, b);
}

/** @returns the command line that runs a command on a host */
export function on(host: Host, [command, words]: CommandLine): CommandLine {
  return ['ip', ['netns', 'exec', host, command, ...words]];
}

/** Loses all packets between two hosts, in both directions. */
export async function cut(a: Host, b: Host): Promise<void> {
  await neighbour(a, b, NOWHERE);
  await neighbour(b, a, NOWHERE);
}

/** Ends a cut. */
export async function connect(a: Host, b: Host): Promise<void> {
  await neighbour(a, b, macOf(b));
  await neighbour(b, a, macOf(a));
}

/** Loses all packets from and to a host, those of the nemesis included. */
export async function isolate(host: Host): Promise<void> {
  // Without it the kernel would say after three seconds that there is no such host.
  await ip('neigh', 'replace', ADDRESS[host], 'lladdr', macOf(host), 'dev', BRIDGE, 'nud', 'permanent');
  await ip('link', 'set', host, 'nomaster');
}

/** Ends an isolation. */
export async function rejoin(host: Host): Promise<void> {
  await ip('link', 'set', host, 'master', BRIDGE);
}

/** Permanent, so that the kernel does not ask for an address that a cut has hidden. */
async function neighbour(of: Host, to: Host, mac: string): Promise<void> {
  await ip('-n', of, 'neigh', 'replace', ADDRESS[to], 'lladdr', mac, 'dev', 'eth0', 'nud', 'permanent');
}

/** Each two of a list. */
export function pairs<T>(list: readonly T[]): [T, T][] {
  return list.flatMap((a, index) => list.slice(index + 1).map((b): [T, T] => [a, b]));
}
