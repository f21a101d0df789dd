/** Shared by the stand-ins: a server on a loopback port that can be closed immediately. */

import type { IncomingMessage } from 'node:http';
import type { AddressInfo, Server, Socket } from 'node:net';

export interface StandInServer {
  readonly port: number;
  /** Closes the server and all its open connections. */
  close(): Promise<void>;
}

/**
 * @param port 0: any free port
 * @param host the address to listen on; default: loopback
 */
export async function listen(server: Server, port = 0, host = '127.0.0.1'): Promise<StandInServer> {
  const sockets = new Set<Socket>();
  server.on('connection', (socket: Socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    // A client may disconnect at any time; the tests do that on purpose.
    socket.on('error', () => {});
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject).listen(port, host, resolve);
  });
  return {
    port: (server.address() as AddressInfo).port,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        for (const socket of sockets) socket.destroy();
      }),
  };
}

/**
 * Returns whether a request to AWS is signed by the right client: other users of this machine reach loopback, too.
 *
 * @param accessKeyId of the client; undefined: any
 */
export function isSignedBy({ headers }: IncomingMessage, accessKeyId: string | undefined): boolean {
  return accessKeyId === undefined || headers.authorization?.includes(` Credential=${accessKeyId}/`) === true;
}

export async function readBody(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString();
}
