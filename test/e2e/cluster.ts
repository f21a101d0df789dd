/** A cluster on loopback, for the tests that vitest runs. */

import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { inject } from 'vitest';
import type { ClusterOptions, Hosts } from './cluster-files.ts';
import { loopback } from './loopback.ts';
import { PatroniCluster } from './patroni-cluster.ts';

/** Interval of Barman's cron (ms); in production one minute. */
const CRON = 2_000;

/**
 * @param nodes how many
 * @param hosts default: on free ports of loopback
 * @returns once all nodes are healthy; node1 is the leader
 */
export async function startCluster({
  nodes = 2,
  hosts,
  ...options
}: Omit<ClusterOptions, 'hosts' | 'folder' | 'tools' | 'cron'> & {
  readonly nodes?: number;
  readonly hosts?: Hosts;
}): Promise<PatroniCluster> {
  const folder = mkdtempSync(join(inject('folder'), 'cluster-'));
  return PatroniCluster.start({
    hosts: hosts ?? (await loopback(nodes)),
    folder,
    tools: inject('tools'),
    cron: CRON,
    ...options,
  });
}
