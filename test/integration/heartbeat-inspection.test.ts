/** Inspections by heartbeats: when, what is counted, and that nothing else suffers from one. */

import { describe, expect, test } from 'vitest';
import { PatroniStandIn } from '../stand-ins/patroni-rest-api.ts';
import { at, fakeClock, MINUTE, NODE1, pass, signal, startFunction } from './function.ts';

const HOUR = 60 * MINUTE;
/** No slot of Barman. */
const NO_SLOT = { status: { replication_slot: null } };

fakeClock();

/** A function whose heartbeats inspect, and a Patroni cluster whose leader is node1, applied and in sync. */
async function start(schedule = 'daily') {
  const stack = new AsyncDisposableStack();
  const patroni = stack.use(await PatroniStandIn.start());
  const run = stack.use(await startFunction({}, { INSPECTION: schedule }));
  const servers = { main: { node1: 'pg:node1', node2: 'pg:node2' } };
  run.host.put({ 'clusters/main': JSON.stringify({ servers, patroni: patroni.urls }) });
  await run.webhook(NODE1);
  pass(20 * MINUTE);
  const inspections = () => run.host.api.requests.filter(({ path }) => path === '/diagnose').length;
  /** Runs a heartbeat. @returns how many inspections there were so far, and what it has counted */
  const beat = async () => {
    await run.heartbeat(60_000);
    const { NotReady, NotArchived } = run.metrics().at(-1) ?? {};
    return { inspections: inspections(), NotReady, NotArchived };
  };
  return { patroni, run, beat, inspections, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

describe('a heartbeat', () => {
  test('inspects once a day, and reports in every heartbeat what was found', async () => {
    await using test = await start();
    const { run, beat } = test;
    const none = { inspections: 1, NotReady: 0, NotArchived: 0 };
    expect(await beat()).toEqual(none);
    pass(MINUTE);
    expect(await beat()).toEqual(none);
    const { inspections } = await run.ledger.all(signal());
    expect(inspections.get('main')).toMatchObject({ findings: [], unseen: [], leader: 'node1' });

    test.patroni.slots = undefined;
    run.host.api.host.diagnosed.set('main', { backups: {} });
    pass(24 * HOUR);
    expect(await beat()).toEqual({ inspections: 2, NotReady: 1, NotArchived: 0 });
    pass(MINUTE);
    expect(await beat()).toEqual({ inspections: 2, NotReady: 1, NotArchived: 0 });
    run.expectLog({ finding: 'no-backup', barman_server: 'main', level: 'ERROR' });
    run.expectLog({ finding: 'slot-not-permanent', barman_server: 'main', level: 'ERROR' });
  });

  test('does not inspect if inspections are off', async () => {
    await using test = await start('off');
    pass(50 * HOUR);
    expect(await test.beat()).toEqual({ inspections: 0, NotReady: 0, NotArchived: 0 });
  });

  test('counts WAL that is not archived once two inspections have found it, and inspects every 15 minutes until it is', async () => {
    await using test = await start();
    const { run, beat } = test;
    run.host.api.host.diagnosed.set('main', NO_SLOT);
    expect(await beat()).toEqual({ inspections: 1, NotReady: 0, NotArchived: 0 });
    pass(14 * MINUTE);
    expect(await beat()).toMatchObject({ inspections: 1 });
    pass(MINUTE);
    expect(await beat()).toEqual({ inspections: 2, NotReady: 0, NotArchived: 1 });
    run.host.api.host.diagnosed.delete('main');
    pass(MINUTE);
    expect(await beat()).toEqual({ inspections: 2, NotReady: 0, NotArchived: 1 });
    pass(15 * MINUTE);
    expect(await beat()).toEqual({ inspections: 3, NotReady: 0, NotArchived: 0 });
    pass(15 * MINUTE);
    expect(await beat()).toMatchObject({ inspections: 3 });
  });

  test('keeps what was found while Barman cannot be seen, tries again after an hour, and reports two days of that', async () => {
    await using test = await start();
    const { run, beat } = test;
    run.host.api.host.diagnosed.set('main', { backups: {} });
    expect(await beat()).toMatchObject({ inspections: 1, NotReady: 1 });
    run.host.api.fault({ kind: 'status', status: 500, body: '' }, 99, ({ path }) => path === '/diagnose');
    pass(24 * HOUR);
    const { inspections } = await beat();
    expect(inspections).toBeGreaterThan(1);
    pass(59 * MINUTE);
    expect(await beat()).toMatchObject({ inspections, NotReady: 1 });
    pass(MINUTE);
    expect((await beat()).inspections).toBeGreaterThan(inspections);
    const { stage } = await run.ledger.all(signal());
    expect(stage.inspection).toMatchObject({ unseen: expect.stringContaining('500') });
    pass(24 * HOUR);
    expect(await beat()).toMatchObject({ NotReady: 2 });
  });

  test('does not inspect while a server is being switched, or was just now', async () => {
    await using test = await start();
    const { run, beat } = test;
    expect(await beat()).toMatchObject({ inspections: 1 });
    pass(24 * HOUR);
    await run.setItem({
      lease: { token: 'x', expires_at: at(9_000) },
      apply_again_at: at(0),
    });
    expect(await beat()).toMatchObject({ inspections: 1 });
    pass(10_000);
    // It takes the lease over, and applies.
    await beat();
    pass(MINUTE);
    expect(await beat()).toMatchObject({ inspections: 2 });
  });

  test('inspects 20 minutes after another model was applied', async () => {
    await using test = await start();
    const { run, beat, patroni } = test;
    expect(await beat()).toMatchObject({ inspections: 1 });
    pass(HOUR);
    patroni.leader = 'node2';
    await run.webhook({ ...NODE1, barman_model: 'pg:node2' });
    pass(19 * MINUTE);
    expect(await beat()).toMatchObject({ inspections: 1 });
    pass(MINUTE);
    expect(await beat()).toMatchObject({ inspections: 2 });
  });

  test('has done its work although the inspection fails', async () => {
    await using test = await start();
    const { run } = test;
    await run.heartbeat(60_000);
    pass(24 * HOUR);
    run.host.put({ url: undefined });
    pass(11 * MINUTE);
    expect(await run.heartbeat(60_000)).toMatchObject({ unreachable: expect.stringContaining('url') });
    expect(run.metrics().at(-1)).toMatchObject({ Heartbeat: 1, PgBackupApiUnreachable: 1, NotReady: 0 });
  });

  test('finds what Patroni shows while Barman cannot be seen, in addition to what was found before', async () => {
    await using test = await start();
    const { run, beat } = test;
    run.host.api.host.diagnosed.set('main', { backups: {} });
    expect(await beat()).toMatchObject({ NotReady: 1 });
    run.host.api.fault({ kind: 'status', status: 500, body: '' }, 99, ({ path }) => path === '/diagnose');
    const servers = { main: { node1: 'pg:node1' } };
    run.host.put({ 'clusters/main': JSON.stringify({ servers, patroni: test.patroni.urls }) });
    pass(24 * HOUR);
    await run.heartbeat();
    pass(HOUR);
    await beat();
    const { inspections } = await run.ledger.all(signal());
    const kinds = inspections.get('main')?.findings.map(({ kind }) => kind);
    expect(kinds?.sort()).toEqual(['member-without-model', 'no-backup']);
  });

  test('drops what was found of a server that was removed', async () => {
    await using test = await start();
    const { run, beat, patroni } = test;
    run.host.api.host.diagnosed.set('main', { backups: {} });
    expect(await beat()).toMatchObject({ NotReady: 1 });
    run.host.put({ 'clusters/main': JSON.stringify({ servers: {}, patroni: patroni.urls }) });
    await run.operator.forgetByForce('main', signal());
    pass(11 * MINUTE);
    await run.heartbeat();
    expect(await beat()).toMatchObject({ NotReady: 0 });
    expect([...(await run.ledger.all(signal())).inspections.keys()]).toEqual([]);
  });
});
