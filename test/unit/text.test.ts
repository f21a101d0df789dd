import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  cut,
  forLog,
  listOf,
  pathOf,
  printable,
  printableLines,
  quotedKey,
} from '../../functions/config-switch/text.ts';

const SECRET = `whsec_${Buffer.alloc(24, 'secret').toString('base64')}`;

describe('text from outside', () => {
  test.each([
    ['that is plain', 'Köln, 東京 🐘 "é"', 'Köln, 東京 🐘 "é"'],
    ['with a control character of a terminal', 'a\u001b[31m', 'a\\u001b[31m'],
    ['with a C1 control character', 'a\u009b31m', 'a\\u009b31m'],
    ['with DEL', 'a\u007f', 'a\\u007f'],
    ['with a change of direction', 'main\u202etset\u2069', 'main\\u202etset\\u2069'],
    ['with a mark of direction', 'a\u200f\u061c', 'a\\u200f\\u061c'],
    ['with a character of no width', 'ma\u200bin\ufeff', 'ma\\u200bin\\ufeff'],
    ['with a hidden tag', 'a\u{e0041}', 'a\\udb40\\udc41'],
    ['with a separator of lines', 'a\u2028\u2029\u0085b', 'a\\u2028\\u2029\\u0085b'],
    ['with a line', 'a\nm1: deleted', 'a\\u000am1: deleted'],
    ['with a lone surrogate', 'a\ud800', 'a\\ud800'],
  ])('%s is printable', (_, text, expected) => {
    expect(printable(text)).toBe(expected);
  });

  test('keeps its lines in a terminal', () => {
    expect(printableLines('a\u202e\nb\u0007')).toBe('a\\u202e\nb\\u0007');
  });

  test('is printable in any case, and JSON remains the same JSON', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        const json = printableLines(JSON.stringify({ text }));
        expect(json).toMatch(/^[^\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]*$/u);
        expect(JSON.parse(json)).toEqual({ text });
      }),
    );
  });

  test('has no webhook secret in a log line, a response or a terminal', () => {
    expect(printableLines(`no ${SECRET},\n${SECRET}`)).toBe('no whsec_…,\nwhsec_…');
    expect(forLog(`no ${SECRET}`)).toBe('no whsec_…');
    expect(forLog('whsec_ followed by')).toBe('whsec_ followed by');
  });

  test('is cut, with its length, in a log line or a response', () => {
    expect(forLog('x'.repeat(4_000))).toBe('x'.repeat(4_000));
    expect(forLog('x'.repeat(4_001))).toBe(`${'x'.repeat(4_000)}… (4001 characters)`);
    expect([cut('abc', 3), cut('abcd', 3)]).toEqual(['abc', 'abc… (4 characters)']);
  });
});

describe('names in a message', () => {
  const names = (count: number) => Array.from({ length: count }, (_, index) => `n${index}`);
  test.each([
    [1, 'n0'],
    [10, 'n0, n1, n2, n3, n4, n5, n6, n7, n8, n9'],
    [8_000, 'n0, n1, n2, n3, n4, n5, n6, n7, n8, n9 and 7990 more'],
  ])('are listed up to the tenth, with the number of the others (%i)', (count, list) => {
    expect(listOf(names(count))).toBe(list);
  });

  test('are cut', () => {
    expect(listOf(['x'.repeat(256)])).toBe(`${'x'.repeat(255)}… (256 characters)`);
  });
});

describe('a key of JSON in a message', () => {
  test.each([
    ['swich_when', '"swich_when"'],
    ['a"b', '"a\\"b"'],
    ['x'.repeat(31), `"${'x'.repeat(31)}"`],
    ['x'.repeat(32), 'a key of 32 characters (hidden: it may be a secret)'],
    [SECRET, 'a key of 38 characters (hidden: it may be a secret)'],
    ['whsec_short', 'a key of 11 characters (hidden: it may be a secret)'],
  ])('is quoted unless it may be a secret (%s)', (key, quoted) => {
    expect(quotedKey(key)).toBe(quoted);
  });

  test('is part of a path unless it may be a secret', () => {
    expect(pathOf([{ key: 'servers' }, { key: 0 }, { key: SECRET }])).toBe(
      'servers.0.(hidden: it may be a secret)',
    );
    expect(pathOf(undefined)).toBe('');
  });
});
