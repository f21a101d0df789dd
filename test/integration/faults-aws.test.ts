/** The fault matrix of AWS, of the callers and of time. */

import { vi } from 'vitest';
import { ExitCode } from '../../functions/config-switch/exit-code.ts';
import type { DynamoDbFault } from '../stand-ins/dynamodb.ts';
import type { SeenRequest } from '../stand-ins/pg-backup-api.ts';
import type { SsmFault } from '../stand-ins/ssm.ts';
import { type Break, done, kept, late, type More, type Row, SHORT, testFaults, undecided } from './faults.ts';
import { isPoll, MINUTE, NODE1, PROMOTION, signal } from './function.ts';

const always = Number.POSITIVE_INFINITY;
const ssm =
  (fault: SsmFault): Break =>
  (run) => {
    run.ssm.faults.set(run.host.path, fault);
    return () => void run.ssm.faults.delete(run.host.path);
  };
/** A parameter is missing, or has another value. */
const parameter =
  (name: string, value: string | undefined): Break =>
  ({ host }) => {
    const valid = host.ssm.parameters.get(`${host.path}${name}`);
    host.put({ [name]: value });
    return () => host.put({ [name]: valid });
  };
/** A fault of DynamoDB, for some requests of an operation, from the given one on (the first is 1). */
const ledger =
  (fault: DynamoDbFault, operation = '', from = 1, times = always): Break =>
  ({ dynamoDb }) => {
    let count = 0;
    dynamoDb.fault = (requested) => {
      if (!requested.includes(operation)) return undefined;
      count += 1;
      return count >= from && count < from + times ? fault : undefined;
    };
    return () => {
      dynamoDb.fault = undefined;
    };
  };
/** The clock jumps (ms) while the operation runs. */
const jump =
  (ms: number): Break =>
  ({ host }) => {
    const when = (request: SeenRequest) => {
      if (isPoll(request) && host.api.operations()[0]?.endedAt === undefined && jumps++ === 0) {
        vi.setSystemTime(Date.now() + ms);
      }
      return false;
    };
    let jumps = 0;
    host.api.fault({ kind: 'stall' }, always, when);
    return () => {
      host.api.noFaults();
      if (ms < 0) vi.setSystemTime(Date.now() - ms);
    };
  };

const unbroken: Break = () => {};
/** The operator has paused the server. */
const paused: Break = async (run) => {
  await run.webhook(NODE1);
  await run.operator.pause('main', {}, signal());
  return async () => void (await run.operator.resume('main', signal()));
};

/** The ledger is unavailable. */
const notRecorded = (says: RegExp, broken: Break, more: More = {}): Row => ({
  ...kept(says, broken),
  status: 503,
  recorded: false,
  ...more,
});
const silent = (broken: Break, more: More = {}): Row => ({
  ...notRecorded(/Service Unavailable/, broken, more),
  exitCode: undefined,
});
const MATRIX: Record<string, Row> = {
  // SSM.
  'SSM denies access': silent(ssm('access denied')),
  'SSM resets connections': silent(ssm('reset')),
  'SSM does not respond': silent(ssm('stall'), { remaining: SHORT }),
  'parameter url is missing': kept(/url is missing; expected/, parameter('url', undefined)),
  'parameter client-key is malformed': kept(
    /client-key is malformed/,
    parameter('client-key', 'a-secret-that-must-not-appear'),
  ),
  // The ledger.
  'DynamoDB denies access': notRecorded(
    /AccessDeniedException; the function's role needs/,
    ledger('access denied'),
  ),
  'DynamoDB fails': notRecorded(/InternalServerError/, ledger('internal')),
  'DynamoDB resets connections': notRecorded(/ECONNRESET.*a route to DynamoDB/, ledger('reset')),
  'DynamoDB does not respond': notRecorded(/before the ledger responded/, ledger('stall'), {
    status: 504,
    remaining: SHORT,
  }),
  'DynamoDB fails once': done(ledger('internal', '', 1, 1)),
  'the response to the first write is lost, and the SDK repeats the write': done(
    ledger('lose response', 'UpdateItem', 1, 1),
  ),
  'DynamoDB refuses the write of the running operation': done(ledger('access denied', 'UpdateItem', 2, 1)),
  'DynamoDB fails after the operation': notRecorded(
    /the ledger is unavailable/,
    ledger('internal', 'UpdateItem', 2),
    { recorded: true },
  ),
  'DynamoDB does not respond after the operation': late(
    /before the ledger responded/,
    ledger('stall', 'UpdateItem', 2),
  ),
  // Other invocations, and the operator.
  'the server is paused': undecided(/main is paused/, paused),
  // Time.
  'no time is left': silent(unbroken, { remaining: 0 }),
  '1 ms more than the reserve is left': silent(unbroken, { remaining: 1_501 }),
  'the clock jumps an hour ahead while the operation runs': done(jump(60 * MINUTE), {
    options: { operationTime: 400 },
  }),
  'the clock jumps an hour back while the operation runs': done(jump(-60 * MINUTE), {
    options: { operationTime: 400 },
  }),
  // Callers.
  'the body is not UTF-8': {
    ...kept(/is not valid UTF-8/, unbroken),
    exitCode: ExitCode.INVALID_ARGS,
    status: 400,
    recorded: false,
    payload: Buffer.from(JSON.stringify({ ...PROMOTION, cluster: 'Köln' }), 'latin1'),
  },
};

testFaults(MATRIX);
