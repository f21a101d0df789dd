/** The documentation: generated parts are up to date, links resolve, commands exist, and the README is short. */

import { readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { describe, expect, test } from 'vitest';

const { pages } = createRequire(import.meta.url)('../../infra/docs.cjs') as {
  pages: () => { path: string; actual: string; expected: string }[];
};
const DOCUMENTS = ['.', 'docs'].flatMap((folder) =>
  readdirSync(folder)
    .filter((name) => name.endsWith('.md'))
    .map((name) => join(folder, name)),
);
const { scripts } = JSON.parse(readFileSync('package.json', 'utf8')) as { scripts: Record<string, string> };

/** The anchors that GitHub gives the headings of a page. */
function anchorsOf(path: string): string[] {
  const headings = readFileSync(path, 'utf8')
    .replace(/```[\s\S]*?```/g, '')
    .match(/^#+ .*$/gm);
  return (headings ?? []).map((heading) =>
    heading
      .replace(/^#+ /, '')
      .toLowerCase()
      .replace(/[^\p{L}\p{N}_ -]/gu, '')
      .replaceAll(' ', '-'),
  );
}

test.each(pages())('$path › is what npm run docs generates', ({ path, actual, expected }) => {
  expect(actual, `${path} is stale; run: npm run docs`).toBe(expected);
});

describe.each(DOCUMENTS)('%s', (path) => {
  const text = readFileSync(path, 'utf8');

  test('links to files and headings that exist', () => {
    for (const [, target = ''] of text.matchAll(/\]\((?!https?:)([^)\s]+)\)/g)) {
      const [file = '', anchor] = target.split('#');
      const page = file === '' ? path : join(dirname(path), file);
      if (anchor === undefined) expect(() => readFileSync(page), target).not.toThrow();
      else expect(anchorsOf(page), target).toContain(anchor);
    }
  });

  test('names npm scripts that exist', () => {
    for (const [, script = ''] of text.matchAll(/npm run ([a-z][a-z0-9:]*)/g)) {
      expect(Object.keys(scripts)).toContain(script);
    }
  });
});

test('README.md › has at most 200 lines', () => {
  expect(readFileSync('README.md', 'utf8').split('\n').length).toBeLessThanOrEqual(200);
});
