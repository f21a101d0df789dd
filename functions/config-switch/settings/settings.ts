/**
 * The parameters under one SSM path: the URL of pg-backup-api, the certificates and key for it, and the
 * secrets of webhooks. They are read at the start, and again when they are old or were refused. While SSM is
 * unavailable, or a value is malformed, the last good values stay in use.
 */

import { paginateGetParametersByPath, SSMClient } from '@aws-sdk/client-ssm';
import type { Connection, ConnectionSource } from '../barman/attempts.ts';
import { within } from '../deadline.ts';
import { DeadlineExceeded, HttpError } from '../errors.ts';
import type { Secret, SecretSource } from '../event/signature.ts';
import { explainSdkError, type Reader } from '../http/network-errors.ts';
import { unboundServers } from '../patroni/bindings.ts';
import { type Cluster, withoutValue } from '../patroni/cluster.ts';
import type { Clusters } from '../patroni/observe-clusters.ts';
import { MalformedParameter, type Part, type Parts, partsOf, secretsOf, type Values } from './parameters.ts';

/** Older values are read again (ms). */
const MAX_AGE = 5 * 60_000;
/**
 * Shortest interval between reads after a failed one, and for webhooks whose signature does not match (ms).
 */
const MIN_INTERVAL = 60_000;
/** The same while there is no good value (ms): short, but not zero, since anyone can send a webhook. */
const REPAIR_INTERVAL = 5_000;
/**
 * How long values may be in use that can no longer be read (ms): another instance of the function has none. A
 * rotation of certificates takes less.
 */
const OUTDATED_AFTER = 15 * 60_000;
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

export class Settings implements ConnectionSource, SecretSource {
  /** Of the parameters, `/barman-config-switch/<stage>/`. */
  readonly path: string;
  readonly #warn: (message: string, cause?: unknown) => void;
  readonly #reader: Reader;
  readonly #client = new SSMClient(SSM_CLIENT);
  /**
   * The read in progress, or the first one, which no invocation has used yet. All who wait for it get its
   * values.
   */
  #reading: Promise<Reading> | undefined;
  /** When it began (ms since the epoch). */
  #readingSince = 0;
  #parts: Parts | undefined;
  /** Those in the parts. */
  #secrets: Part<readonly Secret[]> = [];
  /** The clusters that are malformed now, and why; also those whose last good value is in the parts. */
  #malformed: ReadonlyMap<string, string> = new Map();
  /** Why the last read failed, if no read has succeeded yet. */
  #unreadable: HttpError | undefined;
  /** What can no longer be read, although it may be in use: why, and since when (ms since the epoch). */
  readonly #outdated = new Map<string, { readonly reason: string; readonly since: number }>();
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
   * @param reader of SSM's errors
   */
  constructor(path: string, warn: (message: string, cause?: unknown) => void, reader: Reader = 'function') {
    this.path = path;
    this.#warn = warn;
    this.#reader = reader;
    void this.#startReading();
  }

  /**
   * Returns the secrets that webhooks may be signed with.
   *
   * @throws HttpError if SSM cannot be read, or there is no secret that is not malformed
   */
  async secrets(signal: AbortSignal): Promise<readonly Secret[]> {
    await this.#fresh(() => !(this.#secrets instanceof HttpError), signal);
    return usable(this.#secrets);
  }

  /**
   * Reads the secrets again, because none of them matched a signature, or those that did may not switch a
   * server.
   *
   * @returns undefined if the last such read is less than a minute old: anyone can send an invalid signature
   */
  async rereadSecrets(signal: AbortSignal): Promise<readonly Secret[] | undefined> {
    return (await this.reread(signal)) ? usable(this.#secrets) : undefined;
  }

  /**
   * Reads the parameters again, because something that an event needs may have just been added.
   *
   * @returns false if the last such read is less than a minute old, or the old values stay in use
   * @throws HttpError if SSM cannot be read, and never could
   */
  async reread(signal: AbortSignal): Promise<boolean> {
    if (Date.now() < this.#rereadAt) return false;
    this.#rereadAt = Date.now() + MIN_INTERVAL;
    const before = this.#parts;
    return (await this.#renew(signal)) !== before;
  }

  /**
   * Returns the URL of pg-backup-api, and the certificates and key for it.
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
   * Returns the clusters, those that are malformed now included, and the TLS settings for their REST API.
   *
   * @throws HttpError if SSM cannot be read
   */
  async clusters(signal: AbortSignal): Promise<Clusters> {
    const { clusters, patroniTls } = await this.#fresh(() => true, signal);
    const all = [...clusters].map(([name, part]) =>
      part instanceof HttpError
        ? withoutValue(name, part.message)
        : { ...part, malformed: this.#malformed.get(name) },
    );
    return { clusters: all, tls: patroniTls };
  }

  /**
   * Returns when the certificates expire that are not malformed: parameter → ms since the epoch.
   *
   * @throws HttpError if SSM cannot be read
   */
  async expiries(signal: AbortSignal): Promise<ReadonlyMap<string, number>> {
    const { connection, patroniTls } = await this.#fresh(() => true, signal);
    return new Map([
      ...(connection instanceof HttpError ? [] : (connection.tls?.expiries ?? [])),
      ...(patroniTls instanceof HttpError ? [] : (patroniTls.expiries ?? [])),
    ]);
  }

  /**
   * Returns why an instance of the function that starts now would have no values, if that has been so for 15
   * minutes: SSM is unavailable, or one of the values that every switch needs is malformed.
   *
   * @returns undefined also if this instance has none: whoever needs them reports that
   */
  async outdated(signal: AbortSignal): Promise<string | undefined> {
    if (this.#parts === undefined) return undefined;
    await this.#fresh(() => true, signal).catch(() => undefined);
    // An instance that is frozen before the end of a read takes it for a failed one.
    if (this.#renewal) await within(signal, this.#renewal).catch(() => undefined);
    const [first] = [...this.#outdated.values()].sort((a, b) => a.since - b.since);
    if (first === undefined || Date.now() - first.since < OUTDATED_AFTER) return undefined;
    const since = new Date(first.since).toISOString();
    return `${first.reason}; that has been so since ${since}, and an instance of the function that starts now has no values`;
  }

  /** Returns what all parameters mean, read now; for the operator. @throws HttpError if SSM cannot be read */
  inspect(signal: AbortSignal): Promise<Parts> {
    return this.#renew(signal);
  }

  /**
   * Returns the current parts. Old values stay in use while they are read again, so that no request waits for
   * that; unless they are very old, as in an instance that was frozen for long: a secret that was removed
   * must not be accepted for ever.
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

  /**
   * Waits for a read: the one that began at the start of the instance, if that is not too long ago, otherwise
   * a new one.
   */
  async #read(): Promise<Reading> {
    const old = Date.now() >= this.#readingSince + MAX_AGE;
    const reading = old || !this.#reading ? this.#startReading() : this.#reading;
    try {
      return await reading;
    } finally {
      if (this.#reading === reading) this.#reading = undefined;
    }
  }

  #startReading(): Promise<Reading> {
    this.#readingSince = Date.now();
    const reading = this.#readPages(this.#readingSince);
    this.#reading = reading;
    // A failure before the first invocation does not matter: that one reads again.
    reading.catch(() => {
      if (this.#reading === reading) this.#reading = undefined;
    });
    return reading;
  }

  async #readPages(at: number): Promise<Reading> {
    const values = new Map<string, string>();
    const input = { Path: this.path, Recursive: true, WithDecryption: true };
    for await (const { Parameters = [] } of paginateGetParametersByPath({ client: this.#client }, input)) {
      for (const { Name = '', Value = '' } of Parameters) values.set(Name.slice(this.path.length), Value);
    }
    return { values, at };
  }

  async #renew(signal: AbortSignal): Promise<Parts> {
    const old = this.#parts;
    let reading: Reading;
    try {
      reading = await within(AbortSignal.any([signal, AbortSignal.timeout(READ_TIMEOUT)]), this.#read());
    } catch (error) {
      const unreadable = explain(error, this.path, signal, this.#reader);
      this.#repairAt = Date.now() + REPAIR_INTERVAL;
      if (old === undefined) {
        // A deadline says that time was short, not that SSM is unavailable.
        if (!signal.aborted) this.#unreadable = unreadable;
        this.#warn(unreadable.message, unreadable.cause);
        throw unreadable;
      }
      this.#warn(`${unreadable.message}; the last good values stay in use`, unreadable.cause);
      this.#setOutdated('SSM', unreadable.message);
      this.#staleAt = Date.now() + MIN_INTERVAL;
      return old;
    }
    const { values, at } = reading;
    this.#unreadable = undefined;
    this.#setOutdated('SSM', undefined);
    this.#staleAt = at + MAX_AGE;
    this.#repairAt = at + REPAIR_INTERVAL;
    const keep = <T>(renewed: Part<T>, before: Part<T> | undefined): Part<T> => {
      if (!(renewed instanceof MalformedParameter)) return renewed;
      this.#staleAt = at + MIN_INTERVAL;
      const isKept = before !== undefined && !(before instanceof HttpError);
      this.#warn(isKept ? `${renewed.message}; the last good values stay in use` : renewed.message);
      return isKept ? before : renewed;
    };
    const { connection, webhookSecret, patroniTls, bindings, clusters } = partsOf(values, this.path);
    this.#malformed = new Map(
      [...clusters].flatMap(([name, part]) => (part instanceof HttpError ? [[name, part.message]] : [])),
    );
    this.#parts = {
      connection: keep(connection, old?.connection),
      // No old values: the next instance of the function could not ask Patroni either, which must be reported.
      patroniTls: keep(patroniTls, undefined),
      webhookSecret: webhookSecret && keep(webhookSecret, old?.webhookSecret),
      bindings: bindings && keep(bindings, undefined),
      clusters: new Map(
        [...clusters].map(([name, cluster]) => [
          name,
          keep(cluster, stillBound(old?.clusters.get(name), bindings)),
        ]),
      ),
    };
    this.#secrets = secretsOf(this.#parts, this.path);
    for (const [what, part] of Object.entries({ connection, webhookSecret })) {
      this.#setOutdated(what, part instanceof MalformedParameter ? part.message : undefined);
    }
    return this.#parts;
  }

  /** @param reason why something can no longer be read; undefined if it can */
  #setOutdated(what: string, reason: string | undefined): void {
    const since = this.#outdated.get(what)?.since ?? Date.now();
    if (reason === undefined) this.#outdated.delete(what);
    else this.#outdated.set(what, { reason, since });
  }
}

/** Returns the last good value of a cluster, unless it lists a server that is not bound to it any more. */
function stillBound(
  before: Part<Cluster> | undefined,
  bindings: Parts['bindings'],
): Part<Cluster> | undefined {
  if (before === undefined || before instanceof HttpError) return undefined;
  if (bindings === undefined || bindings instanceof HttpError) return before;
  return unboundServers(before, bindings).length === 0 ? before : undefined;
}

function usable<T>(value: Part<T>): T {
  if (value instanceof HttpError) throw value;
  return value;
}

/** Explains why SSM could not be read. */
function explain(error: unknown, path: string, signal: AbortSignal, reader: Reader): HttpError {
  const cause = { cause: error };
  if (signal.aborted) {
    return new DeadlineExceeded(`time ran out while reading the parameters under ${path} from SSM`, cause);
  }
  const remedies = {
    AccessDeniedException:
      "the function's role needs ssm:GetParametersByPath on the path, and kms:Decrypt on its key",
  };
  const reason = explainSdkError(error, 'SSM', 'an interface endpoint or a NAT', remedies, reader);
  return new HttpError(`the parameters under ${path} could not be read from SSM: ${reason}`, cause);
}
