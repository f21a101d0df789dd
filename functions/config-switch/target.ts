/** The target of a config switch: a model, or no model. The only place that turns it into text and back. */

import * as v from 'valibot';
import { InvalidArgs } from './errors.ts';

/**
 * Names that are safe as a path segment here and as an argument of `barman` on the host: not an option, not
 * several words.
 */
export const BARMAN_NAME = /^[A-Za-z0-9_][A-Za-z0-9_.:@+~=,-]*$/;
/** Maximum length of a name (characters): the ledger and pg-backup-api have no longer ones. */
export const MAX_NAME_LENGTH = 255;
/** The name of a Barman server, or of a model. */
export const BarmanName = v.pipe(
  v.string('must be a string'),
  v.regex(
    BARMAN_NAME,
    'must start with a letter, a digit or "_", followed by these or any of . : @ + ~ = , - as in the configuration of Barman',
  ),
  v.maxLength(MAX_NAME_LENGTH, `must have at most ${MAX_NAME_LENGTH} characters`),
);

/** Never both. */
export type ConfigTarget = { readonly model: string } | { readonly reset: true };

const MODEL = 'model ';
const RESET = 'reset';

/**
 * Returns the target of a role change: one, and only one, of model and reset
 * (`patroni.scripts.barman.config_switch`, `run_barman_config_switch`).
 *
 * @throws InvalidArgs if it names both or neither
 */
export function configTarget({
  barman_model,
  reset,
}: {
  readonly barman_model?: string;
  readonly reset: boolean;
}): ConfigTarget {
  if (barman_model !== undefined && !reset) return { model: barman_model };
  if (barman_model === undefined && reset) return { reset: true };
  throw new InvalidArgs(
    `one, and only one, of barman_model and reset must be given: ${
      reset
        ? `barman_model is "${barman_model}" and reset is true`
        : 'barman_model is missing and reset is false'
    }`,
  );
}

/** Returns the text that the ledger stores: `model <name>` or `reset`. */
export function targetText(target: ConfigTarget): string {
  return 'model' in target ? `${MODEL}${target.model}` : RESET;
}

/** Returns whether a text is one that `targetText` returns. */
export function isTargetText(text: string): boolean {
  return text === RESET || (text.startsWith(MODEL) && BARMAN_NAME.test(text.slice(MODEL.length)));
}

/**
 * Parses what `targetText` returned.
 *
 * @throws TypeError for any other text, which must not drop the active model
 */
export function parseTarget(text: string): ConfigTarget {
  if (!isTargetText(text)) throw new TypeError(`"${text}" is neither "model NAME" nor "reset"`);
  return text === RESET ? { reset: true } : { model: text.slice(MODEL.length) };
}

/** Returns the body of a POST to `/servers/S/operations` (pg-backup-api 2.2, `servers_operations_post`). */
export function requestBody(target: ConfigTarget): object {
  return {
    type: 'config_switch',
    ...('model' in target ? { model_name: target.model } : { reset: true }),
  };
}

/** Returns a phrase, as in "could not …". */
export function describe(target: ConfigTarget): string {
  return 'model' in target ? `apply model ${target.model}` : 'drop the active model';
}

/** Returns a name, as in "now uses …". */
export function nameOf(target: ConfigTarget): string {
  return 'model' in target ? `model ${target.model}` : 'no model';
}
