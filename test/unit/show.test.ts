/** What `npm run ledger` shows. */

import { readFileSync } from 'node:fs';
import { afterAll, describe, expect, test, vi } from 'vitest';
import { asJson, asTable, tried } from '../../cli/show.ts';
import type { Inspection } from '../../functions/config-switch/ledger/inspection.ts';
import type { Item } from '../../functions/config-switch/ledger/item.ts';
import type { ServerMessage, Servers } from '../../functions/config-switch/ledger/ledger.ts';
import { stateOf } from '../../functions/config-switch/ledger/overview.ts';
import {
  ago,
  applied,
  desired,
  EXAMPLE,
  inSync,
  inspected,
  NOW,
  pending,
} from '../../infra/ledger-example.ts';

vi.useFakeTimers({ toFake: ['Date'], now: NOW });
afterAll(() => vi.useRealTimers());

const at = (seconds: number) => ago(seconds).replace('T', ' ').replace(/\..*/, ' UTC');
const target = 'model pg:node2';
const lease = (seconds: number) => ({ lease: { token: 'token', expires_at: ago(-seconds) } });
const running = { running: { operation_id: 'X', target, version: 'v' } };
const unsettled = { unsettled_since: ago(90), apply_again_at: ago(-30) };
const observedServer = (name: string) => ({ name, observed: true });
/** A heartbeat a quarter of a minute ago, which knew the leader of all but the cluster east. */
const heartbeat = {
  ...{ at: ago(15), interval: 60_000, version: '1.2.3' },
  clusters: [
    {
      name: 'main',
      servers: [observedServer('main'), observedServer('crm'), observedServer('hr')],
      observed_at: ago(15),
    },
    {
      name: 'east',
      servers: [observedServer('east'), observedServer('new')],
      observed_at: ago(200),
      unknown: 'no node answered',
    },
  ],
};
const servers = (items: readonly (Item | ServerMessage)[], stage: Servers['stage'] = {}): Servers => ({
  items: items.filter((one): one is Item => !('message' in one)),
  unreadable: items.filter((one): one is ServerMessage => 'message' in one),
  stage,
  inspections: new Map(),
  heard: new Map(),
});
const shown = (
  items: readonly (Item | ServerMessage)[],
  stage?: Servers['stage'],
  width = 80,
  only: readonly string[] = [],
) => asTable(servers(items, stage), NOW, width, only);
const broken: ServerMessage = { barman_server: 'old', message: "the ledger's item of old cannot be read" };

describe('the table', () => {
  test('names the site of a leader, if its server has several', () => {
    const item = { ...(EXAMPLE.items[0] as Item), site: 'dc2' };
    const { barman_server: name } = item;
    const [one] = heartbeat.clusters;
    const listing = (cluster: string) => ({
      ...one,
      name: cluster,
      servers: [{ name, observed: cluster === 'dc2' }],
    });
    const clusters = [listing('dc1'), listing('dc2')];
    expect(shown([item], { heartbeat: { ...heartbeat, clusters } })).toContain('  node2 in dc2 4m  yes 3m ');
    expect(shown([item], { heartbeat: { ...heartbeat, clusters: clusters.slice(1) } })).toContain(
      '  node2 4m  yes 3m ',
    );
  });

  test('has what is desired, applied and observed, and since when, at 80 columns', () => {
    expect(asTable(EXAMPLE, NOW, 80).split('\n')).toEqual([
      'heartbeat 15s ago; version 1.2.3; pg-backup-api reachable; 1 of 1 clusters known',
      'SERVER  STATE     DESIRED       APPLIED      LEADER     STREAMING  READY',
      'crm     pending   pg:node2 12s  pg:node1 4d  node2 30s  no 30s     no: 1 finding',
      '  - the next attempt is in 48s; next: retry crm',
      '  - failed once: Barman could not apply model pg:node2 on crm: operation',
      '    20261124T120000 ended FAILED; the reason is in',
      '    <barman_home>/crm/output/20261124T120000.json on the Barman host',
      '  - Barman did not stream from node2 15s ago',
      '  - node3: it has no model for Barman server crm: add [pg:node3] to barman.conf,',
      '    and "node3": "pg:node3" to "crm" in clusters/main',
      'hr      observed  –             –            pg-a 45s   yes 45s    ?',
      '  - nothing is desired yet: the second heartbeat that sees the same leader sets',
      "    it to the leader's model; next: wait, then look for the model of pg-a in the",
      "    cluster's parameter",
      'main    in sync   pg:node2 4m   pg:node2 4m  node2 4m   yes 3m     yes 3h',
    ]);
  });

  test('of a server that is unsettled is the one in the documentation', () => {
    const item: Item = {
      ...{ barman_server: 'main', desired: desired(372) },
      applied: { ...applied, version: desired(372).version, applied_at: ago(132) },
      ...{ unsettled_since: ago(372), apply_again_at: ago(-108) },
      ...{ leader: 'node2', leader_since: ago(372), streaming: true, streaming_since: ago(365) },
    };
    const [, , ...rows] = shown([item], EXAMPLE.stage, 80, ['main']).split('\n');
    expect(readFileSync('docs/how-to/read-the-ledger.md', 'utf8')).toContain(`\n${rows.join('\n')}\n`);
  });

  test('of a paused server is the one in the documentation', () => {
    const item: Item = {
      ...inSync,
      ...{ paused: true, paused_at: ago(12), paused_until: ago(-7_188), pause_reason: 'new disk' },
    };
    expect(readFileSync('docs/how-to/pause.md', 'utf8')).toContain(
      `\n${shown([item]).split('\n').slice(1).join('\n')}\n`,
    );
  });

  test('has no control characters, whatever a node or pg-backup-api sends', () => {
    const item = { ...pending, leader: 'a\u001b[2Jb', attempts: 1, last_error: 'c\u009b1md\r\ne' };
    const table = shown([item], { heartbeat });
    expect(table).not.toMatch(/[^\n\P{Cc}]/u);
    expect(table).toMatch(/ a\\u001b\[2Jb .* failed once: c\\u009b1md e/s);
  });

  test('has no characters that reorder text, also as JSON', () => {
    const item = { ...pending, leader: 'a\u202eb' };
    for (const text of [shown([item], { heartbeat }), asJson(servers([item]), NOW)]) {
      expect(text).not.toContain('\u202e');
      expect(text).toContain('a\\u202eb');
    }
  });

  test('says so if there is nothing in it', () => {
    expect(shown([])).toBe('No heartbeat has reported yet.\nNo role change has been recorded yet.');
  });

  test('says nothing of the leader that was not seen within two heartbeats', () => {
    const east: Item = {
      ...inSync,
      ...{ barman_server: 'east', leader: 'node1', leader_since: ago(9_000) },
      ...{ streaming: true, streaming_since: ago(9_000) },
    };
    expect(shown([east], { heartbeat }, 100).split('\n')).toEqual([
      'heartbeat 15s ago; version 1.2.3; pg-backup-api reachable; 1 of 2 clusters known',
      'the leader of cluster east is unknown: no node answered',
      'SERVER  STATE    DESIRED      APPLIED      LEADER  STREAMING  READY',
      'crm     new      –            –            –       –          ?',
      ...Array(2).fill(expect.stringMatching(/^ {2}(- a cluster lists it| {2})/)),
      'east    in sync  pg:node2 4m  pg:node2 4m  ?       ?          ?',
      '  - LEADER and STREAMING are unknown, last seen node1, 3m ago: no node answered; next: compare with',
      '    patronictl list',
      ...Array(9).fill(expect.any(String)),
    ]);
    const json = JSON.parse(asJson(servers([east], { heartbeat }), NOW));
    expect(json.servers[1]).toMatchObject({
      ...{ barman_server: 'east', leader: 'node1', leader_known: false, observed_at: ago(200) },
      leader_unknown_because: 'no node answered',
    });
  });

  test.each<[string, string, Servers['stage']]>([
    [
      'has not reported for long',
      'heartbeat 9m ago, expected every 60s: see the log of the function; version 1.2.3; pg-backup-api was reachable then; 1 of 2 clusters were known then\nthe leader of cluster east was unknown: no node answered\n',
      { heartbeat: { ...heartbeat, at: ago(560) } },
    ],
    [
      'has not reported for long',
      `pg-backup-api was unreachable then; 1 of 2 clusters were known then\npg-backup-api was unreachable since ${at(600)}: refused\n`,
      {
        heartbeat: { ...heartbeat, at: ago(560), unreachable: 'refused', unreachable_since: ago(600) },
      },
    ],
    [
      'has not reported for long',
      '\nmain    in sync  pg:node2 4m  pg:node2 4m  ?       ?          ?\n',
      {
        heartbeat: {
          ...heartbeat,
          clusters: heartbeat.clusters.map((one) => ({ ...one, observed_at: ago(560) })),
        },
      },
    ],
    [
      'did not reach pg-backup-api',
      `pg-backup-api is unreachable since ${at(90)}: refused\n`,
      { heartbeat: { ...heartbeat, unreachable: 'refused', unreachable_since: ago(90) } },
    ],
    [
      'has not reported yet',
      'last seen node2: no heartbeat has reported it since; next: compare with patronictl list',
      {},
    ],
  ])('says what it means that a heartbeat %s', (_, text, stage) => {
    const item: Item = { ...inSync, leader: 'node2', leader_since: ago(250) };
    expect(shown([item], stage, 200)).toContain(text);
  });
});

test('the table and the JSON › can have some servers only; the line of the heartbeat stays', () => {
  const table = shown([inSync, pending, broken], { heartbeat }, 100, ['crm', 'old']);
  expect(table).toMatch(/^heartbeat 15s ago; .*; 1 of 2 clusters known$/m);
  expect(table.match(/^(crm|east|hr|main|new|old)(?= )/gm)).toEqual(['crm', 'old']);
  const json = JSON.parse(asJson(servers([inSync, pending, broken], { heartbeat }), NOW, ['crm', 'old']));
  expect(json).toMatchObject({
    heartbeat: { clusters: [{ name: 'main' }, { name: 'east' }] },
    servers: [{ barman_server: 'crm' }, { barman_server: 'old' }],
  });
});

describe('a pause of all servers', () => {
  const paused = { at: ago(60), reason: 'a new disk' };
  const stage = { paused };
  const own = { paused: true, paused_at: ago(30), pause_reason: 'a backup' };
  const UNSENT = 'nothing is sent to Barman, because all servers are paused';

  test.each<[string, Item, string]>([
    ['in sync', inSync, `${UNSENT}; next: resume --all`],
    ['pending', pending, `${UNSENT}; a desired state is pending; next: resume --all`],
    ['expired', { ...pending, ...lease(-9) }, `${UNSENT}; a desired state is pending; next: resume --all`],
    ['observed', { barman_server: 'hr', leader: 'node1' }, `${UNSENT}; next: resume --all`],
    [
      'paused itself',
      { ...inSync, ...own },
      `nothing is sent to Barman, since ${at(30)}, for: a backup; next: resume --all, then: resume main`,
    ],
    [
      'unsettled',
      { ...inSync, ...unsettled },
      'an older switch may still take effect; the desired state is applied again only after the pause',
    ],
    [
      'to be applied again',
      { ...inSync, apply_again_at: ago(1) },
      'the model is applied again after the pause, because Barman does not stream',
    ],
  ])('pauses a server that is %s, and its notes say so', (_, item, note) => {
    expect(stateOf(item, stage)).toBe('paused');
    const table = shown([item], stage, 400);
    expect(table).toContain(
      `\nall servers are paused, since ${at(60)}, for: a new disk; next: resume --all\n`,
    );
    expect(`${table}\n`).toContain(`${note}\n`);
    expect(table).not.toMatch(/made by the next heartbeat|applied again at growing intervals|retry/);
  });

  test('leaves the state of a server that is being switched, cannot be read, or is only listed', () => {
    const switching = { ...pending, ...lease(9) };
    expect(stateOf(switching, stage)).toBe('switching');
    expect(stateOf(broken, stage)).toBe('unreadable');
    expect(stateOf({ barman_server: 'crm', listed: true }, stage)).toBe('new');
  });

  test('is in the JSON while it lasts', () => {
    const json = (stage: Servers['stage']) => JSON.parse(asJson(servers([inSync], stage), NOW));
    expect(json(stage)).toEqual({
      paused,
      servers: [{ ...inSync, state: 'paused', leader_known: false }],
    });
    const ended = { paused: { ...paused, until: ago(1) } };
    expect(json(ended)).toEqual({ servers: [{ ...inSync, state: 'in sync', leader_known: false }] });
  });

  test('is why a retry tries nothing', () => {
    expect(tried(pending, pending, stage, {})).toBe(
      'Not tried, because all servers are paused; next: resume --all',
    );
    expect(tried(pending, { ...pending, ...own }, stage, {})).toBe(
      'Not tried, because crm is paused; next: resume --all, then: resume crm',
    );
  });
});

describe('what a heartbeat has found of a server', () => {
  const REFUSAL = 'its operations in Barman cannot be read: pg-backup-api answered 500';
  const withServer = (server: object, cluster: object = {}): Servers['stage'] => ({
    heartbeat: {
      ...heartbeat,
      clusters: [{ name: 'c', servers: [{ name: 'main', observed: true, ...server }], ...cluster }],
    },
  });
  const led: Item = { ...inSync, leader: 'node1', leader_since: ago(900), streaming: true };
  const NO_MODEL = 'its leader node2 has no model for Barman server main; add it to clusters/c';
  const SEVERAL = 'several sites have a primary: node1 in a, node1 in b';

  test('is a note if pg-backup-api refuses it, with what to do next', () => {
    const stage = { heartbeat: { ...heartbeat, not_ready: [{ barman_server: 'main', message: REFUSAL }] } };
    const note = `  - pg-backup-api refused a heartbeat's last request for this server`;
    const next = 'next: docs/reference/alarms.md#not-ready';
    expect(shown([inSync], stage, 400)).toContain(`${note}: ${REFUSAL}; ${next}`);
    expect(shown([{ ...inSync, last_error: REFUSAL }], stage, 400)).toContain(`${note}: ${REFUSAL}; ${next}`);
    // Not twice.
    const failed = { ...pending, ...{ barman_server: 'main', attempts: 3, last_error: `${REFUSAL}: disk` } };
    expect(shown([failed], stage, 400)).toContain(`  - failed 3 times: ${REFUSAL}: disk\n${note}; ${next}`);
    expect(shown([pending], stage, 400)).not.toContain(note);
  });

  test('is that its leader is unknown, although that of its cluster is known', () => {
    const stage = withServer({ unknown: NO_MODEL }, { observed_at: ago(15) });
    const table = shown([led], stage, 400);
    expect(table).toMatch(/^main +in sync .* \? +\?$/m);
    expect(table).toContain(
      `LEADER and STREAMING are unknown, last seen node1: ${NO_MODEL}; next: compare with patronictl list`,
    );
    const [server] = JSON.parse(asJson(servers([led], stage), NOW)).servers;
    expect(server).toMatchObject({ leader_known: false, leader_unknown_because: NO_MODEL });
    expect(server).not.toHaveProperty('observed_at');
    expect(shown([inSync], stage, 400)).toContain(
      `  - its leader is unknown: ${NO_MODEL}; next: docs/reference/alarms.md#leader-unknown`,
    );
  });

  test.each<[string, Servers['stage'], string]>([
    [
      'was not seen yet',
      withServer({}),
      'and no leader was seen yet; next: wait for the next heartbeat, then: check',
    ],
    [
      'has an unknown leader',
      withServer({}, { unknown: 'no node answered' }),
      'and its leader is unknown: no node answered; next: docs/reference/alarms.md#leader-unknown',
    ],
    [
      'belongs to several clusters with members',
      withServer({ unknown: SEVERAL }),
      `and its leader is unknown: ${SEVERAL}; next: docs/reference/alarms.md#leader-unknown`,
    ],
    [
      'is in no cluster that is asked for it',
      withServer({ observed: false }),
      'and Patroni is not asked for it; next: send one with its callback, or: set main MODEL',
    ],
  ])('says what a server without a role change waits for, if it %s', (_, stage, note) => {
    expect(shown([], stage, 400)).toContain(
      `  - a cluster lists it, but no role change was recorded, ${note}`,
    );
  });

  test('is not shown as present while heartbeats are missing', () => {
    const late = { ...heartbeat, at: ago(560), unreachable: 'refused', unreachable_since: ago(600) };
    const table = shown([pending], { heartbeat: late }, 400);
    expect(table).toContain('  - the next attempt is made by the next heartbeat; next: retry crm\n');
  });
});

describe('a note', () => {
  const UNSETTLED = `unsettled since ${at(90)}: an older switch may still take effect, so the desired state is applied again at growing intervals`;
  const OVERWRITES = 'that overwrites a model set by hand, so pause the server before you set one';
  test.each<[string, Item, string]>([
    [
      'switching',
      { ...pending, ...lease(9) },
      `an invocation is switching it, until ${at(-9)} at most; next: wait`,
    ],
    [
      'expired',
      { ...pending, ...lease(-9) },
      'an invocation has crashed or run out of time, or its POST had no response; a heartbeat takes over; next: retry crm',
    ],
    [
      'expired',
      { ...pending, ...lease(-9), ...running },
      'asks for the end of operation X; next: wait, or end',
    ],
    [
      'paused',
      { ...inSync, paused: true, paused_at: ago(60) },
      `nothing is sent to Barman, since ${at(60)}; next: resume main`,
    ],
    [
      'paused',
      { ...pending, paused: true, paused_until: ago(-60) },
      `until ${at(-60)}; a desired state is pending; next: resume crm`,
    ],
    ['pending', pending, 'the next attempt is made by the next heartbeat'],
    ['pending', { ...pending, attempts: 1, last_error: 'FAILED' }, 'failed once: FAILED'],
    [
      'pending',
      { ...inSync, apply_again_at: ago(1) },
      'the model is applied again, because Barman does not stream',
    ],
    ['in sync', { ...inSync, ...unsettled }, `${UNSETTLED}, next ${at(-30)}; ${OVERWRITES}`],
    [
      'pending',
      { ...inSync, ...unsettled, apply_again_at: ago(1) },
      `${UNSETTLED}, next ${at(1)}; ${OVERWRITES}`,
    ],
    // What is to be applied again is what was applied.
    ['pending', { ...pending, ...unsettled }, `${UNSETTLED}; ${OVERWRITES}`],
    [
      'paused',
      { ...inSync, ...unsettled, paused: true, paused_at: ago(60) },
      `unsettled since ${at(90)}: an older switch may still take effect; the desired state is applied again only after the pause`,
    ],
    [
      'in sync',
      { ...inSync, leader: 'node1', leader_since: ago(9), differs_since: ago(7_300) },
      "the leader's model is not the desired one, for 2h",
    ],
    [
      'in sync',
      { ...inSync, leader: 'node1', leader_since: ago(9_000), streaming: false, streaming_since: ago(121) },
      'Barman did not stream from node1 15s ago; next: docs/how-to/wal-does-not-arrive.md',
    ],
  ])('describes a server that is %s', (state, item, note) => {
    expect([stateOf(item, {}), shown([item], { heartbeat }, 400)]).toEqual([
      state,
      expect.stringContaining(note),
    ]);
  });

  test('says what to do about an item that cannot be read, and the other rows stay', () => {
    expect(shown([broken, inSync]).split('\n')).toEqual([
      'No heartbeat has reported yet.',
      'SERVER  STATE       DESIRED      APPLIED      LEADER  STREAMING  READY',
      'main    in sync     pg:node2 4m  pg:node2 4m  –       –          ?',
      'old     unreadable  –            –            –       –          ?',
      "  - the ledger's item of old cannot be read",
    ]);
  });

  test('is not there for a server that is in sync and streams', () => {
    expect(shown([inSync]).split('\n')).toHaveLength(3);
  });
});

test('the JSON has the last heartbeat, and all attributes of each server with its state', () => {
  const item = { ...inSync, ...unsettled };
  const stage = { heartbeat: { ...heartbeat, clusters: [] } };
  expect(JSON.parse(asJson(servers([broken, item, pending], stage), NOW))).toEqual({
    ...stage,
    servers: [
      { ...pending, state: 'pending', leader_known: false },
      { ...item, state: 'in sync', leader_known: false },
      { ...broken, state: 'unreadable', leader_known: false },
    ],
  });
});

test.each<[string, Item, Item, object]>([
  ['done', pending, { ...inSync, barman_server: 'crm' }, { applied: 1 }],
  ['failed: FAILED', pending, { ...pending, attempts: 1, last_error: 'FAILED' }, {}],
  ['the heartbeat failed: no table', pending, pending, { message: 'no table' }],
  ['pg-backup-api is unreachable: refused', pending, pending, { unreachable: 'refused' }],
  ['crm is paused; next: resume crm', pending, { ...pending, paused: true }, {}],
  ['main is in sync', inSync, inSync, {}],
  ['nothing is desired for hr yet', { barman_server: 'hr' }, { barman_server: 'hr' }, {}],
  ['another invocation is switching it', pending, { ...pending, ...lease(9) }, {}],
  ['the end of operation X: it has not ended', pending, { ...pending, ...lease(-9), ...running }, {}],
  ['time ran out', pending, pending, {}],
])('a retry › says what was tried, or why not: %s', (text, before, after, response) => {
  expect(tried(before, after, {}, response)).toContain(text);
});

describe('the column READY', () => {
  const readyOf = (inspection: Partial<Inspection>, stage: Servers['stage'] = { heartbeat }) => {
    const inspections = new Map([['main', { ...inspected, findings: [], ...inspection }]]);
    const text = asTable({ ...servers([inSync], stage), inspections }, NOW, 200, ['main']);
    return / (\S+(?: \S+){0,2})$/m.exec(text.split('\n').find((line) => line.startsWith('main')) ?? '')?.[1];
  };
  const finding = {
    kind: 'no-backup',
    class: 'ready' as const,
    what: 'w',
    remedy: 'r',
    since: ago(1),
    counts: true,
  };

  test('has the age of an inspection without findings', () => {
    expect(readyOf({})).toMatch(/yes 3h$/);
    expect(readyOf({ at: ago(48 * 3_600) })).toMatch(/yes 2d$/);
  });

  test('counts findings', () => {
    expect(readyOf({ findings: [finding] })).toMatch(/no: 1 finding$/);
    expect(readyOf({ findings: [finding, finding] })).toMatch(/no: 2 findings$/);
  });

  test('is unknown after two days, or if a member could not be seen', () => {
    expect(readyOf({ at: ago(48 * 3_600 + 1) })).toMatch(/\? 2d$/);
    expect(readyOf({ unseen: [{ what: 'no answer', member: 'node1' }] })).toMatch(/\? 3h$/);
    expect(readyOf({ unseen: [{ what: 'a switch is pending' }] })).toMatch(/yes 3h$/);
  });

  test('is explained if no inspection could see Barman', () => {
    const times = { first_at: ago(9), tried_at: ago(9), unseen: 'no response within 50 s' };
    expect(asTable(servers([inSync], { inspection: times }), NOW, 200)).toContain(
      'no inspection could see Barman yet: no response within 50 s; next: check',
    );
    const seen = asTable(servers([inSync], { inspection: { ...times, seen_at: ago(7_200) } }), NOW, 200);
    expect(seen).toContain('no inspection could see Barman since 2');
  });

  test('is explained by three findings at most', () => {
    const inspections = new Map([['main', { ...inspected, findings: Array(5).fill(finding) }]]);
    const text = asTable({ ...servers([inSync]), inspections }, NOW, 80);
    expect(text.match(/- w: r/g)).toHaveLength(3);
    expect(text).toContain('- 2 more; next: check');
  });
});
