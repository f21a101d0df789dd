/** What the ledger remembers of a whole stage, for the operator: one item in addition to those of the servers. */

import * as v from 'valibot';
import { LedgerError } from '../errors.ts';
import { Time, timeOf } from './item.ts';

/** Its key. No Barman server has such a name (`BARMAN_NAME`). */
export const STAGE_KEY = '@stage';
/** Maximum length of a reason in it (characters): an item has at most 400 KB. */
export const REASON_LENGTH = 500;

/** What a heartbeat knows of a Patroni cluster. */
const ClusterReport = v.object({
  name: v.string(),
  /** The Barman servers that its parameter lists. */
  servers: v.array(
    v.object({
      name: v.string(),
      /** Whether it is set to the leader of this cluster: it has members here, and no other site is followed. */
      observed: v.boolean(),
      /** Why its model is unknown although the leader is known. */
      unknown: v.exactOptional(v.string()),
    }),
  ),
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
  /** Servers that cannot be switched, although pg-backup-api responds, and why. */
  not_ready: v.exactOptional(v.array(v.object({ barman_server: v.string(), message: v.string() }))),
  lasting: v.exactOptional(v.pipe(v.array(Lasting), v.readonly())),
});

/** All servers are paused, later ones included. */
const Pause = v.object({ at: Time, until: v.exactOptional(Time), reason: v.exactOptional(v.string()) });

export type ClusterReport = Readonly<v.InferOutput<typeof ClusterReport>>;
export type Lasting = Readonly<v.InferOutput<typeof Lasting>>;
/** What a heartbeat found. */
export type HeartbeatReport = Readonly<v.InferOutput<typeof HeartbeatReport>>;
/** When Barman was inspected last. */
const InspectionTimes = v.object({
  /** When an inspection was first wanted, and when one was tried last. */
  first_at: Time,
  tried_at: v.exactOptional(Time),
  /** When one last could see Barman; absent: never. */
  seen_at: v.exactOptional(Time),
  /** Why the last one could not. */
  unseen: v.exactOptional(v.string()),
});

export type InspectionTimes = Readonly<v.InferOutput<typeof InspectionTimes>>;

export interface StageItem {
  readonly inspection?: InspectionTimes;
  /** Until when Barman may be busy with a diagnosis. */
  readonly diagnose_until?: string;
  readonly paused?: Readonly<v.InferOutput<typeof Pause>>;
  /** What the last heartbeat found. */
  readonly heartbeat?: HeartbeatReport;
}

/**
 * Reads the item.
 *
 * @param stored as it is in the table
 * @returns without a report that another version of the heartbeat has written: the next heartbeat replaces it
 * @throws LedgerError if the pause cannot be read: nothing may be sent
 */
export function readStage(stored: Readonly<Record<string, unknown>> = {}): StageItem {
  const { paused, heartbeat, inspection, diagnose_until } = stored;
  const pause = v.safeParse(Pause, paused);
  if (paused !== undefined && !pause.success) {
    throw new LedgerError(
      `the attribute "paused" of the ledger's item ${STAGE_KEY} cannot be read, so nothing is sent to Barman; delete the attribute`,
    );
  }
  const report = v.safeParse(HeartbeatReport, heartbeat);
  const times = v.safeParse(InspectionTimes, inspection);
  return {
    ...(pause.success && { paused: pause.output }),
    ...(report.success && { heartbeat: report.output }),
    ...(times.success && { inspection: times.output }),
    ...(v.is(Time, diagnose_until) && { diagnose_until }),
  };
}

/** Returns whether the operator wants nothing sent to Barman, for all servers. */
export function isStagePaused({ paused }: StageItem): boolean {
  return paused !== undefined && Date.now() < timeOf(paused.until, Number.POSITIVE_INFINITY);
}

/** Returns whether an item of the table is that of a Barman server. */
export function isServer(key: string): boolean {
  return !key.startsWith('@') && !key.includes('#');
}
