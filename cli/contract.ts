/**
 * `npm run contract`: checks whether a running pg-backup-api does what the function relies on, one line per expectation. Run it
 * before an upgrade of pg-backup-api, or of the proxy in front of it.
 *
 * It changes only the active model of the given server, and restores it at the end.
 */

import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs, styleText } from 'node:util';
import { Agent, request } from 'undici';
import * as v from 'valibot';
import { BARMAN_NAME } from '../functions/config-switch/target.ts';

export interface Subject {
  /** Base URL of pg-backup-api, with the proxy's path prefix if it has one. */
  readonly url: string;
  /** PEM; absent for plain HTTP. */
  readonly tls?: { readonly cert?: string; readonly key?: string; readonly ca?: string };
  /** A Barman server, and models of its cluster to switch to. */
  readonly server: string;
  readonly models: readonly string[];
  /** Ends the checks early; the active model is restored all the same. */
  readonly signal?: AbortSignal;
}

/** An expectation and whether it holds; null if it could not be checked. */
export interface Line {
  readonly expectation: string;
  readonly holds: boolean | null;
  /** What was found, or how long it took. */
  readonly found?: string;
}

interface ResponseBody {
  readonly status: number;
  readonly type: string;
  readonly body: string;
  /** From the request to the end of the response (ms). */
  readonly ms: number;
}

/** Time limit for an operation (ms): most take one second, on a host with many servers up to half a minute. */
const OPERATION_TIMEOUT = 120_000;
const REQUEST_TIMEOUT = 60_000;
/** Ids of operations are times in seconds, so another one of the same server has to wait for the next second (ms). */
const ID_RESOLUTION = 1_000;
const TRIES = 5;

const Refusal = v.object({ error: v.string() });
const Created = v.object({
  operation_id: v.pipe(v.string(), v.regex(BARMAN_NAME), v.regex(/^\d{8}T\d{6}$/)),
});
const Operation = v.object({
  operation_id: v.string(),
  status: v.picklist(['IN_PROGRESS', 'DONE', 'FAILED']),
});
const Operations = v.object({ operations: v.array(v.object({ id: v.string(), type: v.string() })) });
const Config = v.object({ cluster: v.nullish(v.string()) });
const Diagnosis = v.object({
  servers: v.record(v.string(), v.object({ active_model: v.nullable(v.string()), config: Config })),
  models: v.record(v.string(), v.object({ config: Config })),
});

/** An expectation does not hold; the message says what was found. */
class Mismatch extends Error {}
/** An expectation could not be checked. */
class Unchecked extends Error {}

/**
 * Checks each expectation against a running pg-backup-api.
 *
 * @param subject where it is, and what may be switched there
 * @param report called with each line, as soon as it is known
 * @returns whether no expectation failed and the active model was restored
 */
export async function checkContract(subject: Subject, report: (line: Line) => void): Promise<boolean> {
  const { server, models } = subject;
  const { send, close } = connect(subject);
  const operations = `servers/${encodeURIComponent(server)}/operations`;
  const unknown = `contract-${randomUUID()}`;
  let passed = true;
  let lastPostAt = Number.NEGATIVE_INFINITY;
  /** The model that this run last switched to (null: reset); undefined before its first switch. */
  let switchedTo: string | null | undefined;

  const line = async (expectation: string, find: () => Promise<string | undefined>): Promise<void> => {
    try {
      if (subject.signal?.aborted && find !== restore) throw new Unchecked('interrupted');
      const found = await find();
      report({ expectation, holds: true, ...(found !== undefined && { found }) });
    } catch (error) {
      const holds = error instanceof Unchecked ? null : false;
      passed &&= holds === null;
      report({ expectation, holds, found: reasonOf(error) });
    }
  };
  const expectations = async (): Promise<void> => {
    await line('GET /status is 200 and the JSON string "OK"', async () =>
      took(expectJson(await send('GET', 'status'), 200, v.literal('OK'))),
    );
    if (subject.tls?.cert !== undefined) {
      await line('a client without a certificate is rejected', async () => {
        const { cert: _, key: __, ...tls } = subject.tls ?? {};
        const client = connect({ ...subject, tls });
        const response = await client.send('GET', 'status').catch(() => undefined);
        await client.close();
        return response === undefined
          ? 'no connection'
          : String(expectStatus(response, 400, 401, 403).status);
      });
    }
    await line('GET /servers/S/operations is 200 and lists ids and types', async () =>
      took(expectJson(await send('GET', operations), 200, Operations)),
    );
    for (const [method, path] of [
      ['POST', `servers/${unknown}/operations`],
      ['GET', `servers/${unknown}/operations`],
      ['GET', `servers/${unknown}/operations/20000101T000000`],
      ['GET', `${operations}/20000101T000000`],
    ] as const) {
      const what = path.startsWith(operations) ? 'operation' : 'server';
      const shown = path.replace(operations, 'servers/S/operations').replace(unknown, 'unknown');
      await line(`${method} /${shown}: an unknown ${what} is 404, a JSON object with "error"`, async () => {
        const body = method === 'POST' ? { type: 'config_switch', reset: true } : undefined;
        return expectJson(await send(method, path, body), 404, Refusal).value.error;
      });
    }
    await line(
      'GET /servers/S/operations takes a name with any of . : @ + ~ = , -: 404, a JSON object with "error"',
      async () => {
        const path = `servers/${encodeURIComponent(`${unknown}.a:b@c+d~e=f,g-h`)}/operations`;
        return expectJson(await send('GET', path), 404, Refusal).value.error;
      },
    );
    for (const { what, body, status } of [
      { what: 'both model_name and reset', body: { model_name: unknown, reset: true }, status: 400 },
      { what: 'reset false', body: { reset: false }, status: 400 },
      { what: 'neither model_name nor reset', body: {}, status: 400 },
      { what: 'an unknown type', body: { type: unknown, reset: true }, status: 500 },
    ]) {
      await line(`POST /servers/S/operations with ${what} is ${status}`, async () => {
        const { type } = expectStatus(await post({ type: 'config_switch', ...body }), status);
        return type;
      });
    }
    for (const model of models) {
      await switches(`"model_name":"${model}"`, { model_name: model }, model);
      await switches(`"model_name":"${model}" again, although it is active`, { model_name: model }, model);
    }
    await line('an unknown model: the operation ends FAILED', async () => {
      const id = expectJson(await post({ type: 'config_switch', model_name: unknown }), 202, Created).value
        .operation_id;
      return took(await ended(id, 'FAILED'));
    });
    await line('… the active model is unchanged', () => active(switchedTo ?? null));
    await switches('"reset":true', { reset: true }, null);
    await line('another operation of S in the same second is 500', async () => {
      for (let tried = 0; tried < TRIES; tried += 1) {
        const body = { type: 'config_switch', reset: true };
        const { operation_id } = expectJson(await post(body), 202, Created).value;
        const second = await send('POST', operations, body);
        lastPostAt = performance.now();
        await ended(operation_id, 'DONE');
        if (second.status === 500) return second.type;
        const other = expectJson(second, 202, Created).value.operation_id;
        if (other === operation_id) throw new Mismatch('202, with the id of the first operation');
        await ended(other, 'DONE');
      }
      throw new Unchecked(`no two requests arrived in the same second, in ${TRIES} tries`);
    });
  };

  /** Sends a POST in a second of its own. */
  const post = async (body: object): Promise<ResponseBody> => {
    await sleep(Math.max(0, lastPostAt + ID_RESOLUTION - performance.now()));
    try {
      return await send('POST', operations, body);
    } finally {
      lastPostAt = performance.now();
    }
  };
  /** Polls an operation until it has ended. @throws Mismatch if it ended otherwise, or not in time */
  const ended = async (id: string, expected: 'DONE' | 'FAILED') => {
    const start = performance.now();
    for (;;) {
      const { value, ms } = expectJson(await send('GET', `${operations}/${id}`), 200, Operation);
      if (value.operation_id !== id) throw new Mismatch(`operation_id is ${value.operation_id}, not ${id}`);
      const elapsed = performance.now() - start;
      if (value.status === expected) return { value, ms: elapsed };
      if (value.status !== 'IN_PROGRESS') throw new Mismatch(`operation ${id} ended ${value.status}`);
      if (elapsed > OPERATION_TIMEOUT) {
        throw new Mismatch(`operation ${id} is IN_PROGRESS after ${OPERATION_TIMEOUT / 1_000} s`);
      }
      await sleep(Math.max(150, 2 * ms));
    }
  };
  const activeNow = async (): Promise<string | null> => {
    const { servers } = expectJson(await send('GET', 'diagnose'), 200, Diagnosis).value;
    const found = servers[server];
    if (!found) throw new Mismatch(`Barman has no server ${server}`);
    return found.active_model;
  };
  const active = async (model: string | null): Promise<undefined> => {
    const found = await activeNow();
    if (found !== model) throw new Mismatch(`active: ${found ?? 'none'}`);
    return undefined;
  };
  const switches = async (parameters: string, body: object, model: string | null): Promise<void> => {
    let id = '';
    await line(`POST /servers/S/operations with ${parameters} is 202 and an id`, async () => {
      const created = expectJson(await post({ type: 'config_switch', ...body }), 202, Created);
      id = created.value.operation_id;
      switchedTo = model;
      return `${id}, ${took(created)}`;
    });
    if (id === '') return;
    await line('… GET /servers/S/operations/ID returns its status, and finally DONE', async () =>
      took(await ended(id, 'DONE')),
    );
    await line('… the list has it, as config_switch', async () => {
      const { operations: all } = expectJson(await send('GET', operations), 200, Operations).value;
      const type = all.find((one) => one.id === id)?.type;
      if (type !== 'config_switch')
        throw new Mismatch(type === undefined ? 'not listed' : `listed as ${type}`);
      return undefined;
    });
    await line(`… the active model is ${model ?? 'none'}`, () => active(model));
  };

  /** The active model at the start (null: none); undefined if it is unknown. */
  let initial: string | null | undefined;
  const restore = async (): Promise<string | undefined> => {
    const model = initial ?? null;
    const now = await activeNow();
    if (now === model) return 'already active';
    if (now !== switchedTo)
      throw new Unchecked(`another client has activated ${now ?? 'none'} meanwhile; it was not changed`);
    const body = { type: 'config_switch', ...(model === null ? { reset: true } : { model_name: model }) };
    await ended(expectJson(await post(body), 202, Created).value.operation_id, 'DONE');
    return active(model);
  };

  try {
    await line('GET /diagnose returns active models, and the clusters of servers and models', async () => {
      const response = expectJson(await send('GET', 'diagnose'), 200, Diagnosis);
      const { servers, models: known } = response.value;
      const found = servers[server];
      if (!found)
        throw new Mismatch(`Barman has no server ${server}; it has ${Object.keys(servers).join(', ')}`);
      const cluster = found.config.cluster ?? server;
      const foreign = models.filter((model) => known[model]?.config.cluster !== cluster);
      if (foreign.length > 0) throw new Mismatch(`not models of cluster ${cluster}: ${foreign.join(', ')}`);
      initial = found.active_model;
      return took(response);
    });
    // Without the active model nothing is switched, because it could not be restored.
    if (initial !== undefined) await expectations();
  } finally {
    if (switchedTo !== undefined) {
      await line(`at the end the active model is restored: ${initial ?? 'none'}`, restore);
    }
    await close();
  }
  return passed;
}

function connect({ url, tls }: Subject) {
  const agent = new Agent({ connect: { ...tls }, allowH2: false });
  const base = url.replace(/\/+$/, '');
  const send = async (method: 'GET' | 'POST', path: string, body?: object): Promise<ResponseBody> => {
    const start = performance.now();
    const response = await request(`${base}/${path}`, {
      method,
      dispatcher: agent,
      signal: AbortSignal.timeout(REQUEST_TIMEOUT),
      headers: { accept: 'application/json', ...(body && { 'content-type': 'application/json' }) },
      ...(body && { body: JSON.stringify(body) }),
    });
    const text = await response.body.text();
    const type = String(response.headers['content-type'] ?? 'no content-type').split(';')[0] as string;
    return { status: response.statusCode, type, body: text, ms: performance.now() - start };
  };
  return { send, close: () => agent.destroy() };
}

/** @throws Mismatch if the status is another */
function expectStatus(response: ResponseBody, ...statuses: readonly number[]): ResponseBody {
  if (statuses.includes(response.status)) return response;
  const text = response.body.replace(/<[^>]*>|\s+/g, ' ').trim();
  throw new Mismatch(`${response.status}, ${response.type}: ${text.slice(0, 200)}`);
}

/** @throws Mismatch if the status is another, or the body does not match the schema */
function expectJson<T>(
  response: ResponseBody,
  status: number,
  schema: v.GenericSchema<unknown, T>,
): { value: T; ms: number } {
  const { body, ms } = expectStatus(response, status);
  let value: unknown;
  try {
    value = JSON.parse(body);
  } catch {
    throw new Mismatch(`${status}, but not JSON: ${body.slice(0, 200)}`);
  }
  const { success, output, issues } = v.safeParse(schema, value);
  if (success) return { value: output, ms };
  throw new Mismatch(
    `${status}, but ${v.getDotPath(issues[0]) ?? 'it'} is not ${issues[0].expected}: ${body.slice(0, 200)}`,
  );
}

function took({ ms }: { ms: number }): string {
  return `${Math.round(ms)} ms`;
}

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const code = 'code' in error ? ` (${error.code})` : '';
  return error instanceof Mismatch || error instanceof Unchecked ? error.message : `${error.message}${code}`;
}

/** Parses the command line. @throws Error that names the option and the remedy */
function subjectFrom(argv: string[]): Subject {
  const { values } = parseArgs({
    args: argv,
    options: {
      url: { type: 'string' },
      'client-cert': { type: 'string' },
      'client-key': { type: 'string' },
      ca: { type: 'string' },
      server: { type: 'string' },
      model: { type: 'string', multiple: true },
    },
  });
  const { url, server, model: models } = values;
  if (url === undefined || !URL.canParse(url)) {
    throw new Error('--url: give the URL of pg-backup-api, such as https://barman.example.com/pgbapi');
  }
  if (server === undefined)
    throw new Error('--server: give a Barman server whose active model may be switched');
  if (models === undefined)
    throw new Error('--model: give a model of its cluster; preferably two: --model A --model B');
  const pem = (name: 'client-cert' | 'client-key' | 'ca') => {
    const file = values[name];
    if (file === undefined) return undefined;
    try {
      return readFileSync(file, 'utf8');
    } catch (error) {
      throw new Error(`--${name}: ${error instanceof Error ? error.message : error}`);
    }
  };
  const [cert, key, ca] = [pem('client-cert'), pem('client-key'), pem('ca')];
  const tls = { ...(cert && { cert }), ...(key && { key }), ...(ca && { ca }) };
  return { url, server, models, ...(url.startsWith('https:') && { tls }) };
}

if (import.meta.main) {
  try {
    const interrupted = new AbortController();
    process.once('SIGINT', () => interrupted.abort());
    const subject = { ...subjectFrom(process.argv.slice(2)), signal: interrupted.signal };
    const passed = await checkContract(subject, ({ expectation, holds, found }) => {
      const mark =
        holds === null
          ? styleText('yellow', '  ?   ')
          : holds
            ? styleText('green', '  ok  ')
            : styleText('red', ' FAIL ');
      console.log(`${mark} ${expectation}${found === undefined ? '' : styleText('dim', `  (${found})`)}`);
    });
    process.exitCode = interrupted.signal.aborted ? 130 : passed ? 0 : 1;
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    process.exitCode = 4;
  }
}
