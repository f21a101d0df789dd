import { expect, test } from 'vitest';
import { STORM_HOST, storm } from '../stand-ins/storm.ts';
import { startFunction } from './function.ts';

test('a storm of 500 events › leaves each server at its newest event, and loses nothing', async () => {
  await using run = await startFunction(STORM_HOST);
  const { events, wrong } = await storm(run.host, (event) => run.send(event));
  expect([events, wrong]).toEqual([500, []]);
  // Only the invocation with the lease sends requests for a server, one at a time.
  expect(run.host.api.longestQueue).toBeLessThanOrEqual(Object.keys(STORM_HOST.servers).length + 1);
}, 240_000);
