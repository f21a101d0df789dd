/** The certificates and the key of a connection: what can be made of them, and whether that can be used. */

import { X509Certificate } from 'node:crypto';
import { createSecureContext, type SecureContext } from 'node:tls';

/**
 * PEM: a client certificate with its chain and its private key, and the CA certificates that the server is
 * verified against.
 */
export interface TlsSettings {
  readonly cert?: string;
  readonly key?: string;
  readonly ca?: string;
  /** When the first certificate in each parameter expires: parameter → ms since the epoch. */
  readonly expiries?: ReadonlyMap<string, number>;
}

/** Those of the Barman host, which are all required. */
export interface TlsCredentials extends TlsSettings {
  readonly cert: string;
  readonly key: string;
  readonly ca: string;
  /** When the client certificate expires (ms since the epoch), if that is known. */
  readonly notAfter?: number;
}

/** A PEM block (RFC 7468, 2), with its label. */
const PEM_BLOCK = /-----BEGIN ([A-Z0-9 ]+)-----[\s\S]*?-----END \1-----/g;
/** The labels that OpenSSL takes for a certificate (PEM_read_bio_X509_AUX). */
const CERTIFICATE = /^(X509 |TRUSTED )?CERTIFICATE$/;

const contexts = new WeakMap<TlsSettings, SecureContext>();

/**
 * Returns the TLS context of a set of credentials. Created once per set: it is large, and not visible to the
 * garbage collector.
 *
 * @throws Error with OpenSSL's `reason` if it cannot be used, such as "ee key too small"
 */
export function secureContextOf(tls: TlsSettings): SecureContext {
  const { cert, key, ca } = tls;
  const context = contexts.get(tls) ?? createSecureContext({ cert, key, ca });
  contexts.set(tls, context);
  return context;
}

/**
 * Returns the certificates in a PEM file. A secure context does not tell: OpenSSL reads CA certificates up to
 * the first one that is damaged, and ignores the rest.
 *
 * @returns at least one
 * @throws Error if there is none, or a block is torn or damaged
 */
export function certificatesOf(pem: string): readonly [X509Certificate, ...X509Certificate[]] {
  const blocks = [...pem.matchAll(PEM_BLOCK)].filter(([, label = '']) => CERTIFICATE.test(label));
  const [first, ...more] = blocks.map(([block]) => new X509Certificate(block));
  if (first === undefined) throw new Error('no certificate');
  if (/-----(BEGIN|END)/.test(pem.replace(PEM_BLOCK, ''))) throw new Error('a block is torn');
  return [first, ...more];
}
