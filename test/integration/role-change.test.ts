import { createServer } from 'node:http';
import { describe, expect, test } from 'vitest';
import { listen } from '../stand-ins/server.ts';
import { createSecret } from '../stand-ins/webhook.ts';
import { isPoll, NODE1, PROMOTION, RESET, SKIPPED, startFunction } from './function.ts';

describe('a role change that matches', () => {
  test('activates the model of a signed webhook', async () => {
    await using run = await startFunction();
    const { statusCode, headers, response } = await run.webhook(PROMOTION);
    expect(statusCode).toBe(200);
    expect(headers['content-type']).toBe('application/json');
    expect(response).toEqual({
      exit_code: 0,
      exit_status: 'CONFIG_SWITCH_DONE',
      message: 'Barman server main now uses model pg:node2',
      cluster: 'main',
      barman_server: 'main',
      barman_model: 'pg:node2',
      operation_id: expect.stringMatching(/^\d{8}T\d{6}$/),
      recorded: true,
      event_id: expect.stringMatching(/^msg_/),
      request_id: 'request-1',
    });
    expect(run.host.api.activeModel()).toBe('pg:node2');
  });

  test('drops the active model for a reset', async () => {
    await using run = await startFunction();
    run.host.api.setActiveModel('pg:node1');
    expect(await run.webhook(RESET)).toMatchObject({
      statusCode: 200,
      response: { exit_code: 0, reset: true },
    });
    expect(run.host.api.activeModel()).toBeNull();
    expect(JSON.parse(run.host.api.requests[0]?.body ?? '')).toEqual({ type: 'config_switch', reset: true });
  });

  test('by direct invocation returns the response without an HTTP envelope', async () => {
    await using run = await startFunction();
    const response = await run.invoke(PROMOTION);
    expect(response).toMatchObject({ exit_code: 0, event_id: 'request-1', barman_model: 'pg:node2' });
  });

  test('as an EventBridge event takes its id and time from EventBridge', async () => {
    await using run = await startFunction();
    const response = await run.eventBridge({ ...PROMOTION, age_ms: 1_500 }, '2026-11-23T06:10:00Z');
    expect(response).toMatchObject({ exit_code: 0, event_id: 'event-1' });
    run.expectLog({ caller: 'eventbridge', event_time: '2026-11-23T06:09:59.499Z' });
  });

  test('is sent below the path of the base URL', async () => {
    await using run = await startFunction({ prefix: '/a/b' });
    run.host.put({ url: `${run.host.api.url}//` });
    expect((await run.invoke(PROMOTION)).exit_code).toBe(0);
    expect(run.host.api.requests[0]?.path).toBe('/a/b/servers/main/operations');
  });
});

describe('a role change that does not match', () => {
  test('requests neither pg-backup-api nor, once parameters are read, SSM', async () => {
    await using run = await startFunction();
    await run.webhook(SKIPPED);
    const before = run.ssm.requests.length;
    expect(await run.webhook({ ...SKIPPED, switch_when: 'promoted' })).toMatchObject({
      statusCode: 200,
      response: {
        exit_code: 1,
        message: 'skipped: role "replica" does not match switch_when "promoted"',
      },
    });
    expect(run.ssm.requests.length).toBe(before);
    expect(run.host.api.requests).toEqual([]);
  });

  test('by direct invocation needs no SSM', async () => {
    await using run = await startFunction();
    run.ssm.faults.set(run.host.path, 'stall');
    const start = performance.now();
    expect((await run.invoke(SKIPPED)).exit_code).toBe(1);
    expect(performance.now() - start).toBeLessThan(1_000);
  });
});

describe('an invalid payload', () => {
  test('is rejected with all its problems in one message, and does not reach pg-backup-api', async () => {
    await using run = await startFunction();
    const { statusCode, response } = await run.webhook({
      ...PROMOTION,
      cluster: undefined,
      role: 'leader',
      barman_server: 'a/b',
      barman_model: '--reset',
      reset: 'yes',
      swich_when: 'always',
      constructor: 1,
    });
    expect([statusCode, response.exit_code]).toEqual([400, 4]);
    for (const words of [
      'cluster is missing',
      'role must be',
      'barman_server must start',
      'barman_model must start',
      'reset must be',
      '"swich_when"',
      '"constructor"',
    ]) {
      expect(response.message).toContain(words);
    }
    expect(run.host.api.requests).toEqual([]);
  });

  test('with both barman_model and reset is rejected, and the message names both', async () => {
    await using run = await startFunction();
    expect(await run.webhook({ ...PROMOTION, reset: true })).toMatchObject({
      statusCode: 400,
      response: {
        exit_code: 4,
        message: expect.stringContaining('barman_model is "pg:node2", reset is true'),
      },
    });
    expect(run.host.api.requests).toEqual([]);
  });

  test('of nested arrays, null or nothing is rejected', async () => {
    await using run = await startFunction();
    let nested: unknown = [];
    for (let depth = 0; depth < 100_000; depth += 1) nested = [nested];
    for (const payload of [nested, null, undefined, 'text', 7, { ...PROMOTION, role: nested }]) {
      expect(await run.send(payload)).toMatchObject({ exit_code: 4 });
    }
    expect((await run.webhook('['.repeat(8_192) + ']'.repeat(8_192))).response.exit_code).toBe(4);
  });

  test('in an EventBridge event is not thrown: a retry could not correct it', async () => {
    await using run = await startFunction();
    expect(await run.eventBridge({ ...PROMOTION, role: 'boss' })).toMatchObject({
      exit_code: 4,
      message: expect.stringContaining('role must be'),
      recorded: false,
    });
    run.expectMetrics({ INVALID_ARGS: 1 });
    run.expectLog({ level: 'ERROR', caller: 'eventbridge', exit_status: 'INVALID_ARGS' });
  });

  test('may be a heartbeat with further keys: it is rejected with the unknown key', async () => {
    await using run = await startFunction();
    expect(await run.invoke({ heartbeat: true, ...PROMOTION })).toMatchObject({
      exit_code: 4,
      message: expect.stringContaining('"heartbeat" is an unknown key'),
    });
    expect(run.host.api.requests).toEqual([]);
  });
});

describe('a rejected webhook', () => {
  const unauthorized = { statusCode: 401, response: { message: 'Unauthorized' } };

  test('without a signature gets 401 without details, and nothing else runs', async () => {
    await using run = await startFunction();
    expect(await run.webhook(PROMOTION, { headers: {} })).toMatchObject(unauthorized);
    expect(run.host.api.requests).toEqual([]);
    run.expectMetrics({ WebhookRejected: 1 });
  });

  test('with an invalid signature gets 401, and one line in the log, in which the event id is cut', async () => {
    await using run = await startFunction();
    const rejected = await run.webhook(PROMOTION, { id: 'x'.repeat(9_000), secret: createSecret() });
    expect(rejected).toMatchObject(unauthorized);
    const [line] = run.log();
    expect(line).toMatchObject({ rejected: 'signature', event_id: 'x'.repeat(200) });
    expect(JSON.stringify(line).length).toBeLessThan(1_000);
  });

  test('with a valid signature that is more than five minutes old gets 401', async () => {
    await using run = await startFunction();
    const now = Date.now();
    const stale = await run.webhook(SKIPPED, { at: now - 301_000, timeEpoch: now });
    expect(stale).toMatchObject(unauthorized);
    run.expectMetrics({ WebhookRejected: 1 });
    run.expectLog({ rejected: 'timestamp' });
  });

  test('with a body over 16 KB gets 413 without an exit code, whether or not it is signed', async () => {
    await using run = await startFunction();
    const body = JSON.stringify(PROMOTION).padEnd(16_385);
    for (const options of [{}, { base64: true }, { headers: {} }]) {
      const { statusCode, response } = await run.webhook(body, options);
      expect([statusCode, response]).toEqual([413, { message: 'Content Too Large' }]);
    }
    expect(run.host.api.requests).toEqual([]);
    expect(run.metrics()[0]).toMatchObject({ WebhookRejected: 1 });
    expect(run.metrics()[0]).not.toHaveProperty('INVALID_ARGS');
    expect(run.log()[0]).toMatchObject({
      level: 'WARN',
      rejected: 'body too large',
      message: 'webhook with a body of 16385 bytes; the maximum is 16384',
    });
  });

  test('in another payload format gets 400 without an exit code, and is never a direct invocation', async () => {
    await using run = await startFunction();
    const body = JSON.stringify(PROMOTION);
    const requestContext = { requestTimeEpoch: 1 };
    const event = { version: '1.0', httpMethod: 'POST', headers: {}, body, requestContext };
    expect(await run.send(event)).toEqual({
      statusCode: 400,
      headers: { 'content-type': 'application/json' },
      body: '{"message":"Bad Request"}',
    });
    expect(run.host.api.requests).toEqual([]);
    expect(run.log()).toEqual([
      expect.objectContaining({
        level: 'WARN',
        caller: 'http',
        rejected: 'payload format',
        message: expect.stringMatching(/not in payload format 2\.0; .*set the payload format/),
      }),
    ]);
    expect(run.metrics()).toEqual([expect.objectContaining({ WebhookRejected: 1 })]);
  });
});

describe('an event id', () => {
  test('of a signed webhook has up to 128 characters; otherwise the message names the header', async () => {
    await using run = await startFunction();
    const id = '~'.repeat(128);
    expect((await run.webhook(PROMOTION, { id })).response).toMatchObject({ exit_code: 0, event_id: id });
    const { statusCode, response } = await run.webhook(PROMOTION, { id: `${id}~` });
    expect([statusCode, response.exit_code, response.recorded]).toEqual([400, 4, false]);
    expect(response.message).toMatch(/^webhook-id must be 1 to 128 printable ASCII characters/);
  });

  test('that EventBridge cannot have given is replaced by the request id', async () => {
    await using run = await startFunction();
    const response = await run.eventBridge(PROMOTION, undefined, 'x'.repeat(9_000));
    expect(response).toMatchObject({ exit_code: 0, event_id: 'request-1' });
  });
});

describe('a webhook secret', () => {
  test('may be one of several during a rotation, and is read again if none matches, at most once a minute', async () => {
    await using run = await startFunction();
    await run.webhook(SKIPPED);
    const next = createSecret();
    run.host.put({ 'webhook-secret': `${next} ${run.host.webhookSecret}` });
    expect((await run.webhook(SKIPPED, { secret: next })).statusCode).toBe(200);
    expect((await run.webhook(SKIPPED)).statusCode).toBe(200);
    const before = run.ssm.requestsFor(run.host.path).length;
    for (let time = 0; time < 3; time += 1) {
      expect((await run.webhook(PROMOTION, { secret: createSecret() })).statusCode).toBe(401);
    }
    expect(run.ssm.requestsFor(run.host.path).length).toBe(before);
  });

  test.each([
    ['missing', undefined],
    ['malformed', 'whsec_c2hvcnQ='],
  ])('that is %s ends in 503 without an exit code, never 401', async (_, secret) => {
    await using run = await startFunction();
    run.host.put({ 'webhook-secret': secret });
    const { statusCode, headers, response } = await run.webhook(PROMOTION);
    expect([statusCode, headers['retry-after'], response]).toEqual([
      503,
      '5',
      { message: 'Service Unavailable' },
    ]);
    run.expectLog({ message: expect.stringContaining(`${run.host.path}webhook-secret`) });
    run.expectMetrics({ WebhookRejected: 1 });
  });
});

describe('SSM', () => {
  test.each([
    ['hangs', 'stall', /^time ran out .* from SSM$/],
    ['denies access', 'access denied', /AccessDeniedException.*ssm:GetParametersByPath/],
  ] as const)('that %s ends a direct invocation in HTTP_ERROR with the reason', async (_, fault, reason) => {
    await using run = await startFunction();
    run.ssm.faults.set(run.host.path, fault);
    const start = performance.now();
    const response = await run.invoke(PROMOTION, 2_000);
    expect(response).toMatchObject({ exit_code: 3, message: expect.stringMatching(reason) });
    expect(performance.now() - start).toBeLessThan(1_500);
  });
});

describe('plain HTTP', () => {
  test('is used only if a parameter allows it explicitly', async () => {
    await using run = await startFunction();
    const seen: string[] = [];
    let end = 0;
    const plain = await listen(
      createServer((request, response) => {
        seen.push(`${request.method} ${request.url}`);
        if (request.method === 'POST') {
          end = performance.now() + 300;
          response.end('{"operation_id":"20261123T061000"}');
        } else response.end(`{"status":"${performance.now() < end ? 'IN_PROGRESS' : 'DONE'}"}`);
      }),
    );
    run.host.put({
      url: `http://127.0.0.1:${plain.port}`,
      'allow-plain-http': 'true',
      'client-cert': undefined,
    });
    expect((await run.invoke(PROMOTION)).exit_code).toBe(0);
    const [create, ...polls] = seen;
    expect(create).toBe('POST /servers/main/operations');
    expect(new Set(polls)).toEqual(new Set(['GET /servers/main/operations/20261123T061000']));
    await plain.close();
  });
});

describe('an operation', () => {
  test('that fails does not throw an EventBridge event: it is recorded', async () => {
    await using run = await startFunction();
    run.host.api.plan({ failed: 'untouched' });
    expect(await run.eventBridge(PROMOTION)).toMatchObject({ exit_code: 2, recorded: true });
    run.expectMetrics({ CONFIG_SWITCH_FAILED: 1 });
  });

  test('is polled twice at most once it is known how long the last one took, whatever the ledger says', async () => {
    await using run = await startFunction({ requestCost: 12 });
    /** Switches, with operations of 600 ms. @returns the polls */
    const polls = async (target: object) => {
      const before = run.host.api.requests.length;
      run.host.api.plan({ time: 600 });
      expect((await run.invoke(target)).exit_code).toBe(0);
      return run.host.api.requests.slice(before).filter(isPoll).length;
    };
    expect(await polls(PROMOTION)).toBeGreaterThan(4);
    expect((await run.item())?.applied?.operation_ms).toBeGreaterThan(600);
    expect(await polls(NODE1)).toBeLessThanOrEqual(2);
    const { applied } = (await run.item()) ?? {};
    if (!applied) throw new Error('nothing was applied');
    await run.setItem({ applied: { ...applied, operation_ms: 1 } });
    expect(await polls(PROMOTION), 'far less is expected').toBeGreaterThan(4);
    await run.setItem({ applied: { ...applied, operation_ms: 86_400_000 } });
    expect(await polls(NODE1), 'far more is expected').toBe(1);
  });

  test("is waited for within API Gateway's 30 s, even if Lambda has more time, and reported with its id", async () => {
    await using run = await startFunction();
    run.host.api.plan({ time: Number.POSITIVE_INFINITY });
    const start = performance.now();
    const timeEpoch = Date.now() - 27_500;
    expect(await run.webhook(PROMOTION, { at: Date.now(), timeEpoch, remaining: 900_000 })).toMatchObject({
      statusCode: 202,
      response: { exit_code: 3, recorded: true, operation_id: run.host.api.operations()[0]?.id },
    });
    expect(performance.now() - start).toBeLessThan(2_000);
  });
});

describe('a dry run', () => {
  test('reports what a switch would do, and changes nothing', async () => {
    await using run = await startFunction();
    run.host.api.setActiveModel('pg:node1');
    const { statusCode, response } = await run.webhook({ ...PROMOTION, dry_run: true });
    expect([statusCode, response.exit_code, response.dry_run]).toEqual([200, 1, true]);
    expect(response.message).toContain(
      'a switch would apply model pg:node2 to main (now model pg:node1 is active)',
    );
    expect(run.host.api.activeModel()).toBe('pg:node1');
    expect(run.host.api.requests.map(({ method, path }) => `${method} ${path}`)).toEqual(['GET /diagnose']);
  });

  test('reports that the server is paused, so that nothing would be sent', async () => {
    await using run = await startFunction();
    await run.setItem({ paused: true, paused_at: '2026-11-23T06:10:00.000Z' });
    const { message } = await run.invoke({ ...PROMOTION, dry_run: true });
    expect(message).toBe(
      'dry run: main is paused until it is resumed: a role change would only be recorded; ' +
        'without the pause, a switch would apply model pg:node2 to main (now no model is active)',
    );
  });

  test('reports that pg-backup-api is down', async () => {
    await using run = await startFunction({}, { MAX_RETRIES: '1' });
    await run.host.api.refuse();
    expect(await run.invoke({ ...PROMOTION, dry_run: true })).toMatchObject({ exit_code: 3, dry_run: true });
  });
});

describe('telemetry', () => {
  test('has one log line per event, with all fields', async () => {
    await using run = await startFunction();
    await run.webhook(PROMOTION);
    expect(run.log()).toEqual([
      expect.objectContaining({
        level: 'INFO',
        message: 'Barman server main now uses model pg:node2',
        request_id: 'request-1',
        event_id: expect.stringMatching(/^msg_/),
        caller: 'http',
        cluster: 'main',
        barman_server: 'main',
        barman_model: 'pg:node2',
        role: 'primary',
        switch_when: 'promoted',
        operation_id: expect.any(String),
        exit_code: 0,
        exit_status: 'CONFIG_SWITCH_DONE',
        duration_ms: expect.any(Number),
        attempts: expect.any(Number),
        polls: expect.any(Number),
      }),
    ]);
    const [metrics] = run.metrics();
    expect(metrics).toMatchObject({ CONFIG_SWITCH_DONE: 1, service: 'barman-config-switch-test' });
    expect(Object.keys(metrics ?? {})).toEqual(
      expect.arrayContaining(['SwitchDuration', 'Attempts', 'Polls']),
    );
    expect(Object.keys(metrics ?? {})).not.toContain('cluster');
  });

  test('keeps nothing from one invocation to the next', async () => {
    await using run = await startFunction();
    await run.webhook(PROMOTION);
    await run.webhook('{', {});
    await run.webhook(PROMOTION, { headers: {} });
    await run.invoke(SKIPPED);
    const counted = run.metrics().map((record) => Object.keys(record).filter((key) => /^[A-Z]/.test(key)));
    expect(counted).toEqual([
      ['CONFIG_SWITCH_DONE', 'SwitchDuration', 'Attempts', 'Polls'],
      ['INVALID_ARGS'],
      ['WebhookRejected'],
      ['CONFIG_SWITCH_SKIPPED'],
    ]);
    expect(run.log()[3]).not.toHaveProperty('operation_id');
    expect(run.log()).toHaveLength(4);
  });

  test('has a log line for each failed attempt', async () => {
    await using run = await startFunction();
    run.host.api.fault({ kind: 'status', status: 503 }, 1, isPoll);
    await run.invoke(NODE1);
    expect(run.log()[0]).toMatchObject({
      level: 'WARN',
      request_id: 'request-1',
      request: expect.stringMatching(/^GET .servers.main.operations.\d{8}T\d{6}$/),
      attempt: 1,
      message: expect.stringContaining('503'),
    });
  });
});

describe('an internal error', () => {
  test('is HTTP_ERROR with a pointer to the log, and without its message', async () => {
    await using run = await startFunction();
    const payload = {
      ...PROMOTION,
      get role(): string {
        throw new TypeError('inner words');
      },
    };
    const response = await run.send(payload);
    expect(response).toMatchObject({ exit_code: 3, message: expect.stringContaining('request-1') });
    expect(JSON.stringify(response)).not.toContain('inner words');
    expect(JSON.stringify(run.log())).toContain('inner words');
  });

  test('has a log line without what a terminal obeys, a secret, or half a megabyte', async () => {
    await using run = await startFunction();
    const secret = createSecret();
    const payload = {
      ...PROMOTION,
      get role(): string {
        throw new TypeError(`inner \u202e\u009b ${secret} ${'x'.repeat(500_000)}`);
      },
    };
    await run.send(payload);
    const line = JSON.stringify(run.log());
    expect(line).toContain('inner \\\\u202e\\\\u009b whsec_… xxx');
    expect(line).not.toMatch(/[\u202e\u009b]/);
    expect(line).not.toContain(secret);
    expect(line.length).toBeLessThan(12_000);
  });
});
