/**
 * The nodes whose callback has been heard, by Barman server: an attribute of the item that inspections have, so that
 * neither overwrites the other.
 */

import * as v from 'valibot';
import { Time } from './item.ts';

/** How many nodes of a server are remembered; those heard longest ago go. */
export const MAX_HEARD = 20;

/** A node whose callback has been heard. */
export const HeardNode = v.object({
  /** Its host name, as its callback sent it. */
  node: v.string(),
  /** The Patroni scope that it sent: nodes of two sites may have the same name. Older entries have none. */
  cluster: v.exactOptional(v.string()),
  /** When it was last heard, by a clock of AWS. */
  at: Time,
  /** The version of its callback; absent over EventBridge, and for a direct invocation. */
  version: v.exactOptional(v.string()),
});

export type HeardNode = Readonly<v.InferOutput<typeof HeardNode>>;

const Heard = v.object({ nodes: v.array(HeardNode) });
const Revised = v.object({ revision: v.string() });

/** What is remembered, as it was read. */
export interface Heard {
  /** A new one with each write; undefined: there was none, or one in another format. */
  readonly revision: string | undefined;
  /** The one heard last is the first. */
  readonly nodes: readonly HeardNode[];
}

/**
 * Reads the attribute.
 *
 * @param stored the item as it is in the table; undefined: there is none
 * @returns without nodes if it is in another format: the next write replaces it, and each node is heard again
 */
export function readHeard(stored: Readonly<Record<string, unknown>> | undefined): Heard {
  const heard = v.safeParse(Heard, stored?.heard);
  const revised = v.safeParse(Revised, stored?.heard);
  return {
    revision: revised.success ? revised.output.revision : undefined,
    nodes: heard.success ? heard.output.nodes : [],
  };
}

/**
 * Adds a node to those that were heard. Nodes with the same name in two clusters are two nodes; an entry without a
 * cluster may be either, and goes once one of them is heard.
 *
 * Each event changes its time, also one soon after another: who has just reloaded Patroni looks for that time.
 *
 * @param nodes at most 20
 * @returns at most 20, the one heard last first; undefined if nothing is new: the node was heard then or later, or 20
 *   others were
 */
export function addHeard(nodes: readonly HeardNode[], heard: HeardNode): readonly HeardNode[] | undefined {
  const isSame = ({ node, cluster = heard.cluster }: HeardNode) =>
    node === heard.node && cluster === heard.cluster;
  if (nodes.some((one) => isSame(one) && one.at >= heard.at)) return undefined;
  const newest = [...nodes.filter((one) => !isSame(one)), heard].sort(lastFirst).slice(0, MAX_HEARD);
  return newest.includes(heard) ? newest : undefined;
}

/** By time; of two nodes that were heard at the same moment always in the same order. */
function lastFirst(a: HeardNode, b: HeardNode): number {
  if (a.at !== b.at) return a.at < b.at ? 1 : -1;
  if (a.node !== b.node) return a.node < b.node ? -1 : 1;
  return (a.cluster ?? '') < (b.cluster ?? '') ? -1 : 1;
}
