/**
 * Whatever one cluster's parameter has, or its nodes answer, and whatever happens to one server's item: the
 * other clusters and servers are observed as if it were not there, and what is wrong is reported.
 */

import fc from 'fast-check';
import { expect, test, vi } from 'vitest';
import { HttpError } from '../../functions/config-switch/errors.ts';
import { Ledger } from '../../functions/config-switch/ledger/ledger.ts';
import { withoutValue } from '../../functions/config-switch/patroni/cluster.ts';
import { observeClusters } from '../../functions/config-switch/patroni/observe-clusters.ts';
import type { Answer, Ask } from '../../functions/config-switch/patroni/rest-api.ts';
import { recordObservations } from '../../functions/config-switch/reconcile/observations.ts';
import { partsOf } from '../../functions/config-switch/settings/parameters.ts';
import { MemoryTable } from '../stand-ins/memory-table.ts';

const { signal } = new AbortController();
const NOW = Date.now();
/** What the nodes answer, by path; those of the good cluster answer as Patroni does. */
let answers: Readonly<Record<'cluster' | 'leader', Answer>>;

const CLUSTER_BODY = {
  scope: 'main',
  members: [
    { name: 'node1', role: 'leader', state: 'running', timeline: 2 },
    { name: 'node2', role: 'replica', state: 'streaming', timeline: 2 },
  ],
};
const LEADER_BODY = {
  state: 'running',
  role: 'primary',
  replication: [{ application_name: 'barman_receive_wal', state: 'streaming', client_addr: '10.0.3.4' }],
  dcs_last_seen: NOW / 1_000,
  patroni: { scope: 'main', name: 'node1' },
};
const PARAMETER = {
  scope: 'main',
  servers: { main: { node1: 'pg:node1', node2: null } },
  patroni: ['http://bad'],
  barman_addresses: ['10.0.3.0/24'],
};
const ok = (body: unknown): Answer => ({ status: 200, body, date: NOW });
const GOOD = { cluster: ok(CLUSTER_BODY), leader: ok(LEADER_BODY) };

vi.mock('../../functions/config-switch/patroni/rest-api.ts', () => ({
  PatroniClient: class {
    ask: Ask = async (node, path) => (node.hostname === 'bad' ? answers : GOOD)[path as 'cluster' | 'leader'];
    async [Symbol.asyncDispose]() {}
  },
}));

/** Values that a parser may not expect. */
const odd = fc.oneof(
  fc.jsonValue(),
  fc.constantFrom<unknown>(
    JSON.parse('{"toString":0}'),
    JSON.parse('{"valueOf":0,"toString":0}'),
    JSON.parse('{"__proto__":{"name":"x"}}'),
    ...['x'.repeat(2_049), '\ud800', '__proto__', 'constructor', '', '1e999', [], {}, null, -0, 1e308],
  ),
);

/** A JSON value in which a part is replaced, removed or gets another key. */
function changed(valid: unknown): fc.Arbitrary<unknown> {
  const paths: string[][] = [];
  const visit = (value: unknown, path: string[]): void => {
    paths.push(path);
    if (typeof value !== 'object' || value === null) return;
    for (const [key, part] of Object.entries(value)) visit(part, [...path, key]);
  };
  visit(valid, []);
  const change = fc.record({
    path: fc.constantFrom(...paths),
    value: fc.option(odd, { nil: undefined }),
    key: fc.option(fc.constantFrom('__proto__', 'constructor', 'toString', 'x'.repeat(2_049)), {
      nil: undefined,
    }),
  });
  return fc
    .array(change, { maxLength: 3 })
    .map((changes) =>
      changes.reduce<unknown>((whole, { path, value, key }) => replaced(whole, path, value, key), valid),
    );
}

function replaced(whole: unknown, [first, ...rest]: string[], value: unknown, key?: string): unknown {
  if (first === undefined) return value;
  if (typeof whole !== 'object' || whole === null) return whole;
  if (Array.isArray(whole))
    return whole.map((part, index) => (`${index}` === first ? replaced(part, rest, value, key) : part));
  const entries = Object.entries(whole).map(([name, part]) =>
    name === first
      ? [rest.length === 0 ? (key ?? name) : name, replaced(part, rest, value, key)]
      : [name, part],
  );
  return Object.fromEntries(entries);
}

const anAnswer = (body: unknown): fc.Arbitrary<Answer> =>
  fc.oneof(
    { weight: 8, arbitrary: changed(body).map(ok) },
    { weight: 6, arbitrary: fc.constant(ok(body)) },
    fc.record({ status: fc.constantFrom(200, 503), body: odd, date: fc.constantFrom(NOW, Number.NaN) }),
    fc.record({ error: fc.string() }),
  );
const aParameter = fc.oneof(
  { weight: 4, arbitrary: changed(PARAMETER).map((json) => JSON.stringify(json) ?? '') },
  { weight: 6, arbitrary: fc.constant(JSON.stringify(PARAMETER)) },
  fc.string(),
);

test('an error of one cluster or server › is its own, whatever its parameter, its nodes and its item have', async () => {
  const seen = { known: 0, malformed: 0, unknown: 0, failed: 0 };
  const bad = fc.record({
    parameter: aParameter,
    cluster: anAnswer(CLUSTER_BODY),
    leader: anAnswer(LEADER_BODY),
    fails: fc.boolean(),
  });
  await fc.assert(
    fc.asyncProperty(bad, async ({ parameter, fails, ...given }) => {
      answers = given;
      const good = { ...PARAMETER, servers: { good: { node1: 'm' } }, patroni: ['http://good'] };
      const values = new Map([
        ['clusters/bad', parameter],
        ['clusters/good', JSON.stringify(good)],
      ]);
      const { clusters } = partsOf(values, '/p/');
      const all = [...clusters].map(([name, part]) =>
        part instanceof HttpError ? withoutValue(name, part.message) : part,
      );
      const observed = await observeClusters({ clusters: all, tls: {} }, signal);
      expect(JSON.stringify(observed)).not.toContain('internal error');

      const table = new MemoryTable();
      const { update } = table;
      table.update = async (server, ...rest) => {
        // DynamoDB's maximum of a key (bytes).
        if (server !== 'good' && (fails || Buffer.byteLength(server) > 2_048)) throw new Error('refused');
        return update.call(table, server, ...rest);
      };
      const known = { items: [], unreadable: [], stage: {} };
      const { unknown } = await recordObservations(new Ledger(table), known, observed, 60_000, signal);
      expect(table.items.get('good')).toMatchObject({ leader: 'node1', streaming: true });
      expect(unknown.filter(({ cluster }) => cluster === 'good')).toEqual([]);

      const one = observed.find(({ cluster }) => cluster.name === 'bad');
      const isKnown = one !== undefined && 'leader' in one.observation;
      const listed = all.find(({ name }) => name === 'bad');
      const isMalformed = listed?.malformed !== undefined;
      const wasAsked = (listed?.patroni.length ?? 0) > 0;
      // What is not known, or could not be recorded, is reported.
      if (!isKnown && (wasAsked || isMalformed)) expect(unknown).toMatchObject([{ cluster: 'bad' }]);
      const servers = [...(one?.cluster.servers.values() ?? [])].filter((members) => members.size > 0);
      if (isKnown && fails) expect(unknown).toHaveLength(servers.length);
      if (isMalformed) seen.malformed += 1;
      else if (!isKnown) seen.unknown += 1;
      else if (fails && servers.length > 0) seen.failed += 1;
      else seen.known += 1;
    }),
    { numRuns: 2_000 },
  );
  // Each way was tried.
  for (const count of Object.values(seen)) expect(count, JSON.stringify(seen)).toBeGreaterThan(50);
});
