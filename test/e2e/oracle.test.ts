/**
 * Compares the function with the real `patroni_barman config-switch`, with the same inputs and the same
 * pg-backup-api: every role, switch_when, target and ending of the operation. The table of differences in
 * docs/development.md comes from this test: UPDATE_DOCS=1 writes it.
 */

import { execFile } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { ExitCode } from '../../functions/config-switch/exit-code.ts';
import { startFunction } from '../integration/function.ts';
import { LIMITS } from '../language.ts';
import { inOneCluster, MODELS } from '../stand-ins/barman-host.ts';
import { PatroniStandIn } from '../stand-ins/patroni-rest-api.ts';
import { PgBackupApiStandIn } from '../stand-ins/pg-backup-api.ts';

const ROLES = ['primary', 'promoted', 'master', 'standby_leader', 'replica', 'demoted'];
/** The values that the command has, each with the roles that match it. */
const SWITCH_WHEN: Record<string, readonly string[]> = {
  promoted: ['primary', 'promoted', 'master'],
  demoted: ['replica', 'demoted'],
  always: ROLES,
};
const PAGE = 'docs/development.md';
const TARGETS: Record<string, { words: readonly string[]; fields: object }> = {
  model: { words: ['--barman-model', 'pg:node2'], fields: { barman_model: 'pg:node2' } },
  reset: { words: ['--reset'], fields: { reset: true } },
  // The command cannot ask for the leader: it is compared with the leader's model.
  leader: { words: ['--barman-model', 'pg:node2'], fields: { follow_leader: true } },
  both: {
    words: ['--barman-model', 'pg:node2', '--reset'],
    fields: { barman_model: 'pg:node2', reset: true },
  },
  neither: { words: [], fields: {} },
};
/** How the operation ends, or why there is none. */
const ENDINGS = ['DONE', 'FAILED', 'unknown server', 'down'] as const;
type Ending = (typeof ENDINGS)[number];
/** How long an operation takes on a host with one server (ms). */
const OPERATION_TIME = 700;
/** Cases that run at the same time. */
const CONCURRENCY = 16;

interface Case {
  readonly index: number;
  readonly role: string;
  readonly switchWhen: string;
  readonly target: string;
  readonly ending: Ending;
  /** What the command documents (patroni.scripts.barman.config_switch, ExitCode and its order of checks). */
  readonly documented: ExitCode;
}

const cases: Case[] = ROLES.flatMap((role) =>
  Object.keys(SWITCH_WHEN).flatMap((switchWhen) =>
    Object.keys(TARGETS).flatMap((target) =>
      ENDINGS.map((ending) => ({
        role,
        switchWhen,
        target,
        ending,
        documented: documented(role, switchWhen, target, ending),
      })),
    ),
  ),
).map((one, index) => ({ ...one, index }));

function documented(role: string, switchWhen: string, target: string, ending: Ending): ExitCode {
  if (!SWITCH_WHEN[switchWhen]?.includes(role)) return ExitCode.CONFIG_SWITCH_SKIPPED;
  if (target === 'both' || target === 'neither') return ExitCode.INVALID_ARGS;
  if (ending === 'DONE') return ExitCode.CONFIG_SWITCH_DONE;
  return ending === 'FAILED' ? ExitCode.CONFIG_SWITCH_FAILED : ExitCode.HTTP_ERROR;
}

const UNKNOWN = 'unknown';
/** A Barman server for each run: two operations of one server cannot begin in the same second. */
const serverOf = (subject: 'command' | 'function', { index, ending }: Case) =>
  ending === 'unknown server' ? UNKNOWN : `${subject}${index}`;
const apis = new Map<Ending, PgBackupApiStandIn>();
const urlOf = (ending: Ending) => (apis.get(ending) ?? apis.get('DONE'))?.url ?? '';

beforeAll(async () => {
  const names = cases.flatMap((one) => [serverOf('command', one), serverOf('function', one)]);
  const servers = inOneCluster(names.filter((name) => name !== UNKNOWN));
  const options = { servers, models: MODELS, operationTime: OPERATION_TIME };
  apis.set('DONE', await PgBackupApiStandIn.start(options));
  const failing = async () => {
    await sleep(OPERATION_TIME);
    return false;
  };
  apis.set('FAILED', await PgBackupApiStandIn.start({ ...options, barman: failing }));
  const down = await PgBackupApiStandIn.start();
  await down.refuse();
  apis.set('down', down);
});
afterAll(async () => {
  for (const api of apis.values()) await api.close();
});

interface Exit {
  readonly code: number;
  /** What ended the command, if it was not the switch. */
  readonly cause: string;
}

/** Runs the real command. */
async function runCommand(one: Case): Promise<Exit> {
  const words = [
    ...['--api-url', `${urlOf(one.ending)}/`, '--retry-wait', '0', 'config-switch'],
    ...['--barman-server', serverOf('command', one), ...(TARGETS[one.target]?.words ?? [])],
    ...['--switch-when', one.switchWhen, 'on_role_change', one.role, 'main'],
  ];
  return new Promise((resolve) => {
    execFile(join(inject('tools'), 'patroni_barman'), words, (error, _, stderr) => {
      const cause = stderr.includes('Traceback')
        ? 'a traceback'
        : stderr.includes('usage:')
          ? 'argparse'
          : '';
      resolve({ code: error ? Number(error.code) : 0, cause });
    });
  });
}

/** Runs an action for each item, CONCURRENCY at a time. @returns the results in the order of the items */
async function forEach<T, R>(all: readonly T[], action: (one: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  const next = all.entries();
  await Promise.all(
    Array.from({ length: CONCURRENCY }, async () => {
      for (const [index, one] of next) results[index] = await action(one);
    }),
  );
  return results;
}

/** Joins lines that differ only in one of the first three cells. */
function linesOf(all: readonly (readonly string[])[]): string[][] {
  let lines = all.map((cells) => [...cells]);
  for (const merged of [2, 1, 0]) {
    const groups = Map.groupBy(lines, (cells) => cells.filter((_, cell) => cell !== merged).join('|'));
    lines = [...groups.values()].map((group) =>
      (group[0] as string[]).map((cell, index) =>
        index === merged ? [...new Set(group.map((cells) => cells[merged]))].join(', ') : cell,
      ),
    );
  }
  return lines;
}

const pairOf = (role: string, switchWhen: string) => `\`${role}\` with ${switchWhen}`;
const matches = (role: string, switchWhen: string) => SWITCH_WHEN[switchWhen]?.includes(role);

/** @returns words for pairs of role and switch_when that are all of one kind, or the pairs themselves */
function inWords(pairs: string): string {
  const without = (one?: string) => ROLES.filter((role) => role !== one);
  const pairsOf = (roles: readonly string[], matching: boolean) =>
    roles.flatMap((role) =>
      Object.keys(SWITCH_WHEN)
        .filter((switchWhen) => matches(role, switchWhen) === matching)
        .map((switchWhen) => pairOf(role, switchWhen)),
    );
  const kinds: [string, string[]][] = [
    ['every role that matches `switch_when`', pairsOf(ROLES, true)],
    ['every role except `master` that matches `switch_when`', pairsOf(without('master'), true)],
    ['every role that does not match `switch_when`', pairsOf(ROLES, false)],
  ];
  return kinds.find(([, all]) => all.join(', ') === pairs)?.[0] ?? pairs;
}

/** @returns the pairs, in cells that are not too long */
function cellsOf(pairs: string): string[] {
  const cells: string[] = [];
  for (const pair of pairs.split(', ')) {
    const longer = `${cells.at(-1)}, ${pair}`;
    if (cells.length > 0 && longer.length <= LIMITS.cell) cells.splice(-1, 1, longer);
    else cells.push(pair);
  }
  return cells;
}

let patroni: PatroniStandIn;
beforeAll(async () => {
  patroni = await PatroniStandIn.start();
  patroni.leader = 'node2';
});
afterAll(() => patroni[Symbol.asyncDispose]());

test('the function › ends with the ExitCode that patroni_barman documents, and the docs list where the command does not', async () => {
  const exits = await forEach(cases, runCommand);
  const exitCodes: (ExitCode | undefined)[] = [];
  for (const ending of ENDINGS) {
    await using run = await startFunction();
    const servers = Object.fromEntries(
      cases.map((one) => [serverOf('function', one), { node1: 'pg:node1', node2: 'pg:node2' }]),
    );
    run.host.put({
      ...{ url: urlOf(ending), 'allow-plain-http': 'true' },
      'clusters/main': JSON.stringify({ servers, patroni: patroni.urls }),
    });
    await forEach(
      cases.filter((one) => one.ending === ending),
      async (one) => {
        const { exit_code } = await run.invoke({
          action: 'on_role_change',
          role: one.role,
          cluster: 'main',
          barman_server: serverOf('function', one),
          switch_when: one.switchWhen,
          ...TARGETS[one.target]?.fields,
        });
        exitCodes[one.index] = exit_code;
      },
    );
  }
  expect(cases.filter(({ index, documented }) => exitCodes[index] !== documented)).toEqual([]);

  const differing = cases.filter(({ index, documented }) => exits[index]?.code !== documented);
  const count = cases.length;
  const table = [
    `Of ${count} cases the function ends with the documented ExitCode in ${count}, ` +
      `\`patroni_barman\` in ${count - differing.length}:`,
    '',
    '| role and `switch_when` | target | operation or API | documented | the function | `patroni_barman` |',
    '| --- | --- | --- | --- | --- | --- |',
    ...linesOf(
      differing.map(({ index, role, switchWhen, target, ending, documented }) => {
        const { code, cause } = exits[index] as Exit;
        const codes = [
          String(documented),
          String(exitCodes[index]),
          cause ? `${code}, ${cause}` : String(code),
        ];
        return [pairOf(role, switchWhen), target, ending, ...codes];
      }),
    ).flatMap(([pairs = '', ...cells]) =>
      cellsOf(inWords(pairs)).map((cell) => `| ${cell} | ${cells.join(' | ')} |`),
    ),
  ].join('\n');

  const page = readFileSync(PAGE, 'utf8');
  const updated = page.replace(
    /(<!-- oracle -->\n)[\s\S]*?(\n<!-- \/oracle -->)/,
    (_, begin, end) => begin + table + end,
  );
  if (process.env.UPDATE_DOCS) writeFileSync(PAGE, updated);
  else expect(updated).toBe(page);
}, 400_000);
