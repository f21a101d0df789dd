/**
 * `npm run contract`: what we expect of pg-backup-api, asked of a running one, line by line. For who wants to know whether a new
 * version of it, or the proxy before it, still does what the function relies on.
 *
 * It changes nothing but the active model of the server that is named, and puts that back.
 */

import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs, styleText } from 'node:util';
import { Agent, request } from 'undici';
import * as v from 'valibot';
import { BARMAN_NAME } from '../functions/config-switch/barman/target.ts';

export interface Subject {
  /** Where pg-backup-api is, with its path if a proxy gives it one. */
  readonly url: string;
  /** PEM; absent for plain HTTP. */
  readonly tls?: { readonly cert?: string; readonly key?: string; readonly ca?: string };
  /** A Barman server, and models of its cluster. */
  readonly server: string;
  readonly models: readonly string[];
  /** Ends it early; the active model is put back all the same. */
  readonly signal?: AbortSignal;
}

/** An expectation and whether it holds; null if it could not be tried. */
export interface Line {
  readonly expectation: string;
  readonly holds: boolean | null;
  /** What was found instead, or how long it took. */
  readonly found?: string;
}

interface ResponseBody {
  readonly status: number;
  readonly type: string;
  readonly body: string;
  /** From the request to the end of the response. */
  readonly ms: number;
}

/** Time limit for an operation (ms): most take one second, on a host with many servers up to half a minute. */
const OPERATION_TIMEOUT = 120_000;
const REQUEST_TIMEOUT = 60_000;
/** Ids of operations are times in seconds, so another one of the same server has to wait for the next second (ms). */
const ID_GRAIN = 1_000;
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
/** An expectation could not be tried. */
class Untried extends Error {}

/**
 * Asks each expectation of a running pg-backup-api.
 *
 * @param subject where it is, and what may be switched there
 * @param report called with each line
 * @returns whether each of them holds, and the active model was put back
 */
export async function checkContract(subject: Subject, report: (line: Line) => void): Promise<boolean> {
  const { server, models } = subject;
  const { ask, close } = connect(subject);
  const operations = `servers/${encodeURIComponent(server)}/operations`;
  const unknown = `contract-${randomUUID()}`;
  let good = true;
  let posted = Number.NEGATIVE_INFINITY;
  /** What we last switched to; undefined while nothing is. */
  let ours: string | null | undefined;

  const line = async (expectation: string, find: () => Promise<string | undefined>): Promise<void> => {
    try {
      if (subject.signal?.aborted && find !== putBack) throw new Untried('interrupted');
      const found = await find();
      report({ expectation, holds: true, ...(found !== undefined && { found }) });
    } catch (error) {
      const holds = error instanceof Untried ? null : false;
      good &&= holds === null;
      report({ expectation, holds, found: reasonOf(error) });
    }
  };
  const expectations = async (): Promise<void> => {
    await line('GET /status is 200 and the JSON string "OK"', async () =>
      took(json(await ask('GET', 'status'), 200, v.literal('OK'))),
    );
    if (subject.tls?.cert !== undefined) {
      await line('a client without a certificate is rejected', async () => {
        const { cert: _, key: __, ...tls } = subject.tls ?? {};
        const stranger = connect({ ...subject, tls });
        const response = await stranger.ask('GET', 'status').catch(() => undefined);
        await stranger.close();
        return response === undefined ? 'no connection' : String(is(response, 400, 401, 403).status);
      });
    }
    await line('GET /servers/S/operations is 200 and lists ids and types', async () =>
      took(json(await ask('GET', operations), 200, Operations)),
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
        return json(await ask(method, path, body), 404, Refusal).value.error;
      });
    }
    for (const { what, body, status } of [
      { what: 'both model_name and reset', body: { model_name: unknown, reset: true }, status: 400 },
      { what: 'reset false', body: { reset: false }, status: 400 },
      { what: 'neither model_name nor reset', body: {}, status: 400 },
      { what: 'an unknown type', body: { type: unknown, reset: true }, status: 500 },
    ]) {
      await line(`POST /servers/S/operations with ${what} is ${status}`, async () => {
        const { type } = is(await post({ type: 'config_switch', ...body }), status);
        return type;
      });
    }
    for (const model of models) {
      await switches(`"model_name":"${model}"`, { model_name: model }, model);
      await switches(`"model_name":"${model}" once more, though it is active`, { model_name: model }, model);
    }
    await line('a model that Barman does not know: the operation is FAILED', async () => {
      const id = json(await post({ type: 'config_switch', model_name: unknown }), 202, Created).value
        .operation_id;
      return took(await ended(id, 'FAILED'));
    });
    await line('… and the active model is what it was', () => active(ours ?? null));
    await switches('"reset":true', { reset: true }, null);
    await line('another operation of S in the same second is 500', async () => {
      for (let tried = 0; tried < TRIES; tried += 1) {
        const order = { type: 'config_switch', reset: true };
        const { operation_id } = json(await post(order), 202, Created).value;
        const second = await ask('POST', operations, order);
        posted = performance.now();
        await ended(operation_id, 'DONE');
        if (second.status === 500) return second.type;
        const other = json(second, 202, Created).value.operation_id;
        if (other === operation_id) throw new Mismatch('202, with the id of the first');
        await ended(other, 'DONE');
      }
      throw new Untried(`no two requests were in one second, ${TRIES} times`);
    });
  };

  /** A POST, in a second of its own. */
  const post = async (order: object): Promise<ResponseBody> => {
    await sleep(Math.max(0, posted + ID_GRAIN - performance.now()));
    try {
      return await ask('POST', operations, order);
    } finally {
      posted = performance.now();
    }
  };
  const ended = async (id: string, as: 'DONE' | 'FAILED') => {
    const start = performance.now();
    for (;;) {
      const { value, ms } = json(await ask('GET', `${operations}/${id}`), 200, Operation);
      if (value.operation_id !== id) throw new Mismatch(`operation_id is ${value.operation_id}, not ${id}`);
      const elapsed = performance.now() - start;
      if (value.status === as) return { value, ms: elapsed };
      if (value.status !== 'IN_PROGRESS') throw new Mismatch(`operation ${id} ended ${value.status}`);
      if (elapsed > OPERATION_TIMEOUT) {
        throw new Mismatch(`operation ${id} is IN_PROGRESS after ${OPERATION_TIMEOUT / 1_000} s`);
      }
      await sleep(Math.max(150, 2 * ms));
    }
  };
  const activeNow = async (): Promise<string | null> => {
    const { servers } = json(await ask('GET', 'diagnose'), 200, Diagnosis).value;
    const found = servers[server];
    if (!found) throw new Mismatch(`Barman has no server ${server}`);
    return found.active_model;
  };
  const active = async (model: string | null): Promise<undefined> => {
    const found = await activeNow();
    if (found !== model) throw new Mismatch(`it is ${found ?? 'none'}`);
    return undefined;
  };
  const switches = async (words: string, order: object, model: string | null): Promise<void> => {
    let id = '';
    await line(`POST /servers/S/operations with ${words} is 202 and an id`, async () => {
      const created = json(await post({ type: 'config_switch', ...order }), 202, Created);
      id = created.value.operation_id;
      ours = model;
      return `${id}, ${took(created)}`;
    });
    if (id === '') return;
    await line('… GET /servers/S/operations/ID returns its status, and finally DONE', async () =>
      took(await ended(id, 'DONE')),
    );
    await line('… the list has it, as config_switch', async () => {
      const { operations: all } = json(await ask('GET', operations), 200, Operations).value;
      const type = all.find((one) => one.id === id)?.type;
      if (type !== 'config_switch') throw new Mismatch(type === undefined ? 'it is not there' : `as ${type}`);
      return undefined;
    });
    await line(`… the active model is ${model ?? 'none'}`, () => active(model));
  };

  /** What was active when it began. */
  let before: string | null | undefined;
  const putBack = async (): Promise<string | undefined> => {
    const was = before ?? null;
    const now = await activeNow();
    if (now === was) return 'it was';
    if (now !== ours)
      throw new Untried(`another invocation has switched to ${now ?? 'none'} meanwhile; it was not changed`);
    const order = { type: 'config_switch', ...(was === null ? { reset: true } : { model_name: was }) };
    await ended(json(await post(order), 202, Created).value.operation_id, 'DONE');
    return active(was);
  };

  try {
    await line('GET /diagnose returns active models, and the clusters of servers and models', async () => {
      const response = json(await ask('GET', 'diagnose'), 200, Diagnosis);
      const { servers, models: known } = response.value;
      const found = servers[server];
      if (!found)
        throw new Mismatch(`Barman has no server ${server}, but ${Object.keys(servers).join(', ')}`);
      const cluster = found.config.cluster ?? server;
      const foreign = models.filter((model) => known[model]?.config.cluster !== cluster);
      if (foreign.length > 0) throw new Mismatch(`no model of cluster ${cluster}: ${foreign.join(', ')}`);
      before = found.active_model;
      return took(response);
    });
    // Without knowing what is active nothing is switched: it could not be put back.
    if (before !== undefined) await expectations();
  } finally {
    if (ours !== undefined) {
      await line(`at the end the active model is put back: ${before ?? 'none'}`, putBack);
    }
    await close();
  }
  return good;
}

function connect({ url, tls }: Subject) {
  const agent = new Agent({ connect: { ...tls }, allowH2: false });
  const base = url.replace(/\/+$/, '');
  const ask = async (method: 'GET' | 'POST', path: string, body?: object): Promise<ResponseBody> => {
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
  return { ask, close: () => agent.destroy() };
}

function is(response: ResponseBody, ...statuses: readonly number[]): ResponseBody {
  if (statuses.includes(response.status)) return response;
  const words = response.body.replace(/<[^>]*>|\s+/g, ' ').trim();
  throw new Mismatch(`${response.status}, ${response.type}: ${words.slice(0, 200)}`);
}

function json<T>(
  response: ResponseBody,
  status: number,
  schema: v.GenericSchema<unknown, T>,
): { value: T; ms: number } {
  const { body, ms } = is(response, status);
  let value: unknown;
  try {
    value = JSON.parse(body);
  } catch {
    throw new Mismatch(`${status}, but no JSON: ${body.slice(0, 200)}`);
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
  return error instanceof Mismatch || error instanceof Untried ? error.message : `${error.message}${code}`;
}

/** @throws Error that names the option and the remedy */
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
    throw new Error('--model: give a model of its cluster; better two, each with --model');
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
    const good = await checkContract(subject, ({ expectation, holds, found }) => {
      const mark =
        holds === null
          ? styleText('yellow', '  ?   ')
          : holds
            ? styleText('green', '  ok  ')
            : styleText('red', ' FAIL ');
      console.log(`${mark} ${expectation}${found === undefined ? '' : styleText('dim', `  (${found})`)}`);
    });
    process.exitCode = interrupted.signal.aborted ? 130 : good ? 0 : 1;
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    process.exitCode = 4;
  }
}
