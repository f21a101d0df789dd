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
/** @returns the message of the error */
function problemsOf(text: string): string {
  try {
    parseCluster('main', text);
  } catch (error) {
    return (error as Error).message;
  }
  return 'none';
}

describe('a cluster', () => {
  test('has all settings', () => {
    const { secrets, ...rest } = parse(ALL);
    expect(secrets.map((key) => key.symmetricKeySize)).toEqual([32, 32]);
    expect(rest).toEqual({
      name: 'main',
      scope: 'batman',
      servers: new Map([
        [
          'main',
          new Map([
            ['node1', 'pg:node1'],
            ['node 2', null],
          ]),
        ],
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
    [
      '{"servers":{},"secrets":"x"}',
      'is malformed: "secrets" is an unknown key; valid keys: secret, servers, patroni, scope, streaming_archiver_name',
    ],
    [
      '{"servers":null}',
      'is malformed: servers must be an object of Barman servers, such as {"main": {"node1": "pg:node1"}}',
    ],
    [
      '{"servers":[]}',
      'is malformed: servers must be an object of Barman servers, such as {"main": {"node1": "pg:node1"}}',
    ],
    [
      '{"servers":{"main":"pg:node1"}}',
      'is malformed: servers.main must be an object of Patroni members, such as {"node1": "pg:node1"}, or {}',
    ],
    ['{"servers":{"main":{"node1":7}}}', 'is malformed: servers.main.node1 must be a string'],
    [
      '{"servers":{"main":{"node1":"--reset"}}}',
      'is malformed: servers.main.node1 must be a name as in the configuration of Barman',
    ],
    [
      '{"servers":{"../x":{}}}',
      'is malformed: "../x" in servers must be a name as in the configuration of Barman',
    ],
    [
      '{"servers":{"__proto__":{}}}',
      'is malformed: "__proto__" in servers must be a name as in the configuration of Barman',
    ],
    ['{"servers":{},"secret":7}', 'is malformed: secret must be a string'],
    [
      '{"servers":{},"secret":"whsec_c2hvcnQ="}',
      'is malformed: secret must be whsec_ followed by 24 to 64 random bytes in base64; during a rotation, several of them separated by spaces',
    ],
    ['{"servers":{},"patroni":"https://a"}', 'is malformed: patroni must be an array of URLs'],
    ['{"servers":{},"patroni":[]}', 'is malformed: patroni must have at least one URL'],
    [
      '{"servers":{},"patroni":["10.0.1.11:8008"]}',
      'is malformed: patroni.0 must be an http:// or https:// URL',
    ],
    [
      '{"servers":{},"patroni":["https://u:p@a"]}',
      'is malformed: patroni.0 must not have a user, a password, a query or a fragment',
    ],
    ['{"servers":{},"patroni":[7]}', 'is malformed: patroni.0 must be a string'],
    ['{"servers":{},"patroni":["shttp://a"]}', 'is malformed: patroni.0 must be an http:// or https:// URL'],
    ['{"servers":{},"scope":7}', 'is malformed: scope must be a string'],
    ['{"servers":{},"scope":""}', 'is malformed: scope must not be empty'],
    [
      '{"servers":{},"streaming_archiver_name":7}',
      'is malformed: streaming_archiver_name must be a string or null',
    ],
    [
      '{"servers":{},"streaming_archiver_name":""}',
      'is malformed: streaming_archiver_name must not be empty',
    ],
  ])('%s is rejected with the field and the remedy', (text, problems) => {
    expect(problemsOf(text)).toBe(problems);
  });

  test('is rejected with every problem, and without its secret', () => {
    const problems = problemsOf(
      JSON.stringify({ ...ALL, secret: `${SECRET} x`, servers: 7, patroni: ['ftp://a'], nodes: 1 }),
    );
    expect(problems.split('; ').map((problem) => problem.split(' ')[0])).toEqual([
      'is',
      'during',
      'servers',
      'patroni.0',
      '"nodes"',
      'valid',
    ]);
    expect(problems).not.toContain(SECRET.slice(6, 20));
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
