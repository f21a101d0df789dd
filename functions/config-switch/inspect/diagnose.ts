/** `/diagnose`, one at a time: it keeps pg-backup-api's only worker busy, and ten in a row would delay a failover. */

import type { Diagnosis } from '../barman/diagnosis.ts';
import { isUnanswered } from '../barman/failures.ts';
import type { PgBackupApi } from '../barman/pg-backup-api.ts';
import { Busy } from '../errors.ts';
import type { Ledger } from '../ledger/ledger.ts';

/** How long an invocation may take, and Barman may be busy with a diagnosis that was given up (ms). */
const BUSY_TIME = 60_000;
/** Time limit for giving the right back, which may begin at the deadline (ms). */
const RELEASE_TIME = 1_000;

/** What it takes to ask Barman for a diagnosis. */
export interface DiagnoseOptions {
  readonly api: Pick<PgBackupApi, 'diagnose'>;
  readonly ledger: Pick<Ledger, 'acquireDiagnosis' | 'holdDiagnosis' | 'releaseDiagnosis'>;
  readonly signal: AbortSignal;
}

/** Asks Barman for its servers and models. @param signal instead of the deadline's @throws HttpError */
export type Diagnose = (signal?: AbortSignal) => Promise<Diagnosis>;

/**
 * Does something that asks for a diagnosis, unless another invocation does.
 *
 * @throws Busy if another invocation does; what the action throws
 */
export async function whileDiagnosing<T>(
  { api, ledger, signal }: DiagnoseOptions,
  action: (diagnose: Diagnose) => Promise<T>,
): Promise<T> {
  if (!(await ledger.acquireDiagnosis(BUSY_TIME, signal))) {
    throw new Busy(
      'another dry run or inspection is under way, or one that failed may be; try again in a minute',
    );
  }
  let goesOn = false;
  const diagnose: Diagnose = async (limit) => {
    try {
      return await api.diagnose(limit);
    } catch (error) {
      goesOn = isUnanswered(error);
      throw error;
    }
  };
  try {
    return await action(diagnose);
  } finally {
    const inTime = AbortSignal.timeout(RELEASE_TIME);
    const given = goesOn ? ledger.holdDiagnosis(BUSY_TIME, inTime) : ledger.releaseDiagnosis(inTime);
    // It ends by itself a minute after it was acquired.
    await given.catch(() => undefined);
  }
}
