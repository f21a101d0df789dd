/** nginx with docs/examples/nginx.conf, in front of pg-backup-api: names, ports and paths are filled in. */

import { once } from 'node:events';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { example, fill } from '../documentation.ts';
import type { CertificateAuthority } from '../stand-ins/certificates.ts';
import { freePort } from './loopback.ts';
import { type CommandLine, startLogged } from './processes.ts';

/** Time limit for nginx to listen (ms). */
const START_TIMEOUT = 20_000;

export interface NginxOptions {
  /** For its files; created if it does not exist, and left to the caller. */
  readonly folder: string;
  /** `host:port`, on which it listens with TLS. Default: a free port of loopback. */
  readonly listen?: string;
  /** `host:port` of pg-backup-api, without TLS. */
  readonly upstream: string;
  /** Signs its own certificate, and those of clients. */
  readonly ca: CertificateAuthority;
  /** Makes the command line that runs a command on its host. Default: this one. */
  readonly on?: (command: CommandLine) => CommandLine;
}

export interface Nginx {
  /**
   * The function's parameters for it. The URL has the path prefix of the example, without a trailing slash.
   */
  readonly parameters: Readonly<Record<'url' | 'client-cert' | 'client-key' | 'ca-cert', string>>;
  stop(): Promise<void>;
}

/** @returns once it listens @throws Error with its log if it does not */
export async function startNginx({
  folder,
  listen: given,
  upstream,
  ca,
  on = (command) => command,
}: NginxOptions): Promise<Nginx> {
  const listen = given ?? `127.0.0.1:${await freePort()}`;
  const [server, client] = await Promise.all([ca.server([new URL(`tcp://${listen}`).hostname]), ca.client()]);
  const file = (name: string) => join(folder, name);
  const site = fill(example('nginx.conf'), {
    'listen 443 ssl': `listen ${listen} ssl`,
    '/etc/nginx': folder,
    '127.0.0.1:7480': upstream,
  });
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
    (name) => `${name}_temp_path ${file(name)};`,
  );
  mkdirSync(folder, { recursive: true });
  for (const [name, text] of Object.entries({
    'barman.crt': server.cert,
    'barman.key': server.key,
    'function-ca.crt': ca.cert,
    'pg-backup-api.conf': site,
    'nginx.conf': `daemon off; user root; worker_processes 1; pid ${file('nginx.pid')}; error_log ${file('error.log')};
      events {} http { access_log off; ${temporary.join(' ')} include ${file('pg-backup-api.conf')}; }`,
  })) {
    writeFileSync(file(name), text, { mode: 0o600 });
  }
  const words = ['-c', file('nginx.conf'), '-e', file('error.log')];
  const nginx = startLogged(on(['/usr/sbin/nginx', words]), file('output.log'));
  const ended = once(nginx, 'exit');
  const stop = async () => {
    nginx.kill();
    await ended;
  };
  const end = performance.now() + START_TIMEOUT;
  while (!(await accepts(listen))) {
    if (nginx.exitCode !== null || performance.now() > end) {
      await stop();
      throw new Error(`nginx did not start:\n${readFileSync(file('error.log'), 'utf8')}`);
    }
    await sleep(100);
  }
  const parameters = {
    url: `https://${listen}/pgbapi`,
    'client-cert': client.cert,
    'client-key': client.key,
    'ca-cert': ca.cert,
  };
  return { parameters, stop };
}

/** @returns whether something listens on `host:port` */
async function accepts(address: string): Promise<boolean> {
  const { hostname, port } = new URL(`tcp://${address}`);
  const socket = connect(Number(port), hostname);
  return once(socket, 'connect')
    .then(
      () => true,
      () => false,
    )
    .finally(() => socket.destroy());
}
