/** What pg-backup-api does in odd situations, measured on a real host: its stand-in does the same. */

import * as v from 'valibot';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { DiagnoseOutput, readDiagnosis } from '../../functions/config-switch/barman/diagnosis.ts';
import { inOneCluster, MODELS } from '../stand-ins/barman-host.ts';
import { type PgBackupApiOptions, PgBackupApiStandIn } from '../stand-ins/pg-backup-api.ts';

const NODE1 = { type: 'config_switch', model_name: 'pg:node1' };
const RESET = { type: 'config_switch', reset: true };
const MAIN = '/servers/main/operations';
const OTHER = '/servers/other/operations';

async function start(options: PgBackupApiOptions = {}) {
  const names = inOneCluster(['main', 'other']);
  const api = await PgBackupApiStandIn.start({
    servers: names,
    models: MODELS,
    distinctIds: true,
    ...options,
  });
  const send = async (method: string, path: string, body?: string, type = 'application/json') => {
    const headers: Record<string, string> = body === undefined ? {} : { 'content-type': type };
    const response = await fetch(`${api.url}${path}`, {
      method,
      headers,
      ...(body !== undefined && { body }),
    });
    return { status: response.status, text: await response.text() };
  };
  const get = async (path: string) => {
    const { status, text } = await send('GET', path);
    return status === 200 ? JSON.parse(text) : status;
  };
  /** @returns the status of a POST */
  const post = async (path: string, body: object = RESET) =>
    (await send('POST', path, JSON.stringify(body))).status;
  /** @returns the id of a new operation of the server main, after its end */
  const create = async (body: object = NODE1): Promise<string> => {
    const { operation_id } = JSON.parse((await send('POST', MAIN, JSON.stringify(body))).text);
    const operation = () => api.operations().find(({ id }) => id === operation_id);
    await expect.poll(() => operation()?.endedAt).toBeDefined();
    return operation_id;
  };
  const statusOf = async (id: string) => {
    const found = await get(`${MAIN}/${id}`);
    return found.status ?? found;
  };
  const listed = async (path = MAIN) => (await get(path)).operations;
  const close = () => api.close();
  const { host } = api;
  const files = host.files('main');
  return { api, host, files, send, get, post, create, statusOf, listed, [Symbol.asyncDispose]: close };
}

afterEach(() => void vi.useRealTimers());

describe('a job file', () => {
  test('of 0 bytes makes the list 500 until it is deleted; all else goes on', async () => {
    await using run = await start();
    run.files.jobs.set('20260101T000000', '');
    expect([await run.get(MAIN), await run.statusOf('20260101T000000')]).toEqual([500, 404]);
    const id = await run.create();
    expect([await run.statusOf(id), await run.get(MAIN), await run.get('/status')]).toEqual([
      'DONE',
      500,
      'OK',
    ]);
    run.files.jobs.delete('20260101T000000');
    expect(await run.listed()).toEqual([{ id, type: 'config_switch' }]);
  });

  test('that is {} is listed without a type, and IN_PROGRESS', async () => {
    await using run = await start();
    run.files.jobs.set('20260101T000000', '{}');
    expect(await run.listed()).toEqual([{ id: '20260101T000000', type: null }]);
    expect(await run.statusOf('20260101T000000')).toBe('IN_PROGRESS');
  });

  test('is listed in no order', async () => {
    await using run = await start();
    const ids = Array.from({ length: 20 }, (_, second) => `20260101T0000${second + 10}`);
    for (const id of ids) run.api.addOperation({ id, type: 'config_switch', status: 'DONE' });
    const listed: string[] = (await run.listed()).map(({ id }: { id: string }) => id);
    expect(listed.toSorted()).toEqual(ids);
    expect(listed).not.toEqual(ids);
  });
});

describe('an output file', () => {
  test('that is empty makes the status 404; the id stays listed', async () => {
    await using run = await start();
    run.api.plan({ emptyOutput: true });
    const id = await run.create();
    expect(await run.statusOf(id)).toBe(404);
    expect(await run.listed()).toEqual([{ id, type: 'config_switch' }]);
  });

  test('with the id of a new operation is read at once: DONE, although the switch fails', async () => {
    await using run = await start({ distinctIds: false });
    for (let ms = 0; ms < 5_000; ms += 1_000) {
      const id = new Date(Date.now() + ms).toISOString().replace(/\.\d+Z$|[-:]/g, '');
      run.files.output.set(id, '{"success": true}');
    }
    const id = await run.create({ ...NODE1, model_name: 'pg:unknown' });
    expect([await run.statusOf(id), run.api.activeModel()]).toEqual(['DONE', null]);
  });
});

describe('an operation', () => {
  test('whose helper cannot be started is 500, and IN_PROGRESS for ever', async () => {
    await using run = await start();
    run.host.helper = false;
    expect(await run.post(MAIN)).toBe(500);
    const [{ id }] = await run.listed();
    run.host.helper = true;
    await run.create();
    expect(await run.statusOf(id)).toBe('IN_PROGRESS');
  });

  test('is 500 in the second that another one has', async () => {
    vi.useFakeTimers({ toFake: ['Date'] });
    await using run = await start({ distinctIds: false });
    expect([await run.post(MAIN), await run.post(MAIN)]).toEqual([202, 500]);
  });
});

describe('a disk', () => {
  test('that is full leaves an empty job, so that the list is 500', async () => {
    await using run = await start();
    await run.create();
    run.host.disk = 'full';
    expect([await run.post(MAIN), await run.get(MAIN)]).toEqual([500, 500]);
    run.host.disk = 'writable';
    expect(await run.get(MAIN)).toBe(500);
    expect([...run.files.jobs.values()]).toContain('');
  });

  test('that is full when an operation runs loses the active model, and leaves an empty output', async () => {
    await using run = await start({ operationTime: 50 });
    run.api.setActiveModel('pg:node2');
    const id = run.create();
    await expect.poll(() => run.api.operations().length).toBe(1);
    run.host.disk = 'full';
    expect([await run.statusOf(await id), run.api.activeModel()]).toEqual([404, null]);
  });

  test.each(['full', 'read-only'] as const)('that is %s lets no GET create the folders', async (disk) => {
    await using run = await start();
    run.host.disk = disk;
    expect([await run.get(MAIN), await run.statusOf('20260101T000000')]).toEqual([500, 404]);
    run.host.disk = 'writable';
    expect(await run.listed()).toEqual([]);
    run.host.disk = disk;
    expect(await run.listed()).toEqual([]);
  });

  test('that is read-only refuses operations and /diagnose', async () => {
    await using run = await start();
    await run.get(MAIN);
    run.host.disk = 'read-only';
    expect([await run.post(MAIN), await run.get('/diagnose'), await run.listed()]).toEqual([500, 500, []]);
  });
});

describe('a server', () => {
  test('that was removed from the configuration is 500 as long as it is in memory, then 404', async () => {
    await using run = await start();
    run.api.configure('other', undefined);
    expect([await run.post(OTHER), await run.post(OTHER), await run.get(OTHER)]).toEqual([500, 404, 404]);
  });

  test('that is removed and added again keeps its operations and its active model', async () => {
    await using run = await start();
    const id = await run.create();
    run.api.configure('main', undefined);
    expect(await run.get(MAIN)).toBe(404);
    run.api.configure('main', 'main');
    expect(await run.listed()).toEqual([{ id, type: 'config_switch' }]);
    expect(run.api.activeModel()).toBe('pg:node1');
  });

  test('that was added is known once a GET, or a POST to another server, has read the configuration', async () => {
    await using run = await start();
    run.api.configure('new', 'main');
    const added = '/servers/new/operations';
    expect([await run.get('/status'), await run.post(added)]).toEqual(['OK', 404]);
    expect([await run.post(MAIN), await run.post(added)]).toEqual([202, 202]);
  });

  test('that was added is known to one worker after the other', async () => {
    await using run = await start({ workers: 3 });
    run.api.configure('new', 'main');
    const added = '/servers/new/operations';
    expect(await run.listed(added)).toEqual([]);
    const statuses = [await run.post(added), await run.post(added), await run.post(added)];
    expect(statuses).toEqual([404, 404, 202]);
  });
});

describe('a configuration that cannot be read', () => {
  test('is 500 for every server, whether it is to blame or not', async () => {
    await using run = await start();
    run.host.unreadable = 'main';
    for (const path of [MAIN, OTHER, '/operations', '/diagnose'])
      expect([path, await run.get(path)]).toEqual([path, 500]);
    expect([await run.statusOf('20260101T000000'), await run.get('/status')]).toEqual([404, 'OK']);
    // Up to the section that cannot be read the servers are in memory.
    expect([await run.post(MAIN), await run.post(OTHER)]).toEqual([500, 404]);
  });

  test('is overcome when it is correct again', async () => {
    await using run = await start();
    run.host.unreadable = 'main';
    expect(await run.post(MAIN)).toBe(500);
    run.host.unreadable = undefined;
    expect([await run.post(OTHER), await run.post(MAIN), await run.post(OTHER)]).toEqual([404, 202, 202]);
  });
});

describe('a worker', () => {
  test('that is added carries out a request that waits, and one that is too many ends after its own', async () => {
    await using run = await start({ requestCost: 300 });
    const timeOf = async (then = () => {}) => {
      const { length } = run.api.requests;
      const begin = performance.now();
      const both = [run.listed(), run.listed()];
      await expect.poll(() => run.api.requests.length, { interval: 5 }).toBe(length + 2);
      then();
      await Promise.all(both);
      return performance.now() - begin;
    };
    expect(await timeOf(() => run.api.setWorkers(2))).toBeLessThan(590);
    expect(await timeOf()).toBeLessThan(590);
    expect(await timeOf(() => run.api.setWorkers(1))).toBeLessThan(590);
    expect(await timeOf()).toBeGreaterThan(590);
  });

  test('carries out one request at a time, and two workers two', async () => {
    const timeOf = async (workers: number) => {
      await using run = await start({ requestCost: 200, workers });
      const begin = performance.now();
      await Promise.all(Array.from({ length: 4 }, () => run.get(MAIN)));
      return performance.now() - begin;
    };
    const one = await timeOf(1);
    expect(one).toBeGreaterThan(790);
    expect(await timeOf(2)).toBeLessThan(one);
  });

  test('with threads gives false 404 and 500, because they share a configuration that is half read', async () => {
    await using run = await start({ requestCost: 300, threads: 4 });
    const pair = async (request: () => Promise<unknown>) => {
      const before = run.api.requests.length;
      const first = request();
      await expect.poll(() => run.api.requests.length, { interval: 5 }).toBe(before + 1);
      const second = await run.get(MAIN);
      return [await first, second];
    };
    expect(await pair(() => run.get(MAIN))).toEqual([404, { operations: [] }]);
    expect(await pair(() => run.post(MAIN))).toEqual([500, { operations: [] }]);
  });

  test.each([
    ['that is busy', (_: PgBackupApiStandIn) => {}],
    [
      'that stands still',
      (api: PgBackupApiStandIn) => api.fault({ kind: 'stall' }, Number.POSITIVE_INFINITY),
    ],
  ])('%s carries a request out later, although its client has gone', async (_, prepare) => {
    await using run = await start({ requestCost: 500 });
    prepare(run.api);
    const busy = run.get(MAIN);
    await expect.poll(() => run.api.requests.length).toBe(1);
    const signal = AbortSignal.timeout(100);
    const headers = { 'content-type': 'application/json' };
    const gone = fetch(`${run.api.url}${MAIN}`, {
      method: 'POST',
      body: JSON.stringify(NODE1),
      headers,
      signal,
    });
    await expect(gone).rejects.toThrow(/timeout/);
    expect(run.api.operations()).toEqual([]);
    run.api.noFaults();
    // The list comes after the POST.
    expect([await run.listed(), await busy]).toMatchObject([[{ type: 'config_switch' }], { operations: [] }]);
    await expect.poll(() => run.api.activeModel()).toBe('pg:node1');
  });
});

describe('/diagnose', () => {
  const main = async (prepare: (api: PgBackupApiStandIn) => void, options?: PgBackupApiOptions) => {
    await using run = await start(options);
    prepare(run.api);
    return readDiagnosis(v.parse(DiagnoseOutput, await run.get('/diagnose'))).servers.get('main');
  };

  test('has a healthy server with the options of its active model', async () => {
    const server = await main((api) => api.setActiveModel('pg:node2'));
    const endpoints = [{ host: '10.0.1.12', port: 5432 }];
    expect(server).toMatchObject({
      ...{ active_model: 'pg:node2', cluster: 'main', active: true, disabled: false, errors: 0 },
      ...{ streaming_archiver: true, slot_name: 'barman', createsSlot: false },
      connections: new Map([
        ['conninfo', { endpoints }],
        ['streaming_conninfo', { endpoints }],
      ]),
      status: { isInRecovery: false, streaming: true, currentLsn: 0xb000000, slot: { active: true } },
      backups: [{ status: 'DONE', timeline: 1 }],
    });
    const wal = server?.archived?.get(1);
    expect(wal?.name).toBe('000000010000000000000009');
    const ages = [wal?.time, server?.backups?.[0]?.end].map((time = 0) => (Date.now() - time) / 1_000);
    expect(ages.map(Math.round)).toEqual([40, 3_600]);
  });

  test('has an error and a disabled server if its active model does not exist', async () => {
    const server = await main((api) => {
      api.setActiveModel('pg:node2');
      api.host.models.delete('pg:node2');
    });
    expect(server).toMatchObject({
      active_model: null,
      disabled: true,
      errors: 1,
      status: { streaming: true },
    });
  });

  test('has no active model, and no error, if that is of another cluster', async () => {
    const server = await main((api) => {
      api.setActiveModel('pg:node2');
      api.host.models.set('pg:node2', { cluster: 'other' });
    });
    expect(server).toMatchObject({ active_model: null, disabled: false, errors: 0 });
  });

  test('leaves to the server what its active model does not set', async () => {
    const server = await main((api) => {
      api.setActiveModel('pg:node2');
      api.host.models.set('pg:node2', { cluster: 'main', conninfo: null, slot_name: 'other' });
    });
    expect(server).toMatchObject({
      slot_name: 'other',
      connections: new Map([
        ['conninfo', { endpoints: [{ host: '10.0.1.11', port: 5432 }] }],
        ['streaming_conninfo', { endpoints: [{ host: '10.0.1.12', port: 5432 }] }],
      ]),
    });
  });

  test.each([{ active: false }, { primary_ssh_command: 'ssh barman@other' }])(
    'has nothing of PostgreSQL with %o',
    async (config) => {
      const server = await main((api) => api.host.diagnosed.set('main', { config }));
      expect(Object.values(server?.status ?? {}).filter((fact) => fact !== undefined)).toEqual([]);
    },
  );

  test('has of a server what a test sets, and else what is healthy', async () => {
    const change = { status: { is_in_recovery: true, current_lsn: undefined }, backups: {}, wals: {} };
    const server = await main((api) => api.host.diagnosed.set('main', change));
    expect(server).toMatchObject({ status: { isInRecovery: true, streaming: true }, backups: [] });
    expect([server?.archived, server?.status.currentLsn]).toEqual([undefined, undefined]);
  });

  test('is what a real Barman prints, or 500 if it prints nothing', async () => {
    const servers = { main: { config: { cluster: 'real' } } };
    const real = async () => JSON.stringify({ servers });
    expect(await main(() => {}, { diagnose: real })).toMatchObject({ cluster: 'real' });
    await using run = await start({ diagnose: () => Promise.reject(new Error('%')) });
    expect(await run.get('/diagnose')).toBe(500);
  });
});

describe('a request', () => {
  test.each([
    ['text/plain', JSON.stringify(RESET), 415],
    ['', JSON.stringify(RESET), 415],
    ['application/vnd.api+json; charset=utf-8', JSON.stringify(RESET), 202],
    ['application/json', '{}', 400],
    ['application/json', '[]', 400],
    ['application/json', 'null', 400],
    ['application/json', '{', 400],
    ['application/json', '{"reset":true}', 400],
    ['application/json', '{"type":"recovery"}', 400],
    ['application/json', '{"type":"recovery","backup_id":"x"}', 404],
    ['application/json', '{"type":null}', 500],
    ['application/json', '[1]', 500],
  ])('POST with content type %s and body %s is %i', async (type, body, status) => {
    await using run = await start();
    expect((await run.send('POST', MAIN, body, type)).status).toBe(status);
  });

  test.each([
    ['POST', '/status', 405, /^<!doctype html>/],
    ['DELETE', MAIN, 405, /^<!doctype html>/],
    ['HEAD', '/status', 200, /^$/],
    ['HEAD', MAIN, 200, /^$/],
    ['GET', '/operations', 200, /^\{"operations":\[\]\}\n$/],
    ['GET', '/operations/20260101T000000', 404, /Resource not found/],
    ['GET', '/servers', 404, /The requested URL was not found/],
  ])('%s %s is %i', async (method, path, status, text) => {
    await using run = await start();
    expect(await run.send(method, path)).toEqual({ status, text: expect.stringMatching(text) });
  });
});
