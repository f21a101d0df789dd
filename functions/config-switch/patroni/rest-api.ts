/** Requests to Patroni's REST API on the database nodes (Patroni's documentation, "Patroni REST API"). */

import { secureContextOf, type TlsSettings } from '../barman/tls.ts';
import { within } from '../deadline.ts';

/** Maximum response size (bytes): a cluster of a hundred members has about 30 KB. */
const MAX_RESPONSE_SIZE = 1024 * 1024;

/** What a node answered, or why it did not. */
export type Answer =
  | {
      readonly status: number;
      /** Parsed from JSON; undefined if it is not JSON. */
      readonly body: unknown;
      /** `Date`, by the clock of the node (ms since the epoch); NaN without one. */
      readonly date: number;
    }
  | { readonly error: string };

/** Asks a node. It never rejects. */
export type Ask = (node: URL, path: 'cluster' | 'leader', signal: AbortSignal) => Promise<Answer>;

/**
 * With TLS 1.3 a server that gets no client certificate, or refuses it, completes the handshake and then closes the connection;
 * with TLS 1.2 it may send an alert instead, such as ERR_SSL_SSL/TLS_ALERT_HANDSHAKE_FAILURE.
 */
const NO_CERTIFICATE = /^(UND_ERR_SOCKET|ECONNRESET|EPIPE)$|_ALERT_/;

type Undici = typeof import('../barman/undici.ts');

/** The client of one heartbeat: a connection to each node. */
export class PatroniClient implements AsyncDisposable {
  readonly #tls: TlsSettings;
  #undici: Promise<{ agent: InstanceType<Undici['Agent']>; request: Undici['request'] }> | undefined;

  /** @param tls for https:// URLs */
  constructor(tls: TlsSettings) {
    this.#tls = tls;
  }

  readonly ask: Ask = async (node, path, signal) => {
    try {
      this.#undici ??= this.#load();
      const { agent, request } = await this.#undici;
      const sent = request(agent, {
        origin: node.origin,
        path: `${node.pathname.replace(/\/+$/, '')}/${path}`,
        method: 'GET',
        signal,
        headers: { accept: 'application/json', 'user-agent': 'barman-config-switch' },
      });
      // undici observes the signal only once it is connected. It follows no redirect.
      const response = await within(signal, sent);
      const text = await within(signal, response.body.text());
      return {
        status: response.statusCode,
        body: parse(text),
        date: Date.parse(String(response.headers.date)),
      };
    } catch (error) {
      if (signal.aborted) return { error: 'no answer in time' };
      const reason = reasonOf(error);
      const refused = node.protocol === 'https:' && NO_CERTIFICATE.test(reason);
      return { error: refused ? `${reason} (${this.#certificateHint()})` : reason };
    }
  };

  #certificateHint(): string {
    return this.#tls.cert === undefined
      ? 'it may require a client certificate: there is no patroni-client-cert'
      : 'it may have refused patroni-client-cert';
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const undici = await this.#undici?.catch(() => undefined);
    // It cannot be destroyed while it connects, and the heartbeat does not wait for that.
    undici?.agent.destroy().catch(() => {});
  }

  async #load() {
    const { Agent, request } = await import('../barman/undici.ts');
    const agent = new Agent({
      connections: 1,
      pipelining: 1,
      allowH2: false,
      maxResponseSize: MAX_RESPONSE_SIZE,
      // The signal covers headers and body.
      headersTimeout: 0,
      bodyTimeout: 0,
      connect: { rejectUnauthorized: true, secureContext: secureContextOf(this.#tls) },
    });
    return { agent, request };
  }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** The code of a network or TLS error, such as ECONNREFUSED, or its text: the code of undici's HTTPParserError is undefined. */
function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return 'code' in error && typeof error.code === 'string' ? error.code : error.message;
}
