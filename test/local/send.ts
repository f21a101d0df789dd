/**
 * Sends a role change to the function of `npm start`.
 * `npm run webhook -- …`: signed, over HTTP, like a Patroni callback.
 * `npm run invoke -- …`: the payload itself, like the console's test button.
 * A deployed stage is tried with the callback's --dry-run (README, "Point Patroni at it").
 */

import { readFileSync } from 'node:fs';
import { parseArgs, styleText } from 'node:util';
import { signedHeaders } from '../stand-ins/webhook.ts';

/** Where a running `npm start` writes its addresses. */
export const STATE_FILE = '.local/state.json';
export const FUNCTION_NAME = 'barman-config-switch';

export interface Local {
  readonly url: string;
  readonly invokeUrl: string;
  readonly secret: string;
}

export interface Exchange {
  readonly request: string;
  readonly headers: Record<string, string>;
  readonly body: string;
  readonly status: number;
  readonly response: string;
  /** ms */
  readonly time: number;
}

/** Sends a role change of cluster main and Barman server main, with the given fields. */
export async function send(to: Local, how: 'webhook' | 'invoke', fields: object): Promise<Exchange> {
  const body = JSON.stringify({
    action: 'on_role_change',
    cluster: 'main',
    barman_server: 'main',
    ...fields,
  });
  const url = how === 'webhook' ? to.url : to.invokeUrl;
  const headers = how === 'webhook' ? signedHeaders(to.secret, body) : {};
  const start = performance.now();
  const http = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body,
  });
  const response = await http.text();
  return {
    request: `POST ${new URL(url).pathname}`,
    headers,
    body,
    status: http.status,
    response,
    time: Math.round(performance.now() - start),
  };
}

/** Prints it. @returns the ExitCode of the response, or 3 where it has none */
export function showExchange({ request, headers, body, status, response, time }: Exchange): number {
  const indented = (value: unknown) => `  ${JSON.stringify(value, null, 2).replaceAll('\n', '\n  ')}`;
  console.log(`  ${request}`);
  for (const [name, value] of Object.entries(headers)) console.log(styleText('dim', `  ${name}: ${value}`));
  console.log(`  ${body}`);
  console.log(`\n${styleText('bold', `Response after ${time} ms`)}\n`);
  console.log(`  HTTP ${status}`);
  try {
    const json = JSON.parse(response) as { exit_code?: number };
    console.log(indented(json));
    return json.exit_code ?? 3;
  } catch {
    console.log(`  ${response}`);
    return 3;
  }
}

function readLocal(): Local {
  try {
    return JSON.parse(readFileSync(STATE_FILE, 'utf8')) as Local;
  } catch {
    throw new Error(
      'the function is not running: run `npm start` in another terminal. A deployed stage is tried with ' +
        'patroni/barman_config_switch.py --dry-run',
    );
  }
}

async function main(): Promise<void> {
  const { positionals, values } = parseArgs({
    allowPositionals: true,
    options: {
      action: { type: 'string' },
      role: { type: 'string' },
      cluster: { type: 'string' },
      'barman-server': { type: 'string' },
      'barman-model': { type: 'string' },
      'switch-when': { type: 'string' },
      'age-ms': { type: 'string' },
      reset: { type: 'boolean' },
      'dry-run': { type: 'boolean' },
    },
  });
  const [how] = positionals;
  const { 'age-ms': age, ...given } = values;
  if (how !== 'webhook' && how !== 'invoke')
    throw new Error('usage: `npm run webhook -- …` or `npm run invoke -- …`');
  const to = readLocal();
  const named = Object.entries(given).map(([name, value]) => [name.replaceAll('-', '_'), value]);
  const fields: object = Object.fromEntries(named);
  process.exitCode = showExchange(
    await send(to, how, age === undefined ? fields : { ...fields, age_ms: Number(age) }),
  );
}

if (import.meta.main) {
  await main().catch((error: unknown) => {
    console.error(error instanceof Error ? error.message : error);
    process.exitCode = 4;
  });
}
