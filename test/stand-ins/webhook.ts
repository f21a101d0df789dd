/** The sender's side of a webhook: a payload, and Standard Webhooks headers over the raw body. */

import { createHmac, randomBytes, randomUUID } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { Webhook } from 'standardwebhooks';

/** A payload that leads to a switch. */
export const PROMOTION = {
  action: 'on_role_change',
  role: 'primary',
  cluster: 'main',
  barman_server: 'main',
  barman_model: 'pg:node2',
};

/** @returns a new secret, `whsec_…` */
export function createSecret(): string {
  return `whsec_${randomBytes(32).toString('base64')}`;
}

/**
 * @param body text, which the reference library signs, or bytes, which it cannot sign as they are
 * @param at time on the sender's clock (ms since the epoch)
 */
export function signedHeaders(
  secret: string,
  body: string | Buffer,
  { id = `msg_${randomUUID()}`, at = Date.now() }: { id?: string; at?: number } = {},
): Record<string, string> {
  const timestamp = String(Math.floor(at / 1000));
  const key = Buffer.from(secret.replace('whsec_', ''), 'base64');
  const signature =
    typeof body === 'string'
      ? new Webhook(secret).sign(id, new Date(at), body)
      : `v1,${createHmac('sha256', key).update(`${id}.${timestamp}.`).update(body).digest('base64')}`;
  return { 'webhook-id': id, 'webhook-timestamp': timestamp, 'webhook-signature': signature };
}

/** @returns those headers of a request that belong to its signature */
export function webhookHeaders({ headers }: IncomingMessage): Record<string, string> {
  const names = ['webhook-id', 'webhook-timestamp', 'webhook-signature'];
  return Object.fromEntries(names.map((name) => [name, String(headers[name])]));
}

/** @returns the event that an API Gateway HTTP API creates from a webhook, payload format 2.0 */
export function httpEvent(
  body: string | Buffer,
  headers: Readonly<Record<string, string>>,
  { timeEpoch = Date.now(), base64 = false }: { timeEpoch?: number; base64?: boolean } = {},
): object {
  return {
    version: '2.0',
    routeKey: 'POST /config-switch',
    headers,
    body: base64 ? Buffer.from(body).toString('base64') : body.toString(),
    isBase64Encoded: base64,
    requestContext: { http: { method: 'POST' }, requestId: 'api-request', timeEpoch },
  };
}
