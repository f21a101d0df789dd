/**
 * Records a desired state, and brings Barman up to the newest one. The protocol is in ledger.ts and
 * events.ts; here is who waits for whom, and which result an event gets.
 */

import type { PgBackupApi, PostGuard } from '../barman/pg-backup-api.ts';
import { operationFailed, switchConfig } from '../barman/switch-config.ts';
import { deadline, sleep } from '../deadline.ts';
import { Busy, LedgerError, messageOf } from '../errors.ts';
import { ExitCode, type Result } from '../exit-code.ts';
import type { Facts } from '../invocation.ts';
import { parseTarget } from '../target.ts';
import { type EventTable, fixVersion } from './events.ts';
import {
  type DesiredState,
  type Item,
  isLeased,
  isPaused,
  mustApplyAgain,
  passedOver,
  timeOf,
} from './item.ts';
import { type KnownOperations, LEASE, type Lease, type Ledger, mayPost } from './ledger.ts';

/** How long to wait for another invocation's lease, and how often to read the item meanwhile (ms). */
const WAIT = { most: 5_000, interval: 250 };
/**
 * With less time than this before the deadline, a newer desired state is left to its own event or the
 * heartbeat (ms).
 */
const RENEW_TIME = 10_000;

export interface ReconcileOptions {
  readonly ledger: Ledger;
  readonly api: Pick<
    PgBackupApi,
    'createConfigSwitchOperation' | 'waitForOperation' | 'recentOperations' | 'endOf'
  >;
  /** Aborts at the deadline. */
  readonly signal: AbortSignal;
  /** Time left before the deadline (ms). */
  readonly remaining: () => number;
  /** How long to wait for an operation of unknown end after its lease has expired (ms; "P"). */
  readonly operationTimeout: number;
  readonly facts: Facts;
  /**
   * Ids of operations that were passed over, and have ended since: the desired state is applied again. Absent
   * for an event, which leaves that to the heartbeat.
   */
  readonly ended?: ReadonlySet<string>;
}

/** Another invocation has acquired the lease. */
class LeaseLost extends Error {}
/** The lease was renewed, and is for a newer desired state now. */
class NewerDesired extends Error {}

/**
 * Fixes the version of an event, records its desired state, then reconciles.
 *
 * @returns DONE if Barman was set to this desired state, SKIPPED if it was set to a newer one
 * @throws InvalidArgs if the event id was used for another target
 * @throws LedgerError if the ledger is unavailable
 * @throws Busy if another invocation is switching, or the server is paused
 * @throws ConfigSwitchFailed, HttpError as `switchConfig` does
 */
export async function recordAndReconcile(
  options: ReconcileOptions & { readonly events: EventTable },
  event: DesiredState,
): Promise<Result> {
  const { ledger, events, signal, facts } = options;
  const desired = await fixVersion(events, event, signal);
  const { barman_server, version } = desired;
  const lease = await ledger.recordAndAcquire(desired, signal);
  // Without a lease: another invocation holds it, or this event or a newer one is recorded, in an item whose
  // schema is known.
  if (!lease && !(await ledger.record(desired, signal))) await ledger.get(barman_server, signal);
  facts.recorded = true;
  facts.duplicate = version !== event.version;
  return reconcile(options, barman_server, version, lease);
}

/**
 * Applies the newest desired state of a server, unless it is already applied.
 *
 * @param version what is to be applied at least; the newest one is not older
 * @param acquired the lease, if it was already acquired
 * @throws as `recordAndReconcile` does
 */
export async function reconcile(
  options: ReconcileOptions,
  barman_server: string,
  version: string,
  acquired?: Lease,
): Promise<Result> {
  const { ledger, signal, facts } = options;
  let lease = acquired;
  /** The event's result, once its desired state or a newer one is applied. */
  let result: Result | undefined;
  try {
    for (;;) {
      if (!lease) {
        const next = await acquire(options, barman_server, version);
        if ('result' in next) return result ?? next.result;
        lease = next.lease;
      }
      const { desired, desired_version } = lease.item;
      const applied: Applied = await apply(options, version, lease);
      if (applied.status !== 'done') {
        lease = applied.status === 'newer desired' ? applied.lease : undefined;
        continue;
      }
      const renew = options.remaining() > RENEW_TIME;
      const completion = await ledger.complete(applied.lease, applied.result.operation_id, renew, signal);
      lease = completion.lease === 'renewed' ? completion.renewed : undefined;
      if (completion.lease === 'lost') continue;
      if (desired_version === version) result = applied.result;
      else result ??= superseded(facts, `Barman was set to ${desired} for ${desired_version}`);
      if (completion.lease === 'released') return result;
    }
  } catch (error) {
    // The event has its result; the newer desired state is in the ledger, for its own event or the heartbeat.
    if (result) return result;
    throw error;
  }
}

/** How an application under a lease ended that did not throw. */
type Applied =
  | { readonly status: 'done'; readonly lease: Lease; readonly result: Result & { operation_id: string } }
  | { readonly status: 'lease lost' }
  /** Nothing was sent: the lease was renewed, and is for a newer desired state now. */
  | { readonly status: 'newer desired'; readonly lease: Lease };

/**
 * Applies the lease's desired state: one config switch, whose POSTs are sent only while the lease allows it.
 */
async function apply(
  { ledger, api, signal }: ReconcileOptions,
  version: string,
  acquired: Lease,
): Promise<Applied> {
  let lease = acquired;
  const { barman_server, desired, desired_version } = lease.item;
  const finished = new AbortController();
  const guard: PostGuard = {
    inDoubt: false,
    passedOver: new Set(passedOver(lease.item).map(({ operation_id }) => operation_id)),
    // This write is not waited for: without it, the next invocation waits for all recent operations, and then
    // POSTs again.
    onCreated: (operation_id) => {
      ledger.started(lease, operation_id, AbortSignal.any([signal, finished.signal])).catch(() => {});
    },
    beforePost: async () => {
      if (mayPost(lease)) return;
      const renewed = await ledger.acquire(lease.item, version, signal);
      if (!renewed) throw new LeaseLost();
      lease = renewed;
      if (renewed.item.desired_version !== desired_version) throw new NewerDesired();
    },
  };
  try {
    const result = await switchConfig(api, barman_server, parseTarget(desired), guard);
    return { status: 'done', lease, result };
  } catch (error) {
    if (error instanceof LeaseLost) return { status: 'lease lost' };
    if (error instanceof NewerDesired) return { status: 'newer desired', lease };
    // In doubt: the lease is kept, so that whoever comes next waits until the operation has ended.
    if (!guard.inDoubt && !signal.aborted) {
      // If this fails, the lease expires by itself.
      await ledger.release(lease, messageOf(error), signal).catch(() => {});
    }
    throw error;
  } finally {
    finished.abort();
  }
}

/** The lease, or the result that makes it unnecessary. */
type Acquired = { readonly lease: Lease } | { readonly result: Result };

/** Waits for the lease, or for a result that makes it unnecessary. @throws Busy after 5 s */
async function acquire(options: ReconcileOptions, barman_server: string, version: string): Promise<Acquired> {
  const { ledger, signal, facts, ended } = options;
  const start = performance.now();
  for (;;) {
    const item = await ledger.get(barman_server, signal);
    if (!item)
      throw new LedgerError(
        `the ledger's item of ${barman_server} was deleted meanwhile; send the event again`,
      );
    const { applied, applied_version = '', operation_id, lease_token } = item;
    if (applied_version >= version && !(ended && mustApplyAgain(item, ended))) {
      const message = `Barman was set to ${applied}`;
      const result =
        applied_version === version
          ? alreadyApplied(facts, message, operation_id)
          : superseded(facts, `${message} for ${applied_version}`);
      return { result };
    }
    if (isPaused(item)) {
      throw new Busy(
        `Barman server ${barman_server} is paused: the desired state is recorded, and will be applied after the pause`,
      );
    }
    if (isLeased(item)) {
      const left = WAIT.most - (performance.now() - start);
      if (left <= 0) {
        throw new Busy(
          `another invocation is switching ${barman_server}: the desired state is recorded, and will be applied after that`,
        );
      }
      const slept = Math.min(WAIT.interval, left);
      await sleep(slept, signal);
      facts.waited += slept;
      continue;
    }
    let known: KnownOperations = { ended };
    if (lease_token !== undefined) {
      const waited = await waitOut(options, item);
      if (waited.end !== undefined) {
        const lease = await finish(options, { ...item, lease_token }, waited.end);
        if (lease) return { lease };
        continue;
      }
      known = { ended, running: waited.running };
      facts.passedOver ||= waited.running.length > 0;
    }
    const lease = await ledger.acquire(item, version, signal, known);
    if (lease) return { lease };
  }
}

/**
 * Waits until the operation has ended that was created under an expired lease, or, if that is not known,
 * those that may have been.
 *
 * @returns how the known one ended; or the operations that have not ended in time, and are to be passed over
 * @throws HttpError if they cannot be polled, and there is no time to wait until they no longer matter
 * @throws Busy if one has not ended, and the next attempt, which would pass it over, is not due yet
 */
async function waitOut(
  { api, signal, remaining, operationTimeout }: ReconcileOptions,
  item: Item,
): Promise<{ end?: 'DONE' | 'FAILED'; running: NonNullable<KnownOperations['running']> }> {
  const { barman_server, lease_expires_at, running_operation, running_version, next_attempt_at } = item;
  const expiredAt = timeOf(lease_expires_at, 0);
  const patience = () => expiredAt + operationTimeout - Date.now();
  const earlier = new Set(passedOver(item).map(({ operation_id }) => operation_id));
  const candidates: NonNullable<KnownOperations['running']> = running_operation
    ? [{ operation_id: running_operation, version: running_version }]
    : (await api.recentOperations(barman_server, Date.now() - (expiredAt - LEASE)))
        .filter((id) => !earlier.has(id))
        .map((operation_id) => ({ operation_id }));
  const limit = deadline(patience());
  const running: (typeof candidates)[number][] = [];
  let end: 'DONE' | 'FAILED' | undefined;
  try {
    for (const one of candidates) {
      try {
        end = await api.endOf(barman_server, one.operation_id, AbortSignal.any([signal, limit.signal]));
      } catch (error) {
        if (signal.aborted || patience() > remaining()) throw error;
        running.push(one);
      }
    }
  } finally {
    limit.clear();
  }
  if (running.length === 0) return running_operation && end ? { end, running } : { running };
  if (timeOf(next_attempt_at, 0) > Date.now()) {
    const ids = running.map(({ operation_id }) => operation_id).join(', ');
    throw new Busy(
      `operation ${ids} on ${barman_server} has not ended: the desired state is recorded, and will be applied later`,
    );
  }
  // One that cannot be polled gets the same time.
  if (patience() > 0) await sleep(patience(), signal);
  return { running };
}

/**
 * Records the end of the operation that was created under an expired lease.
 *
 * @returns the lease, renewed for a newer desired state
 * @throws ConfigSwitchFailed if it ended FAILED, and nothing newer is desired
 */
async function finish(
  { ledger, signal, remaining }: ReconcileOptions,
  item: Item & { lease_token: string },
  end: 'DONE' | 'FAILED',
): Promise<Lease | undefined> {
  const { barman_server, running = '', running_operation = '', running_version = '' } = item;
  const expired = {
    token: item.lease_token,
    item: { ...item, desired: running, desired_version: running_version },
  };
  if (end === 'DONE') {
    const renew = remaining() > RENEW_TIME;
    const completion = await ledger.complete(expired, running_operation, renew, signal);
    return completion.lease === 'renewed' ? completion.renewed : undefined;
  }
  const failed = operationFailed(barman_server, parseTarget(running), running_operation);
  await ledger.release(expired, failed.message, signal);
  if (item.desired_version === running_version) throw failed;
  return undefined;
}

function alreadyApplied(facts: Facts, message: string, operation_id: string | undefined): Result {
  facts.duplicate = true;
  return {
    exit_code: ExitCode.CONFIG_SWITCH_DONE,
    message: `this event was already applied: ${message}`,
    ...(operation_id !== undefined && { operation_id }),
  };
}

function superseded(facts: Facts, message: string): Result {
  facts.superseded = true;
  return { exit_code: ExitCode.CONFIG_SWITCH_SKIPPED, message: `superseded by a newer event: ${message}` };
}
