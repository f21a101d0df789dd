/** What many clusters cost: to read the parameters, to verify a signature, and in each heartbeat. */

import { matchingSecrets, signatureHeaders } from '../../functions/config-switch/event/signature.ts';
import { Settings } from '../../functions/config-switch/settings/settings.ts';
import { inOneCluster, startBarmanHost } from '../stand-ins/barman-host.ts';
import { PatroniStandIn } from '../stand-ins/patroni-rest-api.ts';
import { createSecret, signedHeaders } from '../stand-ins/webhook.ts';
import { median, ms, quantile, type Row, table } from './report.ts';
import { createFunction, ssm } from './world.ts';

const CLUSTERS = [0, 1, 50, 200];
/** SSM's maximum page, and how long it takes (ms). */
const PAGE = { size: 10, time: 20 };
const REPEATS = 200;
const BEATS = 20;

/** Measures the first read of the parameters, and signatures that match the last secret or none. */
export async function benchClusters(): Promise<void> {
  const rows: Row[] = [];
  for (const count of CLUSTERS) {
    const path = `/clusters-${count}/`;
    const secrets = Array.from({ length: count }, () => createSecret());
    ssm.put(path, { url: 'https://barman.example.com', 'webhook-secret': createSecret() });
    for (const [index, secret] of secrets.entries()) {
      const servers = { [`server-${index}`]: { node1: 'pg:node1', node2: 'pg:node2' } };
      ssm.put(path, { [`clusters/c${index}`]: JSON.stringify({ secret, servers }) });
    }
    ssm.delay = PAGE.time;
    ssm.page = PAGE.size;
    const start = performance.now();
    const known = await new Settings(path, () => {}).secrets(AbortSignal.timeout(30_000));
    const read = performance.now() - start;
    ssm.delay = 0;

    const verify = (secret: string, size: number) => {
      const body = JSON.stringify({ action: 'x'.repeat(size) });
      const headers = signatureHeaders(signedHeaders(secret, body));
      if (!headers) throw new Error('no headers');
      const bytes = Buffer.from(body);
      const times = Array.from({ length: REPEATS }, () => {
        const before = performance.now();
        matchingSecrets(known, headers, bytes);
        return performance.now() - before;
      });
      return `${median(times).toFixed(2)} ms, p95 ${quantile(times, 0.95).toFixed(2)} ms`;
    };
    rows.push({
      clusters: count,
      'first read': ms(read),
      'signature of a usual body': verify(secrets.at(-1) ?? createSecret(), 250),
      'wrong signature, 16 KB': verify(createSecret(), 16_000),
    });
  }
  table(
    'clusters',
    `Parameters with a secret for each cluster; a page of ${PAGE.size} parameters takes SSM ${PAGE.time} ms`,
    rows,
  );
}

/** Measures heartbeats that find nothing to do; each cluster has two nodes, on this machine, too. */
export async function benchHeartbeat(): Promise<void> {
  const rows: Row[] = [];
  for (const count of CLUSTERS) {
    const path = `/heartbeat-${count}/`;
    const names = Array.from({ length: count }, (_, index) => `server-${index}`);
    await using patroni = await PatroniStandIn.start();
    await using host = await startBarmanHost({ servers: inOneCluster(['main', ...names]) }, ssm, path);
    for (const name of names) {
      const servers = { [name]: { node1: null, node2: 'pg:node2' } };
      host.put({ [`clusters/${name}`]: JSON.stringify({ scope: 'main', servers, patroni: patroni.urls }) });
    }
    const invoke = await createFunction(path);
    // The first ones create the items.
    for (let beat = 0; beat < 3; beat += 1) await invoke({ heartbeat: true });
    const before = patroni.requests.length;
    const times: number[] = [];
    for (let beat = 0; beat < BEATS; beat += 1) {
      const start = performance.now();
      await invoke({ heartbeat: true });
      times.push(performance.now() - start);
    }
    const requests = (patroni.requests.length - before) / BEATS;
    rows.push({
      clusters: count,
      median: ms(median(times)),
      p95: ms(quantile(times, 0.95)),
      'requests to Patroni': requests,
    });
  }
  table('heartbeat', 'An idle heartbeat; Patroni, pg-backup-api and DynamoDB are on the same machine', rows);
}
