/**
 * How a config switch ends: the codes of `patroni_barman config-switch`
 * (`patroni.scripts.barman.config_switch`, `ExitCode`).
 */
export const ExitCode = {
  /** Barman was set to what the event asked for. */
  CONFIG_SWITCH_DONE: 0,
  /** Nothing to do: the role does not match `switch_when`, a newer event was applied, or it was a dry run. */
  CONFIG_SWITCH_SKIPPED: 1,
  /** The operation on the Barman host ended FAILED. */
  CONFIG_SWITCH_FAILED: 2,
  /** pg-backup-api, the credentials for it or the ledger are unavailable, or time ran out. */
  HTTP_ERROR: 3,
  /** The payload is wrong. */
  INVALID_ARGS: 4,
} as const;

export type ExitCode = (typeof ExitCode)[keyof typeof ExitCode];
export type ExitStatus = keyof typeof ExitCode;

const STATUS: Record<ExitCode, ExitStatus> = {
  0: 'CONFIG_SWITCH_DONE',
  1: 'CONFIG_SWITCH_SKIPPED',
  2: 'CONFIG_SWITCH_FAILED',
  3: 'HTTP_ERROR',
  4: 'INVALID_ARGS',
};

export const EXIT_STATUSES = Object.values(STATUS);

/** Returns the name of an ExitCode, as in responses and metrics. */
export function exitStatus(code: ExitCode): ExitStatus {
  return STATUS[code];
}

/** How a run ended that did not throw. */
export interface Result {
  readonly exit_code: typeof ExitCode.CONFIG_SWITCH_DONE | typeof ExitCode.CONFIG_SWITCH_SKIPPED;
  /** One sentence for a person. */
  readonly message: string;
  readonly operation_id?: string;
}
