/**
 * The handler of inspections, behind an alias of its own: who may look may not switch. It throws nothing, as the
 * heartbeat.
 */

import type { Context } from 'aws-lambda';
import { errorOf } from './errors.ts';
import { type Inspected, inspect } from './inspect/inspect.ts';
import { type InspectionReport, reportOf } from './inspect/report.ts';
import { type Invocation, startInspection } from './invocation.ts';
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

/**
 * Does something in an inspection, with all the time that Lambda has left.
 *
 * @returns what the action returns, or throws; the log has why
 */
export async function inInspection<T>(
  context: Context,
  action: (invocation: Invocation) => Promise<T>,
): Promise<T | Error> {
  const invocation = startInspection(context);
  try {
    return await action(invocation);
  } catch (thrown) {
    const error = errorOf(thrown);
    reportInspection(invocation, error);
    return error;
  } finally {
    invocation.clearDeadline();
  }
}

/** Inspects, and writes the log. @throws HttpError if the parameters or the ledger are unavailable */
export async function inspectNow(
  { settings, ledger, connect }: Pick<Services, 'settings' | 'ledger' | 'connect'>,
  invocation: Invocation,
): Promise<Inspected> {
  await using api = connect(invocation);
  const clusters = await settings.clusters(invocation.signal);
  const inspected = await inspect({ ...invocation, ledger, api, clusters });
  reportInspection(invocation, inspected);
  return inspected;
}

/** Returns the handler, whose response is what it has seen, or why it failed. */
export function createInspectionHandler(services: Services) {
  const { settings } = services;
  return async (
    event: unknown,
    context: Context,
  ): Promise<InspectionReport | { readonly message: string }> => {
    if (!isObject(event) || event.inspection !== true || Object.keys(event).length !== 1) {
      return {
        message: `the alias ${ALIAS} accepts {"inspection":true} only; invoke the function for others`,
      };
    }
    const report = await inInspection(context, async (invocation) => {
      const parts = await settings.inspect(invocation.signal);
      const parameters = describeParameters(parts, settings.path, Date.now());
      return reportOf(await inspectNow(services, invocation), parameters);
    });
    return report instanceof Error ? { message: report.message } : report;
  };
}
