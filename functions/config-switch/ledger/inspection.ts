/** What the last inspection of a Barman server found, and what the next one has to know: an item of its own. */

import * as v from 'valibot';
import { HeardNode } from './heard.ts';
import { Time } from './item.ts';

/** Returns its key. No Barman server has such a name (`BARMAN_NAME`). */
export function inspectionKey(barman_server: string): string {
  return `inspection#${barman_server}`;
}

/** Returns the server that a key of an inspection is about; undefined for another key. */
export function inspectedServer(key: string): string | undefined {
  return key.startsWith(inspectionKey('')) ? key.slice(inspectionKey('').length) : undefined;
}

export const Inspection = v.object({
  /** When it began. */
  at: Time,
  findings: v.array(
    v.object({
      kind: v.string(),
      class: v.picklist(['ready', 'archived']),
      member: v.exactOptional(v.string()),
      what: v.string(),
      remedy: v.string(),
      /** The inspection that found it first. */
      since: Time,
      /** Whether it counts: one of the class archived does once two inspections in a row have found it. */
      counts: v.boolean(),
    }),
  ),
  notes: v.array(v.string()),
  unseen: v.array(
    v.object({ what: v.string(), member: v.exactOptional(v.union([v.string(), v.literal(true)])) }),
  ),
  /** The leader and the applied version that it has seen: findings of the class archived are about these. */
  leader: v.exactOptional(v.string()),
  applied_version: v.exactOptional(v.string()),
  /** Members that Patroni does not have, and since when. */
  missing: v.array(v.object({ member: v.string(), since: Time })),
  /** Members whose REST API does not answer, and since when. */
  silent: v.exactOptional(v.array(v.object({ member: v.string(), since: Time }))),
  /** Members through whose model Barman was connected to the leader, and when last. */
  connected: v.array(v.object({ member: v.string(), at: Time })),
  /**
   * The nodes whose callback was heard, and for which an inspection found a member. A node stays here when its member is
   * removed, until it is heard again.
   */
  callbacks: v.exactOptional(v.array(v.omit(HeardNode, ['version']))),
  /** The leader's timeline, when an inspection first saw it, and how far WAL had got then (bytes). */
  timeline: v.exactOptional(v.object({ id: v.number(), since: Time, location: v.number() })),
});

export type Inspection = Readonly<v.InferOutput<typeof Inspection>>;
export type StoredFinding = Inspection['findings'][number];

/** Without a successful inspection for so long, it is not known whether anything is ready (ms). */
export const INSPECTION_AGE = 48 * 3_600_000;

/** Findings of a server that receives no WAL: an inspection then does not look for it. */
const WITHOUT_WAL = ['server-missing', 'server-inactive', 'server-passive'];

/** Returns whether an inspection with these findings looks for WAL in the archive. */
export function looksForWal(findings: readonly { readonly kind: string }[]): boolean {
  return !findings.some(({ kind }) => WITHOUT_WAL.includes(kind));
}

/**
 * Reads the item.
 *
 * @param stored as it is in the table
 * @returns undefined if another version has written it: the next inspection replaces it
 */
export function readInspection(stored: Readonly<Record<string, unknown>>): Inspection | undefined {
  const result = v.safeParse(Inspection, stored.inspection);
  return result.success ? result.output : undefined;
}
