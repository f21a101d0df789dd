/**
 * Compares what Patroni says with what is desired, so that Barman follows even if no event arrives: a
 * callback may be broken, or Patroni may fire none (a promotion while the cluster is paused, bootstrap). And
 * checks that Barman streams from the leader: someone may have applied another model by hand, or the slot may
 * be missing.
 *
 * An observation is weaker than an event: it may be some seconds old. So it becomes a desired state only if
 * two in a row, at least three quarters of a heartbeat's interval apart, find the same leader and the same
 * difference, and what is desired is more than a minute old; and its version is older than the second of
 * them, so that an event that arrives late still wins.
 */

import { deadline } from '../deadline.ts';
import { messageOf } from '../errors.ts';
import type { Change } from '../ledger/conditions.ts';
import { type Item, isPaused, isPending, isRecorded, timeOf } from '../ledger/item.ts';
import type { Ledger, ServerMessage, Servers } from '../ledger/ledger.ts';
import { isStagePaused } from '../ledger/stage.ts';
import { modelTarget } from '../patroni/cluster.ts';
import type { Leader } from '../patroni/leader.ts';
import type { Observed } from '../patroni/observe-clusters.ts';
import { changesSite, type Listing, malformedAmong } from '../patroni/sites.ts';
import { type ConfigTarget, nameOf, parseTarget, targetText } from '../target.ts';
import { eventTimeOf, observedVersionOf } from '../version.ts';
import { TOLERANCE } from './lasting.ts';

/** How old a desired state must be before an observation replaces it (ms). */
const GRACE = 60_000;
/**
 * How long Barman does not stream until the desired state is applied again, and how long until the next time
 * (intervals).
 */
const REAPPLY = { after: 2 - TOLERANCE, every: 10 };
/** How long another site has the only primary until its leader is followed (intervals). */
const OTHER_SITE = 5;
/** Two sightings of it are in a row unless a heartbeat in between was lost (intervals). */
const IN_A_ROW = 2 - TOLERANCE;
/** Time limit for all writes (ms): the heartbeat needs the rest of its time. */
const TIMEOUT = 10_000;

/** What follows from some observations. */
export interface ObservationResult {
  /** Servers whose desired state an observation has replaced, and why. */
  readonly reconciled: readonly ServerMessage[];
  /** Servers whose first desired state is from an observation: no event was missed. */
  readonly first: readonly ServerMessage[];
  /**
   * Servers for which Barman does not stream from the leader, or did not when that was last known; without
   * those that are paused.
   */
  readonly notStreaming: readonly (ServerMessage & NotStreaming)[];
  /** Clusters whose leader is unknown, and servers whose leader has no model or could not be recorded. */
  readonly unknown: readonly UnknownOf[];
}

/** Why the leader of a cluster, or its model for one server, is unknown. */
export interface UnknownOf {
  readonly cluster: string;
  readonly barman_server?: string;
  readonly reason: string;
  readonly cannotWrite?: boolean | undefined;
}

interface NotStreaming {
  readonly message: string;
  /** Since when (ms since the epoch); undefined if the ledger does not have that. */
  readonly since: number | undefined;
}

/**
 * Records the leaders of some clusters, and what is desired where that differs from its leader's model. An
 * error of one server is that server's: its leader is unknown.
 *
 * @param known all servers of the ledger, and when each leader was last known; those that cannot be read are
 *   left alone
 * @param interval between two heartbeats (ms)
 */
export async function recordObservations(
  ledger: Ledger,
  known: Omit<Servers, 'inspections' | 'heard'>,
  observed: readonly Observed[],
  interval: number,
  signal: AbortSignal,
): Promise<ObservationResult> {
  const outcomes: (Outcome & { readonly barman_server: string; readonly cluster: string })[] = [];
  const unknown: UnknownOf[] = [];
  const limit = deadline(TIMEOUT);
  const allPaused = isStagePaused(known.stage);
  const options = { ledger, interval, signal: AbortSignal.any([signal, limit.signal]) };
  const malformed = malformedAmong(observed.map(({ cluster }) => cluster));
  for (const { cluster, barman_server: only, at, observation, sites = [cluster.name] } of observed) {
    const { name } = cluster;
    if ('unknown' in observation) {
      const { unknown: reason, cannotWrite } = observation;
      unknown.push({
        cluster: name,
        ...(only !== undefined && { barman_server: only }),
        reason,
        cannotWrite,
      });
    }
    const knownAt = known.stage.heartbeat?.clusters.find((one) => one.name === name)?.observed_at;
    const listing = { sites, ...malformed };
    for (const [barman_server, members] of cluster.servers) {
      const isThisOne = (one: Pick<Item, 'barman_server'>) => one.barman_server === barman_server;
      if (members.size === 0 || known.unreadable.some(isThisOne)) continue;
      const before = known.items.find(isThisOne) ?? { barman_server };
      const isChecked = cluster.streaming_archiver_name !== null;
      const isCounted = isChecked && !allPaused && !isPaused(before);
      // What is known of another site says nothing of the last one.
      const lastKnown = before.site === undefined || before.site === name ? knownAt : undefined;
      const shown = { members, cluster, lastKnown, at, isChecked, isCounted };
      const seen = { ...shown, barman_server, site: name, listing, observation };
      outcomes.push({ ...(await recordServer(options, seen, before)), barman_server, cluster: name });
    }
  }
  limit.clear();
  const findings = (kind: 'reconciled' | 'first') =>
    outcomes.flatMap(({ barman_server, [kind]: message }) =>
      message === undefined ? [] : [{ barman_server, message }],
    );
  return {
    reconciled: findings('reconciled'),
    first: findings('first'),
    notStreaming: outcomes.flatMap(({ barman_server, notStreaming }) =>
      notStreaming === undefined ? [] : [{ barman_server, ...notStreaming }],
    ),
    unknown: [
      ...unknown,
      ...outcomes.flatMap(({ cluster, barman_server, unknown: reason }) =>
        reason === undefined ? [] : [{ cluster, barman_server, reason }],
      ),
    ],
  };
}

interface RecordOptions {
  readonly ledger: Ledger;
  readonly interval: number;
  readonly signal: AbortSignal;
}

/** What follows for one server; see `ObservationResult`. */
interface Outcome {
  readonly reconciled?: string | undefined;
  readonly first?: string | undefined;
  readonly notStreaming?: NotStreaming | undefined;
  readonly unknown?: string | undefined;
}

/** What was observed of a server's cluster. */
interface ObservedServer extends Observed {
  readonly barman_server: string;
  /** The cluster of the leader, by the name of its parameter. */
  readonly site: string;
  /** The clusters that may list the server. */
  readonly listing: Listing;
  /** Patroni member → model. */
  readonly members: ReadonlyMap<string, string | null>;
  /** When its leader was last known, if that is known (ISO 8601). */
  readonly lastKnown: string | undefined;
  /** Whether WAL arrives by streaming. */
  readonly isChecked: boolean;
  /** Whether it is reported if it does not, because the server is not paused either. */
  readonly isCounted: boolean;
}

/** A leader whose target is known. */
interface Seen
  extends Leader,
    Pick<ObservedServer, 'barman_server' | 'site' | 'at' | 'isChecked' | 'isCounted'> {
  /** Patroni scope. */
  readonly cluster: string;
  readonly target: ConfigTarget;
}

/** Records what was observed for one server, and what follows from that. @param read its item */
async function recordServer(
  options: RecordOptions,
  { members, cluster, lastKnown, ...server }: ObservedServer,
  read: Item,
): Promise<Outcome> {
  const { barman_server, observation, isCounted } = server;
  const notStreaming = isCounted ? didNotStream(read, lastKnown) : undefined;
  try {
    const { before, waiting } = await waitForSite(options, server, read);
    if (waiting !== undefined) return { notStreaming, unknown: waiting };
    if ('unknown' in observation) return { notStreaming };
    const target = modelTarget(members, observation.leader);
    if (target) {
      return await recordLeader(
        options,
        { ...observation, ...server, cluster: cluster.scope, target },
        before,
      );
    }
    const unknown = `its leader ${observation.leader} has no model for Barman server ${barman_server}; add it to clusters/${cluster.name}`;
    return { notStreaming, unknown };
  } catch (error) {
    const failed = `could not be recorded for Barman server ${barman_server}: ${messageOf(error)}`;
    if ('unknown' in observation) return { notStreaming, unknown: `that its leader is unknown ${failed}` };
    const { leader, streaming } = observation;
    const unknown = `its leader ${leader} ${failed}`;
    if (!isCounted || streaming !== false) return { unknown };
    const since = read.streaming === false && read.leader === leader ? read.streaming_since : undefined;
    return {
      notStreaming: doesNotStream(
        { ...observation, ...server },
        since === undefined ? undefined : Date.parse(since),
      ),
      unknown,
    };
  }
}

/**
 * Keeps a server from another site than its last one, until that has had the only primary for some time: a
 * drill, or a minute in which the last site does not answer, must not set Barman back and forth.
 *
 * @param read the item
 * @returns the item after that, and why the leader is not followed yet, if it is not
 * @throws LedgerError
 */
async function waitForSite(
  { ledger, interval, signal }: RecordOptions,
  {
    barman_server,
    site,
    listing,
    observation,
    at,
  }: Omit<ObservedServer, 'members' | 'cluster' | 'lastKnown'>,
  read: Item,
): Promise<{ readonly before: Item; readonly waiting?: string }> {
  const { site: last, other_site: other } = read;
  const changes = 'leader' in observation && changesSite(last, { site, leader: observation }, listing);
  if (changes !== true) {
    const before = other ? ((await ledger.observed(read, { other_site: null }, signal)) ?? read) : read;
    return { before, ...(changes && { waiting: changes.unknown }) };
  }
  const now = new Date(at).toISOString();
  const isInARow = other?.name === site && at - Date.parse(other.seen) <= IN_A_ROW * interval;
  const since = isInARow ? other.since : now;
  const other_site = { name: site, since, seen: now };
  const before = (await ledger.observed(read, { other_site }, signal)) ?? read;
  if (at - Date.parse(since) >= (OTHER_SITE - TOLERANCE) * interval) return { before };
  const minutes = (OTHER_SITE * interval) / 60_000;
  return {
    before,
    waiting: `Barman server ${barman_server} follows ${last}, and the only primary is in ${site} since ${since}: it is followed after ${minutes} minutes`,
  };
}

/** Records a leader, and what follows from it. @throws LedgerError */
async function recordLeader(options: RecordOptions, seen: Seen, before: Item): Promise<Outcome> {
  const item = await recordSeen(options, seen, before);
  if (!item) return {};
  const outcome = { [item.desired ? 'reconciled' : 'first']: await recordDesired(options, seen, item) };
  if (!seen.isCounted) return outcome;
  const notStreaming = seen.streaming === false ? await reapply(options, seen, item) : didNotStream(item);
  return { ...outcome, notStreaming };
}

/**
 * Records what was seen, if it is new.
 *
 * @returns the item with it; undefined if another heartbeat has seen another leader meanwhile
 */
async function recordSeen(
  { ledger, signal }: RecordOptions,
  { leader, site, target, streaming, isChecked, at }: Seen,
  item: Item,
): Promise<Item | undefined> {
  const now = new Date(at).toISOString();
  const differs = item.desired?.target !== targetText(target);
  const isNew = item.leader !== leader || (item.site !== undefined && item.site !== site);
  const change: Change = {
    ...(item.site !== site && { site }),
    ...(item.other_site && { other_site: null }),
    ...(isNew && { leader, leader_since: now }),
    // Another leader starts over.
    ...((isNew || differs !== (item.differs_since !== undefined)) && {
      differs_since: differs ? now : null,
    }),
    ...(streaming !== undefined &&
      (isNew || item.streaming !== streaming) && { streaming, streaming_since: now }),
    // What was seen of another leader, or earlier, or is not checked any more, is not known now; but that
    // Barman did not stream goes on being counted.
    ...(streaming === undefined &&
      (isNew || !isChecked || item.streaming) &&
      item.streaming !== undefined && { streaming: null, streaming_since: null }),
  };
  if (Object.keys(change).length === 0) return item;
  return ledger.observed(item, change, signal);
}

/** Returns why the leader's target was recorded as desired, if it was */
async function recordDesired(
  { ledger, interval, signal }: RecordOptions,
  { barman_server, cluster, leader, target, at }: Seen,
  item: Item,
): Promise<string | undefined> {
  const { desired, differs_since } = item;
  if (at - timeOf(differs_since, Number.POSITIVE_INFINITY) < (1 - TOLERANCE) * interval) return undefined;
  if (eventTimeOf(desired?.version ?? '') >= at - GRACE) return undefined;
  const version = observedVersionOf(at, `leader:${encodeURIComponent(leader)}`);
  if (!(await ledger.recordObserved(item, { barman_server, cluster, target, version }, signal)))
    return undefined;
  const now = `Patroni's leader is ${leader}: ${nameOf(target)} is desired for Barman server ${barman_server} now`;
  if (desired === undefined) return `${now}; nothing was before`;
  const before = nameOf(parseTarget(desired.target));
  return `${now} (before: ${before}); no event reported it, so a callback may be broken`;
}

/** Has the desired state applied again at times while Barman does not stream. */
async function reapply(
  { ledger, interval, signal }: RecordOptions,
  seen: Seen,
  item: Item,
): Promise<NotStreaming> {
  const { at } = seen;
  const since = timeOf(item.streaming_since, at);
  const report = doesNotStream(seen, since);
  const overdue = at - since - REAPPLY.after * interval;
  const due = at - (overdue % (REAPPLY.every * interval));
  if (overdue < 0 || timeOf(item.applied?.applied_at, 0) >= due) return report;
  // Only what should lead to streaming: it is the leader's model, and applied.
  if (item.differs_since !== undefined || isPending(item) || !isRecorded(item)) return report;
  if (!(await ledger.applyAgain(item, signal))) return report;
  return { ...report, message: `${report.message}; its model is applied again` };
}

/** Returns the report of a server for which Barman does not stream. */
function doesNotStream(
  {
    barman_server,
    leader,
    otherReceiver,
    at,
  }: Pick<Seen, 'barman_server' | 'leader' | 'otherReceiver' | 'at'>,
  since: number | undefined,
): NotStreaming {
  const from = new Date(since ?? at).toISOString();
  const message = `Barman does not stream from ${leader} for server ${barman_server}, at least since ${from}`;
  if (otherReceiver === undefined) return { message, since };
  const other = `another receiver with Barman's name streams from ${otherReceiver}, which is not in barman_addresses`;
  return { message: `${message}; ${other}`, since };
}

/**
 * Returns the report of a server while it is not known whether Barman streams: if it did not when that was
 * last known, that goes on being counted.
 *
 * @param lastKnown when the leader was last known, if it is unknown now and that is known
 */
function didNotStream(item: Item, lastKnown?: string): NotStreaming | undefined {
  const { barman_server, leader, streaming, streaming_since } = item;
  if (streaming !== false) return undefined;
  const when = lastKnown === undefined ? 'when that was last known' : `when last seen at ${lastKnown}`;
  const message = `Barman did not stream from ${leader} for server ${barman_server} ${when}, at least since ${streaming_since ?? 'an unknown time'}; it is not known whether it does now`;
  return { message, since: streaming_since === undefined ? undefined : Date.parse(streaming_since) };
}
