/** Servers of a stage, as an example: what docs/images/ledger.svg shows, and test/unit/show.test.ts specifies. */

import { operationFailed } from '../functions/config-switch/barman/switch-config.ts';
import type { RecordedItem } from '../functions/config-switch/ledger/item.ts';
import type { Servers } from '../functions/config-switch/ledger/ledger.ts';

/** When it is looked at (ms since the epoch). */
export const NOW = Date.parse('2026-11-24T12:00:12.000Z');

/** @param seconds before NOW */
export const ago = (seconds: number) => new Date(NOW - 1_000 * seconds).toISOString();

const target = 'model pg:node2';

/** A desired state. @param seconds how long ago the role changed */
export const desired = (seconds: number) => ({
  ...{ target, version: `${ago(seconds)}#event`, cluster: 'c' },
  recorded_at: ago(seconds),
});

export const applied = { target, version: `${ago(260)}#event`, operation_id: 'op', applied_at: ago(259) };
export const inSync: RecordedItem = { barman_server: 'main', desired: desired(260), applied };
export const pending: RecordedItem = {
  barman_server: 'crm',
  desired: desired(12),
  applied: { ...applied, target: 'model pg:node1', applied_at: ago(400_000) },
};
/** An inspection three hours ago, without findings. */
export const inspected = { at: ago(10_800), findings: [], notes: [], unseen: [], missing: [], connected: [] };

/** One server in sync, one whose switch has failed, and one of which only the leader is known. */
export const EXAMPLE: Servers = {
  items: [
    { ...inSync, leader: 'node2', leader_since: ago(250), streaming: true, streaming_since: ago(190) },
    {
      ...{ ...pending, attempts: 1, next_attempt_at: ago(-48) },
      last_error: operationFailed('crm', { model: 'pg:node2' }, '20261124T120000').message,
      ...{ leader: 'node2', leader_since: ago(30), streaming: false, streaming_since: ago(30) },
    },
    { barman_server: 'hr', leader: 'pg-a', leader_since: ago(45), streaming: true, streaming_since: ago(45) },
  ],
  unreadable: [],
  stage: {
    heartbeat: {
      ...{ at: ago(15), interval: 60_000, version: '1.2.3' },
      clusters: [
        {
          name: 'main',
          servers: ['main', 'crm', 'hr'].map((name) => ({ name, observed: true })),
          observed_at: ago(15),
        },
      ],
    },
  },
  inspections: new Map([
    ['main', inspected],
    [
      'crm',
      {
        ...inspected,
        findings: [
          {
            ...{ kind: 'member-without-model', class: 'ready', member: 'node3', counts: true },
            since: ago(10_800),
            what: 'it has no model for Barman server crm',
            remedy: 'add [pg:node3] to barman.conf, and "node3": "pg:node3" to "crm" in clusters/main',
          },
        ],
      },
    ],
  ]),
  heard: new Map(),
};
