/**
 * The payload of a role change, with the names of `patroni_barman config-switch`. One schema for all callers.
 */

import * as v from 'valibot';
import { InvalidArgs } from '../errors.ts';
import { BarmanName, MAX_NAME_LENGTH } from '../target.ts';
import { printable, quotedKey } from '../text.ts';

/** Problems named in one message: a body of 16 KB can have thousands of unknown keys. */
const MAX_PROBLEMS = 50;

// Patroni 4 sends primary, replica, standby_leader, demoted; Patroni 3 promoted or master; older versions
// master.
const ROLES = ['primary', 'promoted', 'master', 'standby_leader', 'replica', 'demoted'] as const;
const SWITCH_WHEN = ['promoted', 'demoted', 'always', 'leader'] as const;
/** Maximum length of a host name (characters; hostname(7)). */
const MAX_NODE_LENGTH = 64;

const oneOf = <const T extends readonly string[]>(options: T) =>
  v.picklist(options, `must be ${options.map((option) => `"${option}"`).join(' or ')}`);
const boolean = v.boolean('must be true or false, without quotes');

/** What a sender may send; docs/schema/payload.json is made of it. */
export const Payload = v.object(
  {
    // The others only let the callback of a node be heard.
    action: oneOf(['on_role_change', 'on_reload', 'on_start', 'on_restart']),
    role: oneOf(ROLES),
    cluster: v.pipe(
      v.string('must be a string'),
      v.minLength(1, 'must be the scope of the Patroni cluster, not empty'),
      v.maxLength(MAX_NAME_LENGTH, `must have at most ${MAX_NAME_LENGTH} characters`),
      // The ledger stores it, and DynamoDB's strings are UTF-8.
      v.check((text) => text.isWellFormed(), 'must be well-formed Unicode, without a lone surrogate'),
    ),
    barman_server: BarmanName,
    barman_model: v.exactOptional(BarmanName),
    reset: v.optional(boolean, false),
    follow_leader: v.optional(boolean, false),
    switch_when: v.optional(oneOf(SWITCH_WHEN), 'promoted'),
    age_ms: v.optional(
      v.pipe(
        v.number('must be a number of milliseconds'),
        v.safeInteger('must be a whole number of milliseconds'),
        v.minValue(0, 'must be 0 or more'),
      ),
      0,
    ),
    dry_run: v.optional(boolean, false),
    // For the operator only, so it is no reason to reject a role change.
    node: v.exactOptional(v.pipe(v.unknown(), v.transform(nodeName))),
  },
  'is missing',
);

const RoleChangeSchema = v.pipe(
  Payload,
  v.readonly(),
  // Stryker disable next-line StringLiteral: a brand exists for the compiler only
  v.brand('RoleChange'),
);

/**
 * A well-formed role change; only `parseRoleChange` creates one. The one-of check of model, reset and leader
 * comes later.
 */
export type RoleChange = v.InferOutput<typeof RoleChangeSchema>;

/**
 * Parses the payload of a role change.
 *
 * @param payload the JSON value that the caller sent
 * @returns the role change
 * @throws InvalidArgs with every problem in one message, each with its field and the remedy
 */
export function parseRoleChange(payload: unknown): RoleChange {
  if (typeof payload !== 'object' || payload === null || Array.isArray(payload)) {
    throw new InvalidArgs(
      'the payload must be a JSON object such as {"action":"on_role_change","role":"primary",…}',
    );
  }
  const result = v.safeParse(RoleChangeSchema, payload);
  // Instead of valibot's strict object, which stops at the first unknown key and ignores "constructor".
  const unknownKeys = Object.keys(payload).filter((key) => !Object.hasOwn(Payload.entries, key));
  if (result.success && unknownKeys.length === 0) return result.output;

  const problems = [
    ...(result.issues ?? []).map((issue) => `${v.getDotPath(issue)} ${issue.message}${received(issue)}`),
    ...unknownKeys.map((key) => `${printable(quotedKey(key))} is an unknown key`),
  ];
  const listed = problems.slice(0, MAX_PROBLEMS);
  if (problems.length > listed.length) listed.push(`and ${problems.length - listed.length} more problems`);
  if (unknownKeys.length > 0) listed.push(`valid keys: ${Object.keys(Payload.entries).join(', ')}`);
  throw new InvalidArgs(listed.join('; '));
}

/**
 * Parses the JSON of an HTTP body.
 *
 * @param body the body, decoded
 * @throws InvalidArgs if it is empty or not JSON
 */
export function parseJson(body: string): unknown {
  if (body.trim() === '') throw new InvalidArgs('the body is empty; send the payload as a JSON object');
  try {
    return JSON.parse(body);
  } catch {
    throw new InvalidArgs('the body is not JSON; send the payload as a JSON object');
  }
}

/** Returns the host name of a sender, printable and cut; undefined for anything else. */
function nodeName(value: unknown): string | undefined {
  const name = typeof value === 'string' ? printable(value).slice(0, MAX_NODE_LENGTH).toWellFormed() : '';
  return name === '' ? undefined : name;
}

function received(issue: v.BaseIssue<unknown>): string {
  return issue.message === 'is missing' ? '' : `, not ${excerpt(issue.input)}`;
}

/**
 * Returns a value, cut to 80 characters for a message, and printable.
 */
export function excerpt(value: unknown): string {
  if (typeof value === 'object' && value !== null) return Array.isArray(value) ? 'an array' : 'an object';
  const text = typeof value === 'string' ? JSON.stringify(value) : String(value);
  return printable(text.length > 80 ? `${text.slice(0, 80)}…` : text);
}
