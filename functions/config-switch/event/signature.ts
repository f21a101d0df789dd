/** Signatures of webhooks, by Standard Webhooks (standardwebhooks.com, specification, "Verifying signatures"). */

import { timingSafeEqual } from 'node:crypto';
import type { MiddlewareObj } from '@middy/core';
import type { APIGatewayProxyEventV2 } from 'aws-lambda';
import type { Webhook } from 'standardwebhooks';
import { BodyTooLarge, HttpError, Rejected } from '../errors.ts';
import type { ReceivedEvent } from './invocation.ts';
import { parseJson } from './payload.ts';

/** Maximum body size (bytes); a larger body is rejected before it is hashed. */
const MAX_BODY = 64 * 1024;

/** Maximum difference between timestamp and arrival (s), as in the reference libraries. */
const TOLERANCE = 5 * 60;

/** The three headers, as sent. */
export interface SignatureHeaders {
  readonly id: string;
  readonly timestamp: string;
  readonly signature: string;
}

/** Provides the secrets that webhooks may be signed with. */
export interface WebhookSource {
  /** @throws HttpError if they are unavailable */
  webhooks(signal: AbortSignal): Promise<readonly Webhook[]>;
  /** Reads them again; undefined if that was done less than a minute ago. */
  rereadWebhooks(signal: AbortSignal): Promise<readonly Webhook[] | undefined>;
}

/** Verifies the signature of a webhook, and adds its payload to the event. @param source of the secrets */
export function signature(source: WebhookSource): MiddlewareObj<ReceivedEvent> {
  return {
    before: async (request) => {
      const { arrived, arrivedAt, signal } = request.event;
      if (arrived.caller !== 'http') return;
      const body = await signedBody(arrived.event, arrivedAt, source, signal);
      request.event = { ...request.event, payload: parseJson(body) };
    },
  };
}

/**
 * Verifies that a webhook is signed with one of the secrets, and was sent at most five minutes ago.
 *
 * @param event an HTTP API event, payload format 2.0
 * @param arrival when it arrived (ms since the epoch)
 * @param source of the secrets
 * @param signal aborts at the deadline
 * @returns the raw body
 * @throws Rejected if it is not, or the secrets are unavailable
 * @throws BodyTooLarge if the body is too large to be hashed
 */
export async function signedBody(
  event: Pick<APIGatewayProxyEventV2, 'headers' | 'body' | 'isBase64Encoded'>,
  arrival: number,
  source: WebhookSource,
  signal: AbortSignal,
): Promise<string> {
  const headers = signatureHeaders(event.headers ?? {});
  if (!headers) {
    throw new Rejected(
      'signature',
      'webhook without a valid signature header: webhook-id, webhook-timestamp or webhook-signature is missing',
    );
  }
  const bytes = Buffer.from(event.body ?? '', event.isBase64Encoded ? 'base64' : undefined);
  if (bytes.length > MAX_BODY) {
    throw new BodyTooLarge(`the body has ${bytes.length} bytes; the maximum is ${MAX_BODY}`);
  }
  const body = bytes.toString();

  let verdict: ReturnType<typeof verifySignature>;
  try {
    verdict = verifySignature(await source.webhooks(signal), headers, body, arrival);
    if (verdict === 'wrong') {
      const renewed = await source.rereadWebhooks(signal);
      if (renewed) verdict = verifySignature(renewed, headers, body, arrival);
    }
  } catch (error) {
    if (!(error instanceof HttpError)) throw error;
    throw new Rejected('secret unreadable', `webhook not verified: ${error.message}`, { cause: error });
  }
  if (verdict === 'wrong') {
    throw new Rejected(
      'signature',
      'webhook with an invalid signature: it was not signed with a secret in webhook-secret',
    );
  }
  if (verdict === 'stale') {
    throw new Rejected(
      'timestamp',
      "webhook with a valid signature, but a timestamp more than 5 minutes off: check the node's clock",
    );
  }
  return body;
}

/**
 * Reads the signature headers of a request.
 *
 * @param headers with names in lower case, as HTTP APIs pass them
 * @returns undefined if one is missing or malformed
 */
export function signatureHeaders(
  headers: Readonly<Record<string, string | undefined>>,
): SignatureHeaders | undefined {
  const {
    'webhook-id': id = '',
    'webhook-timestamp': timestamp = '',
    'webhook-signature': signature,
  } = headers;
  // The id becomes part of a version and of a key: printable ASCII without spaces.
  if (!signature || !/^[!-~]{1,128}$/.test(id) || !/^\d{1,11}$/.test(timestamp)) return undefined;
  return { id, timestamp, signature };
}

/**
 * Checks a signature.
 *
 * The library signs, and the result is compared here, because its `verify` rejects a stale timestamp before it checks the
 * signature: a node with a wrong clock would look like an unauthenticated sender.
 *
 * @param webhooks the secrets, several during a rotation
 * @param headers the signature headers
 * @param body the raw body
 * @param arrival when it arrived (ms since the epoch)
 * @returns `stale` for a valid signature with a timestamp more than five minutes from the arrival
 */
export function verifySignature(
  webhooks: readonly Webhook[],
  { id, timestamp, signature }: SignatureHeaders,
  body: string,
  arrival: number,
): 'right' | 'stale' | 'wrong' {
  const sentAt = Number(timestamp);
  const given = signature.split(' ').map((one) => Buffer.from(one));
  const right = webhooks.some((webhook) => {
    const expected = Buffer.from(webhook.sign(id, new Date(sentAt * 1_000), body));
    return given.some((one) => one.length === expected.length && timingSafeEqual(one, expected));
  });
  if (!right) return 'wrong';
  return Math.abs(Math.floor(arrival / 1_000) - sentAt) > TOLERANCE ? 'stale' : 'right';
}
