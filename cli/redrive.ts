/**
 * Sends the events of the failure queue to the function again. A message is deleted only once its event is recorded, or if it is not
 * to be followed; every other one is named, and stays in the queue.
 */

import {
  ChangeMessageVisibilityCommand,
  DeleteMessageCommand,
  GetQueueUrlCommand,
  ReceiveMessageCommand,
  SQSClient,
} from '@aws-sdk/client-sqs';
import { type Item, timeOf } from '../functions/config-switch/reconcile/item.ts';
import { eventIdOf, eventTimeOf } from '../functions/config-switch/version.ts';

/** How long Lambda keeps an asynchronous event at most before it gives up (ms; `maximumEventAge` in infra/function/function.yml). */
const LONGEST_AGE = 6 * 3_600_000;

/** A message of the failure queue. */
export interface Message {
  readonly id: string;
  readonly receipt: string;
  readonly body: string;
}

/** The failure queue. */
export interface Queue {
  /** @returns some messages, which are invisible to others for a while; none if there are no more */
  receive(): Promise<readonly Message[]>;
  delete(message: Message): Promise<void>;
  /** Makes a message visible again. */
  release(message: Message): Promise<void>;
}

export interface RedriveOptions {
  readonly queue: Queue;
  readonly ledger: { get(server: string, signal: AbortSignal): Promise<Item | undefined> };
  /** Invokes the function. @returns its response @throws Error if it failed */
  readonly invoke: (event: unknown) => Promise<unknown>;
}

/**
 * Redrives all messages, and prints what happened to each.
 *
 * @returns how many were deleted, and how many are left
 */
export async function redrive(options: RedriveOptions): Promise<{ deleted: number; left: number }> {
  const { queue } = options;
  const left = new Map<string, Message>();
  let deleted = 0;
  for (;;) {
    const messages = await queue.receive();
    // Those that are left become visible again only afterwards, or if this takes very long.
    if (messages.every(({ id }) => left.has(id))) break;
    for (const message of messages.filter(({ id }) => !left.has(id))) {
      const { done, text } = await redriveOne(options, message).catch((error: unknown) => ({
        done: false,
        text: error instanceof Error ? error.message : String(error),
      }));
      console.log(`${message.id}: ${done ? 'deleted' : 'left in the queue'}: ${text}`);
      if (done) {
        await queue.delete(message);
        deleted += 1;
      } else left.set(message.id, message);
    }
  }
  for (const message of left.values()) await queue.release(message);
  console.log(`${deleted} deleted, ${left.size} left in the queue`);
  return { deleted, left: left.size };
}

/** @returns whether the message can be deleted, and why */
async function redriveOne(
  { ledger, invoke }: RedriveOptions,
  { body }: Message,
): Promise<{ done: boolean; text: string }> {
  const message = objectOf(parse(body));
  if (!message) return { done: false, text: 'malformed: it is not a JSON object' };
  const context = objectOf(message.requestContext);
  // From EventBridge's own dead-letter queue, or from Lambda, which wraps the event (AWS Lambda Developer Guide, "Capturing
  // records of Lambda asynchronous invocations").
  let event = context ? objectOf(message.requestPayload) : message;
  if (!event) return { done: false, text: 'malformed: it has no event' };
  if (event.heartbeat === true && Object.keys(event).length === 1) {
    return { done: true, text: 'a heartbeat, which is not repeated' };
  }
  if (event.detail === undefined || typeof event.time !== 'string') {
    if (!context)
      return { done: false, text: 'malformed: it is neither an event of EventBridge nor of Lambda' };
    const { requestId } = context;
    const server = event.barman_server;
    const failedAt = timeOf(String(message.timestamp), Number.NaN);
    if (typeof requestId !== 'string' || typeof server !== 'string' || Number.isNaN(failedAt)) {
      return { done: false, text: 'malformed: it has no request id, timestamp or barman_server' };
    }
    const newer = await newerThan(ledger, server, failedAt - LONGEST_AGE, requestId);
    if (newer) {
      return {
        done: false,
        text:
          `a direct invocation carries no time, and ${server} has a role change that may be newer (${newer}); ` +
          'compare both, and delete the message, or invoke the function with its payload',
      };
    }
    // It gets its first request id, and so the version of its first delivery, if that got so far.
    event = {
      id: requestId,
      'detail-type': 'Patroni role change',
      source: 'patroni',
      time: new Date(failedAt).toISOString(),
      detail: event,
    };
  }
  const {
    exit_code,
    recorded,
    message: text = 'the function gave no reason',
  } = objectOf(await invoke(event)) ?? {};
  return { done: recorded === true || exit_code === 1, text: String(text) };
}

/** @returns the newest version of a server if it may be newer than an event, of another id, from this time on (ms since the epoch) */
async function newerThan(
  ledger: RedriveOptions['ledger'],
  server: string,
  time: number,
  eventId: string,
): Promise<string | undefined> {
  const { desired_version: newest } = (await ledger.get(server, AbortSignal.timeout(30_000))) ?? {};
  if (newest === undefined || eventIdOf(newest) === eventId) return undefined;
  return eventTimeOf(newest) > time ? newest : undefined;
}

function parse(body: string): unknown {
  try {
    return JSON.parse(body);
  } catch {
    return undefined;
  }
}

function objectOf(value: unknown): Record<string, unknown> | undefined {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
    ? (value as Record<string, unknown>)
    : undefined;
}

/** The failure queue of a stage, in SQS. */
export class FailureQueue implements Queue {
  readonly #client: SQSClient;
  readonly #url: string;

  private constructor(client: SQSClient, url: string) {
    this.#client = client;
    this.#url = url;
  }

  /** @param name of the function @throws Error if it has no such queue */
  static async find(name: string): Promise<FailureQueue> {
    const client = new SQSClient({});
    const { QueueUrl } = await client.send(new GetQueueUrlCommand({ QueueName: `${name}-failures` }));
    return new FailureQueue(client, QueueUrl ?? '');
  }

  async receive(): Promise<readonly Message[]> {
    const { Messages = [] } = await this.#client.send(
      // An invocation takes up to half a minute.
      new ReceiveMessageCommand({
        QueueUrl: this.#url,
        MaxNumberOfMessages: 10,
        WaitTimeSeconds: 1,
        VisibilityTimeout: 600,
      }),
    );
    return Messages.map(({ MessageId = '', ReceiptHandle = '', Body = '' }) => ({
      id: MessageId,
      receipt: ReceiptHandle,
      body: Body,
    }));
  }

  async delete({ receipt }: Message): Promise<void> {
    await this.#client.send(new DeleteMessageCommand({ QueueUrl: this.#url, ReceiptHandle: receipt }));
  }

  async release({ receipt }: Message): Promise<void> {
    await this.#client.send(
      new ChangeMessageVisibilityCommand({
        QueueUrl: this.#url,
        ReceiptHandle: receipt,
        VisibilityTimeout: 0,
      }),
    );
  }
}
