/**
 * `npm run e2e:17`: end-to-end tests with PostgreSQL 17 and Python 3.13, on Debian 13 (trixie) in a folder. It needs root, and
 * the package debootstrap; the setup of the tests installs the rest there. By default it runs what the version of PostgreSQL
 * may change: WAL after a failover, and a restore.
 */

import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { once, toolFolder } from '../tools.ts';

const FILES = ['test/e2e/wal.test.ts', 'test/e2e/restore.test.ts'];
const root = join(toolFolder('trixie'), 'root');
// Barman's psycopg2 is compiled.
const words = ['--variant=minbase', '--include=gcc,libc6-dev,libpq-dev,python3-dev', 'trixie', root];
once(root, words.join(' '), () => execFileSync('debootstrap', words, { stdio: 'inherit' }));

const checkout = resolve();
// The checkout, and what Debian's and PyPI's servers need. The mounts end with the namespace.
const mounts = [checkout, '/dev', '/proc', '/etc/resolv.conf', '/etc/hosts'];
mkdirSync(join(root, checkout), { recursive: true });
for (const file of ['/etc/resolv.conf', '/etc/hosts']) writeFileSync(join(root, file), '');
// Copies: the packages that are installed there write into these folders.
for (const path of ['/etc/ssl/certs/ca-certificates.crt', '/usr/local/share/ca-certificates']) {
  if (existsSync(path)) cpSync(path, join(root, path), { recursive: true });
}
const script = `${mounts.map((path) => `mount --rbind ${path} ${root}${path}`).join('\n')}
  exec chroot ${root} env -C ${checkout} POSTGRESQL_VERSION=17 node_modules/.bin/vitest run --config test/e2e/vitest.config.ts "$@"`;
const files = process.argv.length > 2 ? process.argv.slice(2) : FILES;
const { status } = spawnSync('unshare', ['--mount', 'bash', '-ec', script, 'trixie', ...files], {
  stdio: 'inherit',
});
process.exitCode = status ?? 1;
