/**
 * The callback, and the function's requests to pg-backup-api, over a network that breaks after they have
 * connected: two network namespaces, and a cable between them that can be pulled. Packages: iproute2.
 */

import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, inject, test, vi } from 'vitest';
import { CertificateAuthority } from '../stand-ins/certificates.ts';

const NODE = `bcs-${process.pid}-node`;
const API = `bcs-${process.pid}-api`;
const ADDRESS = { node: '192.0.2.1', api: '192.0.2.2' };
const PORTS = { callback: 8001, alive: 8002, control: 8003 } as const;
/** Of pg-backup-api. */
const HTTP_PORTS = { plain: 8004, 'plain control': 8005, tls: 8006, 'tls control': 8007 } as const;
type Callback = keyof typeof PORTS;
type Sender = keyof typeof HTTP_PORTS;
type Name = Callback | Sender;
const portOf = (name: Name) => ({ ...PORTS, ...HTTP_PORTS })[name];
/** Time limit of an attempt at pg-backup-api (ms), which is over while the cable is pulled. */
const ATTEMPT = 5_000;

const folder = mkdtempSync(join(inject('folder'), 'network-'));
const python = join(inject('tools'), 'python');
const ip = (...words: string[]) => promisify(execFile)('ip', words);
const file = (name: string) => join(folder, name);
const children: ChildProcess[] = [];
const run = (namespace: string, ...words: string[]) => {
  const child = spawn('ip', ['netns', 'exec', namespace, ...words], { stdio: ['ignore', 'inherit', 'pipe'] });
  children.push(child);
  return child;
};

/** Accepts connections on each port, and appends what it receives to a file. */
const SERVER = `
import selectors, socket, sys
folder, *ports = sys.argv[1:]
selector = selectors.DefaultSelector()
def accept(listening, name):
    selector.register(listening.accept()[0], selectors.EVENT_READ, (receive, name))
def receive(connection, name):
    try:
        data = connection.recv(65536)
    except OSError:
        data = b""
    if not data:
        selector.unregister(connection)
    with open(folder + "/from " + name, "ab") as file:
        file.write(data)
for name, port in zip(ports[0::2], ports[1::2]):
    listening = socket.create_server((${JSON.stringify(ADDRESS.api)}, int(port)))
    selector.register(listening, selectors.EVENT_READ, (accept, name))
open(folder + "/listening", "w").close()
while True:
    for key, _ in selector.select():
        handle, name = key.data
        handle(key.fileobj, name)
`;

/** Runs the callback, but waits between connecting and sending until the cable is pulled. */
const CALLBACK = `
import os, sys, time
sys.path.insert(0, "patroni")
import barman_config_switch as callback
folder, name = sys.argv[1:3]
payload, getresponse = callback.payload, callback.http.client.HTTPConnection.getresponse
def payload_after_the_break(args):
    open(folder + "/connected " + name, "w").close()
    while not os.path.exists(folder + "/broken"):
        time.sleep(0.01)
    return payload(args)
def getresponse_after_sending(connection):
    open(folder + "/sent " + name, "w").close()
    return getresponse(connection)
callback.payload = payload_after_the_break
callback.http.client.HTTPConnection.getresponse = getresponse_after_sending
if name == "control":
    callback.discard_when_killed = lambda sock: None
os._exit(callback.main(sys.argv[3:]))
`;

/** Appends the requests to each port to a file. */
const HTTP_SERVER = `
import { appendFileSync, readFileSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
const [folder, ...ports] = process.argv.slice(1);
const tls = { ...JSON.parse(readFileSync(folder + '/server.json')), requestCert: true };
for (let index = 0; index < ports.length; index += 2) {
  const [name, port] = ports.slice(index);
  const server = name.startsWith('tls') ? https.createServer(tls) : http.createServer();
  server.on('request', ({ method }, response) => {
    appendFileSync(folder + '/from ' + name, method);
    response.end('"OK"');
  });
  await new Promise((listening) => server.listen(port, ${JSON.stringify(ADDRESS.api)}, listening));
}
writeFileSync(folder + '/http listening', '');
`;

/**
 * Sends a POST as the function does, once the cable is pulled. A control closes its connection instead of
 * resetting it.
 */
const SENDER = `
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { Socket } from 'node:net';
import * as v from 'valibot';
import { HttpClient } from './functions/config-switch/barman/attempts.ts';
import { sleep } from './functions/config-switch/deadline.ts';
const [folder, name, url] = process.argv.slice(1);
if (name.endsWith('control')) Socket.prototype.resetAndDestroy = Socket.prototype.destroy;
const tls = JSON.parse(readFileSync(folder + '/client.json'));
const connection = async () => ({ url: new URL(url), tls });
const { signal } = new AbortController();
const options = { signal, maxRetries: 1, onRequest() {} };
const client = new HttpClient({ connection, rereadConnection: connection }, options);
const beforeSend = async () => {
  writeFileSync(folder + '/connected ' + name, '');
  while (!existsSync(folder + '/broken')) await sleep(10, signal);
};
const request = { method: 'POST', path: [], body: { name }, schema: v.unknown(), timeout: ${ATTEMPT} };
const result = await client.request({ ...request, beforeSend }).catch(({ message }) => message);
await client[Symbol.asyncDispose]();
writeFileSync(folder + '/result of ' + name, String(result), { flush: true });
// Like a function's process, it is frozen rather than ended.
setInterval(() => {}, 60_000);
`;

function sender(name: Sender): ChildProcess {
  const protocol = name.startsWith('tls') ? 'https' : 'http';
  const url = `${protocol}://${ADDRESS.api}:${HTTP_PORTS[name]}/`;
  return run(NODE, process.execPath, '--input-type=module', '-e', SENDER, folder, name, url);
}

function callback(name: Callback): ChildProcess {
  const url = `http://${ADDRESS.api}:${PORTS[name]}/`;
  return run(
    NODE,
    ...[python, '-B', '-c', CALLBACK, folder, name],
    ...['--url', url, '--allow-plain-http', '--secret-file', file('secret'), '--max-retries', '1'],
    ...['config-switch', '--barman-server', 'main', '--barman-model', 'pg:node1', '--switch-when', 'always'],
    ...['on_role_change', 'primary', 'main'],
  );
}

/** The node's TCP connections to a port, those without a process included. */
async function connections(name: Name): Promise<string> {
  const filter = ['-tanH', 'dst', `${ADDRESS.api}:${portOf(name)}`];
  return (await promisify(execFile)('ip', ['netns', 'exec', NODE, 'ss', ...filter])).stdout;
}

/** Waits for a file. */
const until = (name: string) =>
  vi.waitFor(() => expect(existsSync(file(name)), name).toBe(true), { timeout: 20_000 });
const received = (name: Name) =>
  existsSync(file(`from ${name}`)) ? readFileSync(file(`from ${name}`), 'utf8') : '';

beforeAll(async () => {
  writeFileSync(file('secret'), `whsec_${Buffer.alloc(32, 1).toString('base64')}`, { mode: 0o600 });
  await ip('netns', 'add', NODE);
  await ip('netns', 'add', API);
  await ip('link', 'add', 'node', 'netns', NODE, 'type', 'veth', 'peer', 'name', 'api', 'netns', API);
  await ip('-n', NODE, 'addr', 'add', `${ADDRESS.node}/30`, 'dev', 'node');
  await ip('-n', API, 'addr', 'add', `${ADDRESS.api}/30`, 'dev', 'api');
  await ip('-n', NODE, 'link', 'set', 'node', 'up');
  await ip('-n', API, 'link', 'set', 'api', 'up');
  // Without a permanent entry, the node's kernel would keep packets for a while until ARP finds the address
  // again.
  const [link] = JSON.parse((await ip('-n', API, '-json', 'link', 'show', 'api')).stdout) as {
    address: string;
  }[];
  const neighbour = ['lladdr', link?.address ?? '', 'dev', 'node', 'nud', 'permanent'];
  await ip('-n', NODE, 'neigh', 'replace', ADDRESS.api, ...neighbour);
  run(API, python, '-c', SERVER, folder, ...Object.entries(PORTS).flat().map(String));
  const ca = await CertificateAuthority.create();
  const server = { ...(await ca.server([ADDRESS.api])), ca: ca.cert };
  const client = { ...(await ca.client()), ca: ca.cert };
  writeFileSync(file('server.json'), JSON.stringify(server), { mode: 0o600 });
  writeFileSync(file('client.json'), JSON.stringify(client), { mode: 0o600 });
  const ports = Object.entries(HTTP_PORTS).flat().map(String);
  run(API, process.execPath, '--input-type=module', '-e', HTTP_SERVER, folder, ...ports);
  await until('listening');
  await until('http listening');
});

afterAll(async () => {
  for (const child of children) child.kill('SIGKILL');
  await ip('netns', 'del', NODE).catch(() => {});
  await ip('netns', 'del', API).catch(() => {});
  rmSync(folder, { recursive: true });
});

test('what was given up while the network is broken › is not delivered by TCP later', async () => {
  const names = Object.keys(PORTS) as Callback[];
  const senders = Object.keys(HTTP_PORTS) as Sender[];
  const running = Object.fromEntries(names.map((name) => [name, callback(name)])) as Record<
    Callback,
    ChildProcess
  >;
  let log = '';
  running.alive.stderr?.on('data', (chunk) => {
    log += chunk;
  });
  for (const name of names) await until(`connected ${name}`);
  for (const name of senders) sender(name);
  for (const name of senders) await until(`connected ${name}`);

  await ip('-n', API, 'link', 'set', 'api', 'down');
  writeFileSync(file('broken'), '');
  for (const name of names) await until(`sent ${name}`);
  running.callback.kill('SIGKILL');
  running.control.kill('SIGKILL');
  await expect.poll(() => connections('callback'), { timeout: 20_000 }).toBe('');
  expect(await connections('control'), 'without the socket options the kernel keeps the request').not.toBe(
    '',
  );
  await expect.poll(() => log, { timeout: 40_000, message: 'TCP_USER_TIMEOUT' }).toContain('timed out');
  for (const name of senders) {
    await until(`result of ${name}`);
    expect(readFileSync(file(`result of ${name}`), 'utf8')).toContain(
      `did not respond within ${ATTEMPT / 1_000} s`,
    );
  }
  for (const name of ['plain', 'tls'] as const) {
    expect(await connections(name)).toBe('');
    expect(await connections(`${name} control`), 'the kernel keeps what was only closed').not.toBe('');
  }

  await ip('-n', API, 'link', 'set', 'api', 'up');
  await expect.poll(() => received('control'), { timeout: 60_000 }).toContain('"role": "primary"');
  expect(received('callback')).toBe('');
  expect(received('alive'), log).toBe('');
  for (const name of ['plain', 'tls'] as const) {
    await expect.poll(() => received(`${name} control`), { timeout: 60_000 }).toBe('POST');
    expect(received(name)).toBe('');
  }
});
