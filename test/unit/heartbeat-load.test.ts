/**
 * Heartbeats against a slow pg-backup-api with one worker, in virtual time: how soon each server follows, and
 * what the others cost it.
 */

import { beforeEach, expect, test, vi } from 'vitest';
import { PgBackupApi } from '../../functions/config-switch/barman/pg-backup-api.ts';
import { deadline } from '../../functions/config-switch/deadline.ts';
import { newFacts } from '../../functions/config-switch/invocation.ts';
import { LEASE, Ledger } from '../../functions/config-switch/ledger/ledger.ts';
import { beat } from '../../functions/config-switch/reconcile/heartbeat.ts';
import { versionOf } from '../../functions/config-switch/version.ts';
import { connect, type Request, type Response } from '../model/network.ts';
import { MemoryTable } from '../stand-ins/memory-table.ts';
import { useVirtualTime } from './virtual-time.ts';

vi.mock('../../functions/config-switch/http/undici.ts', () => import('../model/network.ts'));
useVirtualTime();

const MINUTE = 60_000;
const MODEL = 'pg:node2';
/** The time of an operation that does not end. */
const NEVER = Number.POSITIVE_INFINITY;
const never = new AbortController().signal;

/** pg-backup-api with one worker, which serves a request also if its client has gone. */
class SlowHost {
  /** Cost of each request (ms). */
  cost = 10;
  /** How long the operation of a server takes (ms). */
  operationTime = (_server: string): number => 1_000;
  /** The status of the response to a POST for a server. */
  status = (_server: string): number => 202;
  /** Whether a POST is carried out that has another status than 202. */
  carriesOut = (_server: string): boolean => false;
  /** When each server was set to its model (ms since the test began). */
  readonly switchedAt = new Map<string, number>();
  /** How many operations each server had. */
  readonly operations = new Map<string, number>();
  readonly #ends = new Map<string, number>();
  #busyUntil = 0;
  readonly #start = Date.now();

  async serve({ method, path, signal }: Request): Promise<Response> {
    this.#busyUntil = Math.max(this.#busyUntil, Date.now()) + this.cost;
    const answered = new Promise<Response>((resolve, reject) => {
      setTimeout(() => resolve(this.#answer(method, path)), this.#busyUntil - Date.now());
      signal.addEventListener('abort', () => reject(signal.reason));
    });
    return answered;
  }

  #answer(method: string, path: string): Response {
    const [, , server = '', , id] = path.split('/');
    const date = Date.now();
    if (path === '/status') return { status: 200, json: 'OK', date };
    if (method === 'POST') {
      const status = this.status(server);
      const json = { error: 'from a proxy' };
      if (status !== 202 && !this.carriesOut(server)) return { status, json, date };
      const count = (this.operations.get(server) ?? 0) + 1;
      this.operations.set(server, count);
      const time = this.operationTime(server);
      this.#ends.set(`${server}-${count}`, date + time);
      // No timer may be left at the end of a test.
      if (time !== NEVER) setTimeout(() => this.switchedAt.set(server, Date.now() - this.#start), time);
      return { status, json: status === 202 ? { operation_id: `${server}-${count}` } : json, date };
    }
    if (id === undefined) {
      const ids = [...this.#ends.keys()].filter((one) => one.startsWith(`${server}-`));
      return {
        status: 200,
        json: { operations: ids.map((one) => ({ id: one, type: 'config_switch' })) },
        date,
      };
    }
    const status = (this.#ends.get(id) ?? 0) <= date ? 'DONE' : 'IN_PROGRESS';
    return { status: 200, json: { operation_id: id, status }, date };
  }
}

let host: SlowHost;
let table: MemoryTable;
let ledger: Ledger;

beforeEach(() => {
  host = new SlowHost();
  table = new MemoryTable();
  ledger = new Ledger(table);
});

const names = (count: number) => Array.from({ length: count }, (_, index) => `server${index}`);

/** Runs a heartbeat. @param observed servers of which Patroni names a leader */
async function heartbeat(observed: readonly string[] = []): Promise<void> {
  const start = performance.now();
  const { signal, clear } = deadline(27_500);
  const connection = { url: connect((request) => host.serve(request)) };
  const source = { connection: async () => connection, rereadConnection: async () => connection };
  const servers = new Map(observed.map((server) => [server, new Map([['node2', MODEL]])]));
  const observation = { leader: 'node2', streaming: undefined };
  await beat({
    ledger,
    connect: (facts) => new PgBackupApi(source, { signal, maxRetries: 5, facts }),
    facts: newFacts(),
    expiries: async () => new Map(),
    outdated: async () => undefined,
    signal,
    remaining: () => start + 27_500 - performance.now(),
    operationTimeout: 60_000,
    interval: MINUTE,
    version: 'test',
    clusters: async () => ({ clusters: [], tls: {} }),
    observe: async () => [
      {
        cluster: { name: 'c', scope: 'c', servers, streaming_archiver_name: null },
        at: Date.now(),
        observation,
      },
    ],
    onReconciled: () => {},
  });
  clear();
}

/** Runs a heartbeat every minute, the first one after some time. */
async function minutes(count: number, observed?: readonly string[]): Promise<void> {
  for (let minute = 0; minute < count; minute += 1) {
    void heartbeat(observed);
    await vi.advanceTimersByTimeAsync(MINUTE);
  }
}

/** Records a desired state, and acquires the lease for it if it is to be applied by an invocation that crashes. */
const desired = (server: string) => ({
  barman_server: server,
  cluster: 'c',
  target: { model: MODEL },
  version: versionOf(Date.now(), 'e'),
});
/** Servers that are in sync. */
const inSync = () =>
  [...table.items.values()]
    .filter(({ desired }) => desired !== undefined)
    .filter(({ applied, desired }) => applied?.version === desired?.version)
    .map(({ barman_server }) => barman_server);

// The figures are those of docs/explanation/guarantees.md.
test.each([
  [50, 450, 4],
  [100, 900, 10],
])(
  'heartbeat › all events lost: %i servers at %i ms per request are followed within %i minutes',
  async (count, cost, limit) => {
    host.cost = cost;
    // Patroni agrees on the leaders right after a heartbeat.
    await vi.advanceTimersByTimeAsync(MINUTE);
    await minutes(limit, names(count));
    expect(host.switchedAt.size).toBe(count);
    expect(Math.max(...host.switchedAt.values())).toBeLessThanOrEqual(limit * MINUTE);
    expect(new Set(host.operations.values()), 'operations of each').toEqual(new Set([1]));
  },
);

test.each([9_500, 11_000])(
  'heartbeat › a host that needs %i ms per request is followed after a crash',
  async (cost) => {
    host.cost = cost;
    await ledger.recordAndAcquire(desired('unknown'), never);
    await vi.advanceTimersByTimeAsync(LEASE);
    await minutes(2);
    expect(inSync()).toEqual(['unknown']);

    const lease = await ledger.recordAndAcquire(desired('known'), never);
    if (!lease) throw new Error('no lease');
    void host.serve({
      method: 'POST',
      path: '/servers/known/operations',
      body: null,
      signal: never,
    });
    await ledger.started(lease, 'known-1', never);
    await vi.advanceTimersByTimeAsync(LEASE);
    await minutes(1);
    expect(inSync()).toContain('known');
    expect(Object.fromEntries(host.operations)).toEqual({ unknown: 1, known: 1 });
  },
);

test('heartbeat › an operation of 200 s does not delay others, which are in sync in the heartbeat after their end', async () => {
  host.operationTime = (server) => (server === 'server0' ? 200_000 : 40_000);
  for (const server of names(4)) await ledger.record(desired(server), never);
  await minutes(2);
  expect(inSync()).toEqual(['server1', 'server2', 'server3']);
  await minutes(3);
  expect(inSync()).toEqual(names(4));
  expect(new Set(host.operations.values()), 'operations of each').toEqual(new Set([1]));
});

test('heartbeat › operations that never end do not delay a healthy server', async () => {
  host.operationTime = (server) => (server === 'healthy' ? 1_000 : NEVER);
  for (const server of names(8)) await ledger.record(desired(server), never);
  await minutes(2);
  await ledger.record(desired('healthy'), never);
  await minutes(1);
  expect(inSync()).toEqual(['healthy']);
});

test('heartbeat › servers whose POSTs fail back off, and a healthy one follows in the first heartbeat', async () => {
  host.status = (server) => (server === 'healthy' ? 202 : 502);
  for (const server of names(5)) await ledger.record(desired(server), never);
  await vi.advanceTimersByTimeAsync(1_000);
  await ledger.record(desired('healthy'), never);
  await minutes(1);
  expect(inSync()).toEqual(['healthy']);
  await minutes(14);
  // At 0, 1, 3, 7 minutes.
  expect(table.items.get('server0')?.attempts).toBe(4);
});

test('heartbeat › a host whose responses to POSTs are lost is not switched again every minute', async () => {
  host.status = () => 504;
  host.carriesOut = () => true;
  await ledger.record(desired('main'), never);
  await minutes(15);
  expect(host.operations.get('main')).toBeLessThanOrEqual(6);
  expect(table.items.get('main')?.unsettled_since).toBeDefined();
});
