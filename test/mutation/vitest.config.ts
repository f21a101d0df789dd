import { relative } from 'node:path';
import { defineConfig } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';
import config from '../../vitest.config.ts';

/** The quick tests first: most mutants do not outlive them. */
const ORDER = ['unit', 'model', 'integration/fuzz', 'integration/pg-backup-api', 'integration/handler'];

class QuickFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const place = ({ moduleId }: TestSpecification) => {
      const index = ORDER.findIndex((name) => relative('test', moduleId).startsWith(name));
      return index < 0 ? ORDER.length : index;
    };
    return files.sort((a, b) => place(a) - place(b));
  }
}

/** For `npm run mutation`: the tests of the logic, but for those that wait. */
export default defineConfig({
  test: {
    ...config.test,
    include: ['test/{unit,model}/*.test.ts', 'test/integration/{fuzz,pg-backup-api,handler,ledger}.test.ts'],
    tags: [{ name: 'slow', skip: true }],
    env: { ...config.test?.env, RUNS: '200', EVENTS: '200' },
    sequence: { sequencer: QuickFirst },
  },
});
