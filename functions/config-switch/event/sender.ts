/**
 * Who sent an event, and whether that sender may make its role change. Only `authenticate` makes a Sender,
 * and only `authorise` a PermittedRoleChange: without one of the two steps, or in another order, the handler
 * does not compile.
 */

import { Rejected, WrongCluster } from '../errors.ts';
import { listOf } from '../text.ts';
import type { Event } from './event.ts';
import { parseJson, type RoleChange } from './payload.ts';
import {
  parametersOf,
  type Secret,
  type SecretSource,
  type SignedWebhook,
  signedWebhook,
} from './signature.ts';

const authenticated: unique symbol = Symbol('authenticated');
const permitted: unique symbol = Symbol('permitted');

/** An authenticated sender. */
export interface Sender {
  readonly [authenticated]: true;
  /** Returns the payload that it sent. @throws InvalidArgs if the body of a webhook is not JSON */
  readonly payload: () => unknown;
  /** Absent for an EventBridge event and a direct invocation: what these may do is IAM's business. */
  readonly webhook?: SignedWebhook;
}

/** A role change that its sender may make. */
export type PermittedRoleChange = RoleChange & { readonly [permitted]: true };

/**
 * Authenticates the sender of an event: a webhook by its signature, everything else by IAM, before Lambda was
 * called.
 *
 * @param source of the secrets
 * @throws Rejected if the webhook is not signed with one of them, or is not in payload format 2.0
 * @throws InvalidArgs if its event id is invalid, or its body not UTF-8
 */
export async function authenticate(
  { arrived, arrivedAt, signal }: Event,
  source: SecretSource,
): Promise<Sender> {
  if (arrived.caller !== 'http') return { [authenticated]: true, payload: () => arrived.payload };
  if (!arrived.event) {
    throw new Rejected(
      'payload format',
      'HTTP request that is not in payload format 2.0; invoke the function through an HTTP API, and set the payload format of its integration to 2.0',
    );
  }
  const webhook = await signedWebhook(arrived.event, arrivedAt, source, signal);
  return { [authenticated]: true, payload: () => parseJson(webhook.body), webhook };
}

/**
 * Checks that the secret of a webhook may switch its Barman server: one of the clusters of the matching
 * secrets lists it.
 *
 * @param source of the secrets, which is asked again for a server that was perhaps just added
 * @param signal aborts at the deadline
 * @throws WrongCluster if it may not
 */
export async function authorise(
  { webhook }: Sender,
  roleChange: RoleChange,
  source: Pick<SecretSource, 'rereadSecrets'>,
  signal: AbortSignal,
): Promise<PermittedRoleChange> {
  const { barman_server } = roleChange;
  const allowed: PermittedRoleChange = { ...roleChange, [permitted]: true };
  if (!webhook || maySwitch(webhook.matching, barman_server)) return allowed;
  // Without new values the old ones decide.
  const renewed = await source.rereadSecrets(signal).catch(() => undefined);
  if (renewed && maySwitch(webhook.matchingOf(renewed), barman_server)) return allowed;
  const parameters = listOf(parametersOf(webhook.matching));
  throw new WrongCluster(
    `the secret in ${parameters} may not switch Barman server ${barman_server}; add the server there, or sign with the secret of its own cluster`,
  );
}

function maySwitch(secrets: readonly Secret[], barman_server: string): boolean {
  return secrets.some(({ servers }) => servers === 'all' || servers.has(barman_server));
}
