/**
 * Who is the leader of a Patroni cluster, and whether Barman streams from it. The REST API is sometimes
 * wrong: nodes name a dead leader for the whole `ttl`, an old leader that was cut off claims its role for
 * seconds, and without the DCS two can claim it. So the leader is known only if all nodes that answer name
 * the same one, and that one confirms it itself; otherwise it is unknown, and nothing follows from that.
 */

import * as v from 'valibot';
import { deadline } from '../deadline.ts';
import type { Cluster } from './cluster.ts';
import type { Answer, Ask } from './rest-api.ts';

/** Time limit of each of the two rounds of requests (ms). */
const ROUND = 3_000;
/** How long ago the leader must have seen the DCS at most, by its own clock (ms). */
const DCS_SEEN_WITHIN = 30_000;

/** The ledger stores it, and DynamoDB's strings are UTF-8. */
const Name = v.pipe(
  v.string(),
  v.maxLength(255),
  v.check((text) => text.isWellFormed()),
);
const ClusterBody = v.object({
  scope: v.optional(v.string()),
  members: v.array(
    v.object({ name: Name, role: v.string(), state: v.string(), timeline: v.optional(v.unknown()) }),
  ),
});
const LeaderBody = v.object({
  state: v.string(),
  role: v.string(),
  // Absent if nothing streams from this node, and also if PostgreSQL did not answer; then the state is not
  // `running`.
  replication: v.optional(
    v.array(v.object({ application_name: v.nullish(v.string()), state: v.nullish(v.string()) })),
  ),
  dcs_last_seen: v.optional(v.number()),
  cluster_unlocked: v.optional(v.boolean()),
  failsafe_mode_is_active: v.optional(v.boolean()),
  patroni: v.object({ scope: v.string(), name: Name }),
});

/** What is known of the leader. */
export interface Leader {
  readonly leader: string;
  /** Whether Barman streams WAL from it; undefined if that is unknown, or if WAL arrives in another way. */
  readonly streaming?: boolean | undefined;
}

/** The leader, or why it is unknown. */
export type Observation = Leader | { readonly unknown: string };

/** Thrown inside this module: the leader is unknown. */
class Unknown extends Error {}

/**
 * Asks all nodes of a cluster, in two rounds: who is the leader, and then the leader itself.
 *
 * @param cluster with the URLs of its nodes; those that nodes report are never used
 * @param signal aborts earlier
 */
export async function observe(cluster: Cluster, ask: Ask, signal: AbortSignal): Promise<Observation> {
  const round = async (path: 'cluster' | 'leader') => {
    const limit = deadline(ROUND);
    try {
      const limited = AbortSignal.any([signal, limit.signal]);
      return await Promise.all(
        cluster.patroni.map(async (node) => [node, await ask(node, path, limited)] as const),
      );
    } finally {
      limit.clear();
    }
  };
  try {
    const leader = leaderNamed(cluster, await round('cluster'));
    return leaderConfirmed(cluster, leader, await round('leader'));
  } catch (error) {
    if (error instanceof Unknown) return { unknown: error.message };
    throw error;
  }
}

type Answers = readonly (readonly [URL, Answer])[];

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
    const expected = one.role === 'leader' ? 'running' : 'streaming';
    if (one.state !== expected) throw new Unknown(`${one.name} is ${one.state}, by ${host}`);
    if (leader !== undefined && leader !== one.name)
      throw new Unknown(`one node names ${leader}, and ${host} ${one.name}`);
    const ahead = output.members.find(({ timeline }) => Number(timeline) > Number(one.timeline));
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
    if (!['primary', 'master', 'standby_leader'].includes(role))
      throw new Unknown(`${leader} is still ${role}`);
    if (cluster_unlocked) throw new Unknown(`${leader} does not hold the lock`);
    if (failsafe_mode_is_active) throw new Unknown(`${leader} is in failsafe mode`);
    // By one clock, the node's. Without one of both the comparison is false.
    if (!(answer.date - (dcs_last_seen ?? Number.NaN) * 1_000 <= DCS_SEEN_WITHIN)) {
      throw new Unknown(`${leader} has not seen the DCS for more than ${DCS_SEEN_WITHIN / 1_000} s`);
    }
    confirmed = { leader, streaming: streams(cluster, output) };
  }
  if (!confirmed) throw new Unknown(`${leader} does not confirm that it is the leader: ${describe(answers)}`);
  return confirmed;
}

/** Returns whether Barman is among those that stream from a node. One that catches up streams as well. */
function streams(
  { streaming_archiver_name }: Cluster,
  { state, replication = [] }: v.InferOutput<typeof LeaderBody>,
): boolean | undefined {
  if (streaming_archiver_name === null || state !== 'running') return undefined;
  return replication.some(
    (sender) =>
      sender.application_name === streaming_archiver_name &&
      (sender.state === 'streaming' || sender.state === 'catchup'),
  );
}

function describe(answers: Answers): string {
  return answers
    .map(([{ host }, answer]) => `${host}: ${'error' in answer ? answer.error : answer.status}`)
    .join(', ');
}
