/** DynamoDB in memory (dynalite), on a free port of loopback. */

import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { CreateTableCommand, DynamoDBClient, waitUntilTableExists } from '@aws-sdk/client-dynamodb';
import dynalite from 'dynalite';
import { isSignedBy, listen } from './server.ts';

/** What DynamoDB does instead of responding; with "lose response", it executes the request first. */
export type DynamoDbFault = 'access denied' | 'throttling' | 'internal' | 'stall' | 'reset' | 'lose response';

const ERRORS: Partial<Record<DynamoDbFault, { status: number; type: string }>> = {
  'access denied': { status: 400, type: 'AccessDeniedException' },
  throttling: { status: 400, type: 'ThrottlingException' },
  internal: { status: 500, type: 'InternalServerError' },
};

/** An item in DynamoDB's JSON: texts, and maps of texts. */
export type UpdatedItem = Readonly<
  Record<string, { readonly S?: string; readonly M?: Readonly<Record<string, { readonly S?: string }>> }>
>;

export interface DynamoDb {
  /** Called before each request with the operation, such as `UpdateItem`. */
  fault: ((operation: string) => DynamoDbFault | undefined) | undefined;
  /** Called with the item as it is after each update that succeeded, whether or not its response arrives. */
  onUpdated: ((item: UpdatedItem) => void) | undefined;
  /** For AWS_ENDPOINT_URL_DYNAMODB. */
  readonly url: string;
  /** Creates the two tables of a ledger, as infra/ledger.yml does. */
  createLedger(name: string): Promise<void>;
  close(): Promise<void>;
}

/** @param accessKeyId of the only client that it answers; default: any */
export async function startDynamoDb(accessKeyId?: string): Promise<DynamoDb> {
  const dynamo = dynalite({ createTableMs: 0 });
  const response = (request: IncomingMessage, response: ServerResponse) => {
    if (!isSignedBy(request, accessKeyId)) {
      response.writeHead(403).end();
      return;
    }
    const fault = standIn.fault?.(String(request.headers['x-amz-target']).replace(/.*\./, ''));
    const error = fault && ERRORS[fault];
    if (error) {
      const body = JSON.stringify({
        __type: `com.amazon.coral.service#${error.type}`,
        message: 'as asked for',
      });
      response.writeHead(error.status, { 'content-type': 'application/x-amz-json-1.0' }).end(body);
    } else if (fault === 'reset') {
      request.socket.resetAndDestroy();
    } else if (fault !== 'stall') {
      const end = response.end.bind(response);
      response.end = ((...[body]: Parameters<typeof end>) => {
        // Most runs have no listener, and benchmarks measure these responses.
        if (standIn.onUpdated && /^\{"Attributes":/.test(String(body)))
          standIn.onUpdated(JSON.parse(String(body)).Attributes);
        return fault === 'lose response' ? response.destroy() : end(body);
      }) as typeof response.end;
      dynamo.emit('request', request, response);
    }
  };
  const server = await listen(createServer(response));
  const url = `http://127.0.0.1:${server.port}`;
  const client = new DynamoDBClient({
    endpoint: url,
    region: 'eu-central-1',
    credentials: { accessKeyId: accessKeyId ?? 'test', secretAccessKey: 'test' },
  });
  const standIn: DynamoDb = {
    fault: undefined,
    onUpdated: undefined,
    url,
    createLedger: async (name) => {
      const keys = { [name]: ['barman_server'], [`${name}-events`]: ['barman_server', 'event_id'] };
      for (const [TableName, names] of Object.entries(keys)) {
        await client.send(
          new CreateTableCommand({
            TableName,
            AttributeDefinitions: names.map((AttributeName) => ({ AttributeName, AttributeType: 'S' })),
            KeySchema: names.map((AttributeName, index) => ({
              AttributeName,
              KeyType: index === 0 ? 'HASH' : 'RANGE',
            })),
            BillingMode: 'PAY_PER_REQUEST',
          }),
        );
        // Creation continues in the background.
        await waitUntilTableExists({ client, maxWaitTime: 10, minDelay: 0.02, maxDelay: 0.1 }, { TableName });
      }
    },
    close: async () => {
      client.destroy();
      await server.close();
    },
  };
  return standIn;
}
