/**
 * `npm run model:mutants`: removes the protocol's conditions, one at a time, and checks that the model test
 * notices. With `-- --short`, as in CI, it runs at most 1,000 interleavings, always the same ones.
 */

import { execFile } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { MUTANTS } from './mutants.ts';

const short = process.argv.includes('--short');
const { RUNS = short ? '1000' : '30000', SEED = short ? '1' : '' } = process.env;

interface Result {
  readonly noticed: boolean;
  /** The result in words. */
  readonly summary: string;
}

/**
 * Runs the model test against a mutant, or against the unchanged code if there is no mutant of that number.
 */
function run(mutant: number): Promise<Result> {
  const vitest = ['node_modules/vitest/vitest.mjs', 'run', '--config', 'test/model/vitest.config.ts'];
  const env = { ...process.env, NO_COLOR: '1', RUNS, SEED, MUTANT: String(mutant) };
  return new Promise((resolve, reject) => {
    execFile(process.execPath, vitest, { env, maxBuffer: 2 ** 28 }, (error, stdout, stderr) => {
      const output = stdout + stderr;
      const runs = /failed after (\d+) tests?/.exec(output)?.[1];
      if (!error) return resolve({ noticed: false, summary: `not noticed in ${RUNS} interleavings` });
      // Any other error than a failed property is a fault of the run itself, or of the mutant.
      if (runs === undefined || /\b(Reference|Type|Syntax)Error\b| is not defined\b/.test(output))
        return reject(new Error(output));
      const kinds = [...new Set(output.match(/<== [A-Z-]+/g))].map((kind) => kind.slice(4)).join(', ');
      resolve({
        noticed: true,
        summary: `noticed after ${runs}: ${kinds || 'Barman is not set to the newest event'}`,
      });
    });
  });
}

/** Must not be noticed: otherwise a mutant may be noticed for what the unchanged code does too. */
const UNCHANGED = { condition: 'the unchanged code', edits: [] };
const queue = [[-1, UNCHANGED] as const, ...MUTANTS.entries()];
const total = queue.length;
let failures = 0;
async function work(): Promise<void> {
  for (let next = queue.shift(); next; next = queue.shift()) {
    const [number, tested] = next;
    const { noticed, summary } = await run(number);
    if (noticed === (tested === UNCHANGED)) failures += 1;
    console.log(`${tested.condition.padEnd(68)} ${summary}`);
  }
}

await Promise.all(Array.from({ length: availableParallelism() }, work));
console.log(`${total - failures} passed, ${failures} failed`);
process.exitCode = failures === 0 ? 0 : 1;
