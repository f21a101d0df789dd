/**
 * `npm run chaos -- --minutes 30 --seed N`: a nemesis disturbs everything around the function, in the manner of Jepsen. After each
 * round Barman must follow within what is promised; and at no time is an operation sent that is older than an event answered DONE.
 *
 * It runs in namespaces of its own (unshare(1)): nothing leaves the machine, and nothing outlives the run.
 */

import { spawnSync } from 'node:child_process';
import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { FOLDER, installTools } from '../e2e/setup.ts';
import { outdatedOperations, promise } from './check.ts';
import { disturb, plan } from './nemesis.ts';
import { type NodeName, World } from './world.ts';

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '5' },
    seed: { type: 'string', default: String(Math.floor(Math.random() * 1e6)) },
    /** Between two heartbeats (s). */
    interval: { type: 'string', default: '10' },
    /** Repeats only this round of the seed, the first being 1. */
    round: { type: 'string' },
    /** Only these faults of each round, separated by commas: to find the shortest form of a violation. */
    only: { type: 'string' },
  },
});

if (process.env.CHAOS_TOOLS === undefined) {
  process.env.CHAOS_TOOLS = installTools();
  // Process 1 must collect what is orphaned, as a shell does.
  const command = [
    'bash',
    '-c',
    'mkdir -p /run/netns; mount -t tmpfs none /run/netns; "$@"; exit $?',
    'chaos',
  ];
  const namespaces = ['--net', '--mount', '--pid', '--fork', '--mount-proc', '--kill-child'];
  const { status } = spawnSync('unshare', [...namespaces, ...command, ...process.argv], { stdio: 'inherit' });
  process.exit(status ?? 1);
}

const [minutes, seed, interval] = [Number(values.minutes), Number(values.seed), Number(values.interval)];
const started = Date.now();
const seconds = (ms: number) => `${(ms / 1_000).toFixed(1)} s`;
const say = (text: string) => {
  const at = (Date.now() - started) / 1_000;
  console.log(`${String(Math.floor(at / 60)).padStart(3)}:${(at % 60).toFixed(1).padStart(4, '0')}  ${text}`);
};
const limit = promise(interval * 1_000);
const violations: string[] = [];
const times: number[] = [];

console.log(
  `seed ${seed}, ${minutes} minutes, a heartbeat each ${interval} s; Barman must follow within ${seconds(limit)}`,
);
const world = await World.start({
  folder: mkdtempSync(join(FOLDER, 'chaos-')),
  tools: process.env.CHAOS_TOOLS,
  interval,
});
say('everything runs');
await follows();
let rounds = 0;
for (const [index, all] of plan(seed, 1_000).entries()) {
  if (Date.now() - started > minutes * 60_000) break;
  const steps = all.filter(({ fault }) => values.only?.split(',').includes(fault) ?? true);
  if (steps.length === 0 || (values.round !== undefined && Number(values.round) !== index + 1)) continue;
  rounds += 1;
  say(`round ${index + 1}`);
  await disturb(world, steps, say);
  await world.heal();
  say('all is healed');
  await follows();
}
verdict();

/** Waits until Barman follows the leader on which the nodes agree. */
async function follows(): Promise<void> {
  let leader: NodeName | undefined;
  let since = Date.now();
  const healed = Date.now();
  for (;;) {
    const now = await world.agreedLeader();
    if (now !== leader) [leader, since] = [now, Date.now()];
    const took = Date.now() - since;
    if (leader && world.activeModel === `pg:${leader}` && (await world.streamsFrom(leader))) {
      times.push(Date.now() - healed);
      return say(`Barman follows ${leader}, ${seconds(Date.now() - healed)} after that`);
    }
    if (took > limit) {
      violation(
        leader === undefined
          ? `the nodes do not agree on a leader within ${seconds(limit)}, which is no fault of the function`
          : `after ${seconds(limit)} the model is ${world.activeModel}, and the leader ${leader}`,
      );
      return say(await world.barman(['receive-wal', 'main'], 5_000));
    }
    await sleep(200);
  }
}

function violation(text: string): void {
  violations.push(text);
  say(`VIOLATION: ${text}`);
}

function verdict(): never {
  for (const text of outdatedOperations(world.history)) violation(text);
  const { answers, leases, operations, beats } = world.history;
  const codes = Object.entries(
    Object.groupBy(answers, ({ exitCode, status }) => (Number.isNaN(exitCode) ? `HTTP ${status}` : exitCode)),
  );
  console.log(`
seed ${seed}: ${rounds} rounds, ${operations.length} operations, ${leases.length} leases, ${beats.length} heartbeats,
${answers.length} answers: ${codes.map(([code, all]) => `${all?.length} × ${code}`).join(', ')}
Barman followed within ${seconds(Math.max(...times))} (promised: ${seconds(limit)})
${violations.length === 0 ? 'no violation' : `${violations.length} VIOLATIONS; the logs are in ${world.folder}`}`);
  process.exit(violations.length === 0 ? 0 : 1);
}
