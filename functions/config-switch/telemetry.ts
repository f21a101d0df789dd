/** What the operator sees: one log line per event, and metrics in CloudWatch's embedded metric format. */

import { Logger } from '@aws-lambda-powertools/logger';
import { Metrics, MetricUnit } from '@aws-lambda-powertools/metrics';
import type { MiddlewareObj } from '@middy/core';
import {
  Busy,
  ConfigSwitchError,
  ConfigSwitchFailed,
  LedgerError,
  Rejected,
  WrongCluster,
} from './errors.ts';
import { type Event, eventTime } from './event/event.ts';
import { ExitCode, exitStatus } from './exit-code.ts';
import type { Counted } from './inspect/due.ts';
import { sentenceOf } from './inspect/findings.ts';
import type { Inspected } from './inspect/inspect.ts';
import type { Facts, Invocation } from './invocation.ts';
import type { RecordedItem } from './ledger/item.ts';
import type { Servers } from './ledger/ledger.ts';
import { overviewOf, rowsOf } from './ledger/overview.ts';
import type { Heartbeat, Reconciled } from './reconcile/heartbeat.ts';
import { STATES, type State } from './reconcile/lasting.ts';
import { forLog } from './text.ts';

/** From how many days on the log says each minute that a certificate expires. */
const EXPIRES_SOON = 30;

/** State that servers or clusters enter → the metric that counts them, in that heartbeat only. */
const ENTERED: Readonly<Record<State, string>> = {
  pending: 'PendingEntered',
  not_streaming: 'NotStreamingEntered',
  leader_cannot_write: 'LeaderCannotWriteEntered',
  leader_unknown: 'LeaderUnknownEntered',
};

/**
 * Service name, namespace and log level come from the environment (POWERTOOLS_…). Text is made fit for a log
 * here, whoever it came from.
 */
export const logger = new Logger({
  jsonReplacerFn: (_, value) => (typeof value === 'string' ? forLog(value) : value),
});
const metrics = new Metrics();

/** Reports how an event ended, all at once and at the end, so that nothing leaks into the next invocation. */
export function reporting(): MiddlewareObj<Event> {
  return {
    after: ({ event }) => report(event),
    onError: ({ event, error }) => report(event, error),
  };
}

/**
 * Writes the log line and the metrics of an event.
 *
 * @param event whose facts have the response, unless it was rejected
 * @param error what was thrown, if anything
 */
function report(event: Event, error?: Error | null): void {
  const { arrived, event_id, facts } = event;
  const { response, roleChange, waited, asked, attempts, polls } = facts;
  const { duration_ms, ...common } = commonFields(event);
  const fields = {
    ...common,
    event_id,
    event_time: new Date(eventTime(event)).toISOString(),
    caller: arrived.caller,
    ...(arrived.caller === 'direct' && arrived.operator && { operator: arrived.operator }),
    ...(arrived.caller === 'http' &&
      arrived.event && { api_request_id: arrived.event.requestContext.requestId }),
    ...(roleChange && { role: roleChange.role, switch_when: roleChange.switch_when }),
    duration_ms,
    ...(roleChange?.node !== undefined && { node: roleChange.node }),
    ...(asked !== undefined && { leader_known_ms: Math.round(asked) }),
    ...(waited > 0 && { waited_ms: Math.round(waited) }),
    ...(roleChange && { attempts, polls }),
  };

  if (response) {
    const { message, ...body } = response;
    // A server that is paused, or that another invocation is switching, is not a failure: it has its own
    // metric.
    const busy = error instanceof Busy;
    const failed = response.exit_code > ExitCode.CONFIG_SWITCH_SKIPPED;
    const level = busy ? 'warn' : failed ? 'error' : 'info';
    logger[level](message, { ...body, ...fields, ...internalError(error) });
    if (facts.unheard !== undefined) {
      logger.warn(`that this node's callback was heard is not in the ledger: ${facts.unheard}`, fields);
    }
    const wrongCluster = error instanceof WrongCluster;
    metrics.addMetric(
      busy ? 'Busy' : wrongCluster ? 'WrongCluster' : response.exit_status,
      MetricUnit.Count,
      1,
    );
    if (error instanceof LedgerError) metrics.addMetric('LedgerUnreachable', MetricUnit.Count, 1);
    countFacts(facts);
    if (attempts > 0 && !roleChange?.dry_run) {
      metrics.addMetric('SwitchDuration', MetricUnit.Milliseconds, duration_ms);
      metrics.addMetric('Attempts', MetricUnit.Count, attempts);
      metrics.addMetric('Polls', MetricUnit.Count, polls);
    }
  } else if (error instanceof Rejected) {
    logger.warn(error.message, { rejected: error.why, ...fields });
    metrics.addMetric('WebhookRejected', MetricUnit.Count, 1);
  }
  publishMetrics();
}

/**
 * @param request_id of the heartbeat
 * @returns what writes the log line and the metrics of one server that the heartbeat reconciled
 */
export function reportReconciled(request_id: string) {
  return ({ item, result, facts, duration }: Reconciled): void => {
    const failed = result instanceof Error;
    logger[result instanceof Busy ? 'warn' : failed ? 'error' : 'info'](result.message, {
      request_id,
      caller: 'heartbeat',
      barman_server: item.barman_server,
      duration_ms: Math.round(duration),
      ...internalError(result),
    });
    if (!failed) {
      metrics.addMetric(exitStatus(result.exit_code), MetricUnit.Count, 1);
      metrics.addMetric('SwitchDuration', MetricUnit.Milliseconds, Math.round(duration));
    } else if (result instanceof Busy) {
      metrics.addMetric('Busy', MetricUnit.Count, 1);
    } else if (result instanceof LedgerError) {
      metrics.addMetric('LedgerUnreachable', MetricUnit.Count, 1);
    } else if (result instanceof ConfigSwitchError && isFirst(item, result)) {
      metrics.addMetric(exitStatus(result.exit_code), MetricUnit.Count, 1);
    }
    countFacts(facts);
  };
}

/** Returns whether a desired state has failed so for the first time: each is counted once. */
function isFirst({ attempts, lease, last_exit_code }: RecordedItem, error: ConfigSwitchError): boolean {
  if (error instanceof ConfigSwitchFailed) return last_exit_code !== error.exit_code;
  // Who left the lease has counted it.
  return !attempts && !lease;
}

/**
 * Writes the log line and the metrics of a heartbeat.
 *
 * @param heartbeat what it found and did, or what it threw
 * @param counted what the last inspections have found; undefined if that is reported later
 */
export function reportHeartbeat(
  invocation: Invocation,
  heartbeat: Omit<Heartbeat, 'servers'> | Error,
  counted?: Counted,
): void {
  const { attempts, polls } = invocation.facts;
  const fields = { ...commonFields(invocation), caller: 'heartbeat', attempts, polls };
  if (heartbeat instanceof Error) {
    logger.error(`heartbeat: ${heartbeat.message}`, { ...fields, error: heartbeat });
    if (heartbeat instanceof LedgerError) {
      metrics.addMetric('LedgerUnreachable', MetricUnit.Count, 1);
      metrics.addMetric('Heartbeat', MetricUnit.Count, 1);
    }
  } else {
    const { pending, applied, pausedPending, unreachable, notReady, oldestPendingAge } = heartbeat;
    metrics.addMetric('Heartbeat', MetricUnit.Count, 1);
    const level = unreachable === undefined ? 'info' : 'error';
    const probed = unreachable ?? 'pg-backup-api is reachable';
    logger[level](
      `heartbeat: ${pending} pending, ${applied} applied, ${pausedPending} paused and pending; ${probed}`,
      fields,
    );
    const { reconciled, first, notStreaming, unknown } = heartbeat.observed;
    for (const { barman_server, message } of first) logger.info(message, { ...fields, barman_server });
    for (const { barman_server, message } of [...reconciled, ...notStreaming]) {
      logger.warn(message, { ...fields, barman_server });
    }
    if (heartbeat.unreported !== undefined) {
      logger.warn(`what this heartbeat found is not in the ledger: ${heartbeat.unreported}`, fields);
    }
    for (const { cluster, barman_server, reason } of unknown) {
      const whose =
        barman_server === undefined ? `of cluster ${cluster}` : `for Barman server ${barman_server}`;
      const server = barman_server === undefined ? {} : { barman_server };
      logger.warn(`the leader ${whose} is unknown: ${reason}`, { ...fields, cluster, ...server });
    }
    for (const { barman_server, message } of notReady) {
      logger.error(message, { ...fields, barman_server });
    }
    const { entered } = heartbeat;
    for (const state of STATES) {
      if (entered[state].length === 0) continue;
      metrics.addMetric(ENTERED[state], MetricUnit.Count, entered[state].length);
      const alarm = state.replaceAll('_', '-');
      logger.error(`raises the alarm ${alarm}: ${entered[state].join(', ')}`, { ...fields, alarm });
    }
    if (counted) addCounted(counted);
    metrics.addMetric('Reconciled', MetricUnit.Count, reconciled.length);
    metrics.addMetric('LeaderUnknown', MetricUnit.Count, unknown.length);
    metrics.addMetric('PgBackupApiUnreachable', MetricUnit.Count, unreachable === undefined ? 0 : 1);
    if (oldestPendingAge !== undefined) {
      metrics.addMetric('OldestPendingAge', MetricUnit.Seconds, oldestPendingAge);
      metrics.addMetric('NotStreaming', MetricUnit.Count, notStreaming.length);
    }
    metrics.addMetric('PausedPendingAge', MetricUnit.Seconds, heartbeat.pausedPendingAge);
    const { certificate } = heartbeat;
    if (certificate) {
      const { parameter, daysLeft } = certificate;
      metrics.addMetric('CertificateDaysLeft', MetricUnit.Count, daysLeft);
      if (daysLeft <= EXPIRES_SOON) {
        const when =
          daysLeft < 0 ? 'has expired' : `expires in ${daysLeft} ${daysLeft === 1 ? 'day' : 'days'}`;
        logger.warn(`the certificate in the parameter ${parameter} ${when}`, { ...fields, parameter });
      }
    }
  }
  publishMetrics();
}

/**
 * Writes a log line for each server, from which the dashboard makes its table. Its fields are in one of their own, so
 * that a filter on `barman_server` matches only what has happened.
 *
 * @param servers as they are now
 */
export function reportServers({ request_id }: Invocation, servers: Servers): void {
  const now = Date.now();
  for (const row of rowsOf(servers)) {
    const ledger = overviewOf(row, servers, now);
    logger.info(`state of ${ledger.barman_server}: ${ledger.state}`, {
      request_id,
      caller: 'heartbeat',
      ledger,
    });
  }
}

/**
 * Writes the log lines of an inspection.
 *
 * @param inspected what it has seen, or what it threw
 */
export function reportInspection(invocation: Invocation, inspected: Inspected | Error): void {
  const fields = { ...commonFields(invocation), caller: 'inspection' };
  if (inspected instanceof Error) {
    logger.error(`inspection: ${inspected.message}`, { ...fields, error: inspected });
    return;
  }
  for (const [barman_server, { inspection }] of inspected.servers) {
    for (const finding of inspection.findings) {
      const { kind, member, counts } = finding;
      logger[counts ? 'error' : 'warn'](sentenceOf(finding), {
        ...{ ...fields, barman_server, finding: kind, counts },
        ...(member !== undefined && { member }),
      });
    }
    const { length } = inspection.findings;
    const unseen = inspection.unseen.map(({ what }) => what);
    logger.info(`inspection of ${barman_server}: ${length} ${length === 1 ? 'finding' : 'findings'}`, {
      ...{ ...fields, barman_server },
      ...(unseen.length > 0 && { unseen }),
    });
  }
}

/** Writes the metrics of what the last inspections have found. */
export function reportCounted(counted: Counted): void {
  addCounted(counted);
  publishMetrics();
}

function addCounted({ notReady, notArchived }: Counted): void {
  metrics.addMetric('NotReady', MetricUnit.Count, notReady);
  metrics.addMetric('NotArchived', MetricUnit.Count, notArchived);
}

/** Publishes the metrics of an invocation; without any, powertools would warn. */
function publishMetrics(): void {
  if (metrics.hasStoredMetrics()) metrics.publishStoredMetrics();
}

function commonFields({ request_id, startedAt }: Invocation) {
  return { request_id, duration_ms: Math.round(performance.now() - startedAt) };
}

/** Returns an error that is not a ConfigSwitchError, with its stack: a fault of ours. */
function internalError(error: unknown): { error?: Error } {
  return error instanceof Error && !(error instanceof ConfigSwitchError) ? { error } : {};
}

function countFacts({ superseded, duplicate, passedOver, waited }: Facts): void {
  if (superseded) metrics.addMetric('Superseded', MetricUnit.Count, 1);
  if (duplicate) metrics.addMetric('Duplicate', MetricUnit.Count, 1);
  if (passedOver) metrics.addMetric('StuckOperation', MetricUnit.Count, 1);
  if (waited > 0) {
    metrics.addMetric('Waited', MetricUnit.Count, 1);
    metrics.addMetric('WaitingTime', MetricUnit.Milliseconds, Math.round(waited));
  }
}
