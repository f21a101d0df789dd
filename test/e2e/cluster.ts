/** A cluster on loopback, for the tests that vitest runs. */

import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { inject } from 'vitest';
import type { ClusterOptions } from './cluster-files.ts';
import { loopback } from './loopback.ts';
import { PatroniCluster } from './patroni-cluster.ts';

/** Interval of Barman's cron (ms); in production one minute. */
const CRON = 2_000;

/** @param nodes how many @returns once all nodes are healthy; node1 is the leader */
export async function startCluster({
  nodes = 2,
  ...options
}: Omit<ClusterOptions, 'hosts' | 'folder' | 'tools' | 'cron'> & {
  readonly nodes?: number;
}): Promise<PatroniCluster> {
  const folder = mkdtempSync(join(inject('folder'), 'cluster-'));
  return PatroniCluster.start({
    hosts: await loopback(nodes),
    folder,
    tools: inject('tools'),
    cron: CRON,
    ...options,
  });
}
