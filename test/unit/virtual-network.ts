/** pg-backup-api in virtual time, with undici mocked: what is sent when, and what is answered. */

import { afterEach, beforeEach, expect, vi } from 'vitest';
import type { Connection } from '../../functions/config-switch/barman/attempts.ts';
import {
  PgBackupApi,
  type PgBackupApiOptions,
  type PostGuard,
} from '../../functions/config-switch/barman/pg-backup-api.ts';
import { sleep } from '../../functions/config-switch/deadline.ts';
import { DeadlineExceeded, HttpError } from '../../functions/config-switch/errors.ts';
import { useVirtualTime } from './virtual-time.ts';

interface Sent {
  /** Time since the start of the test (ms). */
  at: number;
  method: string;
  origin: string;
  path: string;
  headers: object;
  body: string | null;
  signal: AbortSignal;
}
/** Outcome of a request: a status and body, an error, or no response. */
export type Reply = [status: number, body: unknown] | Error | 'nothing';

/** `performance.now()` at the start of a test (ms). */
export const START = 100_000;
export const CREATED: Reply = [202, { operation_id: '20261123T061000' }];
export const PLAIN: Connection = { url: new URL('http://barman:7480') };

const newNetwork = () => ({
  agents: [] as { options: unknown; destroyed: number }[],
  /** Options of the connectors for TCP and for TLS. */
  connectors: [] as unknown[],
  sent: [] as Sent[],
  /** The agent of each request, in order. */
  usedAgents: [] as unknown[],
  reply: (() => new Error('no reply')) as (sent: Sent) => Reply | Promise<Reply>,
  /** Makes the connection of each request. */
  connect: (async () => {}) as (signal: AbortSignal) => Promise<void>,
  /** The `Date` of all responses. */
  date: undefined as string | undefined,
  /** What `Math.random` returns. */
  random: 0,
  /** What SSM has, at first and when it is read again, or why not; and the signals of these reads. */
  source: {
    connection: PLAIN as Connection | HttpError,
    reread: PLAIN as Connection | HttpError,
    signals: [] as AbortSignal[],
  },
  /** Has the deadline. */
  controller: new AbortController(),
  guard: {
    inDoubt: false,
    beforePost: async () => {},
    onCreated: () => {},
    waits: true,
    applied: undefined,
  } as PostGuard & { beforePost: () => Promise<void> },
  facts: { attempts: 0, polls: 0 },
});
/** The network, and everything else that a client needs; new for each test. */
export const net = newNetwork();

vi.mock('../../functions/config-switch/http/undici.ts', () => ({
  Agent: class {
    destroyed = 0;
    readonly options: unknown;
    constructor(options: unknown) {
      this.options = options;
      net.agents.push(this);
    }
    async destroy(): Promise<void> {
      this.destroyed += 1;
      throw new Error('it cannot be destroyed');
    }
  },
  buildConnector: (options: unknown) => {
    net.connectors.push(options);
    return () => {};
  },
  request: async (agent: unknown, options: Omit<Sent, 'at' | 'body'> & { body: AsyncIterable<string> }) => {
    await net.connect(options.signal);
    let body = '';
    for await (const chunk of options.body) body += chunk;
    const sent = { ...options, at: performance.now() - START, body: body || null };
    net.sent.push(sent);
    net.usedAgents.push(agent);
    const reply = await net.reply(sent);
    if (reply === 'nothing') return new Promise(() => {});
    if (reply instanceof Error) throw reply;
    const text = typeof reply[1] === 'string' ? reply[1] : JSON.stringify(reply[1]);
    return { statusCode: reply[0], headers: { date: net.date }, body: { text: async () => text } };
  },
}));

/** Has each test of a file begin in virtual time, with a new network. */
export function useVirtualNetwork(): void {
  useVirtualTime();
  beforeEach(() => {
    Object.assign(net, newNetwork());
    vi.spyOn(Math, 'random').mockImplementation(() => net.random);
  });
  afterEach(() => {
    vi.restoreAllMocks();
  });
}

export const networkError = (code: string) => Object.assign(new Error('so it is'), { code });
/** Has each connection take some time (ms), and fail with an error if there is one; the last one repeats. */
export function connections(...all: [[ms: number, error?: Error], ...[ms: number, error?: Error][]]): void {
  let last = all[0];
  const rest = [...all];
  net.connect = async (signal) => {
    last = rest.shift() ?? last;
    const [ms, error] = last;
    await sleep(ms, signal);
    if (error) throw error;
  };
}
/** Sends these replies in order, then repeats the last one. */
export function replies(...all: [Reply, ...Reply[]]): void {
  let last = all[0];
  const rest = [...all];
  net.reply = () => {
    last = rest.shift() ?? last;
    return last;
  };
}
/** Rounded down to 5 ms, because each virtual timer may be a millisecond late. */
export const timeOf = ({ at }: Pick<Sent, 'at'>) => 5 * Math.floor(at / 5);
export const times = () => net.sent.map(timeOf);
export const requests = () => net.sent.map((sent) => `${timeOf(sent)} ${sent.method} ${sent.path}`);

/** Returns what is read, and keeps the signal. */
async function read(from: 'connection' | 'reread', signal: AbortSignal): Promise<Connection> {
  net.source.signals.push(signal);
  const value = net.source[from];
  if (value instanceof HttpError) throw value;
  return value;
}
export const start = (options: Partial<PgBackupApiOptions> = {}) =>
  new PgBackupApi(
    {
      connection: (signal) => read('connection', signal),
      rereadConnection: (signal) => read('reread', signal),
    },
    { signal: net.controller.signal, maxRetries: 5, facts: net.facts, ...options },
  );
export const create = (api: PgBackupApi) =>
  api.createConfigSwitchOperation('main', { reset: true }, net.guard);

/**
 * Runs a call to its end in virtual time, and checks that no timer is left.
 *
 * @returns the result or the error
 */
export async function end<T>(call: Promise<T>): Promise<T | Error> {
  let timers: number | undefined;
  const ended = call
    .catch((error: unknown) => error as Error)
    .finally(() => {
      timers = vi.getTimerCount();
    });
  await vi.advanceTimersByTimeAsync(200_000);
  expect(timers).toBe(0);
  return ended;
}
/** Runs a call to its end. @returns the message of its error */
export const messageOf = async (call: Promise<unknown>) => ((await end(call)) as Error).message;
/** Aborts with a DeadlineExceeded after a time (ms). */
export const abortIn = (ms: number) =>
  setTimeout(() => net.controller.abort(new DeadlineExceeded('time is up')), ms);
