/**
 * The entry point on Lambda: the schedule sends heartbeats, the alias for inspections has a handler of its own, and
 * everything else is a role change.
 */

import type { Context } from 'aws-lambda';
import { createHeartbeatHandler, isHeartbeat } from './heartbeat-handler.ts';
import { createInspectionHandler, isForInspections } from './inspection-handler.ts';
import { createRoleChangeHandler } from './role-change.ts';
import { startServices } from './services.ts';

const services = startServices(process.env);
const roleChange = createRoleChangeHandler(services);
const heartbeat = createHeartbeatHandler(services);
const inspection = createInspectionHandler(services);

export const handler = (event: unknown, context: Context): Promise<unknown> => {
  if (isForInspections(context)) return inspection(event, context);
  return isHeartbeat(event) ? heartbeat(context) : roleChange(event, context);
};
