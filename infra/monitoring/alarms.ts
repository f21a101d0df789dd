/** The alarms. */

const STAGE = '${self:service}-${sls:stage}';
const OWN = { Namespace: 'BarmanConfigSwitch', Dimensions: [{ Name: 'service', Value: STAGE }] };
const FUNCTION = {
  Namespace: 'AWS/Lambda',
  Dimensions: [{ Name: 'FunctionName', Value: { Ref: 'ConfigSwitchLambdaFunction' } }],
};
const QUEUE = {
  Namespace: 'AWS/SQS',
  Dimensions: [{ Name: 'QueueName', Value: { 'Fn::GetAtt': ['FailureQueue', 'QueueName'] } }],
};

export interface Condition {
  readonly Statistic: 'Sum' | 'Minimum' | 'Maximum' | 'SampleCount';
  /** s */
  readonly Period: number;
  readonly EvaluationPeriods: number;
  readonly ComparisonOperator:
    | 'GreaterThanOrEqualToThreshold'
    | 'LessThanOrEqualToThreshold'
    | 'LessThanThreshold';
  readonly Threshold: number;
  readonly TreatMissingData: 'notBreaching' | 'breaching' | 'ignore';
}

export interface Alarm extends Partial<Condition> {
  readonly Namespace: string;
  readonly Dimensions: readonly { readonly Name: string; readonly Value: unknown }[];
  readonly MetricName: string;
  /** Ends with the first thing to do; the template adds the section in docs/alarms.md. */
  readonly description: string;
  /** More of it, for docs/alarms.md only (Markdown). */
  readonly advice?: string;
  /** Unit of the threshold, for docs/alarms.md only. */
  readonly unit?: string;
  /**
   * The metric reports a state, so that its return to normal is news. The others count occurrences: that
   * there is no further one does not mean that something is repaired, so they send no OK.
   */
  readonly isState?: boolean;
}

/** The condition of an alarm that sets nothing else: one occurrence or more within a minute. */
export const DEFAULTS: Condition = {
  Statistic: 'Sum',
  Period: 60,
  EvaluationPeriods: 1,
  ComparisonOperator: 'GreaterThanOrEqualToThreshold',
  Threshold: 1,
  // Missing data means that nothing happened: these metrics count failures only.
  TreatMissingData: 'notBreaching',
};

/** Urgency → alarm name → alarm. */
export const ALARMS: Readonly<Record<string, Readonly<Record<string, Alarm>>>> = {
  'Act now': {
    'switch-failed': {
      ...OWN,
      MetricName: 'CONFIG_SWITCH_FAILED',
      description:
        'Barman could not apply a model (ExitCode 2), and may still use the old primary. On the Barman host, read the file that the message in the log names.',
      advice: 'Fix the cause that the file gives; the heartbeat tries again by itself.',
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
        'A desired state has been pending for 5 minutes. Run npm run ledger -- --stage STAGE, which shows the server and the last error.',
      advice:
        'Fix the cause, then run npm run ledger -- --stage STAGE retry SERVER: by itself the heartbeat tries at growing intervals, up to one hour. It never gives up, and the alarm stays on until the desired state is applied. If an operation hangs on the Barman host, another one is sent after 10 minutes, or after one if something newer is desired: end its process there. Its id is in the ledger.',
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
    'pg-backup-api-unreachable': {
      ...OWN,
      isState: true,
      MetricName: 'PgBackupApiUnreachable',
      Statistic: 'Minimum',
      EvaluationPeriods: 5,
      description:
        "pg-backup-api has been unreachable for 5 minutes, and nothing can be switched. Read the heartbeat's line in the log: it gives the cause.",
      advice:
        'The heartbeat uses the real credentials: the cause may be the network, a certificate, a parameter, or pg-backup-api itself. What is pending is applied by itself afterwards.',
    },
    'server-unreadable': {
      ...OWN,
      isState: true,
      MetricName: 'UnreadableServers',
      Statistic: 'Maximum',
      // Each heartbeat reads the operations of another server.
      Period: 3_600,
      description:
        "The item of a server in the ledger, or its operations in Barman, cannot be read. Read the heartbeat's error in the log: it names the server and the remedy.",
      advice:
        'While its item cannot be read, nothing is switched for that server. While only its operations cannot, switches go on, but without a look at what is running. If Barman does not have the server any more, forget it: [The ledger](operations.md#the-ledger). One heartbeat in a quiet minute reads the operations of one server, so the alarm ends an hour after the last error.',
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
        'There has been no heartbeat for 5 minutes: lost events and failed attempts are not made up for. Read the log of the function.',
      advice:
        'If it has no new lines, look at the rule `barman-config-switch-<stage>-heartbeat`: it must be enabled. Right after the first deployment this alarm may be on for some minutes.',
    },
    'event-lost': {
      ...FUNCTION,
      MetricName: 'DestinationDeliveryFailures',
      description:
        'Lambda could not put a failed role change into the failure queue: it is lost. Compare the leader with the applied model (npm run ledger -- --stage STAGE), and send the event again if they differ.',
      advice:
        'Its payload is in the log. The queue or its policy was changed, or it does not exist. An event that EventBridge could not hand over to Lambda goes into the same queue, and raises [undeliverable-events](#undeliverable-events); that the queue refused one too is only on the dashboard (`InvocationsFailedToBeSentToDlq`), since that needs two faults at once.',
    },
    'ledger-unreachable': {
      ...OWN,
      MetricName: 'LedgerUnreachable',
      description:
        'The ledger was unavailable, so nothing was switched. Read the message in the log: it names the remedy.',
      advice:
        'Callbacks try again for ten minutes, and so does Lambda. Without the ledger, an old event could be applied after a newer one.',
    },
    'function-errors': {
      ...FUNCTION,
      MetricName: 'Errors',
      description:
        'The function ended with an error: a valid EventBridge event could not be recorded, or the function could not start. Read the error in the log.',
      advice: 'Lambda tries an event twice more, and then puts it into the failure queue.',
    },
  },
  'Act this week': {
    'invalid-args': {
      ...OWN,
      MetricName: 'INVALID_ARGS',
      description:
        'An authenticated sender sent an invalid role change (ExitCode 4), which was not applied. Read the message in the log: it names the field. Correct the sender.',
      advice: 'It is not tried again, also if it came from EventBridge: send it again, corrected.',
    },
    'wrong-cluster': {
      ...OWN,
      MetricName: 'WrongCluster',
      description:
        'A webhook was signed with the secret of a cluster that may not switch its Barman server, and was not applied (403). Read the message in the log: it names server and parameter.',
      advice:
        'Add the server to `servers` in that parameter, or give the node the secret of its own cluster. If neither is right, a secret is being used for a server of another team.',
    },
    'webhooks-rejected': {
      ...OWN,
      MetricName: 'WebhookRejected',
      Period: 300,
      Threshold: 5,
      description:
        'Webhooks were rejected. Read the field rejected in the log: the signature or the timestamp is wrong, or the secret is unreadable.',
      advice:
        '`signature`: the secret of a node is an old one, or a stranger sent it; `timestamp`: the clock of a node is more than 5 minutes off; `secret unreadable`: the log names the parameter and the remedy, and webhooks get 503; `payload format`: the function is behind another API than the one of its stage; `body too large`: no callback sends that. The field `ip` in the access log (`/aws/vendedlogs/http-api/barman-config-switch-<stage>`) shows the senders. None of these webhooks was accepted.',
    },
    'undeliverable-events': {
      ...QUEUE,
      isState: true,
      MetricName: 'ApproximateNumberOfMessagesVisible',
      Statistic: 'Maximum',
      description:
        'Role changes that could not be recorded are in the failure queue. Fix the cause, then run npm run ledger -- --stage STAGE redrive.',
      advice: 'They are deleted after 14 days. More: [The failure queue](operations.md#the-failure-queue).',
    },
    ...Object.fromEntries([30, 7].map((days) => [`certificate-${days}-days`, expires(days)])),
    reconciled: {
      ...OWN,
      MetricName: 'Reconciled',
      description:
        "Patroni named another leader than the events had, and Barman was set to it: a callback is broken somewhere. Read the callback's log on the leader that the message in the log names.",
      advice:
        "Run the callback there with `--dry-run`. If Barman is to follow another node than the leader, write `{}` for the server in the cluster's parameter.",
    },
    'leader-unknown': {
      ...OWN,
      isState: true,
      MetricName: 'LeaderUnknown',
      Statistic: 'Minimum',
      EvaluationPeriods: 10,
      description:
        "The leader of a Patroni cluster has been unknown for 10 minutes: if an event is lost now, Barman does not follow. Read the heartbeat's line in the log: it gives the reason.",
      advice:
        'Typical reasons: no leader, the REST API cannot be reached from the function (`patroni-hosts`, `patroni-port`), a CA or client certificate is missing, or the leader is not in the parameter of its cluster.',
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
  },
};

/** The alarm for the certificate that expires first, so many days before. */
function expires(days: number): Alarm {
  return {
    ...OWN,
    isState: true,
    MetricName: 'CertificateDaysLeft',
    Statistic: 'Minimum',
    ComparisonOperator: 'LessThanOrEqualToThreshold',
    Threshold: days,
    unit: 'days',
    description: `In ${days} days or less, a certificate expires. Read the heartbeat's warning in the log: it names the parameter. Write a new one.`,
    advice:
      'After that, no role change can be applied (`client-cert`, `ca-cert`), or Patroni cannot be asked (`patroni-…`).',
  };
}

const camelCase = (name: string) => name.replace(/(?:^|-)(.)/g, (_, letter: string) => letter.toUpperCase());

function resource(urgency: string, name: string, alarm: Alarm) {
  const { description, advice: _, unit: __, isState, ...metric } = alarm;
  const actions = ['${self:custom.chosen.alarm-topic.arn}'];
  return {
    Type: 'AWS::CloudWatch::Alarm',
    Properties: {
      AlarmName: `${STAGE}-${name}`,
      AlarmDescription: `${urgency}. ${description} (docs/alarms.md#${name})`,
      ...DEFAULTS,
      ...metric,
      AlarmActions: actions,
      ...(isState && { OKActions: actions }),
    },
  };
}

/** For serverless.yml. */
export const alarms = {
  Resources: Object.fromEntries(
    Object.entries(ALARMS).flatMap(([urgency, group]) =>
      Object.entries(group).map(([name, alarm]) => [
        `${camelCase(name)}Alarm`,
        resource(urgency, name, alarm),
      ]),
    ),
  ),
};
