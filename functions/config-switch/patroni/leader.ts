/**
 * Who is the leader of a Patroni cluster, and whether Barman streams from it. The REST API is sometimes
 * wrong: nodes name a dead leader for the whole `ttl`, an old leader that was cut off claims its role for
 * seconds, and without the DCS two can claim it. So the leader is known only if all nodes that answer name
 * the same one, and that one confirms it itself; otherwise it is unknown, and nothing follows from that.
 */

import { isIP } from 'node:net';
import * as v from 'valibot';
import { deadline, within } from '../deadline.ts';
import type { Cluster } from './cluster.ts';
import type { Answer, Ask, Path } from './rest-api.ts';

/** How a round of requests ends. */
export interface Round {
  /** Its time limit (ms). */
  readonly limit: number;
  /**
   * Set if a request may outlast its round: the nodes whose request has not ended yet. They are not asked again,
   * and no round waits for them. Updated in place.
   */
  readonly pending?: Set<URL>;
}

/** A heartbeat's: it has the time to wait for a slow node. */
const ROUND: Round = { limit: 3_000 };
/** How long ago the leader must have seen the DCS at most, by its own clock (ms). */
const DCS_SEEN_WITHIN = 30_000;

/** The ledger and the log have it: not more of it than a name needs, and UTF-8. */
export const Text = v.pipe(
  v.string(),
  v.maxLength(255),
  v.check((text) => text.isWellFormed()),
);
/** NaN, which is neither higher nor lower, for anything but a number. */
const Timeline = v.pipe(
  v.unknown(),
  v.transform((timeline) => Number(typeof timeline === 'object' ? Number.NaN : timeline)),
);
const ClusterBody = v.object({
  scope: v.optional(Text),
  members: v.array(v.object({ name: Text, role: Text, state: Text, timeline: v.optional(Timeline) })),
});
const LeaderBody = v.object({
  state: Text,
  role: Text,
  // Absent if nothing streams from this node, and also if PostgreSQL did not answer; then the state is not
  // `running`.
  replication: v.optional(
    v.array(
      v.object({
        application_name: v.nullish(v.string()),
        state: v.nullish(v.string()),
        client_addr: v.nullish(v.string()),
      }),
    ),
  ),
  dcs_last_seen: v.optional(v.number()),
  cluster_unlocked: v.optional(v.boolean()),
  failsafe_mode_is_active: v.optional(v.boolean()),
  database_system_identifier: v.fallback(v.optional(Text), undefined),
  patroni: v.object({ scope: Text, name: Text }),
});
/** What a node that is not the leader says of itself. */
const OtherBody = v.object({ patroni: v.object({ name: Text }) });

/**
 * The states of a leader that is up. A standby leader replays WAL from its primary cluster, or from an archive
 * (`restore_command`).
 */
const LEADING = { leader: ['running'], standby_leader: ['streaming', 'in archive recovery'] };

/** What is known of the leader. */
export interface Leader {
  readonly leader: string;
  /** A standby leader: it replays WAL from a primary at another site. */
  readonly isStandby?: true;
  /** PostgreSQL's system identifier: the same at all sites of a cluster. Undefined: not seen. */
  readonly system_id?: string | undefined;
  /** Whether Barman streams WAL from it; undefined if that is unknown, or if WAL arrives in another way. */
  readonly streaming?: boolean | undefined;
  /** If it does not: the address that another receiver with Barman's name streams from. */
  readonly otherReceiver?: string | undefined;
}

/** Why the leader is unknown. */
export interface UnknownLeader {
  readonly unknown: string;
  /** Whether a node holds the leader lock, but its PostgreSQL is in recovery. */
  readonly cannotWrite?: boolean;
}

export type Observation = Leader | UnknownLeader;

/** Thrown inside this module: the leader is unknown. */
class Unknown extends Error {}
/** PostgreSQL of the node that holds the leader lock is in recovery. */
class CannotWrite extends Unknown {
  constructor(leader: string, role: string) {
    super(
      `${leader} holds the leader lock, but its role is ${role}, which cannot write. In a switchover that lasts ` +
        `less than a second; if it lasts longer, act now: read the logs of Patroni and PostgreSQL on ${leader}`,
    );
  }
}

/**
 * Asks all nodes of a cluster, in two rounds: who is the leader, and then the leader itself.
 *
 * @param cluster with the URLs of its nodes; those that nodes report are never used
 * @param signal aborts earlier
 */
export async function observe(
  cluster: Cluster,
  ask: Ask,
  signal: AbortSignal,
  round = ROUND,
): Promise<Observation> {
  return known(async () => {
    const leader = leaderNamed(cluster, await askAll(cluster.patroni, 'cluster', ask, signal, round));
    return leaderConfirmed(cluster, leader, await askAll(cluster.patroni, 'leader', ask, signal, round));
  });
}

/**
 * Returns who is the leader, by answers of both rounds.
 *
 * @param named what each node answered to `/cluster`
 * @param confirmed what it answered to `/leader`
 */
export function leaderOf(cluster: Cluster, named: Answers, confirmed: Answers): Promise<Observation> {
  return known(async () => leaderConfirmed(cluster, leaderNamed(cluster, named), confirmed));
}

async function known(leader: () => Promise<Leader>): Promise<Observation> {
  try {
    return await leader();
  } catch (error) {
    if (!(error instanceof Unknown)) throw error;
    return { unknown: error.message, ...(error instanceof CannotWrite && { cannotWrite: true }) };
  }
}

/** Time limit of a request that outlasts its round (ms). */
const PENDING = 3_000;
const NO_ANSWER: Answer = { error: 'no answer in time' };

/** What each node answered. */
export type Answers = readonly (readonly [URL, Answer])[];

/** Asks some nodes at the same time, in one round. */
export async function askAll(
  nodes: readonly URL[],
  path: Path,
  ask: Ask,
  signal: AbortSignal,
  { limit: time, pending } = ROUND,
): Promise<Answers> {
  const limit = deadline(time);
  const inTime = AbortSignal.any([signal, limit.signal]);
  const answerOf = async (node: URL): Promise<Answer> => {
    if (!pending) return ask(node, path, inTime);
    if (pending.has(node)) return NO_ANSWER;
    pending.add(node);
    // A new connection may be answered, so a request does not last for ever.
    const last = deadline(PENDING);
    const answer = ask(node, path, AbortSignal.any([signal, last.signal])).finally(() => {
      last.clear();
      pending.delete(node);
    });
    return within(inTime, answer).catch((error: unknown) => {
      if (inTime.aborted) return NO_ANSWER;
      throw error;
    });
  };
  try {
    return await Promise.all(nodes.map(async (node) => [node, await answerOf(node)] as const));
  } finally {
    limit.clear();
  }
}

/** Returns the leader that all nodes name @throws Unknown */
function leaderNamed(cluster: Cluster, answers: Answers): string {
  let leader: string | undefined;
  for (const [node, answer] of answers) {
    if ('error' in answer || answer.status !== 200) continue;
    const { host } = node;
    const { success, output } = v.safeParse(ClusterBody, answer.body, { abortEarly: true });
    if (!success) throw new Unknown(`${host} answered something else than a cluster`);
    if (output.scope !== undefined && output.scope !== cluster.scope) {
      throw new Unknown(`${host} belongs to scope ${output.scope}, not ${cluster.scope}`);
    }
    const leaders = output.members.filter(({ role }) => role === 'leader' || role === 'standby_leader');
    const [one, ...more] = leaders;
    if (one === undefined) throw new Unknown(`${host} knows no leader`);
    if (more.length > 0) throw new Unknown(`${host} knows ${leaders.length} leaders`);
    if (!LEADING[one.role === 'leader' ? 'leader' : 'standby_leader'].includes(one.state))
      throw new Unknown(`${one.name} is ${one.state}, by ${host}`);
    if (leader !== undefined && leader !== one.name)
      throw new Unknown(`one node names ${leader}, and ${host} ${one.name}`);
    const timeline = one.timeline ?? Number.NaN;
    const ahead = output.members.find((member) => (member.timeline ?? Number.NaN) > timeline);
    if (ahead)
      throw new Unknown(`${ahead.name} has a higher timeline than the leader ${one.name}, by ${host}`);
    leader = one.name;
  }
  if (leader === undefined) throw new Unknown(`no node answered: ${describe(answers)}`);
  return leader;
}

/** Returns the leader, if it and no other node claims to be it @throws Unknown */
function leaderConfirmed(cluster: Cluster, leader: string, answers: Answers): Leader {
  let confirmed: Leader | undefined;
  for (const [{ host }, answer] of answers) {
    if ('error' in answer || answer.status !== 200) continue;
    const { success, output } = v.safeParse(LeaderBody, answer.body, { abortEarly: true });
    if (!success) throw new Unknown(`${host} answered something else than its state`);
    const { role, patroni, dcs_last_seen, cluster_unlocked, failsafe_mode_is_active } = output;
    const { name, scope } = patroni;
    if (scope !== cluster.scope) throw new Unknown(`${host} belongs to scope ${scope}, not ${cluster.scope}`);
    if (name !== leader) throw new Unknown(`${name} claims to be the leader as well as ${leader}`);
    if (!['primary', 'master', 'standby_leader'].includes(role)) throw new CannotWrite(leader, role);
    if (cluster_unlocked) throw new Unknown(`${leader} does not hold the lock`);
    if (failsafe_mode_is_active) throw new Unknown(`${leader} is in failsafe mode`);
    // By one clock, the node's. Without one of both the comparison is false.
    if (!(answer.date - (dcs_last_seen ?? Number.NaN) * 1_000 <= DCS_SEEN_WITHIN)) {
      throw new Unknown(`${leader} has not seen the DCS for more than ${DCS_SEEN_WITHIN / 1_000} s`);
    }
    confirmed = {
      leader,
      ...(role === 'standby_leader' && { isStandby: true }),
      ...(output.database_system_identifier !== undefined && {
        system_id: output.database_system_identifier,
      }),
      ...streams(cluster, output),
    };
  }
  if (!confirmed) throw new Unknown(unconfirmed(cluster, leader, answers));
  return confirmed;
}

/** Returns why a leader is unknown that no answer confirms. @param leader that all nodes name */
function unconfirmed({ name }: Cluster, leader: string, answers: Answers): string {
  const names = answers.map(([, answer]) =>
    'body' in answer && v.is(OtherBody, answer.body) ? answer.body.patroni.name : undefined,
  );
  const parameter = `the key "patroni" of the parameter clusters/${name}`;
  if (!names.includes(leader) && !names.includes(undefined)) {
    return `the leader is ${leader}, and ${parameter} has no URL of it: add it there`;
  }
  const unlisted = names.includes(leader)
    ? ''
    : `; if none of these is ${leader}, add its URL to ${parameter}`;
  return `${leader} does not confirm that it is the leader: ${describe(answers)}${unlisted}`;
}

/** Returns whether Barman is among those that stream from a node. One that catches up streams as well. */
function streams(
  { streaming_archiver_name, barman_addresses }: Cluster,
  { state, replication = [] }: v.InferOutput<typeof LeaderBody>,
): Pick<Leader, 'streaming' | 'otherReceiver'> {
  if (streaming_archiver_name === null || state !== 'running') return {};
  const receivers = replication
    .filter(
      (sender) =>
        sender.application_name === streaming_archiver_name &&
        (sender.state === 'streaming' || sender.state === 'catchup'),
    )
    .map(({ client_addr }) => addressOf(client_addr));
  const isBarman = ({ address, family }: Address) =>
    !barman_addresses || (family !== undefined && barman_addresses.check(address, family));
  if (receivers.some(isBarman)) return { streaming: true };
  const [other] = receivers;
  return { streaming: false, ...(other && { otherReceiver: other.address }) };
}

/** Where a walsender sends to; without a family unless that is an IP address. */
interface Address {
  readonly address: string;
  readonly family?: 'ipv4' | 'ipv6';
}

/** @param client_addr of `pg_stat_replication`; null for a Unix socket */
function addressOf(client_addr: string | null | undefined): Address {
  const [address = ''] = client_addr?.split('%') ?? [];
  const version = isIP(address);
  if (version === 0) return { address: client_addr == null ? 'a Unix socket' : 'an unknown address' };
  return { address, family: version === 4 ? 'ipv4' : 'ipv6' };
}

function describe(answers: Answers): string {
  return answers
    .map(([{ host }, answer]) => `${host}: ${'error' in answer ? answer.error : answer.status}`)
    .join(', ');
}
