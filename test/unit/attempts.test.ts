/** When requests to pg-backup-api are sent, and how responses are handled; as its client uses them. */

import * as v from 'valibot';
import { beforeEach, describe, expect, test, vi } from 'vitest';
import {
  type Connection,
  HttpClient,
  type HttpClientOptions,
  type Request,
} from '../../functions/config-switch/barman/attempts.ts';
import { RequestFailure } from '../../functions/config-switch/barman/failures.ts';
import type { PgBackupApi } from '../../functions/config-switch/barman/pg-backup-api.ts';
import { ATTEMPT_TIMEOUT } from '../../functions/config-switch/deadline.ts';
import { DeadlineExceeded, HttpError } from '../../functions/config-switch/errors.ts';
import { secureContextOf } from '../../functions/config-switch/http/tls.ts';
import { CertificateAuthority } from '../stand-ins/certificates.ts';
import {
  abortIn,
  CREATED,
  connections,
  create,
  end,
  messageOf,
  net,
  networkError,
  PLAIN,
  type Reply,
  replies,
  START,
  start,
  timeOf,
  times,
  useVirtualNetwork,
} from './virtual-network.ts';

useVirtualNetwork();

describe('a request', () => {
  const HEADERS = { accept: 'application/json', 'user-agent': 'barman-config-switch' };

  test('for a config switch contains the model', async () => {
    net.reply = () => CREATED;
    const id = await end(start().createConfigSwitchOperation('pg:main', { model: 'pg:node2' }, net.guard));
    expect(id).toBe('20261123T061000');
    expect(net.sent).toEqual([
      {
        at: 0,
        origin: 'http://barman:7480',
        path: '/servers/pg%3Amain/operations',
        method: 'POST',
        signal: expect.any(AbortSignal),
        headers: { ...HEADERS, 'content-type': 'application/json', 'content-length': '48' },
        body: '{"type":"config_switch","model_name":"pg:node2"}',
      },
    ]);
    expect([net.facts, net.guard.inDoubt]).toEqual([{ attempts: 1, polls: 0 }, true]);
    expect(net.source.signals).toEqual([net.controller.signal]);
  });

  test('for the status has no body and keeps the path of the base URL', async () => {
    net.reply = () => [200, '"OK"'];
    net.source.connection = { url: new URL('https://barman:8443/pg//api//') };
    expect(await end(start().status())).toBeUndefined();
    const origin = 'https://barman:8443';
    const sent = { origin, path: '/pg//api/status', method: 'GET', headers: HEADERS, body: null };
    expect(net.sent).toEqual([{ at: 0, signal: expect.any(AbortSignal), ...sent }]);
    expect([net.facts, net.guard.inDoubt]).toEqual([{ attempts: 1, polls: 0 }, false]);
  });

  test("uses one connection without pipelining, HTTP/2 or undici's time-outs", async () => {
    net.reply = () => CREATED;
    const api = start();
    await end(create(api));
    await end(create(api));
    const one = { connections: 1, pipelining: 1, allowH2: false, maxResponseSize: 16_777_216 };
    const options = { ...one, headersTimeout: 0, bodyTimeout: 0, connect: expect.any(Function) };
    expect(net.agents).toEqual([{ destroyed: 0, options }]);
    expect(net.usedAgents).toEqual([net.agents[0], net.agents[0]]);
  });

  test('has the TLS context of the credentials', async () => {
    const authority = await CertificateAuthority.create();
    const tls = { ...(await authority.client()), ca: authority.cert };
    net.source.connection = { ...PLAIN, tls };
    await end(create(start()));
    const secure = { allowH2: false, rejectUnauthorized: true, secureContext: secureContextOf(tls) };
    expect(net.connectors).toEqual([{ timeout: 0 }, { timeout: 0, ...secure }]);
  });

  test('after disposal opens a new connection', async () => {
    net.reply = () => CREATED;
    const api = start();
    await api[Symbol.asyncDispose]();
    await end(create(api));
    await api[Symbol.asyncDispose]();
    await api[Symbol.asyncDispose]();
    await end(create(api));
    expect(net.agents.map(({ destroyed }) => destroyed)).toEqual([1, 0]);
  });

  test('does not check a response any further than the first thing that is wrong', async () => {
    let checked = 0;
    const item = v.custom<number>(() => {
      checked += 1;
      return false;
    });
    net.reply = () => [200, [1, 2, 3]];
    const source = { connection: async () => PLAIN, rereadConnection: async () => PLAIN };
    const client = new HttpClient(source, {
      signal: net.controller.signal,
      maxRetries: 1,
      onRequest: () => {},
    });
    expect(await end(client.request({ method: 'GET', path: ['x'], schema: v.array(item) }))).toBeInstanceOf(
      HttpError,
    );
    expect(checked).toBe(1);
  });

  test('is not sent if the connection parameters are unavailable', async () => {
    net.source.connection = new HttpError('not known');
    expect(await end(create(start()))).toBe(net.source.connection);
    expect([net.sent, net.guard.inDoubt]).toEqual([[], false]);
  });
});

describe('a response', () => {
  const MAY_HAVE_BEGUN = '; a switch may have begun nevertheless';
  const created = (reply: Reply) => {
    net.reply = () => reply;
    return end(create(start({ maxRetries: 1 })));
  };

  test('is a success with any 2xx status', async () => {
    for (const status of [200, 299]) expect(await created([status, { operation_id: 'a' }])).toBe('a');
    for (const status of [199, 300]) {
      const message = expect.stringContaining(`answered ${status}`);
      expect(await created([status, { operation_id: 'a' }])).toMatchObject({ message });
    }
  });

  test('may have an id of up to 255 characters', async () => {
    expect(await created([202, { operation_id: 'a'.repeat(255) }])).toBe('a'.repeat(255));
  });

  test.each([
    ['its body is not JSON', '<html>'],
    ['its JSON is not as expected: it is not Object', 'null'],
    ['its JSON is not as expected: operation_id is not "operation_id"', {}],
    ['its JSON is not as expected: operation_id is not string', { operation_id: 7 }],
    [
      'its JSON is not as expected: operation_id is not /^[A-Za-z0-9_][A-Za-z0-9_.:@+~=,-]*$/',
      { operation_id: 'a/b' },
    ],
    ['its JSON is not as expected: operation_id is not <=255', { operation_id: 'a'.repeat(256) }],
  ])('to a POST is reported if %s', async (what, body) => {
    const message = `pg-backup-api answered 202, but ${what}${MAY_HAVE_BEGUN}`;
    expect(await created([202, body])).toMatchObject({ message });
  });

  test('that does not arrive in time is a time-out', async () => {
    expect(await created('nothing')).toMatchObject({
      name: 'HttpError',
      message: `pg-backup-api did not respond within 12 s${MAY_HAVE_BEGUN}`,
      cause: expect.any(RequestFailure),
    });
    expect(net.sent[0]?.signal.aborted).toBe(true);
  });

  test('that fails with another error than a network error throws it unchanged', async () => {
    const bug = new TypeError('a bug');
    net.reply = () => bug;
    expect(await end(create(start()))).toBe(bug);
    expect(net.sent).toHaveLength(1);
  });
});

describe('attempts', () => {
  const refused = networkError('ECONNREFUSED');

  test('are reported, and limited by max_retries', async () => {
    net.reply = () => refused;
    const onFailure = vi.fn();
    expect(await end(create(start({ maxRetries: 3, onFailure })))).toMatchObject({
      name: 'HttpError',
      message: 'pg-backup-api is unreachable: the connection was refused (ECONNREFUSED) (3 attempts)',
      cause: expect.any(RequestFailure),
    });
    const failure = { request: 'POST /servers/main/operations', error: expect.any(RequestFailure) };
    expect(onFailure.mock.calls).toEqual([1, 2, 3].map((attempt) => [{ ...failure, attempt }]));
  });

  test('have full-jitter back-off that doubles up to 4 s', async () => {
    net.reply = () => refused;
    net.random = 1;
    await end(create(start({ maxRetries: 8 })));
    expect(times()).toEqual([0, 250, 750, 1_750, 3_750, 7_750, 11_750, 15_750]);
    net.sent = [];
    net.random = 0.5;
    const started = performance.now() - START;
    await end(create(start({ maxRetries: 4 })));
    expect(times().map((at) => at - timeOf({ at: started }))).toEqual([0, 125, 375, 875]);
  });

  const ERROR_LOG = ' (5 attempts); see the error log of pg-backup-api';
  test.each([
    ['after a 429: up to max_retries', 429, [0, 0, 0, 0, 0], ' (5 attempts)'],
    ['after a 500: in the next second, with the remedy', 500, [0, 1_000, 2_000, 3_000, 4_000], ERROR_LOG],
    ['after a 400: only one attempt', 400, [0], ''],
    ['after a 302: only one attempt', 302, [0], ' (redirects are not followed'],
  ])('of a POST %s', async (_, status, expected, words) => {
    net.reply = () => [status, ''];
    const message = await messageOf(create(start()));
    expect(message.startsWith(`pg-backup-api answered ${status}${words}`)).toBe(true);
    expect([times(), net.guard.inDoubt]).toEqual([expected, false]);
  });

  test.each([
    [404, [0, 100, 200]],
    [500, [0, 0, 0, 0, 0]],
    // A proxy does not know whether pg-backup-api goes on with it.
    [503, [0]],
  ])('of /diagnose are repeated after a %i, unless it may go on', async (status, expected) => {
    net.reply = () => [status, ''];
    const attempts = expected.length > 1 ? ` (${expected.length} attempts)` : '';
    const message = `pg-backup-api answered ${status}${attempts}`;
    expect([await messageOf(start().diagnose()), times()]).toEqual([message, expected]);
  });

  test('with another status do not count towards the limit for 404', async () => {
    replies(...([404, 429, 404, 429, 429, 404].map((status) => [status, '']) as [Reply, ...Reply[]]));
    const message = await messageOf(start({ maxRetries: 9 }).diagnose());
    expect(message).toBe('pg-backup-api answered 404 (6 attempts)');
  });

  test('are not made after the deadline', async () => {
    net.controller.abort();
    const message = 'time ran out before POST /servers/main/operations was sent';
    expect(await end(create(start()))).toEqual(new DeadlineExceeded(message));
    expect(net.source.signals).toEqual([]);
  });

  test.each([
    ['a POST may have begun a switch', create, 'POST /servers/main/operations', true],
    ['a GET has begun nothing', (api: PgBackupApi) => api.diagnose(), 'GET /diagnose', false],
  ])('end at the deadline, and %s', async (_, call, request, begun) => {
    net.reply = () => 'nothing';
    abortIn(700);
    const doubt = begun ? '; a switch may have begun nevertheless' : '';
    expect(await end<unknown>(call(start()))).toMatchObject({
      name: 'DeadlineExceeded',
      message: `time ran out before ${request} was answered${doubt}`,
      cause: expect.any(DeadlineExceeded),
    });
    expect(net.guard.inDoubt).toBe(begun);
  });

  test('end at the deadline during a back-off', async () => {
    net.reply = () => refused;
    net.random = 1;
    abortIn(700);
    expect(await end(create(start()))).toMatchObject({
      name: 'DeadlineExceeded',
      message: 'pg-backup-api is unreachable: the connection was refused (ECONNREFUSED); then time is up',
    });
    expect(times()).toEqual([0, 250]);
  });
});

describe('what a client says of pg-backup-api', () => {
  const refused = networkError('ECONNREFUSED');

  test('is nothing before the first request', () => {
    const { reached, failure, slowest } = start();
    expect([reached, failure, slowest]).toEqual([false, undefined, 0]);
  });

  test.each<[string, Reply]>([
    ['as expected', [200, '"OK"']],
    ['with an error', [500, { error: 'no' }]],
  ])('is that it was reached, once it has answered %s', async (_, reply) => {
    replies(refused, reply);
    const client = start({ maxRetries: 1 });
    await end(client.status());
    expect(client.reached).toBe(false);
    await end(client.status());
    expect(client.reached).toBe(true);
  });

  test('is not that it was reached if a proxy has answered', async () => {
    net.reply = () => [502, '<html>Bad Gateway</html>'];
    const client = start({ maxRetries: 1 });
    await end(client.status());
    expect([client.reached, client.failure]).toEqual([false, expect.stringMatching(/^.*502/)]);
  });

  test('is why the first request failed that it did not answer', async () => {
    replies([500, { error: 'no' }], refused, networkError('ECONNRESET'));
    const client = start({ maxRetries: 1 });
    for (const failure of [undefined, /ECONNREFUSED/, /ECONNREFUSED/]) {
      await end(client.status());
      expect(client.failure).toEqual(failure && expect.stringMatching(failure));
    }
  });

  test('is why its address is unknown', async () => {
    net.source.connection = new HttpError('not known');
    const client = start();
    await end(client.status());
    net.source.connection = new HttpError('not known either');
    await end(client.status());
    expect(client.failure).toBe('not known');
  });

  test('is how long the slowest request took, of those that were written', async () => {
    const after = (ms: number) =>
      new Promise<Reply>((resolve) => void setTimeout(resolve, ms, [200, '"OK"']));
    const times = [300, 800, 500];
    net.reply = () => after(times.shift() ?? 0);
    const client = start({ maxRetries: 1 });
    for (const slowest of [300, 800, 800]) {
      await end(client.status());
      expect(timeOf({ at: client.slowest })).toBe(slowest);
    }
  });
});

describe('refused credentials', () => {
  const tls = { cert: '', key: '', ca: '' };
  const old: Connection = { url: PLAIN.url, tls };
  const renewed: Connection = { url: new URL('https://other:443'), tls: { ...tls } };
  beforeEach(() => {
    net.source.connection = old;
    net.source.reread = { url: new URL(PLAIN.url), tls: { ...tls } };
  });

  test('are read again, and without a change there is no further attempt', async () => {
    net.reply = () => [403, ''];
    const message = await messageOf(create(start()));
    expect(message).toBe('pg-backup-api answered 403 (check client-cert and client-key)');
    expect(net.source.signals).toEqual([net.controller.signal, net.controller.signal]);
    expect(net.sent).toHaveLength(1);
    expect(net.agents).toMatchObject([{ destroyed: 0 }]);
  });

  test('are read again, and after a change used immediately, regardless of max_retries', async () => {
    net.random = 1;
    net.source.reread = renewed;
    replies([403, ''], CREATED);
    expect(await end(create(start({ maxRetries: 1 })))).toBe('20261123T061000');
    expect(times()).toEqual([0, 0]);
    expect(net.sent.map(({ origin }) => origin)).toEqual(['http://barman:7480', 'https://other']);
    expect(net.agents).toMatchObject([{ destroyed: 1 }, { destroyed: 0 }]);
    expect(net.usedAgents).toEqual(net.agents);
  });

  test('are read again only once', async () => {
    net.source.reread = renewed;
    net.reply = () => [401, ''];
    const message = await messageOf(create(start()));
    expect(message).toBe('pg-backup-api answered 401 (check client-cert and client-key) (2 attempts)');
    expect(net.source.signals).toHaveLength(2);
  });

  const reset = networkError('ECONNRESET');
  test.each<[string, Connection, [Reply, ...Reply[]], string, number]>([
    ['suspected if', old, [reset], '; the Barman host may have refused client-cert', 2],
    ['not suspected if later', old, [[429, ''], reset], ' (2 attempts)', 1],
    ['not suspected without TLS if', PLAIN, [reset], '', 1],
  ])('are %s the connection is reset', async (_, connection, all, words, readings) => {
    net.source.connection = connection;
    replies(...all);
    const message = await messageOf(start({ maxRetries: all.length }).diagnose());
    expect(message).toBe(`pg-backup-api did not respond: the connection was reset (ECONNRESET)${words}`);
    expect(net.source.signals).toHaveLength(readings);
  });

  test('that cannot be read again end the request with that error', async () => {
    net.reply = () => [403, ''];
    net.source.reread = new HttpError('SSM does not respond');
    expect(await end(create(start()))).toBe(net.source.reread);
  });

  test('are read again if the certificate has expired, and nothing is sent', async () => {
    net.source.connection = { ...old, tls: { ...tls, notAfter: Date.now() - 1 } };
    net.source.reread = net.source.connection;
    await using api = start();
    expect(await messageOf(create(api))).toMatch(/^the client certificate expired on 2026-/);
    expect([net.source.signals.length, net.sent]).toEqual([2, []]);
  });
});

describe('before it is written, a request', () => {
  const onFailure = vi.fn<NonNullable<HttpClientOptions['onFailure']>>();
  const connection = async () => PLAIN;
  const open = () =>
    new HttpClient(
      { connection, rereadConnection: connection },
      { signal: net.controller.signal, maxRetries: 5, onFailure, onRequest: () => {} },
    );
  const post: Request<string> = { method: 'POST', path: ['operations'], schema: v.string() };
  const reasons = () => onFailure.mock.calls.map(([{ error }]) => [error.message, error.begun]);
  const since = () => performance.now() - START;
  const TIMED_OUT = 'nothing could be sent to pg-backup-api within 12 s';
  beforeEach(() => {
    onFailure.mockClear();
    net.reply = () => [200, '"ok"'];
  });

  test('waits for the hook in each attempt, after the connection is made', async () => {
    connections([1_000]);
    replies([503, ''], [200, '"ok"']);
    const hooks: number[] = [];
    const beforeSend = async () => {
      hooks.push(timeOf({ at: since() }));
      await new Promise((resolve) => void setTimeout(resolve, 200));
    };
    expect(await end(open().request({ ...post, beforeSend }))).toBe('ok');
    expect([hooks, times()]).toEqual([
      [1_000, 2_200],
      [1_200, 2_400],
    ]);
  });

  test('is not sent if its time is over once the connection is made', async () => {
    connections(
      [3_000, networkError('UND_ERR_CONNECT_TIMEOUT')],
      [3_000, networkError('ECONNRESET')],
      [2_600],
    );
    const refusal = new Error('the window is over');
    const hooks: number[] = [];
    const beforeSend = async () => {
      hooks.push(timeOf({ at: since() }));
      if (since() > 8_000) throw refusal;
    };
    expect(await end<unknown>(open().request({ ...post, beforeSend }))).toBe(refusal);
    expect([hooks, net.sent]).toEqual([[8_600], []]);
    const unreachable = 'pg-backup-api is unreachable: the connection';
    expect(reasons()).toEqual([
      [`${unreachable} timed out (UND_ERR_CONNECT_TIMEOUT)`, 'no'],
      [`${unreachable} was reset (ECONNRESET)`, 'no'],
    ]);
  });

  test('ends with the error of the hook, which is not a failed attempt', async () => {
    const refusals = [networkError('ECONNRESET'), new DeadlineExceeded('time is up'), 'the lease is lost'];
    for (const refusal of refusals) {
      const beforeSend = () => Promise.reject(refusal);
      expect(await end<unknown>(open().request({ ...post, beforeSend }))).toBe(refusal);
    }
    const aborted = async () => {
      net.controller.abort();
      throw refusals[0];
    };
    expect(await end<unknown>(open().request({ ...post, beforeSend: aborted }))).toBe(refusals[0]);
    expect([net.sent, onFailure.mock.calls]).toEqual([[], []]);
  });

  test('has the time limit of its attempt while it connects and for the hook', async () => {
    connections([ATTEMPT_TIMEOUT + 1], [11_000], [0]);
    const delays = [1_001, 0];
    const beforeSend = () => new Promise<void>((resolve) => void setTimeout(resolve, delays.shift() ?? 0));
    expect(await end(open().request({ ...post, beforeSend }))).toBe('ok');
    expect(reasons()).toEqual([
      [TIMED_OUT, 'no'],
      [TIMED_OUT, 'no'],
    ]);
    expect(net.sent).toHaveLength(1);
    expect(net.sent[0]?.at).toBeCloseTo(2 * ATTEMPT_TIMEOUT, -2);
  });

  test('leaves the rest of that time for the response', async () => {
    connections([3_000]);
    replies('nothing', [200, '"ok"']);
    expect(await end(open().request(post))).toBe('ok');
    expect(reasons()).toEqual([['pg-backup-api did not respond within 12 s', 'unknown']]);
    expect(times()).toEqual([3_000, 15_000]);
  });

  test('is not sent, and nothing has begun, if time runs out', async () => {
    connections([3_000]);
    abortIn(2_000);
    const beforeSend = vi.fn(async () => {});
    const message = 'time ran out before POST /operations was sent';
    expect(await end(open().request({ ...post, beforeSend }))).toMatchObject({ message });
    expect(beforeSend).not.toHaveBeenCalled();
  });

  test('takes no time of the host', async () => {
    connections([3_000]);
    net.reply = () => new Promise((resolve) => void setTimeout(resolve, 500, [200, '"ok"']));
    const client = open();
    await end(client.request(post));
    expect(timeOf({ at: client.last.start - START })).toBe(3_000);
    expect(timeOf({ at: client.last.time })).toBe(500);
  });
});
