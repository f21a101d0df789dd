import { defineConfig } from 'vitest/config';

/** `npm run e2e`: what needs more than Node. One file after the other, since all share one emulator. */
export default defineConfig({
  test: {
    include: ['test/e2e/**/*.test.ts'],
    globalSetup: ['test/e2e/setup.ts'],
    fileParallelism: false,
    testTimeout: 120_000,
    hookTimeout: 300_000,
    reporters: ['verbose'],
  },
});
