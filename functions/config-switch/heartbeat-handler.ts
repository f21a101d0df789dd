/** The handler of the heartbeat. It throws nothing: after a failure the next heartbeat continues. */

import type { Context } from 'aws-lambda';
import { startInvocation } from './invocation.ts';
import { observeClusters } from './patroni/observe-clusters.ts';
import { beat, type Heartbeat } from './reconcile/heartbeat.ts';
import { isObject } from './schema.ts';
import type { Services } from './services.ts';
import { reportHeartbeat, reportReconciled } from './telemetry.ts';

/**
 * Returns whether an event is that of the schedule, `{"heartbeat":true}`, and has nothing else that would be
 * dropped.
 */
export function isHeartbeat(event: unknown): boolean {
  return isObject(event) && event.heartbeat === true && Object.keys(event).length === 1;
}

/** Returns the handler, whose response is what it found and did, or why it failed */
export function createHeartbeatHandler({
  settings,
  ledger,
  operationTimeout,
  heartbeatInterval,
  version,
  connect,
}: Services) {
  return async (context: Context): Promise<Heartbeat | { readonly message: string }> => {
    const invocation = startInvocation(context);
    try {
      const onReconciled = reportReconciled(invocation.request_id);
      const heartbeat = await beat({
        ...invocation,
        ledger,
        connect: (facts) => connect({ ...invocation, facts }),
        expiries: () => settings.expiries(invocation.signal),
        outdated: () => settings.outdated(invocation.signal),
        operationTimeout,
        interval: heartbeatInterval,
        version,
        clusters: () => settings.clusters(invocation.signal),
        observe: (clusters) => observeClusters(clusters, invocation.signal),
        onReconciled,
      });
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
