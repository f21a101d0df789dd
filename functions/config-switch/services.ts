/** What an instance of the function uses for its whole life, created at its start from the environment. */

import { PgBackupApi } from './barman/pg-backup-api.ts';
import type { Schedule } from './inspect/due.ts';
import type { Invocation } from './invocation.ts';
import { DynamoDbEvents, DynamoDbTable, LedgerClient } from './ledger/dynamodb.ts';
import type { EventTable } from './ledger/events.ts';
import { Ledger } from './ledger/ledger.ts';
import { Settings } from './settings/settings.ts';
import { logger } from './telemetry.ts';

/** The default of `--max-retries` of patroni_barman. */
const DEFAULT_MAX_RETRIES = 5;
/**
 * Default time limit for an operation (s): most take one second, on a host with many servers up to half a
 * minute.
 */
const DEFAULT_OPERATION_TIMEOUT = 60;
/** Default interval between two heartbeats (s), as in infra/events/heartbeat.yml. */
const DEFAULT_HEARTBEAT_INTERVAL = 60;
/** So many heartbeats after a doubt, the desired state is applied again for the first time. */
const APPLY_AGAIN = 2;

/** The environment variables that a deployment sets. */
export interface Environment {
  /** SSM path of the parameters, `/barman-config-switch/<stage>/`. */
  readonly PARAMETERS_PATH?: string | undefined;
  /** Name of the ledger's DynamoDB table of servers; that of events has `-events` appended. */
  readonly LEDGER_TABLE?: string | undefined;
  /** Maximum number of attempts per request to pg-backup-api. */
  readonly MAX_RETRIES?: string | undefined;
  /** How long to wait for an operation of unknown end before the next POST (s). */
  readonly OPERATION_TIMEOUT?: string | undefined;
  /** Interval between two heartbeats (s). */
  readonly HEARTBEAT_INTERVAL?: string | undefined;
  /** When heartbeats inspect: `daily` (default), `off`, or an hour of the day in UTC, 0 to 23. */
  readonly INSPECTION?: string | undefined;
  /** The version of this project, for the operator. */
  readonly VERSION?: string | undefined;
}

export interface Services {
  readonly settings: Settings;
  readonly ledger: Ledger;
  readonly events: EventTable;
  /** How long to wait for an operation of unknown end before the next POST (ms). */
  readonly operationTimeout: number;
  /** Between two heartbeats (ms). */
  readonly heartbeatInterval: number;
  /** When heartbeats inspect. */
  readonly inspectionSchedule: Schedule;
  /** The version of this project that is deployed. */
  readonly version: string;
  /** Creates the client of one invocation for pg-backup-api; the caller disposes of it. */
  readonly connect: (invocation: Pick<Invocation, 'request_id' | 'signal' | 'facts'>) => PgBackupApi;
}

/**
 * Starts to read the parameters, and creates the rest.
 *
 * @throws Error naming the environment variable that is wrong
 */
export function startServices(environment: Environment): Services {
  const { PARAMETERS_PATH: path, LEDGER_TABLE: table, MAX_RETRIES, OPERATION_TIMEOUT } = environment;
  const maxRetries = wholeNumber('MAX_RETRIES', MAX_RETRIES, DEFAULT_MAX_RETRIES);
  const interval = wholeNumber(
    'HEARTBEAT_INTERVAL',
    environment.HEARTBEAT_INTERVAL,
    DEFAULT_HEARTBEAT_INTERVAL,
  );
  const seconds = wholeNumber('OPERATION_TIMEOUT', OPERATION_TIMEOUT, DEFAULT_OPERATION_TIMEOUT);
  if (path === undefined || !/^\/.+\/$/.test(path)) {
    throw new Error(
      'environment variable PARAMETERS_PATH must be an SSM path, such as /barman-config-switch/prod/',
    );
  }
  if (table === undefined || table === '') {
    throw new Error('environment variable LEDGER_TABLE must be the name of a DynamoDB table, the ledger');
  }
  const settings = new Settings(path, (message, cause) =>
    logger.warn(message, cause instanceof Error ? { error: cause } : {}),
  );
  const client = new LedgerClient();
  return {
    settings,
    ledger: new Ledger(new DynamoDbTable(client, table), { applyAgain: APPLY_AGAIN * interval * 1_000 }),
    events: new DynamoDbEvents(client, `${table}-events`),
    operationTimeout: seconds * 1_000,
    heartbeatInterval: interval * 1_000,
    inspectionSchedule: scheduleFrom(environment.INSPECTION),
    version: environment.VERSION ?? 'unknown',
    connect: ({ request_id, signal, facts }) =>
      new PgBackupApi(settings, {
        signal,
        maxRetries,
        facts,
        onFailure: ({ request, attempt, error }) =>
          logger.warn(error.message, { request_id, request, attempt, max_retries: maxRetries }),
        onFinding: (barman_server, message) => logger.warn(message, { request_id, barman_server }),
      }),
  };
}

function scheduleFrom(given = 'daily'): Schedule {
  if (given === 'daily' || given === 'off') return given;
  if (/^([01]?\d|2[0-3])$/.test(given)) return Number(given);
  throw new Error(
    `environment variable INSPECTION must be daily, off, or an hour from 0 to 23, not "${given}"`,
  );
}

function wholeNumber(name: string, given: string | undefined, otherwise: number): number {
  const value = Number(given ?? otherwise);
  if (Number.isInteger(value) && value >= 1) return value;
  throw new Error(`environment variable ${name} must be a whole number of 1 or more, not "${given}"`);
}
