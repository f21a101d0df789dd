/**
 * Compares parseConninfo with libpq itself, that of psycopg: with PQconninfoParse for random texts, valid and
 * malformed, and with the addresses that PQconnectdb tries for the lists of hosts, addresses and ports.
 */

import { execFile } from 'node:child_process';
import { join } from 'node:path';
import fc from 'fast-check';
import { expect, inject, test } from 'vitest';
import { parseConninfo } from '../../functions/config-switch/barman/conninfo.ts';
import { examples, malformed } from '../unit/conninfo-strings.ts';

const SEED = 20_261_123;
const TEXTS = 20_000;
const LISTS = 2_000;
/** An older one does not know all options. */
const LIBPQ_VERSION = 180_000;

/** Reads {"parse": […], "connect": […]}, writes {"version", "parse": [options or an error], "connect": [errors]}. */
const PROGRAM = `
import json, sys
from psycopg import pq

def parse(text):
    try:
        found = pq.Conninfo.parse(text.encode())
    except Exception as error:
        return str(error)
    return {one.keyword.decode(): one.val.decode(errors='replace') for one in found if one.val is not None}

def connect(text):
    connection = pq.PGconn.connect(text.encode())
    message = connection.error_message.decode()
    connection.finish()
    return message

texts = json.load(sys.stdin)
json.dump({
    'version': pq.version(),
    'parse': [parse(text) for text in texts['parse']],
    'connect': [connect(text) for text in texts['connect']],
}, sys.stdout)
`;

type Options = Readonly<Record<string, string>>;
interface Answer {
  readonly version: number;
  readonly parse: readonly (Options | string)[];
  readonly connect: readonly string[];
}

/** Asks libpq; one process for all texts. */
function askLibpq(texts: { readonly parse?: readonly string[]; readonly connect?: readonly string[] }) {
  return new Promise<Answer>((resolve, reject) => {
    // Without the variables of libpq, and without a home, where a file of services may be.
    const options = { env: { LC_ALL: 'C.UTF-8', HOME: '/nonexistent' }, maxBuffer: 1e9 };
    const program = execFile(join(inject('tools'), 'python'), ['-c', PROGRAM], options, (error, stdout) =>
      error ? reject(error) : resolve(JSON.parse(stdout) as Answer),
    );
    program.stdin?.end(JSON.stringify({ parse: [], connect: [], ...texts }));
  });
}

/** The rules of lists, from the documentation; they are compared with libpq in the second test. */
function endpointsOf({ host = '', hostaddr = '', port = '' }: Options): string[] {
  const [hosts, addresses, ports] = [host, hostaddr, port].map((list) => list.split(',')) as [
    string[],
    string[],
    string[],
  ];
  const all = hostaddr ? addresses : hosts;
  if (host && hosts.length !== all.length) throw new Error('hosts');
  if (ports.length > 1 && ports.length !== all.length) throw new Error('ports');
  return all.map((_, index) => {
    const text = (ports.length > 1 ? ports[index] : ports[0]) || '5432';
    const number = /^[ \t\n\v\f\r]*[+-]?\d+[ \t\n\v\f\r]*$/.test(text) ? Number.parseInt(text.trim(), 10) : 0;
    if (number < 1 || number > 65_535) throw new Error('port');
    return `${addresses[index] || hosts[index] || ''} ${number}`;
  });
}

/** @returns what it returns, or undefined if it throws */
function attempt<T>(action: () => T): T | undefined {
  try {
    return action();
  } catch {
    return undefined;
  }
}

const URI = /^postgres(?:ql)?:\/\/(?:[^/@]*@)?/;
/** libpq takes what may be a part of a password for a host here, and fails only when it looks it up. */
const isRefused = (text: string, endpoints: readonly string[]) =>
  (URI.test(text) && /^[^?]*@/.test(text.replace(URI, ''))) ||
  endpoints.some((endpoint) => /^(?![/@]).*[@=]/s.test(endpoint));

test('a conninfo › is parsed as by libpq', async () => {
  const sample = <T>(all: fc.Arbitrary<T>, count: number) => fc.sample(all, { seed: SEED, numRuns: count });
  const texts = [
    ...sample(examples, TEXTS / 4).map(({ text }) => text),
    ...sample(malformed, (TEXTS * 3) / 4).map((text) => text.replaceAll('\0', '')),
  ].filter((text) => text.isWellFormed());
  const { version, parse } = await askLibpq({ parse: texts });
  expect(version).toBeGreaterThanOrEqual(LIBPQ_VERSION);

  const counts = { parsed: 0, malformed: 0, unknown: 0, refused: 0 };
  const differing = texts.filter((text, index) => {
    const theirs = parse[index] as Options | string;
    const ours = attempt(() => parseConninfo(text));
    if (typeof theirs === 'string') {
      // Unknown options are counted, since a newer libpq may know them.
      const unknown = /invalid (connection option|URI query parameter)/.test(theirs);
      counts[unknown ? 'unknown' : 'malformed'] += 1;
      return ours !== undefined && !(unknown && ours.unknown > 0);
    }
    const names = Object.keys(theirs).sort();
    const service =
      names.includes('service') && !['host', 'hostaddr', 'port'].every((name) => name in theirs);
    const endpoints = service ? [] : attempt(() => endpointsOf(theirs));
    if (endpoints === undefined || isRefused(text, endpoints)) {
      counts.refused += 1;
      return ours !== undefined;
    }
    counts.parsed += 1;
    return (
      JSON.stringify(
        ours && [
          ours.endpoints.map((one) => `${one.host} ${one.port}`),
          [...ours.options].sort(),
          ours.unknown,
        ],
      ) !== JSON.stringify([endpoints, names, 0])
    );
  });
  console.log(`libpq ${version}, ${texts.length} texts: ${JSON.stringify(counts)}`);
  expect(differing.map((text) => [text, parse[texts.indexOf(text)]])).toEqual([]);
  expect(Math.min(...Object.values(counts))).toBeGreaterThan(TEXTS / 100);
});

/** Addresses at which nothing listens, and sockets that do not exist. */
const nowhere = fc.constantFrom('', '127.77.0.1', '127.77.0.2', '::1', '/nonexistent', '@nonexistent-pg');
const address = fc.constantFrom('', '127.77.0.3', '127.77.0.4');
/** Nothing listens at these ports, on any address. */
const closedPort = fc.oneof(
  { weight: 9, arbitrary: fc.constantFrom('', '1', '2', '+3', ' 4 ', '0005') },
  { weight: 1, arbitrary: fc.constantFrom('0', '-1', '65536', 'x', '1e0', '0x1', '+', ' ', '1 2') },
);
const list = <T extends string>(entry: fc.Arbitrary<T>) =>
  fc.array(entry, { minLength: 1, maxLength: 3 }).map((entries) => entries.join());

test('the lists of a conninfo › lead to the addresses that libpq tries', async () => {
  const texts = fc.sample(
    fc
      .record(
        { host: list(nowhere), hostaddr: list(address), port: fc.oneof(closedPort, list(closedPort)) },
        { requiredKeys: [] },
      )
      .map((options) =>
        Object.entries(options)
          .map(([name, value]) => `${name}='${value}'`)
          .join(' '),
      )
      // Not the default socket with the default port: a server may be running there.
      .filter((text) => /port/.test(text)),
    { seed: SEED, numRuns: LISTS },
  );
  const { connect } = await askLibpq({ connect: texts });
  const TRIED =
    /(?:server at "([^"]*)"(?: \([^)]*\))?, port|server on socket "([^"]*)\/\.s\.PGSQL\.)([^"]*?)"? failed/g;
  const counts = { tried: 0, malformed: 0 };
  const differing = texts.filter((text, index) => {
    const message = connect[index] as string;
    const ours = attempt(() => parseConninfo(text).endpoints.map(({ host, port }) => `${host} ${port}`));
    if (/^(invalid|could not match)/m.test(message)) {
      counts.malformed += 1;
      return ours !== undefined;
    }
    counts.tried += 1;
    const theirs = [...message.matchAll(TRIED)].map(([, at, socket = '', port]) => {
      // The directory of the default socket depends on the build.
      const directory = /^[/@]nonexistent/.test(socket) ? socket : '';
      return `${at ?? directory} ${Number(port)}`;
    });
    return JSON.stringify(ours) !== JSON.stringify(theirs);
  });
  console.log(`libpq, ${texts.length} lists: ${JSON.stringify(counts)}`);
  expect(differing.map((text) => [text, connect[texts.indexOf(text)]])).toEqual([]);
  expect(Math.min(...Object.values(counts))).toBeGreaterThan(LISTS / 10);
});
