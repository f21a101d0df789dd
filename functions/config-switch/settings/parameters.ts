/**
 * What the parameters of a stage mean: each is checked when it is read, so that a malformed one does not
 * replace a good one.
 */

import { createPrivateKey, type X509Certificate } from 'node:crypto';
import type { Connection } from '../barman/attempts.ts';
import { HttpError } from '../errors.ts';
import type { Secret } from '../event/signature.ts';
import { certificatesOf, secureContextOf, type TlsSettings } from '../http/tls.ts';
import { type Bindings, parseBindings, unboundServers } from '../patroni/bindings.ts';
import { type Cluster, parseCluster, SECRET_FORM, secretKeys } from '../patroni/cluster.ts';
import { listOf } from '../text.ts';

/** A part of the parameters, or why it is unavailable. */
export type Part<T> = T | HttpError;

/** What the parameters of a stage mean. */
export interface Parts {
  readonly connection: Part<Connection>;
  /** Of `webhook-secret`, which may switch every server; undefined without that parameter. */
  readonly webhookSecret: Part<readonly Secret[]> | undefined;
  /** Which clusters may list which Barman server; undefined without the parameter `servers`: each may list any. */
  readonly bindings: Part<Bindings> | undefined;
  readonly clusters: ReadonlyMap<string, Part<Cluster>>;
  readonly patroniTls: Part<TlsSettings>;
}

/** The values by name, without the path. */
export type Values = ReadonlyMap<string, string>;

/** A value exists but is malformed, perhaps in the middle of a rotation: the last good value stays in use. */
export class MalformedParameter extends HttpError {
  override readonly name = 'MalformedParameter';
}

const CLUSTERS = 'clusters/';
const SERVERS = 'servers';
const CA_FORM = 'one or more whole certificates in PEM';

/**
 * Interprets the parameters.
 *
 * @param path of the stage, for messages
 * @returns the parts; none throws, and no message has a value
 */
export function partsOf(values: Values, path: string): Parts {
  const clusters = [...values]
    .filter(([name]) => name.startsWith(CLUSTERS))
    .map(([name, text]) => [name.slice(CLUSTERS.length), text] as const);
  const bound = values.get(SERVERS);
  const bindings = bound === undefined ? undefined : part(() => bindingsFrom(bound, path));
  return {
    connection: part(() => connectionFrom(values, path)),
    webhookSecret: values.has('webhook-secret') ? part(() => webhookSecretFrom(values, path)) : undefined,
    patroniTls: part(() => patroniTlsFrom(values, path)),
    bindings,
    clusters: new Map(
      clusters.map(([name, text]) => [name, part(() => clusterFrom(name, text, path, bindings))]),
    ),
  };
}

/**
 * Returns the secrets that webhooks may be signed with: those that are usable.
 *
 * @returns an error if there is none
 */
export function secretsOf({ webhookSecret, clusters }: Parts, path: string): Part<readonly Secret[]> {
  const usable: Secret[] = [
    ...(webhookSecret === undefined || webhookSecret instanceof HttpError ? [] : webhookSecret),
  ];
  for (const cluster of clusters.values()) {
    if (cluster instanceof HttpError) continue;
    const servers = new Set(cluster.servers.keys());
    const parameter = `${CLUSTERS}${cluster.name}`;
    usable.push(...cluster.secrets.map((key) => ({ key, servers, parameter })));
  }
  if (usable.length > 0) return usable;
  if (webhookSecret instanceof HttpError) return webhookSecret;
  const malformed = [...clusters.values()].find((cluster) => cluster instanceof HttpError);
  return (
    malformed ??
    wrong(path, 'webhook-secret', 'is missing', `${SECRET_FORM}; or a secret in a parameter ${CLUSTERS}NAME`)
  );
}

function webhookSecretFrom(values: Values, path: string): readonly Secret[] {
  const keys = secretKeys(values.get('webhook-secret') ?? '');
  if (!keys) throw wrong(path, 'webhook-secret', 'is malformed', SECRET_FORM, MalformedParameter);
  return keys.map((key) => ({ key, servers: 'all', parameter: 'webhook-secret' }));
}

function bindingsFrom(text: string, path: string): Bindings {
  return parsed(() => parseBindings(text), path, SERVERS);
}

/** @throws MalformedParameter also while it is unknown which servers the cluster may list */
function clusterFrom(name: string, text: string, path: string, bindings: Parts['bindings']): Cluster {
  const parameter = `${CLUSTERS}${name}`;
  const cluster = parsed(() => parseCluster(name, text), path, parameter);
  if (bindings === undefined) return cluster;
  if (bindings instanceof HttpError) {
    throw new MalformedParameter(`${bindings.message}; so the new value of ${parameter} is not used`);
  }
  const unbound = unboundServers(cluster, bindings);
  if (unbound.length === 0) return cluster;
  throw new MalformedParameter(
    `SSM parameter ${path}${parameter} lists Barman server ${listOf(unbound)}, which SSM parameter ${path}${SERVERS} does not bind to it; add "${name}" there, or remove the server here`,
  );
}

/** @throws MalformedParameter with what the parser says; without a cause, which may quote a secret */
function parsed<T>(parse: () => T, path: string, name: string): T {
  try {
    return parse();
  } catch (error) {
    throw new MalformedParameter(
      `SSM parameter ${path}${name} ${error instanceof Error ? error.message : 'is malformed'}`,
    );
  }
}

/** @throws HttpError naming the parameter and the remedy, never the value */
function connectionFrom(values: Values, path: string): Connection {
  const urlForm = 'the URL of pg-backup-api, such as https://barman.example.com/pgbapi';
  const url = URL.parse(need(values, path, 'url', urlForm));
  if (url === null || (url.protocol !== 'https:' && url.protocol !== 'http:')) {
    throw wrong(path, 'url', 'is not an https:// URL', urlForm, MalformedParameter);
  }
  if (url.username !== '' || url.password !== '' || url.search !== '' || url.hash !== '') {
    throw wrong(path, 'url', 'has a user, a password, a query or a fragment', urlForm, MalformedParameter);
  }
  if (url.protocol === 'http:') {
    if (values.get('allow-plain-http')?.trim() === 'true') return { url };
    throw wrong(
      path,
      'url',
      'is an http:// URL, which is not protected',
      `${urlForm}, or allow-plain-http set to true`,
    );
  }

  const { expiry, ...client } = clientCertificateFrom(values, path, '');
  const ca = need(
    values,
    path,
    'ca-cert',
    "the certificate of the CA that signed the Barman host's certificate, in PEM",
  );
  const expiries = new Map([
    expiry,
    ['ca-cert', firstExpiry(orWrong(() => certificatesOf(ca), path, 'ca-cert', CA_FORM))],
  ]);
  const tls = { ...client, ca, expiries };
  checkForTls(tls, path, 'client-cert');
  return { url, tls };
}

/**
 * For Patroni's REST API: a CA, if it is not a public one, and a client certificate, if it is required there.
 */
function patroniTlsFrom(values: Values, path: string): TlsSettings {
  const ca = values.get('patroni-ca-cert');
  const expiries = new Map<string, number>();
  if (ca !== undefined) {
    const authorities = orWrong(() => certificatesOf(ca), path, 'patroni-ca-cert', CA_FORM);
    expiries.set('patroni-ca-cert', firstExpiry(authorities));
  }
  let tls: TlsSettings = { ...(ca !== undefined && { ca }), expiries };
  if (values.has('patroni-client-cert') || values.has('patroni-client-key')) {
    const { expiry, ...client } = clientCertificateFrom(values, path, 'patroni-');
    expiries.set(...expiry);
    tls = { ...tls, ...client };
  }
  checkForTls(tls, path, 'patroni-client-cert');
  return tls;
}

/** @param prefix of the names */
function clientCertificateFrom(values: Values, path: string, prefix: '' | 'patroni-') {
  const [certName, keyName] = [`${prefix}client-cert`, `${prefix}client-key`];
  const cert = need(values, path, certName, 'the client certificate in PEM');
  const key = need(values, path, keyName, `the private key of ${certName} in PEM, without a pass phrase`);
  const certificates = orWrong(
    () => certificatesOf(cert),
    path,
    certName,
    'a certificate in PEM, with its whole chain if it has one',
  );
  const [certificate] = certificates;
  const privateKey = orWrong(
    () => createPrivateKey(key),
    path,
    keyName,
    'a private key in PEM, without a pass phrase',
  );
  if (!certificate.checkPrivateKey(privateKey)) {
    throw wrong(
      path,
      keyName,
      `does not belong to ${certName}`,
      `the private key of ${certName}`,
      MalformedParameter,
    );
  }
  const expiry: [string, number] = [certName, firstExpiry(certificates)];
  return { cert, key, notAfter: certificate.validToDate.getTime(), expiry };
}

/** Returns when the first of some certificates expires (ms since the epoch). */
function firstExpiry(certificates: readonly X509Certificate[]): number {
  return Math.min(...certificates.map(({ validToDate }) => validToDate.getTime()));
}

/** @param certName the parameter to name if they cannot be used */
function checkForTls(tls: TlsSettings, path: string, certName: string): void {
  try {
    secureContextOf(tls);
  } catch (error) {
    // One of OpenSSL's fixed texts, without a value.
    const reason = error instanceof Error && 'reason' in error ? `: ${error.reason}` : '';
    throw wrong(
      path,
      certName,
      `cannot be used for TLS${reason}`,
      'a certificate that is signed with SHA-256 or better, and has an RSA key of 2048 bits or more, or an EC key',
      MalformedParameter,
    );
  }
}

/** @throws HttpError if a parameter is missing */
function need(values: Values, path: string, name: string, form: string): string {
  const value = values.get(name)?.trim();
  if (value === undefined || value === '') throw wrong(path, name, 'is missing', form);
  return value;
}

function wrong(
  path: string,
  name: string,
  what: string,
  form: string,
  ErrorClass: typeof HttpError = HttpError,
): HttpError {
  return new ErrorClass(`SSM parameter ${path}${name} ${what}; expected ${form}`);
}

function orWrong<T>(make: () => T, path: string, name: string, form: string): T {
  try {
    return make();
  } catch {
    // Without a cause: a parser's error may quote the secret.
    throw wrong(path, name, 'is malformed', form, MalformedParameter);
  }
}

function part<T>(make: () => T): Part<T> {
  try {
    return make();
  } catch (error) {
    if (error instanceof HttpError) return error;
    throw error;
  }
}
