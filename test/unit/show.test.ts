/** What `npm run ledger` shows. */

import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { asJson, asTable, stateOf } from '../../cli/show.ts';
import type { Item } from '../../functions/config-switch/ledger/item.ts';

const NOW = Date.now();
const ago = (seconds: number) => new Date(NOW - 1_000 * seconds).toISOString();
const at = (seconds: number) => ago(seconds).replace('T', ' ').replace(/\..*/, ' UTC');

const inSync: Item = {
  barman_server: 'main',
  desired: 'model pg:node2',
  desired_version: `${ago(260)}#event`,
  recorded_at: ago(260),
  applied: 'model pg:node2',
  applied_version: `${ago(260)}#event`,
  applied_at: ago(259),
};
const pending: Item = {
  ...inSync,
  barman_server: 'crm',
  desired_version: `${ago(12)}#event`,
  applied: 'model pg:node1',
  applied_at: ago(400_000),
};
const lease = (seconds: number) => ({ lease_token: 'token', lease_expires_at: ago(-seconds) });
const passedOver = (...ids: string[]) =>
  JSON.stringify(ids.map((operation_id) => ({ operation_id, since: ago(9), ended_at: ago(1) })));

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
    expect(shown).toMatch(/ a\ufffd\[2Jb .* failed once: c\ufffd1md e/s);
  });

  test('says so if there is nothing in it', () => {
    expect(asTable([], NOW, 80)).toBe('No role change has been recorded yet.');
  });
});

describe('a note', () => {
  test.each<[string, Item, string]>([
    ['switching', { ...pending, ...lease(9) }, `an invocation is switching it, until ${at(-9)} at most`],
    [
      'expired',
      { ...pending, ...lease(-9) },
      'an invocation has crashed or run out of time, or its POST is in doubt; the next heartbeat takes over',
    ],
    [
      'expired',
      { ...pending, ...lease(-9), running_operation: 'X' },
      'takes over, and waits for operation X',
    ],
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
      { ...inSync, passed_over: passedOver('X', 'Y') },
      'passed over, and may still take effect: operation X, Y',
    ],
    [
      'pending',
      { ...inSync, passed_over: passedOver('not-streaming') },
      'the model is applied again, because Barman does not stream',
    ],
    [
      'in sync',
      { ...inSync, differs_since: ago(7_300) },
      "the leader's model is not the desired one, for 2h",
    ],
  ])('tells of a server that is %s', (state, item, note) => {
    expect([stateOf(item), asTable([item], NOW, 300)]).toEqual([state, expect.stringContaining(note)]);
  });

  test('is not there for a server that is in sync and streams', () => {
    expect(asTable([inSync], NOW, 80).split('\n')).toHaveLength(2);
  });
});

test('the JSON has all attributes, the state, and the operations that were passed over as a list', () => {
  const item = { ...inSync, passed_over: passedOver('X') };
  expect(JSON.parse(asJson([item, pending]))).toEqual([
    { ...pending, state: 'pending' },
    { ...item, state: 'pending', passed_over: JSON.parse(item.passed_over) },
  ]);
});
