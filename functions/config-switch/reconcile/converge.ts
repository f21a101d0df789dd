/**
 * Brings Barman to the newest wish: record it, then drive. The protocol is the ledger's (ledger.ts); here is who waits for
 * whom, and what the event that came with a wish is answered.
 */

import type { PgBackupApi, PostGuard } from '../barman/pg-backup-api.ts';
import { switchConfig } from '../barman/switch-config.ts';
import { parseTarget } from '../barman/target.ts';
import { deadline, sleep } from '../deadline.ts';
import { Busy, LedgerError } from '../errors.ts';
import { ExitCode, type Outcome } from '../exit-code.ts';
import { eventIdOf, isLeased, LEASE, type Lease, type Ledger, type Wish } from './ledger.ts';
import { type Item, timeOf } from './table.ts';

/** How long somebody else's lease is waited for, and how often the item is read meanwhile, ms. */
const WAIT = { most: 5_000, interval: 250 };
/** With less time than this before the deadline a newer wish is left to its own event or the heartbeat, ms. */
const SHORT = 10_000;

/** What is known of a run besides its outcome, for the answer and the metrics. */
export interface Course {
  /** The wish is in the ledger, and will be driven on whatever is answered. */
  recorded: boolean;
  /** The event had been met before, and was answered from the ledger. */
  duplicate: boolean;
  /** A newer event had been met. */
  superseded: boolean;
  /** An operation did not end in time, and was not waited for any longer. */
  overtaken: boolean;
  /** How long somebody else was waited for, ms. */
  waited: number;
}

/** @returns the course of a run that has not begun */
export function newCourse(): Course {
  return { recorded: false, duplicate: false, superseded: false, overtaken: false, waited: 0 };
}

/** What it takes to drive Barman. */
export interface Driver {
  readonly ledger: Ledger;
  readonly api: Pick<PgBackupApi, 'createConfigSwitchOperation' | 'waitForOperation' | 'settle'>;
  readonly signal: AbortSignal;
  /** Time to the deadline, ms. */
  readonly remaining: () => number;
  /** How long after the end of a lease an operation that was asked for under it is waited for, ms ("P"). */
  readonly operationTimeout: number;
  readonly course: Course;
}

/** Somebody else has taken the lease over. */
class LeaseLost extends Error {}
/** The lease was renewed, and is for a newer wish now. */
class NewerWish extends Error {}

/**
 * Records a wish, and drives Barman to the newest one.
 *
 * @returns DONE if Barman was brought to this wish, SKIPPED if it was brought to a newer one
 * @throws LedgerError if the ledger cannot be used
 * @throws Busy if somebody else is driving, or the operator holds the server
 * @throws ConfigSwitchFailed, HttpError as `switchConfig` does
 */
export async function converge(driver: Driver, wish: Wish): Promise<Outcome> {
  const { ledger, signal, course } = driver;
  const { server, key } = wish;
  const lease = await ledger.recordAndTake(wish, signal);
  // Otherwise somebody holds the lease, or this event or a newer one is there already.
  const isNew = lease !== undefined || (await ledger.record(wish, signal));
  course.recorded = true;
  if (isNew) return drive(driver, server, key, lease);

  const { desired_key = key, events } = (await ledger.get(server, signal)) ?? {};
  if (!events?.includes(eventIdOf(key))) return drive(driver, server, key);
  // It comes again, and its time may be another now: what counts is when it was recorded.
  const outcome = await drive(driver, server, desired_key);
  if (eventIdOf(desired_key) === eventIdOf(key)) return outcome;
  course.duplicate = true;
  return superseded(course, outcome.message);
}

/**
 * Drives Barman to the newest wish of a server.
 *
 * @param key of the wish that is to be met; the newest one is no older
 * @param taken the lease, if it is taken already
 * @throws as `converge` does
 */
export async function drive(driver: Driver, server: string, key: string, taken?: Lease): Promise<Outcome> {
  const { ledger, signal, course } = driver;
  let lease = taken;
  /** What the event is answered, once its wish or a newer one is met. */
  let outcome: Outcome | undefined;
  try {
    for (;;) {
      if (!lease) {
        const obtained = await obtain(driver, server, key);
        if ('answer' in obtained) return outcome ?? obtained.answer;
        lease = obtained.lease;
      }
      const { desired, desired_key } = lease.item;
      const run: Run = await switchUnder(driver, key, lease);
      if (run.ended !== 'done') {
        lease = run.ended === 'newer wish' ? run.lease : undefined;
        continue;
      }
      const goOn = driver.remaining() > SHORT;
      const after = await ledger.result(run.lease, run.outcome.operationId, goOn, signal);
      lease = after.lease === 'renewed' ? after.renewed : undefined;
      if (after.lease === 'lost') continue;
      if (desired_key === key) outcome = run.outcome;
      else outcome ??= superseded(course, `Barman was brought to ${desired} for ${desired_key}`);
      if (after.lease === 'released') return outcome;
    }
  } catch (error) {
    // The event's own wish was met; the newer one is in the ledger, for its own event or the heartbeat.
    if (outcome) return outcome;
    throw error;
  }
}

/** How a switch under a lease ended that did not throw. */
type Run =
  | { readonly ended: 'done'; readonly lease: Lease; readonly outcome: Outcome & { operationId: string } }
  | { readonly ended: 'lease lost' }
  /** Nothing was sent: the lease was renewed, and is for a newer wish now. */
  | { readonly ended: 'newer wish'; readonly lease: Lease };

/** Switches Barman to what the lease is for, and sends POSTs only while it lets them be sent. */
async function switchUnder({ ledger, api, signal }: Driver, key: string, taken: Lease): Promise<Run> {
  let lease = taken;
  const { barman_server, desired, desired_key } = lease.item;
  const guard: PostGuard = {
    inDoubt: false,
    beforePost: async () => {
      if (performance.now() < lease.postUntil) return;
      const renewed = await ledger.take(barman_server, key, lease.token, signal);
      if (!renewed) throw new LeaseLost();
      lease = renewed;
      if (renewed.item.desired_key !== desired_key) throw new NewerWish();
    },
  };
  try {
    const outcome = await switchConfig(api, barman_server, parseTarget(desired), guard);
    return { ended: 'done', lease, outcome };
  } catch (error) {
    if (error instanceof LeaseLost) return { ended: 'lease lost' };
    if (error instanceof NewerWish) return { ended: 'newer wish', lease };
    // A POST without a known end: the lease stays, so that whoever comes next sees it to its end.
    if (!guard.inDoubt && !signal.aborted) {
      // If this fails the lease runs out by itself.
      await ledger
        .release(lease, error instanceof Error ? error.message : String(error), signal)
        .catch(() => {});
    }
    throw error;
  }
}

/** The lease, or what makes it needless. */
type Obtained = { readonly lease: Lease } | { readonly answer: Outcome };

/** Waits for the lease, or for what makes it needless. @throws Busy after some seconds */
async function obtain(driver: Driver, server: string, key: string): Promise<Obtained> {
  const { ledger, signal, course } = driver;
  const start = performance.now();
  for (;;) {
    const item = await ledger.get(server, signal);
    if (!item) throw new LedgerError(`the ledger's item of ${server} was deleted; send the event again`);
    const { applied, applied_key = '', operation_id, holder, held } = item;
    if (applied_key >= key) {
      const brought = `Barman was brought to ${applied}`;
      const answer =
        applied_key === key
          ? repeated(course, brought, operation_id)
          : superseded(course, `${brought} for ${applied_key}`);
      return { answer };
    }
    if (held) {
      throw new Busy(
        `Barman server ${server} is held by the operator: the wish is recorded, and driven once it is released`,
      );
    }
    if (isLeased(item)) {
      const left = WAIT.most - (performance.now() - start);
      if (left <= 0) {
        throw new Busy(`somebody else is switching ${server}: the wish is recorded, and driven after that`);
      }
      const slept = Math.min(WAIT.interval, left);
      await sleep(slept, signal);
      course.waited += slept;
      continue;
    }
    if (holder !== undefined && (await isOvertaken(driver, item))) course.overtaken = true;
    const lease = await ledger.take(server, key, holder, signal, course.overtaken ? { overtaken: true } : {});
    if (lease) return { lease };
  }
}

/**
 * Sees the operations to their end that may have been asked for under a lease that was left behind.
 *
 * @returns true if that took too long, so that one of them may be running still
 * @throws HttpError if it cannot be seen, and there is no time to wait until it does not matter any more
 */
async function isOvertaken(
  { api, signal, remaining, operationTimeout }: Driver,
  { barman_server, until }: Item,
): Promise<boolean> {
  // One that does not say until when it holds has run out long ago, as `isLeased` has it.
  const ranOut = timeOf(until, 0);
  const patience = () => ranOut + operationTimeout - Date.now();
  if (patience() <= 0) return true;
  const impatient = deadline(patience());
  try {
    const age = Date.now() - (ranOut - LEASE);
    await api.settle(barman_server, age, AbortSignal.any([signal, impatient.signal]));
    return false;
  } catch (error) {
    if (signal.aborted) throw error;
    if (patience() > remaining()) throw error;
    await sleep(patience(), signal);
    return true;
  } finally {
    impatient.clear();
  }
}

function repeated(course: Course, brought: string, operationId: string | undefined): Outcome {
  course.duplicate = true;
  return {
    exitCode: ExitCode.CONFIG_SWITCH_DONE,
    message: `this event was met before: ${brought}`,
    ...(operationId !== undefined && { operationId }),
  };
}

function superseded(course: Course, by: string): Outcome {
  course.superseded = true;
  return { exitCode: ExitCode.CONFIG_SWITCH_SKIPPED, message: `superseded by a newer event: ${by}` };
}
