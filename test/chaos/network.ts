/** Hosts on one machine: network namespaces on one bridge, and cuts between them. Packages: iproute2. */

import type { NodeName } from '../e2e/cluster-files.ts';
import { attach, createBridge, ip } from '../e2e/namespaces.ts';

/** Host → address. The nemesis itself has the bridge's address, and is never cut off. */
export const ADDRESS = {
  node1: '10.77.0.11',
  node2: '10.77.0.12',
  node3: '10.77.0.13',
  etcd: '10.77.0.2',
  aws: '10.77.0.3',
  barman: '10.77.0.4',
  /** The standby site: a node, and its etcd. */
  site1: '10.77.0.21',
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

const macOf = (host: Host) => `02:00:00:00:00:${String(HOSTS.indexOf(host) + 1).padStart(2, '0')}`;

/** Creates the hosts. Only in namespaces of our own (`inNamespaces`): they end with them. */
export async function createNetwork(): Promise<void> {
  // Without an address of its own it would change with its ports, and the kernel forget all neighbours then.
  await createBridge(BRIDGE, `${OWN_ADDRESS}/24`, BRIDGE_MAC);
  for (const host of HOSTS) await attach(host, BRIDGE, `${ADDRESS[host]}/24`, macOf(host));
  for (const [a, b] of pairs(HOSTS)) await connect(a, b);
}

/** Loses all packets between two hosts, in both directions. */
export async function cut(a: Host, b: Host): Promise<void> {
  await neighbour(a, b, NOWHERE);
  await neighbour(b, a, NOWHERE);
}

/** The command `ip` that, on a host, loses all packets to another one. */
export function losesPackets(to: Host): string[] {
  return ['neigh', 'replace', ADDRESS[to], 'lladdr', NOWHERE, 'dev', 'eth0', 'nud', 'permanent'];
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
