/**
 * The host of pg-backup-api 2.2.0, without HTTP: Barman's configuration, the files on the disk, the helper
 * processes, and the workers, each with its own memory. Odd responses follow from these.
 */

import { createHash } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  connectionsTo,
  diagnosedModel,
  diagnosedServer,
  diagnosis,
  hostOf,
  type ServerChange,
} from './diagnose.ts';

/** How long pg-backup-api's process takes until it starts `barman` (ms): less than it does. */
const HELPER_START = 200;
/** Duration of an operation, unless a test gives another (ms): a real one takes 0.4 s or more. */
const OPERATION_TIME = 300;

/** How an operation runs. */
export interface OperationPlan {
  /** Duration (ms); Infinity: the helper process died, so the operation stays IN_PROGRESS forever. */
  readonly time?: number;
  /** Ends FAILED: without any change, or although the model was applied. */
  readonly failed?: 'untouched' | 'applied';
  /** Ends with an empty output file, as on a disk that is full for a moment: 404 from then on. */
  readonly emptyOutput?: boolean;
}

export interface Operation {
  readonly id: string;
  readonly type: 'config_switch' | 'recovery';
  readonly target: string | null;
  readonly createdAt: number;
  readonly endedAt?: number;
  readonly success?: boolean;
}

export type Status = 'IN_PROGRESS' | 'DONE' | 'FAILED';

/** The options that a model sets. Without a conninfo it connects to the node that is the end of its name. */
export interface Model extends Readonly<Record<string, unknown>> {
  readonly cluster: string;
}

export interface HostOptions {
  /**
   * Barman servers; default cluster: the server's name. A model can be applied only to servers of its
   * cluster.
   */
  readonly servers?: Readonly<Record<string, { cluster?: string }>>;
  readonly models?: Readonly<Record<string, Model>>;
  /** Time that reading the configuration takes (ms): once per request, other than for `/status`. */
  readonly requestCost?: number;
  /**
   * Runs an operation on a real Barman, after the time that pg-backup-api's process takes; true if it
   * succeeded. Default: the stand-in simulates Barman.
   */
  readonly barman?: (server: string, model: string | null) => Promise<boolean>;
  /** Returns what a real `barman diagnose` prints. Default: the stand-in simulates it. */
  readonly diagnose?: () => Promise<string>;
  /** Duration of an operation (ms); default: 300. */
  readonly operationTime?: number;
  /**
   * Gives an operation that begins in the same second as another one the id of the next second, so that tests
   * need not wait for that. Default: status 500, as pg-backup-api answers.
   */
  readonly distinctIds?: boolean;
}

export interface Request {
  readonly method: string;
  readonly path: string;
  readonly body: string;
  readonly headers: IncomingHttpHeaders;
}

export interface Response {
  readonly status: number;
  readonly type: 'application/json' | 'text/html; charset=utf-8';
  readonly body: string;
}

/** What the disk has of a Barman server; it stays when the server is removed from the configuration. */
export interface ServerFiles {
  activeModel: string | null;
  /** Whether the folders of jobs and output exist. */
  folders: boolean;
  /** Files, by operation id. */
  readonly jobs: Map<string, string>;
  readonly output: Map<string, string>;
  /** All operations, by id, in the order of their creation. Not on the disk: for the tests. */
  readonly operations: Map<string, Operation>;
}

export class Host {
  /** Barman's configuration as it is on the disk: servers and their clusters. */
  readonly configuration: Map<string, { readonly cluster: string }>;
  /** Its models. */
  readonly models: Map<string, Model>;
  /** What `/diagnose` says of a server differently from a healthy one. */
  readonly diagnosed = new Map<string, ServerChange>();
  /** The server whose section cannot be read to its end, such as for a `%`; nothing after it is read. */
  unreadable: string | undefined;
  disk: 'writable' | 'full' | 'read-only' = 'writable';
  /** Whether a helper process can be started. */
  helper = true;
  /** How the next operations will run, in order. */
  readonly plans: OperationPlan[] = [];
  readonly options: HostOptions;
  readonly #files = new Map<string, ServerFiles>();
  readonly #ended = new AbortController();

  constructor(options: HostOptions) {
    this.options = options;
    this.configuration = new Map(
      Object.entries(options.servers ?? { main: {} }).map(([name, { cluster = name }]) => [
        name,
        { cluster },
      ]),
    );
    this.models = new Map(Object.entries(options.models ?? {}));
  }

  /** Ends all helper processes. */
  close(): void {
    this.#ended.abort();
  }

  /** Returns the files of a server; of Barman as a whole for an empty name. @throws Error if it never existed */
  files(name: string): ServerFiles {
    const known = this.#files.get(name);
    if (known) return known;
    if (name !== '' && !this.configuration.has(name)) throw new Error(`the stand-in has no server ${name}`);
    const empty = { jobs: new Map(), output: new Map(), operations: new Map() };
    const files = { activeModel: null, folders: false, ...empty };
    this.#files.set(name, files);
    return files;
  }

  /**
   * Returns what `/diagnose` says of a server: with the options of its active model. One that does not exist is an
   * error in its configuration; one of another cluster is only left out.
   */
  diagnose(name: string) {
    const change = this.diagnosed.get(name) ?? {};
    const config = { ...this.configuration.get(name), ...change.config };
    const { activeModel } = this.files(name);
    const model = activeModel === null ? undefined : this.models.get(activeModel);
    if (activeModel !== null && model === undefined) {
      const error = `Model '${activeModel}' is set as the active model for the server '${name}' but the model does not exist.`;
      const msg_list = [...(change.msg_list ?? []), error];
      return diagnosedServer(name, { ...change, msg_list, config: { ...config, disabled: true } });
    }
    if (activeModel === null || model?.cluster !== config.cluster) {
      return diagnosedServer(name, { ...change, config });
    }
    const options = Object.entries(withConnections(activeModel, model)).filter(([, value]) => value !== null);
    const applied = { ...config, ...Object.fromEntries(options) };
    return diagnosedServer(name, { active_model: activeModel, ...change, config: applied });
  }

  /** Creates the folders of a server where they are missing. @throws Error if the disk does not allow it */
  createFolders(name: string): ServerFiles {
    const files = this.files(name);
    if (!files.folders && this.disk !== 'writable') throw new Error(`the disk is ${this.disk}`);
    files.folders = true;
    return files;
  }

  /** Creates a file; a full disk leaves an empty one. @returns whether it was created with its content */
  #create(folder: Map<string, string>, id: string, content: object): boolean {
    if (folder.has(id) || this.disk === 'read-only') return false;
    folder.set(id, this.disk === 'full' ? '' : JSON.stringify(content));
    return this.disk === 'writable';
  }

  /** Writes the job file, and starts the helper process. @returns the operation id @throws Error if it cannot */
  createOperation(name: string, content: { model_name?: string }): string {
    const files = this.files(name);
    let id = operationId(new Date());
    for (let ms = 1_000; this.options.distinctIds && files.jobs.has(id); ms += 1_000)
      id = operationId(new Date(Date.now() + ms));
    const job = { ...content, operation_type: 'config_switch' };
    if (!this.#create(files.jobs, id, job)) throw new Error(`the job file ${id} cannot be written`);
    const operation: Operation = {
      id,
      type: 'config_switch',
      target: content.model_name ?? null,
      createdAt: performance.now(),
    };
    files.operations.set(id, operation);
    if (!this.helper) throw new Error('the helper process cannot be started');
    void this.#runHelper(name, operation, this.plans.shift() ?? {});
    return id;
  }

  /** The helper process: continues independently of the request. */
  async #runHelper(name: string, operation: Operation, plan: OperationPlan): Promise<void> {
    const { id, target } = operation;
    const files = this.files(name);
    const { barman } = this.options;
    // pg-backup-api's own process starts first.
    const real = barman && (() => sleep(HELPER_START).then(() => barman(name, target)));
    const success = await (real ? real() : this.#configSwitch(name, target, plan));
    if (barman && success) files.activeModel = target;
    files.operations.set(id, { ...operation, endedAt: performance.now(), success });
    if (plan.emptyOutput) files.output.set(id, '');
    else if (files.jobs.has(id)) this.#create(files.output, id, { success });
  }

  /** `barman config-switch`. @returns whether it succeeded */
  async #configSwitch(name: string, target: string | null, plan: OperationPlan): Promise<boolean> {
    const time = plan.time ?? this.options.operationTime ?? OPERATION_TIME;
    const never = () => new Promise<never>(() => {});
    if (time === Number.POSITIVE_INFINITY) return never();
    await sleep(time, undefined, { signal: this.#ended.signal }).catch(never);
    const cluster = this.configuration.get(name)?.cluster;
    const possible =
      cluster !== undefined && (target === null || this.models.get(target)?.cluster === cluster);
    if (!possible || plan.failed === 'untouched' || this.disk === 'read-only') return false;
    // On a full disk Barman loses the active model: it empties the file before it writes.
    this.files(name).activeModel = this.disk === 'full' ? null : target;
    return plan.failed === undefined && this.disk === 'writable';
  }
}

/** Returns the options of a model, with those that it lacks to connect to a node. */
function withConnections(name: string, model: Model | undefined) {
  return { ...connectionsTo(hostOf(name)), ...model };
}

/** @throws Error if the content of a file is not a JSON object, as that of an empty file */
function readFile<T extends object>(text: string): T {
  const content: unknown = JSON.parse(text);
  if (content === null || typeof content !== 'object' || Array.isArray(content)) throw new Error(text);
  return content as T;
}

/** Returns the status of an operation. @throws Error if it has no files, or if they cannot be read */
function statusOf({ jobs, output }: ServerFiles, id: string): Status {
  const result = output.get(id);
  if (result !== undefined) return readFile<{ success?: boolean }>(result).success ? 'DONE' : 'FAILED';
  JSON.parse(jobs.get(id) ?? '');
  return 'IN_PROGRESS';
}

type Handler = () => Promise<Response> | Response;

/** A worker process of gunicorn. Its threads, if any, share its memory. */
export class Worker {
  readonly #host: Host;
  /** The servers of the configuration, as it was last read. */
  #memory: Set<string>;

  constructor(host: Host) {
    this.#host = host;
    this.#memory = new Set(host.configuration.keys());
  }

  async respond(request: Request): Promise<Response> {
    try {
      const route = this.#route(request);
      if (!route) return notFound();
      const { GET, POST } = route;
      const handler = { GET, HEAD: GET, POST }[request.method];
      return handler ? await handler() : page(405, 'Method Not Allowed', NOT_ALLOWED);
    } catch (error) {
      return error instanceof BadRequest ? error.response : page(500);
    }
  }

  #route(request: Request): { readonly GET: Handler; readonly POST?: Handler } | undefined {
    const path = decodeURIComponent(request.path.replace(/\?.*/, ''));
    if (path === '/status') return { GET: () => html(200, '"OK"') };
    if (path === '/diagnose') return { GET: () => this.#diagnose() };
    const operations = /^(?:\/servers\/([^/]+))?\/operations(?:\/([^/]+))?$/.exec(path);
    if (!operations) return undefined;
    const [, server = '', id] = operations;
    if (id !== undefined) return { GET: () => this.#status(server, id) };
    return { GET: () => this.#list(server), POST: () => this.#create(request, server) };
  }

  /** Reads the configuration. Other threads see the memory empty until that is complete. */
  async #readConfiguration(): Promise<void> {
    const memory = new Set<string>();
    this.#memory = memory;
    if (this.#host.options.requestCost) await sleep(this.#host.options.requestCost);
    for (const name of this.#host.configuration.keys()) {
      memory.add(name);
      if (name === this.#host.unreadable) throw new Error(`the section of ${name} cannot be read`);
    }
  }

  /** Returns a server's files; undefined if there is no such server. @throws Error if it cannot read or write */
  async #open(server: string): Promise<ServerFiles | undefined> {
    await this.#readConfiguration();
    return server === '' || this.#memory.has(server) ? this.#host.createFolders(server) : undefined;
  }

  async #list(server: string): Promise<Response> {
    const files = await this.#open(server);
    if (!files) return unconfigured(server);
    const jobs = [...files.jobs].sort(([a], [b]) => (hash(a) < hash(b) ? -1 : 1));
    const typeOf = (job: string) => readFile<{ operation_type?: string }>(job).operation_type ?? null;
    return json(200, { operations: jobs.map(([id, job]) => ({ id, type: typeOf(job) })) });
  }

  async #status(server: string, id: string): Promise<Response> {
    try {
      const files = await this.#open(server);
      return files ? json(200, { operation_id: id, status: statusOf(files, id) }) : unconfigured(server);
    } catch {
      return notFound('Resource not found');
    }
  }

  async #create(request: Request, server: string): Promise<Response> {
    const content = readContent(request, server === '' ? 'instance operation' : `server '${server}'`);
    if (server === '') {
      if (content.type === 'config_update' && !('changes' in content)) throw new BadRequest(MALFORMED);
      throw new Error('config_update, the only type here, is not simulated');
    }
    if (!this.#memory.has(server)) return notFound(`Server '${server}' does not exist`);
    const { type = 'recovery', model_name, reset } = content;
    if (type === 'recovery') {
      if (content.backup_id === undefined) throw new BadRequest('Request body is missing ``backup_id``');
      return notFound(`Backup '${content.backup_id}' does not exist`);
    }
    if (type !== 'config_switch') throw new Error(`the type ${type} is unknown`);
    if (!(await this.#open(server))) throw new Error(`${server} was removed from the configuration`);
    const wellFormed =
      (typeof model_name === 'string' && reset === undefined) || (reset === true && model_name === undefined);
    if (!wellFormed) throw new BadRequest(MALFORMED);
    const id = this.#host.createOperation(server, content);
    return json(202, { operation_id: id });
  }

  async #diagnose(): Promise<Response> {
    await this.#readConfiguration();
    if (this.#host.disk === 'read-only') throw new Error('/diagnose cannot create its lock file');
    if (this.#host.options.diagnose) return json(200, await this.#host.options.diagnose());
    return json(
      200,
      diagnosis({
        servers: Object.fromEntries([...this.#memory].map((name) => [name, this.#host.diagnose(name)])),
        models: Object.fromEntries(
          [...this.#host.models].map(([name, model]) => [name, diagnosedModel(withConnections(name, model))]),
        ),
      }),
    );
  }
}

/** The body of a POST, as far as its keys are read. */
interface Content {
  readonly type?: unknown;
  readonly backup_id?: unknown;
  readonly model_name?: string;
  readonly reset?: boolean;
}

/** Reads the body of a POST. @throws BadRequest, or Error if it has no keys */
function readContent({ headers, body }: Request, subject: string): Content {
  if (!/^application\/(.+\+)?json\b/.test(headers['content-type'] ?? '')) {
    throw new BadRequest(NOT_JSON, 415, 'Unsupported Media Type');
  }
  let content: unknown;
  try {
    content = JSON.parse(body);
  } catch {
    throw new BadRequest('The browser (or proxy) sent a request that this server could not understand.');
  }
  // What Python takes for false.
  if (!content || (typeof content === 'object' && Object.keys(content).length === 0))
    throw new BadRequest(`Minimum barman options not met for ${subject}`);
  if (typeof content !== 'object' || Array.isArray(content)) throw new Error('the body is not an object');
  return content;
}

class BadRequest extends Error {
  readonly response: Response;

  constructor(text: string, status = 400, title = 'Bad Request') {
    super(text);
    this.response = page(status, title, text);
  }
}

const MALFORMED = 'Make sure all options/arguments are met and try again';
const NOT_ALLOWED = 'The method is not allowed for the requested URL.';
const NOT_JSON =
  "Did not attempt to load JSON data because the request Content-Type was not 'application/json'.";
const INTERNAL =
  'The server encountered an internal error and was unable to complete your request. Either the server is overloaded or there is an error in the application.';

/** `%Y%m%dT%H%M%S` in the Barman host's local time, which is UTC here. */
function operationId(now: Date): string {
  return now
    .toISOString()
    .replace(/\.\d+Z$/, '')
    .replace(/[-:]/g, '');
}

/** A list of files has no order; the same files always have the same one. */
function hash(id: string): string {
  return createHash('sha1').update(id).digest('hex');
}

export function json(status: number, body: object | string): Response {
  return {
    status,
    type: 'application/json',
    body: typeof body === 'string' ? body : `${JSON.stringify(body)}\n`,
  };
}

export function notFound(text = NO_ROUTE): Response {
  return json(404, { error: `404 Not Found: ${text}` });
}

function unconfigured(server: string): Response {
  return notFound(`No barman config found for '${server}'.`);
}

const NO_ROUTE =
  'The requested URL was not found on the server. If you entered the URL manually please check your spelling and try again.';

function html(status: number, body: string): Response {
  return { status, type: 'text/html; charset=utf-8', body };
}

/** Flask's error page. */
export function page(status: number, title = 'Internal Server Error', text = INTERNAL): Response {
  const escaped = text.replaceAll("'", '&#39;');
  return html(
    status,
    `<!doctype html>\n<html lang=en>\n<title>${status} ${title}</title>\n<h1>${title}</h1>\n<p>${escaped}</p>\n`,
  );
}
