/** What the ledger remembers of a whole stage, for the operator: one item in addition to those of the servers. */

import * as v from 'valibot';
import { Time, timeOf } from './item.ts';

/** Its key. No Barman server has such a name (`BARMAN_NAME`). */
export const STAGE_KEY = '@stage';

/** What a heartbeat knows of a Patroni cluster. */
const ClusterReport = v.object({
  name: v.string(),
  /** The Barman servers that its parameter lists. */
  servers: v.array(v.string()),
  /** When its leader was last known; absent: never yet, or Patroni is not asked. */
  observed_at: v.exactOptional(Time),
  /** Why its leader is unknown now. */
  unknown: v.exactOptional(v.string()),
});

/** A server or a cluster in a state that someone must act on; see reconcile/lasting.ts. */
const Lasting = v.object({
  state: v.string(),
  name: v.string(),
  since: Time,
  /** Whether it lasts long enough for the alarm: the next heartbeat does not raise it again. */
  raised: v.boolean(),
});

const HeartbeatReport = v.object({
  at: Time,
  /** Between two heartbeats (ms). */
  interval: v.number(),
  /** The version of this project that is deployed. */
  version: v.string(),
  /** Why pg-backup-api is unreachable, and since when. */
  unreachable: v.exactOptional(v.string()),
  unreachable_since: v.exactOptional(Time),
  clusters: v.array(ClusterReport),
  lasting: v.exactOptional(v.pipe(v.array(Lasting), v.readonly())),
});

/** All servers are paused, later ones included. */
const Pause = v.object({ at: Time, until: v.exactOptional(Time), reason: v.exactOptional(v.string()) });

const StageItem = v.object({
  paused: v.exactOptional(Pause),
  /** What the last heartbeat found. */
  heartbeat: v.exactOptional(HeartbeatReport),
});
/** What another version of the heartbeat has written may be unreadable; then the pause still counts. */
const WithoutHeartbeat = v.omit(StageItem, ['heartbeat']);

export type ClusterReport = Readonly<v.InferOutput<typeof ClusterReport>>;
export type Lasting = Readonly<v.InferOutput<typeof Lasting>>;
/** What a heartbeat found. */
export type HeartbeatReport = Readonly<v.InferOutput<typeof HeartbeatReport>>;
export type StageItem = Readonly<v.InferOutput<typeof StageItem>>;

/**
 * Reads the item.
 *
 * @param stored as it is in the table
 * @returns without what cannot be read: the next heartbeat writes it again
 */
export function readStage(stored: unknown): StageItem {
  const whole = v.safeParse(StageItem, stored);
  if (whole.success) return whole.output;
  const rest = v.safeParse(WithoutHeartbeat, stored);
  return rest.success ? rest.output : {};
}

/** Returns whether the operator wants nothing sent to Barman, for all servers. */
export function isStagePaused({ paused }: StageItem): boolean {
  return paused !== undefined && Date.now() < timeOf(paused.until, Number.POSITIVE_INFINITY);
}

/** Returns whether an item of the table is that of a Barman server. */
export function isServer(key: string): boolean {
  return !key.startsWith('@') && !key.includes('#');
}
