/** The handler of the heartbeat. It throws nothing: after a failure the next heartbeat continues. */

import type { Context } from 'aws-lambda';
import { type Counted, count, isDue, isQuiet as isQuietIn } from './inspect/due.ts';
import { inspect } from './inspect/inspect.ts';
import { startInspection, startInvocation } from './invocation.ts';
import type { Servers } from './ledger/ledger.ts';
import { observeClusters } from './patroni/observe-clusters.ts';
import { beat, type Heartbeat } from './reconcile/heartbeat.ts';
import { isObject } from './schema.ts';
import type { Services } from './services.ts';
import { reportHeartbeat, reportInspection, reportReconciled } from './telemetry.ts';

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
  inspectionSchedule,
  connect,
}: Services) {
  /**
   * Inspects, if that is due and nothing is being switched, with all the time that Lambda has left.
   *
   * @returns what is not ready, or not archived, by the last inspections; undefined if that cannot be read
   */
  const inspectIfDue = async (
    context: Context,
    { isQuiet, notReady, servers }: Heartbeat,
  ): Promise<Counted | undefined> => {
    const inspection = startInspection(context);
    try {
      const now = Date.now();
      const refused = notReady.map(({ barman_server }) => barman_server);
      const counts = (of: Servers) => count(of, refused, inspectionSchedule, now, heartbeatInterval);
      const isNow =
        isQuiet &&
        isQuietIn(servers, now, heartbeatInterval) &&
        isDue(servers, inspectionSchedule, now, heartbeatInterval);
      if (!isNow) return counts(servers);
      await using api = connect(inspection);
      const clusters = await settings.clusters(inspection.signal);
      reportInspection(inspection, await inspect({ ...inspection, ledger, api, clusters }));
      return counts(await ledger.all(inspection.signal));
    } catch (error) {
      // The heartbeat has done its work.
      reportInspection(inspection, error instanceof Error ? error : new Error(String(error)));
      return undefined;
    } finally {
      inspection.clearDeadline();
    }
  };

  return async (context: Context): Promise<Omit<Heartbeat, 'servers'> | { readonly message: string }> => {
    const invocation = startInvocation(context);
    try {
      const onReconciled = reportReconciled(invocation.request_id);
      const found = await beat({
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
      reportHeartbeat(invocation, found, await inspectIfDue(context, found));
      const { servers: _, ...heartbeat } = found;
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
