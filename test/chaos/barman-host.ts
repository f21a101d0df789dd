/** pg-backup-api's stand-in on the Barman host. Its operations run the real `barman config-switch`. */

import { setTimeout as sleep } from 'node:timers/promises';
import { Barman } from '../e2e/barman.ts';
import { offer } from '../e2e/remote.ts';
import { inOneCluster } from '../stand-ins/barman-host.ts';
import { PgBackupApiStandIn } from '../stand-ins/pg-backup-api.ts';
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

let api: PgBackupApiStandIn;
/** How long each operation takes at least (ms); Infinity: its process dies before it has done anything. */
let slow = 0;

const report = offer<BarmanReport>({
  start: async ({ folder, tools, models }: BarmanSettings) => {
    const barman = new Barman(folder, tools);
    api = await PgBackupApiStandIn.start({
      port: PORT,
      models: inOneCluster(models),
      barman: async (server, model) => {
        const target = model === null ? 'reset' : `model ${model}`;
        report({ operation: { at: Date.now(), target } });
        if (slow === Number.POSITIVE_INFINITY) return new Promise(() => {});
        await sleep(slow);
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
});
