/**
 * The handler of role changes. From the outside in: report how the event ended; receive it; respond; verify the signature;
 * parse the payload; check which servers the sender may move; then skip, or record and reconcile. Each step adds to the event what it found.
 */

import middy from '@middy/core';
import { runBarmanConfigSwitch } from './config-switch.ts';
import { eventTime, invocation } from './event/invocation.ts';
import { payload, type RoleChangeEvent } from './event/payload.ts';
import { permission } from './event/permission.ts';
import { response } from './event/response.ts';
import { signature } from './event/signature.ts';
import type { Services } from './services.ts';
import { telemetry } from './telemetry.ts';
import { versionOf } from './version.ts';

/**
 * @returns the handler for HTTP API events (payload format 2.0), EventBridge events, and the payload itself. Its response is an
 *   HTTP response, or the body alone; it throws if an EventBridge event with a valid payload could not be recorded
 */
export function createRoleChangeHandler({
  credentials,
  ledger,
  events,
  operationTimeout,
  connect,
}: Services): middy.MiddyfiedHandler {
  const configSwitch = async (event: RoleChangeEvent) => {
    await using api = connect(event);
    const version = versionOf(eventTime(event), event.eventId);
    return runBarmanConfigSwitch(
      { ...event, ledger, events, api, operationTimeout },
      event.roleChange,
      version,
    );
  };

  // Without middy's early time-out: it covers the handler only, and the deadline covers everything.
  return (
    middy({ timeoutEarlyInMillis: 0 })
      .use(telemetry())
      .use(invocation())
      .use(response())
      .use(signature(credentials))
      .use(payload())
      .use(permission(credentials))
      // The event that Lambda passes may be anything.
      .handler<unknown>(configSwitch)
  );
}
