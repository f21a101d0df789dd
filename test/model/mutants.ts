/**
 * The conditions of the ledger's protocol, each with the edits that remove it. `npm run model:mutants` checks
 * that the model test notices each removal (run-mutants.ts); vitest.config.ts applies the edits.
 */

const FUNCTION = 'functions/config-switch';
const ITEM = `${FUNCTION}/ledger/item.ts`;
const CONDITIONS = `${FUNCTION}/ledger/conditions.ts`;
const LEDGER = `${FUNCTION}/ledger/ledger.ts`;
const EVENTS = `${FUNCTION}/ledger/events.ts`;
const RECONCILE = `${FUNCTION}/reconcile/reconcile.ts`;
const TAKE_OVER = `${FUNCTION}/reconcile/take-over.ts`;
const OBSERVATIONS = `${FUNCTION}/reconcile/observations.ts`;
const HEARTBEAT = `${FUNCTION}/reconcile/heartbeat.ts`;
const VERSION = `${FUNCTION}/version.ts`;
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
    condition: 'record: desired is older than mine',
    edits: [edit(CONDITIONS, "less('desired.version', version)", "less('desired.version', '~')")],
  },
  {
    condition: 'events: a duplicate has the version of its first delivery',
    edits: [edit(EVENTS, 'version: stored.version }', 'version: event.version }')],
  },
  {
    condition: 'events: put before the desired state is recorded',
    edits: [
      edit(
        RECONCILE,
        'await Promise.all([fixVersion(events, requested, signal), ',
        'await Promise.all([requested, ',
      ),
      edit(
        RECONCILE,
        'facts.recorded = true;',
        'await fixVersion(events, requested, signal);\n  facts.recorded = true;',
      ),
    ],
  },
  {
    condition: 'recorded: not if the item was deleted meanwhile',
    edits: [edit(RECONCILE, 'facts.recorded = false;', '')],
  },
  {
    condition: 'acquire: the item has a desired state',
    edits: [edit(LEDGER, 'return [isDesired, notPaused(), ', 'return [notPaused(), ')],
  },
  {
    condition: 'acquire: applied is older',
    edits: [
      edit(RECONCILE, 'isApplied(item, version) && !again', "isApplied(item, version + '~') && !again"),
      edit(CONDITIONS, "less('applied.version', version)", "less('applied.version', '~')"),
    ],
  },
  {
    condition: 'acquire: no other invocation has the lease',
    edits: [edit(ITEM, 'return lease !== undefined && Date.now()', 'return false && Date.now()')],
  },
  {
    condition: 'a lease expires',
    edits: [edit(ITEM, '&& Date.now() < timeOf(lease.expires_at, 0)', '')],
  },
  {
    condition: 'lease_expires_at covers an attempt',
    edits: [edit(LEDGER, 'POST_WINDOW + ATTEMPT_TIMEOUT + CLOCK_SKEW', 'POST_WINDOW')],
  },
  {
    condition: 'a POST is sent only inside the POST window',
    edits: [edit(RECONCILE, 'while (guard.inDoubt || !mayPost(lease)) {', 'while (guard.inDoubt) {')],
  },
  {
    condition: 'renew, complete, release: the token is mine',
    edits: [
      edit(
        CONDITIONS,
        "const leasedBy = (token: string) => equals('lease.token', token);",
        "const leasedBy = (_: string) => either(absent('lease'), less('lease.token', '~'));",
      ),
    ],
  },
  {
    condition: 'take over: the token is the expired one',
    edits: [
      edit(
        LEDGER,
        'leasedBy(item.lease.token)];\n    return this.#lease',
        "either(noLease, less('lease.token', '~'))];\n    return this.#lease",
      ),
    ],
  },
  {
    condition: 'started: the token is mine',
    edits: [
      edit(
        LEDGER,
        'await this.#write(item.barman_server, change, [leasedBy(token)], signal);',
        'await this.#write(item.barman_server, change, [], signal);',
      ),
    ],
  },
  {
    condition: 'acquire: the running operation of the token before is removed',
    edits: [edit(LEDGER, '{ ...change, lease, running: null },', '{ ...change, lease },')],
  },
  {
    condition: 'acquire: a write that the SDK repeated counts as mine',
    edits: [edit(LEDGER, 'item.lease?.token !== token)', 'item.lease?.token !== token || !written)')],
  },
  {
    condition: 'record: a write that the SDK repeated changes nothing',
    edits: [
      edit(
        LEDGER,
        '      condition,\n      signal,\n    );\n    // The SDK',
        '      condition.map((row) => [...row, ...leasedBy(token)]),\n      signal,\n    );\n    // The SDK',
      ),
    ],
  },
  {
    condition: 'take over: the item is unsettled from then on',
    edits: [
      edit(LEDGER, '{ ...unsettled(), ...failedAttempt(item, why) }', '{ ...failedAttempt(item, why) }'),
    ],
  },
  {
    condition: 'renew: if a POST is in doubt, the item is unsettled from then on',
    edits: [edit(LEDGER, 'inDoubt ? unsettled() : {}', '{}')],
  },
  {
    condition: 'a POST in doubt: another one only after a renewal',
    edits: [edit(RECONCILE, 'while (guard.inDoubt || !mayPost(lease)) {', 'while (!mayPost(lease)) {')],
  },
  {
    condition: 'a POST is in doubt until its operation has ended',
    edits: [edit(PG_BACKUP_API, 'guard.inDoubt = true;', '')],
  },
  {
    condition: 'a POST is in doubt also if no connection is made for the next',
    edits: [edit(PG_BACKUP_API, "if (isSent && begun === 'no')", "if (begun === 'no')")],
  },
  {
    condition: 'release: only if no POST is in doubt',
    edits: [edit(RECONCILE, 'if (!guard.inDoubt && !signal.aborted) {', 'if (!signal.aborted) {')],
  },
  {
    condition: 'complete: only after the operation has ended',
    edits: [
      edit(
        SWITCH_CONFIG,
        'await api.waitForOperation(barman_server, operation_id, expectedOf(operation_id, guard))',
        "{ status: 'DONE' as 'DONE' | 'FAILED', operation_ms: 0 }",
      ),
    ],
  },
  {
    condition: 'complete: unsettled stays',
    edits: [
      edit(
        LEDGER,
        'if (acquiredAt - since >= unsettled)',
        'if (acquiredAt - since >= unsettled - unsettled)',
      ),
    ],
  },
  {
    condition: 'complete: settled by when the lease was acquired, not by now',
    edits: [
      edit(LEDGER, 'if (acquiredAt - since >= unsettled)', 'if (acquiredAt && now - since >= unsettled)'),
    ],
  },
  {
    condition: 'complete: the desired state is applied again',
    edits: [
      edit(
        LEDGER,
        'Math.min(now + Math.max(applyAgain, now - since), since + unsettled)',
        'Math.max(applyAgain, since + unsettled)',
      ),
    ],
  },
  {
    condition: 'complete: … at intervals that grow with the age of the doubt',
    edits: [edit(LEDGER, 'now + Math.max(applyAgain, now - since)', 'now + 4 * applyAgain')],
  },
  {
    condition: 'complete: against something newer the doubt starts over',
    edits: [
      edit(
        LEDGER,
        'isApplied(item, version) ? timeOf(item.unsettled_since, now) : now',
        'timeOf(item.unsettled_since, now)',
      ),
    ],
  },
  {
    condition: 'complete: what was to be applied again is applied',
    edits: [edit(LEDGER, 'undefined) return { apply_again_at: null };', 'undefined) return {};')],
  },
  {
    condition: 'apply again: only by a heartbeat, when it is time',
    edits: [edit(RECONCILE, "caller === 'heartbeat' && mustApplyAgain(item)", 'false')],
  },
  {
    condition: 'superseded: only by an applied version, not by a pending one',
    edits: [
      edit(RECONCILE, 'const { applied } = item;', 'const applied = { operation_id: "", ...item.desired };'),
      edit(RECONCILE, 'if (applied && isApplied(item, version) && !again)', 'if (applied.version > version)'),
    ],
  },
  {
    condition: 'an expired lease: its running operation is not requested again',
    edits: [
      edit(TAKE_OVER, 'if (running && (await recordEnd(options, item, running))) return undefined;', ''),
      edit(HEARTBEAT, 'if (!running) return;', 'return;'),
    ],
  },
  {
    condition: 'an expired lease: its running operation applied its own version',
    edits: [edit(TAKE_OVER, 'endedLease(item, running)', 'endedLease(item, { ...running, ...desired })')],
  },
  {
    condition: 'an expired lease: a running operation that FAILED applied nothing',
    edits: [edit(TAKE_OVER, "if (end === 'DONE') await ledger.complete", 'if (end) await ledger.complete')],
  },
  {
    condition: 'an expired lease: its running operation is waited for',
    edits: [
      edit(
        TAKE_OVER,
        'return timeOf(lease.expires_at, 0) + time - Date.now();',
        'return timeOf(lease.expires_at, 0) + 0 * time - Date.now();',
      ),
    ],
  },
  {
    condition: 'an expired lease: … of the newest event as long as is expected',
    edits: [edit(TAKE_OVER, 'TIMES.asExpected * expected', '0 * expected')],
  },
  {
    condition: 'an expired lease: … and no longer, as its process may have died',
    edits: [edit(TAKE_OVER, 'expected === undefined ? ', 'expected === undefined || expected ? ')],
  },
  {
    condition: 'an expired lease: … and for ten minutes if none was seen to end',
    edits: [edit(TAKE_OVER, 'TIMES.asAnother * operationTimeout', 'operationTimeout')],
  },
  {
    condition: 'an expired lease: … and for ten minutes if it cannot be polled',
    edits: [edit(TAKE_OVER, 'let isSeen = false;', 'let isSeen = true;')],
  },
  {
    condition: 'an expired lease: nothing is expected after one that outlived its lease',
    edits: [
      edit(
        LEDGER,
        'const { operation_ms } = lease;',
        'const { operation_ms = lease.item.applied?.operation_ms } = lease;',
      ),
    ],
  },
  {
    condition: 'an expired lease: … and at least as long as another one',
    edits: [edit(TAKE_OVER, 'Math.max(operationTimeout, ofDesired)', 'ofDesired')],
  },
  {
    condition: 'an expired lease: a stuck operation is passed over',
    edits: [edit(TAKE_OVER, '+ time - Date.now();', '+ 2 ** 40 * time - Date.now();')],
  },
  {
    condition: 'an expired lease without operation: what may be running is waited for',
    edits: [edit(TAKE_OVER, ' || (await isStillRunning(options, item))', '')],
  },
  {
    condition: 'a POST without a response: what may be running is waited for before the next',
    edits: [edit(PG_BACKUP_API, "if (begun === 'no') return;", 'if (begun) return;')],
  },
  {
    condition: 'OPERATION_TIMEOUT is longer than any operation that ends',
    edits: [edit(WORLD, 'const OPERATION_TIMEOUT = 60_000;', 'const OPERATION_TIMEOUT = 3_000;')],
  },
  {
    condition: 'taking over: only when the next attempt is due',
    edits: [edit(ITEM, 'return timeOf(next_attempt_at, 0) <= Date.now();', 'return next_attempt_at !== "";')],
  },
  {
    condition: 'taking over: counts as an attempt',
    edits: [
      edit(LEDGER, '{ ...unsettled(), ...failedAttempt(item, why) }', '{ ...unsettled(), last_error: why }'),
    ],
  },
  {
    condition: 'acquire: not paused',
    edits: [
      edit(RECONCILE, 'if (isPaused(item) || allPaused) throw paused(item);', ''),
      edit(LEDGER, 'noLease, notPaused()];', 'noLease];'),
      edit(LEDGER, 'return [isDesired, notPaused(), ', 'return [isDesired, '),
    ],
  },
  {
    condition: 'acquire: not while all servers are paused (event)',
    edits: [
      edit(
        RECONCILE,
        'const allPaused = isStagePaused(stage);',
        'const allPaused = isStagePaused({ ...stage, paused: undefined as never });',
      ),
    ],
  },
  {
    condition: 'acquire: not while all servers are paused (heartbeat)',
    edits: [
      edit(
        HEARTBEAT,
        'const isHeld = (item: Item) => allPaused || isPaused(item);',
        'const isHeld = isPaused;',
      ),
    ],
  },
  {
    condition: 'a pause with an end ends by itself',
    edits: [
      edit(
        CONDITIONS,
        "either(absent('paused'), less('paused_until', new Date().toISOString()))",
        "absent('paused')",
      ),
    ],
  },
  {
    condition: 'observation: the leader becomes the desired state',
    edits: [
      edit(OBSERVATIONS, 'if (at - timeOf(differs_since', 'if (interval > 0 || at - timeOf(differs_since'),
    ],
  },
  {
    condition: 'observation: its version is older than the answers may be',
    edits: [edit(VERSION, 'const STALENESS = 30_000;', 'const STALENESS = -30_000;')],
  },
  {
    condition: 'observation: two in a row, some time apart',
    edits: [
      edit(
        OBSERVATIONS,
        'at - timeOf(differs_since, Number.POSITIVE_INFINITY) < (1 - TOLERANCE) * interval',
        'differs_since === undefined',
      ),
      edit(VERSION, 'const STALENESS = 30_000;', 'const STALENESS = 0;'),
      edit(OBSERVATIONS, 'const GRACE = 60_000;', 'const GRACE = 0;'),
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
    edits: [edit(OBSERVATIONS, 'if (overdue < 0 ||', 'if (overdue < 2 ** 50 ||')],
  },
  {
    condition: 'leader: an event that follows it is older than one that names its model',
    edits: [
      edit(VERSION, "'follow_leader' in target ? observedVersionOf", "'follow_leader' in target ? versionOf"),
    ],
  },
  {
    condition: 'leader: nothing is recorded for what is not newer',
    edits: [edit(CONDITIONS, "less('desired.version', version)", "less('desired.version', version + '~')")],
  },
  {
    condition: 'inspection: it changes no item of a server',
    edits: [
      edit(LEDGER, 'this.#table.update(inspectionKey(barman_server), ', 'this.#table.update(barman_server, '),
    ],
  },
  {
    condition: 'heard: it changes no item of a server',
    edits: [edit(LEDGER, 'const key = inspectionKey(barman_server);', 'const key = barman_server;')],
  },
  {
    condition: 'heard: the revision is as it was read',
    edits: [edit(LEDGER, '[heardIs(revision)]', '[]')],
  },
  {
    condition: 'FAILED: the desired state stays pending',
    edits: [
      edit(
        LEDGER,
        'last_error: messageOf(error).slice(0, 1_000),',
        'last_error: messageOf(error).slice(0, 1_000), desired: null,',
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
