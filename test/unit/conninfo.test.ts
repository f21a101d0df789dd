import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { parseConninfo } from '../../functions/config-switch/barman/conninfo.ts';
import { examples, malformed } from './conninfo-strings.ts';

const addressesOf = (text: string) =>
  parseConninfo(text).endpoints.map(({ host, port }) => `${host} ${port}`);

describe('the endpoints of a conninfo', () => {
  test.each<[string, string, string[]]>([
    ['are one, with the default port', 'host=node1', ['node1 5432']],
    ['have a port', 'host=node1 port=5433 user=barman', ['node1 5433']],
    ['are the default Unix socket if no host is given', 'dbname=postgres', [' 5432']],
    ['are the default Unix socket if nothing is given', '', [' 5432']],
    ['are a Unix socket in a directory', 'host=/run/postgresql', ['/run/postgresql 5432']],
    ['are a Unix socket in a strange directory', 'host=/run/a@b=c', ['/run/a@b=c 5432']],
    ['are an abstract Unix socket', 'host=@pg', ['@pg 5432']],
    ['have the address instead of the name', 'host=node1 hostaddr=10.0.0.1', ['10.0.0.1 5432']],
    ['have the last of two values', 'host=node1 port=1 host=node2', ['node2 1']],
    ['may have any space round a "="', 'host = node1\tport\n=\r\n5433\v\f', ['node1 5433']],
    ['may have any space after a value', 'user=b\rhost=a\vport=1\fdbname=c', ['a 1']],
    ['may have a quoted value', "host='node1' port = '5433'", ['node1 5433']],
    ['may have quotes without a space after them', "host='node1'port=1", ['node1 1']],
    ['may have an empty value', "host='' port='' user=''", [' 5432']],
    ['have the value after a space that follows "="', 'host= node1', ['node1 5432']],
    ['may have an empty value at the end', 'port=1 host=', [' 1']],
    ['may have escapes', String.raw`host=n\ode\1 password=a\ \'b\\ port=\1`, ['node1 1']],
    ['may have escapes in quotes', String.raw`password='it\'s \\' host=node1`, ['node1 5432']],
    ['may have a backslash at the end', 'host=node1\\', ['node1 5432']],
    ['may have quotes within a value', "password=it's host=node1", ['node1 5432']],
    ['may have a password that Barman redacted', 'password=*REDACTED* host=node1', ['node1 5432']],
    ['may have a no-break space, which is no space', 'password=a\u00a0b host=node1', ['node1 5432']],

    ['are several, with the default port', 'host=node1,node2', ['node1 5432', 'node2 5432']],
    ['are several, with the same port', 'host=node1,node2 port=1', ['node1 1', 'node2 1']],
    ['are several, with a port each', 'host=node1,node2 port=1,2', ['node1 1', 'node2 2']],
    ['are several, with a port or the default', 'host=node1,node2 port=1,', ['node1 1', 'node2 5432']],
    ['are several, and one the default socket', 'host=node1,,/tmp', ['node1 5432', ' 5432', '/tmp 5432']],
    ['are several addresses without names', 'hostaddr=::1,10.0.0.1', ['::1 5432', '10.0.0.1 5432']],
    ['have the name where there is no address', 'host=a,b hostaddr=,10.0.0.2', ['a 5432', '10.0.0.2 5432']],
    ['have a port with a sign, zeros and spaces', "host=a,b port=' +1 ,0002'", ['a 1', 'b 2']],

    ['are one of a URI', 'postgresql://node1', ['node1 5432']],
    ['are one of a short URI', 'postgres://node1:5433/', ['node1 5433']],
    ['are the default socket of an empty URI', 'postgresql://', [' 5432']],
    ['are the default socket with a port', 'postgresql://:5433/db', [' 5433']],
    ['come after a user', 'postgresql://barman@node1/db', ['node1 5432']],
    ['come after an empty user', 'postgresql://@node1', ['node1 5432']],
    ['come after a password', 'postgresql://barman:a:b@node1:5433/db?sslmode=require', ['node1 5433']],
    ['come after a redacted one', 'postgresql://barman:*REDACTED*@node1:5433/db', ['node1 5433']],
    ['come after a password with "?"', 'postgresql://barman:a?b=@node1', ['node1 5432']],
    ['may have an empty port', 'postgresql://node1:/db', ['node1 5432']],
    ['may be of IPv6', 'postgresql://[fd00::7]:5433/db', ['fd00::7 5433']],
    ['may be of IPv6, with a zone', 'postgresql://[fe80::1%25eth0]', ['fe80::1%eth0 5432']],
    ['are several of a URI', 'postgresql://a:1,[::1],:3/db', ['a 1', '::1 5432', ' 3']],
    ['are several, of a "," that is encoded', 'postgresql://a%2Cb:1', ['a 1', 'b 1']],
    ['may be encoded', 'postgresql://n%6Fde%31:%31', ['node1 1']],
    ['may have UTF-8', 'postgresql://k%C3%B6ln', ['köln 5432']],
    ['may have bytes that are not UTF-8', 'postgresql://k%f6ln', ['k\ufffdln 5432']],
    ['may be an encoded directory', 'postgresql://%2Frun%2Fpg:1/db', ['/run/pg 1']],
    ['may be parameters', 'postgresql:///db?host=/run/pg&port=5433', ['/run/pg 5433']],
    ['are the last ones of parameters', 'postgresql://a:1/?host=b&p%6Frt=2', ['b 2']],
    ['have the address of a parameter', 'postgresql://node1?hostaddr=10.0.0.1', ['10.0.0.1 5432']],
    ['may have spaces round them', 'postgresql:// node1 : 5433 / db ', ['node1 5433']],
    ['may have a "&" at the end', 'postgresql://node1?port=1&', ['node1 1']],
    ['may have a line in a parameter', 'postgresql://node1?options=a\nb', ['node1 5432']],
    ['may have a "?" at the end', 'postgresql://node1?', ['node1 5432']],
    ['may have a user with "@"', 'postgresql://node1/db?user=me@example', ['node1 5432']],
  ])('%s', (_, text, expected) => {
    expect(addressesOf(text)).toEqual(expected);
  });

  test.each([
    ['a service', 'service=main'],
    ['a service and a host', 'service=main host=node1 port=5432'],
    ['a service and an address', 'service=main hostaddr=::1 port=5432'],
    ['a service without a port', 'service=main host=node1 hostaddr=::1'],
    ['a service in a URI', 'postgresql://node1:5432/db?service=main'],
  ])('are not seen with %s, whose file may have others', (_, text) => {
    expect(parseConninfo(text)).toMatchObject({
      endpoints: [],
      options: expect.arrayContaining(['service']),
    });
  });

  test('are seen with a service if nothing of them can come from its file', () => {
    expect(addressesOf("service=main host=node1 port=1 hostaddr=''")).toEqual(['node1 1']);
  });
});

describe('the options of a conninfo', () => {
  test.each<[string, string, string[]]>([
    ['are listed once each', 'host=a port=1 host=b', ['host', 'port']],
    [
      'are those before the "?" of a URI, too',
      'postgres://u:p@h:1/d?sslmode=disable',
      'user password host port dbname sslmode'.split(' '),
    ],
    ['are not those that are empty before the "?"', 'postgres://:@:/?', []],
    ['include empty values', "user='' host=''", ['user', 'host']],
    ['have ssl=true of JDBC as sslmode', 'postgres://h?ssl=true', ['host', 'sslmode']],
    ['have the old requiressl as sslmode', 'requiressl=1', ['sslmode']],
  ])('%s', (_, text, options) => {
    expect(parseConninfo(text)).toMatchObject({ options, unknown: 0 });
  });

  test.each([
    ['host=a unheard_of=b constructor=c', ['host'], 2],
    ['postgres://a?unheard_of=b&ssl=false', ['host'], 2],
    // libpq 18 takes the rest of a password for an option.
    ['password=my secret=x host=a', ['password', 'host'], 1],
  ])('are counted, not named, where libpq does not know them (%s)', (text, options, unknown) => {
    expect(parseConninfo(text)).toEqual({ endpoints: [{ host: 'a', port: 5432 }], options, unknown });
  });
});

describe('a conninfo is malformed', () => {
  const NAME = 'has an invalid name of an option';
  const NO_EQUALS = (where: string) =>
    `has no "=" ${where}: a value with spaces needs quotes, such as options='-c geqo=off'`;
  const PORT = 'port must be a number from 1 to 65535';
  const PORTS = 'port must have one entry, or as many as there are hosts';
  const HOSTS = 'host and hostaddr must have the same number of entries';
  const HOST = `host has "@" or "=", perhaps of the next option: an empty value is ''`;
  const IPV6 = 'host must have an IPv6 address as [ADDRESS] or [ADDRESS]:PORT';
  const SECOND = 'has a second "@": write "@" and "/" in a password as %40 and %2F';
  const PARAMETER = 'has a parameter after "?" that is not NAME=VALUE';
  const percent = (name: string) =>
    `${name} has a "%" without two hexadecimal digits, or %00: write "%" as %25`;
  test.each([
    ['NUL', 'host=a\0', 'has a NUL character'],
    ['a word', 'node1', NO_EQUALS('at the beginning')],
    ['the scheme of something else', 'postgre://node1', NO_EQUALS('at the beginning')],
    ['a scheme in capitals', 'Postgres://node1', NO_EQUALS('at the beginning')],
    ['a password with a space', 'password=my secret host=a', NO_EQUALS('after password')],
    ['a redacted rest', 'host=a password=*REDACTED* rest', NO_EQUALS('after password')],
    ['a rest of an unknown option', 'unheard_of=my secret', NO_EQUALS('after an unknown option')],
    ['an open quote', "password='secret host=a", 'has a quote without its end after password'],
    ['an escaped quote at the end', "password='secret\\'", 'has a quote without its end after password'],
    ['a backslash in an open quote', "password='secret\\", 'has a quote without its end after password'],
    ['no name', '=a', NAME],
    ['a name in capitals', 'Host=a', NAME],
    ['a name with a hyphen', 'ho-st=a', NAME],
    ['a name with a space', 'postgres://a?%20host=b', NAME],
    ['port 0', 'port=0', PORT],
    ['port 65536', 'port=65536', PORT],
    ['a negative port', 'port=-1', PORT],
    ['a port with letters', 'port=5432a', PORT],
    ['a port of JavaScript', 'port=1e3', PORT],
    ['a port with a space of Unicode', 'port=\u00a01', PORT],
    ['one port of several that is out of range', 'host=a,b port=1,65536', PORT],
    ['a long port', `port=${'9'.repeat(400)}`, PORT],
    ['too few ports', 'host=a,b,c port=1,2', PORTS],
    ['too many ports', 'host=a port=1,2', PORTS],
    ['two ports and no host', 'port=1,2', PORTS],
    ['ports of hosts that a parameter replaced', 'postgres://a,b?host=c', PORTS],
    ['too few addresses', 'host=a,b hostaddr=::1', HOSTS],
    ['too many addresses', 'postgres://a?hostaddr=::1,::1', HOSTS],
    ['a host without its value', 'host= password=secret', HOST],
    ['an address without its value', 'hostaddr= password=secret', HOST],
    ['a host that begins with "="', 'host==secret', HOST],
    ['a host with a line and "@"', "host='a\n@b'", HOST],
    ['an open bracket', 'postgres://[::1', IPV6],
    ['empty brackets', 'postgres://a,[]', IPV6],
    ['something after a bracket', 'postgres://[::1]1', IPV6],
    ['a password with "@"', 'postgres://u:my@secret@a', SECOND],
    ['a password with "/"', 'postgres://u:1/secret@a', SECOND],
    ['half a percent-encoding', 'postgres://a?password=%4', percent('password')],
    ['a percent-encoding without digits', 'postgres://u:50%@a', percent('password')],
    ['an encoded NUL', 'postgres://a%00', percent('host')],
    ['a percent in the name of a parameter', 'postgres://a?%=b', percent('a name after "?"')],
    ['a percent in an unknown parameter', 'postgres://a?unheard_of=%', percent('a value after "?"')],
    ['a space in a password', 'postgres://u:my secret@a', 'password has a space: write %20'],
    ['a parameter without a value', 'postgres://a?host', PARAMETER],
    ['a parameter with two values', 'postgres://a?host=b=c', PARAMETER],
    ['an empty parameter', 'postgres://a?port=1&&host=b', PARAMETER],
    ['two "&" at the end', 'postgres://a?port=1&&', PARAMETER],
    ['only "&"', 'postgres://a?&', PARAMETER],
  ])('with %s', (_, text, message) => {
    expect(() => parseConninfo(text)).toThrow(new Error(message));
  });
});

describe('a random conninfo', () => {
  test('is read as it was written, in both forms', () => {
    const property = fc.property(examples, ({ text, endpoints, options }) => {
      const parsed = parseConninfo(text);
      expect({ ...parsed, options: [...parsed.options].sort() }).toEqual({ endpoints, options, unknown: 0 });
    });
    fc.assert(property, { numRuns: 2_000 });
  });

  test('is parsed or has an error, whatever it is', () => {
    const property = fc.property(fc.oneof(malformed, fc.string({ unit: 'binary' })), (text) => {
      try {
        const { endpoints, options } = parseConninfo(text);
        expect(endpoints.length > 0 || options.includes('service')).toBe(true);
        for (const { port } of endpoints) expect(port >= 1 && port <= 65_535).toBe(true);
      } catch (error) {
        expect((error as Error).constructor).toBe(Error);
      }
    });
    fc.assert(property, { numRuns: 5_000 });
  });

  /** Characters that mean something, and others that no message has. */
  const secret = fc.string({
    unit: fc.constantFrom(..."QXZKJ789 =@:/?&,%'\\[]\t+"),
    minLength: 4,
    maxLength: 16,
  });
  test('has no part of a secret in its error, nor in the names of its options', () => {
    const places = (text: string) => [
      text,
      `password=${text} host=node1`,
      `password='${text}' host=node1`,
      `user= password = ${text} host=node1`,
      `host= password=${text}`,
      `host=node1 ${text}=x`,
      `port=${text}`,
      `postgresql://barman:${text}@node1/db`,
      `postgresql://${text}@node1:5432`,
      `postgresql://node1?password=${text}`,
      `postgresql://node1?${text}`,
    ];
    const property = fc.property(secret, (text) => {
      for (const place of places(text)) {
        let shown: string;
        try {
          shown = parseConninfo(place).options.join();
        } catch (error) {
          shown = (error as Error).message;
        }
        for (let at = 0; at + 4 <= text.length; at += 1) expect(shown).not.toContain(text.slice(at, at + 4));
      }
    });
    fc.assert(property, { numRuns: 2_000 });
  });
});

const MB = 1024 * 1024;
test.each([
  ['spaces', ' '.repeat(MB)],
  ['spaces before a word', `host=a${' '.repeat(MB)}b`],
  ['a quoted value', `password='${'\\a'.repeat(MB / 2)}' host=a`],
  ['an open quote', `password='${'\\a'.repeat(MB / 2)}`],
  ['options', 'a=b '.repeat(MB / 4)],
  ['hosts', `host=${','.repeat(MB)}`],
  ['hosts of a URI', `postgres://${','.repeat(MB)}`],
  ['ports of a URI', `postgres://${'a:1,'.repeat(MB / 4)}`],
  ['open brackets', `postgres://${'['.repeat(MB)}`],
  ['letters of a URI', `postgres://${'a'.repeat(MB)}`],
  ['colons', `postgres://${':'.repeat(MB)}`],
  ['"@"', `postgres://${'@'.repeat(MB)}`],
  ['parameters', `postgres://?${'a=b&'.repeat(MB / 4)}`],
  ['"&"', `postgres://?${'&'.repeat(MB)}`],
  ['"="', `postgres://?${'='.repeat(MB)}`],
  ['encoded bytes', `postgres://?password=${'%c3'.repeat(MB / 3)}`],
  ['encoded bytes and letters', `postgres://?password=${'%41a'.repeat(MB / 4)}`],
  ['spaces in a URI', `postgres://a${' '.repeat(MB)}b`],
  ['a port with spaces', `port='${' '.repeat(MB)}1${' '.repeat(MB)}x'`],
  ['a long port', `port=${'9'.repeat(MB)}`],
  ['hosts and a long port', `host=${','.repeat(MB / 2)} port='${' '.repeat(MB / 2)}1'`],
  ['a host with "=" at its end', `host=${'a'.repeat(MB)}=`],
])('a conninfo of 1 MB with %s is read in less than five seconds', (_, text) => {
  const start = performance.now();
  try {
    parseConninfo(text);
  } catch (error) {
    expect((error as Error).constructor).toBe(Error);
  }
  expect(performance.now() - start).toBeLessThan(5_000);
});
