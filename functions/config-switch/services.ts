/** What the function works with as long as an instance of it lives: made at its start, from the environment. */

import { Credentials } from './aws/credentials.ts';
import { DynamoDbTable } from './aws/dynamodb-table.ts';
import { PgBackupApi, type RequestCounts } from './barman/pg-backup-api.ts';
import { Ledger, POST_DELAY } from './reconcile/ledger.ts';
import { logger } from './telemetry.ts';

/** As `--max-retries` of patroni_barman. */
const DEFAULT_MAX_RETRIES = 5;
/** An operation takes a second, and up to half a minute on a host with many servers, s. */
const DEFAULT_OPERATION_TIMEOUT = 60;

/** What a deployment sets, as environment variables. */
export interface Environment {
  /** SSM path of the parameters, `/barman-config-switch/<stage>/`. */
  readonly PARAMETERS_PATH?: string | undefined;
  /** The ledger's table in DynamoDB. */
  readonly LEDGER_TABLE?: string | undefined;
  /** Attempts at one request to pg-backup-api. */
  readonly MAX_RETRIES?: string | undefined;
  /** How long an operation without a known end is waited for before another is sent, s. */
  readonly OPERATION_TIMEOUT?: string | undefined;
}

export interface Services {
  readonly credentials: Credentials;
  readonly ledger: Ledger;
  /** How long an operation without a known end is waited for before another is sent, ms. */
  readonly operationTimeout: number;
  /** One invocation's way to pg-backup-api; to be disposed of at its end. */
  readonly connect: (invocation: {
    readonly requestId: string;
    readonly signal: AbortSignal;
    readonly counts: RequestCounts;
  }) => PgBackupApi;
}

/**
 * Begins to read the parameters, and makes the rest ready.
 *
 * @throws Error naming the environment variable that is wrong
 */
export function startServices(environment: Environment): Services {
  const { PARAMETERS_PATH: path, LEDGER_TABLE: table, MAX_RETRIES, OPERATION_TIMEOUT } = environment;
  const maxRetries = wholeNumber('MAX_RETRIES', MAX_RETRIES, DEFAULT_MAX_RETRIES);
  const seconds = wholeNumber('OPERATION_TIMEOUT', OPERATION_TIMEOUT, DEFAULT_OPERATION_TIMEOUT);
  if (path === undefined || !/^\/.+\/$/.test(path)) {
    throw new Error(
      'environment variable PARAMETERS_PATH must be an SSM path, such as /barman-config-switch/prod/',
    );
  }
  if (table === undefined || table === '') {
    throw new Error('environment variable LEDGER_TABLE must be the name of a DynamoDB table, the ledger');
  }
  const credentials = new Credentials(path, (message, cause) =>
    logger.warn(message, cause instanceof Error ? { error: cause } : {}),
  );
  return {
    credentials,
    ledger: new Ledger(new DynamoDbTable(table)),
    operationTimeout: seconds * 1_000,
    connect: ({ requestId, signal, counts }) =>
      new PgBackupApi(credentials, {
        signal,
        maxRetries,
        postDelay: POST_DELAY,
        counts,
        onFailure: ({ request, attempt, error }) =>
          logger.warn(error.message, { request_id: requestId, request, attempt, max_retries: maxRetries }),
      }),
  };
}

function wholeNumber(name: string, given: string | undefined, otherwise: number): number {
  const value = Number(given ?? otherwise);
  if (Number.isInteger(value) && value >= 1) return value;
  throw new Error(`environment variable ${name} must be a whole number of 1 or more, not "${given}"`);
}
