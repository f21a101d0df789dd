/** `npm run ledger`, run in the process of the test, and the Lambda that it invokes. */

import { createServer } from 'node:http';
import { json } from 'node:stream/consumers';
import { vi } from 'vitest';
import { run as runProgram } from '../../cli/command-line.ts';
import { LEDGER, ledger as main } from '../../cli/ledger.ts';
import { listen } from '../stand-ins/server.ts';
import { runCommand } from './command.ts';

/**
 * Lambda, on a real socket.
 *
 * @param invoke returns the function's response, by the alias that was invoked; undefined: the connection is cut
 */
export async function startLambda(invoke: (event: unknown, alias?: string) => Promise<unknown>) {
  const server = await listen(
    createServer(async (request, response) => {
      try {
        const alias = new URL(request.url ?? '', 'http://lambda').searchParams.get('Qualifier') ?? undefined;
        const result = await invoke(await json(request), alias);
        if (result === undefined) request.socket.destroy();
        else response.end(JSON.stringify(result));
      } catch (error) {
        response.setHeader('x-amz-function-error', 'Unhandled');
        response.end(JSON.stringify({ errorMessage: String(error) }));
      }
    }),
  );
  process.env.AWS_ENDPOINT_URL_LAMBDA = `http://127.0.0.1:${server.port}`;
  return {
    [Symbol.asyncDispose]: async () => {
      delete process.env.AWS_ENDPOINT_URL_LAMBDA;
      await server.close();
    },
  };
}

/** Runs `npm run ledger` as an operator does, in this process. */
export async function ledger(table: string, ...words: string[]) {
  vi.stubEnv('AWS_REGION', process.env.AWS_REGION);
  const stage = table.replace('barman-config-switch-', '');
  const result = await runCommand(() => runProgram(LEDGER, main, ['--stage', stage, ...words]));
  vi.unstubAllEnvs();
  return result;
}
