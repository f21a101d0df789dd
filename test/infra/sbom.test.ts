/** The SBOM of a release. That it is of the code that is deployed: template.test.ts. */

import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { bundleFunction, sbomOf } from '../../cli/sbom.ts';

interface Component {
  readonly name: string;
  readonly group?: string;
  readonly version: string;
  readonly licenses: readonly { readonly license: { readonly id: string } }[];
}
interface Sbom {
  readonly metadata: { readonly component: Component };
  readonly components: readonly Component[];
}

const manifest = JSON.parse(readFileSync('package.json', 'utf8'));
const text = sbomOf(await bundleFunction());
const { metadata, components }: Sbom = JSON.parse(text);
const nameOf = ({ group, name }: Component) => (group === undefined ? name : `${group}/${name}`);

test('the SBOM › is of this version', () => {
  expect(metadata.component).toMatchObject({
    name: manifest.name,
    version: manifest.version,
    licenses: [{ license: { id: manifest.license } }],
  });
});

test('the SBOM › has each dependency of the function, and no package that only the tests or the deployment need', () => {
  const versions = Object.fromEntries(components.map((one) => [nameOf(one), one.version]));
  expect(versions).toMatchObject(manifest.dependencies);
  expect(Object.keys(versions).filter((name) => name in manifest.devDependencies)).toEqual([]);
});

test('the SBOM › has the license of each package', () => {
  for (const { licenses } of components) {
    expect(licenses).toMatchObject([{ license: { id: expect.stringMatching(/^(MIT|MIT-0|Apache-2\.0)$/) } }]);
  }
});

test('the SBOM › is the same each time', async () => {
  expect(sbomOf(await bundleFunction())).toBe(text);
});
