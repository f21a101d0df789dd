/**
 * The conditions of the ledger's protocol, each with the edits that remove it. `npm run model:mutants` checks that the model test
 * notices each removal (run-mutants.ts); vitest.config.ts applies the edits.
 */

const FUNCTION = 'functions/config-switch';
const LEDGER = `${FUNCTION}/reconcile/ledger.ts`;
const EVENTS = `${FUNCTION}/reconcile/events.ts`;
const RECONCILE = `${FUNCTION}/reconcile/reconcile.ts`;
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
  /** The short form has too few interleavings to notice it. */
  readonly rare?: true;
}

const edit = (file: string, from: string, to: string): Edit => ({ file, from, to });

export const MUTANTS: readonly Mutant[] = [
  {
    condition: 'every write: the schema is known',
    edits: [
      edit(
        LEDGER,
        "either(absent('schema'), equals('schema', SCHEMA))",
        "either(absent('schema'), absent('paused'))",
      ),
    ],
  },
  {
    condition: 'record: desired_version is older than mine',
    edits: [edit(LEDGER, "less('desired_version', version)", "less('desired_version', '~')")],
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
        'progress.recorded = true;',
        'await fixVersion(events, event, signal);\n  progress.recorded = true;',
      ),
    ],
  },
  {
    condition: 'acquire: an applied version is not applied again',
    edits: [
      edit(RECONCILE, 'if (applied_version >= version) {', 'if (applied_version > version) {'),
      edit(LEDGER, "less('applied_version', version)", "less('applied_version', '~')"),
    ],
  },
  {
    condition: 'acquire: no other invocation has the lease',
    edits: [edit(LEDGER, 'return lease_token !== undefined && Date.now()', 'return false && Date.now()')],
  },
  {
    condition: 'a lease expires',
    edits: [edit(LEDGER, '&& Date.now() < timeOf(lease_expires_at, 0)', '&& lease_expires_at !== undefined')],
  },
  {
    condition: 'acquire: the token is the one that was waited out',
    edits: [edit(LEDGER, 'either(noLease, leasedBy(seen))', "either(noLease, less('lease_token', '~'))")],
  },
  {
    condition: 'acquire: an expired lease is waited out first',
    edits: [edit(RECONCILE, "(await waitOut(options, item)) === 'passed over'", 'false')],
  },
  {
    condition: 'a POST without a response: wait until it can no longer arrive',
    edits: [edit(PG_BACKUP_API, 'this.#options.postDelay - (performance.now() - sentAt)', '0')],
  },
  {
    condition: 'a POST without a response: wait for recent operations before the next',
    edits: [
      edit(PG_BACKUP_API, 'await this.waitForRecentOperations(server, performance.now() - sentAt);', ''),
    ],
  },
  {
    condition: 'recent operations: each one that is running is waited for',
    edits: [
      edit(
        PG_BACKUP_API,
        "if (status === 'IN_PROGRESS') await this.waitForOperation(server, id, signal);",
        '',
      ),
    ],
  },
  {
    condition: 'recent operations: all since the POST count',
    edits: [edit(PG_BACKUP_API, '- 13 * HOUR - elapsed - 1_000;', '+ 14 * HOUR;')],
  },
  {
    condition: 'a POST is in doubt until its operation has ended',
    edits: [edit(PG_BACKUP_API, 'guard.inDoubt = true;', '')],
    rare: true,
  },
  {
    condition: 'release: only if every POST has a known end',
    edits: [edit(RECONCILE, 'if (!guard.inDoubt && !signal.aborted) {', 'if (!signal.aborted) {')],
    rare: true,
  },
  {
    condition: 'complete: only after the operation has ended',
    edits: [
      edit(
        SWITCH_CONFIG,
        'const status = await api.waitForOperation(barmanServer, operationId);',
        "const status = 'DONE' as 'DONE' | 'FAILED';",
      ),
    ],
  },
  {
    condition: 'complete, release: the token is mine',
    edits: [
      edit(
        LEDGER,
        "const leasedBy = (token: string) => equals('lease_token', token);",
        "const leasedBy = (_: string) => either(absent('lease_token'), less('lease_token', '~'));",
      ),
    ],
    rare: true,
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
        '{ ...change, ...lease }, guarded, signal);',
        '{ ...change, ...lease }, guarded.map((row) => either(row, leasedBy(lease.lease_token))), signal);',
      ),
    ],
    rare: true,
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
    rare: true,
  },
  {
    condition: 'P is longer than any operation that ends',
    edits: [edit(WORLD, 'const OPERATION_TIMEOUT = 60_000;', 'const OPERATION_TIMEOUT = 3_000;')],
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
