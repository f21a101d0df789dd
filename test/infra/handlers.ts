/** What CloudFormation may call for each type of resource: `handlers.json`, from the schemas in cfn-lint. */

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** Of a type: handler → its permissions, separated by spaces. */
export type Handlers = Readonly<Record<string, Readonly<Record<string, string>>>>;

export const HANDLERS_FILE = 'test/infra/handlers.json';

interface Schema {
  readonly typeName?: string;
  readonly handlers?: Readonly<Record<string, { readonly permissions?: readonly string[] }>>;
  readonly tagging?: { readonly taggable?: boolean; readonly permissions?: readonly string[] };
}

/**
 * Reads the permissions of some types from cfn-lint. Without those of `list`, which lists all resources of an account and
 * is for other programs than CloudFormation.
 *
 * @param folder of cfn-lint's schemas
 * @throws Error if it does not have exactly one schema of a type
 */
export function readHandlers(folder: string, types: readonly string[]): Handlers {
  const found = new Map<string, Readonly<Record<string, string>>>();
  for (const file of readdirSync(folder)) {
    if (!file.endsWith('.json')) continue;
    const {
      typeName,
      handlers = {},
      tagging,
    } = JSON.parse(readFileSync(join(folder, file), 'utf8')) as Schema;
    if (typeName === undefined || !types.includes(typeName)) continue;
    if (found.has(typeName)) throw new Error(`two schemas of ${typeName}`);
    const { list: _, ...rest } = handlers;
    const all = { ...rest, ...(tagging?.taggable && { tagging }) };
    found.set(
      typeName,
      Object.fromEntries(
        Object.entries(all).map(([handler, { permissions = [] }]) => [handler, permissions.join(' ')]),
      ),
    );
  }
  const missing = types.filter((type) => !found.has(type));
  if (missing.length > 0) throw new Error(`no schema of ${missing.join(', ')}`);
  return Object.fromEntries([...found].toSorted(([a], [b]) => (a < b ? -1 : 1)));
}
