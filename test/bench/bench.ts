/**
 * `npm run bench`: the README's figures. Ratios are measured side by side in one run. `-- cold` and the like for a part of it.
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
if (unknown.length > 0) throw new Error(`there is no ${unknown}; there are ${Object.keys(PARTS).join(', ')}`);
for (const [name, bench] of Object.entries(PARTS)) {
  if (wanted.length === 0 || wanted.includes(name)) await bench();
}
await Promise.all([ssm.close(), dynamoDb.close()]);
