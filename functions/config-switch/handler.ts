/**
 * A role change, whoever brings it. Outermost first: report what came of it; take in what arrived and when; answer; let only
 * signed webhooks in; read the payload; then skip, or record and switch. Each step adds what it found to the event.
 */

import middy from '@middy/core';
import { runBarmanConfigSwitch } from './config-switch.ts';
import { eventTime, invocation } from './event/invocation.ts';
import { payload, type RoleChangeEvent } from './event/payload.ts';
import { response } from './event/response.ts';
import { signature } from './event/signature.ts';
import { wishKey } from './reconcile/ledger.ts';
import type { Services } from './services.ts';
import { telemetry } from './telemetry.ts';

/**
 * @returns the handler for HTTP API events (payload format 2.0), EventBridge events, and the payload itself. It answers with an
 *   HTTP response or with the answer itself; for an EventBridge event it throws what could not be recorded
 */
export function createRoleChangeHandler({
  credentials,
  ledger,
  operationTimeout,
  connect,
}: Services): middy.MiddyfiedHandler {
  const configSwitch = async (event: RoleChangeEvent) => {
    await using api = connect(event);
    const key = wishKey(eventTime(event), event.eventId);
    return runBarmanConfigSwitch({ ...event, ledger, api, operationTimeout }, event.roleChange, key);
  };

  // No early time-out of middy's: it covers the handler alone, and the deadline covers everything.
  return (
    middy({ timeoutEarlyInMillis: 0 })
      .use(telemetry())
      .use(invocation())
      .use(response())
      .use(signature(credentials))
      .use(payload())
      // It begins with whatever Lambda brings.
      .handler<unknown>(configSwitch)
  );
}
