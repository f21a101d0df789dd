/**
 * undici's agent and request, and no more: its index loads fetch, WebSocket, caches and mocks too, which takes a cold start
 * as long again (npm run bench -- cold). These are paths of its own, so its version is pinned.
 */

import type { Dispatcher, Agent as UndiciAgent } from 'undici';
// @ts-expect-error: undici has types for its index alone
import apiRequest from 'undici/lib/api/api-request.js';
// @ts-expect-error: the same
import agent from 'undici/lib/dispatcher/agent.js';

/** As undici's own. */
export const Agent = agent as typeof UndiciAgent;

/** As `Dispatcher.request` of undici, which its index adds to the dispatchers. */
export function request(
  dispatcher: UndiciAgent,
  options: Dispatcher.RequestOptions,
): Promise<Dispatcher.ResponseData> {
  return (apiRequest as Dispatcher['request']).call(dispatcher, options) as Promise<Dispatcher.ResponseData>;
}
