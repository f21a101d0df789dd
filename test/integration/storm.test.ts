/** All at once: 500 events for 50 Barman servers, shuffled, over one host with one worker. */

import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { signedHeaders } from '../stand-ins/webhook.ts';
import { PROMOTION, startFunction } from './function.ts';

const SERVERS = Array.from({ length: 50 }, (_, index) => `server${index + 1}`);
/** As many executions as a callback's storm gets of Lambda. */
const CONCURRENCY = 100;

interface Event {
  readonly id: string;
  readonly server: string;
  /** When the role changed, ms since the epoch. */
  readonly time: number;
  readonly change: Record<string, unknown>;
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

test('a storm of 500 events ends with each server at its newest, and with nothing lost', async () => {
  await using run = await startFunction({
    servers: Object.fromEntries(SERVERS.map((server) => [server, { cluster: 'main' }])),
    requestCost: 20,
    operationTime: 700,
  });
  const events = SERVERS.flatMap(eventsOf);
  expect(events).toHaveLength(500);
  for (let index = events.length - 1; index > 0; index -= 1) {
    const other = Math.floor(Math.random() * (index + 1));
    [events[index], events[other]] = [events[other] as Event, events[index] as Event];
  }

  const send = async ({ id, server, time, change }: Event): Promise<void> => {
    for (;;) {
      const payload = { ...PROMOTION, barman_model: undefined, ...change, barman_server: server };
      const body = JSON.stringify({ ...payload, age_ms: Date.now() - time });
      const headers = signedHeaders(run.host.webhookSecret, body, { id });
      const { answer } = await run.webhook(body, { headers });
      // As the callback: what is not recorded is sent again.
      if (answer.recorded || answer.exit_code === 1) return;
      await sleep(100);
    }
  };
  const waiting = [...events];
  await Promise.all(
    Array.from({ length: CONCURRENCY }, async () => {
      for (let event = waiting.pop(); event; event = waiting.pop()) await send(event);
    }),
  );
  await expect
    .poll(() => run.send({ heartbeat: true }), { timeout: 120_000, interval: 1_000 })
    .toMatchObject({ behind: 0 });

  const wrong = SERVERS.filter(
    (server, index) => run.host.api.activeModel(server) !== (index % 2 === 0 ? 'pg:node2' : 'pg:node1'),
  );
  expect(wrong).toEqual([]);
  // Each server is driven by one at a time, who has one request at a time.
  expect(run.host.api.longestQueue).toBeLessThanOrEqual(SERVERS.length + 1);
}, 240_000);
