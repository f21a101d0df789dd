/** Tools that tests need and npm does not install, in folders outside the project. */

import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

/** @returns a temporary folder for this checkout and purpose, readable by every user */
export function toolFolder(purpose: string): string {
  const checkout = createHash('sha256').update(resolve()).digest('hex').slice(0, 8);
  const folder = join(tmpdir(), `barman-config-switch-${purpose}-${checkout}`);
  mkdirSync(folder, { recursive: true, mode: 0o755 });
  return folder;
}

/**
 * Runs an installation once, and again when its specification changes.
 *
 * @param folder where the specification of the last installation is stored
 * @param specification what to install
 */
export function once(folder: string, specification: string, install: () => void): void {
  const mark = join(folder, 'installed');
  if (existsSync(mark) && readFileSync(mark, 'utf8') === specification) return;
  install();
  writeFileSync(mark, specification);
}

/**
 * Creates a Python virtual environment with packages from PyPI, once.
 *
 * @param requirements the content of a requirements file
 * @returns the environment's bin folder
 */
export function installFromPyPI(folder: string, requirements: string): string {
  const venv = join(folder, 'venv');
  once(venv, requirements, () => {
    // Prefer the system's Python: another user, such as postgres, cannot read one in a home directory.
    const python = existsSync('/usr/bin/python3') ? '/usr/bin/python3' : 'python3';
    execFileSync(python, ['-m', 'venv', '--clear', venv], { stdio: 'inherit' });
    const list = join(venv, 'requirements.txt');
    writeFileSync(list, requirements);
    execFileSync(join(venv, 'bin/pip'), ['install', '--quiet', '--requirement', list], { stdio: 'inherit' });
  });
  return join(venv, 'bin');
}
