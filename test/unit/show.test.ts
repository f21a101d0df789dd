/** What `npm run ledger` shows. */

import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { asJson, asTable, stateOf } from '../../cli/show.ts';
import type { Item, RecordedItem } from '../../functions/config-switch/ledger/item.ts';
import type { Unreadable } from '../../functions/config-switch/ledger/ledger.ts';

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
const broken: Unreadable = { barman_server: 'old', message: "the ledger's item of old cannot be read" };

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
  const table = asTable(items, NOW, 80);

  test('has what is desired, applied and observed, and since when, at 80 columns', () => {
    expect(table.split('\n')).toEqual([
      'SERVER  STATE     DESIRED       APPLIED      LEADER     STREAMING',
      'crm     pending   pg:node2 12s  pg:node1 4d  node2 30s  no 30s',
      '  - the next attempt is in 48s',
      '  - failed 2 times: operation 20261124T120000 ended FAILED: read',
      '    /var/lib/barman/crm/output/20261124T120000.json',
      '  - WAL does not arrive: see docs/operations.md#wal-does-not-arrive',
      'hr      observed  –             –            pg-a 45s   yes 45s',
      'main    in sync   pg:node2 4m   pg:node2 4m  node2 4m   yes 3m',
    ]);
  });

  test('is the one in the documentation', () => {
    expect(readFileSync('docs/operations.md', 'utf8')).toContain(`\n${table}\n`);
  });

  test('has no control characters, whatever a node or pg-backup-api sends', () => {
    const item = { ...pending, leader: 'a\u001b[2Jb', attempts: 1, last_error: 'c\u009b1md\r\ne' };
    const shown = asTable([item], NOW, 80);
    expect(shown).not.toMatch(/[^\n\P{Cc}]/u);
    expect(shown).toMatch(/ a\\u001b\[2Jb .* failed once: c\\u009b1md e/s);
  });

  test('has no characters that reorder text, also as JSON', () => {
    const item = { ...pending, leader: 'a\u202eb' };
    for (const shown of [asTable([item], NOW, 80), asJson([item])]) {
      expect(shown).not.toContain('\u202e');
      expect(shown).toContain('a\\u202eb');
    }
  });

  test('says so if there is nothing in it', () => {
    expect(asTable([], NOW, 80)).toBe('No role change has been recorded yet.');
  });
});

describe('a note', () => {
  const UNSETTLED = `unsettled since ${at(90)}: an older switch may still take effect, so the desired state is applied again at growing intervals`;
  const OVERWRITES = 'that overwrites a model set by hand, so pause the server before you set one';
  test.each<[string, Item, string]>([
    ['switching', { ...pending, ...lease(9) }, `an invocation is switching it, until ${at(-9)} at most`],
    [
      'expired',
      { ...pending, ...lease(-9) },
      'an invocation has crashed or run out of time, or its POST had no response; a heartbeat takes over',
    ],
    ['expired', { ...pending, ...lease(-9), ...running }, 'asks for the end of operation X'],
    ['paused', { ...inSync, paused: true, paused_at: ago(60) }, `nothing is sent to Barman, since ${at(60)}`],
    [
      'paused',
      { ...pending, paused: true, paused_until: ago(-60) },
      `until ${at(-60)}; a desired state is pending`,
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
      { ...inSync, differs_since: ago(7_300) },
      "the leader's model is not the desired one, for 2h",
    ],
  ])('tells of a server that is %s', (state, item, note) => {
    expect([stateOf(item), asTable([item], NOW, 300)]).toEqual([state, expect.stringContaining(note)]);
  });

  test('says what to do about an item that cannot be read, and the other rows stay', () => {
    expect(asTable([broken, inSync], NOW, 80).split('\n')).toEqual([
      'SERVER  STATE       DESIRED      APPLIED      LEADER  STREAMING',
      'main    in sync     pg:node2 4m  pg:node2 4m  –       –',
      'old     unreadable  –            –            –       –',
      "  - the ledger's item of old cannot be read",
    ]);
  });

  test('is not there for a server that is in sync and streams', () => {
    expect(asTable([inSync], NOW, 80).split('\n')).toHaveLength(2);
  });
});

test('the JSON has all attributes, and the state', () => {
  const item = { ...inSync, ...unsettled };
  expect(JSON.parse(asJson([broken, item, pending]))).toEqual([
    { ...pending, state: 'pending' },
    { ...item, state: 'in sync' },
    { ...broken, state: 'unreadable' },
  ]);
});
