/**
 * The heartbeat, each minute: applies what is pending, and checks the path to pg-backup-api before a failover needs it.
 * Several heartbeats at once do no harm: each applies under a lease, as an event does.
 */

import type { ConnectionSource } from '../barman/http-client.ts';
import type { PgBackupApi } from '../barman/pg-backup-api.ts';
import { parseTarget } from '../barman/target.ts';
import { certificatesOf } from '../barman/tls.ts';
import { DeadlineExceeded } from '../errors.ts';
import { isKnownSchema, isLeased, isPending, type Ledger } from './ledger.ts';
import { newProgress, type Progress, reconcile } from './reconcile.ts';
import { type Item, type RecordedItem, timeOf } from './table.ts';

/** How long a desired state may stay pending before it is parked (ms). */
const PARK_AFTER = 24 * 3_600_000;
/** With less time than this before the deadline no more servers are reconciled (ms). */
const SHORT = 8_000;

export interface HeartbeatOptions {
  readonly ledger: Ledger;
  readonly api: PgBackupApi;
  readonly credentials: ConnectionSource;
  /** Aborts at the deadline. */
  readonly signal: AbortSignal;
  /** Time left before the deadline (ms). */
  readonly remaining: () => number;
  /** How long to wait for an operation of unknown end after its lease has expired (ms). */
  readonly operationTimeout: number;
  /** Called after each server that was reconciled, or failed. */
  readonly onReconciled: (server: string, result: { message: string } | Error, progress: Progress) => void;
}

/** What a heartbeat found and did. */
export interface Heartbeat {
  /** Servers that were pending when it began. */
  readonly pending: number;
  /** How many of them were applied. */
  readonly applied: number;
  /** Servers that are parked, since now or before. */
  readonly parked: number;
  /** Age of the oldest pending desired state (s); 0 if nothing is pending. */
  readonly oldestPendingAge: number;
  /** Servers that were skipped, because a newer version of the function wrote their items in an unknown format. */
  readonly unknownSchema: readonly string[];
  /** Why pg-backup-api is unreachable, if it is. */
  readonly unreachable?: string;
  /** Days until the certificates expire. */
  readonly clientCertDaysLeft?: number | undefined;
  readonly caCertDaysLeft?: number | undefined;
}

/**
 * Probes pg-backup-api, and applies what is pending.
 *
 * @throws LedgerError if the ledger is unavailable
 */
export async function beat(options: HeartbeatOptions): Promise<Heartbeat> {
  const { ledger, signal } = options;
  const all = await ledger.all(signal);
  const items = all.filter(isKnownSchema);
  const probed = await probe(options);
  const unreadable = probed.unreachable ?? (await probeServer(options, items));
  const now = Date.now();
  const pending = items.filter(isPending).filter((item) => !item.paused);
  const age = ({ recorded_at }: Item) => now - timeOf(recorded_at, now);

  let parked = pending.filter((item) => item.parked).length;
  const due: RecordedItem[] = [];
  // Oldest first, but expired leases last: their operations have to be waited for, which must not delay the others.
  const expired = ({ lease_token }: Item) => (lease_token === undefined ? 0 : 1);
  const unparked = pending.filter((item) => !item.parked);
  for (const item of unparked.sort((a, b) => expired(a) - expired(b) || age(b) - age(a))) {
    if (age(item) > PARK_AFTER && !isLeased(item)) {
      if (await ledger.park(item, signal)) parked += 1;
    } else if (!isLeased(item) && timeOf(item.next_attempt_at ?? item.recorded_at, now) <= now) {
      due.push(item);
    }
  }
  // While pg-backup-api is unreachable each of them would only use up its attempts.
  const applied = probed.unreachable === undefined ? await reconcileAll(options, due) : 0;
  // What cannot be compared now is compared by the next heartbeat.
  if (probed.unreachable === undefined) await compare(options, items).catch(() => {});
  return {
    pending: pending.length,
    applied,
    parked,
    unknownSchema: all.filter((item) => !isKnownSchema(item)).map(({ barman_server }) => barman_server),
    oldestPendingAge: Math.round(Math.max(0, ...pending.map(age)) / 1_000),
    ...probed,
    ...(unreadable !== undefined && { unreachable: unreadable }),
  };
}

/** One server after the other: a host with many servers needs long for each request. @returns how many were applied */
async function reconcileAll(options: HeartbeatOptions, due: readonly RecordedItem[]): Promise<number> {
  let applied = 0;
  for (const { barman_server, desired_version } of due) {
    if (options.remaining() < SHORT) break;
    const progress = { ...newProgress(), recorded: true };
    try {
      const result = await reconcile({ ...options, progress }, barman_server, desired_version);
      applied += 1;
      options.onReconciled(barman_server, result, progress);
    } catch (error) {
      options.onReconciled(
        barman_server,
        error instanceof Error ? error : new Error(String(error)),
        progress,
      );
    }
  }
  return applied;
}

/** Once after an operation was passed over, which may have ended later: checks that the active model is the applied one. */
async function compare({ ledger, api, signal }: HeartbeatOptions, items: readonly Item[]): Promise<void> {
  const uncertain = items.filter(
    (item) => item.passed_over && !isPending(item) && !item.lease_token && !item.paused,
  );
  if (uncertain.length === 0) return;
  const { servers } = await api.diagnose();
  for (const { barman_server, applied = '', applied_version = '' } of uncertain) {
    const target = parseTarget(applied);
    const active = servers.get(barman_server)?.activeModel ?? null;
    const differs = active !== ('model' in target ? target.model : null);
    await ledger.compared(barman_server, applied_version, differs, signal);
  }
}

/** Asks for the status with the real credentials, and reads when the certificates expire. */
async function probe({
  api,
  credentials,
  signal,
}: HeartbeatOptions): Promise<Pick<Heartbeat, 'unreachable' | 'clientCertDaysLeft' | 'caCertDaysLeft'>> {
  try {
    const { tls } = await credentials.connection(signal);
    const days = tls ? { clientCertDaysLeft: daysLeft(tls.cert), caCertDaysLeft: daysLeft(tls.ca) } : {};
    try {
      await api.status();
      return days;
    } catch (error) {
      return { ...days, unreachable: String(error instanceof Error ? error.message : error) };
    }
  } catch (error) {
    return { unreachable: String(error instanceof Error ? error.message : error) };
  }
}

/**
 * Reads the configuration of one known server, another one each minute: `/status` is fine while it cannot be read.
 *
 * @returns why it cannot be read; undefined also if that takes too long: a host with a thousand servers is slow, not broken
 */
async function probeServer({ api }: HeartbeatOptions, items: readonly Item[]): Promise<string | undefined> {
  const servers = items.map(({ barman_server }) => barman_server).sort();
  const server = servers[Math.floor(Date.now() / 60_000) % servers.length];
  if (server === undefined) return undefined;
  try {
    await api.readServer(server);
    return undefined;
  } catch (error) {
    if (error instanceof DeadlineExceeded) return undefined;
    return `the configuration of ${server} cannot be read: ${error instanceof Error ? error.message : error}`;
  }
}

/** Whole days until the first certificate of a PEM file expires; undefined if one cannot be read: TLS decides about that. */
export function daysLeft(pem: string): number | undefined {
  try {
    const ends = certificatesOf(pem).map(({ validToDate }) => validToDate.getTime());
    return Math.floor((Math.min(...ends) - Date.now()) / 86_400_000);
  } catch {
    return undefined;
  }
}
