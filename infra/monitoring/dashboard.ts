/**
 * The dashboard: at a glance whether every server is in sync, streaming, ready and archived; then results of role
 * changes, their duration, and the latest log lines. Its form is that of AWS's "Dashboard body structure and syntax"
 * (Amazon CloudWatch API Reference).
 */

import type { Osls } from '../osls.ts';
import { resolved } from '../parameters/index.ts';
import type { Parameters } from '../parameters/table.ts';
import { alarms } from './alarms.ts';

const SERVICE = '${self:service}-${sls:stage}';
// An account has its dashboards for all regions.
const NAME = `${SERVICE}-\${self:custom.parameters.region}`;
// A CloudFormation pseudo parameter; osls does not resolve it.
const REGION = '${AWS::Region}';

/** The height of what is seen at a glance, above everything else (grid units). */
const GLANCE = 16;

/** A chart on the dashboard's grid, which is 24 units wide; `y` counts from below what is seen at a glance. */
function chart(
  x: number,
  y: number,
  width: number,
  title: string,
  metrics: readonly unknown[],
  options: object = {},
) {
  return {
    type: 'metric',
    x,
    y: GLANCE + y,
    width,
    height: 6,
    properties: { title, region: REGION, stat: 'Sum', period: 300, view: 'timeSeries', metrics, ...options },
  };
}

const own = (name: string, options: object = {}) => [
  'BarmanConfigSwitch',
  name,
  'service',
  SERVICE,
  { ...options },
];

/** The newest value of metrics: 0 is fine. */
function number(x: number, title: string, metrics: readonly unknown[]) {
  const properties = {
    title,
    region: REGION,
    stat: 'Maximum',
    period: 60,
    view: 'singleValue',
    sparkline: true,
    metrics,
  };
  return { type: 'metric', x, y: 0, width: 6, height: 4, properties };
}

/** What a log table shows, and from which lines. */
function table(y: number, height: number, title: string, query: string) {
  const properties = {
    title,
    region: REGION,
    view: 'table',
    query: `SOURCE '\${ConfigSwitchLogGroup}' | ${query}`,
  };
  return { type: 'log', x: 0, y, width: 24, height, properties };
}

/**
 * The newest line of each server that a heartbeat has logged (`reportServers`). `latest` is one of the "functions to use
 * with stats" (Amazon CloudWatch Logs User Guide): the value in the log event with the latest timestamp.
 */
export const SERVERS =
  'filter ispresent(ledger.barman_server) | stats ' +
  ['state', 'desired', 'applied', 'leader', 'streaming', 'ready', 'archived']
    .map((name) => `latest(ledger.${name}) as ${name}, `)
    .join('') +
  'latest(timestamp) as seen by ledger.barman_server | sort ledger.barman_server asc | limit 500';

/** A role change, or what a heartbeat did for one server; not its lines of every minute. */
export const DECISIONS =
  'filter ispresent(barman_server)' +
  ' | fields @timestamp, caller, exit_code, barman_server, barman_model, role, message | sort @timestamp desc | limit 50';

const glance = [
  number(0, 'In sync? Longest pending (s)', [
    own('OldestPendingAge', { label: 'pending' }),
    own('PausedPendingAge', { label: 'paused and pending' }),
  ]),
  number(6, 'Streaming? Servers that do not', [own('NotStreaming', { label: 'not streaming' })]),
  number(12, 'Ready? Members and servers that are not', [own('NotReady', { label: 'not ready' })]),
  number(18, 'Archived? Servers whose WAL is not', [own('NotArchived', { label: 'not archived' })]),
  {
    type: 'alarm',
    x: 0,
    y: 4,
    width: 24,
    height: 5,
    properties: {
      title: 'Alarms',
      alarms: Object.keys(alarms.Resources).map((name) => `\${${name}.Arn}`),
      sortBy: 'stateUpdatedTimestamp',
    },
  },
  table(9, GLANCE - 9, 'Barman servers, as the newest heartbeats saw them', SERVERS),
];

const widgets = ({ api, 'event-bus': bus }: Parameters) => [
  ...glance,
  chart(
    0,
    0,
    12,
    'ExitCodes',
    [
      own('CONFIG_SWITCH_DONE', { label: '0 done', color: '#2ca02c' }),
      own('CONFIG_SWITCH_SKIPPED', { label: '1 skipped', color: '#7f7f7f' }),
      own('CONFIG_SWITCH_FAILED', { label: '2 failed', color: '#d62728' }),
      own('HTTP_ERROR', { label: '3 HTTP error', color: '#ff7f0e' }),
      own('INVALID_ARGS', { label: '4 invalid args', color: '#9467bd' }),
    ],
    { stacked: true },
  ),
  chart(12, 0, 12, 'Rejected webhooks', [own('WrongCluster'), own('WebhookRejected')]),
  chart(0, 6, 8, 'Duration of a switch (ms)', [
    own('SwitchDuration', { stat: 'p50', label: 'median' }),
    own('SwitchDuration', { stat: 'Maximum', label: 'maximum' }),
  ]),
  chart(8, 6, 8, 'Requests to pg-backup-api per switch', [
    own('Attempts', { stat: 'Average', label: 'requests, average' }),
    own('Polls', { stat: 'Average', label: 'polls, average' }),
    own('Polls', { stat: 'Maximum', label: 'polls, maximum' }),
  ]),
  chart(16, 6, 8, 'Failure queue', [
    [
      'AWS/SQS',
      'ApproximateNumberOfMessagesVisible',
      'QueueName',
      '${FailureQueue.QueueName}',
      { stat: 'Maximum' },
    ],
    [
      'AWS/SQS',
      'ApproximateAgeOfOldestMessage',
      'QueueName',
      '${FailureQueue.QueueName}',
      { stat: 'Maximum', yAxis: 'right' },
    ],
  ]),
  ...(api === 'public'
    ? [
        chart(0, 12, 12, 'API', [
          ['AWS/ApiGateway', 'Count', 'ApiId', '${HttpApi}'],
          ['AWS/ApiGateway', '4xx', 'ApiId', '${HttpApi}'],
          ['AWS/ApiGateway', '5xx', 'ApiId', '${HttpApi}'],
          ['AWS/ApiGateway', 'Latency', 'ApiId', '${HttpApi}', { stat: 'p95', yAxis: 'right' }],
        ]),
      ]
    : []),
  chart(12, 12, 12, 'Function', [
    ['AWS/Lambda', 'Invocations', 'FunctionName', '${ConfigSwitchLambdaFunction}'],
    ['AWS/Lambda', 'Errors', 'FunctionName', '${ConfigSwitchLambdaFunction}'],
    ['AWS/Lambda', 'Throttles', 'FunctionName', '${ConfigSwitchLambdaFunction}'],
    [
      'AWS/Lambda',
      'Duration',
      'FunctionName',
      '${ConfigSwitchLambdaFunction}',
      { stat: 'Maximum', yAxis: 'right' },
    ],
  ]),
  chart(0, 18, 8, 'Oldest pending event (s), and what Patroni says', [
    own('OldestPendingAge', { stat: 'Maximum' }),
    own('NotStreaming', { stat: 'Maximum', yAxis: 'right' }),
    own('LeaderUnknown', { stat: 'Maximum', yAxis: 'right' }),
    ...['PendingEntered', 'NotStreamingEntered', 'LeaderCannotWriteEntered', 'LeaderUnknownEntered'].map(
      (name) => own(name, { yAxis: 'right' }),
    ),
    own('Reconciled', { yAxis: 'right' }),
  ]),
  chart(8, 18, 8, 'Late, repeated and concurrent events', [
    own('Superseded'),
    own('Duplicate'),
    own('Waited'),
    own('Busy'),
    own('StuckOperation'),
  ]),
  chart(16, 18, 8, 'pg-backup-api, ledger, certificates, EventBridge', [
    own('PgBackupApiUnreachable', { stat: 'Maximum', label: 'unreachable' }),
    own('NotReady', { stat: 'Maximum', label: 'members and servers that are not ready' }),
    own('NotArchived', { stat: 'Maximum', label: 'servers whose WAL is not archived' }),
    own('Heartbeat', { label: 'heartbeats' }),
    own('LedgerUnreachable'),
    ...(bus === null ? [] : ['FailedInvocations', 'InvocationsFailedToBeSentToDlq']).map((name) => [
      ...['AWS/Events', name],
      // On a bus other than the default, the metric has both dimensions.
      ...(bus === 'default' ? [] : ['EventBusName', bus]),
      ...['RuleName', SERVICE],
    ]),
    own('CertificateDaysLeft', { stat: 'Minimum', yAxis: 'right' }),
  ]),
  table(GLANCE + 24, 8, 'Latest decisions', DECISIONS),
];

/** For serverless.yml. */
export const dashboard = async (osls: Osls) => ({
  Resources: {
    Dashboard: {
      Type: 'AWS::CloudWatch::Dashboard',
      Properties: {
        DashboardName: NAME,
        DashboardBody: {
          'Fn::Sub': JSON.stringify({
            widgets: widgets(await resolved(osls)),
          }),
        },
      },
    },
  },
  Outputs: {
    Dashboard: {
      Description: 'Dashboard with the results of role changes',
      Value: {
        'Fn::Sub': `https://\${AWS::Region}.console.aws.amazon.com/cloudwatch/home?region=\${AWS::Region}#dashboards:name=${NAME}`,
      },
    },
  },
});
