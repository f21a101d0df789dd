import { describe, expect, test } from 'vitest';
import { EarlierOutput, type PgBackupApi } from '../../functions/config-switch/barman/pg-backup-api.ts';
import { DeadlineExceeded, HttpError, LedgerError } from '../../functions/config-switch/errors.ts';
import {
  abortIn,
  CREATED,
  connections,
  create,
  end,
  messageOf,
  net,
  networkError,
  type Reply,
  replies,
  requests,
  START,
  start,
  times,
  useVirtualNetwork,
} from './virtual-network.ts';

useVirtualNetwork();

const ID = '20261123T061000';
const LIST = '/servers/main/operations';
const cut = networkError('ECONNRESET');
const list = (...ids: string[]): Reply => [
  200,
  { operations: ids.map((id) => ({ id, type: 'config_switch' })) },
];
const DONE: Reply = [200, { status: 'DONE' }];
const IN_PROGRESS: Reply = [200, { status: 'IN_PROGRESS' }];
/** A client, and what it reports of servers. */
function startWithFindings(options: Parameters<typeof start>[0] = {}) {
  const findings: string[] = [];
  const onFinding = (server: string, message: string) => findings.push(`${server}: ${message}`);
  return { api: start({ ...options, onFinding }), findings };
}

const slowly = (ms: number, reply: Reply): Promise<Reply> =>
  new Promise((resolve) => setTimeout(resolve, ms, reply));

/** Waits for an operation. @returns how it ended */
const waitFor = async (api: PgBackupApi, ...rest: [id: string, expected?: number, signal?: AbortSignal]) =>
  (await api.waitForOperation('main', ...rest)).status;

describe('a POST', () => {
  test('calls beforePost before each attempt, unlike a GET', async () => {
    replies([429, ''], [429, ''], CREATED, [200, '"OK"']);
    const api = start();
    const sentBefore: number[] = [];
    net.guard.beforePost = async () => void sentBefore.push(net.sent.length);
    await end(create(api));
    await end(api.status());
    expect(sentBefore).toEqual([0, 1, 2]);
  });

  test('of a server that one worker does not know yet is repeated, while the list knows the server', async () => {
    const unknown: Reply = [404, ''];
    const known = list();
    replies(unknown, known, unknown, known, unknown, known, unknown, known, CREATED);
    expect(await end(create(start()))).toBe(ID);
    const repeated = [100, 200, 300, 400].flatMap((at) => [`${at} GET ${LIST}`, `${at} POST ${LIST}`]);
    expect(requests()).toEqual([`0 POST ${LIST}`, ...repeated]);
  });

  test('of a server whose list is 404 twice, too, is final', async () => {
    net.reply = ({ method }) => [404, { error: method === 'POST' ? 'not in memory' : 'not configured' }];
    expect(await messageOf(create(start()))).toBe(
      'pg-backup-api answered 404: not in memory; then the list of its operations is 404, too: ' +
        'Barman does not have that server',
    );
    expect(requests()).toEqual([`0 POST ${LIST}`, `100 GET ${LIST}`, `100 POST ${LIST}`, `200 GET ${LIST}`]);
    expect(net.guard.inDoubt).toBe(false);
  });

  test.each<Reply>([[500, ''], cut])(
    'of an unknown server is repeated although its list fails (%s)',
    async (error) => {
      replies([404, ''], error, [404, ''], error, CREATED);
      expect(await end(create(start()))).toBe(ID);
    },
  );

  test('is not sent if beforePost fails', async () => {
    const error = new LedgerError('the lease is lost');
    net.guard.beforePost = () => Promise.reject(error);
    expect(await end(create(start()))).toBe(error);
    expect([net.sent, net.guard.inDoubt]).toEqual([[], false]);
  });

  test('is sent again without looking at operations whose id is not one', async () => {
    const odd = ['x'.repeat(500_000), '..', 'a/b', 'a\ud800', '\u202e', ''];
    replies(cut, list(...odd), CREATED);
    expect(await end(create(start()))).toBe(ID);
    expect(requests()).toEqual([`0 POST ${LIST}`, `0 GET ${LIST}`, `0 POST ${LIST}`]);
  });

  test('whose connection was reset is sent again after the newest operations have ended', async () => {
    net.random = 1;
    replies(cut, list('a', 'd', 'b', 'c'), DONE, IN_PROGRESS, DONE, DONE, CREATED);
    expect(await end(create(start()))).toBe(ID);
    expect(requests()).toEqual([
      `0 POST ${LIST}`,
      `250 GET ${LIST}`,
      `250 GET ${LIST}/d`,
      `250 GET ${LIST}/c`,
      `400 GET ${LIST}/c`,
      `400 GET ${LIST}/b`,
      `400 POST ${LIST}`,
    ]);
    expect([net.facts, net.guard.inDoubt]).toEqual([{ attempts: 7, polls: 4 }, true]);
  });

  test('whose connection was reset is not sent again by who does not wait, while one is running', async () => {
    net.guard = { ...net.guard, waits: false };
    replies(cut, list('a', 'b'), DONE, IN_PROGRESS);
    expect(await messageOf(create(start()))).toBe(
      'pg-backup-api did not respond: the connection was reset (ECONNRESET); then operation a, ' +
        'which may be that of this POST, is running',
    );
    expect([net.sent.length, net.guard.inDoubt]).toEqual([4, true]);
  });

  test('whose connection was reset twice does not poll again what has ended', async () => {
    replies(cut, list('a'), DONE, cut, list('a'), CREATED);
    expect(await end(create(start()))).toBe(ID);
    expect(requests().filter((request) => request.endsWith(`${LIST}/a`))).toHaveLength(1);
  });

  test.each<[string, Reply, number]>([
    ['that timed out', 'nothing', 12_000],
    ['with an unexpected response', [202, '{}'], 0],
    ['with a 502 from a proxy', [502, ''], 0],
  ])('%s is followed by a list of operations', async (_, reply, after) => {
    replies(reply, list(), CREATED);
    await end(create(start()));
    expect(requests()).toEqual([`0 POST ${LIST}`, `${after} GET ${LIST}`, `${after} POST ${LIST}`]);
  });

  test('is sent again although the list is 500, and the finding names the folder of the broken job', async () => {
    const { api, findings } = startWithFindings();
    const posts = [cut, CREATED];
    net.reply = ({ method }) => (method === 'POST' ? (posts.shift() ?? CREATED) : [500, '']);
    expect(await end(create(api))).toBe(ID);
    expect(requests()).toEqual([`0 POST ${LIST}`, ...Array(3).fill(`0 GET ${LIST}`), `0 POST ${LIST}`]);
    expect(findings).toEqual([
      'main: pg-backup-api answered 500 (3 attempts); see the error log of pg-backup-api on the Barman host. ' +
        'The usual cause is a job file of 0 bytes in <barman_home>/main/jobs, which a full disk leaves: delete it unless output/ has its output',
    ]);
  });

  test('is not sent again if the list has no answer of pg-backup-api', async () => {
    const { api, findings } = startWithFindings();
    net.reply = () => cut;
    expect(await messageOf(create(api))).toMatch(
      /^pg-backup-api did not respond: .*; then pg-backup-api did not/,
    );
    expect([findings, net.guard.inDoubt]).toEqual([[], true]);
    expect(requests()).toEqual([`0 POST ${LIST}`, ...Array(3).fill(`0 GET ${LIST}`)]);
  });

  test('is sent again although an operation of the list cannot be polled, which is a finding', async () => {
    const { api, findings } = startWithFindings();
    replies(cut, list('a'), [400, 'no such operation'], CREATED);
    expect(await end(create(api))).toBe(ID);
    expect(findings).toEqual(['main: pg-backup-api answered 400: no such operation']);
  });

  test('does not wait for operations of another type, nor for a job without one', async () => {
    const operations = [{ id: 'a', type: 'recovery' }, { id: 'b', type: null }, { id: 'c' }];
    replies(cut, [200, { operations }], CREATED);
    expect(await end(create(start()))).toBe(ID);
    expect(net.sent).toHaveLength(3);
  });

  test('stays in doubt if no other can be sent', async () => {
    replies(cut, list());
    const lost = new LedgerError('the lease is lost');
    net.guard.beforePost = async () => {
      if (net.sent.length > 0) throw lost;
    };
    expect(await end(create(start()))).toBe(lost);
    expect(net.guard.inDoubt).toBe(true);
  });

  test('stays in doubt if no connection can be made for another', async () => {
    connections([0], [0], [0, networkError('ECONNREFUSED')]);
    replies(cut, list());
    expect(await messageOf(create(start()))).toMatch(/^pg-backup-api is unreachable: .* \(5 attempts\)$/);
    expect([net.sent.length, net.guard.inDoubt]).toEqual([2, true]);
  });

  test('is reported as in doubt if its last attempt was reset', async () => {
    replies([429, ''], cut);
    expect(await messageOf(create(start({ maxRetries: 2 })))).toBe(
      'pg-backup-api did not respond: the connection was reset (ECONNRESET) (2 attempts); ' +
        'a switch may have begun nevertheless',
    );
    expect(net.guard.inDoubt).toBe(true);
  });

  test('stays in doubt if time runs out', async () => {
    const posts = [cut];
    net.reply = ({ method }) => (method === 'POST' ? (posts.shift() ?? CREATED) : 'nothing');
    abortIn(1_000);
    expect(await end(create(start()))).toBeInstanceOf(DeadlineExceeded);
    expect([net.sent.length, net.guard.inDoubt]).toEqual([2, true]);
  });
});

describe('the end of a new operation', () => {
  /** Creates an operation, and waits for it: its polls take so long (ms), and say DONE. */
  const createAndWait = async (api: PgBackupApi, poll: number) => {
    net.reply = ({ method }) => (method === 'POST' ? CREATED : slowly(poll, DONE));
    return end(create(api).then((id) => waitFor(api, id)));
  };
  /** It may be that of an earlier operation with the same id, whose job was deleted. */
  const NOT_BELIEVED =
    `<barman_home>/main/output/${ID}.json is the output of an earlier operation with that id, ` +
    'so the result of the new one is unknown, and it is repeated; the job of the earlier one was deleted: delete only jobs without an output';

  test('is believed from 250 ms on', async () => {
    // The first poll begins after 150 ms.
    expect(await createAndWait(start(), 100)).toBe('DONE');
  });

  test('is believed at once if the operation was seen to run: it had no output then', async () => {
    const api = start();
    replies(CREATED, IN_PROGRESS, DONE);
    expect(await end(create(api).then((id) => waitFor(api, id)))).toBe('DONE');
    expect(times()).toEqual([0, 150, 225]);
  });

  test('is not believed if it comes sooner, but the next one is', async () => {
    const { api, findings } = startWithFindings();
    expect(await createAndWait(api, 99)).toEqual(new EarlierOutput(NOT_BELIEVED));
    expect(findings).toEqual([`main: ${NOT_BELIEVED}`]);
    expect(await createAndWait(api, 99)).toBe('DONE');
  });

  test('is not believed if the operation that was applied last has the same id', async () => {
    net.guard = { ...net.guard, applied: { operation_id: ID } };
    expect(await createAndWait(start(), 100)).toBeInstanceOf(EarlierOutput);
  });

  test('is not believed if the id was in a list before the POST', async () => {
    const api = start();
    net.reply = () => list(ID);
    await end(api.readServer('main'));
    expect(await createAndWait(api, 100)).toBeInstanceOf(EarlierOutput);
  });

  test('is believed at once for an operation of an earlier invocation', async () => {
    replies(DONE);
    expect(await end(start().endOf('main', ID))).toBe('DONE');
    expect(requests()).toEqual([`0 GET ${LIST}/${ID}`]);
  });
});

describe('an earlier operation', () => {
  test('is polled at once, then until the given signal aborts', async () => {
    net.reply = () => IN_PROGRESS;
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
    net.reply = () => IN_PROGRESS;
    expect(await end(start().endOf('main', 'b', aborted))).toBeInstanceOf(HttpError);
    expect(requests()).toEqual(['0 GET /servers/main/operations/a', '200000 GET /servers/main/operations/b']);
  });

  test('is polled once without a signal', async () => {
    net.reply = () => IN_PROGRESS;
    expect(await end(start().endOf('main', 'a'))).toBe('IN_PROGRESS');
    expect(net.sent).toHaveLength(1);
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
    expect(await end(waitFor(api, '20261123T061000'))).toBe('DONE');
    expect(times()).toEqual([150, 225, 300, 375, 450, 525]);
    expect(net.sent[0]?.path).toBe('/servers/main/operations/20261123T061000');
    expect(net.facts).toEqual({ attempts: 6, polls: 6 });
  });

  test('is first polled when it is expected to have ended', async () => {
    operation(1_000);
    expect(await end(waitFor(start(), 'a', 1_000))).toBe('DONE');
    expect(times()).toEqual([900, 975, 1_050]);
  });

  test('is first polled a request earlier, so that the response comes then', async () => {
    net.reply = () => slowly(400, CREATED);
    const api = start();
    const created = create(api).then((id) => {
      operation(1_000, 'DONE', 400);
      return waitFor(api, id, 2_000);
    });
    expect(await end(created)).toBe('DONE');
    expect(times()).toEqual([0, 1_800]);
  });

  test('can end FAILED', async () => {
    operation(0, 'FAILED');
    expect(await end(waitFor(start(), 'a'))).toBe('FAILED');
  });

  test('that takes long is polled after each 1/16 of the time elapsed', async () => {
    operation(20_000);
    await end(waitFor(start(), 'a'));
    const late = net.sent.map(({ at }) => at).filter((at) => at > 1_300);
    for (const [index, at] of late.slice(1).entries()) {
      const before = late[index] ?? 0;
      expect(Math.abs(at - before - before / 16)).toBeLessThan(2);
    }
    expect(times().at(-1)).toBeLessThan(21_250);
  });

  test('on a slow host is polled for at most two thirds of the time', async () => {
    operation(6_000, 'DONE', 900);
    await end(waitFor(start(), 'a'));
    expect(times()).toEqual([150, 1_500, 2_850, 4_200, 5_550]);
  });

  test('whose creation took long is first polled after twice that time', async () => {
    net.reply = () => slowly(400, CREATED);
    const api = start();
    await end(
      create(api).then((id) => {
        operation(0);
        return waitFor(api, id);
      }),
    );
    expect(times()).toEqual([0, 800]);
  });

  test('whose creation took very long is first polled two seconds later', async () => {
    net.reply = () => slowly(8_000, CREATED);
    const api = start();
    await end(
      create(api).then((id) => {
        operation(0);
        return waitFor(api, id);
      }),
    );
    expect(times()).toEqual([0, 10_000]);
  });

  test('that cannot be polled has an unknown result, and it is said where to find it', async () => {
    net.reply = () => [400, ''];
    expect(await end(waitFor(start(), 'a'))).toMatchObject({
      name: 'HttpError',
      operation_id: 'a',
      message:
        'the result of operation a on main is unknown: pg-backup-api answered 400; ' +
        'it will be in <barman_home>/main/output/a.json on the Barman host',
    });
  });

  test('that does not end before the deadline has an unknown result', async () => {
    net.reply = () => IN_PROGRESS;
    abortIn(1_000);
    expect(await end(waitFor(start(), 'a'))).toMatchObject({
      name: 'DeadlineExceeded',
      operation_id: 'a',
      message: expect.stringContaining('the result of operation a on main is unknown: time is up; it will'),
    });
  });

  test('is not polled after the given signal aborts', async () => {
    net.reply = () => 'nothing';
    const other = new AbortController();
    setTimeout(() => other.abort(), 500);
    expect(await end(waitFor(start(), 'a', undefined, other.signal))).toMatchObject({
      name: 'DeadlineExceeded',
      message: expect.stringContaining('time ran out before GET /servers/main/operations/a was answered'),
    });
  });
});

describe('a probe', () => {
  test('ends after 15 s', async () => {
    net.reply = () => 'nothing';
    let endedAt = 0;
    const ended = start()
      .status()
      .finally(() => {
        endedAt = performance.now() - START;
      });
    expect(await end(ended)).toBeInstanceOf(DeadlineExceeded);
    expect([times(), endedAt]).toEqual([[0, 12_000], 15_000]);
  });

  test('of the configuration of a server lists its operations', async () => {
    replies([200, { operations: [] }]);
    expect(await end(start().readServer('main'))).toBeUndefined();
    expect(requests()).toEqual(['0 GET /servers/main/operations']);
  });
});

describe('/diagnose', () => {
  test('returns servers and models', async () => {
    const models = { node2: { config: { cluster: 'patroni' } } };
    net.reply = () => [200, { global: {}, servers: { main: { config: {} } }, models }];
    expect(await end(start().diagnose())).toMatchObject({
      servers: new Map([['main', expect.anything()]]),
      models: new Map([['node2', expect.anything()]]),
    });
    expect(requests()).toEqual(['0 GET /diagnose']);
  });

  test('may take up to 50 s, and is not asked for again without an answer', async () => {
    net.reply = () => slowly(49_999, [200, { servers: {} }]);
    expect(await end(start().diagnose())).toMatchObject({ servers: new Map(), models: new Map() });
    net.reply = () => 'nothing';
    const message = await messageOf(start().diagnose());
    expect(message).toBe('pg-backup-api did not respond within 50 s');
    expect(requests()).toHaveLength(2);
  });
});

describe('a response', () => {
  const read = (api: PgBackupApi) => api.readServer('main');
  const wait = (api: PgBackupApi) => waitFor(api, 'a');
  const diagnose = (api: PgBackupApi) => api.diagnose();
  test.each([
    ['16 MB of brackets', '['.repeat(16 * 1024 * 1024), 'JSON of more than 64 levels'],
    ['words', 'so it is', 'not JSON'],
  ])('to a GET is reported if it is %s', async (_, body, what) => {
    net.reply = () => [200, body];
    const message = `pg-backup-api answered 200, but its body is ${what}`;
    expect(await messageOf(start({ maxRetries: 1 }).diagnose())).toBe(message);
  });

  test.each<[string, (api: PgBackupApi) => Promise<unknown>, unknown]>([
    ['it is not string', (api) => api.status(), { status: 'OK' }],
    ['status is not ("IN_PROGRESS" | "DONE" | "FAILED")', wait, { status: 'RUNNING' }],
    ['operations is not ', read, {}],
    ['operations is not ', read, { operations: 7 }],
    ['operations.0.id is not ', read, { operations: [{ type: 'config_switch' }] }],
    ['operations.0.type is not ', read, { operations: [{ id: 'a', type: 7 }] }],
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
});
