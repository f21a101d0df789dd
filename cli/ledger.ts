/**
 * `npm run ledger -- --stage S`: what each Barman server should be set to, what it was last set to, and why they differ; and
 * the commands for it, see USAGE.
 *
 * It finds credentials and region as AWS's own command does: AWS_PROFILE, AWS_REGION and so on.
 */

import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { InvokeCommand, LambdaClient } from '@aws-sdk/client-lambda';
import { LedgerClient } from '../functions/config-switch/aws/dynamodb.ts';
import { DynamoDbTable } from '../functions/config-switch/aws/dynamodb-table.ts';
import { nameOf, parseTarget } from '../functions/config-switch/barman/target.ts';
import {
  type Item,
  isKnownSchema,
  isLeased,
  isPaused,
  isPending,
  passedOver,
} from '../functions/config-switch/reconcile/item.ts';
import { Ledger } from '../functions/config-switch/reconcile/ledger.ts';
import { Operator } from '../functions/config-switch/reconcile/operator.ts';
import { check } from './check.ts';
import { FailureQueue, redrive } from './redrive.ts';

const USAGE = `usage: npm run ledger -- [--stage STAGE] [--region REGION] [COMMAND]
  retry SERVER                         try at once, even if it was parked
  pause SERVER [--for 2h] [--no-wait]  send nothing to Barman for it, until resume or for so many minutes (m), hours (h) or days (d)
  resume SERVER                        the next heartbeat applies what was recorded
  forget SERVER                        delete the item of a server that Barman does not have
  check                                say what is wrong with the parameters in SSM
  redrive                              send the events of the failure queue again`;
/** For each request to AWS (ms). */
const TIMEOUT = 30_000;

try {
  process.exitCode = await main();
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}

async function main(): Promise<number> {
  const { values, positionals } = parse();
  const { stage } = values;
  process.env.AWS_REGION = values.region ?? process.env.AWS_REGION ?? 'eu-central-1';
  const name = `barman-config-switch-${stage}`;
  const table = new DynamoDbTable(new LedgerClient(), name);
  const ledger = new Ledger(table);
  const operator = new Operator(ledger, table);
  const [command, server, ...rest] = positionals;
  if (command === undefined) {
    show(await ledger.all(signal()));
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
          `${server} is ${state(item)}: only a server that is in sync or parked can be forgotten, because a late event would be the newest afterwards`,
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
  else show([(await ledger.get(server, signal())) ?? item]);
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
      },
      allowPositionals: true,
    });
  } catch (error) {
    throw new Error(`${error instanceof Error ? error.message : error}\n${USAGE}`);
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
      console.log(
        `A switch of ${server} has begun; waiting until it ends, at most until ${short(item.lease_expires_at)}.`,
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

function show(items: readonly Item[]): void {
  if (items.length === 0) {
    console.log('No role change has been recorded yet.');
    return;
  }
  const rows = items
    .toSorted((a, b) => a.barman_server.localeCompare(b.barman_server))
    .map((item) => [
      item.barman_server,
      targetAndTime(item.desired, item.desired_version),
      targetAndTime(item.applied, item.applied_version),
      state(item),
      item.last_error ?? '',
    ]);
  const table = [['SERVER', 'DESIRED', 'APPLIED', 'STATE', 'LAST ERROR'], ...rows];
  const widths = rows[0]?.map((_, column) => Math.max(...table.map((row) => row[column]?.length ?? 0))) ?? [];
  for (const row of table) {
    console.log(
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    );
  }
}

function state(item: Item): string {
  if (!isKnownSchema(item)) return `schema ${item.schema}, of a newer version`;
  if (isLeased(item)) return `switching (lease until ${short(item.lease_expires_at)})`;
  if (isPaused(item)) {
    const time = item.paused_until ? `until ${short(item.paused_until)}` : `since ${short(item.paused_at)}`;
    return `paused ${time}${isPending(item) ? ', pending' : ''}`;
  }
  const ids = passedOver(item).map(({ operation_id }) => operation_id);
  const note = ids.length > 0 ? `, passed over: operation ${ids.join(', ')}` : '';
  return `${progress(item)}${note}`;
}

function progress(item: Item): string {
  if (!isPending(item)) return 'in sync';
  const attempts = item.attempts ?? 0;
  const after = `after ${attempts} ${attempts === 1 ? 'attempt' : 'attempts'}`;
  if (item.parked) return `parked ${after}`;
  if (item.lease_token !== undefined) {
    const running = item.running_operation ? ` (waits for operation ${item.running_operation})` : '';
    return `lease expired, the next heartbeat takes over${running}`;
  }
  const next = item.next_attempt_at ? short(item.next_attempt_at) : 'now';
  return `pending, next attempt ${next}${attempts > 0 ? ` (failed ${after})` : ''}`;
}

/** A desired or applied state, and the time of its event. */
function targetAndTime(target: string | undefined, version: string | undefined): string {
  if (target === undefined) return '–';
  return `${nameOf(parseTarget(target)).replace(/^model /, '')} (${short(version?.split('#')[0])})`;
}

/** A time, to the second. */
function short(time = ''): string {
  return time.replace('T', ' ').replace(/\.\d+Z$/, ' UTC');
}

function signal(): AbortSignal {
  return AbortSignal.timeout(TIMEOUT);
}
