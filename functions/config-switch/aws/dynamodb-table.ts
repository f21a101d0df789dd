/** The ledger's table in DynamoDB. */

import {
  type AttributeValue,
  ConditionalCheckFailedException,
  DeleteItemCommand,
  type DynamoDBClient,
  GetItemCommand,
  paginateScan,
  UpdateItemCommand,
} from '@aws-sdk/client-dynamodb';
import type { Item } from '../reconcile/item.ts';
import type { Change, Comparison, Condition, Table } from '../reconcile/table.ts';
import type { LedgerClient } from './dynamodb.ts';

export class DynamoDbTable implements Table {
  readonly #client: LedgerClient;
  readonly #name: string;

  /** @param name of the table, whose partition key is `barman_server` */
  constructor(client: LedgerClient, name: string) {
    this.#client = client;
    this.#name = name;
  }

  get(barman_server: string, signal: AbortSignal): Promise<Item | undefined> {
    return this.#client.ask(this.#name, signal, async (client) => {
      const { Item: item } = await client.send(
        new GetItemCommand({
          TableName: this.#name,
          Key: { barman_server: { S: barman_server } },
          ConsistentRead: true,
        }),
        { abortSignal: signal },
      );
      return item && fromAttributes(item);
    });
  }

  update(
    barman_server: string,
    change: Change,
    condition: Condition,
    signal: AbortSignal,
  ): Promise<Item | undefined> {
    return this.#write(signal, async (client) => {
      const { Attributes = {} } = await client.send(
        new UpdateItemCommand({
          TableName: this.#name,
          Key: { barman_server: { S: barman_server } },
          ReturnValues: 'ALL_NEW',
          ...expressions(change, condition),
        }),
        { abortSignal: signal },
      );
      return fromAttributes(Attributes);
    });
  }

  async delete(barman_server: string, condition: Condition, signal: AbortSignal): Promise<boolean> {
    const deleted = await this.#write(signal, async (client) => {
      const { UpdateExpression: _, ...conditions } = expressions({}, condition);
      await client.send(
        new DeleteItemCommand({
          TableName: this.#name,
          Key: { barman_server: { S: barman_server } },
          ...conditions,
        }),
        { abortSignal: signal },
      );
      return true;
    });
    return deleted === true;
  }

  /** @returns undefined if the condition of the write is false */
  #write<T>(signal: AbortSignal, write: (client: DynamoDBClient) => Promise<T>): Promise<T | undefined> {
    return this.#client.ask(this.#name, signal, async (client) => {
      try {
        return await write(client);
      } catch (error) {
        if (error instanceof ConditionalCheckFailedException) return undefined;
        throw error;
      }
    });
  }

  scan(signal: AbortSignal): Promise<Item[]> {
    return this.#client.ask(this.#name, signal, async (client) => {
      const items: Item[] = [];
      const pages = paginateScan({ client }, { TableName: this.#name, ConsistentRead: true });
      for await (const { Items = [] } of pages) items.push(...Items.map(fromAttributes));
      return items;
    });
  }
}

/** DynamoDB's expressions. Every name is an alias `#…`, since it could be a reserved word. */
function expressions(change: Change, condition: Condition) {
  const names: Record<string, string> = {};
  const values: Record<string, AttributeValue> = {};
  const name = (attribute: string) => {
    names[`#${attribute}`] = attribute;
    return `#${attribute}`;
  };
  const value = (of: Value) => {
    const key = `:v${Object.keys(values).length}`;
    values[key] = toAttribute(of);
    return key;
  };
  const compare = ([attribute, operator, operand]: Comparison) => {
    if (operator === 'absent') return `attribute_not_exists(${name(attribute)})`;
    return `${name(attribute)} ${operator} ${value(operand)}`;
  };

  const set: string[] = [];
  const remove: string[] = [];
  for (const [attribute, to] of Object.entries(change)) {
    if (to === null) remove.push(name(attribute));
    else set.push(`${name(attribute)} = ${value(to)}`);
  }
  return {
    UpdateExpression: [
      set.length > 0 ? `SET ${set.join(', ')}` : '',
      remove.length > 0 ? `REMOVE ${remove.join(', ')}` : '',
    ].join(' '),
    ...(condition.length > 0 && {
      ConditionExpression: condition.map((row) => `(${row.map(compare).join(' OR ')})`).join(' AND '),
    }),
    ExpressionAttributeNames: names,
    ...(Object.keys(values).length > 0 && { ExpressionAttributeValues: values }),
  };
}

type Value = string | number | boolean;

function toAttribute(value: Value): AttributeValue {
  if (typeof value === 'number') return { N: String(value) };
  return typeof value === 'boolean' ? { BOOL: value } : { S: value };
}

function fromAttributes(attributes: Record<string, AttributeValue>): Item {
  return Object.fromEntries(
    Object.entries(attributes).map(([name, { S, N, BOOL }]) => [
      name,
      N === undefined ? (S ?? BOOL) : Number(N),
    ]),
  ) as unknown as Item;
}
