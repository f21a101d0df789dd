/** Requests to Patroni's REST API on the database nodes (Patroni's documentation, "Patroni REST API"). */

import { messageOf } from '../errors.ts';
import { Agent } from '../http/agent.ts';
import { parseJson } from '../http/json.ts';
import { networkFailureOf } from '../http/network-errors.ts';
import { secureContextOf, type TlsSettings } from '../http/tls.ts';

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

/** What a node is asked for. */
export type Path = 'cluster' | 'leader' | 'config' | 'history';

/** Asks a node. It never rejects. */
export type Ask = (node: URL, path: Path, signal: AbortSignal) => Promise<Answer>;

/** The client of one invocation: a connection to each node. */
export class PatroniClient implements AsyncDisposable {
  readonly #tls: TlsSettings;
  #agent: Agent | undefined;

  /** @param tls for https:// URLs */
  constructor(tls: TlsSettings) {
    this.#tls = tls;
  }

  readonly ask: Ask = async (node, path, signal) => {
    try {
      this.#agent ??= new Agent({
        secureContext: secureContextOf(this.#tls),
        maxResponseSize: MAX_RESPONSE_SIZE,
      });
      const { status, date, text } = await this.#agent.send(
        { method: 'GET', base: node, path: [path] },
        signal,
      );
      return { status, date, body: parse(await text()) };
    } catch (error) {
      if (signal.aborted) return { error: 'no answer in time' };
      return { error: this.#reasonOf(error, node) };
    }
  };

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#agent?.[Symbol.asyncDispose]();
  }

  /** Returns the code of a network or TLS error, such as ECONNREFUSED, with a hint where there is one. */
  #reasonOf(error: unknown, node: URL): string {
    const failure = networkFailureOf(error);
    if (!failure) return messageOf(error);
    const { code, kind, reason } = failure;
    // With TLS 1.3 a server that gets no client certificate, or refuses it, completes the handshake and then
    // closes the connection; with TLS 1.2 it may send an alert instead, such as
    // ERR_SSL_SSL/TLS_ALERT_HANDSHAKE_FAILURE.
    if (node.protocol === 'https:' && (kind === 'cut off' || code.includes('_ALERT_'))) {
      return this.#tls.cert === undefined
        ? `${code} (it may require a client certificate: there is no patroni-client-cert)`
        : `${code} (it may have refused patroni-client-cert)`;
    }
    return code === 'HTTPParserError' ? reason : code;
  }
}

function parse(text: string): unknown {
  try {
    return parseJson(text);
  } catch {
    return undefined;
  }
}
