/** How many sockets are open at the same time, and who waits for one. */

import { SOCKETS } from './cluster.ts';
import type { Observation } from './leader.ts';
import type { Answer, Ask } from './rest-api.ts';

/** Time of a request while others wait for a socket (ms): over a new connection with TLS one takes 50. */
const HURRY = 500;

/** Asks nodes, over one connection for each. */
export interface Client extends AsyncDisposable {
  readonly ask: Ask;
}

/** Sockets, given to clusters in their order. */
export class Sockets {
  #free = SOCKETS;
  /** Those for their first turn come first, and only they are worth a hurry. */
  readonly #waiting: { readonly count: number; readonly isFirst: boolean; readonly start: () => void }[] = [];

  /**
   * Observes a cluster when it is its turn. While others wait, a request has half a second, and a node that
   * needs longer is not asked again. If the leader is unknown then, the cluster has a second turn after the
   * others, without a hurry: perhaps this process was too busy to read an answer.
   *
   * @param count of its nodes, at most `SOCKETS`
   * @param connect creates a client
   * @param observe asks the nodes
   */
  async observe(
    count: number,
    connect: () => Client,
    observe: (ask: Ask) => Promise<Observation>,
  ): Promise<Observation> {
    const slow = new Map<URL, Answer>();
    const turn = async (hurrying: (ask: Ask) => Ask) => {
      await using client = connect();
      return await observe(hurrying(client.ask));
    };
    const first = await this.use(count, () => turn((ask) => this.#hurrying(ask, slow)));
    if ('leader' in first || slow.size === 0) return first;
    return this.use(count, () => turn((ask) => ask), false);
  }

  /**
   * Waits until so many sockets are free, and keeps them while something is done.
   *
   * @param isFirst whether it comes before those that wait for their second turn
   */
  async use<T>(count: number, action: () => Promise<T>, isFirst = true): Promise<T> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#waiting.push({ count, isFirst, start: resolve });
    this.#startNext();
    await promise;
    try {
      return await action();
    } finally {
      this.#free += count;
      this.#startNext();
    }
  }

  /** @param slow the nodes that took too long while others waited, which are not asked again */
  #hurrying(ask: Ask, slow: Map<URL, Answer>): Ask {
    return async (node, path, signal) => {
      const before = slow.get(node);
      if (before) return before;
      const hurry = new AbortController();
      const timer = setTimeout(() => {
        if (!this.#waiting[0]?.isFirst) return;
        slow.set(node, { error: `no answer within ${HURRY} ms, and other clusters wait to be asked` });
        hurry.abort();
      }, HURRY);
      try {
        const answer = await ask(node, path, AbortSignal.any([signal, hurry.signal]));
        return slow.get(node) ?? answer;
      } finally {
        clearTimeout(timer);
      }
    };
  }

  #startNext(): void {
    for (;;) {
      const [first] = this.#waiting;
      if (first === undefined || first.count > this.#free) return;
      this.#waiting.shift();
      this.#free -= first.count;
      first.start();
    }
  }
}
