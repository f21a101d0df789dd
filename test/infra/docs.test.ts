import { createRequire } from 'node:module';
import { expect, test } from 'vitest';

const { pages } = createRequire(import.meta.url)('../../infra/docs.cjs') as {
  pages: () => { path: string; actual: string; expected: string }[];
};

test.each(pages())('$path › is what npm run docs generates', ({ path, actual, expected }) => {
  expect(actual, `${path} is stale; run: npm run docs`).toBe(expected);
});
