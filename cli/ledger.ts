/**
 * `npm run ledger -- --stage S`: what each Barman server should be set to, what it was last set to, and why they differ.
 * `… retry SERVER` tries at once; `… pause SERVER` stops everything that is sent to Barman for it, until `… resume SERVER`.
 *
 * It finds credentials and region as AWS's own command does: AWS_PROFILE, AWS_REGION and so on.
 */

import { parseArgs } from 'node:util';
import { InvokeCommand, LambdaClient } from '@aws-sdk/client-lambda';
import { LedgerClient } from '../functions/config-switch/aws/dynamodb.ts';
import { DynamoDbTable } from '../functions/config-switch/aws/dynamodb-table.ts';
import { nameOf, parseTarget } from '../functions/config-switch/barman/target.ts';
import {
  type Item,
  isKnownSchema,
  isLeased,
  isPending,
  passedOver,
} from '../functions/config-switch/reconcile/item.ts';
import { Ledger } from '../functions/config-switch/reconcile/ledger.ts';

const USAGE = `usage: npm run ledger -- [--stage STAGE] [--region REGION] [retry|pause|resume SERVER]`;
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
  const ledger = new Ledger(new DynamoDbTable(new LedgerClient(), name));
  const [command, server, ...rest] = positionals;
  if (command === undefined) {
    show(await ledger.all(signal()));
    return 0;
  }
  if (server === undefined || rest.length > 0) throw new Error(USAGE);

  let item: Item | undefined;
  switch (command) {
    case 'retry':
      item = await ledger.retry(server, signal());
      if (item) await beat(name);
      break;
    case 'pause':
      item = await ledger.pause(server, signal());
      break;
    case 'resume':
      item = await ledger.resume(server, signal());
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
  show([(await ledger.get(server, signal())) ?? item]);
  return 0;
}

function parse() {
  try {
    return parseArgs({
      options: { stage: { type: 'string', default: 'dev' }, region: { type: 'string' } },
      allowPositionals: true,
    });
  } catch (error) {
    throw new Error(`${error instanceof Error ? error.message : error}\n${USAGE}`);
  }
}

/** Runs a heartbeat of the deployed function now. */
async function beat(name: string): Promise<void> {
  const Payload = JSON.stringify({ heartbeat: true });
  const { FunctionError, Payload: response } = await new LambdaClient({}).send(
    new InvokeCommand({ FunctionName: name, Payload }),
    { abortSignal: signal() },
  );
  if (FunctionError) throw new Error(`the function failed: ${response?.transformToString()}`);
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
  if (item.paused) return isPending(item) ? 'paused, pending' : 'paused';
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
