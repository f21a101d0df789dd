/**
 * docs/tutorial.md, command by command, each on the host that the page names: real PostgreSQL, Patroni, Barman and
 * nginx, the function in the emulator of AWS. UPDATE_DOCS=1 writes the outputs into the page.
 */

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { namespaced } from './namespaces.ts';
import { Remote } from './remote.ts';
import type { Host, HostsOptions } from './tutorial/hosts.ts';
import { type Step, shown, stepsOf } from './tutorial/page.ts';

const PAGE = 'docs/tutorial.md';
/** How long a step that only looks may take to show what the page shows (ms): heartbeats are a minute apart. */
const LIMIT = 150_000;
const HOSTS: Readonly<Record<string, readonly Host[]>> = {
  'your machine': ['machine'],
  'the Barman host': ['barman'],
  node1: ['node1'],
  node2: ['node2'],
  'each node': ['node1', 'node2'],
};
/** What is not run, by the heading above it or its beginning, and why. */
const NOT_RUN: Readonly<Record<string, string>> = {
  'npm ci': 'it has been run',
  'pg-backup-api from source':
    'GitHub is not reached by the tests, and a stand-in has the place of pg-backup-api',
};

const folder = mkdtempSync(join(inject('folder'), 'tutorial-'));
const hosts = new Remote<never>(
  namespaced([process.execPath, resolve('test/e2e/tutorial/hosts.ts')]),
  join(folder, 'hosts.log'),
  () => {},
);
const ended = new Promise((resolve) => hosts.process.once('exit', resolve));
/** What the reader replaces by what is his. */
const words: Record<string, string> = {
  // The emulator's endpoints have no DNS names.
  'alarm-email: dba@example.com': 'alarm-email: dba@example.com\nssm-access: nat',
};
/** What stays in force in the shell of a host. */
const environment = new Map<Host, string>();
let page = readFileSync(PAGE, 'utf8');
/** A step has failed, so those after it would, too. */
let isBroken = false;

beforeAll(async () => {
  await hosts.call('start', { folder, tools: inject('tools') } satisfies HostsOptions);
}, 200_000);

afterAll(async () => {
  hosts.process.kill('SIGKILL');
  await ended;
  rmSync(folder, { recursive: true });
});

const isRun = ({ heading, text }: Step) =>
  !(heading in NOT_RUN) && !Object.keys(NOT_RUN).some((start) => text.startsWith(start));

interface Printed {
  readonly status: number;
  readonly output: string;
}

/** Replaces what is the reader's. */
const filled = (text: string) =>
  Object.entries(words).reduce((all, [from, to]) => all.replaceAll(from, to), text);

/** Runs the commands on one host. */
async function run(host: Host, text: string, user?: string): Promise<Printed> {
  const commands = filled(text);
  const before = environment.get(host) ?? '';
  const printed = (await hosts.call('run', { host, user, commands: before + commands })) as Printed;
  const kept = /^(?:umask|export) .*$/gm.exec(commands);
  if (kept) environment.set(host, `${before}${kept[0]}\n`);
  return printed;
}

/** What the page has before its first run. */
const UNWRITTEN = '?\n';

/** What only looks, and is repeated until it shows what the page shows: heartbeats and reloads take a while. */
const LOOKS = /^(?:npm run ledger|patronictl list|curl|tail|barman (?:check|show)|for node.*\n.*psql -w)/;

/** `check` has found something, or the callback has skipped the dry run. */
const ENDS_WITH_1 = /^npm run ledger -- .* check$|--dry-run/m;

/** Runs a step on one host. @throws AssertionError if it fails, or shows something else than the page */
async function perform(host: Host, { text, user, output }: Step): Promise<string> {
  const end = performance.now() + (LOOKS.test(text) ? LIMIT : 0);
  for (;;) {
    const printed = await run(host, text, user);
    const isDone = printed.status === 0 || ENDS_WITH_1.test(text);
    if (
      isDone &&
      (output === undefined || output === UNWRITTEN || shown(output, printed.output) !== undefined)
    )
      return printed.output;
    if (performance.now() > end) {
      if (!isDone) throw new Error(`${text}\n${printed.output}\n${await hosts.call('logs')}`);
      return printed.output;
    }
    await sleep(1_000);
  }
}

test.each(
  stepsOf(page)
    .filter(isRun)
    .map((step) => [step.heading, step.host, step.text.split('\n')[0], step] as const),
)(
  '%s › on %s: %s …',
  async (_, name, __, step) => {
    expect(isBroken, 'a step before it failed').toBe(false);
    isBroken = true;
    for (const host of HOSTS[name] ?? []) {
      if (step.file !== undefined) {
        await hosts.call('merge', { host, path: step.file, yaml: filled(step.text) });
        continue;
      }
      const printed = await perform(host, step);
      if (step.output !== undefined) compare(step, step.output, printed);
    }
    if (step.text.includes('barman cron')) await hosts.call('startCron');
    if (step.text.startsWith('npm run deploy')) await readOutputs();
    isBroken = false;
  },
  400_000,
);

function compare(step: Step, output: string, printed: string): void {
  const actual = shown(output, printed);
  const block = (one: string) => `${step.text}\`\`\`\n\n\`\`\`\n${one}\`\`\`\n`;
  if (process.env.UPDATE_DOCS) {
    page = page.replace(block(output), () => block(actual ?? `${printed.trimEnd()}\n`));
    writeFileSync(PAGE, page);
  }
  expect(
    actual ?? process.env.UPDATE_DOCS,
    `the page shows\n${output}\nprinted was\n${printed}`,
  ).toBeDefined();
}

/** The URL of the callbacks. */
async function readOutputs(): Promise<void> {
  const { output } = await run(
    'machine',
    `aws cloudformation describe-stacks --region eu-central-1 --stack-name barman-config-switch-prod --output text --query "Stacks[0].Outputs[?OutputKey=='ConfigSwitchUrl'].OutputValue"`,
  );
  words['https://…/config-switch'] = output.trim();
  await hosts.call('name', new URL(output.trim()).hostname);
}
