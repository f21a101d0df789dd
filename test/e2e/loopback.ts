/** Servers on free ports of loopback. */

import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import type { Hosts, NodeAddress, NodeName } from './cluster-files.ts';

/** @returns ports that are free now */
async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer().listen(0, '127.0.0.1'));
  await Promise.all(servers.map((server) => once(server, 'listening')));
  const ports = servers.map((server) => (server.address() as AddressInfo).port);
  await Promise.all(servers.map((server) => once(server.close(), 'close')));
  return ports;
}

/** @returns a port that is free now */
export async function freePort(): Promise<number> {
  return (await freePorts(1))[0] as number;
}

/** @returns two nodes and etcd on loopback */
export async function loopback(): Promise<Hosts> {
  const [client, peer, ...ports] = await freePorts(6);
  const node = (name: NodeName, [postgres = 0, rest = 0]: number[]): [NodeName, NodeAddress] => [
    name,
    { address: '127.0.0.1', postgres, rest },
  ];
  return {
    nodes: new Map([node('node1', ports.slice(0, 2)), node('node2', ports.slice(2))]),
    etcd: { client: `http://127.0.0.1:${client}`, peer: `http://127.0.0.1:${peer}` },
    network: '127.0.0.1/32',
    on: (_, command) => command,
  };
}
