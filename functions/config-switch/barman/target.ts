/** What a Barman server is to be brought to: a model, or no model at all. The one place that turns it into text and back. */

import { InvalidArgs } from '../errors.ts';

/** Barman's names as pg-backup-api can take them: a path segment here, and never an option or a list of words over there. */
export const BARMAN_NAME = /^[A-Za-z0-9_][A-Za-z0-9_.:-]*$/;

/** Never both. */
export type ConfigTarget = { readonly model: string } | { readonly reset: true };

const MODEL = 'model ';

/**
 * What a role change wants Barman to be brought to: one, and only one, of model and reset
 * (`patroni.scripts.barman.config_switch`, `run_barman_config_switch`).
 *
 * @throws InvalidArgs if it names both or neither
 */
export function configTarget({
  barmanModel,
  reset,
}: {
  readonly barmanModel?: string;
  readonly reset: boolean;
}): ConfigTarget {
  if (barmanModel !== undefined && !reset) return { model: barmanModel };
  if (barmanModel === undefined && reset) return { reset: true };
  throw new InvalidArgs(
    `one, and only one, of barman_model and reset must be given: ${
      reset
        ? `barman_model is "${barmanModel}" and reset is true`
        : 'barman_model is missing and reset is false'
    }`,
  );
}

/** As the ledger keeps it: `model <name>` or `reset`. */
export function targetText(target: ConfigTarget): string {
  return 'model' in target ? `${MODEL}${target.model}` : 'reset';
}

/** What `targetText` wrote. */
export function parseTarget(text: string): ConfigTarget {
  return text.startsWith(MODEL) ? { model: text.slice(MODEL.length) } : { reset: true };
}

/** The body of a POST to `/servers/S/operations` (pg-backup-api 2.2, `servers_operations_post`). */
export function requestBody(target: ConfigTarget): object {
  return {
    type: 'config_switch',
    ...('model' in target ? { model_name: target.model } : { reset: true }),
  };
}

/** What is done with it, as in "could not …". */
export function describe(target: ConfigTarget): string {
  return 'model' in target ? `apply model ${target.model}` : 'drop the active model';
}

/** What a server uses after that, as in "now uses …". */
export function nameOf(target: ConfigTarget): string {
  return 'model' in target ? `model ${target.model}` : 'no model';
}
