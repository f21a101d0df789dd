import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { defineConfig } from 'vitest/config';
import { MUTANTS, mutate } from './mutants.ts';

const edits = MUTANTS[Number(process.env.MUTANT ?? -1)]?.edits ?? [];

/** The model test against the mutant with the number MUTANT, or against the unchanged code. */
export default defineConfig({
  // A cache on disk would return the module of another mutant.
  test: { include: ['test/model/*.test.ts'], fsModuleCache: false },
  plugins: [
    {
      name: 'mutant',
      enforce: 'pre',
      transform(_, id) {
        const applicable = edits.filter(({ file }) => resolve(file) === id);
        return applicable.length > 0 ? applicable.reduce(mutate, readFileSync(id, 'utf8')) : null;
      },
    },
  ],
});
