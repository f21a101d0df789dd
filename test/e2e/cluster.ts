/** A cluster of two nodes on loopback, for the tests that vitest runs. */

import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { inject } from 'vitest';
import type { ClusterOptions } from './cluster-files.ts';
import { loopback } from './loopback.ts';
import { PatroniCluster } from './patroni-cluster.ts';

/** Interval of Barman's cron (ms); in production one minute. */
const CRON = 2_000;

/** @returns once both nodes are healthy; node1 is the leader */
export async function startCluster(
  options: Omit<ClusterOptions, 'hosts' | 'folder' | 'tools' | 'cron'>,
): Promise<PatroniCluster> {
  const folder = mkdtempSync(join(inject('folder'), 'cluster-'));
  return PatroniCluster.start({
    hosts: await loopback(),
    folder,
    tools: inject('tools'),
    cron: CRON,
    ...options,
  });
}
