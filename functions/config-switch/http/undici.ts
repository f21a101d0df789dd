/**
 * Only undici's Agent and request: its index also loads fetch, WebSocket, caches and mocks, which would
 * double its share of a cold start (npm run bench -- cold). These are internal paths, so the version is
 * pinned.
 */

import type { Dispatcher, Agent as UndiciAgent } from 'undici';
// @ts-expect-error: undici has types for its index only
import apiRequest from 'undici/lib/api/api-request.js';
// @ts-expect-error: the same
import agent from 'undici/lib/dispatcher/agent.js';

/** undici's Agent. */
export const Agent = agent as typeof UndiciAgent;

/** undici's `Dispatcher.request`, which its index adds to the dispatchers. */
export function request(
  dispatcher: UndiciAgent,
  options: Dispatcher.RequestOptions,
): Promise<Dispatcher.ResponseData> {
  return (apiRequest as Dispatcher['request']).call(dispatcher, options) as Promise<Dispatcher.ResponseData>;
}
