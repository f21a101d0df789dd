/** A Barman host, and the SSM parameters that lead to it: everything that the function needs to work. */

import { CertificateAuthority } from './certificates.ts';
import { type PgBackupApiOptions, PgBackupApiStandIn } from './pg-backup-api.ts';
import { SsmStandIn } from './ssm.ts';
import { createSecret } from './webhook.ts';

export interface BarmanHost extends AsyncDisposable {
  readonly api: PgBackupApiStandIn;
  readonly ssm: SsmStandIn;
  readonly ca: CertificateAuthority;
  readonly webhookSecret: string;
  /** Where the parameters are, with a trailing slash. */
  readonly path: string;
  /** Writes parameters; undefined deletes one. */
  put(values: Readonly<Record<string, string | undefined>>): void;
}

/** Two models of one cluster, as an operator has them: one for each node. */
export const MODELS = { 'pg:node1': { cluster: 'main' }, 'pg:node2': { cluster: 'main' } };

/**
 * Starts one behind TLS with client certificates.
 *
 * @param options of pg-backup-api, other than TLS
 * @param shared an SSM stand-in to use; otherwise it has its own
 * @param path where its parameters are
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
    [Symbol.asyncDispose]: async () => {
      await api.close();
      if (!shared) await ssm.close();
    },
  };
}
