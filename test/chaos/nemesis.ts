/** What the nemesis does to the world, and the plan of a run: from its seed, so that a run can be repeated. */

import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { connect, cut, HOSTS, type Host, pairs } from './network.ts';
import { NODES, type NodeName, type World } from './world.ts';

/** Disturbs the world. @returns what ends it, where it does not end by itself @throws Error if it is not possible just now */
type Fault = (world: World, choice: number) => Promise<(() => Promise<unknown>) | undefined>;

const nodeOf = (choice: number) => NODES[choice % NODES.length] as NodeName;

/** The leader; another node, if there is none. */
const leaderOf = async (world: World, choice: number) => (await world.leader()) ?? nodeOf(choice);

/** Two hosts that talk to each other. */
const LINKS = pairs(HOSTS).filter(
  ([a, b]) => ![a, b].includes('etcd') || [a, b].some((host) => host.startsWith('node')),
);

const delivery =
  (how: string): Fault =>
  async ({ aws }) => {
    await aws.call('deliver', how);
    return () => aws.call('deliver', 'normal');
  };

const faultOf =
  (service: 'ssm' | 'dynamoDb', fault: string): Fault =>
  async ({ aws }) => {
    await aws.call(service, fault);
    return () => aws.call(service, null);
  };

export const FAULTS: Readonly<Record<string, Fault>> = {
  'kill the leader': async (world, choice) => {
    const name = await leaderOf(world, choice);
    await world.signalPatroni(name, 'SIGKILL');
    await world.signalPostgres(name, 'SIGKILL');
    return async () => world.startNode(name);
  },
  'kill Patroni on the leader': async (world, choice) => {
    const name = await leaderOf(world, choice);
    await world.signalPatroni(name, 'SIGKILL');
    return async () => world.startNode(name);
  },
  'kill PostgreSQL on the leader': async (world, choice) => {
    await world.signalPostgres(await leaderOf(world, choice), 'SIGKILL');
    return undefined;
  },
  'stop Patroni on the leader': async (world, choice) => {
    const name = await leaderOf(world, choice);
    await world.signalPatroni(name, 'SIGSTOP');
    return () => world.signalPatroni(name, 'SIGCONT');
  },
  'stop PostgreSQL on the leader': async (world, choice) => {
    const name = await leaderOf(world, choice);
    await world.signalPostgres(name, 'SIGSTOP');
    return () => world.signalPostgres(name, 'SIGCONT');
  },
  'switch over': async (world, choice) => {
    const leader = await world.leader();
    if (!leader) throw new Error('there is no leader');
    const candidate = NODES.filter((name) => name !== leader)[choice % 2];
    await world.rest(leader, 'POST', 'switchover', { leader, candidate });
    return undefined;
  },
  'promote by hand': async (world, choice) => {
    const leader = await world.leader();
    if (!leader) throw new Error('there is no leader');
    await world.setPause(true);
    // Each node has to read that first: one that has not would demote what was promoted.
    await sleep(5_000);
    await world.pgCtl(NODES.filter((name) => name !== leader)[choice % 2] as NodeName, 'promote');
    await world.pgCtl(leader, 'stop', '-m', 'fast');
    return () => world.setPause(false);
  },
  'stop etcd': async (world) => {
    await world.signalEtcd('SIGSTOP');
    return () => world.signalEtcd('SIGCONT');
  },
  'cut the network': async (_, choice) => {
    const [a, b] = LINKS[choice % LINKS.length] as [Host, Host];
    await cut(a, b);
    return () => connect(a, b);
  },
  'lose webhooks': delivery('lost'),
  'delay webhooks': delivery('late'),
  'double webhooks': delivery('doubled'),
  'replay webhooks': async ({ aws }, choice) => {
    for (const one of [choice, choice + 3, choice + 7]) await aws.call('replay', one);
    return undefined;
  },
  'disable callbacks': async (world) => {
    for (const name of NODES) world.setCallback(name, null);
    return async () => {
      for (const name of NODES) world.setCallback(name, 0);
    };
  },
  'step the clock of a callback': async (world, choice) => {
    const name = nodeOf(choice);
    world.setCallback(name, (choice % 480) - 240);
    return async () => world.setCallback(name, 0);
  },
  'kill the function in mid-switch': async ({ aws }) => {
    await aws.call('killNext', 3);
    return () => aws.call('killNext', 0);
  },
  'kill pg-backup-api': async ({ barmanHost }) => {
    await barmanHost.call('refuse');
    return () => barmanHost.call('listen');
  },
  'slow operations': async ({ barmanHost }, choice) => {
    await barmanHost.call('slow', 1_000 + (choice % 20_000));
    return () => barmanHost.call('slow', 0);
  },
  'kill operations': async ({ barmanHost }) => {
    await barmanHost.call('slow', null);
    return () => barmanHost.call('slow', 0);
  },
  'stall pg-backup-api': async ({ barmanHost }) => {
    await barmanHost.call('stall');
    return () => barmanHost.call('noFaults');
  },
  "lose pg-backup-api's responses": async ({ barmanHost }) => {
    await barmanHost.call('lose');
    return () => barmanHost.call('noFaults');
  },
  'stop pg-backup-api': async ({ barmanHost }) => {
    barmanHost.process.kill('SIGSTOP');
    return async () => barmanHost.process.kill('SIGCONT');
  },
  'apply a model by hand': async (world, choice) => {
    await world.barman(['config-switch', 'main', `pg:${nodeOf(choice)}`]);
    return undefined;
  },
  'throttle SSM': faultOf('ssm', 'throttling'),
  'throttle DynamoDB': faultOf('dynamoDb', 'throttling'),
  "lose DynamoDB's responses": faultOf('dynamoDb', 'lose response'),
};

/** What moves the leader. */
const MOVES = [
  'switch over',
  'switch over',
  'kill the leader',
  'kill Patroni on the leader',
  'stop Patroni on the leader',
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
      say(fault);
      const end = await FAULTS[fault]?.(world, choice);
      if (!end) return;
      await sleep(lasts);
      await end();
      say(`end: ${fault}`);
    } catch (error) {
      // Another one was in its way. What it had begun is ended after the round.
      say(`${fault}: ${error instanceof Error ? error.message : error}`.split('\n')[0] ?? '');
    }
  };
  await Promise.all(steps.map(disturbOnce));
}
