/** The metrics that raise alarms: each says what has happened once, and a fault of one kind has one metric. */

import { describe, expect, test, vi } from 'vitest';
import { Ledger } from '../../functions/config-switch/ledger/ledger.ts';
import { inOneCluster } from '../stand-ins/barman-host.ts';
import {
  at,
  type FunctionUnderTest,
  fakeClock,
  isPoll,
  MINUTE,
  PROMOTION,
  pass,
  signal,
  startFunction,
} from './function.ts';

fakeClock();

/** How often a metric was counted so far. */
const sum = (run: FunctionUnderTest, metric: string) =>
  run.metrics().reduce((total, record) => total + Number(record[metric] ?? 0), 0);

describe('a heartbeat', () => {
  test('is counted also if the ledger is unavailable, which has its own metric', async () => {
    await using run = await startFunction();
    await run.heartbeat();
    run.dynamoDb.fault = () => 'access denied';
    try {
      await run.heartbeat();
    } finally {
      run.dynamoDb.fault = undefined;
    }
    expect(['Heartbeat', 'LedgerUnreachable'].map((metric) => sum(run, metric))).toEqual([2, 1]);
  });

  test('that ends with an internal error is not counted, since nothing else counts that', async () => {
    await using run = await startFunction();
    await run.heartbeat();
    const all = vi.spyOn(Ledger.prototype, 'all').mockRejectedValue(new TypeError('internal'));
    const broken = await run.heartbeat();
    all.mockRestore();
    expect(broken).toEqual({ message: 'internal' });
    expect(sum(run, 'Heartbeat')).toBe(1);
    run.expectLog({ level: 'ERROR', message: 'heartbeat: internal' });
    // What powertools would warn about; startFunction has replaced it.
    const printed = vi.mocked(process.stderr.write).mock.calls.flat().map(String);
    expect(printed.filter((line) => line.includes('No application metrics'))).toEqual([]);
  });
});

describe('a desired state that fails', () => {
  test('is counted as HTTP_ERROR once, also while heartbeats wait for its operation', async () => {
    await using run = await startFunction({}, { MAX_RETRIES: '1' });
    run.host.api.fault({ kind: 'status', status: 503 }, Number.POSITIVE_INFINITY, isPoll);
    expect((await run.webhook(PROMOTION)).response).toMatchObject({ exit_code: 3, recorded: true });
    expect(await run.item()).toHaveProperty('running');
    await run.expireLease();
    for (let minute = 0; minute < 3; minute += 1) {
      pass(MINUTE);
      expect(await run.heartbeat()).toMatchObject({ pending: 1, applied: 0, unreachable: undefined });
    }
    expect(sum(run, 'HTTP_ERROR')).toBe(1);
  });

  test('is counted as CONFIG_SWITCH_FAILED once, also if it had failed otherwise before', async () => {
    await using run = await startFunction({}, { MAX_RETRIES: '1' });
    await run.host.api.refuse();
    await run.webhook(PROMOTION);
    await run.host.api.listen();
    for (const _ of [1, 2, 3]) {
      run.host.api.plan({ failed: 'untouched' });
      await run.setItem({ next_attempt_at: at(-1) });
      expect(await run.heartbeat()).toMatchObject({ pending: 1, applied: 0 });
    }
    expect(['HTTP_ERROR', 'CONFIG_SWITCH_FAILED'].map((metric) => sum(run, metric))).toEqual([1, 1]);
  });

  test('for five minutes is counted as PendingEntered once for each server', async () => {
    const servers = inOneCluster(['main', 'other']);
    await using run = await startFunction({ servers }, { MAX_RETRIES: '1' });
    const fail = async (barman_server: string) => {
      run.host.api.plan({ failed: 'untouched' });
      const { response } = await run.webhook({ ...PROMOTION, barman_server });
      expect(response.exit_code).toBe(2);
      await run.setItem({ next_attempt_at: at(99 * MINUTE) }, barman_server);
    };
    await fail('main');
    await run.heartbeat();
    expect(sum(run, 'PendingEntered')).toBe(0);
    pass(5 * MINUTE);
    await fail('other');
    for (const expected of [1, 1, 1, 1, 1, 2, 2]) {
      await run.heartbeat();
      expect(sum(run, 'PendingEntered')).toBe(expected);
      pass(MINUTE);
    }
    for (const name of ['main', 'other'])
      run.expectLog({ level: 'ERROR', alarm: 'pending', message: `raises the alarm pending: ${name}` });
  });
});

describe('a server that Barman does not have', () => {
  test('is counted as NotReady in every heartbeat once that is known; pg-backup-api is reachable', async () => {
    await using run = await startFunction();
    await run.webhook(PROMOTION);
    const { response } = await run.webhook({ ...PROMOTION, barman_server: 'mian' });
    expect(response).toMatchObject({ exit_code: 3, recorded: true });
    await run.operator.retry('mian', signal());
    const notReady = [{ barman_server: 'mian', message: expect.stringContaining('404') }];
    expect(await run.heartbeat()).toMatchObject({ unreachable: undefined, notReady, pending: 1 });
    await run.setItem({ next_attempt_at: at(60 * MINUTE) }, 'mian');
    const counted = [];
    for (let minute = 0; minute < 4; minute += 1) {
      counted.push((await run.heartbeat()).notReady.length);
      pass(MINUTE);
    }
    expect(counted).toEqual([1, 1, 1, 1]);
    expect(sum(run, 'NotReady')).toBe(5);
    expect(sum(run, 'PgBackupApiUnreachable')).toBe(0);
  });
});
