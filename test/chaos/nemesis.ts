/** What the nemesis does to the world, and the plan of a run, which depends on its seed only. */

import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import type { NodeName } from '../e2e/cluster-files.ts';
import type { PatroniCluster } from '../e2e/patroni-cluster.ts';
import { asPostgres, own, POSTGRESQL, startLogged } from '../e2e/processes.ts';
import type { DynamoDbFault } from '../stand-ins/dynamodb.ts';
import type { SsmFault } from '../stand-ins/ssm.ts';
import type { Delivery } from './aws.ts';
import { promotionsOf } from './causes.ts';
import { connect, cut, HOSTS, type Host, NODES, pairs } from './network.ts';
import type { World } from './world.ts';

/** What is disturbed. */
interface Disturbed {
  /** The host or value that was chosen. */
  readonly target?: string;
  /** Ends it, where it does not end by itself. */
  readonly end?: () => unknown;
}

/** Disturbs the world. @throws Error if it is not possible just now */
type Fault = (world: World, choice: number) => Promise<Disturbed>;

const nodeOf = (choice: number) => NODES[choice % NODES.length] as NodeName;

async function leaderOf({ cluster }: World): Promise<NodeName> {
  const leader = await cluster.leader();
  if (!leader) throw new Error('there is no leader');
  return leader;
}

/** The leader, and a node to promote. */
async function replicaOf(world: World, choice: number): Promise<{ leader: NodeName; candidate: NodeName }> {
  const leader = await leaderOf(world);
  return { leader, candidate: NODES.filter((name) => name !== leader)[choice % 2] as NodeName };
}

/** Two hosts that talk to each other. */
const LINKS = pairs(HOSTS).filter(
  ([a, b]) => ![a, b].includes('etcd') || [a, b].some((host) => host.startsWith('node')),
);

const SLOT = "FROM pg_replication_slots WHERE slot_name = 'barman'";

/** Removes the WAL that Barman needs, as after a mistake with slots. Patroni creates the slot again. */
async function removeWal(cluster: PatroniCluster, leader: NodeName): Promise<void> {
  // Barman's cron starts the receiver again.
  const endReceiver = `SELECT pg_terminate_backend(active_pid, 5000) ${SLOT} AND active`;
  const statements = [
    endReceiver,
    // More segments than wal_keep_size keeps.
    `DO $$ BEGIN FOR n IN 1..2 +
      pg_size_bytes(current_setting('wal_keep_size')) / pg_size_bytes(current_setting('wal_segment_size')) LOOP
      PERFORM pg_logical_emit_message(false, 'chaos', ''); PERFORM pg_switch_wal();
    END LOOP; END $$`,
    // A new slot reserves WAL from the last checkpoint on.
    'CHECKPOINT',
    endReceiver,
    `SELECT pg_drop_replication_slot(slot_name) ${SLOT}`,
    'CHECKPOINT',
  ];
  for (const sql of statements) await cluster.query(leader, sql);
}

const webhooks =
  (delivery: Delivery): Fault =>
  async ({ aws }) => {
    await aws.call('deliver', delivery);
    return { end: () => aws.call('deliver', 'normal') };
  };

const service =
  (name: 'ssm' | 'dynamoDb', fault: SsmFault | DynamoDbFault): Fault =>
  async ({ aws }) => {
    await aws.call(name, fault);
    return { end: () => aws.call(name, null) };
  };

const operations =
  (ms: (choice: number) => number | null): Fault =>
  async ({ barmanHost }, choice) => {
    const time = ms(choice);
    await barmanHost.call('slow', time);
    return { ...(time !== null && { target: `${time} ms` }), end: () => barmanHost.call('slow', 0) };
  };

const api =
  (begin: string, end: string): Fault =>
  async ({ barmanHost }) => {
    await barmanHost.call(begin);
    return { end: () => barmanHost.call(end) };
  };

/** pg-backup-api can write no file; no operation has any effect. */
const disk =
  (disk: 'full' | 'read-only'): Fault =>
  async ({ barmanHost }) => {
    await barmanHost.call('disk', disk);
    return { end: () => barmanHost.call('disk', 'writable') };
  };

/** Values of the cluster's parameter. */
const MALFORMED = ['{', '{}', '{"servers":{"main":["node1"]}}', '{"servers":{},"secret":"whsec_"}'];

/** Sends a signal to processes of the leader, or of any node if there is none. */
const signal =
  (signal: 'SIGKILL' | 'SIGSTOP', ...of: ('patroni' | 'postgres')[]): Fault =>
  async (world, choice) => {
    const target = (await world.cluster.leader()) ?? nodeOf(choice);
    for (const one of of) await world.cluster.signal(target, one, signal);
    const goOn = async () => {
      for (const one of of) await world.cluster.signal(target, one, 'SIGCONT');
    };
    // Patroni starts PostgreSQL again.
    return { target, end: signal === 'SIGSTOP' ? goOn : () => world.cluster.startNode(target) };
  };

/** Another `pg_receivewal` takes Barman's slot. It ends with its connection: by the remedy, at the latest. */
async function receiveElsewhere({ cluster }: World, leader: NodeName): Promise<void> {
  const folder = mkdtempSync(join(cluster.folder, 'receiver-'));
  own(folder, 0o700);
  const { address, postgres } = cluster.address(leader);
  const connection = `host=${address} port=${postgres} user=streaming_barman dbname=postgres`;
  const words = ['--no-loop', '-D', folder, '-S', 'barman', '-d', connection];
  await cluster.query(leader, `SELECT pg_terminate_backend(active_pid, 5000) ${SLOT} AND active`);
  startLogged(asPostgres(join(POSTGRESQL, 'pg_receivewal'), words), join(cluster.folder, 'receiver.log'));
}

export const FAULTS: Readonly<Record<string, Fault>> = {
  'kill the leader': signal('SIGKILL', 'patroni', 'postgres'),
  'kill Patroni': signal('SIGKILL', 'patroni'),
  'kill PostgreSQL': signal('SIGKILL', 'postgres'),
  'stop the leader': signal('SIGSTOP', 'patroni', 'postgres'),
  'stop Patroni': signal('SIGSTOP', 'patroni'),
  'stop PostgreSQL': signal('SIGSTOP', 'postgres'),
  'switch over': async (world, choice) => {
    const { leader, candidate } = await replicaOf(world, choice);
    await world.cluster.rest(leader, 'POST', 'switchover', { leader, candidate });
    return { target: candidate };
  },
  'promote by hand': async (world, choice) => {
    const { leader, candidate } = await replicaOf(world, choice);
    await world.cluster.setPause(true);
    // Each node has to read that first: one that has not would demote what was promoted.
    await sleep(5_000);
    await world.cluster.pgCtl(candidate, 'promote');
    world.history.promotedByHand.push(...(await promotionsOf(world.cluster, candidate)).slice(-1));
    await world.cluster.pgCtl(leader, 'stop', '-m', 'fast');
    return { target: candidate, end: () => world.cluster.setPause(false) };
  },
  'kill the standby site': async ({ site }) => {
    if (!site) throw new Error('there is none');
    await site.kill('site1');
    return { end: () => site.startNode('site1') };
  },
  'stop etcd': async (world) => {
    await world.cluster.signal('etcd', 'etcd', 'SIGSTOP');
    return { end: () => world.cluster.signal('etcd', 'etcd', 'SIGCONT') };
  },
  'cut the network': async (_, choice) => {
    const [a, b] = LINKS[choice % LINKS.length] as [Host, Host];
    await cut(a, b);
    return { target: `${a} – ${b}`, end: () => connect(a, b) };
  },
  'cut the leader off from all but Barman': async (world, choice) => {
    const target = await leaderOf(world);
    const others = HOSTS.filter((host) => host !== target && host !== 'barman');
    for (const host of others) await cut(target, host);
    // Without Patroni, its PostgreSQL remains a primary.
    const hangs = choice % 2 === 0;
    if (hangs) await world.cluster.signal(target, 'patroni', 'SIGSTOP');
    const end = async () => {
      for (const host of others) await connect(target, host);
      if (hangs) await world.cluster.signal(target, 'patroni', 'SIGCONT');
    };
    return { target: hangs ? `${target}, whose Patroni hangs` : target, end };
  },
  'cut the path to Barman in mid-POST': async ({ aws }) => {
    await aws.call('cutPost', true);
    const end = async () => {
      await aws.call('cutPost', false);
      await connect('aws', 'barman');
    };
    return { end };
  },
  'lose webhooks': webhooks('lost'),
  'delay webhooks': webhooks('late'),
  'double webhooks': webhooks('doubled'),
  'replay webhooks': async ({ aws }, choice) => {
    for (const one of [choice, choice + 3, choice + 7]) await aws.call('replay', one);
    return {};
  },
  'disable callbacks': async (world) => {
    world.cluster.disableCallbacks();
    return { end: () => world.cluster.enableCallbacks() };
  },
  'step the clock of a callback': async (world, choice) => {
    const [name, ahead] = [nodeOf(choice), (choice % 480) - 240];
    world.cluster.enableCallbacks({ [name]: ahead });
    return { target: `${name}, ${ahead} s`, end: () => world.cluster.enableCallbacks() };
  },
  'kill the function in mid-switch': async ({ aws }) => {
    await aws.call('killNext', 3);
    return { end: () => aws.call('killNext', 0) };
  },
  'kill pg-backup-api': api('refuse', 'listen'),
  'stall pg-backup-api': api('stall', 'noFaults'),
  "lose pg-backup-api's responses": api('lose', 'noFaults'),
  'stop pg-backup-api': async ({ barmanHost }) => {
    barmanHost.process.kill('SIGSTOP');
    return { end: () => barmanHost.process.kill('SIGCONT') };
  },
  'slow operations': operations((choice) => 1_000 + (choice % 20_000)),
  'kill operations': operations(() => null),
  'several workers': api('severalWorkers', 'oneWorker'),
  // It stays until all is healed: a person deletes it.
  'an empty job file': async ({ barmanHost }) => {
    await barmanHost.call('emptyJob');
    return {};
  },
  'a full disk': disk('full'),
  'a read-only disk': disk('read-only'),
  'start a second receiver': async (world) => {
    const target = await leaderOf(world);
    await receiveElsewhere(world, target);
    return { target };
  },
  'remove WAL that Barman needs': async (world) => {
    const target = await leaderOf(world);
    await removeWal(world.cluster, target);
    return { target };
  },
  'apply a model by hand': async (world, choice) => {
    const target = `pg:${nodeOf(choice)}`;
    const from = Date.now();
    await world.cluster.barman.configSwitch('main', target);
    world.history.byHand.push({ from, to: Date.now() });
    return { target };
  },
  'throttle SSM': service('ssm', 'throttling'),
  'deny SSM': service('ssm', 'access denied'),
  'malform the cluster': async ({ aws }, choice) => {
    const target = MALFORMED[choice % MALFORMED.length] as string;
    await aws.call('cluster', target);
    return { target, end: () => aws.call('cluster', null) };
  },
  'throttle DynamoDB': service('dynamoDb', 'throttling'),
  "lose DynamoDB's responses": service('dynamoDb', 'lose response'),
};

/** What moves the leader. */
const MOVES = [
  'switch over',
  'switch over',
  'kill the leader',
  'stop the leader',
  'kill Patroni',
  'stop Patroni',
  'promote by hand',
];

/** One step of a round. */
export interface Step {
  readonly fault: string;
  /** From the start of the round (ms). */
  readonly at: number;
  /** How long it lasts (ms), if it does not end by itself. */
  readonly lasts: number;
  /** Chooses a node, a link or a model. */
  readonly choice: number;
}

/** When steps begin at most, and how long they last (ms). */
const ROUND = { start: 20_000, lasts: 25_000 };

/** The rounds of a run. In each the leader moves at least once, while other faults disturb that. */
export function plan(seed: number, count: number): readonly (readonly Step[])[] {
  const step = (faults: readonly string[]) =>
    fc.record({
      fault: fc.constantFrom(...faults),
      at: fc.nat(ROUND.start),
      lasts: fc.integer({ min: 1_000, max: ROUND.lasts }),
      choice: fc.nat(1_000_000),
    });
  const others = fc.array(step(Object.keys(FAULTS)), { minLength: 1, maxLength: 5, size: 'max' });
  const round = fc.tuple(step(MOVES), others);
  return fc.sample(round, { seed, numRuns: count }).map(([move, others]) => [move, ...others]);
}

/** Runs a round. @returns once all that it disturbed has ended */
export async function disturb(
  world: World,
  steps: readonly Step[],
  say: (text: string) => void,
): Promise<void> {
  const disturbOnce = async ({ fault, at, lasts, choice }: Step) => {
    await sleep(at);
    try {
      const { target, end } = (await FAULTS[fault]?.(world, choice)) ?? {};
      const what = target === undefined ? fault : `${fault}: ${target}`;
      say(what);
      if (!end) return;
      await sleep(lasts);
      await end();
      say(`end: ${what}`);
    } catch (error) {
      // Another one was in its way. What it had begun is ended after the round.
      say(`${fault}: ${error instanceof Error ? error.message : error}`.split('\n')[0] ?? '');
    }
  };
  await Promise.all(steps.map(disturbOnce));
}
