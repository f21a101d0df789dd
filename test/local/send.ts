/**
 * Sends a role change to the function of `npm start`.
 * `npm run webhook -- …`: signed, over HTTP, like a Patroni callback.
 * `npm run invoke -- …`: the payload itself, like the console's test button.
 * A deployed stage is tried with the callback's --dry-run (docs/how-to/set-up.md).
 */

import { styleText } from 'node:util';
import * as v from 'valibot';
import { type Main, type Program, start, UsageError } from '../../cli/command-line.ts';
import { LOCAL_STAGE, type Local, readLocal } from '../../cli/stage.ts';
import { ResponseSchema } from '../../functions/config-switch/event/response.ts';
import { ExitCode } from '../../functions/config-switch/exit-code.ts';
import { signedHeaders } from '../stand-ins/webhook.ts';

export interface Exchange {
  readonly request: string;
  readonly headers: Record<string, string>;
  readonly body: string;
  readonly status: number;
  readonly response: string;
  /** ms */
  readonly time: number;
}

/** Returns where Lambda's API takes invocations (API reference, "Invoke"). */
function invocationUrl({ aws }: Local): URL {
  const path = `/2015-03-31/functions/barman-config-switch-${LOCAL_STAGE}/invocations`;
  return new URL(path, aws.AWS_ENDPOINT_URL_LAMBDA);
}

/** Returns what shows that an invocation comes from this user. */
function credentials({ aws }: Local): Record<string, string> {
  return { authorization: `AWS4-HMAC-SHA256 Credential=${aws.AWS_ACCESS_KEY_ID}/` };
}

/** Invokes the function. @param alias of it @returns its response @throws Error if it failed */
export async function invoke(local: Local, event: object, alias?: string): Promise<unknown> {
  const url = invocationUrl(local);
  if (alias) url.searchParams.set('Qualifier', alias);
  const response = await fetch(url, {
    method: 'POST',
    headers: credentials(local),
    body: JSON.stringify(event),
  });
  const text = await response.text();
  if (!response.ok || response.headers.has('x-amz-function-error'))
    throw new Error(`the function failed: ${text}`);
  return JSON.parse(text);
}

/** Sends a role change of cluster main and Barman server main, with the given fields. */
export async function send(to: Local, how: 'webhook' | 'invoke', fields: object): Promise<Exchange> {
  const body = JSON.stringify({
    action: 'on_role_change',
    cluster: 'main',
    barman_server: 'main',
    ...fields,
  });
  const headers: Record<string, string> = how === 'webhook' ? signedHeaders(to.secret, body) : {};
  const start = performance.now();
  const url = how === 'webhook' ? new URL(to.url) : invocationUrl(to);
  const http = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...(how === 'webhook' ? headers : credentials(to)) },
    body,
  });
  const response = await http.text();
  return {
    request: `POST ${url.pathname}`,
    headers,
    body,
    status: http.status,
    response,
    time: Math.round(performance.now() - start),
  };
}

/** Prints it. @returns the ExitCode of the response, or HTTP_ERROR where it has none */
export function showExchange({ request, headers, body, status, response, time }: Exchange): number {
  const result = v.safeParse(v.pipe(v.string(), v.parseJson()), response);
  const shown = result.success ? JSON.stringify(result.output, null, 2).replaceAll('\n', '\n  ') : response;
  console.log(`  ${request}`);
  for (const [name, value] of Object.entries(headers)) console.log(styleText('dim', `  ${name}: ${value}`));
  console.log(`  ${body}`);
  console.log(`\n${styleText('bold', `Response after ${time} ms`)}\n`);
  console.log(`  HTTP ${status}\n  ${shown}`);
  const { exit_code } = v.is(ResponseSchema, result.output)
    ? result.output
    : { exit_code: ExitCode.HTTP_ERROR };
  return exit_code;
}

const OPTIONS = {
  role: { type: 'string', value: 'ROLE', help: "the node's new role: primary, replica, standby_leader, …" },
  'barman-model': { type: 'string', value: 'MODEL', help: 'the model to apply, such as pg:node2' },
  reset: { type: 'boolean', help: 'drops the active model' },
  'follow-leader': { type: 'boolean', help: "applies the model of Patroni's leader" },
  'dry-run': { type: 'boolean', help: 'changes nothing, and says what would happen' },
  'switch-when': { type: 'string', value: 'WHEN', help: 'promoted, demoted, always or leader' },
  'age-ms': { type: 'string', value: 'MS', help: 'how long ago the role changed' },
  cluster: { type: 'string', value: 'CLUSTER', help: 'the Patroni cluster, main otherwise' },
  'barman-server': {
    type: 'string',
    value: 'SERVER',
    help: 'the Barman server: main or crm, main otherwise',
  },
  action: { type: 'string', value: 'ACTION', help: 'on_role_change otherwise' },
} as const;

export const SEND: Record<'webhook' | 'invoke', Program<typeof OPTIONS>> = {
  webhook: {
    name: 'npm run webhook',
    summary:
      'Sends a signed role change to the function of `npm start`; ends with the ExitCode of its response.',
    options: OPTIONS,
    failure: ExitCode.HTTP_ERROR,
  },
  invoke: {
    name: 'npm run invoke',
    summary:
      'Invokes the function of `npm start` with a role change; ends with the ExitCode of its response.',
    options: OPTIONS,
    failure: ExitCode.HTTP_ERROR,
  },
};

/** Sends what the options say. Wrong values are sent, too: the function explains them. */
export function sendRoleChange(how: 'webhook' | 'invoke'): Main<typeof OPTIONS> {
  return async ({ 'age-ms': age, ...given }) => {
    if (age !== undefined && !Number.isFinite(Number(age))) {
      throw new UsageError(`--age-ms must be a number of milliseconds, not "${age}"`);
    }
    const fields = Object.entries(given).map(([name, value]) => [name.replaceAll('-', '_'), value]);
    const age_ms = age === undefined ? {} : { age_ms: Number(age) };
    return showExchange(await send(readLocal(), how, { ...Object.fromEntries(fields), ...age_ms }));
  };
}

if (import.meta.main) {
  const [how, ...args] = process.argv.slice(2);
  const name = how === 'invoke' ? 'invoke' : 'webhook';
  start(SEND[name], sendRoleChange(name), args);
}
