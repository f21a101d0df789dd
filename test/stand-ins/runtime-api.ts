/** The Lambda runtime API for a runtime interface client (AWS Lambda Developer Guide, "Runtime API"). */

import { createServer } from 'node:http';
import { listen, readBody } from './server.ts';

/** Serves one function process at a time. */
export interface RuntimeApi {
  /** Value for AWS_LAMBDA_RUNTIME_API. */
  readonly address: string;
  /** Resolves when the function is initialised and requests its first event. */
  ready(): Promise<void>;
  /**
   * @param event the invocation's payload.
   * @returns the function's response.
   * @throws if the function fails
   */
  invoke(event: object): Promise<unknown>;
  /** Rejects `ready` and the current invocation, for example because the function's process has exited. */
  fail(error: Error): void;
  close(): Promise<void>;
}

/** Function timeout, from which the invocation's deadline is computed (ms). */
const TIMEOUT = 29_000;

export async function startRuntimeApi(): Promise<RuntimeApi> {
  const ready = Promise.withResolvers<void>();
  let waiting = Promise.withResolvers<object>();
  let result = Promise.withResolvers<unknown>();
  let count = 0;
  const fail = (error: Error) => {
    for (const { promise, reject } of [ready, result]) {
      promise.catch(() => {});
      reject(error);
    }
  };
  const server = await listen(
    createServer(async (request, response) => {
      const path = String(request.url).replace('/2018-06-01/runtime', '');
      const body = await readBody(request);
      if (path === '/invocation/next') {
        ready.resolve();
        const event = await waiting.promise;
        waiting = Promise.withResolvers();
        count += 1;
        const headers = {
          'content-type': 'application/json',
          'lambda-runtime-aws-request-id': `request-${count}`,
          'lambda-runtime-deadline-ms': String(Date.now() + TIMEOUT),
          'lambda-runtime-invoked-function-arn': 'arn:aws:lambda:eu-central-1:123456789012:function:bench',
        };
        response.writeHead(200, headers).end(JSON.stringify(event));
        return;
      }
      response.writeHead(202, { 'content-type': 'application/json' }).end('{"status":"OK"}');
      if (path.endsWith('/response')) {
        result.resolve(JSON.parse(body));
      } else {
        fail(new Error(`the function failed: ${path} ${body}`));
      }
    }),
  );
  return {
    address: `127.0.0.1:${server.port}`,
    ready: () => ready.promise,
    invoke: (event) => {
      result = Promise.withResolvers();
      waiting.resolve(event);
      return result.promise;
    },
    fail,
    close: () => server.close(),
  };
}
