/** Packages the service as a deployment does, without an AWS account. */

import { execFile } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';

/** The required parameters of a stage. */
export const REQUIRED = {
  vpc: 'vpc-0123456789abcdef0',
  subnets: 'subnet-0123456789abcdef0,subnet-0fedcba9876543210',
  'barman-host': '10.0.3.4/32',
  'ledger-access': 'pl-66a5400f',
};

/** All other parameters. */
export const OPTIONAL = {
  'barman-port': '7480',
  'patroni-hosts': '10.0.1.0/24,sg-0fedcba9876543210',
  'patroni-port': '8009',
  dns: '10.0.0.10/32,10.0.1.10/32',
  'route-tables': 'rtb-0123456789abcdef0,rtb-0fedcba9876543210',
  'deletion-protection': 'false',
  'parameters-key': 'arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab',
  key: 'arn:aws:kms:eu-central-1:123456789012:key/567890ab-12ab-34cd-56ef-1234567890ab',
  'permissions-boundary': 'arn:aws:iam::123456789012:policy/barman-config-switch-prod-boundary',
  'event-bus': 'patroni',
  'throttling-rate': '5',
  'throttling-burst': '10',
  'reserved-concurrency': '10',
  inspection: '3',
  'log-retention': '30',
  'alarm-email': 'dba@example.com',
  'domain-name': 'barman.example.com',
  certificate: 'arn:aws:acm:eu-central-1:123456789012:certificate/1234abcd-12ab-34cd-56ef-1234567890ab',
  'ownership-certificate':
    'arn:aws:acm:eu-central-1:123456789012:certificate/567890ab-12ab-34cd-56ef-1234567890ab',
  truststore: 's3://bucket/truststore.pem',
  'truststore-version': '3sL4kqtJlcpXroDTDmJ',
  'hosted-zone': 'Z0123456789ABCDEFGHIJ',
};

export interface Resource {
  readonly Type: string;
  readonly DeletionPolicy?: string;
  readonly UpdateReplacePolicy?: string;
  // A template is JSON of many shapes.
  // biome-ignore lint/suspicious/noExplicitAny: see above
  readonly Properties: any;
}

export interface Template {
  readonly Resources: Readonly<Record<string, Resource>>;
  readonly Outputs: Readonly<Record<string, unknown>>;
}

/**
 * Packages a stage.
 *
 * @param parameters as passed with `--param`
 * @returns the template, its text, and the zip that is deployed
 * @throws Error with the output of osls
 */
export async function packageStage(
  parameters: Readonly<Record<string, string>>,
  stage = 'prod',
): Promise<{ template: Template; text: string; zip: Buffer }> {
  // In a copy, because serverless-esbuild always writes below the project.
  const folder = mkdtempSync(join(tmpdir(), 'barman-config-switch-'));
  for (const name of ['functions', 'infra', 'serverless.yml', 'package.json', 'tsconfig.json']) {
    cpSync(name, join(folder, name), { recursive: true });
  }
  symlinkSync(resolve('node_modules'), join(folder, 'node_modules'));
  try {
    await promisify(execFile)(
      'sh',
      [
        // As after the commands that write secrets (docs/how-to/set-up.md).
        ...['-c', 'umask 077; exec "$@"', 'sh', process.execPath],
        'node_modules/serverless/bin/serverless.js',
        'package',
        ...['--stage', stage, '--region', 'eu-central-1'],
        ...Object.entries(parameters).map(([name, value]) => `--param=${name}=${value}`),
      ],
      {
        cwd: folder,
        // No account, no credentials.
        env: {
          PATH: process.env.PATH,
          HOME: folder,
          // Otherwise osls compiles the schema of serverless.yml each time, for a second.
          SLS_SCHEMA_CACHE_BASE_DIR: resolve('node_modules/.cache'),
          SLS_TELEMETRY_DISABLED: '1',
          SLS_NOTIFICATIONS_MODE: 'off',
        },
      },
    ).catch((error: { stdout?: string; stderr?: string }) => {
      throw new Error(`${error.stdout ?? ''}${error.stderr ?? ''}`);
    });
    const text = readFileSync(
      join(folder, '.serverless', 'cloudformation-template-update-stack.json'),
      'utf8',
    );
    return {
      template: JSON.parse(text) as Template,
      text,
      zip: readFileSync(join(folder, '.serverless', 'configSwitch.zip')),
    };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
