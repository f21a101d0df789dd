/** The servers of a stage at a glance: the same words for `npm run ledger` and for the dashboard. */

import { nameOf, parseTarget } from '../target.ts';
import { eventTimeOf } from '../version.ts';
import { INSPECTION_AGE, looksForWal } from './inspection.ts';
import { type Item, isExpired, isLeased, isPaused, isPending, isRecorded } from './item.ts';
import type { ServerMessage, Servers } from './ledger.ts';
import { type HeartbeatReport, isStagePaused, type StageItem } from './stage.ts';

/** A server that clusters list, but of which nothing is known yet. */
export interface Listed {
  readonly barman_server: string;
  readonly listed: true;
}

/** A server: its item, why that cannot be read, or that there is none. */
export type Row = Item | ServerMessage | Listed;

/** What an item says in one word or two. */
export type State =
  | ('in sync' | 'pending' | 'switching' | 'expired' | 'paused')
  /** Nothing is desired yet, but Patroni has named the leader. */
  | 'observed'
  /** Nothing is known yet, but a cluster lists it. */
  | 'new'
  | 'unreadable';

/** A server in a few words, each with how long it has been so; `–`: there is none, `?`: unknown. */
export interface Overview {
  readonly barman_server: string;
  readonly state: State;
  readonly desired: string;
  readonly applied: string;
  readonly leader: string;
  readonly streaming: string;
  readonly ready: string;
  readonly archived: string;
}

/** Heartbeats that may be missing before what they saw counts as unknown. */
export const MISSING = 2;

/**
 * Returns a server at a glance.
 *
 * @param now ms since the epoch
 */
export function overviewOf(row: Row, servers: Servers, now: number): Overview {
  const { stage } = servers;
  const { barman_server } = row;
  const head = { barman_server, state: stateOf(row, stage) };
  const inspected = {
    ready: readyCell(barman_server, servers, now),
    archived: archivedCell(row, servers, now),
  };
  if (!isItem(row)) return { ...head, desired: '–', applied: '–', leader: '–', streaming: '–', ...inspected };
  const { desired, applied, leader, site, leader_since, streaming, streaming_since } = row;
  const since = (text: string | undefined, time: string | undefined) =>
    text === undefined ? '–' : `${text} ${age(now - Date.parse(time ?? ''))}`.trimEnd();
  const isKnown = leader === undefined || observationOf(row, stage, now).leader_known;
  // The cluster is clear where only one lists the server.
  const place = site && listingsOf(row, stage).length > 1 ? `${leader} in ${site}` : leader;
  const event = desired && new Date(eventTimeOf(desired.version)).toISOString();
  return {
    ...head,
    desired: since(shortTarget(desired), event),
    applied: since(shortTarget(applied), applied?.applied_at),
    leader: isKnown ? since(place, leader_since) : '?',
    streaming: isKnown
      ? since(streaming === undefined ? undefined : streaming ? 'yes' : 'no', streaming_since)
      : '?',
    ...inspected,
  };
}

/** Returns the state of a server. A pause of all servers in the stage is one of this server, too. */
export function stateOf(row: Row, stage: StageItem): State {
  if ('message' in row) return 'unreadable';
  if ('listed' in row) return 'new';
  if (isLeased(row)) return 'switching';
  if (isPaused(row) || isStagePaused(stage)) return 'paused';
  if (!isRecorded(row)) return 'observed';
  if (!isPending(row)) return 'in sync';
  return isExpired(row) ? 'expired' : 'pending';
}

/** Returns what the last inspection said of a server, and how long ago. */
function readyCell(barman_server: string, { inspections }: Servers, now: number): string {
  const inspection = inspections.get(barman_server);
  if (!inspection) return '?';
  const { at, findings, unseen } = inspection;
  const passed = now - Date.parse(at);
  const { length } = findings.filter((finding) => finding.class === 'ready');
  const isOld = passed > INSPECTION_AGE;
  if (length > 0 && !isOld) return countOf(length);
  const isUnknown = isOld || unseen.some(({ member }) => member !== undefined);
  return `${isUnknown ? '?' : 'yes'} ${age(passed)}`;
}

/**
 * Returns whether WAL arrives in the archive, by the last inspection, and how long ago that was. It is unknown as long
 * as none has seen the leader and the model that the server has now.
 */
function archivedCell(row: Row, { inspections, stage }: Servers, now: number): string {
  const inspection = inspections.get(row.barman_server);
  if (!inspection || !isItem(row)) return '?';
  const { at, findings, unseen, timeline, leader, applied_version } = inspection;
  const passed = now - Date.parse(at);
  const { leader_known } = observationOf(row, stage, now);
  const isNow = leader_known && leader === row.leader && applied_version === row.applied?.version;
  if (passed > INSPECTION_AGE || !isNow) return `? ${age(passed)}`;
  const found = findings.filter((finding) => finding.class === 'archived');
  const { length } = found.filter(({ counts }) => counts);
  if (length > 0) return countOf(length);
  const isUnknown =
    // One that was seen once may be over a moment later.
    found.length > 0 ||
    timeline === undefined ||
    unseen.some(({ member }) => member === undefined || member === true) ||
    !looksForWal(findings);
  return `${isUnknown ? '?' : 'yes'} ${age(passed)}`;
}

function countOf(findings: number): string {
  return `no: ${findings} ${findings === 1 ? 'finding' : 'findings'}`;
}

/** Returns whether so many heartbeats are missing that what the last one saw may be wrong by now. */
export function isLate({ at, interval }: HeartbeatReport, now: number): boolean {
  return now - Date.parse(at) > MISSING * interval;
}

/**
 * Returns the servers of the ledger, and those that only clusters list, sorted.
 *
 * @param only these; none: all
 */
export function rowsOf({ items, unreadable, stage }: Servers, only: readonly string[] = []): Row[] {
  const known = [...items, ...unreadable];
  const names = new Set(known.map(({ barman_server }) => barman_server));
  const listed = new Set(stage.heartbeat?.clusters.flatMap(({ servers }) => servers.map(({ name }) => name)));
  const others = [...listed]
    .filter((name) => !names.has(name))
    .map((barman_server): Listed => ({ barman_server, listed: true }));
  const rows = [...known, ...others].toSorted((a, b) => a.barman_server.localeCompare(b.barman_server));
  return only.length === 0 ? rows : rows.filter(({ barman_server }) => only.includes(barman_server));
}

function isItem(row: Row): row is Item {
  return !('message' in row || 'listed' in row);
}

/** When the leader of a server was last known, whether it still is, and why not. */
export interface ObservationOf {
  readonly observed_at?: string;
  readonly leader_known: boolean;
  readonly leader_unknown_because?: string;
}

/** Returns where clusters list a server. */
export function listingsOf({ barman_server }: Pick<Item, 'barman_server'>, { heartbeat }: StageItem) {
  return (heartbeat?.clusters ?? []).flatMap((cluster) =>
    cluster.servers.filter(({ name }) => name === barman_server).map((server) => ({ cluster, server })),
  );
}

/**
 * Returns what is known of a server's leader. An observation of two heartbeats ago may be wrong by now, and
 * one of a cluster says nothing of a server for which its leader has no model.
 */
export function observationOf(
  item: Pick<Item, 'barman_server'>,
  stage: StageItem,
  now: number,
): ObservationOf {
  const { heartbeat } = stage;
  const listings = listingsOf(item, stage);
  const seen = listings.find(({ server }) => server.observed && server.unknown === undefined);
  const observed_at = seen?.cluster.observed_at;
  const latest = Date.parse(observed_at ?? '');
  const leader_known = heartbeat !== undefined && now - latest <= MISSING * heartbeat.interval;
  const reasons = listings.flatMap(({ cluster, server }) => [
    ...(server.observed && cluster.unknown !== undefined ? [cluster.unknown] : []),
    ...(server.unknown === undefined ? [] : [server.unknown]),
  ]);
  return {
    ...(observed_at !== undefined && { observed_at }),
    leader_known,
    ...(reasons.length > 0 && { leader_unknown_because: reasons.join('; ') }),
  };
}

/** `pg:node2`, or `no model`. */
export function shortTarget(state: { readonly target: string } | undefined): string | undefined {
  return state && nameOf(parseTarget(state.target)).replace(/^model /, '');
}

/** @param ms NaN: unknown @returns such as `45s`, `3m`, `5h`, `12d`, rounded down; empty if it is unknown */
export function age(ms: number): string {
  if (Number.isNaN(ms)) return '';
  const seconds = Math.max(0, Math.floor(ms / 1_000));
  if (seconds < 120) return `${seconds}s`;
  if (seconds < 7_200) return `${Math.floor(seconds / 60)}m`;
  if (seconds < 172_800) return `${Math.floor(seconds / 3_600)}h`;
  return `${Math.floor(seconds / 86_400)}d`;
}
