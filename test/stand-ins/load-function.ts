/** Loads the function from its entry point, as Lambda does: a new instance each time. */

import type { Context } from 'aws-lambda';
import type { Environment } from '../../functions/config-switch/services.ts';

export type Handler = (event: unknown, context: Context) => Promise<unknown>;

const ENTRY = new URL('../../functions/config-switch/index.ts', import.meta.url).href;
let instances = 0;
/** Instances are loaded one after another, because they share the environment of the process. */
let loading: Promise<unknown> = Promise.resolve();

/** @throws any error that the function throws at start-up */
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
