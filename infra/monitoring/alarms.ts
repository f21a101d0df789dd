/**
 * The alarms, one for each first thing to do. test/infra/alarms.test.ts evaluates them by CloudWatch's rules.
 */

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
  readonly Statistic: 'Sum' | 'Minimum' | 'Maximum';
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
  /** Ends with the first thing to do; the template adds the section in docs/reference/alarms.md. */
  readonly description: string;
  /** More of it, for docs/reference/alarms.md only: items of a list (Markdown); two spaces make a sub-item. */
  readonly advice?: readonly string[];
  /** Unit of the threshold, for docs/reference/alarms.md only. */
  readonly unit?: string;
  /** How long it takes at most until the alarm is raised, for docs/reference/alarms.md only (minutes). */
  readonly within: number;
  /**
   * The value of periods without data, by metric math: the alarm then needs no more periods than it names,
   * while one on missing data itself is raised only once its whole evaluation range has none.
   */
  readonly fill?: number;
  /**
   * The metric reports a state, so that its return to normal is news. The others count occurrences: that
   * there is no further one does not mean that something is repaired, so they send no OK. While a state is
   * not reported, it is as it was.
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
      within: 2,
      description:
        'Barman could not apply a model (ExitCode 2), and may still use the old primary. Read the file that the message in the log names, on the Barman host.',
      advice: [
        'Fix the cause that the file gives. The heartbeat tries again by itself.',
        'The alarm is raised again only for another desired state.',
      ],
    },
    pending: {
      ...OWN,
      MetricName: 'PendingEntered',
      within: 8,
      description:
        'A desired state has been pending for 5 minutes, so Barman may use the old primary. Run npm run ledger -- --stage STAGE, which shows the server and the last error.',
      advice: [
        'Fix the cause, then run `npm run ledger -- --stage STAGE retry SERVER`. By itself the heartbeat tries at growing intervals, up to one hour.',
        'If an operation hangs on the Barman host, end its process there. Its id is in the ledger. Another operation is sent after a minute; on a host that is slow, or was never switched, after up to 10.',
      ],
    },
    'not-streaming': {
      ...OWN,
      MetricName: 'NotStreamingEntered',
      within: 7,
      description:
        'For 5 minutes, Barman has not streamed WAL from the leader of a Patroni cluster. That WAL is not in the backup. Run barman receive-wal SERVER on the Barman host: it prints why.',
      advice: [
        'Causes and remedies: [WAL does not arrive](../how-to/wal-does-not-arrive.md).',
        'The warnings in the log name the leader. While it is unknown, what was seen last still counts.',
      ],
    },
    'not-archived': {
      ...OWN,
      isState: true,
      MetricName: 'NotArchived',
      Statistic: 'Maximum',
      // Daily inspections, and another one 15 minutes later; after a switch it takes 40 minutes.
      within: 24 * 60 + 18,
      description:
        "WAL of a leader does not arrive in Barman's archive. Two inspections in a row have found that. Run npm run ledger -- --stage STAGE check, which names the server and the remedy.",
      advice: [
        'What was written since then cannot be recovered from the backup.',
        '[What each finding means](findings.md#archived).',
        'After a switch the alarm is raised within 40 minutes.',
        'The alarm ends within 15 minutes of the repair. `check` ends it at once.',
      ],
    },
    'leader-cannot-write': {
      ...OWN,
      MetricName: 'LeaderCannotWriteEntered',
      within: 7,
      description:
        'For 5 minutes, the node that holds the leader lock of a Patroni cluster has been in recovery. No node of it can write, and Barman is not switched. Read the logs of Patroni and PostgreSQL on that node.',
      advice: [
        "The heartbeat's warnings name the node.",
        'Barman follows by itself once the node, or another one, leads.',
      ],
    },
    'pg-backup-api-unreachable': {
      ...OWN,
      isState: true,
      MetricName: 'PgBackupApiUnreachable',
      Statistic: 'Minimum',
      EvaluationPeriods: 5,
      within: 7,
      description:
        "pg-backup-api has been unreachable for 5 minutes, or the function's parameters unreadable for 20. A failover now may not be followed. Read the heartbeat's line in the log: it gives the cause.",
      advice: [
        'The cause may be the network, a certificate, a parameter, or pg-backup-api itself.',
        'While only the parameters cannot be read, their old values stay in use until the next cold start.',
        'What is pending is applied by itself afterwards.',
        'If only one server cannot be switched, [not-ready](#not-ready) is raised instead.',
      ],
    },
    'heartbeat-lost': {
      ...OWN,
      isState: true,
      MetricName: 'Heartbeat',
      ComparisonOperator: 'LessThanThreshold',
      EvaluationPeriods: 5,
      fill: 0,
      // A range without any data cannot be filled.
      TreatMissingData: 'breaching',
      within: 7,
      description:
        'There has been no heartbeat for 5 minutes. Lost events and failed attempts are not made up for. Read the log of the function.',
      advice: [
        'If it has no new lines, look at the rule `barman-config-switch-<stage>-heartbeat`: it must be enabled.',
        'If it has the line of an internal error every minute, [return to the last version](../how-to/roll-back.md).',
        'A heartbeat that could not use the ledger or pg-backup-api is not lost. These have alarms of their own.',
        'Right after the first deployment this alarm may be on for some minutes.',
      ],
    },
    'event-lost': {
      ...FUNCTION,
      MetricName: 'DestinationDeliveryFailures',
      within: 2,
      description:
        'Lambda could not put a failed role change into the failure queue. It is lost, and Barman may use the old primary. Compare the leader with the applied model (npm run ledger -- --stage STAGE). If they differ, run npm run ledger -- --stage STAGE set SERVER MODEL.',
      advice: [
        'The queue or its policy was changed, or it does not exist.',
        'The payload of the event is in the log only if the function ran.',
        'The queue may also refuse an event that EventBridge could not hand over to Lambda. That needs two faults at once, so it is only on the dashboard, as `InvocationsFailedToBeSentToDlq`.',
      ],
    },
    'ledger-unreachable': {
      ...OWN,
      MetricName: 'LedgerUnreachable',
      within: 2,
      description:
        'The ledger was unavailable, so nothing was switched. Read the message in the log: it names the remedy.',
      advice: [
        'If a table was deleted: [A lost ledger](../how-to/ledger-lost.md).',
        'Callbacks try again for ten minutes, Lambda for three.',
      ],
    },
    'function-errors': {
      ...FUNCTION,
      MetricName: 'Errors',
      within: 2,
      description:
        'The function ended with an error. A valid EventBridge event could not be recorded, or the function could not start. Read the error in the log.',
      advice: [
        'Lambda tries an event twice more. Then it puts the event into [the failure queue](../how-to/redrive.md).',
      ],
    },
  },
  'Act this week': {
    'not-ready': {
      ...OWN,
      isState: true,
      MetricName: 'NotReady',
      Statistic: 'Maximum',
      // Daily inspections.
      within: 24 * 60 + 3,
      description:
        'A failover would leave Barman on the old primary. A server cannot be switched, or a member of a cluster is not ready. Run npm run ledger -- --stage STAGE check, which names server, member and remedy.',
      advice: [
        '[What each finding means](findings.md#ready). Run `check` after a repair: it ends the alarm.',
        'A heartbeat also finds a server that pg-backup-api refuses. Three causes are usual:',
        '  Barman does not have the server: its name is misspelt, or it was removed. Correct the name in the callback and in `clusters/NAME`, and [forget](../how-to/remove-a-node-or-server.md#forget-a-server) the wrong one.',
        '  [Its item cannot be read](../how-to/read-the-ledger.md#an-item-that-cannot-be-read).',
        '  Its list of operations is 500: [a broken job file](../how-to/broken-job-file.md).',
        'The alarm is also raised if there was no successful inspection for two days.',
        'A member that is unknown or unreachable counts once two daily inspections have found it so: within 48 h.',
      ],
    },
    'invalid-args': {
      ...OWN,
      MetricName: 'INVALID_ARGS',
      within: 2,
      description:
        'An authenticated sender sent an invalid role change (ExitCode 4), which was not applied. Read the message in the log: it names the field. Correct the sender.',
      advice: [
        'It is not tried again, even if it came from EventBridge.',
        'If Barman is not set to the leader now, run `npm run ledger -- --stage STAGE set SERVER MODEL`.',
      ],
    },
    'wrong-cluster': {
      ...OWN,
      MetricName: 'WrongCluster',
      within: 2,
      description:
        'A webhook was signed with the secret of a cluster that may not switch its Barman server. It was not applied (403). Read the message in the log: it names server and parameter.',
      advice: [
        'Add the server to `servers` in that parameter, or give the node the secret of its own cluster.',
        'If neither is right, a secret is being used for a server of another team.',
      ],
    },
    'webhooks-rejected': {
      ...OWN,
      MetricName: 'WebhookRejected',
      Period: 300,
      Threshold: 5,
      within: 7,
      description:
        'Five or more webhooks were rejected within 5 minutes. None of them was applied. Read the field rejected in the log. The signature or the timestamp is wrong, or the secret is unreadable.',
      advice: [
        '`signature`: the secret of a node is an old one, or a stranger sent it.',
        '`timestamp`: the clock of a node is more than 5 minutes off.',
        '`secret unreadable`: the log names the parameter and the remedy. Webhooks get 503.',
        '`payload format`: the function is behind another API than the one of its stage.',
        '`body too large`: no callback sends that.',
        'The senders are in the field `ip` of the access log, `/aws/vendedlogs/http-api/barman-config-switch-<stage>`.',
      ],
    },
    'undeliverable-events': {
      ...QUEUE,
      isState: true,
      MetricName: 'ApproximateNumberOfMessagesVisible',
      Statistic: 'Maximum',
      within: 7,
      description:
        'Role changes that could not be recorded are in the failure queue. They were not applied. Fix the cause, then run npm run ledger -- --stage STAGE redrive.',
      advice: ['[Send the events again](../how-to/redrive.md) within 14 days. Then they are deleted.'],
    },
    ...Object.fromEntries([30, 7].map((days) => [`certificate-${days}-days`, expires(days)])),
    reconciled: {
      ...OWN,
      MetricName: 'Reconciled',
      within: 2,
      description:
        "Patroni named another leader than the events had, and Barman was set to it. A callback is broken somewhere. Read the callback's log on the leader that the message in the log names.",
      advice: [
        'Run the callback there with `--dry-run`.',
        "If Barman is to follow another node than the leader, write `{}` for the server in the cluster's parameter.",
      ],
    },
    'leader-unknown': {
      ...OWN,
      MetricName: 'LeaderUnknownEntered',
      within: 12,
      description:
        "The leader of a Patroni cluster has been unknown for 10 minutes. If an event is lost now, Barman does not follow. Read the heartbeat's warnings in the log: they name the cluster and the reason.",
      advice: [
        'Typical reasons:',
        '  There is no leader.',
        '  The function cannot reach the REST API. Look at `patroni-hosts` and `patroni-port`.',
        '  A CA or a client certificate is missing.',
        '  The leader has no model or no URL in the parameter of its cluster, or that parameter is malformed.',
        '  There are [several sites](../how-to/standby-site.md). Several have a primary, their system identifiers differ, or another site is waited for (five minutes).',
      ],
    },
    'paused-pending': {
      ...OWN,
      isState: true,
      MetricName: 'PausedPendingAge',
      Statistic: 'Maximum',
      Threshold: 4 * 3_600,
      unit: 's',
      within: 243,
      description:
        'A server has been paused for 4 hours, and a desired state is pending for it. Barman may use the old primary. Run npm run ledger -- --stage STAGE, which shows what to run. That is resume SERVER or, after pause --all, resume --all.',
      advice: ['A pause that ends by itself (`--for`) raises no alarm.'],
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
    within: 3,
    description: `In ${days} days or less, a certificate expires. Read the heartbeat's warning in the log: it names the parameter. Write a new one.`,
    advice:
      days < 30
        ? ['What to do: [certificate-30-days](#certificate-30-days).']
        : [
            'How: [rotate](../how-to/rotate.md).',
            'After `client-cert` or `ca-cert` has expired, no role change can be applied. After `patroni-…` has expired, Patroni cannot be asked.',
          ],
  };
}

const camelCase = (name: string) => name.replace(/(?:^|-)(.)/g, (_, letter: string) => letter.toUpperCase());

/** Returns the condition of an alarm, whole. */
export function conditionOf(alarm: Alarm): Condition {
  const { Statistic, Period, EvaluationPeriods, ComparisonOperator, Threshold, TreatMissingData } = {
    ...DEFAULTS,
    ...(alarm.isState && { TreatMissingData: 'ignore' as const }),
    ...alarm,
  };
  return { Statistic, Period, EvaluationPeriods, ComparisonOperator, Threshold, TreatMissingData };
}

/** Returns what an alarm watches: a metric, or the result of metric math. */
function watched({ Namespace, MetricName, Dimensions, fill }: Alarm, { Statistic, Period }: Condition) {
  const Metric = { Namespace, MetricName, Dimensions };
  if (fill === undefined) return { ...Metric, Statistic, Period };
  const [Id, expression] = ['reported', 'filled'];
  return {
    Metrics: [
      { Id, MetricStat: { Metric, Period, Stat: Statistic }, ReturnData: false },
      { Id: expression, Expression: `FILL(${Id}, ${fill})`, Label: MetricName, ReturnData: true },
    ],
  };
}

function resource(urgency: string, name: string, alarm: Alarm) {
  const { Statistic: _, Period: __, ...compared } = conditionOf(alarm);
  return {
    Type: 'AWS::CloudWatch::Alarm',
    Properties: {
      AlarmName: `${STAGE}-${name}`,
      AlarmDescription: `${urgency}. ${alarm.description} (docs/reference/alarms.md#${name})`,
      ...watched(alarm, conditionOf(alarm)),
      ...compared,
      AlarmActions: ['${self:custom.chosen.alarm-topic.arn}'],
      ...(alarm.isState && { OKActions: '${self:custom.chosen.alarm-topic.ok}' }),
    },
  };
}

/**
 * Returns the alarms for serverless.yml.
 *
 * @param environment `WITHOUT_METRIC_MATH=true` leaves out the alarms with metric math, and says so: only for
 *   an emulator that refuses them, never on AWS
 */
export function alarmsFor(environment: { readonly WITHOUT_METRIC_MATH?: string | undefined }) {
  const isLeftOut = ({ fill }: Alarm) => environment.WITHOUT_METRIC_MATH === 'true' && fill !== undefined;
  const all = Object.entries(ALARMS).flatMap(([urgency, group]) =>
    Object.entries(group).map(([name, alarm]) => ({ urgency, name, alarm })),
  );
  for (const { name, alarm } of all) {
    if (isLeftOut(alarm))
      process.stderr.write(`WITHOUT_METRIC_MATH is true: this stage has no alarm ${name}\n`);
  }
  return {
    Resources: Object.fromEntries(
      all
        .filter(({ alarm }) => !isLeftOut(alarm))
        .map(({ urgency, name, alarm }) => [`${camelCase(name)}Alarm`, resource(urgency, name, alarm)]),
    ),
  };
}

/** For serverless.yml. */
export const alarms = alarmsFor(process.env);
