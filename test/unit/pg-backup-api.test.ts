import { beforeEach, describe, expect, test, vi } from 'vitest';
import type { PgBackupApi } from '../../functions/config-switch/barman/pg-backup-api.ts';
import { DeadlineExceeded, HttpError, LedgerError } from '../../functions/config-switch/errors.ts';
import {
  abortIn,
  CREATED,
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
import { NOW } from './virtual-time.ts';

useVirtualNetwork();

const slowly = (ms: number, reply: Reply): Promise<Reply> =>
  new Promise((resolve) => setTimeout(resolve, ms, reply));

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
    net.guard.beforePost = async () => void sentBefore.push(net.sent.length);
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
    expect(net.guard.inDoubt).toBe(false);
  });

  test('is not sent if beforePost fails', async () => {
    const error = new LedgerError('the lease is lost');
    net.guard.beforePost = () => Promise.reject(error);
    expect(await end(create(start()))).toBe(error);
    expect([net.sent, net.guard.inDoubt]).toEqual([[], false]);
  });

  test('whose connection was reset is sent again after its possible operations have ended', async () => {
    net.random = 1;
    const done: Reply = [200, { status: 'DONE' }];
    replies(cut, list('a', 'b'), done, [200, { status: 'IN_PROGRESS' }], done, CREATED);
    expect(await end(create(start()))).toBe('20261123T061000');
    expect(requests()).toEqual([
      `0 POST ${LIST}`,
      `5000 GET ${LIST}`,
      `5000 GET ${LIST}/a`,
      `5000 GET ${LIST}/b`,
      `5150 GET ${LIST}/b`,
      `5150 POST ${LIST}`,
    ]);
    expect([net.facts, net.guard.inDoubt]).toEqual([{ attempts: 6, polls: 3 }, true]);
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
    net.guard = { ...net.guard, passedOver: new Set(['a']) };
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
    net.guard.beforePost = async () => {
      if (net.sent.length > 0) throw lost;
    };
    expect(await end(create(start()))).toBe(lost);
    expect(net.guard.inDoubt).toBe(false);
  });

  test('is reported as in doubt if its last attempt was reset', async () => {
    replies([429, ''], cut);
    expect(await messageOf(create(start({ maxRetries: 2 })))).toBe(
      'pg-backup-api did not respond: the connection was reset (ECONNRESET) (2 attempts); ' +
        'a switch may have begun nevertheless',
    );
    expect(net.guard.inDoubt).toBe(true);
  });

  test('stays in doubt if the operations cannot be listed', async () => {
    net.reply = ({ method }) => (method === 'POST' ? cut : [400, '']);
    expect(await end(create(start()))).toMatchObject({
      name: 'HttpError',
      message:
        'pg-backup-api did not respond: the connection was reset (ECONNRESET); then pg-backup-api answered 400',
    });
    expect(net.guard.inDoubt).toBe(true);
  });

  test('stays in doubt if time runs out', async () => {
    net.reply = () => cut;
    abortIn(1_000);
    expect(await end(create(start()))).toBeInstanceOf(DeadlineExceeded);
    expect([net.sent.length, net.guard.inDoubt]).toEqual([1, true]);
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
    expect(net.facts).toEqual({ attempts: 6, polls: 6 });
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

describe('a response', () => {
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
});
