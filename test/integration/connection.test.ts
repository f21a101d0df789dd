/** How a request is sent over TCP and TLS, when it is written, and how its connection ends; on real sockets. */

import dns from 'node:dns';
import { once } from 'node:events';
import { createServer as createHttpServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import { connect, createServer, isIP, type Socket } from 'node:net';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { Agent, type HttpRequest } from '../../functions/config-switch/http/agent.ts';
import { networkFailureOf } from '../../functions/config-switch/http/network-errors.ts';
import { secureContextOf } from '../../functions/config-switch/http/tls.ts';
import { CertificateAuthority } from '../stand-ins/certificates.ts';
import { listen, readBody } from '../stand-ins/server.ts';

const ca = await CertificateAuthority.create();
const client = { ...(await ca.client()), ca: ca.cert };
const IPV6 = '::1';
/** Resolved by `resolve`. */
const NAME = 'barman.test';
const certificate = await ca.server(['127.0.0.1', IPV6, NAME]);

type Respond = (request: IncomingMessage, response: ServerResponse) => unknown;
const ok: Respond = (_, response) => response.end('"OK"');
/** The response never comes. */
const silent: Respond = () => {};

interface HostOptions {
  readonly respond?: Respond;
  /** Bytes of a new connection are forwarded once this has resolved. */
  readonly accept?: () => Promise<unknown>;
  readonly maxResponseSize?: number;
  readonly connectTimeout?: number;
  readonly address?: string;
  /** Host in the URL; default: the address. */
  readonly name?: string;
}

/** Has a name resolve to these addresses in this order, or never. */
function resolve(addresses: readonly string[] | 'never'): void {
  const lookup = (_name: unknown, _options: unknown, callback: (error: null, found: object[]) => void) => {
    if (addresses === 'never') return;
    const found = addresses.map((address) => ({ address, family: isIP(address) }));
    setImmediate(() => callback(null, found));
  };
  vi.spyOn(dns, 'lookup').mockImplementation(lookup as unknown as typeof dns.lookup);
}
afterEach(() => void vi.restoreAllMocks());

/** Starts a server behind a TCP forwarder that sees how each connection ends, and an agent for it. */
async function startHost(
  secure: boolean,
  { respond = ok, accept, maxResponseSize = 1_000, address = '127.0.0.1', name, ...more }: HostOptions = {},
) {
  /** What has arrived: method and body. */
  const requests: string[] = [];
  const onRequest = async (request: IncomingMessage, response: ServerResponse) => {
    requests.push(`${request.method} ${await readBody(request)}`);
    arrived.resolve();
    respond(request, response);
  };
  const arrived = Promise.withResolvers<void>();
  const server = secure
    ? createHttpsServer({ ...certificate, ca: ca.cert, requestCert: true }, onRequest)
    : createHttpServer(onRequest);
  const backend = await listen(server);
  const sockets: Socket[] = [];
  /** For each connection how the agent ended it: FIN, or the code of an error. */
  const ends: Promise<string>[] = [];
  const forwarder = createServer(async (socket) => {
    const end = Promise.withResolvers<string>();
    socket.on('end', () => end.resolve('FIN'));
    socket.on('error', (error) => end.resolve('code' in error ? String(error.code) : error.message));
    sockets.push(socket);
    ends.push(end.promise);
    await accept?.();
    const onwards = connect(backend.port, '127.0.0.1').on('error', () => {});
    socket.pipe(onwards).pipe(socket);
  });
  const front = await listen(forwarder, 0, address);
  const agent = new Agent({ secureContext: secureContextOf(client), maxResponseSize, ...more });
  const host = name ?? (address.includes(':') ? `[${address}]` : address);
  const base = new URL(`${secure ? 'https' : 'http'}://${host}:${front.port}`);
  const post: HttpRequest = { method: 'POST', base, path: ['operations'], body: { name: 'é' } };
  const get: HttpRequest = { method: 'GET', base, path: ['status'] };
  return {
    ...{ requests, sockets, ends, agent, post, get },
    arrived: arrived.promise,
    /** Sends a request, and reads its response. */
    ask: async (
      request: HttpRequest,
      signal = new AbortController().signal,
      hooks?: Parameters<Agent['send']>[2],
    ) => (await agent.send(request, signal, hooks)).text(),
    [Symbol.asyncDispose]: async () => {
      await agent[Symbol.asyncDispose]();
      await front.close();
      server.closeAllConnections();
      await backend.close();
    },
  };
}

const codeOf = (call: Promise<unknown>) =>
  call.then(
    () => 'no error',
    (error: unknown) => networkFailureOf(error)?.code ?? String(error),
  );

describe.each([
  ['TLS', true],
  ['plain HTTP', false],
])('over %s › a connection', (_, secure) => {
  test('is reset if the request is aborted', async () => {
    await using host = await startHost(secure, { respond: silent });
    const controller = new AbortController();
    const response = host.ask(host.post, controller.signal);
    response.catch(() => {});
    await host.arrived;
    const reason = new Error('time is up');
    controller.abort(reason);
    await expect(response).rejects.toBe(reason);
    expect(await host.ends[0]).toBe('ECONNRESET');
  });

  test('is reset if the request is aborted while its response arrives', async () => {
    await using host = await startHost(secure, { respond: (_, response) => response.write('"O') });
    const controller = new AbortController();
    const { text } = await host.agent.send(host.post, controller.signal);
    const reason = new Error('time is up');
    const read = text();
    controller.abort(reason);
    await expect(read).rejects.toBe(reason);
    expect(await host.ends[0]).toBe('ECONNRESET');
  });

  test('is reset if the agent is disposed of during a request', async () => {
    await using host = await startHost(secure, { respond: silent });
    const code = codeOf(host.ask(host.post));
    await host.arrived;
    await host.agent[Symbol.asyncDispose]();
    expect(await code).toMatch(/^UND_ERR_(DESTROYED|SOCKET)$/);
    expect(await host.ends[0]).toBe('ECONNRESET');
  });

  test('is reset if the response is too large, and that is the error', async () => {
    await using host = await startHost(secure, { maxResponseSize: 2 });
    expect(await codeOf(host.ask(host.post))).toBe('UND_ERR_RES_EXCEEDED_MAX_SIZE');
    expect(await host.ends[0]).toBe('ECONNRESET');
  });

  test('is kept after a complete response, and closed as usual', async () => {
    await using host = await startHost(secure);
    const controller = new AbortController();
    expect(await host.ask(host.post, controller.signal)).toBe('"OK"');
    controller.abort();
    expect(await host.ask(host.get)).toBe('"OK"');
    expect(host.requests).toEqual(['POST {"name":"é"}', 'GET ']);
    await host.agent[Symbol.asyncDispose]();
    expect(await Promise.all(host.ends)).toEqual(['FIN']);
  });

  test('is made before the hook is called, for each request, also on an open connection', async () => {
    await using host = await startHost(secure);
    const steps: string[] = [];
    const hooks = (name: string) => ({
      beforeWrite: async () => {
        await expect.poll(() => host.sockets.length).toBe(1);
        steps.push(`before ${name}: ${host.requests.length} requests`);
      },
      onWrite: () => void steps.push(`${name} is written`),
    });
    await host.ask(host.post, undefined, hooks('POST'));
    await host.ask(host.get, undefined, hooks('GET'));
    expect(steps).toEqual([
      ...['before POST: 0 requests', 'POST is written'],
      ...['before GET: 1 requests', 'GET is written'],
    ]);
    expect([host.requests, host.sockets.length]).toEqual([['POST {"name":"é"}', 'GET '], 1]);
  });

  test('carries nothing if the hook throws, whose error is thrown unchanged', async () => {
    await using host = await startHost(secure);
    const refusal = Object.assign(new Error('the lease is lost'), { code: 'ECONNREFUSED' });
    const onWrite = vi.fn();
    const beforeWrite = () => Promise.reject(refusal);
    await expect(host.ask(host.post, undefined, { beforeWrite, onWrite })).rejects.toBe(refusal);
    await host.ends[0];
    expect([host.requests, onWrite.mock.calls, host.sockets.length]).toEqual([[], [], 1]);
    expect(await host.ask(host.get)).toBe('"OK"');
    expect(host.requests).toEqual(['GET ']);
  });

  test.each(['new', 'open'])(
    'that is %s and ends during the hook is not replaced by another',
    async (age) => {
      await using host = await startHost(secure);
      if (age === 'open') await host.ask(host.get);
      const before = [...host.requests];
      const onWrite = vi.fn();
      const beforeWrite = async () => {
        host.sockets[0]?.end();
        // The agent has closed its side, too.
        await host.ends[0];
      };
      expect(await codeOf(host.ask(host.post, undefined, { beforeWrite, onWrite }))).toBe('UND_ERR_SOCKET');
      expect([host.requests, onWrite.mock.calls, host.sockets.length]).toEqual([before, [], 1]);
    },
  );

  test('is not closed as idle while the hook takes longer than its keep-alive time-out', async () => {
    const respond: Respond = (_, response) => response.setHeader('keep-alive', 'timeout=3').end('"OK"');
    await using host = await startHost(secure, { respond });
    await host.ask(host.get);
    // undici closes an idle connection two seconds before the server does.
    const beforeWrite = () => new Promise<void>((resolve) => void setTimeout(resolve, 1_200));
    expect(await host.ask(host.post, undefined, { beforeWrite })).toBe('"OK"');
    expect(host.sockets).toHaveLength(1);
  });

  test('is given up during the hook, and nothing is written', async () => {
    await using host = await startHost(secure);
    const controller = new AbortController();
    const [reason, onWrite] = [new Error('time is up'), vi.fn()];
    const beforeWrite = async () => controller.abort(reason);
    await expect(host.ask(host.post, controller.signal, { beforeWrite, onWrite })).rejects.toBe(reason);
    await host.ends[0];
    expect([host.requests, onWrite.mock.calls, host.sockets.length]).toEqual([[], [], 1]);
  });

  test('is tried with each address of a name', async () => {
    await using host = await startHost(secure, { name: NAME });
    resolve([IPV6, '127.0.0.1']);
    expect(await host.ask(host.post)).toBe('"OK"');
  });

  test('that cannot be made in time is given up', async () => {
    await using host = await startHost(secure, { name: NAME, connectTimeout: 100 });
    resolve('never');
    const beforeWrite = vi.fn(async () => {});
    expect(await codeOf(host.ask(host.post, undefined, { beforeWrite }))).toBe('UND_ERR_CONNECT_TIMEOUT');
    resolve(['127.0.0.1']);
    expect(await host.ask(host.get)).toBe('"OK"');
    expect([host.requests, beforeWrite.mock.calls]).toEqual([['GET '], []]);
  });

  test('to an IPv6 address is made and verified', async () => {
    await using host = await startHost(secure, { address: IPV6 });
    expect(await host.ask(host.post)).toBe('"OK"');
  });
});

test('a connection › is made once TLS is established, however slow that is; only then the hook is called', async () => {
  const [hello, held] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const accept = () => {
    hello.resolve();
    return held.promise;
  };
  await using host = await startHost(true, { accept });
  const beforeWrite = vi.fn(async () => {});
  const response = host.ask(host.post, undefined, { beforeWrite });
  await hello.promise;
  // TCP is connected, and the agent's first bytes of TLS have arrived.
  await once(host.sockets[0] as Socket, 'readable');
  expect(beforeWrite).not.toHaveBeenCalled();
  held.resolve();
  expect(await response).toBe('"OK"');
  expect(beforeWrite).toHaveBeenCalledOnce();
});

test('a connection › has one time limit for TCP and TLS', async () => {
  const { promise: never } = Promise.withResolvers<void>();
  await using host = await startHost(true, { accept: () => never, connectTimeout: 300 });
  const beforeWrite = vi.fn(async () => {});
  const start = performance.now();
  expect(await codeOf(host.ask(host.post, undefined, { beforeWrite }))).toBe('UND_ERR_CONNECT_TIMEOUT');
  const took = performance.now() - start;
  expect(took).toBeGreaterThan(299);
  expect(took).toBeLessThan(2_000);
  expect([beforeWrite.mock.calls, host.sockets.length]).toEqual([[], 1]);
});
