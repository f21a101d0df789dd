/** Which site a Barman server follows. */

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Cluster } from '../../functions/config-switch/patroni/cluster.ts';
import type { Observation } from '../../functions/config-switch/patroni/leader.ts';
import { whyNotAsked } from '../../functions/config-switch/patroni/observe-clusters.ts';
import { changesSite, leadingSite, malformedAmong } from '../../functions/config-switch/patroni/sites.ts';

const site = (name: string, observation: Observation) => ({ cluster: { name }, observation });
const PRIMARY = { leader: 'a1', system_id: '7' };
const STANDBY = { leader: 'b1', isStandby: true, system_id: '7' } as const;
const UNKNOWN = { unknown: 'no node answered' };

describe('of one cluster', () => {
  test.each<[string, Observation]>([
    ['a primary', PRIMARY],
    ['a standby leader', STANDBY],
  ])('%s leads', (_, observation) => {
    const only = site('a', observation);
    expect(leadingSite([only])).toEqual({ site: only, leader: observation });
  });

  test('the leader is unknown for its own reason', () => {
    expect(leadingSite([site('a', UNKNOWN)])).toEqual(UNKNOWN);
  });
});

describe('of several sites', () => {
  test.each<[string, Observation]>([
    ['a standby leader', STANDBY],
    ['an unknown leader', UNKNOWN],
    ['a standby leader whose system identifier was not seen', { leader: 'b1', isStandby: true }],
  ])('the only one with a primary leads, beside one with %s', (_, other) => {
    const [a, b] = [site('a', PRIMARY), site('b', other)];
    expect(leadingSite([a, b])).toEqual({ site: a, leader: PRIMARY });
    expect(leadingSite([b, a])).toEqual({ site: a, leader: PRIMARY });
  });

  test.each<[string, readonly Observation[], string]>([
    [
      'two have a primary',
      [PRIMARY, { leader: 'b1' }, STANDBY],
      'several sites have a primary: a1 in site1, b1 in site2',
    ],
    [
      'none has a primary',
      [UNKNOWN, STANDBY],
      'no site has a leader that is known to be a primary: in site1 the leader is unknown: no node answered; in site2 b1 is a standby leader',
    ],
    [
      'the system identifiers differ',
      [PRIMARY, { ...STANDBY, system_id: '8' }, { leader: 'c1', isStandby: true }],
      'the leaders have different system identifiers, so these are not sites of one cluster: site1 has 7, site2 has 8, site3 has an unknown one',
    ],
  ])('the leader is unknown if %s', (_, observations, unknown) => {
    const sites = observations.map((observation, index) => site(`site${index + 1}`, observation));
    expect(leadingSite(sites)).toEqual({ unknown });
  });

  test('one leads if, and only if, it alone has a primary and no system identifier differs', () => {
    const observation = fc.oneof(
      fc.constant(UNKNOWN),
      fc.record(
        {
          leader: fc.constantFrom('n1', 'n2'),
          isStandby: fc.constant(true as const),
          system_id: fc.constantFrom('7', '8'),
        },
        { requiredKeys: ['leader'] },
      ),
    );
    fc.assert(
      fc.property(fc.array(observation, { minLength: 2, maxLength: 4 }), (observations) => {
        const sites = observations.map((one, index) => site(`site${index}`, one));
        const primaries = sites.filter(({ observation: one }) => 'leader' in one && !one.isStandby);
        const systems = observations.flatMap((one) => ('leader' in one ? (one.system_id ?? []) : []));
        const expected = primaries.length === 1 && new Set(systems).size < 2 ? primaries[0] : undefined;
        const leading = leadingSite(sites);
        expect('site' in leading ? leading.site : undefined).toBe(expected);
      }),
      { numRuns: 2_000 },
    );
  });
});

describe('the site of a server', () => {
  const clusters = [
    { name: 'a' },
    { name: 'b' },
    { name: 'old', malformed: 'no JSON' },
    { name: 'lost', malformed: 'no JSON', hasNoValue: true },
  ] as const;
  const all = { sites: ['a', 'b', 'old'], ...malformedAmong(clusters) };
  const fine = { sites: ['a', 'b'], ...malformedAmong(clusters.slice(0, 2)) };
  const primary = { leader: 'n1' };
  const standby = { leader: 'n1', isStandby: true } as const;
  const unknown = (reason: RegExp) => ({ unknown: expect.stringMatching(reason) });
  const mayBeLost = unknown(/^n1 in a is a standby leader, and the primary may be in .*: clusters\/lost$/);
  const isMalformed = (name: string) =>
    unknown(new RegExp(`^it follows ${name}, and the parameter clusters/${name} is malformed`));

  test.each<[string, string | undefined, typeof primary | typeof standby, typeof all, unknown]>([
    ['is the first one', undefined, primary, fine, false],
    ['is the first one, of a standby leader', undefined, standby, fine, false],
    ['may be another one', undefined, standby, all, mayBeLost],
    ['is the first one, as a primary has no other site', undefined, primary, all, false],
    ['is the same', 'a', standby, all, false],
    ['changes', 'b', primary, fine, true],
    ['changes, to be waited for', 'b', standby, all, true],
    ['has no good value', 'lost', primary, all, isMalformed('lost')],
    ['is malformed, and not asked', 'old', primary, all, isMalformed('old')],
    ['was renamed, or lists it no more', 'gone', primary, all, false],
    ['was renamed, and may be malformed', 'gone', standby, all, mayBeLost],
  ])('%s', (_, last, leader, listing, expected) => {
    expect(changesSite(last, { site: 'a', leader }, listing)).toEqual(expected);
  });
});

test.each<[string, Partial<Cluster>, object | undefined]>([
  [
    'has no URLs',
    { name: 'dc1', patroni: [], malformed: undefined },
    { unknown: "the parameter clusters/dc1 has no URLs of Patroni's REST API" },
  ],
  ['is malformed', { name: 'dc1', patroni: [], malformed: 'not JSON' }, { unknown: 'not JSON' }],
  ['has URLs', { name: 'dc1', patroni: [new URL('http://node1:8008')], malformed: undefined }, undefined],
])('a cluster that %s › is asked only if it has URLs: %j', (_, cluster, expected) => {
  expect(whyNotAsked(cluster as Cluster)).toEqual(expected);
});
