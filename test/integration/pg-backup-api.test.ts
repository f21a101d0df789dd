import { createServer } from 'node:http';
import { describe, expect, test } from 'vitest';
import { PgBackupApi, type PgBackupApiOptions } from '../../functions/config-switch/barman/pg-backup-api.ts';
import { deadline } from '../../functions/config-switch/deadline.ts';
import { CertificateAuthority } from '../stand-ins/certificates.ts';
import { type Fault, PgBackupApiStandIn } from '../stand-ins/pg-backup-api.ts';
import { listen } from '../stand-ins/server.ts';
import { isPoll, isPost, NODE1, PROMOTION, startFunction } from './function.ts';

/** POSTs may be sent at any time. */
const guard = () => ({
  inDoubt: false,
  beforePost: async () => {},
  onCreated: () => {},
  waits: true,
  applied: undefined,
});

/** A client of a stand-in over plain HTTP. */
async function startClient(options: Partial<PgBackupApiOptions> = {}) {
  const standIn = await PgBackupApiStandIn.start({ models: { 'pg:node2': { cluster: 'main' } } });
  const connection = async () => ({ url: new URL(standIn.url) });
  const facts = { attempts: 0, polls: 0 };
  const client = new PgBackupApi(
    { connection, rereadConnection: connection },
    { signal: AbortSignal.timeout(20_000), maxRetries: 5, facts, ...options },
  );
  return {
    standIn,
    client,
    facts,
    [Symbol.asyncDispose]: async () => {
      await client[Symbol.asyncDispose]();
      await standIn.close();
    },
  };
}

describe('pg-backup-api that is down', () => {
  test('gets five attempts by default, each with a log line', async () => {
    await using run = await startFunction();
    await run.host.api.refuse();
    expect((await run.invoke(PROMOTION)).exit_code).toBe(3);
    expect(run.log().filter(({ level }) => level === 'WARN')).toHaveLength(5);
  });

  test('for a moment only delays the switch', async () => {
    await using run = await startFunction();
    await run.host.api.refuse();
    const response = run.invoke(PROMOTION);
    await expect.poll(() => run.log().length).toBeGreaterThan(0);
    await run.host.api.listen();
    expect((await response).exit_code).toBe(0);
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

  test('that is new to all five workers of pg-backup-api is switched once one of them knows it', async () => {
    await using run = await startFunction({ workers: 5 });
    run.host.api.configure('added', 'main');
    const { response } = await run.webhook({ ...PROMOTION, barman_server: 'added' });
    expect(response).toMatchObject({ exit_code: 0, message: 'Barman server added now uses model pg:node2' });
    const statuses = run.host.api.requests.filter(isPost).map((request) => request.response?.status);
    expect(statuses).toEqual([404, 404, 404, 202]);
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
  test('that fails because another operation has its id is repeated in the next second', async () => {
    await using run = await startClient();
    run.standIn.fault({ kind: 'status', status: 500 }, 1, isPost);
    await run.client.createConfigSwitchOperation('main', { reset: true }, guard());
    const [first, second] = run.standIn.requests.filter(isPost);
    expect((second?.at ?? 0) - (first?.at ?? 0)).toBeGreaterThan(990);
  });

  test('whose response is lost is repeated only after the first operation has ended', async () => {
    await using run = await startClient();
    run.standIn.plan({ time: 700 });
    run.standIn.fault({ kind: 'lose response' }, 1, isPost);
    await run.client.createConfigSwitchOperation('main', { reset: true }, guard());
    const [first, second] = run.standIn.operations();
    expect(second?.createdAt).toBeGreaterThan(first?.endedAt ?? Number.POSITIVE_INFINITY);
  });

  test('whose response is lost and whose operation is stuck is reported at the deadline, and not repeated', async () => {
    await using run = await startClient({ signal: deadline(1_000).signal });
    run.standIn.plan({ time: Number.POSITIVE_INFINITY });
    run.standIn.fault({ kind: 'lose response' }, 1, isPost);
    const failure = run.client.createConfigSwitchOperation('main', { reset: true }, guard());
    await expect(failure).rejects.toThrow(/did not respond.*then the result of operation .* is unknown/);
    expect(run.standIn.requests.filter(isPost)).toHaveLength(1);
  });
});

describe('a response', () => {
  // These end the connection: the next attempt needs another.
  test.each<[string, Fault]>([
    ['missing after a reset', { kind: 'reset' }],
    ['cut short', { kind: 'truncate' }],
    ['longer than 16 MiB', { kind: 'oversize', bytes: 17 * 1024 * 1024 }],
  ])('to a poll that is %s is requested again', async (_, fault) => {
    await using run = await startClient();
    const id = await run.client.createConfigSwitchOperation('main', { model: 'pg:node2' }, guard());
    await expect.poll(() => run.standIn.operations()[0]?.endedAt).toBeDefined();
    run.standIn.fault(fault, 1, isPoll);
    expect((await run.client.waitForOperation('main', id)).status).toBe('DONE');
    expect(run.standIn.requests.filter(isPoll)).toHaveLength(2);
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
  test.each(['close', 'page'] as const)(
    'of the client that are refused (%s) end in HTTP_ERROR with the reason, and in DONE once the rotated ones are read',
    async (onBadCertificate) => {
      await using run = await startFunction({ onBadCertificate }, { MAX_RETRIES: '1' });
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
      expect((await run.invoke(NODE1)).exit_code).toBe(0);
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
    run.expectLog({ level: 'WARN', message: expect.stringContaining('the last good values stay in use') });
  });

  test('of the client that are refused with 401 are read again once, and then the error is final', async () => {
    await using run = await startFunction();
    run.host.api.fault({ kind: 'status', status: 401 }, Number.POSITIVE_INFINITY);
    expect((await run.webhook(PROMOTION)).response.exit_code).toBe(3);
    expect(run.host.api.requests).toHaveLength(1);
    expect(run.ssm.requestsFor(run.host.path)).toHaveLength(4);
  });
});
