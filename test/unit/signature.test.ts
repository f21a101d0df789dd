import fc from 'fast-check';
import { Webhook } from 'standardwebhooks';
import { describe, expect, test } from 'vitest';
import { signatureHeaders, verifySignature } from '../../functions/config-switch/signature.ts';
import { createSecret, signedHeaders } from '../stand-ins/webhook.ts';

const NOW = 1_795_000_000_000;
const secret = createSecret();
const ours = [new Webhook(createSecret()), new Webhook(secret)];

function verify(headers: Record<string, string>, body: string, arrival = NOW) {
  const taken = signatureHeaders(headers);
  return taken ? verifySignature(ours, taken, body, arrival) : 'missing';
}

describe('a signature', () => {
  test('is right for any body and id that any of the secrets signed', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), fc.stringMatching(/^[!-~]{1,64}$/), (body, id) => {
        expect(verify(signedHeaders(secret, body, { id, at: NOW }), body)).toBe('right');
      }),
    );
  });

  test('is wrong for any other body, id, time or secret', () => {
    fc.assert(
      fc.property(
        fc.string(),
        fc.string({ minLength: 1 }),
        fc.integer({ min: 1, max: 1_000 }),
        (body, more, seconds) => {
          const headers = signedHeaders(secret, body, { at: NOW });
          const timestamp = String(Number(headers['webhook-timestamp']) + seconds);
          expect(verify(headers, body + more)).toBe('wrong');
          expect(verify({ ...headers, 'webhook-id': `msg_${more}` }, body)).toBe('wrong');
          expect(verify({ ...headers, 'webhook-timestamp': timestamp }, body)).toBe('wrong');
          expect(verify(signedHeaders(createSecret(), body, { at: NOW }), body)).toBe('wrong');
        },
      ),
    );
  });

  test('may stand among others', () => {
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
  ])('dated %i s from its arrival is %s', (seconds, verdict) => {
    expect(verify(signedHeaders(secret, '{}', { at: NOW + seconds * 1_000 }), '{}')).toBe(verdict);
  });

  test('that is wrong is wrong, however stale', () => {
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
  ])('with %s as "%s" is none', (name, value) => {
    expect(verify({ ...signedHeaders(secret, '{}', { at: NOW }), [name]: value }, '{}')).toBe('missing');
  });
});

describe('the reference library', () => {
  test('agrees with us on what is fresh', () => {
    fc.assert(
      fc.property(fc.json(), fc.boolean(), (body, known) => {
        const at = Date.now();
        const headers = signedHeaders(known ? secret : createSecret(), body, { at });
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
