/** DynamoDB as dynalite has it, in memory, on a free port of loopback. */

import type { Server } from 'node:http';
import { CreateTableCommand, DynamoDBClient, waitUntilTableExists } from '@aws-sdk/client-dynamodb';
import dynalite from 'dynalite';
import { listen } from './server.ts';

export interface DynamoDb {
  /** For AWS_ENDPOINT_URL_DYNAMODB. */
  readonly url: string;
  /** Makes a ledger's table, as the infrastructure does. */
  createLedger(name: string): Promise<void>;
  close(): Promise<void>;
}

export async function startDynamoDb(): Promise<DynamoDb> {
  const server = await listen(dynalite({ createTableMs: 0 }) as Server);
  const url = `http://127.0.0.1:${server.port}`;
  const client = new DynamoDBClient({
    endpoint: url,
    region: 'eu-central-1',
    credentials: { accessKeyId: 'test', secretAccessKey: 'test' },
  });
  return {
    url,
    createLedger: async (name) => {
      await client.send(
        new CreateTableCommand({
          TableName: name,
          AttributeDefinitions: [{ AttributeName: 'barman_server', AttributeType: 'S' }],
          KeySchema: [{ AttributeName: 'barman_server', KeyType: 'HASH' }],
          BillingMode: 'PAY_PER_REQUEST',
        }),
      );
      // Even at once it is made in the background.
      await waitUntilTableExists(
        { client, maxWaitTime: 10, minDelay: 0.02, maxDelay: 0.1 },
        { TableName: name },
      );
    },
    close: async () => {
      client.destroy();
      await server.close();
    },
  };
}
