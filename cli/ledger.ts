/**
 * `npm run ledger -- --stage S`: what each Barman server should be set to, what it was last set to, what Patroni says, and why they
 * differ; and the commands for it, see USAGE.
 *
 * It finds credentials as AWS's own command does, AWS_PROFILE and so on; the region is that of the stage file, unless --region is given.
 */

import { existsSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { InvokeCommand, LambdaClient } from '@aws-sdk/client-lambda';
import { DynamoDbTable, LedgerClient } from '../functions/config-switch/aws/dynamodb.ts';
import { type Item, isLeased } from '../functions/config-switch/reconcile/item.ts';
import { Ledger } from '../functions/config-switch/reconcile/ledger.ts';
import { Operator } from '../functions/config-switch/reconcile/operator.ts';
import { check } from './check.ts';
import { FailureQueue, redrive } from './redrive.ts';
import { asJson, asTable, stateOf, time } from './show.ts';

const USAGE = `usage: npm run ledger -- [--stage STAGE] [--region REGION] [--watch | --json] [COMMAND]
  retry SERVER                         try at once
  pause SERVER [--for 2h] [--no-wait]  send nothing to Barman for it, until resume or for so many minutes (m), hours (h) or days (d)
  resume SERVER                        the next heartbeat applies what was recorded
  forget SERVER                        delete the item of a server that Barman does not have
  check                                say what is wrong with the parameters in SSM
  redrive                              send the events of the failure queue again`;
/** For each request to AWS (ms). */
const TIMEOUT = 30_000;
/** Between two looks at the ledger with --watch (ms). */
const WATCH_INTERVAL = 2_000;

try {
  process.exitCode = await main();
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}

async function main(): Promise<number> {
  const { values, positionals } = parse();
  const { stage } = values;
  process.env.AWS_REGION = values.region ?? regionOf(stage) ?? process.env.AWS_REGION ?? 'eu-central-1';
  const name = `barman-config-switch-${stage}`;
  const table = new DynamoDbTable(new LedgerClient(), name);
  const ledger = new Ledger(table);
  const operator = new Operator(ledger, table);
  const [command, server, ...rest] = positionals;
  if (values.watch && (values.json || command !== undefined)) throw new Error(USAGE);
  const show = (items: readonly Item[]) =>
    values.json ? asJson(items) : asTable(items, Date.now(), process.stdout.columns ?? 80);
  if (command === undefined) {
    if (values.watch) return watch(name, async () => show(await ledger.all(signal())));
    console.log(show(await ledger.all(signal())));
    return 0;
  }
  if (command === 'check' && server === undefined) {
    return (await check(`/barman-config-switch/${stage}/`, signal())) === 0 ? 0 : 1;
  }
  if (command === 'redrive' && server === undefined) {
    const { left } = await redrive({
      queue: await FailureQueue.find(name),
      ledger,
      invoke: (event) => invoke(name, event),
    });
    return left === 0 ? 0 : 1;
  }
  if (server === undefined || rest.length > 0) throw new Error(USAGE);

  let item: Item | undefined;
  switch (command) {
    case 'retry':
      item = await operator.retry(server, signal());
      if (item) await invoke(name, { heartbeat: true });
      break;
    case 'pause':
      item = await operator.pause(
        server,
        values.for === undefined ? undefined : Date.now() + duration(values.for),
        signal(),
      );
      if (item && !values['no-wait']) await waitForLease(ledger, server);
      break;
    case 'resume':
      item = await operator.resume(server, signal());
      break;
    case 'forget':
      item = await ledger.get(server, signal());
      if (item && !(await operator.forget(item, signal()))) {
        throw new Error(
          `${server} is ${stateOf(item)}: only a server that is in sync, or has been pending for a day, can be forgotten, because a late event would be the newest afterwards`,
        );
      }
      break;
    default:
      throw new Error(USAGE);
  }
  if (!item) {
    const known = (await ledger.all(signal())).map(({ barman_server }) => barman_server);
    throw new Error(
      `unknown server ${server} in the ledger of ${name}; known: ${known.join(', ') || 'none'}`,
    );
  }
  if (command === 'forget') console.log(`${server} is forgotten.`);
  else console.log(show([(await ledger.get(server, signal())) ?? item]));
  return 0;
}

function parse() {
  try {
    return parseArgs({
      options: {
        stage: { type: 'string', default: 'dev' },
        region: { type: 'string' },
        for: { type: 'string' },
        'no-wait': { type: 'boolean' },
        watch: { type: 'boolean' },
        json: { type: 'boolean' },
      },
      allowPositionals: true,
    });
  } catch (error) {
    throw new Error(`${error instanceof Error ? error.message : error}\n${USAGE}`);
  }
}

/** @returns the region in the file of the stage, if it names one */
function regionOf(stage: string): string | undefined {
  const file = `infra/stages/${stage}.yml`;
  if (!existsSync(file)) return undefined;
  return /^region: *["']?([\w-]+)/m.exec(readFileSync(file, 'utf8'))?.[1];
}

/** Shows the ledger again and again, until Ctrl-C. An error is shown instead, and may be over the next time. */
async function watch(name: string, show: () => Promise<string>): Promise<never> {
  for (;;) {
    const shown = await show().catch((error) => (error instanceof Error ? error.message : String(error)));
    const clear = process.stdout.isTTY ? '\x1b[H\x1b[J' : '\n';
    console.log(`${clear}${name}, ${time(new Date().toISOString())}\n\n${shown}`);
    await sleep(WATCH_INTERVAL);
  }
}

/** @returns ms */
function duration(text: string): number {
  const [, number, unit] = /^(\d{1,4})([mhd])$/.exec(text) ?? [];
  if (number === undefined) {
    throw new Error(`--for must be a number of minutes, hours or days, such as 90m, 2h or 3d, not "${text}"`);
  }
  return Number(number) * { m: 60_000, h: 3_600_000, d: 86_400_000 }[unit as 'm' | 'h' | 'd'];
}

/** Waits until no POST that was allowed before a pause can arrive any more. */
async function waitForLease(ledger: Ledger, server: string): Promise<void> {
  let said = false;
  for (;;) {
    const item = await ledger.get(server, signal());
    if (!item || !isLeased(item)) return;
    if (!said)
      console.error(
        `A switch of ${server} has begun; waiting until it ends, at most until ${time(item.lease_expires_at)}.`,
      );
    said = true;
    await sleep(500);
  }
}

/** Invokes the deployed function. @returns its response @throws Error if it failed */
async function invoke(name: string, event: unknown): Promise<unknown> {
  const { FunctionError, Payload } = await new LambdaClient({}).send(
    new InvokeCommand({ FunctionName: name, Payload: JSON.stringify(event) }),
    { abortSignal: signal() },
  );
  const response = Payload?.transformToString() ?? '';
  if (FunctionError) throw new Error(`the function failed: ${response}`);
  return JSON.parse(response);
}

function signal(): AbortSignal {
  return AbortSignal.timeout(TIMEOUT);
}
