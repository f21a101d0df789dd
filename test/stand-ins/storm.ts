/** All at once: 500 events for 50 Barman servers, shuffled, over one host with one worker. */

import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ResponseBody } from '../../functions/config-switch/event/event.ts';
import type { Heartbeat } from '../../functions/config-switch/reconcile/heartbeat.ts';
import type { BarmanHost } from './barman-host.ts';
import type { PgBackupApiOptions } from './pg-backup-api.ts';
import { httpEvent, signedHeaders } from './webhook.ts';

const SERVERS = Array.from({ length: 50 }, (_, index) => `server${index + 1}`);
/** As many executions as a callback's storm gets of Lambda. */
const CONCURRENCY = 100;

/** The host that it is for. */
export const STORM_HOST = {
  servers: Object.fromEntries(SERVERS.map((server) => [server, { cluster: 'main' }])),
  requestCost: 20,
  operationTime: 700,
} satisfies PgBackupApiOptions;

interface Event {
  readonly id: string;
  readonly server: string;
  /** When the role changed, ms since the epoch. */
  readonly time: number;
  readonly change: Record<string, unknown>;
}

/** What came of a storm. */
export interface Storm {
  readonly events: number;
  /** Time until all events had their final response, and until each server was in sync (ms). */
  readonly respondedAfter: number;
  readonly inSyncAfter: number;
  /** Servers that are not at their newest event. */
  readonly wrong: readonly string[];
}

/** A failover and back, and what goes with it: the last promotion is the newest. */
function eventsOf(server: string, index: number): Event[] {
  const start = Date.now() - 120_000;
  const promote = (model: string) => ({ role: 'primary', barman_model: model });
  const models = index % 2 === 0 ? ['pg:node1', 'pg:node2'] : ['pg:node2', 'pg:node1'];
  const changes = [
    promote(models[1] as string),
    { role: 'replica', barman_model: models[0] },
    promote(models[0] as string),
    { role: 'replica', barman_model: models[1] },
    { role: 'primary', reset: true },
    promote(models[0] as string),
    promote(models[1] as string),
  ];
  const events = changes.map((change, step) => ({
    id: `msg_${randomUUID()}`,
    server,
    time: start + step * 10_000,
    change,
  }));
  // Some come twice, and so does the very first, when all is over.
  return [...events, ...events.slice(-2), ...events.slice(0, 1)];
}

/**
 * Sends one, and waits until the heartbeat finds nothing pending.
 *
 * @param host made with STORM_HOST
 * @param send invokes the function
 */
export async function storm(host: BarmanHost, send: (event: object) => Promise<unknown>): Promise<Storm> {
  const events = SERVERS.flatMap(eventsOf);
  for (let index = events.length - 1; index > 0; index -= 1) {
    const other = Math.floor(Math.random() * (index + 1));
    [events[index], events[other]] = [events[other] as Event, events[index] as Event];
  }
  const deliver = async ({ id, server, time, change }: Event): Promise<void> => {
    for (;;) {
      const body = JSON.stringify({
        action: 'on_role_change',
        cluster: 'main',
        barman_server: server,
        ...change,
        age_ms: Date.now() - time,
      });
      const event = httpEvent(body, signedHeaders(host.webhookSecret, body, { id }));
      const response = JSON.parse(((await send(event)) as { body: string }).body) as ResponseBody;
      // As the callback: what is not recorded is sent again.
      if (response.recorded || response.exit_code === 1) return;
      await sleep(100);
    }
  };

  const start = performance.now();
  const waiting = [...events];
  await Promise.all(
    Array.from({ length: CONCURRENCY }, async () => {
      for (let event = waiting.pop(); event; event = waiting.pop()) await deliver(event);
    }),
  );
  const respondedAfter = performance.now() - start;
  while (((await send({ heartbeat: true })) as Heartbeat).pending > 0) await sleep(1_000);
  const wrong = SERVERS.filter(
    (server, index) => host.api.activeModel(server) !== (index % 2 === 0 ? 'pg:node2' : 'pg:node1'),
  );
  return { events: events.length, respondedAfter, inSyncAfter: performance.now() - start, wrong };
}
