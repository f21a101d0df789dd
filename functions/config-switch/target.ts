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

/** What a role change asks for: a target, or that of the leader, whoever that is. */
export type RequestedTarget = ConfigTarget | { readonly follow_leader: true };

const MODEL = 'model ';
const RESET = 'reset';
const LEADER = 'leader';

/**
 * Returns what a role change asks for: one, and only one, of model, reset and leader
 * (`patroni.scripts.barman.config_switch`, `run_barman_config_switch`, which knows the first two).
 *
 * @throws InvalidArgs if it names none, or several
 */
export function requestedTarget({
  barman_model,
  reset,
  follow_leader,
}: {
  readonly barman_model?: string;
  readonly reset: boolean;
  readonly follow_leader: boolean;
}): RequestedTarget {
  const [target, ...more]: RequestedTarget[] = [
    ...(barman_model === undefined ? [] : [{ model: barman_model }]),
    ...(reset ? [{ reset } as const] : []),
    ...(follow_leader ? [{ follow_leader } as const] : []),
  ];
  if (target && more.length === 0) return target;
  const model = barman_model === undefined ? 'missing' : `"${barman_model}"`;
  throw new InvalidArgs(
    'one, and only one, of barman_model, reset and follow_leader must be given: ' +
      `barman_model is ${model}, reset is ${reset}, and follow_leader is ${follow_leader}`,
  );
}

/** Returns the fields of a payload or a response that name a target. */
export function fieldsOf(target: ConfigTarget): { readonly barman_model: string } | { readonly reset: true } {
  return 'model' in target ? { barman_model: target.model } : { reset: true };
}

/** Returns the text that the ledger stores: `model <name>`, `reset`, or for an event `leader`. */
export function targetText(target: RequestedTarget): string {
  if ('follow_leader' in target) return LEADER;
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
