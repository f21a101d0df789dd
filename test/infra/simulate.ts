/** Asks what IAM would answer: the policies are evaluated here, and AWS's list of actions is part of a package. */

import { readFileSync } from 'node:fs';
import { runSimulation, runUnsafeSimulation, type Simulation } from '@cloud-copilot/iam-simulate';

export const ACCOUNT = '123456789012';
export const REGION = 'eu-central-1';

/** Values of condition keys. Those that AWS does not have for an action and its resource are left out. */
export type Context = Readonly<Record<string, string | string[]>>;

/** One request to AWS, as IAM sees it. */
export interface Call {
  readonly action: string;
  /** An ARN, or `*` for an action that is for no resource. */
  readonly resource: string;
  readonly context?: Context;
}

export interface Statement {
  readonly Sid?: string;
  readonly Effect: string;
  readonly Action: string | readonly string[];
  readonly Resource: string | readonly string[];
  readonly Condition?: Readonly<Record<string, unknown>>;
}

export interface Policy {
  readonly Version: string;
  readonly Statement: readonly Statement[];
}

/**
 * Actions, and ARNs for them, that the package's list lacks:
 *
 * - of API Gateway it has the resources of REST APIs only (Service Authorization Reference, "Amazon API Gateway
 *   Management V2"), and no TagResource, which AWS demands when a stage or a domain name is created
 *   (aws-amplify/amplify-cli issue 12316, cloudtools/awacs issue 254);
 * - AWS also names a log group by its streams, and a topic by its subscriptions.
 */
const UNLISTED: readonly (readonly [actions: RegExp, resources: RegExp])[] = [
  [/^apigateway:(GET|POST|PUT|PATCH|DELETE|TagResource|UntagResource)$/, /./],
  [/^logs:/, /:log-group:.*:log-stream:$/],
  [/^sns:\w*Subscri\w+$/, /:[-\w]+-alarms:[-\da-f]+$/],
];

/** As of every key that is not restricted: its account decides by policies of identities. */
const KEY_POLICY = {
  Version: '2012-10-17',
  Statement: [
    {
      Effect: 'Allow',
      Principal: { AWS: `arn:aws:iam::${ACCOUNT}:root` },
      Action: 'kms:*',
      Resource: '*',
    },
  ],
};

/** Returns an ARN of the account, in its region. @param place region and account, if the service has them not */
export function arn(service: string, name: string, place = `${REGION}:${ACCOUNT}`): string {
  return `arn:aws:${service}:${place}:${name}`;
}

/** Returns a call as text, for messages. */
export function textOf({ action, resource, context = {} }: Call): string {
  const conditions = Object.entries(context).map(([key, value]) => `${key}=${value}`);
  return [action, resource, ...conditions].join(' ');
}

/**
 * Returns whether policies allow a call; undefined if AWS has no such action for this resource.
 *
 * @param policies of the identity, all together
 * @param boundary the permissions boundary of the identity
 * @throws Error if AWS does not have the action, or a policy is not valid
 */
export async function allows(
  policies: readonly Policy[],
  call: Call,
  boundary?: Policy,
): Promise<boolean | undefined> {
  const { action, resource, context = {} } = call;
  const simulation: Simulation = {
    request: {
      principal: `arn:aws:iam::${ACCOUNT}:role/caller`,
      action,
      resource: { resource, accountId: ACCOUNT },
      contextVariables: { ...context },
    },
    identityPolicies: policies.map((policy, index) => ({ name: String(index), policy })),
    serviceControlPolicies: [],
    resourceControlPolicies: [],
    ...(action.startsWith('kms:') && { resourcePolicy: KEY_POLICY }),
    ...(boundary && { permissionBoundaryPolicies: [{ name: 'boundary', policy: boundary }] }),
  };
  const result = await runSimulation(simulation, {});
  if (result.resultType !== 'error') return result.overallResult === 'Allowed';
  const { message } = result.errors;
  const unlisted =
    /^(no\.resource\.types|invalid\.action)$/.test(message) &&
    UNLISTED.some(([actions, resources]) => actions.test(action) && resources.test(resource));
  // For example an alias and a version of a function, whose ARNs look the same.
  if (unlisted || message === 'multiple.resource.types') {
    return runUnsafeSimulation(simulation, {}) === 'Allowed';
  }
  if (message === 'no.resource.types' || message === 'must.use.wildcard') return undefined;
  throw new Error(`${textOf(call)}: ${JSON.stringify(result.errors)}`);
}

/** What policies answer to some calls, as texts. */
export interface Answers {
  readonly allowed: readonly string[];
  readonly denied: readonly string[];
}

/**
 * Simulates calls.
 *
 * @param policies of the identity, all together
 * @param boundary the permissions boundary of the identity
 * @throws Error for a call that AWS does not have
 */
export async function simulate(
  policies: readonly Policy[],
  calls: readonly Call[],
  boundary?: Policy,
): Promise<Answers> {
  const allowed: string[] = [];
  const denied: string[] = [];
  for (const call of calls) {
    const answer = await allows(policies, call, boundary);
    if (answer === undefined) throw new Error(`AWS has no ${textOf(call)}`);
    (answer ? allowed : denied).push(textOf(call));
  }
  return { allowed, denied };
}

/** Returns the calls of a service on a resource. @param names of the actions, separated by spaces */
export function calls(service: string, names: string, resource: string, context?: Context): Call[] {
  return names
    .split(' ')
    .map((name) => ({ action: `${service}:${name}`, resource, ...(context && { context }) }));
}

/** Returns a policy of docs/iam. */
export function readPolicy(name: string): Policy {
  return JSON.parse(readFileSync(`docs/iam/${name}.json`, 'utf8')) as Policy;
}
