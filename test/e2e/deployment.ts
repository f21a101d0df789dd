/** A stage, deployed into the emulator with the documented commands, and the AWS CLI to inspect it. */

import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { inject } from 'vitest';
import { commandsOf, documentedBlock, documentedCommand, fill } from '../documentation.ts';

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
  // The emulator refuses alarms with metric math.
  WITHOUT_METRIC_MATH: 'true',
};

/** The parameters of a stage in the emulator. */
export const PARAMETERS = {
  vpc: 'vpc-0123456789abcdef0',
  subnets: 'subnet-0123456789abcdef0',
  'barman-host': '127.0.0.1/32',
  // The emulator's interface endpoints have no DNS names.
  'ssm-access': 'nat',
  'ledger-access': 'nat',
};

/** Runs shell commands, as an operator would. @returns their output @throws Error with it if one fails */
export async function shell(commands: string, cwd = '.'): Promise<string> {
  // With a socket as standard input, bash would read its startup files, as under rshd (bash(1), INVOCATION).
  const child = run('bash', ['--norc', '-euo', 'pipefail', '-c', commands], {
    cwd,
    env: ENVIRONMENT,
    maxBuffer: 16 * 1024 * 1024,
  });
  child.child.stdin?.end();
  const { stdout, stderr } = await child.catch((error: { stdout: string; stderr: string }) => {
    throw new Error(`${commands}\n${error.stdout}${error.stderr}`);
  });
  return stdout + stderr;
}

/** Runs the AWS CLI. @returns its parsed output; null without output */
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

export class Deployment {
  readonly stage: string;
  readonly #parameters: Readonly<Record<string, string>>;
  readonly #folder: string;
  /** The outputs of its stack, once it is deployed. */
  outputs: Readonly<Record<string, string>> = {};

  /** @param folder of the project; the parameters are in addition to those in its file of the stage */
  constructor(stage: string, parameters: Readonly<Record<string, string>>, folder = '.') {
    this.stage = stage;
    this.#parameters = parameters;
    this.#folder = folder;
  }

  /** The name of the function, and of the stack. */
  get name(): string {
    return `barman-config-switch-${this.stage}`;
  }

  /** Runs documented commands for this stage. @returns their output */
  run(commands: string): Promise<string> {
    const parameters = Object.entries(this.#parameters).map(([name, value]) => `--param=${name}=${value}`);
    const stage = ['--stage', this.stage, ...parameters].join(' ');
    return shell(fill(commands, { '--stage prod': stage }), this.#folder);
  }

  /** @returns the output of the deployment */
  async deploy(): Promise<string> {
    const output = await this.run(documentedCommand('docs/how-to/set-up.md', 'npm run deploy'));
    await this.readOutputs();
    return output;
  }

  /** Deploys it as docs/how-to/release-without-nodejs.md says, without osls. */
  async deployRelease(bucket: string): Promise<void> {
    const commands = documentedBlock('docs/how-to/release-without-nodejs.md', 'npm run release');
    await this.run(
      fill(commands, {
        ...{ BUCKET: bucket, 'barman-config-switch-prod': this.name },
        'stage=prod': `stage=${this.stage}`,
      }),
    );
    await this.readOutputs();
  }

  /** Deploys the next release as docs/how-to/release-without-nodejs.md says, with alarms that CloudFormation watches. */
  async deployReleaseWithRollback(bucket: string): Promise<void> {
    const commands = documentedBlock('docs/how-to/release-without-nodejs.md', 'sed "s/ACCOUNT/');
    const words = { BUCKET: bucket, REGION: 'eu-central-1', 'barman-config-switch-prod': this.name };
    await shell(fill(commands, { ...words, 'Value=prod': `Value=${this.stage}` }), 'dist');
  }

  /** Deploys a removed stage again with what stayed, as docs/how-to/remove-a-stage.md says. */
  async deployAgain(bucket: string): Promise<void> {
    const protect = documentedBlock(
      'docs/how-to/remove-a-stage.md',
      'aws dynamodb update-table --deletion-protection-enabled',
    );
    await shell(fill(protect, { 'barman-config-switch-prod': this.name }));
    const commands = documentedBlock('docs/how-to/remove-a-stage.md', 'aws cloudformation create-change-set');
    const words = { BUCKET: bucket, REGION: 'eu-central-1', 'barman-config-switch-prod': this.name };
    await this.run(fill(commands, { ...words, 'Value=prod': `Value=${this.stage}` }));
  }

  async readOutputs(): Promise<void> {
    const { Stacks } = await aws<{
      Stacks: { Outputs: { OutputKey: string; OutputValue: string }[] }[];
    }>('cloudformation', 'describe-stacks', '--stack-name', this.name);
    this.outputs = Object.fromEntries(
      (Stacks[0]?.Outputs ?? []).map(({ OutputKey, OutputValue }) => [OutputKey, OutputValue]),
    );
  }

  /** @returns the output of the removal */
  remove(): Promise<string> {
    return this.run(
      documentedCommand('docs/how-to/remove-a-stage.md', 'npm run remove -- --stage prod --yes'),
    );
  }

  /** Deletes what stays when it is removed, but for the function parameters. */
  async deleteRest(): Promise<void> {
    const commands = documentedBlock('docs/how-to/remove-a-stage.md', 'aws dynamodb delete-table');
    const rest = commandsOf(commands).filter((command) => !command.startsWith('aws ssm'));
    await shell(fill(rest.join('\n'), { 'barman-config-switch-prod': this.name }));
  }

  /** The physical id of each resource of the stack. */
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

  /** Stores parameters of the function. */
  async putParameters(values: Readonly<Record<string, string>>): Promise<void> {
    for (const [name, Value] of Object.entries(values)) {
      const parameter = { Name: `/barman-config-switch/${this.stage}/${name}`, Value, Type: 'SecureString' };
      // As an option of its own, the CLI would fetch a value that is a URL.
      await aws('ssm', 'put-parameter', '--cli-input-json', JSON.stringify(parameter));
    }
  }

  /** What the function has logged. */
  logs(): Promise<string> {
    return shell(`aws logs filter-log-events --log-group-name /aws/lambda/${this.name} --output text`);
  }

  /** Sends a POST to the deployed HTTP API, which the emulator finds by the host name. */
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
