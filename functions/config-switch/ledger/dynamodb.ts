/**
 * The ledger in DynamoDB. The client is loaded at the start: loaded later, the modules that it shares with
 * SSM's client would be compiled one by one, which makes a cold start slower (npm run bench -- cold).
 */

import {
  type AttributeValue,
  ConditionalCheckFailedException,
  DeleteItemCommand,
  DynamoDBClient,
  GetItemCommand,
  PutItemCommand,
  paginateScan,
  UpdateItemCommand,
} from '@aws-sdk/client-dynamodb';
import { within } from '../deadline.ts';
import { DeadlineExceeded, LedgerError } from '../errors.ts';
import { explainSdkError, type Reader } from '../http/network-errors.ts';
import type { Comparison, Condition, Stored, StoredChange, Table, Value } from './conditions.ts';
import type { EventTable, StoredEvent } from './events.ts';

/** Time-outs (ms): DynamoDB responds within a few milliseconds, so a request that hangs is repeated early. */
const CLIENT = {
  maxAttempts: 3,
  requestHandler: { connectionTimeout: 1_000, requestTimeout: 2_000, throwOnRequestTimeout: true },
};

/** The client for all tables, created at the first request. */
export class LedgerClient {
  #client: DynamoDBClient | undefined;
  readonly #reader: Reader;

  /** @param reader of the errors */
  constructor(reader: Reader = 'function') {
    this.#reader = reader;
  }

  /**
   * Sends requests to one table of the ledger.
   *
   * @param table its name, for the error
   * @param requests what to send
   * @returns what the requests return, or undefined if the condition of a write is false
   * @throws LedgerError with the remedy; DeadlineExceeded once the signal has aborted
   */
  async send<T>(
    table: string,
    signal: AbortSignal,
    requests: (client: DynamoDBClient) => Promise<T>,
  ): Promise<T | undefined> {
    if (signal.aborted) throw new DeadlineExceeded('time ran out before the request to the ledger');
    try {
      this.#client ??= new DynamoDBClient(CLIENT);
      return await within(signal, requests(this.#client));
    } catch (error) {
      const cause = { cause: error };
      if (signal.aborted) throw new DeadlineExceeded('time ran out before the ledger responded', cause);
      if (error instanceof LedgerError) throw error;
      if (error instanceof ConditionalCheckFailedException) return undefined;
      const remedies = {
        ResourceNotFoundException: `table ${table} does not exist in ${process.env.AWS_REGION}; restore it: docs/how-to/ledger-lost.md`,
        AccessDeniedException: `the function's role needs the actions of infra/function/iam.yml on table ${table}`,
      };
      const route = 'a gateway endpoint or a NAT';
      const reason = explainSdkError(error, 'DynamoDB', route, remedies, this.#reader);
      throw new LedgerError(`the ledger is unavailable: ${reason}`, cause);
    }
  }
}

/** The table of servers. */
export class DynamoDbTable implements Table {
  readonly #db: LedgerClient;
  readonly #name: string;

  /** @param name of the table, whose partition key is `barman_server` */
  constructor(db: LedgerClient, name: string) {
    this.#db = db;
    this.#name = name;
  }

  get(barman_server: string, signal: AbortSignal): Promise<Stored | undefined> {
    return this.#db.send(this.#name, signal, async (client) => {
      const { Item: item } = await client.send(
        new GetItemCommand({ ...this.#key(barman_server), ConsistentRead: true }),
        { abortSignal: signal },
      );
      return item && fromAttributes(item);
    });
  }

  update(
    barman_server: string,
    change: StoredChange,
    condition: Condition,
    signal: AbortSignal,
  ): Promise<Stored | undefined> {
    return this.#db.send(this.#name, signal, async (client) => {
      const { Attributes = {} } = await client.send(
        new UpdateItemCommand({
          ...this.#key(barman_server),
          ReturnValues: 'ALL_NEW',
          ...expressions(change, condition),
        }),
        { abortSignal: signal },
      );
      return fromAttributes(Attributes);
    });
  }

  async delete(barman_server: string, condition: Condition, signal: AbortSignal): Promise<boolean> {
    const deleted = await this.#db.send(this.#name, signal, async (client) => {
      const { UpdateExpression: _, ...conditions } = expressions({}, condition);
      const command = new DeleteItemCommand({ ...this.#key(barman_server), ...conditions });
      await client.send(command, { abortSignal: signal });
      return true;
    });
    return deleted === true;
  }

  async scan(signal: AbortSignal): Promise<Stored[]> {
    const items: Stored[] = [];
    await this.#db.send(this.#name, signal, async (client) => {
      const pages = paginateScan({ client }, { TableName: this.#name, ConsistentRead: true });
      for await (const { Items = [] } of pages) items.push(...Items.map(fromAttributes));
    });
    return items;
  }

  #key(barman_server: string) {
    return { TableName: this.#name, Key: { barman_server: { S: barman_server } } };
  }
}

/** The table of events. */
export class DynamoDbEvents implements EventTable {
  readonly #db: LedgerClient;
  readonly #name: string;

  /** @param name of the table, whose keys are `barman_server` and `event_id` */
  constructor(db: LedgerClient, name: string) {
    this.#db = db;
    this.#name = name;
  }

  async putIfAbsent(event: StoredEvent, signal: AbortSignal): Promise<StoredEvent> {
    const { barman_server, event_id, version, target, expires_at } = event;
    const TableName = this.#name;
    const Key = { barman_server: { S: barman_server }, event_id: { S: event_id } };
    const Item = {
      ...Key,
      version: { S: version },
      target: { S: target },
      expires_at: { N: String(expires_at) },
    };
    const put = await this.#db.send(TableName, signal, (client) =>
      client.send(
        new PutItemCommand({ TableName, Item, ConditionExpression: 'attribute_not_exists(event_id)' }),
        { abortSignal: signal },
      ),
    );
    if (put) return event;
    const found = await this.#db.send(TableName, signal, (client) =>
      client.send(new GetItemCommand({ TableName, Key, ConsistentRead: true }), { abortSignal: signal }),
    );
    const stored = found?.Item;
    if (stored?.version?.S === undefined || stored.target?.S === undefined) {
      throw new LedgerError(`the event ${event_id} of ${barman_server} was deleted meanwhile; send it again`);
    }
    return { ...event, version: stored.version.S, target: stored.target.S };
  }
}

/** Composes DynamoDB's expressions. Each part of a path is an alias `#…`, since it could be a reserved word. */
function expressions(change: StoredChange, condition: Condition) {
  const names: Record<string, string> = {};
  const values: Record<string, AttributeValue> = {};
  const name = (path: string) => {
    const parts = path.split('.');
    for (const part of parts) names[`#${part}`] = part;
    return parts.map((part) => `#${part}`).join('.');
  };
  const value = (of: Value) => {
    const key = `:v${Object.keys(values).length}`;
    values[key] = toAttribute(of);
    return key;
  };
  const compare = ([path, operator, operand]: Comparison) => {
    if (operator === 'absent') return `attribute_not_exists(${name(path)})`;
    if (operator === 'exists') return `attribute_exists(${name(path)})`;
    if (operator === 'not text') return `NOT attribute_type(${name(path)}, ${value('S')})`;
    return `${name(path)} ${operator} ${value(operand)}`;
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

function toAttribute(value: Value): AttributeValue {
  switch (typeof value) {
    case 'string':
      return { S: value };
    case 'number':
      return { N: String(value) };
    case 'boolean':
      return { BOOL: value };
    default:
      if (isList(value)) return { L: value.map(toAttribute) };
      return { M: Object.fromEntries(Object.entries(value).map(([part, of]) => [part, toAttribute(of)])) };
  }
}

/** Returns the values of the types that are written; those of others are left to the schema as they are. */
function fromAttributes(attributes: Record<string, AttributeValue>): Stored {
  const values = Object.entries(attributes).map(([name, attribute]) => {
    return [name, fromAttribute(attribute)];
  });
  return Object.fromEntries(values);
}

function fromAttribute(attribute: AttributeValue): unknown {
  const { S, N, BOOL, M, L } = attribute;
  if (M) return fromAttributes(M);
  if (L) return L.map(fromAttribute);
  return N === undefined ? (S ?? BOOL ?? attribute) : Number(N);
}

/** As `Array.isArray`, which does not know arrays that are read-only. */
function isList(value: Value): value is readonly Value[] {
  return Array.isArray(value);
}
