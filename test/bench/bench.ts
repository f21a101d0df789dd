/**
 * `npm run bench`: the tables of docs/performance.md. Ratios are measured side by side in one run. `-- cold` runs one part.
 * The Barman host is the stand-in, whose one worker takes a given time for each request; the real `patroni_barman` and AWS's
 * runtime interface client are installed from PyPI and npm into the temporary folder.
 */

import { benchCold } from './cold.ts';
import { benchLedger, benchStorm } from './ledger.ts';
import { benchReaction, benchSkips } from './reaction.ts';
import { dynamoDb, ssm } from './world.ts';

const PARTS: Record<string, () => Promise<void>> = {
  skips: benchSkips,
  ledger: benchLedger,
  cold: benchCold,
  storm: benchStorm,
  reaction: benchReaction,
};
const wanted = process.argv.slice(2);
const unknown = wanted.filter((name) => !Object.hasOwn(PARTS, name));
if (unknown.length > 0) throw new Error(`unknown part ${unknown}; valid: ${Object.keys(PARTS).join(', ')}`);
for (const [name, bench] of Object.entries(PARTS)) {
  if (wanted.length === 0 || wanted.includes(name)) await bench();
}
await Promise.all([ssm.close(), dynamoDb.close()]);
