/** A role change, as it arrived. */

import type { APIGatewayProxyEventV2 } from 'aws-lambda';
import * as v from 'valibot';
import { EXIT_STATUSES, ExitCode } from '../exit-code.ts';
import type { Facts, Invocation } from '../invocation.ts';
import type { HeardNode } from '../ledger/heard.ts';
import type { RoleChange } from './payload.ts';

/** An event id becomes part of a version and of a key: printable ASCII without spaces. */
const EVENT_ID = /^[!-~]{1,128}$/;

/**
 * How an event arrived: as the webhook of a Patroni callback, from an EventBridge rule, or as the payload
 * itself.
 */
export type Arrived =
  /** `event` is absent if it is not in payload format 2.0. */
  | { readonly caller: 'http'; readonly event?: APIGatewayProxyEventV2 }
  | { readonly caller: 'eventbridge'; readonly payload: unknown }
  /** `operator` is who the CLI says it is; for the log only. */
  | { readonly caller: 'direct'; readonly payload: unknown; readonly operator?: string };

/** An event, which stays the same on its way; what is found out about it is in its facts. */
export interface Event extends Invocation {
  readonly arrived: Arrived;
  /**
   * The id that the caller gave the event: the same for each delivery. That of a webhook is valid once it is
   * authenticated.
   */
  readonly event_id: string;
  /** By a clock of AWS, never of a database node (ms since the epoch). */
  readonly arrivedAt: number;
  readonly facts: EventFacts;
}

export interface EventFacts extends Facts {
  /** Set once the payload is parsed. */
  roleChange?: RoleChange;
  /** Set at the end, unless the webhook was rejected. */
  response?: ResponseBody;
}

/** The response to a role change; over HTTP it is the body, as JSON. docs/schema/response.json is made of it. */
export const ResponseBody = v.object({
  exit_code: v.enum(ExitCode),
  exit_status: v.picklist(EXIT_STATUSES),
  message: v.string(),
  cluster: v.exactOptional(v.string()),
  barman_server: v.exactOptional(v.string()),
  barman_model: v.exactOptional(v.string()),
  reset: v.exactOptional(v.literal(true)),
  follow_leader: v.exactOptional(v.literal(true)),
  /** The leader whose model is desired now. */
  leader: v.exactOptional(v.string()),
  operation_id: v.exactOptional(v.string()),
  dry_run: v.exactOptional(v.literal(true)),
  /**
   * The desired state is in the ledger and will be applied, whatever the code: the caller need not try again.
   */
  recorded: v.boolean(),
  event_id: v.string(),
  request_id: v.string(),
});
export type ResponseBody = Readonly<v.InferOutput<typeof ResponseBody>>;

/**
 * Returns when the role changed (ms since the epoch): the arrival by AWS's clock minus the age by the
 * sender's monotonic clock, so that the wrong clock of a node cannot reorder failovers.
 */
export function eventTime({ arrivedAt, facts }: Pick<Event, 'arrivedAt' | 'facts'>): number {
  return Math.max(0, arrivedAt - (facts.roleChange?.age_ms ?? 0));
}

/** How the callback introduces itself over HTTP (patroni/barman_config_switch.py). */
const USER_AGENT = /^barman_config_switch\/([\w.+-]{1,32})(?: |$)/;

/** Returns the node whose callback has sent an event; undefined if its payload names none, or is not parsed. */
export function heardNode({
  arrived,
  arrivedAt,
  facts,
}: Pick<Event, 'arrived' | 'arrivedAt' | 'facts'>): HeardNode | undefined {
  const { node, cluster } = facts.roleChange ?? {};
  if (node === undefined || cluster === undefined) return undefined;
  const agent = arrived.caller === 'http' ? arrived.event?.headers['user-agent'] : undefined;
  const [, version] = USER_AGENT.exec(agent ?? '') ?? [];
  return { node, cluster, at: new Date(arrivedAt).toISOString(), ...(version !== undefined && { version }) };
}

/**
 * Returns whether a value has the form of an event id: 1 to 128 printable ASCII characters without spaces.
 */
export function isEventId(value: unknown): value is string {
  return typeof value === 'string' && EVENT_ID.test(value);
}
