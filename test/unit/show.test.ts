/** What `npm run ledger` shows. */

import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { asJson, asTable, stateOf, tried } from '../../cli/show.ts';
import type { Item, RecordedItem } from '../../functions/config-switch/ledger/item.ts';
import type { ServerMessage, Servers } from '../../functions/config-switch/ledger/ledger.ts';

const NOW = Date.now();
const ago = (seconds: number) => new Date(NOW - 1_000 * seconds).toISOString();
const at = (seconds: number) => ago(seconds).replace('T', ' ').replace(/\..*/, ' UTC');

const target = 'model pg:node2';
const desired = (seconds: number) => ({
  ...{ target, version: `${ago(seconds)}#event`, cluster: 'c' },
  recorded_at: ago(seconds),
});
const applied = { target, version: `${ago(260)}#event`, operation_id: 'op', applied_at: ago(259) };
const inSync: RecordedItem = { barman_server: 'main', desired: desired(260), applied };
const pending: RecordedItem = {
  barman_server: 'crm',
  desired: desired(12),
  applied: { ...applied, target: 'model pg:node1', applied_at: ago(400_000) },
};
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
});
const shown = (items: readonly (Item | ServerMessage)[], stage?: Servers['stage'], width = 80) =>
  asTable(servers(items, stage), NOW, width);
const broken: ServerMessage = { barman_server: 'old', message: "the ledger's item of old cannot be read" };

describe('the table', () => {
  const items: Item[] = [
    { ...inSync, leader: 'node2', leader_since: ago(250), streaming: true, streaming_since: ago(190) },
    {
      ...pending,
      attempts: 2,
      next_attempt_at: ago(-48),
      last_error:
        'operation 20261124T120000 ended FAILED: read /var/lib/barman/crm/output/20261124T120000.json',
      leader: 'node2',
      leader_since: ago(30),
      streaming: false,
      streaming_since: ago(30),
    },
    { barman_server: 'hr', leader: 'pg-a', leader_since: ago(45), streaming: true, streaming_since: ago(45) },
  ];
  const table = shown(items, { heartbeat: { ...heartbeat, clusters: heartbeat.clusters.slice(0, 1) } });

  test('has what is desired, applied and observed, and since when, at 80 columns', () => {
    expect(table.split('\n')).toEqual([
      'heartbeat 15s ago; version 1.2.3; pg-backup-api reachable; 1 of 1 clusters known',
      'SERVER  STATE     DESIRED       APPLIED      LEADER     STREAMING',
      'crm     pending   pg:node2 12s  pg:node1 4d  node2 30s  no 30s',
      '  - the next attempt is in 48s; next: retry crm',
      '  - failed 2 times: operation 20261124T120000 ended FAILED: read',
      '    /var/lib/barman/crm/output/20261124T120000.json',
      '  - Barman did not stream from node2 15s ago',
      'hr      observed  –             –            pg-a 45s   yes 45s',
      '  - nothing is desired yet: the second heartbeat that sees the same leader sets',
      "    it to the leader's model; next: wait, then look for the model of pg-a in the",
      "    cluster's parameter",
      'main    in sync   pg:node2 4m   pg:node2 4m  node2 4m   yes 3m',
    ]);
  });

  test('is the one in the documentation', () => {
    expect(readFileSync('docs/operations.md', 'utf8')).toContain(`\n${table}\n`);
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
      'SERVER  STATE    DESIRED      APPLIED      LEADER  STREAMING',
      'crm     new      –            –            –       –',
      ...Array(2).fill(expect.stringMatching(/^ {2}(- a cluster lists it| {2})/)),
      'east    in sync  pg:node2 4m  pg:node2 4m  ?       ?',
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
      'heartbeat 9m ago, expected every 60s: see the log of the function; ',
      { heartbeat: { ...heartbeat, at: ago(560) } },
    ],
    [
      'has not reported for long',
      '\nmain    in sync  pg:node2 4m  pg:node2 4m  ?       ?\n',
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
      'Barman did not stream from node1 15s ago; next: docs/operations.md#wal-does-not-arrive',
    ],
  ])('tells of a server that is %s', (state, item, note) => {
    expect([stateOf(item), shown([item], { heartbeat }, 400)]).toEqual([
      state,
      expect.stringContaining(note),
    ]);
  });

  test('says what to do about an item that cannot be read, and the other rows stay', () => {
    expect(shown([broken, inSync]).split('\n')).toEqual([
      'No heartbeat has reported yet.',
      'SERVER  STATE       DESIRED      APPLIED      LEADER  STREAMING',
      'main    in sync     pg:node2 4m  pg:node2 4m  –       –',
      'old     unreadable  –            –            –       –',
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
  expect(tried(before, after, response)).toContain(text);
});
