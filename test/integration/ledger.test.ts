import { describe, expect, test } from 'vitest';
import { exists } from '../../functions/config-switch/ledger/conditions.ts';
import { DynamoDbTable, LedgerClient } from '../../functions/config-switch/ledger/dynamodb.ts';
import { isRecorded } from '../../functions/config-switch/ledger/item.ts';
import { versionOf } from '../../functions/config-switch/version.ts';
import { inOneCluster } from '../stand-ins/barman-host.ts';
import { signedHeaders } from '../stand-ins/webhook.ts';
import {
  at,
  type FunctionUnderTest,
  isPost,
  MINUTE,
  NODE1,
  PROMOTION,
  SKIPPED,
  signal,
  startFunction,
} from './function.ts';

describe('an event', () => {
  test('is recorded before the POST, in a form that an operator can read', async () => {
    await using run = await startFunction();
    const { response } = await run.webhook(PROMOTION);
    expect(response).toMatchObject({ exit_code: 0, recorded: true });
    expect(await run.item()).toEqual({
      barman_server: 'main',
      desired: {
        target: 'model pg:node2',
        version: expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]{12}Z#msg_/),
        cluster: 'main',
        role: 'primary',
        recorded_at: expect.stringMatching(/Z$/),
      },
      applied: {
        target: 'model pg:node2',
        version: expect.stringContaining(response.event_id ?? ''),
        operation_id: response.operation_id,
        applied_at: expect.stringMatching(/Z$/),
        operation_ms: expect.any(Number),
      },
    });
  });

  test('that is delivered again gets the recorded result, without another operation, whatever came meanwhile', async () => {
    await using run = await startFunction();
    const body = JSON.stringify({ ...NODE1, age_ms: 1_000 });
    const headers = signedHeaders(run.host.webhookSecret, body);
    const { response } = await run.webhook(body, { headers });
    const again = await run.webhook(body, { headers });
    expect(again.response).toMatchObject({
      exit_code: 0,
      recorded: true,
      operation_id: response.operation_id,
    });
    expect(run.host.api.operations()).toHaveLength(1);
    run.expectMetrics({ Duplicate: 1 });

    await run.webhook(PROMOTION);
    // Byte for byte the same, but two minutes later: by its age it would be the newest now.
    const late = await run.webhook(body, { headers, timeEpoch: Date.now() + 2 * MINUTE });
    expect(late.response).toMatchObject({ exit_code: 1, recorded: true });
    expect(run.host.api.activeModel()).toBe('pg:node2');
    expect(run.host.api.operations()).toHaveLength(2);
    run.expectMetrics({ Duplicate: 1, Superseded: 1 });
  });

  test('with the id of another role change is INVALID_ARGS, and Barman is not changed', async () => {
    await using run = await startFunction();
    const id = 'msg_used-twice';
    expect((await run.webhook(PROMOTION, { id })).response.exit_code).toBe(0);
    const { statusCode, response } = await run.webhook(NODE1, { id });
    expect([statusCode, response.exit_code, response.recorded]).toEqual([400, 4, false]);
    expect(response.message).toContain('was already used for model pg:node2 on main');
    expect(run.host.api.activeModel()).toBe('pg:node2');
  });

  test('that is older than the newest one is superseded, whenever it arrives', async () => {
    await using run = await startFunction();
    await run.webhook(PROMOTION);
    const late = await run.eventBridge(NODE1, at(-MINUTE));
    expect(late).toMatchObject({ exit_code: 1, recorded: true });
    expect(late.message).toMatch(/superseded.*model pg:node2/);
    run.expectMetrics({ Superseded: 1 });
    expect((await run.webhook({ ...NODE1, age_ms: 30_000 })).response.exit_code).toBe(1);
    expect(run.host.api.activeModel()).toBe('pg:node2');
  });

  test('waits for a concurrent one, and Barman ends at the newer of the two', async () => {
    await using run = await startFunction({ operationTime: 500 });
    const [older, newer] = await Promise.all([
      run.webhook({ ...NODE1, age_ms: 1_000 }),
      run.webhook(PROMOTION),
    ]);
    expect(newer.response.exit_code).toBe(0);
    expect([0, 1]).toContain(older.response.exit_code);
    expect(run.host.api.activeModel()).toBe('pg:node2');
    const [first, second] = run.host.api.operations();
    if (second) expect(second.createdAt).toBeGreaterThan(first?.endedAt ?? Number.POSITIVE_INFINITY);
  });

  test('does not wait for events of other servers', async () => {
    const servers = { main: { cluster: 'main' }, other: { cluster: 'main' } };
    await using run = await startFunction({ servers });
    const responses = await Promise.all([
      run.webhook(PROMOTION),
      run.webhook({ ...PROMOTION, barman_server: 'other' }),
    ]);
    expect(responses.map(({ response }) => response.exit_code)).toEqual([0, 0]);
    expect(run.metrics()).not.toContainEqual(expect.objectContaining({ Waited: 1 }));
  });
});

describe('another invocation', () => {
  async function leased(run: FunctionUnderTest) {
    const desired = { barman_server: 'main', cluster: 'main', target: { model: 'pg:node1' } };
    const version = versionOf(Date.now() - MINUTE, 'other');
    const lease = await run.ledger.recordAndAcquire({ ...desired, version }, signal());
    if (!lease) throw new Error('no lease');
    return lease;
  }

  test('with the lease is waited for only briefly: 202, and the event is recorded', async () => {
    await using run = await startFunction();
    await leased(run);
    const { statusCode, headers, response } = await run.webhook(PROMOTION);
    expect([statusCode, headers['retry-after']]).toEqual([202, undefined]);
    expect(response).toMatchObject({
      exit_code: 3,
      recorded: true,
      message: expect.stringContaining('another invocation is switching main'),
    });
    expect(run.host.api.requests).toEqual([]);
    run.expectMetrics({ Busy: 1, Waited: 1 });
    run.expectLog({ level: 'WARN', exit_code: 3 });
  });

  test('that releases the lease in time lets the waiting one apply its event', async () => {
    await using run = await startFunction();
    const lease = await leased(run);
    const response = run.webhook(PROMOTION);
    await expect.poll(async () => (await run.item())?.desired?.target).toBe('model pg:node2');
    await run.ledger.release(lease, lease.item.desired.version, 'failed', signal());
    expect((await response).response.exit_code).toBe(0);
  });

  test('that crashed delays the next POST until its operation has ended', async () => {
    await using run = await startFunction();
    await leased(run);
    const id = new Date().toISOString().replace(/\.\d+Z$|[-:]/g, '');
    run.host.api.addOperation({ id, type: 'config_switch', status: 'IN_PROGRESS' });
    await run.expireLease();
    const { response } = await run.webhook(PROMOTION, { remaining: 2_500 });
    expect(response).toMatchObject({ exit_code: 3, recorded: true });
    expect(run.host.api.requests.filter(isPost)).toEqual([]);
  });
});

describe('the heartbeat', () => {
  test('warns of an operation that has not ended, and waits for the next attempt', async () => {
    await using run = await startFunction({}, { OPERATION_TIMEOUT: '1' });
    run.host.api.addOperation({ id: 'running', type: 'config_switch', status: 'IN_PROGRESS' });
    const state = { target: 'model pg:node2', version: `${at(-90_000)}#event` };
    await run.setItem({
      desired: { ...state, cluster: 'main', recorded_at: at(-90_000) },
      lease: { token: 'another', expires_at: at(-MINUTE) },
      running: { ...state, operation_id: 'running' },
      next_attempt_at: at(MINUTE),
    });
    expect(await run.heartbeat()).toMatchObject({ pending: 1, applied: 0 });
    const message = expect.stringMatching(/^operation running on main has not ended/);
    run.expectLog({ level: 'WARN', message });
    run.expectMetrics({ Busy: 1 });
  });

  test('applies what is pending, without another event', async () => {
    await using run = await startFunction({}, { MAX_RETRIES: '1' });
    await run.host.api.refuse();
    expect((await run.webhook(PROMOTION)).response).toMatchObject({ exit_code: 3, recorded: true });
    expect(await run.item()).toMatchObject({
      attempts: 1,
      last_error: expect.stringContaining('ECONNREFUSED'),
      next_attempt_at: expect.stringMatching(/Z$/),
    });
    expect(await run.heartbeat()).toMatchObject({ pending: 1, applied: 0, unreachable: expect.any(String) });
    await run.host.api.listen();
    await run.operator.retry('main', signal());
    expect(await run.heartbeat()).toMatchObject({ pending: 1, applied: 1, oldestPendingAge: 0 });
    expect(run.host.api.activeModel()).toBe('pg:node2');
    expect(await run.heartbeat()).toMatchObject({ pending: 0, applied: 0, oldestPendingAge: 0 });
    run.expectMetrics({ PgBackupApiUnreachable: 0, CertificateDaysLeft: 89 });
  });

  test('reports that pg-backup-api does not respond', async () => {
    await using run = await startFunction();
    run.host.api.fault({ kind: 'stall' }, Number.POSITIVE_INFINITY);
    await run.heartbeat(2_500);
    run.expectMetrics({ PgBackupApiUnreachable: 1, CertificateDaysLeft: 89 });
    run.expectLog({ level: 'ERROR', message: expect.stringMatching(/^heartbeat: .*status/) });
  });

  test('reports a server that pg-backup-api cannot read, although its status is fine', async () => {
    await using run = await startFunction();
    await run.webhook(PROMOTION);
    run.host.api.configure('main', undefined);
    const message = expect.stringMatching(
      /^its operations in Barman cannot be read: pg-backup-api answered 404/,
    );
    expect(await run.heartbeat()).toMatchObject({
      unreachable: undefined,
      notReady: [{ barman_server: 'main', message }],
    });
    run.expectMetrics({ PgBackupApiUnreachable: 0, NotReady: 1 });
    run.expectLog({ level: 'ERROR', barman_server: 'main', message });
  });

  test('applies a pending desired state only once if several run at the same time', async () => {
    await using run = await startFunction();
    run.host.api.plan({ failed: 'untouched' });
    await run.webhook(PROMOTION);
    await run.operator.retry('main', signal());
    await Promise.all([run.heartbeat(), run.heartbeat(), run.heartbeat()]);
    expect(run.host.api.activeModel()).toBe('pg:node2');
    expect(run.host.api.operations()).toHaveLength(2);
  });

  test('counts what it applies, and a failure only once for each desired state', async () => {
    await using run = await startFunction();
    const failures = () => run.metrics().filter((line) => line.CONFIG_SWITCH_FAILED !== undefined).length;
    const due = { next_attempt_at: at(-1) };
    const version = versionOf(Date.now(), 'y');
    const desired = { target: 'model pg:node2', version, cluster: 'main', recorded_at: at(0) };
    await run.setItem({ desired, ...due });
    for (const _ of [1, 2]) {
      run.host.api.plan({ failed: 'untouched' });
      expect(await run.heartbeat()).toMatchObject({ pending: 1, applied: 0 });
      expect(failures()).toBe(1);
      await run.setItem(due);
    }
    expect(await run.heartbeat()).toMatchObject({ applied: 1 });
    run.expectMetrics({ CONFIG_SWITCH_DONE: 1, SwitchDuration: expect.any(Number) });
  });
});

describe('the operator', () => {
  test('pauses a server: events are recorded, and applied after resume', async () => {
    await using run = await startFunction();
    await run.webhook(NODE1);
    await run.operator.pause('main', {}, signal());
    const { statusCode, response } = await run.webhook(PROMOTION);
    expect([statusCode, response.exit_code, response.recorded]).toEqual([202, 3, true]);
    expect(response.message).toContain('is paused');
    expect(await run.heartbeat()).toMatchObject({ applied: 0 });
    expect(run.host.api.activeModel()).toBe('pg:node1');
    await run.operator.resume('main', signal());
    expect(await run.heartbeat()).toMatchObject({ applied: 1 });
    expect(run.host.api.activeModel()).toBe('pg:node2');
  });

  test('is told by the heartbeat about a server that is pending and was paused long ago', async () => {
    await using run = await startFunction();
    await run.webhook(NODE1);
    await run.operator.pause('main', {}, signal());
    await run.setItem({ paused_at: at(-300 * MINUTE) });
    expect(await run.heartbeat()).toMatchObject({ pausedPending: 0, pausedPendingAge: 0 });
    await run.webhook(PROMOTION);
    const beat = await run.heartbeat();
    expect(beat).toMatchObject({ pending: 0, pausedPending: 1, oldestPendingAge: 0 });
    // In minutes, as the test takes some time.
    expect(Math.floor(beat.pausedPendingAge / 60)).toBe(300);
    run.expectMetrics({ PausedPendingAge: beat.pausedPendingAge });
    // A pause that ends by itself is meant to be.
    await run.operator.pause('main', { until: Date.now() + 60 * MINUTE }, signal());
    expect(await run.heartbeat()).toMatchObject({ pausedPending: 1, pausedPendingAge: 0 });
  });
});

describe('an item that cannot be read', () => {
  /** As an operator may have left it who edited it by hand. */
  const BY_HAND = { desired: 'Model pg:node1' } as never;

  test('refuses an event, which is not recorded: EventBridge delivers it again', async () => {
    await using run = await startFunction();
    await run.setItem(BY_HAND);
    const reason =
      /^the ledger's item of main cannot be read: desired is "Model pg:node1", not Object; correct/;
    const { statusCode, response } = await run.webhook(PROMOTION);
    expect([statusCode, response.recorded]).toEqual([503, false]);
    expect(response.message).toMatch(reason);
    await expect(run.eventBridge(PROMOTION)).rejects.toThrow(reason);
    expect(run.host.api.requests).toEqual([]);
  });

  test('is reported by the heartbeat, which applies what is pending for other servers', async () => {
    await using run = await startFunction({ servers: inOneCluster(['main', 'other']) }, { MAX_RETRIES: '1' });
    await run.host.api.refuse();
    await run.webhook({ ...PROMOTION, barman_server: 'other' });
    await run.host.api.listen();
    await run.operator.retry('other', signal());
    await run.setItem(BY_HAND);
    const message = expect.stringContaining("the ledger's item of main cannot be read");
    expect(await run.heartbeat()).toMatchObject({
      pending: 1,
      applied: 1,
      notReady: [{ barman_server: 'main', message }],
    });
    expect(run.host.api.activeModel('other')).toBe('pg:node2');
    run.expectMetrics({ NotReady: 1 });
    run.expectLog({ level: 'ERROR', barman_server: 'main', message });
  });
});

describe('an item that is deleted', () => {
  const items = (run: FunctionUnderTest) => new DynamoDbTable(new LedgerClient(), run.table);

  test('while its event waits is not made again: the event is not recorded, and must be sent again', async () => {
    await using run = await startFunction();
    await run.setItem({ lease: { token: 'another', expires_at: at(MINUTE) } });
    const sent = run.webhook(PROMOTION);
    await expect.poll(async () => (await run.item())?.desired?.target).toBe('model pg:node2');
    await items(run).delete('main', [exists], signal());
    const { statusCode, response } = await sent;
    expect([statusCode, response.recorded]).toEqual([503, false]);
    expect(response.message).toContain(
      "the ledger's item of main was deleted meanwhile; send the event again",
    );
    expect([await run.item(), run.host.api.requests]).toEqual([undefined, []]);
  });

  test('gives no lease to an invocation that has read it before', async () => {
    await using run = await startFunction();
    await run.webhook(PROMOTION);
    const item = await run.item();
    if (!isRecorded(item)) throw new Error('not recorded');
    const newer = versionOf(Date.now() + MINUTE, 'newer');
    const expired = { ...item, lease: { token: 'another', expires_at: at(-1) } };
    expect(await run.operator.forgetByForce('main', signal())).toBe(true);
    const leases = [
      await run.ledger.acquire(item, newer, signal()),
      await run.ledger.renew({ token: 'another', item }, newer, true, signal()),
      await run.ledger.takeOver(expired, newer, 'why', signal()),
    ];
    expect([...leases, await run.item()]).toEqual([undefined, undefined, undefined, undefined]);
  });

  test('by `forget` is in sync and settled, and as it was read', async () => {
    await using run = await startFunction();
    await run.webhook(PROMOTION);
    const { desired, applied } = (await run.item()) ?? {};
    if (!desired || !applied) throw new Error('not recorded');
    const old = { version: versionOf(Date.now() - 16 * 1_440 * MINUTE, 'old') };
    await run.setItem({ desired: { ...desired, ...old }, applied: { ...applied, ...old } });
    const before = await run.item();
    if (!before) throw new Error('no item');
    await run.webhook(NODE1);
    expect(await run.operator.forget(before, signal())).toBe(false);
    expect((await run.item())?.applied?.target).toBe('model pg:node1');
  });
});

describe('an unavailable ledger', () => {
  test('prevents every switch, and the response gives the reason', async () => {
    await using run = await startFunction({}, { LEDGER_TABLE: 'no-such-table' });
    const reason = /table no-such-table(-events)? does not exist/;
    const { statusCode, response } = await run.webhook(PROMOTION);
    expect([statusCode, response.exit_code, response.recorded]).toEqual([503, 3, false]);
    expect(response.message).toMatch(reason);
    expect(run.host.api.requests).toEqual([]);
    await expect(run.eventBridge(PROMOTION)).rejects.toThrow(reason);
    run.expectMetrics({ LedgerUnreachable: 1 });
    expect((await run.webhook(SKIPPED)).response.exit_code).toBe(1);
    // It says what a switch would do.
    const dryRun = await run.webhook({ ...PROMOTION, dry_run: true });
    expect([dryRun.statusCode, dryRun.response.message]).toEqual([503, expect.stringMatching(reason)]);
  });

  test('is reported by the heartbeat, which throws nothing', async () => {
    await using run = await startFunction({}, { LEDGER_TABLE: 'no-such-table' });
    await run.heartbeat();
    run.expectMetrics({ LedgerUnreachable: 1 });
  });
});
