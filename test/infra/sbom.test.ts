/** The SBOM of a release. That it is of the code that is deployed: template.test.ts. */

import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { bundleFunction, sbomOf } from '../../cli/sbom.ts';

const manifest = JSON.parse(readFileSync('package.json', 'utf8'));
const { uses } = await bundleFunction();
const sbom = sbomOf(uses, 'a'.repeat(64));
const { component } = sbom.metadata;

test('the SBOM › is of this version, and of the file that is deployed', () => {
  expect(component).toMatchObject({
    name: manifest.name,
    version: manifest.version,
    hashes: [{ alg: 'SHA-256', content: 'a'.repeat(64) }],
    licenses: [{ license: { id: manifest.license } }],
  });
});

test('the SBOM › has the time of the commit', () => {
  expect(sbom.metadata.timestamp).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/);
});

test('the SBOM › has each dependency of the function, and no package that only the tests or the deployment need', () => {
  const direct = Object.entries(manifest.dependencies).map(([name, version]) => `${name}@${version}`);
  const own = sbom.dependencies.find(({ ref }) => ref === component['bom-ref']);
  const used = own?.dependsOn.map((ref) => ref.replace('pkg:npm/', '').replace('%40', '@'));
  expect(used).toEqual(direct.toSorted());
  const names = sbom.components.map(({ name }) => String(name));
  expect(names.filter((name) => name in manifest.devDependencies)).toEqual([]);
});

test('the SBOM › has a version, a license and a checksum of each package, and none of them twice', () => {
  for (const one of sbom.components) {
    expect(one).toMatchObject({
      purl: `pkg:npm/${String(one.name).replace('@', '%40')}@${one.version}`,
      licenses: [{ license: { id: expect.stringMatching(/^(MIT|MIT-0|Apache-2\.0)$/) } }],
      hashes: [{ alg: 'SHA-512', content: expect.stringMatching(/^[0-9a-f]{128}$/) }],
    });
  }
  const refs = sbom.components.map((one) => one['bom-ref']);
  expect(new Set(refs).size).toBe(refs.length);
});

test('the SBOM › shows how each package came in', () => {
  const reached = new Set([component['bom-ref']]);
  for (const ref of reached) {
    const found = sbom.dependencies.find((one) => one.ref === ref);
    for (const used of found?.dependsOn ?? []) reached.add(used);
  }
  expect(reached).toEqual(new Set([component['bom-ref'], ...sbom.components.map((one) => one['bom-ref'])]));
});

test('the SBOM › is the same each time', async () => {
  const again = await bundleFunction();
  expect(JSON.stringify(sbomOf(again.uses, 'a'.repeat(64)))).toBe(JSON.stringify(sbom));
});
