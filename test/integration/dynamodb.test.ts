import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { DynamoDbTable, LedgerClient } from '../../functions/config-switch/ledger/dynamodb.ts';
import type { Change, Comparison, Condition } from '../../functions/config-switch/ledger/conditions.ts';
import { startDynamoDb } from '../stand-ins/dynamodb.ts';
import { changed, holds } from '../stand-ins/memory-table.ts';

const dynamoDb = await startDynamoDb();
process.env.AWS_ENDPOINT_URL_DYNAMODB = dynamoDb.url;
const signal = () => AbortSignal.timeout(5_000);

const text = fc.constantFrom('a', 'b', 'c');
const name = fc.constantFrom('desired_version', 'applied_version', 'lease_token');
const change: fc.Arbitrary<Change> = fc.record(
  {
    desired_version: text,
    applied_version: fc.option(text),
    lease_token: fc.option(text),
    attempts: fc.option(fc.nat(5)),
    paused: fc.option(fc.constant(true)),
  },
  { requiredKeys: ['desired_version'] },
);
const comparison: fc.Arbitrary<Comparison> = fc.oneof(
  fc.tuple(name, fc.constant('absent' as const)),
  fc.tuple(name, fc.constantFrom('=' as const, '<' as const), text),
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
          let item = await table.update(key, { cluster: 'c' }, [], signal());
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

  test.each([
    ['does not exist', 'nowhere', /table nowhere does not exist in eu-central-1; deploy/],
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
