/** The parameters of a stage as an operator reads them: a line each, without a value that is secret. */

import { HttpError } from '../errors.ts';
import type { Bindings } from '../patroni/bindings.ts';
import { type Cluster, serversOfSeveral } from '../patroni/cluster.ts';
import { type Part, type Parts, secretsOf } from './parameters.ts';

const DAY = 86_400_000;

/** A parameter, or several that belong together. */
export interface ParameterLine {
  readonly ok: boolean;
  readonly name: string;
  /** What it says, or what is wrong with it. */
  readonly text: string;
}

/**
 * Describes the parameters.
 *
 * @param path of the stage, for messages
 * @param now ms since the epoch, for the days that certificates have left
 */
export function describeParameters(parts: Parts, path: string, now: number): ParameterLine[] {
  const line = <T>(name: string, part: Part<T>, describe: (value: T) => string): ParameterLine =>
    part instanceof HttpError
      ? { ok: false, name, text: part.message }
      : { ok: true, name, text: describe(part) };
  const expiries = (of: ReadonlyMap<string, number> | undefined) =>
    [...(of ?? [])].map(
      ([name, end]) =>
        `${name} ends in ${Math.floor((end - now) / DAY)} days, on ${new Date(end).toISOString().slice(0, 10)}`,
    );
  const clusters = [...parts.clusters.values()].filter(
    (cluster): cluster is Cluster => !(cluster instanceof HttpError),
  );
  const secrets = secretsOf(parts, path);
  return [
    line('url, client-cert, client-key, ca-cert', parts.connection, ({ url, tls }) =>
      [`${url}${tls ? '' : ', without TLS'}`, ...expiries(tls?.expiries)].join('; '),
    ),
    ...(parts.webhookSecret
      ? [
          line(
            'webhook-secret',
            parts.webhookSecret,
            (all) => `${count(all, 'secret')}, for every Barman server`,
          ),
        ]
      : []),
    line(
      'patroni-ca-cert, patroni-client-cert, patroni-client-key',
      parts.patroniTls,
      ({ ca, cert, ...tls }) => {
        const client = cert === undefined ? 'no client certificate' : 'with a client certificate';
        return [`${ca === undefined ? 'public CAs' : 'own CA'}, ${client}`, ...expiries(tls.expiries)].join(
          '; ',
        );
      },
    ),
    ...(parts.bindings ? [line('servers', parts.bindings, describeBindings)] : []),
    ...[...parts.clusters].map(([name, cluster]) => line(`clusters/${name}`, cluster, describeCluster)),
    ...(secrets instanceof HttpError && !(parts.webhookSecret instanceof HttpError)
      ? [line('secrets', secrets, String)]
      : []),
    ...[...serversOfSeveral(clusters)].map(([server, names]) => {
      const text = `has members in ${names.join(' and ')}, its sites: it follows the only one that has a primary`;
      return { ok: true, name: `Barman server ${server}`, text };
    }),
  ];
}

function describeBindings(bindings: Bindings): string {
  const lists = [...bindings].map(
    ([server, names]) => `${server} only in ${[...names].join(', ') || 'none'}`,
  );
  return `a cluster may list ${lists.join('; ') || 'no server'}`;
}

function describeCluster({
  scope,
  secrets,
  servers,
  patroni,
  streaming_archiver_name,
  barman_addresses,
}: Cluster): string {
  const models = [...servers].map(([server, members]) => {
    const pairs = [...members].map(([member, model]) => `${member} → ${model ?? 'no model'}`);
    return `${server} (${pairs.join(', ') || 'not reconciled'})`;
  });
  return [
    count(secrets, 'secret'),
    `scope ${scope}`,
    `servers ${models.join(', ') || 'none'}`,
    patroni.length > 0 ? `Patroni ${patroni.map(({ href }) => href).join(' ')}` : 'Patroni is not asked',
    streaming_archiver_name ?? 'streaming is not checked',
    ...(barman_addresses ? [`only from ${barman_addresses.rules.map(shortRule).join(' ')}`] : []),
  ].join('; ');
}

/** @param rule of a BlockList, such as `Subnet: IPv4 10.0.3.0/24` */
function shortRule(rule: string): string {
  return rule.replace(/^.* /, '');
}

function count(list: readonly unknown[], noun: string): string {
  return `${list.length || 'no'} ${noun}${list.length === 1 ? '' : 's'}`;
}
