/** Which nodes' callbacks have been heard, end to end. */

import * as v from 'valibot';
import { describe, expect, test } from 'vitest';
import { InspectionReport } from '../../functions/config-switch/inspect/report.ts';
import { PatroniStandIn } from '../stand-ins/patroni-rest-api.ts';
import { createSecret, signedHeaders } from '../stand-ins/webhook.ts';
import { isPost, NODE1, PROMOTION, SKIPPED, signal, startFunction } from './function.ts';

const RELOAD = { ...PROMOTION, action: 'on_reload', role: 'replica', node: 'db1' };
const MESSAGE =
  'skipped: "on_reload" changes no role; the callback of db1 has been heard; no role change has been recorded for Barman server main, and no parameter clusters/NAME lists it: check --barman-server';
const agent = (version: string) => ({ 'user-agent': `barman_config_switch/${version}` });

type Run = Awaited<ReturnType<typeof startFunction>>;
const heardOf = async (run: Run, server = 'main') => (await run.ledger.all(signal())).heard.get(server);
const at = expect.stringMatching(/^\d{4}-.*Z$/);

/** Counts the requests to the ledger. */
function counting({ dynamoDb }: Run): string[] {
  const requests: string[] = [];
  dynamoDb.fault = (operation) => {
    requests.push(operation);
    return undefined;
  };
  return requests;
}

describe('an event that changes no role', () => {
  test.each(['on_reload', 'on_start', 'on_restart'])(
    'lets its node be heard over HTTP: %s',
    async (action) => {
      await using run = await startFunction();
      const body = JSON.stringify({ ...RELOAD, action });
      const headers = { ...signedHeaders(run.host.webhookSecret, body), ...agent('1.2.3') };
      const timeEpoch = Date.now() - 7;
      expect(await run.webhook(body, { headers, timeEpoch })).toMatchObject({
        statusCode: 200,
        response: { exit_code: 1, message: MESSAGE.replace('on_reload', action), recorded: false },
      });
      expect(await heardOf(run)).toEqual([
        { node: 'db1', cluster: 'main', at: new Date(timeEpoch).toISOString(), version: '1.2.3' },
      ]);
      expect(await run.item()).toBeUndefined();
      expect(run.host.api.requests).toEqual([]);
      run.expectLog({ level: 'INFO', node: 'db1', message: MESSAGE.replace('on_reload', action) });
    },
  );

  test('lets its node be heard over EventBridge and by direct invocation, without a version', async () => {
    await using run = await startFunction();
    expect(await run.eventBridge(RELOAD)).toMatchObject({ exit_code: 1, message: MESSAGE });
    await run.invoke({ ...RELOAD, node: 'db2' });
    expect(await heardOf(run)).toEqual(
      expect.arrayContaining([
        { node: 'db1', cluster: 'main', at },
        { node: 'db2', cluster: 'main', at },
      ]),
    );
  });

  test('says what a role change would lack, unless a parameter clusters/NAME has it', async () => {
    await using patroni = await PatroniStandIn.start();
    await using run = await startFunction();
    const following = { ...RELOAD, barman_model: undefined, follow_leader: true };
    const misspelt = await run.webhook({ ...following, barman_server: 'mian' });
    expect(misspelt.response.message).toMatch(
      /heard; no role change .* server mian, and .*; a role change would end as INVALID_ARGS: follow_leader needs .*"patroni"$/,
    );
    expect(await heardOf(run, 'mian')).toHaveLength(1);
    await using other = await startFunction();
    const servers = { main: { node1: 'pg:node1' } };
    other.host.put({ 'clusters/main': JSON.stringify({ servers, patroni: patroni.urls }) });
    const known = await other.webhook(following);
    expect(known.response.message).toBe(MESSAGE.replace(/; no role change .*/, ''));
  });

  test('without a node is skipped, and the ledger is not asked', async () => {
    await using run = await startFunction();
    const requests = counting(run);
    const { statusCode, response } = await run.webhook({ ...RELOAD, node: undefined });
    expect([statusCode, response.exit_code]).toEqual([200, 1]);
    expect(response.message).toContain('node is missing');
    expect(requests).toEqual([]);
  });

  test('from a secret that may not switch its server is refused, and no node is heard', async () => {
    await using run = await startFunction();
    const secret = createSecret();
    run.host.put({ 'clusters/crm': JSON.stringify({ secret, servers: { crm: {} } }) });
    expect(await run.webhook(RELOAD, { secret })).toMatchObject({
      statusCode: 403,
      response: { exit_code: 4 },
    });
    expect(await heardOf(run)).toBeUndefined();
    expect(await run.webhook({ ...RELOAD, barman_server: 'crm' }, { secret })).toMatchObject({
      statusCode: 200,
    });
    expect(await heardOf(run, 'crm')).toHaveLength(1);
  });

  test('ends as 503 if the ledger is unavailable, so that the callback sends it again', async () => {
    await using run = await startFunction();
    run.dynamoDb.fault = () => 'access denied';
    expect(await run.webhook(RELOAD)).toMatchObject({
      statusCode: 503,
      headers: { 'retry-after': '5' },
      response: {
        exit_code: 3,
        recorded: false,
        message: expect.stringContaining('the ledger is unavailable'),
      },
    });
    // Lambda invokes the function again.
    await expect(run.eventBridge(RELOAD)).rejects.toThrow('the ledger is unavailable');
    run.dynamoDb.fault = undefined;
    expect((await run.webhook(RELOAD)).statusCode).toBe(200);
    expect(await heardOf(run)).toHaveLength(1);
  });
});

describe('a role change', () => {
  test('lets its node be heard while Barman is set to the model', async () => {
    await using run = await startFunction();
    expect((await run.webhook({ ...NODE1, node: 'db1' })).response.exit_code).toBe(0);
    expect(await heardOf(run)).toEqual([{ node: 'db1', cluster: 'main', at }]);
    expect(run.host.api.activeModel()).toBe('pg:node1');
  });

  test('lets its node be heard in a dry run, also if pg-backup-api does not respond', async () => {
    await using run = await startFunction({}, { MAX_RETRIES: '1' });
    const dryRun = { ...NODE1, node: 'db1', dry_run: true };
    expect((await run.invoke(dryRun)).exit_code).toBe(1);
    run.host.api.fault({ kind: 'status', status: 500 }, 1, ({ path }) => path.endsWith('/diagnose'));
    expect((await run.invoke({ ...dryRun, node: 'db2' })).exit_code).toBe(3);
    expect((await heardOf(run))?.map(({ node }) => node).sort()).toEqual(['db1', 'db2']);
    expect(run.host.api.requests.filter(isPost)).toEqual([]);
  });

  test('is switched if the ledger refuses to write who was heard, with a warning', async () => {
    await using run = await startFunction();
    // An item of DynamoDB has at most 400 KB, with the names of its attributes: each write is refused.
    await run.setItem({ notes: 'x'.repeat(400 * 1024 - 50) } as object, 'inspection#main');
    expect((await run.webhook({ ...NODE1, node: 'db1' })).response.exit_code).toBe(0);
    run.expectLog({
      ...{ level: 'WARN', node: 'db1' },
      message: expect.stringMatching(/^that this node's callback was heard is not in the ledger: /),
    });
  });

  test('that is skipped sends no request to the ledger', async () => {
    await using run = await startFunction();
    const requests = counting(run);
    expect((await run.webhook({ ...SKIPPED, node: 'db1' })).response.exit_code).toBe(1);
    expect((await run.webhook({ ...SKIPPED, node: 'db1', dry_run: true })).response.exit_code).toBe(1);
    expect(requests).toEqual([]);
    expect(await heardOf(run)).toBeUndefined();
  });
});

describe('an inspection', () => {
  test('finds the member whose callback was never heard, until it is heard', async () => {
    await using patroni = await PatroniStandIn.start();
    await using run = await startFunction();
    const servers = { main: { node1: 'pg:node1', node2: 'pg:node2' } };
    run.host.put({ 'clusters/main': JSON.stringify({ servers, patroni: patroni.urls, scope: 'main' }) });
    await run.invoke({ ...NODE1, node: 'node1.db.example' });
    const main = async () =>
      v.parse(InspectionReport, await run.send({ inspection: true }, 60_000, 'inspection')).servers[0];
    expect(await main()).toMatchObject({
      findings: [{ kind: 'callback-unheard', member: 'node2', class: 'ready', counts: true }],
      members: [
        { member: 'node1', callback: { node: 'node1.db.example', at }, ready: 'yes' },
        { member: 'node2', callback: null, ready: 'no' },
      ],
    });
    await run.invoke({ ...RELOAD, node: 'NODE2' });
    expect(await main()).toMatchObject({
      ...{ findings: [], notes: [] },
      members: [{ ready: 'yes' }, { member: 'node2', callback: { node: 'NODE2', at }, ready: 'yes' }],
    });
    // What inspections write has overwritten nothing.
    expect((await heardOf(run))?.map(({ node }) => node)).toEqual(['NODE2', 'node1.db.example']);
  });

  test('says of nodes that are no member that they were heard, and finds nothing', async () => {
    await using patroni = await PatroniStandIn.start();
    await using run = await startFunction();
    const servers = { main: { node1: 'pg:node1', node2: 'pg:node2' } };
    run.host.put({ 'clusters/main': JSON.stringify({ servers, patroni: patroni.urls }) });
    await run.invoke({ ...NODE1, node: 'pg-a' });
    const report = v.parse(InspectionReport, await run.send({ inspection: true }, 60_000, 'inspection'));
    expect(report.servers[0]).toMatchObject({
      findings: [],
      notes: [
        expect.stringMatching(
          /^callbacks were heard of pg-a \(0 minutes ago\), .* those of node1, node2 were$/,
        ),
      ],
    });
    expect(report.servers[0]?.members.map((member) => 'callback' in member)).toEqual([false, false]);
  });
});

describe('many nodes', () => {
  test('that are heard at the same moment: the 20 heard last are kept', async () => {
    await using run = await startFunction();
    const now = Date.now();
    const nodes = Array.from({ length: 25 }, (_, index) => `db${index}`);
    const responses = await Promise.all(
      nodes.map((node, index) => run.webhook({ ...RELOAD, node }, { timeEpoch: now - 1_000 + index })),
    );
    expect(responses.map(({ statusCode }) => statusCode)).toEqual(nodes.map(() => 200));
    expect((await heardOf(run))?.map(({ node }) => node)).toEqual(nodes.slice(5).reverse());
  });
});
