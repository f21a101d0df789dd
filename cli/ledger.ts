/**
 * `npm run ledger -- --stage S`: what each Barman server is to be brought to, what it was last brought to, and why it is not
 * there. `… retry SERVER` tries at once; `… hold SERVER` keeps everything from Barman, and `… release SERVER` ends that.
 *
 * It uses AWS as AWS's own command does: AWS_PROFILE, AWS_REGION and so on.
 */

import { parseArgs } from 'node:util';
import { InvokeCommand, LambdaClient } from '@aws-sdk/client-lambda';
import { DynamoDbTable } from '../functions/config-switch/aws/dynamodb-table.ts';
import { isBehind, isLeased, Ledger } from '../functions/config-switch/reconcile/ledger.ts';
import type { Item } from '../functions/config-switch/reconcile/table.ts';

const USAGE = `usage: npm run ledger -- [--stage STAGE] [--region REGION] [retry|hold|release SERVER]`;
/** For each request to AWS, ms. */
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
  const ledger = new Ledger(new DynamoDbTable(name));
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
    case 'hold':
    case 'release':
      item = await ledger.hold(server, command === 'hold', signal());
      break;
    default:
      throw new Error(USAGE);
  }
  if (!item) {
    const known = (await ledger.all(signal())).map(({ barman_server }) => barman_server);
    throw new Error(
      `the ledger of ${name} knows no server ${server}; it knows ${known.join(', ') || 'none yet'}`,
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

/** Has the function drive what is due, now. */
async function beat(name: string): Promise<void> {
  const Payload = JSON.stringify({ heartbeat: true });
  const { FunctionError, Payload: answer } = await new LambdaClient({}).send(
    new InvokeCommand({ FunctionName: name, Payload }),
    { abortSignal: signal() },
  );
  if (FunctionError) throw new Error(`the function failed: ${answer?.transformToString()}`);
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
      wish(item.desired, item.desired_key),
      wish(item.applied, item.applied_key),
      isLeased(item) ? `driven until ${short(item.until)}` : state(item),
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
  if (item.held) return isBehind(item) ? 'held, behind' : 'held';
  if (!isBehind(item)) return 'there';
  if (item.parked) return `given up after ${item.attempts ?? 0} attempts`;
  if (item.holder !== undefined) return 'left behind, next heartbeat';
  const failed = item.attempts ? `failed ${item.attempts} times, ` : '';
  return `behind, ${failed}next attempt ${item.next_attempt_at ? short(item.next_attempt_at) : 'now'}`;
}

/** A wish, and when its event was. */
function wish(target: string | undefined, key: string | undefined): string {
  if (target === undefined) return '–';
  return `${target.replace(/^model /, '').replace(/^reset$/, 'no model')} (${key ? short(key.split('#')[0]) : 'to be applied again'})`;
}

/** A time, to the second. */
function short(time = ''): string {
  return time.replace('T', ' ').replace(/\.\d+Z$/, ' UTC');
}

function signal(): AbortSignal {
  return AbortSignal.timeout(TIMEOUT);
}
