/**
 * One's own Barman host and Patroni for `npm start`, instead of the stand-ins: the options become the parameters of
 * the stage. The description of the cluster is that of the parameter clusters/NAME, or it is guessed.
 */

import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import * as v from 'valibot';
import { UsageError } from '../../cli/command-line.ts';
import type { Connection } from '../../functions/config-switch/barman/attempts.ts';
import type { Diagnosis } from '../../functions/config-switch/barman/diagnosis.ts';
import { PgBackupApi } from '../../functions/config-switch/barman/pg-backup-api.ts';
import { HttpError, messageOf } from '../../functions/config-switch/errors.ts';
import type { TlsSettings } from '../../functions/config-switch/http/tls.ts';
import { blocking } from '../../functions/config-switch/inspect/judge.ts';
import { memberAt } from '../../functions/config-switch/inspect/models.ts';
import type { InspectionReport } from '../../functions/config-switch/inspect/report.ts';
import { newFacts } from '../../functions/config-switch/invocation.ts';
import { type Cluster, parseCluster } from '../../functions/config-switch/patroni/cluster.ts';
import { PatroniClient } from '../../functions/config-switch/patroni/rest-api.ts';
import { type Member, survey } from '../../functions/config-switch/patroni/survey.ts';
import { partsOf } from '../../functions/config-switch/settings/parameters.ts';
import { listOf } from '../../functions/config-switch/text.ts';

const file = (help: string) => ({ type: 'string', value: 'FILE', help }) as const;

/** Those for one's own hosts. Files are those of the parameters with the same names. */
export const HOST_OPTIONS = {
  'pg-backup-api': {
    type: 'string',
    value: 'URL',
    help: 'looks at your Barman host instead of stand-ins, and changes nothing; as the parameter url',
  },
  'client-cert': file('your client certificate for it, PEM'),
  'client-key': file('its private key'),
  'ca-cert': file("the CA of the Barman host's certificate"),
  'allow-plain-http': { type: 'boolean', help: 'allows an http:// URL there' },
  patroni: {
    type: 'string',
    multiple: true,
    value: 'URL',
    help: "Patroni's REST API on each node, one option for each; models are guessed",
  },
  'barman-server': { type: 'string', value: 'SERVER', help: 'the Barman server to guess for' },
  cluster: file('instead of --patroni: the cluster as JSON, as in the parameter clusters/NAME'),
  'patroni-ca-cert': file("the CA of Patroni's certificates, if it is not a public one"),
  'patroni-client-cert': file('your client certificate for Patroni, if it wants one'),
  'patroni-client-key': file('its private key'),
  apply: { type: 'boolean', help: 'lets heartbeats and webhooks switch your Barman host, as in production' },
} as const;

const FILES = [
  'client-cert',
  'client-key',
  'ca-cert',
  'patroni-ca-cert',
  'patroni-client-cert',
  'patroni-client-key',
] as const;

/** Time limit for asking Barman or Patroni before the inspection (ms). */
const TIME_LIMIT = 60_000;

/** The values of the options above. */
export type HostValues = {
  readonly [Name in keyof typeof HOST_OPTIONS]?: (typeof HOST_OPTIONS)[Name] extends { type: 'boolean' }
    ? boolean
    : (typeof HOST_OPTIONS)[Name] extends { multiple: true }
      ? string[]
      : string;
};

/** What the options say, checked without asking any host. */
export interface OwnHosts {
  /** By name, without clusters. */
  readonly parameters: ReadonlyMap<string, string>;
  readonly connection: Connection;
  readonly patroniTls: TlsSettings;
  /** The description of the cluster, or what it is guessed from. */
  readonly cluster: Given | Wanted;
  readonly apply: boolean;
}

/** The file of --cluster. */
interface Given {
  readonly text: string;
  /** Named as the file. */
  readonly cluster: Cluster;
}

/** What a cluster is guessed from. */
interface Wanted {
  readonly patroni: readonly string[];
  readonly barman_server: string | undefined;
}

/** A cluster, and its JSON as the parameter has it. */
export interface Described {
  readonly cluster: Cluster;
  readonly text: string;
  /** Whether it was guessed. */
  readonly isGuess: boolean;
}

/**
 * Reads the options.
 *
 * @returns undefined if there are none of them
 * @throws UsageError that names the option; no file's content is in it
 */
export function ownHosts(values: HostValues): OwnHosts | undefined {
  const [first] = Object.keys(HOST_OPTIONS).filter((name) => values[name as keyof HostValues] !== undefined);
  if (first === undefined) return undefined;
  const { 'pg-backup-api': url, patroni, cluster, 'barman-server': barman_server } = values;
  if (url === undefined)
    throw new UsageError(`--${first} needs --pg-backup-api, the URL of your Barman host`);
  if ((patroni === undefined) === (cluster === undefined)) {
    throw new UsageError(
      "give either --patroni, a URL of Patroni's REST API for each node, or --cluster, a file with the cluster as JSON",
    );
  }
  if (barman_server !== undefined && !patroni)
    throw new UsageError(
      '--barman-server is for --patroni; with --cluster, the file names the Barman servers',
    );
  const parameters = new Map([
    ['url', url],
    ...(values['allow-plain-http'] ? [['allow-plain-http', 'true'] as const] : []),
    ...FILES.flatMap((name) => {
      const path = values[name];
      return path === undefined ? [] : [[name, read(name, path)] as const];
    }),
  ]);
  const { connection, patroniTls } = partsOf(parameters, '--');
  if (connection instanceof HttpError) throw new UsageError(asOption(connection));
  if (patroniTls instanceof HttpError) throw new UsageError(asOption(patroniTls));
  if (patroni) parsed('--patroni', 'main', JSON.stringify({ servers: {}, patroni }));
  return {
    ...{ parameters, connection, patroniTls, apply: values.apply === true },
    cluster: cluster === undefined ? { patroni: patroni ?? [], barman_server } : given(cluster),
  };
}

/** Reads the file of --cluster. @throws UsageError */
function given(path: string): Given {
  const text = read('cluster', path);
  const cluster = parsed(`--cluster: ${path}`, basename(path, '.json'), text);
  if (cluster.patroni.length > 0) return { text, cluster };
  throw new UsageError(`--cluster: ${path} lacks the key "patroni": add the URLs of Patroni's REST API`);
}

function read(option: string, path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new UsageError(`--${option}: ${messageOf(error)}; give the path of a file that you may read`);
  }
}

/** Returns the message of an error about a parameter `--NAME`. */
function asOption({ message }: Error): string {
  return message
    .replace('SSM parameter ', '')
    .replace(/^--url/, '--pg-backup-api')
    .replace('or allow-plain-http set to true', 'or --allow-plain-http');
}

function parsed(option: string, name: string, text: string): Cluster {
  try {
    return parseCluster(name, text);
  } catch (error) {
    throw new UsageError(`${option} ${messageOf(error)}`);
  }
}

/**
 * Asks both hosts whether they answer, and describes the cluster.
 *
 * @throws Error that names the option and the remedy
 */
export async function describe(hosts: OwnHosts): Promise<Described> {
  const { connection, patroniTls, cluster: given } = hosts;
  const signal = AbortSignal.timeout(TIME_LIMIT);
  const source = { connection: async () => connection, rereadConnection: async () => connection };
  await using api = new PgBackupApi(source, { signal, maxRetries: 1, facts: newFacts() });
  const barman = <T>(answer: Promise<T>) =>
    answer.catch((error) => {
      const files = connection.tls ? ', --client-cert, --client-key and --ca-cert' : '';
      throw new Error(`--pg-backup-api: ${messageOf(error)}; check the URL${files}`);
    });
  await barman(api.status());
  if ('text' in given) {
    const { cluster, text } = given;
    const scope = await scopeOf(cluster.patroni, patroniTls, 'the key "patroni" of --cluster', signal);
    // The parameter is best named as the scope, which the file need not have then.
    const named = 'scope' in JSON.parse(text) ? cluster : parseCluster(scope, text);
    return { cluster: named, text, isGuess: false };
  }
  const { patroni, barman_server } = given;
  const scope = await scopeOf(
    patroni.map((url) => new URL(url)),
    patroniTls,
    '--patroni',
    signal,
  );
  const asked = parseCluster(scope, JSON.stringify({ servers: {}, patroni }));
  await using client = new PatroniClient(patroniTls);
  const { members = [] } = await survey(asked, client.ask, signal);
  const servers = guessServers(members, await barman(api.diagnose()), barman_server);
  const text = JSON.stringify({ servers, patroni });
  return { cluster: parseCluster(scope, text), text, isGuess: true };
}

const State = v.object({ patroni: v.object({ scope: v.string() }) });

/** Returns Patroni's scope. @param option that has the URLs @throws Error if no node says it */
async function scopeOf(
  urls: readonly URL[],
  tls: TlsSettings,
  option: string,
  signal: AbortSignal,
): Promise<string> {
  await using client = new PatroniClient(tls);
  const reasons = await Promise.all(
    urls.map(async (url) => {
      const answer = await client.ask(url, 'leader', AbortSignal.any([signal, AbortSignal.timeout(5_000)]));
      if ('error' in answer) return { error: `${url.href} (${answer.error})` };
      const state = v.safeParse(State, answer.body);
      return state.success ? state.output.patroni : { error: `${url.href} (not a state of Patroni)` };
    }),
  );
  const found = reasons.find((one) => 'scope' in one);
  if (found) return found.scope;
  const errors = reasons.flatMap((one) => ('error' in one ? [one.error] : []));
  throw new Error(
    `${option}: no node answers as Patroni: ${errors.join(', ')}; check the URLs, ` +
      'and for https:// --patroni-ca-cert, --patroni-client-cert and --patroni-client-key',
  );
}

/**
 * Guesses which model belongs to which member: the one that connects to the member's host, otherwise the one whose
 * name ends with the member's. Where models connect to members, names alone prove nothing for other Barman servers:
 * members of different clusters often have the same names.
 *
 * @param only the Barman server to guess for; undefined: all whose models match
 * @returns Barman server → member → model
 * @throws Error that says what to add, if nothing matches, or several servers do by name only
 */
export function guessServers(
  members: readonly Member[],
  { servers, models }: Pick<Diagnosis, 'servers' | 'models'>,
  only: string | undefined,
): Record<string, Record<string, string>> {
  if (only !== undefined && !servers.has(only)) {
    throw new Error(`--barman-server: Barman has no server ${only}; it has ${listOf([...servers.keys()])}`);
  }
  const guesses = [...servers]
    .filter(([name]) => only === undefined || name === only)
    .map(([barman_server, { cluster }]) => {
      const own = [...models].filter(([, model]) => model.cluster === cluster);
      let hosts = 0;
      const pairs = members.flatMap(({ name, canLead }): [string, string][] => {
        if (!canLead) return [];
        const byHost = own.filter(([, { connections }]) =>
          [...(connections?.values() ?? [])].some(
            (one) => 'endpoints' in one && one.endpoints.some((to) => memberAt(to, members)?.name === name),
          ),
        );
        const byName = (byHost.length > 0 ? byHost : own).filter(([model]) => endsWith(model, name));
        hosts += byHost.length;
        const [model] = byHost.length === 1 ? byHost : byName;
        return model ? [[name, model[0]]] : [];
      });
      return { barman_server, hosts, pairs };
    })
    .filter(({ pairs }) => pairs.length > 0);
  const byHost = guesses.filter(({ hosts }) => hosts > 0);
  const best = byHost.length > 0 ? byHost : guesses;
  if (best.length === 0) {
    const names = members.map(({ name, host = 'unknown host' }) => `${name} (${host})`);
    throw new Error(
      `no model of Barman connects to a member of Patroni's, or ends with its name: Barman has the models ${listOf([...models.keys()]) || '(none)'}, ` +
        `Patroni the members ${listOf(names)}; write the cluster to a file, such as ` +
        `{"servers": {"${only ?? [...servers.keys()][0] ?? 'main'}": {"${members[0]?.name ?? 'node1'}": "MODEL"}}, "patroni": ["URL"]}, and give it with --cluster instead of --patroni`,
    );
  }
  if (byHost.length === 0 && best.length > 1) {
    const names = best.map(({ barman_server }) => barman_server);
    throw new Error(
      `models of several Barman servers match by name: ${listOf(names)}; choose one with --barman-server`,
    );
  }
  return Object.fromEntries(
    best.map(({ barman_server, pairs }) => [barman_server, Object.fromEntries(pairs)]),
  );
}

/** Returns whether a model's name ends with a member's: `pg:node1` does with `node1`, but not with `ode1`. */
function endsWith(model: string, member: string): boolean {
  return model.endsWith(member) && !/[A-Za-z0-9]$/.test(model.slice(0, -member.length));
}

/** Returns what a failover to each member would do, a line each. */
export function outlook({ servers }: InspectionReport): string[] {
  return servers.flatMap(({ barman_server, members, findings, unseen }) =>
    members.map(({ member, model, ready }) => {
      const model_ = model === undefined ? 'nothing' : model === null ? 'no model' : model;
      const reasons =
        ready === 'no'
          ? blocking(member, findings).map(({ what }) => what)
          : unseen.filter((one) => one.member === true || one.member === member).map(({ what }) => what);
      const state = { yes: 'ready', no: 'not ready', '?': 'unknown', '–': 'unknown' }[ready];
      const because = reasons.length > 0 ? ` because ${reasons.join('; and ')}` : '';
      return `if ${member} became the leader: Barman would apply ${model_} to ${barman_server}: ${state}${because}`;
    }),
  );
}
