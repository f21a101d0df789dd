/** What an operator does between two rounds: PostgreSQL may be unable to go on with what SIGKILL has left. */

import type { PatroniCluster } from '../e2e/patroni-cluster.ts';
import { until } from '../e2e/processes.ts';

/** How long a healthy node may need to stream again, and any node to start (ms). */
const PATIENCE = 40_000;
const START_TIMEOUT = 120_000;

/**
 * Waits until all nodes are healthy, with an operator's help.
 *
 * @throws Error if a node is not healthy even after that
 */
export async function repair(cluster: PatroniCluster, say: (text: string) => void): Promise<void> {
  const isHealthy = async () => (await cluster.unhealthy()).length === 0;
  const recovers = until(isHealthy, '', PATIENCE).then(() => true);
  if (await recovers.catch(() => false)) return;
  if (!(await cluster.agreedLeader())) {
    const name = (await cluster.leader()) ?? 'node1';
    say(`there is no leader: kill ${name}, so that another one is promoted`);
    await cluster.kill(name);
    await until(() => cluster.leader(), 'no other node is promoted', START_TIMEOUT);
    cluster.startNode(name);
    await until(() => cluster.agreedLeader(), 'the nodes do not agree on a leader', START_TIMEOUT);
  }
  for (const name of await cluster.unhealthy()) {
    say(`reinitialize ${name}, which does not stream`);
    await cluster.rest(name, 'POST', 'reinitialize', { force: true }).catch(({ message }) => say(message));
  }
  await until(isHealthy, 'a node is not healthy after it was reinitialized', START_TIMEOUT);
}
