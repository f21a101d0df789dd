/**
 * The function in a process of its own, behind the two ways to it: POST /config-switch, as API Gateway passes a
 * webhook on, and Lambda's API for invocations, with the aliases that serverless-offline does not have.
 *
 * With READ_ONLY=true it sends GET requests only, whatever it is asked for.
 */

import { randomUUID } from 'node:crypto';
import { createServer, type IncomingMessage } from 'node:http';
import type { Context } from 'aws-lambda';
import { HttpError, messageOf } from '../../functions/config-switch/errors.ts';
import { Agent } from '../../functions/config-switch/http/agent.ts';
import { isSignedBy, listen, readBody } from '../stand-ins/server.ts';
import { httpEvent } from '../stand-ins/webhook.ts';

/** Lambda's time-out (ms; infra/function/function.yml). */
const TIMEOUT = 60_000;
const { AWS_ACCESS_KEY_ID, LAMBDA_PORT, READ_ONLY } = process.env;

// Where every request to Barman and Patroni is written, so that no way leads round it.
if (READ_ONLY === 'true') {
  const { send } = Agent.prototype;
  Agent.prototype.send = function (request, ...others) {
    if (request.method === 'GET') return send.call(this, request, ...others);
    return Promise.reject(new HttpError('nothing was sent to Barman: npm start runs without --apply'));
  };
}
const { handler } = await import('../../functions/config-switch/index.ts');

/** What is sent back. */
interface Answer {
  readonly status: number;
  readonly headers?: Record<string, string>;
  readonly body: string;
}

/** The response of the function to an HTTP event. */
interface HttpResponse {
  readonly statusCode: number;
  readonly headers: Record<string, string>;
  readonly body: string;
}

/** @param alias of the function; empty: none @param custom what the client passes on */
function contextOf(alias: string, custom: string | undefined): Context {
  const end = performance.now() + TIMEOUT;
  return {
    awsRequestId: randomUUID(),
    invokedFunctionArn: `arn:aws:lambda:local:function${alias && `:${alias}`}`,
    getRemainingTimeInMillis: () => end - performance.now(),
    ...(custom && { clientContext: JSON.parse(Buffer.from(custom, 'base64').toString()) }),
  } as Context;
}

async function answer(request: IncomingMessage): Promise<Answer> {
  const { pathname, searchParams } = new URL(request.url ?? '', 'http://localhost');
  const body = await readBody(request);
  if (request.method === 'POST' && pathname === '/config-switch') {
    const headers = Object.fromEntries(
      Object.entries(request.headers).map(([name, value]) => [name, String(value)]),
    );
    const response = (await handler(httpEvent(body, headers), contextOf('', undefined))) as HttpResponse;
    return { status: response.statusCode, headers: response.headers, body: response.body };
  }
  if (!/^\/2015-03-31\/functions\/[^/]+\/invocations$/.test(pathname)) return { status: 404, body: '' };
  if (!isSignedBy(request, AWS_ACCESS_KEY_ID)) return { status: 403, body: '' };
  const context = contextOf(
    searchParams.get('Qualifier') ?? '',
    request.headers['x-amz-client-context'] as string | undefined,
  );
  try {
    return { status: 200, body: JSON.stringify(await handler(JSON.parse(body), context)) ?? 'null' };
  } catch (error) {
    const headers = { 'x-amz-function-error': 'Unhandled' };
    return { status: 200, headers, body: JSON.stringify({ errorMessage: messageOf(error) }) };
  }
}

const server = createServer((request, response) => {
  answer(request).then(
    ({ status, headers, body }) => response.writeHead(status, headers).end(body),
    () => response.writeHead(500).end(),
  );
});
const { port } = await listen(server, Number(LAMBDA_PORT));
// What `npm start` waits for.
process.stdout.write(`Function ready: ${port}\n`);
