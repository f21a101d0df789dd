import * as v from 'valibot';
import { expect, test, vi } from 'vitest';
import { HttpClient } from '../../functions/config-switch/barman/attempts.ts';
import { HttpError } from '../../functions/config-switch/errors.ts';

test('a client whose certificate has expired › reads the parameters again, and sends nothing', async () => {
  const connection = async () => ({
    // Nothing listens there, and nothing is sent.
    url: new URL('https://127.0.0.1:9'),
    tls: { cert: '', key: '', ca: '', notAfter: Date.now() - 1 },
  });
  const rereadConnection = vi.fn(connection);
  const onRequest = vi.fn();
  const options = { signal: AbortSignal.timeout(10_000), maxRetries: 5, onRequest };
  await using client = new HttpClient({ connection, rereadConnection }, options);
  const sent = client.request({ method: 'GET', path: ['status'], schema: v.string() });
  await expect(sent).rejects.toThrow(HttpError);
  await expect(sent).rejects.toThrow(/^the client certificate expired on 20/);
  expect(rereadConnection).toHaveBeenCalledTimes(1);
  expect(onRequest).not.toHaveBeenCalled();
});
