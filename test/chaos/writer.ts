/** Commits rows on every node that accepts them, all the time: what a restore is compared with. */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import type { NodeName } from '../e2e/cluster-files.ts';
import type { PatroniCluster } from '../e2e/patroni-cluster.ts';
import { POSTGRESQL } from '../e2e/processes.ts';
import type { Row } from './check.ts';

/** Between two rows of a node (ms). */
const PAUSE = 250;

/**
 * Writes until the run ends. A node that was cut off or stopped goes on where it can: so there are rows that only an old
 * leader has.
 *
 * @param leader creates the table
 * @returns the rows that PostgreSQL has acknowledged so far
 */
export async function startWriter(cluster: PatroniCluster, leader: NodeName): Promise<readonly Row[]> {
  await cluster.query(leader, 'CREATE TABLE written (id int, node text)');
  const rows: Row[] = [];
  let id = 0;
  const insert = (node: NodeName) => {
    id += 1;
    const timeline = 'substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)';
    return `INSERT INTO written VALUES (${id}, '${node}') RETURNING id, ${timeline};\n\\echo\n`;
  };
  const write = async (node: NodeName) => {
    const { address, postgres } = cluster.address(node);
    const connection = `host=${address} port=${postgres} user=postgres dbname=postgres connect_timeout=3`;
    const psql = spawn(`${POSTGRESQL}/psql`, [connection, '-AtXq'], { stdio: ['pipe', 'pipe', 'ignore'] });
    // It ends with its connection.
    const ended = once(psql, 'exit');
    psql.stdin.on('error', () => {});
    psql.stdin.write(insert(node));
    for await (const line of createInterface(psql.stdout)) {
      const [written, timeline] = line.split('|');
      if (timeline !== undefined) rows.push({ id: Number(written), node, timeline, at: Date.now() });
      else setTimeout(() => psql.stdin.write(insert(node)), PAUSE);
    }
    await ended;
  };
  for (const node of cluster.names) {
    void (async () => {
      for (;;) {
        await write(node);
        await sleep(PAUSE);
      }
    })();
  }
  return rows;
}

/** The rows that a node has. */
export async function rowsOf(cluster: PatroniCluster, node: NodeName): Promise<ReadonlySet<number>> {
  return new Set(idsIn(await cluster.query(node, ALL_IDS)));
}

/** What asks for all rows. */
export const ALL_IDS = 'SELECT string_agg(id::text, chr(32)) FROM written';

/** Reads the answer to that. */
export function idsIn(answer: string): number[] {
  return (answer.trim().split('\n')[0] ?? '').split(' ').filter(Boolean).map(Number);
}
