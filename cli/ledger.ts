/**
 * `npm run ledger -- --stage S`: what each Barman server should be set to, what it was last set to, what
 * Patroni says, and why they differ; and the commands for it, see COMMANDS.
 *
 * It finds credentials as AWS's own command does, AWS_PROFILE and so on.
 */

import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { ResourceNotFoundException } from '@aws-sdk/client-dynamodb';
import { InvokeCommand, LambdaClient } from '@aws-sdk/client-lambda';
import { LedgerError, messageOf } from '../functions/config-switch/errors.ts';
import { explainToOperator } from '../functions/config-switch/http/network-errors.ts';
import { DynamoDbTable, LedgerClient } from '../functions/config-switch/ledger/dynamodb.ts';
import { type Item, isLeased } from '../functions/config-switch/ledger/item.ts';
import { Ledger, type Unreadable } from '../functions/config-switch/ledger/ledger.ts';
import { Operator } from '../functions/config-switch/ledger/operator.ts';
import { listOf, printableLines } from '../functions/config-switch/text.ts';
import { check } from './check.ts';
import { columns, type Program, start, UsageError, type Values } from './command-line.ts';
import { failureQueue, redrive } from './redrive.ts';
import { asJson, asTable, stateOf, time } from './show.ts';
import { regionOf, STAGE_OPTIONS, stageFile, unknownStage } from './stage.ts';

/** For each request to AWS (ms). */
const TIMEOUT = 30_000;
/** Between two looks at the ledger with --watch (ms). */
const WATCH_INTERVAL = 2_000;

/** Those that are not of the stage are explained with the commands. */
const OPTIONS = {
  ...STAGE_OPTIONS,
  watch: { type: 'boolean' },
  json: { type: 'boolean' },
  for: { type: 'string' },
  'no-wait': { type: 'boolean' },
  force: { type: 'boolean' },
} as const;

interface Command {
  /** As it is typed; the documentation leaves out what is in brackets, so that each line there can be run. */
  readonly typed: string;
  readonly help: string;
  /** @returns the exit status */
  readonly run: (stage: Stage, server: string) => Promise<number>;
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
    typed: 'pause SERVER [--json] [--no-wait]',
    help: 'for maintenance on the Barman host: nothing is sent, events are recorded',
    run: pause,
  },
  { typed: 'pause SERVER --for 2h', help: 'the pause ends by itself (m, h or d)', run: pause },
  { typed: 'resume SERVER [--json]', help: 'the next heartbeat applies what was recorded', run: resume },
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
  { typed: 'check', help: 'says what is wrong with the function parameters', run: checkParameters },
  { typed: 'redrive', help: 'sends the events of the failure queue again', run: redriveEvents },
];

export const LEDGER: Program<typeof OPTIONS> = {
  name: 'npm run ledger',
  summary: 'Shows, or changes, what the ledger of a stage remembers of each Barman server.',
  operands: COMMANDS.map(({ typed, help }) => [typed || '(nothing)', help]),
  options: OPTIONS,
};

/** Returns the commands for docs/operations.md. */
export function documentedCommands(): string {
  const rows = COMMANDS.map(({ typed, help }) => {
    return [`npm run ledger -- --stage prod ${typed.replace(/ \[.*/, '')}`.trim(), `# ${help}`];
  });
  return ['```sh', ...columns(rows), '```'].join('\n');
}

/** Carries out the command. @returns the exit status */
export async function ledger(values: Values<typeof OPTIONS>, operands: readonly string[]): Promise<number> {
  const [name = '', server = '', ...rest] = operands;
  const forms = COMMANDS.filter(({ typed }) => name === (/^\w+/.exec(typed)?.[0] ?? ''));
  const [command] = forms;
  if (command === undefined) throw new UsageError(`unknown command ${name}`);
  const typed = forms.map((form) => form.typed).join(' ');
  const foreign = Object.keys(values).find(
    (option) => !(option in STAGE_OPTIONS || typed.includes(`--${option}`)),
  );
  if (foreign !== undefined) throw new UsageError(`--${foreign} is for another command`);
  if (typed.includes('SERVER') !== (server !== '') || rest.length > 0) {
    throw new UsageError(`expected: ${command.typed}`);
  }
  if (values.watch && values.json) throw new UsageError('--watch and --json exclude each other');
  const stage = new Stage(values);
  return command.run(stage, server).catch((error) => {
    throw stage.explain(error);
  });
}

/** One stage: its ledger and its function. */
class Stage {
  readonly values: Values<typeof OPTIONS>;
  /** Of the function, and of the ledger's table. */
  readonly name: string;
  readonly ledger: Ledger;
  readonly operator: Operator;

  /** Sets AWS_REGION, for all clients. */
  constructor(values: Values<typeof OPTIONS>) {
    this.values = values;
    const { stage, region } = values;
    process.env.AWS_REGION = region ?? regionOf(stage) ?? process.env.AWS_REGION ?? 'eu-central-1';
    this.name = `barman-config-switch-${stage}`;
    const table = new DynamoDbTable(new LedgerClient('command'), this.name);
    this.ledger = new Ledger(table);
    this.operator = new Operator(this.ledger, table);
  }

  format(items: readonly (Item | Unreadable)[]): string {
    return this.values.json ? asJson(items) : asTable(items, Date.now(), process.stdout.columns ?? 80);
  }

  /** Shows a server as it is now. @returns the exit status */
  async show(server: string): Promise<number> {
    console.log(this.format([await this.known(server, await this.ledger.get(server, signal()))]));
    return 0;
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

  /** Invokes the deployed function. @returns its response @throws Error if it failed */
  async invoke(event: unknown): Promise<unknown> {
    const { FunctionError, Payload } = await new LambdaClient({})
      .send(new InvokeCommand({ FunctionName: this.name, Payload: JSON.stringify(event) }), {
        abortSignal: signal(),
      })
      .catch((error: unknown) => {
        throw new Error(`the function could not be invoked: ${explainToOperator(error, 'Lambda')}`);
      });
    const response = Payload?.transformToString() ?? '';
    if (FunctionError) throw new Error(`the function failed: ${response}`);
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
      'give another --stage or --region; if the table was deleted: docs/operations.md#a-lost-table; ' +
      `if the stage is new: npm run deploy -- --stage ${stage}`;
    return unknownStage(stage, missing, remedy);
  }
}

async function list(stage: Stage): Promise<number> {
  const items = async () => {
    const { items, unreadable } = await stage.ledger.all(signal());
    return stage.format([...items, ...unreadable]);
  };
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
  await stage.known(server, await stage.operator.retry(server, signal()));
  await stage.invoke({ heartbeat: true });
  return stage.show(server);
}

async function pause(stage: Stage, server: string): Promise<number> {
  const { for: given, 'no-wait': noWait } = stage.values;
  const until = given === undefined ? undefined : Date.now() + duration(given);
  await stage.known(server, await stage.operator.pause(server, until, signal()));
  if (!noWait) await waitForLease(stage.ledger, server);
  return stage.show(server);
}

async function resume(stage: Stage, server: string): Promise<number> {
  await stage.known(server, await stage.operator.resume(server, signal()));
  return stage.show(server);
}

async function forget(stage: Stage, server: string): Promise<number> {
  if (stage.values.force) {
    if (!(await stage.operator.forgetByForce(server, signal()))) {
      throw new Error(
        `${server} is not in the ledger, or a switch of it has not ended; look at it, and try again in a minute`,
      );
    }
  } else {
    const item = await stage.known(server, await stage.ledger.get(server, signal()));
    if (!(await stage.operator.forget(item, signal()))) {
      const state = `${stateOf(item)}${item.unsettled_since === undefined ? '' : ', unsettled'}`;
      throw new Error(
        `${server} is ${state}: only a server that is in sync and settled, and has had no role change for 15 days, can be forgotten, ` +
          'because a late event would be the newest afterwards; --force does it nevertheless',
      );
    }
  }
  console.log(`${server} is forgotten.`);
  return 0;
}

async function checkParameters(stage: Stage): Promise<number> {
  // They may be checked before the first deployment.
  if (!existsSync(stageFile(stage.values.stage))) await stage.expectDeployed();
  return (await check(`/barman-config-switch/${stage.values.stage}/`, signal())) === 0 ? 0 : 1;
}

async function redriveEvents(stage: Stage): Promise<number> {
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
