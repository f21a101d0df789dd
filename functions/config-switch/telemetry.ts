/** What the operator sees: one log line a decision, and metrics in CloudWatch's embedded metric format. */

import { Logger } from '@aws-lambda-powertools/logger';
import { Metrics, MetricUnit } from '@aws-lambda-powertools/metrics';
import { BodyTooLarge, ConfigSwitchError, Rejected } from './errors.ts';
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
  const { answer, api, arrived, roleChange } = invocation;
  const duration = Math.round(performance.now() - invocation.startedAt);
  const fields = {
    request_id: invocation.requestId,
    event_id: invocation.eventId,
    event_time: new Date(eventTime(invocation)).toISOString(),
    caller: arrived.caller,
    ...(arrived.caller === 'http' && { api_request_id: arrived.event.requestContext.requestId }),
    ...(roleChange && { role: roleChange.role, switch_when: roleChange.switchWhen }),
    duration_ms: duration,
    ...(api && { attempts: api.attempts, polls: api.polls }),
  };

  if (answer) {
    const { message, ...told } = answer;
    const unforeseen = error && !(error instanceof ConfigSwitchError) ? { error } : {};
    // A stranger's body is no alarm: it is counted, but not among the answers that operators wait for.
    const strange = error instanceof BodyTooLarge;
    const failed = answer.exit_code > ExitCode.CONFIG_SWITCH_SKIPPED;
    const level = strange ? 'warn' : failed ? 'error' : 'info';
    logger[level](message, { ...told, ...fields, ...unforeseen });
    metrics.addMetric(strange ? 'BodyTooLarge' : answer.exit_status, MetricUnit.Count, 1);
    if (api && api.attempts > 0 && !roleChange?.dryRun) {
      metrics.addMetric('SwitchDuration', MetricUnit.Milliseconds, duration);
      metrics.addMetric('Attempts', MetricUnit.Count, api.attempts);
      metrics.addMetric('Polls', MetricUnit.Count, api.polls);
    }
  } else if (error instanceof Rejected) {
    logger.warn(error.message, { rejected: error.why, ...fields });
    metrics.addMetric(REJECTION_METRIC[error.why], MetricUnit.Count, 1);
  }
  metrics.publishStoredMetrics();
}
