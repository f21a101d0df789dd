/** Tools that are installed outside the project, for what needs more than Node. */

import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

/** @returns a folder of this checkout's own, which any user can read */
export function toolFolder(purpose: string): string {
  const checkout = createHash('sha256').update(resolve()).digest('hex').slice(0, 8);
  const folder = join(tmpdir(), `barman-config-switch-${purpose}-${checkout}`);
  mkdirSync(folder, { recursive: true, mode: 0o755 });
  return folder;
}

/** Does something once, and again where what is wanted is another. */
export function once(folder: string, wanted: string, does: () => void): void {
  const mark = join(folder, 'installed');
  if (existsSync(mark) && readFileSync(mark, 'utf8') === wanted) return;
  does();
  writeFileSync(mark, wanted);
}

/**
 * Makes a virtual environment of Python with packages from PyPI, once.
 *
 * @param requirements as in a requirements file
 * @returns the folder with its programs
 */
export function installFromPyPI(folder: string, requirements: string): string {
  const venv = join(folder, 'venv');
  once(venv, requirements, () => {
    // Debian's own Python: another user, such as postgres, may not read one in a home directory.
    const python = existsSync('/usr/bin/python3') ? '/usr/bin/python3' : 'python3';
    execFileSync(python, ['-m', 'venv', '--clear', venv], { stdio: 'inherit' });
    const list = join(venv, 'requirements.txt');
    writeFileSync(list, requirements);
    execFileSync(join(venv, 'bin/pip'), ['install', '--quiet', '--requirement', list], { stdio: 'inherit' });
  });
  return join(venv, 'bin');
}
