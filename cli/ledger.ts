/**
 * `npm run ledger -- --stage S`: what each Barman server should be set to, what it was last set to, what
 * Patroni says, and why they differ; and the commands for it, see COMMANDS.
 *
 * It finds credentials as AWS's own command does, AWS_PROFILE and so on; the stage local is that of a running
 * `npm start`, and needs none.
 */

import { existsSync } from 'node:fs';
import { hostname, userInfo } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { ResourceNotFoundException } from '@aws-sdk/client-dynamodb';
import { InvokeCommand, LambdaClient } from '@aws-sdk/client-lambda';
import * as v from 'valibot';
import { rehearse } from '../functions/config-switch/barman/dry-run.ts';
import { LedgerError, messageOf } from '../functions/config-switch/errors.ts';
import { ResponseSchema } from '../functions/config-switch/event/response.ts';
import { ExitCode } from '../functions/config-switch/exit-code.ts';
import { explainToOperator, networkFailureOf } from '../functions/config-switch/http/network-errors.ts';
import { InspectionReport } from '../functions/config-switch/inspect/report.ts';
import { DynamoDbTable, LedgerClient } from '../functions/config-switch/ledger/dynamodb.ts';
import { type Item, isLeased, isPending } from '../functions/config-switch/ledger/item.ts';
import { Ledger, type Servers } from '../functions/config-switch/ledger/ledger.ts';
import { Operator } from '../functions/config-switch/ledger/operator.ts';
import { stateOf } from '../functions/config-switch/ledger/overview.ts';
import type { ClusterReport } from '../functions/config-switch/ledger/stage.ts';
import { describeParameters } from '../functions/config-switch/settings/describe.ts';
import { Settings } from '../functions/config-switch/settings/settings.ts';
import { BarmanName } from '../functions/config-switch/target.ts';
import { cut, listOf, printableLines } from '../functions/config-switch/text.ts';
import { isClean, parameterLines, pendingText, reportText } from './check.ts';
import { columns, type Program, start, UsageError, type Values } from './command-line.ts';
import { failureQueue, redrive } from './redrive.ts';
import { asJson, asTable, time, tried } from './show.ts';
import {
  LOCAL_STAGE,
  readLocal,
  regionOfStage,
  STAGE_OPTIONS,
  stageFile,
  unknownStage,
  useLocal,
} from './stage.ts';

/** For each request to AWS (ms). */
const TIMEOUT = 30_000;
/** The longest time of an invocation (ms). */
const INVOCATION_TIME = 30_000;
/** How long to wait for the response of one (ms): the function may have to start first. */
const INVOKE_TIMEOUT = 45_000;
/** The same for an inspection (ms). */
const INSPECTION_TIMEOUT = 75_000;
/** Between two looks at the ledger with --watch (ms). */
const WATCH_INTERVAL = 2_000;

/** Those that are not of the stage are explained with the commands. */
const OPTIONS = {
  ...STAGE_OPTIONS,
  watch: { type: 'boolean' },
  json: { type: 'boolean' },
  for: { type: 'string' },
  'no-wait': { type: 'boolean' },
  reason: { type: 'string' },
  cluster: { type: 'string' },
  all: { type: 'boolean' },
  force: { type: 'boolean' },
} as const;

/** A Barman without servers. */
const NOTHING = { servers: new Map(), models: new Map() };

interface Command {
  /** As it is typed; the documentation leaves out what is in brackets, so that each line there can be run. */
  readonly typed: string;
  readonly help: string;
  /** @returns the exit status */
  readonly run: (stage: Stage, server: string, model?: string) => Promise<number>;
}

/** What may follow `npm run ledger -- --stage S`: help, documentation and dispatch come from here. */
const COMMANDS: readonly Command[] = [
  { typed: '', help: 'each server: state, desired, applied, leader, streaming', run: list },
  { typed: '--watch', help: 'the same, every two seconds', run: list },
  { typed: '--json', help: 'for scripts: all attributes, and the state', run: list },
  {
    typed: 'retry SERVER [--json]',
    help: 'tries at once, instead of when the next attempt is due',
    run: retry,
  },
  {
    typed: 'pause SERVER [--json] [--no-wait] [--reason TEXT]',
    help: 'for maintenance on the Barman host: nothing is sent, events are recorded',
    run: pause,
  },
  { typed: 'pause SERVER --for 2h', help: 'the pause ends by itself (m, h or d)', run: pause },
  {
    typed: 'pause --cluster CLUSTER',
    help: 'all servers of a cluster: its name in clusters/NAME, or its Patroni scope',
    run: pause,
  },
  { typed: 'pause --all', help: 'all servers, later ones included', run: pause },
  { typed: 'resume SERVER [--json]', help: 'the next heartbeat applies what was recorded', run: resume },
  { typed: 'resume --cluster CLUSTER', help: 'all servers of a cluster', run: resume },
  {
    typed: 'resume --all',
    help: 'ends `pause --all`; servers that are paused themselves stay so',
    run: resume,
  },
  {
    typed: 'set SERVER MODEL',
    help: 'a role change by hand, in order with the others: applies a model',
    run: set,
  },
  { typed: 'reset SERVER', help: 'the same, drops the active model', run: set },
  {
    typed: 'forget SERVER',
    help: 'deletes the item of a server that is not used any more: in sync, and without a role change for 15 days',
    run: forget,
  },
  {
    typed: 'forget SERVER --force',
    help: 'the same, whatever its item says, also if it cannot be read',
    run: forget,
  },
  {
    typed: 'check [--json]',
    help: 'looks at parameters, Barman and Patroni: what would a failover lack, is WAL archived',
    run: check,
  },
  { typed: 'redrive', help: 'sends the events of the failure queue again', run: redriveEvents },
];

export const LEDGER: Program<typeof OPTIONS> = {
  name: 'npm run ledger',
  summary: 'Shows, or changes, what the ledger of a stage remembers of each Barman server.',
  operands: COMMANDS.map(({ typed, help }) => [typed || '(nothing)', help]),
  options: OPTIONS,
};

/** Returns the commands for docs/reference/cli.md. */
export function documentedCommands(): string {
  const rows = COMMANDS.map(({ typed, help }) => {
    return [`npm run ledger -- --stage prod ${typed.replace(/ \[.*/, '')}`.trim(), `# ${help}`];
  });
  return ['```sh', ...columns(rows), '```'].join('\n');
}

/** Carries out the command. @returns the exit status */
export async function ledger(values: Values<typeof OPTIONS>, operands: readonly string[]): Promise<number> {
  const [name = '', server = '', model, ...rest] = operands;
  const forms = COMMANDS.filter(({ typed }) => name === (/^\w+/.exec(typed)?.[0] ?? ''));
  const [command] = forms;
  if (command === undefined) throw new UsageError(`unknown command ${name}`);
  const typed = forms.flatMap((form) => form.typed.split(/[ [\]]+/));
  const foreign = Object.keys(values).find(
    (option) => !(option in STAGE_OPTIONS || typed.includes(`--${option}`)),
  );
  if (foreign !== undefined) throw new UsageError(`--${foreign} is for another command`);
  const several = values.all || values.cluster !== undefined;
  const wantsServer = typed.includes('SERVER') && !several;
  const wantsModel = typed.includes('MODEL');
  if (wantsServer !== (server !== '') || wantsModel !== (model !== undefined) || rest.length > 0) {
    throw new UsageError(`expected: ${forms.map((form) => form.typed).join(', or: ')}`);
  }
  for (const [what, given] of Object.entries({ SERVER: server, MODEL: model })) {
    const [issue] = given ? (v.safeParse(BarmanName, given).issues ?? []) : [];
    if (issue) throw new UsageError(`${what} ${issue.message}, not "${cut(given ?? '', 255)}"`);
  }
  if (values.all && values.cluster !== undefined) {
    throw new UsageError('--all and --cluster exclude each other');
  }
  if (values.watch && values.json) throw new UsageError('--watch and --json exclude each other');
  const stage = new Stage(values);
  return command.run(stage, server, model).catch((error) => {
    throw stage.explain(error);
  });
}

/** How the function is invoked. */
interface InvokeOptions {
  /** Who does, for the function's log. */
  readonly operator?: string;
  /** The alias. */
  readonly qualifier?: string;
  /** How long to wait for the response (ms). */
  readonly timeout?: number;
}

/** One stage: its ledger and its function. */
class Stage {
  readonly values: Values<typeof OPTIONS>;
  /** Of the function, and of the ledger's table. */
  readonly name: string;
  readonly ledger: Ledger;
  readonly operator: Operator;

  /** Sets AWS_REGION, and what else the stage of `npm start` needs, for all clients. */
  constructor(values: Values<typeof OPTIONS>) {
    this.values = values;
    const { stage, region } = values;
    process.env.AWS_REGION = regionOfStage(stage, region);
    if (stage === LOCAL_STAGE) useLocal(readLocal().aws);
    this.name = `barman-config-switch-${stage}`;
    const table = new DynamoDbTable(new LedgerClient('command'), this.name);
    this.ledger = new Ledger(table);
    this.operator = new Operator(this.ledger, table);
  }

  /** @param only the servers to show; none: all */
  format(servers: Servers, only: readonly string[] = []): string {
    const now = Date.now();
    return this.values.json
      ? asJson(servers, now, only)
      : asTable(servers, now, process.stdout.columns ?? 80, only);
  }

  /** Returns the servers of the ledger. */
  async servers(): Promise<string[]> {
    const { items, unreadable } = await this.ledger.all(signal());
    return [...items, ...unreadable].map(({ barman_server }) => barman_server);
  }

  /**
   * Returns the server of a command, or those of its --cluster: the servers that the parameter `clusters/NAME`
   * lists and, since a stage may have no such parameters, those whose newest role change came from that
   * Patroni scope.
   *
   * @throws Error if no cluster has that name
   */
  async named(server: string): Promise<readonly string[]> {
    const { cluster } = this.values;
    if (cluster === undefined) return [server];
    const { items, stage } = await this.ledger.all(signal());
    const listed = (stage.heartbeat?.clusters ?? []).flatMap(({ name, servers }) =>
      servers.map((one) => ({ cluster: name, server: one.name })),
    );
    const recorded = items.flatMap(({ barman_server, desired }) =>
      desired ? [{ cluster: desired.cluster, server: barman_server }] : [],
    );
    const all = [...listed, ...recorded];
    const names = new Set(all.filter((one) => one.cluster === cluster).map((one) => one.server));
    if (names.size > 0) return [...names];
    const known = [...new Set(all.map((one) => one.cluster))];
    throw new Error(
      `unknown cluster ${cluster} in the last heartbeat and in the ledger of ${this.name}; known: ${listOf(known) || 'none'}`,
    );
  }

  /** Shows some servers as they are now, or all. @returns the exit status */
  async show(servers: readonly string[]): Promise<number> {
    console.log(this.format(await this.ledger.all(signal()), servers));
    return 0;
  }

  /**
   * Does something for each server of a command. If the command is for several, an error is printed, and the
   * others go on.
   *
   * @returns the servers for which it failed
   * @throws what the action throws, if the command is for one server
   */
  async each(
    servers: readonly string[],
    action: (server: string) => Promise<unknown>,
  ): Promise<readonly string[]> {
    const failed: string[] = [];
    for (const server of servers) {
      try {
        await action(server);
      } catch (error) {
        if (!this.values.all && this.values.cluster === undefined) throw error;
        console.error(printableLines(`${server}: ${messageOf(this.explain(error))}`));
        failed.push(server);
      }
    }
    return failed;
  }

  /** Warns of a server that may be misspelt: neither the ledger nor a cluster has it. */
  warnIfUnknown(server: string, { items, unreadable, stage }: Servers): void {
    const known = new Set([
      ...[...items, ...unreadable].map(({ barman_server }) => barman_server),
      ...(stage.heartbeat?.clusters ?? []).flatMap(({ servers }) => servers.map(({ name }) => name)),
    ]);
    if (known.has(server)) return;
    console.error(
      printableLines(
        `Warning: neither the ledger of ${this.name} nor a cluster has a server ${server}; known: ${listOf([...known].sort()) || 'none'}. ` +
          `If the name is misspelt, run afterwards: forget ${server}`,
      ),
    );
  }

  /** Returns the item @throws Error that names the servers of the ledger, if it is not there */
  async known(server: string, item: Item | undefined): Promise<Item> {
    if (item) return item;
    const { items, unreadable } = await this.ledger.all(signal());
    const known = [...items, ...unreadable].map(({ barman_server }) => barman_server);
    throw new Error(
      `unknown server ${server} in the ledger of ${this.name}; known: ${listOf(known) || 'none'}`,
    );
  }

  /**
   * Invokes the deployed function.
   *
   * @returns its response
   * @throws Error if it failed, or did not respond: then it may have done what was asked, or may do it yet
   */
  async invoke(
    event: unknown,
    { operator, qualifier, timeout = INVOKE_TIMEOUT }: InvokeOptions = {},
  ): Promise<unknown> {
    const context = operator && Buffer.from(JSON.stringify({ custom: { operator } })).toString('base64');
    const command = new InvokeCommand({
      FunctionName: this.name,
      ...(qualifier && { Qualifier: qualifier }),
      Payload: JSON.stringify(event),
      ...(context && { ClientContext: context }),
    });
    const look = `so the outcome is unknown; look with: npm run ledger -- --stage ${this.values.stage}`;
    const limit = AbortSignal.timeout(timeout);
    const { FunctionError, Payload } = await new LambdaClient({})
      .send(command, { abortSignal: limit })
      .catch((error: unknown) => {
        if (limit.aborted) {
          throw new Error(`the function did not respond within ${timeout / 1_000} s, ${look}`);
        }
        const explained = explainToOperator(error, 'Lambda');
        if (!networkFailureOf(error)?.sent) {
          throw new Error(`the function could not be invoked: ${explained}`);
        }
        throw new Error(`the function's response was lost, ${look}: ${explained}`);
      });
    const response = Payload?.transformToString() ?? '';
    if (FunctionError) throw new Error(`the function failed, ${look}: ${response}`);
    return JSON.parse(response);
  }

  /** @throws LedgerError if the stage is not deployed: any read fails without the table */
  async expectDeployed(): Promise<void> {
    await this.ledger.get('-', signal());
  }

  /** Returns the error to show; that of a missing table names the stage, which may be misspelt */
  explain(error: unknown): unknown {
    if (!(error instanceof LedgerError && error.cause instanceof ResourceNotFoundException)) return error;
    const { stage } = this.values;
    const missing = `table ${this.name} does not exist in ${process.env.AWS_REGION}`;
    const remedy =
      'give another --stage or --region; if the table was deleted: docs/how-to/ledger-lost.md; ' +
      `if the stage is new: npm run deploy -- --stage ${stage}`;
    return unknownStage(stage, missing, remedy);
  }
}

async function list(stage: Stage): Promise<number> {
  const items = async () => stage.format(await stage.ledger.all(signal()));
  if (!stage.values.watch) {
    console.log(await items());
    return 0;
  }
  // Until Ctrl-C. An error may be over the next time.
  for (;;) {
    const shown = await items().catch((error) => printableLines(messageOf(stage.explain(error))));
    const clear = process.stdout.isTTY ? '\x1b[H\x1b[J' : '\n';
    console.log(`${clear}${stage.name}, ${time(new Date().toISOString())}\n\n${shown}`);
    await sleep(WATCH_INTERVAL);
  }
}

async function retry(stage: Stage, server: string): Promise<number> {
  const before = await stage.known(server, await stage.operator.retry(server, signal()));
  const heartbeat = await stage.invoke({ heartbeat: true });
  const after = await stage.known(server, await stage.ledger.get(server, signal()));
  console.error(tried(before, after, await stage.ledger.stage(signal()), heartbeat));
  return stage.show([server]);
}

async function pause(stage: Stage, server: string): Promise<number> {
  const { for: given, 'no-wait': noWait, reason, all, cluster } = stage.values;
  const until = given === undefined ? undefined : Date.now() + duration(given);
  const servers = all ? [] : await stage.named(server);
  if (all) await stage.operator.pauseAll({ until, reason }, signal());
  else if (cluster === undefined) stage.warnIfUnknown(server, await stage.ledger.all(signal()));
  const failed = [
    ...(await stage.each(servers, (one) => stage.operator.pause(one, { until, reason }, signal()))),
  ];
  if (!noWait) {
    if (all) {
      console.error(
        `All servers are paused. An invocation that began before may not know that; waiting ${INVOCATION_TIME / 1_000} s until it has ended.`,
      );
      await sleep(INVOCATION_TIME);
    }
    const paused = all ? await stage.servers() : servers.filter((one) => !failed.includes(one));
    failed.push(...(await stage.each(paused, (one) => waitForLease(stage.ledger, one))));
  }
  await stage.show(servers);
  return failed.length === 0 ? 0 : 1;
}

async function resume(stage: Stage, server: string): Promise<number> {
  const { all, cluster } = stage.values;
  if (all) {
    await stage.operator.resumeAll(signal());
    return stage.show([]);
  }
  const servers = await stage.named(server);
  const failed = await stage.each(servers, async (one) => {
    const item = await stage.operator.resume(one, signal());
    if (item || cluster === undefined) await stage.known(one, item);
    else console.error(printableLines(`${one}: not in the ledger, so there is no pause to end`));
  });
  await stage.show(servers);
  return failed.length === 0 ? 0 : 1;
}

/** Sends a role change by hand; without a model it drops the active one. */
async function set(stage: Stage, server: string, model?: string): Promise<number> {
  const known = await stage.ledger.all(signal());
  stage.warnIfUnknown(server, known);
  const clusters = (known.stage.heartbeat?.clusters ?? []).filter((one) => lists(one, server));
  const item = known.items.find(({ barman_server }) => barman_server === server);
  const response = await stage.invoke(
    {
      action: 'on_role_change',
      role: 'primary',
      cluster: item?.desired?.cluster ?? clusters[0]?.name ?? 'by hand',
      barman_server: server,
      ...(model === undefined ? { reset: true } : { barman_model: model }),
      switch_when: 'always',
    },
    { operator: `${userInfo().username}@${hostname()}` },
  );
  const { exit_code, message, recorded } = v.parse(ResponseSchema, response);
  console.log(message);
  if (clusters.some(({ servers }) => servers.some(({ name, observed }) => name === server && observed))) {
    console.error(
      `A cluster of ${server} is observed: unless this is its leader's model, the heartbeat undoes it within four minutes; to keep it, run now: pause ${server}`,
    );
  }
  return exit_code === ExitCode.CONFIG_SWITCH_DONE || recorded ? 0 : 1;
}

async function forget(stage: Stage, server: string): Promise<number> {
  if (stage.values.force) {
    if (!(await stage.operator.forgetByForce(server, signal()))) {
      throw new Error(
        `${server} is not in the ledger, or a switch of it has not ended; look at it, and try again`,
      );
    }
  } else {
    const item = await stage.known(server, await stage.ledger.get(server, signal()));
    const known = await stage.ledger.stage(signal());
    const cluster = known.heartbeat?.clusters.find((one) => lists(one, server));
    if (cluster) {
      throw new Error(
        `clusters/${cluster.name} lists ${server}: remove it there first, and wait for the next heartbeat; --force forgets it nevertheless`,
      );
    }
    let unasked = '';
    const isUnknown = () =>
      isUnknownToBarman(stage, server).catch((error) => {
        unasked = `. Barman could not be asked: ${messageOf(error)}`;
        return false;
      });
    const forgotten =
      (await stage.operator.forget(item, signal())) ||
      ((await isUnknown()) && (await stage.operator.forgetUnknown(item, signal())));
    if (!forgotten) {
      const settled = item.unsettled_since === undefined ? '' : ', unsettled';
      throw new Error(
        `${server} is ${stateOf(item, known)}${settled}: only a server that Barman does not have, or that is in sync and settled, and has had no role change for 15 days, ` +
          `can be forgotten, because a late event would be the newest afterwards; --force does it nevertheless${unasked}`,
      );
    }
  }
  console.log(`${server} is forgotten.`);
  return 0;
}

function lists({ servers }: ClusterReport, server: string): boolean {
  return servers.some(({ name }) => name === server);
}

/**
 * Asks the function, which can reach Barman, in a dry run.
 *
 * @throws Error if Barman could not be asked
 */
async function isUnknownToBarman(stage: Stage, server: string): Promise<boolean> {
  const dryRun = { role: 'primary', switch_when: 'always', reset: true, dry_run: true };
  const payload = { action: 'on_role_change', cluster: 'by hand', barman_server: server, ...dryRun };
  const { exit_code, message } = v.parse(ResponseSchema, await stage.invoke(payload));
  if (exit_code !== ExitCode.CONFIG_SWITCH_SKIPPED) throw new Error(message);
  // The function's own words for a Barman that has no servers; what follows them differs.
  const [unknown = ''] = rehearse(NOTHING, server, { reset: true }).split(';');
  const [outcome = ''] = message.split('; in the ledger: ');
  return outcome.includes(unknown);
}

/** Makes the function look, which can reach Barman and Patroni; without it, reads the parameters from here. */
async function check(stage: Stage): Promise<number> {
  const { json, stage: name } = stage.values;
  const width = process.stdout.columns ?? 80;
  // The parameters may be checked before the first deployment.
  if (!existsSync(stageFile(name))) await stage.expectDeployed();
  let response: unknown;
  try {
    const { items } = await stage.ledger.all(signal());
    const pending = pendingText(items.filter(isPending).map(({ barman_server }) => barman_server));
    if (pending !== undefined) console.error(pending);
    response = await stage.invoke(
      { inspection: true },
      { qualifier: 'inspection', timeout: INSPECTION_TIMEOUT },
    );
  } catch (error) {
    const path = `/barman-config-switch/${name}/`;
    const parts = await new Settings(path, () => {}, 'command').inspect(signal());
    const parameters = describeParameters(parts, path, Date.now());
    console.log(
      printableLines(
        json ? JSON.stringify({ parameters }, null, 2) : parameterLines(parameters, width).join('\n'),
      ),
    );
    console.error(
      printableLines(`Only the parameters were checked, from here: ${messageOf(stage.explain(error))}`),
    );
    return 1;
  }
  const report = v.safeParse(InspectionReport, response);
  if (!report.success) throw new Error(`the inspection failed: ${reasonOf(response)}`);
  const text = json ? JSON.stringify(report.output, null, 2) : reportText(report.output, Date.now(), width);
  console.log(printableLines(text));
  return isClean(report.output) ? 0 : 1;
}

/** Returns why an inspection has no report. */
function reasonOf(response: unknown): string {
  const Failure = v.object({ message: v.string() });
  return v.is(Failure, response)
    ? response.message
    : 'its response is not as expected; is an older version deployed?';
}

async function redriveEvents(stage: Stage): Promise<number> {
  if (stage.values.stage === LOCAL_STAGE) throw new Error('`npm start` has no failure queue');
  await stage.expectDeployed();
  const queue = await failureQueue(stage.name);
  const invoke = (event: unknown) => stage.invoke(event);
  const { left, inFlight } = await redrive({ queue, ledger: stage.ledger, invoke });
  return left + inFlight === 0 ? 0 : 1;
}

/** Returns ms @throws UsageError */
function duration(text: string): number {
  const [, number, unit] = /^(\d{1,4})([mhd])$/.exec(text) ?? [];
  if (number === undefined) {
    throw new UsageError(
      `--for must be a number of minutes, hours or days, such as 90m, 2h or 3d, not "${text}"`,
    );
  }
  return Number(number) * { m: 60_000, h: 3_600_000, d: 86_400_000 }[unit as 'm' | 'h' | 'd'];
}

/** Waits until no POST that was allowed before a pause can arrive any more. */
async function waitForLease(ledger: Ledger, server: string): Promise<void> {
  for (let first = true; ; first = false) {
    const item = await ledger.get(server, signal());
    if (!item || !isLeased(item)) return;
    const until = time(item.lease?.expires_at);
    if (first)
      console.error(`A switch of ${server} has begun; waiting until it ends, at most until ${until}.`);
    await sleep(500);
  }
}

function signal(): AbortSignal {
  return AbortSignal.timeout(TIMEOUT);
}

if (import.meta.main) start(LEDGER, ledger);
