/** The function in a process of its own, whose clock is set by each message; see soak.ts. */

import { mock } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Context } from 'aws-lambda';

/** An invocation, or without an event a measurement. */
export interface Request {
  /** ms since the epoch */
  readonly now: number;
  readonly event?: object;
  /** Lambda's remaining time (ms). */
  readonly remaining?: number;
  /** The alias that is invoked. */
  readonly alias?: string;
}

/** What the process needs, once garbage is collected. */
export interface Usage {
  /** Bytes. */
  readonly heap: number;
  readonly resident: number;
  /** Timers, sockets and requests that keep the process running. */
  readonly resources: number;
}

export type Reply = { readonly response: unknown; readonly lines: number } | Usage;

// Only the clock is not real: a time-out still takes its time.
mock.timers.enable({ apis: ['Date'], now: Number(process.argv[2]) });
let lines = 0;
process.stdout.write = process.stderr.write = (chunk: string | Uint8Array) => {
  lines += String(chunk).split('\n').length - 1;
  return true;
};
const { handler } = await import('../../functions/config-switch/index.ts');
let requests = 0;

async function invoke(event: object, remaining: number, alias: string): Promise<Reply> {
  requests += 1;
  lines = 0;
  const end = performance.now() + remaining;
  const response = await handler(event, {
    awsRequestId: `request-${requests}`,
    invokedFunctionArn: `arn:aws:lambda:eu-central-1:123456789012:function:f:${alias}`,
    getRemainingTimeInMillis: () => end - performance.now(),
  } as Context);
  return { response, lines };
}

async function usage(): Promise<Usage> {
  // Finalizers, such as those of AbortSignal.any, run some time after a collection; what they release is
  // garbage of the next one.
  for (let round = 0; round < 4; round += 1) {
    globalThis.gc?.();
    await sleep(50);
  }
  const { heapUsed: heap, rss: resident } = process.memoryUsage();
  return { heap, resident, resources: process.getActiveResourcesInfo().length };
}

process.on('message', async ({ now, event, remaining = 29_000, alias = 'live' }: Request) => {
  mock.timers.setTime(now);
  process.send?.(await (event ? invoke(event, remaining, alias) : usage()));
});
process.send?.('ready');
