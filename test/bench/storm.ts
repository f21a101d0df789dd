/**
 * A storm: 500 events for 50 Barman servers at once, in any order, some twice; the host has one worker. And the
 * opposite: all of these servers fail over at once, and no event comes.
 */

import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ResponseBody } from '../../functions/config-switch/event/event.ts';
import type { Heartbeat } from '../../functions/config-switch/reconcile/heartbeat.ts';
import { inOneCluster, startBarmanHost } from '../stand-ins/barman-host.ts';
import { PatroniStandIn } from '../stand-ins/patroni-rest-api.ts';
import { httpEvent, PROMOTION, signedHeaders } from '../stand-ins/webhook.ts';
import { ms, percent, table } from './report.ts';
import { createFunction, ssm } from './world.ts';

const SERVERS = Array.from({ length: 50 }, (_, index) => `server${index + 1}`);
/** As many executions as a callback's storm gets of Lambda. */
const CONCURRENCY = 100;
/** Time that a request takes the host, and that an operation takes (ms). */
const HOST = { requestCost: 20, operationTime: 700 };

interface Event {
  readonly id: string;
  readonly server: string;
  /** When the role changed (ms since the epoch). */
  readonly time: number;
  readonly change: Record<string, unknown>;
}

/** The models of a server's first leader and of its other node: they differ from server to server. */
const modelsOf = (index: number) => (index % 2 === 0 ? ['pg:node1', 'pg:node2'] : ['pg:node2', 'pg:node1']);

/** A failover and back, and what goes with it: the last promotion, of the second model, is the newest. */
function eventsOf(server: string, index: number): Event[] {
  const start = Date.now() - 120_000;
  const [first, second] = modelsOf(index);
  const changes = [
    { role: 'primary', barman_model: second },
    { role: 'replica', barman_model: first },
    { role: 'primary', barman_model: first },
    { role: 'replica', barman_model: second },
    { role: 'primary', reset: true },
    { role: 'primary', barman_model: first },
    { role: 'primary', barman_model: second },
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

function shuffle(list: unknown[]): void {
  for (let index = list.length - 1; index > 0; index -= 1) {
    const other = Math.floor(Math.random() * (index + 1));
    [list[index], list[other]] = [list[other], list[index]];
  }
}

/**
 * Measures how long all responses take, and until the heartbeat finds nothing pending.
 *
 * @throws Error if a server is not at its newest event then, or if requests were sent for one without its
 * lease
 */
export async function benchStorm(): Promise<void> {
  const path = '/storm/';
  await using host = await startBarmanHost({ servers: inOneCluster(SERVERS), ...HOST }, ssm, path);
  const invoke = await createFunction(path);
  const deliver = async ({ id, server, time, change }: Event): Promise<void> => {
    for (;;) {
      const common = { action: 'on_role_change', cluster: 'main', barman_server: server };
      const body = JSON.stringify({ ...common, ...change, age_ms: Date.now() - time });
      const event = httpEvent(body, signedHeaders(host.webhookSecret, body, { id }));
      const response = JSON.parse(((await invoke(event)) as { body: string }).body) as ResponseBody;
      // As the callback: what is not recorded is sent again.
      if (response.recorded || response.exit_code === 1) return;
      await sleep(100);
    }
  };

  const events = SERVERS.flatMap(eventsOf);
  shuffle(events);
  const waiting = [...events];
  const start = performance.now();
  await Promise.all(
    Array.from({ length: CONCURRENCY }, async () => {
      for (let event = waiting.pop(); event; event = waiting.pop()) await deliver(event);
    }),
  );
  const respondedAfter = performance.now() - start;
  while (((await invoke({ heartbeat: true })) as Heartbeat).pending > 0) await sleep(1_000);
  const inSyncAfter = performance.now() - start;

  const wrong = SERVERS.filter((server, index) => host.api.activeModel(server) !== modelsOf(index)[1]);
  const operations = SERVERS.flatMap((server) => host.api.operations(server)).length;
  // If each event had its own operation, it would take at least two requests: the creation and one poll.
  const most = 1_000 / (2 * HOST.requestCost);
  const rate = (1_000 * events.length) / respondedAfter;
  table(
    'storm',
    `A storm: ${events.length} events for ${SERVERS.length} Barman servers, ${HOST.requestCost} ms per request, one worker`,
    [
      {
        'all responses after': ms(respondedAfter),
        'events per second': rate.toFixed(0),
        'switches per second, at most': most.toFixed(0),
        ratio: percent(rate / most),
        operations,
        'all in sync after': ms(inSyncAfter),
        'lost or wrong': wrong.length,
      },
    ],
  );
  if (wrong.length > 0) throw new Error(`not at their newest event: ${wrong.join(', ')}`);
  // Only the invocation with the lease sends requests for a server, one at a time; the heartbeat's probe is
  // one more.
  const { longestQueue } = host.api;
  if (longestQueue > SERVERS.length + 1) throw new Error(`${longestQueue} requests at the same time`);
}

/** Cost of a request for a host whose servers fail over without an event (ms). */
const SILENT_HOSTS = [12, 450];
/** Between two heartbeats, and until all servers have to follow (ms). */
const SILENT = { heartbeat: 60_000, limit: 240_000 };

/** Has all servers fail over right after a heartbeat, and beats until each was switched. @returns a row */
async function failOverSilently(requestCost: number) {
  const path = `/silent-${requestCost}/`;
  const { operationTime } = HOST;
  const options = { servers: inOneCluster(SERVERS), requestCost, operationTime };
  await using host = await startBarmanHost(options, ssm, path);
  await using stack = new AsyncDisposableStack();
  const clusters = await Promise.all(SERVERS.map((scope) => PatroniStandIn.start({ scope })));
  for (const [index, name] of SERVERS.entries()) {
    const { urls } = stack.use(clusters[index] as PatroniStandIn);
    const servers = { [name]: { node1: 'pg:node1', node2: 'pg:node2' } };
    host.put({ [`clusters/${name}`]: JSON.stringify({ servers, patroni: urls }) });
  }
  const invoke = await createFunction(path);
  // Each was set to its leader once: an event that is older than any observation.
  for (const barman_server of SERVERS) {
    const payload = { ...PROMOTION, barman_server, barman_model: 'pg:node1', age_ms: 240_000 };
    const body = JSON.stringify(payload);
    await invoke(httpEvent(body, signedHeaders(host.webhookSecret, body)));
  }
  const done = (server: string) =>
    host.api.operations(server).filter(({ target, success }) => target === 'pg:node2' && success);
  const start = performance.now();
  for (const cluster of clusters) cluster.leader = 'node2';
  let heartbeats = 0;
  while (!SERVERS.every((server) => done(server).length > 0)) {
    heartbeats += 1;
    if (heartbeats * SILENT.heartbeat > SILENT.limit) break;
    await sleep(start + heartbeats * SILENT.heartbeat - performance.now());
    await invoke({ heartbeat: true });
  }
  const ends = SERVERS.map((server) => (done(server)[0]?.endedAt ?? Number.POSITIVE_INFINITY) - start);
  if (Math.max(...ends) > SILENT.limit) throw new Error(`not followed within ${SILENT.limit} ms: ${ends}`);
  const seconds = (time: number) => `${Math.round(time / 1_000)} s`;
  return {
    'cost per request': ms(requestCost),
    heartbeats,
    'first server follows after': seconds(Math.min(...ends)),
    'all follow after': seconds(Math.max(...ends)),
    limit: seconds(SILENT.limit),
    operations: SERVERS.flatMap(done).length,
  };
}

/** Measures how soon all servers follow if they fail over at once, and only heartbeats see it. */
export async function benchSilent(): Promise<void> {
  const rows = await Promise.all(SILENT_HOSTS.map(failOverSilently));
  table(
    'silent',
    `${SERVERS.length} servers fail over at once, right after a heartbeat, without an event`,
    rows,
  );
}
