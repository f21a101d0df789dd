/**
 * What Patroni's REST API says of a cluster for the inspection: its members, who leads, the permanent slots, and
 * when the timeline began. As in `/diagnose`, each fact is read by itself.
 */

import * as v from 'valibot';
import { fact, isObject } from '../schema.ts';
import type { Cluster } from './cluster.ts';
import { type Answers, askAll, leaderOf, type Observation, Text } from './leader.ts';
import type { Answer, Ask } from './rest-api.ts';

/** A member, as `/cluster` has it. One that was killed is there for up to half a minute. */
export interface Member {
  readonly name: string;
  /** Where PostgreSQL listens. Undefined: not seen. */
  readonly host: string | undefined;
  readonly port: number | undefined;
  /** Whether its PostgreSQL runs, as far as the other members know. */
  readonly isRunning: boolean;
  /** Whether it may become the leader. */
  readonly canLead: boolean;
}

/** What one URL of the parameter is. */
export interface Node {
  readonly url: URL;
  /** The member that answered; undefined: none, or a Patroni before 3.2, which has no name there. */
  readonly member: string | undefined;
  /** Whether its PostgreSQL runs. */
  readonly isRunning: boolean;
  /** Patroni's version. */
  readonly version: string | undefined;
  /** Why there was no answer. */
  readonly error: string | undefined;
}

/** The leader's own state. */
export interface LeaderState {
  readonly name: string;
  /** A primary; otherwise a standby leader. */
  readonly isPrimary: boolean;
  readonly timeline: number | undefined;
  readonly systemId: string | undefined;
  /** How far its WAL has got (bytes). */
  readonly location: number | undefined;
}

/** What was seen of a cluster. Undefined: not seen. */
export interface Survey {
  readonly observation: Observation;
  readonly members: readonly Member[] | undefined;
  readonly nodes: readonly Node[];
  readonly leader: LeaderState | undefined;
  /** Names of permanent physical slots that all members keep. */
  readonly slots: readonly string[] | undefined;
  /** When the leader's timeline began (ms since the epoch), and where (bytes). */
  readonly timelineBegan: { readonly at: number; readonly location: number } | undefined;
}

/** Asks all nodes of a cluster. @param signal aborts earlier */
export async function survey(cluster: Cluster, ask: Ask, signal: AbortSignal): Promise<Survey> {
  const named = await askAll(cluster.patroni, 'cluster', ask, signal);
  const states = await askAll(cluster.patroni, 'leader', ask, signal);
  const observation = await leaderOf(cluster, named, states);
  const nodes = states.map(([url, answer]) => nodeOf(cluster, url, answer));
  const leadingNode =
    'leader' in observation ? nodes.find(({ member }) => member === observation.leader) : undefined;
  // Any member has the same configuration; the leader is asked first, since what it says counts.
  const first = leadingNode ?? nodes.find(({ error }) => error === undefined);
  const [config, history] = first
    ? await Promise.all(
        (['config', 'history'] as const).map(async (path) => {
          const [answer] = await askAll([first.url], path, ask, signal);
          return bodyOf(answer?.[1]);
        }),
      )
    : [];
  const leader = leadingNode && leaderState(leadingNode, states);
  return {
    observation,
    members: membersOf(cluster, named, leadingNode?.url),
    nodes,
    leader,
    slots: permanentSlots(config),
    timelineBegan: beginOf(leader?.timeline, history),
  };
}

/** Returns the body of an answer that has one. */
function bodyOf(answer: Answer | undefined): unknown {
  return answer && 'body' in answer && answer.status === 200 ? answer.body : undefined;
}

const Members = v.object({
  scope: fact(Text),
  members: v.array(
    v.object({
      name: Text,
      state: Text,
      host: fact(Text),
      port: fact(v.number()),
      tags: fact(v.record(v.string(), v.unknown())),
    }),
  ),
});

/** Returns the members by the leader's answer, or by the first node's that has one. */
function membersOf(
  { scope }: Cluster,
  answers: Answers,
  leader: URL | undefined,
): readonly Member[] | undefined {
  const sorted = [...answers].sort(([a], [b]) => Number(b === leader) - Number(a === leader));
  const found = sorted
    .map(([, answer]) => v.safeParse(Members, bodyOf(answer)))
    .find(({ success, output }) => success && (output.scope ?? scope) === scope);
  if (!found?.success) return undefined;
  return found.output.members.map(({ name, state, host, port, tags = {} }) => ({
    name,
    host,
    port,
    isRunning: state === 'running' || state === 'streaming' || state === 'in archive recovery',
    canLead: canLead(tags),
  }));
}

/**
 * Returns whether a member with these tags may become the leader: `nofailover` decides if it is there, whatever
 * else it is than false; otherwise a `failover_priority` of 0 or less (patroni.tags, `_bool_tag`).
 */
function canLead({ nofailover, failover_priority }: Readonly<Record<string, unknown>>): boolean {
  if (nofailover != null) return !nofailover;
  // An object may have no text: `{"toString": 0}`.
  const priority = typeof failover_priority === 'object' ? Number.NaN : failover_priority;
  return !(Number.parseInt(String(priority), 10) <= 0);
}

/** A timeline, or a position in WAL (bytes). The ledger has it: DynamoDB stores no number such as 1e-200. */
const Count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));

const State = v.object({
  state: fact(Text),
  role: fact(Text),
  timeline: fact(Count),
  database_system_identifier: fact(Text),
  xlog: fact(
    v.object({
      location: fact(Count),
      received_location: fact(Count),
      replayed_location: fact(Count),
    }),
  ),
  patroni: v.object({ version: fact(Text), scope: fact(Text), name: fact(Text) }),
});

function nodeOf({ scope }: Cluster, url: URL, answer: Answer): Node {
  const notSeen = { url, member: undefined, isRunning: false, version: undefined };
  if ('error' in answer) return { ...notSeen, error: answer.error };
  const read = v.safeParse(State, answer.body);
  if (!read.success) return { ...notSeen, error: `${answer.status}, not a state of Patroni` };
  const { state, patroni } = read.output;
  // Members of other clusters often have the same names.
  if (patroni.scope !== undefined && patroni.scope !== scope) {
    return { ...notSeen, error: `belongs to scope ${patroni.scope}, not ${scope}` };
  }
  return {
    url,
    member: patroni.name,
    isRunning: state === 'running',
    version: patroni.version,
    error: undefined,
  };
}

function leaderState({ url, member = '' }: Node, states: Answers): LeaderState | undefined {
  const answer = states.find(([node]) => node === url)?.[1];
  const read = v.safeParse(State, bodyOf(answer));
  if (!read.success) return undefined;
  const { role, timeline, database_system_identifier, xlog } = read.output;
  // A standby leader has the last two; it has received nothing if it replays from an archive.
  const { location, received_location, replayed_location } = xlog ?? {};
  const locations = [location, received_location, replayed_location].filter((one) => one !== undefined);
  return {
    name: member,
    isPrimary: role === 'primary' || role === 'master',
    timeline,
    systemId: database_system_identifier,
    location: locations.length > 0 ? Math.max(...locations) : undefined,
  };
}

/**
 * Returns the permanent physical slots in the dynamic configuration (patroni.dcs, `is_physical_slot` and
 * `_merge_permanent_slots`; patroni.global_config, `permanent_slots`, `use_slots` and `is_standby_cluster`).
 */
function permanentSlots(config: unknown): readonly string[] | undefined {
  if (!isObject(config)) return undefined;
  const { postgresql, standby_cluster: standby } = config;
  const usesSlots = isObject(postgresql) ? (postgresql.use_slots ?? true) : true;
  if (!/^"?(on|true|yes|1)"?$/i.test(JSON.stringify(usesSlots))) return [];
  const isStandby = isObject(standby) && [standby.host, standby.port, standby.restore_command].some(isTrue);
  const slots = [config.permanent_replication_slots, config.permanent_slots, config.slots].find(isTrue);
  if (!isObject(slots)) return [];
  return Object.entries(slots)
    .filter(([name, slot]) => {
      if (!/^[a-z0-9_]{1,63}$/.test(name)) return false;
      if (!isTrue(slot)) return true;
      if (!isObject(slot)) return false;
      const { type = slot.database && slot.plugin ? 'logical' : 'physical', cluster_type } = slot;
      // Measured with 4.1.5: in a primary cluster, `cluster_type: standby` does not keep a slot away.
      return type === 'physical' && !(isStandby && cluster_type === 'primary');
    })
    .map(([name]) => name);
}

/** Returns what Python takes for true: an empty object or array is false. */
function isTrue(value: unknown): boolean {
  return typeof value === 'object' && value !== null ? Object.keys(value).length > 0 : Boolean(value);
}

/** A row of a timeline that ended before Patroni had the cluster has no time. */
const Ended = v.looseTuple([Count, Count, v.unknown(), v.string()]);

/** Returns when a timeline began: when the one before ended. Just after a promotion, Patroni does not know it yet. */
function beginOf(timeline: number | undefined, history: unknown): Survey['timelineBegan'] {
  if (!Array.isArray(history)) return undefined;
  const isBegin = (row: unknown): row is v.InferOutput<typeof Ended> =>
    v.is(Ended, row) && row[0] + 1 === timeline;
  const row = history.find(isBegin);
  const at = Date.parse(row?.[3] ?? '');
  return row === undefined || Number.isNaN(at) ? undefined : { at, location: row[1] };
}
