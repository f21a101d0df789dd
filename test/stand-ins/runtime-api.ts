/** Lambda's runtime API, as its runtime interface client speaks it (AWS Lambda Developer Guide, "Runtime API"). */

import { createServer } from 'node:http';
import { listen, readBody } from './server.ts';

/** One process of a function at a time. */
export interface RuntimeApi {
  /** For AWS_LAMBDA_RUNTIME_API. */
  readonly address: string;
  /** Resolves once the function asks for its first event, and is ready. */
  ready(): Promise<void>;
  /** @param event what the function is invoked with. @returns its response; throws its error */
  invoke(event: object): Promise<unknown>;
  /** Rejects what is waited for: the process of the function has ended. */
  fail(error: Error): void;
  close(): Promise<void>;
}

/** The time-out of an invocation (ms). */
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
