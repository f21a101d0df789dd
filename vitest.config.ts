import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    exclude: ['test/e2e/**'],
    // AWS is never asked: each test names the stand-in that it asks instead.
    env: {
      AWS_REGION: 'eu-central-1',
      AWS_ACCESS_KEY_ID: 'test',
      AWS_SECRET_ACCESS_KEY: 'test',
      AWS_ENDPOINT_URL: 'http://127.0.0.1:9',
      POWERTOOLS_SERVICE_NAME: 'barman-config-switch-test',
      POWERTOOLS_METRICS_NAMESPACE: 'BarmanConfigSwitch',
    },
    testTimeout: 40_000,
    // They wait more than they compute: for attempts, deadlines and leases.
    maxWorkers: 4,
  },
});
