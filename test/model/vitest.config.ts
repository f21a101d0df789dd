import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { defineConfig } from 'vitest/config';
import { MUTANTS, mutate } from './mutants.ts';

const edits = MUTANTS[Number(process.env.MUTANT ?? -1)]?.edits ?? [];

/** The model test against one mutant, whose number is MUTANT; against the code as it is without. */
export default defineConfig({
  // No cache on disk: it would serve the module of another mutant.
  test: { include: ['test/model/*.test.ts'], fsModuleCache: false },
  plugins: [
    {
      name: 'mutant',
      enforce: 'pre',
      transform(_, id) {
        const here = edits.filter(({ file }) => resolve(file) === id);
        return here.length > 0 ? here.reduce(mutate, readFileSync(id, 'utf8')) : null;
      },
    },
  ],
});
