/** The ledger's table in DynamoDB. The client is loaded at the first use, for a real switch: it costs a cold start. */

import type { AttributeValue, DynamoDBClient } from '@aws-sdk/client-dynamodb';
import { within } from './deadline.ts';
import { DeadlineExceeded, LedgerError } from './errors.ts';
import type { Change, Comparison, Condition, Item, Table } from './ledger.ts';

/** DynamoDB answers in some ms; what hangs is tried again while there is time, ms. */
const CLIENT = {
  maxAttempts: 3,
  requestHandler: { connectionTimeout: 1_000, requestTimeout: 2_000, throwOnRequestTimeout: true },
};

type Sdk = typeof import('@aws-sdk/client-dynamodb');

export class DynamoDbTable implements Table {
  readonly #name: string;
  #loaded: Promise<{ sdk: Sdk; client: DynamoDBClient }> | undefined;

  /** @param name the table's; its partition key is `barman_server` */
  constructor(name: string) {
    this.#name = name;
  }

  get(server: string, signal: AbortSignal): Promise<Item | undefined> {
    return this.#ask(signal, async ({ sdk, client }) => {
      const { Item: item } = await client.send(
        new sdk.GetItemCommand({
          TableName: this.#name,
          Key: { barman_server: { S: server } },
          ConsistentRead: true,
        }),
        { abortSignal: signal },
      );
      return item && fromAttributes(item);
    });
  }

  update(
    server: string,
    change: Change,
    condition: Condition,
    signal: AbortSignal,
  ): Promise<Item | undefined> {
    return this.#ask(signal, async ({ sdk, client }) => {
      try {
        const { Attributes = {} } = await client.send(
          new sdk.UpdateItemCommand({
            TableName: this.#name,
            Key: { barman_server: { S: server } },
            ReturnValues: 'ALL_NEW',
            ...expressions(change, condition),
          }),
          { abortSignal: signal },
        );
        return fromAttributes(Attributes);
      } catch (error) {
        if (error instanceof sdk.ConditionalCheckFailedException) return undefined;
        throw error;
      }
    });
  }

  scan(signal: AbortSignal): Promise<Item[]> {
    return this.#ask(signal, async ({ sdk, client }) => {
      const items: Item[] = [];
      const pages = sdk.paginateScan({ client }, { TableName: this.#name, ConsistentRead: true });
      for await (const { Items = [] } of pages) items.push(...Items.map(fromAttributes));
      return items;
    });
  }

  /** @throws LedgerError with the remedy; DeadlineExceeded once the signal has aborted */
  async #ask<T>(
    signal: AbortSignal,
    question: (loaded: { sdk: Sdk; client: DynamoDBClient }) => Promise<T>,
  ): Promise<T> {
    if (signal.aborted) throw new DeadlineExceeded('time ran out before the ledger was asked');
    this.#loaded ??= import('@aws-sdk/client-dynamodb').then((sdk) => ({
      sdk,
      client: new sdk.DynamoDBClient(CLIENT),
    }));
    try {
      return await within(signal, this.#loaded.then(question));
    } catch (error) {
      const cause = { cause: error };
      if (signal.aborted) throw new DeadlineExceeded('time ran out before the ledger answered', cause);
      throw new LedgerError(`the ledger could not be used: ${explain(error, this.#name)}`, cause);
    }
  }
}

/** Why DynamoDB did not do it, and what to do about it. */
function explain(error: unknown, table: string): string {
  const name = error instanceof Error ? error.name : 'unknown error';
  switch (name) {
    case 'ResourceNotFoundException':
      return `there is no table ${table}; deploy the stage again`;
    case 'AccessDeniedException':
      return `${name}; the function's role needs dynamodb:GetItem, UpdateItem and Scan on table ${table}`;
    case 'ThrottlingException':
    case 'ProvisionedThroughputExceededException':
    case 'InternalServerError':
      return name;
    default: {
      const code = error instanceof Error && 'code' in error ? ` (${String(error.code)})` : '';
      return `${name}${code}; the function needs a way to DynamoDB from its subnets, a gateway endpoint or a NAT`;
    }
  }
}

/** DynamoDB's expressions; every name goes through `#…`, so that none can be one of its reserved words. */
function expressions(change: Change, condition: Condition) {
  const names: Record<string, string> = {};
  const values: Record<string, AttributeValue> = {};
  const name = (attribute: string) => {
    names[`#${attribute}`] = attribute;
    return `#${attribute}`;
  };
  const value = (of: string | number | boolean) => {
    const key = `:v${Object.keys(values).length}`;
    values[key] = toAttribute(of);
    return key;
  };
  const compare = ([attribute, operator, operand]: Comparison) =>
    operator === 'absent'
      ? `attribute_not_exists(${name(attribute)})`
      : `${name(attribute)} ${operator} ${value(operand)}`;

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

function toAttribute(value: string | number | boolean): AttributeValue {
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
