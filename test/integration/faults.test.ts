/**
 * The fault matrix: whatever fails, the response is correct and in time, no rejection is unhandled, no secret
 * leaks, and the next invocation of the same process works.
 */

import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import dns from 'node:dns';
import { createServer as createTcpServer, type Server, type Socket } from 'node:net';
import { createServer as createTlsServer, type TlsOptions } from 'node:tls';
import { expect, test, vi } from 'vitest';
import { ExitCode, exitStatus } from '../../functions/config-switch/exit-code.ts';
import { CertificateAuthority, type KeyPair } from '../stand-ins/certificates.ts';
import type { DynamoDbFault } from '../stand-ins/dynamodb.ts';
import type { Fault, PgBackupApiOptions, SeenRequest } from '../stand-ins/pg-backup-api.ts';
import type { Host, OperationPlan } from '../stand-ins/pg-backup-api-host.ts';
import { listen } from '../stand-ins/server.ts';
import type { SsmFault } from '../stand-ins/ssm.ts';
import {
  type FunctionUnderTest,
  fakeClock,
  isPoll,
  isPost,
  MINUTE,
  NODE1,
  PROMOTION,
  pass,
  signal,
  startFunction,
} from './function.ts';

const { CONFIG_SWITCH_DONE: DONE, CONFIG_SWITCH_FAILED: FAILED, HTTP_ERROR, INVALID_ARGS } = ExitCode;
/**
 * Lambda's remaining time (ms): SHORT for a row in which something hangs, LONG, as deployed, for the others.
 */
const SHORT = 2_500;
const LONG = 29_000;

/** Breaks something. @returns what repairs it, unless it recovers by itself */
type Break = (run: FunctionUnderTest) => Promise<Repair> | Repair;
type Repair = (() => Promise<void> | void) | void;

interface Row {
  /** undefined if the caller gets only an HTTP status. */
  readonly exitCode: ExitCode | undefined;
  readonly status: number;
  readonly recorded: boolean;
  readonly says: RegExp;
  readonly broken: Break;
  readonly remaining?: number;
  readonly options?: Omit<PgBackupApiOptions, 'tls'>;
  readonly payload?: Buffer;
}

const always = Number.POSITIVE_INFINITY;

/** A fault of pg-backup-api, or of the proxy in front of it. */
const api =
  (fault: Fault, when: (request: SeenRequest) => boolean = () => true): Break =>
  ({ host }) => {
    host.api.fault(fault, always, when);
    return () => host.api.noFaults();
  };
const operation =
  (plan: OperationPlan): Break =>
  ({ host }) =>
    host.api.plan(plan);
/** Something is wrong on the Barman host itself. */
const state =
  (broken: Partial<Pick<Host, 'disk' | 'helper' | 'unreadable'>>): Break =>
  ({ host: { api } }) => {
    const { disk, helper, unreadable } = api.host;
    Object.assign(api.host, broken);
    return () => void Object.assign(api.host, { disk, helper, unreadable });
  };
/** Another server listens in place of pg-backup-api. */
const instead =
  (start: (run: FunctionUnderTest) => Promise<Server> | Server): Break =>
  async (run) => {
    await run.host.api.refuse();
    const server = await listen(await start(run), Number(new URL(run.host.api.url).port));
    return async () => {
      await server.close();
      await run.host.api.listen();
    };
  };
const tcp = (serve: (socket: Socket) => void) => instead(() => createTcpServer(serve));
/**
 * A TLS server with the expected certificate, unless another is given; it never responds, unless `serve`
 * does.
 */
const tls = (options: TlsOptions, serve: (socket: Socket) => void = () => {}) =>
  instead(async ({ host }) =>
    createTlsServer({ ...(await host.ca.server()), ...options }, (socket) =>
      serve(socket.on('error', () => {})),
    ),
  );
/** Responds to every request with these bytes. */
const http = (response: string, end = true) =>
  tls({}, (socket) => {
    socket.once('data', () => (end ? socket.end(response) : socket.write(response)));
  });
const certificate =
  (hosts: readonly string[], days: number): Break =>
  async ({ host }) => {
    host.api.setTls({ ...(await host.ca.server(hosts, days)), ca: host.ca.cert });
    return async () => host.api.setTls({ ...(await host.ca.server()), ca: host.ca.cert });
  };
const lookup =
  (code: string | undefined): Break =>
  async ({ host }) => {
    const url = host.api.url;
    host.put({ url: url.replace('127.0.0.1', 'localhost') });
    const fail = (_name: unknown, _options: unknown, callback: (error: Error) => void) => {
      if (code) callback(Object.assign(new Error(`getaddrinfo ${code}`), { code }));
    };
    const spy = vi.spyOn(dns, 'lookup').mockImplementation(fail as unknown as typeof dns.lookup);
    return () => {
      spy.mockRestore();
      host.put({ url });
    };
  };
/** The kernel gives up an open connection once a request was sent: the network has lost everything since. */
const lost: Break = () => {
  let socket: Socket | undefined;
  const onConnected = (message: unknown) => {
    ({ socket } = message as { socket: Socket });
  };
  const onSent = () => {
    const error = { code: 'ETIMEDOUT', errno: -110, syscall: 'read' };
    socket?.destroy(Object.assign(new Error('read ETIMEDOUT'), error));
  };
  subscribe('undici:client:sendHeaders', onConnected);
  subscribe('undici:request:bodySent', onSent);
  return () => {
    unsubscribe('undici:client:sendHeaders', onConnected);
    unsubscribe('undici:request:bodySent', onSent);
  };
};
const ssm =
  (fault: SsmFault): Break =>
  (run) => {
    run.ssm.faults.set(run.host.path, fault);
    return () => void run.ssm.faults.delete(run.host.path);
  };
/** A parameter is missing, or has another value. */
const parameter =
  (name: string, value: string | undefined): Break =>
  ({ host }) => {
    const valid = host.ssm.parameters.get(`${host.path}${name}`);
    host.put({ [name]: value });
    return () => host.put({ [name]: valid });
  };
const clientCertificate =
  (make: (host: FunctionUnderTest['host']) => Promise<KeyPair>): Break =>
  async ({ host }) => {
    const valid = {
      'client-cert': host.parameter('client-cert'),
      'client-key': host.parameter('client-key'),
    };
    const { cert, key } = await make(host);
    host.put({ 'client-cert': cert, 'client-key': key });
    return () => host.put(valid);
  };
/** A fault of DynamoDB, for some requests of an operation, from the given one on (the first is 1). */
const ledger =
  (fault: DynamoDbFault, operation = '', from = 1, times = always): Break =>
  ({ dynamoDb }) => {
    let count = 0;
    dynamoDb.fault = (requested) => {
      if (!requested.includes(operation)) return undefined;
      count += 1;
      return count >= from && count < from + times ? fault : undefined;
    };
    return () => {
      dynamoDb.fault = undefined;
    };
  };
/** The clock jumps (ms) while the operation runs. */
const jump =
  (ms: number): Break =>
  ({ host }) => {
    const when = (request: SeenRequest) => {
      if (isPoll(request) && host.api.operations()[0]?.endedAt === undefined && jumps++ === 0) {
        vi.setSystemTime(Date.now() + ms);
      }
      return false;
    };
    let jumps = 0;
    host.api.fault({ kind: 'stall' }, always, when);
    return () => {
      host.api.noFaults();
      if (ms < 0) vi.setSystemTime(Date.now() - ms);
    };
  };

const unbroken: Break = () => {};
/** The operator has paused the server. */
const paused: Break = async (run) => {
  await run.webhook(NODE1);
  await run.operator.pause('main', undefined, signal());
  return async () => void (await run.operator.resume('main', signal()));
};

type More = Partial<Row>;
/** The switch was rejected, or its outcome is unknown; the desired state is recorded. */
const kept = (says: RegExp, broken: Break): Row => ({
  exitCode: HTTP_ERROR,
  status: 502,
  recorded: true,
  says,
  broken,
});
/** The desired state is recorded, and not decided yet. */
const undecided = (says: RegExp, broken: Break): Row => ({ ...kept(says, broken), status: 202 });
const late = (says: RegExp, broken: Break): Row => ({ ...undecided(says, broken), remaining: SHORT });
/** The ledger is unavailable. */
const notRecorded = (says: RegExp, broken: Break, more: More = {}): Row => ({
  ...kept(says, broken),
  status: 503,
  recorded: false,
  ...more,
});
const silent = (broken: Break, more: More = {}): Row => ({
  ...notRecorded(/Service Unavailable/, broken, more),
  exitCode: undefined,
});
const done = (broken: Break, more: More = {}): Row => ({
  ...kept(/now uses model pg:node2/, broken),
  exitCode: DONE,
  status: 200,
  ...more,
});

const REASON = '{"error":"so it is"}';
const saysStatus = (status: number) =>
  status === 204 ? /204, but its body is not JSON/ : new RegExp(`${status}: so it is`);

const MATRIX: Record<string, Row> = {
  // Connection to the Barman host.
  "the Barman host's name does not exist": kept(/ENOTFOUND/, lookup('ENOTFOUND')),
  "the Barman host's name cannot be resolved": kept(/EAI_AGAIN/, lookup('EAI_AGAIN')),
  'name resolution hangs': late(/time ran out/, lookup(undefined)),
  'connections are refused': kept(/ECONNREFUSED/, async ({ host }) => {
    await host.api.refuse();
    return () => host.api.listen();
  }),
  'connections are closed at once': kept(
    /closed|reset/,
    tcp((socket) => socket.destroy()),
  ),
  'connections are reset at once': kept(
    /ECONNRESET/,
    tcp((socket) => socket.resetAndDestroy()),
  ),
  'connections are accepted, and nothing is sent': late(
    /time ran out/,
    tcp(() => {}),
  ),
  // TLS.
  'the connection is reset during the TLS handshake': kept(
    /ECONNRESET/,
    tcp((socket) => socket.once('data', () => socket.resetAndDestroy())),
  ),
  'the connection is closed right after the TLS handshake': kept(
    /closed.*may have refused client-cert/,
    tls({}, (socket) => socket.destroy()),
  ),
  'the port speaks plain HTTP': kept(
    /TLS with the Barman host failed/,
    tcp((socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n')),
  ),
  'the TLS version is too old': kept(
    /TLS with the Barman host failed/,
    tls({ minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'ALL:@SECLEVEL=0' }),
  ),
  'the client certificate has expired': kept(
    /^the client certificate expired on .*; write a new one/,
    clientCertificate(({ ca }) => ca.client('expired', -1)),
  ),
  'the server certificate has expired': kept(/expired/, certificate(['127.0.0.1'], -1)),
  'the server certificate is for another host': kept(
    /ERR_TLS_CERT_ALTNAME_INVALID/,
    certificate(['other.example.com'], 90),
  ),
  'the server certificate is from another CA': kept(
    /not trusted: [^;]*\(UNABLE_TO_VERIFY_LEAF_SIGNATURE\); check ca-cert/,
    async ({ host }) => {
      const other = await CertificateAuthority.create('Another CA');
      host.api.setTls({ ...(await other.server()), ca: host.ca.cert });
      return async () => host.api.setTls({ ...(await host.ca.server()), ca: host.ca.cert });
    },
  ),
  // Every class of status, for a creation and for a poll.
  ...Object.fromEntries(
    [204, 308, 403, 404, 422, 429, 500, 503].map((status): [string, Row] => [
      `a creation gets status ${status}`,
      kept(saysStatus(status), api({ kind: 'status', status, body: REASON }, isPost)),
    ]),
  ),
  ...Object.fromEntries(
    [204, 403, 503].map((status): [string, Row] => [
      `a poll gets status ${status}`,
      kept(
        new RegExp(`the result of operation .* is unknown.*${saysStatus(status).source}`),
        api({ kind: 'status', status, body: REASON }, isPoll),
      ),
    ]),
  ),
  'pg-backup-api cannot start its helper process': kept(
    /500.*error log.*PATH of its service.*<barman_home>\/main\/jobs$/,
    state({ helper: false }),
  ),
  'the disk is full': kept(/500.*error log/, state({ disk: 'full' })),
  'the disk is read-only': kept(/500.*error log/, state({ disk: 'read-only' })),
  "Barman's configuration cannot be read": kept(/500.*error log/, state({ unreadable: 'main' })),
  // Missing, incomplete and malformed responses.
  'a creation gets no response': late(/a switch may have begun/, api({ kind: 'stall' }, isPost)),
  "a poll's response stops within its body": late(
    /the result of operation/,
    api({ kind: 'stall body' }, isPoll),
  ),
  'a creation is reset': kept(/may have begun/, api({ kind: 'reset' }, isPost)),
  'the connection of a creation times out': kept(
    /did not respond: the connection timed out \(ETIMEDOUT\).*may have begun/,
    lost,
  ),
  "a creation's response is lost": kept(/may have begun/, api({ kind: 'lose response' }, isPost)),
  "a poll's response is cut short": kept(/the result of operation/, api({ kind: 'truncate' }, isPoll)),
  "a poll's response is too long": kept(
    /the result of operation/,
    api({ kind: 'oversize', bytes: 17 * 1024 * 1024 }, isPoll),
  ),
  'the response is not HTTP': kept(/is not usable/, http('220 smtp.example.com\r\n\r\n')),
  'the headers are too long': kept(
    /is not usable/,
    http(`HTTP/1.1 202 Accepted\r\nx: ${'x'.repeat(100_000)}\r\n\r\n`),
  ),
  'the headers are cut short': kept(/may have begun/, http('HTTP/1.1 202 Acc')),
  'the headers never end': late(/may have begun/, http('HTTP/1.1 202 Acc', false)),
  'the chunks are malformed': kept(
    /is not usable/,
    http('HTTP/1.1 202 Accepted\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n'),
  ),
  ...Object.fromEntries(
    ['', '<html>', '{"operation_id":"../x"}'].map((body): [string, Row] => [
      `a creation gets the body ${body || '(empty)'}`,
      kept(/may have begun/, api({ kind: 'body', body }, isPost)),
    ]),
  ),
  ...Object.fromEntries(
    ['<html>', '{"status":"PAUSED"}'].map((body): [string, Row] => [
      `a poll gets the body ${body}`,
      kept(/the result of operation/, api({ kind: 'body', body }, isPoll)),
    ]),
  ),
  // Operations.
  'the operation fails': {
    ...kept(/<barman_home>\/main\/output\/.*json/, operation({ failed: 'untouched' })),
    exitCode: FAILED,
  },
  'the output of the operation is empty': kept(
    /the result of operation.*404/,
    operation({ emptyOutput: true }),
  ),
  'the operation does not end': late(/the result of operation/, operation({ time: always })),
  'the operations of an expired lease cannot be listed': late(
    /GET .main.operations|before GET|time ran out/,
    async (run) => {
      run.host.api.fault({ kind: 'stall' });
      await run.webhook(NODE1, { remaining: 2_500 });
      await run.expireLease();
      run.host.api.fault({ kind: 'stall' }, always);
      return () => run.host.api.noFaults();
    },
  ),
  'the operation of an expired lease fails': done(async (run) => {
    run.host.api.plan({ time: 1_500, failed: 'applied' });
    await run.webhook(NODE1, { remaining: 2_500 });
    await run.expireLease();
  }),
  // SSM.
  'SSM denies access': silent(ssm('access denied')),
  'SSM resets connections': silent(ssm('reset')),
  'SSM does not respond': silent(ssm('stall'), { remaining: SHORT }),
  'parameter url is missing': kept(/url is missing; expected/, parameter('url', undefined)),
  'parameter client-key is malformed': kept(
    /client-key is malformed/,
    parameter('client-key', 'a-secret-that-must-not-appear'),
  ),
  // The ledger.
  'DynamoDB denies access': notRecorded(
    /AccessDeniedException; the function's role needs/,
    ledger('access denied'),
  ),
  'DynamoDB fails': notRecorded(/InternalServerError/, ledger('internal')),
  'DynamoDB resets connections': notRecorded(/ECONNRESET.*a route to DynamoDB/, ledger('reset')),
  'DynamoDB does not respond': notRecorded(/before the ledger responded/, ledger('stall'), {
    status: 504,
    remaining: SHORT,
  }),
  'DynamoDB fails once': done(ledger('internal', '', 1, 1)),
  'the response to the first write is lost, and the SDK repeats the write': done(
    ledger('lose response', 'UpdateItem', 1, 1),
  ),
  'DynamoDB refuses the write of the running operation': done(ledger('access denied', 'UpdateItem', 2, 1)),
  'DynamoDB fails after the operation': notRecorded(
    /the ledger is unavailable/,
    ledger('internal', 'UpdateItem', 2),
    { recorded: true },
  ),
  'DynamoDB does not respond after the operation': late(
    /before the ledger responded/,
    ledger('stall', 'UpdateItem', 2),
  ),
  // Other invocations, and the operator.
  'the server is paused': undecided(/main is paused/, paused),
  // Time.
  'no time is left': silent(unbroken, { remaining: 0 }),
  '1 ms more than the reserve is left': silent(unbroken, { remaining: 1_501 }),
  'the clock jumps an hour ahead while the operation runs': done(jump(60 * MINUTE), {
    options: { operationTime: 400 },
  }),
  'the clock jumps an hour back while the operation runs': done(jump(-60 * MINUTE), {
    options: { operationTime: 400 },
  }),
  // Callers.
  'the body is not UTF-8': {
    ...kept(/is not valid UTF-8/, unbroken),
    exitCode: INVALID_ARGS,
    status: 400,
    recorded: false,
    payload: Buffer.from(JSON.stringify({ ...PROMOTION, cluster: 'Köln' }), 'latin1'),
  },
};

fakeClock();

test.each(Object.entries(MATRIX))('fault matrix › %s', async (_, row) => {
  const { broken, payload = PROMOTION, remaining = LONG, options, ...expected } = row;
  await using after = new AsyncDisposableStack();
  const unhandled: unknown[] = [];
  const onUnhandled = (error: unknown) => unhandled.push(error);
  process.on('unhandledRejection', onUnhandled);
  after.defer(() => void process.off('unhandledRejection', onUnhandled));
  await using run = await startFunction(options, { MAX_RETRIES: '1' });
  const breakage = after.use(new AsyncDisposableStack());
  const repair = await broken(run);
  if (repair) breakage.defer(repair);

  const start = performance.now();
  const { statusCode, headers, response } = await run.webhook(payload, { remaining });
  expect(performance.now() - start).toBeLessThan(Math.max(remaining, 1_500));
  expect(statusCode).toBe(expected.status);
  expect(headers['retry-after']).toBe(statusCode === 503 ? '5' : undefined);
  expect(response.message).toMatch(expected.says);
  const { exitCode } = expected;
  if (exitCode === undefined) expect(response).toEqual({ message: expect.any(String) });
  else {
    expect(response).toMatchObject({
      exit_code: exitCode,
      exit_status: exitStatus(exitCode),
      recorded: expected.recorded,
      event_id: expect.any(String),
      request_id: expect.any(String),
    });
  }

  await breakage.disposeAsync();
  // Leases have expired, and unavailable parameters may be read again.
  pass(6 * MINUTE);
  const next = await run.webhook(NODE1);
  expect(next.response).toMatchObject({ exit_code: DONE });
  expect(run.host.api.activeModel()).toBe('pg:node1');
  expect(unhandled).toEqual([]);
});
