/**
 * What becomes of an expired lease: its holder crashed or ran out of time, or its POST is in doubt.
 *
 * If the operation that was created under it is known, its end is recorded, and the lease is free. If that
 * does not end in time, or none is known, the lease is taken over when the next attempt is due, which marks
 * the item unsettled. Before that we wait for what may still be running, so that on a host with one worker
 * nothing older takes effect after something newer.
 */

import type { PgBackupApi } from '../barman/pg-backup-api.ts';
import { operationFailed } from '../barman/switch-config.ts';
import { deadline, sleep } from '../deadline.ts';
import { Busy } from '../errors.ts';
import type { Facts } from '../invocation.ts';
import { isDue, type LeasedItem, timeOf } from '../ledger/item.ts';
import { endedLease, type Lease, type Ledger, type Operation } from '../ledger/ledger.ts';
import { parseTarget } from '../target.ts';

/**
 * An operation of the desired state itself is waited for longer than another one: its end is what is wanted, and
 * each further operation makes a slow host slower. It is `asAnother` times as long, because one that cannot be polled
 * may have ended. But if a heartbeat sees that it has not, its process may have died. Then it is `asExpected` times as
 * long as it was expected to take, if that is known; it is measured within an invocation, and so at most 28.5 s.
 */
const TIMES = { asAnother: 10, asExpected: 20 };

export interface TakeOverOptions {
  readonly ledger: Ledger;
  readonly api: Pick<PgBackupApi, 'endOf' | 'findRunning'>;
  /** Aborts at the deadline. */
  readonly signal: AbortSignal;
  /** Time left before the deadline (ms). */
  readonly remaining: () => number;
  /** How long to wait for an operation of unknown end after its lease has expired (ms). */
  readonly operationTimeout: number;
  readonly facts: Facts;
  /**
   * An event waits for another invocation, and for an operation of an earlier one. A heartbeat does not, as
   * the next one comes in a minute; and only a heartbeat applies again.
   */
  readonly caller: 'event' | 'heartbeat';
}

/**
 * Ends an expired lease, or takes it over.
 *
 * @param item as it was read
 * @param version as for `reconcile`
 * @returns the lease; undefined if the item has changed, so that it must be read again
 * @throws ConfigSwitchFailed if its operation ended FAILED, and nothing newer is desired
 * @throws Busy if its operation has not ended, or the next attempt is not due yet
 * @throws HttpError if its operation cannot be polled
 */
export async function takeOver(
  options: TakeOverOptions,
  item: LeasedItem,
  version: string,
): Promise<Lease | undefined> {
  const { ledger, facts, signal } = options;
  const { running } = item;
  if (running && (await recordEnd(options, item, running))) return undefined;
  facts.passedOver = running !== undefined || (await isStillRunning(options, item));
  const why = running
    ? `operation ${running.operation_id} did not end in time, and may still take effect`
    : 'a POST without a response may still take effect';
  return ledger.takeOver(item, version, why, signal);
}

/**
 * Polls the operation of an expired lease, and records its end.
 *
 * @returns false if it did not end in time
 * @throws as `takeOver` does
 */
export async function recordEnd(
  options: TakeOverOptions,
  item: LeasedItem,
  running: Operation,
): Promise<boolean> {
  const { ledger, signal } = options;
  const { barman_server, desired, lease } = item;
  const { operation_id, target, version } = running;
  const end = await endInTime(options, item, running);
  if (end === 'DONE') await ledger.complete(endedLease(item, running), signal);
  if (end === 'FAILED') {
    const failed = operationFailed(barman_server, parseTarget(target), operation_id);
    await ledger.release({ token: lease.token, item }, version, failed, signal);
    if (desired.version === version) throw failed;
  }
  return end !== undefined;
}

/**
 * Returns how long its operation is still waited for, after the lease has expired (ms).
 *
 * @param isSeen whether a poll has just said that it has not ended
 */
function patience(
  { lease, desired, applied }: LeasedItem,
  { version }: Operation,
  operationTimeout: number,
  isSeen: boolean,
): number {
  const expected = isSeen ? applied?.operation_ms : undefined;
  const ofDesired = expected === undefined ? TIMES.asAnother * operationTimeout : TIMES.asExpected * expected;
  const time = version === desired.version ? Math.max(operationTimeout, ofDesired) : operationTimeout;
  return timeOf(lease.expires_at, 0) + time - Date.now();
}

/** Returns how an operation ended, if it did in time, and before the next attempt was due. */
async function endInTime(
  { api, signal, remaining, operationTimeout, caller }: TakeOverOptions,
  item: LeasedItem,
  running: Operation,
): Promise<'DONE' | 'FAILED' | undefined> {
  const { barman_server } = item;
  const { operation_id } = running;
  let isSeen = false;
  const left = () => patience(item, running, operationTimeout, isSeen);
  const notEnded = `operation ${operation_id} on ${barman_server} has not ended`;
  const limit = deadline(left());
  const wait = caller === 'event' ? AbortSignal.any([signal, limit.signal]) : undefined;
  try {
    const status = await api.endOf(barman_server, operation_id, wait);
    if (status !== 'IN_PROGRESS') return status;
    isSeen = true;
    throw busy(notEnded);
  } catch (error) {
    // One that cannot be polled may have ended long ago.
    if (signal.aborted || left() > (wait ? remaining() : 0)) throw error;
  } finally {
    limit.clear();
  }
  expectDue(item, notEnded);
  await sleep(left(), signal);
  return undefined;
}

/**
 * Waits for an operation that a POST without a response may have created.
 *
 * @returns whether it did not end in time
 * @throws Busy if it has not ended yet, or the next attempt is not due
 */
async function isStillRunning(
  { api, signal, operationTimeout, caller }: TakeOverOptions,
  item: LeasedItem,
): Promise<boolean> {
  const { barman_server, lease } = item;
  expectDue(item, `a POST for ${barman_server} had no response`);
  const left = timeOf(lease.expires_at, 0) + operationTimeout - Date.now();
  const limit = deadline(left);
  try {
    const wait = caller === 'event' ? AbortSignal.any([signal, limit.signal]) : undefined;
    const running = await api.findRunning(barman_server, wait);
    if (running && !limit.signal.aborted) {
      throw busy(
        `operation ${running} on ${barman_server}, which may be that of a POST without a response, has not ended`,
      );
    }
    return running !== undefined;
  } finally {
    limit.clear();
  }
}

/** @throws Busy if the next attempt is not due: each one marks the item, and may create an operation */
function expectDue(item: LeasedItem, why: string): void {
  if (!isDue(item)) throw busy(why);
}

function busy(why: string): Busy {
  return new Busy(`${why}: the desired state is recorded, and will be applied later`);
}
