/**
 * Reads the parameters of a stage as the function does, and says what is wrong, before anything depends on
 * it.
 */

import { HttpError } from '../functions/config-switch/errors.ts';
import { type Cluster, serversOfSeveral } from '../functions/config-switch/patroni/cluster.ts';
import { type Part, secretsOf } from '../functions/config-switch/settings/parameters.ts';
import { Settings } from '../functions/config-switch/settings/settings.ts';
import { print } from './command-line.ts';

/**
 * Prints one line per parameter, or group of parameters.
 *
 * @param path of the parameters, `/barman-config-switch/<stage>/`
 * @returns the number of problems
 * @throws HttpError if SSM cannot be read
 */
export async function check(path: string, signal: AbortSignal): Promise<number> {
  const parts = await new Settings(path, () => {}, 'command').inspect(signal);
  let problems = 0;
  const line = <T>(name: string, part: Part<T>, describe: (value: T) => string) => {
    const wrong = part instanceof HttpError;
    if (wrong) problems += 1;
    print(`${wrong ? 'wrong' : 'ok   '}  ${name}: ${wrong ? part.message : describe(part)}`);
  };

  line('url, client-cert, client-key, ca-cert', parts.connection, ({ url, tls }) => {
    const end = tls?.notAfter === undefined ? '' : `; the client certificate ends on ${day(tls.notAfter)}`;
    return `${url}${tls ? end : ', without TLS'}`;
  });
  if (parts.webhookSecret) {
    line(
      'webhook-secret',
      parts.webhookSecret,
      (secrets) => `${count(secrets, 'secret')}, for every Barman server`,
    );
  }
  line('patroni-ca-cert, patroni-client-cert, patroni-client-key', parts.patroniTls, ({ ca, cert }) => {
    const client = cert === undefined ? 'no client certificate' : 'with a client certificate';
    return `${ca === undefined ? 'public CAs' : 'own CA'}, ${client}`;
  });
  for (const [name, cluster] of parts.clusters) line(`clusters/${name}`, cluster, describeCluster);
  const secrets = secretsOf(parts, path);
  if (secrets instanceof HttpError && !(parts.webhookSecret instanceof HttpError))
    line('secrets', secrets, String);

  const clusters = [...parts.clusters.values()].filter(
    (cluster): cluster is Cluster => !(cluster instanceof HttpError),
  );
  for (const [server, names] of serversOfSeveral(clusters)) {
    const error = new HttpError(
      `has members in ${names.join(' and ')}, so none of them reconciles it; leave the members to one, and write {} in the others`,
    );
    line(`Barman server ${server}`, error, String);
  }
  return problems;
}

function describeCluster({ scope, secrets, servers, patroni, streaming_archiver_name }: Cluster): string {
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
  ].join('; ');
}

function count(list: readonly unknown[], noun: string): string {
  return `${list.length || 'no'} ${noun}${list.length === 1 ? '' : 's'}`;
}

function day(time: number): string {
  return new Date(time).toISOString().slice(0, 10);
}
