/** The command lines: each has --help, and a wrong one ends with one message and exit status 4. */

import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { run } from '../../cli/command-line.ts';
import { CONTRACT, contract } from '../../cli/contract.ts';
import { documentedCommands, LEDGER, ledger } from '../../cli/ledger.ts';
import { RELEASE, release } from '../../cli/release.ts';
import { REMOVE, remove } from '../../cli/remove.ts';
import { SEND, sendRoleChange } from '../local/send.ts';
import { START, startLocal } from '../local/start.ts';
import { runCommand } from './command.ts';

const PROGRAMS: Record<string, (args: string[]) => Promise<number>> = {
  'npm run ledger': (args) => run(LEDGER, ledger, args),
  'npm run contract': (args) => run(CONTRACT, contract, args),
  'npm run release': (args) => run(RELEASE, release, args),
  'npm run remove': (args) => run(REMOVE, remove, args),
  'npm start': (args) => run(START, startLocal, args),
  'npm run webhook': (args) => run(SEND.webhook, sendRoleChange('webhook'), args),
  'npm run invoke': (args) => run(SEND.invoke, sendRoleChange('invoke'), args),
};

/** Runs a command line, such as `npm start -- --once`. */
async function type(line: string) {
  const [name = '', args] = line.split(' -- ');
  return await runCommand(async () => (await PROGRAMS[name]?.(args ? args.split(' ') : [])) ?? -1);
}

describe.each(Object.keys(PROGRAMS))('%s', (name) => {
  test('has --help', async () => {
    const { status, log, error } = await type(`${name} -- --nonsense --help`);
    expect([status, error]).toEqual([0, '']);
    expect(log).toMatch(new RegExp(`^usage: ${name} -- …\n\n\\S.*\n\n(  \\S.*\n)+$`));
    expect(log).toMatch(/^ {2}--help +shows this$/m);
  });

  test('rejects an unknown option', async () => {
    expect(await type(`${name} -- --nonsense`)).toEqual({
      status: 4,
      log: '',
      error: `Unknown option '--nonsense'\n${name} -- --help shows what is valid.\n`,
    });
  });
});

test.each([
  ['npm run ledger -- --watch --json', '--watch and --json exclude each other'],
  ['npm run ledger -- retry main --watch', '--watch is for another command'],
  ['npm run ledger -- --for 2h', '--for is for another command'],
  ['npm run ledger -- redrive --json', '--json is for another command'],
  ['npm run ledger -- check --for 2h', '--for is for another command'],
  ['npm run ledger -- pause main --for ever', '--for must be .* such as 90m, 2h or 3d, not "ever"'],
  ['npm run ledger -- pause', 'expected: pause SERVER '],
  ['npm run ledger -- pause main crm', 'expected: pause SERVER '],
  ['npm run ledger -- check main', 'expected: check'],
  ['npm run ledger -- drop main', 'unknown command drop'],
  ['npm run ledger -- dr\u202eop\u009b main', 'unknown command dr\\\\u202eop\\\\u009b'],
  ['npm run ledger -- constructor main', 'unknown command constructor'],
  ['npm run ledger -- forget main --for 2h', '--for is for another command'],
  ['npm run ledger -- pause --all --cluster=', '--all and --cluster exclude each other'],
  [
    'npm run ledger -- set main a/b',
    'MODEL must start with a letter, .* as in the configuration of Barman, not "a/b"',
  ],
  ...['pause', 'resume', 'retry', 'reset', 'forget', 'forget --force'].map((command) => [
    `npm run ledger -- ${command} @stage`,
    'SERVER must start with a letter, .* as in the configuration of Barman, not "@stage"',
  ]),
  ['npm run ledger -- set @stage m', 'SERVER must start with a letter, '],
  [`npm run ledger -- pause ${'s'.repeat(256)}`, 'SERVER must have at most 255 characters, not "s+… '],
  ['npm run ledger -- --stage', "Option '--stage <value>' argument missing"],
  ['npm run contract -- --server main --model m', '--url: give the URL of pg-backup-api'],
  ['npm run contract -- --url barman --server main --model m', '--url: give the URL of pg-backup-api'],
  ['npm run contract -- --url http://127.0.0.1:1 --model m', '--server: give a Barman server'],
  ['npm run contract -- --url http://127.0.0.1:1 --server main', '--model: give a model'],
  ['npm run contract -- --url https://127.0.0.1:1 --server main --model m', '--client-cert: give the'],
  [
    'npm run contract -- --url https://127.0.0.1:1 --server main --model m --client-cert /nowhere',
    '--client-cert: ENOENT',
  ],
  ['npm run release -- prod', "Unexpected argument 'prod'"],
  ['npm start -- --port web', '--port must be a port number, not "web"'],
  ['npm start -- --apply', '--apply needs --pg-backup-api'],
  ['npm start -- --patroni http://127.0.0.1:1', '--patroni needs --pg-backup-api'],
  ['npm start -- --pg-backup-api https://127.0.0.1:1', 'give either --patroni, .*, or --cluster'],
  [
    'npm start -- --pg-backup-api https://127.0.0.1:1 --patroni http://127.0.0.1:1 --cluster x',
    'give either --patroni, .*, or --cluster',
  ],
  [
    'npm start -- --pg-backup-api https://127.0.0.1:1 --cluster x --barman-server main',
    '--barman-server is for --patroni',
  ],
  [
    'npm start -- --pg-backup-api barman --patroni http://127.0.0.1:1',
    '--pg-backup-api is not an https:// URL; expected the URL of pg-backup-api',
  ],
  [
    'npm start -- --pg-backup-api http://127.0.0.1:1 --patroni http://127.0.0.1:1',
    '--pg-backup-api is an http:// URL, .*, or --allow-plain-http',
  ],
  [
    'npm start -- --pg-backup-api https://127.0.0.1:1 --patroni http://127.0.0.1:1',
    '--client-cert is missing; expected the client certificate in PEM',
  ],
  [
    'npm start -- --pg-backup-api https://127.0.0.1:1 --patroni http://127.0.0.1:1 --client-cert /nowhere',
    "--client-cert: ENOENT: .* '/nowhere'; give the path",
  ],
  [
    'npm start -- --pg-backup-api https://127.0.0.1:1 --patroni http://127.0.0.1:1 --client-cert package.json --client-key package.json',
    '--client-cert is malformed; expected a certificate in PEM',
  ],
  [
    'npm start -- --pg-backup-api http://127.0.0.1:1 --allow-plain-http --patroni ftp://127.0.0.1:1',
    '--patroni is malformed: patroni.0 must be an http:// or https:// URL',
  ],
  [
    'npm start -- --pg-backup-api http://127.0.0.1:1 --allow-plain-http --cluster /nowhere',
    '--cluster: ENOENT: ',
  ],
  [
    'npm start -- --pg-backup-api http://127.0.0.1:1 --allow-plain-http --cluster package.json',
    '--cluster: package.json is malformed: servers is missing; ',
  ],
  [
    'npm start -- --pg-backup-api http://127.0.0.1:1 --allow-plain-http --patroni http://127.0.0.1:1 --once --apply',
    '--once ends before anything is applied',
  ],
  ['npm run webhook -- --age-ms old', '--age-ms must be a number of milliseconds, not "old"'],
])('%s › is rejected with the reason', async (line = '', reason = '') => {
  const { status, error } = await type(line);
  expect([status, error]).toEqual([
    4,
    expect.stringMatching(new RegExp(`^${reason}.*\n.* --help shows what is valid.\n$`)),
  ]);
});

test('npm run release › does not know a stage that has neither a file nor --param', async () => {
  expect(await type('npm run release -- --stage nowhere')).toEqual({
    status: 1,
    log: '',
    error: expect.stringMatching(
      /^unknown stage nowhere: .* does not exist \(infra\/stages has: .*\); copy .*\n$/,
    ),
  });
});

test('npm run ledger › has its commands in the documentation', () => {
  expect(readFileSync('docs/reference/cli.md', 'utf8')).toContain(documentedCommands());
});

test('a failure › ends with its message, without a stack trace', async () => {
  const fail = () => Promise.reject(new Error('no'));
  const result = await runCommand(() => run({ name: 'npm run x', summary: '', options: {} }, fail, []));
  expect(result).toEqual({ status: 1, log: '', error: 'no\n' });
});
