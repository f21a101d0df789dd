/**
 * `npm run model:mutants`: takes the protocol's conditions out, one at a time, and checks that the model test notices. With
 * `-- --short`, as in CI, always the same 1,500 interleavings at most; of the rare ones only that the edit still applies.
 */

import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { MUTANTS, mutate } from './mutants.ts';

const short = process.argv.includes('--short');
const { RUNS = short ? '1500' : '30000', SEED = short ? '1' : '' } = process.env;

interface Result {
  readonly noticed: boolean;
  /** How it ended, for a person. */
  readonly says: string;
}

/** Runs the model test against a mutant, or against the unchanged code if there is no mutant of that number. */
function run(mutant: number): Promise<Result> {
  const vitest = ['node_modules/vitest/vitest.mjs', 'run', '--config', 'test/model/vitest.config.ts'];
  const env = { ...process.env, NO_COLOR: '1', RUNS, SEED, MUTANT: String(mutant) };
  return new Promise((resolve, reject) => {
    execFile(process.execPath, vitest, { env, maxBuffer: 2 ** 28 }, (error, stdout, stderr) => {
      const output = stdout + stderr;
      const runs = /failed after (\d+) tests?/.exec(output)?.[1];
      if (!error) return resolve({ noticed: false, says: `not noticed in ${RUNS} interleavings` });
      // Anything but a property that failed says nothing about the protocol.
      if (runs === undefined) return reject(new Error(output));
      const kinds = [...new Set(output.match(/<== [A-Z-]+/g))].map((kind) => kind.slice(4)).join(', ');
      resolve({ noticed: true, says: `noticed after ${runs}: ${kinds || 'not at the newest event'}` });
    });
  });
}

let failures = 0;
const queue = [...MUTANTS.entries()];
async function work(): Promise<void> {
  for (let next = queue.shift(); next; next = queue.shift()) {
    const [number, { condition, edits, rare }] = next;
    for (const edit of edits) mutate(readFileSync(edit.file, 'utf8'), edit);
    const skipped = short && rare;
    const { noticed, says } = skipped ? { noticed: true, says: 'rare: not run' } : await run(number);
    if (!noticed) failures += 1;
    console.log(`${condition.padEnd(68)} ${says}`);
  }
}

await Promise.all(Array.from({ length: availableParallelism() }, work));
// In the short form `npm test` has just run the unchanged code.
if (!short) {
  const { noticed, says } = await run(-1);
  if (noticed) failures += 1;
  console.log(`${'the unchanged code'.padEnd(68)} ${says}`);
}
console.log(`${MUTANTS.length - failures} passed, ${failures} failed`);
process.exitCode = failures === 0 ? 0 : 1;
