import { defineConfig } from 'vitest/config';
import { env } from '../../vitest.config.ts';

/** `npm run e2e`. The files run one after the other, because they share the emulator. */
export default defineConfig({
  test: {
    include: ['test/e2e/**/*.test.ts'],
    globalSetup: ['test/e2e/setup.ts'],
    fileParallelism: false,
    env,
    testTimeout: 120_000,
    hookTimeout: 300_000,
    reporters: ['verbose'],
  },
});
