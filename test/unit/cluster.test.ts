import { describe, expect, test } from 'vitest';
import { parseCluster, secretKeys, serversOfSeveral } from '../../functions/config-switch/patroni/cluster.ts';
import { createSecret } from '../stand-ins/webhook.ts';

const SECRET = createSecret();
const ALL = {
  secret: `${SECRET} ${createSecret()}`,
  servers: { main: { node1: 'pg:node1', 'node 2': null }, other: {} },
  patroni: ['https://10.0.1.11:8008', 'http://10.0.1.12:8008/patroni'],
  scope: 'batman',
  streaming_archiver_name: 'receiver',
};
const parse = (settings: unknown) => parseCluster('main', JSON.stringify(settings));

describe('a cluster', () => {
  test('has all settings', () => {
    const { secrets, ...rest } = parse(ALL);
    expect(secrets.map((key) => key.symmetricKeySize)).toEqual([32, 32]);
    expect(rest).toEqual({
      name: 'main',
      scope: 'batman',
      servers: new Map([
        ['main', new Map(Object.entries(ALL.servers.main))],
        ['other', new Map()],
      ]),
      patroni: [new URL('https://10.0.1.11:8008'), new URL('http://10.0.1.12:8008/patroni')],
      streaming_archiver_name: 'receiver',
    });
  });

  test('needs servers only', () => {
    expect(parse({ servers: { main: {} } })).toEqual({
      name: 'main',
      scope: 'main',
      secrets: [],
      servers: new Map([['main', new Map()]]),
      patroni: [],
      streaming_archiver_name: 'barman_receive_wal',
    });
  });

  test.each(['prototype', 'constructor', '__proto__', 'toString', 'hasOwnProperty'])(
    'may have a server and a member named %s',
    (name) => {
      const { servers } = parse({ servers: { [name]: { [name]: 'pg:node1' } } });
      expect(servers).toEqual(new Map([[name, new Map([[name, 'pg:node1']])]]));
    },
  );

  test('may have addresses of Barman, of IPv4 and IPv6', () => {
    const blocks = ['10.0.3.4/32', '192.0.2.0/24', 'fd00::/64'];
    const { barman_addresses } = parse({ servers: {}, barman_addresses: blocks });
    const has = (address: string, family: 'ipv4' | 'ipv6') => barman_addresses?.check(address, family);
    expect([has('10.0.3.4', 'ipv4'), has('192.0.2.200', 'ipv4'), has('fd00::7', 'ipv6')]).toEqual([
      true,
      true,
      true,
    ]);
    expect([has('10.0.3.5', 'ipv4'), has('192.0.3.1', 'ipv4'), has('fd00:0:0:1::7', 'ipv6')]).toEqual([
      false,
      false,
      false,
    ]);
  });

  test('may have no streaming', () => {
    expect(parse({ servers: {}, streaming_archiver_name: null }).streaming_archiver_name).toBeNull();
  });

  test.each([
    ['', 'is not JSON'],
    ['{', 'is not JSON'],
    ['7', 'is not a JSON object'],
    ['null', 'is not a JSON object'],
    ['[]', 'is not a JSON object'],
    ['{}', 'is malformed: servers is missing'],
  ])('%s is rejected', (text, problem) => {
    expect(() => parseCluster('main', text)).toThrow(new Error(problem));
  });

  const SERVERS = 'servers must be an object of Barman servers, such as {"main": {"node1": "pg:node1"}}';
  const NAME =
    'must start with a letter, a digit or "_", followed by these or any of . : @ + ~ = , - as in the configuration of Barman';
  test.each<[object, string]>([
    [
      { secrets: 'x' },
      '"secrets" is an unknown key; valid keys: secret, servers, patroni, scope, streaming_archiver_name, barman_addresses',
    ],
    [{ servers: null }, SERVERS],
    [{ servers: [] }, SERVERS],
    [
      { servers: { main: 'pg:node1' } },
      'servers.main must be an object of Patroni members, such as {"node1": "pg:node1"}, or {}',
    ],
    [{ servers: { main: { node1: 7 } } }, 'servers.main.node1 must be a string'],
    [{ servers: { main: { node1: '--reset' } } }, `servers.main.node1 ${NAME}`],
    [{ servers: { '../x': {} } }, `servers "../x" ${NAME}`],
    [
      { servers: { ['x'.repeat(256)]: {} } },
      'servers a key of 256 characters (hidden: it may be a secret) must have at most 255 characters',
    ],
    [
      { servers: { main: { node1: 'x'.repeat(256) } } },
      'servers.main.node1 must have at most 255 characters',
    ],
    [{ servers: { ['__proto__']: { ['__proto__']: 7 } } }, 'servers.__proto__.__proto__ must be a string'],
    [{ secret: 7 }, 'secret must be a string'],
    [
      { secret: 'whsec_c2hvcnQ=' },
      'secret must be whsec_ followed by 24 to 64 random bytes in base64; during a rotation, several of them separated by spaces',
    ],
    [{ patroni: 'https://a' }, 'patroni must be an array of URLs'],
    [{ patroni: [] }, 'patroni must have at least one URL'],
    [{ patroni: ['10.0.1.11:8008'] }, 'patroni.0 must be an http:// or https:// URL'],
    [{ patroni: ['shttp://a'] }, 'patroni.0 must be an http:// or https:// URL'],
    [{ patroni: ['https://u:p@a'] }, 'patroni.0 must not have a user, a password, a query or a fragment'],
    [{ patroni: [7] }, 'patroni.0 must be a string'],
    [{ scope: 7 }, 'scope must be a string'],
    [{ scope: '' }, 'scope must not be empty'],
    [{ streaming_archiver_name: 7 }, 'streaming_archiver_name must be a string or null'],
    [{ streaming_archiver_name: '' }, 'streaming_archiver_name must not be empty'],
    [
      { barman_addresses: '10.0.3.4/32' },
      'barman_addresses must be an array of CIDR blocks, such as ["10.0.3.4/32"]',
    ],
    [{ barman_addresses: [] }, 'barman_addresses must have at least one CIDR block'],
    [{ barman_addresses: [7] }, 'barman_addresses.0 must be a string'],
    ...[
      '10.0.3.4',
      '10.0.3.4/33',
      'node 10.0.3.4/24',
      '10.0.3.4/24 and more',
      '10.0.3/24',
      'fd00::/129',
      'fd00::%eth0/64',
      'barman/32',
      '10.0.3.4/-1',
    ].map((block): [object, string] => [
      { barman_addresses: ['10.0.3.4/32', block] },
      'barman_addresses.1 must be a CIDR block, such as 10.0.3.4/32 or fd00::/64',
    ]),
  ])('with %j is rejected with the field and the remedy', (settings, problem) => {
    expect(() => parse({ servers: {}, ...settings })).toThrow(new Error(`is malformed: ${problem}`));
  });

  test.each([
    [
      { [SECRET]: 1 },
      `a key of ${SECRET.length} characters (hidden: it may be a secret) is an unknown key; valid`,
    ],
    [{ servers: { [SECRET]: 7 } }, 'servers.(hidden: it may be a secret) must be an object'],
    [{ servers: { main: { [SECRET]: 7 } } }, 'servers.main.(hidden: it may be a secret) must be a string'],
    [
      { servers: { [`${SECRET}/`]: {} } },
      `servers a key of ${SECRET.length + 1} characters (hidden: it may be a secret) must start with`,
    ],
  ])('is rejected without a secret that was written as a key (%#)', (change, message) => {
    expect(() => parse({ ...ALL, ...change })).toThrow(message);
    expect(() => parse({ ...ALL, ...change })).not.toThrow(SECRET.slice(6, 20));
  });

  test('is rejected with every problem, and without its secret', () => {
    const secret = `${SECRET} x`;
    const settings = { ...ALL, secret, servers: 7, patroni: ['ftp://a'], nodes: 1 };
    const fields = 'secret must be .*; servers .*; patroni.0 .*; "nodes" is an unknown key; .*';
    expect(() => parse(settings)).toThrow(new RegExp(`^is malformed: ${fields}$`));
    expect(() => parse(settings)).not.toThrow(SECRET.slice(6, 20));
  });
});

describe('a secret parameter', () => {
  test.each(['', ' ', 'whsec_', SECRET.slice(6), `${SECRET},${SECRET}`, 'whsec_c2hvcnQ=', `${SECRET}=`])(
    '%j is malformed',
    (text) => {
      expect(secretKeys(text)).toBeUndefined();
    },
  );

  test('may have several, separated by any white space', () => {
    expect(secretKeys(` ${SECRET}\n \r\n${SECRET}\t`)).toHaveLength(2);
  });

  test.each([
    [23, undefined],
    [24, [24]],
    [25, [25]],
    [26, [26]],
    [64, [64]],
    [65, undefined],
  ])('has 24 to 64 bytes (%i)', (size, sizes) => {
    const keys = secretKeys(`whsec_${Buffer.alloc(size, 'ü').toString('base64')}`);
    expect(keys?.map((key) => key.symmetricKeySize)).toEqual(sizes);
  });
});

test('the servers of several clusters › are those with members in more than one', () => {
  const cluster = (name: string, servers: object) => parseCluster(name, JSON.stringify({ servers }));
  const members = { node1: 'pg:node1' };
  expect(
    serversOfSeveral([
      cluster('a', { x: members, y: members, only: members }),
      cluster('b', { x: members, y: {}, z: {} }),
      cluster('c', { x: members }),
    ]),
  ).toEqual(new Map([['x', ['a', 'b', 'c']]]));
});
