/** The log tables of the dashboard: what their queries show of the lines that the function writes. */

import { describe, expect, test } from 'vitest';
import { DECISIONS, SERVERS } from '../../infra/monitoring/dashboard.ts';
import { evaluate, fieldOf } from '../infra/logs-insights.ts';
import { inOneCluster } from '../stand-ins/barman-host.ts';
import {
  type FunctionUnderTest,
  fakeClock,
  MINUTE,
  NODE1,
  PROMOTION,
  pass,
  SKIPPED,
  startFunction,
} from './function.ts';

fakeClock();

const shown = (run: FunctionUnderTest) => evaluate(SERVERS, run.log());
const stateLines = (run: FunctionUnderTest) => run.log().filter((line) => 'ledger' in line);

describe('the table of servers', () => {
  test('has a row for each server, with its newest values, in the words of npm run ledger', async () => {
    await using run = await startFunction({ servers: inOneCluster(['main', 'other']) });
    await run.webhook(PROMOTION);
    await run.heartbeat();
    pass(MINUTE);
    await run.operator.pause('other', {}, AbortSignal.timeout(5_000));
    await run.heartbeat();
    expect(shown(run)).toEqual([
      {
        'ledger.barman_server': 'main',
        state: 'in sync',
        desired: expect.stringMatching(/^pg:node2 6\ds$/),
        applied: expect.stringMatching(/^pg:node2 6\ds$/),
        ...{ leader: '–', streaming: '–', ready: '?', archived: '?' },
        seen: expect.any(String),
      },
      {
        'ledger.barman_server': 'other',
        state: 'paused',
        ...{ desired: '–', applied: '–', leader: '–', streaming: '–', ready: '?', archived: '?' },
        seen: expect.any(String),
      },
    ]);
  });

  test('shows what a heartbeat has applied as applied', async () => {
    await using run = await startFunction();
    run.host.api.fault({ kind: 'status', status: 503 }, 6);
    await run.webhook(PROMOTION);
    await run.expireLease();
    await run.operator.retry('main', AbortSignal.timeout(5_000));
    await run.heartbeat();
    expect(run.host.api.activeModel()).toBe('pg:node2');
    expect(shown(run)).toMatchObject([{ state: 'in sync', applied: expect.stringMatching(/^pg:node2 /) }]);
  });

  test('has only fields that each line has', async () => {
    await using run = await startFunction();
    await run.webhook(PROMOTION);
    await run.heartbeat();
    const names = [...SERVERS.matchAll(/(?:ledger\.\w+|timestamp)/g)].map(([name]) => name);
    expect(new Set(names).size).toBe(9);
    const [line = {}] = stateLines(run);
    for (const name of names) expect(fieldOf(line, name), name).toEqual(expect.any(String));
    expect(Object.keys(Object(line.ledger))).toHaveLength(8);
    expect(line).toMatchObject({ level: 'INFO', message: 'state of main: in sync', caller: 'heartbeat' });
  });

  test('is not added to while the ledger cannot be read', async () => {
    await using run = await startFunction();
    await run.webhook(PROMOTION);
    run.dynamoDb.fault = () => 'access denied';
    try {
      await run.heartbeat();
    } finally {
      run.dynamoDb.fault = undefined;
    }
    expect(stateLines(run)).toEqual([]);
  });

  test('costs what docs/reference/costs.md says: a line has at most 450 bytes', async () => {
    await using run = await startFunction();
    await run.webhook(PROMOTION);
    await run.heartbeat();
    const [line] = stateLines(run);
    // In Lambda the service and the request have longer names.
    const bytes = Buffer.byteLength(
      JSON.stringify({ ...line, service: 'barman-config-switch-prod', request_id: 'x'.repeat(36) }),
    );
    expect(bytes).toBeLessThanOrEqual(450);
    expect(bytes).toBeGreaterThan(350);
  });
});

test('the table of decisions › has each role change, and none of the lines of every minute', async () => {
  await using run = await startFunction();
  await run.webhook(PROMOTION);
  await run.webhook(SKIPPED);
  await run.webhook(NODE1);
  await run.heartbeat();
  expect(stateLines(run)).toHaveLength(1);
  const rows = evaluate(DECISIONS, run.log());
  expect(rows.map(({ caller, exit_code, role }) => [caller, exit_code, role])).toEqual([
    ['http', 0, 'primary'],
    ['http', 1, 'replica'],
    ['http', 0, 'primary'],
  ]);
  for (const value of Object.values(rows[0] ?? {})) expect(value).toBeDefined();
});
