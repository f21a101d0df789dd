/** An HTTP endpoint between the nodes' callbacks and the function, which can be made unreachable. */

import { createServer, type RequestListener } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { KeyPair } from '../stand-ins/certificates.ts';
import { listen, readBody } from '../stand-ins/server.ts';
import { webhookHeaders } from '../stand-ins/webhook.ts';

/** Hands a webhook on to the function. */
export type Post = (
  body: string,
  headers: Readonly<Record<string, string>>,
) => Promise<{ readonly status: number; readonly response: unknown }>;

export interface Endpoint extends AsyncDisposable {
  readonly url: string;
  /** Stops listening. @returns a function that listens again on the same port */
  refuse(): Promise<() => Promise<void>>;
}

/** @param certificate default: plain HTTP */
export async function startEndpoint(post: Post, certificate?: KeyPair): Promise<Endpoint> {
  const listener: RequestListener = async (request, reply) => {
    const { status, response } = await post(await readBody(request), webhookHeaders(request));
    reply.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(response));
  };
  const start = (port = 0) =>
    listen(certificate ? createTlsServer(certificate, listener) : createServer(listener), port);
  let listening = await start();
  const { port } = listening;
  return {
    url: `${certificate ? 'https' : 'http'}://127.0.0.1:${port}/config-switch`,
    refuse: async () => {
      await listening.close();
      return async () => {
        listening = await start(port);
      };
    },
    [Symbol.asyncDispose]: () => listening.close(),
  };
}
