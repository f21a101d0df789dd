/** What Patroni's REST API answers around a promotion. */

import { setTimeout as sleep } from 'node:timers/promises';
import { request } from 'undici';

/** Between two requests to a node (ms), and the time limit of one. */
const INTERVAL = 50;
const LIMIT = 1_000;

interface View {
  readonly members?: readonly {
    readonly name: string;
    readonly role: string;
    readonly state: string;
    readonly timeline?: number;
  }[];
}
interface State {
  readonly role?: string;
  readonly state?: string;
  readonly timeline?: number;
  readonly cluster_unlocked?: boolean;
  readonly dcs_last_seen?: number;
}

/** Asks all nodes for `/cluster` and `/leader` until it is stopped, and then prints where an answer changed. */
export function watchPatroni(urls: readonly string[]): { stop(promoted: number): Promise<void> } {
  const ended = new AbortController();
  const changes: { at: number; who: string; answer: string }[] = [];
  const watch = async (url: string, path: 'cluster' | 'leader') => {
    const who = `${new URL(url).host} /${path}`;
    let last = '';
    while (!ended.signal.aborted) {
      const at = Date.now();
      const answer = await ask(`${url}/${path}`);
      if (answer !== last) changes.push({ at, who, answer });
      last = answer;
      await sleep(INTERVAL);
    }
  };
  const watches = urls.flatMap((url) => [watch(url, 'cluster'), watch(url, 'leader')]);
  return {
    stop: async (promoted) => {
      ended.abort();
      await Promise.all(watches);
      for (const { at, who, answer } of changes)
        console.log(`${String(at - promoted).padStart(8)} ms  ${who}: ${answer}`);
    },
  };
}

async function ask(url: string): Promise<string> {
  try {
    const { statusCode, body } = await request(url, { signal: AbortSignal.timeout(LIMIT) });
    const answer = (await body.json()) as View & State;
    if (answer.members) {
      const members = answer.members.map(
        ({ name, role, state, timeline }) => `${name} ${role} ${state} ${timeline}`,
      );
      return members.join(', ');
    }
    const { role, state, timeline, cluster_unlocked } = answer;
    return `${statusCode} ${role} ${state} ${timeline}${cluster_unlocked ? ' unlocked' : ''}`;
  } catch (error) {
    const { name, cause, code } = error as { name: string; cause?: { code?: string }; code?: string };
    return code ?? cause?.code ?? name;
  }
}
