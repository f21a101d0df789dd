/** docs/reference/permissions.md: the policies that it names for a command are sufficient, and each is needed. */

import { execFileSync } from 'node:child_process';
import { cpSync, globSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { LEDGER } from '../../cli/ledger.ts';
import { documentedBlock, shellBlocks } from '../documentation.ts';
import { functionArn, OSLS_CALLS, ofStage, RELEASE_CALLS, STACK } from './deployment-calls.ts';
import { ACCOUNT, arn, type Call, calls, type Policy, REGION, readPolicy, simulate } from './simulate.ts';
import { OPTIONAL } from './template.ts';

const PAGE = 'docs/reference/permissions.md';

const TABLE = arn('dynamodb', `table/${STACK}`);
const EVENTS = `${TABLE}-events`;
const QUEUE = arn('sqs', `${STACK}-failures`);
const LOGS = ['/aws/lambda/', '/aws/vendedlogs/http-api/'].map((path) =>
  arn('logs', `log-group:${path}${STACK}`),
);
const PARAMETERS = arn('ssm', 'parameter/barman-config-switch/prod');
const CLUSTER = `${PARAMETERS}/clusters/main`;
const { key: KEY, 'parameters-key': PARAMETERS_KEY } = OPTIONAL;
const via = (service: string) => ({ 'kms:ViaService': `${service}.${REGION}.amazonaws.com` });

const READ = [...calls('dynamodb', 'GetItem Scan', TABLE), ...calls('kms', 'Decrypt', KEY, via('dynamodb'))];
const UPDATE = calls('dynamodb', 'UpdateItem', TABLE);
const INVOKE = calls('lambda', 'InvokeFunction', functionArn(STACK));
const INSPECT = calls('lambda', 'InvokeFunction', functionArn(STACK, 'inspection'));
const RESTORED = `${TABLE}-restored`;

/** Two of the calls of CloudFormation; iam.test.ts has them all. */
const HANDLERS = [
  ...calls('lambda', 'UpdateFunctionCode', functionArn(STACK)),
  ...calls('ec2', 'DescribeSecurityGroups', '*'),
];

/** What each entry of the page's table calls. */
const CALLS: Readonly<Record<string, readonly Call[]>> = {
  'npm run ledger': READ,
  check: [...READ, ...INSPECT],
  'the log': LOGS.flatMap((group) => [
    ...calls('logs', 'DescribeLogStreams FilterLogEvents StartQuery GetLogGroupFields GetLogRecord', group),
    ...calls('logs', 'GetLogEvents', `${group}:log-stream:2026-11-29`),
    ...calls('logs', 'DescribeLogGroups GetQueryResults StopQuery', '*'),
  ]),
  'the dashboard': [
    ...calls('cloudwatch', 'GetDashboard', arn('cloudwatch', `dashboard/${STACK}-${REGION}`, `:${ACCOUNT}`)),
    ...calls('cloudwatch', 'ListDashboards GetMetricData ListMetrics', '*'),
  ],
  'the alarms': calls('cloudwatch', 'DescribeAlarms DescribeAlarmHistory', '*'),
  // aws-cli, awscli/customizations/logs/tail.py: it pages through FilterLogEvents.
  'aws logs tail': LOGS.flatMap((group) => calls('logs', 'FilterLogEvents', group)),
  'aws cloudwatch describe-alarms': calls('cloudwatch', 'DescribeAlarms', '*'),
  'aws cloudwatch set-alarm-state': calls(
    'cloudwatch',
    'SetAlarmState',
    arn('cloudwatch', `alarm:${STACK}-switch-failed`),
  ),
  retry: [...READ, ...UPDATE, ...INVOKE],
  pause: [...READ, ...UPDATE],
  resume: [...READ, ...UPDATE],
  set: [...READ, ...INVOKE],
  reset: [...READ, ...INVOKE],
  forget: [...READ, ...UPDATE, ...INVOKE, ...calls('dynamodb', 'DeleteItem', TABLE)],
  redrive: [
    ...READ,
    ...INVOKE,
    ...calls(
      'sqs',
      'GetQueueUrl GetQueueAttributes ReceiveMessage ChangeMessageVisibility DeleteMessage',
      QUEUE,
    ),
    ...calls('kms', 'Decrypt', KEY, via('sqs')),
  ],
  'aws lambda invoke': [...INVOKE, ...INSPECT],
  'aws ssm put-parameter': [
    ...calls('ssm', 'PutParameter', CLUSTER),
    // A large one is encrypted with a data key (Systems Manager, "How Parameter Store uses AWS KMS").
    ...calls('kms', 'Encrypt GenerateDataKey', PARAMETERS_KEY, via('ssm')),
  ],
  'aws ssm get-parameter': [
    ...calls('ssm', 'GetParameter GetParameters GetParameterHistory', CLUSTER),
    ...calls('kms', 'Decrypt', PARAMETERS_KEY, via('ssm')),
  ],
  'aws ssm get-parameters-by-path': ['', '/'].flatMap((end) =>
    calls('ssm', 'GetParametersByPath', `${PARAMETERS}${end}`),
  ),
  'aws ssm delete-parameters': calls('ssm', 'DeleteParameter DeleteParameters', CLUSTER),
  'npm run deploy': OSLS_CALLS,
  'npm run remove': [
    ...OSLS_CALLS,
    ...calls('ec2', 'DescribeSecurityGroups DescribeSecurityGroupRules', '*'),
  ],
  'npx serverless info': OSLS_CALLS,
  'npx serverless deploy': OSLS_CALLS,
  'npx serverless rollback': OSLS_CALLS,
  'aws s3 cp': RELEASE_CALLS,
  'aws cloudformation deploy': [...RELEASE_CALLS, ...HANDLERS],
  'aws cloudformation create-change-set': [
    ...RELEASE_CALLS,
    ...HANDLERS,
    // Whether --import-existing-resources has the key, AWS does not say.
    ...calls('cloudformation', 'CreateChangeSet', arn('cloudformation', `stack/${STACK}/1`), {
      'cloudformation:ImportResourceTypes': 'AWS::DynamoDB::Table',
    }),
  ],
  'aws cloudformation execute-change-set': [...RELEASE_CALLS, ...HANDLERS],
  'aws cloudformation update-stack': [...RELEASE_CALLS, ...HANDLERS],
  'aws cloudformation delete-stack': [...RELEASE_CALLS, ...HANDLERS],
  'aws cloudformation update-termination-protection': RELEASE_CALLS,
  'aws cloudformation wait': RELEASE_CALLS,
  'aws dynamodb delete-table': [TABLE, EVENTS].flatMap((table) => calls('dynamodb', 'DeleteTable', table)),
  'aws dynamodb update-table': [TABLE, EVENTS].flatMap((table) => calls('dynamodb', 'UpdateTable', table)),
  'aws logs delete-log-group': LOGS.flatMap((group) => calls('logs', 'DeleteLogGroup', group)),
  'aws ec2 describe-managed-prefix-lists': calls('ec2', 'DescribeManagedPrefixLists', '*'),
  'aws dynamodb': [
    ...calls('dynamodb', 'ListBackups', '*'),
    ...[TABLE, EVENTS].flatMap((table) => [
      ...calls(
        'dynamodb',
        'DescribeBackup RestoreTableFromBackup',
        `${table}/backup/01234567890123-abcdefab`,
      ),
      // What a restoration needs on its target (DynamoDB Developer Guide, "Restoring a table from a backup").
      ...calls(
        'dynamodb',
        'RestoreTableFromBackup RestoreTableToPointInTime BatchWriteItem DeleteItem GetItem PutItem Query Scan UpdateItem',
        table,
      ),
      ...calls(
        'dynamodb',
        'CreateTable DescribeTable TagResource UpdateTable UpdateContinuousBackups DescribeContinuousBackups UpdateTimeToLive DescribeTimeToLive',
        table,
      ),
    ]),
    ...calls('dynamodb', 'RestoreTableToPointInTime DescribeTable GetItem DeleteTable', RESTORED),
    ...calls('sqs', 'PurgeQueue', QUEUE),
  ],
};

/** What each of them may not do. */
const DENIED: Readonly<Record<string, readonly [string[], readonly Call[]]>> = {
  'who looks': [
    ['look'],
    [
      ...INVOKE,
      ...calls('lambda', 'InvokeFunction', functionArn(STACK, 'heartbeat')),
      ...calls('lambda', 'UpdateFunctionCode GetFunction', functionArn(STACK)),
      ...calls('dynamodb', 'UpdateItem PutItem DeleteItem', TABLE),
      ...calls('dynamodb', 'GetItem Scan', EVENTS),
      ...calls('ssm', 'GetParameter', CLUSTER),
      ...calls('ssm', 'GetParametersByPath', PARAMETERS),
      ...calls('sqs', 'ReceiveMessage', QUEUE),
      ...calls('logs', 'FilterLogEvents', arn('logs', 'log-group:/aws/lambda/payroll')),
      ...calls('kms', 'Decrypt', KEY),
      ...calls('kms', 'Decrypt', PARAMETERS_KEY, via('ssm')),
      ...calls('cloudwatch', 'DeleteAlarms SetAlarmState', arn('cloudwatch', `alarm:${STACK}-pending`)),
    ],
  ],
  'who operates': [
    ['look', 'operate'],
    [
      ...calls('lambda', 'InvokeFunction', functionArn(STACK, 'heartbeat')),
      ...calls('lambda', 'UpdateFunctionCode', functionArn(STACK)),
      ...calls('dynamodb', 'PutItem DeleteTable', TABLE),
      ...calls('dynamodb', 'DeleteItem GetItem', EVENTS),
      ...calls('ssm', 'GetParameter PutParameter', CLUSTER),
      ...calls('sqs', 'PurgeQueue SendMessage', QUEUE),
      ...calls('kms', 'Decrypt', PARAMETERS_KEY, via('ssm')),
      ...calls('iam', 'PassRole', arn('iam', `role/${STACK}-${REGION}`, `:${ACCOUNT}`)),
      ...calls('cloudformation', 'DeleteStack', arn('cloudformation', `stack/${STACK}/1`)),
      ...calls('cloudwatch', 'DeleteAlarms DisableAlarmActions', arn('cloudwatch', `alarm:${STACK}-pending`)),
      ...calls('cloudwatch', 'SetAlarmState', arn('cloudwatch', 'alarm:payroll')),
    ],
  ],
  'who writes parameters': [
    ['rotate'],
    [
      ...INVOKE,
      ...READ,
      ...calls('ssm', 'GetParameter PutParameter', arn('ssm', 'parameter/payroll')),
      ...calls('kms', 'Decrypt', PARAMETERS_KEY),
    ],
  ],
  'who restores': [
    ['restore'],
    [
      ...calls('dynamodb', 'DeleteTable', TABLE),
      ...calls('dynamodb', 'DeleteBackup', `${TABLE}/backup/01234567890123-abcdefab`),
      ...calls('dynamodb', 'GetItem', arn('dynamodb', 'table/payroll')),
      ...INVOKE,
    ],
  ],
};

/** Rows of the page's table. */
const ROWS = [...readFileSync(PAGE, 'utf8').matchAll(/^\| (?!what )(.*) \| ((?:`\w+`(?:, )?)+) \|$/gm)]
  .map(([, entries = '', policies = '']) => ({
    entries: entries.replaceAll('`', '').split(', '),
    policies: policies.replaceAll('`', '').split(', '),
  }))
  .filter(({ entries }) => entries.some((entry) => entry in CALLS));

test('the page has what is simulated, and nothing else', () => {
  expect(ROWS.flatMap(({ entries }) => entries).toSorted()).toEqual(Object.keys(CALLS).toSorted());
});

describe.each(ROWS)('$policies', ({ entries, policies }) => {
  test.each(entries)('allow %s, each of them', async (entry) => {
    const called = CALLS[entry] ?? [];
    expect((await simulate(policies.map(readPolicy), called)).denied).toEqual([]);
    const others = called.flatMap((call) => ofStage('test', call) ?? []);
    expect((await simulate(policies.map(readPolicy), others)).allowed).toEqual([]);
  });

  test.each(policies)('are all needed: %s', async (policy) => {
    const rest = policies.filter((name) => name !== policy).map(readPolicy);
    const called = entries.flatMap((entry) => CALLS[entry] ?? []);
    expect((await simulate(rest, called)).denied).not.toEqual([]);
  });
});

test.each(Object.entries(DENIED))('%s is denied everything else', async (_, [policies, refused]) => {
  expect((await simulate(policies.map(readPolicy), refused)).allowed).toEqual([]);
});

test('with a key, its policy allows who restores what choosing the key of a table needs', async () => {
  const needed = [
    ...calls(
      'kms',
      'CreateGrant Decrypt Encrypt GenerateDataKey ReEncryptFrom ReEncryptTo',
      KEY,
      via('dynamodb'),
    ),
    ...calls('kms', 'DescribeKey', KEY),
  ];
  expect((await simulate(['restore', 'key'].map(readPolicy), needed)).denied).toEqual([]);
});

test('no policy has an action that no command needs', () => {
  const needed = new Set(Object.values(CALLS).flatMap((called) => called.map(({ action }) => action)));
  const actions = ['look', 'operate', 'rotate', 'restore'].flatMap((name) =>
    readPolicy(name).Statement.flatMap(({ Action }) => Action),
  );
  expect(actions.filter((action) => !needed.has(action))).toEqual([]);
});

test('each command of the ledger is on the page', () => {
  const commands = (LEDGER.operands ?? []).map(([typed]) => /^[a-z]+/.exec(typed)?.[0] ?? 'npm run ledger');
  expect(commands.length).toBeGreaterThan(10);
  expect(commands.filter((command) => !(command in CALLS))).toEqual([]);
});

test('each documented command of AWS and osls is on the page', () => {
  const blocks = globSync(['README.md', 'docs/**/*.md']).flatMap(shellBlocks).join('\n');
  const used = blocks.matchAll(/\b(aws [a-z0-9]+ [a-z-]+|npx serverless \w+)/g);
  const commands = [...new Set([...used].map(([, command = '']) => command))];
  const entries = [...Object.keys(CALLS), 'aws iam', 'aws kms', 'aws ec2', 'aws sts'];
  expect(commands.length).toBeGreaterThan(5);
  expect(commands.filter((command) => !entries.some((entry) => command.startsWith(entry)))).toEqual([]);
});

test('the calls of the commands are those of their code', () => {
  const sources = readdirSync('cli').map((file) => readFileSync(join('cli', file), 'utf8'));
  const adapter = readFileSync('functions/config-switch/ledger/dynamodb.ts', 'utf8');
  // The commands do not use the table of events.
  sources.push(adapter.replace(/^export class DynamoDbEvents .*?^}$/ms, ''));
  const used = sources.flatMap((text) => [...text.matchAll(/\bnew (\w+)Command\(|\bpaginate(\w+)\(/g)]);
  const names = new Set(used.map(([, command, pages]) => command ?? pages ?? ''));
  const called = new Set(
    Object.values(CALLS).flatMap((some) => some.map(({ action }) => action.replace(/.*:/, ''))),
  );
  expect(names.size).toBeGreaterThan(8);
  expect([...names].filter((name) => !called.has(name.replace(/^Invoke$/, 'InvokeFunction')))).toEqual([]);
});

describe('the commands that create the policies', () => {
  const folder = mkdtempSync(join(tmpdir(), 'policies-'));
  cpSync('docs/iam', join(folder, 'docs/iam'), { recursive: true });
  const run = (block: string) =>
    execFileSync('bash', ['-ec', `aws() { echo "$*"; }\n${block}`], { cwd: folder, encoding: 'utf8' });
  const created = (name: string) =>
    JSON.parse(readFileSync(join(folder, 'policies', `${name}.json`), 'utf8')) as Policy;

  test('make them for another stage', async () => {
    try {
      run(documentedBlock('docs/reference/permissions.md', 'cp -r docs/iam policies'));
      const commands = run(documentedBlock('docs/reference/permissions.md', 'for name in deploy'))
        .trim()
        .split('\n');
      for (const command of commands)
        expect(command).toMatch(/barman-config-switch-test1-(\w+) .*policies\/\1\.json$/);

      const policies = [created('deploy'), created('network'), created('look'), created('operate')];
      const own = [...OSLS_CALLS, ...RELEASE_CALLS, ...READ, ...INVOKE];
      const others = own.map((call) => ofStage('test1', call) ?? call);
      expect((await simulate(policies, others)).denied).toEqual([]);
      const named = own.filter((call) => ofStage('test1', call));
      expect((await simulate(policies, named)).allowed).toEqual([]);

      const route = (id: string) =>
        calls('apigateway', 'DELETE', arn('apigateway', `/apis/${id}/routes/x`, `${REGION}:`));
      const both = [...route('a1b2c3d4e5'), ...route('other')];
      expect((await simulate([created('network')], both)).denied).toEqual([]);
      run(documentedBlock('docs/reference/permissions.md', 'sed -i.bak "s|'));
      const { allowed, denied } = await simulate([created('network')], both);
      expect([allowed.length, denied.length]).toEqual([1, 1]);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
