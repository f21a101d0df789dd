/** The language of the documentation: short sentences, short lines, one word for one thing (test/language.ts). */

import { globSync, readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { describe, expect, test } from 'vitest';
import { LIMITS, meanOf, problemsOf, sentencesOf, WORDS_TO_AVOID } from '../language.ts';

const PAGES = globSync('**/*.md', { exclude: ['node_modules'] }).toSorted();
/** The pages of each folder. */
const SETS = Map.groupBy(PAGES, dirname);

const textOf = (page: string) => readFileSync(page, 'utf8');

test.each(PAGES)('%s › is in plain language', (page) => {
  expect(problemsOf(textOf(page))).toEqual([]);
});

test.each([...SETS])('%s › has at most 15 words per sentence on average', (_, pages) => {
  expect(meanOf(pages.flatMap((page) => sentencesOf(textOf(page))))).toBeLessThanOrEqual(LIMITS.mean);
});

test('docs/README.md › links to every page', () => {
  const pages = PAGES.filter((page) => page.startsWith('docs/') && page !== 'docs/README.md');
  const index = textOf('docs/README.md');
  expect(pages.filter((page) => !index.includes(`](${page.replace('docs/', '')})`))).toEqual([]);
});

test('docs/faq.md › answers each question in at most three sentences, and then links to the page', () => {
  const answers = textOf('docs/faq.md')
    .split(/^### .*\?$/m)
    .slice(1);
  expect(answers.length).toBeGreaterThanOrEqual(26);
  for (const answer of answers) {
    const [text = ''] = answer.split(/^## /m);
    expect(text).toMatch(/\]\([^)]+\.md[^)]*\)[^.]*\.\s*$/);
    expect(sentencesOf(text).length, text).toBeLessThanOrEqual(4);
  }
});

describe('the measure of language', () => {
  const counted = (text: string) => sentencesOf(text).map(({ words }) => words);

  test.each<[string, string, number[]]>([
    [
      'a sentence ends at a full stop, an exclamation mark or a question mark',
      'It is one. Two of them! `x` is code? osls is a name.',
      [3, 3, 3, 4],
    ],
    ['an abbreviation, a number and a file name end none', 'It is, e.g. Barman 3.19, or index.ts here.', [8]],
    [
      'inline code, a URL and a link have the words that are read',
      'See `a b c d`, https://x.y/z?a=b, and [two words](x y).',
      [6],
    ],
    ['a dash is not a word', 'One – two.', [2]],
    ['a list has a sentence per item', '- one two\n  three\n- four\n\n1. five', [3, 1, 1]],
    [
      'code blocks, tables, headings and comments have none',
      '# a\n\n```sh\nb c\n```\n\n| d |\n| --- |\n<!-- e -->\nf',
      [1],
    ],
    ['a code block in a list has none', '- a:\n\n  ```\n  b c\n  ```\n', [1]],
  ])('%s', (_, text, expected) => {
    expect(counted(text)).toEqual(expected);
  });

  test.each<[string, string, RegExp]>([
    ['a sentence of 31 words', `${'we '.repeat(30)}end.`, /^line 1: 31 words/],
    ['a second colon', 'Note: it has two: here.', /a second colon/],
    ['a chain of semicolons', 'One; two; three.', /a second semicolon/],
    ['brackets in brackets', 'It (one (two)) ends.', /brackets in brackets/],
    ['a line of 121 characters', `\n${'x'.repeat(121)}`, /^line 2: a line of 121/],
    ['a cell of 121 characters', `| a | [${'x'.repeat(121)}](y) |`, /^line 1: a cell of 121/],
    ['a word to avoid', 'It runs each minute.', /"each minute": write every/],
    ['a word to avoid in a table', '| a lock |', /"lock": write lease/],
    ['a word to avoid across lines', 'In the\nplace of it.', /"In the place of": write instead of/],
  ])('notices %s', (_, text, expected) => {
    expect(problemsOf(text)).toEqual([expect.stringMatching(expected)]);
  });

  test.each<[string, string]>([
    ['30 words', `${'we '.repeat(29)}end.`],
    ['a line of 120 characters', 'x'.repeat(120)],
    [
      'a long line of code or of a table',
      `\`\`\`\n${'x'.repeat(121)}\n\`\`\`\n\n| ${'x '.repeat(50)} | ${'y '.repeat(50)} |`,
    ],
    ['a link of any length in a cell', `| [x](${'y'.repeat(200)}) |`],
    ['a word to avoid in code', 'The command `timeout 10` waits.'],
  ])('accepts %s', (_, text) => {
    expect(problemsOf(text)).toEqual([]);
  });

  test('finds each word to avoid by a word, so none is empty', () => {
    for (const [avoid] of WORDS_TO_AVOID) expect(avoid.test('')).toBe(false);
  });
});
