/** pg-backup-api's stand-in as a program. Its operations run the real `barman`, as user barman. */

import { MODELS } from '../../stand-ins/barman-host.ts';
import { PgBackupApiStandIn } from '../../stand-ins/pg-backup-api.ts';
import { atHome, run } from '../processes.ts';

/** Its passwords are in its home. */
const barman = (...words: string[]) => atHome('barman', 'barman', ...words);

await PgBackupApiStandIn.start({
  port: 7480,
  models: MODELS,
  barman: (server, model) =>
    run(barman('config-switch', server, model ?? '--reset')).then(
      () => true,
      () => false,
    ),
  diagnose: () => run(barman('diagnose')).catch(({ stdout }: { stdout: string }) => stdout),
});
