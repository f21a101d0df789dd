/** The requests to Patroni's REST API, and what is observed of several clusters, on real sockets. */

import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { createServer, type IncomingMessage, type RequestListener } from 'node:http';
import { createServer as createHttpsServer, type ServerOptions } from 'node:https';
import { createServer as createTcpServer, type Socket } from 'node:net';
import { describe, expect, test } from 'vitest';
import { HttpError } from '../../functions/config-switch/errors.ts';
import type { TlsSettings } from '../../functions/config-switch/http/tls.ts';
import { type Cluster, withoutValue } from '../../functions/config-switch/patroni/cluster.ts';
import { observeClusters } from '../../functions/config-switch/patroni/observe-clusters.ts';
import { PatroniClient } from '../../functions/config-switch/patroni/rest-api.ts';
import { survey } from '../../functions/config-switch/patroni/survey.ts';
import { CertificateAuthority } from '../stand-ins/certificates.ts';
import { POSTGRESQL } from '../stand-ins/diagnose.ts';
import { PatroniStandIn } from '../stand-ins/patroni-rest-api.ts';
import { listen } from '../stand-ins/server.ts';

/** What is observed while node1 leads. */
const NODE1_LEADS = { leader: 'node1', system_id: POSTGRESQL.systemId };
const signal = () => AbortSignal.timeout(5_000);
/** Asks once for `/cluster`. */
async function ask(url: URL, tls: TlsSettings = {}, until = signal()) {
  await using client = new PatroniClient(tls);
  return await client.ask(url, 'cluster', until);
}

/** A node with an answer of its own. */
async function startNode(answer: RequestListener, tls?: ServerOptions) {
  const requests: IncomingMessage[] = [];
  const sockets = { opened: 0, closed: 0 };
  const listener: RequestListener = (request, response) => {
    requests.push(request);
    answer(request, response);
  };
  const server = tls ? createHttpsServer(tls, listener) : createServer(listener);
  server.on('connection', (socket) => {
    sockets.opened += 1;
    socket.on('close', () => {
      sockets.closed += 1;
    });
  });
  const { port, close } = await listen(server);
  const url = new URL(`${tls ? 'https' : 'http'}://127.0.0.1:${port}`);
  return { url, requests, sockets, [Symbol.asyncDispose]: close };
}
const json: RequestListener = (_, response) => response.end('{"state":"running"}');

describe('a node', () => {
  test('is asked for JSON, and its answer has the status, the body and the date', async () => {
    await using node = await startNode(json);
    const before = Math.floor(Date.now() / 1_000) * 1_000;
    const answer = await ask(node.url);
    expect(answer).toEqual({ status: 200, body: { state: 'running' }, date: expect.any(Number) });
    expect('date' in answer && answer.date).toBeGreaterThanOrEqual(before);
    expect(node.requests).toMatchObject([
      {
        method: 'GET',
        url: '/cluster',
        headers: { accept: 'application/json', 'user-agent': 'barman-config-switch' },
      },
    ]);
  });

  test.each(['/patroni', '/patroni//'])('may be behind a proxy that adds a path (%s)', async (path) => {
    await using node = await startNode(json);
    await using client = new PatroniClient({});
    await client.ask(new URL(path, node.url), 'leader', signal());
    expect(node.requests[0]?.url).toBe('/patroni/leader');
  });

  test('is asked over one connection, which is closed at the end', async () => {
    await using node = await startNode(json);
    {
      await using client = new PatroniClient({});
      await Promise.all([
        client.ask(node.url, 'cluster', signal()),
        client.ask(node.url, 'cluster', signal()),
      ]);
      await client.ask(node.url, 'leader', signal());
      expect(node.sockets).toEqual({ opened: 1, closed: 0 });
    }
    await expect.poll(() => node.sockets).toEqual({ opened: 1, closed: 1 });
  });

  test.each<[string, RequestListener, object]>([
    [
      'an error',
      (_, response) => response.writeHead(503).end('{"role":"replica"}'),
      { status: 503, body: { role: 'replica' } },
    ],
    [
      'a redirect, which is not followed',
      (_, response) => response.writeHead(302, { location: '/' }).end(),
      { status: 302, body: undefined },
    ],
    ['no JSON', (_, response) => response.end('<html>'), { status: 200, body: undefined }],
    [
      'JSON of more levels than any state has',
      (_, response) => response.end(`${'['.repeat(65)}${']'.repeat(65)}`),
      { status: 200, body: undefined },
    ],
    [
      'no date',
      (_, response) => {
        response.sendDate = false;
        response.end('{}');
      },
      { status: 200, body: {}, date: Number.NaN },
    ],
    [
      'the greatest body',
      (_, response) => response.end(JSON.stringify('x'.repeat(1024 * 1024 - 2))),
      { status: 200, body: expect.stringMatching(/^x+$/) },
    ],
    [
      'a greater one',
      (_, response) => response.end(JSON.stringify('x'.repeat(1024 * 1024 - 1))),
      { error: 'UND_ERR_RES_EXCEEDED_MAX_SIZE' },
    ],
    ['no answer', (_, response) => response.destroy(), { error: 'UND_ERR_SOCKET' }],
  ])('may give %s', async (_, answer, expected) => {
    await using node = await startNode(answer);
    expect(await ask(node.url)).toMatchObject(expected);
    expect(node.requests).toHaveLength(1);
  });

  test('that does not listen is reported with the reason', async () => {
    const node = await startNode(json);
    await node[Symbol.asyncDispose]();
    expect(await ask(node.url)).toEqual({ error: 'ECONNREFUSED' });
  });

  test('that does not speak HTTP is reported with the reason', async () => {
    const ssh = await listen(createTcpServer((socket) => socket.end('SSH-2.0-OpenSSH_9.2\r\n')));
    expect(await ask(new URL(`http://127.0.0.1:${ssh.port}`))).toEqual({
      error: expect.stringContaining('does not match the HTTP/1.1 protocol'),
    });
    await ssh.close();
  });

  test.each<[string, RequestListener]>([
    ['headers', () => {}],
    ['body', (_, response) => response.write('{')],
  ])('that does not end its %s is not waited for', async (_, answer) => {
    await using node = await startNode(answer);
    expect(await ask(node.url, {}, AbortSignal.timeout(200))).toEqual({
      error: 'no answer in time',
    });
  });
});

describe('a node over https', async () => {
  const ca = await CertificateAuthority.create();
  const server = await ca.server();
  const client = await ca.client();
  const mutual: ServerOptions = { ...server, ca: ca.cert, requestCert: true, rejectUnauthorized: true };

  test('is verified, without a hint at the client certificate', async () => {
    await using node = await startNode(json, server);
    expect(await ask(node.url)).toEqual({
      error: expect.stringMatching(/^(UNABLE_TO_VERIFY_LEAF_SIGNATURE|SELF_SIGNED_CERT_IN_CHAIN)$/),
    });
  });

  test('gets the client certificate, and no offer of HTTP/2', async () => {
    const offered: string[][] = [];
    const ALPNCallback = ({ protocols }: { protocols: string[] }) => {
      offered.push(protocols);
      return 'http/1.1';
    };
    await using node = await startNode(json, { ...mutual, ALPNCallback });
    expect(await ask(node.url, { ...client, ca: ca.cert })).toMatchObject({ status: 200 });
    expect(offered).toEqual([['http/1.1']]);
  });

  test.each(['TLSv1.2', 'TLSv1.3'] as const)(
    'that ends the connection may lack a client certificate (%s)',
    async (maxVersion) => {
      await using node = await startNode(json, { ...mutual, maxVersion });
      expect(await ask(node.url, { ca: ca.cert })).toEqual({
        error: expect.stringMatching(
          /^[A-Z_/]+ \(it may require a client certificate: there is no patroni-client-cert\)$/,
        ),
      });
      const other = await (await CertificateAuthority.create('Other CA')).client();
      expect(await ask(node.url, { ...other, ca: ca.cert })).toEqual({
        error: expect.stringMatching(/^[A-Z_/]+ \(it may have refused patroni-client-cert\)$/),
      });
    },
  );

  test('is not connected to with a key of another certificate', async () => {
    await using node = await startNode(json, mutual);
    expect(await ask(node.url, { cert: client.cert, key: server.key, ca: ca.cert })).toEqual({
      error: 'ERR_OSSL_X509_KEY_VALUES_MISMATCH',
    });
    expect(node.sockets.opened).toBe(0);
  });
});

describe('the clusters', () => {
  const members = new Map([['node1', 'pg:node1']]);
  const cluster = (name: string, change: Partial<Cluster> = {}): Cluster => ({
    name,
    scope: 'main',
    secrets: [],
    servers: new Map([[`server-of-${name}`, members]]),
    patroni: [],
    streaming_archiver_name: null,
    ...change,
  });
  const urlsOf = (patroni: PatroniStandIn) => patroni.urls.map((url) => new URL(url));

  test('are observed, except those without URLs', async () => {
    await using patroni = await PatroniStandIn.start();
    const asked = cluster('a', { patroni: urlsOf(patroni) });
    const before = Date.now();
    const observed = await observeClusters({ clusters: [asked, cluster('b')], tls: {} }, signal());
    expect(observed).toEqual([{ cluster: asked, at: expect.any(Number), observation: NODE1_LEADS }]);
    expect(observed[0]?.at).toBeGreaterThanOrEqual(before);
    expect(observed[0]?.at).toBeLessThanOrEqual(Date.now());
  });

  test('are surveyed with all that each node has', async () => {
    await using patroni = await PatroniStandIn.start();
    const began = '2026-11-28T22:53:41.538393+00:00';
    patroni.leader = 'node2';
    patroni.timeline = 2;
    patroni.history = [[1, 0xa0000a0, 'no recovery target specified', began, 'node2']];
    patroni.slots = { barman: {}, other: { type: 'logical', database: 'postgres', plugin: 'pgoutput' } };
    patroni.tags.node1 = { nofailover: true };
    patroni.hosts.node2 = 'db2';
    const [url1, url2] = urlsOf(patroni);
    await using client = new PatroniClient({});
    const scope = { scope: 'main', patroni: urlsOf(patroni) };
    const node = { isRunning: true, version: '4.1.5' };
    const member = { port: 5432, isRunning: true };
    expect(await survey(cluster('a', scope), client.ask, signal())).toMatchObject({
      observation: { leader: 'node2' },
      members: [
        { ...member, name: 'node1', host: '10.0.1.11', canLead: false },
        { ...member, name: 'node2', host: 'db2', canLead: true },
      ],
      nodes: [
        { ...node, url: url1, member: 'node1' },
        { ...node, url: url2, member: 'node2' },
      ],
      leader: { name: 'node2', isPrimary: true, timeline: 2, location: 0xb000000 },
      slots: ['barman'],
      timelineBegan: { at: Date.parse(began), location: 0xa0000a0 },
    });
  });

  test('that both have members of a server and a primary leave it alone, but not their others', async () => {
    await using patroni = await PatroniStandIn.start();
    const several = (name: string) =>
      cluster(name, {
        servers: new Map([
          ['main', members],
          [`server-of-${name}`, members],
        ]),
        patroni: urlsOf(patroni),
      });
    const observed = await observeClusters({ clusters: [several('a'), several('b')], tls: {} }, signal());
    expect(observed.map((one) => [[...one.cluster.servers.keys()], one.observation])).toEqual([
      [['server-of-a'], NODE1_LEADS],
      [['server-of-b'], NODE1_LEADS],
      [['main'], { unknown: 'several sites have a primary: node1 in a, node1 in b' }],
    ]);
    expect(observed[2]).toMatchObject({ cluster: { name: 'a' }, at: observed[0]?.at });
  });

  test('that are malformed are unknown, and not asked, with an earlier good value or without', async () => {
    await using patroni = await PatroniStandIn.start();
    const one = cluster('a', { patroni: urlsOf(patroni), malformed: 'clusters/a is not JSON' });
    const others = ['b', '__proto__'].map((name) => withoutValue(name, `clusters/${name} is not JSON`));
    const observed = await observeClusters({ clusters: [one, ...others], tls: {} }, signal());
    expect(observed.map(({ cluster, observation }) => [cluster.name, cluster.servers, observation])).toEqual([
      ['a', one.servers, { unknown: 'clusters/a is not JSON' }],
      ['b', new Map(), { unknown: 'clusters/b is not JSON' }],
      ['__proto__', new Map(), { unknown: 'clusters/__proto__ is not JSON' }],
    ]);
    expect(patroni.requests).toEqual([]);
  });

  test('that cause an internal error are unknown, and keep no other one from being observed', async () => {
    await using patroni = await PatroniStandIn.start();
    // Not a cluster that a parameter can have.
    const bad = cluster('bad', { patroni: [null as unknown as URL] });
    const good = cluster('good', { patroni: urlsOf(patroni) });
    const clusters = [cluster('first', { patroni: urlsOf(patroni) }), bad, good];
    expect((await observeClusters({ clusters, tls: {} }, signal())).map((one) => one.observation)).toEqual([
      NODE1_LEADS,
      { unknown: expect.stringMatching(/^internal error: .*host/) },
      NODE1_LEADS,
    ]);
  });

  test('are not asked without the certificates that they may require', async () => {
    await using patroni = await PatroniStandIn.start();
    const tls = new HttpError('patroni-client-key is missing');
    const one = cluster('a', { patroni: urlsOf(patroni) });
    expect(await observeClusters({ clusters: [one], tls }, signal())).toMatchObject([
      { cluster: { name: 'a' }, observation: { unknown: 'patroni-client-key is missing' } },
    ]);
    expect(patroni.requests).toEqual([]);
  });

  test('are asked with their certificates', async () => {
    const ca = await CertificateAuthority.create();
    await using patroni = await PatroniStandIn.start({ tls: { ...(await ca.server()), ca: ca.cert } });
    const tls = { ...(await ca.client()), ca: ca.cert };
    const one = cluster('a', { patroni: urlsOf(patroni) });
    expect(await observeClusters({ clusters: [one], tls }, signal())).toMatchObject([
      { observation: NODE1_LEADS },
    ]);
  });
});

describe('more nodes than sockets', () => {
  /** The sockets that this process has connected and not closed, at most. */
  function countSockets() {
    const open = new Set<Socket>();
    let max = 0;
    const onSocket = (message: unknown) => {
      const { socket } = message as { socket: Socket };
      for (const one of open) if (one.destroyed) open.delete(one);
      max = Math.max(max, open.add(socket).size);
    };
    subscribe('net.client.socket', onSocket);
    return { max: () => max, [Symbol.dispose]: () => unsubscribe('net.client.socket', onSocket) };
  }
  const clustersOf = (count: number, urls: (index: number) => readonly (string | URL)[]) =>
    Array.from(
      { length: count },
      (_, index): Cluster => ({
        name: `c${index}`,
        scope: 'main',
        secrets: [],
        servers: new Map(),
        patroni: urls(index).map((url) => new URL(url)),
        streaming_archiver_name: null,
      }),
    );
  const run = (clusters: readonly Cluster[]) =>
    observeClusters({ clusters, tls: {} }, AbortSignal.timeout(20_000));

  test('are asked over 64 sockets at most, in turn', async () => {
    await using patroni = await PatroniStandIn.start({ nodes: ['node1', 'node2', 'node3'] });
    using sockets = countSockets();
    const observed = await run(clustersOf(60, () => patroni.urls));
    expect(observed.map(({ observation }) => observation)).toEqual(Array(60).fill(NODE1_LEADS));
    expect(sockets.max()).toBeLessThanOrEqual(64);
    expect(sockets.max()).toBeGreaterThan(32);
  });

  test('are all asked although one of each cluster does not answer', async () => {
    await using patroni = await PatroniStandIn.start();
    await using silent = await startNode(() => {});
    using sockets = countSockets();
    const start = performance.now();
    const observed = await run(clustersOf(60, () => [...patroni.urls, silent.url]));
    expect(observed.map(({ observation }) => observation)).toEqual(Array(60).fill(NODE1_LEADS));
    expect(sockets.max()).toBeLessThanOrEqual(64);
    // Two turns of 500 ms, and the last one, for which no one waits, of twice 3 s.
    expect(performance.now() - start).toBeLessThan(10_000);
    // It is not asked again while others wait: once for each cluster, and twice in the last turn.
    expect(silent.requests.length).toBeLessThan(60 + 22);
  });
});
