/**
 * What the nemesis disturbs: three Patroni nodes, etcd, a Barman host with nginx and pg-backup-api, and AWS
 * with the function; each on a host of its own. Real software, but for pg-backup-api's HTTP interface and
 * AWS's services.
 */

import { mkdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { Hosts, NodeName } from '../e2e/cluster-files.ts';
import { on } from '../e2e/namespaces.ts';
import { startNginx } from '../e2e/nginx.ts';
import { PatroniCluster } from '../e2e/patroni-cluster.ts';
import { until } from '../e2e/processes.ts';
import { Remote } from '../e2e/remote.ts';
import { CertificateAuthority } from '../stand-ins/certificates.ts';
import { createSecret } from '../stand-ins/webhook.ts';
import type { AwsReport, AwsSettings } from './aws.ts';
import type { BarmanReport, BarmanSettings } from './barman-host.ts';
import { emptyHistory, type History } from './check.ts';
import { ADDRESS, connect, createNetwork, HOSTS, NETWORK, NODES, pairs } from './network.ts';

export interface WorldOptions {
  /** For all files of the run; user postgres can read it. */
  readonly folder: string;
  /** Folder of the programs from PyPI. */
  readonly tools: string;
  /** Between two heartbeats (s). */
  readonly interval: number;
  /** The callbacks follow the leader. Otherwise each names the model of its node. */
  readonly followLeader: boolean;
  /** There is a standby site. */
  readonly hasSite: boolean;
}

const PORT = { postgres: 5432, rest: 8008 };
const CLUSTER: Hosts = {
  nodes: new Map(NODES.map((name) => [name, { address: ADDRESS[name], ...PORT }])),
  etcd: { client: `http://${ADDRESS.etcd}:2379`, peer: `http://${ADDRESS.etcd}:2380` },
  network: NETWORK,
  on,
};

/** The standby site has one node. */
const SITE: Hosts = {
  nodes: new Map([['site1', { address: ADDRESS.site1, ...PORT }]]),
  etcd: { client: `http://${ADDRESS.site1}:2379`, peer: `http://${ADDRESS.site1}:2380` },
  network: NETWORK,
  on: (_, command) => on('site1', command),
};

export interface World {
  readonly cluster: PatroniCluster;
  readonly site: PatroniCluster | undefined;
  readonly aws: Remote<AwsReport>;
  readonly barmanHost: Remote<BarmanReport>;
  readonly history: History;
}

/** @returns once everything runs */
export async function startWorld(options: WorldOptions): Promise<World> {
  const { folder, tools, interval, followLeader, hasSite } = options;
  await createNetwork();
  const ca = await CertificateAuthority.create('Chaos CA');
  const secret = createSecret();
  const history = emptyHistory();
  const file = (name: string) => join(folder, name);
  const script = (name: string) => [process.execPath, [resolve(`test/chaos/${name}.ts`)]] as const;

  const barmanScript = on('barman', script('barman-host'));
  const barmanHost = new Remote<BarmanReport>(barmanScript, file('pg-backup-api.log'), ({ operation }) =>
    history.operations.push(operation),
  );
  const modelsOf = (names: Iterable<NodeName>) =>
    Object.fromEntries([...names].map((name) => [name, `pg:${name}`]));
  const barmanNodes = new Map([...CLUSTER.nodes, ...(hasSite ? SITE.nodes : [])]);
  const models = Object.values(modelsOf(barmanNodes.keys()));
  const barmanSettings: BarmanSettings = { folder, tools, models };
  await barmanHost.call('start', barmanSettings);
  const { parameters } = await startNginx({
    folder: file('nginx'),
    listen: `${ADDRESS.barman}:443`,
    upstream: '127.0.0.1:7480',
    ca,
    on: (command) => on('barman', command),
  });

  const aws = new Remote<AwsReport>(on('aws', script('aws')), file('function.log'), (report) => {
    if ('answer' in report) history.answers.push(report.answer);
    else if ('lease' in report) history.leases.push(report.lease);
    else if ('item' in report) history.items.push(report.item);
    else if ('beat' in report) history.beats.push(report.beat);
    else history.cuts.push(report.cut);
  });
  const parameter = ({ nodes }: Hosts) =>
    JSON.stringify({
      servers: { main: modelsOf(nodes.keys()) },
      patroni: [...nodes.values()].map(({ address, rest }) => `http://${address}:${rest}`),
      secret,
    });
  const awsSettings: AwsSettings = {
    certificate: await ca.server([ADDRESS.aws]),
    interval,
    parameters: {
      ...parameters,
      'clusters/main': parameter(CLUSTER),
      ...(hasSite && { 'clusters/site': parameter(SITE) }),
    },
  };
  await aws.call('start', awsSettings);

  writeFileSync(file('ca.pem'), ca.cert);
  const shared = {
    tools,
    callback: ['--url', `https://${ADDRESS.aws}/config-switch`, '--ca-file', file('ca.pem')],
    secret,
    // Both are each minute in production.
    cron: interval * 1_000,
  };
  const cluster = await PatroniCluster.start({
    ...shared,
    hosts: CLUSTER,
    folder,
    models: !followLeader,
    barmanNodes,
  });
  if (!hasSite) return { cluster, site: undefined, aws, barmanHost, history };
  mkdirSync(file('site'));
  const site = await PatroniCluster.start({
    ...shared,
    hosts: SITE,
    folder: file('site'),
    scope: 'site',
    barmanNodes: null,
    standbyOf: { host: NODES.map((name) => ADDRESS[name]).join(), port: PORT.postgres },
    // Patroni does not make the only node of a standby cluster again.
    settings: () => ({
      postgresql: {
        remove_data_directory_on_rewind_failure: false,
        remove_data_directory_on_diverged_timelines: false,
      },
    }),
  });
  return { cluster, site, aws, barmanHost, history };
}

/** Ends everything that the nemesis has done. */
export async function heal({ cluster, site, aws, barmanHost }: World): Promise<void> {
  for (const [a, b] of pairs(HOSTS)) await connect(a, b);
  cluster.heal();
  site?.heal();
  await aws.call('deliver', 'normal');
  await aws.call('killNext', 0);
  await aws.call('cutPost', false);
  await aws.call('cluster', null);
  await aws.call('ssm', null);
  await aws.call('dynamoDb', null);
  await barmanHost.call('slow', 0);
  await barmanHost.call('noFaults');
  await barmanHost.call('oneWorker');
  await barmanHost.call('disk', 'writable');
  await barmanHost.call('deleteEmptyJobs');
  await barmanHost.call('listen').catch(() => {});
  await until(() => cluster.setPause(false), 'no node resumes', 120_000);
}
