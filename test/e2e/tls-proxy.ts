/** A TLS server between the nodes' callbacks and the function, which can be made unreachable. */

import { createServer, type Server } from 'node:https';
import type { CertificateAuthority } from '../stand-ins/certificates.ts';
import { listen, readBody, type StandInServer } from '../stand-ins/server.ts';
import { webhookHeaders } from '../stand-ins/webhook.ts';

/** Hands a webhook on to the function. */
export type Post = (
  body: string,
  headers: Readonly<Record<string, string>>,
) => Promise<{ readonly status: number; readonly response: unknown }>;

export class TlsProxy {
  readonly #server: () => Server;
  #listening: StandInServer;

  private constructor(server: () => Server, listening: StandInServer) {
    this.#server = server;
    this.#listening = listening;
  }

  static async start(authority: CertificateAuthority, post: Post): Promise<TlsProxy> {
    const certificate = await authority.server();
    const server = () =>
      createServer({ cert: certificate.cert, key: certificate.key }, async (request, reply) => {
        const { status, response } = await post(await readBody(request), webhookHeaders(request));
        reply.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(response));
      });
    return new TlsProxy(server, await listen(server()));
  }

  get url(): string {
    return `https://127.0.0.1:${this.#listening.port}/config-switch`;
  }

  /** Stops listening. @returns a function that listens again on the same port */
  async refuse(): Promise<() => Promise<void>> {
    const { port } = this.#listening;
    await this.#listening.close();
    return async () => {
      this.#listening = await listen(this.#server(), port);
    };
  }

  close(): Promise<void> {
    return this.#listening.close();
  }
}
