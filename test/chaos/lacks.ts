/** What a failover needs, taken away between two rounds while all is healthy: an inspection has to find that. */

import type { FINDINGS } from '../../functions/config-switch/inspect/findings.ts';
import type { NodeName } from '../e2e/cluster-files.ts';
import { until } from '../e2e/processes.ts';
import type { World } from './world.ts';

export interface Lack {
  readonly kind: keyof typeof FINDINGS;
  /** The members to which a failover would fail. */
  readonly members: readonly NodeName[];
  /** Gives it back. @returns once nothing is left of it */
  end(): unknown;
}

/**
 * Takes something away.
 *
 * @param replica of which it is taken away, where it is not of all
 * @param other replica
 */
type Take = (world: World, replica: NodeName, other: NodeName) => Promise<Lack>;

/** Changes Barman's configuration file. */
const configuration =
  (
    kind: Lack['kind'],
    change: (world: World, replica: NodeName, other: NodeName) => [string, string],
  ): Take =>
  async (world, replica, other) => {
    const [from, to] = change(world, replica, other);
    const end = world.cluster.barman.edit((text) => text.replaceAll(from, to));
    return { kind, members: [replica], end };
  };

/** Patroni's dynamic configuration. */
interface Settings {
  readonly slots?: { readonly barman?: object };
}

const SLOT = "SELECT slot_name FROM pg_replication_slots WHERE slot_name = 'barman'";

const LACKS: readonly Take[] = [
  configuration('model-missing', (_, replica) => [`[pg:${replica}]`, '[pg:unused]']),
  configuration('model-host', ({ cluster }, replica, other) => {
    const hostOf = (name: NodeName) => `host=${cluster.address(name).address} `;
    return [hostOf(replica), hostOf(other)];
  }),
  async ({ cluster }) => {
    const { names } = cluster;
    const keep = async (barman: object | null) => {
      await cluster.rest(names[0] as NodeName, 'PATCH', 'config', { slots: { barman } });
      // Each node goes on answering with what it has read before.
      const isKnown = async () => {
        const asked = names.map((name) => cluster.rest(name, 'GET', 'config') as Promise<Settings>);
        return (await Promise.all(asked)).every(({ slots }) => Boolean(slots?.barman) === Boolean(barman));
      };
      await until(isKnown, 'not all nodes know the new configuration');
    };
    await keep(null);
    const end = async () => {
      await keep({ type: 'physical' });
      for (const name of names) {
        const exists = async () => (await cluster.query(name, SLOT)) !== '';
        await until(exists, `${name} has no slot`);
      }
    };
    return { kind: 'slot-not-permanent', members: names, end };
  },
];

/** Takes something away, another thing in each round. */
export async function takeAway(world: World, round: number): Promise<Lack> {
  const leader = await world.cluster.healthy();
  const [first, second] = world.cluster.names.filter((name) => name !== leader) as [NodeName, NodeName];
  const take = LACKS[round % LACKS.length] as Take;
  return round % 2 === 0 ? take(world, first, second) : take(world, second, first);
}
