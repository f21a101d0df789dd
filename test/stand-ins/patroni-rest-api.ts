/** Patroni's REST API of a cluster, on real sockets, as Patroni 4.1.5 answers. */

import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import type { KeyPair } from './certificates.ts';
import { hostOf, POSTGRESQL } from './diagnose.ts';
import { listen, type StandInServer } from './server.ts';

export interface PatroniOptions {
  readonly scope?: string;
  readonly nodes?: readonly string[];
  /** Default: plain HTTP. With `ca`, a client certificate is required, as with `verify_client: required`. */
  readonly tls?: KeyPair & { readonly ca?: string };
}

export class PatroniStandIn implements AsyncDisposable {
  readonly #servers = new Map<string, StandInServer>();
  readonly #scope: string;
  readonly #https: boolean;
  /** The node that holds the leader lock; undefined: none does. */
  leader: string | undefined;
  /** The node that Barman streams from; by default that is the leader. */
  barmanStreamsFrom: () => string | undefined = () => this.leader;
  /** Where PostgreSQL of each node listens, and the tags in its patroni.yml. */
  readonly hosts: Record<string, string>;
  readonly tags: Record<string, Readonly<Record<string, unknown>>> = {};
  /** The key `slots` of `/config`; undefined: absent. */
  slots: Readonly<Record<string, unknown>> | undefined = { barman: { type: 'physical' } };
  /** `/history`: the end of each older timeline. */
  history: readonly (readonly unknown[])[] = [];
  timeline = POSTGRESQL.timeline;
  /** How far WAL has been written (bytes). */
  location = POSTGRESQL.location;
  /** Changes what a node answers; `undefined`: it never answers. */
  answer: (node: string, path: string, normal: Answer) => Answer | undefined = (_, __, normal) => normal;
  /** All requests so far, such as `node1 /cluster`. */
  readonly requests: string[] = [];

  private constructor({ scope = 'main', nodes = ['node1', 'node2'], tls }: PatroniOptions) {
    this.#scope = scope;
    this.#https = tls !== undefined;
    this.leader = nodes[0];
    this.hosts = Object.fromEntries(nodes.map((node) => [node, hostOf(node)]));
  }

  static async start(options: PatroniOptions = {}): Promise<PatroniStandIn> {
    const standIn = new PatroniStandIn(options);
    for (const node of options.nodes ?? ['node1', 'node2']) {
      const listener = (request: IncomingMessage, response: ServerResponse) =>
        standIn.#serve(node, request, response);
      const { tls } = options;
      const server = tls
        ? createHttpsServer(
            { ...tls, ...(tls.ca && { requestCert: true, rejectUnauthorized: true }) },
            listener,
          )
        : createServer(listener);
      standIn.#servers.set(node, await listen(server));
    }
    return standIn;
  }

  /** For the key `patroni` of a cluster. */
  get urls(): string[] {
    return [...this.#servers.values()].map(
      ({ port }) => `${this.#https ? 'https' : 'http'}://127.0.0.1:${port}`,
    );
  }

  /** Ends a node. */
  async stop(node: string): Promise<void> {
    await this.#servers.get(node)?.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#servers.values()].map((server) => server.close()));
  }

  #serve(node: string, request: IncomingMessage, response: ServerResponse): void {
    const path = request.url ?? '';
    this.requests.push(`${node} ${path}`);
    const answer = this.answer(node, path, this.#normal(node, path));
    if (!answer) return;
    const { status, body, headers = {} } = answer;
    const text = typeof body === 'string' ? body : JSON.stringify(body);
    response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(text);
  }

  #normal(node: string, path: string): Answer {
    if (path === '/cluster') {
      const members = [...this.#servers].map(([name, { port }]) => this.#member(name, port));
      return { status: 200, body: { members, scope: this.#scope } };
    }
    if (path === '/config') {
      const { slots } = this;
      return { status: 200, body: { ttl: 30, loop_wait: 10, retry_timeout: 10, ...(slots && { slots }) } };
    }
    if (path === '/history') return { status: 200, body: this.history };
    const role = node === this.leader ? 'primary' : 'replica';
    return { status: node === this.leader ? 200 : 503, body: this.state(node, role) };
  }

  /** What `/cluster` has of a node. @param restPort of its REST API */
  #member(name: string, restPort: number): Record<string, unknown> {
    const isLeader = name === this.leader;
    const tags = this.tags[name];
    const lsn = lsnOf(this.location);
    return {
      name,
      role: isLeader ? 'leader' : 'replica',
      state: isLeader ? 'running' : 'streaming',
      api_url: `${this.#https ? 'https' : 'http'}://127.0.0.1:${restPort}/patroni`,
      host: this.hosts[name],
      port: 5432,
      timeline: this.timeline,
      ...(tags && { tags }),
      ...(!isLeader && { receive_lag: 0, receive_lsn: lsn, replay_lag: 0, replay_lsn: lsn, lag: 0, lsn }),
    };
  }

  /** What `/leader` and `/patroni` answer. */
  state(name: string, role: string): Record<string, unknown> {
    const { location, timeline } = this;
    const tags = this.tags[name];
    const isReplica = role === 'replica';
    const replication = this.#walsenders(name);
    const replayed = { received_location: location, replayed_location: location };
    return {
      state: 'running',
      postmaster_start_time: '2026-11-28 22:52:41.994463+00:00',
      role,
      server_version: POSTGRESQL.version,
      xlog: isReplica ? { ...replayed, replayed_timestamp: null, paused: false } : { location },
      timeline,
      ...(isReplica && { replication_state: 'streaming' }),
      // Patroni leaves it out if nothing streams from the node.
      ...(replication.length > 0 && { replication }),
      dcs_last_seen: Math.floor(Date.now() / 1_000),
      ...(tags && { tags }),
      database_system_identifier: POSTGRESQL.systemId,
      patroni: { version: '4.1.5', scope: this.#scope, name },
    };
  }

  /** What streams from a node: from the leader all others, and Barman from the node that it streams from. */
  #walsenders(name: string): object[] {
    const sender = (usename: string, application_name: string, client_addr: string | undefined) => ({
      ...{
        usename,
        application_name,
        client_addr,
        state: 'streaming',
        sync_state: 'async',
        sync_priority: 0,
      },
    });
    const replicas = Object.keys(this.hosts).filter((other) => name === this.leader && other !== name);
    return [
      ...replicas.map((other) => sender('postgres', other, this.hosts[other])),
      ...(name === this.barmanStreamsFrom()
        ? [sender('streaming_barman', 'barman_receive_wal', '10.0.3.4')]
        : []),
    ];
  }
}

/** Returns a position in WAL (bytes) as PostgreSQL writes it, such as 0/B000000. */
function lsnOf(location: number): string {
  const parts = [Math.floor(location / 2 ** 32), location % 2 ** 32];
  return parts.map((part) => part.toString(16).toUpperCase()).join('/');
}

export interface Answer {
  readonly status: number;
  readonly body: unknown;
  readonly headers?: Readonly<Record<string, string>>;
}
