/**
 * What the nemesis disturbs: three Patroni nodes, etcd, a Barman host with nginx and pg-backup-api, and AWS with the function; each on a
 * host of its own. Real software, but for pg-backup-api's HTTP interface and AWS's services.
 */

import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { barman, movePartialWalAway, moveTimelineAway } from '../e2e/cluster-files.ts';
import { startNginx } from '../e2e/nginx.ts';
import { asPostgres, outputOf, own, run, writeOwned } from '../e2e/processes.ts';
import { CertificateAuthority } from '../stand-ins/certificates.ts';
import { createSecret } from '../stand-ins/webhook.ts';
import type { AwsReport, AwsSettings } from './aws.ts';
import type { BarmanReport, BarmanSettings } from './barman-host.ts';
import type { History } from './check.ts';
import { ADDRESS, connect, createNetwork, HOSTS, on, pairs } from './network.ts';
import { NODES, type NodeName, PatroniCluster, PORT, until } from './patroni-cluster.ts';
import { Remote } from './remote.ts';

export interface WorldOptions {
  /** For all files of the run; user postgres can read it. */
  readonly folder: string;
  /** Folder of the programs from PyPI. */
  readonly tools: string;
  /** Between two heartbeats (s). */
  readonly interval: number;
}

export class World {
  readonly folder: string;
  readonly history: History = { answers: [], leases: [], operations: [], beats: [] };
  readonly cluster: PatroniCluster;
  readonly aws: Remote<AwsReport>;
  readonly barmanHost: Remote<BarmanReport>;
  readonly #tools: string;
  readonly #interval: number;

  private constructor({ folder, tools, interval }: WorldOptions) {
    this.folder = folder;
    this.#tools = tools;
    this.#interval = interval;
    this.cluster = new PatroniCluster(folder, tools);
    const script = (name: string) => [process.execPath, [resolve(`test/chaos/${name}.ts`)]] as const;
    this.aws = new Remote<AwsReport>(on('aws', script('aws')), this.#file('function.log'), (report) => {
      if ('answer' in report) this.history.answers.push(report.answer);
      else if ('lease' in report) this.history.leases.push(report.lease);
      else this.history.beats.push(report.beat);
    });
    const log = this.#file('pg-backup-api.log');
    this.barmanHost = new Remote<BarmanReport>(on('barman', script('barman-host')), log, ({ operation }) =>
      this.history.operations.push(operation),
    );
  }

  static async start(options: WorldOptions): Promise<World> {
    await createNetwork();
    const world = new World(options);
    const ca = await CertificateAuthority.create('Chaos CA');
    const secret = createSecret();
    own(world.folder, 0o755);
    world.#writeBarmanFiles();
    const { url } = await world.#startBarmanHost(ca);
    await world.#startAws(ca, secret, url);
    await world.cluster.start(secret, ca.cert);
    void world.#cron();
    return world;
  }

  /** Runs a command of Barman. @returns what it printed until it ended, or until the time limit (ms) */
  barman(words: readonly string[], limit = 20_000): Promise<string> {
    const all = ['-c', this.#file('barman.conf'), ...words];
    return outputOf(on('barman', asPostgres(join(this.#tools, 'barman'), all)), limit);
  }

  /** Barman's active model. */
  get activeModel(): string {
    const file = this.#file('barman', 'main', '.active-model.auto');
    return existsSync(file) ? readFileSync(file, 'utf8').trim() : '';
  }

  /** Moves away what Barman has of the WAL file that it receives. */
  movePartialWalAway(): Promise<string> {
    return run(on('barman', movePartialWalAway(this.folder, this.#tools)));
  }

  /** Moves away what Barman has of a timeline. */
  moveTimelineAway(timeline: number): Promise<string> {
    return run(on('barman', moveTimelineAway(this.folder, this.#tools, timeline)));
  }

  /** Whether Barman streams from a node, by PostgreSQL there. */
  async streamsFrom(name: NodeName): Promise<boolean> {
    const sql =
      "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'barman_receive_wal' AND state = 'streaming'";
    return (await this.cluster.query(name, sql).catch(() => '')).trim() === '1';
  }

  /** Ends everything that the nemesis has done. */
  async heal(): Promise<void> {
    for (const [a, b] of pairs(HOSTS)) await connect(a, b);
    this.cluster.heal();
    await this.aws.call('deliver', 'normal');
    await this.aws.call('killNext', 0);
    await this.aws.call('ssm', null);
    await this.aws.call('dynamoDb', null);
    await this.barmanHost.call('slow', 0);
    await this.barmanHost.call('noFaults');
    await this.barmanHost.call('listen').catch(() => {});
    await until(() => this.cluster.setPause(false), 'no node resumes');
  }

  #file(...names: string[]): string {
    return join(this.folder, ...names);
  }

  #writeBarmanFiles(): void {
    const hosts = NODES.map((name) => [name, `${ADDRESS[name]} port=${PORT.postgres}`]);
    writeOwned(this.#file('barman.conf'), barman(this.folder, Object.fromEntries(hosts)), 0o644);
    for (const folder of ['barman', 'barman/main']) {
      mkdirSync(this.#file(folder));
      own(this.#file(folder), 0o755);
    }
  }

  async #startBarmanHost(ca: CertificateAuthority): Promise<{ url: string }> {
    const models = Object.fromEntries(NODES.map((name) => [`pg:${name}`, { cluster: 'main' }]));
    const settings: BarmanSettings = { folder: this.folder, tools: this.#tools, models };
    await this.barmanHost.call('start', settings);
    return startNginx({
      folder: this.#file('nginx'),
      listen: `${ADDRESS.barman}:443`,
      upstream: '127.0.0.1:7480',
      ca: ca.cert,
      server: await ca.server([ADDRESS.barman]),
      on: (command) => on('barman', command),
    });
  }

  async #startAws(ca: CertificateAuthority, secret: string, url: string): Promise<void> {
    const client = await ca.client();
    const models = Object.fromEntries(NODES.map((name) => [name, `pg:${name}`]));
    const patroni = NODES.map((name) => `http://${ADDRESS[name]}:${PORT.rest}`);
    const settings: AwsSettings = {
      certificate: await ca.server([ADDRESS.aws]),
      interval: this.#interval,
      parameters: {
        url,
        'client-cert': client.cert,
        'client-key': client.key,
        'ca-cert': ca.cert,
        'clusters/main': JSON.stringify({ servers: { main: models }, patroni, secret }),
      },
    };
    await this.aws.call('start', settings);
  }

  /** Barman's cron, as often as the heartbeat: each minute in production. */
  async #cron(): Promise<void> {
    for (;;) {
      await this.barman(['cron']);
      await sleep(this.#interval * 1_000);
    }
  }
}
