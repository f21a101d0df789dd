import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { InvalidArgs } from '../../functions/config-switch/errors.ts';
import { parseJson, parseRoleChange } from '../../functions/config-switch/event/payload.ts';

const REQUIRED = { action: 'on_role_change', role: 'primary', cluster: 'main', barman_server: 'main' };

describe('a role change', () => {
  test('has defaults for optional fields', () => {
    const defaults = {
      reset: false,
      follow_leader: false,
      switch_when: 'promoted',
      age_ms: 0,
      dry_run: false,
    };
    expect(parseRoleChange(REQUIRED)).toStrictEqual({ ...REQUIRED, ...defaults });
  });

  test('is parsed with all its fields', () => {
    const options = {
      reset: true,
      follow_leader: true,
      switch_when: 'always',
      age_ms: 12,
      dry_run: true,
      node: 'db1',
    };
    const payload = { ...REQUIRED, barman_model: 'pg:node2', ...options };
    expect(parseRoleChange(payload)).toEqual(payload);
  });

  test.each(Object.keys(REQUIRED))('without %s is rejected with the name of the field', (field) => {
    const { [field]: _, ...rest } = REQUIRED as Record<string, string>;
    expect(() => parseRoleChange(rest)).toThrow(new InvalidArgs(`${field} is missing`));
  });

  const LONG = 'x'.repeat(256);
  test.each<[string, unknown, string | RegExp]>([
    [
      'action',
      'on_stop',
      'action must be "on_role_change" or "on_reload" or "on_start" or "on_restart", not "on_stop"',
    ],
    ['role', 'PRIMARY', 'role must be "primary" or'],
    ['action', [], 'not an array'],
    ['role', null, 'not null'],
    ['role', undefined, 'not undefined'],
    ['cluster', '', 'cluster must be the scope of the Patroni cluster, not empty'],
    ['cluster', 7, 'cluster must be a string, not 7'],
    ['cluster', LONG, 'cluster must have at most 255 characters, not "xxx'],
    ['cluster', 'a\ud800', 'cluster must be well-formed Unicode, without a lone surrogate, not "a\\ud800"'],
    ['cluster', '\udc00\ud800', 'cluster must be well-formed Unicode'],
    ['barman_server', '', 'barman_server must start with'],
    ['barman_server', LONG, 'barman_server must have at most 255 characters, not "xxx'],
    ['barman_model', null, 'barman_model must be a string, not null'],
    ['barman_model', {}, 'barman_model must be a string, not an object'],
    ['reset', 'true', 'reset must be true or false, without quotes, not "true"'],
    ['follow_leader', 'true', 'follow_leader must be true or false, without quotes, not "true"'],
    ['switch_when', 'never', 'switch_when must be "promoted" or'],
    ['switch_when', 'x'.repeat(78), /, not "x{78}"$/],
    ['switch_when', 'x'.repeat(79), /, not "x{79}…$/],
    ['age_ms', '5', 'age_ms must be a number of milliseconds'],
    ['age_ms', -1, 'age_ms must be 0 or more'],
    ['age_ms', 0.5, 'age_ms must be a whole number'],
    ['age_ms', 1e300, 'age_ms must be a whole number'],
    ['dry_run', 1, 'dry_run must be true or false'],
  ])(
    'with an invalid %s is rejected with the expected value, and the given one, truncated (%#)',
    (field, value, message) => {
      expect(() => parseRoleChange({ ...REQUIRED, [field]: value })).toThrow(message);
    },
  );

  test('may have a cluster in any script', () => {
    expect(parseRoleChange({ ...REQUIRED, cluster: 'Köln \ud83d\udc18' }).cluster).toBe('Köln 🐘');
  });

  test.each([
    ['db1.example.com', 'db1.example.com'],
    ['x'.repeat(65), 'x'.repeat(64)],
    ['a\nb\u202e', 'a\\u000ab\\u202e'],
    [`${'x'.repeat(63)}🐘`, `${'x'.repeat(63)}\ufffd`],
    ['', undefined],
    [null, undefined],
    [7, undefined],
    [{}, undefined],
  ])('may have any node (%j): it is made printable, or left out', (node, parsed) => {
    expect(parseRoleChange({ ...REQUIRED, node }).node).toBe(parsed);
  });

  test.each([undefined, null, 7, 'text', [], [REQUIRED]])(
    'that is not an object (%j) is rejected',
    (payload) => {
      const example = '{"action":"on_role_change","role":"primary",…}';
      const error = new InvalidArgs(`the payload must be a JSON object such as ${example}`);
      expect(() => parseRoleChange(payload)).toThrow(error);
    },
  );

  test('with an unknown key is rejected with the list of valid keys', () => {
    expect(() => parseRoleChange({ ...REQUIRED, swich_when: 'always' })).toThrow(
      new InvalidArgs(
        '"swich_when" is an unknown key; valid keys: action, role, cluster, barman_server, barman_model, ' +
          'reset, follow_leader, switch_when, age_ms, dry_run, node',
      ),
    );
  });

  test.each(['constructor', '__proto__', 'prototype', 'toString', '', 'Role'])(
    'with the unknown key %j is rejected',
    (key) => {
      const payload: unknown = JSON.parse(`{${JSON.stringify(key)}:1,${JSON.stringify(REQUIRED).slice(1)}`);
      expect(() => parseRoleChange(payload)).toThrow(`${JSON.stringify(key)} is an unknown key`);
    },
  );

  test('with a secret as a key is rejected without that', () => {
    const secret = `whsec_${'c2VjcmV0'.repeat(4)}`;
    for (const key of [secret, secret.slice(6)]) {
      const message = `a key of ${key.length} characters (hidden: it may be a secret) is an unknown key; valid keys`;
      expect(() => parseRoleChange({ ...REQUIRED, [key]: 1 })).toThrow(message);
      expect(() => parseRoleChange({ ...REQUIRED, [key]: 1 })).not.toThrow(key);
    }
  });

  test('with characters that a terminal obeys is rejected without them', () => {
    const payload = { ...REQUIRED, role: 'a\u202eb\u009b', 'c\u2066': 1 };
    expect(() => parseRoleChange(payload)).toThrow(/not "a\\u202eb\\u009b"; "c\\u2066" is an unknown key/);
  });

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
      follow_leader: 1,
      switch_when: 'x',
      age_ms: 'x',
      dry_run: 'x',
      other: 1,
    };
    fc.assert(
      fc.property(fc.subarray(Object.keys(wrong), { minLength: 1 }), (fields) => {
        const given = Object.fromEntries(fields.map((key) => [key, wrong[key as 'role']]));
        const parse = () => parseRoleChange({ ...REQUIRED, ...given });
        for (const field of fields)
          expect(parse).toThrow(new RegExp(`(^|; )"?${field}"? (must|is an unknown key)`));
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
