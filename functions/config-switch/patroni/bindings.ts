/**
 * Which clusters may list a Barman server, by a parameter of its own: whoever may write one parameter
 * `clusters/NAME` cannot take the servers of another cluster with it.
 */

import * as v from 'valibot';
import { mapOf, parseObject } from '../schema.ts';
import { BarmanName } from '../target.ts';
import { pathOf } from '../text.ts';
import type { Cluster } from './cluster.ts';

/** Barman server → the names of the clusters that may list it. A server without an entry may be in none. */
export type Bindings = ReadonlyMap<string, ReadonlySet<string>>;

const Schema = mapOf(
  BarmanName,
  v.pipe(
    v.array(
      v.pipe(v.string('must be a string'), v.minLength(1, 'must not be empty')),
      'must be an array of names of parameters clusters/NAME, such as ["main"]',
    ),
    v.transform((names) => new Set(names)),
  ),
  'is not a JSON object',
);

/**
 * Parses the value of the parameter `servers`.
 *
 * @throws Error with every problem in one message, each with its field
 */
export function parseBindings(text: string): Bindings {
  const { output, issues, success } = v.safeParse(Schema, parseObject(text));
  if (success) return output;
  const problems = issues.map((issue) => `${pathOf(issue.path)} ${issue.message}`.trim());
  throw new Error(`is malformed: ${problems.join('; ')}`);
}

/** Returns the servers that a cluster lists, although they are not bound to it. */
export function unboundServers(
  { name, servers }: Pick<Cluster, 'name' | 'servers'>,
  bindings: Bindings,
): string[] {
  return [...servers.keys()].filter((server) => !bindings.get(server)?.has(name));
}
