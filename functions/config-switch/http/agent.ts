/**
 * How we talk to a host: one connection per origin and invocation, TLS always verified, no redirect followed.
 */

import type { SecureContext } from 'node:tls';
import { within } from '../deadline.ts';
import { connector } from './connect.ts';

/** Default time limit for TCP and TLS (ms), that of undici. */
const CONNECT_TIMEOUT = 10_000;

export interface AgentOptions {
  /** Absent for plain HTTP. */
  readonly secureContext?: SecureContext | undefined;
  /** Time limit for TCP and TLS together (ms); default: 10 s. */
  readonly connectTimeout?: number;
  /** Maximum response size (bytes). */
  readonly maxResponseSize: number;
}

export interface HttpRequest {
  readonly method: 'GET' | 'POST';
  /** The URL whose path, with its prefix, is kept. */
  readonly base: URL;
  /** Segments to append to that path; each is encoded. */
  readonly path: readonly string[];
  /** Sent as JSON. */
  readonly body?: object | undefined;
}

export interface Hooks {
  /** Called once the connection is made, right before the request is written; if it throws, nothing is sent. */
  readonly beforeWrite?: (() => Promise<void>) | undefined;
  /** Called when the request is written. */
  readonly onWrite?: () => void;
}

export interface HttpResponse {
  readonly status: number;
  /** `Date`, by the clock of the server (ms since the epoch); NaN without one. */
  readonly date: number;
  /** Reads the body. */
  readonly text: () => Promise<string>;
}

/**
 * Loads undici: for real requests only, while something else is waited for. It is a large part of a cold
 * start.
 */
export const loadUndici = () => import('./undici.ts');

type Undici = typeof import('./undici.ts');

/** The connections of one invocation. */
export class Agent implements AsyncDisposable {
  readonly #options: AgentOptions;
  /** The origins from which a response is incomplete. */
  readonly #awaited = new Set<string>();
  #undici: Promise<{ agent: InstanceType<Undici['Agent']>; request: Undici['request'] }> | undefined;

  constructor(options: AgentOptions) {
    this.#options = options;
  }

  /**
   * Sends a request, once. If it ends without a complete response, its connection is reset: what has not
   * arrived by then never does.
   *
   * @param signal aborts the request, whatever it waits for but `beforeWrite`
   * @throws what `beforeWrite` throws, what undici throws (`networkFailureOf`), or the signal's reason
   */
  async send(
    { method, base, path, body }: HttpRequest,
    signal: AbortSignal,
    { beforeWrite, onWrite }: Hooks = {},
  ): Promise<HttpResponse> {
    this.#undici ??= this.#create();
    const { agent, request } = await this.#undici;
    const json = body && JSON.stringify(body);
    let asked: Promise<void> | undefined;
    let ended = false;
    /** undici connects, waits for the first chunk, and writes the request together with it. */
    const chunks = async function* () {
      asked = beforeWrite?.();
      await asked;
      if (ended || signal.aborted)
        throw new Error('the connection was closed before the request was written');
      onWrite?.();
      if (json) yield json;
    };
    this.#awaited.add(base.origin);
    const sent = request(agent, {
      origin: base.origin,
      path: `${base.pathname.replace(/\/+$/, '')}/${path.map(encodeURIComponent).join('/')}`,
      method,
      signal,
      headers: {
        accept: 'application/json',
        'user-agent': 'barman-config-switch',
        ...(json && {
          'content-type': 'application/json',
          'content-length': String(Buffer.byteLength(json)),
        }),
      },
      body: chunks(),
    });
    try {
      // undici observes the signal only once it is connected; after that it sends nothing any more.
      const { statusCode, headers, body: received } = await within(signal, sent);
      return {
        status: statusCode,
        date: Date.parse(String(headers.date)),
        text: async () => {
          const text = await within(signal, received.text());
          this.#awaited.delete(base.origin);
          return text;
        },
      };
    } finally {
      ended = true;
      await asked;
    }
  }

  /**
   * Closes the connections: one that is kept while the function is frozen breaks silently, and would cost a
   * time-out.
   */
  async [Symbol.asyncDispose](): Promise<void> {
    const created = await this.#undici?.catch(() => undefined);
    // It cannot be destroyed while it connects, and the response does not wait for that.
    created?.agent.destroy().catch(() => {});
  }

  async #create() {
    const { Agent: UndiciAgent, buildConnector, request } = await loadUndici();
    const { secureContext, connectTimeout = CONNECT_TIMEOUT, maxResponseSize } = this.#options;
    const agent = new UndiciAgent({
      connections: 1,
      pipelining: 1,
      allowH2: false,
      maxResponseSize,
      // The signal covers headers and body.
      headersTimeout: 0,
      bodyTimeout: 0,
      connect: connector(buildConnector, {
        secureContext,
        timeout: connectTimeout,
        awaits: (origin) => this.#awaited.has(origin),
      }),
    });
    return { agent, request };
  }
}
