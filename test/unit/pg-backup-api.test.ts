/** The pg-backup-api client in virtual time with undici mocked: when requests are sent, and how responses are handled. */

import type { SecureContext } from 'node:tls';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { Connection } from '../../functions/config-switch/barman/attempts.ts';
import { RequestFailure } from '../../functions/config-switch/barman/failures.ts';
import {
  PgBackupApi,
  type PgBackupApiOptions,
  type PostGuard,
} from '../../functions/config-switch/barman/pg-backup-api.ts';
import { DeadlineExceeded, HttpError, LedgerError } from '../../functions/config-switch/errors.ts';
import { CertificateAuthority } from '../stand-ins/certificates.ts';
import { useVirtualTime } from './virtual-time.ts';

interface Sent {
  /** Time since the start of the test (ms). */
  at: number;
  method: string;
  origin: string;
  path: string;
  headers: object;
  body: string | null;
  signal: AbortSignal;
}
/** Outcome of a request: a status and body, an error, or no response. */
type Reply = [status: number, body: unknown] | Error | 'nothing';

const net = vi.hoisted(() => ({
  agents: [] as { options: unknown; destroyed: number }[],
  sent: [] as Sent[],
  /** The agent of each request, in order. */
  usedAgents: [] as unknown[],
  reply: (() => new Error('no reply')) as (sent: Sent) => Reply | Promise<Reply>,
  /** The `Date` of all responses. */
  date: undefined as string | undefined,
}));

vi.mock('../../functions/config-switch/http/undici.ts', () => ({
  Agent: class {
    destroyed = 0;
    readonly options: unknown;
    constructor(options: unknown) {
      this.options = options;
      net.agents.push(this);
    }
    async destroy(): Promise<void> {
      this.destroyed += 1;
      throw new Error('it cannot be destroyed');
    }
  },
  request: async (agent: unknown, options: Omit<Sent, 'at'>) => {
    const sent = { at: performance.now() - START, ...options };
    net.sent.push(sent);
    net.usedAgents.push(agent);
    const reply = await net.reply(sent);
    if (reply === 'nothing') return new Promise(() => {});
    if (reply instanceof Error) throw reply;
    const text = typeof reply[1] === 'string' ? reply[1] : JSON.stringify(reply[1]);
    return { statusCode: reply[0], headers: { date: net.date }, body: { text: async () => text } };
  },
}));

const NOW = Date.parse('2026-11-23T06:10:00.000Z');
/** `performance.now()` at the start of a test (ms). */
const START = 100_000;
const CREATED: Reply = [202, { operation_id: '20261123T061000' }];
const PLAIN: Connection = { url: new URL('http://barman:7480') };
const networkError = (code: string) => Object.assign(new Error('so it is'), { code });
const slowly = (ms: number, reply: Reply): Promise<Reply> =>
  new Promise((resolve) => setTimeout(resolve, ms, reply));
/** Sends these replies in order, then repeats the last one. */
function replies(...all: [Reply, ...Reply[]]): void {
  let last = all[0];
  const rest = [...all];
  net.reply = () => {
    last = rest.shift() ?? last;
    return last;
  };
}
/** Rounded down to 5 ms, because each virtual timer may be a millisecond late. */
const timeOf = ({ at }: Pick<Sent, 'at'>) => 5 * Math.floor(at / 5);
const times = () => net.sent.map(timeOf);
const requests = () => net.sent.map((sent) => `${timeOf(sent)} ${sent.method} ${sent.path}`);

let controller: AbortController;
/** What SSM has, at first and when it is read again, or why not. */
let source: { connection: Connection | HttpError; reread: Connection | HttpError; signals: AbortSignal[] };
let random: number;
let guard: PostGuard & { beforePost: () => Promise<void> };
let facts: { attempts: number; polls: number };
useVirtualTime(NOW);
beforeEach(() => {
  controller = new AbortController();
  source = { connection: PLAIN, reread: PLAIN, signals: [] };
  random = 0;
  guard = { inDoubt: false, beforePost: async () => {}, onCreated: () => {}, passedOver: new Set() };
  facts = { attempts: 0, polls: 0 };
  vi.spyOn(Math, 'random').mockImplementation(() => random);
  net.agents = [];
  net.sent = [];
  net.date = undefined;
  net.usedAgents = [];
});
afterEach(() => {
  vi.restoreAllMocks();
});

/** Returns what is read, and keeps the signal. */
const read = async (from: 'connection' | 'reread', signal: AbortSignal) => {
  source.signals.push(signal);
  const value = source[from];
  if (value instanceof HttpError) throw value;
  return value;
};
const start = (options: Partial<PgBackupApiOptions> = {}) =>
  new PgBackupApi(
    {
      connection: (signal) => read('connection', signal),
      rereadConnection: (signal) => read('reread', signal),
    },
    { signal: controller.signal, maxRetries: 5, postDelay: 5_000, facts, ...options },
  );
const create = (api: PgBackupApi, server = 'main') =>
  api.createConfigSwitchOperation(server, { reset: true }, guard);
/** Runs a call to its end in virtual time, and checks that no timer is left. @returns the result or the error */
async function end<T>(call: Promise<T>): Promise<T | Error> {
  let timers: number | undefined;
  const ended = call
    .catch((error: unknown) => error as Error)
    .finally(() => {
      timers = vi.getTimerCount();
    });
  await vi.advanceTimersByTimeAsync(200_000);
  expect(timers).toBe(0);
  return ended;
}
/** Runs a call to its end. @returns the message of its error */
const messageOf = async (call: Promise<unknown>) => ((await end(call)) as Error).message;
/** Aborts with a DeadlineExceeded after a time (ms). */
const abortIn = (ms: number) => setTimeout(() => controller.abort(new DeadlineExceeded('time is up')), ms);

describe('a request', () => {
  const HEADERS = { accept: 'application/json', 'user-agent': 'barman-config-switch' };

  test('for a config switch contains the model', async () => {
    net.reply = () => CREATED;
    const id = await end(start().createConfigSwitchOperation('pg:main', { model: 'pg:node2' }, guard));
    expect(id).toBe('20261123T061000');
    expect(net.sent).toEqual([
      {
        at: 0,
        origin: 'http://barman:7480',
        path: '/servers/pg%3Amain/operations',
        method: 'POST',
        signal: expect.any(AbortSignal),
        headers: { ...HEADERS, 'content-type': 'application/json' },
        body: '{"type":"config_switch","model_name":"pg:node2"}',
      },
    ]);
    expect([facts, guard.inDoubt]).toEqual([{ attempts: 1, polls: 0 }, true]);
    expect(source.signals).toEqual([controller.signal]);
  });

  test('for the status has no body and keeps the path of the base URL', async () => {
    net.reply = () => [200, '"OK"'];
    source.connection = { url: new URL('https://barman:8443/pg//api//') };
    expect(await end(start().status())).toBeUndefined();
    const origin = 'https://barman:8443';
    const sent = { origin, path: '/pg//api/status', method: 'GET', headers: HEADERS, body: null };
    expect(net.sent).toEqual([{ at: 0, signal: expect.any(AbortSignal), ...sent }]);
    expect([facts, guard.inDoubt]).toEqual([{ attempts: 1, polls: 0 }, false]);
  });

  test("uses one connection without pipelining, HTTP/2 or undici's time-outs", async () => {
    net.reply = () => CREATED;
    const api = start();
    await end(create(api));
    await end(create(api));
    const options = {
      connections: 1,
      pipelining: 1,
      allowH2: false,
      maxResponseSize: 16_777_216,
      headersTimeout: 0,
      bodyTimeout: 0,
      connect: { timeout: 3_000, rejectUnauthorized: true },
    };
    expect(net.agents).toEqual([{ destroyed: 0, options }]);
    expect(net.usedAgents).toEqual([net.agents[0], net.agents[0]]);
  });

  test('reuses the TLS context while the credentials are the same', async () => {
    const authority = await CertificateAuthority.create();
    const first = { ...(await authority.client()), ca: authority.cert };
    net.reply = () => CREATED;
    for (const tls of [first, first, { ...first }]) {
      source.connection = { ...PLAIN, tls };
      await end(create(start()));
    }
    const contexts = net.agents.map(
      ({ options }) => (options as { connect: { secureContext: SecureContext } }).connect.secureContext,
    );
    expect(contexts[0]?.context).toBeDefined();
    expect(contexts[1]).toBe(contexts[0]);
    expect(contexts[2]).not.toBe(contexts[0]);
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

  test('is not sent if the connection parameters are unavailable', async () => {
    source.connection = new HttpError('not known');
    expect(await end(create(start()))).toBe(source.connection);
    expect([net.sent, guard.inDoubt]).toEqual([[], false]);
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

  const recent = (api: PgBackupApi) => api.recentOperations('main', 0);
  const wait = (api: PgBackupApi) => api.waitForOperation('main', 'a');
  const diagnose = (api: PgBackupApi) => api.diagnose();
  test.each<[string, (api: PgBackupApi) => Promise<unknown>, unknown]>([
    ['it is not string', (api) => api.status(), { status: 'OK' }],
    ['status is not ("IN_PROGRESS" | "DONE" | "FAILED")', wait, { status: 'RUNNING' }],
    ['operations is not ', recent, {}],
    ['operations is not ', recent, { operations: 7 }],
    ['operations.0.id is not ', recent, { operations: [{ type: 'config_switch' }] }],
    ['operations.0.type is not ', recent, { operations: [{ id: 'a' }] }],
    ['servers is not ', diagnose, {}],
    ['servers.main.config is not ', diagnose, { servers: { main: {} } }],
    ['servers.main.active_model is not ', diagnose, { servers: { main: { active_model: 7, config: {} } } }],
    ['servers.main.config.cluster is not ', diagnose, { servers: { main: { config: { cluster: 7 } } } }],
    ['models is not ', diagnose, { servers: {}, models: 7 }],
    ['models.a.config is not ', diagnose, { servers: {}, models: { a: {} } }],
  ])('to a GET is reported if %s', async (what, call, body) => {
    net.reply = () => [200, body];
    const unexpected = 'pg-backup-api answered 200, but its JSON is not as expected: ';
    expect(await messageOf(call(start({ maxRetries: 1 })))).toContain(`${unexpected}${what}`);
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
    random = 1;
    await end(create(start({ maxRetries: 8 })));
    expect(times()).toEqual([0, 250, 750, 1_750, 3_750, 7_750, 11_750, 15_750]);
    net.sent = [];
    random = 0.5;
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
    expect([times(), guard.inDoubt]).toEqual([expected, false]);
  });

  test.each([
    [404, [0, 100, 200]],
    [500, [0, 0, 0, 0, 0]],
    [503, [0, 0, 0, 0, 0]],
  ])('of a GET are repeated after a %i', async (status, expected) => {
    net.reply = () => [status, ''];
    const message = `pg-backup-api answered ${status} (${expected.length} attempts)`;
    expect([await messageOf(start().diagnose()), times()]).toEqual([message, expected]);
  });

  test('with another status do not count towards the limit for 404', async () => {
    const posts: Reply[] = [404, 429, 404, 429, 429, 404].map((status) => [status, '']);
    net.reply = ({ method }) => (method === 'POST' ? (posts.shift() ?? CREATED) : [200, { operations: [] }]);
    const message = await messageOf(create(start({ maxRetries: 9 })));
    expect(message).toBe('pg-backup-api answered 404 (6 attempts)');
    expect(net.sent.filter(({ method }) => method === 'POST')).toHaveLength(6);
  });

  test('are not made after the deadline', async () => {
    controller.abort();
    const message = 'time ran out before POST /servers/main/operations was sent';
    expect(await end(create(start()))).toEqual(new DeadlineExceeded(message));
    expect(source.signals).toEqual([]);
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
    expect(guard.inDoubt).toBe(begun);
  });

  test('end at the deadline during a back-off', async () => {
    net.reply = () => refused;
    random = 1;
    abortIn(700);
    expect(await end(create(start()))).toMatchObject({
      name: 'DeadlineExceeded',
      message: 'pg-backup-api is unreachable: the connection was refused (ECONNREFUSED); then time is up',
    });
    expect(times()).toEqual([0, 250]);
  });
});

describe('a POST', () => {
  const LIST = '/servers/main/operations';
  const cut = networkError('ECONNRESET');
  const list = (...ids: string[]): Reply => [
    200,
    { operations: ids.map((id) => ({ id, type: 'config_switch' })) },
  ];

  test('calls beforePost before each attempt, unlike a GET', async () => {
    replies([429, ''], [429, ''], CREATED, [200, '"OK"']);
    const api = start();
    const sentBefore: number[] = [];
    guard.beforePost = async () => void sentBefore.push(net.sent.length);
    await end(create(api));
    await end(api.status());
    expect(sentBefore).toEqual([0, 1, 2]);
  });

  test('of an unknown server makes pg-backup-api read its configuration again, and is then repeated', async () => {
    replies([404, ''], [200, { operations: [] }], CREATED);
    expect(await end(create(start()))).toBe('20261123T061000');
    expect(requests()).toEqual([`0 POST ${LIST}`, `100 GET ${LIST}`, `100 POST ${LIST}`]);
  });

  test('of a server that is unknown in the configuration too is final', async () => {
    net.reply = ({ method }) => [404, { error: method === 'POST' ? 'not in memory' : 'not configured' }];
    expect(await messageOf(create(start()))).toBe(
      'pg-backup-api answered 404: not in memory; then pg-backup-api answered 404: not configured',
    );
    expect(requests()).toEqual([`0 POST ${LIST}`, `100 GET ${LIST}`]);
    expect(guard.inDoubt).toBe(false);
  });

  test('is not sent if beforePost fails', async () => {
    const error = new LedgerError('the lease is lost');
    guard.beforePost = () => Promise.reject(error);
    expect(await end(create(start()))).toBe(error);
    expect([net.sent, guard.inDoubt]).toEqual([[], false]);
  });

  test('whose connection was reset is sent again after its possible operations have ended', async () => {
    random = 1;
    replies(
      cut,
      list('a', 'b'),
      [200, { status: 'DONE' }],
      [200, { status: 'IN_PROGRESS' }],
      [200, { status: 'DONE' }],
      CREATED,
    );
    expect(await end(create(start()))).toBe('20261123T061000');
    expect(requests()).toEqual([
      `0 POST ${LIST}`,
      `5000 GET ${LIST}`,
      `5000 GET ${LIST}/a`,
      `5000 GET ${LIST}/b`,
      `5150 GET ${LIST}/b`,
      `5150 POST ${LIST}`,
    ]);
    expect([facts, guard.inDoubt]).toEqual([{ attempts: 6, polls: 3 }, true]);
  });

  test('whose connection was reset does not wait for older operations', async () => {
    replies(cut, list('20261123T061000', '20261122T170944', '20261122T170943'), [200, { status: 'DONE' }]);
    await end(create(start({ maxRetries: 2 })));
    expect(requests().slice(2, -1)).toEqual([
      `5000 GET ${LIST}/20261122T170944`,
      `5000 GET ${LIST}/20261123T061000`,
    ]);
  });

  test('whose connection was reset does not wait for operations that were passed over', async () => {
    guard = { ...guard, passedOver: new Set(['a']) };
    replies(cut, list('a', 'b'), [200, { status: 'DONE' }], CREATED);
    expect(await end(create(start()))).toBe('20261123T061000');
    expect(requests().slice(2)).toEqual([`5000 GET ${LIST}/b`, `5000 POST ${LIST}`]);
  });

  test('whose connection was reset twice does not poll again what has ended', async () => {
    replies(cut, list('a'), [200, { status: 'DONE' }], cut, list('a'), CREATED);
    expect(await end(create(start()))).toBe('20261123T061000');
    expect(requests().filter((request) => request.endsWith(`${LIST}/a`))).toHaveLength(1);
  });

  test('whose connection was reset before the function was frozen counts that time', async () => {
    net.date = new Date(NOW + 600_000).toUTCString();
    replies(cut, list('20261123T061000', 'z'), [200, { status: 'DONE' }]);
    const creation = create(start({ maxRetries: 2 }));
    await vi.advanceTimersByTimeAsync(0);
    // The monotonic clock has stood still.
    vi.setSystemTime(NOW + 600_000);
    await end(creation);
    expect(requests().slice(2, -1)).toEqual([`5000 GET ${LIST}/20261123T061000`, `5000 GET ${LIST}/z`]);
  });

  test.each<[string, Reply, number[]]>([
    ['that timed out, at once', 'nothing', [0, 12_000, 12_000]],
    ['with an unexpected response, at once', [202, '{}'], [0, 0, 0]],
    ['with a 502 from a proxy, after postDelay', [502, ''], [0, 75, 75]],
  ])('%s, is followed by a list of operations', async (_, reply, expected) => {
    replies(reply, list(), CREATED);
    await end(create(start({ postDelay: 75 })));
    expect(requests().map((request) => request.split(' ')[1])).toEqual(['POST', 'GET', 'POST']);
    expect(times()).toEqual(expected);
  });

  test('is no longer in doubt after its possible operations have ended, even if no other can be sent', async () => {
    replies(cut, list());
    const lost = new LedgerError('the lease is lost');
    guard.beforePost = async () => {
      if (net.sent.length > 0) throw lost;
    };
    expect(await end(create(start()))).toBe(lost);
    expect(guard.inDoubt).toBe(false);
  });

  test('is reported as in doubt if its last attempt was reset', async () => {
    replies([429, ''], cut);
    expect(await messageOf(create(start({ maxRetries: 2 })))).toBe(
      'pg-backup-api did not respond: the connection was reset (ECONNRESET) (2 attempts); ' +
        'a switch may have begun nevertheless',
    );
    expect(guard.inDoubt).toBe(true);
  });

  test('stays in doubt if the operations cannot be listed', async () => {
    net.reply = ({ method }) => (method === 'POST' ? cut : [400, '']);
    expect(await end(create(start()))).toMatchObject({
      name: 'HttpError',
      message:
        'pg-backup-api did not respond: the connection was reset (ECONNRESET); then pg-backup-api answered 400',
    });
    expect(guard.inDoubt).toBe(true);
  });

  test('stays in doubt if time runs out', async () => {
    net.reply = () => cut;
    abortIn(1_000);
    expect(await end(create(start()))).toBeInstanceOf(DeadlineExceeded);
    expect([net.sent.length, guard.inDoubt]).toEqual([1, true]);
  });
});

describe('recentOperations', () => {
  /**
   * @param ids the listed config switches
   * @param age time since the POST (ms)
   * @param listTime duration of the list request (ms)
   * @returns those that count
   */
  async function recent(ids: readonly string[], age: number, listTime = 0): Promise<unknown> {
    const operations = [...ids.map((id) => ({ id, type: 'config_switch' })), { id: 'z', type: 'backup' }];
    net.reply = () => slowly(listTime, [200, { operations }]);
    return end(start().recentOperations('main', age));
  }
  /** The id of an operation that began so many ms before now, in a zone so many hours ahead of UTC. */
  const idOf = (ms: number, zone = 0) =>
    new Date(NOW - ms + zone * 3_600_000).toISOString().replace(/\.\d+Z$|[-:]/g, '');
  const ZONES = [-12, -9.5, -3.5, 0, 1, 5.75, 8.75, 12.75, 14];
  /** Greater than all others, so that no other is the newest. */
  const LAST = 'z';

  test('is empty if no operation is listed', async () => {
    expect(await recent([], 0)).toEqual([]);
  });

  test('includes ids without a time, in the order of their ids', async () => {
    expect(await recent(['b', 'a', '20261123T06100'], 0)).toEqual(['20261123T06100', 'a', 'b']);
  });

  describe("without the host's clock", () => {
    test('includes operations that any time zone can place after the POST', async () => {
      const ids = [idOf(13 * 3_600_000 + 19_000), idOf(3_600_000), idOf(-14 * 3_600_000 - 16_000)];
      const others = [idOf(13 * 3_600_000 + 20_000), idOf(-14 * 3_600_000 - 17_000)];
      expect(await recent([...ids, ...others, LAST], 3_000)).toEqual([...ids, LAST]);
    });

    test('adds the duration of the list request to the age', async () => {
      // Two seconds later: now moves on as the list is read, and so does the time elapsed.
      const ids = [idOf(13 * 3_600_000 + 17_000), idOf(13 * 3_600_000 + 18_000)];
      expect(await recent([...ids, LAST], 1_000, 2_000)).toEqual([ids[0], LAST]);
    });
  });

  describe("with the host's clock", () => {
    beforeEach(() => {
      net.date = new Date(NOW).toUTCString();
    });

    test.each(ZONES)('includes those since the POST in UTC%d, and no earlier ones', async (zone) => {
      const since = [idOf(19_000, zone), idOf(0, zone), idOf(-16_000, zone)];
      const before = [idOf(20_000, zone), idOf(5 * 60_000, zone), idOf(-17_000, zone)];
      expect(await recent([...since, ...before, LAST], 3_000)).toEqual([...since, LAST]);
    });

    test.each([-2, 0.1, 5])(
      'reads the time from its Date, although that is %d h ahead of ours',
      async (ahead) => {
        net.date = new Date(NOW + ahead * 3_600_000).toUTCString();
        const [since, before] = [idOf(3_000, ahead), idOf(60_000, ahead)];
        expect(await recent([since, before, LAST], 3_000)).toEqual([since, LAST]);
      },
    );

    test('includes those in any zone if the POST was a quarter of an hour ago', async () => {
      const ids = [idOf(900_000), idOf(450_000, 8.75), idOf(0, -12)];
      expect(await recent([...ids, LAST], 900_000)).toEqual([...ids, LAST].sort());
    });

    test('includes the newest, whose clock may differ from the one of the Date', async () => {
      expect(await recent([idOf(400_000), idOf(300_000)], 3_000)).toEqual([idOf(300_000)]);
    });

    test('includes recent ones although another id is from the future', async () => {
      // The clock of the Barman host, or its time zone, was set back.
      const ids = [idOf(1_000), '20261201T000000'];
      expect(await recent(ids, 3_000)).toEqual(ids);
    });

    test('includes four of forty that began in the last hour', async () => {
      const hour = Array.from({ length: 40 }, (_, index) => idOf(index * 90_000 + 1_000, 1));
      const quarters = [2_700_000, 1_800_000, 900_000, 0];
      expect(await recent(hour, 6_000)).toEqual(quarters.map((ms) => idOf(ms + 1_000, 1)));
    });
  });

  test('fails if the operations cannot be listed', async () => {
    net.reply = () => [400, ''];
    expect(await end(start().recentOperations('main', 0))).toBeInstanceOf(HttpError);
  });
});

describe('an earlier operation', () => {
  test('is polled at once, then until the given signal aborts', async () => {
    net.reply = () => [200, { status: 'IN_PROGRESS' }];
    const other = new AbortController();
    setTimeout(() => other.abort(new DeadlineExceeded('enough')), 500);
    expect(await end(start().endOf('main', 'a', other.signal))).toMatchObject({
      message: expect.stringContaining('the result of operation a on main is unknown: enough'),
    });
    expect(times().slice(0, 3)).toEqual([0, 150, 225]);
    expect(Math.max(...times())).toBeLessThan(500);
  });

  test('is polled once although the given signal has aborted', async () => {
    const aborted = AbortSignal.abort(new DeadlineExceeded('enough'));
    net.reply = () => [200, { status: 'DONE' }];
    expect(await end(start().endOf('main', 'a', aborted))).toBe('DONE');
    net.reply = () => [200, { status: 'IN_PROGRESS' }];
    expect(await end(start().endOf('main', 'b', aborted))).toBeInstanceOf(HttpError);
    expect(requests()).toEqual(['0 GET /servers/main/operations/a', '200000 GET /servers/main/operations/b']);
  });

  test('that has ended is not polled again', async () => {
    net.reply = () => [200, { status: 'FAILED' }];
    const api = start();
    for (const _ of [1, 2]) expect(await end(api.endOf('main', 'a'))).toBe('FAILED');
    expect(await end(api.operationStatus('main', 'a'))).toBe('FAILED');
    expect(net.sent).toHaveLength(1);
    await end(api.endOf('other', 'a'));
    expect(net.sent).toHaveLength(2);
  });
});

describe('an operation', () => {
  /** @param time duration of the operation (ms). @param request duration of each request (ms) */
  function operation(time: number, status: 'DONE' | 'FAILED' = 'DONE', request = 0): void {
    const endsAt = performance.now() + time;
    net.reply = () =>
      slowly(request, [200, { status: performance.now() + request < endsAt ? 'IN_PROGRESS' : status }]);
  }

  test('is polled after 150 ms, then every 75 ms', async () => {
    operation(500);
    const api = start();
    expect(await end(api.waitForOperation('main', '20261123T061000'))).toBe('DONE');
    expect(times()).toEqual([150, 225, 300, 375, 450, 525]);
    expect(net.sent[0]?.path).toBe('/servers/main/operations/20261123T061000');
    expect(facts).toEqual({ attempts: 6, polls: 6 });
  });

  test('can end FAILED', async () => {
    operation(0, 'FAILED');
    expect(await end(start().waitForOperation('main', 'a'))).toBe('FAILED');
  });

  test('that takes long is polled after each 1/16 of the time elapsed', async () => {
    operation(20_000);
    await end(start().waitForOperation('main', 'a'));
    const late = net.sent.map(({ at }) => at).filter((at) => at > 1_300);
    for (const [index, at] of late.slice(1).entries()) {
      const before = late[index] ?? 0;
      expect(Math.abs(at - before - before / 16)).toBeLessThan(2);
    }
    expect(times().at(-1)).toBeLessThan(21_250);
  });

  test('on a slow host is polled for at most half of the time', async () => {
    operation(6_000, 'DONE', 900);
    await end(start().waitForOperation('main', 'a'));
    expect(times()).toEqual([150, 1_950, 3_750, 5_550]);
  });

  test('whose creation took long is first polled after twice that time', async () => {
    net.reply = () => slowly(400, CREATED);
    const api = start();
    await end(
      create(api).then((id) => {
        operation(0);
        return api.waitForOperation('main', id);
      }),
    );
    expect(times()).toEqual([0, 800]);
  });

  test('that cannot be polled has an unknown result, and it is said where to find it', async () => {
    net.reply = () => [400, ''];
    expect(await end(start().waitForOperation('main', 'a'))).toMatchObject({
      name: 'HttpError',
      operation_id: 'a',
      message:
        'the result of operation a on main is unknown: pg-backup-api answered 400; ' +
        'it will be in <barman_home>/main/output/a.json on the Barman host',
    });
  });

  test('that does not end before the deadline has an unknown result', async () => {
    net.reply = () => [200, { status: 'IN_PROGRESS' }];
    abortIn(1_000);
    expect(await end(start().waitForOperation('main', 'a'))).toMatchObject({
      name: 'DeadlineExceeded',
      operation_id: 'a',
      message: expect.stringContaining('the result of operation a on main is unknown: time is up; it will'),
    });
  });

  test('is not polled after the given signal aborts', async () => {
    net.reply = () => 'nothing';
    const other = new AbortController();
    setTimeout(() => other.abort(), 500);
    expect(await end(start().waitForOperation('main', 'a', other.signal))).toMatchObject({
      name: 'DeadlineExceeded',
      message: expect.stringContaining('time ran out before GET /servers/main/operations/a was answered'),
    });
  });
});

describe('a probe', () => {
  test.each([
    ['/status', 15_000, [0, 12_000], (api: PgBackupApi) => api.status()],
    ['of the configuration of a server', 5_000, [0], (api: PgBackupApi) => api.readServer('main')],
  ])('%s ends after %i ms', async (_, limit, expected, probe) => {
    net.reply = () => 'nothing';
    let endedAt = 0;
    const ended = probe(start()).finally(() => {
      endedAt = performance.now() - START;
    });
    expect(await end(ended)).toBeInstanceOf(DeadlineExceeded);
    expect([times(), endedAt]).toEqual([expected, limit]);
  });

  test('of the configuration of a server lists its operations', async () => {
    replies([200, { operations: [] }]);
    expect(await end(start().readServer('main'))).toBeUndefined();
    expect(requests()).toEqual(['0 GET /servers/main/operations']);
  });
});

describe('/diagnose', () => {
  test('returns servers and models', async () => {
    const main = { active_model: 'node2', config: { cluster: 'patroni', more: 1 }, status: {} };
    const own = { active_model: null, config: { cluster: null } };
    const models = { node2: { config: { cluster: 'patroni' } }, odd: { config: {} } };
    net.reply = () => [200, { global: {}, servers: { main, own, bare: { config: {} } }, models }];
    expect(await end(start().diagnose())).toEqual({
      servers: new Map([
        ['main', { active_model: 'node2', cluster: 'patroni' }],
        ['own', { active_model: null, cluster: 'own' }],
        ['bare', { active_model: null, cluster: 'bare' }],
      ]),
      models: new Map([
        ['node2', { cluster: 'patroni' }],
        ['odd', { cluster: '' }],
      ]),
    });
    expect(requests()).toEqual(['0 GET /diagnose']);
  });

  test('may take up to 60 s, and returns no models if Barman has none', async () => {
    net.reply = () => slowly(59_999, [200, { servers: {} }]);
    expect(await end(start().diagnose())).toEqual({ servers: new Map(), models: new Map() });
    net.reply = () => 'nothing';
    const message = await messageOf(start({ maxRetries: 1 }).diagnose());
    expect(message).toBe('pg-backup-api did not respond within 60 s');
  });
});

describe('refused credentials', () => {
  const tls = { cert: '', key: '', ca: '' };
  const old: Connection = { url: PLAIN.url, tls };
  const renewed: Connection = { url: new URL('https://other:443'), tls: { ...tls } };
  beforeEach(() => {
    source.connection = old;
    source.reread = { url: new URL(PLAIN.url), tls: { ...tls } };
  });

  test('are read again, and without a change there is no further attempt', async () => {
    net.reply = () => [403, ''];
    const message = await messageOf(create(start()));
    expect(message).toBe('pg-backup-api answered 403 (check client-cert and client-key)');
    expect(source.signals).toEqual([controller.signal, controller.signal]);
    expect(net.sent).toHaveLength(1);
    expect(net.agents).toMatchObject([{ destroyed: 0 }]);
  });

  test('are read again, and after a change used immediately, regardless of max_retries', async () => {
    random = 1;
    source.reread = renewed;
    replies([403, ''], CREATED);
    const api = start({ maxRetries: 1 });
    expect(await end(create(api))).toBe('20261123T061000');
    expect(net.sent.map(({ at, origin }) => [at, origin])).toEqual([
      [0, 'http://barman:7480'],
      [0, 'https://other'],
    ]);
    expect(net.agents).toMatchObject([{ destroyed: 1 }, { destroyed: 0 }]);
    expect(net.usedAgents).toEqual(net.agents);
  });

  test('are read again only once', async () => {
    source.reread = renewed;
    net.reply = () => [401, ''];
    const message = await messageOf(create(start()));
    expect(message).toBe('pg-backup-api answered 401 (check client-cert and client-key) (2 attempts)');
    expect(source.signals).toHaveLength(2);
  });

  const HINT = '; the Barman host may have refused client-cert';
  test.each<[string, Connection, [Reply, ...Reply[]], string, number]>([
    ['are suspected if the connection is', old, [networkError('ECONNRESET')], HINT, 2],
    [
      'are not suspected later if the connection is',
      old,
      [[429, ''], networkError('ECONNRESET')],
      ' (2 attempts)',
      1,
    ],
    ['are not suspected without TLS if the connection is', PLAIN, [networkError('ECONNRESET')], '', 1],
  ])('%s reset', async (_, connection, all, words, readings) => {
    source.connection = connection;
    replies(...all);
    expect(await messageOf(start({ maxRetries: all.length }).diagnose())).toBe(
      `pg-backup-api did not respond: the connection was reset (ECONNRESET)${words}`,
    );
    expect(source.signals).toHaveLength(readings);
  });

  test('that cannot be read again end the request with that error', async () => {
    net.reply = () => [403, ''];
    source.reread = new HttpError('SSM does not respond');
    expect(await end(create(start()))).toBe(source.reread);
  });
});
