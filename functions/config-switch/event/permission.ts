/** Which Barman servers a webhook may move: those that the clusters of its matching secrets list. */

import type { MiddlewareObj } from '@middy/core';
import { WrongCluster } from '../errors.ts';
import type { RoleChangeEvent } from './payload.ts';
import type { Secret, SecretSource } from './signature.ts';

/**
 * Checks that the secret of a webhook may move its Barman server. EventBridge events and direct invocations are IAM's business.
 *
 * @param source of the secrets, which is asked again for a server that was perhaps just added
 * @throws WrongCluster if it may not
 */
export function permission(source: Pick<SecretSource, 'rereadSecrets'>): MiddlewareObj<RoleChangeEvent> {
  return {
    before: async ({ event: { webhook, roleChange, signal } }) => {
      if (!webhook) return;
      const barman_server = roleChange.barman_server;
      if (mayMove(webhook.matching, barman_server)) return;
      // Without new values the old ones decide.
      const renewed = await source.rereadSecrets(signal).catch(() => undefined);
      if (renewed && mayMove(webhook.matchingOf(renewed), barman_server)) return;
      const parameters = [...new Set(webhook.matching.map(({ parameter }) => parameter))].join(', ');
      throw new WrongCluster(
        `the secret in ${parameters} may not move Barman server ${barman_server}; add the server there, or sign with the secret of its own cluster`,
      );
    },
  };
}

function mayMove(secrets: readonly Secret[], barman_server: string): boolean {
  return secrets.some(({ servers }) => servers === 'all' || servers.has(barman_server));
}
