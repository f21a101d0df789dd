/**
 * The heartbeat, each minute: makes up for what was lost on the way, and tells of a broken path to Barman before a failover
 * needs it. Several at once do no harm: each drives under a lease, as an event does.
 */

import { X509Certificate } from 'node:crypto';
import type { ConnectionSource } from '../barman/http-client.ts';
import type { PgBackupApi } from '../barman/pg-backup-api.ts';
import { parseTarget } from '../barman/target.ts';
import { type Course, drive, newCourse } from './converge.ts';
import { isBehind, isLeased, type Ledger } from './ledger.ts';
import { type Item, timeOf, type Wished } from './table.ts';

/** How long a wish is tried to be met, ms; then it is parked, for a person. */
const GIVE_UP_AFTER = 24 * 3_600_000;
/** With less time than this before the deadline no more servers are driven, ms. */
const SHORT = 8_000;

export interface HeartbeatOptions {
  readonly ledger: Ledger;
  readonly api: PgBackupApi;
  readonly credentials: ConnectionSource;
  readonly signal: AbortSignal;
  /** Time to the deadline, ms. */
  readonly remaining: () => number;
  readonly operationTimeout: number;
  /** Told how each server fared that was driven. */
  readonly onDriven: (server: string, ended: { message: string } | Error, course: Course) => void;
}

/** What a heartbeat found and did. */
export interface Heartbeat {
  /** Servers whose newest wish was not met when it began; how many of them it met. */
  readonly behind: number;
  readonly met: number;
  /** Servers whose wish is given up, now or before. */
  readonly parked: number;
  /** How long the oldest unmet wish has been known, s; 0 if there is none. */
  readonly oldestUnmetWish: number;
  /** Why pg-backup-api cannot be used, if it cannot. */
  readonly pathBroken?: string;
  /** Days that the certificates are still valid. */
  readonly clientCertDaysLeft?: number;
  readonly caCertDaysLeft?: number;
}

/**
 * Drives what is behind, and looks at the path to Barman.
 *
 * @throws LedgerError if the ledger cannot be used
 */
export async function beat(options: HeartbeatOptions): Promise<Heartbeat> {
  const { ledger, signal } = options;
  const items = await ledger.all(signal);
  const path = await lookAtPath(options);
  const now = Date.now();
  const behind = items.filter(isBehind).filter((item) => !item.held);
  const age = ({ recorded_at }: Item) => now - timeOf(recorded_at, now);

  let parked = behind.filter((item) => item.parked).length;
  const due: Wished[] = [];
  // The oldest first; but where a lease was left behind an operation has to be waited for, and that must not hold up others.
  const leftBehind = ({ holder }: Item) => (holder === undefined ? 0 : 1);
  const unparked = behind.filter((item) => !item.parked);
  for (const item of unparked.sort((a, b) => leftBehind(a) - leftBehind(b) || age(b) - age(a))) {
    if (age(item) > GIVE_UP_AFTER && !isLeased(item)) {
      if (await ledger.park(item, signal)) parked += 1;
    } else if (!isLeased(item) && timeOf(item.next_attempt_at ?? item.recorded_at, now) <= now) {
      due.push(item);
    }
  }
  // On a broken path each of them would take its attempts in vain.
  const met = path.pathBroken === undefined ? await driveAll(options, due) : 0;
  // What cannot be compared now is compared by the next heartbeat.
  if (path.pathBroken === undefined) await compare(options, items).catch(() => {});
  return {
    behind: behind.length,
    met,
    parked,
    oldestUnmetWish: Math.round(Math.max(0, ...behind.map(age)) / 1_000),
    ...path,
  };
}

/** One after the other: a host with many servers takes long for each request. */
async function driveAll(options: HeartbeatOptions, due: readonly Wished[]): Promise<number> {
  let met = 0;
  for (const { barman_server, desired_key } of due) {
    if (options.remaining() < SHORT) break;
    const course = { ...newCourse(), recorded: true };
    try {
      const outcome = await drive({ ...options, course }, barman_server, desired_key);
      met += 1;
      options.onDriven(barman_server, outcome, course);
    } catch (error) {
      options.onDriven(barman_server, error instanceof Error ? error : new Error(String(error)), course);
    }
  }
  return met;
}

/** Where an operation was passed over that may have ended later: once, whether what is active is what was applied. */
async function compare({ ledger, api, signal }: HeartbeatOptions, items: readonly Item[]): Promise<void> {
  const doubtful = items.filter((item) => item.overtaken && !isBehind(item) && !item.holder && !item.held);
  if (doubtful.length === 0) return;
  const { servers } = await api.diagnose();
  for (const { barman_server, applied = '', applied_key = '' } of doubtful) {
    const target = parseTarget(applied);
    const active = servers.get(barman_server)?.activeModel ?? null;
    const again = active !== ('model' in target ? target.model : null);
    await ledger.compared(barman_server, applied_key, again, signal);
  }
}

async function lookAtPath({
  api,
  credentials,
  signal,
}: HeartbeatOptions): Promise<Pick<Heartbeat, 'pathBroken' | 'clientCertDaysLeft' | 'caCertDaysLeft'>> {
  try {
    const { tls } = await credentials.connection(signal);
    const days = tls ? { clientCertDaysLeft: daysLeft(tls.cert), caCertDaysLeft: daysLeft(tls.ca) } : {};
    try {
      await api.status();
      return days;
    } catch (error) {
      return { ...days, pathBroken: String(error instanceof Error ? error.message : error) };
    }
  } catch (error) {
    return { pathBroken: String(error instanceof Error ? error.message : error) };
  }
}

/** Until the first certificate of a PEM file ends, whole days. */
export function daysLeft(pem: string): number {
  const certificates = pem.match(/-----BEGIN CERTIFICATE-----[\s\S]+?-----END CERTIFICATE-----/g) ?? [];
  const ends = certificates.map((certificate) => Date.parse(new X509Certificate(certificate).validTo));
  return Math.floor((Math.min(...ends) - Date.now()) / 86_400_000);
}
