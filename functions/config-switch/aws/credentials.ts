/**
 * The parameters under one SSM path: the URL of pg-backup-api, the certificates and key for it, and the secrets of
 * webhooks. They are read at the start, and again when they are old or were refused. While SSM is unavailable, or a value
 * is malformed, the last good values stay in use.
 */

import { SSMClient, type SSMClientConfig } from '@aws-sdk/client-ssm';
import ssm from '@middy/ssm';
import { clearCache, getInternal } from '@middy/util';
import type { Connection, ConnectionSource } from '../barman/http-client.ts';
import type { TlsSettings } from '../barman/tls.ts';
import { within } from '../deadline.ts';
import { DeadlineExceeded, HttpError, UNRESOLVED } from '../errors.ts';
import type { Secret, SecretSource } from '../event/signature.ts';
import type { Cluster } from '../patroni/cluster.ts';
import { MalformedParameter, type Part, type Parts, partsOf, secretsOf, type Values } from './parameters.ts';

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

/** What was read, and when the read began (ms since the epoch). */
interface Reading {
  readonly values: Values;
  readonly at: number;
}

export class Credentials implements ConnectionSource, SecretSource {
  readonly #path: string;
  readonly #warn: (message: string, cause?: unknown) => void;
  readonly #read: () => Promise<Reading>;
  #parts: Parts | undefined;
  /** Those in the parts. */
  #secrets: Part<readonly Secret[]> = [];
  /** Why the last read failed, if no read has succeeded yet. */
  #unreadable: HttpError | undefined;
  /** When the values become old (ms since the epoch). */
  #staleAt = 0;
  /** When an unavailable part may be read again (ms since the epoch). */
  #repairAt = 0;
  /** The read that replaces old values, while it is in progress. */
  #renewal: Promise<unknown> | undefined;
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
   * @throws HttpError if SSM cannot be read, or there is no secret that is not malformed
   */
  async secrets(signal: AbortSignal): Promise<readonly Secret[]> {
    await this.#fresh(() => !(this.#secrets instanceof HttpError), signal);
    return usable(this.#secrets);
  }

  /**
   * Reads the secrets again, because none of them matched a signature, or those that did may not switch a server.
   *
   * @returns undefined if the last such read is less than a minute old: anyone can send an invalid signature
   */
  async rereadSecrets(signal: AbortSignal): Promise<readonly Secret[] | undefined> {
    if (Date.now() < this.#rereadAt) return undefined;
    this.#rereadAt = Date.now() + MIN_INTERVAL;
    await this.#renew(signal);
    return usable(this.#secrets);
  }

  /**
   * The URL of pg-backup-api, and the certificates and key for it.
   *
   * @throws HttpError if SSM cannot be read, or a parameter is missing or malformed
   */
  async connection(signal: AbortSignal): Promise<Connection> {
    const isUsable = ({ connection }: Parts) => !(connection instanceof HttpError);
    return usable((await this.#fresh(isUsable, signal)).connection);
  }

  async rereadConnection(signal: AbortSignal): Promise<Connection> {
    return usable((await this.#renew(signal)).connection);
  }

  /**
   * The clusters that are not malformed, and the TLS settings for their REST API.
   *
   * @throws HttpError if SSM cannot be read
   */
  async clusters(signal: AbortSignal): Promise<{ clusters: readonly Cluster[]; tls: Part<TlsSettings> }> {
    const { clusters, patroniTls } = await this.#fresh(() => true, signal);
    const usable = [...clusters.values()].filter((one): one is Cluster => !(one instanceof HttpError));
    return { clusters: usable, tls: patroniTls };
  }

  /**
   * The certificates that are not malformed.
   *
   * @returns parameter → PEM
   * @throws HttpError if SSM cannot be read
   */
  async certificates(signal: AbortSignal): Promise<ReadonlyMap<string, string>> {
    const { connection, patroniTls } = await this.#fresh(() => true, signal);
    const barman = connection instanceof HttpError ? {} : (connection.tls ?? {});
    const patroni = patroniTls instanceof HttpError ? {} : patroniTls;
    const all: [string, TlsSettings, 'cert' | 'ca'][] = [
      ['client-cert', barman, 'cert'],
      ['ca-cert', barman, 'ca'],
      ['patroni-client-cert', patroni, 'cert'],
      ['patroni-ca-cert', patroni, 'ca'],
    ];
    return new Map(all.flatMap(([name, tls, part]) => (tls[part] === undefined ? [] : [[name, tls[part]]])));
  }

  /** What all parameters mean, read now; for the operator. @throws HttpError if SSM cannot be read */
  inspect(signal: AbortSignal): Promise<Parts> {
    return this.#renew(signal);
  }

  /**
   * The current parts. Old values stay in use while they are read again, so that no request waits for that; unless they are very
   * old, as in an instance that was frozen for long: a secret that was removed must not be accepted for ever.
   */
  async #fresh(isUsable: (parts: Parts) => boolean, signal: AbortSignal): Promise<Parts> {
    const now = Date.now();
    if (this.#unreadable !== undefined && now < this.#repairAt) throw this.#unreadable;
    const parts = this.#parts;
    if (parts === undefined) return this.#renew(signal);
    if (!isUsable(parts)) return now < this.#repairAt ? parts : this.#renew(signal);
    if (now >= this.#staleAt + MAX_AGE) return this.#renew(signal);
    if (now >= this.#staleAt) {
      this.#renewal ??= this.#renew(new AbortController().signal)
        .catch(() => {})
        .finally(() => {
          this.#renewal = undefined;
        });
    }
    return parts;
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
    const { values, at } = reading;
    this.#unreadable = undefined;
    this.#staleAt = at + MAX_AGE;
    this.#repairAt = at + REPAIR_INTERVAL;
    const keep = <T>(renewed: Part<T>, before: Part<T> | undefined): Part<T> => {
      if (!(renewed instanceof MalformedParameter)) return renewed;
      if (before === undefined || before instanceof HttpError) {
        this.#warn(renewed.message);
        return renewed;
      }
      this.#warn(`${renewed.message}; the last good values stay in use`);
      this.#staleAt = at + MIN_INTERVAL;
      return before;
    };
    const { connection, webhookSecret, patroniTls, clusters } = partsOf(values, this.#path);
    this.#parts = {
      connection: keep(connection, old?.connection),
      patroniTls: keep(patroniTls, old?.patroniTls),
      webhookSecret: webhookSecret && keep(webhookSecret, old?.webhookSecret),
      clusters: new Map(
        [...clusters].map(([name, cluster]) => [name, keep(cluster, old?.clusters.get(name))]),
      ),
    };
    this.#secrets = secretsOf(this.#parts, this.#path);
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
  let values: Values = new Map();
  const middleware = ssm({
    AwsClient: recordingClient(path, (read) => {
      values = read;
    }),
    fetchData: { parameters: path },
    cacheKey: path,
    cacheExpiry: -1,
    awsClientOptions: SSM_CLIENT,
  });
  let at = Date.now();
  let first = true;
  let current: Promise<Reading> | undefined;
  const read = async (): Promise<Reading> => {
    if (!first || Date.now() - at >= MAX_AGE) {
      clearCache(path);
      at = Date.now();
    }
    first = false;
    const request = { event: {}, context: {}, internal: {} } as Parameters<
      NonNullable<typeof middleware.before>
    >[0];
    await middleware.before?.(request);
    await getInternal('parameters', request);
    return { values, at };
  };
  // One at a time: who comes meanwhile gets the same values.
  return () => {
    current ??= read().finally(() => {
      current = undefined;
    });
    return current;
  };
}

/**
 * A client that passes on the parameters as SSM has them: middy replaces "-" and "." in names by "_", so that two of them can become
 * one, and parses values that look like JSON.
 *
 * @param onRead called after the last page of each read, with the values by name without the path
 */
function recordingClient(path: string, onRead: (values: Values) => void): typeof SSMClient {
  return class extends SSMClient {
    constructor(config: SSMClientConfig) {
      super(config);
      /** The pages so far, by the token of the next one. */
      const reads = new Map<string, Map<string, string>>();
      this.middlewareStack.add(
        (next) => async (args) => {
          const { NextToken: token } = args.input as { NextToken?: string };
          const result = await next(args);
          const page = result.output as {
            Parameters?: { Name?: string; Value?: string }[];
            NextToken?: string;
          };
          const values = (token === undefined ? undefined : reads.get(token)) ?? new Map<string, string>();
          for (const { Name = '', Value = '' } of page.Parameters ?? [])
            values.set(Name.slice(path.length), Value);
          if (token !== undefined) reads.delete(token);
          if (page.NextToken === undefined) onRead(values);
          else reads.set(page.NextToken, values);
          return result;
        },
        { step: 'initialize' },
      );
    }
  };
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
  } else if (code === 'EAI_AGAIN') {
    remedy = `; its host name ${UNRESOLVED}`;
  } else if (code !== undefined || name === 'TimeoutError') {
    remedy = "; the function's subnets need a route to SSM: an interface endpoint or a NAT";
  }
  return new HttpError(`the parameters under ${path} could not be read from SSM: ${name}${remedy}`, {
    cause: first,
  });
}
