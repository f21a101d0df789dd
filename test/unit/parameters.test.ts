import { expect, test } from 'vitest';
import { HttpError } from '../../functions/config-switch/errors.ts';
import { partsOf } from '../../functions/config-switch/settings/parameters.ts';
import { CertificateAuthority } from '../stand-ins/certificates.ts';

const DAY = 86_400_000;
const ca = await CertificateAuthority.create();
const client = await ca.client('client', 90);
const soon = await ca.client('soon', 7);
const expired = await ca.client('expired', -1);

function partsWith(values: Readonly<Record<string, string>>) {
  const { connection, patroniTls } = partsOf(new Map(Object.entries(values)), '/path/');
  if (connection instanceof HttpError || patroniTls instanceof HttpError) throw new Error('malformed');
  const inDays = (expiries: ReadonlyMap<string, number> = new Map()) =>
    [...expiries].map(([name, at]) => [name, Math.floor((at - Date.now()) / DAY)]);
  return {
    tls: connection.tls,
    barman: inDays(connection.tls?.expiries),
    patroni: inDays(patroniTls.expiries),
  };
}
const BARMAN = {
  url: 'https://barman',
  'client-cert': client.cert,
  'client-key': client.key,
  'ca-cert': ca.cert,
};

test('parameters › say when the first certificate in each of them expires', () => {
  const chain = `${client.cert}\n${soon.cert}`;
  const { tls, barman, patroni } = partsWith({
    ...BARMAN,
    'client-cert': chain,
    'ca-cert': `${ca.cert}\n${expired.cert}`,
    'patroni-ca-cert': ca.cert,
    'patroni-client-cert': client.cert,
    'patroni-client-key': client.key,
  });
  expect(barman).toEqual([
    ['client-cert', 6],
    ['ca-cert', -2],
  ]);
  expect(patroni).toEqual([
    ['patroni-ca-cert', expect.any(Number)],
    ['patroni-client-cert', 89],
  ]);
  // A connection is refused for the client certificate itself, not for its chain.
  expect(Math.floor(((tls?.notAfter ?? 0) - Date.now()) / DAY)).toBe(89);
});

test('parameters › name no certificate that is not given', () => {
  expect(partsWith(BARMAN).patroni).toEqual([]);
  expect(partsWith({ url: 'http://barman', 'allow-plain-http': 'true' }).barman).toEqual([]);
});
