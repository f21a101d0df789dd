import { createServer } from 'node:http';
import { describe, expect, test } from 'vitest';
import { PgBackupApi, type PgBackupApiOptions } from '../../functions/config-switch/barman/pg-backup-api.ts';
import { deadline } from '../../functions/config-switch/deadline.ts';
import { HttpError } from '../../functions/config-switch/errors.ts';
import { CertificateAuthority } from '../stand-ins/certificates.ts';
import { type Fault, PgBackupApiStandIn, type SeenRequest } from '../stand-ins/pg-backup-api.ts';
import { listen } from '../stand-ins/server.ts';
import { PROMOTION, startFunction } from './function.ts';

const isPost = ({ method }: SeenRequest) => method === 'POST';
const isPoll = ({ path }: SeenRequest) => /operations\/./.test(path);

/** An operation's id at a time of the Barman host's clock. */
const idOf = (time: number) => new Date(time).toISOString().replace(/\.\d+Z$|[-:]/g, '');

/** POSTs may be sent at any time. */
const guard = () => ({ inDoubt: false, beforePost: async () => {} });

/** A client on a plain stand-in, with short times. */
async function startClient(options: Partial<PgBackupApiOptions> = {}) {
  const standIn = await PgBackupApiStandIn.start({ models: { 'pg:node2': { cluster: 'main' } } });
  const connection = async () => ({ url: new URL(standIn.url) });
  const counts = { attempts: 0, polls: 0 };
  const client = new PgBackupApi(
    { connection, rereadConnection: connection },
    { signal: AbortSignal.timeout(20_000), maxRetries: 5, postDelay: 20, counts, ...options },
  );
  return {
    standIn,
    client,
    counts,
    [Symbol.asyncDispose]: async () => {
      await client[Symbol.asyncDispose]();
      await standIn.close();
    },
  };
}

describe('pg-backup-api that is down', () => {
  test('is HTTP_ERROR after all attempts', async () => {
    await using run = await startFunction();
    await run.host.api.refuse();
    const { statusCode, response } = await run.webhook(PROMOTION);
    expect([statusCode, response.exit_code]).toEqual([502, 3]);
    expect(response.message).toContain('ECONNREFUSED');
    expect(run.log().filter(({ level }) => level === 'WARN')).toHaveLength(5);
  });

  test('for a moment is overcome', async () => {
    await using run = await startFunction();
    await run.host.api.refuse();
    const response = run.invoke(PROMOTION);
    await expect.poll(() => run.log().length).toBeGreaterThan(0);
    await run.host.api.listen();
    expect((await response).exit_code).toBe(0);
  });

  test('is no reason to throw an EventBridge event: it is recorded', async () => {
    await using run = await startFunction({}, { MAX_RETRIES: '1' });
    await run.host.api.refuse();
    expect(await run.eventBridge(PROMOTION)).toMatchObject({ exit_code: 3, recorded: true });
  });
});

describe('pg-backup-api that accepts and never answers', () => {
  test('ends in 504 before the deadline', async () => {
    await using run = await startFunction();
    run.host.api.fault({ kind: 'stall' }, Number.POSITIVE_INFINITY);
    const start = performance.now();
    const { statusCode, response } = await run.webhook(PROMOTION, { remaining: 3_000 });
    expect([statusCode, response.exit_code]).toEqual([504, 3]);
    expect(response.message).toContain('may have begun');
    expect(performance.now() - start).toBeLessThan(2_500);
  });

  test('the same in the middle of a body', async () => {
    await using run = await startFunction();
    run.host.api.fault({ kind: 'stall body' }, Number.POSITIVE_INFINITY, isPoll);
    const start = performance.now();
    const { statusCode, response } = await run.webhook(PROMOTION, { remaining: 3_000 });
    expect([statusCode, response.exit_code]).toEqual([504, 3]);
    expect(response.operation_id).toBeDefined();
    expect(performance.now() - start).toBeLessThan(2_500);
  });

  test('leaves the next invocation of the same process alone', async () => {
    await using run = await startFunction();
    run.host.api.fault({ kind: 'stall' });
    await run.invoke(PROMOTION, 2_000);
    await run.expireLease();
    expect((await run.invoke(PROMOTION)).exit_code).toBe(0);
  });
});

describe('404', () => {
  test('three times is true: the response has the own words of the server', async () => {
    await using run = await startFunction();
    const { statusCode, response } = await run.webhook({ ...PROMOTION, barman_server: 'nope' });
    expect([statusCode, response.exit_code]).toEqual([502, 3]);
    expect(response.message).toContain("Server 'nope' does not exist");
    expect(run.host.api.requests).toHaveLength(3);
  });

  test.each([
    ['creation', isPost],
    ['poll', isPoll],
  ])('once, at the %s, is overcome', async (_, when) => {
    await using run = await startFunction();
    run.host.api.fault(
      { kind: 'status', status: 404, body: '{"error":"404 Not Found: Resource not found"}' },
      2,
      when,
    );
    expect((await run.webhook(PROMOTION)).response.exit_code).toBe(0);
  });
});

describe('creation', () => {
  test('of two operations of one server at the same moment is overcome: one after the other', async () => {
    await using run = await startClient();
    run.standIn.plan({ time: 300 });
    await using other = new PgBackupApi(
      { connection: async () => ({ url: new URL(run.standIn.url) }), rereadConnection: Promise.reject },
      {
        signal: AbortSignal.timeout(20_000),
        maxRetries: 5,
        postDelay: 20,
        counts: { attempts: 0, polls: 0 },
      },
    );
    await Promise.all(
      [run.client, other].map((client) =>
        client.createConfigSwitchOperation('main', { reset: true }, guard()),
      ),
    );
    const [first, second] = run.standIn.operations();
    expect(second?.createdAt).toBeGreaterThan(first?.endedAt ?? Number.POSITIVE_INFINITY);
  });

  test('whose response is lost: a second operation is sent only after the first has ended', async () => {
    await using run = await startFunction({ operationTime: 700 });
    run.host.api.fault({ kind: 'lose response' }, 1, isPost);
    expect((await run.webhook(PROMOTION)).response.exit_code).toBe(0);
    const [first, second] = run.host.api.operations();
    expect(second?.createdAt).toBeGreaterThan(first?.endedAt ?? Number.POSITIVE_INFINITY);
  });

  test('whose response is lost while the operation runs on waits for it', async () => {
    await using run = await startClient();
    run.standIn.plan({ time: 1_500 });
    run.standIn.fault({ kind: 'lose response' }, 1, isPost);
    const id = await run.client.createConfigSwitchOperation('main', { model: 'pg:node2' }, guard());
    expect(await run.client.waitForOperation('main', id)).toBe('DONE');
    const [first, second] = run.standIn.operations();
    expect(second?.createdAt).toBeGreaterThan(first?.endedAt ?? Number.POSITIVE_INFINITY);
  });

  test('that was lost on its way is sent again', async () => {
    await using run = await startClient();
    run.standIn.fault({ kind: 'reset' }, 1, isPost);
    await run.client.createConfigSwitchOperation('main', { reset: true }, guard());
    expect(run.standIn.operations()).toHaveLength(1);
  });

  test('does not wait for what is none of its doing: a recovery, a config switch of long ago', async () => {
    await using run = await startClient();
    run.standIn.addOperation({ id: '20200101T000000', type: 'config_switch', status: 'IN_PROGRESS' });
    run.standIn.addOperation({ id: '20990101T000000', type: 'recovery', status: 'IN_PROGRESS' });
    run.standIn.fault({ kind: 'lose response' }, 1, isPost);
    await run.client.createConfigSwitchOperation('main', { reset: true }, guard());
    expect(run.counts.polls).toBeLessThanOrEqual(2);
  });

  test('lost on its way waits for no config switch that is stuck since days, were it the newest', async () => {
    await using run = await startClient();
    run.standIn.addOperation({
      id: idOf(Date.now() - 2 * 86_400_000),
      type: 'config_switch',
      status: 'IN_PROGRESS',
    });
    run.standIn.fault({ kind: 'reset' }, 1, isPost);
    await run.client.createConfigSwitchOperation('main', { reset: true }, guard());
    expect(run.counts.polls).toBe(0);
  });

  test.each([
    ['behind by an hour, set back since the last operation', -3_600_000, 1_000],
    ['in the farthest west', -12 * 3_600_000, 0],
    ['in the farthest east', 14 * 3_600_000, 0],
  ])('whose response is lost is seen to its end by a clock %s', async (_, clock, before) => {
    await using run = await startClient();
    if (before > 0) {
      run.standIn.addOperation({ id: idOf(Date.now() - before), type: 'config_switch', status: 'DONE' });
    }
    run.standIn.addOperation({ id: idOf(Date.now() + clock), type: 'config_switch', status: 'IN_PROGRESS' });
    run.standIn.fault({ kind: 'reset' }, 1, isPost);
    const creation = run.client.createConfigSwitchOperation('main', { reset: true }, guard());
    await expect.poll(() => run.counts.polls).toBeGreaterThan(1);
    expect(run.standIn.requests.filter(isPost)).toHaveLength(1);
    await run.client[Symbol.asyncDispose]();
    await run.standIn.close();
    await expect(creation).rejects.toThrow();
  });

  test('whose response is lost and whose operation is stuck is told as such at the deadline', async () => {
    await using run = await startClient({ signal: deadline(1_500).signal });
    run.standIn.plan({ time: Number.POSITIVE_INFINITY });
    run.standIn.fault({ kind: 'lose response' }, 1, isPost);
    const failure = run.client.createConfigSwitchOperation('main', { reset: true }, guard());
    await expect(failure).rejects.toThrow(/did not respond.*then the result of operation .* is unknown/);
    expect(run.standIn.requests.filter(isPost)).toHaveLength(1);
  });
});

describe('a response', () => {
  test.each<[string, Fault, number]>([
    ['cut off before it began', { kind: 'reset' }, 1],
    ['cut short', { kind: 'truncate' }, 1],
    ['no JSON', { kind: 'body', body: '<html>' }, 1],
    ['other JSON', { kind: 'body', body: '{"state":"DONE"}' }, 1],
    ['an unknown status', { kind: 'body', body: '{"status":"PAUSED"}' }, 1],
    ['longer than 16 MiB', { kind: 'oversize', bytes: 17 * 1024 * 1024 }, 1],
    ['429', { kind: 'status', status: 429 }, 2],
    ['500', { kind: 'status', status: 500 }, 2],
    ['502', { kind: 'status', status: 502 }, 2],
    ['503', { kind: 'status', status: 503 }, 2],
    ['504', { kind: 'status', status: 504 }, 2],
  ])('to a poll that is %s is asked for again', async (_, fault, times) => {
    await using run = await startClient();
    const id = await run.client.createConfigSwitchOperation('main', { model: 'pg:node2' }, guard());
    run.standIn.fault(fault, times, isPoll);
    expect(await run.client.waitForOperation('main', id)).toBe('DONE');
    expect(run.standIn.requests.filter(isPoll)).toHaveLength(times + 1);
  });

  test.each<[string, Fault]>([
    ['no JSON', { kind: 'body', body: '<html>' }],
    ['no operation id', { kind: 'body', body: '{}' }],
    ['an operation id that is none', { kind: 'body', body: '{"operation_id":"../../etc"}' }],
    ['429', { kind: 'status', status: 429 }],
    ['500', { kind: 'status', status: 500 }],
    ['502', { kind: 'status', status: 502 }],
    ['503', { kind: 'status', status: 503 }],
    ['504', { kind: 'status', status: 504 }],
  ])('to a creation that is %s is overcome', async (_, fault) => {
    await using run = await startClient();
    run.standIn.fault(fault, 1, isPost);
    expect(await run.client.createConfigSwitchOperation('main', { reset: true }, guard())).toMatch(
      /^\d{8}T\d{6}$/,
    );
  });

  test.each([400, 405, 409, 413, 422])(
    '%i is final, and told in the own words of the server',
    async (status) => {
      await using run = await startFunction();
      run.host.api.fault(
        { kind: 'status', status, body: '{"error":"not like this"}' },
        Number.POSITIVE_INFINITY,
      );
      const { statusCode, response } = await run.webhook(PROMOTION);
      expect([statusCode, response.exit_code]).toEqual([502, 3]);
      expect(response.message).toContain(`${status}: not like this`);
      expect(run.host.api.requests).toHaveLength(1);
    },
  );

  test('a redirect is not followed', async () => {
    await using run = await startFunction();
    let visitors = 0;
    const target = await listen(createServer((_, response) => void response.end(String(++visitors))));
    run.host.api.fault(
      { kind: 'redirect', location: `http://127.0.0.1:${target.port}/` },
      Number.POSITIVE_INFINITY,
    );
    const { statusCode, response } = await run.webhook(PROMOTION);
    expect([statusCode, response.exit_code]).toEqual([502, 3]);
    expect(response.message).toContain('redirect');
    expect([visitors, run.host.api.requests.length]).toEqual([0, 1]);
    await target.close();
  });
});

describe('certificates', () => {
  test('of another CA at the Barman host: exit code 3 with the reason, and no attempt without verification', async () => {
    await using run = await startFunction();
    const other = await CertificateAuthority.create('Another CA');
    run.host.api.setTls({ ...(await other.server()), ca: run.host.ca.cert });
    const { statusCode, response } = await run.webhook(PROMOTION);
    expect([statusCode, response.exit_code]).toEqual([502, 3]);
    expect(response.message).toMatch(/not trusted.*check ca-cert/);
    expect(run.host.api.requests).toEqual([]);
  });

  test.each([
    ['expired', ['127.0.0.1'], -1, /expired/],
    ['of another host', ['other.example.com'], 90, /altnames|IP/],
  ])('that are %s at the Barman host are told', async (_, hosts, days, words) => {
    await using run = await startFunction();
    run.host.api.setTls({ ...(await run.host.ca.server(hosts, days)), ca: run.host.ca.cert });
    const response = await run.invoke(PROMOTION);
    expect(response.exit_code).toBe(3);
    expect(response.message).toMatch(words);
    expect(run.host.api.requests).toEqual([]);
  });

  test.each(['close', 'page'] as const)(
    'of ours that are refused (%s): exit code 3 with the reason, and 0 after one re-read of rotated ones',
    async (onBadCertificate) => {
      await using run = await startFunction({ onBadCertificate });
      expect((await run.invoke(PROMOTION)).exit_code).toBe(0);

      const next = await CertificateAuthority.create('Next CA');
      run.host.api.setTls({ ...(await run.host.ca.server()), ca: next.cert });
      const refused = await run.invoke(PROMOTION);
      expect(refused.exit_code).toBe(3);
      expect(refused.message).toMatch(/certificate|client-cert/);

      await run.expireLease();
      const client = await next.client();
      run.host.put({ 'client-cert': client.cert, 'client-key': client.key });
      const before = run.ssm.requestsFor(run.host.path).length;
      expect((await run.invoke({ ...PROMOTION, barman_model: 'pg:node1' })).exit_code).toBe(0);
      expect(run.host.api.activeModel()).toBe('pg:node1');
      // Five parameters are two pages.
      expect(run.ssm.requestsFor(run.host.path).length - before).toBe(2);
    },
  );

  test('that are refused while SSM is down are told as refused', async () => {
    await using run = await startFunction({ onBadCertificate: 'page' });
    await run.invoke(PROMOTION);
    const next = await CertificateAuthority.create('Next CA');
    run.host.api.setTls({ ...(await run.host.ca.server()), ca: next.cert });
    run.ssm.faults.set(run.host.path, 'reset');
    const { statusCode, response } = await run.webhook(PROMOTION);
    expect([statusCode, response.exit_code]).toEqual([502, 3]);
    expect(response.message).toContain('SSL certificate');
    expect(run.log()).toContainEqual(
      expect.objectContaining({
        level: 'WARN',
        message: expect.stringContaining('the last good values stay in use'),
      }),
    );
  });

  test.each([401, 403])('%i re-reads the credentials once and is then final', async (status) => {
    await using run = await startFunction();
    run.host.api.fault({ kind: 'status', status }, Number.POSITIVE_INFINITY);
    const { response } = await run.webhook(PROMOTION);
    expect(response.exit_code).toBe(3);
    expect(run.host.api.requests).toHaveLength(1);
    expect(run.ssm.requestsFor(run.host.path)).toHaveLength(4);
  });
});

describe('waiting', () => {
  test('is gentle on a slow host: one request at a time, and at most half of its time', async () => {
    await using run = await startFunction({ requestCost: 200, operationTime: 2_000 });
    const start = performance.now();
    await run.invoke(PROMOTION);
    const elapsed = performance.now() - start;
    expect(run.host.api.longestQueue).toBe(1);
    expect(run.host.api.requests.length * 200).toBeLessThan(elapsed / 2 + 200);
  });

  test('is quick on a small host', async () => {
    await using run = await startFunction({ operationTime: 600 });
    await run.invoke(PROMOTION);
    expect(run.host.api.requests.length).toBeGreaterThanOrEqual(4);
    expect(run.host.api.requests.length).toBeLessThanOrEqual(10);
  });
});

describe('the client', () => {
  test('throws what is none of the errors of the network as it is', async () => {
    const bug = new TypeError('a bug');
    await using client = new PgBackupApi(
      { connection: () => Promise.reject(bug), rereadConnection: () => Promise.reject(bug) },
      { signal: AbortSignal.timeout(1_000), maxRetries: 5, postDelay: 20, counts: { attempts: 0, polls: 0 } },
    );
    await expect(client.createConfigSwitchOperation('main', { reset: true }, guard())).rejects.toBe(bug);
  });

  test('makes at most max_retries attempts', async () => {
    await using run = await startClient({ maxRetries: 2 });
    run.standIn.fault({ kind: 'status', status: 503 }, Number.POSITIVE_INFINITY);
    await expect(run.client.diagnose()).rejects.toThrow(HttpError);
    expect(run.counts.attempts).toBe(2);
  });
});
