import { describe, expect, test } from 'vitest';
import {
  expiredCertificate,
  failureOf,
  RequestFailure,
  refusalOf,
  timedOut,
  unexpected,
} from '../../functions/config-switch/barman/failures.ts';

function networkError(code: string, message = code): Error {
  return Object.assign(new Error(message), { code });
}

const NOT_BEGUN = { transient: true, begun: 'no', doubtsCredentials: false } as const;
const UNKNOWN = { transient: true, begun: 'unknown', doubtsCredentials: false } as const;
const CREDENTIALS_DOUBTED = { transient: false, begun: 'no', doubtsCredentials: true } as const;
const UNREACHED = 'pg-backup-api is unreachable: ';
const NO_RESPONSE = 'pg-backup-api did not respond: ';
const UNUSABLE = 'the response of pg-backup-api is not usable: so it is';
const UNTRUSTED = 'the certificate of the Barman host is not trusted: so it is';
const CHECK_CA = '; check ca-cert and url';
const CHECK_ALL = '; check client-cert, client-key and ca-cert';

describe('a request without a response', () => {
  test.each([
    ['ECONNREFUSED', NOT_BEGUN, `${UNREACHED}the connection was refused (ECONNREFUSED)`],
    ['ENOTFOUND', NOT_BEGUN, `${UNREACHED}its host name does not exist (ENOTFOUND)`],
    [
      'EAI_AGAIN',
      NOT_BEGUN,
      `${UNREACHED}its host name could not be resolved; if the VPC has DNS servers of its own, set the stage parameter dns (EAI_AGAIN)`,
    ],
    ['EHOSTUNREACH', NOT_BEGUN, `${UNREACHED}there is no route to the host (EHOSTUNREACH)`],
    ['ENETUNREACH', NOT_BEGUN, `${UNREACHED}there is no route to its network (ENETUNREACH)`],
    ['ETIMEDOUT', NOT_BEGUN, `${UNREACHED}the connection timed out (ETIMEDOUT)`],
    ['UND_ERR_CONNECT_TIMEOUT', NOT_BEGUN, `${UNREACHED}the connection timed out (UND_ERR_CONNECT_TIMEOUT)`],
    ['ECONNRESET', UNKNOWN, `${NO_RESPONSE}the connection was reset (ECONNRESET)`],
    ['EPIPE', UNKNOWN, `${NO_RESPONSE}the connection was closed (EPIPE)`],
    ['ECONNABORTED', UNKNOWN, `${NO_RESPONSE}the connection was closed (ECONNABORTED)`],
    ['UND_ERR_SOCKET', UNKNOWN, `${NO_RESPONSE}the connection was closed (UND_ERR_SOCKET)`],
    ['HPE_INVALID_CONSTANT', UNKNOWN, `${UNUSABLE} (HPE_INVALID_CONSTANT)`],
    ['UND_ERR_RES_EXCEEDED_MAX_SIZE', UNKNOWN, `${UNUSABLE} (UND_ERR_RES_EXCEEDED_MAX_SIZE)`],
    ['EMFILE', UNKNOWN, `${UNUSABLE} (EMFILE)`],
    ['NOT_EPROTO', UNKNOWN, `${UNUSABLE} (NOT_EPROTO)`],
    ...[
      'CERT_HAS_EXPIRED',
      'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
      'SELF_SIGNED_CERT_IN_CHAIN',
      'DEPTH_ZERO_SELF_SIGNED_CERT',
      'INVALID_CA',
      'INVALID_PURPOSE',
      'PATH_LENGTH_EXCEEDED',
      'HOSTNAME_MISMATCH',
      'ERR_TLS_CERT_ALTNAME_INVALID',
    ].map((code) => [code, CREDENTIALS_DOUBTED, `${UNTRUSTED} (${code})${CHECK_CA}`] as const),
    ...['ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED', 'ERR_SSL_X', 'ERR_OSSL_X', 'EPROTO'].map(
      (code) =>
        [
          code,
          CREDENTIALS_DOUBTED,
          `TLS with the Barman host failed: no common protocol (${code})${CHECK_ALL}`,
        ] as const,
    ),
    ['X_CERT_', UNKNOWN, `${UNUSABLE} (X_CERT_)`],
    ['X_ERR_SSL_', UNKNOWN, `${UNUSABLE} (X_ERR_SSL_)`],
  ] as const)('is described for %s', (code, traits, message) => {
    const cause = networkError(code, 'so it is');
    expect(failureOf(cause, false)).toMatchObject({ ...traits, message, cause, status: undefined });
  });

  test.each([
    ['ETIMEDOUT', 'the connection timed out'],
    ['EHOSTUNREACH', 'there is no route to the host'],
    ['ENETUNREACH', 'there is no route to its network'],
    ['ECONNREFUSED', 'the connection was refused'],
  ])('on an open connection (%s) may have arrived: only while connecting nothing was sent', (code, words) => {
    const failed = (syscall: string) => failureOf(Object.assign(networkError(code), { syscall }), false);
    const message = `${NO_RESPONSE}${words} (${code})`;
    expect(failed('read')).toMatchObject({ ...UNKNOWN, message });
    expect(failed('write')).toMatchObject({ ...UNKNOWN, message });
    expect(failed('connect')).toMatchObject({ ...NOT_BEGUN, message: `${UNREACHED}${words} (${code})` });
  });

  test("has no advice of Node's about the function's own start", () => {
    const hint = '; if the root CA is installed locally, try running Node.js with  --use-system-ca';
    const error = networkError(
      'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
      `unable to verify the first certificate${hint}`,
    );
    expect(failureOf(error, false)?.message).toBe(
      `the certificate of the Barman host is not trusted: unable to verify the first certificate ` +
        `(UNABLE_TO_VERIFY_LEAF_SIGNATURE)${CHECK_CA}`,
    );
  });

  test('has the reason from OpenSSL in its message, if there is one', () => {
    const reason = (given: unknown) =>
      failureOf(Object.assign(networkError('ERR_SSL_X'), { reason: given }), false)?.message;
    expect(reason('tlsv1 alert unknown ca')).toContain('failed: tlsv1 alert unknown ca (ERR_SSL_X)');
    expect(reason(7)).toContain('failed: no common protocol (ERR_SSL_X)');
  });

  test('with a malformed HTTP response is named after the error, because undici sets no code', () => {
    const error = Object.assign(new Error('so it is'), { name: 'HTTPParserError', code: undefined });
    expect(failureOf(error, false)).toMatchObject({ ...UNKNOWN, message: `${UNUSABLE} (HTTPParserError)` });
  });

  test('whose first TLS session was reset may have had its certificate refused', () => {
    expect(failureOf(networkError('ECONNRESET'), true)).toMatchObject({
      transient: true,
      begun: 'unknown',
      doubtsCredentials: true,
      message: `${NO_RESPONSE}the connection was reset (ECONNRESET); the Barman host may have refused client-cert`,
    });
    expect(failureOf(networkError('ECONNREFUSED'), true)).toMatchObject({ doubtsCredentials: false });
  });

  test('after a time-out has the time waited in its message', () => {
    expect(timedOut(12_000)).toMatchObject({
      ...UNKNOWN,
      message: 'pg-backup-api did not respond within 12 s',
    });
  });

  test('on several addresses is described by the first network error', () => {
    const error = new AggregateError([networkError('ECONNREFUSED'), networkError('EHOSTUNREACH')]);
    expect(failureOf(error, false)?.message).toContain('ECONNREFUSED');
    const second = new AggregateError([new TypeError('a bug'), networkError('EHOSTUNREACH')]);
    expect(failureOf(second, false)?.message).toContain('EHOSTUNREACH');
    expect(failureOf(new AggregateError([]), false)).toBeUndefined();
  });

  test.each([
    new TypeError('a bug'),
    Object.assign(new Error(), { code: 7 }),
    'a string',
    undefined,
    null,
    { code: 'ECONNRESET' },
  ])('is not a RequestFailure for %s', (error) => {
    expect(failureOf(error, false)).toBeUndefined();
  });
});

describe('an expired client certificate', () => {
  test('is named with its end, and the parameters are read again', () => {
    expect(expiredCertificate(Date.parse('2026-11-23T06:10:00.000Z'))).toMatchObject({
      transient: false,
      begun: 'no',
      doubtsCredentials: true,
      message:
        'the client certificate expired on 2026-11-23T06:10:00Z; write a new one, with its key, to the parameters client-cert and client-key',
    });
  });
});

describe('a RequestFailure', () => {
  test('is by default permanent, began nothing, and does not doubt the credentials', () => {
    expect(new RequestFailure('words', {})).toMatchObject({
      name: 'RequestFailure',
      message: 'words',
      transient: false,
      begun: 'no',
      doubtsCredentials: false,
      status: undefined,
    });
  });
});

describe('a 2xx response with an unexpected body', () => {
  test('means that the operation has begun', () => {
    expect(unexpected(202, 'its body is not JSON')).toMatchObject({
      message: 'pg-backup-api answered 202, but its body is not JSON',
      transient: true,
      begun: 'yes',
      doubtsCredentials: false,
      status: 202,
    });
  });
});

describe('a response other than 2xx', () => {
  test.each([
    [299, { transient: false, begun: 'no', doubtsCredentials: false }],
    [300, { transient: false, begun: 'no', doubtsCredentials: false }],
    [399, { transient: false, begun: 'no', doubtsCredentials: false }],
    [499, { transient: false, begun: 'no', doubtsCredentials: false }],
    [301, { transient: false, begun: 'no', doubtsCredentials: false }],
    [400, { transient: false, begun: 'no', doubtsCredentials: false }],
    [401, { transient: false, begun: 'no', doubtsCredentials: true }],
    [403, { transient: false, begun: 'no', doubtsCredentials: true }],
    [404, { transient: true, begun: 'no', doubtsCredentials: false }],
    [405, { transient: false, begun: 'no', doubtsCredentials: false }],
    [408, { transient: true, begun: 'no', doubtsCredentials: false }],
    [425, { transient: true, begun: 'no', doubtsCredentials: false }],
    [429, { transient: true, begun: 'no', doubtsCredentials: false }],
    [500, { transient: true, begun: 'no', doubtsCredentials: false }],
    [502, { transient: true, begun: 'unknown', doubtsCredentials: false }],
    [503, { transient: true, begun: 'unknown', doubtsCredentials: false }],
    [504, { transient: true, begun: 'unknown', doubtsCredentials: false }],
  ])('%i is classified', (status, traits) => {
    expect(refusalOf(status, '')).toMatchObject({ status, ...traits });
  });

  test.each(['400 No required SSL certificate was sent', '400 The SSL certificate error'])(
    'from nginx about the client certificate (%s) doubts the credentials',
    (heading) => {
      const page = `<html><head><title>400</title></head><body><center><h1>${heading}</h1></center></body></html>`;
      expect(refusalOf(400, page)).toMatchObject({ doubtsCredentials: true });
    },
  );

  test.each([
    ['{"error":"404 Not Found: no such thing"}', 'pg-backup-api answered 404 Not Found: no such thing'],
    ['<h1>404 Not Found</h1><hr>nginx/1.22.1', 'pg-backup-api answered 404 Not Found nginx/1.22.1'],
    ['404', 'pg-backup-api answered 404'],
    ['4040 errors', 'pg-backup-api answered 404: 4040 errors'],
    ['502 Bad Gateway', 'pg-backup-api answered 404: 502 Bad Gateway'],
    [
      '<!doctype html>\n<title>404</title>\n<h1>Not Found</h1>\n<p>Try again</p>',
      'pg-backup-api answered 404: Not Found Try again',
    ],
    ['plain\u001b[31m words\r\n', 'pg-backup-api answered 404: plain [31m words'],
    ['', 'pg-backup-api answered 404'],
    ['<'.repeat(5_000_000), `pg-backup-api answered 404: ${'<'.repeat(300)}…`],
    ['x'.repeat(400), `pg-backup-api answered 404: ${'x'.repeat(300)}…`],
  ])('is quoted in the message (%#)', (body, message) => {
    expect(refusalOf(404, body).message).toBe(message);
  });

  test.each([
    [299, 'pg-backup-api answered 299: words'],
    [300, 'pg-backup-api answered 300: words (redirects are not followed; set url to the final URL)'],
    [399, 'pg-backup-api answered 399: words (redirects are not followed; set url to the final URL)'],
    [400, 'pg-backup-api answered 400: words'],
    [401, 'pg-backup-api answered 401: words (check client-cert and client-key)'],
    [403, 'pg-backup-api answered 403: words (check client-cert and client-key)'],
    [500, 'pg-backup-api answered 500: words'],
  ])('%i has the remedy in its message, if there is one', (status, message) => {
    expect(refusalOf(status, 'words').message).toBe(message);
  });

  test.each([
    ['<style>a b</style>one<script>x</script> two<b>three</b>', 'one two three'],
    ['{"error":7}', '7'],
    ['{"errors":"no"}', '{"errors":"no"}'],
    ['null', 'null'],
    ['one<style>a</style>two', 'one two'],
    ['["error"]', '["error"]'],
    ['"<b>error</b>"', '"<b>error</b>"'],
    ['null', 'null'],
    [`${' '.repeat(4_090)}{"error":"cut"}`, '{"erro'],
    ['x'.repeat(300), 'x'.repeat(300)],
    ['x'.repeat(301), `${'x'.repeat(300)}…`],
    ['\u0000a\u007f\u0000b\u007f', 'a b'],
  ])('is quoted without markup and control characters, up to 300 characters (%#)', (body, text) => {
    expect(refusalOf(404, body).message).toBe(`pg-backup-api answered 404: ${text}`);
  });

  test('500 to a POST has a remedy, for the message of the last attempt', () => {
    const remedy =
      '; see the error log of pg-backup-api on the Barman host. If it cannot start its helper process, add the directory of ' +
      'the command pg-backup-api to the PATH of its service, and delete the jobs that it left in <barman_home>/main/jobs';
    const to = (method: string) => ({ method, path: ['servers', 'main', 'operations'] });
    expect(refusalOf(500, '', to('POST'))).toMatchObject({ message: 'pg-backup-api answered 500', remedy });
    expect(refusalOf(500, '', to('GET')).remedy).toBe('');
    expect(refusalOf(502, '', to('POST')).remedy).toBe('');
  });

  test("400 doubts the credentials only with nginx's message", () => {
    expect(refusalOf(400, 'no ssl certificate')).toMatchObject({ doubtsCredentials: true, transient: false });
    expect(refusalOf(400, 'no certificate')).toMatchObject({ doubtsCredentials: false });
    expect(refusalOf(405, 'no SSL certificate')).toMatchObject({ doubtsCredentials: false });
  });
});
