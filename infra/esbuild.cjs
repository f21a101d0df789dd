/** How the function is bundled: one file with only what runs. */
module.exports = {
  bundle: true,
  platform: 'node',
  target: 'node24',
  format: 'cjs',
  // `module` first: esbuild's default for Node makes the AWS SDK twice as slow to load.
  mainFields: ['module', 'main'],
  minify: true,
  keepNames: true,
  sourcemap: false,
  outputWorkFolder: process.env.ESBUILD_WORK_FOLDER ?? '.esbuild',
};
