/** How the function is bundled: one file with only what runs. What it is worth: npm run bench -- cold. */

const { join } = require('node:path');

module.exports = {
  bundle: true,
  platform: 'node',
  target: 'node24',
  format: 'cjs',
  // `module` first: esbuild's default for Node makes the AWS SDK twice as slow to load.
  mainFields: ['module', 'main'],
  // `import('node:http')` has Node load its own undici as well, to look through what it exports; `require` does not.
  supported: { 'dynamic-import': false },
  // Lambda gives credentials by the environment; the SDK's chain of providers is 150 KB of the bundle.
  alias: { '@aws-sdk/credential-provider-node': join(__dirname, 'credentials.ts') },
  exclude: [
    // The HTTP parsers that undici has for processors without SIMD, and on request; Lambda's have it.
    '*/llhttp-wasm.js',
    '*/milo/simd.js',
    '*/milo/no-simd.js',
    // For operations with streams of events. Loaded late, so that what it shares with the rest would be compiled twice.
    '@smithy/core/event-streams',
  ],
  // Not the identifiers: stack traces need the names.
  minifyWhitespace: true,
  minifySyntax: true,
  sourcemap: false,
  outputWorkFolder: process.env.ESBUILD_WORK_FOLDER ?? '.esbuild',
};
