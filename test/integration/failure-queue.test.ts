/** What `redrive` asks SQS, over a real socket. */

import { createHash } from 'node:crypto';
import { createServer } from 'node:http';
import { text } from 'node:stream/consumers';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { failureQueue } from '../../cli/redrive.ts';
import { listen } from '../stand-ins/server.ts';

let QueueUrl: string;
/** What SQS answers, by action; an error has a type. */
let answers: Record<string, object>;
let requests: [action: string, input: unknown][];
let server: Awaited<ReturnType<typeof listen>>;

beforeEach(async () => {
  requests = [];
  server = await listen(
    createServer(async (request, response) => {
      const action = String(request.headers['x-amz-target']).replace('AmazonSQS.', '');
      requests.push([action, JSON.parse(await text(request))]);
      const answer = answers[action] ?? {};
      response.writeHead('__type' in answer ? 400 : 200, { 'content-type': 'application/x-amz-json-1.0' });
      response.end(JSON.stringify(answer));
    }),
  );
  // The SDK sends the other requests to the URL of the queue.
  QueueUrl = `http://127.0.0.1:${server.port}/`;
  answers = { GetQueueUrl: { QueueUrl } };
  vi.stubEnv('AWS_ENDPOINT_URL_SQS', QueueUrl);
  vi.stubEnv('AWS_REGION', 'eu-central-1');
  vi.stubEnv('AWS_ACCESS_KEY_ID', 'a');
  vi.stubEnv('AWS_SECRET_ACCESS_KEY', 'b');
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await server.close();
});

test('the failure queue › receives, deletes and releases messages, and counts those in flight', async () => {
  answers.GetQueueAttributes = { Attributes: { ApproximateNumberOfMessagesNotVisible: '3' } };
  const MD5OfBody = createHash('md5').update('{}').digest('hex');
  answers.ReceiveMessage = { Messages: [{ MessageId: 'm', ReceiptHandle: 'r', Body: '{}', MD5OfBody }] };
  const queue = await failureQueue('barman-config-switch-prod');
  const message = { id: 'm', receipt: 'r', body: '{}' };
  expect(await queue.inFlight()).toBe(3);
  expect(await queue.receive()).toEqual([message]);
  await queue.delete(message);
  await queue.release(message);
  expect(requests).toEqual([
    ['GetQueueUrl', { QueueName: 'barman-config-switch-prod-failures' }],
    ['GetQueueAttributes', { QueueUrl, AttributeNames: ['ApproximateNumberOfMessagesNotVisible'] }],
    ['ReceiveMessage', { QueueUrl, MaxNumberOfMessages: 10, WaitTimeSeconds: 1, VisibilityTimeout: 600 }],
    ['DeleteMessage', { QueueUrl, ReceiptHandle: 'r' }],
    ['ChangeMessageVisibility', { QueueUrl, ReceiptHandle: 'r', VisibilityTimeout: 0 }],
  ]);
});

test('the failure queue › that is empty has no messages, and none in flight', async () => {
  const queue = await failureQueue('barman-config-switch-prod');
  expect([await queue.inFlight(), await queue.receive()]).toEqual([0, []]);
});

test('the failure queue › that may not be read is an error with the remedy for who runs the command', async () => {
  answers.GetQueueUrl = { __type: 'AccessDeniedException', message: 'User x is not authorized' };
  await expect(failureQueue('s')).rejects.toThrow(
    'the failure queue s-failures: AccessDeniedException: User x is not authorized; your role lacks a permission: see docs/reference/permissions.md',
  );
});
