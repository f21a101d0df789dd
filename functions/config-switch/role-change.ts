/** The handler of role changes. */

import middy from '@middy/core';
import { runBarmanConfigSwitch } from './config-switch.ts';
import { type Event, eventTime, heardNode } from './event/event.ts';
import { parseRoleChange } from './event/payload.ts';
import { receiving } from './event/receive.ts';
import { responding } from './event/response.ts';
import { authenticate, authorise } from './event/sender.ts';
import type { Result } from './exit-code.ts';
import { followLeader, type LeaderOf } from './patroni/follow-leader.ts';
import type { Services } from './services.ts';
import { reporting } from './telemetry.ts';

/**
 * Creates the handler. From the outside in: report how the event ended, receive it, respond; inside, each
 * step needs what the one before it returned.
 *
 * @returns the handler for HTTP API events (payload format 2.0), EventBridge events, and the payload itself.
 *   Its response is an HTTP response, or the body alone; it throws if an EventBridge event with a valid
 *   payload could not be recorded
 */
export function createRoleChangeHandler({ settings, connect, ...services }: Services) {
  const configSwitch = async (event: Event): Promise<Result> => {
    const sender = await authenticate(event, settings);
    const roleChange = parseRoleChange(sender.payload());
    event.facts.roleChange = roleChange;
    const permitted = await authorise(sender, roleChange, settings, event.signal);
    await using api = connect(event);
    const leaderOf: LeaderOf = (server, signal) => followLeader(server, settings, signal);
    const heard = heardNode(event);
    const when = { event_id: event.event_id, time: eventTime(event) };
    return runBarmanConfigSwitch(
      { ...services, ...event, api, leaderOf, source: settings, heard },
      permitted,
      when,
    );
  };

  // Without middy's early time-out: it covers the handler only, and the deadline covers everything.
  return (
    middy({ timeoutEarlyInMillis: 0 })
      .use(reporting())
      .use(receiving())
      .use(responding())
      // The event that Lambda passes may be anything.
      .handler<unknown>(configSwitch)
  );
}
