/**
 * How the function is bundled: one file with only the code that runs. Its effect: `npm run bench -- cold`.
 */

import { join } from 'node:path';
import type { BuildOptions } from 'esbuild';

/** For serverless-esbuild. */
export const bundle = {
  bundle: true,
  platform: 'node',
  target: 'node24',
  format: 'cjs',
  // `module` first: esbuild's default for Node makes the AWS SDK twice as slow to load.
  mainFields: ['module', 'main'],
  // `import('node:http')` makes Node load its built-in undici to list the exports; `require` does not.
  supported: { 'dynamic-import': false },
  // Lambda passes credentials in the environment; the SDK's provider chain would be 150 KB of the bundle.
  alias: { '@aws-sdk/credential-provider-node': join(import.meta.dirname, 'credentials.ts') },
  exclude: [
    // undici's HTTP parsers for processors without SIMD, and its optional one; Lambda's processors have SIMD.
    '*/llhttp-wasm.js',
    '*/milo/simd.js',
    '*/milo/no-simd.js',
    // For operations with event streams, which we do not use. Loaded lazily, so code that it shares would be
    // compiled twice.
    '@smithy/core/event-streams',
  ],
  // Identifiers are kept: stack traces need the names.
  minifyWhitespace: true,
  minifySyntax: true,
  sourcemap: false,
  outputWorkFolder: process.env.ESBUILD_WORK_FOLDER ?? '.esbuild',
} satisfies BuildOptions & { exclude: string[]; outputWorkFolder: string };
