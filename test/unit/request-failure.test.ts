import { describe, expect, test } from 'vitest';
import { failureOf, refusalOf } from '../../functions/config-switch/request-failure.ts';

function networkError(code: string, message = code): Error {
  return Object.assign(new Error(message), { code });
}

describe('a request that had no answer', () => {
  test.each([
    ['ECONNREFUSED', { transient: true, begun: 'no', doubtsCredentials: false }],
    ['ENOTFOUND', { transient: true, begun: 'no', doubtsCredentials: false }],
    ['EAI_AGAIN', { transient: true, begun: 'no', doubtsCredentials: false }],
    ['EHOSTUNREACH', { transient: true, begun: 'no', doubtsCredentials: false }],
    ['UND_ERR_CONNECT_TIMEOUT', { transient: true, begun: 'no', doubtsCredentials: false }],
    ['ECONNRESET', { transient: true, begun: 'unknown', doubtsCredentials: false }],
    ['UND_ERR_SOCKET', { transient: true, begun: 'unknown', doubtsCredentials: false }],
    ['HPE_INVALID_CONSTANT', { transient: true, begun: 'unknown', doubtsCredentials: false }],
    ['UND_ERR_RES_EXCEEDED_MAX_SIZE', { transient: true, begun: 'unknown', doubtsCredentials: false }],
    ['EMFILE', { transient: true, begun: 'unknown', doubtsCredentials: false }],
    ['CERT_HAS_EXPIRED', { transient: false, begun: 'no', doubtsCredentials: true }],
    ['UNABLE_TO_VERIFY_LEAF_SIGNATURE', { transient: false, begun: 'no', doubtsCredentials: true }],
    ['SELF_SIGNED_CERT_IN_CHAIN', { transient: false, begun: 'no', doubtsCredentials: true }],
    ['DEPTH_ZERO_SELF_SIGNED_CERT', { transient: false, begun: 'no', doubtsCredentials: true }],
    ['ERR_TLS_CERT_ALTNAME_INVALID', { transient: false, begun: 'no', doubtsCredentials: true }],
    ['ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED', { transient: false, begun: 'no', doubtsCredentials: true }],
    ['ERR_SSL_TLSV1_ALERT_UNKNOWN_CA', { transient: false, begun: 'no', doubtsCredentials: true }],
    ['ERR_SSL_UNSUPPORTED_PROTOCOL', { transient: false, begun: 'no', doubtsCredentials: true }],
    ['EPROTO', { transient: false, begun: 'no', doubtsCredentials: true }],
  ])('for %s', (code, traits) => {
    expect(failureOf(networkError(code), false)).toMatchObject(traits);
  });

  test('because its first TLS session was cut may have had its certificate refused', () => {
    expect(failureOf(networkError('ECONNRESET'), true)).toMatchObject({
      transient: true,
      doubtsCredentials: true,
    });
    expect(failureOf(networkError('ECONNREFUSED'), true)).toMatchObject({ doubtsCredentials: false });
  });

  test('at any of several addresses is told by the first', () => {
    const error = new AggregateError([networkError('ECONNREFUSED'), networkError('EHOSTUNREACH')]);
    expect(failureOf(error, false)?.message).toContain('ECONNREFUSED');
  });

  test.each([new TypeError('a bug'), 'a string', undefined, null, { code: 'ECONNRESET' }])(
    'is none of ours to explain for %s',
    (error) => {
      expect(failureOf(error, false)).toBeUndefined();
    },
  );
});

describe('an answer without success', () => {
  test.each([
    [301, { transient: false, begun: 'no', doubtsCredentials: false }],
    [400, { transient: false, begun: 'no', doubtsCredentials: false }],
    [401, { transient: false, begun: 'no', doubtsCredentials: true }],
    [403, { transient: false, begun: 'no', doubtsCredentials: true }],
    [404, { transient: true, begun: 'no', doubtsCredentials: false }],
    [405, { transient: false, begun: 'no', doubtsCredentials: false }],
    [429, { transient: true, begun: 'no', doubtsCredentials: false }],
    [500, { transient: true, begun: 'no', doubtsCredentials: false }],
    [502, { transient: true, begun: 'unknown', doubtsCredentials: false }],
    [503, { transient: true, begun: 'unknown', doubtsCredentials: false }],
    [504, { transient: true, begun: 'unknown', doubtsCredentials: false }],
  ])('%i', (status, traits) => {
    expect(refusalOf(status, '')).toMatchObject({ status, ...traits });
  });

  test.each(['400 No required SSL certificate was sent', '400 The SSL certificate error'])(
    'of nginx to a client certificate (%s) doubts it',
    (heading) => {
      const page = `<html><head><title>400</title></head><body><center><h1>${heading}</h1></center></body></html>`;
      expect(refusalOf(400, page)).toMatchObject({ doubtsCredentials: true });
    },
  );

  test.each([
    ['{"error":"404 Not Found: no such thing"}', 'pg-backup-api answered 404: 404 Not Found: no such thing'],
    [
      '<!doctype html>\n<title>404</title>\n<h1>Not Found</h1>\n<p>Try again</p>',
      'pg-backup-api answered 404: Not Found Try again',
    ],
    ['plain\u001b[31m words\r\n', 'pg-backup-api answered 404: plain [31m words'],
    ['', 'pg-backup-api answered 404'],
    ['<'.repeat(5_000_000), `pg-backup-api answered 404: ${'<'.repeat(300)}…`],
    ['x'.repeat(400), `pg-backup-api answered 404: ${'x'.repeat(300)}…`],
  ])('is told in its own words: %j', (body, message) => {
    expect(refusalOf(404, body).message).toBe(message);
  });
});
