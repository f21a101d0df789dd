/**
 * An instance of the function: it handles one event at a time; aws.ts freezes it in between, as Lambda does.
 */

import type { Context } from 'aws-lambda';
import { handler } from '../../functions/config-switch/index.ts';

interface Invoked {
  readonly event: unknown;
  /** Empty: none. */
  readonly alias: string;
  readonly deadline: number;
}

let count = 0;
process.on('message', async ({ event, alias, deadline }: Invoked) => {
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
