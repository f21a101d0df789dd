/** What a failover would lack: each kind of finding of the class ready, and what is next to it but healthy. */

import { describe, expect, test } from 'vitest';
import { classOf, FINDINGS, type Finding } from '../../functions/config-switch/inspect/findings.ts';
import { judge, readyOf } from '../../functions/config-switch/inspect/judge.ts';
import {
  ago,
  backup,
  type Change,
  clusterOf,
  conninfos,
  DAY,
  found,
  HOUR,
  heardInSites,
  heardOf,
  judged,
  LEADER,
  LEADERLESS,
  MODELS,
  memberOf,
  modelOf,
  NEVER_READ,
  NOW,
  nodeOf,
  SURVEY,
  serverOf,
  silentNode,
  sitesWith,
  subjectOf,
  TWO_SITES,
  UNSURVEYED,
  without,
} from './subjects.ts';

/** What is seen, and what is found: kind, member or null, what, remedy. */
type Row = readonly [title: string, Change, ...(readonly [Finding['kind'], string | null, string, string])[]];

const node3Silent = silentNode('10.0.1.13', 'time-out');
const silent = { survey: { nodes: [...SURVEY.nodes.slice(0, 2), node3Silent] } };
const twoSilent = {
  survey: { nodes: [...SURVEY.nodes.slice(0, 1), silentNode('10.0.1.12', 'ECONNREFUSED'), node3Silent] },
};
const memberless = { survey: { ...LEADERLESS, members: [] }, mapping: { main: { node3: 'pg:node3' } } };
const since = (apart: number, change: Change) => judge({ ...subjectOf(change), now: NOW - apart });
const node4 = memberOf('node4', '10.0.1.14');
const withNode4 = {
  members: [...(SURVEY.members ?? []), node4],
  nodes: [...SURVEY.nodes, nodeOf('node4', '10.0.1.14')],
};
const named = (host: string) => ({
  'pg:node1': modelOf('a.example'),
  'pg:node2': modelOf('b.example'),
  'pg:node3': modelOf(host),
});
const oneHost = {
  members: [
    memberOf('node1', '10.0.1.11', { port: 5433 }),
    memberOf('node2', '10.0.1.11', { port: 5434 }),
    memberOf('node3', '10.0.1.13'),
  ],
};
const DC1 = { main: { node1: 'pg:node1', node2: 'pg:node2' } };
const DC2 = TWO_SITES.clusters?.slice(1) ?? [];
const checkMain = 'run `barman check main` on the Barman host';

const reload = (member: string, scope = 'main') =>
  `install the current barman_config_switch.py there, run \`patronictl reload ${scope} ${member}\` (\`on_reload: *callback\` in patroni.yml), and read the callback's log file`;

const ROWS: readonly Row[] = [
  [
    'a server that Barman does not have',
    { servers: null },
    [
      'server-missing',
      null,
      'Barman has no server main',
      'correct the name in clusters/… and in the callbacks, or add [main] to barman.conf; `barman list-servers` shows the names',
    ],
  ],
  [
    'an inactive server',
    { config: { active: false }, status: { is_in_recovery: null }, backups: {} },
    ['server-inactive', null, 'server main is inactive', 'set "active = true" for it in barman.conf'],
  ],
  [
    'a server with an error',
    { msg_list: ['geheim'], config: { disabled: true } },
    [
      'server-errors',
      null,
      'Barman finds an error in the configuration of main, and has disabled it',
      `${checkMain}, which prints them`,
    ],
  ],
  [
    'a server with errors that is not disabled',
    { msg_list: ['a', 'b'] },
    [
      'server-errors',
      null,
      'Barman finds 2 errors in the configuration of main',
      `${checkMain}, which prints them`,
    ],
  ],
  [
    'a disabled server, as Barman 3.13 shows it',
    { config: { disabled: true }, msg_list: undefined },
    [
      'server-disabled',
      null,
      'server main is disabled',
      `${checkMain}; if it prints no error of the configuration, remove "disabled" from its active model in barman.conf`,
    ],
  ],
  [
    'a passive server',
    { config: { primary_ssh_command: 'ssh a' }, status: { is_in_recovery: null }, backups: {} },
    [
      'server-passive',
      null,
      'server main is passive: it copies from another Barman host',
      'switch the server of that host instead: change the name in clusters/… and in the callbacks',
    ],
  ],
  [
    'unreadable operations',
    { notReady: 'HTTP status 500' },
    [
      'operations-unreadable',
      null,
      'the operations of main cannot be read (HTTP status 500)',
      'read the error log of pg-backup-api on the Barman host',
    ],
  ],
  [
    'no backup',
    { backups: {} },
    ['no-backup', null, 'there is no base backup of main', 'run `barman backup main` on the Barman host'],
  ],
  [
    'only backups that failed, or have not ended',
    { backups: { ...backup({ status: 'FAILED' }), b: { status: 'STARTED', end_time: null } } },
    ['no-backup', null, 'there is no base backup of main', 'run `barman backup main` on the Barman host'],
  ],
  [
    'an old backup',
    {
      backups: { ...backup({ end_time: ago(8 * DAY + HOUR) }), b: { status: 'FAILED', end_time: ago(HOUR) } },
    },
    [
      'backup-old',
      null,
      'the newest base backup of main ended 8 days ago; the maximum age is 8 days',
      'run `barman backup main` on the Barman host',
    ],
  ],
  [
    'a backup that is older than last_backup_maximum_age',
    { config: { last_backup_maximum_age: '1 day, 2 hours' }, backups: backup({ end_time: ago(27 * HOUR) }) },
    [
      'backup-old',
      null,
      'the newest base backup of main ended 27 hours ago; the maximum age is 26 hours',
      'run `barman backup main` on the Barman host',
    ],
  ],
  [
    'a member without a model',
    { survey: withNode4 },
    [
      'member-without-model',
      'node4',
      'it has no model for server main',
      'add [pg:node4] to barman.conf, and "node4": "pg:node4" to "main" in clusters/main',
    ],
  ],
  [
    'a member without a model, where models have a name of another form',
    {
      survey: withNode4,
      mapping: { main: { node1: null, node2: 'main-node2', node3: 'main-node3' } },
      models: { 'main-node2': modelOf('10.0.1.12'), 'main-node3': modelOf('10.0.1.13') },
    },
    [
      'member-without-model',
      'node4',
      'it has no model for server main',
      'add [main-node4] to barman.conf, and "node4": "main-node4" to "main" in clusters/main',
    ],
  ],
  [
    'a member without a model, where no model has the name of its member',
    {
      survey: withNode4,
      mapping: { main: { node1: null, node2: 'second', node3: 'third' } },
      models: { second: modelOf('10.0.1.12'), third: modelOf('10.0.1.13') },
    },
    [
      'member-without-model',
      'node4',
      'it has no model for server main',
      'add [pg:node4] to barman.conf, and "node4": "pg:node4" to "main" in clusters/main',
    ],
  ],
  [
    'a member that Patroni has not had for a day',
    { survey: without('node3'), before: since(DAY, { survey: without('node3') }) },
    [
      'member-unknown',
      'node3',
      'Patroni has not had it for 24 hours, and has node1, node2',
      'correct its name in clusters/main, or remove it there',
    ],
  ],
  [
    'a member that Patroni has not had for a day, beside one that has just left',
    { survey: without('node2', 'node3'), before: since(DAY, { survey: without('node2') }) },
    [
      'member-unknown',
      'node2',
      'Patroni has not had it for 24 hours, and has node1',
      'correct its name in clusters/main, or remove it there',
    ],
  ],
  [
    'a Patroni that has had no members for a day',
    { ...memberless, before: since(DAY, memberless) },
    [
      'member-unknown',
      'node3',
      'Patroni has not had it for 24 hours, and has no members',
      'correct its name in clusters/main, or remove it there',
    ],
  ],
  [
    'a member without a URL',
    { survey: { nodes: SURVEY.nodes.slice(0, 2) } },
    [
      'member-without-url',
      'node3',
      'no URL of the cluster leads to it',
      'add the URL of its REST API to "patroni" in clusters/main',
    ],
  ],
  [
    'a member whose URL has not answered for a day',
    { ...silent, before: since(DAY, silent) },
    [
      'member-unreachable',
      'node3',
      'its REST API has not answered for 24 hours (10.0.1.13:8008: time-out)',
      'correct its URL in "patroni" of clusters/main, or let the function reach it (patroni-hosts, patroni-port)',
    ],
  ],
  [
    'two members whose URLs have not answered for a day',
    { ...twoSilent, before: since(DAY, twoSilent) },
    ...['node2', 'node3'].map(
      (member) =>
        [
          'member-unreachable',
          member,
          'its REST API has not answered for 24 hours (10.0.1.12:8008: ECONNREFUSED, 10.0.1.13:8008: time-out)',
          'correct its URL in "patroni" of clusters/main, or let the function reach it (patroni-hosts, patroni-port)',
        ] as const,
    ),
  ],
  [
    'a model that Barman does not have',
    { mapping: { main: { ...MODELS, node3: 'pg:node03' } } },
    [
      'model-missing',
      'node3',
      'Barman has no model pg:node03; it has pg:node1, pg:node2, pg:node3',
      'add [pg:node03] to barman.conf, or correct its name in clusters/main',
    ],
  ],
  [
    'a model that Barman does not have, while it has one of another cluster',
    {
      mapping: { main: { ...MODELS, node3: 'pg:node03' } },
      models: { 'pg:other': modelOf('10.0.2.11', { cluster: 'other' }) },
    },
    [
      'model-missing',
      'node3',
      'Barman has no model pg:node03; it has pg:node1, pg:node2, pg:node3',
      'add [pg:node03] to barman.conf, or correct its name in clusters/main',
    ],
  ],
  [
    'a model that Barman does not have, nor any other of its cluster',
    {
      config: { cluster: 'patroni' },
      mapping: { main: { node1: 'pg:node01' } },
      survey: without('node2', 'node3'),
    },
    [
      'model-missing',
      'node1',
      'Barman has no model pg:node01',
      'add [pg:node01] to barman.conf, or correct its name in clusters/main',
    ],
  ],
  [
    'a model of another cluster',
    { models: { 'pg:node2': modelOf('10.0.1.12', { cluster: 'other' }) } },
    [
      'model-of-another-cluster',
      'node2',
      "its model pg:node2 is of Barman's cluster other, and server main of main",
      'set "cluster = main" for [pg:node2] in barman.conf',
    ],
  ],
  [
    'a server without the cluster of its models',
    {
      mapping: { main: { node1: 'pg:node1' } },
      survey: without('node2', 'node3'),
      models: { 'pg:node1': modelOf('10.0.1.11', { cluster: 'patroni' }) },
    },
    [
      'model-of-another-cluster',
      'node1',
      "its model pg:node1 is of Barman's cluster patroni, and server main of main",
      'set "cluster = patroni" for [main] in barman.conf',
    ],
  ],
  [
    'a model of another cluster than that which the server sets',
    {
      config: { cluster: 'patroni' },
      mapping: { main: { node1: 'pg:node1' } },
      survey: without('node2', 'node3'),
    },
    [
      'model-of-another-cluster',
      'node1',
      "its model pg:node1 is of Barman's cluster main, and server main of patroni",
      'set "cluster = patroni" for [pg:node1] in barman.conf',
    ],
  ],
  [
    'a model that makes the server inactive',
    { models: { 'pg:node2': modelOf('10.0.1.12', { active: false }) } },
    [
      'model-inactive',
      'node2',
      'its model pg:node2 has "active = false"',
      'remove "active = false" from [pg:node2] in barman.conf',
    ],
  ],
  [
    'a model that disables the server',
    { models: { 'pg:node2': modelOf('10.0.1.12', { disabled: true }) } },
    [
      'model-inactive',
      'node2',
      'its model pg:node2 has "disabled = true"',
      'remove "disabled = true" from [pg:node2] in barman.conf',
    ],
  ],
  [
    'a model with a conninfo that Barman cannot use',
    { models: { 'pg:node2': modelOf('10.0.1.12', { conninfo: '10.0.1.12:5432' }) } },
    [
      'model-connection',
      'node2',
      'conninfo of [pg:node2] has a word without "=": Barman allows no space round "=", nor in a value',
      'correct conninfo of [pg:node2] in barman.conf',
    ],
  ],
  [
    'a model with a password after a space, which libpq accepts',
    { models: { 'pg:node2': modelOf('10.0.1.12', { conninfo: 'host=10.0.1.12 password = geheim' }) } },
    [
      'model-connection',
      'node2',
      'conninfo of [pg:node2] has a word without "=": Barman allows no space round "=", nor in a value',
      'correct conninfo of [pg:node2] in barman.conf',
    ],
  ],
  [
    'a model with a URI',
    {
      models: {
        'pg:node2': modelOf('10.0.1.12', { streaming_conninfo: 'postgres://u:geheim@10.0.1.12/?x=y' }),
      },
    },
    [
      'model-connection',
      'node2',
      'streaming_conninfo of [pg:node2] is a URI, which Barman cannot use here: write it as host=… port=…',
      'correct streaming_conninfo of [pg:node2] in barman.conf',
    ],
  ],
  [
    'a model with the host of another member',
    { models: { 'pg:node2': modelOf('10.0.1.13') } },
    [
      'model-host',
      'node2',
      'a failover would set Barman to 10.0.1.13, which is node3',
      'correct conninfo and streaming_conninfo of [pg:node2] in barman.conf: Patroni has 10.0.1.12 for node2',
    ],
  ],
  [
    'one option of a model with the host of another member',
    { models: { 'pg:node2': modelOf('10.0.1.12', { streaming_conninfo: 'host=10.0.1.13' }) } },
    [
      'model-host',
      'node2',
      'a failover would set Barman to 10.0.1.13, which is node3',
      'correct streaming_conninfo of [pg:node2] in barman.conf: Patroni has 10.0.1.12 for node2',
    ],
  ],
  [
    'a model with the host of another member in hostaddr',
    { models: { 'pg:node2': modelOf('10.0.1.12', { conninfo: 'host=10.0.1.12 hostaddr=10.0.1.13' }) } },
    [
      'model-host',
      'node2',
      'a failover would set Barman to 10.0.1.13, which is node3',
      'correct conninfo of [pg:node2] in barman.conf: Patroni has 10.0.1.12 for node2',
    ],
  ],
  [
    'a model with the host of another member, and an option that libpq 18 does not know',
    { models: { 'pg:node2': modelOf('10.0.1.12', { conninfo: 'host=10.0.1.13 new_option=1' }) } },
    [
      'model-host',
      'node2',
      'a failover would set Barman to 10.0.1.13, which is node3',
      'correct conninfo of [pg:node2] in barman.conf: Patroni has 10.0.1.12 for node2',
    ],
  ],
  [
    'a model whose primary_conninfo has the host of another member',
    {
      config: { primary_conninfo: 'host=10.0.1.11' },
      models: {
        'pg:node1': modelOf('10.0.1.13', { primary_conninfo: 'host=10.0.1.11' }),
        'pg:node2': modelOf('10.0.1.13', { primary_conninfo: 'host=10.0.1.11' }),
        'pg:node3': modelOf('10.0.1.12', { primary_conninfo: 'host=10.0.1.13' }),
      },
    },
    [
      'model-host',
      'node2',
      'a failover would set Barman to 10.0.1.11, which is node1',
      'correct primary_conninfo of [pg:node2] in barman.conf: Patroni has 10.0.1.12 for node2',
    ],
  ],
  [
    'a model with the port of another member on the same host',
    {
      survey: oneHost,
      models: {
        'pg:node1': modelOf('', conninfos('10.0.1.11', 5433)),
        'pg:node2': modelOf('', conninfos('10.0.1.11', 5433)),
      },
    },
    [
      'model-host',
      'node2',
      'a failover would set Barman to 10.0.1.11 port 5433, which is node1',
      'correct conninfo and streaming_conninfo of [pg:node2] in barman.conf: Patroni has 10.0.1.11 port 5434 for node2',
    ],
  ],
  [
    'a model with the port of another member on the same host, where Patroni does not say its own port',
    {
      survey: {
        members: oneHost.members.map((one) => (one.name === 'node2' ? { ...one, port: undefined } : one)),
      },
      models: {
        'pg:node1': modelOf('', conninfos('10.0.1.11', 5433)),
        'pg:node2': modelOf('', conninfos('10.0.1.11', 5433)),
      },
    },
    [
      'model-host',
      'node2',
      'a failover would set Barman to 10.0.1.11 port 5433, which is node1',
      'correct conninfo and streaming_conninfo of [pg:node2] in barman.conf: Patroni has 10.0.1.11 for node2',
    ],
  ],
  [
    'a member that has the model of another one',
    { mapping: { main: { ...MODELS, node2: 'pg:node1' } } },
    [
      'model-shared',
      'node2',
      'a failover would set Barman to 10.0.1.11, which is node1, since it has the model of node1',
      'add a model for it to barman.conf, and name it for "main" in clusters/main',
    ],
  ],
  [
    'two members without a model, where the server leads to one of them',
    {
      mapping: { main: { node1: null, node2: null, node3: 'pg:node3' } },
      ...{ active_model: null, item: undefined },
    },
    [
      'model-shared',
      'node2',
      'a failover would set Barman to 10.0.1.11, which is node1, since neither it nor node1 has a model',
      'add a model for it to barman.conf, and name it for "main" in clusters/main',
    ],
  ],
  [
    'two of three members with one model, by a name that Patroni does not know',
    {
      mapping: { main: { node1: 'pg:node1', node2: 'pg:node1', node3: 'pg:node3' } },
      models: named('c.example'),
    },
    [
      'model-shared',
      'node1',
      'its model pg:node1 is that of node2, too',
      'give each member a model of its own in "main" of clusters/main',
    ],
    [
      'model-shared',
      'node2',
      'its model pg:node1 is that of node1, too',
      'give each member a model of its own in "main" of clusters/main',
    ],
  ],
  [
    'two of three models with one host, by a name that Patroni does not know',
    { models: named('b.example') },
    [
      'model-host-shared',
      'node2',
      'its model pg:node2 and pg:node3 of node3 both connect to b.example port 5432',
      'correct the wrong one in barman.conf',
    ],
    [
      'model-host-shared',
      'node3',
      'its model pg:node3 and pg:node2 of node2 both connect to b.example port 5432',
      'correct the wrong one in barman.conf',
    ],
  ],
  [
    'two of three models with one host, where Patroni is not asked',
    { clusters: [UNSURVEYED], models: { 'pg:node2': modelOf('10.0.1.11') } },
    [
      'model-host-shared',
      'node1',
      'its model pg:node1 and pg:node2 of node2 both connect to 10.0.1.11 port 5432',
      'correct the wrong one in barman.conf',
    ],
    [
      'model-host-shared',
      'node2',
      'its model pg:node2 and pg:node1 of node1 both connect to 10.0.1.11 port 5432',
      'correct the wrong one in barman.conf',
    ],
  ],
  [
    'no permanent slot',
    { survey: { slots: [] } },
    [
      'slot-not-permanent',
      null,
      'Patroni has no permanent slot barman',
      'run `patronictl edit-config -s slots.barman.type=physical` on a database node',
    ],
  ],
  [
    'another permanent slot',
    { survey: { slots: ['barman1', 'other'] } },
    [
      'slot-not-permanent',
      null,
      'Patroni has no permanent slot barman; it has barman1, other',
      'run `patronictl edit-config -s slots.barman.type=physical` on a database node',
    ],
  ],
  [
    'no permanent slot in the only cluster, a standby cluster',
    {
      status: { is_in_recovery: true },
      survey: { slots: [], leader: { ...LEADER, isPrimary: false } },
    },
    [
      'slot-not-permanent',
      null,
      'Patroni has no permanent slot barman',
      'run `patronictl edit-config -s slots.barman.type=physical` on a database node',
    ],
  ],
  [
    'no permanent slot at the site that leads',
    { ...TWO_SITES, clusters: [clusterOf({ ...without('node3'), slots: [] }, DC1, 'dc1'), ...DC2] },
    [
      'slot-not-permanent',
      null,
      'Patroni has no permanent slot barman',
      'run `patronictl edit-config -s slots.barman.type=physical` on a database node',
    ],
  ],
  [
    'a Patroni of an earlier major version on one node',
    { survey: { nodes: [...SURVEY.nodes.slice(0, 2), nodeOf('node3', '10.0.1.13', { version: '2.1.7' })] } },
    [
      'patroni-old',
      null,
      'Patroni 2.1.7 keeps no slots on replicas (10.0.1.13:8008)',
      'update Patroni to 3.2 or newer',
    ],
  ],
  [
    'an old Patroni, which gives no names',
    {
      survey: {
        ...LEADERLESS,
        nodes: SURVEY.nodes.map((node) => ({ ...node, member: undefined, version: '3.1.2' })),
      },
    },
    [
      'patroni-old',
      null,
      'Patroni 3.1.2 keeps no slots on replicas (10.0.1.11:8008, 10.0.1.12:8008, 10.0.1.13:8008)',
      'update Patroni to 3.2 or newer',
    ],
  ],
  [
    'two servers with one slot',
    { mapping: { main: MODELS, second: {} }, servers: { second: serverOf() } },
    [
      'slot-shared',
      null,
      'the servers main, second have the same slot_name barman',
      'give each its own slot_name in barman.conf, and a permanent slot in Patroni',
    ],
  ],
  [
    'a member whose callback was never heard',
    { heard: heardOf('node1', 'node2') },
    [
      'callback-unheard',
      'node3',
      'its callback was never heard; those of node1, node2 were',
      reload('node3'),
    ],
  ],
  [
    'members whose callbacks were never heard, although that of another was by a URL of its REST API',
    {
      heard: heardOf('pg-c'),
      survey: { nodes: [...SURVEY.nodes.slice(0, 2), nodeOf('node3', 'pg-c.db.example')] },
    },
    ...['node1', 'node2'].map(
      (member) =>
        [
          'callback-unheard',
          member,
          'its callback was never heard; those of pg-c were',
          reload(member),
        ] as const,
    ),
  ],
  [
    'members whose callbacks were never heard, although that of another was by the same first label',
    {
      heard: heardOf('PG.dc1.example.'),
      survey: {
        members: [1, 2, 3].map((number) => memberOf(`node${number}`, `pg.dc${number}.example`)),
      },
      models: {
        'pg:node1': modelOf('pg.dc1.example'),
        'pg:node2': modelOf('pg.dc2.example'),
        'pg:node3': modelOf('pg.dc3.example'),
      },
    },
    ...['node2', 'node3'].map(
      (member) =>
        [
          'callback-unheard',
          member,
          'its callback was never heard; those of PG.dc1.example. were',
          reload(member),
        ] as const,
    ),
  ],
  [
    'a new member, while the one before it on another host has left',
    {
      heard: heardOf('node1', 'node2', 'old'),
      before: judged({
        heard: heardOf('node1', 'node2', 'old'),
        survey: { members: [...(SURVEY.members ?? []).slice(0, 2), memberOf('old', '10.0.1.14')] },
      }),
    },
    [
      'callback-unheard',
      'node3',
      'its callback was never heard; those of node1, node2, old were',
      reload('node3'),
    ],
  ],
  [
    'the members of a site whose callbacks were never heard, although those of their namesakes were',
    { ...TWO_SITES, heard: heardInSites(['node1', 'dc1'], ['node2', 'dc1']) },
    ...['node1', 'node2'].map(
      (member) =>
        [
          'callback-unheard',
          member,
          'its callback was never heard; those of node1 of dc1, node2 of dc1 were',
          reload(member, 'dc2'),
        ] as const,
    ),
  ],
  [
    'two members of another scope whose callbacks were never heard',
    {
      heard: heardOf('NODE2.db.example.'),
      clusters: [{ ...clusterOf(), cluster: { ...clusterOf().cluster, scope: 'pg-main' } }],
    },
    ...['node1', 'node3'].map(
      (member) =>
        [
          'callback-unheard',
          member,
          'its callback was never heard; those of NODE2.db.example. were',
          reload(member, 'pg-main'),
        ] as const,
    ),
  ],
];

describe('is found', () => {
  test.each(ROWS.map(([title, change, ...rows]) => ({ title, change, rows })))(
    '$title',
    ({ change, rows }) => {
      expect(found(change)).toEqual(
        rows.map(([kind, member, what, remedy]) => ({ kind, ...(member && { member }), what, remedy })),
      );
    },
  );

  test('each kind of the class ready', () => {
    const kinds = Object.keys(FINDINGS).filter(
      (kind) => classOf({ kind: kind as Finding['kind'] }) === 'ready',
    );
    expect(new Set(ROWS.flatMap(([, , ...rows]) => rows.map(([kind]) => kind)))).toEqual(new Set(kinds));
  });

  test('that a failover to any member is concerned, if it names none, but for backups', () => {
    for (const [title, change, row] of ROWS) {
      const [kind, member] = row ?? [];
      if (member !== null) continue;
      const ready = readyOf('node1', judged(change));
      expect(`${title}: ${ready}`).toBe(`${title}: ${kind?.includes('backup') ? 'yes' : 'no'}`);
    }
  });

  test('in at most 230 characters', () => {
    for (const [, , ...rows] of ROWS)
      for (const [, , what, remedy] of rows) expect(what.length + remedy.length).toBeLessThan(230);
  });
});

describe('a note', () => {
  const notes = (change: Change) => judged(change).notes;

  test('names another host than that of Patroni', () => {
    const change = { models: { 'pg:node2': modelOf('node2.example') } };
    const note =
      'node2: [pg:node2] connects to node2.example, and Patroni has 10.0.1.12: right if that leads to the same node';
    expect(notes(change)).toEqual([note]);
    const connected = (at: string) => ({ ...judged(), connected: [{ member: 'node2', at }] });
    expect(notes({ ...change, before: connected(ago(9 * DAY)) })).toEqual([
      `${note}; Barman was connected through it while node2 led, on 2026-11-19`,
    ]);
    const others = { ...judged(), connected: [{ member: 'node1', at: ago(DAY) }] };
    expect(notes({ ...change, before: others })).toEqual([note]);
  });

  test('names ports where only these differ', () => {
    const models = {
      'pg:node2': modelOf('', conninfos('10.0.1.11', 6432)),
      'pg:node1': modelOf('', conninfos('10.0.1.11', 5433)),
    };
    expect(notes({ survey: oneHost, models })).toEqual([
      'node2: [pg:node2] connects to 10.0.1.11 port 6432, and Patroni has 10.0.1.11 port 5434: right if that leads to the same node',
    ]);
  });

  test('names each place to which the options of a model connect, with ports if one differs by its port only', () => {
    const [{ conninfo }, { streaming_conninfo }] = [conninfos('10.0.1.11', 6432), conninfos('vip.example')];
    const models = {
      'pg:node1': modelOf('', conninfos('10.0.1.11', 5433)),
      'pg:node2': modelOf('', { conninfo, streaming_conninfo }),
    };
    expect(notes({ survey: oneHost, models })).toEqual([
      'node2: [pg:node2] connects to 10.0.1.11 port 6432 and vip.example port 5432, and Patroni has 10.0.1.11 port 5434: right if that leads to the same node',
    ]);
  });

  test('says that a model without a host connects to a Unix socket', () => {
    const change = { conninfo: 'user=barman', streaming_conninfo: 'user=streaming_barman' };
    expect(notes({ models: { 'pg:node2': modelOf('', change) } })).toEqual([
      'node2: [pg:node2] connects to a Unix socket, and Patroni has 10.0.1.12: right if that leads to the same node',
    ]);
  });

  test.each([
    ['is unusable', '10.0.1.99:5432'],
    ['may have its host in an option that libpq 18 does not know', 'hosst=10.0.1.99'],
  ])('does not say where a conninfo connects to that %s', (_, conninfo) => {
    expect(notes({ models: { 'pg:node2': modelOf('10.0.1.12', { conninfo }) } })).toEqual([]);
  });

  test('says that all models lead to one place', () => {
    const vip = modelOf('vip.example');
    const models = { 'pg:node1': vip, 'pg:node2': vip, 'pg:node3': vip };
    expect(notes({ models, clusters: [UNSURVEYED] })).toEqual([
      'cluster main: all models connect to vip.example port 5432: right if that always leads to the leader',
    ]);
  });

  test('says that all models lead to one place, but for one of which that is in a service file', () => {
    const service = modelOf('', { conninfo: 'service=a', streaming_conninfo: 'service=a' });
    const vip = modelOf('vip.example');
    const models = { 'pg:node1': service, 'pg:node2': vip, 'pg:node3': vip };
    expect(judged({ models, clusters: [UNSURVEYED] })).toMatchObject({
      findings: [],
      notes: [
        'cluster main: all models connect to vip.example port 5432: right if that always leads to the leader',
      ],
    });
  });

  test('names nodes whose scope is that of no site, whatever their names', () => {
    const heard = heardInSites(['node1', 'dc1'], ['node2', 'dc1'], ['node1', 'dc2'], ['node2', 'dc3']);
    expect(judged({ ...TWO_SITES, heard })).toMatchObject({
      ...{ findings: [], unseen: [] },
      notes: [
        'callbacks were heard of node2 of dc3 (4 hours ago), and no member of that scope has such a name or host, so it is unknown whether those of node2 were',
      ],
    });
  });

  test('names nodes that are no member, and whose callback is unknown therefore', () => {
    const change = { heard: heardOf('node1', 'pg-b', 'container') };
    const note =
      'callbacks were heard of pg-b (2 hours ago), container (3 hours ago), and no member has such a name or host';
    expect(judged(change)).toMatchObject({
      ...{ findings: [], unseen: [] },
      notes: [`${note}, so it is unknown whether those of node2, node3 were`],
    });
    expect(notes({ heard: heardOf('node1', 'pg-b', 'container', 'node2', 'node3') })).toEqual([note]);
    // What a node says of itself, before it left and was heard again.
    expect(notes({ ...change, before: { ...judged(change), callbacks: heardOf('x', 'pg-b', 'y') } })).toEqual(
      [
        'callbacks were heard of container (3 hours ago), and no member has such a name or host, so it is unknown whether those of node2, node3 were',
      ],
    );
    // An older version did not remember whom it had matched.
    const { callbacks: _, ...older } = judged(change);
    expect(notes({ ...change, before: older })).toEqual(notes(change));
    const again = { ...judged(change), callbacks: [{ node: 'pg-b', at: ago(DAY) }] };
    expect(notes({ ...change, before: again })[0]).toContain('pg-b (2 hours ago), container');
  });

  test('says that there is no base backup on the timeline yet', () => {
    const backups = backup({ timeline: 4 });
    expect(notes({ backups })).toEqual([
      'no base backup on timeline 5 yet (2 days); a recovery replays WAL across the failover',
    ]);
    expect(notes({ backups, survey: { timelineBegan: undefined } })).toEqual([
      'no base backup on timeline 5 yet; a recovery replays WAL across the failover',
    ]);
    const timelineBegan = { at: NOW - 90_000, location: 0 };
    expect(notes({ backups, survey: { timelineBegan } })).toEqual([
      'no base backup on timeline 5 yet (1 minute); a recovery replays WAL across the failover',
    ]);
    for (const timeline of [5, null]) expect(notes({ backups: backup({ timeline }) })).toEqual([]);
    expect(notes({ backups, survey: { leader: { ...LEADER, timeline: undefined } } })).toEqual([]);
  });
});

describe('it is not seen', () => {
  const unseen = (change: Change) => judged(change).unseen;

  test.each<[string, Change, string, string | true | undefined]>([
    [
      'Barman',
      { diagnosis: { unseen: '/diagnose took too long' } } as Change,
      'Barman: /diagnose took too long',
      true,
    ],
    ['Patroni', { clusters: [UNSURVEYED] }, 'Patroni: clusters/main has no URLs', true],
    [
      'Patroni, since it could not be asked',
      { clusters: [{ ...UNSURVEYED, unseen: 'patroni-ca-cert is not a certificate' }] },
      'Patroni: patroni-ca-cert is not a certificate',
      true,
    ],
    [
      'members',
      { survey: { ...LEADERLESS, members: undefined, observation: { unknown: 'no node answered: a: 503' } } },
      'the members of cluster main: no node answered: a: 503',
      true,
    ],
    [
      'members, although the leader is known',
      { survey: { members: undefined } },
      'the members of cluster main: no node lists them',
      true,
    ],
    [
      'slots',
      { survey: { slots: undefined } },
      'the permanent slots of cluster main: /config of Patroni did not answer',
      true,
    ],
    [
      'slots of a site whose leader is unknown',
      sitesWith(0, LEADERLESS),
      'the permanent slots of cluster dc1: its leader is unknown',
      true,
    ],
    [
      'whether a cluster lists the server, since its parameter was never read',
      { clusters: [NEVER_READ] },
      'whether a cluster lists it: clusters/main is malformed',
      true,
    ],
    [
      'whose URL it is',
      { config: { slot_name: null }, survey: { nodes: [nodeOf('', '10.0.1.11', { member: undefined })] } },
      'which members answer at 10.0.1.11:8008: this Patroni does not give its name',
      true,
    ],
    [
      'a member that Patroni does not have',
      { survey: without('node3') },
      'Patroni does not have it now: it is down, or its name is misspelt',
      'node3',
    ],
    [
      'a member that is stopped',
      {
        survey: {
          members: [
            ...(without('node3').members ?? []),
            memberOf('node3', '10.0.1.13', { isRunning: false }),
          ],
        },
      },
      'whether it is ready: it does not run now',
      'node3',
    ],
    [
      'a member that does not answer',
      silent,
      'its REST API did not answer (10.0.1.13:8008: time-out)',
      'node3',
    ],
    [
      'two members that do not answer',
      twoSilent,
      'its REST API did not answer (10.0.1.12:8008: ECONNREFUSED, 10.0.1.13:8008: time-out)',
      'node2',
    ],
    [
      'models',
      { models: undefined },
      'its model: Barman before 3.10 has none, or does not show them',
      'node1',
    ],
    [
      'options of a model',
      { models: { 'pg:node2': { config: { cluster: 'main' } } } },
      'where pg:node2 connects to: Barman does not show the options of models',
      'node2',
    ],
    [
      'an option that a model inherits',
      { models: { 'pg:node2': modelOf('10.0.1.12', { conninfo: null }) } },
      'conninfo of [pg:node2]: it is not set there, so that of [main] applies',
      'node2',
    ],
    [
      'both options that a model inherits',
      { models: { 'pg:node2': modelOf('', { conninfo: null, streaming_conninfo: null }) } },
      'conninfo and streaming_conninfo of [pg:node2]: it is not set there, so that of [main] applies',
      'node2',
    ],
    [
      'the only option that a model has to set where Barman does not stream',
      {
        config: { streaming_archiver: false, streaming_conninfo: null },
        models: { 'pg:node2': modelOf('', { conninfo: null, streaming_conninfo: null }) },
      },
      'conninfo of [pg:node2]: it is not set there, so that of [main] applies',
      'node2',
    ],
    [
      'what a model hides',
      { mapping: { main: { ...MODELS, node2: null } } },
      'where Barman connects to without a model: the active one hides it',
      'node2',
    ],
    [
      'a service file',
      { models: { 'pg:node2': modelOf('10.0.1.12', { conninfo: 'service=a' }) } },
      'the host in conninfo of [pg:node2]: it is in a service file',
      'node2',
    ],
    [
      'an unknown option',
      { models: { 'pg:node2': modelOf('10.0.1.12', { conninfo: 'hosst=10.0.1.12' }) } },
      'conninfo of [pg:node2] has options that libpq 18 does not know: is one misspelt?',
      'node2',
    ],
    ['backups', { backups: undefined }, 'its base backups: Barman does not show them', undefined],
    [
      'the end of backups',
      { backups: backup({ end_time: null }) },
      'when its base backups ended: Barman does not show it',
      undefined,
    ],
  ])('%s', (_, change, what, member) => {
    expect(found(change)).toEqual([]);
    expect(unseen(change)).toContainEqual({ what, ...(member && { member }) });
  });
});

test('while members are not seen, a missing member goes on being missing, if the parameter still names it', () => {
  const missing = ['node3', 'old'].map((member) => ({ member, since: ago(HOUR) }));
  const change = { survey: { ...LEADERLESS, members: undefined } };
  expect(judged({ ...change, before: { ...judged(), missing } }).missing).toEqual(missing.slice(0, 1));
  expect(judged(change).missing).toEqual([]);
});
