/** The entry point on Lambda: the schedule sends heartbeats, everything else is a role change. */

import type { Context } from 'aws-lambda';
import { createHeartbeatHandler, isHeartbeat } from './heartbeat-handler.ts';
import { createRoleChangeHandler } from './role-change.ts';
import { startServices } from './services.ts';

const services = startServices(process.env);
const roleChange = createRoleChangeHandler(services);
const heartbeat = createHeartbeatHandler(services);

export const handler = (event: unknown, context: Context): Promise<unknown> =>
  isHeartbeat(event) ? heartbeat(context) : roleChange(event, context);
