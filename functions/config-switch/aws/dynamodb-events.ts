/** The events table in DynamoDB. */

import { ConditionalCheckFailedException, GetItemCommand, PutItemCommand } from '@aws-sdk/client-dynamodb';
import { LedgerError } from '../errors.ts';
import type { EventTable, StoredEvent } from '../reconcile/events.ts';
import type { LedgerClient } from './dynamodb.ts';

export class DynamoDbEvents implements EventTable {
  readonly #client: LedgerClient;
  readonly #name: string;

  /** @param name of the table, whose keys are `barman_server` and `event_id` */
  constructor(client: LedgerClient, name: string) {
    this.#client = client;
    this.#name = name;
  }

  putIfAbsent(event: StoredEvent, signal: AbortSignal): Promise<StoredEvent> {
    const { barman_server, event_id, version, target, expires_at } = event;
    const Key = { barman_server: { S: barman_server }, event_id: { S: event_id } };
    return this.#client.ask(this.#name, signal, async (client) => {
      try {
        await client.send(
          new PutItemCommand({
            TableName: this.#name,
            Item: {
              ...Key,
              version: { S: version },
              target: { S: target },
              expires_at: { N: String(expires_at) },
            },
            ConditionExpression: 'attribute_not_exists(event_id)',
          }),
          { abortSignal: signal },
        );
        return event;
      } catch (error) {
        if (!(error instanceof ConditionalCheckFailedException)) throw error;
      }
      const { Item = {} } = await client.send(
        new GetItemCommand({ TableName: this.#name, Key, ConsistentRead: true }),
        { abortSignal: signal },
      );
      if (Item.version?.S === undefined || Item.target?.S === undefined) {
        throw new LedgerError(
          `the event ${event_id} of ${barman_server} was deleted meanwhile; send it again`,
        );
      }
      return { ...event, version: Item.version.S, target: Item.target.S };
    });
  }
}
