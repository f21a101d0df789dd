/**
 * Replaces undici in the model: `Agent` and `request`, over a network in virtual time. Each instance of the
 * function connects to its own host name, so that the network knows the sender.
 */

export interface Request {
  readonly method: 'GET' | 'POST';
  readonly path: string;
  readonly body: string | null;
  readonly signal: AbortSignal;
}

export interface Response {
  readonly status: number;
  readonly json: unknown;
  /** The host's clock (ms since the epoch). */
  readonly date: number;
}

/** Sends a request of one instance. @returns the response @throws Error with a `code`, as undici does */
export type Send = (request: Request) => Promise<Response>;

const senders = new Map<string, Send>();
let count = 0;

/** Forgets the connections of a scenario that has ended. */
export function reset(): void {
  senders.clear();
}

/** @returns a new URL; requests to it go to `send` */
export function connect(send: Send): URL {
  const url = new URL(`http://sender-${++count}.test`);
  senders.set(url.origin, send);
  return url;
}

export class Agent {
  async destroy(): Promise<void> {}
}

export async function request(_agent: Agent, options: Request & { origin: string }) {
  const send = senders.get(options.origin);
  if (!send) throw new Error(`unexpected request to ${options.origin}`);
  const { status, json, date } = await send(options);
  return {
    statusCode: status,
    headers: { date: new Date(date).toUTCString() },
    body: { text: async () => JSON.stringify(json) },
  };
}
