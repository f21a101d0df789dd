/** The function, from its entry point, as Lambda loads it: a new instance each time. */

import type { Context } from 'aws-lambda';
import type { Environment } from '../../functions/config-switch/services.ts';

export type Handler = (event: unknown, context: Context) => Promise<unknown>;

const ENTRY = new URL('../../functions/config-switch/index.ts', import.meta.url).href;
let instances = 0;
/** One after the other, since the environment is the process's. */
let loading: Promise<unknown> = Promise.resolve();

/** @throws what the function throws at its start */
export function loadFunction(environment: Environment): Promise<Handler> {
  const load = async () => {
    for (const [name, value] of Object.entries(environment)) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
    instances += 1;
    try {
      const { handler } = await import(/* @vite-ignore */ `${ENTRY}?instance=${instances}`);
      return handler as Handler;
    } finally {
      for (const name of Object.keys(environment)) delete process.env[name];
    }
  };
  const loaded = loading.then(load);
  loading = loaded.catch(() => {});
  return loaded;
}
