/** The handler of the heartbeat. It throws nothing: after a failure the next heartbeat continues. */

import type { Context } from 'aws-lambda';
import { errorOf } from './errors.ts';
import { count, isDue, isQuiet as isQuietIn } from './inspect/due.ts';
import { inInspection, inspectNow } from './inspection-handler.ts';
import { startInvocation } from './invocation.ts';
import type { Servers } from './ledger/ledger.ts';
import { observeClusters } from './patroni/observe-clusters.ts';
import { beat, type Heartbeat } from './reconcile/heartbeat.ts';
import { isObject } from './schema.ts';
import type { Services } from './services.ts';
import { reportCounted, reportHeartbeat, reportReconciled, reportServers } from './telemetry.ts';

/**
 * Returns whether an event is that of the schedule, `{"heartbeat":true}`, and has nothing else that would be
 * dropped.
 */
export function isHeartbeat(event: unknown): boolean {
  return isObject(event) && event.heartbeat === true && Object.keys(event).length === 1;
}

/** Without so much of Lambda's time (ms), the next heartbeat inspects. */
const INSPECTION_TIME = 50_000;

/** Returns the handler, whose response is what it found and did, or why it failed */
export function createHeartbeatHandler(services: Services) {
  const { settings, ledger, operationTimeout, heartbeatInterval, version, inspectionSchedule, connect } =
    services;
  /** Remembers since when an inspection is wanted: after two days without one it is reported. */
  const wantInspection = async ({ stage }: Servers, signal: AbortSignal): Promise<void> => {
    if (stage.inspection || inspectionSchedule === 'off') return;
    await ledger.inspectionTried({ first_at: new Date().toISOString() }, signal).catch(() => undefined);
  };

  /** Returns whether a heartbeat inspects, and has enough time for it. */
  const isInspectionDue = (context: Context, { isQuiet, servers }: Heartbeat): boolean =>
    isQuiet &&
    context.getRemainingTimeInMillis() >= INSPECTION_TIME &&
    isQuietIn(servers, Date.now(), heartbeatInterval) &&
    isDue(servers, inspectionSchedule, Date.now(), heartbeatInterval);

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
      const { servers, ...heartbeat } = found;
      // What was applied since is in the ledger only; without it, nothing is said of the servers.
      const now = found.isQuiet ? servers : await ledger.all(invocation.signal).catch(() => undefined);
      const refused = heartbeat.notReady.map(({ barman_server }) => barman_server);
      const counted = (of: Servers) => count(of, refused, inspectionSchedule, Date.now());
      if (isInspectionDue(context, found)) {
        // First: what is reported must not depend on the inspection.
        reportHeartbeat(invocation, heartbeat);
        if (now) reportServers(invocation, now);
        const after = await inInspection(context, async (inspection) => {
          await inspectNow(services, inspection);
          return ledger.all(inspection.signal);
        });
        reportCounted(counted(after instanceof Error ? servers : after));
      } else {
        reportHeartbeat(invocation, heartbeat, counted(servers));
        if (now) reportServers(invocation, now);
        await wantInspection(servers, invocation.signal);
      }
      return heartbeat;
    } catch (thrown) {
      const error = errorOf(thrown);
      reportHeartbeat(invocation, error);
      return { message: error.message };
    } finally {
      invocation.clearDeadline();
    }
  };
}
