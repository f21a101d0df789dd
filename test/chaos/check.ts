/** What a chaos run records, and what must be true of it. Times are ms since the epoch. */

import type { InspectionReport } from '../../functions/config-switch/inspect/report.ts';
import type { ObservationResult } from '../../functions/config-switch/reconcile/observations.ts';
import { eventIdOf } from '../../functions/config-switch/version.ts';

/** An answer to a webhook. */
export interface Answer {
  readonly at: number;
  readonly eventId: string;
  readonly status: number;
  /** Null without one. */
  readonly exitCode: number | null;
}

/** A lease, when it was acquired, and what is applied under it. */
export interface Lease {
  readonly at: number;
  readonly target: string;
  readonly version: string;
}

/** An operation that pg-backup-api has created. */
export interface Operation {
  readonly at: number;
  readonly target: string;
  /** Its process has died: it never ends. */
  readonly isDead?: true;
}

/** The ledger's item after a write. */
export interface ItemState {
  readonly at: number;
  /** The target that is desired and applied; absent while something newer is desired. */
  readonly applied?: string;
  readonly isUnsettled: boolean;
}

/** What Barman uses from then on; empty: no model. */
export interface ActiveModel {
  readonly at: number;
  readonly model: string;
}

/** A heartbeat, and what it answered. */
export interface Beat {
  readonly at: number;
  readonly result: { readonly message?: string; readonly observed?: ObservationResult };
}

/** A row of the writer, whose commit PostgreSQL has acknowledged. */
export interface Row {
  readonly id: number;
  readonly node: string;
  /** Of the node, as in the names of its WAL files. */
  readonly timeline: string;
  readonly at: number;
}

/** What a restore has. The leader stays the same meanwhile. */
export interface Restored {
  /** The ids of the rows that the leader had when it began, and when it had ended. */
  readonly before: ReadonlySet<number>;
  readonly after: ReadonlySet<number>;
  readonly ids: ReadonlySet<number>;
  /** Whether WAL was lost after this backup, by a cause whose remedy is a new one: then it ends somewhere before that. */
  readonly beforeGap: boolean;
}

/** A timeline, and where it leaves the one before. */
export interface Promotion {
  readonly timeline: number;
  readonly parent: number;
  readonly fork: string;
}

export interface History {
  readonly answers: Answer[];
  readonly leases: Lease[];
  readonly operations: Operation[];
  readonly items: ItemState[];
  /** When a model was applied by hand. */
  readonly byHand: { readonly from: number; readonly to: number }[];
  /** The timelines that began so, until it is known that they go on. */
  readonly promotedByHand: Promotion[];
  readonly beats: Beat[];
  /** When the path to the Barman host was cut in the middle of a POST. */
  readonly cuts: number[];
}

/** Returns a history in which nothing has happened yet. */
export function emptyHistory(): History {
  return {
    answers: [],
    leases: [],
    operations: [],
    items: [],
    byHand: [],
    promotedByHand: [],
    beats: [],
    cuts: [],
  };
}

/** Four minutes are promised for the heartbeat of production: two of its intervals, and this (ms). */
const FIXED = 120_000;
/** How many intervals another site is waited for. */
const OTHER_SITE = 5;
/**
 * How long Barman may use something older than the ledger says is applied, while that says "unsettled" (ms;
 * docs/explanation/guarantees.md); and how much later than the item a change may be seen.
 */
const WRONG = { unsettled: 180_000, settled: 2_000 };

/** How long an operation of the newest event that never ends is waited for, at most (ms; docs/explanation/guarantees.md). */
export const DEAD_OPERATION = 600_000;

/**
 * Within which time Barman follows after Patroni has agreed on a leader.
 *
 * @param interval between two heartbeats (ms)
 * @param isOtherSite whether it is the leader of another site than before
 * @returns ms: two observations, at least a minute after an earlier event, and a minute for an operation of
 * unknown end
 */
export function promise(interval: number, isOtherSite = false): number {
  return FIXED + (2 + (isOtherSite ? OTHER_SITE : 0)) * interval;
}

/**
 * The operations that were older than an event that had been answered DONE before they were created, although
 * nothing was said to be in doubt.
 *
 * An operation belongs to the newest lease before it that has its target. So a wrong one may go unnoticed,
 * but none is accused wrongly.
 *
 * @returns a sentence for each
 */
export function outdatedOperations({ answers, leases, operations, items }: History): string[] {
  const versions = new Map(leases.map(({ version }) => [eventIdOf(version), version]));
  const done = answers.flatMap(({ at, exitCode, eventId }) => {
    const version = versions.get(eventId);
    return exitCode === 0 && version !== undefined ? [{ at, version }] : [];
  });
  return operations.flatMap(({ at, target }) => {
    const when = new Date(at).toISOString();
    const lease = leases.findLast((one) => one.at <= at && one.target === target);
    if (!lease) return [`${when}: an operation for ${target} without a lease`];
    const newer = done.find((one) => one.at < at && one.version > lease.version);
    if (!newer || items.findLast((one) => one.at <= at)?.isUnsettled) return [];
    return [
      `${when}: an operation for ${target} of ${lease.version}, after ${newer.version} was answered DONE`,
    ];
  });
}

/**
 * The times in which Barman did not use what the ledger said was applied: longer than three minutes while the
 * server was unsettled, or at all while it was settled. What a person has set by hand does not count.
 *
 * @param models of Barman, each change
 * @param end of the run
 * @returns a sentence for each
 */
export function wrongModels(
  { items, byHand }: History,
  models: readonly ActiveModel[],
  end: number,
): string[] {
  const isByHand = ({ at }: ActiveModel) =>
    byHand.some(({ from, to }) => from <= at && at <= to + WRONG.settled);
  const found: string[] = [];
  /** Since when the model is wrong: while nothing newer was desired, and while the server was settled. */
  let since: { wrong?: number; settled?: number } = {};
  const times = [...items, ...models].map(({ at }) => at).sort((a, b) => a - b);
  for (const [index, at] of times.entries()) {
    const until = times[index + 1] ?? end;
    const item = items.findLast((one) => one.at <= at);
    const active = models.findLast((one) => one.at <= at);
    const target = active && (active.model === '' ? 'reset' : `model ${active.model}`);
    if (!item?.applied || !active || target === item.applied || isByHand(active)) {
      since = {};
      continue;
    }
    const { wrong = at, settled = at } = since;
    since = { wrong, ...(!item.isUnsettled && { settled }) };
    const tooLong = until - wrong > WRONG.unsettled || (!item.isUnsettled && until - settled > WRONG.settled);
    if (!tooLong) continue;
    const state = item.isUnsettled ? 'unsettled' : 'settled';
    found.push(
      `${new Date(wrong).toISOString()}: Barman used ${target} for ${Math.round((until - wrong) / 1_000)} s, ` +
        `although the ledger said ${item.applied}, ${state}`,
    );
    since = {};
  }
  return found;
}

/**
 * What is wrong with a restore. The leader is the measure: a row that it lacks was committed on a dead branch, and one
 * that it has was committed on its own timeline, or on one that this continues.
 *
 * @param rows that were acknowledged
 * @returns a sentence for each kind
 */
export function wrongRows(rows: readonly Row[], { before, after, ids, beforeGap }: Restored): string[] {
  const known = new Map(rows.map((row) => [row.id, row]));
  const textOf = (id: number) => {
    const row = known.get(id);
    return row
      ? `${id} of ${row.node}, timeline ${row.timeline}, ${new Date(row.at).toISOString()}`
      : `${id}, not acknowledged`;
  };
  const sentence = (what: string, wrong: readonly number[]) =>
    wrong.length === 0
      ? []
      : [
          `a restore ${what}: ${wrong.length} rows, from ${textOf(Math.min(...wrong))} to ${textOf(Math.max(...wrong))}`,
        ];
  return [
    ...sentence('lacks what the leader has', beforeGap ? [] : [...before].filter((id) => !ids.has(id))),
    ...sentence(
      'has what was committed on a dead branch',
      [...ids].filter((id) => !after.has(id)),
    ),
  ];
}

/**
 * What an inspection does not say of something that a failover lacks.
 *
 * @param lack the kind of finding, and the members to which a failover would fail
 * @returns a sentence for each member
 */
export function overlooked(
  { servers }: Pick<InspectionReport, 'servers'>,
  { kind, members }: { readonly kind: string; readonly members: readonly string[] },
): string[] {
  return servers.flatMap(({ findings, members: seen }) =>
    members.flatMap((name) => {
      const isFound = findings.some((one) => one.kind === kind && (one.member ?? name) === name);
      const ready = seen.find(({ member, cluster }) => member === name && cluster === 'main')?.ready;
      if (isFound && ready === 'no') return [];
      return [`an inspection ${isFound ? 'finds' : 'overlooks'} ${kind}, and says READY ${name}: ${ready}`];
    }),
  );
}

/**
 * What an inspection says that is not true. All nodes of the cluster main are healthy, and keep a slot for Barman. A
 * standby site may lag.
 *
 * @param streams whether Barman streams from the leader
 * @returns a sentence for each
 */
export function wrongFindings({ servers }: Pick<InspectionReport, 'servers'>, streams: boolean): string[] {
  return servers.flatMap((server) => {
    const { unseen } = server;
    const members = server.members.filter(({ cluster }) => cluster === 'main');
    const isHere = ({ member }: { member?: string }) => !member?.startsWith('site');
    const findings = server.findings.filter(isHere);
    const ready = members
      .filter((one) => one.ready !== 'yes')
      .map(({ member, ready }) => `${member}: ${ready}`);
    const archived = findings.filter((one) => one.class === 'archived');
    // One that does not count yet may be over by itself.
    const healthy = findings.filter((one) => one.class === 'ready' || (streams && one.counts));
    return [
      ...healthy.map(({ kind, what }) => `an inspection finds ${kind}, which is not true: ${what}`),
      ...(healthy.length === 0 && ready.length > 0
        ? [`an inspection says READY ${ready.join(', ')}: ${unseen.map(({ what }) => what).join('; ')}`]
        : []),
      ...(!streams && archived.length === 0 && unseen.length === 0
        ? ['an inspection says that WAL is archived, and Barman does not stream']
        : []),
    ];
  });
}
