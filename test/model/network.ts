/**
 * What pg-backup-api.ts talks to in the model: undici's two names, over a network in virtual time. Each sender has a host
 * name of its own to connect to.
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
}

/** Sends a request of one instance: the response, or an error with a code, as undici has it. */
export type Send = (request: Request) => Promise<Response>;

const senders = new Map<string, Send>();

/** @returns a new URL, requests to which are sent by `send` */
export function connect(send: Send): URL {
  const url = new URL(`http://sender-${senders.size + 1}.test`);
  senders.set(url.origin, send);
  return url;
}

export class Agent {
  async destroy(): Promise<void> {}
}

export async function request(_agent: Agent, options: Request & { origin: string }) {
  const send = senders.get(options.origin);
  if (!send) throw new Error(`unexpected request to ${options.origin}`);
  const { status, json } = await send(options);
  return { statusCode: status, body: { text: async () => JSON.stringify(json) } };
}
