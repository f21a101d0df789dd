/**
 * The ledger's table in DynamoDB. Its client is loaded at the start: loaded later, the modules that it shares with SSM's
 * client would be compiled one by one, which makes a cold start slower (npm run bench -- cold).
 */

import {
  type AttributeValue,
  ConditionalCheckFailedException,
  DynamoDBClient,
  GetItemCommand,
  paginateScan,
  UpdateItemCommand,
} from '@aws-sdk/client-dynamodb';
import { within } from '../deadline.ts';
import { DeadlineExceeded, LedgerError } from '../errors.ts';
import type { Change, Comparison, Condition, Item, Table } from '../reconcile/table.ts';

/** Time-outs (ms): DynamoDB responds within a few milliseconds, so a request that hangs is repeated early. */
const CLIENT = {
  maxAttempts: 3,
  requestHandler: { connectionTimeout: 1_000, requestTimeout: 2_000, throwOnRequestTimeout: true },
};

export class DynamoDbTable implements Table {
  readonly #name: string;
  #client: DynamoDBClient | undefined;

  /** @param name of the table, whose partition key is `barman_server` */
  constructor(name: string) {
    this.#name = name;
  }

  get(server: string, signal: AbortSignal): Promise<Item | undefined> {
    return this.#ask(signal, async (client) => {
      const { Item: item } = await client.send(
        new GetItemCommand({
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
    return this.#ask(signal, async (client) => {
      try {
        const { Attributes = {} } = await client.send(
          new UpdateItemCommand({
            TableName: this.#name,
            Key: { barman_server: { S: server } },
            ReturnValues: 'ALL_NEW',
            ...expressions(change, condition),
          }),
          { abortSignal: signal },
        );
        return fromAttributes(Attributes);
      } catch (error) {
        if (error instanceof ConditionalCheckFailedException) return undefined;
        throw error;
      }
    });
  }

  scan(signal: AbortSignal): Promise<Item[]> {
    return this.#ask(signal, async (client) => {
      const items: Item[] = [];
      const pages = paginateScan({ client }, { TableName: this.#name, ConsistentRead: true });
      for await (const { Items = [] } of pages) items.push(...Items.map(fromAttributes));
      return items;
    });
  }

  /** @throws LedgerError with the remedy; DeadlineExceeded once the signal has aborted */
  async #ask<T>(signal: AbortSignal, question: (client: DynamoDBClient) => Promise<T>): Promise<T> {
    if (signal.aborted) throw new DeadlineExceeded('time ran out before the request to the ledger');
    try {
      this.#client ??= new DynamoDBClient(CLIENT);
      return await within(signal, question(this.#client));
    } catch (error) {
      const cause = { cause: error };
      if (signal.aborted) throw new DeadlineExceeded('time ran out before the ledger responded', cause);
      throw new LedgerError(`the ledger is unavailable: ${explain(error, this.#name)}`, cause);
    }
  }
}

/** The cause in DynamoDB's words, and the remedy. */
function explain(error: unknown, table: string): string {
  const name = error instanceof Error ? error.name : 'unknown error';
  switch (name) {
    case 'ResourceNotFoundException':
      return `table ${table} does not exist; deploy the stage again`;
    case 'AccessDeniedException':
      return `${name}; the function's role needs dynamodb:GetItem, UpdateItem and Scan on table ${table}`;
  }
  // Network errors have a code, DynamoDB's errors do not.
  const code = error instanceof Error && 'code' in error ? String(error.code) : undefined;
  if (code === undefined && name !== 'TimeoutError') return name;
  return `${code ?? name}; the function's subnets need a route to DynamoDB: a gateway endpoint or a NAT`;
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
    if (operator === 'lacks') return `NOT contains(${name(attribute)}, ${value(operand)})`;
    return `${name(attribute)} ${operator} ${value(operand)}`;
  };

  const set: string[] = [];
  const remove: string[] = [];
  const { events, ...attributes } = change;
  if (events && 'prepend' in events) {
    const known = `if_not_exists(${name('events')}, ${value([])})`;
    set.push(`${name('events')} = list_append(${value([events.prepend])}, ${known})`);
  } else if (events) {
    // Removing an index that does not exist is not an error; more than 12 surplus ids are unlikely.
    for (let index = events.keep + 11; index >= events.keep; index -= 1) {
      remove.push(`${name('events')}[${index}]`);
    }
  }
  for (const [attribute, to] of Object.entries(attributes)) {
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

type Value = string | number | boolean | readonly string[];

function toAttribute(value: Value): AttributeValue {
  if (typeof value === 'object') return { L: value.map((one) => ({ S: one })) };
  if (typeof value === 'number') return { N: String(value) };
  return typeof value === 'boolean' ? { BOOL: value } : { S: value };
}

function fromAttributes(attributes: Record<string, AttributeValue>): Item {
  return Object.fromEntries(
    Object.entries(attributes).map(([name, { S, N, BOOL, L }]) => [
      name,
      N === undefined ? (S ?? BOOL ?? L?.map((one) => one.S)) : Number(N),
    ]),
  ) as unknown as Item;
}
