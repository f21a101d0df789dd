/** The alarms. Each description gives the first thing to do, and the paragraph of the README with the details. */

const STAGE = '${self:service}-${sls:stage}';
const OWN = { Namespace: 'BarmanConfigSwitch', Dimensions: [{ Name: 'service', Value: STAGE }] };
const FUNCTION = {
  Namespace: 'AWS/Lambda',
  Dimensions: [{ Name: 'FunctionName', Value: { Ref: 'ConfigSwitchLambdaFunction' } }],
};
const API = { Namespace: 'AWS/ApiGateway', Dimensions: [{ Name: 'ApiId', Value: { Ref: 'HttpApi' } }] };
const RULE = { Namespace: 'AWS/Events', Dimensions: '${self:custom.parameters.ruleDimensions}' };
const QUEUE = {
  Namespace: 'AWS/SQS',
  Dimensions: [{ Name: 'QueueName', Value: { 'Fn::GetAtt': ['FailureQueue', 'QueueName'] } }],
};

/** Alarm name → metric and description. Default: one occurrence or more within a minute. Periods in seconds. */
const ALARMS = {
  // Responses other than success.
  'switch-failed': {
    ...OWN,
    MetricName: 'CONFIG_SWITCH_FAILED',
    description:
      'Barman could not apply a model (ExitCode 2) and may still use the old primary. On the Barman host, read the file that the message in the log names.',
  },
  'http-error': {
    ...OWN,
    MetricName: 'HTTP_ERROR',
    description:
      'pg-backup-api or the parameters for it were unavailable (ExitCode 3), and Barman may still use the old primary. The message in the log gives the cause.',
  },
  'invalid-args': {
    ...OWN,
    MetricName: 'INVALID_ARGS',
    description:
      'An authenticated sender sent an invalid role change (ExitCode 4), which was not applied. The message in the log names the field; correct the sender.',
  },
  // Rejected webhooks.
  'secret-unreadable': {
    ...OWN,
    MetricName: 'SecretUnreadable',
    description:
      'Webhooks are rejected because webhook-secret cannot be read. The log names the parameter and the remedy.',
  },
  'timestamp-stale': {
    ...OWN,
    MetricName: 'TimestampStale',
    description:
      'The timestamp of a correctly signed webhook was more than 5 minutes off, and the webhook was rejected. Set the clock of the sending node.',
  },
  'webhooks-rejected': {
    ...OWN,
    MetricName: 'SignatureRejected',
    Period: 300,
    Threshold: 20,
    description:
      'Many webhooks had no valid signature. If they come from a node, its secret is wrong; otherwise it may be an attack.',
  },
  'body-too-large': {
    ...OWN,
    MetricName: 'BodyTooLarge',
    Period: 300,
    Threshold: 20,
    description:
      'Many webhooks were larger than 64 KB. The callback never sends such a body: find out where they come from.',
  },
  // The ledger and the heartbeat.
  'ledger-unreachable': {
    ...OWN,
    MetricName: 'LedgerUnreachable',
    description:
      'The ledger was unavailable, so nothing was switched. Callbacks try again for ten minutes. The message in the log names the remedy.',
  },
  pending: {
    ...OWN,
    MetricName: 'OldestPendingAge',
    Statistic: 'Maximum',
    Threshold: 300,
    description:
      'A desired state has been pending for 5 minutes; the heartbeat keeps trying. npm run ledger shows the server and the last error.',
  },
  parked: {
    ...OWN,
    MetricName: 'Parked',
    Statistic: 'Maximum',
    description:
      'A desired state has been pending for a day, and the heartbeat has given up. Fix the cause, then run npm run ledger -- retry.',
  },
  'operation-stuck': {
    ...OWN,
    MetricName: 'StuckOperation',
    description:
      'An operation on the Barman host did not end in time, and was passed over. If it hangs, end its process there.',
  },
  'pg-backup-api-unreachable': {
    ...OWN,
    MetricName: 'PgBackupApiUnreachable',
    Statistic: 'Minimum',
    EvaluationPeriods: 5,
    description:
      'pg-backup-api has been unreachable for 5 minutes; a failover now would leave Barman on the old primary. The log line of the heartbeat gives the cause.',
  },
  'heartbeat-lost': {
    ...OWN,
    MetricName: 'PgBackupApiUnreachable',
    Statistic: 'SampleCount',
    ComparisonOperator: 'LessThanThreshold',
    EvaluationPeriods: 5,
    TreatMissingData: 'breaching',
    description:
      'There has been no heartbeat for 5 minutes: lost events and failed attempts are not made up for. Check the rule, and the log of the function.',
  },
  ...daysLeft('client-cert', 'ClientCertDaysLeft', 'the client certificate'),
  ...daysLeft('ca-cert', 'CaCertDaysLeft', "the Barman host's CA certificate"),
  // The function and its API.
  'function-errors': {
    ...FUNCTION,
    MetricName: 'Errors',
    description:
      'The function ended with an error: an EventBridge event could not be recorded and is tried again, or the function could not start. The log has the error.',
  },
  'function-throttles': {
    ...FUNCTION,
    MetricName: 'Throttles',
    description:
      "Lambda had no concurrency left for the function. Raise reserved-concurrency, or the account's limit.",
  },
  'function-duration': {
    ...FUNCTION,
    MetricName: 'Duration',
    Statistic: 'Maximum',
    Threshold: 25_000,
    description:
      'An invocation took 25 s or more of its 29 s: the Barman host is slow or hangs. See switch duration and polls on the dashboard.',
  },
  'api-errors': {
    ...API,
    MetricName: '5xx',
    description:
      'The API returned 5xx. Together with http-error, switch-failed or secret-unreadable, it is their response; without them, API Gateway could not invoke the function.',
  },
  'api-throttles': {
    ...OWN,
    MetricName: 'ApiThrottles',
    description:
      'The API throttled requests (429). Callbacks try again; if it lasts, find the senders in the access log, or raise throttling-rate.',
  },
  // EventBridge and undeliverable events.
  'rule-failed': {
    ...RULE,
    MetricName: 'FailedInvocations',
    description:
      'EventBridge could not invoke the function for a role change, which is now in the failure queue.',
  },
  'rule-event-lost': {
    ...RULE,
    MetricName: 'InvocationsFailedToBeSentToDlq',
    description:
      'EventBridge could not put a role change into the failure queue: it is lost. Apply its model on the Barman host by hand.',
  },
  'function-event-lost': {
    ...FUNCTION,
    MetricName: 'DestinationDeliveryFailures',
    description:
      'Lambda could not put a failed role change into the failure queue: it is lost. Apply its model on the Barman host by hand.',
  },
  'undeliverable-events': {
    ...QUEUE,
    MetricName: 'ApproximateNumberOfMessagesVisible',
    Statistic: 'Maximum',
    description:
      'Role changes that could not be recorded are in the failure queue. Fix the cause, then redrive them.',
  },
  'failures-old': {
    ...QUEUE,
    MetricName: 'ApproximateAgeOfOldestMessage',
    Statistic: 'Maximum',
    Threshold: 10 * 86_400,
    description: 'A role change has been in the failure queue for 10 days; it is deleted after 14 days.',
  },
};

/** Alarms for a certificate, 30 and 7 days before it expires. */
function daysLeft(parameter, metric, certificate) {
  const alarm = (days) => ({
    ...OWN,
    MetricName: metric,
    Statistic: 'Minimum',
    ComparisonOperator: 'LessThanOrEqualToThreshold',
    Threshold: days,
    description: `In ${days} days or less, ${certificate} expires; no role change can be applied after that. Write a new one (parameter ${parameter}).`,
  });
  return { [`${parameter}-30-days`]: alarm(30), [`${parameter}-7-days`]: alarm(7) };
}

const camelCase = (name) => name.replace(/(?:^|-)(.)/g, (_, letter) => letter.toUpperCase());

module.exports = {
  Resources: {
    ...Object.fromEntries(
      Object.entries(ALARMS).map(([name, { description, ...metric }]) => [
        `${camelCase(name)}Alarm`,
        {
          Type: 'AWS::CloudWatch::Alarm',
          Properties: {
            AlarmName: `${STAGE}-${name}`,
            AlarmDescription: `${description} (README, "When it alarms", ${name})`,
            Statistic: 'Sum',
            Period: 60,
            EvaluationPeriods: 1,
            ComparisonOperator: 'GreaterThanOrEqualToThreshold',
            Threshold: 1,
            // Missing data means that nothing happened: these metrics count failures only.
            TreatMissingData: 'notBreaching',
            ...metric,
            AlarmActions: [{ Ref: 'AlarmTopic' }],
            OKActions: [{ Ref: 'AlarmTopic' }],
          },
        },
      ]),
    ),
    // HTTP APIs have no metric for throttled requests; the access log has their status.
    ApiThrottles: {
      Type: 'AWS::Logs::MetricFilter',
      Properties: {
        LogGroupName: { Ref: 'HttpApiLogGroup' },
        FilterPattern: '{ $.status = 429 }',
        MetricTransformations: [
          {
            MetricNamespace: OWN.Namespace,
            MetricName: 'ApiThrottles',
            MetricValue: '1',
            Unit: 'Count',
            Dimensions: [{ Key: 'service', Value: '$.service' }],
          },
        ],
      },
    },
  },
};
