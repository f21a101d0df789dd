/** `/diagnose`, one at a time. */

import type { Diagnosis } from '../barman/diagnosis.ts';
import { isUnanswered } from '../barman/failures.ts';
import type { PgBackupApi } from '../barman/pg-backup-api.ts';
import { Busy } from '../errors.ts';
import type { Ledger } from '../ledger/ledger.ts';

/** How long Barman may be busy with a diagnosis that was given up (ms). */
const BUSY_TIME = 60_000;

/** What it takes to ask Barman for a diagnosis. */
export interface DiagnoseOptions {
  readonly api: Pick<PgBackupApi, 'diagnose'>;
  readonly ledger: Pick<Ledger, 'acquireDiagnosis' | 'releaseDiagnosis'>;
  readonly signal: AbortSignal;
}

/**
 * Asks Barman for its servers and models, unless another invocation does: it keeps pg-backup-api's only worker
 * busy, and ten of them in a row would delay a failover by minutes.
 *
 * @throws Busy if another invocation does, HttpError as `diagnose` does
 */
export async function diagnoseAlone({ api, ledger, signal }: DiagnoseOptions): Promise<Diagnosis> {
  if (!(await ledger.acquireDiagnosis(BUSY_TIME, signal))) {
    throw new Busy(
      'another dry run or inspection is under way, or one that failed may be; try again in a minute',
    );
  }
  let goesOn = false;
  try {
    return await api.diagnose();
  } catch (error) {
    goesOn = isUnanswered(error);
    throw error;
  } finally {
    // It ends by itself a minute later.
    if (!goesOn) await ledger.releaseDiagnosis(signal).catch(() => undefined);
  }
}
