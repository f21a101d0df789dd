import { describe, expect, test } from 'vitest';
import {
  expiredCertificate,
  failureOf,
  refusalOf,
  timedOut,
  unexpected,
} from '../../functions/config-switch/barman/failures.ts';

const networkError = (code: string, change: object = {}) =>
  Object.assign(new Error('so it is'), { code, ...change });

const PERMANENT = { transient: false, begun: 'no', doubtsCredentials: false } as const;
const NOT_BEGUN = { transient: true, begun: 'no', doubtsCredentials: false } as const;
const UNKNOWN = { transient: true, begun: 'unknown', doubtsCredentials: false } as const;
const CREDENTIALS_DOUBTED = { transient: false, begun: 'no', doubtsCredentials: true } as const;
const NO_RESPONSE = 'pg-backup-api did not respond: ';
const UNTRUSTED = 'the certificate of the Barman host is not trusted: ';
const UNUSABLE = 'the response of pg-backup-api is not usable: so it is';
const TLS_FAILED = 'TLS with the Barman host failed: ';

describe('a request without a response', () => {
  test.each([
    ['ECONNREFUSED', 'the connection was refused'],
    ['ENOTFOUND', 'its host name does not exist'],
    [
      'EAI_AGAIN',
      'its host name could not be resolved; if the VPC has DNS servers of its own, set the stage parameter dns',
    ],
    ['EHOSTUNREACH', 'there is no route to the host'],
    ['ENETUNREACH', 'there is no route to its network'],
    ['ETIMEDOUT', 'the connection timed out'],
    ['UND_ERR_CONNECT_TIMEOUT', 'the connection timed out'],
  ])('(%s) was not sent while connecting, and may have arrived on an open connection', (code, words) => {
    const unreached = { ...NOT_BEGUN, message: `pg-backup-api is unreachable: ${words} (${code})` };
    const unanswered = { ...UNKNOWN, message: `${NO_RESPONSE}${words} (${code})` };
    const cause = networkError(code);
    expect(failureOf(cause, false, true)).toMatchObject({ ...unreached, cause, status: undefined });
    expect(failureOf(cause, true, true)).toMatchObject(unreached);
    expect(failureOf(networkError(code, { syscall: 'connect' }), false, true)).toMatchObject(unreached);
    expect(failureOf(networkError(code, { syscall: 'read' }), false, true)).toMatchObject(unanswered);
    expect(failureOf(networkError(code, { syscall: 'write' }), false, true)).toMatchObject(unanswered);
  });

  test.each([
    ['ECONNRESET', 'reset'],
    ['EPIPE', 'closed'],
    ['ECONNABORTED', 'closed'],
    ['UND_ERR_SOCKET', 'closed'],
  ])('(%s) may have arrived; in a new TLS session its certificate may have been refused', (code, words) => {
    const [cause, message] = [networkError(code), `${NO_RESPONSE}the connection was ${words} (${code})`];
    expect(failureOf(cause, false, true)).toMatchObject({ ...UNKNOWN, message, cause });
    expect(failureOf(cause, true, true)).toMatchObject({
      ...UNKNOWN,
      doubtsCredentials: true,
      message: `${message}; the Barman host may have refused client-cert`,
    });
  });

  test.each([
    'HPE_INVALID_CONSTANT',
    'UND_ERR_RES_EXCEEDED_MAX_SIZE',
    'EMFILE',
    'NOT_EPROTO',
    'X_CERT_',
    'X_ERR_SSL_',
  ])('(%s) has a response that is not usable', (code) => {
    const cause = networkError(code);
    expect(failureOf(cause, false, true)).toMatchObject({
      ...UNKNOWN,
      message: `${UNUSABLE} (${code})`,
      cause,
    });
  });

  test.each([
    'CERT_HAS_EXPIRED',
    'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
    'SELF_SIGNED_CERT_IN_CHAIN',
    'DEPTH_ZERO_SELF_SIGNED_CERT',
    'INVALID_CA',
    'INVALID_PURPOSE',
    'PATH_LENGTH_EXCEEDED',
    'HOSTNAME_MISMATCH',
    'ERR_TLS_CERT_ALTNAME_INVALID',
  ])("(%s) does not trust the host, and has no advice of Node's about the function's own start", (code) => {
    const hint = '; if the root CA is installed locally, try running Node.js with  --use-system-ca';
    const cause = networkError(code, { message: `so it is${hint}` });
    expect(failureOf(cause, false, true)).toMatchObject({
      ...CREDENTIALS_DOUBTED,
      message: `${UNTRUSTED}so it is (${code}); check ca-cert and url`,
      cause,
    });
  });

  test.each([
    ['ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED', undefined, 'no common protocol'],
    ['ERR_OSSL_X', undefined, 'no common protocol'],
    ['EPROTO', undefined, 'no common protocol'],
    ['ERR_SSL_X', 7, 'no common protocol'],
    ['ERR_SSL_X', 'tlsv1 alert unknown ca', 'tlsv1 alert unknown ca'],
  ])('(%s) has no TLS session, and the reason from OpenSSL, if there is one: %j', (code, reason, words) => {
    const cause = networkError(code, { reason });
    expect(failureOf(cause, false, true)).toMatchObject({
      ...CREDENTIALS_DOUBTED,
      message: `${TLS_FAILED}${words} (${code}); check client-cert, client-key and ca-cert`,
      cause,
    });
  });

  test('with a malformed HTTP response is named after the error, because undici sets no code', () => {
    const error = Object.assign(new Error('so it is'), { name: 'HTTPParserError', code: undefined });
    expect(failureOf(error, false, true)).toMatchObject({
      ...UNKNOWN,
      message: `${UNUSABLE} (HTTPParserError)`,
    });
  });

  test('after a time-out has the time waited in its message', () => {
    const message = 'pg-backup-api did not respond within 12 s';
    expect(timedOut(12_000, true)).toMatchObject({ ...UNKNOWN, message });
  });

  test.each(['ETIMEDOUT', 'ECONNRESET', 'UND_ERR_SOCKET'])(
    '(%s) has begun nothing if the connection ended before the request was written',
    (code) => {
      const cause = networkError(code, { syscall: 'read' });
      const message = expect.stringMatching(`^pg-backup-api is unreachable: the connection .* \\(${code}\\)`);
      expect(failureOf(cause, false, false)).toMatchObject({ ...NOT_BEGUN, message });
      const doubtsCredentials = code !== 'ETIMEDOUT';
      expect(failureOf(cause, true, false)).toMatchObject({ ...NOT_BEGUN, doubtsCredentials, message });
    },
  );

  test('has begun nothing if the time was over before the request was written', () => {
    const message = 'nothing could be sent to pg-backup-api within 12 s';
    expect(timedOut(12_000, false)).toMatchObject({ ...NOT_BEGUN, message });
  });

  test('on several addresses is described by the first network error', () => {
    const error = new AggregateError([networkError('ECONNREFUSED'), networkError('EHOSTUNREACH')]);
    expect(failureOf(error, false, true)?.message).toContain('ECONNREFUSED');
    const second = new AggregateError([new TypeError('a bug'), networkError('EHOSTUNREACH')]);
    expect(failureOf(second, false, true)?.message).toContain('EHOSTUNREACH');
    expect(failureOf(new AggregateError([]), false, true)).toBeUndefined();
  });

  test.each([
    new TypeError('a bug'),
    Object.assign(new Error(), { code: 7 }),
    'a string',
    undefined,
    null,
    { code: 'ECONNRESET' },
  ])('is not a RequestFailure for %s', (error) => {
    expect(failureOf(error, false, true)).toBeUndefined();
  });
});

test('an expired client certificate › is named with its end, and the parameters are read again', () => {
  expect(expiredCertificate(Date.parse('2026-11-23T06:10:00.000Z'))).toMatchObject({
    ...CREDENTIALS_DOUBTED,
    message:
      'the client certificate expired on 2026-11-23T06:10:00Z; write a new one, with its key, to the parameters client-cert and client-key',
  });
});

test('a 2xx response with an unexpected body › means that the operation has begun', () => {
  const message = 'pg-backup-api answered 202, but its body is not JSON';
  const begun = { transient: true, begun: 'yes', doubtsCredentials: false, status: 202 };
  expect(unexpected(202, 'its body is not JSON')).toMatchObject({ message, ...begun });
});

describe('a response other than 2xx', () => {
  const REDIRECTED = ' (redirects are not followed; set url to the final URL)';
  const CHECK = ' (check client-cert and client-key)';
  test.each([
    [[299, 400, 405, 499], PERMANENT, ''],
    [[300, 301, 399], PERMANENT, REDIRECTED],
    [[401, 403], CREDENTIALS_DOUBTED, CHECK],
    [[404, 408, 425, 429, 500], NOT_BEGUN, ''],
    [[502, 503, 504], UNKNOWN, ''],
  ])('%j is classified as %j, with the remedy, if there is one: %j', (statuses, traits, remedy) => {
    for (const status of statuses) {
      const message = `pg-backup-api answered ${status}: words${remedy}`;
      expect(refusalOf(status, 'words')).toMatchObject({
        name: 'RequestFailure',
        status,
        ...traits,
        message,
      });
    }
  });

  test.each([
    [400, '<title>400</title><h1>400 No required SSL certificate was sent</h1>', CREDENTIALS_DOUBTED],
    [400, '<h1>400 The SSL certificate error</h1>', CREDENTIALS_DOUBTED],
    [400, 'no ssl certificate', CREDENTIALS_DOUBTED],
    [400, 'no certificate', PERMANENT],
    [405, 'no SSL certificate', PERMANENT],
  ])("doubts the credentials only with nginx's message (%i %s)", (status, body, traits) => {
    expect(refusalOf(status, body)).toMatchObject(traits);
  });

  test.each([
    ['', ''],
    ['404', ''],
    ['{"error":"404 Not Found: no such thing"}', ' Not Found: no such thing'],
    ['<h1>404 Not Found</h1><hr>nginx/1.22.1', ' Not Found nginx/1.22.1'],
    ['4040 errors', ': 4040 errors'],
    ['502 Bad Gateway', ': 502 Bad Gateway'],
    ['<!doctype html>\n<title>404</title>\n<h1>Not Found</h1>\n<p>Try again</p>', ': Not Found Try again'],
    ['<style>a b</style>one<script>x</script> two<b>three</b>', ': one two three'],
    ['one<style>a</style>two', ': one two'],
    ['{"error":7}', ': 7'],
    ['{"errors":"no"}', ': {"errors":"no"}'],
    ['null', ': null'],
    ['["error"]', ': ["error"]'],
    ['"<b>error</b>"', ': "<b>error</b>"'],
    ['plain\u001b[31m words\r\n', ': plain [31m words'],
    ['\u0000a\u007f\u0000b\u007f', ': a b'],
    ['a\u009b31m\u0085b', ': a 31m b'],
    ['a\u202eb\u2066', ': a\\u202eb\\u2066'],
    ['x'.repeat(300), `: ${'x'.repeat(300)}`],
    ['x'.repeat(301), `: ${'x'.repeat(300)}…`],
    ['<'.repeat(5_000_000), `: ${'<'.repeat(300)}…`],
    [`${' '.repeat(4_090)}{"error":"cut"}`, ': {"erro'],
  ])('is quoted without markup and control characters, up to 300 characters (%#)', (body, words) => {
    expect(refusalOf(404, body).message).toBe(`pg-backup-api answered 404${words}`);
  });

  const LOG = '; see the error log of pg-backup-api on the Barman host.';
  const LIST = ['servers', 'main', 'operations'];
  test.each<[string, number, string, string[], string]>([
    [
      '500 to a POST has',
      500,
      'POST',
      LIST,
      `${LOG} If it cannot start its helper process, add the directory of the command pg-backup-api to the PATH of its service, ` +
        'and delete the jobs that it left in <barman_home>/main/jobs: only jobs without an output in output/',
    ],
    [
      '500 to the GET of a list has',
      500,
      'GET',
      LIST,
      `${LOG} The usual cause is a job file of 0 bytes in <barman_home>/main/jobs, which a full disk leaves: delete it unless output/ has its output`,
    ],
    ['500 to the GET of an operation has no', 500, 'GET', [...LIST, 'id'], ''],
    ['500 to the GET of /diagnose has no', 500, 'GET', ['diagnose'], ''],
    ['502 has no', 502, 'POST', LIST, ''],
  ])('%s remedy, for the message of the last attempt', (_, status, method, path, remedy) => {
    const message = `pg-backup-api answered ${status}`;
    expect(refusalOf(status, '', { method, path })).toMatchObject({ message, remedy });
  });
});

test('a failure › has a message of 1,000 characters at most', () => {
  const key = 'x'.repeat(500_000);
  const { message } = unexpected(200, `its JSON is not as expected: servers.${key} is not Object`);
  expect(message).toMatch(/servers\.x+… \(5000\d\d characters\)$/);
  expect(message.length).toBeLessThan(1_050);
});
