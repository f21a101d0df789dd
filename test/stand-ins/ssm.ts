/** The read operations of SSM Parameter Store that the function uses: AWS JSON 1.1 on a real socket. */

import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { isSignedBy, listen, readBody, type StandInServer } from './server.ts';

/** What happens instead of a normal response. */
export type SsmFault = 'access denied' | 'throttling' | 'stall' | 'reset';

export interface SsmRequest {
  readonly operation: string;
  readonly path: string | undefined;
}

export class SsmStandIn {
  /** Parameter values by full name. */
  readonly parameters = new Map<string, string>();
  /** Every secret, key and certificate ever written, including deleted and overwritten ones. */
  readonly issued = new Set<string>();
  /** Faults by path, `*` for every path; they last until they are removed. */
  readonly faults = new Map<string, SsmFault>();
  /** Page size. SSM's maximum is 10; with a smaller one, every read takes several requests. */
  page = 4;
  /** How long each response takes (ms). */
  delay = 0;
  /** All requests so far. */
  readonly requests: SsmRequest[] = [];
  readonly #server: StandInServer;

  private constructor(server: StandInServer) {
    this.#server = server;
  }

  /** @param accessKeyId of the only client that it answers; default: any */
  static async start(accessKeyId?: string): Promise<SsmStandIn> {
    const server: Server = createServer((request, response) => {
      if (isSignedBy(request, accessKeyId)) void standIn.#respond(request, response);
      else response.writeHead(403).end();
    });
    const standIn: SsmStandIn = new SsmStandIn(await listen(server));
    return standIn;
  }

  /** Value for AWS_ENDPOINT_URL_SSM. */
  get url(): string {
    return `http://127.0.0.1:${this.#server.port}`;
  }

  /** Writes parameters below a path; undefined deletes one. */
  put(path: string, values: Readonly<Record<string, string | undefined>>): void {
    for (const [name, value] of Object.entries(values)) {
      if (value === undefined) this.parameters.delete(`${path}${name}`);
      else this.parameters.set(`${path}${name}`, value);
      if (value !== undefined && name !== 'url' && name !== 'allow-plain-http') this.issued.add(value);
    }
  }

  requestsFor(path: string): SsmRequest[] {
    return this.requests.filter((request) => request.path === path);
  }

  close(): Promise<void> {
    return this.#server.close();
  }

  async #respond(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const operation = String(request.headers['x-amz-target']).replace('AmazonSSM.', '');
    const input = JSON.parse((await readBody(request)) || '{}') as {
      Path?: string;
      Names?: string[];
      NextToken?: string;
      Recursive?: boolean;
    };
    if (this.delay > 0) await sleep(this.delay);
    this.requests.push({ operation, path: input.Path });
    const json = (status: number, body: object) => {
      response.writeHead(status, { 'content-type': 'application/x-amz-json-1.1' }).end(JSON.stringify(body));
    };

    switch (this.faults.get(input.Path ?? '') ?? this.faults.get('*')) {
      case 'stall':
        return;
      case 'reset':
        request.socket.resetAndDestroy();
        return;
      case 'access denied':
        json(400, {
          __type: 'AccessDeniedException',
          Message: 'User is not authorized to perform this action',
        });
        return;
      case 'throttling':
        json(400, { __type: 'ThrottlingException', Message: 'Rate exceeded' });
        return;
    }

    const found = (name: string) => ({
      Name: name,
      Type: 'SecureString',
      Value: this.parameters.get(name),
      Version: 1,
    });
    if (operation === 'GetParametersByPath') {
      const prefix = `${String(input.Path).replace(/\/$/, '')}/`;
      const names = [...this.parameters.keys()]
        .filter((name) => name.startsWith(prefix))
        .filter((name) => input.Recursive || !name.slice(prefix.length).includes('/'))
        .sort();
      const start = Number(input.NextToken ?? 0);
      const next = start + this.page;
      json(200, {
        Parameters: names.slice(start, next).map(found),
        ...(next < names.length ? { NextToken: String(next) } : {}),
      });
    } else if (operation === 'GetParameters') {
      const names = input.Names ?? [];
      json(200, {
        Parameters: names.filter((name) => this.parameters.has(name)).map(found),
        InvalidParameters: names.filter((name) => !this.parameters.has(name)),
      });
    } else {
      json(400, { __type: 'UnknownOperationException' });
    }
  }
}
