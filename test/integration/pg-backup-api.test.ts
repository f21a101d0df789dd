import { createServer } from 'node:http';
import { describe, expect, test } from 'vitest';
import { PgBackupApi, type PgBackupApiOptions } from '../../functions/config-switch/barman/pg-backup-api.ts';
import { deadline } from '../../functions/config-switch/deadline.ts';
import { CertificateAuthority } from '../stand-ins/certificates.ts';
import { type Fault, PgBackupApiStandIn, type SeenRequest } from '../stand-ins/pg-backup-api.ts';
import { listen } from '../stand-ins/server.ts';
import { PROMOTION, startFunction } from './function.ts';

const isPost = ({ method }: SeenRequest) => method === 'POST';
const isPoll = ({ path }: SeenRequest) => /operations\/./.test(path);

/** The id of an operation that began at a time of the Barman host's clock. */
const idOf = (time: number) => new Date(time).toISOString().replace(/\.\d+Z$|[-:]/g, '');

/** POSTs may be sent at any time. */
const guard = () => ({ inDoubt: false, beforePost: async () => {} });

/** A client of a stand-in over plain HTTP, with a short `postDelay`. */
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
  test('for a moment only delays the switch', async () => {
    await using run = await startFunction();
    await run.host.api.refuse();
    const response = run.invoke(PROMOTION);
    await expect.poll(() => run.log().length).toBeGreaterThan(0);
    await run.host.api.listen();
    expect((await response).exit_code).toBe(0);
  });

  test('does not throw an EventBridge event: it is recorded', async () => {
    await using run = await startFunction({}, { MAX_RETRIES: '1' });
    await run.host.api.refuse();
    expect(await run.eventBridge(PROMOTION)).toMatchObject({ exit_code: 3, recorded: true });
  });
});

describe('pg-backup-api that accepts connections and never responds', () => {
  test('does not affect the next invocation of the same process', async () => {
    await using run = await startFunction();
    run.host.api.fault({ kind: 'stall' });
    await run.invoke(PROMOTION, 2_000);
    await run.expireLease();
    expect((await run.invoke(PROMOTION)).exit_code).toBe(0);
  });
});

describe('a server', () => {
  test('that was added to Barman while pg-backup-api runs is switched', async () => {
    await using run = await startFunction();
    run.host.api.configure('added', 'main');
    const { response } = await run.webhook({ ...PROMOTION, barman_server: 'added' });
    expect(response).toMatchObject({ exit_code: 0, message: 'Barman server added now uses model pg:node2' });
    expect(run.host.api.activeModel('added')).toBe('pg:node2');
  });

  test('may have a name with any character that Barman and pg-backup-api accept', async () => {
    const name = 'pg@dc1.a:b+c~d=e,f-g_h';
    await using run = await startFunction({ servers: { [name]: { cluster: 'main' } } });
    const { response } = await run.webhook({ ...PROMOTION, barman_server: name });
    expect(response).toMatchObject({ exit_code: 0, barman_server: name });
    expect(run.host.api.activeModel(name)).toBe('pg:node2');
  });
});

describe('creation', () => {
  test('of two operations of one server at the same moment happens one after the other', async () => {
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

  test('whose response is lost is repeated only after the first operation has ended', async () => {
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

  test('that was lost on its way is repeated', async () => {
    await using run = await startClient();
    run.standIn.fault({ kind: 'reset' }, 1, isPost);
    await run.client.createConfigSwitchOperation('main', { reset: true }, guard());
    expect(run.standIn.operations()).toHaveLength(1);
  });

  test('does not wait for a recovery, nor for an old config switch', async () => {
    await using run = await startClient();
    run.standIn.addOperation({ id: '20200101T000000', type: 'config_switch', status: 'IN_PROGRESS' });
    run.standIn.addOperation({ id: '20990101T000000', type: 'recovery', status: 'IN_PROGRESS' });
    run.standIn.fault({ kind: 'lose response' }, 1, isPost);
    await run.client.createConfigSwitchOperation('main', { reset: true }, guard());
    expect(run.counts.polls).toBeLessThanOrEqual(2);
  });

  test('that was lost does not wait for a config switch that has been stuck for days, even the newest', async () => {
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

  test('whose response is lost and whose operation is stuck is reported at the deadline, and not repeated', async () => {
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
    ['missing after a reset', { kind: 'reset' }, 1],
    ['cut short', { kind: 'truncate' }, 1],
    ['longer than 16 MiB', { kind: 'oversize', bytes: 17 * 1024 * 1024 }, 1],
  ])('to a poll that is %s is requested again', async (_, fault, times) => {
    await using run = await startClient();
    const id = await run.client.createConfigSwitchOperation('main', { model: 'pg:node2' }, guard());
    run.standIn.fault(fault, times, isPoll);
    expect(await run.client.waitForOperation('main', id)).toBe('DONE');
    expect(run.standIn.requests.filter(isPoll)).toHaveLength(times + 1);
  });

  test.each<[string, Fault]>([
    ['a malformed operation id', { kind: 'body', body: '{"operation_id":"../../etc"}' }],
  ])('to a creation that is %s is overcome', async (_, fault) => {
    await using run = await startClient();
    run.standIn.fault(fault, 1, isPost);
    expect(await run.client.createConfigSwitchOperation('main', { reset: true }, guard())).toMatch(
      /^\d{8}T\d{6}$/,
    );
  });

  test('a redirect is not followed', async () => {
    await using run = await startFunction();
    let followed = 0;
    const target = await listen(createServer((_, response) => void response.end(String(++followed))));
    run.host.api.fault(
      { kind: 'redirect', location: `http://127.0.0.1:${target.port}/` },
      Number.POSITIVE_INFINITY,
    );
    const { statusCode, response } = await run.webhook(PROMOTION);
    expect([statusCode, response.exit_code]).toEqual([502, 3]);
    expect(response.message).toContain('redirect');
    expect([followed, run.host.api.requests.length]).toEqual([0, 1]);
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

  test.each(['close', 'page'] as const)(
    'of the client that are refused (%s) end in HTTP_ERROR with the reason, and in DONE once the rotated ones are read',
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

  test('of the client that are refused while SSM is unavailable are reported as refused', async () => {
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
