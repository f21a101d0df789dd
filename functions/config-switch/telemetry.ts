/** What the operator sees: one log line a decision, and metrics in CloudWatch's embedded metric format. */

import { Logger } from '@aws-lambda-powertools/logger';
import { Metrics, MetricUnit } from '@aws-lambda-powertools/metrics';
import type { MiddlewareObj } from '@middy/core';
import { BodyTooLarge, Busy, ConfigSwitchError, LedgerError, Rejected } from './errors.ts';
import { eventTime, type Invocation } from './event/invocation.ts';
import type { AnsweredEvent } from './event/response.ts';
import { ExitCode } from './exit-code.ts';
import type { Course } from './reconcile/converge.ts';
import type { Heartbeat } from './reconcile/heartbeat.ts';

const REJECTION_METRIC: Record<Rejected['why'], string> = {
  signature: 'SignatureRejected',
  timestamp: 'TimestampStale',
  'secret unreadable': 'SecretUnreadable',
};

/** Service name, namespace and log level come from the environment (POWERTOOLS_…). */
export const logger = new Logger();
const metrics = new Metrics();

/** Reports how an event ended, all at once and at the end, so that nothing is left over for the next invocation. */
export function telemetry(): MiddlewareObj<AnsweredEvent> {
  return {
    after: ({ event }) => report(event),
    onError: ({ event, error }) => report(event, error),
  };
}

/**
 * Tells the log and the metrics how an event ended.
 *
 * @param event with its answer, unless it was rejected
 * @param error what was thrown, if anything
 */
function report(event: AnsweredEvent, error?: Error | null): void {
  const { answer, arrived, roleChange, course, counts } = event;
  const { duration_ms, ...common } = commonFields(event);
  const fields = {
    ...common,
    event_id: event.eventId,
    event_time: new Date(eventTime(event)).toISOString(),
    caller: arrived.caller,
    ...(arrived.caller === 'http' && { api_request_id: arrived.event.requestContext.requestId }),
    ...(roleChange && { role: roleChange.role, switch_when: roleChange.switchWhen }),
    duration_ms,
    ...(course.waited > 0 && { waited_ms: Math.round(course.waited) }),
    ...(roleChange && counts),
  };

  if (answer) {
    const { message, ...told } = answer;
    // Neither a stranger's body nor a wish that somebody else meets is a failure: they are counted by themselves.
    const harmless =
      error instanceof BodyTooLarge ? 'BodyTooLarge' : error instanceof Busy ? 'Busy' : undefined;
    const failed = answer.exit_code > ExitCode.CONFIG_SWITCH_SKIPPED;
    const level = harmless ? 'warn' : failed ? 'error' : 'info';
    logger[level](message, { ...told, ...fields, ...unforeseen(error) });
    metrics.addMetric(harmless ?? answer.exit_status, MetricUnit.Count, 1);
    if (error instanceof LedgerError) metrics.addMetric('LedgerUnreachable', MetricUnit.Count, 1);
    countCourse(course);
    if (counts.attempts > 0 && !roleChange?.dryRun) {
      metrics.addMetric('SwitchDuration', MetricUnit.Milliseconds, duration_ms);
      metrics.addMetric('Attempts', MetricUnit.Count, counts.attempts);
      metrics.addMetric('Polls', MetricUnit.Count, counts.polls);
    }
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
    logger[level](ended.message, {
      request_id: requestId,
      caller: 'heartbeat',
      barman_server: server,
      ...unforeseen(ended),
    });
    countCourse(course);
  };
}

/**
 * Tells the log and the metrics how a heartbeat ended.
 *
 * @param heartbeat what it found and did, or what it threw
 */
export function reportHeartbeat(invocation: Invocation, heartbeat: Heartbeat | Error): void {
  const fields = { ...commonFields(invocation), caller: 'heartbeat', ...invocation.counts };
  if (heartbeat instanceof Error) {
    logger.error(`heartbeat: ${heartbeat.message}`, { ...fields, error: heartbeat });
    if (heartbeat instanceof LedgerError) metrics.addMetric('LedgerUnreachable', MetricUnit.Count, 1);
  } else {
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
  metrics.publishStoredMetrics();
}

function commonFields({ requestId, startedAt }: Invocation) {
  return { request_id: requestId, duration_ms: Math.round(performance.now() - startedAt) };
}

/** Of an error that is none of ours, all of it. */
function unforeseen(ended: unknown): { error?: Error } {
  return ended instanceof Error && !(ended instanceof ConfigSwitchError) ? { error: ended } : {};
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
