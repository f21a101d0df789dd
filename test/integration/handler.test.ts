import { createServer } from 'node:http';
import { describe, expect, test } from 'vitest';
import { CertificateAuthority } from '../stand-ins/certificates.ts';
import { listen } from '../stand-ins/server.ts';
import { createSecret, httpEvent, signedHeaders } from '../stand-ins/webhook.ts';
import { PROMOTION, startFunction } from './function.ts';

const { key: foreignKey } = await (await CertificateAuthority.create('Foreign CA')).client();
const RESET = { ...PROMOTION, barman_model: undefined, reset: true };

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
    const { statusCode, response } = await run.webhook(RESET);
    expect([statusCode, response.exit_code, response.reset]).toEqual([200, 0, true]);
    expect(run.host.api.activeModel()).toBeNull();
    expect(JSON.parse(run.host.api.requests[0]?.body ?? '')).toEqual({ type: 'config_switch', reset: true });
  });

  test('may have its body in base64', async () => {
    await using run = await startFunction();
    const { response } = await run.webhook(PROMOTION, { base64: true });
    expect(response.exit_code).toBe(0);
  });

  test('by direct invocation returns the response without an HTTP envelope', async () => {
    await using run = await startFunction();
    expect(await run.invoke(PROMOTION)).toMatchObject({
      exit_code: 0,
      event_id: 'request-1',
      barman_model: 'pg:node2',
    });
    expect(await run.invoke(RESET)).toMatchObject({ exit_code: 0, reset: true });
    expect(run.host.api.activeModel()).toBeNull();
  });

  test('as an EventBridge event takes its id and time from EventBridge', async () => {
    await using run = await startFunction();
    const response = await run.eventBridge({ ...PROMOTION, age_ms: 1_500 }, '2026-11-23T06:10:00Z');
    expect(response).toMatchObject({ exit_code: 0, event_id: 'event-1' });
    expect(run.log()).toContainEqual(
      expect.objectContaining({ caller: 'eventbridge', event_time: '2026-11-23T06:09:59.499Z' }),
    );
  });

  test.each([
    ['master', 'promoted', 0],
    ['standby_leader', 'promoted', 1],
    ['standby_leader', 'demoted', 1],
    ['standby_leader', 'always', 0],
    ['standby_leader', 'leader', 0],
  ])('with role %s and switch_when %s ends with %i', async (role, switch_when, exitCode) => {
    await using run = await startFunction();
    expect((await run.webhook({ ...PROMOTION, role, switch_when })).response.exit_code).toBe(exitCode);
    expect((await run.invoke({ ...PROMOTION, role, switch_when })).exit_code).toBe(exitCode);
  });

  test.each([
    ['', ''],
    ['/pgbapi', ''],
    ['/pgbapi', '/'],
    ['/a/b', '//'],
  ])('is sent below the path "%s" of a base URL that ends in "%s"', async (prefix, slashes) => {
    await using run = await startFunction({ prefix });
    run.host.put({ url: `${run.host.api.url}${slashes}` });
    expect((await run.invoke(PROMOTION)).exit_code).toBe(0);
    expect(run.host.api.requests[0]?.path).toBe(`${prefix}/servers/main/operations`);
  });
});

describe('a role change that does not match', () => {
  test('requests neither pg-backup-api nor, once parameters are read, SSM', async () => {
    await using run = await startFunction();
    await run.webhook({ ...PROMOTION, role: 'replica' });
    const before = run.ssm.requests.length;
    const { statusCode, response } = await run.webhook({
      ...PROMOTION,
      role: 'replica',
      switch_when: 'promoted',
    });
    expect([statusCode, response.exit_code]).toEqual([200, 1]);
    expect(response.message).toBe('skipped: role "replica" does not match switch_when "promoted"');
    expect(run.ssm.requests.length).toBe(before);
    expect(run.host.api.requests).toEqual([]);
  });

  test.each(['stall', 'reset', 'access denied'] as const)(
    'by direct invocation needs no SSM (SSM: %s)',
    async (fault) => {
      await using run = await startFunction();
      run.ssm.faults.set(run.host.path, fault);
      const start = performance.now();
      expect(await run.invoke({ ...PROMOTION, role: 'demoted' })).toMatchObject({ exit_code: 1 });
      expect(performance.now() - start).toBeLessThan(1_000);
    },
  );

  test('is skipped before the one-of check', async () => {
    await using run = await startFunction();
    const both = { ...PROMOTION, reset: true, role: 'replica' };
    expect((await run.webhook(both)).response.exit_code).toBe(1);
    expect((await run.invoke({ ...both, barman_model: undefined, reset: false })).exit_code).toBe(1);
  });
});

describe('an invalid payload', () => {
  test.each([
    ['both', { reset: true }, 'barman_model is "pg:node2" and reset is true'],
    ['neither', { barman_model: undefined }, 'barman_model is missing and reset is false'],
  ])(
    'with %s of barman_model and reset is rejected, and the message names both',
    async (_, change, words) => {
      await using run = await startFunction();
      const { statusCode, response } = await run.webhook({ ...PROMOTION, ...change });
      expect([statusCode, response.exit_code]).toEqual([400, 4]);
      expect(response.message).toContain(words);
      expect(await run.invoke({ ...PROMOTION, ...change })).toMatchObject({ exit_code: 4 });
      expect(run.host.api.requests).toEqual([]);
    },
  );

  test('is rejected with all its problems in one message', async () => {
    await using run = await startFunction();
    const { statusCode, response } = await run.webhook({
      ...PROMOTION,
      cluster: undefined,
      role: 'leader',
      reset: 'yes',
      swich_when: 'always',
      constructor: 1,
    });
    expect([statusCode, response.exit_code]).toEqual([400, 4]);
    for (const words of [
      'cluster is missing',
      'role must be',
      'reset must be',
      '"swich_when"',
      '"constructor"',
    ]) {
      expect(response.message).toContain(words);
    }
  });

  test.each([
    { barman_model: '--reset' },
    { barman_model: '--help' },
    { barman_model: 'pg node2' },
    { barman_server: '..' },
    { barman_server: 'a/b' },
    { barman_server: '\ud800' },
    { cluster: '\ud800' },
    { barman_server: 'main\n' },
    { barman_server: 'm'.repeat(256) },
  ])('with %j does not reach pg-backup-api', async (change) => {
    await using run = await startFunction();
    const { statusCode, response } = await run.webhook({ ...PROMOTION, ...change });
    expect([statusCode, response.exit_code]).toEqual([400, 4]);
    expect(response.message).toContain(Object.keys(change)[0]);
    expect(await run.invoke({ ...PROMOTION, ...change })).toMatchObject({ exit_code: 4 });
    expect(run.host.api.requests).toEqual([]);
  });

  test.each([
    ['not JSON', '{"action":'],
    ['empty', ''],
    ['blank', ' \n'],
    ['an array', '[]'],
    ['null', 'null'],
    ['16 KB of nested arrays', '['.repeat(8_192) + ']'.repeat(8_192)],
    ['16 KB', JSON.stringify(PROMOTION).padEnd(16_384, '}')],
    ['not UTF-8', Buffer.from(JSON.stringify({ ...PROMOTION, cluster: 'Köln' }), 'latin1')],
  ])('that is %s is rejected', async (_, body) => {
    await using run = await startFunction();
    const { statusCode, response } = await run.webhook(body);
    expect([statusCode, response.exit_code, response.exit_status]).toEqual([400, 4, 'INVALID_ARGS']);
  });

  test('of nested arrays, null or nothing is rejected by direct invocation', async () => {
    await using run = await startFunction();
    let nested: unknown = [];
    for (let depth = 0; depth < 100_000; depth += 1) nested = [nested];
    for (const payload of [nested, null, undefined, 'text', 7, { ...PROMOTION, role: nested }]) {
      expect(await run.send(payload)).toMatchObject({ exit_code: 4 });
    }
  });

  test.each([
    ['a wrong field', { ...PROMOTION, role: 'boss' }, /role must be/],
    ['another id for its target', PROMOTION, /event id/],
    ['no object', 'text', /the payload must be a JSON object/],
  ])('in an EventBridge event (%s) is not thrown: a retry could not correct it', async (_, detail, words) => {
    await using run = await startFunction();
    await run.eventBridge({ ...PROMOTION, barman_model: 'pg:node1' });
    expect(await run.eventBridge(detail)).toMatchObject({
      exit_code: 4,
      message: expect.stringMatching(words),
      recorded: false,
    });
    expect(run.metrics()).toContainEqual(expect.objectContaining({ INVALID_ARGS: 1 }));
    expect(run.log()).toContainEqual(
      expect.objectContaining({ level: 'ERROR', caller: 'eventbridge', exit_status: 'INVALID_ARGS' }),
    );
  });
});

describe('an unauthenticated caller', () => {
  test.each([
    ['no signature', {}],
    ['no id', { 'webhook-id': '' }],
    ['a malformed timestamp', { 'webhook-timestamp': '1e9' }],
    ['an invalid signature', { 'webhook-signature': 'v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=' }],
    ['a signature of another version', { 'webhook-signature': 'v2,AAAA' }],
    ['another id than the one signed', { 'webhook-id': 'msg_other' }],
  ])('with %s gets 401 without details, and nothing else runs', async (name, change) => {
    await using run = await startFunction();
    const body = JSON.stringify(PROMOTION);
    const headers =
      name === 'no signature' ? {} : { ...signedHeaders(run.host.webhookSecret, body), ...change };
    const { statusCode, response } = await run.webhook(body, { headers });
    expect(statusCode).toBe(401);
    expect(response).toEqual({ message: 'Unauthorized' });
    expect(run.host.api.requests).toEqual([]);
    expect(run.metrics()).toContainEqual(expect.objectContaining({ WebhookRejected: 1 }));
  });

  test('with an event id of 9 KB gets 401, and one line in the log that is cut', async () => {
    await using run = await startFunction();
    const { statusCode } = await run.webhook(PROMOTION, { id: 'x'.repeat(9_000), secret: createSecret() });
    expect(statusCode).toBe(401);
    const [line] = run.log();
    expect(line).toMatchObject({ rejected: 'signature', event_id: 'x'.repeat(200) });
    expect(JSON.stringify(line).length).toBeLessThan(1_000);
  });

  test.each([
    ['five minutes and a second old', -301, 401],
    ['five minutes and a second ahead', 301, 401],
    ['five minutes old', -300, 200],
    ['five minutes ahead', 300, 200],
  ])('with a valid signature %s gets %i', async (_, seconds, status) => {
    await using run = await startFunction();
    const now = Date.now();
    const { statusCode, response } = await run.webhook(
      { ...PROMOTION, role: 'replica' },
      { at: now + seconds * 1_000, timeEpoch: now },
    );
    expect(statusCode).toBe(status);
    if (status === 401) {
      expect(response).toEqual({ message: 'Unauthorized' });
      expect(run.metrics()).toContainEqual(expect.objectContaining({ WebhookRejected: 1 }));
      expect(run.log()).toContainEqual(expect.objectContaining({ rejected: 'timestamp' }));
    }
  });
});

describe('a body over 16 KB', () => {
  test.each([
    ['a valid signature', undefined],
    ['an invalid signature', { 'webhook-id': 'x', 'webhook-timestamp': '1', 'webhook-signature': 'v1,AAAA' }],
    ['no signature', {}],
  ])('with %s gets 413 without an exit code, and nothing else runs', async (_, headers) => {
    await using run = await startFunction();
    const body = JSON.stringify(PROMOTION).padEnd(16_385);
    for (const base64 of [false, true]) {
      const { statusCode, response } = await run.webhook(body, { base64, ...(headers && { headers }) });
      expect(statusCode).toBe(413);
      expect(response).toEqual({ message: 'Content Too Large' });
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
});

describe('an event id', () => {
  test.each(['x'.repeat(129), 'a b', 'ä', '\u0007'])(
    '%j of a signed webhook is rejected, and the message names the header',
    async (id) => {
      await using run = await startFunction();
      const { statusCode, response } = await run.webhook(PROMOTION, { id });
      expect([statusCode, response.exit_code, response.recorded]).toEqual([400, 4, false]);
      expect(response.message).toMatch(/^webhook-id must be 1 to 128 printable ASCII characters/);
      expect(run.host.api.requests).toEqual([]);
    },
  );

  test('of 128 characters is valid', async () => {
    await using run = await startFunction();
    const id = '~'.repeat(128);
    expect((await run.webhook(PROMOTION, { id })).response).toMatchObject({ exit_code: 0, event_id: id });
  });

  test('that EventBridge cannot have given is replaced by the request id', async () => {
    await using run = await startFunction();
    const response = await run.eventBridge(PROMOTION, undefined, 'x'.repeat(9_000));
    expect(response).toMatchObject({ exit_code: 0, event_id: 'request-1' });
  });
});

describe('an HTTP request in another payload format', () => {
  const headers = { host: 'example.com' };
  const body = JSON.stringify(PROMOTION);
  const http = { method: 'POST', path: '/config-switch' };
  test.each([
    [
      'format 1.0 of an HTTP API or a REST API',
      { version: '1.0', httpMethod: 'POST', headers, body, requestContext: { requestTimeEpoch: 1 } },
    ],
    [
      'a load balancer',
      { httpMethod: 'POST', headers, body, requestContext: { elb: { targetGroupArn: 'arn:aws:…' } } },
    ],
    ['a WebSocket API', { body, requestContext: { eventType: 'MESSAGE', connectionId: 'x' } }],
    ['VPC Lattice', { version: '2.0', method: 'POST', headers, body, requestContext: { timeEpoch: '1' } }],
    ['format 2.0 without a time', { version: '2.0', headers, body, requestContext: { http } }],
    ['format 2.0 with other headers', { ...httpEvent(body, {}), headers: { 'webhook-id': ['x'] } }],
    ['the payload with a requestContext', { ...PROMOTION, requestContext: null }],
    [
      'an EventBridge event with a requestContext',
      { 'detail-type': 'x', detail: PROMOTION, requestContext: {} },
    ],
  ])('(%s) gets 400 without an exit code, and is never a direct invocation', async (_, event) => {
    await using run = await startFunction();
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

describe('a heartbeat with further keys', () => {
  test('is not a heartbeat: the role change is rejected with the unknown key', async () => {
    await using run = await startFunction();
    expect(await run.invoke({ heartbeat: true, ...PROMOTION })).toMatchObject({
      exit_code: 4,
      message: expect.stringContaining('"heartbeat" is an unknown key'),
    });
    expect(run.host.api.requests).toEqual([]);
  });
});

describe('a webhook secret', () => {
  test('may be one of several during a rotation', async () => {
    await using run = await startFunction();
    const next = createSecret();
    run.host.put({ 'webhook-secret': `${next} ${run.host.webhookSecret}` });
    expect((await run.webhook(PROMOTION)).statusCode).toBe(200);
    expect((await run.webhook(PROMOTION, { secret: next })).statusCode).toBe(200);
  });

  test('is read again if none matches, at most once a minute', async () => {
    await using run = await startFunction();
    await run.webhook({ ...PROMOTION, role: 'replica' });
    const next = createSecret();
    run.host.put({ 'webhook-secret': next });
    expect((await run.webhook(PROMOTION, { secret: next })).statusCode).toBe(200);
    const before = run.ssm.requestsFor(run.host.path).length;
    for (let time = 0; time < 3; time += 1) {
      expect((await run.webhook(PROMOTION, { secret: createSecret() })).statusCode).toBe(401);
    }
    expect(run.ssm.requestsFor(run.host.path).length).toBe(before);
  });

  test.each([
    ['missing', undefined],
    ['malformed', 'whsec_'],
    ['too short', `whsec_${Buffer.from('short').toString('base64')}`],
    ['without padding', `whsec_${'A'.repeat(43)}`],
    ['without its prefix', Buffer.alloc(32, 7).toString('base64')],
  ])('that is %s ends in 503 without an exit code, never 401', async (_, secret) => {
    await using run = await startFunction();
    run.host.put({ 'webhook-secret': secret });
    const { statusCode, headers, response } = await run.webhook(PROMOTION);
    expect(statusCode).toBe(503);
    expect(headers['retry-after']).toBe('5');
    expect(response).toEqual({ message: 'Service Unavailable' });
    expect(run.log()).toContainEqual(
      expect.objectContaining({ message: expect.stringContaining(`${run.host.path}webhook-secret`) }),
    );
    expect(run.metrics()).toContainEqual(expect.objectContaining({ WebhookRejected: 1 }));
  });
});

describe('SSM', () => {
  test('that hangs ends a webhook in 503 before the deadline', async () => {
    await using run = await startFunction();
    run.ssm.faults.set(run.host.path, 'stall');
    const start = performance.now();
    const { statusCode } = await run.webhook(PROMOTION, { remaining: 3_000 });
    expect(statusCode).toBe(503);
    expect(performance.now() - start).toBeLessThan(2_500);
  });

  test('that hangs ends a direct invocation in HTTP_ERROR before the deadline', async () => {
    await using run = await startFunction();
    run.ssm.faults.set(run.host.path, 'stall');
    const start = performance.now();
    const response = await run.invoke(PROMOTION, 3_000);
    expect(response).toMatchObject({ exit_code: 3, message: expect.stringContaining('SSM') });
    expect(performance.now() - start).toBeLessThan(2_500);
  });

  test('that denies access is reported with what the role needs', async () => {
    await using run = await startFunction();
    run.ssm.faults.set(run.host.path, 'access denied');
    const response = await run.invoke(PROMOTION);
    expect(response.exit_code).toBe(3);
    expect(response.message).toMatch(/AccessDeniedException.*ssm:GetParametersByPath/);
  });

  test.each([
    ['url', undefined, 'is missing'],
    ['url', '  ', 'is missing'],
    ['url', 'barman:7480', 'is not an https:// URL'],
    ['url', 'http://127.0.0.1:7480', 'allow-plain-http'],
    ['url', 'https://user:hunter2-hunter2-hunter2@barman', 'has a user, a password'],
    ['client-cert', undefined, 'is missing'],
    ['client-cert', 'no certificate, but twenty characters', 'is malformed'],
    ['client-key', undefined, 'is missing'],
    ['client-key', 'no key', 'is malformed'],
    ['client-key', foreignKey, 'does not belong to client-cert'],
    ['ca-cert', undefined, 'is missing'],
    ['ca-cert', '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----', 'is malformed'],
  ])('parameter %s with the invalid value %j is named, without its value', async (name, value, problem) => {
    await using run = await startFunction();
    run.host.put({ [name]: value });
    const { statusCode, response } = await run.webhook(PROMOTION);
    expect([statusCode, response.exit_code]).toEqual([502, 3]);
    expect(response.message).toContain(`${run.host.path}${name} `);
    expect(response.message).toContain(problem);
    expect(JSON.stringify(response)).not.toContain('hunter2');
    expect(run.host.api.requests).toEqual([]);
    expect((await run.webhook({ ...PROMOTION, role: 'replica' })).response.exit_code).toBe(1);
  });
});

describe('plain HTTP', () => {
  test('is used only if a parameter allows it explicitly', async () => {
    await using run = await startFunction();
    const seen: string[] = [];
    const plain = await listen(
      createServer((request, response) => {
        seen.push(`${request.method} ${request.url}`);
        response.end(request.method === 'POST' ? '{"operation_id":"20261123T061000"}' : '{"status":"DONE"}');
      }),
    );
    run.host.put({
      url: `http://127.0.0.1:${plain.port}`,
      'allow-plain-http': 'true',
      'client-cert': undefined,
    });
    expect((await run.invoke(PROMOTION)).exit_code).toBe(0);
    expect(seen).toEqual(['POST /servers/main/operations', 'GET /servers/main/operations/20261123T061000']);
    await plain.close();
  });
});

describe('an operation', () => {
  test('that fails is reported with the file that has the reason', async () => {
    await using run = await startFunction();
    run.host.api.plan({ failed: 'untouched' });
    const { statusCode, response } = await run.webhook(PROMOTION);
    expect([statusCode, response.exit_code]).toEqual([502, 2]);
    expect(response.message).toContain(`<barman_home>/main/output/${response.operation_id}.json`);
  });

  test('that fails does not throw an EventBridge event: it is recorded', async () => {
    await using run = await startFunction();
    run.host.api.plan({ failed: 'untouched' });
    expect(await run.eventBridge(PROMOTION)).toMatchObject({ exit_code: 2, recorded: true });
    expect(run.metrics()).toContainEqual(expect.objectContaining({ CONFIG_SWITCH_FAILED: 1 }));
  });

  test('that is stuck is reported with its id before the deadline', async () => {
    await using run = await startFunction();
    run.host.api.plan({ time: Number.POSITIVE_INFINITY });
    const start = performance.now();
    const { statusCode, response } = await run.webhook(PROMOTION, { remaining: 3_500 });
    expect([statusCode, response.exit_code, response.recorded]).toEqual([202, 3, true]);
    expect(response.operation_id).toBe(run.host.api.operations()[0]?.id);
    expect(performance.now() - start).toBeLessThan(3_000);
  });

  test("is waited for within API Gateway's 30 s, even if Lambda has more time", async () => {
    await using run = await startFunction();
    run.host.api.plan({ time: Number.POSITIVE_INFINITY });
    const start = performance.now();
    const { statusCode } = await run.webhook(PROMOTION, {
      at: Date.now(),
      timeEpoch: Date.now() - 27_500,
      remaining: 900_000,
    });
    expect(statusCode).toBe(202);
    expect(performance.now() - start).toBeLessThan(2_000);
  });

  test('that vanishes is reported with its id', async () => {
    await using run = await startFunction();
    run.host.api.plan({ vanishes: true });
    const { statusCode, response } = await run.webhook(PROMOTION);
    expect([statusCode, response.exit_code]).toEqual([502, 3]);
    expect(response.operation_id).toMatch(/^\d{8}T\d{6}$/);
    expect(response.message).toContain('Resource not found');
  });
});

describe('a dry run', () => {
  test.each([
    ['pg:node2', 'a switch would apply model pg:node2 to main (now model pg:node1 is active)'],
    ['pg:node1', 'model pg:node1 is already active on main; a switch would change nothing'],
    ['pg:node9', 'Barman has no model pg:node9, so the switch would end as CONFIG_SWITCH_FAILED'],
    ['other:node1', 'model other:node1 belongs to cluster other and server main to main'],
  ])('with model %s reports: %s', async (barman_model, words) => {
    await using run = await startFunction({
      models: {
        'pg:node1': { cluster: 'main' },
        'pg:node2': { cluster: 'main' },
        'other:node1': { cluster: 'other' },
      },
    });
    run.host.api.setActiveModel('pg:node1');
    const { statusCode, response } = await run.webhook({ ...PROMOTION, barman_model, dry_run: true });
    expect([statusCode, response.exit_code, response.dry_run]).toEqual([200, 1, true]);
    expect(response.message).toContain(words);
    expect(run.host.api.activeModel()).toBe('pg:node1');
    expect(run.host.api.requests.map(({ method, path }) => `${method} ${path}`)).toEqual(['GET /diagnose']);
  });

  test('reports what a reset would do, and an unknown server', async () => {
    await using run = await startFunction();
    expect(await run.invoke({ ...RESET, dry_run: true })).toMatchObject({
      exit_code: 1,
      dry_run: true,
      message: expect.stringContaining('would drop the active model of main (now no model is active)'),
    });
    expect((await run.invoke({ ...PROMOTION, barman_server: 'nope', dry_run: true })).message).toContain(
      'Barman has no server nope',
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
    await using run = await startFunction({ operationTime: 300 });
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
    await run.invoke({ ...PROMOTION, role: 'replica' });
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
    run.host.api.fault({ kind: 'status', status: 503 }, 1);
    await run.invoke(PROMOTION);
    expect(run.log()[0]).toMatchObject({
      level: 'WARN',
      request_id: 'request-1',
      request: 'POST /servers/main/operations',
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
});
