/** The environment of the benchmarks: stand-ins of SSM and DynamoDB, and the command to compare with. */

import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Context } from 'aws-lambda';
import { startDynamoDb } from '../stand-ins/dynamodb.ts';
import { loadFunction } from '../stand-ins/load-function.ts';
import { SsmStandIn } from '../stand-ins/ssm.ts';
import { installFromPyPI, toolFolder } from '../tools.ts';

export const FOLDER = toolFolder('bench');
export const ssm = await SsmStandIn.start();
export const dynamoDb = await startDynamoDb();
/** The environment variables of every function. */
export const ENVIRONMENT = {
  AWS_ENDPOINT_URL_SSM: ssm.url,
  AWS_ENDPOINT_URL_DYNAMODB: dynamoDb.url,
  AWS_REGION: 'eu-central-1',
  AWS_ACCESS_KEY_ID: 'bench',
  AWS_SECRET_ACCESS_KEY: 'bench',
  POWERTOOLS_LOG_LEVEL: 'SILENT',
  POWERTOOLS_METRICS_DISABLED: 'true',
};
Object.assign(process.env, ENVIRONMENT);

export const context = () =>
  ({
    awsRequestId: randomUUID(),
    invokedFunctionArn: 'arn:aws:lambda:eu-central-1:123456789012:function:f',
    getRemainingTimeInMillis: () => 60_000,
  }) as Context;

/**
 * Loads the function with a new ledger.
 *
 * @param path where its parameters are
 * @returns its handler
 */
export async function createFunction(path: string): Promise<(event: unknown) => Promise<unknown>> {
  const table = `bench${path.replaceAll('/', '-')}ledger`;
  await dynamoDb.createLedger(table);
  const handler = await loadFunction({ PARAMETERS_PATH: path, LEDGER_TABLE: table });
  return (event) => handler(event, context());
}

let patroniBarman: string | undefined;
try {
  const version = /^patroni.*?(==\S+)/m.exec(readFileSync('test/e2e/requirements.txt', 'utf8'))?.[1];
  patroniBarman = join(installFromPyPI(FOLDER, `patroni${version}\n`), 'patroni_barman');
} catch (error) {
  console.log(`patroni_barman is not measured: it could not be installed: ${error}`);
}
/** Whether the real command is installed. */
export const hasPatroniBarman = patroniBarman !== undefined;

/**
 * Runs `patroni_barman config-switch`.
 *
 * @param expected its ExitCode
 * @returns how long it took (ms)
 * @throws Error if it ends with another ExitCode
 */
export async function runPatroniBarman(url: string, role = 'primary', expected = 0): Promise<number> {
  const switching = ['--barman-server', 'main', '--barman-model', 'pg:node2', '--switch-when', 'promoted'];
  const words = ['--api-url', `${url}/`, 'config-switch', ...switching, 'on_role_change', role, 'main'];
  const start = performance.now();
  const code = await promisify(execFile)(patroniBarman ?? '', words).then(
    () => 0,
    (error: { code: number }) => error.code,
  );
  if (code !== expected) throw new Error(`patroni_barman ended with ${code}`);
  return performance.now() - start;
}
