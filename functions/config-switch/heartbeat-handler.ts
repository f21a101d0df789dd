/** The heartbeat's handler: one that failed is made up for by the next, so that it throws nothing. */

import type { Context } from 'aws-lambda';
import { isObject, startInvocation } from './event/invocation.ts';
import { beat, type Heartbeat } from './reconcile/heartbeat.ts';
import type { Services } from './services.ts';
import { reportDriven, reportHeartbeat } from './telemetry.ts';

/** Whether an event is the schedule's, `{"heartbeat":true}`. */
export function isHeartbeat(event: unknown): boolean {
  return isObject(event) && event.heartbeat === true;
}

/** @returns the handler; it answers with what it found and did, or with why it failed */
export function createHeartbeatHandler({ credentials, ledger, operationTimeout, connect }: Services) {
  return async (context: Context): Promise<Heartbeat | { readonly message: string }> => {
    const invocation = startInvocation(context);
    await using api = connect(invocation);
    try {
      const onDriven = reportDriven(invocation.requestId);
      const heartbeat = await beat({ ...invocation, ledger, api, credentials, operationTimeout, onDriven });
      reportHeartbeat(invocation, heartbeat);
      return heartbeat;
    } catch (thrown) {
      const error = thrown instanceof Error ? thrown : new Error(String(thrown));
      reportHeartbeat(invocation, error);
      return { message: error.message };
    } finally {
      invocation.clearDeadline();
    }
  };
}
