/**
 * The SBOM of a release (CycloneDX 1.6): the packages whose code is in the function's bundle, and which of them uses
 * which, as esbuild reports it. `npm sbom` lists what is installed instead, and leaves out what tests need, too.
 */

import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { build, version as esbuildVersion } from 'esbuild';
import { bundle } from '../infra/function/esbuild.ts';

const ENTRY = 'functions/config-switch/index.ts';
/** The folder of a package in the path of one of its files. */
const PACKAGE_FOLDER = /^.*node_modules\/(?:@[^/]+\/)?[^/]+/;

interface Manifest {
  readonly name: string;
  readonly version: string;
  readonly description?: string;
  readonly license: string;
  readonly author?: string | { readonly name: string };
}

interface Component extends Record<string, unknown> {
  readonly 'bom-ref': string;
}

export interface Sbom {
  readonly metadata: { readonly component: Component } & Record<string, unknown>;
  readonly components: readonly Component[];
  readonly dependencies: readonly { readonly ref: string; readonly dependsOn: readonly string[] }[];
}

/** What is in the function's package: its code, and where that comes from. */
export interface Bundle {
  readonly code: Uint8Array;
  /** The folder of each package with code in it, '' for our own, and the folders of those that it imports. */
  readonly uses: ReadonlyMap<string, ReadonlySet<string>>;
}

/** Bundles the function as serverless-esbuild does, byte for byte. Nothing is written. */
export async function bundleFunction(): Promise<Bundle> {
  const { outputWorkFolder: _, exclude, ...options } = bundle;
  const { outputFiles, metafile } = await build({
    ...options,
    external: exclude,
    entryPoints: [ENTRY],
    outdir: '.',
    metafile: true,
    write: false,
  });
  const [output] = Object.values(metafile.outputs);
  const [file] = outputFiles;
  if (output === undefined || file === undefined) throw new Error(`esbuild made no bundle of ${ENTRY}`);
  const folderOf = (path: string) => PACKAGE_FOLDER.exec(path)?.[0] ?? '';
  const bundled = Object.entries(output.inputs).filter(([, { bytesInOutput }]) => bytesInOutput > 0);
  const folders = new Set(bundled.map(([path]) => folderOf(path)));
  const uses = new Map([...folders].toSorted().map((folder) => [folder, new Set<string>()]));
  for (const [path, { imports }] of Object.entries(metafile.inputs)) {
    for (const { path: imported, external } of imports) {
      const [from, to] = [folderOf(path), folderOf(imported)];
      // Not '': what an alias replaces by a module of ours is used by us.
      if (!external && to !== '' && from !== to && folders.has(to)) uses.get(from)?.add(to);
    }
  }
  return { code: file.contents, uses };
}

/**
 * Returns the SBOM of the bundle. It depends only on the commit: two releases of one commit have the same.
 *
 * @param uses from bundleFunction
 * @param sha256 the checksum of function.zip (hex)
 * @throws Error that names a package without a license or a checksum
 */
export function sbomOf(uses: Bundle['uses'], sha256: string): Sbom {
  const { packages } = JSON.parse(readFileSync('package-lock.json', 'utf8')) as {
    packages: Record<string, { integrity?: string }>;
  };
  const own = componentOf('', 'application', [{ alg: 'SHA-256', content: sha256 }]);
  const components = [...uses.keys()]
    .filter((folder) => folder !== '')
    .map((folder) => componentOf(folder, 'library', [hashOf(folder, packages[folder]?.integrity)]));
  return {
    ...{ bomFormat: 'CycloneDX', specVersion: '1.6', version: 1 },
    metadata: {
      ...timestamp(),
      lifecycles: [{ phase: 'build' }],
      tools: { components: [{ type: 'application', name: 'esbuild', version: esbuildVersion }] },
      component: own,
    },
    components,
    dependencies: [...uses].map(([folder, used]) => ({
      ref: refOf(folder),
      dependsOn: [...used].map(refOf).toSorted(),
    })),
  };
}

function manifestOf(folder: string): Manifest {
  return JSON.parse(readFileSync(folder === '' ? 'package.json' : `${folder}/package.json`, 'utf8'));
}

/** The package URL. Our own package is in no registry. */
function refOf(folder: string): string {
  const { name, version } = manifestOf(folder);
  return `pkg:${folder === '' ? 'generic' : 'npm'}/${name.replace('@', '%40')}@${version}`;
}

function componentOf(folder: string, type: string, hashes: readonly object[]): Component {
  const { name, version, description, license, author } = manifestOf(folder);
  if (typeof license !== 'string') throw new Error(`${folder}/package.json names no license`);
  const supplier = typeof author === 'string' ? author : author?.name;
  const purl = refOf(folder);
  return {
    ...{ type, 'bom-ref': purl, name, version, description, purl, hashes },
    ...(supplier && { authors: [{ name: supplier }] }),
    licenses: [/[ (]/.test(license) ? { expression: license } : { license: { id: license } }],
  };
}

/** The checksum that npm verifies the package with. */
function hashOf(folder: string, integrity: string | undefined) {
  const [, base64] = /^sha512-(\S+)$/.exec(integrity ?? '') ?? [];
  if (base64 === undefined) throw new Error(`package-lock.json has no sha512 of ${folder}`);
  return { alg: 'SHA-512', content: Buffer.from(base64, 'base64').toString('hex') };
}

/** The time of the commit; nothing where there is no repository. */
function timestamp() {
  const words = ['log', '-1', '--format=%cd', '--date=format-local:%FT%TZ'];
  const { status, stdout } = spawnSync('git', words, {
    encoding: 'utf8',
    env: { ...process.env, TZ: 'UTC' },
  });
  return status === 0 ? { timestamp: stdout.trim() } : {};
}
