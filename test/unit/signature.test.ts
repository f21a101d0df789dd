import fc from 'fast-check';
import { Webhook } from 'standardwebhooks';
import { describe, expect, test, vi } from 'vitest';
import { HttpError } from '../../functions/config-switch/errors.ts';
import {
  signatureHeaders,
  signedBody,
  verifySignature,
} from '../../functions/config-switch/event/signature.ts';
import { createSecret, signedHeaders } from '../stand-ins/webhook.ts';

const NOW = 1_795_000_000_000;
const secret = createSecret();
const webhooks = [new Webhook(createSecret()), new Webhook(secret)];

function verify(headers: Record<string, string>, body: string, arrival = NOW) {
  const signature = signatureHeaders(headers);
  return signature ? verifySignature(webhooks, signature, body, arrival) : 'missing';
}

describe('a signature', () => {
  test('is valid for any body and id signed with any of the secrets', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), fc.stringMatching(/^[!-~]{1,64}$/), (body, id) => {
        expect(verify(signedHeaders(secret, body, { id, at: NOW }), body)).toBe('right');
      }),
    );
  });

  test('is invalid for any other body, id, timestamp or secret', () => {
    fc.assert(
      fc.property(
        fc.string(),
        fc.stringMatching(/^[!-~]{1,20}$/),
        fc.integer({ min: 1, max: 1_000 }),
        (body, suffix, seconds) => {
          const headers = signedHeaders(secret, body, { at: NOW });
          const timestamp = String(Number(headers['webhook-timestamp']) + seconds);
          expect(verify(headers, body + suffix)).toBe('wrong');
          expect(verify({ ...headers, 'webhook-id': `msg_${suffix}` }, body)).toBe('wrong');
          expect(verify({ ...headers, 'webhook-timestamp': timestamp }, body)).toBe('wrong');
          expect(verify(signedHeaders(createSecret(), body, { at: NOW }), body)).toBe('wrong');
        },
      ),
    );
  });

  test('may be one of several in the header', () => {
    const headers = signedHeaders(secret, '{}', { at: NOW });
    const signature = `v1a,AAAA v1,AAAA v1 ${headers['webhook-signature']}`;
    expect(verify({ ...headers, 'webhook-signature': signature }, '{}')).toBe('right');
  });

  test.each([
    [-301, 'stale'],
    [-300, 'right'],
    [300, 'right'],
    [301, 'stale'],
    [-86_400, 'stale'],
  ])('with a timestamp %i s from its arrival is %s', (seconds, verdict) => {
    expect(verify(signedHeaders(secret, '{}', { at: NOW + seconds * 1_000 }), '{}')).toBe(verdict);
  });

  test('that is both invalid and stale is reported as invalid', () => {
    expect(verify(signedHeaders(createSecret(), '{}', { at: 0 }), '{}')).toBe('wrong');
  });

  test.each([
    ['webhook-id', ''],
    ['webhook-signature', ''],
    ['webhook-timestamp', ''],
    ['webhook-timestamp', '-1'],
    ['webhook-timestamp', '1795000000.5'],
    ['webhook-timestamp', '999999999999'],
    ['webhook-timestamp', 'now'],
  ])('is missing if the header %s is "%s"', (name, value) => {
    expect(verify({ ...signedHeaders(secret, '{}', { at: NOW }), [name]: value }, '{}')).toBe('missing');
  });
});

describe('a signed body', () => {
  const { signal } = new AbortController();
  const source = (...read: readonly (readonly Webhook[] | undefined)[]) => ({
    webhooks: async () => read[0] ?? [],
    rereadWebhooks: async () => read[1],
  });
  const read = (event: Parameters<typeof signedBody>[0], from = source(webhooks)) =>
    signedBody(event, NOW, from, signal);
  const signed = (body: string, base64 = false) => ({
    headers: signedHeaders(secret, body, { at: NOW }),
    body: base64 ? Buffer.from(body).toString('base64') : body,
    isBase64Encoded: base64,
  });

  test('with a valid signature does not read the secrets again', async () => {
    const reread = vi.fn();
    await read(signed('{}'), { ...source(webhooks), rereadWebhooks: reread });
    expect(reread).not.toHaveBeenCalled();
  });

  test('is returned as it was sent, with or without base64', async () => {
    expect(await read(signed('{"ä":"✓"}'))).toBe('{"ä":"✓"}');
    expect(await read(signed('{"ä":"✓"}', true))).toBe('{"ä":"✓"}');
    const { headers } = signed('');
    expect(await read({ headers, isBase64Encoded: false })).toBe('');
  });

  test('may have up to 64 KB, in any encoding', async () => {
    const largest = 'ä'.repeat(32 * 1024);
    expect(await read(signed(largest, true))).toBe(largest);
    for (const base64 of [false, true]) {
      await expect(read(signed(`${largest}x`, base64))).rejects.toMatchObject({
        name: 'InvalidArgs',
        message: 'the body has 65537 bytes; the maximum is 65536',
      });
    }
  });

  test('is rejected with the reason for the log', async () => {
    const without = { ...signed('{}'), headers: {} };
    await expect(read(without)).rejects.toMatchObject({
      why: 'signature',
      message:
        'webhook without a valid signature header: webhook-id, webhook-timestamp or webhook-signature is missing',
    });
    await expect(read({ ...signed('{}'), body: '{ }' })).rejects.toMatchObject({
      why: 'signature',
      message: 'webhook with an invalid signature: it was not signed with a secret in webhook-secret',
    });
    const stale = { ...signed('{}'), headers: signedHeaders(secret, '{}', { at: NOW - 301_000 }) };
    await expect(read(stale)).rejects.toMatchObject({
      why: 'timestamp',
      message:
        "webhook with a valid signature, but a timestamp more than 5 minutes off: check the node's clock",
    });
  });

  test('may be signed with a secret that is found when the secrets are read again', async () => {
    const other = [new Webhook(createSecret())];
    expect(await read(signed('{}'), source(other, webhooks))).toBe('{}');
    await expect(read(signed('{}'), source(other, other))).rejects.toMatchObject({ why: 'signature' });
    await expect(read(signed('{}'), source(other, undefined))).rejects.toMatchObject({ why: 'signature' });
  });

  test('is rejected while the secrets are unavailable, and other errors are thrown unchanged', async () => {
    const failing = (cause: Error) => ({
      webhooks: () => Promise.reject(cause),
      rereadWebhooks: () => Promise.reject(cause),
    });
    const cause = new HttpError('SSM is down');
    await expect(read(signed('{}'), failing(cause))).rejects.toMatchObject({
      why: 'secret unreadable',
      message: 'webhook not verified: SSM is down',
      cause,
    });
    const bug = new TypeError('a bug');
    await expect(read(signed('{}'), failing(bug))).rejects.toBe(bug);
  });
});

describe('the reference library', () => {
  test('accepts the same fresh signatures', () => {
    fc.assert(
      fc.property(fc.json(), fc.boolean(), (body, valid) => {
        const at = Date.now();
        const headers = signedHeaders(valid ? secret : createSecret(), body, { at });
        let accepted = true;
        try {
          new Webhook(secret).verify(body, headers, { jsonParse: false });
        } catch {
          accepted = false;
        }
        expect(verify(headers, body, at)).toBe(accepted ? 'right' : 'wrong');
      }),
    );
  });
});
