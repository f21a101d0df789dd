import fc from 'fast-check';
import { expect, test } from 'vitest';
import { parseJson } from '../../functions/config-switch/http/json.ts';

const nested = (depth: number) => '['.repeat(depth) + ']'.repeat(depth);
const many = (values: number) => `[${'0,'.repeat(values - 2)}0]`;

test('JSON of a response › is parsed like any other', () => {
  fc.assert(
    fc.property(fc.jsonValue({ maxDepth: 9 }), (value) => {
      expect(parseJson(JSON.stringify(value, null, 4))).toEqual(JSON.parse(JSON.stringify(value)));
    }),
  );
});

test.each([
  ['64 levels', nested(64)],
  ['64 levels of objects', `${'{"a":'.repeat(63)}{}${'}'.repeat(63)}`],
  ['levels side by side', `[${Array(100).fill(nested(63)).join(',')}]`],
  ['a million values', many(1_000_000)],
  ['brackets in a string', JSON.stringify({ a: '['.repeat(1_000) })],
  ['commas in a string', JSON.stringify({ a: ','.repeat(1_000_001) })],
  ['an escaped quote in a string', JSON.stringify({ a: `\\"${'['.repeat(1_000)}` })],
  ['a backslash at the end of a string', JSON.stringify(['\\', nested(10), '\\\\'])],
])('JSON of a response › may have %s', (_, text) => {
  expect(parseJson(text)).toEqual(JSON.parse(text));
});

const MB_16 = 16 * 1024 * 1024;
test.each([
  ['65 levels', nested(65), 'JSON of more than 64 levels'],
  ['16 MB of brackets', '['.repeat(MB_16), 'JSON of more than 64 levels'],
  ['65 levels with spaces between', '[ '.repeat(65) + ']'.repeat(65), 'JSON of more than 64 levels'],
  ['levels after a string of one letter', `["a",${nested(64)}]`, 'JSON of more than 64 levels'],
  ['levels after a string', `["\\"",${nested(64)}]`, 'JSON of more than 64 levels'],
  ['a million values and one', many(1_000_001), 'JSON of more than 1000000 values'],
  ['16 MB of empty objects', `[${'{},'.repeat(MB_16 / 3 - 2)}{}]`, 'JSON of more than 1000000 values'],
  ['a string without an end', '["', 'not JSON'],
  ['words', 'so it is', 'not JSON'],
  ['nothing', '', 'not JSON'],
])('JSON of a response › is not accepted, nor quoted, with %s', (_, text, message) => {
  expect(() => parseJson(text)).toThrow(new SyntaxError(message));
});
