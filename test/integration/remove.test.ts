/** `npm run remove`: what it says, and what stops it, before anything is removed. The AWS CLI is a stand-in. */

import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, expect, test, vi } from 'vitest';
import { run } from '../../cli/command-line.ts';
import { REMOVE, remove } from '../../cli/remove.ts';
import { runCommand } from './command.ts';

const GROUP = 'sg-00000001';
const folder = mkdtempSync(join(tmpdir(), 'barman-config-switch-remove-'));

/** What the AWS CLI prints, by its second word. */
interface Answers {
  'describe-stacks'?: unknown;
  'list-stack-resources'?: unknown;
  'describe-security-groups'?: unknown;
  'describe-security-group-rules'?: unknown;
}

/** Installs the stand-in. A word without an answer is an error of AWS. */
function answer(answers: Answers) {
  const cases = Object.entries(answers).map(
    ([word, value]) => `${word}) cat <<'EOF'\n${JSON.stringify(value)}\nEOF\n;;`,
  );
  writeFileSync(
    join(folder, 'aws'),
    `#!/bin/sh\ncase $2 in\n${cases.join('\n')}\n*) echo "Stack with id x does not exist" >&2; exit 254;; esac\n`,
  );
  chmodSync(join(folder, 'aws'), 0o755);
}

const rule = (id: string, GroupId: string, more = {}) => ({
  ...{ SecurityGroupRuleId: id, GroupId, IsEgress: false, ReferencedGroupInfo: { GroupId: GROUP } },
  ...more,
});

const DEPLOYED = {
  'describe-stacks': { Stacks: [{ EnableTerminationProtection: false }] },
  'list-stack-resources': {
    StackResourceSummaries: Object.entries({
      FunctionSecurityGroup: GROUP,
      SsmEndpointSecurityGroup: 'sg-00000002',
      SsmIngress: 'sgr-00000003',
      LedgerTable: 'barman-config-switch-test',
      LedgerEndpoint: 'vpce-00000001',
    }).map(([LogicalResourceId, PhysicalResourceId]) => ({ LogicalResourceId, PhysicalResourceId })),
  },
  'describe-security-groups': { SecurityGroups: [{ GroupId: 'sg-00000002' }, { GroupId: 'sg-00000009' }] },
  'describe-security-group-rules': {
    SecurityGroupRules: [rule('sgr-00000002', 'sg-00000002'), rule('sgr-00000003', 'sg-00000009')],
  },
} satisfies Answers;

const type = (...args: string[]) =>
  runCommand(() => run(REMOVE, remove, ['--stage', 'test', '--region', 'eu-west-1', ...args]));

beforeEach(() => {
  vi.stubEnv('PATH', `${folder}:${process.env.PATH}`);
  answer(DEPLOYED);
});
afterAll(() => {
  vi.unstubAllEnvs();
  rmSync(folder, { recursive: true });
});

test('without --yes › says how long it takes, what changes and what stays, and removes nothing', async () => {
  const { status, log, error } = await type();
  expect([status, error]).toEqual([1, '']);
  expect(log).toContain('20 to 40 minutes');
  expect(log).toContain('another URL');
  expect(log).toContain(
    'aws dynamodb delete-table --table-name barman-config-switch-test --region eu-west-1\n',
  );
  expect(log).toContain('aws ec2 delete-vpc-endpoints --vpc-endpoint-ids vpce-00000001 --region eu-west-1\n');
  expect(log).not.toContain('logs');
  expect(log).toMatch(/Nothing was removed\. To remove the stage, add --yes\.\n$/);
});

test('a first deployment that failed › has nothing that stays, as it was deleted again', async () => {
  const { StackResourceSummaries } = DEPLOYED['list-stack-resources'];
  const deleted = StackResourceSummaries.map((one) => ({ ...one, ResourceStatus: 'DELETE_COMPLETE' }));
  answer({ ...DEPLOYED, 'list-stack-resources': { StackResourceSummaries: deleted } });
  const { log, error } = await type();
  expect(error).toBe('');
  expect(log).not.toMatch(/These stay|delete-/);
  expect(log).toContain('The function parameters stay');
});

test('the region › is that of --param, unless --region is given', async () => {
  expect((await type('--param', 'region=us-east-1')).log).toContain('The stage test in eu-west-1,');
  const without = await runCommand(() =>
    run(REMOVE, remove, ['--stage', 'test', '--param', 'region=us-east-1']),
  );
  expect(without.log).toContain('The stage test in us-east-1,');
});

test('rules of other security groups that name that of the function › are refused, each with the command that removes it', async () => {
  answer({
    ...DEPLOYED,
    'describe-security-group-rules': {
      SecurityGroupRules: [
        ...DEPLOYED['describe-security-group-rules'].SecurityGroupRules,
        rule('sgr-00000004', 'sg-00000009'),
        rule('sgr-00000005', 'sg-00000009', { IsEgress: true }),
        rule('sgr-00000006', 'sg-00000009', { ReferencedGroupInfo: { GroupId: 'sg-00000008' } }),
        rule('sgr-00000007', 'sg-00000009', { ReferencedGroupInfo: undefined }),
      ],
    },
  });
  const { status, log, error } = await type('--yes');
  expect([status, log]).toEqual([1, '']);
  expect(error).toContain(`name the function's, ${GROUP}`);
  expect(error).toContain('nothing was removed');
  expect(error.match(/aws .*/g)).toEqual([
    'aws ec2 revoke-security-group-ingress --group-id sg-00000009 --security-group-rule-ids sgr-00000004 --region eu-west-1',
    'aws ec2 revoke-security-group-egress --group-id sg-00000009 --security-group-rule-ids sgr-00000005 --region eu-west-1',
  ]);
});

test('a protected stage › is refused with the command that allows it', async () => {
  answer({ ...DEPLOYED, 'describe-stacks': { Stacks: [{ EnableTerminationProtection: true }] } });
  const { status, error } = await type('--yes');
  expect(status).toBe(1);
  expect(error).toMatch(/deletion protection is enabled.*--no-enable-termination-protection/s);
});

test('a stage that is not deployed › is named', async () => {
  answer({});
  const { status, error } = await type('--yes');
  expect(status).toBe(1);
  expect(error).toMatch(/^unknown stage test: eu-west-1 has no stack barman-config-switch-test /);
});

test('without the AWS CLI › says that it is needed', async () => {
  vi.stubEnv('PATH', '/nowhere');
  const { status, error } = await type();
  expect(status).toBe(1);
  expect(error).toMatch(/^the AWS CLI did not start; install it: /);
});
