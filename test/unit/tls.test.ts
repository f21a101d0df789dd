import { describe, expect, test } from 'vitest';
import { certificatesOf, secureContextOf } from '../../functions/config-switch/http/tls.ts';
import { CertificateAuthority } from '../stand-ins/certificates.ts';

const ca = await CertificateAuthority.create();
const { cert, key } = await ca.client('client', 90);
const damaged = ca.cert.replace(/\n.{10}/, '\n');

const other = (label: string) => `-----BEGIN ${label}-----\nAAAA\n-----END ${label}-----\n`;
const subjects = (pem: string) => certificatesOf(pem).map(({ subject }) => subject);

describe('the certificates of a PEM file', () => {
  test.each([
    ['one', cert, ['CN=client']],
    ['several', `${cert}\n${ca.cert}`, ['CN=client', 'CN=Test CA']],
    ['with text around them', `# a\n${cert}\n--- b ---\n${ca.cert}\nc`, ['CN=client', 'CN=Test CA']],
    ['with a key', `${key}\n${cert}`, ['CN=client']],
    [
      'with blocks of other kinds',
      `${other('CERTIFICATE REQUEST')}${other('ATTRIBUTE CERTIFICATE')}${cert}`,
      ['CN=client'],
    ],
    ['with Windows line ends', cert.replaceAll('\n', '\r\n'), ['CN=client']],
    ['with an old label', cert.replaceAll(' CERTIFICATE-', ' X509 CERTIFICATE-'), ['CN=client']],
  ])('are all of them (%s)', (_, pem, expected) => {
    expect(subjects(pem)).toEqual(expected);
  });

  test.each([
    ['empty', '', 'no certificate'],
    ['no PEM', 'certificate', 'no certificate'],
    ['only a key', key, 'no certificate'],
    ['torn', cert.slice(0, 300), 'no certificate'],
    ['torn after the first', `${cert}\n${ca.cert.slice(0, 300)}`, 'a block is torn'],
    ['torn before the last', `${cert.slice(0, 300)}\n${ca.cert}`, /./],
    ['without its beginning', `${cert}\n${ca.cert.slice(300)}`, 'a block is torn'],
    ['damaged', damaged, /./],
    ['damaged after the first', `${cert}\n${damaged}`, /./],
  ])('are an error if one of them cannot be read (%s)', (_, pem, reason) => {
    expect(() => certificatesOf(pem)).toThrow(reason);
  });
});

describe('a TLS context', () => {
  test('is created once per set of credentials', () => {
    const tls = { cert, key, ca: ca.cert };
    expect(secureContextOf(tls)).toBe(secureContextOf(tls));
    expect(secureContextOf({ ...tls })).not.toBe(secureContextOf(tls));
  });

  test('is refused for a key that is too short, with the reason', async () => {
    const weak = await ca.weakClient();
    expect(() => secureContextOf({ ...weak, ca: ca.cert })).toThrow(
      expect.objectContaining({ reason: 'ee key too small' }),
    );
  });
});
