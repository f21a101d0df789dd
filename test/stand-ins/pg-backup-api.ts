/**
 * pg-backup-api 2.2.0 behind gunicorn and a TLS proxy, on a real socket, with faults on demand. What it
 * responds is its host's (`pg-backup-api-host.ts`).
 */

import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { createServer as createHttpServer } from 'node:http';
import { createServer as createHttpsServer, type Server as HttpsServer } from 'node:https';
import type { TLSSocket } from 'node:tls';
import type { KeyPair } from './certificates.ts';
import {
  Host,
  type HostOptions,
  json,
  notFound,
  type Operation,
  type OperationPlan,
  page,
  type Request,
  type Response,
  type Status,
  Worker,
} from './pg-backup-api-host.ts';
import { listen, readBody, type StandInServer } from './server.ts';

/** What happens to a request instead of a normal response. */
export type Fault =
  | { readonly kind: 'reset' }
  /** The request reaches a worker only after `noFaults`, also if its client has gone. */
  | { readonly kind: 'stall' }
  | { readonly kind: 'stall body' }
  | { readonly kind: 'truncate' }
  | { readonly kind: 'oversize'; readonly bytes: number }
  | { readonly kind: 'redirect'; readonly location: string }
  | { readonly kind: 'status'; readonly status: number; readonly body?: string }
  | { readonly kind: 'body'; readonly body: string }
  /** The request is carried out, but its response does not arrive. */
  | { readonly kind: 'lose response' };

export interface SeenRequest extends Request {
  readonly at: number;
  /** Response of pg-backup-api, whether or not it arrived. */
  response?: Response;
}

export interface PgBackupApiOptions extends HostOptions {
  /** Certificate of the proxy, and the CA for client certificates. Default: plain HTTP. */
  readonly tls?: KeyPair & { readonly ca: string };
  /**
   * For a missing or untrusted client certificate: close the connection, or send an error page as nginx does.
   */
  readonly onBadCertificate?: 'close' | 'page';
  /** Path prefix on the proxy, such as `/pgbapi`. */
  readonly prefix?: string;
  /** Worker processes of gunicorn, and threads of each. Default: one, as packaged. */
  readonly workers?: number;
  readonly threads?: number;
  /** Port to listen on; 0: any free port. */
  readonly port?: number;
}

export class PgBackupApiStandIn {
  /** All requests received, including those with a fault. */
  readonly requests: SeenRequest[] = [];
  /** Configuration, disk and helper processes. */
  readonly host: Host;
  /** Maximum number of requests at the workers at the same time, the running one included. */
  longestQueue = 0;
  readonly #options: PgBackupApiOptions;
  readonly #faults: { when: (request: SeenRequest) => boolean; fault: Fault; times: number }[] = [];
  readonly #http: Server | HttpsServer;
  #listening: StandInServer | undefined;
  #port = 0;
  #queue = 0;
  /** The worker of each thread that is free, the longest free first. */
  readonly #free: Worker[];
  /** Requests that wait for a worker, in the order of their arrival. */
  readonly #waiting: ((worker: Worker) => void)[] = [];
  /** How many threads there are, and how many busy ones more than that. */
  #threads: number;
  #surplus = 0;
  #stall = Promise.withResolvers<void>();

  private constructor(options: PgBackupApiOptions) {
    this.#options = options;
    this.host = new Host(options);
    const { workers = 1, threads = 1 } = options;
    const all = Array.from({ length: workers }, () => new Worker(this.host));
    this.#free = Array.from({ length: threads }, () => all).flat();
    this.#threads = this.#free.length;
    const listener = (request: IncomingMessage, response: ServerResponse) => {
      void this.#serve(request, response).catch(() => response.destroy());
    };
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
    this.host.close();
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

  /** Removes all faults; requests that were stalled are carried out, in the order of their arrival. */
  noFaults(): void {
    this.#faults.length = 0;
    this.#stall.resolve();
    this.#stall = Promise.withResolvers();
  }

  /** Changes the number of workers, of one thread each. One that is too many ends once it has responded. */
  setWorkers(count: number): void {
    for (; this.#threads < count; this.#threads += 1) {
      if (this.#surplus > 0) this.#surplus -= 1;
      else this.#release(new Worker(this.host));
    }
    for (; this.#threads > count; this.#threads -= 1) {
      if (!this.#free.pop()) this.#surplus += 1;
    }
  }

  /** Gives a worker that is free to the request that waits longest. */
  #release(worker: Worker): void {
    if (this.#surplus > 0) {
      this.#surplus -= 1;
      return;
    }
    const next = this.#waiting.shift();
    if (next) next(worker);
    else this.#free.push(worker);
  }

  /** Sets how the next operation will run; plans are used in order. */
  plan(plan: OperationPlan): void {
    this.host.plans.push(plan);
  }

  activeModel(server = 'main'): string | null {
    return this.host.files(server).activeModel;
  }

  /** Adds a server to Barman's configuration, or removes it. Workers notice when they read it again. */
  configure(name: string, cluster: string | undefined): void {
    if (cluster === undefined) this.host.configuration.delete(name);
    else this.host.configuration.set(name, { cluster });
  }

  setActiveModel(model: string | null, server = 'main'): void {
    this.host.files(server).activeModel = model;
  }

  /** Returns the operations that were created, in that order. */
  operations(server = 'main'): Operation[] {
    return [...this.host.files(server).operations.values()];
  }

  /** Adds an earlier operation, such as a recovery or an old config switch. */
  addOperation(operation: Pick<Operation, 'id' | 'type'> & { status: Status }, server = 'main'): void {
    const { id, type, status } = operation;
    const { jobs, output, operations } = this.host.createFolders(server);
    operations.set(id, { id, type, target: null, createdAt: 0 });
    jobs.set(id, JSON.stringify({ operation_type: type }));
    if (status !== 'IN_PROGRESS') output.set(id, JSON.stringify({ success: status === 'DONE' }));
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
        await this.#stall.promise;
        break;
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

  /** Waits for a free worker, and for its response. */
  async #work(request: SeenRequest): Promise<Response> {
    const prefix = this.#options.prefix ?? '';
    if (!request.path.startsWith(`${prefix}/`)) return notFound();
    this.#queue += 1;
    this.longestQueue = Math.max(this.longestQueue, this.#queue);
    const worker = this.#free.shift() ?? (await new Promise<Worker>((free) => this.#waiting.push(free)));
    const response = await worker.respond({ ...request, path: request.path.slice(prefix.length) });
    this.#queue -= 1;
    this.#release(worker);
    return response;
  }
}

function send(response: ServerResponse, { status, type, body }: Response): void {
  response.writeHead(status, { 'content-type': type, 'content-length': Buffer.byteLength(body) }).end(body);
}
