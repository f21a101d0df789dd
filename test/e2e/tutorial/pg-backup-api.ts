/** pg-backup-api's stand-in as a program. Its operations run the real `barman`, as user barman. */

import { MODELS } from '../../stand-ins/barman-host.ts';
import { PgBackupApiStandIn } from '../../stand-ins/pg-backup-api.ts';
import { type CommandLine, run } from '../processes.ts';

/** With the home of `barman`, where the passwords are. */
const asBarman = (...words: string[]): CommandLine => [
  'runuser',
  ['-u', 'barman', '--', 'env', 'HOME=/var/lib/barman', 'barman', ...words],
];

await PgBackupApiStandIn.start({
  port: 7480,
  models: MODELS,
  barman: (server, model) =>
    run(asBarman('config-switch', server, model ?? '--reset')).then(
      () => true,
      () => false,
    ),
  diagnose: () => run(asBarman('diagnose')).catch(({ stdout }: { stdout: string }) => stdout),
});
