/**
 * `npm run model:mutants`: takes the protocol's conditions out, one at a time, and sees that the model test notices. Each
 * mutant is a copy of the sources with one place changed.
 */

import { spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

const LEDGER = 'functions/config-switch/ledger.ts';
const CONVERGE = 'functions/config-switch/converge.ts';
const WORLD = 'test/model/world.ts';

/** What is taken out, where, and by which change. */
const MUTANTS: readonly (readonly [
  what: string,
  ...edits: (readonly [file: string, from: string, to: string])[],
])[] = [
  ['record: desired_key < mine', [LEDGER, "['desired_key', '<', key],", "['desired_key', '<', '~'],"]],
  ['record: an event that comes again is no new one', [LEDGER, "[['events', 'lacks', eventIdOf(key)]],", '']],
  [
    'take: what is applied is not driven again',
    [CONVERGE, 'if (applied_key === key) return repeated(course, applied, operation_id);', ''],
    [LEDGER, "['applied_key', '<', key],", "['applied_key', '<', '~'],"],
  ],
  [
    'take: nobody else holds the lease',
    [LEDGER, 'return holder !== undefined && until', 'return false && until'],
  ],
  [
    'a lease runs out',
    [LEDGER, 'until !== undefined && Date.now() < Date.parse(until)', 'until !== undefined'],
  ],
  [
    'take: the holder is the one that was settled',
    [
      LEDGER,
      "...(seen === undefined ? [] : [['holder', '=', seen] as const])",
      "['holder', '<', '~'] as const",
    ],
  ],
  ['take over: settle first', [CONVERGE, '(await isOvertaken(driver, item))', 'false']],
  [
    'a POST without an answer: wait and settle first',
    [WORLD, 'await this.settle(server, Date.now() - sentAt);', ''],
  ],
  [
    'release: only with a known end',
    [CONVERGE, 'if (!api.inDoubt && !signal.aborted) {', 'if (!signal.aborted) {'],
  ],
  [
    'result: only after the operation ended',
    [
      'functions/config-switch/config-switch.ts',
      'const status = await api.waitForOperation(barmanServer, operationId);',
      "const status = 'DONE' as 'DONE' | 'FAILED';",
    ],
  ],
  [
    'result, release: the holder is me',
    [
      LEDGER,
      "const mine = [['holder', '=', token]] as const;",
      "const mine = [['holder', '=', token], ['holder', 'absent'], ['holder', '<', '~']] as const;",
    ],
  ],
  [
    'result: a newer wish is not left behind',
    [
      LEDGER,
      "[mine, [['desired_key', '=', desired_key]]],\n      signal,\n    );\n    if (done)",
      '[mine],\n      signal,\n    );\n    if (done)',
    ],
  ],
  [
    'SKIPPED: not below a wish that is merely pending',
    [
      CONVERGE,
      'if (applied_key > key) return superseded(course, applied, applied_key);',
      "if ((item.desired_key ?? '') > key) return superseded(course, applied, applied_key);",
    ],
  ],
  [
    'take: a write that was sent again is mine',
    [LEDGER, 'item?.holder === token', 'item?.holder === token && false'],
  ],
  [
    'record: a write that was sent again changes nothing',
    [
      LEDGER,
      'holder: token, until }, condition, signal);',
      "holder: token, until }, condition.map((row) => [...row, ['holder', '=', token] as const]), signal);",
    ],
  ],
  [
    'a stuck operation is passed over',
    [
      CONVERGE,
      'const patience = () => ranOut + operationTimeout - Date.now();',
      'const patience = () => 2 ** 30 + ranOut * 0 + operationTimeout * 0;',
    ],
  ],
  ['POST only inside the window', [CONVERGE, 'performance.now() < lease.postUntil', 'lease.postUntil > 0']],
  ['until covers the delay of a POST', [LEDGER, 'POST_WINDOW + POST_DELAY + CLOCK_SKEW', 'POST_WINDOW']],
  [
    'P is longer than an operation',
    [WORLD, 'const OPERATION_TIMEOUT = 60_000;', 'const OPERATION_TIMEOUT = 3_000;'],
  ],
  [
    'FAILED leaves the wish in place',
    [
      LEDGER,
      'last_error: error.slice(0, 1_000),',
      'last_error: error.slice(0, 1_000), desired_key: null, desired: null,',
    ],
  ],
];

let survivors = 0;
for (const [what, ...edits] of [['nothing'] as const, ...MUTANTS]) {
  const folder = mkdtempSync(join(tmpdir(), 'barman-config-switch-mutant-'));
  for (const name of ['functions', 'test/model', 'package.json', 'vitest.config.ts', 'tsconfig.json']) {
    cpSync(name, join(folder, name), { recursive: true });
  }
  symlinkSync(resolve('node_modules'), join(folder, 'node_modules'));
  for (const [file, from, to] of edits) {
    const source = readFileSync(join(folder, file), 'utf8');
    if (!source.includes(from)) throw new Error(`${file} has no "${from}"`);
    writeFileSync(
      join(folder, file),
      source.replace(from, () => to),
    );
  }
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [resolve('node_modules/vitest/vitest.mjs'), 'run', 'test/model'],
    {
      cwd: folder,
      encoding: 'utf8',
      env: { ...process.env, NO_COLOR: '1', RUNS: process.env.RUNS ?? '30000' },
    },
  );
  rmSync(folder, { recursive: true });
  const noticed = status !== 0;
  if (noticed !== edits.length > 0) survivors += 1;
  const runs = /after (\d+) tests?/.exec(stderr)?.[1];
  const kinds = [...new Set((stdout + stderr).match(/<== [A-Z-]+/g))].map((kind) => kind.slice(4)).join(', ');
  console.log(
    `${what.padEnd(52)} ${noticed ? `noticed after ${runs} runs: ${kinds || 'not at the newest wish'}` : 'not noticed'}`,
  );
}
process.exit(survivors === 0 ? 0 : 1);
