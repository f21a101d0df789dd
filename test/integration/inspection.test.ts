/**
 * An inspection, end to end: what it finds in a set-up that is broken, what it says that it could not see, and that
 * it changes nothing.
 */

import fc from 'fast-check';
import * as v from 'valibot';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { InspectionReport } from '../../functions/config-switch/inspect/report.ts';
import { inOneCluster } from '../stand-ins/barman-host.ts';
import { connectionsTo, diagnosis, hostOf } from '../stand-ins/diagnose.ts';
import { PatroniStandIn } from '../stand-ins/patroni-rest-api.ts';
import type { Fault, PgBackupApiOptions, SeenRequest } from '../stand-ins/pg-backup-api.ts';
import { httpEvent, signedHeaders } from '../stand-ins/webhook.ts';
import {
  expectNoSecretIn,
  type FunctionUnderTest,
  isPost,
  MINUTE,
  NODE1,
  PROMOTION,
  signal,
  startFunction,
} from './function.ts';

const MODELS = { node1: 'pg:node1', node2: 'pg:node2' };
const EVENT = { inspection: true };
/** Remaining time (ms): as deployed, and so that `/diagnose` gets a second. */
const LONG = 60_000;
const SHORT = 11_000;
const isDiagnose = ({ path }: SeenRequest) => path.endsWith('/diagnose');

interface Options {
  readonly api?: Omit<PgBackupApiOptions, 'tls'>;
  /** Over those of the parameter clusters/main. */
  readonly cluster?: object;
}

/** A function, a Patroni cluster `main` whose leader is node1, and a Barman that streams from it. */
async function start({ api = {}, cluster = {} }: Options = {}) {
  const stack = new AsyncDisposableStack();
  const patroni = stack.use(await PatroniStandIn.start());
  const run = stack.use(await startFunction(api, { MAX_RETRIES: '1' }));
  const put = (change: object) =>
    run.host.put({
      'clusters/main': JSON.stringify({ servers: { main: MODELS }, patroni: patroni.urls, ...change }),
    });
  put(cluster);
  return { patroni, run, put, host: run.host.api.host, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

/** Inspects. @returns the report @throws Error if the response is no report */
async function inspect(run: FunctionUnderTest, remaining = LONG): Promise<InspectionReport> {
  return v.parse(InspectionReport, await run.send(EVENT, remaining, 'inspection'));
}

type Server = InspectionReport['servers'][number];

/** The server main of a report. @throws Error if there is none */
function main({ servers }: InspectionReport): Server {
  const server = servers.find(({ barman_server }) => barman_server === 'main');
  if (!server) throw new Error('the report has no server main');
  return server;
}

/** What a server's findings are about: `kind` or `kind member`, once each. */
const found = ({ findings }: Server) => [
  ...new Set(findings.map(({ kind, member }) => [kind, member].filter(Boolean).join(' '))),
];
const ready = ({ members }: Server) => members.map((one) => one.ready);

describe('an inspection of a healthy set-up', () => {
  test('finds nothing, and stores that', async () => {
    await using test = await start();
    const { run } = test;
    await run.invoke(NODE1);
    const report = await inspect(run);
    expect(report).toMatchObject({
      barman: { version: '3.19.1' },
      clusters: [
        {
          ...{ name: 'main', leader: 'node1', timeline: 1, patroni: '4.1.5' },
          urls: [{ member: 'node1' }, { member: 'node2' }],
        },
      ],
      servers: [
        {
          ...{ barman_server: 'main', paused: false, findings: [], unseen: [], notes: [] },
          members: ['node1', 'node2'].map((member) => ({
            ...{ member, cluster: 'main', model: `pg:${member}`, slot: 'yes', ready: 'yes' },
            ...{ barman_host: hostOf(member), patroni_host: hostOf(member) },
          })),
          archived: { timeline: 1, name: '000000010000000000000009' },
          slot_behind: 2 ** 24,
          backup: { timeline: 1 },
        },
      ],
    });
    expect(report.parameters.every(({ ok }) => ok)).toBe(true);
    const { inspections } = await run.ledger.all(signal());
    expect([...inspections]).toEqual([
      ['main', expect.objectContaining({ at: report.at, findings: [], unseen: [], leader: 'node1' })],
    ]);
    run.expectLog({ level: 'INFO', message: 'inspection of main: 0 findings', barman_server: 'main' });
  });

  test('has no secret in its response', async () => {
    await using test = await start();
    const response = JSON.stringify(await inspect(test.run));
    expect(response.length).toBeGreaterThan(500);
    expectNoSecretIn(response);
  });

  test('sends only GET requests, and changes no desired state', async () => {
    await using test = await start();
    const { run, host } = test;
    await run.invoke(NODE1);
    const before = await run.ledger.all(signal());
    host.diagnosed.set('main', { active_model: 'pg:node2', status: { is_in_recovery: true } });
    run.host.api.requests.length = 0;
    await inspect(run);
    await inspect(run);
    expect(run.host.api.requests.map(({ method, path }) => `${method} ${path}`)).toEqual([
      'GET /diagnose',
      'GET /diagnose',
    ]);
    expect((await run.ledger.all(signal())).items).toEqual(before.items);
    // Nothing becomes of it later either.
    await run.heartbeat();
    expect(run.host.api.operations()).toHaveLength(1);
  });
});

describe('an inspection reads again what a heartbeat could not read', () => {
  async function unreadable() {
    const test = await start();
    await test.run.invoke(NODE1);
    const { jobs } = test.host.createFolders('main');
    jobs.set('20260101T000000', '');
    await test.run.heartbeat();
    return { ...test, jobs };
  }
  const isList = ({ path }: SeenRequest) => path.endsWith('/servers/main/operations');

  test('and finds why it cannot be read', async () => {
    await using test = await unreadable();
    const server = main(await inspect(test.run));
    expect(found(server)).toEqual(['operations-unreadable']);
    expect(server.findings[0]?.what).toMatch(
      /^the operations of main cannot be read \(pg-backup-api answered 500/,
    );
    expect(ready(server)).toEqual(['no', 'no']);
  });

  test('and finds nothing once it is repaired, although no heartbeat has read it since', async () => {
    await using test = await unreadable();
    expect(found(main(await inspect(test.run)))).toEqual(['operations-unreadable']);
    test.jobs.delete('20260101T000000');
    const server = main(await inspect(test.run));
    expect(found(server)).toEqual([]);
    expect(ready(server)).toEqual(['yes', 'yes']);
  });

  test('and repeats what the heartbeat found, if there is no answer', async () => {
    await using test = await unreadable();
    test.run.host.api.fault({ kind: 'stall' }, 1, isList);
    const server = main(await inspect(test.run, SHORT));
    expect(found(server)).toEqual(['operations-unreadable']);
    expect(server.findings[0]?.what).toMatch(
      /\(its operations in Barman cannot be read: pg-backup-api answered 500/,
    );
  });
});

describe('an inspection finds', () => {
  type Break = (test: Awaited<ReturnType<typeof start>>) => void;
  const broken: Record<string, readonly [expected: readonly string[], readonly string[], Break]> = {
    'a member without a model': [
      ['member-without-model node2'],
      ['yes', 'no'],
      ({ put }) => put({ servers: { main: { node1: 'pg:node1' } } }),
    ],
    'a model of another node': [
      ['model-host node2'],
      ['yes', 'no'],
      ({ host }) => host.models.set('pg:node2', { cluster: 'main', ...connectionsTo(hostOf('node1')) }),
    ],
    'a slot that is not permanent': [
      ['slot-not-permanent'],
      ['no', 'no'],
      ({ patroni }) => {
        patroni.slots = undefined;
      },
    ],
    'a server that Barman does not have': [
      ['server-missing'],
      ['no', 'no'],
      ({ run }) => run.host.api.configure('main', undefined),
    ],
    'that there is no base backup': [
      ['no-backup'],
      ['yes', 'yes'],
      ({ host }) => host.diagnosed.set('main', { backups: {} }),
    ],
    'another PostgreSQL': [
      ['other-system'],
      ['yes', 'yes'],
      ({ host }) =>
        host.diagnosed.set('main', {
          status: { postgres_systemid: '7', streaming_systemid: '7' },
        }),
    ],
    'a PostgreSQL that Barman cannot reach': [
      ['no-connection'],
      ['yes', 'yes'],
      ({ host }) =>
        host.diagnosed.set('main', {
          status: {
            connection_error: 'connection to "host=10.0.1.11 password = hunter2" failed',
            ...{ is_in_recovery: undefined, streaming: false, replication_slot: undefined },
          },
        }),
    ],
  };

  test.each(Object.entries(broken))('%s', async (_, [kinds, readiness, breakIt]) => {
    await using test = await start();
    const { run } = test;
    breakIt(test);
    const report = await inspect(run);
    const server = main(report);
    expect(found(server)).toEqual(kinds);
    expect(ready(server)).toEqual(readiness);
    for (const { what, remedy } of server.findings) expect(`${what}: ${remedy}`).not.toContain('hunter2');
    for (const { message } of run.log()) expect(message).not.toContain('hunter2');
    const { inspections } = await run.ledger.all(signal());
    expect(inspections.get('main')?.findings).toEqual(server.findings);
  });

  test('what is ready at once, and what is archived if the next inspection finds it, too', async () => {
    await using test = await start();
    const { run, host } = test;
    host.diagnosed.set('main', { backups: {}, status: { replication_slot: ['barman', false, '0/A000000'] } });
    const counts = ({ findings }: Server) => findings.map((one) => [one.kind, one.counts]);
    const once = main(await inspect(run));
    expect(counts(once)).toEqual([
      ['no-backup', true],
      ['slot-inactive', false],
    ]);
    run.expectLog({ level: 'ERROR', finding: 'no-backup', counts: true, barman_server: 'main' });
    run.expectLog({ level: 'WARN', finding: 'slot-inactive', counts: false });
    const twice = main(await inspect(run));
    expect(counts(twice)).toEqual([
      ['no-backup', true],
      ['slot-inactive', true],
    ]);
    expect(twice.findings.map(({ since }) => since)).toEqual(once.findings.map(({ since }) => since));
    host.diagnosed.delete('main');
    expect(main(await inspect(run)).findings).toEqual([]);
    expect((await run.ledger.all(signal())).inspections.get('main')?.findings).toEqual([]);
  });

  test('nothing of a server with an item that no cluster lists, but what only Barman says', async () => {
    await using test = await start({ api: { servers: { main: {}, crm: { cluster: 'main' } } } });
    const { run, host } = test;
    await run.invoke({ ...PROMOTION, barman_server: 'crm' });
    host.diagnosed.set('crm', { status: { is_in_recovery: true } });
    const [crm] = (await inspect(run)).servers;
    expect(crm).toMatchObject({ barman_server: 'crm', members: [], unseen: [] });
    expect(crm && found(crm)).toEqual(['in-recovery']);
    // As by hand, where Barman may be set to a standby on purpose.
    await run.invoke({ ...NODE1, barman_server: 'crm', switch_when: 'always' });
    expect((await inspect(run)).servers[0]?.findings).toEqual([]);
  });

  test('what a paused server lacks, and says that it is paused, also if all servers are', async () => {
    await using test = await start();
    const { run, host } = test;
    await run.invoke(NODE1);
    host.diagnosed.set('main', { backups: {} });
    expect(main(await inspect(run))).toMatchObject({ paused: false });
    await run.operator.pause('main', {}, signal());
    expect(main(await inspect(run))).toMatchObject({ paused: true, findings: [{ kind: 'no-backup' }] });
    await run.operator.resume('main', signal());
    await run.operator.pauseAll({}, signal());
    expect(main(await inspect(run))).toMatchObject({ paused: true });
  });
});

describe('the alias for inspections', () => {
  test.each([
    ['a role change', PROMOTION],
    ['a heartbeat', { heartbeat: true }],
    ['an HTTP event', httpEvent(JSON.stringify(EVENT), signedHeaders('whsec_AAAA', '{}'), {})],
    ['an inspection with more', { inspection: true, x: 1 }],
    ['an inspection that is not true', { inspection: 'true' }],
    ['nothing', undefined],
    ['a list', [EVENT]],
  ])('refuses %s', async (_, event) => {
    await using test = await start();
    const { run } = test;
    expect(await run.send(event, LONG, 'inspection')).toEqual({
      message: expect.stringMatching(/^the alias inspection accepts \{"inspection":true\} only; /),
    });
    expect(run.host.api.requests).toEqual([]);
    expect(await run.ledger.all(signal())).toMatchObject({ items: [], inspections: new Map() });
  });

  test('is the only way to an inspection: elsewhere it is an invalid role change', async () => {
    await using test = await start();
    const { run } = test;
    const invalid = { exit_code: 4, message: expect.stringContaining('inspection') };
    expect(await run.invoke(EVENT)).toMatchObject(invalid);
    expect(await run.send(EVENT, LONG, 'heartbeat')).toMatchObject(invalid);
    expect(await run.webhook(EVENT)).toMatchObject({ statusCode: 400, response: invalid });
    expect(await run.eventBridge(EVENT)).toMatchObject(invalid);
    expect(run.host.api.requests).toEqual([]);
  });
});

describe('what an inspection could not see', () => {
  const barman = (fault: Fault, remaining = LONG): Silence => ({
    breakIt: ({ run }) => run.host.api.fault(fault, Number.POSITIVE_INFINITY, isDiagnose),
    barman: true,
    remaining,
  });
  interface Silence {
    readonly breakIt: (test: Awaited<ReturnType<typeof start>>) => unknown;
    readonly barman?: true;
    readonly remaining: number;
  }
  /** What does not answer, and what is said of that. */
  const SILENCES: readonly (readonly [string, RegExp, Silence])[] = [
    ['/diagnose is 500', /^Barman: .*500/, barman({ kind: 'status', status: 500 })],
    ['/diagnose is not JSON', /^Barman: .*JSON/, barman({ kind: 'body', body: '<html>' })],
    ['/diagnose is JSON of another form', /^Barman: /, barman({ kind: 'body', body: '{"servers":[]}' })],
    ['/diagnose has 16 MB', /^Barman: /, barman({ kind: 'oversize', bytes: 16 * 2 ** 20 })],
    ['/diagnose is cut off', /^Barman: /, barman({ kind: 'truncate' })],
    [
      '/diagnose stops in the middle',
      /^Barman: time ran out before GET \/diagnose was answered/,
      barman({ kind: 'stall body' }, SHORT),
    ],
    [
      '/diagnose never answers',
      /^Barman: time ran out before GET \/diagnose was answered/,
      barman({ kind: 'stall' }, SHORT),
    ],
    [
      'pg-backup-api is down',
      /^Barman: .*ECONNREFUSED/,
      { breakIt: ({ run }) => run.host.api.refuse(), barman: true, remaining: LONG },
    ],
    [
      'all of Patroni is down',
      /^the members of cluster main: /,
      {
        breakIt: ({ patroni }) => Promise.all(['node1', 'node2'].map((node) => patroni.stop(node))),
        remaining: LONG,
      },
    ],
    [
      'Patroni answers something else',
      /^the members of cluster main: /,
      {
        breakIt: ({ patroni }) => {
          patroni.answer = () => ({ status: 200, body: '<html>' });
        },
        remaining: LONG,
      },
    ],
  ];

  test.each(SILENCES)('is said, in time, and the rest is reported: %s', async (_, what, silence) => {
    await using test = await start();
    const { run } = test;
    await run.invoke(NODE1);
    await inspect(run);
    await silence.breakIt(test);
    const began = performance.now();
    const report = await inspect(run, silence.remaining);
    expect(performance.now() - began).toBeLessThan(silence.remaining - 1_000);
    const server = main(report);
    expect(server.unseen).toContainEqual({ what: expect.stringMatching(what), member: true });
    expect(server.findings).toEqual([]);
    expect(ready(server)).toEqual(['?', '?']);
    expect(report.parameters.every(({ ok }) => ok)).toBe(true);
    if (silence.barman) {
      expect(report.barman).toEqual({ unseen: expect.stringMatching(/./) });
      expect(report.clusters).toMatchObject([{ leader: 'node1', urls: [{ member: 'node1' }, {}] }]);
    } else {
      expect(report.barman).toEqual({ version: '3.19.1' });
      expect(report.clusters).toMatchObject([{ unknown: expect.stringMatching(/./) }]);
      expect(server).toMatchObject({ slot_behind: 2 ** 24, backup: { timeline: 1 } });
    }
    expect((await run.ledger.all(signal())).inspections.get('main')).toMatchObject({
      unseen: server.unseen,
    });
  });

  test('does not end a finding, which is shown with its time', async () => {
    await using test = await start();
    const { run, host } = test;
    host.diagnosed.set('main', { backups: {} });
    const { at } = await inspect(run);
    await run.host.api.refuse();
    const kept = { at, findings: [{ kind: 'no-backup' }], unseen: [{ member: true }] };
    expect(main(await inspect(run))).toMatchObject(kept);
    expect((await run.ledger.all(signal())).inspections.get('main')).toMatchObject(kept);
  });

  test('is said of one node that never answers', async () => {
    await using test = await start();
    const { run, patroni } = test;
    patroni.answer = (node, path, normal) => (node === 'node2' && path === '/leader' ? undefined : normal);
    const server = main(await inspect(run));
    expect(server.unseen).toEqual([
      { what: expect.stringMatching(/^its REST API did not answer .*no answer in time/), member: 'node2' },
    ]);
    expect(ready(server)).toEqual(['yes', '?']);
  }, 30_000);

  test('is what an old Barman does not show: models, and what is archived', async () => {
    await using test = await start({ cluster: { servers: { main: { node1: 'pg:node1' } } } });
    const { run } = test;
    const old = {
      ...diagnosis({ servers: {} }),
      servers: { main: { config: { active: true }, status: {} } },
      models: undefined,
    };
    run.host.api.fault({ kind: 'body', body: JSON.stringify(old) }, 1, isDiagnose);
    const report = await inspect(run);
    expect(report.barman).toEqual({ version: '3.19.1' });
    const server = main(report);
    expect(server.unseen.map(({ what }) => what)).toEqual(
      expect.arrayContaining([
        'its base backups: Barman does not show them',
        'what is archived: Barman does not show it',
      ]),
    );
    expect(ready(server)).not.toContain('yes');
  });

  test('is Barman, for the second of two inspections at once, or while a dry run asks it', async () => {
    await using test = await start();
    const { run } = test;
    const reports = await Promise.all([inspect(run), inspect(run)]);
    const unseen = reports.map(({ barman }) => barman.unseen).filter((why) => why !== undefined);
    expect(unseen).toEqual([expect.stringMatching(/^another dry run or inspection is under way/)]);
    expect(run.host.api.requests.filter(isDiagnose)).toHaveLength(1);
    await run.ledger.acquireDiagnosis(MINUTE, signal());
    expect(ready(main(await inspect(run)))).toEqual(['?', '?']);
  });

  test('is what changed meanwhile, such as the leader or a switch', async () => {
    await using test = await start();
    const { run, patroni, host } = test;
    host.diagnosed.set('main', { status: { replication_slot: null } });
    let asked = 0;
    patroni.answer = (node, path, normal) => {
      if (path === '/config') asked += 1;
      if (asked > 0 && path === '/cluster' && node === 'node1') patroni.leader = 'node2';
      return normal;
    };
    const server = main(await inspect(run));
    expect(server.unseen).toEqual([
      {
        what: expect.stringMatching(/^whether WAL is archived: the leader of cluster main was not the same/),
      },
    ]);
    expect(server.findings).toEqual([]);
    expect(ready(server)).toEqual(['yes', 'yes']);

    patroni.answer = (_, __, normal) => normal;
    run.host.api.fault({ kind: 'status', status: 422 }, 1, isPost);
    await run.invoke(PROMOTION);
    expect(main(await inspect(run)).unseen).toEqual([
      { what: 'whether WAL is archived: a switch is pending' },
    ]);
  });
});

describe('an inspection that fails', () => {
  afterEach(() => vi.restoreAllMocks());

  test('says that the parameters are unreadable, and throws nothing', async () => {
    await using test = await start();
    const { run } = test;
    run.ssm.faults.set(run.host.path.replace(/\/$/, ''), 'access denied');
    run.ssm.faults.set(run.host.path, 'access denied');
    const response = await run.send(EVENT, LONG, 'inspection');
    run.ssm.faults.clear();
    expect(response).toEqual({
      message: expect.stringMatching(/could not be read from SSM: .*AccessDenied/),
    });
    run.expectLog({
      level: 'ERROR',
      caller: 'inspection',
      message: expect.stringMatching(/^inspection: .*SSM/),
    });
    expect(await inspect(run)).toMatchObject({ servers: [{ findings: [] }] });
  });

  test('says that the ledger is unavailable, and throws nothing', async () => {
    await using patroni = await PatroniStandIn.start();
    await using run = await startFunction({}, { LEDGER_TABLE: 'no-such-table' });
    run.host.put({ 'clusters/main': JSON.stringify({ servers: { main: MODELS }, patroni: patroni.urls }) });
    expect(await run.send(EVENT, LONG, 'inspection')).toEqual({
      message: expect.stringMatching(/^the ledger is unavailable: .*ResourceNotFoundException/),
    });
    expect(run.host.api.requests).toEqual([]);
  });

  test('for one server, whose result cannot be stored, reports it, and stores those of the others', async () => {
    const names = ['main', 'other'];
    await using test = await start({
      api: { servers: inOneCluster(names) },
      cluster: { servers: { main: MODELS, other: MODELS } },
    });
    const { run, host } = test;
    host.diagnosed.set('other', { config: { slot_name: 'other' } });
    // The first two acquire the right to ask /diagnose, and write that it is tried.
    let updates = 0;
    run.dynamoDb.fault = (operation) => {
      updates += operation === 'UpdateItem' ? 1 : 0;
      return operation === 'UpdateItem' && updates === 3 ? 'access denied' : undefined;
    };
    const { servers } = await inspect(run);
    run.dynamoDb.fault = undefined;
    expect(servers.map(({ unseen }) => unseen)).toEqual([
      [
        {
          what: expect.stringMatching(
            /^this is not stored, so the next inspection does not know it: .*AccessDenied/,
          ),
        },
      ],
      [],
    ]);
    expect([...(await run.ledger.all(signal())).inspections.keys()]).toEqual(['other']);
  });

  test('says that time ran out, and throws nothing', async () => {
    await using test = await start();
    expect(await test.run.send(EVENT, 1_000, 'inspection')).toEqual({
      message: expect.stringMatching(/time ran out|no result within/),
    });
  });
});

describe('whatever /diagnose and Patroni answer', () => {
  const NAMES = ['main', 'other'];
  const odd = fc.oneof(
    fc.constantFrom('\ud800', '\u001b[2J', '__proto__', 'node1', 'main', 'primary', 'running', '0/B000000'),
    fc.constantFrom(0, -1, 1e-200, 1e300, 2 ** 60, '+275760-09-13', 'x'.repeat(100_000)),
    fc.anything({ maxDepth: 2, values: [fc.string({ unit: 'binary' }), fc.double(), fc.boolean()] }),
  );
  /** The paths to all values in JSON. */
  const pathsIn = (json: unknown): string[][] => [
    [],
    ...Object.entries(typeof json === 'object' && json !== null ? json : {}).flatMap(([key, value]) =>
      pathsIn(value).map((path) => [key, ...path]),
    ),
  ];
  /** Replaces a value in JSON by another. @param index of its path, modulo their number */
  const changed = (json: unknown, [index, value]: readonly [number, unknown]): unknown => {
    const paths = pathsIn(json);
    const at = (one: unknown, [key, ...rest]: readonly string[]): unknown => {
      if (key === undefined) return value;
      const fields = one as Readonly<Record<string, unknown>>;
      if (Array.isArray(one)) return one.with(Number(key), at(one[Number(key)], rest));
      return { ...fields, [key]: at(fields[key], rest) };
    };
    return at(json, paths[index % paths.length] ?? []);
  };
  const changes = fc.array(fc.tuple(fc.nat(10_000), odd), { maxLength: 3 });

  test('the handler throws nothing, stores what it found, and reports the other servers', async () => {
    await using run = await startFunction({ servers: inOneCluster(NAMES) });
    await using patroni = await PatroniStandIn.start();
    await using well = await PatroniStandIn.start({ scope: 'other' });
    run.host.put({
      'clusters/main': JSON.stringify({ servers: { main: MODELS }, patroni: patroni.urls }),
      'clusters/other': JSON.stringify({ servers: { other: MODELS }, patroni: well.urls }),
    });
    const { host } = run.host.api;
    // Both use one slot name, which is right for two clusters.
    const whole = async () => {
      const server = host.diagnose('main');
      return diagnosis({
        servers: { main: server, other: host.diagnose('other') },
        models: Object.fromEntries(
          [...host.models].map(([name, model]) => [
            name,
            { config: { ...model, ...connectionsTo(hostOf(name)) } },
          ]),
        ),
      });
    };
    const healthy = (await inspect(run)).servers.find((one) => one.barman_server === 'other');
    expect(healthy?.findings).toEqual([]);
    await fc.assert(
      fc.asyncProperty(changes, changes, async (ofBarman, ofPatroni) => {
        const answer = (await whole()) as { servers: Record<string, unknown> };
        const bad = ofBarman.reduce<unknown>(changed, answer.servers.main);
        const body = JSON.stringify({ ...answer, servers: { ...answer.servers, main: bad } });
        run.host.api.fault({ kind: 'body', body }, 1, isDiagnose);
        patroni.answer = (_, __, normal) => ({
          ...normal,
          body: ofPatroni.reduce<unknown>(changed, normal.body),
        });
        const report = await inspect(run);
        expect(report.servers.map(({ barman_server }) => barman_server)).toEqual(NAMES);
        const other = report.servers.find((one) => one.barman_server === 'other');
        expect(other?.findings).toEqual([]);
        if (report.barman.unseen === undefined)
          expect(other).toMatchObject({ unseen: [], members: healthy?.members });
        const { inspections } = await run.ledger.all(signal());
        expect(inspections.get('main')?.at).toBe(report.at);
        run.host.api.noFaults();
      }),
      { numRuns: 200 },
    );
  }, 120_000);
});
