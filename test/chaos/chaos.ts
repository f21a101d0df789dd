/**
 * `npm run chaos -- --minutes 30 --seed N`: a nemesis disturbs everything around the function, in the manner
 * of Jepsen. After each round Barman must follow within what is promised. At no time is an operation sent that
 * is older than an event answered DONE, or does Barman use anything but what the ledger says is applied; unless
 * the ledger says "unsettled", and then for at most three minutes. What an inspection says is true. At the end a
 * restore has the rows of the leader, and no others; and if the cluster is lost, Barman follows its standby site.
 *
 * It runs in namespaces of its own: nothing leaves the machine, and nothing outlives the run.
 */

import { mkdtempSync, rmSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { commandLine, UsageError } from '../../cli/command-line.ts';
import type { InspectionReport } from '../../functions/config-switch/inspect/report.ts';
import { addRow } from '../bench/report.ts';
import type { NodeName } from '../e2e/cluster-files.ts';
import { inNamespaces } from '../e2e/namespaces.ts';
import type { PatroniCluster } from '../e2e/patroni-cluster.ts';
import { until } from '../e2e/processes.ts';
import { FOLDER, installTools } from '../e2e/setup.ts';
import { backUp, CAUSES, moveUndoneAway } from './causes.ts';
import {
  DEAD_OPERATION,
  outdatedOperations,
  overlooked,
  promise,
  wrongFindings,
  wrongModels,
  wrongRows,
} from './check.ts';
import { type Lack, takeAway } from './lacks.ts';
import { disturb, FAULTS, plan } from './nemesis.ts';
import { repair } from './repair.ts';
import { heal, startWorld } from './world.ts';
import { ALL_IDS, idsIn, rowsOf, startWriter } from './writer.ts';

const CHAOS = {
  name: 'npm run chaos',
  summary: 'Disturbs everything around the function at random; Barman must follow after each round.',
  options: {
    minutes: { type: 'string', value: 'MINUTES', default: '5', help: 'how long' },
    seed: { type: 'string', value: 'SEED', help: 'repeats a run; random otherwise' },
    interval: { type: 'string', value: 'SECONDS', default: '10', help: 'between two heartbeats' },
    round: {
      type: 'string',
      value: 'ROUND,…',
      help: 'repeats only these rounds of the seed; the first is 1',
    },
    only: {
      type: 'string',
      value: 'FAULT,…',
      help: 'only these faults of each round: to find the shortest form of a violation',
    },
  },
} as const;
const { minutes, seed, interval, chosen, only } = await commandLine(CHAOS, (values) => {
  const number = (name: 'minutes' | 'seed' | 'interval' | 'round', given = values[name]) => {
    if (Number(given) > 0) return Number(given);
    throw new UsageError(`--${name} must be a number greater than 0, not ${given}`);
  };
  const only = values.only?.split(',') ?? Object.keys(FAULTS);
  const unknown = only.filter((fault) => !Object.hasOwn(FAULTS, fault));
  if (unknown.length > 0) {
    throw new UsageError(
      `--only: unknown fault ${unknown.join(', ')}; valid: ${Object.keys(FAULTS).join(', ')}`,
    );
  }
  return {
    minutes: number('minutes'),
    seed: number('seed', values.seed ?? String(Math.ceil(Math.random() * 1e6))),
    interval: number('interval'),
    chosen: values.round?.split(',').map((one) => number('round', one)),
    only,
  };
});

const { CHAOS_FOLDER: folder = '', CHAOS_TOOLS: tools = '' } = process.env;
if (folder === '') process.exit(runInNamespaces());

const started = Date.now();
const seconds = (ms: number) => `${(ms / 1_000).toFixed(1)} s`;
const say = (text: string) => {
  const tenths = Math.floor((Date.now() - started) / 100);
  const second = ((tenths % 600) / 10).toFixed(1).padStart(4, '0');
  console.log(`${String(Math.floor(tenths / 600)).padStart(3)}:${second}  ${text}`);
};
/** What Barman is set to once the standby site is promoted. */
const SITE = 'model pg:site1';
const limit = promise(interval * 1_000);
const violations: string[] = [];
const times: number[] = [];
/** Rounds after which Patroni had no leader. */
let inconclusive = 0;
/** Rounds after which Barman did not stream until a person remedied the cause. */
let notStreaming = 0;
let inspections = 0;
/** Whether WAL was lost, by a cause whose remedy is a new base backup. */
let isGap = false;

console.log(
  `seed ${seed}, ${minutes} minutes, a heartbeat each ${interval} s; Barman must follow within ${seconds(limit)}`,
);
const hasSite = seed % 3 === 0;
// Two sites need it.
const followLeader = hasSite || seed % 2 === 0;
console.log(
  `the callbacks ${followLeader ? 'follow the leader' : 'name models'}; ${hasSite ? 'a' : 'no'} standby site`,
);
const world = await startWorld({ folder, tools, interval, followLeader, hasSite });
const { cluster, history } = world;
const { barman } = cluster;
say('everything runs');
await follows();
const rows = await startWriter(cluster, 'node1');
await backUp({ cluster, leader: 'node1' });
say('there is a base backup');
let rounds = 0;
for (const [index, all] of plan(seed, 1_000).entries()) {
  if (Date.now() - started > minutes * 60_000) break;
  const steps = all.filter(({ fault }) => only.includes(fault));
  if (steps.length === 0 || (chosen && !chosen.includes(index + 1))) continue;
  rounds += 1;
  if (await calm()) await lack(index);
  say(`round ${index + 1}`);
  await disturb(world, steps, say);
  await heal(world);
  say('all is healed');
  await follows();
}
await calm();
const restored = await restore();
const { operations } = history;
if (operations.some(({ target }) => target === SITE)) violation('Barman was set to the standby site');
if (world.site) await loseCluster(world.site);
verdict(restored);

/** Runs this script again, in namespaces. @returns its exit status */
function runInNamespaces(): number {
  const CHAOS_TOOLS = installTools();
  const CHAOS_FOLDER = mkdtempSync(join(FOLDER, 'chaos-'));
  const status = inNamespaces(process.argv, { CHAOS_TOOLS, CHAOS_FOLDER });
  if (status === 0) rmSync(CHAOS_FOLDER, { recursive: true });
  else console.log(`The logs are in ${CHAOS_FOLDER}`);
  return status;
}

/** Waits until Barman follows the leader on which the nodes agree. @returns whether it does */
async function follows(): Promise<boolean> {
  let leader: NodeName | undefined;
  let since = Date.now();
  for (;;) {
    const now = await cluster.agreedLeader();
    if (now !== leader) [leader, since] = [now, Date.now()];
    const took = Date.now() - since;
    const isApplied = leader !== undefined && barman.active.model === `pg:${leader}`;
    if (leader && isApplied && (await cluster.streamingSince(leader))) {
      times.push(took);
      say(`Barman follows ${leader}, after ${seconds(took)}`);
      await undone(leader);
      return true;
    }
    const last = history.operations.findLast(({ target }) => target === `model pg:${leader}`);
    if (took > limit + (last?.isDead && !isApplied ? DEAD_OPERATION : 0)) {
      if (leader && isApplied) return remedied(leader);
      if (leader) {
        violation(`the model is ${barman.active.model} and the leader ${leader}, after ${seconds(took)}`);
        return false;
      }
      inconclusive += 1;
      say(`inconclusive: the nodes do not agree on a leader, after ${seconds(took)}`);
      return false;
    }
    await sleep(200);
  }
}

/**
 * What follows if the model is the leader's, but Barman does not stream: that is reported, and has a cause
 * that the function cannot end.
 */
async function remedied(leader: NodeName): Promise<boolean> {
  const reported = history.beats.at(-1)?.result.observed?.notStreaming ?? [];
  if (reported.length === 0) violation('Barman does not stream, and no heartbeat reports it');
  await inspect((report) => wrongFindings(report, false));
  try {
    const printed = await barman.whyNotStreaming(20_000);
    const cause = CAUSES.find(({ prints }) => prints.test(printed));
    const match = cause?.prints.exec(printed);
    if (!cause || !match) throw new Error(`Barman does not stream, for no known cause: ${printed}`);
    notStreaming += 1;
    say(`not streaming, which the heartbeats report: ${match[0]}`);
    isGap = (await cause.remedy({ cluster, leader }, match)) || isGap;
    const streams = () => cluster.streamingSince(leader);
    await until(streams, 'Barman does not stream after the remedy', limit);
    say('Barman streams after the remedy');
    await undone(leader);
    return true;
  } catch (error) {
    violation((error as Error).message);
    return false;
  }
}

/** What follows if Patroni has undone a promotion by hand, also if Barman streams. */
async function undone(leader: NodeName): Promise<void> {
  const timelines = await moveUndoneAway({ cluster, leader }, history.promotedByHand);
  if (timelines.length === 0) return;
  isGap = true;
  say(`undone: the promotion to timeline ${timelines.join(', ')}, which was moved away`);
}

/** Waits until all is healthy, and inspects. @returns whether Barman follows */
async function calm(): Promise<boolean> {
  await repair(cluster, say);
  if (!(await follows())) return false;
  await inspect((report) => wrongFindings(report, true));
  return true;
}

/** Takes away what a failover needs, inspects, and gives it back. */
async function lack(round: number): Promise<void> {
  const taken: Lack = await takeAway(world, round);
  say(`${taken.kind}: ${taken.members.join(', ')}`);
  await inspect((report) => overlooked(report, taken));
  await taken.end();
}

/** Inspects. @param wrong what is wrong with the report: sentences */
async function inspect(wrong: (report: InspectionReport) => string[]): Promise<void> {
  const report = (await world.aws.call('inspect')) as InspectionReport | { readonly message: string };
  if ('message' in report) return violation(`an inspection fails: ${report.message}`);
  inspections += 1;
  for (const text of wrong(report)) violation(text);
}

/**
 * Restores the newest backup, and the first one if there is a newer one.
 *
 * @returns how many rows the newest has, and how many acknowledged ones the leader lacks
 */
async function restore(): Promise<{ restored: number; dead: number }> {
  const leader = await cluster.healthy();
  if (!(await cluster.streamingSince(leader))) {
    violation('no restore: Barman does not stream');
    return { restored: 0, dead: 0 };
  }
  let restored = 0;
  let dead = 0;
  for (const backup of isGap ? ['first', 'latest'] : ['latest']) {
    const before = await rowsOf(cluster, leader);
    try {
      const ids = new Set(idsIn((await barman.restore(ALL_IDS, backup)).answer));
      const acknowledged = [...rows];
      const after = await rowsOf(cluster, leader);
      restored = ids.size;
      dead = acknowledged.filter(({ id }) => !after.has(id)).length;
      say(`the ${backup} backup has ${restored} rows; the leader had ${before.size}`);
      const beforeGap = isGap && backup === 'first';
      for (const text of wrongRows(rows, { before, after, ids, beforeGap })) violation(text);
    } catch (error) {
      // The command line is long, and PostgreSQL says in its log why it did not start.
      const { stderr, message } = error as Error & { stderr?: string };
      const log = await readFile(join(folder, 'restore/scratch.log'), 'utf8').catch(() => '');
      violation(`the restore of the ${backup} backup fails: ${stderr ?? message}${log.slice(-2_000)}`);
      rmSync(join(folder, 'restore'), { recursive: true, force: true });
    }
  }
  return { restored, dead };
}

/** Kills all nodes of the cluster, and promotes the standby site: Barman must be set to that. */
async function loseCluster(site: PatroniCluster): Promise<void> {
  const down = await site.unhealthy();
  if (down.length > 0) return say(`inconclusive: ${down.join(', ')} of the standby site cannot be promoted`);
  for (const name of cluster.names) await cluster.kill(name);
  await site.rest('site1', 'PATCH', 'config', { standby_cluster: null });
  const since = Date.now();
  say('the cluster is lost, and the standby site promoted');
  const isSet = () => `model ${barman.active.model}` === SITE;
  await until(isSet, 'Barman is not set to the promoted site', promise(interval * 1_000, true)).then(
    () => say(`Barman is set to the promoted site, after ${seconds(Date.now() - since)}`),
    ({ message }) => violation(message),
  );
}

function violation(text: string): void {
  violations.push(text);
  say(`VIOLATION: ${text}`);
}

function verdict({ restored, dead }: { restored: number; dead: number }): never {
  for (const text of outdatedOperations(history)) violation(text);
  for (const text of wrongModels(history, barman.changes, Date.now())) violation(text);
  const { answers, leases, beats } = history;
  const followed = seconds(Math.max(...times));
  const found = violations.length === 0 ? 'none' : String(violations.length);
  const codes = Object.groupBy(answers, ({ exitCode, status }) =>
    exitCode === null ? `HTTP ${status}` : `ExitCode ${exitCode}`,
  );
  const counted = Object.entries(codes).map(([code, all = []]) => `${all.length} × ${code}`);
  const inWords = `${inconclusive} inconclusive, ${notStreaming} not streaming until remedied`;
  console.log(`
seed ${seed}, ${rounds} rounds (${inWords}), violations: ${found}
Barman followed within ${followed} (promised: ${seconds(limit)})
${answers.length} answers to webhooks: ${counted.join(', ')}
${beats.length} heartbeats, ${leases.length} leases, ${operations.length} operations, ${inspections} inspections, ${history.cuts.length} POSTs cut
${restored} rows restored; ${dead} acknowledged rows were on dead branches`);
  const counts = [
    rounds,
    inconclusive,
    notStreaming,
    answers.length,
    beats.length,
    operations.length,
    inspections,
  ];
  addRow('chaos', [seed, minutes, `${interval} s`, ...counts, followed, restored, dead, found]);
  process.exit(violations.length === 0 ? 0 : 1);
}
