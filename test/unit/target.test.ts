import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { InvalidArgs } from '../../functions/config-switch/errors.ts';
import {
  BARMAN_NAME,
  isTargetText,
  nameOf,
  parseTarget,
  describe as phraseOf,
  requestBody,
  requestedTarget,
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

  const LEADER = { follow_leader: true } as const;
  const NONE = { reset: false, follow_leader: false };

  test('is a model, a reset, or that of the leader', () => {
    expect(requestedTarget({ ...NONE, barman_model: 'pg:node2' })).toEqual(MODEL);
    expect(requestedTarget({ ...NONE, ...RESET })).toEqual(RESET);
    expect(requestedTarget({ ...NONE, ...LEADER })).toEqual(LEADER);
  });

  test.each([
    [NONE, 'barman_model is missing, reset is false, and follow_leader is false'],
    [
      { ...NONE, barman_model: 'm', reset: true },
      'barman_model is "m", reset is true, and follow_leader is false',
    ],
    [
      { ...NONE, barman_model: 'm', ...LEADER },
      'barman_model is "m", reset is false, and follow_leader is true',
    ],
    [{ ...RESET, ...LEADER }, 'barman_model is missing, reset is true, and follow_leader is true'],
    [
      { barman_model: 'm', ...RESET, ...LEADER },
      'barman_model is "m", reset is true, and follow_leader is true',
    ],
  ])('is not %j: one, and only one, of them', (given, values) => {
    const message = `one, and only one, of barman_model, reset and follow_leader must be given: ${values}`;
    expect(() => requestedTarget(given)).toThrow(new InvalidArgs(message));
  });

  test('that is the leader of an event is in the table of events only', () => {
    expect(targetText(LEADER)).toBe('leader');
    expect(isTargetText('leader')).toBe(false);
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
