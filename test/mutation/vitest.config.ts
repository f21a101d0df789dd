import { defineConfig } from 'vitest/config';
import config from '../../vitest.config.ts';

/**
 * For `npm run mutation`: the unit tests, which are fast and assert exact results, and those of Patroni's
 * REST API, which take a second on their sockets.
 */
export default defineConfig({
  test: {
    ...config.test,
    include: ['test/unit/*.test.ts', 'test/integration/patroni.test.ts'],
    // It reads the callback, which is not in the sandbox.
    exclude: ['test/unit/callback.test.ts'],
  },
});
