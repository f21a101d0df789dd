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

/** Returns once a connection is made. @throws Error with a `code`, as undici does */
export type Open = (signal: AbortSignal) => Promise<void>;

/** Sends a request of one instance. @returns the response @throws Error with a `code`, as undici does */
export type Send = (request: Request) => Promise<Response>;

const senders = new Map<string, { send: Send; open: Open }>();
let count = 0;

/** Forgets the connections of a scenario that has ended. */
export function reset(): void {
  senders.clear();
}

/** @param open called before each request; default: at once @returns a new URL; requests to it go to `send` */
export function connect(send: Send, open: Open = async () => {}): URL {
  const url = new URL(`http://sender-${++count}.test`);
  senders.set(url.origin, { send, open });
  return url;
}

export class Agent {
  async destroy(): Promise<void> {}
}

/** agent.ts makes the connector from it; this Agent does not connect. */
export const buildConnector = () => () => {};

type RequestOptions = Omit<Request, 'body'> & { origin: string; body: AsyncIterable<string> };

export async function request(_agent: Agent, options: RequestOptions) {
  const sender = senders.get(options.origin);
  if (!sender) throw new Error(`unexpected request to ${options.origin}`);
  await sender.open(options.signal);
  let body = '';
  for await (const chunk of options.body) body += chunk;
  const { status, json, date } = await sender.send({ ...options, body: body || null });
  return {
    statusCode: status,
    headers: { date: new Date(date).toUTCString() },
    body: { text: async () => JSON.stringify(json) },
  };
}
