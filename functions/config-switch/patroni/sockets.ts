/** How many sockets are open at the same time, and who waits for one. */

import type { Answer, Ask } from './rest-api.ts';

/**
 * Maximum number of sockets: an instance of the function has 1,024 files, and its part of a core makes no
 * more TLS handshakes at a time within `HURRY`.
 */
export const SOCKETS = 64;
/** Time of a request while others wait for a socket (ms): over a new connection with TLS one takes 50. */
const HURRY = 500;

/** Sockets, given to clusters in their order. */
export class Sockets {
  #free = SOCKETS;
  readonly #waiting: { readonly count: number; readonly start: () => void }[] = [];

  /**
   * Waits until so many sockets are free, and keeps them while something is done.
   *
   * @param count at most `SOCKETS`
   */
  async use<T>(count: number, action: () => Promise<T>): Promise<T> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#waiting.push({ count, start: resolve });
    this.#startNext();
    await promise;
    try {
      return await action();
    } finally {
      this.#free += count;
      this.#startNext();
    }
  }

  /**
   * Returns what asks the nodes of one cluster without keeping others waiting for long: while they do, a
   * request has half a second, and a node that needs longer is not asked again.
   */
  sharing(ask: Ask): Ask {
    const slow = new Map<URL, Answer>();
    return async (node, path, signal) => {
      const before = slow.get(node);
      if (before) return before;
      const hurry = new AbortController();
      const timer = setTimeout(() => {
        if (this.#waiting.length === 0) return;
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
