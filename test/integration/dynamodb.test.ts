import { type AttributeValue, DynamoDBClient, PutItemCommand } from '@aws-sdk/client-dynamodb';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  absent,
  type Comparison,
  type Condition,
  equals,
  heardIs,
  less,
  type Path,
  type StoredChange,
} from '../../functions/config-switch/ledger/conditions.ts';
import { DynamoDbTable, LedgerClient } from '../../functions/config-switch/ledger/dynamodb.ts';
import { inspectionKey } from '../../functions/config-switch/ledger/inspection.ts';
import { type Item, readItem } from '../../functions/config-switch/ledger/item.ts';
import { Ledger } from '../../functions/config-switch/ledger/ledger.ts';
import { startDynamoDb } from '../stand-ins/dynamodb.ts';
import { changed, holds } from '../stand-ins/memory-table.ts';

const dynamoDb = await startDynamoDb();
process.env.AWS_ENDPOINT_URL_DYNAMODB = dynamoDb.url;
const sdk = new DynamoDBClient({});
const signal = () => AbortSignal.timeout(5_000);

const text = fc.constantFrom('a', 'b', 'c');
const state = fc.record({ target: text, version: text });
const path = fc.constantFrom<Path>(
  'desired',
  'desired.version',
  'applied.version',
  'lease.token',
  'paused_until',
);
const change = fc.record(
  {
    desired: state.map((desired) => ({ ...desired, cluster: 'c', recorded_at: 'a' })),
    applied: fc.option(state.map((applied) => ({ ...applied, operation_id: 'o', applied_at: 'a' }))),
    lease: fc.option(fc.record({ token: text, expires_at: text })),
    paused_until: fc.option(text),
    attempts: fc.option(fc.nat(5)),
    paused: fc.option(fc.constant(true)),
  },
  { requiredKeys: [] },
);
const comparison: fc.Arbitrary<Comparison> = fc.oneof(
  fc.tuple(path, fc.constantFrom('absent' as const, 'exists' as const, 'not text' as const)),
  fc.tuple(path, fc.constantFrom('=' as const, '<' as const), text),
);
const condition: fc.Arbitrary<Condition> = fc.array(fc.array(comparison, { minLength: 1, maxLength: 3 }), {
  maxLength: 3,
});

describe('DynamoDbTable', () => {
  test('evaluates conditions and changes as the table in memory does', async () => {
    await dynamoDb.createLedger('same');
    const table = new DynamoDbTable(new LedgerClient(), 'same');
    let server = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(change, condition), { minLength: 1, maxLength: 8 }),
        async (writes) => {
          server += 1;
          const key = `server${server}`;
          let item = (await table.update(key, { leader: 'node1' }, [], signal())) as Item;
          for (const [to, when] of writes) {
            const written = await table.update(key, to, when, signal());
            const expected = holds(item, when) ? changed(item, key, to) : undefined;
            expect(written).toEqual(expected);
            item = expected ?? item;
            expect(await table.get(key, signal())).toEqual(item);
          }
        },
      ),
      { numRuns: 150 },
    );
    expect((await table.scan(signal())).length).toBeGreaterThan(50);
  });

  test('leaves what it does not write, a set or a text in place of a map, to whoever reads the item', async () => {
    await dynamoDb.createLedger('by-hand');
    const table = new DynamoDbTable(new LedgerClient(), 'by-hand');
    const byHand = (attribute: string, value: AttributeValue) =>
      sdk.send(
        new PutItemCommand({
          TableName: 'by-hand',
          Item: { barman_server: { S: 'main' }, leader: { S: 'node1' }, [attribute]: value },
        }),
      );
    await byHand('attempts', { SS: ['one', 'two'] });
    const stored = await table.get('main', signal());
    expect(stored).toEqual({ barman_server: 'main', leader: 'node1', attempts: { SS: ['one', 'two'] } });
    expect(() => readItem({ barman_server: 'main', ...stored })).toThrow(/attempts is Object, not number/);

    await byHand('desired', { S: 'model pg:node2' });
    expect(await table.scan(signal())).toEqual([
      { barman_server: 'main', leader: 'node1', desired: 'model pg:node2' },
    ]);
    const write = (condition: Condition) => table.update('main', { paused: true }, condition, signal());
    // A text has no parts: whatever needs one is refused, and nothing fails.
    for (const clause of [absent('desired'), less('desired.version', 'z'), equals('desired.version', 'a')])
      expect(await write([clause])).toBeUndefined();
    expect(await write([absent('desired.version')])).toMatchObject({ paused: true });
  });

  test('replaces who was heard if that is in another format, and not if it has a revision of ours', async () => {
    await dynamoDb.createLedger('heard');
    const table = new DynamoDbTable(new LedgerClient(), 'heard');
    const ledger = new Ledger(table);
    const db1 = { node: 'db1', cluster: 'main', at: '2026-11-28T12:00:00.000Z' };
    const formats: StoredChange[] = [{ heard: 'db1' }, { heard: ['db1'] }, { heard: { revision: 7 } }];
    for (const [index, format] of formats.entries()) {
      const server = `main${index}`;
      await table.update(inspectionKey(server), format, [], signal());
      await ledger.hear(server, db1, signal());
      expect((await ledger.all(signal())).heard.get(server)).toEqual([db1]);
      const change = { heard: { revision: 'mine', nodes: [] } };
      expect(
        await table.update(inspectionKey(server), change, [heardIs(undefined)], signal()),
      ).toBeUndefined();
    }
  });

  test.each([
    [
      'does not exist',
      'nowhere',
      /table nowhere does not exist in eu-central-1; restore it: docs\/how-to\/ledger-lost\.md$/,
    ],
    ['has an invalid name', 'x', /is unavailable/],
  ])('reports a table that %s', async (_, tableName, words) => {
    await expect(new DynamoDbTable(new LedgerClient(), tableName).get('main', signal())).rejects.toThrow(
      words,
    );
  });

  test('reports an unreachable DynamoDB with the remedy, and a deadline that has passed', async () => {
    const url = dynamoDb.url;
    process.env.AWS_ENDPOINT_URL_DYNAMODB = 'http://127.0.0.1:9';
    const table = new DynamoDbTable(new LedgerClient(), 'same');
    await expect(table.get('main', signal())).rejects.toThrow(/ECONNREFUSED.*gateway endpoint or a NAT/);
    process.env.AWS_ENDPOINT_URL_DYNAMODB = url;
    await expect(
      new DynamoDbTable(new LedgerClient(), 'same').get('main', AbortSignal.abort()),
    ).rejects.toThrow(/time ran out/);
  });
});
