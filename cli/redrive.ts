/**
 * Sends the events of the failure queue to the function again. A message is deleted only once its event is
 * recorded, or if it is not to be followed; every other one is named, and stays in the queue.
 */

import {
  ChangeMessageVisibilityCommand,
  DeleteMessageCommand,
  GetQueueAttributesCommand,
  GetQueueUrlCommand,
  ReceiveMessageCommand,
  SQSClient,
} from '@aws-sdk/client-sqs';
import * as v from 'valibot';
import { messageOf } from '../functions/config-switch/errors.ts';
import { parseRoleChange } from '../functions/config-switch/event/payload.ts';
import { eventBridgeTime, isEventBridge } from '../functions/config-switch/event/receive.ts';
import { ResponseSchema } from '../functions/config-switch/event/response.ts';
import { ExitCode } from '../functions/config-switch/exit-code.ts';
import { explainToOperator } from '../functions/config-switch/http/network-errors.ts';
import type { Item } from '../functions/config-switch/ledger/item.ts';
import { eventIdOf, eventTimeOf } from '../functions/config-switch/version.ts';
import { print } from './command-line.ts';

/**
 * How long Lambda keeps an event at most before it gives up (ms; `maximumEventAge` in
 * infra/function/function.yml).
 */
const LONGEST_AGE = 6 * 3_600_000;
/** How long a message that was received is invisible (s): an invocation takes up to half a minute. */
const VISIBILITY_TIMEOUT = 600;

const Json = v.pipe(v.string(), v.parseJson());
const Heartbeat = v.strictObject({ heartbeat: v.literal(true) });
/** An event that Lambda gave up (Developer Guide, "Capturing records of Lambda asynchronous invocations"). */
const LambdaRecord = v.object({ requestContext: v.looseObject({}), requestPayload: v.unknown() });
/** What dates one of a direct invocation, which carries no time. */
const Dated = v.object({
  requestContext: v.object({ requestId: v.string() }),
  /** When Lambda gave up (ms since the epoch). */
  timestamp: v.pipe(v.string(), v.transform(Date.parse), v.number()),
});

/** A message of the failure queue. */
export interface Message {
  readonly id: string;
  readonly receipt: string;
  readonly body: string;
}

/** The failure queue. Each method throws what the queue answers. */
export interface Queue {
  /** Returns about how many messages another reader has received, which are invisible meanwhile. */
  inFlight(): Promise<number>;
  /** Returns some messages, which are invisible to others for a while; none if there are no more */
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
 * Redrives all messages, and prints what has happened to each.
 *
 * @returns how many were deleted, how many are left, and about how many could not be received, because
 *   another run has them, or had them when it was interrupted
 * @throws Error if the queue cannot be read
 */
export async function redrive(
  options: RedriveOptions,
): Promise<{ deleted: number; left: number; inFlight: number }> {
  const { queue } = options;
  // Before any message is received here.
  const inFlight = await queue.inFlight();
  const left = new Map<string, Message>();
  let deleted = 0;
  try {
    for (;;) {
      const messages = await queue.receive();
      // Those that are left become visible again only afterwards, or if this takes very long.
      if (messages.every(({ id }) => left.has(id))) break;
      for (const message of messages.filter(({ id }) => !left.has(id))) {
        // Until it is deleted.
        left.set(message.id, message);
        const { done, text } = await redriveAndDelete(options, message);
        print(`${message.id}: ${done ? 'deleted' : 'left in the queue'}: ${text}`);
        if (!done) continue;
        left.delete(message.id);
        deleted += 1;
      }
    }
  } finally {
    for (const message of left.values()) {
      await queue.release(message).catch((error: unknown) => {
        print(`${message.id}: visible again only in ${VISIBILITY_TIMEOUT / 60} minutes: ${messageOf(error)}`);
      });
    }
  }
  print(`${deleted} deleted, ${left.size} left in the queue`);
  if (inFlight > 0) {
    print(
      `When this began, about ${inFlight} more were in flight: another run had received them, perhaps one that was interrupted. ` +
        `What it has not deleted is visible again within ${VISIBILITY_TIMEOUT / 60} minutes: run this again then.`,
    );
  }
  return { deleted, left: left.size, inFlight };
}

/** Sends the event of a message, and deletes the message if it can be. @returns whether it was, and why */
async function redriveAndDelete(
  options: RedriveOptions,
  message: Message,
): Promise<{ done: boolean; text: string }> {
  try {
    const result = await redriveOne(options, message);
    if (!result.done) return result;
    try {
      await options.queue.delete(message);
    } catch (error) {
      const reason = `could not be deleted: ${messageOf(error)}; to send it again does no harm`;
      return { done: false, text: `${result.text}; but the message ${reason}` };
    }
    return result;
  } catch (error) {
    return { done: false, text: messageOf(error) };
  }
}

/** Returns whether the message can be deleted, and why @throws Error also for a malformed one */
async function redriveOne(
  { ledger, invoke }: RedriveOptions,
  { body }: Message,
): Promise<{ done: boolean; text: string }> {
  // Text that is not JSON stays as it is, and is malformed, too.
  const json = v.safeParse(Json, body).output;
  const record = v.safeParse(LambdaRecord, json);
  // EventBridge's own dead-letter queue has the event as it is.
  let event = record.success ? record.output.requestPayload : json;
  if (v.is(Heartbeat, event)) return { done: true, text: 'a heartbeat, which is not repeated' };
  if (!isEventBridge(event) || Number.isNaN(eventBridgeTime(event))) {
    if (!record.success) throw new Error('malformed: it is neither an event of EventBridge nor of Lambda');
    const { barman_server } = parseRoleChange(event);
    const dated = v.safeParse(Dated, json);
    if (!dated.success) throw new Error('malformed: it has no request id or no timestamp');
    const { requestContext, timestamp } = dated.output;
    const newest = (await ledger.get(barman_server, AbortSignal.timeout(30_000)))?.desired?.version;
    const mayBeNewer = eventTimeOf(newest ?? '') > timestamp - LONGEST_AGE;
    if (newest !== undefined && mayBeNewer && eventIdOf(newest) !== requestContext.requestId) {
      throw new Error(
        `a direct invocation carries no time, and ${barman_server} has a role change that may be newer (${newest}); ` +
          'compare both, and delete the message, or invoke the function with its payload',
      );
    }
    // It gets its first request id, and so the version of its first delivery, if that got so far.
    event = {
      id: requestContext.requestId,
      'detail-type': 'Patroni role change',
      source: 'patroni',
      time: new Date(timestamp).toISOString(),
      detail: event,
    };
  }
  const response = v.safeParse(ResponseSchema, await invoke(event));
  if (!response.success) throw new Error('the response of the function is not as expected');
  const { recorded, exit_code, message } = response.output;
  return { done: recorded || exit_code === ExitCode.CONFIG_SWITCH_SKIPPED, text: message };
}

/**
 * Returns the failure queue of a stage, in SQS.
 *
 * @param name of the function
 * @throws Error if it has no such queue
 */
export async function failureQueue(name: string): Promise<Queue> {
  const client = new SQSClient({});
  const explained = async <T>(response: Promise<T>): Promise<T> => {
    try {
      return await response;
    } catch (error) {
      throw new Error(`the failure queue ${name}-failures: ${explainToOperator(error, 'SQS')}`);
    }
  };
  const named = new GetQueueUrlCommand({ QueueName: `${name}-failures` });
  const { QueueUrl } = await explained(client.send(named));
  return {
    inFlight: async () => {
      const AttributeNames = ['ApproximateNumberOfMessagesNotVisible' as const];
      const command = new GetQueueAttributesCommand({ QueueUrl, AttributeNames });
      const { Attributes } = await explained(client.send(command));
      return Number(Attributes?.ApproximateNumberOfMessagesNotVisible ?? 0);
    },
    receive: async () => {
      const command = new ReceiveMessageCommand({
        QueueUrl,
        MaxNumberOfMessages: 10,
        WaitTimeSeconds: 1,
        VisibilityTimeout: VISIBILITY_TIMEOUT,
      });
      const { Messages = [] } = await explained(client.send(command));
      return Messages.map(({ MessageId = '', ReceiptHandle = '', Body = '' }) => ({
        id: MessageId,
        receipt: ReceiptHandle,
        body: Body,
      }));
    },
    delete: async ({ receipt }) => {
      await explained(client.send(new DeleteMessageCommand({ QueueUrl, ReceiptHandle: receipt })));
    },
    release: async ({ receipt }) => {
      const visible = { QueueUrl, ReceiptHandle: receipt, VisibilityTimeout: 0 };
      await explained(client.send(new ChangeMessageVisibilityCommand(visible)));
    },
  };
}
