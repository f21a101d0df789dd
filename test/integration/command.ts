import { vi } from 'vitest';

/** Runs a command of the project in this process. @returns its exit status, and what it printed */
export async function runCommand(command: () => Promise<number>) {
  const printed = { log: '', error: '' };
  const spies = (['log', 'error'] as const).map((stream) =>
    vi.spyOn(console, stream).mockImplementation((text) => {
      printed[stream] += `${text}\n`;
    }),
  );
  const status = await command();
  for (const spy of spies) spy.mockRestore();
  return { status, ...printed };
}
