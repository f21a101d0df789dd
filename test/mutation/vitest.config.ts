import { defineConfig } from 'vitest/config';
import config from '../../vitest.config.ts';

/** For `npm run mutation`: the unit tests, which wait for nothing and say exactly what they expect. */
export default defineConfig({ test: { ...config.test, include: ['test/unit/*.test.ts'] } });
