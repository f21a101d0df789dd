/**
 * An inspection: a look at all that a switch needs, and at what it has led to. It asks `/diagnose` once and each
 * Patroni cluster twice, reads again what the heartbeats could not read of Barman, judges what it has seen, and
 * stores that. It changes no desired state, and sends nothing to Barman.
 */

import type { Diagnosis } from '../barman/diagnosis.ts';
import { answerOf } from '../barman/failures.ts';
import type { PgBackupApi } from '../barman/pg-backup-api.ts';
import { deadline } from '../deadline.ts';
import { Busy, HttpError, messageOf } from '../errors.ts';
import type { HeardNode } from '../ledger/heard.ts';
import type { Inspection } from '../ledger/inspection.ts';
import { type Item, isLeased, isPaused, isPending } from '../ledger/item.ts';
import type { Ledger, Servers } from '../ledger/ledger.ts';
import { type InspectionTimes, isStagePaused, REASON_LENGTH } from '../ledger/stage.ts';
import type { Cluster } from '../patroni/cluster.ts';
import { observe } from '../patroni/leader.ts';
import { type Clusters, whyNotAsked } from '../patroni/observe-clusters.ts';
import { PatroniClient } from '../patroni/rest-api.ts';
import { Sockets } from '../patroni/sockets.ts';
import { type Survey, survey } from '../patroni/survey.ts';
import { type Diagnose, whileDiagnosing } from './diagnose.ts';
import { judge } from './judge.ts';
import { clustersOf } from './subject.ts';

/** Time limit for all clusters (ms): most of an inspection's time is for `/diagnose`. */
const SURVEY_TIME = 15_000;
/** Time limit for the leaders afterwards (ms). */
const OBSERVE_TIME = 6_500;
/** How many servers are written at the same time. */
const AT_ONCE = 10;
/** What is left for writing what was found (ms). */
const WRITE_TIME = 2_000;

export interface InspectOptions {
  readonly api: Pick<PgBackupApi, 'diagnose' | 'readServer'>;
  readonly ledger: Ledger;
  readonly clusters: Clusters;
  readonly signal: AbortSignal;
  /** Returns the time left before the deadline (ms). */
  readonly remaining: () => number;
}

/** What an inspection has seen. */
export interface Inspected {
  /** When it began (ms since the epoch). */
  readonly at: number;
  readonly diagnosis: Diagnosis | { readonly unseen: string };
  readonly clusters: readonly InspectedCluster[];
  /** By Barman server, sorted. */
  readonly servers: ReadonlyMap<string, InspectedServer>;
}

/** A cluster, and what was seen of it; undefined: it names no URLs, or could not be asked. */
export interface InspectedCluster {
  readonly cluster: Cluster;
  readonly survey: Survey | undefined;
  /** Why it could not be asked. */
  readonly unseen: string | undefined;
}

export interface InspectedServer {
  /** Whether it is paused, by itself or with all servers: its findings are shown, and not counted. */
  readonly paused: boolean;
  readonly inspection: Inspection;
  /** The nodes whose callback has been heard; the one heard last is the first. */
  readonly heard: readonly HeardNode[];
}

/**
 * Inspects all servers that clusters list with members, or that the ledger has.
 *
 * @returns what it has seen. If another invocation asks for a diagnosis now, that is without Barman, and not stored
 * @throws LedgerError if the ledger is unavailable
 */
export async function inspect(options: InspectOptions): Promise<Inspected> {
  try {
    return await whileDiagnosing(options, (diagnose) => inspectAlone(options, diagnose));
  } catch (error) {
    if (!(error instanceof Busy)) throw error;
    const refuse = () => Promise.reject(error);
    return inspectAlone({ ...options, isStored: false }, refuse);
  }
}

/** Inspects, while no other invocation does. */
async function inspectAlone(
  options: InspectOptions & { readonly isStored?: boolean },
  diagnose: Diagnose,
): Promise<Inspected> {
  const { ledger, signal, isStored = true } = options;
  const at = Date.now();
  const before = await ledger.all(signal);
  const { inspection: times } = before.stage;
  const tried_at = new Date(at).toISOString();
  // First: an inspection that crashes is not due again at once.
  if (isStored) await ledger.inspectionTried({ first_at: tried_at, ...times, tried_at }, signal);
  const clusters = await surveyClusters(options.clusters, signal);
  const diagnosis = await askInTime(options, diagnose).catch((error) => ({
    unseen: messageOf(error).slice(0, REASON_LENGTH),
  }));
  const notReady = 'unseen' in diagnosis ? undefined : await readAgain(options, before);
  const [after, leaders] = await Promise.all([ledger.all(signal), leadersOf(options.clusters, signal)]);

  const judgeOne = (barman_server: string): Judged => {
    const isThisOne = (one: Item) => one.barman_server === barman_server;
    const item = before.items.find(isThisOne);
    const listing = clustersOf(clusters, barman_server);
    const last = before.inspections.get(barman_server);
    const heard = before.heard.get(barman_server) ?? [];
    const judged = judge({
      ...{ barman_server, clusters, diagnosis, item, heard, before: last, now: at },
      notReady: notReady?.get(barman_server),
      changed: changeOf(item, after.items.find(isThisOne), listing, leaders),
    });
    const paused = isStagePaused(before.stage) || (item !== undefined && isPaused(item));
    // When Barman was seen last; what was found then stays so.
    const inspection = 'unseen' in diagnosis && last ? { ...judged, at: last.at } : judged;
    return { barman_server, paused, inspection, heard, isNew: last === undefined };
  };
  const judged = serversOf(clusters, before).map(judgeOne);
  const isWorthStoring = ({ isNew }: Judged) => isStored && !(isNew && 'unseen' in diagnosis);
  const report = async (one: Judged): Promise<[string, InspectedServer]> => {
    const { barman_server, paused, inspection, heard } = one;
    const unstored = isWorthStoring(one) ? await store(one, options) : [];
    const unseen = [...inspection.unseen, ...unstored];
    return [barman_server, { paused, heard, inspection: { ...inspection, unseen } }];
  };
  const reported: [string, InspectedServer][] = [];
  for (let index = 0; index < judged.length; index += AT_ONCE) {
    reported.push(...(await Promise.all(judged.slice(index, index + AT_ONCE).map(report))));
  }
  if (isStored) await ledger.inspectionTried(timesOf(times, tried_at, diagnosis), signal);
  return { at, diagnosis, clusters, servers: new Map(reported) };
}

/** A server that was judged. */
interface Judged extends InspectedServer {
  readonly barman_server: string;
  /** Whether there was no inspection of it before. */
  readonly isNew: boolean;
}

/** Asks Barman, with all the time that is not needed afterwards. @throws what the request throws */
async function askInTime<T>(
  { remaining, signal }: InspectOptions,
  request: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const limit = deadline(remaining() - OBSERVE_TIME - WRITE_TIME);
  try {
    return await request(AbortSignal.any([signal, limit.signal]));
  } finally {
    limit.clear();
  }
}

/**
 * Reads again what the last heartbeats could not read: it may be repaired, and they may be busy with something else.
 *
 * @returns why the operations of servers cannot be read; what the heartbeats have found, where there is no answer
 */
async function readAgain(
  options: InspectOptions,
  { stage, unreadable }: Servers,
): Promise<ReadonlyMap<string, string>> {
  const notReady = new Map<string, string>();
  for (const { barman_server, message } of stage.heartbeat?.not_ready ?? []) {
    try {
      await askInTime(options, (signal) => options.api.readServer(barman_server, signal));
    } catch (error) {
      notReady.set(barman_server, answerOf(error) ? messageOf(error) : message);
    }
  }
  for (const { barman_server, message } of unreadable) notReady.set(barman_server, message);
  return notReady;
}

/** Stores an inspection. What is wrong with one is no reason to leave out the others. @returns why it failed */
async function store(
  { barman_server, inspection }: Judged,
  { ledger, signal }: InspectOptions,
): Promise<Inspection['unseen']> {
  const failure = await ledger.inspected(barman_server, inspection, signal).catch(messageOf);
  if (failure === undefined) return [];
  return [{ what: `this is not stored, so the next inspection does not know it: ${failure}` }];
}

function timesOf(
  before: InspectionTimes | undefined,
  tried_at: string,
  diagnosis: Inspected['diagnosis'],
): InspectionTimes {
  const first_at = before?.first_at ?? tried_at;
  if (!('unseen' in diagnosis)) return { first_at, tried_at, seen_at: tried_at };
  const { unseen } = diagnosis;
  return { first_at, tried_at, ...(before?.seen_at !== undefined && { seen_at: before.seen_at }), unseen };
}

/** Asks all clusters, over 64 sockets at most. */
async function surveyClusters({ clusters, tls }: Clusters, signal: AbortSignal): Promise<InspectedCluster[]> {
  const sockets = new Sockets();
  const limit = deadline(SURVEY_TIME);
  const inTime = AbortSignal.any([signal, limit.signal]);
  const one = async (cluster: Cluster): Promise<InspectedCluster> => {
    const unseen = cluster.malformed ?? (tls instanceof HttpError ? tls.message : undefined);
    if (tls instanceof HttpError || whyNotAsked(cluster)) return { cluster, survey: undefined, unseen };
    return sockets.use(cluster.patroni.length, async () => {
      await using client = new PatroniClient(tls);
      return { cluster, survey: await survey(cluster, client.ask, inTime), unseen };
    });
  };
  return Promise.all(clusters.map(one)).finally(limit.clear);
}

/** Returns the leaders by cluster, as far as they are known. */
async function leadersOf({ clusters, tls }: Clusters, signal: AbortSignal): Promise<Map<string, string>> {
  const leaders = new Map<string, string>();
  if (tls instanceof HttpError) return leaders;
  const sockets = new Sockets();
  const limit = deadline(OBSERVE_TIME);
  const inTime = AbortSignal.any([signal, limit.signal]);
  const asked = clusters.filter((cluster) => !whyNotAsked(cluster));
  const observed = asked.map((cluster) =>
    sockets.use(cluster.patroni.length, async () => {
      await using client = new PatroniClient(tls);
      const observation = await observe(cluster, client.ask, inTime);
      if ('leader' in observation) leaders.set(cluster.name, observation.leader);
    }),
  );
  await Promise.all(observed).finally(limit.clear);
  return leaders;
}

function serversOf(clusters: readonly InspectedCluster[], { items, unreadable }: Servers): string[] {
  const listed = clusters.flatMap(({ cluster }) =>
    [...cluster.servers].filter(([, { size }]) => size > 0).map(([name]) => name),
  );
  const recorded = [...items, ...unreadable].map(({ barman_server }) => barman_server);
  return [...new Set([...listed, ...recorded])].sort();
}

/** Returns why findings about the archive would be about something that has changed meanwhile. */
function changeOf(
  before: Item | undefined,
  after: Item | undefined,
  clusters: readonly InspectedCluster[],
  leaders: ReadonlyMap<string, string>,
): string | undefined {
  if (after && (isLeased(after) || isPending(after))) return 'a switch is pending';
  if (before?.applied?.version !== after?.applied?.version) return 'a switch was made meanwhile';
  const changed = clusters.find(
    ({ cluster, survey }) => survey?.leader !== undefined && leaders.get(cluster.name) !== survey.leader.name,
  );
  return changed && `the leader of cluster ${changed.cluster.name} was not the same, or unknown, afterwards`;
}
