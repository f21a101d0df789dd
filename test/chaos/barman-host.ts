/** pg-backup-api's stand-in on the Barman host. Its operations run the real `barman config-switch`. */

import { setTimeout as sleep } from 'node:timers/promises';
import { Barman } from '../e2e/barman.ts';
import { offer } from '../e2e/remote.ts';
import { inOneCluster } from '../stand-ins/barman-host.ts';
import { PgBackupApiStandIn } from '../stand-ins/pg-backup-api.ts';
import type { Host } from '../stand-ins/pg-backup-api-host.ts';
import type { Operation } from './check.ts';

export interface BarmanSettings {
  /** The folder of barman.conf. */
  readonly folder: string;
  /** The folder of Barman's programs. */
  readonly tools: string;
  readonly models: readonly string[];
}

export type BarmanReport = { operation: Operation };

/** pg-backup-api's port, as in docs/examples/nginx.conf. */
const PORT = 7480;
/** With its operation, a late request takes effect within 30 s, as docs/explanation/guarantees.md wants it (ms). */
const LATE = 20_000;

let api: PgBackupApiStandIn;
/** How long each operation takes at least (ms); Infinity: its process dies before it has done anything. */
let slow = 0;
/** How long a request takes at most, of those that take long (ms); 0: none does. */
let late = 0;

const report = offer<BarmanReport>({
  start: async ({ folder, tools, models }: BarmanSettings) => {
    const barman = new Barman(folder, tools);
    api = await PgBackupApiStandIn.start({
      port: PORT,
      models: inOneCluster(models),
      get requestCost() {
        return Math.random() < 0.3 ? Math.random() * late : 0;
      },
      barman: async (server, model) => {
        const target = model === null ? 'reset' : `model ${model}`;
        const isDead = slow === Number.POSITIVE_INFINITY;
        report({ operation: { at: Date.now(), target, ...(isDead && { isDead }) } });
        if (isDead) return new Promise(() => {});
        await sleep(slow);
        if (api.host.disk !== 'writable') return false;
        return barman.configSwitch(server, model);
      },
      diagnose: () => barman.diagnose(),
    });
  },
  refuse: () => api.refuse(),
  listen: () => api.listen(),
  slow: (ms: number | null) => {
    slow = ms ?? Number.POSITIVE_INFINITY;
  },
  /** Requests are carried out only after that, also those whose clients have gone by then. */
  stall: () => api.fault({ kind: 'stall' }, Number.POSITIVE_INFINITY),
  /** Every other POST is carried out, and its response is lost. */
  lose: () =>
    api.fault(
      { kind: 'lose response' },
      Number.POSITIVE_INFINITY,
      ({ method }) => method === 'POST' && Math.random() < 0.5,
    ),
  noFaults: () => api.noFaults(),
  /** Several workers, of which some take long for a request: the requests overtake each other. */
  severalWorkers: () => {
    late = LATE;
    api.setWorkers(3);
  },
  oneWorker: () => {
    late = 0;
    api.setWorkers(1);
  },
  /** A job file of 0 bytes, as a full disk has left it. */
  emptyJob: () => api.host.createFolders('main').jobs.set(`${new Date().getFullYear()}0101T000000`, ''),
  disk: (disk: Host['disk']) => {
    api.host.disk = disk;
  },
  /** docs/how-to/broken-job-file.md */
  deleteEmptyJobs: () => {
    const { jobs, output } = api.host.files('main');
    for (const [id, job] of jobs) if (job === '' && !output.has(id)) jobs.delete(id);
  },
});
