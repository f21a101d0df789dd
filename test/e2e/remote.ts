/** Methods of a process on another host, over Node.js's channel between parent and child. */

import { type ChildProcess, spawn } from 'node:child_process';
import { openSync } from 'node:fs';
import type { CommandLine } from './processes.ts';

type Methods = Readonly<Record<string, (argument: never) => unknown>>;

/** In the child: offers methods to the parent. @returns what sends a report to it */
export function offer<Report>(methods: Methods): (report: Report) => void {
  process.on('message', async ({ id, method, argument }: { id: number; method: string; argument: never }) => {
    try {
      process.send?.({ id, result: await methods[method]?.(argument) });
    } catch (error) {
      process.send?.({ id, error: String(error) });
    }
  });
  // Nothing outlives the run.
  process.on('disconnect', () => process.exit());
  return (report) => process.send?.({ report });
}

/** In the parent: a child that offers methods. */
export class Remote<Report> {
  readonly process: ChildProcess;
  readonly #calls = new Map<number, PromiseWithResolvers<unknown>>();

  constructor([command, words]: CommandLine, log: string, onReport: (report: Report) => void) {
    const file = openSync(log, 'a');
    this.process = spawn(command, words, { stdio: ['ignore', file, file, 'ipc'] });
    this.process.on(
      'message',
      (message: { id: number; result?: unknown; error?: string; report?: Report }) => {
        if (message.report !== undefined) return onReport(message.report);
        const call = this.#calls.get(message.id);
        if (message.error === undefined) call?.resolve(message.result);
        else call?.reject(new Error(message.error));
      },
    );
    this.process.on('exit', () => {
      for (const { reject } of this.#calls.values())
        reject(new Error(`${words.at(-1)} has ended; see ${log}`));
    });
  }

  call(method: string, argument?: unknown): Promise<unknown> {
    const id = this.#calls.size;
    const call = Promise.withResolvers<unknown>();
    this.#calls.set(id, call);
    this.process.send({ id, method, argument });
    return call.promise;
  }
}
