/**
 * The fault matrix: whatever fails, the response is correct and in time, no rejection is unhandled, no secret
 * leaks, and the next invocation of the same process works.
 */

import { expect, test } from 'vitest';
import { ExitCode, exitStatus } from '../../functions/config-switch/exit-code.ts';
import type { PgBackupApiOptions } from '../stand-ins/pg-backup-api.ts';
import {
  type FunctionUnderTest,
  fakeClock,
  MINUTE,
  NODE1,
  PROMOTION,
  pass,
  startFunction,
} from './function.ts';

const { CONFIG_SWITCH_DONE: DONE, HTTP_ERROR } = ExitCode;
/**
 * Lambda's remaining time (ms): SHORT for a row in which something hangs, LONG, as deployed, for the others.
 */
export const SHORT = 2_500;
const LONG = 29_000;

/** Breaks something. @returns what repairs it, unless it recovers by itself */
export type Break = (run: FunctionUnderTest) => Promise<Repair> | Repair;
export type Repair = (() => Promise<void> | void) | void;

export interface Row {
  /** undefined if the caller gets only an HTTP status. */
  readonly exitCode: ExitCode | undefined;
  readonly status: number;
  readonly recorded: boolean;
  readonly says: RegExp;
  readonly broken: Break;
  readonly remaining?: number;
  readonly options?: Omit<PgBackupApiOptions, 'tls'>;
  readonly payload?: Buffer | object;
}

export type More = Partial<Row>;
/** The switch was rejected, or its outcome is unknown; the desired state is recorded. */
export const kept = (says: RegExp, broken: Break): Row => ({
  exitCode: HTTP_ERROR,
  status: 502,
  recorded: true,
  says,
  broken,
});
/** The desired state is recorded, and not decided yet. */
export const undecided = (says: RegExp, broken: Break): Row => ({ ...kept(says, broken), status: 202 });
export const late = (says: RegExp, broken: Break): Row => ({ ...undecided(says, broken), remaining: SHORT });
export const done = (broken: Break, more: More = {}): Row => ({
  ...kept(/now uses model pg:node2/, broken),
  exitCode: DONE,
  status: 200,
  ...more,
});

/** Makes a test of each row. */
export function testFaults(matrix: Readonly<Record<string, Row>>): void {
  fakeClock();
  test.each(Object.entries(matrix))('fault matrix › %s', (_, row) => testFault(row));
}

async function testFault(row: Row): Promise<void> {
  const { broken, payload = PROMOTION, remaining = LONG, options, ...expected } = row;
  await using after = new AsyncDisposableStack();
  const unhandled: unknown[] = [];
  const onUnhandled = (error: unknown) => unhandled.push(error);
  process.on('unhandledRejection', onUnhandled);
  after.defer(() => void process.off('unhandledRejection', onUnhandled));
  await using run = await startFunction(options, { MAX_RETRIES: '1' });
  const breakage = after.use(new AsyncDisposableStack());
  const repair = await broken(run);
  if (repair) breakage.defer(repair);

  const start = performance.now();
  const { statusCode, headers, response } = await run.webhook(payload, { remaining });
  expect(performance.now() - start).toBeLessThan(Math.max(remaining, 1_500));
  expect(statusCode).toBe(expected.status);
  expect(headers['retry-after']).toBe(statusCode === 503 ? '5' : undefined);
  expect(response.message).toMatch(expected.says);
  const { exitCode } = expected;
  if (exitCode === undefined) expect(response).toEqual({ message: expect.any(String) });
  else {
    expect(response).toMatchObject({
      exit_code: exitCode,
      exit_status: exitStatus(exitCode),
      recorded: expected.recorded,
      event_id: expect.any(String),
      request_id: expect.any(String),
    });
  }

  await breakage.disposeAsync();
  // Leases have expired, and unavailable parameters may be read again.
  pass(6 * MINUTE);
  const next = await run.webhook(NODE1);
  expect(next.response).toMatchObject({ exit_code: DONE });
  expect(run.host.api.activeModel()).toBe('pg:node1');
  expect(unhandled).toEqual([]);
}
