/**
 * `npm run bench`: measures the tables of docs/performance.md; `npm run bench -- cold` measures one part.
 * What is compared is measured in the same run. The Barman host is a stand-in with one worker, which takes a
 * given time for each request; the real `patroni_barman` comes from PyPI, and AWS's runtime interface client
 * from npm.
 */

import { benchClusters, benchHeartbeat } from './clusters.ts';
import { benchCold } from './cold.ts';
import { benchLedger } from './ledger.ts';
import { benchReaction, benchSkips } from './reaction.ts';
import { benchStorm } from './storm.ts';
import { dynamoDb, ssm } from './world.ts';

const PARTS: Record<string, () => Promise<void>> = {
  skips: benchSkips,
  ledger: benchLedger,
  clusters: benchClusters,
  heartbeat: benchHeartbeat,
  cold: benchCold,
  storm: benchStorm,
  reaction: benchReaction,
};
const selected = process.argv.slice(2);
const unknown = selected.filter((name) => !Object.hasOwn(PARTS, name));
if (unknown.length > 0)
  throw new Error(`unknown part ${unknown.join(', ')}; valid: ${Object.keys(PARTS).join(', ')}`);
for (const [name, bench] of Object.entries(PARTS)) {
  if (selected.length === 0 || selected.includes(name)) await bench();
}
await Promise.all([ssm.close(), dynamoDb.close()]);
