/** Records which node's callback has sent an event: alongside a role change, or as all that the event is for. */

import { DeadlineExceeded, messageOf } from './errors.ts';
import type { RoleChange } from './event/payload.ts';
import type { Facts } from './invocation.ts';
import type { HeardNode } from './ledger/heard.ts';
import type { Ledger } from './ledger/ledger.ts';
import { hasMembers } from './patroni/cluster.ts';
import { type ClusterSource, needsCluster } from './patroni/follow-leader.ts';

/** How long a role change that has its result waits for the write that its node was heard (ms). */
const HEARING_TIME = 200;

export interface HearOptions {
  readonly ledger: Pick<Ledger, 'get' | 'hear'>;
  /** The node whose callback has sent this; undefined if the payload names none. */
  readonly heard: HeardNode | undefined;
  /** Of the clusters among the parameters. */
  readonly source: ClusterSource;
  readonly facts: Facts;
  readonly signal: AbortSignal;
}

/**
 * Records that a node's callback was heard, for an action that changes no role.
 *
 * @returns the message: what was recorded, and why a role change of this callback would not be applied, if that is known
 * @throws LedgerError so that the callback sends the event again
 */
export async function hear(
  options: HearOptions,
  roleChange: Pick<RoleChange, 'action' | 'barman_server' | 'follow_leader'>,
): Promise<string> {
  const { ledger, heard, signal } = options;
  const { action, barman_server } = roleChange;
  const skip = `skipped: "${action}" changes no role`;
  if (!heard) {
    return `${skip}; node is missing, so it is unknown whose callback has been heard: send the host name as node`;
  }
  await ledger.hear(barman_server, heard, signal);
  // The node has been heard: that the rest is unknown must not make the callback send the event again.
  const doubts = await doubtsAbout(options, roleChange).catch(() => []);
  return [skip, `the callback of ${heard.node} has been heard`, ...doubts].join('; ');
}

/** Returns why a role change would not be applied, by parameters that were read for that. */
async function doubtsAbout(
  options: HearOptions,
  roleChange: Pick<RoleChange, 'barman_server' | 'follow_leader'>,
): Promise<string[]> {
  const doubts = await doubtsNow(options, roleChange);
  if (doubts.length === 0) return doubts;
  // A cluster may have just been added.
  return (await options.source.reread(options.signal)) ? doubtsNow(options, roleChange) : [];
}

/** Returns the same by the parameters as they are known; nothing while one that may list the server is malformed. */
async function doubtsNow(
  { ledger, source, signal }: HearOptions,
  { barman_server, follow_leader }: Pick<RoleChange, 'barman_server' | 'follow_leader'>,
): Promise<string[]> {
  const { clusters: all } = await source.clusters(signal);
  if (all.some(({ malformed }) => malformed !== undefined)) return [];
  const doubts: string[] = [];
  // This is also so for a new server, so the node is recorded before.
  const isListed = all.some(({ servers }) => servers.has(barman_server));
  if (!isListed && !(await ledger.get(barman_server, signal))) {
    doubts.push(
      `no role change has been recorded for Barman server ${barman_server}, and no parameter clusters/NAME lists it: check --barman-server`,
    );
  }
  const hasLeader = all.some((one) => hasMembers(one, barman_server) && one.patroni.length > 0);
  if (follow_leader && !hasLeader) {
    doubts.push(`a role change would end as INVALID_ARGS: ${needsCluster(barman_server)}`);
  }
  return doubts;
}

/**
 * Records that a node's callback was heard while its role change is carried out, which neither waits for that nor fails
 * by it.
 *
 * @param action carries out the role change
 * @returns what the action returns
 * @throws what the action throws
 */
export async function whileHearing<T>(
  { ledger, heard, signal, facts }: HearOptions,
  barman_server: string,
  action: () => Promise<T>,
): Promise<T> {
  if (!heard) return action();
  const ended = new AbortController();
  const hearing = ledger
    .hear(barman_server, heard, AbortSignal.any([signal, ended.signal]))
    .catch((error: unknown) => {
      facts.unheard = messageOf(error);
    });
  try {
    return await action();
  } finally {
    const timer = setTimeout(() => {
      ended.abort(new DeadlineExceeded('the ledger did not respond in time'));
    }, HEARING_TIME);
    // What is still going on then would go on in the next invocation.
    await hearing;
    clearTimeout(timer);
  }
}
