/**
 * The SBOM of a release (CycloneDX): the packages whose code is in the function's bundle. `npm sbom` lists what is
 * installed instead.
 */

import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { build, type Metafile } from 'esbuild';
import { bundle } from '../infra/function/esbuild.ts';

/** What is in the function's package: its code, and where that comes from. */
export interface Bundle {
  readonly code: Uint8Array;
  readonly metafile: Metafile;
}

/** Bundles the function as serverless-esbuild does, byte for byte. Nothing is written. */
export async function bundleFunction(): Promise<Bundle> {
  const { outputWorkFolder: _, exclude, ...options } = bundle;
  const { outputFiles, metafile } = await build({
    ...options,
    external: exclude,
    entryPoints: ['functions/config-switch/index.ts'],
    outdir: '.',
    metafile: true,
    write: false,
  });
  return { code: outputFiles[0]?.contents ?? new Uint8Array(), metafile };
}

/** @returns the SBOM, JSON; the same for the same bundle @throws Error with the reason of cyclonedx-esbuild */
export function sbomOf({ metafile }: Bundle): string {
  const folder = mkdtempSync(join(tmpdir(), 'barman-config-switch-sbom-'));
  try {
    const input = join(folder, 'metafile.json');
    writeFileSync(input, JSON.stringify(metafile));
    const program = resolve('node_modules/.bin/cyclonedx-esbuild');
    return execFileSync(program, ['--output-reproducible', '--spec-version', '1.6', input], {
      encoding: 'utf8',
      maxBuffer: 2 ** 26,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
  } finally {
    rmSync(folder, { recursive: true });
  }
}
