/** What `npm run ledger -- check` shows of an inspection. */

import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { isClean, parameterLines, pendingText, reportText } from '../../cli/check.ts';
import { judge } from '../../functions/config-switch/inspect/judge.ts';
import type { InspectionReport } from '../../functions/config-switch/inspect/report.ts';

/** Seconds. */
const ago = (seconds: number) => new Date(NOW - 1_000 * seconds).toISOString();

import { backup, DAY, HOUR, modelOf, NOW, subjectOf } from './subjects.ts';

type Server = InspectionReport['servers'][number];
type Member = Server['members'][number];
type Finding = Server['findings'][number];

const member = (number: number, change: Partial<Member> = {}): Member => ({
  ...{ member: `node${number}`, cluster: 'main', model: `pg:node${number}` },
  ...{ barman_host: `10.0.1.1${number}`, patroni_host: `10.0.1.1${number}`, slot: 'yes', ready: 'yes' },
  callback: { node: `node${number}`, at: ago(240), version: '1.2.3' },
  ...change,
});
const finding = (kind: string, what: string, remedy: string, change: Partial<Finding> = {}): Finding => ({
  ...{ kind, class: 'ready', what, remedy, since: ago(0), counts: true },
  ...change,
});

/** @param seconds ago */
const heard = (node: string, seconds: number) => ({ node, at: ago(seconds) });

const healthy: Server = {
  ...{ barman_server: 'main', at: ago(0), paused: false },
  members: [member(1), member(2), member(3)],
  archived: { timeline: 5, name: '000000050000000000000042', at: ago(40) },
  slot_behind: 2 * 2 ** 20,
  backup: { id: '20261128T030000', at: ago(32_400), timeline: 5 },
  ...{ findings: [], notes: [], unseen: [] },
};

const report: InspectionReport = {
  at: ago(0),
  parameters: [
    {
      ok: true,
      name: 'url, client-cert, client-key, ca-cert',
      text: 'https://barman.example.com/pgbapi; client-cert ends in 364 days, on 2027-11-27; ca-cert ends in 3649 days, on 2036-11-24',
    },
    {
      ok: true,
      name: 'patroni-ca-cert, patroni-client-cert, patroni-client-key',
      text: 'public CAs, no client certificate',
    },
    {
      ok: true,
      name: 'clusters/main',
      text: '1 secret; scope main; servers main (node1 → pg:node1, node2 → pg:node2); Patroni http://10.0.1.11:8008/ http://10.0.1.12:8008/ http://10.0.1.13:8008/; barman_receive_wal',
    },
  ],
  barman: { version: '3.19.1' },
  clusters: [
    {
      ...{ name: 'main', leader: 'node1', timeline: 5, patroni: '4.1.5' },
      urls: [1, 2, 3].map((number) => ({ url: `http://10.0.1.1${number}:8008/`, member: `node${number}` })),
    },
  ],
  servers: [healthy],
};

/** What the rules say of a model of another node, and of a member without a model. */
const found = judge(
  subjectOf({
    models: { 'pg:node1': modelOf('10.0.1.11'), 'pg:node2': modelOf('10.0.1.13') },
    mapping: { main: { node1: 'pg:node1', node2: 'pg:node2' } },
    backups: backup({ timeline: 4, end_time: new Date(NOW - 33 * HOUR).toISOString() }),
    heard: [heard('node1', 240), heard('node2', 260)],
    survey: { timelineBegan: { at: NOW - DAY - 2 * HOUR, location: 0 } },
  }),
);

/** As in the documentation. */
const broken: InspectionReport = {
  ...report,
  servers: [
    {
      ...healthy,
      members: [
        member(1),
        member(2, { barman_host: '10.0.1.13', ready: 'no' }),
        {
          ...{ member: 'node3', cluster: 'main', patroni_host: '10.0.1.13', slot: 'yes' },
          ...{ callback: null, ready: 'no' },
        },
      ],
      backup: { id: '20261127T030000', at: ago(118_800), timeline: 4 },
      findings: found.findings,
      notes: found.notes,
    },
  ],
};

/** What may be seen besides: two clusters, what was not seen, a pause, a server that no cluster lists. */
const varied: InspectionReport = {
  ...report,
  parameters: [
    { ok: false, name: 'url, client-cert, client-key, ca-cert', text: 'the parameter url is missing' },
  ],
  clusters: [
    ...report.clusters,
    {
      ...{ name: 'east', unknown: 'pg-a does not confirm that it is the leader: ECONNREFUSED' },
      urls: [{ url: 'http://10.0.2.11:8008/', error: 'ECONNREFUSED' }, { url: 'http://10.0.2.12:8008/' }],
    },
    { name: 'west', urls: [] },
  ],
  servers: [
    {
      ...{ barman_server: 'crm', at: ago(0) },
      paused: true,
      members: [],
      findings: [
        finding('other-model', 'Barman uses model pg:a, and model pg:b was applied', 'set it again', {
          ...{ class: 'archived', counts: false },
        }),
      ],
      ...{ notes: [], unseen: [] },
    },
    {
      ...{ barman_server: 'hr', at: ago(0) },
      paused: false,
      members: [
        member(1, { member: 'pg-a', cluster: 'east', model: null, slot: '?', ready: '?' }),
        member(2, { member: 'pg-b', cluster: 'west', slot: '–', ready: '?' }),
      ],
      findings: [],
      notes: [],
      unseen: [
        { what: 'its REST API did not answer (10.0.2.11:8008: ECONNREFUSED)', member: 'pg-a' },
        { what: 'Patroni: clusters/west names no URLs', member: true },
      ],
    },
    healthy,
  ],
};

const shown = (of: InspectionReport, width = 80) => reportText(of, NOW, width);
/** The blocks of a text: the first is what was checked, then one for each server. */
const blocks = (of: InspectionReport) => shown(of).split('\n\n');

describe('the report', () => {
  test('is the one in the documentation: what was checked, and each server with its members, archive, findings and notes', () => {
    expect(readFileSync('docs/how-to/check.md', 'utf8')).toContain(`\n\`\`\`\n${shown(broken)}\n\`\`\`\n`);
  });

  test('says so if there is no finding', () => {
    expect(blocks(report)[1]?.split('\n').slice(-3)).toEqual([
      'archive: timeline 5, 00000005…0042, 40s ago; slot 2 MB behind',
      'backup:  20261128T030000, 9h ago (timeline 5)',
      '  no findings',
    ]);
  });

  test('says of a server without a cluster that none lists it, of a paused one that it raises no alarm, and what was seen only once', () => {
    expect(blocks(varied)[1]).toBe(
      [
        'crm: no cluster lists it with members; Barman 3.19.1',
        "archive: no segment of the leader's timeline was seen",
        'backup:  none was seen',
        '  paused: its findings raise no alarm',
        '  - Barman uses model pg:a, and model pg:b was applied: set it again (seen once;',
        '    it counts if the next inspection finds it, too)',
      ].join('\n'),
    );
  });

  test('shows the leaders of two clusters, and what was not seen, which is not "no findings"', () => {
    expect(blocks(varied)[2]).toBe(
      [
        'east: leader unknown: pg-a does not confirm that it is the leader: ECONNREFUSED;',
        '      Barman 3.19.1, server hr',
        'west: leader unknown: Patroni is not asked; Barman 3.19.1, server hr',
        "MEMBER  MODEL     BARMAN'S HOST  PATRONI'S HOST  SLOT  CALLBACK  READY",
        'pg-a    none      10.0.1.11      10.0.1.11       ?     4m ago    ?',
        'pg-b    pg:node2  10.0.1.12      10.0.1.12       –     4m ago    ?',
        "archive: no segment of the leader's timeline was seen",
        'backup:  none was seen',
        '  not seen: pg-a: its REST API did not answer (10.0.2.11:8008: ECONNREFUSED)',
        '  not seen: Patroni: clusters/west names no URLs',
      ].join('\n'),
    );
  });

  test('says of each callback how long ago it was heard, that it never was, or that this is unknown', () => {
    const { callback: _, ...unknown } = member(3);
    const members = [member(1), member(2, { callback: null }), unknown];
    const [, block = ''] = blocks({ ...report, servers: [{ ...healthy, members }] });
    const cells = block.split('\n').slice(2, 5);
    expect(cells.map((line) => line.slice(49))).toEqual([
      expect.stringMatching(/yes {3}4m ago {4}yes$/),
      expect.stringMatching(/yes {3}never {5}yes$/),
      expect.stringMatching(/yes {3}\? {9}yes$/),
    ]);
  });

  test('marks what is wrong, and names a node whose Patroni does not say its name', () => {
    const [checked = ''] = blocks(varied);
    expect(checked.split('\n').slice(0, 1)).toEqual([
      'wrong  url, client-cert, client-key, ca-cert: the parameter url is missing',
    ]);
    expect(checked.split('\n').slice(-2)).toEqual([
      'wrong  http://10.0.2.11:8008/: ECONNREFUSED',
      'ok     http://10.0.2.12:8008/: a Patroni before 3.2',
    ]);
    const silent = { ...report, barman: { unseen: 'no answer within 50 s' } };
    expect(blocks(silent)[0]).toContain('\nwrong  /diagnose: no answer within 50 s\n');
    expect(blocks({ ...report, barman: {} })[0]).toContain('Barman of an unknown version');
  });

  test('says how old findings are while Barman cannot be seen', () => {
    const [server = healthy] = broken.servers;
    const [, block = ''] = blocks({
      ...report,
      barman: { unseen: 'ECONNREFUSED' },
      servers: [{ ...server, at: ago(10_800), unseen: [{ what: 'Barman: ECONNREFUSED', member: true }] }],
    });
    expect(block).toMatch(/\n {2}Barman was last seen 3h ago, and then was found:\n {2}- node3: /);
    expect(blocks(broken)[1]).not.toContain('last seen');
  });

  test('says so if there is no server at all', () => {
    expect(blocks({ ...report, servers: [] }).slice(1)).toEqual([
      'No cluster lists a Barman server with members, and the ledger has none.',
    ]);
  });

  test.each([
    ['healthy', report],
    ['broken', broken],
    ['varied', varied],
  ])('has no line of more than 80 characters (%s)', (_, of) => {
    for (const line of shown(of).split('\n')) expect(line.length, line).toBeLessThanOrEqual(80);
  });

  test('has neither control characters nor those that reorder text, whatever a node or Barman sends', () => {
    const bad = 'a\u001b[2Jb\u202ec';
    const odd: InspectionReport = {
      ...report,
      parameters: [{ ok: true, name: bad, text: bad }],
      barman: { version: bad },
      clusters: [{ name: bad, leader: bad, patroni: bad, urls: [{ url: 'http://a/', error: bad }] }],
      servers: [
        {
          ...healthy,
          barman_server: bad,
          members: [
            member(1, { ...{ member: bad, cluster: bad, model: bad }, barman_host: bad, patroni_host: bad }),
          ],
          archived: { timeline: 5, name: bad, at: ago(40) },
          backup: { id: bad, at: ago(40) },
          findings: [finding('model-host', bad, bad, { member: bad })],
          notes: [bad],
          unseen: [{ what: bad, member: bad }],
        },
      ],
    };
    const text = shown(odd);
    expect(text).not.toMatch(/[^\n\P{C}]/u);
    expect(text.split('\\u001b[2J').length).toBeGreaterThan(12);
    expect(parameterLines(odd.parameters, 80).join('\n')).not.toMatch(/[^\n\P{C}]/u);
  });
});

describe('a report', () => {
  const [server = healthy] = broken.servers;
  test.each<[string, boolean, Partial<InspectionReport>]>([
    ['of a healthy set-up', true, {}],
    ['with notes only', true, { servers: [{ ...healthy, notes: ['a note'] }] }],
    ['with a finding', false, { servers: [healthy, server] }],
    [
      'with a member of which it is unknown whether it is ready',
      false,
      { servers: [{ ...healthy, members: [member(1, { ready: '?' })] }] },
    ],
    ['with a parameter that is wrong', false, { parameters: varied.parameters }],
    ['without an answer of Barman', false, { barman: { unseen: 'ECONNREFUSED' } }],
    ['with a URL that does not answer', false, { clusters: varied.clusters }],
  ])('%s is clean: %j', (_, clean, change) => {
    expect(isClean({ ...report, ...change })).toBe(clean);
  });
});

test('pending servers are named, since their archives are not judged', () => {
  expect(pendingText([])).toBeUndefined();
  expect(pendingText(['crm', 'main'])).toBe('A switch is pending, so the archive is not judged: crm, main');
});
