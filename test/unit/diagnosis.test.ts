import * as v from 'valibot';
import { describe, expect, test } from 'vitest';
import {
  DiagnoseOutput,
  type Diagnosis,
  readDiagnosis,
  segmentNumber,
} from '../../functions/config-switch/barman/diagnosis.ts';

const read = (output: unknown): Diagnosis => readDiagnosis(v.parse(DiagnoseOutput, output));
const server = (change: object) => read({ servers: { main: { config: {}, ...change } } }).servers.get('main');
const config = (change: object) => server({ config: change });
const status = (change: object) => server({ status: change })?.status;

describe('a server', () => {
  test('is healthy where nothing is said, and what is not said was not seen', () => {
    const NOT_SEEN = { systemId: undefined, streamingSystemId: undefined, currentLsn: undefined };
    expect(server({})).toEqual({
      active_model: null,
      cluster: 'main',
      active: true,
      disabled: false,
      errors: 0,
      passive: false,
      streaming_archiver: false,
      slot_name: undefined,
      createsSlot: false,
      connections: new Map(),
      maximumBackupAge: undefined,
      status: {
        ...NOT_SEEN,
        isInRecovery: undefined,
        streaming: undefined,
        segmentSize: undefined,
        slot: undefined,
      },
      archived: undefined,
      backups: undefined,
    });
  });

  test('is as it is configured', () => {
    const options = {
      ...{ active: false, disabled: true, primary_ssh_command: 'ssh b', streaming_archiver: true },
      ...{ cluster: 'patroni', slot_name: 'barman', create_slot: 'auto', conninfo: 'host=a,b port=1' },
    };
    const connection = {
      endpoints: [
        { host: 'a', port: 1 },
        { host: 'b', port: 1 },
      ],
      options: ['host', 'port'],
      unknown: 0,
    };
    expect(server({ active_model: 'm', msg_list: ['a', 'b'], config: options })).toMatchObject({
      ...{ active_model: 'm', cluster: 'patroni', active: false, disabled: true, errors: 2, passive: true },
      ...{ streaming_archiver: true, slot_name: 'barman', createsSlot: true },
      connections: new Map([['conninfo', connection]]),
    });
  });

  test.each([
    ['conninfo', 'postgresql://node1:5432/postgres', true],
    ['conninfo', 'postgres://node1/postgres?user=barman', false],
    ['streaming_conninfo', 'postgres://node1/postgres?user=barman', true],
  ])('has a problem if its %s is a URI that Barman cannot use: %s', (option, uri, isProblem) => {
    const connection = config({ [option]: uri })?.connections.get(option as 'conninfo');
    expect(connection && 'problem' in connection).toBe(isProblem);
  });

  test.each([
    ['conninfo', '  host=a \t port=1 '],
    ['conninfo', 'host=a application_name=for-postgresql:barman'],
    ['streaming_conninfo', 'host=a application_name=for-postgres:barman'],
  ])('has no problem with its %s %j', (option, text) => {
    const connection = config({ [option]: text })?.connections.get(option as 'conninfo');
    expect(connection).toMatchObject({ endpoints: [expect.objectContaining({ host: 'a' })] });
  });

  test('has no slot and no connection if these are empty', () => {
    const { slot_name, connections } = config({ slot_name: '', conninfo: '', streaming_conninfo: '' }) ?? {};
    expect([slot_name, connections]).toEqual([undefined, new Map()]);
    expect(read({ servers: {}, global: { system_info: { barman_ver: '' } } }).version).toBeUndefined();
  });

  test('has no text of a conninfo or of a message', () => {
    const conninfo = 'postgres://u:geheim@ss@h/?user=x';
    const text = JSON.stringify([
      ...(server({ config: { conninfo }, msg_list: [conninfo], status: { connection_error: conninfo } })
        ?.connections ?? []),
    ]);
    expect(text).toContain('has a second');
    expect(text).not.toContain('geheim');
  });

  test.each([
    ['8 days', 8 * 24],
    ['1 day, 2 hours', 26],
    ['30 minutes', 0.5],
    ['36 seconds', 0.01],
    ['', undefined],
    [null, undefined],
    [7, undefined],
    ['soon', undefined],
  ])('has backups of at most %s', (last_backup_maximum_age, hours) => {
    expect(config({ last_backup_maximum_age })?.maximumBackupAge).toBe(hours && hours * 3_600_000);
  });

  test('has a slot, none, or one for which no WAL is kept', () => {
    expect(status({ replication_slot: ['barman', true, '1/200000A0'] })?.slot).toEqual({
      active: true,
      restartLsn: 2 ** 32 + 0x200000a0,
    });
    expect(status({ replication_slot: ['barman', false, null] })?.slot).toEqual({ active: false });
    expect(status({ replication_slot: null })?.slot).toBeNull();
    for (const odd of [{}, [], ['barman'], 'barman', ['barman', 'yes', '0/1']]) {
      expect(status({ replication_slot: odd })?.slot).toBeUndefined();
    }
  });

  test('has the state of PostgreSQL, and whether Barman can stream', () => {
    expect(
      status({
        streaming: false,
        ...{ is_in_recovery: true, postgres_systemid: '7713', streaming_systemid: '7714' },
        ...{ current_lsn: '0/F000000', xlog_segment_size: 16777216 },
      }),
    ).toMatchObject({
      ...{ streaming: false, isInRecovery: true, systemId: '7713', streamingSystemId: '7714' },
      ...{ currentLsn: 0xf000000, segmentSize: 16777216 },
    });
    expect(status({ streaming: null, current_lsn: '7' })).toMatchObject({ currentLsn: undefined });
  });

  test('has the last archived segment of each timeline', () => {
    const wal = (name: string) => ({ name, time: 1_795_906_425.5, size: 1, compression: null });
    const last_archived_wal_per_timeline = {
      '00000001': wal('0000000100000001000000FE'),
      '0000000A': wal('0000000A0000000200000003'),
      odd: wal('0000000A.history'),
      before: wal('x0000000A0000000200000004'),
      after: wal('0000000A0000000200000004.partial'),
    };
    const archived = server({ wals: { last_archived_wal_per_timeline } })?.archived;
    expect([...(archived?.keys() ?? [])]).toEqual([1, 10]);
    const segment = archived?.get(10) ?? { log: 0, offset: 0 };
    expect(segment).toMatchObject({ name: '0000000A0000000200000003', time: 1_795_906_425_500 });
    expect(segmentNumber(segment, 2 ** 24)).toBe(2 * 256 + 3);
    expect(segmentNumber(segment, 2 ** 30)).toBe(2 * 4 + 3);
    expect(server({ wals: { last_archived_wal_per_timeline: {} } })?.archived).toEqual(new Map());
    expect(server({ wals: 7 })?.archived).toBeUndefined();
    // A time that no Date has.
    const odd = { last_archived_wal_per_timeline: { a: { ...wal('0000000100000001000000FE'), time: 1e13 } } };
    expect(server({ wals: odd })?.archived).toBeUndefined();
  });

  test('has base backups, in any zone', () => {
    const backups = {
      a: { status: 'DONE', timeline: 3, end_time: '2026-11-29T04:22:57.160887+05:30', size: 7 },
      b: { status: 'STARTED', timeline: null, end_time: null },
      c: { status: 'FAILED', end_time: 'yesterday' },
    };
    expect(server({ backups })?.backups).toEqual([
      { id: 'a', status: 'DONE', timeline: 3, end: Date.parse('2026-11-28T22:52:57.160Z') },
      { id: 'b', status: 'STARTED', timeline: undefined, end: undefined },
      { id: 'c', status: 'FAILED', timeline: undefined, end: undefined },
    ]);
    expect(server({ backups: {} })?.backups).toEqual([]);
    expect(server({ backups: { a: 7 } })?.backups).toBeUndefined();
  });

  test('with an option of an unknown form is as if it did not say that', () => {
    const odd = { active: 'on', disabled: 1, primary_ssh_command: null, streaming_archiver: {}, conninfo: 7 };
    expect(server({ msg_list: 7, config: odd })).toEqual(server({}));
  });
});

describe('a model', () => {
  const model = (change: object) => read({ servers: {}, models: { m: { config: change } } }).models.get('m');

  test('has what it sets', () => {
    expect(
      model({ cluster: 'main', active: true, disabled: false, slot_name: 's', conninfo: 'host=a' }),
    ).toMatchObject({
      ...{ cluster: 'main', active: true, disabled: false, slot_name: 's' },
      connections: new Map([['conninfo', { endpoints: [{ host: 'a', port: 5432 }] }]]),
    });
    expect(model({ active: null, conninfo: null })).toEqual({
      cluster: '',
      connections: new Map(),
    });
    expect(model({})?.connections).toBeUndefined();
    expect(model({ active: 'yes', disabled: 'no' })).toMatchObject({
      active: undefined,
      disabled: undefined,
    });
  });

  test('is not there in Barman before 3.10', () => {
    expect(read({ servers: {} }).models).toEqual(new Map());
  });
});

test.each(['constructor', 'prototype', '__proto__'])('a server and a model may be named %s', (name) => {
  const output = `{"servers":{"${name}":{"config":{}}},"models":{"${name}":{"config":{"cluster":"c"}}}}`;
  const { servers, models } = read(JSON.parse(output));
  expect([servers.get(name)?.cluster, models.get(name)?.cluster]).toEqual([name, 'c']);
});

test("Barman's version is known, or not", () => {
  expect(read({ global: { system_info: { barman_ver: '3.19.1' } }, servers: {} }).version).toBe('3.19.1');
  expect(read({ global: 7, servers: {} }).version).toBeUndefined();
});
