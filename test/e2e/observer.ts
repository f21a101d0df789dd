/** The function in the process of the test, on a real Barman, and its heartbeats with a short interval. */

import { setTimeout as sleep } from 'node:timers/promises';
import type { ObservationResult } from '../../functions/config-switch/reconcile/observations.ts';
import { type FunctionUnderTest, type LogLine, PROMOTION, startFunction } from '../integration/function.ts';
import type { Barman } from './barman.ts';
import { until } from './processes.ts';

export { PROMOTION };

/** The heartbeat's interval (s); in production one minute. */
const INTERVAL = 5;

/** What a heartbeat answered, and its metrics. */
export interface Beat {
  /** When it began (ms since the epoch). */
  readonly at: number;
  readonly applied: number;
  readonly observed: ObservationResult;
  readonly metrics: LogLine;
}

/** Heartbeats, one each interval. */
export interface Beats {
  /** Those so far. */
  readonly all: readonly Beat[];
  /**
   * Waits for a heartbeat that begins from now on and is as expected.
   *
   * @param limit ms
   * @throws Error with the message if there is none within the limit
   */
  next(expected: (beat: Beat) => boolean, message: string, limit?: number): Promise<void>;
  stop(): Promise<void>;
}

export interface Observer extends AsyncDisposable {
  readonly run: FunctionUnderTest;
  beat(): Promise<Beat>;
  /** Runs heartbeats until `stop`. */
  beats(): Beats;
}

/**
 * Starts a function.
 *
 * @param barman applies models, and diagnoses itself
 * @param parameters of the function, in addition to those for pg-backup-api
 */
export async function startObserver(
  barman: Pick<Barman, 'configSwitch' | 'diagnose'>,
  parameters: Readonly<Record<string, string>>,
): Promise<Observer> {
  const real = {
    barman: (server: string, model: string | null) => barman.configSwitch(server, model),
    diagnose: () => barman.diagnose(),
  };
  const run = await startFunction(real, { HEARTBEAT_INTERVAL: String(INTERVAL) });
  run.host.put(parameters);
  const ended = new AbortController();
  let running: Promise<void> | undefined;
  const beat = async () => {
    const at = Date.now();
    const { applied, observed } = (await run.send({ heartbeat: true })) as Beat;
    // Records of webhooks are among them.
    const metrics = run.metrics().findLast((record) => 'LeaderUnknown' in record) ?? {};
    return { at, applied, observed, metrics };
  };
  const stop = async () => {
    ended.abort();
    await running;
  };
  return {
    run,
    beat,
    beats: () => {
      const all: Beat[] = [];
      running = (async () => {
        while (!ended.signal.aborted) {
          const one = await beat();
          all.push(one);
          const pause = INTERVAL * 1_000 - (Date.now() - one.at);
          await sleep(pause, undefined, { signal: ended.signal }).catch(() => {});
        }
      })();
      const next: Beats['next'] = (expected, message, limit) => {
        const start = Date.now();
        return until(() => all.some((one) => one.at >= start && expected(one)), message, limit);
      };
      return { all, next, stop };
    },
    [Symbol.asyncDispose]: async () => {
      await stop();
      await run[Symbol.asyncDispose]();
    },
  };
}
