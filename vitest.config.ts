import { defineConfig } from 'vitest/config';

/** For a function in the process of a test. No test calls AWS: each one sets the endpoints of its stand-ins. */
export const env = {
  AWS_REGION: 'eu-central-1',
  AWS_ACCESS_KEY_ID: 'test',
  AWS_SECRET_ACCESS_KEY: 'test',
  AWS_ENDPOINT_URL: 'http://127.0.0.1:9',
  POWERTOOLS_SERVICE_NAME: 'barman-config-switch-test',
  POWERTOOLS_METRICS_NAMESPACE: 'BarmanConfigSwitch',
};

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    exclude: ['test/e2e/**'],
    env,
    testTimeout: 40_000,
    // The tests mostly wait: for attempts, deadlines and leases.
    maxWorkers: 4,
  },
});
