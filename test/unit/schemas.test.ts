/** docs/schema/: what the JSON Schema of the payload accepts is what the function accepts. */

import { readFileSync } from 'node:fs';
import { Ajv } from 'ajv';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { InvalidArgs } from '../../functions/config-switch/errors.ts';
import { parseRoleChange } from '../../functions/config-switch/event/payload.ts';
import { requestedTarget } from '../../functions/config-switch/target.ts';

const matches = new Ajv().compile(JSON.parse(readFileSync('docs/schema/payload.json', 'utf8')));

/** Whether the function accepts a payload, if its role matches. */
function isAccepted(payload: unknown): boolean {
  try {
    const roleChange = parseRoleChange(payload);
    if (roleChange.action === 'on_role_change') requestedTarget(roleChange);
    return true;
  } catch (error) {
    expect(error).toBeInstanceOf(InvalidArgs);
    return false;
  }
}

const name = fc.oneof(
  fc.constantFrom(
    'main',
    'pg:node2',
    '_',
    '7',
    '--reset',
    '',
    '..',
    'a b',
    'ä',
    'main\n',
    'x'.repeat(255),
    'x'.repeat(256),
  ),
  fc.string(),
);
const odd = fc.oneof(fc.constantFrom(null, 0, 1, -1, 0.5, 1e300, '', 'true', [], {}), fc.jsonValue());
/** A field that is mostly well-formed. */
const field = (valid: readonly unknown[], other: fc.Arbitrary<unknown> = odd) =>
  fc.oneof(
    { weight: 20, arbitrary: fc.constantFrom(...valid) },
    { weight: 1, arbitrary: odd },
    { weight: 1, arbitrary: other },
  );
const clusters = fc.oneof(
  fc.constantFrom('', 'a\ud800', '\udc00\ud800', 'x'.repeat(255), 'x'.repeat(256)),
  fc.string(),
);
const payload = fc.record(
  {
    action: field(
      ['on_role_change', 'on_role_change', 'on_reload', 'on_start', 'on_restart'],
      fc.constant('on_stop'),
    ),
    role: field(['primary', 'promoted', 'master', 'standby_leader', 'replica', 'demoted']),
    cluster: field(['main', 'Köln 🐘'], clusters),
    barman_server: field(['main', '7'], name),
    barman_model: field(['pg:node2', '_'], name),
    reset: field([true, false]),
    follow_leader: field([true, false]),
    switch_when: field(['promoted', 'demoted', 'always', 'leader'], fc.constant('never')),
    age_ms: field([0, 5, 2 ** 53 - 1], fc.constantFrom(-1, 0.5, 2 ** 53)),
    dry_run: field([true, false]),
    node: odd,
    Role: fc.constant('primary'),
    constructor: odd,
    ['__proto__']: odd,
  },
  { requiredKeys: ['action', 'role', 'cluster', 'barman_server'] },
);
/** Most payloads name at most one target, and have no unknown key. */
const plausible = fc
  .tuple(
    payload,
    fc.constantFrom('barman_model', 'reset', 'follow_leader', undefined),
    fc.integer({ min: 0, max: 9 }),
  )
  .map(([given, target, times]) => {
    const { Role: _, constructor: __, ['__proto__']: ___, ...rest } = given as Record<string, unknown>;
    if (times === 0) return given;
    for (const other of ['barman_model', 'reset', 'follow_leader'])
      if (other !== target && times > 2) delete rest[other];
    return target !== undefined && target !== 'barman_model' && times > 4
      ? { ...rest, [target]: true }
      : rest;
  });

describe('the JSON Schema of the payload', () => {
  test('accepts what the function accepts, and nothing else', () => {
    const seen = { accepted: 0, rejected: 0 };
    const property = fc.property(
      fc.oneof({ weight: 20, arbitrary: plausible }, { weight: 1, arbitrary: fc.jsonValue() }),
      (value) => {
        const json: unknown = JSON.parse(JSON.stringify(value));
        const accepted = isAccepted(json);
        expect(matches(json), JSON.stringify([json, matches.errors])).toBe(accepted);
        seen[accepted ? 'accepted' : 'rejected'] += 1;
      },
    );
    fc.assert(property, { numRuns: 3_000 });
    expect(Math.min(seen.accepted, seen.rejected), JSON.stringify(seen)).toBeGreaterThan(500);
  });

  const REQUIRED = { action: 'on_role_change', role: 'primary', cluster: 'main', barman_server: 'main' };

  // docs/reference/payload-and-response.md says so.
  test('also rejects a role change that is skipped before its target matters', () => {
    const skipped = { ...REQUIRED, role: 'replica' };
    expect(parseRoleChange(skipped)).toMatchObject(skipped);
    expect(matches(skipped)).toBe(false);
    expect(matches({ ...skipped, reset: true })).toBe(true);
  });

  test('counts characters of the cluster, where the function counts units of UTF-16', () => {
    const cluster = '🐘'.repeat(128);
    expect(matches({ ...REQUIRED, cluster, reset: true })).toBe(true);
    expect(() => parseRoleChange({ ...REQUIRED, cluster, reset: true })).toThrow('at most 255 characters');
  });
});
