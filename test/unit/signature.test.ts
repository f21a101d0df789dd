import { createSecretKey } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, test, vi } from 'vitest';
import { HttpError, InvalidArgs } from '../../functions/config-switch/errors.ts';
import {
  isStale,
  matchingSecrets,
  type Secret,
  type SecretSource,
  signatureHeaders,
  signedWebhook,
} from '../../functions/config-switch/event/signature.ts';
import { createSecret, signedHeaders } from '../stand-ins/webhook.ts';

const NOW = 1_795_000_000_000;
const secret = createSecret();
const secretOf = (
  text: string,
  parameter = 'webhook-secret',
  servers: Secret['servers'] = 'all',
): Secret => ({ key: createSecretKey(text.replace('whsec_', ''), 'base64'), servers, parameter });
const secrets = [secretOf(createSecret()), secretOf(secret)];

function verify(headers: Record<string, string | undefined>, body: string, arrival = NOW) {
  const given = signatureHeaders(headers);
  if (!given) return 'missing';
  const matching = matchingSecrets(secrets, given, Buffer.from(body));
  if (matching.length === 0) return 'wrong';
  expect(matching).toEqual([secrets[1]]);
  return isStale(given, arrival) ? 'stale' : 'right';
}

describe('a signature', () => {
  // Signed by the reference library, standardwebhooks.
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
    ['webhook-id', undefined],
    ['webhook-signature', ''],
    ['webhook-signature', undefined],
    ['webhook-timestamp', ''],
    ['webhook-timestamp', undefined],
    ['webhook-timestamp', '-1'],
    ['webhook-timestamp', '1795000000.5'],
    ['webhook-timestamp', '999999999999'],
    ['webhook-timestamp', 'now'],
  ])('is missing if the header %s is %j', (name, value) => {
    expect(verify({ ...signedHeaders(secret, '{}', { at: NOW }), [name]: value }, '{}')).toBe('missing');
  });
});

describe('a signed body', () => {
  const { signal } = new AbortController();
  const source = (...read: readonly (readonly Secret[] | undefined)[]): SecretSource => ({
    secrets: async () => read[0] ?? [],
    rereadSecrets: async () => read[1],
  });
  const read = (event: Parameters<typeof signedWebhook>[0], from = source(secrets)) =>
    signedWebhook(event, NOW, from, signal).then(({ body }) => body);
  /** A webhook, with its body in base64 unless that is text. */
  const signed = (sent: string | Buffer, of = secret, options: object = {}) => ({
    headers: signedHeaders(of, sent, { at: NOW, ...options }),
    body: typeof sent === 'string' ? sent : sent.toString('base64'),
    isBase64Encoded: typeof sent !== 'string',
  });

  test('with a valid signature does not read the secrets again', async () => {
    const rereadSecrets = vi.fn();
    await read(signed('{}'), { ...source(secrets), rereadSecrets });
    expect(rereadSecrets).not.toHaveBeenCalled();
  });

  test('is returned as it was sent, with or without base64', async () => {
    expect(await read(signed('{"ä":"✓"}'))).toBe('{"ä":"✓"}');
    expect(await read(signed(Buffer.from('{"ä":"✓"}')))).toBe('{"ä":"✓"}');
    const { headers } = signed('');
    expect(await read({ headers, isBase64Encoded: false })).toBe('');
  });

  test('may have up to 16 KB, in any encoding; a larger one is rejected before the secrets are read', async () => {
    const largest = 'ä'.repeat(8 * 1024);
    expect(await read(signed(Buffer.from(largest)))).toBe(largest);
    const unread = vi.fn();
    for (const body of [`${largest}x`, Buffer.from(`${largest}x`)]) {
      const message = 'webhook with a body of 16385 bytes; the maximum is 16384';
      const rejected = expect(read(signed(body), { ...source(secrets), secrets: unread })).rejects;
      await rejected.toMatchObject({ why: 'body too large', message });
    }
    expect(unread).not.toHaveBeenCalled();
  });

  test('is verified as the bytes that were sent, and only then as UTF-8', async () => {
    const bytes = Buffer.from('{"cluster":"Köln"}', 'latin1');
    await expect(read(signed(bytes))).rejects.toThrow(
      new InvalidArgs('the body is not valid UTF-8; send the payload as a JSON object in UTF-8'),
    );
    await expect(read(signed(bytes, createSecret()))).rejects.toMatchObject({ why: 'signature' });
  });

  test('with an invalid event id is rejected only if the signature is valid', async () => {
    expect(await read(signed('{}', secret, { id: 'x'.repeat(128) }))).toBe('{}');
    const id = 'x'.repeat(129);
    const form = '1 to 128 printable ASCII characters without spaces';
    await expect(read(signed('{}', secret, { id }))).rejects.toThrow(
      new InvalidArgs(`webhook-id must be ${form}, not "${'x'.repeat(79)}…`),
    );
    await expect(read(signed('{}', createSecret(), { id }))).rejects.toMatchObject({ why: 'signature' });
  });

  test.each([
    [
      'signature',
      'webhook without a valid signature header: webhook-id, webhook-timestamp or webhook-signature is missing',
      { ...signed('{}'), headers: {} },
    ],
    [
      'signature',
      'webhook with an invalid signature: it matches no secret in webhook-secret; ' +
        'if the right parameter is missing here, `npm run ledger -- --stage STAGE check` says why',
      { ...signed('{}'), body: '{ }' },
    ],
    [
      'timestamp',
      "webhook with a valid signature, but a timestamp more than 5 minutes off: check the node's clock",
      signed('{}', secret, { at: NOW - 301_000 }),
    ],
  ])('is rejected for its %s, with the reason for the log: %s', async (why, message, event) => {
    await expect(read(event)).rejects.toMatchObject({ why, message });
  });

  test('is rejected with the names of the parameters that were tried last', async () => {
    const of = (...names: string[]) => names.map((name) => secretOf(createSecret(), `clusters/${name}`));
    const many = of(...Array.from({ length: 12 }, (_, index) => `c${index}`));
    for (const [sources, named] of [
      [source(of('a', 'b', 'b'), undefined), 'clusters/a, clusters/b;'],
      [source(of('a'), of('c')), 'clusters/c;'],
      [source(many, undefined), 'clusters/c8, clusters/c9 and 2 more;'],
    ] as const) {
      await expect(read(signed('{}'), sources)).rejects.toThrow(named);
    }
  });

  test('may be signed with a secret that is found when the secrets are read again', async () => {
    const other = [secretOf(createSecret())];
    expect(await read(signed('{}'), source(other, secrets))).toBe('{}');
    await expect(read(signed('{}'), source(other, other))).rejects.toMatchObject({ why: 'signature' });
    await expect(read(signed('{}'), source(other, undefined))).rejects.toMatchObject({ why: 'signature' });
  });

  test('is rejected while the secrets are unavailable, and other errors are thrown unchanged', async () => {
    const failing = (cause: Error) => ({ ...source(), secrets: () => Promise.reject(cause) });
    const cause = new HttpError('SSM is down');
    const unreadable = { why: 'secret unreadable', message: 'webhook not verified: SSM is down', cause };
    await expect(read(signed('{}'), failing(cause))).rejects.toMatchObject(unreadable);
    const bug = new TypeError('a bug');
    await expect(read(signed('{}'), failing(bug))).rejects.toBe(bug);
  });

  test('matches all secrets with the same key, and can be tried with others later', async () => {
    const both = ['a', 'b'].map((name) => secretOf(secret, `clusters/${name}`, new Set([name])));
    const from = source([...both, secretOf(createSecret())]);
    const webhook = await signedWebhook(signed('{}'), NOW, from, signal);
    expect(webhook.matching).toEqual(both);
    expect(webhook.matchingOf(secrets)).toEqual([secrets[1]]);
  });
});
