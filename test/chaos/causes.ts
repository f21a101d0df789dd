/** Why Barman may not stream from the leader, and the remedies: docs/how-to/wal-does-not-arrive.md. */

import { isDeepStrictEqual } from 'node:util';
import { documentedBlock, fill } from '../documentation.ts';
import type { NodeName } from '../e2e/cluster-files.ts';
import type { PatroniCluster } from '../e2e/patroni-cluster.ts';
import { until } from '../e2e/processes.ts';
import type { Promotion } from './check.ts';

/** Time limits (ms): of a command, and until Barman streams. */
const TIMEOUT = 20_000;
const STREAMS_TIMEOUT = 90_000;

const REMOVED = /requested WAL segment \S+ has already been removed/;

/** What a remedy is for. */
interface Place {
  readonly cluster: PatroniCluster;
  readonly leader: NodeName;
}

export interface Cause {
  /** What `barman receive-wal` prints. */
  readonly prints: RegExp;
  /**
   * @param printed what matched
   * @returns whether WAL may be missing from backups before the remedy
   */
  readonly remedy: (place: Place, printed: RegExpExecArray) => Promise<boolean>;
}

const page = (command: string) => documentedBlock('docs/how-to/wal-does-not-arrive.md', command);
/** @returns the SQL of a documented block with psql */
const sqlOf = (block: string) => /^psql -c "([^"]*)"$/m.exec(block)?.[1] ?? '';

export const CAUSES: readonly Cause[] = [
  {
    prints: /replication slot 'barman' doesn't exist/,
    remedy: async ({ cluster: { barman } }) => {
      await barman.run(TIMEOUT, 'receive-wal', '--create-slot', 'main');
      return false;
    },
  },
  {
    prints: REMOVED,
    remedy: async (place) => {
      const { barman } = place.cluster;
      await barman.moveAheadAway();
      if (await isStillRemoved(place)) {
        await barman.dropSlot();
        // It fails if Patroni was faster.
        await barman.run(TIMEOUT, 'receive-wal', '--create-slot', 'main');
      }
      await streams(place);
      await moveDeadBranchesAway(place);
      await backUp(place);
      return true;
    },
  },
  {
    prints: /is not in this server's history[\s\S]*forked from timeline \d+ at (\w+\/\w+)/,
    remedy: async ({ cluster, leader }, [, fork = '']) => {
      const { barman } = cluster;
      const ask = sqlOf(fill(page('psql -c "SELECT restart_lsn'), { '0/7000098': fork }));
      const [early = '', first = ''] = (await cluster.query(leader, ask)).split('|');
      if (early === 't') await barman.moveAheadAway();
      else await barman.remedy(page('touch streaming'), { '000000020000000000000007': first });
      return false;
    },
  },
  {
    prints: /replication slot 'barman' is already in use/,
    remedy: async ({ cluster, leader }) => {
      await cluster.query(leader, sqlOf(page('psql -c "SELECT pg_terminate_backend')));
      await cluster.barman.run(TIMEOUT, 'cron');
      return false;
    },
  },
  {
    prints: /starting timeline (\d+) is not present in the server/,
    remedy: async (place, [, timeline]) => {
      await place.cluster.barman.moveTimelineAway(Number(timeline));
      await streams(place);
      await backUp(place);
      return true;
    },
  },
];

async function streams({ cluster, leader }: Place): Promise<void> {
  const isStreaming = () => cluster.streamingSince(leader);
  await until(isStreaming, 'Barman does not stream after the remedy', STREAMS_TIMEOUT);
}

/** Whether the leader's slot is lost, too. For a moment `barman cron` may find that. */
async function isStillRemoved({ cluster, leader }: Place): Promise<boolean> {
  let isRemoved = false;
  const isKnown = async () => {
    isRemoved = REMOVED.test(await cluster.barman.receiveWal());
    return isRemoved || (await cluster.streamingSince(leader));
  };
  await until(isKnown, 'Barman neither streams, nor says that WAL has been removed');
  return isRemoved;
}

/** Moves away what Barman has of old timelines, from where the leader's history leaves them. */
async function moveDeadBranchesAway({ cluster, leader }: Place): Promise<void> {
  for (const { parent, fork } of await promotionsOf(cluster, leader)) {
    const timeline = parent.toString(16).toUpperCase().padStart(8, '0');
    const first = (await cluster.query(leader, `SELECT pg_walfile_name('${fork}')`)).slice(8);
    await cluster.barman.remedy(page('for file in streaming'), {
      '000000010000000000000007': `${timeline}${first}`,
      '00000001????????????????': `${timeline}????????????????`,
      '00000001*': `${timeline}*`,
    });
  }
}

/** The promotions from which a leader descends, by its history. */
export async function promotionsOf(cluster: PatroniCluster, leader: NodeName): Promise<Promotion[]> {
  const name = (await cluster.writeWal(leader)).slice(0, 8);
  if (Number(name) === 1) return [];
  const history = await cluster.query(leader, `SELECT pg_read_file('pg_wal/${name}.history')`);
  const forks = [...history.matchAll(/^(\d+)\t(\w+\/\w+)/gm)];
  const timelines = [...forks.map(([, parent]) => Number(parent)), Number.parseInt(name, 16)];
  return forks.map(([, parent, fork = ''], index) => ({
    timeline: timelines[index + 1] as number,
    parent: Number(parent),
    fork,
  }));
}

/** Moves away what Barman has of promotions by hand that Patroni has undone. @returns their timelines */
export async function moveUndoneAway(
  { cluster, leader }: Place,
  promotedByHand: Promotion[],
): Promise<number[]> {
  const known = await promotionsOf(cluster, leader);
  const undone = promotedByHand.filter((one) => !known.some((other) => isDeepStrictEqual(one, other)));
  for (const { timeline } of undone) await cluster.barman.moveTimelineAway(timeline);
  promotedByHand.length = 0;
  if (undone.length > 0) await backUp({ cluster, leader });
  return undone.map(({ timeline }) => timeline);
}

/** Makes a base backup. */
export async function backUp({ cluster, leader }: Place): Promise<void> {
  // Otherwise the backup's checkpoint takes its time.
  await cluster.query(leader, 'CHECKPOINT');
  await cluster.barman.remedy(page('barman backup --wait'));
}
