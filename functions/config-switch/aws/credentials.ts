/**
 * The parameters under one SSM path: the URL of pg-backup-api, the certificates and key for it, and the secrets of
 * webhooks. They are read at the start, and again when they are old or were refused. While SSM is unavailable, or a value
 * is malformed, the last good values stay in use.
 */

import { createPrivateKey, createSecretKey, type KeyObject } from 'node:crypto';
import ssm from '@middy/ssm';
import { clearCache, getInternal } from '@middy/util';
import type { Connection, ConnectionSource } from '../barman/http-client.ts';
import { certificatesOf, secureContextOf } from '../barman/tls.ts';
import { within } from '../deadline.ts';
import { DeadlineExceeded, HttpError } from '../errors.ts';
import type { SecretSource } from '../event/signature.ts';

/** Older values are read again (ms). */
const MAX_AGE = 5 * 60_000;
/** Shortest interval between reads after a failed one, and for webhooks whose signature does not match (ms). */
const MIN_INTERVAL = 60_000;
/** The same while there is no good value (ms): short, but not zero, since anyone can send a webhook. */
const REPAIR_INTERVAL = 5_000;
/** Time limit of one read with all its attempts and pages (ms): the switch needs most of the deadline. */
const READ_TIMEOUT = 8_000;
/** The SDK has no time-outs by default (ms). */
const SSM_CLIENT = {
  maxAttempts: 3,
  requestHandler: { connectionTimeout: 1_000, requestTimeout: 2_500, throwOnRequestTimeout: true },
};
/** Standard Webhooks, "Signature scheme": a symmetric secret has 24 to 64 bytes, in base64 (RFC 4648, 4). */
const SECRET = /^whsec_((?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?)$/;
const SECRET_BYTES = { min: 24, max: 64 };

/** A part of the parameters, or why it is unavailable. */
type Part<T> = T | HttpError;

interface Parts {
  readonly connection: Part<Connection>;
  readonly secrets: Part<readonly KeyObject[]>;
}

/** Returns one parameter, by its name without the path. */
type Reader = (name: string) => string | undefined;

/** What was read, and when the read began (ms since the epoch). */
interface Reading {
  readonly read: Reader;
  readonly at: number;
}

/** A value exists but is malformed, perhaps in the middle of a rotation: the last good value stays in use. */
class MalformedParameter extends HttpError {}

export class Credentials implements ConnectionSource, SecretSource {
  readonly #path: string;
  readonly #warn: (message: string, cause?: unknown) => void;
  readonly #read: () => Promise<Reading>;
  #parts: Parts | undefined;
  /** Why the last read failed, if no read has succeeded yet. */
  #unreadable: HttpError | undefined;
  /** When the values become old (ms since the epoch). */
  #staleAt = 0;
  /** When an unavailable part may be read again (ms since the epoch). */
  #repairAt = 0;
  /** When a signature that does not match may cause the next read (ms since the epoch). */
  #rereadAt = 0;

  /**
   * Starts the first read.
   *
   * @param path `/barman-config-switch/<stage>/`
   * @param warn called after each failed read with SSM's error, and for each malformed value
   */
  constructor(path: string, warn: (message: string, cause?: unknown) => void) {
    this.#path = path;
    this.#warn = warn;
    this.#read = parameterReader(path);
  }

  /**
   * The secrets that webhooks may be signed with.
   *
   * @throws HttpError if SSM cannot be read, or `webhook-secret` is missing or malformed
   */
  async secrets(signal: AbortSignal): Promise<readonly KeyObject[]> {
    return usable((await this.#fresh('secrets', signal)).secrets);
  }

  /**
   * Reads the secrets again, because none of them matched a signature.
   *
   * @returns undefined if the last such read is less than a minute old: anyone can send an invalid signature
   */
  async rereadSecrets(signal: AbortSignal): Promise<readonly KeyObject[] | undefined> {
    if (Date.now() < this.#rereadAt) return undefined;
    this.#rereadAt = Date.now() + MIN_INTERVAL;
    return usable((await this.#renew(signal)).secrets);
  }

  /**
   * The URL of pg-backup-api, and the certificates and key for it.
   *
   * @throws HttpError if SSM cannot be read, or a parameter is missing or malformed
   */
  async connection(signal: AbortSignal): Promise<Connection> {
    return usable((await this.#fresh('connection', signal)).connection);
  }

  async rereadConnection(signal: AbortSignal): Promise<Connection> {
    return usable((await this.#renew(signal)).connection);
  }

  /** The current parts; reads again if they are old or the needed one is unavailable. */
  async #fresh(needed: keyof Parts, signal: AbortSignal): Promise<Parts> {
    const now = Date.now();
    if (this.#unreadable !== undefined && now < this.#repairAt) throw this.#unreadable;
    const parts = this.#parts;
    if (parts === undefined) return this.#renew(signal);
    return now < (parts[needed] instanceof HttpError ? this.#repairAt : this.#staleAt)
      ? parts
      : this.#renew(signal);
  }

  async #renew(signal: AbortSignal): Promise<Parts> {
    const old = this.#parts;
    let reading: Reading;
    try {
      reading = await within(AbortSignal.any([signal, AbortSignal.timeout(READ_TIMEOUT)]), this.#read());
    } catch (error) {
      const unreadable = explain(error, this.#path, signal);
      this.#repairAt = Date.now() + REPAIR_INTERVAL;
      if (old === undefined) {
        // A deadline says that time was short, not that SSM is unavailable.
        if (!signal.aborted) this.#unreadable = unreadable;
        this.#warn(unreadable.message, unreadable.cause);
        throw unreadable;
      }
      this.#warn(`${unreadable.message}; the last good values stay in use`, unreadable.cause);
      this.#staleAt = Date.now() + MIN_INTERVAL;
      return old;
    }
    const { read: reader, at } = reading;
    this.#unreadable = undefined;
    this.#staleAt = at + MAX_AGE;
    this.#repairAt = at + REPAIR_INTERVAL;
    const keep = <T>(renewed: Part<T>, before: Part<T> | undefined): Part<T> => {
      const kept = renewed instanceof MalformedParameter && before !== undefined;
      if (!kept || before instanceof HttpError) return renewed;
      this.#warn(`${renewed.message}; the last good values stay in use`);
      this.#staleAt = at + MIN_INTERVAL;
      return before;
    };
    this.#parts = {
      connection: keep(part(connectionFrom, reader, this.#path), old?.connection),
      secrets: keep(part(secretsFrom, reader, this.#path), old?.secrets),
    };
    return this.#parts;
  }
}

/**
 * Reads the path with @middy/ssm, which starts at once. Each later call reads again, and so does the first one if it comes
 * late: an instance of the function may be created long before it is used.
 *
 * middy's cache never expires here, because its expiry would replace good values with a failed read.
 */
function parameterReader(path: string): () => Promise<Reading> {
  const middleware = ssm({
    fetchData: { parameters: path },
    cacheKey: path,
    cacheExpiry: -1,
    awsClientOptions: SSM_CLIENT,
  });
  let at = Date.now();
  let first = true;
  return async () => {
    if (!first || Date.now() - at >= MAX_AGE) {
      clearCache(path);
      at = Date.now();
    }
    first = false;
    const request = { event: {}, context: {}, internal: {} } as Parameters<
      NonNullable<typeof middleware.before>
    >[0];
    await middleware.before?.(request);
    const { parameters } = (await getInternal('parameters', request)) as {
      parameters: Record<string, unknown>;
    };
    // middy replaces characters other than letters and digits by "_", and parses values that look like JSON.
    const read: Reader = (name) => {
      const value = parameters[name.replaceAll('-', '_')];
      return value === undefined ? undefined : typeof value === 'string' ? value : JSON.stringify(value);
    };
    return { read, at };
  };
}

/** @throws HttpError naming the parameter and the remedy, never the value */
function connectionFrom(read: Reader, path: string): Connection {
  const need = (name: string, form: string): string => {
    const value = read(name)?.trim();
    if (value === undefined || value === '') throw wrong(path, name, 'is missing', form);
    return value;
  };
  const urlForm = 'the URL of pg-backup-api, such as https://barman.example.com/pgbapi';
  const url = URL.parse(need('url', urlForm));
  if (url === null || (url.protocol !== 'https:' && url.protocol !== 'http:')) {
    throw wrong(path, 'url', 'is not an https:// URL', urlForm, MalformedParameter);
  }
  if (url.username !== '' || url.password !== '' || url.search !== '' || url.hash !== '') {
    throw wrong(path, 'url', 'has a user, a password, a query or a fragment', urlForm, MalformedParameter);
  }
  if (url.protocol === 'http:') {
    if (read('allow-plain-http')?.trim() === 'true') return { url };
    throw wrong(
      path,
      'url',
      'is an http:// URL, which is not protected',
      `${urlForm}, or allow-plain-http set to true`,
    );
  }

  const cert = need('client-cert', 'the client certificate in PEM');
  const key = need('client-key', 'the private key of client-cert in PEM, without a pass phrase');
  const ca = need('ca-cert', "the certificate of the CA that signed the Barman host's certificate, in PEM");
  const [certificate] = orWrong(
    () => certificatesOf(cert),
    path,
    'client-cert',
    'a certificate in PEM, with its whole chain if it has one',
  );
  const privateKey = orWrong(
    () => createPrivateKey(key),
    path,
    'client-key',
    'a private key in PEM, without a pass phrase',
  );
  if (!certificate.checkPrivateKey(privateKey)) {
    throw wrong(
      path,
      'client-key',
      'does not belong to client-cert',
      'the private key of client-cert',
      MalformedParameter,
    );
  }
  orWrong(() => certificatesOf(ca), path, 'ca-cert', 'one or more whole certificates in PEM');
  const tls = { cert, key, ca, notAfter: certificate.validToDate.getTime() };
  try {
    secureContextOf(tls);
  } catch (error) {
    // One of OpenSSL's fixed texts, without a value.
    const reason = error instanceof Error && 'reason' in error ? `: ${error.reason}` : '';
    throw wrong(
      path,
      'client-cert',
      `cannot be used for TLS${reason}`,
      'a certificate that is signed with SHA-256 or better, and has an RSA key of 2048 bits or more, or an EC key',
      MalformedParameter,
    );
  }
  return { url, tls };
}

/** @throws HttpError naming the parameter and the remedy, never the value */
function secretsFrom(read: Reader, path: string): readonly KeyObject[] {
  const form =
    'whsec_ followed by 24 to 64 random bytes in base64; during a rotation, several of them separated by spaces';
  const secrets = (read('webhook-secret') ?? '').split(/\s+/).filter((secret) => secret !== '');
  if (secrets.length === 0) throw wrong(path, 'webhook-secret', 'is missing', form);
  return secrets.map((secret) => {
    const key = Buffer.from(SECRET.exec(secret)?.[1] ?? '', 'base64');
    if (key.length < SECRET_BYTES.min || key.length > SECRET_BYTES.max)
      throw wrong(path, 'webhook-secret', 'is malformed', form, MalformedParameter);
    return createSecretKey(key);
  });
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

function part<T>(make: (read: Reader, path: string) => T, read: Reader, path: string): Part<T> {
  try {
    return make(read, path);
  } catch (error) {
    if (error instanceof HttpError) return error;
    throw error;
  }
}

function usable<T>(value: Part<T>): T {
  if (value instanceof HttpError) throw value;
  return value;
}

/** Why SSM could not be read. @param error from `within`, or what middy made of the SDK's error */
function explain(error: unknown, path: string, signal: AbortSignal): HttpError {
  if (signal.aborted)
    return new DeadlineExceeded(`time ran out while reading the parameters under ${path} from SSM`, {
      cause: error,
    });
  const cause = error instanceof Error && typeof error.cause === 'object' ? error.cause : undefined;
  const [first] =
    cause !== null && cause !== undefined && 'data' in cause && Array.isArray(cause.data)
      ? cause.data
      : [error];
  const code =
    first instanceof Error && 'code' in first && typeof first.code === 'string' ? first.code : undefined;
  const name = code ?? (first instanceof Error ? first.name : 'unknown error');
  let remedy = '';
  if (name === 'AccessDeniedException') {
    remedy = "; the function's role needs ssm:GetParametersByPath on the path, and kms:Decrypt on its key";
  } else if (code !== undefined || name === 'TimeoutError') {
    remedy = "; the function's subnets need a route to SSM: an interface endpoint or a NAT";
  }
  return new HttpError(`the parameters under ${path} could not be read from SSM: ${name}${remedy}`, {
    cause: first,
  });
}
