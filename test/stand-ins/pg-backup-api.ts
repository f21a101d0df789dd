/**
 * pg-backup-api 2.2.0 behind a TLS proxy, on a real socket: the same routes, responses and error pages,
 * operation ids with a resolution of one second, a single worker; and faults on demand.
 */

import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { createServer as createHttpServer } from 'node:http';
import { createServer as createHttpsServer, type Server as HttpsServer } from 'node:https';
import { setTimeout as sleep } from 'node:timers/promises';
import type { TLSSocket } from 'node:tls';
import type { KeyPair } from './certificates.ts';
import { listen, readBody, type StandInServer } from './server.ts';

/** How an operation runs. */
export interface OperationPlan {
  /** Duration (ms); Infinity: the helper process died, so the operation stays IN_PROGRESS forever. */
  readonly time?: number;
  /** Ends FAILED: without any change, or although the model was applied. */
  readonly failed?: 'untouched' | 'applied';
  /** Returns 404 after it was created. */
  readonly vanishes?: boolean;
}

/** What happens to a request instead of a normal response. */
export type Fault =
  | { readonly kind: 'reset' }
  | { readonly kind: 'stall' }
  | { readonly kind: 'stall body' }
  | { readonly kind: 'truncate' }
  | { readonly kind: 'oversize'; readonly bytes: number }
  | { readonly kind: 'redirect'; readonly location: string }
  | { readonly kind: 'status'; readonly status: number; readonly body?: string }
  | { readonly kind: 'body'; readonly body: string }
  /** The request is carried out, but its response does not arrive. */
  | { readonly kind: 'lose response' };

export interface Operation {
  readonly id: string;
  readonly type: 'config_switch' | 'recovery';
  readonly target: string | null;
  readonly createdAt: number;
  endedAt?: number;
  status: 'IN_PROGRESS' | 'DONE' | 'FAILED';
}

export interface SeenRequest {
  readonly method: string;
  readonly path: string;
  readonly body: string;
  readonly headers: IncomingMessage['headers'];
  readonly at: number;
  /** Response of pg-backup-api, whether or not it arrived. */
  response?: Response;
}

export interface PgBackupApiOptions {
  /**
   * Barman servers; default cluster: the server's name. A model can be applied only to servers of its
   * cluster.
   */
  readonly servers?: Readonly<Record<string, { cluster?: string }>>;
  readonly models?: Readonly<Record<string, { cluster: string }>>;
  /** Certificate of the proxy, and the CA for client certificates. Default: plain HTTP. */
  readonly tls?: KeyPair & { readonly ca: string };
  /**
   * For a missing or untrusted client certificate: close the connection, or send an error page as nginx does.
   */
  readonly onBadCertificate?: 'close' | 'page';
  /** Path prefix on the proxy, such as `/pgbapi`. */
  readonly prefix?: string;
  /**
   * Time that the single worker needs per request (ms), other than for `/status`, which reads no
   * configuration.
   */
  readonly requestCost?: number;
  /** Runs an operation on a real Barman; true if it succeeded. Default: the stand-in simulates Barman. */
  readonly barman?: (server: string, model: string | null) => Promise<boolean>;
  /** Duration of an operation (ms). */
  readonly operationTime?: number;
  /**
   * Gives an operation that begins in the same second as another one the id of the next second, so that tests
   * need not wait for that. Default: status 500, as pg-backup-api answers.
   */
  readonly distinctIds?: boolean;
  /** Port to listen on; 0: any free port. */
  readonly port?: number;
}

interface BarmanServer {
  readonly cluster: string;
  activeModel: string | null;
  readonly operations: Map<string, Operation>;
}

export interface Response {
  readonly status: number;
  readonly type: 'application/json' | 'text/html; charset=utf-8';
  readonly body: string;
}

export class PgBackupApiStandIn {
  /** All requests received, including those with a fault. */
  readonly requests: SeenRequest[] = [];
  /** Maximum number of requests at the worker at the same time, the running one included. */
  longestQueue = 0;
  readonly #options: PgBackupApiOptions;
  readonly #servers: Map<string, BarmanServer>;
  /** The servers that the worker has in memory. */
  #memory: Set<string>;
  readonly #faults: { when: (request: SeenRequest) => boolean; fault: Fault; times: number }[] = [];
  readonly #plans: OperationPlan[] = [];
  readonly #http: Server | HttpsServer;
  #listening: StandInServer | undefined;
  #port = 0;
  #queue = 0;
  #worker: Promise<unknown> = Promise.resolve();
  readonly #ended = new AbortController();

  private constructor(options: PgBackupApiOptions) {
    this.#options = options;
    this.#servers = new Map(
      Object.entries(options.servers ?? { main: {} }).map(([name, { cluster }]) => [
        name,
        { cluster: cluster ?? name, activeModel: null, operations: new Map() },
      ]),
    );
    const listener = (request: IncomingMessage, response: ServerResponse) => {
      void this.#serve(request, response).catch(() => response.destroy());
    };
    this.#memory = new Set(this.#servers.keys());
    this.#http = options.tls
      ? createHttpsServer(
          { ...options.tls, requestCert: true, rejectUnauthorized: options.onBadCertificate !== 'page' },
          listener,
        )
      : createHttpServer(listener);
  }

  static async start(options: PgBackupApiOptions = {}): Promise<PgBackupApiStandIn> {
    const standIn = new PgBackupApiStandIn(options);
    await standIn.listen();
    return standIn;
  }

  /** Base URL, without a trailing slash. */
  get url(): string {
    return `${this.#options.tls ? 'https' : 'http'}://127.0.0.1:${this.#port}${this.#options.prefix ?? ''}`;
  }

  /** Listens again, on the same port, after `refuse`. */
  async listen(): Promise<void> {
    this.#listening = await listen(this.#http, this.#port || (this.#options.port ?? 0));
    this.#port = this.#listening.port;
  }

  /** Refuses connections from now on. */
  async refuse(): Promise<void> {
    await this.#listening?.close();
  }

  async close(): Promise<void> {
    this.#ended.abort();
    await this.#listening?.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Replaces the certificate and the trusted CA for new TLS sessions. */
  setTls(tls: KeyPair & { readonly ca: string }): void {
    (this.#http as HttpsServer).setSecureContext(tls);
  }

  /**
   * Injects a fault.
   *
   * @param times number of requests it applies to
   * @param when which requests it applies to; default: all
   */
  fault(fault: Fault, times = 1, when: (request: SeenRequest) => boolean = () => true): void {
    this.#faults.push({ when, fault, times });
  }

  /** Removes all faults. */
  noFaults(): void {
    this.#faults.length = 0;
  }

  /** Sets how the next operation will run; plans are used in order. */
  plan(plan: OperationPlan): void {
    this.#plans.push(plan);
  }

  activeModel(server = 'main'): string | null {
    return this.#server(server).activeModel;
  }

  /**
   * Adds a server to Barman's configuration, or removes it. POSTs still look servers up in the worker's
   * memory, until a GET under `/servers/` or `/diagnose` reads the configuration again.
   */
  configure(name: string, cluster: string | undefined): void {
    if (cluster === undefined) this.#servers.delete(name);
    else this.#servers.set(name, { cluster, activeModel: null, operations: new Map() });
  }

  setActiveModel(model: string | null, server = 'main'): void {
    this.#server(server).activeModel = model;
  }

  operations(server = 'main'): Operation[] {
    return [...this.#server(server).operations.values()];
  }

  /** Adds an earlier operation, such as a recovery or an old config switch. */
  addOperation(operation: Pick<Operation, 'id' | 'type' | 'status'>, server = 'main'): void {
    this.#server(server).operations.set(operation.id, { ...operation, target: null, createdAt: 0 });
  }

  #server(name: string): BarmanServer {
    const server = this.#servers.get(name);
    if (!server) throw new Error(`the stand-in has no server ${name}`);
    return server;
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const seen: SeenRequest = {
      method: request.method ?? '',
      path: request.url ?? '',
      body: await readBody(request),
      headers: request.headers,
      at: performance.now(),
    };
    this.requests.push(seen);
    if (this.#options.tls && !(request.socket as TLSSocket).authorized) {
      return send(
        response,
        page(400, '400 No required SSL certificate was sent', 'No required SSL certificate was sent'),
      );
    }

    const planned = this.#faults.find(({ when, times }) => times > 0 && when(seen));
    if (planned) planned.times -= 1;
    const fault = planned?.fault;
    switch (fault?.kind) {
      case 'reset':
        request.socket.destroy();
        return;
      case 'stall':
        return;
      case 'redirect':
        response.writeHead(308, { location: fault.location }).end();
        return;
      case 'status':
        return send(response, fault.body === undefined ? page(fault.status) : json(fault.status, fault.body));
      case 'body':
        return send(response, json(200, fault.body));
      case 'oversize':
        return send(response, json(200, JSON.stringify('x'.repeat(fault.bytes))));
    }

    const result = await this.#work(seen);
    seen.response = result;
    switch (fault?.kind) {
      case 'lose response':
        request.socket.destroy();
        return;
      case 'truncate':
      case 'stall body':
        response.writeHead(result.status, {
          'content-type': result.type,
          'content-length': result.body.length,
        });
        response.write(result.body.slice(0, result.body.length / 2), () => {
          if (fault.kind === 'truncate') request.socket.destroy();
        });
        return;
      default:
        send(response, result);
    }
  }

  /** A single synchronous worker: requests are processed one at a time. */
  #work(request: SeenRequest): Promise<Response> {
    this.#queue += 1;
    this.longestQueue = Math.max(this.longestQueue, this.#queue);
    const result = this.#worker.then(async () => {
      try {
        const cost = request.path.endsWith('/status') ? 0 : (this.#options.requestCost ?? 0);
        if (cost > 0) await sleep(cost);
        return this.#route(request);
      } finally {
        this.#queue -= 1;
      }
    });
    this.#worker = result.catch(() => {});
    return result;
  }

  #route({ method, path, body }: SeenRequest): Response {
    const prefix = this.#options.prefix ?? '';
    if (!path.startsWith(`${prefix}/`)) return json(404, { error: NOT_FOUND });
    const segments = path
      .slice(prefix.length + 1)
      .split('/')
      .map(decodeURIComponent);
    const [first, name, third, id] = segments;

    if (path === `${prefix}/status` && method === 'GET')
      return { status: 200, type: 'text/html; charset=utf-8', body: '"OK"' };
    if (method === 'GET' && (first === 'servers' || first === 'diagnose'))
      this.#memory = new Set(this.#servers.keys());
    if (path === `${prefix}/diagnose` && method === 'GET') return json(200, this.#diagnose());
    if (first === 'servers' && name !== undefined && third === 'operations' && segments.length <= 4) {
      const server = this.#servers.get(name);
      if (id !== undefined && method === 'GET') return operationStatus(name, server, id);
      if (id === undefined && method === 'GET') {
        if (!server) return json(404, { error: `404 Not Found: No barman config found for '${name}'.` });
        return json(200, {
          operations: [...server.operations.values()].map(({ id, type }) => ({ id, type })),
        });
      }
      if (id === undefined && method === 'POST')
        return this.#create(name, this.#memory.has(name) ? server : undefined, body);
      return page(405, 'Method Not Allowed', 'The method is not allowed for the requested URL.');
    }
    return json(404, { error: NOT_FOUND });
  }

  #create(name: string, server: BarmanServer | undefined, body: string): Response {
    let operationRequest: Record<string, unknown>;
    try {
      operationRequest = JSON.parse(body) as Record<string, unknown>;
    } catch {
      return page(
        400,
        'Bad Request',
        'The browser (or proxy) sent a request that this server could not understand.',
      );
    }
    if (!server) return json(404, { error: `404 Not Found: Server '${name}' does not exist` });
    if (operationRequest.type !== 'config_switch') return page(500);
    const model = operationRequest.model_name;
    const wellFormed =
      ('model_name' in operationRequest && !('reset' in operationRequest) && typeof model === 'string') ||
      (operationRequest.reset === true && !('model_name' in operationRequest));
    if (!wellFormed) return page(400, 'Bad Request', 'Make sure all options/arguments are met and try again');

    let id = operationId(new Date());
    for (let ms = 1_000; this.#options.distinctIds && server.operations.has(id); ms += 1_000)
      id = operationId(new Date(Date.now() + ms));
    if (server.operations.has(id)) return page(500);
    const target = typeof model === 'string' ? model : null;
    const operation: Operation = {
      id,
      type: 'config_switch',
      target,
      createdAt: performance.now(),
      status: 'IN_PROGRESS',
    };
    server.operations.set(id, operation);
    if (this.#options.barman) void this.#runBarman(name, server, operation, this.#options.barman);
    else void this.#run(server, operation, this.#plans.shift() ?? {});
    return json(202, { operation_id: id });
  }

  async #runBarman(
    name: string,
    server: BarmanServer,
    operation: Operation,
    barman: NonNullable<PgBackupApiOptions['barman']>,
  ): Promise<void> {
    const succeeded = await barman(name, operation.target);
    if (succeeded) server.activeModel = operation.target;
    operation.endedAt = performance.now();
    operation.status = succeeded ? 'DONE' : 'FAILED';
  }

  /** The helper process: continues independently of the request. */
  async #run(server: BarmanServer, operation: Operation, plan: OperationPlan): Promise<void> {
    if (plan.vanishes) server.operations.delete(operation.id);
    const time = plan.time ?? this.#options.operationTime ?? 0;
    if (time === Number.POSITIVE_INFINITY) return;
    try {
      await sleep(time, undefined, { signal: this.#ended.signal });
    } catch {
      return;
    }
    const model = operation.target === null ? undefined : this.#options.models?.[operation.target];
    const possible = operation.target === null || model?.cluster === server.cluster;
    if (possible && plan.failed !== 'untouched') server.activeModel = operation.target;
    operation.endedAt = performance.now();
    operation.status = possible && plan.failed === undefined ? 'DONE' : 'FAILED';
  }

  #diagnose(): object {
    return {
      global: { config: {} },
      servers: Object.fromEntries(
        [...this.#servers].map(([name, { cluster, activeModel }]) => [
          name,
          { active_model: activeModel, config: { cluster, name }, backups: {} },
        ]),
      ),
      models: Object.fromEntries(
        Object.entries(this.#options.models ?? {}).map(([name, { cluster }]) => [
          name,
          { config: { cluster, model: true, name } },
        ]),
      ),
    };
  }
}

const NOT_FOUND =
  '404 Not Found: The requested URL was not found on the server. If you entered the URL manually please check your spelling and try again.';

function operationStatus(name: string, server: BarmanServer | undefined, id: string): Response {
  if (!server) return json(404, { error: `404 Not Found: No barman config found for '${name}'.` });
  const operation = server.operations.get(id);
  if (!operation) return json(404, { error: '404 Not Found: Resource not found' });
  return json(200, { operation_id: id, status: operation.status });
}

/** `%Y%m%dT%H%M%S` in the Barman host's local time, which is UTC here. */
function operationId(now: Date): string {
  return now
    .toISOString()
    .replace(/\.\d+Z$/, '')
    .replace(/[-:]/g, '');
}

function json(status: number, body: object | string): Response {
  return {
    status,
    type: 'application/json',
    body: typeof body === 'string' ? body : `${JSON.stringify(body)}\n`,
  };
}

/** Flask's error page. */
function page(status: number, title = 'Internal Server Error', text = INTERNAL): Response {
  const body = `<!doctype html>\n<html lang=en>\n<title>${status} ${title}</title>\n<h1>${title}</h1>\n<p>${text}</p>\n`;
  return { status, type: 'text/html; charset=utf-8', body };
}

const INTERNAL =
  'The server encountered an internal error and was unable to complete your request. Either the server is overloaded or there is an error in the application.';

function send(response: ServerResponse, { status, type, body }: Response): void {
  response.writeHead(status, { 'content-type': type, 'content-length': Buffer.byteLength(body) }).end(body);
}
