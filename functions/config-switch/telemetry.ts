/** What the operator sees: one log line a decision, and metrics in CloudWatch's embedded metric format. */

import { Logger } from '@aws-lambda-powertools/logger';
import { Metrics, MetricUnit } from '@aws-lambda-powertools/metrics';
import type { Course } from './converge.ts';
import { BodyTooLarge, Busy, ConfigSwitchError, LedgerError, Rejected } from './errors.ts';
import { ExitCode } from './exit-code.ts';
import { eventTime, type Invocation } from './invocation.ts';

const REJECTION_METRIC: Record<Rejected['why'], string> = {
  signature: 'SignatureRejected',
  timestamp: 'TimestampStale',
  'secret unreadable': 'SecretUnreadable',
};

/** Service name, namespace and log level come from the environment (POWERTOOLS_…). */
export const logger = new Logger();
const metrics = new Metrics();

/**
 * Tells the log and the metrics how an invocation ended. All at once and at the end, so that nothing is left over for
 * the next invocation.
 *
 * @param invocation with its answer, unless it was rejected
 * @param error what it threw, if anything
 */
export function report(invocation: Invocation, error?: Error | null): void {
  const { answer, api, arrived, roleChange, course } = invocation;
  const duration = Math.round(performance.now() - invocation.startedAt);
  const fields = {
    request_id: invocation.requestId,
    event_id: invocation.eventId,
    event_time: new Date(eventTime(invocation)).toISOString(),
    caller: arrived.caller,
    ...(arrived.caller === 'http' && { api_request_id: arrived.event.requestContext.requestId }),
    ...(roleChange && { role: roleChange.role, switch_when: roleChange.switchWhen }),
    duration_ms: duration,
    ...(course.waited > 0 && { waited_ms: Math.round(course.waited) }),
    ...(api && { attempts: api.attempts, polls: api.polls }),
  };

  if (answer) {
    const { message, ...told } = answer;
    const unforeseen = error && !(error instanceof ConfigSwitchError) ? { error } : {};
    // Neither a stranger's body nor a wish that somebody else meets is a failure: they are counted by themselves.
    const harmless =
      error instanceof BodyTooLarge ? 'BodyTooLarge' : error instanceof Busy ? 'Busy' : undefined;
    const failed = answer.exit_code > ExitCode.CONFIG_SWITCH_SKIPPED;
    const level = harmless ? 'warn' : failed ? 'error' : 'info';
    logger[level](message, { ...told, ...fields, ...unforeseen });
    metrics.addMetric(harmless ?? answer.exit_status, MetricUnit.Count, 1);
    if (error instanceof LedgerError) metrics.addMetric('LedgerUnreachable', MetricUnit.Count, 1);
    countCourse(course);
    if (api && api.attempts > 0 && !roleChange?.dryRun) {
      metrics.addMetric('SwitchDuration', MetricUnit.Milliseconds, duration);
      metrics.addMetric('Attempts', MetricUnit.Count, api.attempts);
      metrics.addMetric('Polls', MetricUnit.Count, api.polls);
    }
  } else if (arrived.caller === 'heartbeat') {
    reportHeartbeat(invocation, fields, error);
  } else if (error instanceof Rejected) {
    logger.warn(error.message, { rejected: error.why, ...fields });
    metrics.addMetric(REJECTION_METRIC[error.why], MetricUnit.Count, 1);
  }
  metrics.publishStoredMetrics();
}

/**
 * Tells the log and the metrics how the heartbeat fared with one server.
 *
 * @param requestId of the heartbeat
 */
export function reportDriven(requestId: string) {
  return (server: string, ended: { message: string } | Error, course: Course): void => {
    const level = ended instanceof Error ? 'error' : 'info';
    const unforeseen =
      ended instanceof Error && !(ended instanceof ConfigSwitchError) ? { error: ended } : {};
    logger[level](ended.message, {
      request_id: requestId,
      caller: 'heartbeat',
      barman_server: server,
      ...unforeseen,
    });
    countCourse(course);
  };
}

function reportHeartbeat(
  { heartbeat }: Invocation,
  fields: Record<string, unknown>,
  error?: Error | null,
): void {
  if (!heartbeat) {
    logger.error(`heartbeat: ${error?.message}`, { ...fields, ...(error && { error }) });
    if (error instanceof LedgerError) metrics.addMetric('LedgerUnreachable', MetricUnit.Count, 1);
    return;
  }
  const { behind, met, parked, oldestUnmetWish, pathBroken } = heartbeat;
  const level = pathBroken === undefined ? 'info' : 'error';
  const path = pathBroken === undefined ? 'the path to pg-backup-api is good' : pathBroken;
  logger[level](`heartbeat: ${behind} behind, ${met} met, ${parked} parked; ${path}`, fields);
  metrics.addMetric('PathBroken', MetricUnit.Count, pathBroken === undefined ? 0 : 1);
  metrics.addMetric('Parked', MetricUnit.Count, parked);
  metrics.addMetric('OldestUnmetWish', MetricUnit.Seconds, oldestUnmetWish);
  for (const [name, days] of [
    ['ClientCertDaysLeft', heartbeat.clientCertDaysLeft],
    ['CaCertDaysLeft', heartbeat.caCertDaysLeft],
  ] as const) {
    if (days !== undefined) metrics.addMetric(name, MetricUnit.Count, days);
  }
}

function countCourse({ superseded, duplicate, overtaken, waited }: Course): void {
  if (superseded) metrics.addMetric('Superseded', MetricUnit.Count, 1);
  if (duplicate) metrics.addMetric('Duplicate', MetricUnit.Count, 1);
  if (overtaken) metrics.addMetric('StuckOperation', MetricUnit.Count, 1);
  if (waited > 0) {
    metrics.addMetric('Waited', MetricUnit.Count, 1);
    metrics.addMetric('WaitingTime', MetricUnit.Milliseconds, Math.round(waited));
  }
}
