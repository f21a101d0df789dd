/** Patroni's REST API of a cluster, on real sockets: `/cluster` and `/leader` as of Patroni 4.1 and 3.3. */

import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import type { KeyPair } from './certificates.ts';
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
  /** Changes what a node answers; `undefined`: it never answers. */
  answer: (node: string, path: string, normal: Answer) => Answer | undefined = (_, __, normal) => normal;
  /** All requests so far, such as `node1 /cluster`. */
  readonly requests: string[] = [];

  private constructor({ scope = 'main', nodes = ['node1', 'node2'], tls }: PatroniOptions) {
    this.#scope = scope;
    this.#https = tls !== undefined;
    this.leader = nodes[0];
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
      const members = [...this.#servers.keys()].map((name) =>
        name === this.leader
          ? { name, role: 'leader', state: 'running', timeline: 1 }
          : { name, role: 'replica', state: 'streaming', timeline: 1, lag: 0 },
      );
      return { status: 200, body: { members, scope: this.#scope } };
    }
    const role = node === this.leader ? 'primary' : 'replica';
    return { status: node === this.leader ? 200 : 503, body: this.state(node, role) };
  }

  /** What `/leader` and `/patroni` answer. */
  state(name: string, role: string): Record<string, unknown> {
    return {
      state: 'running',
      role,
      timeline: 1,
      // Patroni leaves it out if nothing streams from the node.
      ...(name === this.barmanStreamsFrom() && {
        replication: [{ usename: 'barman', application_name: 'barman_receive_wal', state: 'streaming' }],
      }),
      dcs_last_seen: Math.floor(Date.now() / 1_000),
      patroni: { version: '4.1.5', scope: this.#scope, name },
    };
  }
}

export interface Answer {
  readonly status: number;
  readonly body: unknown;
  readonly headers?: Readonly<Record<string, string>>;
}
