/**
 * The conditions of the ledger's protocol, each with the edit that takes it out. `npm run model:mutants` sees that the model
 * test notices each edit (run-mutants.ts); vitest.config.ts makes the edit.
 */

const FUNCTION = 'functions/config-switch';
const LEDGER = `${FUNCTION}/reconcile/ledger.ts`;
const CONVERGE = `${FUNCTION}/reconcile/converge.ts`;
const PG_BACKUP_API = `${FUNCTION}/barman/pg-backup-api.ts`;
const SWITCH_CONFIG = `${FUNCTION}/barman/switch-config.ts`;
const WORLD = 'test/model/world.ts';

export interface Edit {
  readonly file: string;
  readonly from: string;
  readonly to: string;
}

export interface Mutant {
  /** The condition that is taken out. */
  readonly condition: string;
  readonly edits: readonly Edit[];
  /** It takes more interleavings to notice than the short form has. */
  readonly rare?: true;
}

const edit = (file: string, from: string, to: string): Edit => ({ file, from, to });

export const MUTANTS: readonly Mutant[] = [
  {
    condition: 'record: desired_key < mine',
    edits: [edit(LEDGER, "less('desired_key', key)", "less('desired_key', '~')")],
  },
  {
    condition: 'record: an event that comes again is no new one',
    edits: [edit(LEDGER, 'newerThanDesired(key), lacks(eventIdOf(key))', 'newerThanDesired(key)')],
  },
  {
    condition: 'take: what is applied is not driven again',
    edits: [
      edit(CONVERGE, 'if (applied_key >= key) {', 'if (applied_key > key) {'),
      edit(LEDGER, "less('applied_key', key)", "less('applied_key', '~')"),
    ],
  },
  {
    condition: 'take: nobody else holds the lease',
    edits: [edit(LEDGER, 'return holder !== undefined && Date.now()', 'return false && Date.now()')],
  },
  {
    condition: 'a lease runs out',
    edits: [edit(LEDGER, '&& Date.now() < timeOf(until, 0)', '&& until !== undefined')],
  },
  {
    condition: 'take: the holder is the one that was settled',
    edits: [edit(LEDGER, 'either(free, heldBy(seen))', "either(free, less('holder', '~'))")],
  },
  {
    condition: 'take over: settle first',
    edits: [edit(CONVERGE, '(await isOvertaken(driver, item))', 'false')],
  },
  {
    condition: 'a POST without an answer: wait until it cannot arrive any more',
    edits: [edit(PG_BACKUP_API, 'this.#options.postDelay - (performance.now() - sentAt)', '0')],
  },
  {
    condition: 'a POST without an answer: settle before the next',
    edits: [edit(PG_BACKUP_API, 'await this.settle(server, performance.now() - sentAt);', '')],
  },
  {
    condition: 'settle: wait for each operation that is running',
    edits: [
      edit(
        PG_BACKUP_API,
        "if (status === 'IN_PROGRESS') await this.waitForOperation(server, id, signal);",
        '',
      ),
    ],
  },
  {
    condition: 'settle: an operation may be as old as the POST',
    edits: [edit(PG_BACKUP_API, '- elapsed - 1_000;', '+ HOUR;')],
  },
  {
    condition: 'a POST is in doubt until its operation has ended',
    edits: [edit(PG_BACKUP_API, 'guard.inDoubt = true;', '')],
    rare: true,
  },
  {
    condition: 'release: only with a known end',
    edits: [edit(CONVERGE, 'if (!guard.inDoubt && !signal.aborted) {', 'if (!signal.aborted) {')],
    rare: true,
  },
  {
    condition: 'result: only after the operation ended',
    edits: [
      edit(
        SWITCH_CONFIG,
        'const status = await api.waitForOperation(barmanServer, operationId);',
        "const status = 'DONE' as 'DONE' | 'FAILED';",
      ),
    ],
  },
  {
    condition: 'result, release: the holder is me',
    edits: [
      edit(
        LEDGER,
        "const heldBy = (token: string) => equals('holder', token);",
        "const heldBy = (_: string) => either(absent('holder'), less('holder', '~'));",
      ),
    ],
    rare: true,
  },
  {
    condition: 'result: a newer wish is not left behind',
    edits: [edit(LEDGER, 'done, [heldBy(token), desiredIs(desired_key)]', 'done, [heldBy(token)]')],
  },
  {
    condition: 'SKIPPED: not below a wish that is merely pending',
    edits: [edit(CONVERGE, "applied, applied_key = '',", "applied, desired_key: applied_key = '',")],
  },
  {
    condition: 'take: a write that was sent again is mine',
    edits: [edit(LEDGER, 'item?.holder === token', 'taken && item?.holder === token')],
  },
  {
    condition: 'record: a write that was sent again changes nothing',
    edits: [
      edit(
        LEDGER,
        'holder: token, until }, condition, signal);',
        'holder: token, until }, condition.map((row) => either(row, heldBy(token))), signal);',
      ),
    ],
    rare: true,
  },
  {
    condition: 'a stuck operation is passed over',
    edits: [
      edit(
        CONVERGE,
        'const patience = () => ranOut + operationTimeout - Date.now();',
        'const patience = () => 2 ** 30 + ranOut * 0 + operationTimeout * 0;',
      ),
    ],
  },
  {
    condition: 'POST only inside the window',
    edits: [edit(CONVERGE, 'performance.now() < lease.postUntil', 'lease.postUntil > 0')],
  },
  {
    condition: 'until covers the delay of a POST',
    edits: [edit(LEDGER, 'POST_WINDOW + POST_DELAY + CLOCK_SKEW', 'POST_WINDOW')],
    rare: true,
  },
  {
    condition: 'P is longer than an operation',
    edits: [edit(WORLD, 'const OPERATION_TIMEOUT = 60_000;', 'const OPERATION_TIMEOUT = 3_000;')],
  },
  {
    condition: 'FAILED leaves the wish in place',
    edits: [
      edit(
        LEDGER,
        'last_error: error.slice(0, 1_000),',
        'last_error: error.slice(0, 1_000), desired_key: null, desired: null,',
      ),
    ],
  },
];

/** @throws Error if the text to replace is not there: the mutant has to follow the code */
export function mutate(source: string, { file, from, to }: Edit): string {
  if (!source.includes(from)) throw new Error(`mutants.ts: ${file} has no "${from}"`);
  return source.replaceAll(from, () => to);
}
