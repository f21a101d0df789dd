/** The alarms. Each description gives the first thing to do, and its section in docs/alarms.md (`npm run docs`). */

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

/**
 * Heading in docs/alarms.md → alarm name → metric, description and, for docs/alarms.md only, the threshold's unit and
 * more advice (Markdown). Default: one occurrence or more within a minute. Periods in seconds.
 * `isState`: the metric reports a state, so that its return to normal is news. The others count occurrences: that there is no further one
 * does not mean that something is repaired, so they send no OK.
 */
const ALARMS = {
  'Failed responses': {
    'switch-failed': {
      ...OWN,
      MetricName: 'CONFIG_SWITCH_FAILED',
      description:
        'Barman could not apply a model (ExitCode 2) and may still use the old primary. On the Barman host, read the file that the message in the log names.',
      advice: 'Fix the cause that the file gives; the heartbeat tries again by itself.',
    },
    'http-error': {
      ...OWN,
      MetricName: 'HTTP_ERROR',
      description:
        'pg-backup-api, the parameters for it or the ledger were unavailable, or time ran out (ExitCode 3), and Barman may still use the old primary. The message in the log gives the cause.',
      advice:
        'Fix it (the network, a certificate, a parameter); if the response had `"recorded": true`, the heartbeat tries again by itself, otherwise the callback does.',
    },
    'invalid-args': {
      ...OWN,
      MetricName: 'INVALID_ARGS',
      description:
        'An authenticated sender sent an invalid role change (ExitCode 4), which was not applied. The message in the log names the field; correct the sender.',
      advice: 'It is not tried again, also if it came from EventBridge: send it again, corrected.',
    },
  },
  'Rejected webhooks': {
    'wrong-cluster': {
      ...OWN,
      MetricName: 'WrongCluster',
      description:
        'A webhook was signed with the secret of a cluster that may not move its Barman server, and was not applied (403). The message in the log names server and parameter.',
      advice:
        'Add the server to `servers` in that parameter, or give the node the secret of its own cluster. If neither is right, a secret is being used for a server of another team.',
    },
    'secret-unreadable': {
      ...OWN,
      MetricName: 'SecretUnreadable',
      description:
        'Webhooks are rejected because webhook-secret cannot be read. The log names the parameter and the remedy.',
      advice: 'Meanwhile webhooks get 503.',
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
      advice:
        'The secret of a node is probably an old one. The field `ip` in the access log (`/aws/http-api/barman-config-switch-<stage>`) shows the senders. None of these webhooks was accepted.',
    },
    'payload-format': {
      ...OWN,
      MetricName: 'PayloadFormatUnsupported',
      description:
        'An HTTP request was rejected because it was not in payload format 2.0: the function is behind another API than the one of its stage. Send webhooks to the URL that the deployment prints.',
      advice:
        "Or set the payload format of that API's integration to 2.0. The callback does not send such an event again.",
    },
    'body-too-large': {
      ...OWN,
      MetricName: 'BodyTooLarge',
      Period: 300,
      Threshold: 20,
      description:
        'Many webhooks were larger than 16 KB, and were rejected. The callback never sends such a body: find out where they come from.',
      advice:
        'The field `ip` in the access log (`/aws/http-api/barman-config-switch-<stage>`) shows the senders.',
    },
  },
  'Ledger and heartbeat': {
    'ledger-unreachable': {
      ...OWN,
      MetricName: 'LedgerUnreachable',
      description:
        'The ledger was unavailable, so nothing was switched. Callbacks try again for ten minutes. The message in the log names the remedy.',
      advice:
        'Without the ledger, an old event could be applied after a newer one. Lambda tries again as well.',
    },
    pending: {
      ...OWN,
      isState: true,
      MetricName: 'OldestPendingAge',
      Statistic: 'Maximum',
      Threshold: 300,
      unit: 's',
      TreatMissingData: 'ignore',
      description:
        'A desired state has been pending for 5 minutes; the heartbeat keeps trying. npm run ledger shows the server and the last error.',
      advice: 'The heartbeat tries at growing intervals. Fix the cause that the last error names.',
    },
    parked: {
      ...OWN,
      isState: true,
      MetricName: 'Parked',
      Statistic: 'Maximum',
      description:
        'A desired state has been pending for a day, and the heartbeat has given up. Fix the cause, then run npm run ledger -- --stage STAGE retry SERVER.',
    },
    'paused-pending': {
      ...OWN,
      isState: true,
      MetricName: 'PausedPendingAge',
      Statistic: 'Maximum',
      Threshold: 4 * 3_600,
      unit: 's',
      description:
        'A server has been paused for 4 hours, and a desired state is pending for it: Barman may use the old primary. Run npm run ledger -- --stage STAGE resume SERVER.',
      advice: 'A pause that ends by itself (`--for`) raises no alarm.',
    },
    'operation-stuck': {
      ...OWN,
      MetricName: 'StuckOperation',
      description:
        'An operation on the Barman host did not end in time, and was passed over. If it hangs, end its process there.',
      advice:
        'The limit is one minute. The operation is in `<barman_home>/SERVER/output`. npm run ledger shows its id. The heartbeat polls it for a day, and applies the desired state again once it has ended.',
    },
    'pg-backup-api-unreachable': {
      ...OWN,
      isState: true,
      MetricName: 'PgBackupApiUnreachable',
      Statistic: 'Minimum',
      EvaluationPeriods: 5,
      description:
        'pg-backup-api has been unreachable for 5 minutes; a failover now would leave Barman on the old primary. The log line of the heartbeat gives the cause.',
      advice: 'The heartbeat uses the real credentials.',
    },
    'heartbeat-lost': {
      ...OWN,
      isState: true,
      MetricName: 'PgBackupApiUnreachable',
      Statistic: 'SampleCount',
      ComparisonOperator: 'LessThanThreshold',
      EvaluationPeriods: 5,
      TreatMissingData: 'breaching',
      description:
        'There has been no heartbeat for 5 minutes: lost events and failed attempts are not made up for. Check the rule, and the log of the function.',
      advice:
        'The rule is `barman-config-switch-<stage>-heartbeat`; it must be enabled. The log is `/aws/lambda/barman-config-switch-<stage>`.',
    },
  },
  Patroni: {
    reconciled: {
      ...OWN,
      MetricName: 'Reconciled',
      description:
        'Patroni named another leader than the events had, and Barman was set to it: a callback is broken somewhere. The message in the log names server and leader.',
      advice:
        "Look at the callback's log on that node, and run it there with `--dry-run`. If Barman is to follow another node than the leader, write `{}` for the server in the cluster's parameter.",
    },
    'not-streaming': {
      ...OWN,
      isState: true,
      MetricName: 'NotStreaming',
      Statistic: 'Minimum',
      EvaluationPeriods: 5,
      TreatMissingData: 'ignore',
      description:
        'For 5 minutes, Barman has not streamed WAL from the leader of a Patroni cluster. Run barman receive-wal SERVER on the Barman host: it prints why.',
      advice:
        'The log names the server and the leader. Causes and remedies: [WAL does not arrive](operations.md#wal-does-not-arrive).',
    },
    'leader-unknown': {
      ...OWN,
      isState: true,
      MetricName: 'LeaderUnknown',
      Statistic: 'Minimum',
      EvaluationPeriods: 10,
      description:
        "The leader of a Patroni cluster has been unknown for 10 minutes: if an event is lost now, Barman does not follow. The heartbeat's log line gives the reason.",
      advice:
        'Typical reasons: no leader, the REST API cannot be reached from the function (`patroni-hosts`, `patroni-port`), a CA or client certificate is missing, or the leader is not in the parameter of its cluster.',
    },
  },
  Certificates: {
    ...daysLeft('client-cert', 'ClientCertDaysLeft', 'the client certificate'),
    ...daysLeft('ca-cert', 'CaCertDaysLeft', "the Barman host's CA certificate"),
  },
  'Function and API': {
    'function-errors': {
      ...FUNCTION,
      MetricName: 'Errors',
      description:
        'The function ended with an error: a valid EventBridge event could not be recorded and is tried again, or the function could not start. The log has the error.',
      advice: 'Lambda tries an event twice more.',
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
      unit: 'ms',
      description:
        'An invocation took 25 s or more of its 29 s: the Barman host is slow or hangs. See switch duration and polls on the dashboard.',
    },
    'api-errors': {
      ...API,
      MetricName: '5xx',
      description:
        'The API returned 5xx. Together with http-error, switch-failed or secret-unreadable, it is their response; without them, API Gateway could not invoke the function. A server that is paused, or that another invocation is switching, is not among these: its response is 202.',
    },
    'api-throttles': {
      ...OWN,
      MetricName: 'ApiThrottles',
      description:
        'The API throttled requests (429). Callbacks try again; if it lasts, find the senders in the access log, or raise throttling-rate.',
    },
  },
  'EventBridge and undeliverable events': {
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
      isState: true,
      MetricName: 'ApproximateNumberOfMessagesVisible',
      Statistic: 'Maximum',
      description:
        'Role changes that could not be recorded are in the failure queue. Fix the cause, then redrive them.',
      advice: 'How to redrive them: [The failure queue](operations.md#the-failure-queue).',
    },
    'failures-old': {
      ...QUEUE,
      isState: true,
      MetricName: 'ApproximateAgeOfOldestMessage',
      Statistic: 'Maximum',
      Threshold: 10 * 86_400,
      unit: 's',
      description: 'A role change has been in the failure queue for 10 days; it is deleted after 14 days.',
    },
  },
};

/** Alarms for a certificate, 30 and 7 days before it expires. */
function daysLeft(parameter, metric, certificate) {
  const alarm = (days) => ({
    ...OWN,
    isState: true,
    MetricName: metric,
    Statistic: 'Minimum',
    ComparisonOperator: 'LessThanOrEqualToThreshold',
    Threshold: days,
    unit: 'days',
    description: `In ${days} days or less, ${certificate} expires; no role change can be applied after that. Write a new one (parameter ${parameter}).`,
  });
  return { [`${parameter}-30-days`]: alarm(30), [`${parameter}-7-days`]: alarm(7) };
}

/** What an alarm has unless it sets something else. */
const DEFAULTS = {
  Statistic: 'Sum',
  Period: 60,
  EvaluationPeriods: 1,
  ComparisonOperator: 'GreaterThanOrEqualToThreshold',
  Threshold: 1,
  // Missing data means that nothing happened: these metrics count failures only.
  TreatMissingData: 'notBreaching',
};

const camelCase = (name) => name.replace(/(?:^|-)(.)/g, (_, letter) => letter.toUpperCase());

const resources = {
  Resources: {
    ...Object.fromEntries(
      Object.values(ALARMS)
        .flatMap(Object.entries)
        .map(([name, { description, advice: _, unit: __, isState, ...metric }]) => [
          `${camelCase(name)}Alarm`,
          {
            Type: 'AWS::CloudWatch::Alarm',
            Properties: {
              AlarmName: `${STAGE}-${name}`,
              AlarmDescription: `${description} (docs/alarms.md#${name})`,
              ...DEFAULTS,
              ...metric,
              AlarmActions: [{ Ref: 'AlarmTopic' }],
              ...(isState && { OKActions: [{ Ref: 'AlarmTopic' }] }),
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

module.exports = { ALARMS, DEFAULTS, resources };
