/** The fault matrix of the Barman host: the network, TLS, pg-backup-api and its operations. */

import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import dns from 'node:dns';
import { createServer as createTcpServer, type Server, type Socket } from 'node:net';
import { createServer as createTlsServer, type TlsOptions } from 'node:tls';
import { vi } from 'vitest';
import { ExitCode } from '../../functions/config-switch/exit-code.ts';
import { CertificateAuthority, type KeyPair } from '../stand-ins/certificates.ts';
import type { Fault, SeenRequest } from '../stand-ins/pg-backup-api.ts';
import type { Host, OperationPlan } from '../stand-ins/pg-backup-api-host.ts';
import { listen } from '../stand-ins/server.ts';
import { type Break, done, kept, late, type Row, testFaults } from './faults.ts';
import { type FunctionUnderTest, isPoll, isPost, NODE1 } from './function.ts';

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
    /500.*error log.*PATH of its service.*<barman_home>\/main\/jobs: only jobs without an output in output\/$/,
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
    exitCode: ExitCode.CONFIG_SWITCH_FAILED,
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
};

testFaults(MATRIX);
