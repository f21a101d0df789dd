/** What a heartbeat writes into the ledger of what it found. */

import { describe, expect, test } from 'vitest';
import type { HeartbeatReport } from '../../functions/config-switch/ledger/stage.ts';
import type { Cluster } from '../../functions/config-switch/patroni/cluster.ts';
import { type Found, reportOf, type SeenClusters } from '../../functions/config-switch/reconcile/report.ts';
import { at, NOW, useVirtualTime } from './virtual-time.ts';

useVirtualTime();

const MINUTE = 60_000;
const ABOUT = { interval: MINUTE, version: '1' };
const NOTHING: Found = { unreachable: undefined, not_ready: [], lasting: [] };
const MEMBERS = { node1: 'pg:node1' };

/** A cluster, as its parameter lists its servers. */
const clusterWith = (name: string, servers: Record<string, Record<string, string>>): Cluster => ({
  ...{ name, scope: name, secrets: [], patroni: [], streaming_archiver_name: null },
  servers: new Map(
    Object.entries(servers).map(([server, members]) => [server, new Map(Object.entries(members))]),
  ),
});
const EAST = clusterWith('east', { main: MEMBERS });
const WEST = clusterWith('west', { crm: MEMBERS });

/** Returns what is reported of clusters. @param last what the last heartbeat reported of them */
function clusterReports(clusters: Partial<SeenClusters>, last?: HeartbeatReport['clusters']) {
  const before = last && { ...ABOUT, at: at(-MINUTE), clusters: last };
  return reportOf(ABOUT, { clusters: [], seen: [], unknown: [], ...clusters }, NOTHING, before).clusters;
}

describe('the reasons in the report of a heartbeat', () => {
  test('have at most 500 characters: why a server cannot be switched', () => {
    const not_ready = [{ barman_server: 'main', message: 'x'.repeat(900) }];
    const { not_ready: reported } = reportOf(
      ABOUT,
      { clusters: [], seen: [], unknown: [] },
      { ...NOTHING, not_ready },
      undefined,
    );
    expect(reported).toEqual([{ barman_server: 'main', message: 'x'.repeat(500) }]);
  });

  test('have at most 500 characters: why the parameters are unavailable', () => {
    const last = [{ name: 'east', servers: [] }];
    expect(clusterReports({ clusters: new Error('x'.repeat(900)) }, last)).toEqual([
      { ...last[0], unknown: 'x'.repeat(500) },
    ]);
  });
});

describe('the clusters in the report of a heartbeat', () => {
  test('are none while the parameters were never available', () => {
    expect(clusterReports({ clusters: new Error('SSM: throttled') })).toEqual([]);
  });

  test('have, while the leader is unknown, the time at which their own was last known', () => {
    const unknown = [{ cluster: 'west', reason: 'no node answered' }];
    const last = [
      { name: 'east', servers: [], observed_at: at(-MINUTE) },
      { name: 'west', servers: [], observed_at: at(-9 * MINUTE) },
    ];
    const seen = [EAST, WEST].map((cluster) => ({ cluster, at: NOW, observation: { leader: 'node1' } }));
    expect(clusterReports({ clusters: [EAST, WEST], seen, unknown }, last)).toMatchObject([
      { name: 'east', observed_at: at(0) },
      { name: 'west', observed_at: at(-9 * MINUTE), unknown: 'no node answered' },
    ]);
  });

  test('are not known because of a server that has members in several of them', () => {
    // Patroni of this cluster is not asked, and the other one has no leader that is known.
    const reason = 'no site has a leader that is known to be a primary';
    const seen = [
      {
        ...{ cluster: EAST, barman_server: 'main', sites: ['east', 'west'], at: NOW },
        observation: { unknown: reason },
      },
    ];
    const unknown = [{ cluster: 'east', barman_server: 'main', reason }];
    expect(clusterReports({ clusters: [EAST], seen, unknown })).toEqual([
      { name: 'east', servers: [{ name: 'main', observed: true, unknown: reason }] },
    ]);
  });

  test('have a server without members as one that is not observed', () => {
    const cluster = clusterWith('east', { main: MEMBERS, idle: {} });
    const seen = [{ cluster, at: NOW, observation: { leader: 'node1' } }];
    expect(clusterReports({ clusters: [cluster], seen })).toMatchObject([
      {
        servers: [
          { name: 'main', observed: true },
          { name: 'idle', observed: false },
        ],
      },
    ]);
  });
});
