/** Random connection strings of PostgreSQL, for the unit test and for the comparison with libpq. */

import fc from 'fast-check';
import type { Endpoint } from '../../functions/config-switch/barman/conninfo.ts';

/** A conninfo and what it means. */
export interface Example {
  readonly text: string;
  readonly endpoints: readonly Endpoint[];
  /** Sorted. */
  readonly options: readonly string[];
}

/** Servers, and the options that list them. */
const servers = fc
  .record({
    list: fc.array(
      fc.record({
        host: fc.constantFrom('', 'node1', 'node2.example', 'é', '10.0.0.1', 'fd00::7', '/run/pg', '@pg'),
        hostaddr: fc.constantFrom('', '10.0.0.1', '10.0.0.2', '::1'),
        port: fc.constantFrom('', '1', '5432', '5433', '06432', '65535'),
      }),
      { minLength: 1, maxLength: 4 },
    ),
    host: fc.boolean(),
    hostaddr: fc.boolean(),
    port: fc.constantFrom('none', 'one', 'each'),
  })
  .map(({ list, host, hostaddr, port }) => {
    const tried = host || hostaddr ? list : list.slice(0, 1);
    const ports = port === 'each' ? tried.map((one) => one.port) : [tried[0]?.port ?? ''];
    return {
      endpoints: tried.map((one, index) => ({
        host: (hostaddr && one.hostaddr) || (host && one.host) || '',
        port: Number((port !== 'none' && ports[ports.length > 1 ? index : 0]) || 5432),
      })),
      options: [
        ...(host ? [['host', tried.map((one) => one.host).join()]] : []),
        ...(hostaddr ? [['hostaddr', tried.map((one) => one.hostaddr).join()]] : []),
        ...(port === 'none' ? [] : [['port', ports.join()]]),
      ] as [string, string][],
    };
  });

/** Other options; a value is any text of UTF-8 without NUL. */
const others = fc
  .dictionary(
    fc.constantFrom('user', 'password', 'dbname', 'sslmode', 'options', 'application_name', 'sslpassword'),
    fc.string({ unit: 'binary', maxLength: 8 }).map((text) => text.replaceAll('\0', ' ')),
  )
  .map((options) => Object.entries(options));

const space = fc.constantFrom('', '', ' ', '\t', '\n\r', '\v\f ');

/** Writes options as `name=value name='value'`. */
function pairsOf(options: readonly [string, string][]): fc.Arbitrary<string> {
  const pairs = options.map(([name, value]) =>
    fc.tuple(space, space, space, fc.boolean()).map(([start, left, right, quotes]) => {
      const escaped = value.replace(quotes ? /['\\]/g : /[\s'\\]/g, '\\$&');
      return `${start}${name}${left}=${right}${quotes || value === '' ? `'${escaped}'` : `${escaped} `}`;
    }),
  );
  return fc.tuple(fc.tuple(...pairs), space).map(([texts, end]) => texts.join('') + end);
}

const encoded = (text: string) => Buffer.from(text).toString('hex').replace(/../g, '%$&');

/** Writes options as a URI. What can be before the "?" is there, or after it. */
function uriOf(options: readonly [string, string][]): fc.Arbitrary<string> {
  return fc
    .record({
      scheme: fc.constantFrom('postgresql', 'postgres'),
      before: fc.subarray(['userinfo', 'hosts', 'dbname']),
      end: fc.constantFrom('', '&'),
      encodes: fc.constantFrom(/./gsu, /[^\p{L}\d,.:]/gu),
    })
    .map(({ scheme, before, end, encodes }) => {
      const rest = new Map(options);
      const encode = (text: string) => text.replace(encodes, encoded);
      const take = (name: string) => {
        const value = rest.get(name) ?? '';
        rest.delete(name);
        return value;
      };
      const hosts = (rest.get('host') ?? '').split(',');
      const ports = (rest.get('port') ?? '').split(',');
      let text = `${scheme}://`;
      if (before.includes('userinfo') && rest.get('user') && rest.get('password'))
        text += `${encode(take('user')).replaceAll(':', '%3a')}:${encode(take('password'))}@`;
      if (before.includes('hosts') && rest.get('host') && rest.get('port') && hosts.length === ports.length) {
        text += hosts
          .map((host, index) => `${/:/.test(host) ? `[${host}]` : encode(host)}:${ports[index]}`)
          .join();
        take('host');
        take('port');
      }
      if (before.includes('dbname') && rest.get('dbname')) text += `/${encode(take('dbname'))}`;
      const parameters = [...rest].map(([name, value]) => `${encode(name)}=${encode(value)}`);
      return parameters.length > 0 ? `${text}?${parameters.join('&')}${end}` : text;
    });
}

/** Valid ones, in both forms. */
export const examples: fc.Arbitrary<Example> = fc.tuple(servers, others).chain(([known, more]) => {
  const options = [...known.options, ...more];
  return fc
    .shuffledSubarray(options, { minLength: options.length })
    .chain((shuffled) => fc.oneof(pairsOf(shuffled), uriOf(shuffled)))
    .map((text) => ({
      text,
      endpoints: known.endpoints,
      options: options.map(([name]) => name).sort(),
    }));
});

/** What means something in a conninfo, and what surprises. */
const piece = fc.constantFrom(
  ...[
    'postgresql://',
    'postgres://',
    'Postgres://',
    'host',
    'hostaddr',
    'port',
    'user',
    'password',
    'dbname',
  ],
  ...[
    'service',
    'ssl=true',
    'ssl',
    'requiressl=1',
    'true',
    '%00',
    '%4',
    '%41',
    '%2C',
    '%C3%A9',
    '%e9',
    '%25',
  ],
  ...[
    '=',
    '=',
    '=',
    ' ',
    ' ',
    ' = ',
    '&',
    '&',
    '?',
    '/',
    ':',
    '@',
    ',',
    ',',
    "'",
    "'",
    '\\',
    '[',
    ']',
    '[::1]',
  ],
  ...['5432', '0', '65536', '+1', '-1', ' 7 ', '1e3', '0x10', 'a', 'é', '\t', '\n', '\v', '\u00a0', '\u0085'],
  ...['*REDACTED*', '127.0.0.1', '/tmp', 'unheard_of', 'Host', 'hostaddr=', 'host=', 'port='],
);

/** Mostly malformed ones: random pieces, and examples with pieces put in or put out. */
export const malformed: fc.Arbitrary<string> = fc.oneof(
  fc.array(piece, { maxLength: 12 }).map((pieces) => pieces.join('')),
  fc
    .tuple(fc.constantFrom('postgresql://', 'postgres://'), fc.array(piece, { maxLength: 10 }))
    .map(([scheme, pieces]) => scheme + pieces.join('')),
  fc
    .tuple(examples, fc.array(fc.tuple(fc.nat(), fc.nat(3), piece), { minLength: 1, maxLength: 3 }))
    .map(([{ text }, changes]) => {
      const characters = [...text];
      for (const [place, length, put] of changes) {
        characters.splice(place % (characters.length + 1), length, put);
      }
      return characters.join('');
    }),
);
