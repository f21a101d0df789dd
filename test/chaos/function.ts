/**
 * An instance of the function: it handles one event at a time; aws.ts freezes it in between, as Lambda does.
 */

import { execFileSync } from 'node:child_process';
import { TLSSocket } from 'node:tls';
import type { Context } from 'aws-lambda';
import { handler } from '../../functions/config-switch/index.ts';
import { losesPackets } from './network.ts';

interface Invoked {
  /** Undefined: only `cut` has changed. */
  readonly event?: unknown;
  /** Empty: none. */
  readonly alias: string;
  readonly deadline: number;
  /** Whether the path to the Barman host is cut when a POST is written. */
  readonly cut: boolean;
}

let count = 0;
let mayCut = false;

const { write } = TLSSocket.prototype;
/** The kernel has the POST then, and goes on to send it. */
TLSSocket.prototype.write = function (this: TLSSocket, ...words: Parameters<typeof write>) {
  const isCut = mayCut && String(words[0]).startsWith('POST ');
  if (isCut) execFileSync('ip', losesPackets('barman'));
  if (isCut) process.send?.({ isCut });
  return write.apply(this, words);
} as typeof write;

process.on('message', async ({ event, alias, deadline, cut }: Invoked) => {
  mayCut = cut;
  if (event === undefined) return;
  count += 1;
  const context = {
    awsRequestId: `${process.pid}-${count}`,
    invokedFunctionArn: `arn:aws:lambda:eu-central-1:123456789012:function:f${alias && `:${alias}`}`,
    getRemainingTimeInMillis: () => deadline - Date.now(),
  } as Context;
  try {
    process.send?.({ response: (await handler(event, context)) ?? null });
  } catch (error) {
    process.send?.({ error: String(error) });
  }
});
process.on('disconnect', () => process.exit());
