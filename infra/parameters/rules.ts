/** Reads what a stage sets: each value by the table, and what must not be combined. */

import { refuse } from '../osls.ts';
import { PARAMETERS, type Parameter, type ParameterName, type Parameters } from './table.ts';

/** The parameters of a custom domain. */
const DOMAIN = ['domain-name', 'certificate', 'truststore'] as const;

/**
 * The name of a stage. Without hyphens, no two stages have a name of a resource in common: stage prod-events would
 * have the table of the events of prod.
 */
export const STAGE_NAME = /^[a-z][a-z0-9]{0,19}$/;

/** Parameters with the ARN of something that AWS accepts only from the region of the stage. */
const IN_REGION = ['alarm-topic', 'certificate', 'ownership-certificate', 'parameters-key', 'key'] as const;

/** Combinations that are rejected, and the error for each. Malformed values are absent. */
const CONFLICTS: readonly (readonly [error: string, rejected: (set: Partial<Parameters>) => unknown])[] = [
  [
    `${DOMAIN.join(', ')}: set all of them, or none`,
    (set) => DOMAIN.some((name) => set[name]) && !DOMAIN.every((name) => set[name]),
  ],
  [
    'ownership-certificate is for domain-name; set that, or omit it',
    (set) => set['ownership-certificate'] && !set['domain-name'],
  ],
  [
    'route-tables is for a gateway endpoint, but ledger-access is nat; omit route-tables, or set ledger-access to pl-…',
    (set) => set['route-tables'] && set['ledger-access'] === 'nat',
  ],
  [
    `${DOMAIN.join(', ')} are for the API, but api is none; omit them`,
    (set) => set.api === 'none' && DOMAIN.some((name) => set[name]),
  ],
  [
    'alarm-email is for the topic of the stage, but alarm-topic is another one; subscribe there, and omit alarm-email',
    (set) => set['alarm-topic'] && set['alarm-email'],
  ],
];

/**
 * Reads the parameters of a stage.
 *
 * @param given as in the stage's file, or as text
 * @throws Error naming each problem, and what is expected
 */
export function readParameters(stage: string, given: Readonly<Record<string, unknown>>): Parameters {
  const problems: string[] = [];
  if (!STAGE_NAME.test(stage)) {
    problems.push(
      `stage is "${stage}"; expected a name of at most 20 lower-case letters and digits, without hyphens`,
    );
  }
  for (const name of Object.keys(given).filter((name) => !Object.hasOwn(PARAMETERS, name))) {
    problems.push(`unknown parameter ${name}; valid: ${Object.keys(PARAMETERS).join(', ')}`);
  }
  const set: Partial<Record<ParameterName, unknown>> = {};
  for (const [name, parameter] of Object.entries(PARAMETERS) as [ParameterName, Parameter][]) {
    const { text, parse, default: otherwise } = parameter;
    const value = given[name] ?? (typeof otherwise === 'function' ? otherwise(stage) : otherwise);
    const parsed = value === null || value === undefined ? value : parse(String(value));
    if (value === undefined) problems.push(`${name} is missing; expected ${text}`);
    else if (parsed === undefined) problems.push(`${name} is "${value}"; expected ${text}`);
    else set[name] = parsed;
  }
  for (const [error, rejected] of CONFLICTS) if (rejected(set as Partial<Parameters>)) problems.push(error);
  const { region } = set;
  for (const name of IN_REGION) {
    const [, , , other] = String(set[name] ?? '').split(':');
    if (region && other && other !== region) {
      problems.push(
        `${name} is in the region ${other}, and the stage in ${region}; give one that is in ${region}, or set region`,
      );
    }
  }
  if (problems.length > 0) {
    refuse(
      [`infra/stages/${stage}.yml (see docs/reference/stage-parameters.md), or --param:`, ...problems].join(
        '\n- ',
      ),
    );
  }
  return set as Parameters;
}
