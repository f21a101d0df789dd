/** What wakes somebody. Each description says what to do first, and names the paragraph of the README that says more. */

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

/** From the alarm's name to what it watches; one occurrence within a minute (s) is enough unless it says otherwise. */
const ALARMS = {
  // Answers that are no success.
  'switch-failed': {
    ...OWN,
    MetricName: 'CONFIG_SWITCH_FAILED',
    says: 'Barman could not apply a model (ExitCode 2) and may still follow the old primary. On the Barman host, read the file that the message in the log names.',
  },
  'http-error': {
    ...OWN,
    MetricName: 'HTTP_ERROR',
    says: 'pg-backup-api or the parameters for it could not be had (ExitCode 3), and Barman may still follow the old primary. The message in the log says which.',
  },
  'invalid-args': {
    ...OWN,
    MetricName: 'INVALID_ARGS',
    says: 'A role change from a sender that is known was wrong (ExitCode 4), and was not followed. The message in the log names the field; correct the sender.',
  },
  // Webhooks that were not let in.
  'secret-unreadable': {
    ...OWN,
    MetricName: 'SecretUnreadable',
    says: 'Webhooks are turned away because webhook-secret cannot be read. The log names the parameter and the remedy.',
  },
  'timestamp-stale': {
    ...OWN,
    MetricName: 'TimestampStale',
    says: "A rightly signed webhook was dated more than 5 minutes off, and was turned away. Set the sending node's clock.",
  },
  'webhooks-rejected': {
    ...OWN,
    MetricName: 'SignatureRejected',
    Period: 300,
    Threshold: 20,
    says: 'Many webhooks had no right signature. If they come from a node, its secret is wrong; otherwise somebody is trying.',
  },
  'body-too-large': {
    ...OWN,
    MetricName: 'BodyTooLarge',
    Period: 300,
    Threshold: 20,
    says: 'Many webhooks had more than 64 KB. No callback sends such ones: see where they come from.',
  },
  // The ledger and the heartbeat.
  'ledger-unreachable': {
    ...OWN,
    MetricName: 'LedgerUnreachable',
    says: 'The ledger could not be used, so nothing was switched. Callbacks try again for ten minutes. The message in the log names the remedy.',
  },
  pending: {
    ...OWN,
    MetricName: 'OldestPendingAge',
    Statistic: 'Maximum',
    Threshold: 300,
    says: 'For 5 minutes Barman could not be brought to where it should be; the heartbeat goes on. npm run ledger shows the server and the last error.',
  },
  parked: {
    ...OWN,
    MetricName: 'Parked',
    Statistic: 'Maximum',
    says: 'For a day Barman could not be brought to where it should be, and the heartbeat has given up. Mend the cause, then npm run ledger -- retry.',
  },
  'operation-stuck': {
    ...OWN,
    MetricName: 'StuckOperation',
    says: 'An operation on the Barman host did not end in time, and was passed over. If it hangs, end its process there.',
  },
  'pg-backup-api-unreachable': {
    ...OWN,
    MetricName: 'PgBackupApiUnreachable',
    Statistic: 'Minimum',
    EvaluationPeriods: 5,
    says: 'For 5 minutes pg-backup-api could not be used, so a failover now would not be followed. The heartbeat in the log says why.',
  },
  'heartbeat-lost': {
    ...OWN,
    MetricName: 'PgBackupApiUnreachable',
    Statistic: 'SampleCount',
    ComparisonOperator: 'LessThanThreshold',
    EvaluationPeriods: 5,
    TreatMissingData: 'breaching',
    says: 'For 5 minutes there was no heartbeat: nothing makes up for what is lost. See the rule, and the log of the function.',
  },
  ...daysLeft('client-cert', 'ClientCertDaysLeft', 'the client certificate'),
  ...daysLeft('ca-cert', 'CaCertDaysLeft', "the Barman host's CA certificate"),
  // The function and its API.
  'function-errors': {
    ...FUNCTION,
    MetricName: 'Errors',
    says: 'The function ended in an error: an EventBridge event could not be followed and is tried again, or the function could not start. The log has it.',
  },
  'function-throttles': {
    ...FUNCTION,
    MetricName: 'Throttles',
    says: "Lambda had no concurrency left for the function. Raise reserved-concurrency, or the account's limit.",
  },
  'function-duration': {
    ...FUNCTION,
    MetricName: 'Duration',
    Statistic: 'Maximum',
    Threshold: 25_000,
    says: 'An invocation took nearly the 29 s that it has: the Barman host is slow or hangs. See switch duration and polls on the dashboard.',
  },
  'api-errors': {
    ...API,
    MetricName: '5xx',
    says: 'The API answered 5xx. Beside http-error, switch-failed or secret-unreadable it is their response; alone, API Gateway could not call the function.',
  },
  'api-throttles': {
    ...OWN,
    MetricName: 'ApiThrottles',
    says: 'The API turned requests away (429). Callbacks try again; if it lasts, see in the access log who sends, or raise throttling-rate.',
  },
  // EventBridge, and what could not be done.
  'rule-failed': {
    ...RULE,
    MetricName: 'FailedInvocations',
    says: 'EventBridge could not invoke the function for a role change, which is in the failure queue now.',
  },
  'rule-event-lost': {
    ...RULE,
    MetricName: 'InvocationsFailedToBeSentToDlq',
    says: 'EventBridge could not put a role change into the failure queue: it is lost. Bring Barman to its model by hand.',
  },
  'function-event-lost': {
    ...FUNCTION,
    MetricName: 'DestinationDeliveryFailures',
    says: 'Lambda could not put a failed role change into the failure queue: it is lost. Bring Barman to its model by hand.',
  },
  'undeliverable-events': {
    ...QUEUE,
    MetricName: 'ApproximateNumberOfMessagesVisible',
    Statistic: 'Maximum',
    says: 'Role changes that could not be followed wait in the failure queue. Mend the cause, then bring them back.',
  },
  'failures-old': {
    ...QUEUE,
    MetricName: 'ApproximateAgeOfOldestMessage',
    Statistic: 'Maximum',
    Threshold: 10 * 86_400,
    says: 'A role change has been in the failure queue for 10 days; after 14 it is gone.',
  },
};

/** Alarms for a certificate, 30 and 7 days before its end. */
function daysLeft(parameter, metric, certificate) {
  const alarm = (days) => ({
    ...OWN,
    MetricName: metric,
    Statistic: 'Minimum',
    ComparisonOperator: 'LessThanOrEqualToThreshold',
    Threshold: days,
    says: `In ${days} days or less ${certificate} ends, and no role change is followed then. Write a new one (parameter ${parameter}).`,
  });
  return { [`${parameter}-30-days`]: alarm(30), [`${parameter}-7-days`]: alarm(7) };
}

const camelCase = (name) => name.replace(/(?:^|-)(.)/g, (_, letter) => letter.toUpperCase());

module.exports = {
  Resources: {
    ...Object.fromEntries(
      Object.entries(ALARMS).map(([name, { says, ...metric }]) => [
        `${camelCase(name)}Alarm`,
        {
          Type: 'AWS::CloudWatch::Alarm',
          Properties: {
            AlarmName: `${STAGE}-${name}`,
            AlarmDescription: `${says} (README, "When it alarms", ${name})`,
            Statistic: 'Sum',
            Period: 60,
            EvaluationPeriods: 1,
            ComparisonOperator: 'GreaterThanOrEqualToThreshold',
            Threshold: 1,
            // No metric means that nothing happened: all of these count what is wrong.
            TreatMissingData: 'notBreaching',
            ...metric,
            AlarmActions: [{ Ref: 'AlarmTopic' }],
            OKActions: [{ Ref: 'AlarmTopic' }],
          },
        },
      ]),
    ),
    // HTTP APIs have no metric for what they throttle, but their access log tells.
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
