/**
 * Requests to DynamoDB. The client is loaded at the start: loaded later, the modules that it shares with SSM's client would be
 * compiled one by one, which makes a cold start slower (npm run bench -- cold).
 */

import { DynamoDBClient } from '@aws-sdk/client-dynamodb';
import { within } from '../deadline.ts';
import { DeadlineExceeded, LedgerError, UNRESOLVED } from '../errors.ts';

/** Time-outs (ms): DynamoDB responds within a few milliseconds, so a request that hangs is repeated early. */
const CLIENT = {
  maxAttempts: 3,
  requestHandler: { connectionTimeout: 1_000, requestTimeout: 2_000, throwOnRequestTimeout: true },
};

/** Creates its client at the first request, for all tables. */
export class LedgerClient {
  #client: DynamoDBClient | undefined;

  /**
   * Sends requests to one table of the ledger.
   *
   * @param table its name, for the error
   * @param requests what to send
   * @throws LedgerError with the remedy; DeadlineExceeded once the signal has aborted
   */
  async ask<T>(
    table: string,
    signal: AbortSignal,
    requests: (client: DynamoDBClient) => Promise<T>,
  ): Promise<T> {
    if (signal.aborted) throw new DeadlineExceeded('time ran out before the request to the ledger');
    try {
      this.#client ??= new DynamoDBClient(CLIENT);
      return await within(signal, requests(this.#client));
    } catch (error) {
      const cause = { cause: error };
      if (signal.aborted) throw new DeadlineExceeded('time ran out before the ledger responded', cause);
      if (error instanceof LedgerError) throw error;
      throw new LedgerError(`the ledger is unavailable: ${explain(error, table)}`, cause);
    }
  }
}

/** The cause in DynamoDB's words, and the remedy. */
function explain(error: unknown, table: string): string {
  const name = error instanceof Error ? error.name : 'unknown error';
  switch (name) {
    case 'ResourceNotFoundException':
      return `table ${table} does not exist in ${process.env.AWS_REGION}; deploy the stage again`;
    case 'AccessDeniedException':
      return `${name}; the function's role needs the actions of infra/function/iam.yml on table ${table}`;
  }
  // Network errors have a code, DynamoDB's errors do not.
  const code = error instanceof Error && 'code' in error ? String(error.code) : undefined;
  if (code === undefined && name !== 'TimeoutError') return name;
  if (code === 'EAI_AGAIN') return `${code}; its host name ${UNRESOLVED}`;
  return `${code ?? name}; the function's subnets need a route to DynamoDB: a gateway endpoint or a NAT`;
}
