import { defineConfig } from 'vitest/config';

/** `npm run e2e`. The files run one after the other, because they share the emulator. */
export default defineConfig({
  test: {
    include: ['test/e2e/**/*.test.ts'],
    globalSetup: ['test/e2e/setup.ts'],
    fileParallelism: false,
    // For a function in the process of a test. No test calls AWS: each one sets the endpoints of its stand-ins.
    env: {
      AWS_REGION: 'eu-central-1',
      AWS_ACCESS_KEY_ID: 'test',
      AWS_SECRET_ACCESS_KEY: 'test',
      AWS_ENDPOINT_URL: 'http://127.0.0.1:9',
      POWERTOOLS_SERVICE_NAME: 'barman-config-switch-test',
      POWERTOOLS_METRICS_NAMESPACE: 'BarmanConfigSwitch',
    },
    testTimeout: 120_000,
    hookTimeout: 300_000,
    reporters: ['verbose'],
  },
});
