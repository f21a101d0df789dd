/**
 * A Patroni cluster as the operator describes it: who may switch which Barman server, and which model belongs
 * to which member.
 */

import { createSecretKey, type KeyObject } from 'node:crypto';
import { BlockList, isIP } from 'node:net';
import * as v from 'valibot';
import { mapOf, parseObject } from '../schema.ts';
import { BarmanName, type ConfigTarget } from '../target.ts';
import { pathOf, quotedKey } from '../text.ts';

/** Barman's default for the option `streaming_archiver_name` (barman(5)). */
const STREAMING_ARCHIVER_NAME = 'barman_receive_wal';
/** Standard Webhooks, "Signature scheme": a symmetric secret has 24 to 64 bytes, in base64 (RFC 4648, 4). */
const SECRET = /^whsec_((?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?)$/;
const SECRET_BYTES = { min: 24, max: 64 };
/** What a secret looks like. */
export const SECRET_FORM =
  'whsec_ followed by 24 to 64 random bytes in base64; during a rotation, several of them separated by spaces';

/**
 * Maximum number of sockets that are open at the same time, for all clusters, and so of URLs of one: an
 * instance of the function has 1,024 files, and its part of a core makes no more TLS handshakes in half a second.
 */
export const SOCKETS = 64;

const url = v.pipe(
  v.string('must be a string'),
  v.check(
    (text) => ['http:', 'https:'].includes(URL.parse(text)?.protocol ?? ''),
    'must be an http:// or https:// URL',
  ),
  v.transform((text) => new URL(text)),
  v.check(
    ({ username, password, search, hash }) => `${username}${password}${search}${hash}` === '',
    'must not have a user, a password, a query or a fragment',
  ),
);

/** Adds a CIDR block to a list of addresses (RFC 4632, RFC 4291). @returns whether it is one */
function addTo(list: BlockList, cidr: string): boolean {
  const [, address = '', prefix] = /^([0-9a-f.:]+)\/(\d{1,3})$/i.exec(cidr) ?? [];
  const version = isIP(address);
  if (version === 0 || Number(prefix) > (version === 4 ? 32 : 128)) return false;
  list.addSubnet(address, Number(prefix), `ipv${version as 4 | 6}`);
  return true;
}
const isCidr = (text: string) => addTo(new BlockList(), text);

const Settings = v.object(
  {
    secret: v.exactOptional(
      v.pipe(
        v.string('must be a string'),
        v.transform(secretKeys),
        v.check((keys) => keys !== undefined, `must be ${SECRET_FORM}`),
      ),
    ),
    servers: mapOf(
      BarmanName,
      mapOf(
        v.string(),
        v.nullable(BarmanName),
        'must be an object of Patroni members, such as {"node1": "pg:node1"}, or {}',
      ),
      'must be an object of Barman servers, such as {"main": {"node1": "pg:node1"}}',
    ),
    patroni: v.exactOptional(
      v.pipe(
        v.array(url, 'must be an array of URLs'),
        v.minLength(1, 'must have at least one URL'),
        v.maxLength(SOCKETS, `must have at most ${SOCKETS} URLs`),
      ),
    ),
    scope: v.exactOptional(v.pipe(v.string('must be a string'), v.minLength(1, 'must not be empty'))),
    streaming_archiver_name: v.exactOptional(
      v.nullable(v.pipe(v.string('must be a string or null'), v.minLength(1, 'must not be empty'))),
    ),
    barman_addresses: v.exactOptional(
      v.pipe(
        v.array(
          v.pipe(
            v.string('must be a string'),
            v.check(isCidr, 'must be a CIDR block, such as 10.0.3.4/32 or fd00::/64'),
          ),
          'must be an array of CIDR blocks, such as ["10.0.3.4/32"]',
        ),
        v.minLength(1, 'must have at least one CIDR block'),
        v.transform((blocks) => {
          const list = new BlockList();
          for (const block of blocks) addTo(list, block);
          return list;
        }),
      ),
    ),
  },
  'is missing',
);

/** Patroni member → model; null: no model. */
export type Members = ReadonlyMap<string, string | null>;

export interface Cluster {
  /** Of the parameter `clusters/<name>`. */
  readonly name: string;
  /** The scope in Patroni's configuration. */
  readonly scope: string;
  /** May switch the servers of this cluster, and no others. */
  readonly secrets: readonly KeyObject[];
  /**
   * Barman server → its members. Without members, nothing is reconciled for the server.
   */
  readonly servers: ReadonlyMap<string, Members>;
  /** URLs of Patroni's REST API; empty: it is not asked. */
  readonly patroni: readonly URL[];
  /** The `application_name` of Barman's receive-wal; null: WAL arrives in another way. */
  readonly streaming_archiver_name: string | null;
  /** Where Barman streams from, as PostgreSQL sees its address; absent: from anywhere. */
  readonly barman_addresses?: BlockList | undefined;
  /** Why its parameter is malformed now. The rest is its last good value, or empty. */
  readonly malformed?: string | undefined;
  /** Its parameter has had no good value here: which servers it lists is unknown. */
  readonly hasNoValue?: true;
}

/** Returns a cluster whose parameter has never had a good value. */
export function withoutValue(name: string, malformed: string): Cluster {
  const empty = { secrets: [], servers: new Map(), patroni: [], streaming_archiver_name: null };
  return { name, scope: name, ...empty, malformed, hasNoValue: true };
}

/**
 * Parses the value of a parameter `clusters/<name>`.
 *
 * @throws Error with every problem in one message, each with its field, but no value
 */
export function parseCluster(clusterName: string, text: string): Cluster {
  const json = parseObject(text);
  const result = v.safeParse(Settings, json);
  const problems = [
    ...(result.issues ?? []).map((issue) => `${pathOf(issue.path)} ${issue.message}`),
    ...Object.keys(json)
      .filter((key) => !Object.hasOwn(Settings.entries, key))
      .map(
        (key) =>
          `${quotedKey(key)} is an unknown key; valid keys: ${Object.keys(Settings.entries).join(', ')}`,
      ),
  ];
  if (!result.success || problems.length > 0) throw new Error(`is malformed: ${problems.join('; ')}`);
  const { output } = result;
  return {
    name: clusterName,
    scope: output.scope ?? clusterName,
    secrets: output.secret ?? [],
    servers: output.servers,
    patroni: output.patroni ?? [],
    streaming_archiver_name:
      output.streaming_archiver_name === undefined ? STREAMING_ARCHIVER_NAME : output.streaming_archiver_name,
    ...(output.barman_addresses && { barman_addresses: output.barman_addresses }),
  };
}

/**
 * Returns the keys in a secret parameter, several during a rotation.
 *
 * @returns undefined if it is malformed, or has none
 */
export function secretKeys(text: string): readonly KeyObject[] | undefined {
  const keys = text
    .split(/\s/)
    .filter((secret) => secret !== '')
    .map((secret) => Buffer.from(SECRET.exec(secret)?.[1] ?? '', 'base64'));
  const wellFormed = keys.every(({ length }) => length >= SECRET_BYTES.min && length <= SECRET_BYTES.max);
  return keys.length > 0 && wellFormed ? keys.map((key) => createSecretKey(key)) : undefined;
}

/**
 * Returns the target of a Barman server while a member leads.
 *
 * @param members of the server in its cluster
 * @returns undefined if the member has no model there
 */
export function modelTarget(members: Members, member: string): ConfigTarget | undefined {
  const model = members.get(member);
  if (model === undefined) return undefined;
  return model === null ? { reset: true } : { model };
}

/** Returns whether a cluster lists a server with members. Without them, only its secret binds it to the server. */
export function hasMembers({ servers }: Pick<Cluster, 'servers'>, barman_server: string): boolean {
  return (servers.get(barman_server)?.size ?? 0) > 0;
}

/**
 * Returns the Barman servers that have members in several clusters: their sites.
 *
 * @returns server → names of those clusters
 */
export function serversOfSeveral(clusters: Iterable<Cluster>): Map<string, readonly string[]> {
  const namesOf = new Map<string, string[]>();
  for (const { name, servers } of clusters) {
    for (const [barman_server, members] of servers) {
      if (members.size > 0) namesOf.set(barman_server, [...(namesOf.get(barman_server) ?? []), name]);
    }
  }
  return new Map([...namesOf].filter(([, names]) => names.length > 1));
}
