import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { InvalidArgs } from '../../functions/config-switch/errors.ts';
import {
  BARMAN_NAME,
  configTarget,
  isTargetText,
  nameOf,
  parseTarget,
  describe as phraseOf,
  requestBody,
  targetText,
} from '../../functions/config-switch/target.ts';

describe('a Barman name', () => {
  test('is always a single path segment and a single command-line argument, never an option', () => {
    const names = fc.oneof(fc.string({ unit: 'binary' }), fc.stringMatching(/^[A-Za-z0-9_.:@+~=,-]{1,20}$/));
    const property = fc.property(names, (name) => {
      fc.pre(BARMAN_NAME.test(name));
      const { pathname } = new URL(`http://host/servers/${encodeURIComponent(name)}/operations`);
      expect(pathname.split('/')).toHaveLength(4);
      expect(name.split(/\s/)).toEqual([name]);
      expect(name.startsWith('-')).toBe(false);
    });
    fc.assert(property, { numRuns: 2_000 });
  });
});

describe('a target', () => {
  const MODEL = { model: 'pg:node2' };
  const RESET = { reset: true } as const;

  test('is a model or a reset', () => {
    expect(configTarget({ barman_model: 'pg:node2', reset: false })).toEqual(MODEL);
    expect(configTarget({ reset: true })).toEqual(RESET);
  });

  test.each([
    [{ reset: false }, 'barman_model is missing and reset is false'],
    [{ barman_model: 'm', reset: true }, 'barman_model is "m" and reset is true'],
  ])('is not %j: one, and only one, of them', (given, values) => {
    const message = `one, and only one, of barman_model and reset must be given: ${values}`;
    expect(() => configTarget(given)).toThrow(new InvalidArgs(message));
  });

  test.each([
    [MODEL, 'model pg:node2'],
    [{ model: 'reset' }, 'model reset'],
    [RESET, 'reset'],
  ])('%j is in the ledger as %s', (target, text) => {
    expect([targetText(target), isTargetText(text)]).toEqual([text, true]);
    expect(parseTarget(text)).toEqual(target);
  });

  test.each([
    '',
    'Model pg:node2',
    'model',
    'model ',
    'model a b',
    'model  a',
    'Reset',
    'reset ',
    'pg:node2',
  ])('is not "%s": such a text is an error, never a reset', (text) => {
    expect(isTargetText(text)).toBe(false);
    expect(() => parseTarget(text)).toThrow(new TypeError(`"${text}" is neither "model NAME" nor "reset"`));
  });

  test('has a request body, a phrase and a name', () => {
    expect(requestBody(MODEL)).toEqual({ type: 'config_switch', model_name: 'pg:node2' });
    expect(requestBody(RESET)).toEqual({ type: 'config_switch', reset: true });
    expect([MODEL, RESET].map(phraseOf)).toEqual(['apply model pg:node2', 'drop the active model']);
    expect([MODEL, RESET].map(nameOf)).toEqual(['model pg:node2', 'no model']);
  });
});
