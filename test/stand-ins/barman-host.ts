/** A Barman host and the SSM parameters for it: everything that the function needs for a config switch. */

import { CertificateAuthority } from './certificates.ts';
import { type PgBackupApiOptions, PgBackupApiStandIn } from './pg-backup-api.ts';
import { SsmStandIn } from './ssm.ts';
import { createSecret } from './webhook.ts';

export interface BarmanHost extends AsyncDisposable {
  readonly api: PgBackupApiStandIn;
  readonly ssm: SsmStandIn;
  readonly ca: CertificateAuthority;
  readonly webhookSecret: string;
  /** Path of the parameters, with a trailing slash. */
  readonly path: string;
  /** Overwrites parameters; undefined deletes one. */
  put(values: Readonly<Record<string, string | undefined>>): void;
  /** The value of a parameter; empty if it does not exist. */
  parameter(name: string): string;
}

/** Barman servers or models of one cluster. @returns name → settings */
export function inOneCluster(names: readonly string[]): Record<string, { cluster: string }> {
  return Object.fromEntries(names.map((name) => [name, { cluster: 'main' }]));
}

/** Two models of one cluster, one for each node, as an operator would define them. */
export const MODELS = inOneCluster(['pg:node1', 'pg:node2']);

/**
 * Starts a Barman host behind TLS with client certificates.
 *
 * @param options of pg-backup-api, other than TLS
 * @param shared the SSM stand-in to use; by default a new one is started
 * @param path path of its parameters, with a trailing slash
 */
export async function startBarmanHost(
  options: Omit<PgBackupApiOptions, 'tls'> = {},
  shared?: SsmStandIn,
  path = '/barman-config-switch/local/',
): Promise<BarmanHost> {
  const ca = await CertificateAuthority.create();
  const [server, client] = await Promise.all([ca.server(), ca.client()]);
  const api = await PgBackupApiStandIn.start({ models: MODELS, ...options, tls: { ...server, ca: ca.cert } });
  const ssm = shared ?? (await SsmStandIn.start());
  const webhookSecret = createSecret();
  const put = (values: Readonly<Record<string, string | undefined>>) => ssm.put(path, values);
  put({
    url: api.url,
    'client-cert': client.cert,
    'client-key': client.key,
    'ca-cert': ca.cert,
    'webhook-secret': webhookSecret,
  });
  return {
    api,
    ssm,
    ca,
    webhookSecret,
    path,
    put,
    parameter: (name) => ssm.parameters.get(`${path}${name}`) ?? '',
    [Symbol.asyncDispose]: async () => {
      await api.close();
      if (!shared) await ssm.close();
    },
  };
}
