/**
 * Signatures of webhooks, by Standard Webhooks (standardwebhooks.com, specification, "Verifying signatures").
 */

import { isUtf8 } from 'node:buffer';
import { createHmac, type KeyObject, timingSafeEqual } from 'node:crypto';
import type { APIGatewayProxyEventV2 } from 'aws-lambda';
import { HttpError, InvalidArgs, Rejected } from '../errors.ts';
import { listOf } from '../text.ts';
import { isEventId } from './event.ts';
import { excerpt } from './payload.ts';

/** Maximum body size (bytes): a payload has a few hundred, and anyone can make the function hash a body. */
const MAX_BODY = 16 * 1024;

/** Maximum difference between timestamp and arrival (s), as in the reference libraries. */
const TOLERANCE = 5 * 60;

/** The three headers, as sent. */
export interface SignatureHeaders {
  readonly id: string;
  readonly timestamp: string;
  readonly signature: string;
}

/** A secret that webhooks may be signed with, and the servers that such a webhook may switch. */
export interface Secret {
  /** Of an HMAC. */
  readonly key: KeyObject;
  readonly servers: 'all' | ReadonlySet<string>;
  /** The parameter that has it, without the path. */
  readonly parameter: string;
}

/** Provides the secrets that webhooks may be signed with. */
export interface SecretSource {
  /** @throws HttpError if they are unavailable */
  secrets(signal: AbortSignal): Promise<readonly Secret[]>;
  /** Reads them again; undefined if that was done less than a minute ago. */
  rereadSecrets(signal: AbortSignal): Promise<readonly Secret[] | undefined>;
}

/** A webhook whose signature is verified. */
export interface SignedWebhook {
  readonly body: string;
  /** The secrets that match its signature; at least one. */
  readonly matching: readonly Secret[];
  /** Those of other secrets that match it. */
  readonly matchingOf: (secrets: readonly Secret[]) => readonly Secret[];
}

/**
 * Verifies that a webhook is signed with one of the secrets, and was sent at most five minutes ago.
 *
 * @param event an HTTP API event, payload format 2.0
 * @param arrival when it arrived (ms since the epoch)
 * @param source of the secrets
 * @param signal aborts at the deadline
 * @returns the webhook, with the secrets that match
 * @throws Rejected if it is not, the secrets are unavailable, or the body is too large to be hashed
 * @throws InvalidArgs if it is, but the event id is invalid or the body is not UTF-8
 */
export async function signedWebhook(
  event: Pick<APIGatewayProxyEventV2, 'headers' | 'body' | 'isBase64Encoded'>,
  arrival: number,
  source: SecretSource,
  signal: AbortSignal,
): Promise<SignedWebhook> {
  const { body: sent = '', isBase64Encoded } = event;
  const encoding = isBase64Encoded ? 'base64' : 'utf8';
  const size = Buffer.byteLength(sent, encoding);
  if (size > MAX_BODY) {
    throw new Rejected('body too large', `webhook with a body of ${size} bytes; the maximum is ${MAX_BODY}`);
  }
  const headers = signatureHeaders(event.headers ?? {});
  if (!headers) {
    throw new Rejected(
      'signature',
      'webhook without a valid signature header: webhook-id, webhook-timestamp or webhook-signature is missing',
    );
  }
  const body = Buffer.from(sent, encoding);

  const matchingOf = (secrets: readonly Secret[]) => matchingSecrets(secrets, headers, body);
  let tried: readonly Secret[];
  let matching: readonly Secret[];
  try {
    tried = await source.secrets(signal);
    matching = matchingOf(tried);
    if (matching.length === 0) {
      tried = (await source.rereadSecrets(signal)) ?? tried;
      matching = matchingOf(tried);
    }
  } catch (error) {
    if (!(error instanceof HttpError)) throw error;
    throw new Rejected('secret unreadable', `webhook not verified: ${error.message}`, { cause: error });
  }
  if (matching.length === 0) {
    throw new Rejected(
      'signature',
      `webhook with an invalid signature: it matches no secret in ${listOf(parametersOf(tried))}; ` +
        'if the right parameter is missing here, `npm run ledger -- --stage STAGE check` says why',
    );
  }
  if (isStale(headers, arrival)) {
    throw new Rejected(
      'timestamp',
      "webhook with a valid signature, but a timestamp more than 5 minutes off: check the node's clock",
    );
  }
  if (!isEventId(headers.id)) {
    throw new InvalidArgs(
      `webhook-id must be 1 to 128 printable ASCII characters without spaces, not ${excerpt(headers.id)}`,
    );
  }
  if (!isUtf8(body)) {
    throw new InvalidArgs('the body is not valid UTF-8; send the payload as a JSON object in UTF-8');
  }
  return { body: body.toString(), matching, matchingOf };
}

/**
 * Reads the signature headers of a request.
 *
 * @param headers with names in lower case, as HTTP APIs pass them
 * @returns undefined if one is missing, or the timestamp is malformed
 */
export function signatureHeaders(
  headers: Readonly<Record<string, string | undefined>>,
): SignatureHeaders | undefined {
  const {
    'webhook-id': id = '',
    'webhook-timestamp': timestamp = '',
    'webhook-signature': signature,
  } = headers;
  if (!signature || id === '' || !/^\d{1,11}$/.test(timestamp)) return undefined;
  return { id, timestamp, signature };
}

/**
 * Returns the secrets that match a signature. All are tried: several may, and the servers of all of them
 * count.
 *
 * Not with the reference library: its SHA-256 is JavaScript, it signs text only, and its `verify` rejects a
 * stale timestamp before it checks the signature, so that a node with a wrong clock would look like an
 * unauthenticated sender.
 *
 * @param headers the signature headers
 * @param body as it was sent
 */
export function matchingSecrets(
  secrets: readonly Secret[],
  { id, timestamp, signature }: SignatureHeaders,
  body: Buffer,
): readonly Secret[] {
  const given = signature.split(' ').map((one) => Buffer.from(one));
  return secrets.filter(({ key }) => {
    const hmac = createHmac('sha256', key).update(`${id}.${timestamp}.`).update(body);
    const expected = Buffer.from(`v1,${hmac.digest('base64')}`);
    return given.some((one) => one.length === expected.length && timingSafeEqual(one, expected));
  });
}

/** Returns the names of the parameters that have some secrets. */
export function parametersOf(secrets: readonly Secret[]): readonly string[] {
  return [...new Set(secrets.map(({ parameter }) => parameter))];
}

/**
 * Returns whether a webhook was signed more than five minutes before or after its arrival.
 *
 * @param arrival when it arrived (ms since the epoch)
 */
export function isStale({ timestamp }: Pick<SignatureHeaders, 'timestamp'>, arrival: number): boolean {
  return Math.abs(Math.floor(arrival / 1_000) - Number(timestamp)) > TOLERANCE;
}
