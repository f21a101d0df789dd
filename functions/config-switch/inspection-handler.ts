/**
 * The handler of inspections, behind an alias of its own: who may look may not switch. It throws nothing, as the
 * heartbeat.
 */

import type { Context } from 'aws-lambda';
import { messageOf } from './errors.ts';
import { inspect } from './inspect/inspect.ts';
import { type InspectionReport, reportOf } from './inspect/report.ts';
import { startInspection } from './invocation.ts';
import { isObject } from './schema.ts';
import type { Services } from './services.ts';
import { describeParameters } from './settings/describe.ts';
import { reportInspection } from './telemetry.ts';

/** The alias of the function that accepts inspections, and nothing else. */
const ALIAS = 'inspection';

/** Returns whether an invocation is one of the alias for inspections. */
export function isForInspections({ invokedFunctionArn }: Pick<Context, 'invokedFunctionArn'>): boolean {
  return invokedFunctionArn.endsWith(`:${ALIAS}`);
}

/** Returns the handler, whose response is what it has seen, or why it failed. */
export function createInspectionHandler({ settings, ledger, connect }: Services) {
  return async (
    event: unknown,
    context: Context,
  ): Promise<InspectionReport | { readonly message: string }> => {
    if (!isObject(event) || event.inspection !== true || Object.keys(event).length !== 1) {
      return {
        message: `the alias ${ALIAS} accepts {"inspection":true} only; invoke the function for others`,
      };
    }
    const invocation = startInspection(context);
    try {
      const parts = await settings.inspect(invocation.signal);
      const parameters = describeParameters(parts, settings.path, Date.now());
      await using api = connect(invocation);
      const clusters = await settings.clusters(invocation.signal);
      const inspected = await inspect({ ...invocation, ledger, api, clusters });
      reportInspection(invocation, inspected);
      return reportOf(inspected, parameters);
    } catch (error) {
      reportInspection(invocation, error instanceof Error ? error : new Error(String(error)));
      return { message: messageOf(error) };
    } finally {
      invocation.clearDeadline();
    }
  };
}
