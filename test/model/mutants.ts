/**
 * The conditions of the ledger's protocol, each with the edits that remove it. `npm run model:mutants` checks
 * that the model test notices each removal (run-mutants.ts); vitest.config.ts applies the edits.
 */

const FUNCTION = 'functions/config-switch';
const ITEM = `${FUNCTION}/ledger/item.ts`;
const TABLE = `${FUNCTION}/ledger/conditions.ts`;
const LEDGER = `${FUNCTION}/ledger/ledger.ts`;
const EVENTS = `${FUNCTION}/ledger/events.ts`;
const RECONCILE = `${FUNCTION}/reconcile/reconcile.ts`;
const OBSERVE = `${FUNCTION}/reconcile/observations.ts`;
const HEARTBEAT = `${FUNCTION}/reconcile/heartbeat.ts`;
const PG_BACKUP_API = `${FUNCTION}/barman/pg-backup-api.ts`;
const SWITCH_CONFIG = `${FUNCTION}/barman/switch-config.ts`;
const WORLD = 'test/model/world.ts';

export interface Edit {
  readonly file: string;
  readonly from: string;
  readonly to: string;
}

export interface Mutant {
  /** The condition that is removed. */
  readonly condition: string;
  readonly edits: readonly Edit[];
}

const edit = (file: string, from: string, to: string): Edit => ({ file, from, to });

export const MUTANTS: readonly Mutant[] = [
  {
    condition: 'record: desired_version is older than mine',
    edits: [edit(TABLE, "less('desired_version', version)", "less('desired_version', '~')")],
  },
  {
    condition: 'events: a duplicate has the version of its first delivery',
    edits: [edit(EVENTS, 'version: stored.version }', 'version: event.version }')],
  },
  {
    condition: 'events: put before the desired state is recorded',
    edits: [
      edit(RECONCILE, 'const desired = await fixVersion(events, event, signal);', 'const desired = event;'),
      edit(
        RECONCILE,
        'facts.recorded = true;',
        'await fixVersion(events, event, signal);\n  facts.recorded = true;',
      ),
    ],
  },
  {
    condition: 'acquire: an applied version is not applied again',
    edits: [
      edit(RECONCILE, 'if (applied_version >= version &&', 'if (applied_version > version &&'),
      edit(TABLE, "less('applied_version', version)", "less('applied_version', '~')"),
    ],
  },
  {
    condition: 'acquire: no other invocation has the lease',
    edits: [edit(ITEM, 'return lease_token !== undefined && Date.now()', 'return false && Date.now()')],
  },
  {
    condition: 'a lease expires',
    edits: [edit(ITEM, '&& Date.now() < timeOf(lease_expires_at, 0)', '&& lease_expires_at !== undefined')],
  },
  {
    condition: 'acquire: the token is the one that was waited out',
    edits: [
      edit(LEDGER, 'either(noLease, leasedBy(lease_token))', "either(noLease, less('lease_token', '~'))"),
      edit(LEDGER, '  leasedBy,\n', '  leasedBy,\n  less,\n'),
    ],
  },
  {
    condition: 'acquire: an expired lease is waited out first',
    edits: [
      edit(RECONCILE, 'const waited = await waitOut(options, item);', 'const waited = { running: [] };'),
    ],
  },
  {
    condition: 'a POST without a response: wait until it can no longer arrive',
    edits: [edit(PG_BACKUP_API, 'this.#options.postDelay - elapsed()', '0')],
  },
  {
    condition: 'a POST without a response: wait for recent operations before the next',
    edits: [
      edit(
        PG_BACKUP_API,
        'for (const id of await this.recentOperations(barman_server, elapsed()))',
        'for (const id of [])',
      ),
    ],
  },
  {
    condition: 'recent operations: each one that is running is waited for',
    edits: [
      edit(
        PG_BACKUP_API,
        "return status === 'IN_PROGRESS' ? this.waitForOperation(barman_server, operation_id, signal) : status;",
        "return status === 'IN_PROGRESS' ? 'DONE' : status;",
      ),
    ],
  },
  {
    condition: 'recent operations: all since the POST count, in any time zone',
    edits: [edit(PG_BACKUP_API, 'const oldest = now - elapsed -', 'const oldest = now -')],
  },
  {
    condition: 'recent operations: the newest counts, in case the clock is wrong',
    edits: [edit(PG_BACKUP_API, '|| index === ids.length - 1) return true;', ') return true;')],
  },
  {
    condition: 'a POST is in doubt until its operation has ended',
    edits: [edit(PG_BACKUP_API, 'guard.inDoubt = true;', '')],
  },
  {
    condition: 'release: only if every POST has a known end',
    edits: [edit(RECONCILE, 'if (!guard.inDoubt && !signal.aborted) {', 'if (!signal.aborted) {')],
  },
  {
    condition: 'complete: only after the operation has ended',
    edits: [
      edit(
        SWITCH_CONFIG,
        'await api.waitForOperation(barman_server, operation_id);',
        "'DONE' as 'DONE' | 'FAILED';",
      ),
    ],
  },
  {
    condition: 'complete, release: the token is mine',
    edits: [
      edit(
        TABLE,
        "const leasedBy = (token: string) => equals('lease_token', token);",
        "const leasedBy = (_: string) => either(absent('lease_token'), less('lease_token', '~'));",
      ),
    ],
  },
  {
    condition: 'complete: desired_version is what I applied',
    edits: [edit(LEDGER, 'done, [leasedBy(token), desiredIs(desired_version)]', 'done, [leasedBy(token)]')],
  },
  {
    condition: 'superseded: only by an applied version, not by a pending one',
    edits: [
      edit(RECONCILE, "applied, applied_version = '',", "applied, desired_version: applied_version = '',"),
    ],
  },
  {
    condition: 'acquire: a write that the SDK repeated counts as mine',
    edits: [
      edit(
        LEDGER,
        'if (item?.lease_token !== lease.lease_token',
        'if (!written || item?.lease_token !== lease.lease_token',
      ),
    ],
  },
  {
    condition: 'record: a write that the SDK repeated changes nothing',
    edits: [
      edit(
        LEDGER,
        '{ ...change, ...lease }, condition, signal);',
        '{ ...change, ...lease }, condition.map((row) => either(row, leasedBy(lease.lease_token))), signal);',
      ),
    ],
  },
  {
    condition: 'a stuck operation is passed over',
    edits: [
      edit(
        RECONCILE,
        'const patience = () => expiredAt + operationTimeout - Date.now();',
        'const patience = () => 2 ** 30 + expiredAt * 0 + operationTimeout * 0;',
      ),
    ],
  },
  {
    condition: 'a POST is sent only inside the POST window',
    edits: [edit(RECONCILE, 'if (mayPost(lease)) return;', 'return;')],
  },
  {
    condition: 'lease_expires_at covers the delay of a POST',
    edits: [edit(LEDGER, 'POST_WINDOW + POST_DELAY + CLOCK_SKEW', 'POST_WINDOW')],
  },
  {
    condition: 'P is longer than any operation that ends',
    edits: [edit(WORLD, 'const OPERATION_TIMEOUT = 60_000;', 'const OPERATION_TIMEOUT = 3_000;')],
  },
  {
    condition: 'started: the token is mine',
    edits: [
      edit(
        LEDGER,
        'await this.#write(barman_server, change, [leasedBy(token)], signal);',
        'await this.#write(barman_server, change, [], signal);',
      ),
    ],
  },
  {
    condition: 'acquire: the running operation of the token before is removed',
    edits: [edit(LEDGER, '...NO_RUNNING_OPERATION,\n      lease_token', 'lease_token')],
  },
  {
    condition: 'an expired lease: its running operation is not requested again',
    edits: [edit(RECONCILE, 'if (waited.end !== undefined) {', 'if (waited.end === undefined && false) {')],
  },
  {
    condition: 'an expired lease: its running operation applied running_version',
    edits: [
      edit(RECONCILE, 'item: { ...item, desired: running, desired_version: running_version },', 'item,'),
    ],
  },
  {
    condition: 'an expired lease: a running operation that FAILED applied nothing',
    edits: [edit(RECONCILE, "if (end === 'DONE') {", 'if (end) {')],
  },
  {
    condition: 'acquire: all operations that are passed over are added',
    edits: [edit(LEDGER, '...running.map((one)', '...running.slice(1).map((one)')],
  },
  {
    condition: 'acquire: those that were passed over earlier stay',
    edits: [edit(LEDGER, 'passedOverText([...earlier, ', 'passedOverText([')],
  },
  {
    condition: 'acquire: only those are marked that were seen to have ended',
    edits: [
      edit(
        LEDGER,
        'ended.has(one.operation_id) ? { ended_at: now, ...one } : one,',
        '({ ended_at: now, ...one }),',
      ),
    ],
  },
  {
    condition: 'acquire: also after the end of an operation that was passed over',
    edits: [edit(LEDGER, 'mustApplyAgain(item, ended) ? [] : [newer', 'false ? [] : [newer')],
  },
  {
    condition: 'acquire: passed_over is as it was read',
    edits: [edit(LEDGER, 'passedOverIs(item.passed_over),\n      notPaused(),', 'notPaused(),')],
  },
  {
    condition: 'complete: only the marked ones are removed from passed_over',
    edits: [edit(LEDGER, '.filter(({ ended_at }) => ended_at === undefined)', '.filter(() => false)')],
  },
  {
    condition: 'complete: the marked ones are removed from passed_over',
    edits: [edit(LEDGER, '.filter(({ ended_at }) => ended_at === undefined)', '')],
  },
  {
    condition: 'heartbeat: operations that were passed over are polled',
    edits: [edit(HEARTBEAT, '.filter((one) => !one.ended_at)', '.filter(() => false)')],
  },
  {
    condition: 'drop: only operations of the desired state',
    edits: [edit(HEARTBEAT, 'if (version === item.desired_version)', 'if (version === version)')],
  },
  {
    condition: 'drop, reapply: desired_version is as it was read',
    edits: [edit(LEDGER, '[desiredIs(desired_version), passedOverIs', '[passedOverIs')],
  },
  {
    condition: 'drop, reapply: passed_over is as it was read',
    edits: [edit(LEDGER, 'passedOverIs(passed_over), noLease]', 'noLease]')],
  },
  {
    condition: 'drop, reapply: no lease',
    edits: [edit(LEDGER, 'passedOverIs(passed_over), noLease]', 'passedOverIs(passed_over)]')],
  },
  {
    condition: 'passing over: only when the next attempt is due',
    edits: [
      edit(RECONCILE, 'if (timeOf(next_attempt_at, 0) > Date.now()) {', 'if (next_attempt_at && false) {'),
    ],
  },
  {
    condition: 'passing over: counts as an attempt',
    edits: [edit(LEDGER, '...(running.length > 0 && failed', '...(running.length < 0 && failed')],
  },
  {
    condition: 'acquire: not paused',
    edits: [
      edit(RECONCILE, 'if (isPaused(item)) {', 'if (false) {'),
      edit(LEDGER, 'noLease, notPaused()];', 'noLease];'),
      edit(LEDGER, '      notPaused(),\n', ''),
    ],
  },
  {
    condition: 'complete, newer desired: renewed only if not paused',
    edits: [edit(LEDGER, '[leasedBy(token), notPaused()]', '[leasedBy(token)]')],
  },
  {
    condition: 'a pause with an end ends by itself',
    edits: [
      edit(
        TABLE,
        "either(absent('paused'), less('paused_until', new Date().toISOString()))",
        "absent('paused')",
      ),
    ],
  },
  {
    condition: 'observation: the leader becomes the desired state',
    edits: [edit(OBSERVE, 'if (at - timeOf(differs_since', 'if (interval > 0 || at - timeOf(differs_since')],
  },
  {
    condition: 'observation: its version is older than the answers may be',
    edits: [edit(OBSERVE, 'const STALENESS = 30_000;', 'const STALENESS = -30_000;')],
  },
  {
    condition: 'observation: two in a row, some time apart',
    edits: [
      edit(
        OBSERVE,
        'at - timeOf(differs_since, Number.POSITIVE_INFINITY) < (1 - TOLERANCE) * interval',
        'differs_since === undefined',
      ),
      edit(OBSERVE, 'const STALENESS = 30_000;', 'const STALENESS = 0;'),
      edit(OBSERVE, 'const GRACE = 60_000;', 'const GRACE = 0;'),
    ],
  },
  {
    condition: 'observation: nothing else was recorded since the item was read',
    edits: [
      edit(LEDGER, '[newerThanDesired(desired.version), unchanged];', '[newerThanDesired(desired.version)];'),
    ],
  },
  {
    condition: 'observation: what does not stream is applied again',
    edits: [edit(OBSERVE, 'if (overdue < 0 ||', 'if (overdue < 2 ** 50 ||')],
  },
  {
    condition: 'observation: not while it is pending anyway',
    edits: [edit(OBSERVE, 'isPending(item) || !isRecorded(item)', '!isRecorded(item)')],
  },
  {
    condition: 'FAILED: the desired state stays pending',
    edits: [
      edit(
        LEDGER,
        'last_error: error.slice(0, 1_000),',
        'last_error: error.slice(0, 1_000), desired_version: null, desired: null,',
      ),
    ],
  },
];

/**
 * Applies an edit.
 *
 * @returns the edited source
 * @throws Error if the source does not contain `from`: the mutant must be adapted to the code
 */
export function mutate(source: string, { file, from, to }: Edit): string {
  if (!source.includes(from)) throw new Error(`mutants.ts: ${file} does not contain "${from}"`);
  return source.replaceAll(from, () => to);
}
