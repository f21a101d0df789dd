import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { InvalidArgs } from '../../functions/config-switch/errors.ts';
import { parseJson, parseRoleChange } from '../../functions/config-switch/event/payload.ts';
import { BARMAN_NAME, configTarget } from '../../functions/config-switch/target.ts';

const REQUIRED = { action: 'on_role_change', role: 'primary', cluster: 'main', barman_server: 'main' };

describe('a role change', () => {
  test('has defaults for optional fields', () => {
    expect(parseRoleChange(REQUIRED)).toStrictEqual({
      ...REQUIRED,
      reset: false,
      switch_when: 'promoted',
      age_ms: 0,
      dry_run: false,
    });
  });

  test('is parsed with all its fields', () => {
    const payload = {
      ...REQUIRED,
      barman_model: 'pg:node2',
      reset: true,
      switch_when: 'always',
      age_ms: 12,
      dry_run: true,
    };
    expect(parseRoleChange(payload)).toEqual(payload);
  });

  test.each(Object.keys(REQUIRED))('without %s is rejected with the name of the field', (field) => {
    const { [field]: _, ...rest } = REQUIRED as Record<string, string>;
    expect(() => parseRoleChange(rest)).toThrow(new InvalidArgs(`${field} is missing`));
  });

  test.each([
    ['action', 'on_start', 'action must be "on_role_change", not "on_start"'],
    ['role', 'PRIMARY', 'role must be "primary" or'],
    ['role', null, 'not null'],
    ['cluster', '', 'cluster must be the scope of the Patroni cluster, not empty'],
    ['cluster', 7, 'cluster must be a string, not 7'],
    ['cluster', 'a\ud800', 'cluster must be well-formed Unicode, without a lone surrogate, not "a\\ud800"'],
    ['cluster', '\udc00\ud800', 'cluster must be well-formed Unicode'],
    ['barman_server', '', 'barman_server must start with'],
    ['barman_model', null, 'barman_model must be a string, not null'],
    ['barman_model', {}, 'barman_model must be a string, not an object'],
    ['reset', 'true', 'reset must be true or false, without quotes, not "true"'],
    ['switch_when', 'never', 'switch_when must be "promoted" or'],
    ['age_ms', '5', 'age_ms must be a number of milliseconds'],
    ['age_ms', -1, 'age_ms must be 0 or more'],
    ['age_ms', 0.5, 'age_ms must be a whole number'],
    ['age_ms', 1e300, 'age_ms must be a whole number'],
    ['dry_run', 1, 'dry_run must be true or false'],
  ])('with %s %j is rejected with the expected value', (field, value, message) => {
    expect(() => parseRoleChange({ ...REQUIRED, [field]: value })).toThrow(message);
  });

  test('may have a cluster in any script', () => {
    expect(parseRoleChange({ ...REQUIRED, cluster: 'Köln \ud83d\udc18' }).cluster).toBe('Köln 🐘');
  });

  test.each([
    [{ action: [], role: {} }, 'action must be "on_role_change", not an array; role must be "primary" or'],
    [{ role: undefined }, 'not undefined'],
    [{ switch_when: 'x'.repeat(78) }, /, not "x{78}"$/],
    [{ switch_when: 'x'.repeat(79) }, `, not "${'x'.repeat(79)}…`],
    [{ cluster: 'x'.repeat(256) }, 'cluster must have at most 255 characters, not "xxx'],
    [{ barman_server: 'x'.repeat(256) }, 'barman_server must have at most 255 characters, not "xxx'],
  ])('is rejected with the given value, truncated (%#)', (change, message) => {
    expect(() => parseRoleChange({ ...REQUIRED, ...change })).toThrow(message);
  });

  test.each([undefined, null, 7, 'text', [], [REQUIRED]])(
    'that is not an object (%j) is rejected',
    (payload) => {
      const message =
        'the payload must be a JSON object such as {"action":"on_role_change","role":"primary",…}';
      expect(() => parseRoleChange(payload)).toThrow(new InvalidArgs(message));
    },
  );

  test('with an unknown key is rejected with the list of valid keys', () => {
    expect(() => parseRoleChange({ ...REQUIRED, swich_when: 'always' })).toThrow(
      new InvalidArgs(
        '"swich_when" is an unknown key; valid keys: action, role, cluster, barman_server, barman_model, ' +
          'reset, switch_when, age_ms, dry_run',
      ),
    );
  });

  test.each(['swich_when', 'constructor', '__proto__', 'prototype', 'toString', '', 'Role'])(
    'with the unknown key %j is rejected',
    (key) => {
      const payload = JSON.parse(
        JSON.stringify(REQUIRED).replace('{', `{${JSON.stringify(key)}:1,`),
      ) as unknown;
      expect(() => parseRoleChange(payload)).toThrow(`${JSON.stringify(key)} is an unknown key`);
    },
  );

  test('with thousands of problems is rejected with the first 50 and the number of the others', () => {
    const payload = Object.fromEntries(Array.from({ length: 5_000 }, (_, index) => [`key${index}`, 1]));
    expect(() => parseRoleChange({ ...REQUIRED, ...payload })).toThrow(
      /"key49" .*; and 4950 more problems; valid keys/,
    );
  });

  test('is rejected with every problem and its field, in any combination', () => {
    const wrong = {
      action: 'x',
      role: 'x',
      cluster: 1,
      barman_server: '-x',
      barman_model: '-x',
      reset: 1,
      switch_when: 'x',
      age_ms: 'x',
      dry_run: 'x',
      other: 1,
    };
    fc.assert(
      fc.property(fc.subarray(Object.keys(wrong), { minLength: 1 }), (fields) => {
        const payload = {
          ...REQUIRED,
          ...Object.fromEntries(fields.map((key) => [key, wrong[key as 'role']])),
        };
        let message = '';
        try {
          parseRoleChange(payload);
        } catch (error) {
          message = (error as Error).message;
        }
        for (const field of fields)
          expect(message).toMatch(new RegExp(`(^|; )"?${field}"? (must|is an unknown key)`));
      }),
    );
  });

  test('throws only InvalidArgs for arbitrary JSON', () => {
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        expect(() => parseRoleChange(value)).toThrow(InvalidArgs);
      }),
    );
  });
});

describe('a Barman name', () => {
  test('is always a single path segment and a single command-line argument, never an option', () => {
    fc.assert(
      fc.property(
        fc.oneof(fc.string({ unit: 'binary' }), fc.stringMatching(/^[A-Za-z0-9_.:@+~=,-]{1,20}$/)),
        (name) => {
          fc.pre(BARMAN_NAME.test(name));
          expect(
            new URL(`http://host/servers/${encodeURIComponent(name)}/operations`).pathname.split('/'),
          ).toHaveLength(4);
          expect(name.split(/\s/)).toEqual([name]);
          expect(name.startsWith('-')).toBe(false);
        },
      ),
      { numRuns: 2_000 },
    );
  });
});

describe('the target', () => {
  const target = (change: object) => configTarget(parseRoleChange({ ...REQUIRED, ...change }));

  test('is a model or a reset', () => {
    expect(target({ barman_model: 'pg:node2' })).toEqual({ model: 'pg:node2' });
    expect(target({ barman_model: 'pg:node2', reset: false })).toEqual({ model: 'pg:node2' });
    expect(target({ reset: true })).toEqual({ reset: true });
  });

  test.each([{}, { reset: false }, { barman_model: 'pg:node2', reset: true }])('%j is rejected', (change) => {
    expect(() => target(change)).toThrow(/one, and only one, of barman_model and reset/);
  });

  test('is rejected with the given values', () => {
    const start = 'one, and only one, of barman_model and reset must be given: barman_model is';
    expect(() => target({})).toThrow(new InvalidArgs(`${start} missing and reset is false`));
    expect(() => target({ barman_model: 'm', reset: true })).toThrow(
      new InvalidArgs(`${start} "m" and reset is true`),
    );
  });
});

describe('a body', () => {
  test.each([
    ['', 'the body is empty; send the payload as a JSON object'],
    ['  \n', 'the body is empty; send the payload as a JSON object'],
    ['{', 'the body is not JSON; send the payload as a JSON object'],
    ['on_role_change', 'the body is not JSON; send the payload as a JSON object'],
  ])('%j is rejected: %s', (body, message) => {
    expect(() => parseJson(body)).toThrow(new InvalidArgs(message));
  });

  test('is parsed as JSON', () => {
    expect(parseJson(' {"a":[1]} ')).toEqual({ a: [1] });
  });
});
