import { createSecretKey } from 'node:crypto';
import type { Context } from 'aws-lambda';
import { describe, expect, test } from 'vitest';
import { HttpError, InvalidArgs, WrongCluster } from '../../functions/config-switch/errors.ts';
import { parseRoleChange } from '../../functions/config-switch/event/payload.ts';
import { receive } from '../../functions/config-switch/event/receive.ts';
import { authenticate, authorise } from '../../functions/config-switch/event/sender.ts';
import type { Secret, SecretSource } from '../../functions/config-switch/event/signature.ts';
import { createSecret, httpEvent, signedHeaders } from '../stand-ins/webhook.ts';

const CONTEXT = { awsRequestId: 'request-1', getRemainingTimeInMillis: () => 1_501 } as Context;
const { signal } = new AbortController();
const secret = createSecret();
const secretOf = (parameter: string, servers: Secret['servers']): Secret => ({
  key: createSecretKey(secret.replace('whsec_', ''), 'base64'),
  servers,
  parameter,
});
const unread = () => Promise.reject(new Error('not to be read'));
const sourceOf = (secrets: readonly Secret[]): SecretSource => ({
  secrets: async () => secrets,
  rereadSecrets: unread,
});
const ANY = secretOf('webhook-secret', 'all');

const senderOf = async (event: unknown, secrets: readonly Secret[] = [ANY]) => {
  const received = receive(event, CONTEXT);
  received.clearDeadline();
  return authenticate(received, sourceOf(secrets));
};
const webhook = (body: string) => httpEvent(body, signedHeaders(secret, body), { timeEpoch: Date.now() });

describe('the sender', () => {
  test('of a webhook is who has the secret, and its payload is the JSON of the body', async () => {
    const sender = await senderOf(webhook('{"a":1}'));
    expect(sender.payload()).toEqual({ a: 1 });
    expect(sender.webhook?.matching).toEqual([ANY]);
  });

  test('of a webhook without JSON is known all the same', async () => {
    const { payload } = await senderOf(webhook('role=primary'));
    expect(payload).toThrow(new InvalidArgs('the body is not JSON; send the payload as a JSON object'));
  });

  test.each<[string, unknown]>([
    ['an EventBridge event', { 'detail-type': 'x', detail: 7, id: 'a', time: '2026-11-23T06:09:00Z' }],
    ['a direct invocation', 7],
  ])('of %s is known to IAM, and no secret is read', async (_, event) => {
    const received = receive(event, CONTEXT);
    received.clearDeadline();
    const sender = await authenticate(received, { secrets: unread, rereadSecrets: unread });
    expect([sender.payload(), sender.webhook]).toEqual([7, undefined]);
  });

  test('of an HTTP request that is not in payload format 2.0 is rejected, with the remedy', async () => {
    await expect(senderOf({ requestContext: {} })).rejects.toMatchObject({
      why: 'payload format',
      message:
        'HTTP request that is not in payload format 2.0; invoke the function through an HTTP API, ' +
        'and set the payload format of its integration to 2.0',
    });
  });
});

describe('the permission', () => {
  const roleChangeOf = (barman_server: string) =>
    parseRoleChange({ action: 'on_role_change', role: 'primary', cluster: 'main', barman_server });
  const run = async (
    matching: readonly Secret[] | undefined,
    barman_server: string,
    rereadSecrets: SecretSource['rereadSecrets'],
  ) => {
    const sender = await senderOf(matching ? webhook('{}') : {}, matching);
    return authorise(sender, roleChangeOf(barman_server), { rereadSecrets }, signal);
  };
  const a = secretOf('clusters/a', new Set(['a1', 'a2']));
  const b = secretOf('clusters/b', new Set(['b1']));

  test.each<[string, readonly Secret[] | undefined, string]>([
    ['a server of the cluster', [a], 'a2'],
    ['a server of either cluster', [a, b], 'b1'],
    ['any server with webhook-secret', [ANY], 'x'],
    ['any server by other callers', undefined, 'x'],
  ])('is given for %s', async (_, matching, barman_server) => {
    expect(await run(matching, barman_server, unread)).toMatchObject(roleChangeOf(barman_server));
  });

  test('is given for a server that was added meanwhile', async () => {
    expect(await run([a], 'b1', async () => [a, b])).toMatchObject({ barman_server: 'b1' });
  });

  test.each<[string, SecretSource['rereadSecrets']]>([
    ['were read less than a minute ago', async () => undefined],
    ['do not list it either', async () => [a]],
    ['cannot be read', () => Promise.reject(new HttpError('no SSM'))],
  ])('is refused for any other server, if the parameters %s', async (_, reread) => {
    await expect(run([a, a], 'b1', reread)).rejects.toEqual(
      new WrongCluster(
        'the secret in clusters/a may not switch Barman server b1; add the server there, or sign with the secret of its own cluster',
      ),
    );
  });

  test('is refused with ten names at most of clusters that have the secret', async () => {
    const many = Array.from({ length: 11 }, (_, index) => secretOf(`clusters/c${index}`, new Set(['x'])));
    await expect(run(many, 'c1', async () => undefined)).rejects.toThrow(
      /clusters\/c9 and 1 more may not switch/,
    );
  });

  test('is refused with the names of all clusters that have the secret', async () => {
    await expect(run([a, b], 'c1', async () => undefined)).rejects.toThrow(
      /^the secret in clusters\/a, clusters\/b may not switch Barman server c1;/,
    );
  });
});
