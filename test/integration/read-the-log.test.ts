/** docs/how-to/read-the-log.md: what its commands find of the lines that the function writes. */

import { execFileSync } from 'node:child_process';
import { expect, test } from 'vitest';
import { documentedBlock, documentedCommand } from '../documentation.ts';
import { matches } from '../infra/filter-pattern.ts';
import { inOneCluster } from '../stand-ins/barman-host.ts';
import { createSecret } from '../stand-ins/webhook.ts';
import { at, fakeClock, MINUTE, PROMOTION, pass, startFunction } from './function.ts';

fakeClock();

/** What a block of commands would ask AWS for. */
function asked(block: string): string[][] {
  const aws = 'aws() { printf "%s\\0" "$@"; echo; }';
  const printed = execFileSync('sh', ['-ec', `${aws}\n${block}`], { encoding: 'utf8' });
  return printed
    .trimEnd()
    .split('\n')
    .map((line) => line.split('\0').slice(0, -1));
}

/** The log group and the filter pattern of the first command of a block. */
function tailOf(block: string) {
  const [words = []] = asked(block);
  return { group: words[2], pattern: words[words.indexOf('--filter-pattern') + 1] ?? '' };
}

/** A stage in which a server fails for five minutes, another one does not, and a webhook is rejected. */
async function start() {
  const run = await startFunction({ servers: inOneCluster(['main', 'other']) }, { MAX_RETRIES: '1' });
  await run.webhook({ ...PROMOTION, barman_server: 'other' });
  run.host.api.plan({ failed: 'untouched' });
  await run.webhook(PROMOTION);
  await run.setItem({ next_attempt_at: at(99 * MINUTE) });
  await run.heartbeat();
  pass(5 * MINUTE);
  await run.heartbeat();
  await run.webhook(PROMOTION, { secret: createSecret() });
  return run;
}

test('the log › has the lines that the documented commands look for, and they find no others', async () => {
  await using run = await start();
  const found = (block: string) => {
    const { group, pattern } = tailOf(block.replaceAll('SERVER', 'main'));
    expect(group).toBe('/aws/lambda/barman-config-switch-prod');
    return run.log().filter((line) => matches(pattern, line));
  };
  const problems = found(
    documentedBlock(
      'docs/how-to/read-the-log.md',
      'aws logs tail /aws/lambda/barman-config-switch-prod --region eu-central-1 --since 1h',
    ),
  );
  expect(new Set(problems.map(({ level }) => level))).toEqual(new Set(['WARN', 'ERROR']));
  expect(run.log().filter(({ level }) => level !== 'INFO' && level !== undefined)).toEqual(problems);

  const ofServer = found(
    documentedBlock(
      'docs/how-to/read-the-log.md',
      'aws logs tail /aws/lambda/barman-config-switch-prod --region eu-central-1 --since 1d',
    ),
  );
  expect(ofServer).toEqual(run.log().filter((line) => line.barman_server === 'main'));
  expect(ofServer.map(({ exit_status }) => exit_status)).toContain('CONFIG_SWITCH_FAILED');

  const raised = found(
    documentedBlock(
      'docs/how-to/read-the-log.md',
      'aws logs tail /aws/lambda/barman-config-switch-prod --region eu-central-1 --since 7d',
    ),
  );
  expect(raised).toEqual([
    expect.objectContaining({ alarm: 'pending', message: 'raises the alarm pending: main' }),
  ]);

  const rejected = found(
    documentedBlock(
      'docs/how-to/read-the-log.md',
      'aws logs tail /aws/lambda/barman-config-switch-prod --region eu-central-1 --since 2h',
    ),
  );
  expect(rejected).toEqual([
    expect.objectContaining({ rejected: 'signature', api_request_id: expect.any(String) }),
  ]);
});

test('the page › follows the log, reads that of the API, and lists the alarms that are raised', () => {
  const access = documentedBlock('docs/how-to/read-the-log.md', 'aws logs tail /aws/vendedlogs/http-api/');
  expect(asked(access).map(([, , group]) => group)).toEqual([
    '/aws/lambda/barman-config-switch-prod',
    '/aws/vendedlogs/http-api/barman-config-switch-prod',
  ]);
  const follow = documentedCommand(
    'docs/how-to/read-the-log.md',
    'aws logs tail /aws/lambda/barman-config-switch-prod --region eu-central-1 --follow',
  );
  expect(asked(follow)[0]).toContain('--follow');
  const raised = documentedCommand('docs/how-to/read-the-log.md', 'aws cloudwatch describe-alarms');
  const words = asked(raised)[0] ?? [];
  const prefix = words[words.indexOf('--alarm-name-prefix') + 1] ?? '';
  expect('barman-config-switch-prod-pending'.startsWith(prefix)).toBe(true);
});
