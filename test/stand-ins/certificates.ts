/** Keys and certificates, generated at run time. */

import 'reflect-metadata';
import { webcrypto } from 'node:crypto';
import { isIP } from 'node:net';
import {
  BasicConstraintsExtension,
  cryptoProvider,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  type JsonGeneralName,
  KeyUsageFlags,
  KeyUsagesExtension,
  PemConverter,
  SubjectAlternativeNameExtension,
  type X509Certificate,
  X509CertificateGenerator,
} from '@peculiar/x509';

cryptoProvider.set(webcrypto);

const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
const WEAK_RSA = {
  name: 'RSASSA-PKCS1-v1_5',
  modulusLength: 1_024,
  publicExponent: new Uint8Array([1, 0, 1]),
  hash: 'SHA-256',
};
const DAY = 86_400_000;

/** A certificate and its key, PEM. */
export interface KeyPair {
  readonly cert: string;
  readonly key: string;
}

/** A CA that signs certificates for servers and clients. */
export class CertificateAuthority {
  readonly #certificate: X509Certificate;
  readonly #keys: webcrypto.CryptoKeyPair;

  private constructor(certificate: X509Certificate, keys: webcrypto.CryptoKeyPair) {
    this.#certificate = certificate;
    this.#keys = keys;
  }

  /** @param name its common name */
  static async create(name = 'Test CA'): Promise<CertificateAuthority> {
    const keys = await generateKeys();
    const certificate = await X509CertificateGenerator.createSelfSigned({
      name: `CN=${name}`,
      keys,
      notBefore: new Date(Date.now() - DAY),
      notAfter: new Date(Date.now() + 365 * DAY),
      signingAlgorithm: ALGORITHM,
      extensions: [
        new BasicConstraintsExtension(true, 1, true),
        new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
      ],
    });
    return new CertificateAuthority(certificate, keys);
  }

  /** The CA's own certificate, PEM. */
  get cert(): string {
    return this.#certificate.toString('pem');
  }

  /**
   * @param hosts DNS names and IP addresses of the server.
   * @param days validity from now; negative: already expired
   */
  server(hosts: readonly string[] = ['127.0.0.1', 'localhost'], days = 90): Promise<KeyPair> {
    const names: JsonGeneralName[] = hosts.map((value) => ({
      type: isIP(value) ? 'ip' : 'dns',
      value,
    }));
    return this.#issue('Barman host', ExtendedKeyUsage.serverAuth, days, names);
  }

  client(name = 'barman-config-switch', days = 90): Promise<KeyPair> {
    return this.#issue(name, ExtendedKeyUsage.clientAuth, days);
  }

  /** A client certificate with an RSA key of 1024 bits, which OpenSSL's security level 2 refuses. */
  weakClient(): Promise<KeyPair> {
    return this.#issue('weak', ExtendedKeyUsage.clientAuth, 90, [], WEAK_RSA);
  }

  /** @param days how long it is valid from now; negative for one that has expired */
  async #issue(
    name: string,
    usage: ExtendedKeyUsage,
    days: number,
    names: JsonGeneralName[] = [],
    algorithm: typeof ALGORITHM | typeof WEAK_RSA = ALGORITHM,
  ): Promise<KeyPair> {
    const keys = await generateKeys(algorithm);
    const certificate = await X509CertificateGenerator.create({
      subject: `CN=${name}`,
      issuer: this.#certificate.subject,
      publicKey: keys.publicKey,
      signingKey: this.#keys.privateKey,
      notBefore: new Date(Date.now() - 100 * DAY),
      notAfter: new Date(Date.now() + days * DAY),
      signingAlgorithm: ALGORITHM,
      extensions: [
        new ExtendedKeyUsageExtension([usage]),
        ...(names.length > 0 ? [new SubjectAlternativeNameExtension(names)] : []),
      ],
    });
    return { cert: certificate.toString('pem'), key: await pem(keys.privateKey) };
  }
}

function generateKeys(
  algorithm: typeof ALGORITHM | typeof WEAK_RSA = ALGORITHM,
): Promise<webcrypto.CryptoKeyPair> {
  return webcrypto.subtle.generateKey(algorithm, true, [
    'sign',
    'verify',
  ]) as Promise<webcrypto.CryptoKeyPair>;
}

async function pem(key: webcrypto.CryptoKey): Promise<string> {
  return PemConverter.encode(await webcrypto.subtle.exportKey('pkcs8', key), PemConverter.PrivateKeyTag);
}
