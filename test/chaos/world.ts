/**
 * What the nemesis disturbs: three Patroni nodes, etcd, a Barman host with nginx and pg-backup-api, and AWS
 * with the function; each on a host of its own. Real software, but for pg-backup-api's HTTP interface and
 * AWS's services.
 */

import { writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { Hosts } from '../e2e/cluster-files.ts';
import { on } from '../e2e/namespaces.ts';
import { startNginx } from '../e2e/nginx.ts';
import { PatroniCluster } from '../e2e/patroni-cluster.ts';
import { until } from '../e2e/processes.ts';
import { Remote } from '../e2e/remote.ts';
import { CertificateAuthority } from '../stand-ins/certificates.ts';
import { createSecret } from '../stand-ins/webhook.ts';
import type { AwsReport, AwsSettings } from './aws.ts';
import type { BarmanReport, BarmanSettings } from './barman-host.ts';
import type { History } from './check.ts';
import { ADDRESS, connect, createNetwork, HOSTS, NETWORK, NODES, pairs } from './network.ts';

export interface WorldOptions {
  /** For all files of the run; user postgres can read it. */
  readonly folder: string;
  /** Folder of the programs from PyPI. */
  readonly tools: string;
  /** Between two heartbeats (s). */
  readonly interval: number;
}

const PORT = { postgres: 5432, rest: 8008 };
const CLUSTER: Hosts = {
  nodes: new Map(NODES.map((name) => [name, { address: ADDRESS[name], ...PORT }])),
  etcd: { client: `http://${ADDRESS.etcd}:2379`, peer: `http://${ADDRESS.etcd}:2380` },
  network: NETWORK,
  on,
};

export interface World {
  readonly cluster: PatroniCluster;
  readonly aws: Remote<AwsReport>;
  readonly barmanHost: Remote<BarmanReport>;
  readonly history: History;
}

/** @returns once everything runs */
export async function startWorld({ folder, tools, interval }: WorldOptions): Promise<World> {
  await createNetwork();
  const ca = await CertificateAuthority.create('Chaos CA');
  const secret = createSecret();
  const history: History = { answers: [], leases: [], operations: [], items: [], byHand: [], beats: [] };
  const file = (name: string) => join(folder, name);
  const script = (name: string) => [process.execPath, [resolve(`test/chaos/${name}.ts`)]] as const;

  const barmanScript = on('barman', script('barman-host'));
  const barmanHost = new Remote<BarmanReport>(barmanScript, file('pg-backup-api.log'), ({ operation }) =>
    history.operations.push(operation),
  );
  const models = Object.fromEntries(NODES.map((name) => [name, `pg:${name}`]));
  const barmanSettings: BarmanSettings = { folder, tools, models: Object.values(models) };
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
    else history.beats.push(report.beat);
  });
  const patroni = NODES.map((name) => `http://${ADDRESS[name]}:${PORT.rest}`);
  const awsSettings: AwsSettings = {
    certificate: await ca.server([ADDRESS.aws]),
    interval,
    parameters: {
      ...parameters,
      'clusters/main': JSON.stringify({ servers: { main: models }, patroni, secret }),
    },
  };
  await aws.call('start', awsSettings);

  writeFileSync(file('ca.pem'), ca.cert);
  const cluster = await PatroniCluster.start({
    hosts: CLUSTER,
    folder,
    tools,
    callback: ['--url', `https://${ADDRESS.aws}/config-switch`, '--ca-file', file('ca.pem')],
    secret,
    // Both are each minute in production.
    cron: interval * 1_000,
  });
  return { cluster, aws, barmanHost, history };
}

/** Ends everything that the nemesis has done. */
export async function heal({ cluster, aws, barmanHost }: World): Promise<void> {
  for (const [a, b] of pairs(HOSTS)) await connect(a, b);
  cluster.heal();
  await aws.call('deliver', 'normal');
  await aws.call('killNext', 0);
  await aws.call('ssm', null);
  await aws.call('dynamoDb', null);
  await barmanHost.call('slow', 0);
  await barmanHost.call('noFaults');
  await barmanHost.call('listen').catch(() => {});
  await until(() => cluster.setPause(false), 'no node resumes', 120_000);
}
