/** The AWS CLI, for what is asked once before a stage is removed: an SDK client of EC2 would be the largest dependency. */

import { spawnSync } from 'node:child_process';

/** The AWS CLI ended with an error; the message is its own. */
export class AwsCliError extends Error {
  override readonly name = 'AwsCliError';
}

/**
 * Runs the AWS CLI.
 *
 * @param words such as `ec2 describe-vpcs`
 * @returns its output, parsed
 * @throws AwsCliError if it is not installed, or if it fails
 */
export function aws<T>(region: string, ...words: string[]): T {
  const { status, error, stdout, stderr } = spawnSync(
    'aws',
    [...words, '--region', region, '--output', 'json'],
    { encoding: 'utf8', maxBuffer: 2 ** 26 },
  );
  if (error) throw new AwsCliError(`the AWS CLI did not start; install it: ${error.message}`);
  if (status !== 0) throw new AwsCliError(`aws ${words.slice(0, 2).join(' ')}: ${stderr.trim()}`);
  return JSON.parse(stdout) as T;
}
