import { describe, expect, test } from 'vitest';
import { type DesiredState, passedOver } from '../../functions/config-switch/reconcile/item.ts';
import { versionOf } from '../../functions/config-switch/version.ts';
import { signedHeaders } from '../stand-ins/webhook.ts';
import { type FunctionUnderTest, PROMOTION, startFunction } from './function.ts';

const signal = () => AbortSignal.timeout(5_000);
const NODE1 = { ...PROMOTION, barman_model: 'pg:node1' };
const posts = ({ method }: { method: string }) => method === 'POST';
const at = (ms: number) => new Date(Date.now() + ms).toISOString();
const heartbeat = { heartbeat: true };

describe('an event', () => {
  test('is recorded before the POST, in a form that an operator can read', async () => {
    await using run = await startFunction();
    const { response } = await run.webhook(PROMOTION);
    expect(response).toMatchObject({ exit_code: 0, recorded: true });
    expect(await run.ledger.get('main', signal())).toEqual({
      barman_server: 'main',
      desired: 'model pg:node2',
      desired_version: expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]{12}Z#msg_/),
      cluster: 'main',
      recorded_at: expect.stringMatching(/Z$/),
      applied: 'model pg:node2',
      applied_version: expect.stringContaining(response.event_id ?? ''),
      operation_id: response.operation_id,
      applied_at: expect.stringMatching(/Z$/),
    });
  });

  test('that arrives twice gets the recorded result, without a second operation', async () => {
    await using run = await startFunction();
    const time = at(-1_000);
    const first = await run.eventBridge(PROMOTION, time);
    const second = await run.eventBridge(PROMOTION, time);
    expect(second).toMatchObject({ exit_code: 0, operation_id: first.operation_id, recorded: true });
    expect(run.host.api.requests.filter(posts)).toHaveLength(1);
    expect(run.metrics()).toContainEqual(expect.objectContaining({ Duplicate: 1 }));
  });

  test('that a sender repeats later is recognised by its id', async () => {
    await using run = await startFunction();
    const body = JSON.stringify(NODE1);
    const headers = signedHeaders(run.host.webhookSecret, body);
    const first = await run.webhook(body, { headers });
    const again = await run.webhook(body, { headers });
    expect(again.response).toMatchObject({ exit_code: 0, operation_id: first.response.operation_id });
    expect(run.host.api.operations()).toHaveLength(1);

    await run.webhook(PROMOTION);
    const late = await run.webhook(body, { headers });
    expect(late.response).toMatchObject({ exit_code: 1, recorded: true });
    expect(run.host.api.activeModel()).toBe('pg:node2');
    expect(run.host.api.operations()).toHaveLength(2);
  });

  test('stays superseded when it is delivered again after any number of others', async () => {
    await using run = await startFunction();
    const body = JSON.stringify({ ...PROMOTION, barman_model: 'pg:node1', age_ms: 60_000 });
    const headers = signedHeaders(run.host.webhookSecret, body);
    await run.webhook(PROMOTION);
    expect((await run.webhook(body, { headers })).response).toMatchObject({ exit_code: 1, recorded: true });
    for (let event = 0; event < 11; event += 1) await run.webhook(PROMOTION);
    // Byte for byte the same, but two minutes later: by its age it would be the newest now.
    const again = await run.webhook(body, { headers, timeEpoch: Date.now() + 120_000 });
    expect(again.response).toMatchObject({ exit_code: 1, recorded: true });
    expect(run.host.api.activeModel()).toBe('pg:node2');
    expect(run.metrics()).toContainEqual(expect.objectContaining({ Duplicate: 1, Superseded: 1 }));
  });

  test('with the id of another role change is INVALID_ARGS, and Barman is not changed', async () => {
    await using run = await startFunction();
    const id = 'msg_used-twice';
    const send = (payload: object) => {
      const body = JSON.stringify(payload);
      return run.webhook(body, { headers: signedHeaders(run.host.webhookSecret, body, { id }) });
    };
    expect((await send(PROMOTION)).response.exit_code).toBe(0);
    const { statusCode, response } = await send({ ...PROMOTION, barman_model: 'pg:node1' });
    expect([statusCode, response.exit_code, response.recorded]).toEqual([400, 4, false]);
    expect(response.message).toContain('was already used for model pg:node2 on main');
    expect(run.host.api.activeModel()).toBe('pg:node2');
    // For another Barman server it is another event.
    expect((await send({ ...PROMOTION, barman_server: 'unknown' })).response.exit_code).toBe(3);
  });

  test('that arrives after a newer one is superseded', async () => {
    await using run = await startFunction();
    await run.webhook(PROMOTION);
    const late = await run.eventBridge(NODE1, at(-60_000));
    expect(late).toMatchObject({ exit_code: 1, recorded: true });
    expect(late.message).toMatch(/superseded.*model pg:node2/);
    expect(run.host.api.activeModel()).toBe('pg:node2');
    expect(run.metrics()).toContainEqual(expect.objectContaining({ Superseded: 1 }));
  });

  test('is dated by its age, not by its arrival', async () => {
    await using run = await startFunction();
    await run.webhook(PROMOTION);
    const { response } = await run.webhook({ ...NODE1, age_ms: 30_000 });
    expect(response.exit_code).toBe(1);
    expect(run.host.api.activeModel()).toBe('pg:node2');
  });

  test('from the future is dated to now', async () => {
    await using run = await startFunction();
    expect(await run.eventBridge(PROMOTION, '2099-01-01T00:00:00Z')).toMatchObject({ exit_code: 0 });
    expect((await run.webhook(NODE1)).response.exit_code).toBe(0);
    expect(run.host.api.activeModel()).toBe('pg:node1');
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
    await using run = await startFunction({
      servers: { main: { cluster: 'main' }, other: { cluster: 'main' } },
      operationTime: 300,
    });
    const responses = await Promise.all([
      run.webhook(PROMOTION),
      run.webhook({ ...PROMOTION, barman_server: 'other' }),
    ]);
    expect(responses.map(({ response }) => response.exit_code)).toEqual([0, 0]);
    expect(run.metrics()).not.toContainEqual(expect.objectContaining({ Waited: 1 }));
  });
});

describe('another invocation', () => {
  async function leased(run: Awaited<ReturnType<typeof startFunction>>) {
    const desired: DesiredState = {
      barman_server: 'main',
      cluster: 'main',
      target: { model: 'pg:node1' },
      version: versionOf(Date.now() - 60_000, 'other'),
    };
    const lease = await run.ledger.recordAndAcquire(desired, signal());
    if (!lease) throw new Error('no lease');
    return lease;
  }

  test('with the lease is waited for only briefly: 202, and the event is recorded', async () => {
    await using run = await startFunction();
    await leased(run);
    const { statusCode, headers, response } = await run.webhook(PROMOTION);
    expect([statusCode, headers['retry-after'], response.exit_code, response.recorded]).toEqual([
      202,
      undefined,
      3,
      true,
    ]);
    expect(run.host.api.requests).toEqual([]);
    expect(run.metrics()).toContainEqual(expect.objectContaining({ Busy: 1, Waited: 1 }));
    expect(run.log()).toContainEqual(expect.objectContaining({ level: 'WARN', exit_code: 3 }));
  });

  test('that releases the lease in time lets the waiting one apply its event', async () => {
    await using run = await startFunction();
    const lease = await leased(run);
    const response = run.webhook(PROMOTION);
    await expect.poll(async () => (await run.ledger.get('main', signal()))?.desired).toBe('model pg:node2');
    await run.ledger.release(lease, 'failed', signal());
    expect((await response).response.exit_code).toBe(0);
  });

  test('that crashed delays the next POST until its operation has ended', async () => {
    await using run = await startFunction();
    await leased(run);
    run.host.api.addOperation({ id: idOfNow(), type: 'config_switch', status: 'IN_PROGRESS' });
    await run.expireLease();
    const response = run.webhook(PROMOTION, { remaining: 4_000 });
    expect((await response).response).toMatchObject({ exit_code: 3, recorded: true });
    expect(run.host.api.requests.filter(posts)).toEqual([]);
  });

  test('that crashed has its stuck operation passed over after OPERATION_TIMEOUT, and counted', async () => {
    await using run = await startFunction({}, { OPERATION_TIMEOUT: '1' });
    await leased(run);
    run.host.api.addOperation({ id: idOfNow(), type: 'config_switch', status: 'IN_PROGRESS' });
    await run.expireLease();
    expect((await run.webhook(PROMOTION)).response.exit_code).toBe(0);
    expect(run.metrics()).toContainEqual(expect.objectContaining({ StuckOperation: 1 }));
    const item = await run.ledger.get('main', signal());
    expect(passedOver(item ?? { barman_server: 'main' })).toEqual([
      { operation_id: run.host.api.operations()[0]?.id, since: expect.any(String) },
    ]);
  });
});

describe('an operation', () => {
  test('that outlasts its invocation is completed by the next heartbeat, without another one', async () => {
    await using run = await startFunction();
    run.host.api.plan({ time: 1_500 });
    const { response } = await run.webhook(PROMOTION, { remaining: 2_500 });
    expect([response.exit_code, response.recorded]).toEqual([3, true]);
    const [operation] = run.host.api.operations();
    expect(await run.ledger.get('main', signal())).toMatchObject({
      running: 'model pg:node2',
      running_operation: operation?.id,
    });
    await run.expireLease();
    expect(await run.send(heartbeat)).toMatchObject({ pending: 1, applied: 1 });
    expect(run.host.api.operations()).toHaveLength(1);
    const item = await run.ledger.get('main', signal());
    expect(item).toMatchObject({ applied: 'model pg:node2', operation_id: operation?.id });
    expect(item).not.toHaveProperty('running_operation');
  });

  test('that outlasts its invocation and FAILED is an attempt, with its error in the ledger', async () => {
    await using run = await startFunction();
    run.host.api.plan({ time: 1_500, failed: 'untouched' });
    await run.webhook(PROMOTION, { remaining: 2_500 });
    await run.expireLease();
    expect(await run.send(heartbeat)).toMatchObject({ pending: 1, applied: 0 });
    expect(await run.ledger.get('main', signal())).toMatchObject({
      attempts: 1,
      last_error: expect.stringContaining('ended FAILED'),
    });
    expect(run.host.api.operations()).toHaveLength(1);
  });

  test('that takes effect after it was passed over is corrected by the heartbeat', async () => {
    await using run = await startFunction({}, { OPERATION_TIMEOUT: '1' });
    run.host.api.plan({ time: Number.POSITIVE_INFINITY });
    await run.webhook(NODE1, { remaining: 2_500 });
    await run.expireLease();
    expect((await run.webhook(PROMOTION)).response.exit_code).toBe(0);
    expect(await run.send(heartbeat), 'it has not ended').toMatchObject({ pending: 0, applied: 0 });
    const [stuck] = run.host.api.operations();
    if (!stuck) throw new Error('no operation');

    stuck.status = 'DONE';
    run.host.api.setActiveModel('pg:node1');
    expect(await run.send(heartbeat)).toMatchObject({ pending: 1, applied: 1 });
    expect(run.host.api.activeModel()).toBe('pg:node2');
    expect(await run.ledger.get('main', signal())).not.toHaveProperty('passed_over');
    expect(await run.send(heartbeat)).toMatchObject({ pending: 0, applied: 0 });
    expect(run.host.api.requests.filter(({ path }) => path === '/diagnose')).toEqual([]);
  });

  test('that takes effect after it was passed over is corrected once Barman can be reached again', async () => {
    await using run = await startFunction({}, { OPERATION_TIMEOUT: '1', MAX_RETRIES: '2' });
    run.host.api.plan({ time: Number.POSITIVE_INFINITY });
    await run.webhook(NODE1, { remaining: 2_500 });
    await run.expireLease();
    await run.webhook(PROMOTION);
    const [stuck] = run.host.api.operations();
    if (!stuck) throw new Error('no operation');
    stuck.status = 'FAILED';
    run.host.api.setActiveModel('pg:node1');
    run.host.api.plan({ failed: 'untouched' });
    expect(await run.send(heartbeat)).toMatchObject({ pending: 1, applied: 0 });
    await run.host.api.refuse();
    expect(await run.send(heartbeat)).toMatchObject({ pending: 1, unreachable: expect.any(String) });
    await run.host.api.listen();
    await run.operator.retry('main', signal());
    expect(await run.send(heartbeat)).toMatchObject({ pending: 1, applied: 1 });
    expect(run.host.api.activeModel()).toBe('pg:node2');
  });

  test('of the desired state that ends after it was passed over needs no correction', async () => {
    await using run = await startFunction({}, { OPERATION_TIMEOUT: '1' });
    run.host.api.plan({ time: Number.POSITIVE_INFINITY });
    await run.webhook(PROMOTION, { remaining: 2_500 });
    await run.expireLease();
    await run.operator.retry('main', signal());
    expect(await run.send(heartbeat)).toMatchObject({ pending: 1, applied: 1 });
    const [stuck] = run.host.api.operations();
    if (!stuck) throw new Error('no operation');
    stuck.status = 'DONE';
    expect(await run.send(heartbeat)).toMatchObject({ pending: 0, applied: 0 });
    expect(await run.ledger.get('main', signal())).not.toHaveProperty('passed_over');
    expect(run.host.api.operations()).toHaveLength(2);
  });

  test('that never ends is forgotten after a day', async () => {
    await using run = await startFunction();
    await run.webhook(PROMOTION);
    const id = idOfNow();
    run.host.api.addOperation({ id, type: 'config_switch', status: 'IN_PROGRESS' });
    const entries = (hours: number) =>
      JSON.stringify([{ operation_id: id, since: new Date(Date.now() - hours * 3_600_000).toISOString() }]);
    for (const [hours, kept] of [
      [23, true],
      [25, false],
    ] as const) {
      await run.putItem({ barman_server: 'main', passed_over: entries(hours) });
      await run.send(heartbeat);
      const item = await run.ledger.get('main', signal());
      expect(passedOver(item ?? { barman_server: 'main' })).toHaveLength(kept ? 1 : 0);
    }
  });

  test('that was passed over is not waited for again when the response to a POST is lost', async () => {
    await using run = await startFunction();
    const [stuck, since] = [idOfNow(), new Date().toISOString()];
    run.host.api.addOperation({ id: stuck, type: 'config_switch', status: 'IN_PROGRESS' });
    const passed_over = JSON.stringify([{ operation_id: stuck, since }]);
    await run.putItem({ barman_server: 'main', passed_over });
    run.host.api.fault({ kind: 'lose response' }, 1, posts);
    expect((await run.webhook(PROMOTION)).response.exit_code).toBe(0);
    expect(run.host.api.requests.filter(({ path }) => path.endsWith(stuck))).toEqual([]);
    expect(await run.ledger.get('main', signal())).toMatchObject({ passed_over });
  });

  test('of the last hour is polled after a lost response only if it may be the one', async () => {
    await using run = await startFunction();
    // One each 90 s, by a clock at UTC+2.
    for (let index = 0; index < 40; index += 1) {
      const began = new Date(Date.now() + 2 * 3_600_000 - (index * 90 + 45) * 1_000);
      run.host.api.addOperation({ id: idOf(began), type: 'config_switch', status: 'DONE' });
    }
    run.host.api.fault({ kind: 'lose response' }, 1, posts);
    expect((await run.webhook(PROMOTION)).response.exit_code).toBe(0);
    const polled = run.host.api.requests.map(({ path }) => path).filter((path) => /operations\/./.test(path));
    expect(new Set(polled).size).toBeLessThan(8);
    expect(run.host.api.operations().filter(({ target }) => target === 'pg:node2')).toHaveLength(2);
  });
});

describe('the heartbeat', () => {
  test('does not report as pending what it has applied, however long that was pending', async () => {
    await using run = await startFunction({}, { MAX_RETRIES: '1' });
    await run.host.api.refuse();
    await run.webhook(PROMOTION);
    await run.ageDesired(400_000);
    await run.host.api.listen();
    expect(await run.send(heartbeat)).toMatchObject({ pending: 1, applied: 1, oldestPendingAge: 0 });
  });

  test('warns of an operation that has not ended, and waits for the next attempt', async () => {
    await using run = await startFunction({}, { OPERATION_TIMEOUT: '1' });
    run.host.api.addOperation({ id: 'running', type: 'config_switch', status: 'IN_PROGRESS' });
    await run.putItem({
      barman_server: 'main',
      desired: 'model pg:node2',
      desired_version: `${at(-90_000)}#event`,
      recorded_at: at(-90_000),
      lease_token: 'another',
      lease_expires_at: at(-60_000),
      running: 'model pg:node2',
      running_operation: 'running',
      running_version: `${at(-90_000)}#event`,
      next_attempt_at: at(60_000),
    });
    expect(await run.send(heartbeat)).toMatchObject({ pending: 1, applied: 0 });
    expect(run.log()).toContainEqual(
      expect.objectContaining({
        level: 'WARN',
        message: expect.stringMatching(/^operation running on main has not ended/),
      }),
    );
    expect(run.metrics()).toContainEqual(expect.objectContaining({ Busy: 1 }));
  });

  test('applies what is pending, without another event', async () => {
    await using run = await startFunction({}, { MAX_RETRIES: '1' });
    await run.host.api.refuse();
    expect((await run.webhook(PROMOTION)).response).toMatchObject({ exit_code: 3, recorded: true });
    expect(await run.ledger.get('main', signal())).toMatchObject({
      attempts: 1,
      last_error: expect.stringContaining('ECONNREFUSED'),
      next_attempt_at: expect.stringMatching(/Z$/),
    });
    expect(await run.send(heartbeat)).toMatchObject({
      pending: 1,
      applied: 0,
      unreachable: expect.any(String),
    });
    await run.host.api.listen();
    await run.operator.retry('main', signal());
    expect(await run.send(heartbeat)).toMatchObject({ pending: 1, applied: 1 });
    expect(run.host.api.activeModel()).toBe('pg:node2');
    expect(await run.send(heartbeat)).toMatchObject({ pending: 0, applied: 0, oldestPendingAge: 0 });
    expect(run.metrics()).toContainEqual(
      expect.objectContaining({
        PgBackupApiUnreachable: 0,
        CertificateDaysLeft: 89,
      }),
    );
  });

  test('reports that pg-backup-api does not respond', async () => {
    await using run = await startFunction();
    run.host.api.fault({ kind: 'stall' }, Number.POSITIVE_INFINITY);
    await run.send(heartbeat);
    expect(run.metrics()).toContainEqual(
      expect.objectContaining({ PgBackupApiUnreachable: 1, CertificateDaysLeft: 89 }),
    );
    expect(run.log()).toContainEqual(
      expect.objectContaining({ level: 'ERROR', message: expect.stringMatching(/^heartbeat: .*status/) }),
    );
  });

  test('reports a configuration that pg-backup-api cannot read, although its status is fine', async () => {
    await using run = await startFunction();
    await run.webhook(PROMOTION);
    run.host.api.configure('main', undefined);
    expect(await run.send(heartbeat)).toMatchObject({
      unreachable: expect.stringContaining(
        'the configuration of main cannot be read: pg-backup-api answered 404',
      ),
    });
    expect(run.metrics()).toContainEqual(expect.objectContaining({ PgBackupApiUnreachable: 1 }));
    run.host.api.configure('main', 'main');
    expect(await run.send(heartbeat)).not.toHaveProperty('unreachable');
  });

  test('skips a server whose next attempt is not due', async () => {
    await using run = await startFunction();
    run.host.api.plan({ failed: 'untouched' });
    await run.webhook(PROMOTION);
    expect(await run.send(heartbeat)).toMatchObject({ pending: 1, applied: 0 });
    expect(run.host.api.requests.filter(posts)).toHaveLength(1);
  });

  test('applies a pending desired state only once if several run at the same time', async () => {
    await using run = await startFunction({ operationTime: 200 });
    run.host.api.plan({ failed: 'untouched' });
    await run.webhook(PROMOTION);
    await run.operator.retry('main', signal());
    await Promise.all([1, 2, 3].map(() => run.send(heartbeat)));
    expect(run.host.api.activeModel()).toBe('pg:node2');
    expect(run.host.api.operations()).toHaveLength(2);
  });

  test('goes on with a desired state that has been pending for days, until it is applied', async () => {
    await using run = await startFunction();
    run.host.api.plan({ failed: 'untouched' });
    await run.webhook(PROMOTION);
    await run.ageDesired(50 * 3_600_000);
    await run.operator.retry('main', signal());
    expect(await run.send(heartbeat)).toMatchObject({ pending: 1, applied: 1 });
    expect(run.host.api.activeModel()).toBe('pg:node2');
  });

  test('reaches a pending server although hundreds fail', async () => {
    await using run = await startFunction({}, { MAX_RETRIES: '1' });
    const long = new Date(Date.now() - 23 * 3_600_000).toISOString();
    // One after the other: on a busy machine hundreds of connections at once time out.
    for (let index = 0; index < 300; index += 1) {
      await run.putItem({
        barman_server: `unknown-${index}`,
        desired: 'reset',
        desired_version: versionOf(Date.now(), 'x'),
        recorded_at: long,
        attempts: 1,
      });
    }
    await run.putItem({
      barman_server: 'main',
      desired: 'model pg:node2',
      desired_version: versionOf(Date.now(), 'y'),
      recorded_at: new Date().toISOString(),
    });
    // Only a few of them fit into a heartbeat.
    const heartbeatResult = await run.send(heartbeat, 10_500);
    expect(heartbeatResult).toMatchObject({ pending: 301, applied: 1 });
    expect(run.host.api.activeModel()).toBe('pg:node2');
  });

  test('counts what it applies, and a failure only once for each desired state', async () => {
    await using run = await startFunction();
    const failures = () => run.metrics().filter((line) => line.CONFIG_SWITCH_FAILED !== undefined).length;
    const due = { next_attempt_at: at(-1) };
    const pending = { desired: 'model pg:node2', desired_version: versionOf(Date.now(), 'y') };
    await run.putItem({ barman_server: 'main', ...pending, ...due });
    for (const _ of [1, 2]) {
      run.host.api.plan({ failed: 'untouched' });
      expect(await run.send(heartbeat)).toMatchObject({ pending: 1, applied: 0 });
      expect(failures()).toBe(1);
      await run.putItem({ barman_server: 'main', ...due });
    }
    expect(await run.send(heartbeat)).toMatchObject({ applied: 1 });
    expect(run.metrics()).toContainEqual(
      expect.objectContaining({ CONFIG_SWITCH_DONE: 1, SwitchDuration: expect.any(Number) }),
    );
  });

  test('reports that the ledger is unavailable, and throws nothing', async () => {
    await using run = await startFunction({}, { LEDGER_TABLE: 'no-such-table' });
    await run.send(heartbeat);
    expect(run.metrics()).toContainEqual(expect.objectContaining({ LedgerUnreachable: 1 }));
  });
});

describe('the operator', () => {
  test('pauses a server: events are recorded, and applied after resume', async () => {
    await using run = await startFunction();
    await run.webhook(NODE1);
    await run.operator.pause('main', undefined, signal());
    const { statusCode, response } = await run.webhook(PROMOTION);
    expect([statusCode, response.exit_code, response.recorded]).toEqual([202, 3, true]);
    expect(response.message).toContain('is paused');
    expect(await run.send(heartbeat)).toMatchObject({ applied: 0 });
    expect(run.host.api.activeModel()).toBe('pg:node1');
    await run.operator.resume('main', signal());
    expect(await run.send(heartbeat)).toMatchObject({ applied: 1 });
    expect(run.host.api.activeModel()).toBe('pg:node2');
  });

  test('is told by the heartbeat about a server that is pending and was paused long ago', async () => {
    await using run = await startFunction();
    await run.webhook(NODE1);
    await run.operator.pause('main', undefined, signal());
    await run.putItem({ barman_server: 'main', paused_at: at(-5 * 3_600_000) });
    expect(await run.send(heartbeat)).toMatchObject({ pausedPending: 0, pausedPendingAge: 0 });
    await run.webhook(PROMOTION);
    expect(await run.send(heartbeat)).toMatchObject({
      pending: 0,
      pausedPending: 1,
      pausedPendingAge: 5 * 3_600,
      oldestPendingAge: 0,
    });
    expect(run.metrics()).toContainEqual(expect.objectContaining({ PausedPendingAge: 5 * 3_600 }));
    // A pause that ends by itself is meant to be.
    await run.operator.pause('main', Date.now() + 3_600_000, signal());
    expect(await run.send(heartbeat)).toMatchObject({ pausedPending: 1, pausedPendingAge: 0 });
  });

  test.each([
    ['resumes a server', (run: FunctionUnderTest) => run.operator.resume('main', signal())],
    [
      'sees a pause end by itself',
      (run: FunctionUnderTest) => run.putItem({ barman_server: 'main', paused_until: at(-1) }),
    ],
  ])('%s after more than a day: the desired state is applied', async (_, resume) => {
    await using run = await startFunction();
    await run.webhook(NODE1);
    await run.operator.pause('main', undefined, signal());
    await run.webhook(PROMOTION);
    await run.ageDesired(30 * 3_600_000);
    await resume(run);
    expect(await run.send(heartbeat)).toMatchObject({ pending: 1, applied: 1 });
    expect(run.host.api.activeModel()).toBe('pg:node2');
  });
});

describe('an unavailable ledger', () => {
  test.each([
    ['missing table', { LEDGER_TABLE: 'no-such-table' }, /table no-such-table-events does not exist/],
  ])('(%s) prevents every switch, and the response gives the reason', async (_, settings, words) => {
    await using run = await startFunction({}, settings);
    const { statusCode, response } = await run.webhook(PROMOTION);
    expect([statusCode, response.exit_code, response.recorded]).toEqual([503, 3, false]);
    expect(response.message).toMatch(words);
    expect(run.host.api.requests).toEqual([]);
    await expect(run.eventBridge(PROMOTION)).rejects.toThrow(words);
    expect((await run.webhook({ ...PROMOTION, role: 'replica' })).response.exit_code).toBe(1);
    expect((await run.webhook({ ...PROMOTION, dry_run: true })).response.exit_code).toBe(1);
    expect(run.metrics()).toContainEqual(expect.objectContaining({ LedgerUnreachable: 1 }));
  });
});

/** The id that the Barman host gives an operation that begins now. */
function idOfNow(): string {
  return idOf(new Date());
}

function idOf(time: Date): string {
  return time.toISOString().replace(/\.\d+Z$|[-:]/g, '');
}
