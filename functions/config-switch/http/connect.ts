/**
 * The connections of an agent: TCP, and TLS over it. TCP by itself, because only a TCP socket can reset its
 * connection: closed in any other way, the kernel goes on to deliver what was written, for minutes if the
 * network is broken.
 */

import type { Socket } from 'node:net';
import type { SecureContext } from 'node:tls';
import type { buildConnector } from 'undici';

export interface ConnectOptions {
  /** Absent for plain HTTP. */
  readonly secureContext?: SecureContext | undefined;
  /** Time limit for TCP and TLS together (ms). */
  readonly timeout: number;
  /** Returns whether a response of this origin is incomplete. */
  readonly awaits: (origin: string) => boolean;
}

/**
 * Returns a connector for undici's Agent. A connection that is destroyed while a response is incomplete is
 * reset, whatever it is destroyed for.
 *
 * @param build undici's `buildConnector`
 */
export function connector(
  build: typeof buildConnector,
  { secureContext, timeout, awaits }: ConnectOptions,
): buildConnector.connector {
  // Without time limits, because there is one for both.
  const connectTcp = build({ timeout: 0 });
  const connectTls = build({
    timeout: 0,
    allowH2: false,
    rejectUnauthorized: true,
    ...(secureContext && { secureContext }),
  });

  return (options, callback) => {
    const secure = options.protocol === 'https:';
    const done: buildConnector.Callback = (...result) => {
      clearTimeout(timer);
      callback(...result);
    };
    // It returns the socket, which its types do not say.
    const tcp = connectTcp(
      { ...options, protocol: 'http:', port: options.port || (secure ? '443' : '80') },
      (...result) => {
        const [error, socket] = result;
        if (error !== null) return done(...result);
        resetIf(() => awaits(`${options.protocol}//${options.host}`), socket);
        if (!secure) return done(...result);
        connectTls({ ...options, httpSocket: socket }, done);
      },
    ) as unknown as Socket;
    const expire = () => {
      const message = `no connection within ${timeout} ms`;
      tcp.destroy(Object.assign(new Error(message), { code: 'UND_ERR_CONNECT_TIMEOUT' }));
    };
    const timer = setTimeout(expire, timeout);
    tcp.once('close', () => clearTimeout(timer));
    // undici destroys it if the request is given up before the connection is made.
    return tcp;
  };
}

/** Has a TCP socket that is connected reset its connection if, when it is destroyed, a condition holds. */
function resetIf(condition: () => boolean, tcp: Socket): void {
  const { destroy } = tcp;
  tcp.destroy = (error) => {
    // resetAndDestroy calls destroy, without the error.
    tcp.destroy = () => destroy.call(tcp, error);
    return condition() ? tcp.resetAndDestroy() : tcp.destroy();
  };
}
