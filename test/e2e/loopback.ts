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

/** @returns nodes and etcd on loopback */
export async function loopback(nodes = 2): Promise<Hosts> {
  const [client, peer, ...ports] = await freePorts(2 + 2 * nodes);
  const names = (['node1', 'node2', 'node3'] as const).slice(0, nodes);
  const node = (name: NodeName, index: number): [NodeName, NodeAddress] => {
    const [postgres = 0, rest = 0] = ports.slice(2 * index);
    return [name, { address: '127.0.0.1', postgres, rest }];
  };
  return {
    nodes: new Map(names.map(node)),
    etcd: { client: `http://127.0.0.1:${client}`, peer: `http://127.0.0.1:${peer}` },
    network: '127.0.0.1/32',
    on: (_, command) => command,
  };
}
