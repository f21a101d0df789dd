/**
 * `npm run contract`: checks whether a running pg-backup-api does what the function relies on, with the
 * function's own client, one line per expectation; and whether the stand-in of the tests resembles it, with
 * requests that the function never sends. Run it before an upgrade of pg-backup-api, or of the proxy in front
 * of it.
 *
 * It changes only the active model of the given server, and restores it at the end.
 */

import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual, styleText } from 'node:util';
import { Agent, request } from 'undici';
import * as v from 'valibot';
import { type Connection, HttpClient } from '../functions/config-switch/barman/attempts.ts';
import { DiagnoseOutput } from '../functions/config-switch/barman/diagnosis.ts';
import { RequestFailure } from '../functions/config-switch/barman/failures.ts';
import { Operations, PgBackupApi } from '../functions/config-switch/barman/pg-backup-api.ts';
import { messageOf } from '../functions/config-switch/errors.ts';
import { type ConfigTarget, nameOf, requestBody } from '../functions/config-switch/target.ts';
import { printable } from '../functions/config-switch/text.ts';
import { type Program, start, UsageError, type Values } from './command-line.ts';

export interface Subject extends Connection {
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
  readonly found: string;
}

/**
 * Time limits for an operation and for `/diagnose` (ms): with many servers each takes up to half a minute.
 */
const OPERATION_TIMEOUT = 120_000;
const DIAGNOSE_TIMEOUT = 60_000;
/**
 * Ids of operations are times in seconds, so the next one of a server has to wait for the next second (ms).
 */
const ID_RESOLUTION = 1_000;
const TRIES = 5;
const RESET: ConfigTarget = { reset: true };

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
  const { server, models, tls } = subject;
  const source = { connection: async () => subject, rereadConnection: async () => subject };
  // The signal never aborts: an operation that has begun is waited for.
  const options = { signal: new AbortController().signal, maxRetries: 1 };
  await using api = new PgBackupApi(source, { ...options, facts: { attempts: 0, polls: 0 } });
  await using http = new HttpClient(source, { ...options, onRequest: () => {} });
  const unknown = `contract-${randomUUID()}`;
  const created: string[] = [];
  let passed = true;
  let lastPostAt = Number.NEGATIVE_INFINITY;
  /** The target at the start, and the one that this run last switched to; undefined until then. */
  const target: { initial?: ConfigTarget; last?: ConfigTarget } = {};

  /** Reports an expectation. @param find may return what it found; throws if it does not hold */
  const expect = async (expectation: string, find: () => Promise<unknown>) => {
    const start = performance.now();
    try {
      if (subject.signal?.aborted && find !== restore) throw new Unchecked('interrupted');
      const found = (await find()) ?? `${Math.round(performance.now() - start)} ms`;
      report({ expectation, holds: true, found: String(found) });
    } catch (error) {
      const holds = error instanceof Unchecked ? null : false;
      passed &&= holds === null;
      report({ expectation, holds, found: messageOf(error) });
    }
  };
  const expectStatus = (status: number, expectation: string, send: () => Promise<unknown>) =>
    expect(`${expectation} is ${status}`, async () => {
      const found = await send().then(() => 'success', statusOf);
      if (found !== status) throw new Error(String(found));
    });

  /** Expects the status of a request that the function does not send. @param proxy what a proxy may answer */
  const expectRaw = (status: number, expectation: string, raw: RawRequest, proxy?: number) =>
    expect(`${expectation} is ${status}${proxy ? `, or ${proxy} from the proxy` : ''}`, async () => {
      const found = await rawStatus(subject.url, tls, raw);
      if (found !== status && found !== proxy) throw new Error(String(found ?? 'no connection'));
      return found;
    });

  const send = (method: 'GET' | 'POST', path: readonly string[], body?: object) =>
    http.request({ method, path: ['servers', ...path], schema: v.unknown(), ...(body && { body }) });
  /** Sends a POST in a second of its own. */
  const post = async <T>(request: () => Promise<T>, after = ID_RESOLUTION): Promise<T> => {
    await sleep(Math.max(0, lastPostAt + after - performance.now()));
    return request().finally(() => {
      lastPostAt = performance.now();
    });
  };
  /** Requests a switch. @returns the id of its operation */
  const create = async (to: ConfigTarget, after?: number): Promise<string> => {
    const guard = {
      beforePost: async () => {},
      onCreated: () => {},
      waits: true,
      applied: undefined,
      inDoubt: false,
    };
    const id = await post(() => api.createConfigSwitchOperation(server, to, guard), after);
    created.push(id);
    // The function accepts other ids, too, but cannot know then which operations are the newest.
    if (!/^\d{8}T\d{6}$/.test(id)) throw new Error(`the id ${id} is not a time`);
    return id;
  };
  const ended = async (id: string, expected: 'DONE' | 'FAILED' = 'DONE') => {
    const limit = AbortSignal.timeout(OPERATION_TIMEOUT);
    const { status } = await api.waitForOperation(server, id, undefined, limit);
    if (status !== expected) throw new Error(`operation ${id} ended ${status}`);
  };
  const diagnose = async () => {
    const path = ['diagnose'];
    const output = await http.request({
      method: 'GET',
      path,
      schema: DiagnoseOutput,
      timeout: DIAGNOSE_TIMEOUT,
    });
    const model = output.servers.get(server)?.active_model;
    // The function only shows it; here it is what is restored.
    if (model === undefined) {
      throw new Error(`no active_model of ${server}; servers: ${[...output.servers.keys()].join(', ')}`);
    }
    return { ...output, active: model === null ? RESET : { model } };
  };
  const expectActive = (expected = RESET) =>
    expect(`… Barman uses ${nameOf(expected)}`, async () => {
      const { active } = await diagnose();
      if (!isDeepStrictEqual(active, expected)) throw new Error(`it uses ${nameOf(active)}`);
    });
  const expectSwitch = async (what: string, to: ConfigTarget) => {
    let id = '';
    await expect(`POST /servers/S/operations with ${what} is 202 and an id`, async () => {
      id = await create(to);
      target.last = to;
      return id;
    });
    if (id === '') return;
    await expect('… GET /servers/S/operations/ID returns its status, and finally DONE', () => ended(id));
    await expect('… the list has it, as a config_switch', async () => {
      const path = ['servers', server, 'operations'];
      const { operations } = await http.request({ method: 'GET', path, schema: Operations });
      const listed = operations.find((operation) => operation.id === id);
      if (listed?.type !== 'config_switch') throw new Error(`listed: ${listed?.type ?? 'not at all'}`);
    });
    await expectActive(to);
  };
  const restore = async () => {
    const { active } = await diagnose();
    if (isDeepStrictEqual(active, target.initial)) return 'already active';
    if (!isDeepStrictEqual(active, target.last)) {
      throw new Unchecked(`another client has activated ${nameOf(active)} meanwhile; it was not changed`);
    }
    await ended(await create(target.initial ?? RESET));
    const after = (await diagnose()).active;
    if (!isDeepStrictEqual(after, target.initial)) throw new Error(`it uses ${nameOf(after)}`);
    return undefined;
  };

  await expect('GET /diagnose returns active models, and the clusters of servers and models', async () => {
    const found = await diagnose();
    const cluster = found.servers.get(server)?.config.cluster ?? server;
    const foreign = models.filter((model) => found.models?.get(model)?.config.cluster !== cluster);
    if (foreign.length > 0) throw new Error(`not models of cluster ${cluster}: ${foreign.join(', ')}`);
    target.initial = found.active;
  });
  // Without the active model nothing is switched, because it could not be restored.
  if (target.initial === undefined) return passed;

  await expect('GET /status is 200 and a JSON string', () => api.status());
  await expectRaw(200, 'HEAD /status', { method: 'HEAD', path: '/status' });
  await expectRaw(405, 'POST /status', { method: 'POST', path: '/status' }, 403);
  if (tls) {
    await expect('a client without a certificate is rejected', async () => {
      const status = await rawStatus(subject.url, { ca: tls.ca }, { method: 'GET', path: '/status' });
      if (![undefined, 400, 401, 403].includes(status)) throw new Error(String(status));
      return status ?? 'no connection';
    });
  }
  await expect('GET /servers/S/operations is 200 and lists ids and types', () => api.readServer(server));
  for (const [shown, ...path] of [
    ['/servers/unknown/operations', unknown, 'operations'],
    ['/servers/unknown/operations/ID', unknown, 'operations', '20000101T000000'],
    ['/servers/S/operations/unknown', server, 'operations', '20000101T000000'],
    [
      '/servers/unknown/operations, with each of . : @ + ~ = , - in the name,',
      `${unknown}.:@+~=,-`,
      'operations',
    ],
  ] as const) {
    await expectStatus(404, `GET ${shown}`, () => send('GET', path));
  }
  await expectStatus(404, 'POST /servers/unknown/operations', () =>
    send('POST', [unknown, 'operations'], requestBody(RESET)),
  );
  for (const [what, change, status] of [
    ['both model_name and reset', { model_name: unknown }, 400],
    ['reset false', { reset: false }, 400],
    ['neither model_name nor reset', { reset: undefined }, 400],
    ['an unknown type', { type: unknown }, 500],
  ] as const) {
    const body = { ...requestBody(RESET), ...change };
    await expectStatus(status, `POST /servers/S/operations with ${what}`, () =>
      post(() => send('POST', [server, 'operations'], body)),
    );
  }
  const operations = { method: 'POST', path: `/servers/${encodeURIComponent(server)}/operations` } as const;
  const type = 'application/json';
  // Harmless also where the body is read nevertheless.
  const body = JSON.stringify({ type: 'config_switch', reset: false });
  await expectRaw(415, 'POST /servers/S/operations without a JSON content type', { ...operations, body });
  for (const [what, body] of [
    ['the body {}', '{}'],
    ['the body []', '[]'],
    ['the body null', 'null'],
    ['a body that is not JSON', '{'],
    ['no type', '{"reset":false}'],
    ['type recovery, and none of its keys', '{"type":"recovery"}'],
  ] as const) {
    await expectRaw(400, `POST /servers/S/operations with ${what}`, { ...operations, body, type });
  }
  for (const model of models) {
    await expectSwitch(`model ${model}`, { model });
    await expectSwitch(`model ${model} again, although it is active`, { model });
  }
  await expect('an unknown model: the operation ends FAILED', async () =>
    ended(await create({ model: unknown }), 'FAILED'),
  );
  await expectActive(target.last);
  await expectSwitch('reset', RESET);
  await expect('another operation of S in the same second is 500', async () => {
    for (let tried = 0; tried < TRIES; tried += 1) {
      const first = await create(RESET);
      const second = await create(RESET, 0).catch(statusOf);
      await ended(first);
      if (second === 500) return undefined;
      if (typeof second === 'number' || second === first) throw new Error(`${second}, after ${first}`);
      await ended(second);
    }
    throw new Unchecked(`no two requests arrived in the same second, in ${TRIES} tries`);
  });
  await expect('GET /servers/S/operations lists each of these operations once, in any order', async () => {
    const schema = v.object({ operations: v.array(v.object({ id: v.string() })) });
    const { operations } = await http.request({
      method: 'GET',
      path: ['servers', server, 'operations'],
      schema,
    });
    const ids = operations.map(({ id }) => id);
    const wrong = created.filter((id) => ids.filter((listed) => listed === id).length !== 1);
    if (wrong.length > 0) throw new Error(`not listed once: ${wrong.join(', ')}`);
    return isDeepStrictEqual(ids, ids.toSorted()) ? 'sorted' : 'not sorted';
  });
  if (target.last) await expect(`at the end Barman uses ${nameOf(target.initial)} again`, restore);
  return passed;
}

/** Returns the HTTP status with which a request was refused @throws error if it was not */
function statusOf(error: unknown): number {
  const cause = error instanceof Error ? error.cause : undefined;
  if (cause instanceof RequestFailure && cause.status !== undefined) return cause.status;
  throw error;
}

interface RawRequest {
  readonly method: 'GET' | 'HEAD' | 'POST';
  /** Below that of the URL. */
  readonly path: string;
  readonly body?: string;
  /** Content type of the body. */
  readonly type?: string;
}

/** Returns the status of a request that the function's client cannot send; undefined without a response */
async function rawStatus(
  url: URL,
  tls: Partial<NonNullable<Connection['tls']>> | undefined,
  { method, path, body, type }: RawRequest,
): Promise<number | undefined> {
  const { ca, cert, key } = tls ?? {};
  const dispatcher = new Agent({ connect: { ca, cert, key } });
  const headers = type === undefined ? {} : { 'content-type': type };
  const sent = request(`${url.href.replace(/\/+$/, '')}${path}`, {
    dispatcher,
    method,
    body: body ?? null,
    headers,
  });
  const status = await sent.then(
    ({ statusCode }) => statusCode,
    () => undefined,
  );
  await dispatcher.destroy();
  return status;
}

const FILE = { type: 'string', value: 'FILE' } as const;
const OPTIONS = {
  url: { type: 'string', value: 'URL', help: 'the URL of pg-backup-api, as in the parameter url' },
  'client-cert': { ...FILE, help: 'the client certificate; for https, as the next two' },
  'client-key': { ...FILE, help: 'its private key' },
  ca: { ...FILE, help: 'the CA of the Barman host' },
  server: { type: 'string', value: 'SERVER', help: 'a Barman server whose active model may be switched' },
  model: {
    type: 'string',
    value: 'MODEL',
    multiple: true,
    help: 'a model of its cluster; better two of them',
  },
} as const;

export const CONTRACT: Program<typeof OPTIONS> = {
  name: 'npm run contract',
  summary:
    'Checks whether a running pg-backup-api does what the function relies on; restores the active model.',
  options: OPTIONS,
};

const MARKS = {
  true: styleText('green', '  ok  '),
  false: styleText('red', ' FAIL '),
  null: styleText('yellow', '  ?   '),
};

/** Checks the expectations, and prints them. @returns the exit status: 1 if one failed, 130 after Ctrl-C */
export async function contract(values: Values<typeof OPTIONS>): Promise<number> {
  const interrupted = new AbortController();
  process.once('SIGINT', () => interrupted.abort());
  const subject = { ...subjectFrom(values), signal: interrupted.signal };
  const passed = await checkContract(subject, ({ expectation, holds, found }) => {
    console.log(`${MARKS[`${holds}`]} ${expectation}${styleText('dim', `  (${printable(found)})`)}`);
  });
  return interrupted.signal.aborted ? 130 : passed ? 0 : 1;
}

/** @throws UsageError that names the option and the remedy */
function subjectFrom(values: Values<typeof OPTIONS>): Subject {
  const needed = (name: keyof typeof OPTIONS) => new UsageError(`--${name}: give ${OPTIONS[name].help}`);
  const file = (name: 'client-cert' | 'client-key' | 'ca') => {
    const path = values[name];
    if (path === undefined) throw needed(name);
    try {
      return readFileSync(path, 'utf8');
    } catch (error) {
      throw new UsageError(`--${name}: ${messageOf(error)}`);
    }
  };
  const url = URL.parse(values.url ?? '');
  if (!url) throw needed('url');
  if (values.server === undefined) throw needed('server');
  if (values.model === undefined) throw needed('model');
  const tls = () => ({ cert: file('client-cert'), key: file('client-key'), ca: file('ca') });
  const { server, model: models } = values;
  return { url, server, models, ...(url.protocol === 'https:' && { tls: tls() }) };
}

if (import.meta.main) start(CONTRACT, contract);
