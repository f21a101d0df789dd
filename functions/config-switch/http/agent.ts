/**
 * How we talk to a host: one connection per origin and invocation, TLS always verified, no redirect followed.
 */

import type { SecureContext } from 'node:tls';
import { within } from '../deadline.ts';

export interface AgentOptions {
  /** Absent for plain HTTP. */
  readonly secureContext?: SecureContext | undefined;
  /** Time limit for TCP and TLS (ms); absent: that of undici, 10 s. */
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
  #undici: Promise<{ agent: InstanceType<Undici['Agent']>; request: Undici['request'] }> | undefined;

  constructor(options: AgentOptions) {
    this.#options = options;
  }

  /**
   * Sends a request, once.
   *
   * @param signal aborts the request, whatever it waits for
   * @throws what undici throws (`networkFailureOf`), or the signal's reason
   */
  async send({ method, base, path, body }: HttpRequest, signal: AbortSignal): Promise<HttpResponse> {
    this.#undici ??= this.#create();
    const { agent, request } = await this.#undici;
    const sent = request(agent, {
      origin: base.origin,
      path: `${base.pathname.replace(/\/+$/, '')}/${path.map(encodeURIComponent).join('/')}`,
      method,
      signal,
      headers: {
        accept: 'application/json',
        'user-agent': 'barman-config-switch',
        ...(body && { 'content-type': 'application/json' }),
      },
      body: body ? JSON.stringify(body) : null,
    });
    // undici observes the signal only once it is connected; after that it sends nothing any more.
    const { statusCode, headers, body: received } = await within(signal, sent);
    return {
      status: statusCode,
      date: Date.parse(String(headers.date)),
      text: () => within(signal, received.text()),
    };
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
    const { Agent: UndiciAgent, request } = await loadUndici();
    const { secureContext, connectTimeout, maxResponseSize } = this.#options;
    const agent = new UndiciAgent({
      connections: 1,
      pipelining: 1,
      allowH2: false,
      maxResponseSize,
      // The signal covers headers and body.
      headersTimeout: 0,
      bodyTimeout: 0,
      connect: {
        rejectUnauthorized: true,
        ...(connectTimeout !== undefined && { timeout: connectTimeout }),
        ...(secureContext && { secureContext }),
      },
    });
    return { agent, request };
  }
}
