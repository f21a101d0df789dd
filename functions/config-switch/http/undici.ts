/**
 * Only undici's Agent, its connector and request: its index also loads fetch, WebSocket, caches and mocks,
 * which would double its share of a cold start (npm run bench -- cold). These are internal paths, so the
 * version is pinned.
 */

import type { Dispatcher, buildConnector as makeConnector, Agent as UndiciAgent } from 'undici';
// @ts-expect-error: undici has types for its index only
import apiRequest from 'undici/lib/api/api-request.js';
// @ts-expect-error: the same
import connect from 'undici/lib/core/connect.js';
// @ts-expect-error: the same
import agent from 'undici/lib/dispatcher/agent.js';

/** undici's Agent. */
export const Agent = agent as typeof UndiciAgent;

/** undici's `buildConnector`. */
export const buildConnector = connect as typeof makeConnector;

/** undici's options of a request; its types lack a body of chunks. */
export type RequestOptions = Omit<Dispatcher.RequestOptions, 'body'> & { body: AsyncIterable<string> };

/** undici's `Dispatcher.request`, which its index adds to the dispatchers. */
export const request = (dispatcher: UndiciAgent, options: RequestOptions) =>
  (apiRequest as (this: UndiciAgent, options: RequestOptions) => Promise<Dispatcher.ResponseData>).call(
    dispatcher,
    options,
  );
