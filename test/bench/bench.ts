/**
 * `npm run bench`: measures the tables of docs/explanation/performance.md; `npm run bench -- cold` measures one part.
 * What is compared is measured in the same run. The Barman host is a stand-in with one worker, which takes a
 * given time for each request; the real `patroni_barman` comes from PyPI, and AWS's runtime interface client
 * from npm.
 */

import { commandLine, UsageError } from '../../cli/command-line.ts';

/** Loaded only once they run: they start servers, and install what is measured. */
const PARTS: Record<string, () => Promise<void>> = {
  skips: async () => (await import('./reaction.ts')).benchSkips(),
  ledger: async () => (await import('./ledger.ts')).benchLedger(),
  clusters: async () => (await import('./clusters.ts')).benchClusters(),
  heartbeat: async () => (await import('./clusters.ts')).benchHeartbeat(),
  cold: async () => (await import('./cold.ts')).benchCold(),
  storm: async () => (await import('./storm.ts')).benchStorm(),
  silent: async () => (await import('./storm.ts')).benchSilent(),
  reaction: async () => (await import('./reaction.ts')).benchReaction(),
  failover: async () => (await import('./failover.ts')).benchFailover(),
};
const selected = await commandLine(
  {
    name: 'npm run bench',
    summary: 'Measures the tables of docs/explanation/performance.md, or some of their parts.',
    operands: [['PART …', `any of ${Object.keys(PARTS).join(', ')}; all without one`]],
    options: {},
  },
  (_, parts) => {
    const unknown = parts.filter((name) => !Object.hasOwn(PARTS, name));
    if (unknown.length === 0) return parts;
    throw new UsageError(`unknown part ${unknown.join(', ')}; valid: ${Object.keys(PARTS).join(', ')}`);
  },
);
for (const [name, bench] of Object.entries(PARTS)) {
  if (selected.length === 0 || selected.includes(name)) await bench();
}
const { dynamoDb, ssm } = await import('./world.ts');
await Promise.all([ssm.close(), dynamoDb.close()]);
