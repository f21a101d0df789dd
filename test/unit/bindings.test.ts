/** The parameter `servers`: which clusters may list which Barman server. */

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { HttpError } from '../../functions/config-switch/errors.ts';
import { parseBindings, unboundServers } from '../../functions/config-switch/patroni/bindings.ts';
import { parseCluster } from '../../functions/config-switch/patroni/cluster.ts';
import { describeParameters } from '../../functions/config-switch/settings/describe.ts';
import { MalformedParameter, partsOf } from '../../functions/config-switch/settings/parameters.ts';

const NAMES = 'must be an array of names of parameters clusters/NAME, such as ["main"]';
const cluster = (...servers: string[]) =>
  JSON.stringify({ servers: Object.fromEntries(servers.map((server) => [server, {}])) });
const clustersOf = (values: Readonly<Record<string, string>>) =>
  Object.fromEntries(
    [...partsOf(new Map(Object.entries(values)), '/p/').clusters].map(([name, part]) => [
      name,
      part instanceof HttpError ? part.message : [...part.servers.keys()],
    ]),
  );

describe('bindings', () => {
  test('name the clusters of each server', () => {
    expect(parseBindings('{ "main": ["paris", "lyon"], "hr": ["b"], "old": [] }')).toEqual(
      new Map([
        ['main', new Set(['paris', 'lyon'])],
        ['hr', new Set(['b'])],
        ['old', new Set()],
      ]),
    );
  });

  test.each([
    ['', 'is not JSON'],
    ['[]', 'is not a JSON object'],
    ['{ "main": "paris" }', `is malformed: main ${NAMES}`],
    ['{ "main": { "paris": {} } }', `is malformed: main ${NAMES}`],
    ['{ "main": [7, ""] }', 'is malformed: main.0 must be a string; main.1 must not be empty'],
  ])('%s is rejected', (text, problem) => {
    expect(() => parseBindings(text)).toThrow(new Error(problem));
  });

  test('with a name that no Barman server has are rejected', () => {
    expect(() => parseBindings('{ "../x": [] }')).toThrow(/^is malformed: "..\/x" must start with/);
  });
});

describe('a cluster', () => {
  test('may list any server without the parameter servers', () => {
    expect(clustersOf({ 'clusters/a': cluster('main', 'hr') })).toEqual({ a: ['main', 'hr'] });
  });

  test('may list the servers that are bound to it; otherwise only this cluster is malformed', () => {
    const values = {
      servers: '{ "main": ["a", "b"], "hr": ["b"] }',
      'clusters/a': cluster('main'),
      'clusters/b': cluster('main', 'hr'),
    };
    expect(clustersOf(values)).toEqual({ a: ['main'], b: ['main', 'hr'] });
    expect(clustersOf({ ...values, 'clusters/a': cluster('main', 'hr', 'new') })).toEqual({
      a: 'SSM parameter /p/clusters/a lists Barman server hr, new, which SSM parameter /p/servers does not bind to it; add "a" there, or remove the server here',
      b: ['main', 'hr'],
    });
  });

  test('cannot be checked while the parameter servers is malformed; webhook-secret can', () => {
    const values = { servers: '{', 'clusters/a': cluster('main') };
    expect(clustersOf(values)).toEqual({
      a: 'SSM parameter /p/servers is not JSON; so the new value of clusters/a is not used',
    });
    const { bindings, clusters } = partsOf(new Map(Object.entries(values)), '/p/');
    expect(bindings).toBeInstanceOf(MalformedParameter);
    expect(clusters.get('a')).toBeInstanceOf(MalformedParameter);
  });

  test('never lists a server that is not bound to it, whatever the names are', () => {
    const name = fc.constantFrom('main', 'hr', 'constructor', '__proto__', 'a', 'b');
    const property = fc.property(
      fc.array(fc.tuple(name, fc.array(name))),
      fc.array(name),
      name,
      (bound, servers, own) => {
        const bindings = parseBindings(JSON.stringify(Object.fromEntries(bound)));
        const given = parseCluster(own, cluster(...servers));
        const allowed = new Map<string, string[]>(bound);
        const expected = [...given.servers.keys()].filter((server) => !allowed.get(server)?.includes(own));
        expect(unboundServers(given, bindings).sort()).toEqual(expected.sort());
      },
    );
    fc.assert(property);
  });
});

test('the operator › sees what is bound, and what is wrong with it', () => {
  const lineOf = (servers: string) =>
    describeParameters(partsOf(new Map([['servers', servers]]), '/p/'), '/p/', 0).find(
      ({ name }) => name === 'servers',
    );
  expect(lineOf('{ "main": ["paris", "lyon"], "hr": [] }')).toEqual({
    ok: true,
    name: 'servers',
    text: 'a cluster may list main only in paris, lyon; hr only in none',
  });
  expect(lineOf('{}')).toMatchObject({ ok: true, text: 'a cluster may list no server' });
  expect(lineOf('7')).toMatchObject({ ok: false, text: 'SSM parameter /p/servers is not a JSON object' });
});
