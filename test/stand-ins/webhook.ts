/** What a sender of webhooks does: Standard Webhooks headers over the raw body. */

import { randomBytes, randomUUID } from 'node:crypto';
import { Webhook } from 'standardwebhooks';

/** A new secret, `whsec_…`. */
export function createSecret(): string {
  return `whsec_${randomBytes(32).toString('base64')}`;
}

/** @param at the sender's clock, ms since the epoch */
export function signedHeaders(
  secret: string,
  body: string,
  { id = `msg_${randomUUID()}`, at = Date.now() }: { id?: string; at?: number } = {},
): Record<string, string> {
  return {
    'webhook-id': id,
    'webhook-timestamp': String(Math.floor(at / 1000)),
    'webhook-signature': new Webhook(secret).sign(id, new Date(at), body),
  };
}
