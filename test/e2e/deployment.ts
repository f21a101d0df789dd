/** A stage, deployed with the README's commands into the emulator, and AWS's own command to look at it. */

import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { inject } from 'vitest';

const run = promisify(execFile);
const endpoint = inject('endpoint');

const ENVIRONMENT = {
  ...process.env,
  PATH: `${inject('tools')}:${process.env.PATH}`,
  AWS_ENDPOINT_URL: endpoint,
  AWS_ACCESS_KEY_ID: 'test',
  AWS_SECRET_ACCESS_KEY: 'test',
  AWS_REGION: 'eu-central-1',
  AWS_DEFAULT_REGION: 'eu-central-1',
  SLS_TELEMETRY_DISABLED: '1',
  SLS_NOTIFICATIONS_MODE: 'off',
};

/** Runs a shell's commands, as an operator would. @returns what they printed @throws Error with it */
export async function shell(commands: string, cwd = '.', input = ''): Promise<string> {
  const child = run('bash', ['-euo', 'pipefail', '-c', commands], {
    cwd,
    env: ENVIRONMENT,
    maxBuffer: 16 * 1024 * 1024,
  });
  child.child.stdin?.end(input);
  const { stdout, stderr } = await child.catch((error: { stdout: string; stderr: string }) => {
    throw new Error(`${commands}\n${error.stdout}${error.stderr}`);
  });
  return stdout + stderr;
}

/** AWS's own command. @returns what it answered */
export async function aws<T>(...words: string[]): Promise<T> {
  // Version 1 of the AWS CLI uses another endpoint for SQS, unless it is given here.
  const { stdout } = await run('aws', ['--endpoint-url', endpoint, '--output', 'json', ...words], {
    env: ENVIRONMENT,
  });
  return JSON.parse(stdout || 'null') as T;
}

export interface HttpResponse {
  readonly status: number;
  readonly headers: Headers;
  readonly response: Record<string, unknown>;
}

/** One stage. */
export class Deployment {
  readonly stage: string;
  readonly #parameters: Readonly<Record<string, string>>;
  /** The outputs of its stack. */
  outputs: Readonly<Record<string, string>> = {};

  constructor(stage: string, parameters: Readonly<Record<string, string>>) {
    this.stage = stage;
    this.#parameters = parameters;
  }

  /** The function's name, and the stack's. */
  get name(): string {
    return `barman-config-switch-${this.stage}`;
  }

  async deploy(): Promise<string> {
    const parameters = Object.entries(this.#parameters).map(([name, value]) => `--param=${name}=${value}`);
    const output = await shell(`npm run deploy -- --stage ${this.stage} ${parameters.join(' ')}`);
    const { Stacks } = await aws<{
      Stacks: { Outputs: { OutputKey: string; OutputValue: string }[] }[];
    }>('cloudformation', 'describe-stacks', '--stack-name', this.name);
    this.outputs = Object.fromEntries(
      (Stacks[0]?.Outputs ?? []).map(({ OutputKey, OutputValue }) => [OutputKey, OutputValue]),
    );
    return output;
  }

  async remove(): Promise<void> {
    const parameters = Object.entries(this.#parameters).map(([name, value]) => `--param=${name}=${value}`);
    await shell(`npm run remove -- --stage ${this.stage} ${parameters.join(' ')}`);
  }

  /** What AWS made for each resource of the stack. */
  async resources(): Promise<Record<string, string>> {
    const { StackResources } = await aws<{
      StackResources: { LogicalResourceId: string; PhysicalResourceId: string }[];
    }>('cloudformation', 'describe-stack-resources', '--stack-name', this.name);
    return Object.fromEntries(
      StackResources.map(({ LogicalResourceId, PhysicalResourceId }) => [
        LogicalResourceId,
        PhysicalResourceId,
      ]),
    );
  }

  /** Sends a request to the deployed HTTP API, which the emulator knows by its host name. */
  async post(body: string, headers: Readonly<Record<string, string>>): Promise<HttpResponse> {
    const { HttpApiId } = this.outputs;
    const url = new URL(endpoint);
    const { request } = await import('undici');
    const response = await request(`${endpoint}/config-switch`, {
      method: 'POST',
      headers: {
        ...headers,
        'content-type': 'application/json',
        host: `${HttpApiId}.execute-api.localhost:${url.port}`,
      },
      body,
    });
    return {
      status: response.statusCode,
      headers: new Headers(response.headers as Record<string, string>),
      response: (await response.body.json()) as Record<string, unknown>,
    };
  }
}
