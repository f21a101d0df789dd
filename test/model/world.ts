/**
 * The environment of the ledger's protocol in virtual time: a table, a Barman host, and the faults of both.
 * The code under test is the real ledger/, reconcile/ and pg-backup-api.ts; the invariants are checked here
 * at each step.
 */

import { AsyncLocalStorage } from 'node:async_hooks';
import type { Connection, ConnectionSource } from '../../functions/config-switch/barman/attempts.ts';
import { PgBackupApi } from '../../functions/config-switch/barman/pg-backup-api.ts';
import { ATTEMPT_TIMEOUT, deadline, within } from '../../functions/config-switch/deadline.ts';
import {
  Busy,
  ConfigSwitchFailed,
  DeadlineExceeded,
  HttpError,
  LeaderUnknown,
} from '../../functions/config-switch/errors.ts';
import type { Result } from '../../functions/config-switch/exit-code.ts';
import { ExitCode } from '../../functions/config-switch/exit-code.ts';
import { inspect } from '../../functions/config-switch/inspect/inspect.ts';
import { type Facts, newFacts } from '../../functions/config-switch/invocation.ts';
import type {
  Change,
  Condition,
  Stored,
  StoredChange,
  Table,
} from '../../functions/config-switch/ledger/conditions.ts';
import type { EventTable, StoredEvent } from '../../functions/config-switch/ledger/events.ts';
import { readHeard } from '../../functions/config-switch/ledger/heard.ts';
import { inspectedServer, inspectionKey } from '../../functions/config-switch/ledger/inspection.ts';
import { type Item, isPending, readItem } from '../../functions/config-switch/ledger/item.ts';
import { Ledger, POST_WINDOW } from '../../functions/config-switch/ledger/ledger.ts';
import { Operator } from '../../functions/config-switch/ledger/operator.ts';
import { STAGE_KEY } from '../../functions/config-switch/ledger/stage.ts';
import type { FollowedLeader } from '../../functions/config-switch/patroni/follow-leader.ts';
import type { Observed } from '../../functions/config-switch/patroni/observe-clusters.ts';
import { beat, type HeartbeatOptions } from '../../functions/config-switch/reconcile/heartbeat.ts';
import { recordAndReconcile } from '../../functions/config-switch/reconcile/reconcile.ts';
import { type ConfigTarget, parseTarget } from '../../functions/config-switch/target.ts';
import { eventVersionOf } from '../../functions/config-switch/version.ts';
import { changed, holds } from '../stand-ins/memory-table.ts';
import { connect, type Request, type Response } from './network.ts';

const SERVER = 'main';
/** The writer of inspections. */
const INSPECTION = 'inspection';
/** The nodes whose callbacks are heard at the same moment. */
const NODES = ['node1', 'node2', 'node3'];
/** The writers of what an item of inspections has: they change no other one of a server. */
const READERS: readonly string[] = [INSPECTION, ...NODES];
/** What an inspection sees does not matter to the protocol. */
const NOTHING_SEEN = {
  api: {
    diagnose: async () => ({ version: undefined, servers: new Map(), models: new Map(), showsModels: true }),
    readServer: async () => {},
  },
  clusters: { clusters: [], tls: {} },
  remaining: () => 58_500,
};
const MINUTE = 60_000;
const OPERATION_TIMEOUT = 60_000;
/** How long something in doubt may take effect (ms): 24 h in a deployment. */
const UNSETTLED = 12 * MINUTE;
/** How late something in doubt takes effect at most (ms). */
const LATEST = 9 * MINUTE;
/** How long Barman is on something older than DONE at most, beside the age of the doubt (ms). */
const CORRECTION = 3 * MINUTE;
/** The largest difference between an instance's clock and AWS's (ms). */
const SKEW = 500;
/** How long a heartbeat takes, with what it applies (ms). */
const BEAT = 15_000;
/** How late a virtual timer may be: each one is rounded to a millisecond (ms). */
const TIMER = 5;
const NEVER = new Promise<never>(() => {});
/** What may happen to a POST. To its sender a lost or late one looks the same as a lost response. */
const POST_FAULTS = [
  'lost',
  'response lost',
  'response late',
  'late',
  'refused',
  'unavailable',
  'stall',
] as const;
const GET_FAULTS = ['response lost', 'slow', 'not found', 'unavailable'] as const;
const OPERATION_FAULTS = [
  'stuck',
  'stuck, applied',
  'failed',
  'failed, applied',
  'slow',
  'very slow',
] as const;
/** How an operation ends. */
type Fate = 'done' | (typeof OPERATION_FAULTS)[number];

/** One delivery of an event. */
export interface Delivery {
  /** Its number; greater is newer. */
  readonly event: number;
  /** Whether it is sent again with a later time, if it was already recorded. */
  readonly repeats: boolean;
  /**
   * It asks for the leader's model. `alone`: no role change has sent it, but PostgreSQL was restarted, say; it is
   * dated by its arrival.
   */
  readonly follows?: 'role change' | 'alone' | undefined;
  /** When it arrives (ms). */
  readonly at: number;
  /** Time to the deadline (ms). */
  readonly time: number;
  /** The step at which the instance crashes, if it does. */
  readonly crashAt: number | undefined;
  /** How much later that step is done nevertheless (ms); undefined: random. */
  readonly doneLate?: number;
  /** How long its first connections to pg-backup-api take, in order (ms); the others are random. */
  readonly connects?: readonly (number | 'refused')[];
  /** After which time it sends each write again (ms); undefined: random. */
  readonly resends?: number;
  /** After which time the write arrives that records its operation, although its sender has stopped waiting (ms). */
  readonly startedLate?: number;
  /** What happens to its first POSTs, in order. */
  readonly posts?: readonly PostFate[];
}

/** How late a POST is carried out whose sender sees a broken connection (ms). */
type PostFate = 'served' | (typeof POST_FAULTS)[number] | { readonly late: number };

/** What an operator does. */
export interface OperatorAction {
  /** When (ms). */
  readonly at: number;
  readonly command: 'retry' | 'forget' | 'forget --force' | 'check' | 'reload';
}

export interface Scenario {
  readonly seed: number;
  readonly deliveries: readonly Delivery[];
  /** Role changes of which no event arrives; greater is newer. */
  readonly lost: readonly number[];
  /** Time between two role changes (ms). */
  readonly spacing: number;
  /** The event that drops the active model, instead of applying one. */
  readonly resets?: number;
  /** How old Patroni's answers are at most (ms); undefined: Patroni is not asked. */
  readonly observation: number | undefined;
  /**
   * How old Patroni's answers to events are at most (ms); undefined: no event follows the leader. Then another
   * role change may win than the newest, for a time, and only this is checked: Barman is on the leader four
   * heartbeats after the last role change, or after a late event that names another model; and an event that names the
   * newest one's model is never refused.
   */
  readonly answers?: number;
  /** WAL arrives in another way than by streaming, so that this is not checked. */
  readonly withoutStreaming?: boolean;
  /**
   * When the operator pauses the server, or all (ms), and after which time the pause ends, by itself or by
   * `resume`.
   */
  readonly pauses: readonly {
    readonly at: number;
    readonly for: number;
    readonly resumed: boolean;
    readonly all?: boolean;
  }[];
  readonly operator?: readonly OperatorAction[];
  /** When someone applies the model of a role change by hand, if Barman is idle (ms). */
  readonly byHand?: { readonly at: number; readonly event: number } | undefined;
  /** When additional heartbeats begin (ms). */
  readonly heartbeats: readonly number[];
  /** The probability that a step fails, 0 to 1, until `faultsUntil` (ms). */
  readonly faults: number;
  /** How long an operation takes at most that does not fail (ms): longer than an invocation, or than P. */
  readonly slowest: number;
  /** How the first operations end, after which time (ms), and when they write (default: at the end). */
  readonly operations: readonly {
    readonly fate: Fate;
    readonly duration: number;
    readonly writesAt?: number;
  }[];
  /** Until when the response to each POST is lost (ms). */
  readonly responsesLostUntil?: number;
  /** How many POSTs there may be for an event; default: 40. */
  readonly mostPosts?: number;
  /** From when until when pg-backup-api is unavailable (ms). */
  readonly outage?: { readonly from: number; readonly until: number };
  readonly faultsUntil: number;
  /** Barman is set to the newest event when `faultsUntil` has passed, although something has failed. */
  readonly inTime?: boolean;
  /**
   * The workers of pg-backup-api. One serves the requests in their order; of several each serves its own, so
   * that a POST whose sender has gone may be carried out beside the list, and much later.
   */
  readonly workers: 1 | 2;
  /** One worker, and its answers to GETs are right: nothing goes back behind an event that was DONE. */
  readonly strict: boolean;
  /** The list of operations cannot be read, for ever. */
  readonly unreadable?: boolean;
  /** By how much the Barman host's clock is set (ms), in the middle of the faults; it makes the operation ids. */
  readonly clockSet: number;
}

interface Operation {
  readonly id: string;
  readonly event: number;
  /** When its POST was sent (ms). */
  readonly sentAt: number;
  /** It may still write. */
  mayWrite: boolean;
  /** STUCK: pg-backup-api reports IN_PROGRESS for ever. */
  state: 'IN_PROGRESS' | 'STUCK' | 'DONE' | 'FAILED';
}

/** A POST that was sent, and may still be carried out. */
interface Underway {
  readonly event: number;
  readonly sentAt: number;
}

/** The clock of an instance: how far it is ahead of AWS's (ms). */
const clock = new AsyncLocalStorage<number>();

/** Has each instance see a clock of its own. Call after the fake timers were installed. */
export function useClocks(): void {
  const Fake = globalThis.Date;
  const now = () => Fake.now() + (clock.getStore() ?? 0);
  globalThis.Date = class extends Fake {
    constructor(value?: string | number) {
      super(value ?? now());
    }
    static override now(): number {
      return now();
    }
  } as DateConstructor;
}

export class World {
  readonly #scenario: Scenario;
  /** The next pseudo-random number, 0 to 1; the same sequence for the same seed. */
  readonly random: () => number;
  #item: Item | undefined;
  /** The item of the stage. */
  stage: Stored = { barman_server: STAGE_KEY };
  /** What inspections found, and who was heard. */
  inspected: Stored | undefined;
  readonly #events = new Map<string, StoredEvent>();
  readonly #operations = new Map<string, Operation>();
  readonly #underway = new Set<Underway>();
  /** Ids of all operations that the item has ever had as the running one. */
  readonly #known = new Set<string>();
  /** The name of the instance that wrote the current lease. */
  #leasedBy = '';
  /** The nodes that were heard. */
  readonly #heard = new Set<string>();
  /** The event that Barman is set to; 0 at the start. */
  #active = 0;
  /** Someone has set Barman by hand, and no operation has taken effect since. */
  #byHand = false;
  /** The newest event with the result DONE. */
  #done = 0;
  /** Since when Barman is on something older than that, after it was not; and when the doubt began (ms). */
  #behind: { readonly since: number; readonly doubt: number } | undefined;
  /** When something newer than before was applied (ms). */
  #newerAt = 0;
  /** When an event that names an older model was recorded, beside ones that follow the leader (ms). */
  lateNameAt = 0;
  /** When the item was marked as unsettled, by AWS's clock (ms); 0: it is settled. */
  #markedAt = 0;
  /** The newest event that was recorded, or reported as recorded. */
  #recorded = 0;
  /** Since when the server is paused (ms); Infinity: it is not. */
  #pausedAt = Number.POSITIVE_INFINITY;
  /** Until when the only worker is busy (ms). */
  #busyUntil = 0;
  /** `performance.now()` at the beginning. */
  readonly #start = performance.now();
  readonly violations: string[] = [];
  /** What happened, for the reader of a failure. */
  readonly trace: string[] = [];
  /** Invocations and heartbeats in progress. */
  running = 0;

  constructor(scenario: Scenario) {
    this.#scenario = scenario;
    this.random = mulberry32(scenario.seed);
  }

  get item(): Item | undefined {
    return this.#item;
  }

  /** Whether the scenario has no fault at all. */
  get nothingFails(): boolean {
    const { faults, slowest, operations, outage, deliveries, operator, unreadable } = this.#scenario;
    const fails = deliveries.some(({ crashAt, posts }) => crashAt !== undefined || posts !== undefined);
    const others = operations.length > 0 || outage !== undefined || operator !== undefined || unreadable;
    return faults === 0 && !fails && !others && slowest < OPERATION_TIMEOUT;
  }

  /** Whether an operation, or a POST, may still take effect. */
  get busy(): boolean {
    return this.#loose().length > 0;
  }

  /** What may still set Barman to something. */
  #loose(): Underway[] {
    return [...this.#underway, ...[...this.#operations.values()].filter(({ mayWrite }) => mayWrite)];
  }

  get active(): number {
    return this.#active;
  }

  /** Runs one invocation of the function, from the event to its result. */
  async deliver(delivery: Delivery, name: string): Promise<void> {
    const instance = new Instance(this, name, delivery);
    const start = performance.now();
    const { signal, clear } = deadline(delivery.time);
    const facts = newFacts();
    // A sender that repeats an event without `age_ms` dates it differently.
    const event_id = idOf(delivery);
    const isRecorded = this.#events.has(event_id);
    const happened = delivery.follows === 'alone' ? Date.now() : this.#happenedAt(delivery.event);
    const time = delivery.repeats && isRecorded ? 100_000 + Date.now() : happened;
    const target = delivery.follows ? ({ follow_leader: true } as const) : this.targetOf(delivery.event);
    const version = eventVersionOf({ event_id, time }, target);
    const desired = { barman_server: SERVER, cluster: 'c', target, version };
    this.running += 1;
    let result: Result | Error;
    try {
      const run = instance.run(() =>
        recordAndReconcile(
          {
            ledger: instance.ledger,
            events: instance,
            leaderOf: () => this.#answer(instance, signal),
            api: instance.pgBackupApi(signal),
            signal,
            remaining: () => start + delivery.time - performance.now(),
            operationTimeout: OPERATION_TIMEOUT,
            facts,
          },
          desired,
        ),
      );
      result = await Promise.race([run, instance.crash]);
    } catch (error) {
      result = error as Error;
    } finally {
      clear();
      this.running -= 1;
    }
    if (instance.crashed) return;
    if (performance.now() > start + delivery.time + TIMER)
      this.violate(`LATE: ${name} returned after its deadline`);
    this.#check(name, delivery, result, facts);
  }

  /** Checks the result of an invocation. */
  #check(name: string, { event, follows }: Delivery, result: Result | Error, facts: Facts): void {
    if (facts.recorded && !follows) this.#recorded = Math.max(this.#recorded, event);
    this.log(
      `${name} returns ${result instanceof Error ? `${result.name}: ${result.message}` : result.message}`,
    );
    if (result instanceof Error) {
      if (!(result instanceof HttpError || result instanceof ConfigSwitchFailed)) {
        this.violate(`UNFORESEEN: ${name}: ${result.stack}`);
      }
      if (facts.recorded && result.message.includes('send the event again'))
        this.violate(`BOTH: ${name} is recorded, and is to be sent again`);
      if (result instanceof Busy && this.#leasedBy === name && result.message.startsWith('another'))
        this.violate(`SELF-BLOCK: ${name} waits for itself`);
      return;
    }
    if (follows) return;
    if (result.exit_code === ExitCode.CONFIG_SWITCH_DONE) {
      if (this.#active < event && !this.#isUnsettled && !this.#byHand)
        this.violate(`FALSE-DONE: ${name} for event ${event}, Barman is set to ${this.#active}`);
      this.#done = Math.max(this.#done, event);
    } else if (this.#scenario.answers !== undefined) {
      if (event === this.newest && this.#desired !== event)
        this.violate(`REFUSED: ${name} for the newest role change, and ${this.#desired} is desired`);
    } else if (this.#applied < event || this.#item?.applied?.version.endsWith(`#event-${event}`)) {
      // An observation of the same leader supersedes its event.
      if (!this.#scenario.operator) this.violate(`SKIP-UNDONE: ${name} for event ${event}`);
    }
  }

  /** Runs a heartbeat, which may crash too. */
  async beat(name: string, time = 27_500): Promise<void> {
    const crashAt = this.faulty() ? this.between(1, 24) : undefined;
    const instance = new Instance(this, name, { crashAt });
    const start = performance.now();
    const { signal, clear } = deadline(time);
    const options: HeartbeatOptions = {
      ledger: instance.ledger,
      connect: () => instance.pgBackupApi(signal),
      facts: newFacts(),
      expiries: async () => new Map(),
      outdated: async () => undefined,
      signal,
      remaining: () => start + time - performance.now(),
      operationTimeout: OPERATION_TIMEOUT,
      interval: MINUTE,
      version: 'model',
      clusters: async () => ({ clusters: [], tls: {} }),
      observe: () => this.#observe(instance, signal),
      onReconciled: ({ result }) => this.log(`${name}: ${result.message}`),
    };
    this.running += 1;
    try {
      await Promise.race([instance.run(() => beat(options)), instance.crash]);
    } catch (error) {
      if (!instance.crashed && !(error instanceof HttpError)) {
        this.violate(`UNFORESEEN: ${name}: ${(error as Error).stack}`);
      }
    } finally {
      clear();
      this.running -= 1;
    }
    // Its report has a second more.
    if (!instance.crashed && performance.now() > start + time + 1_000 + TIMER) this.violate(`LATE: ${name}`);
  }

  get #applied(): number {
    return this.eventOf(this.#item?.applied);
  }

  get #desired(): number {
    return this.eventOf(this.#item?.desired);
  }

  get #isUnsettled(): boolean {
    return this.#item?.unsettled_since !== undefined;
  }

  #happenedAt(event: number): number {
    return event * this.#scenario.spacing;
  }

  /** The target of an event: a model with its number, or none. */
  targetOf(event: number): ConfigTarget {
    return event === this.#scenario.resets ? { reset: true } : { model: String(event) };
  }

  /** The number of the newest role change that has happened by some time (ms); 0 for none. */
  leaderAt(time: number): number {
    const { deliveries, lost } = this.#scenario;
    const events = [...deliveries.map(({ event }) => event), ...lost];
    return Math.max(0, ...events.filter((event) => this.#happenedAt(event) <= time));
  }

  /** The newest event that Barman must be set to at the end. */
  get newest(): number {
    return this.#scenario.observation === undefined
      ? this.#recorded
      : this.leaderAt(Number.POSITIVE_INFINITY);
  }

  /** What Patroni says to an event that follows the leader: who led a moment ago. */
  async #answer(instance: Instance, signal: AbortSignal): Promise<FollowedLeader> {
    const leader = this.leaderAt(Date.now() - this.between(0, (this.#scenario.answers ?? 0) + 1));
    if (leader === 0) throw new LeaderUnknown('no node has ever been promoted');
    await instance.step(signal, () => {}, this.between(500, 3_000));
    return { leader: String(leader), target: this.targetOf(leader) };
  }

  /** What Patroni says: the leader of a moment ago, or nothing. The member has the number of the role change. */
  async #observe(instance: Instance, signal: AbortSignal): Promise<Observed[]> {
    const { observation: oldest } = this.#scenario;
    if (oldest === undefined) return [];
    const at = Date.now();
    await instance.step(signal, () => {}, this.between(1, 6_000)).catch(() => {});
    const leader = this.leaderAt(at - this.between(0, oldest + 1));
    const members = new Map(
      [1, 2, 3, 4].map((event) => {
        const target = this.targetOf(event);
        return [String(event), 'model' in target ? target.model : null];
      }),
    );
    const unknown = leader === 0 || this.faulty();
    const streaming = this.#scenario.withoutStreaming ? undefined : this.#active === leader && !this.faulty();
    return [
      {
        cluster: {
          name: 'c',
          scope: 'c',
          servers: new Map([[SERVER, members]]),
          streaming_archiver_name: 'barman_receive_wal',
        },
        at,
        observation: unknown ? { unknown: 'a fault' } : { leader: String(leader), streaming },
      },
    ];
  }

  /** The number of the role change that a state of the item is about; 0 without one. */
  eventOf(state: Item['desired'] | Item['applied']): number {
    if (state === undefined) return 0;
    const target = parseTarget(state.target);
    return 'model' in target ? Number(target.model) : (this.#scenario.resets ?? 0);
  }

  /**
   * The operator pauses the server, and resumes it unless the pause ends by itself. Either may fail, as a
   * command may.
   */
  async pause({ for: time, resumed, all = false }: Scenario['pauses'][number]): Promise<void> {
    const instance = new Instance(this, 'operator');
    const operator = new Operator(instance.ledger, instance);
    const { signal } = new AbortController();
    const until = resumed ? undefined : Date.now() + time;
    const pause = async () => {
      if (all) await operator.pauseAll({ until }, signal);
      else await operator.pause(SERVER, { until }, signal);
      return true;
    };
    const paused = await pause().catch(() => false);
    // An invocation that has begun before does not know that all are paused.
    if (paused) this.#pausedAt = Date.now() + (all ? 30_000 : 0);
    this.log(paused ? 'the operator pauses' : 'the operator does not know whether it is paused');
    await after(Math.max(0, (until ?? Date.now() + time) - SKEW - Date.now()));
    this.#pausedAt = Number.POSITIVE_INFINITY;
    // An operator tries until it works.
    for (let done = !resumed; !done; await after(1_000)) {
      const resume = all ? operator.resumeAll(signal) : operator.resume(SERVER, signal);
      done = await resume.then(
        () => true,
        () => false,
      );
    }
    this.log('the pause ends');
  }

  /** The operator runs a command, once. */
  async operate({ command }: OperatorAction): Promise<void> {
    if (command === 'reload') {
      await Promise.all(NODES.map((node, index) => this.#hear(node, index)));
      return;
    }
    const instance = new Instance(this, command === 'check' ? INSPECTION : 'operator');
    const operator = new Operator(instance.ledger, instance);
    const { signal } = new AbortController();
    const run = async () => {
      if (command === 'check')
        return instance.run(() => inspect({ ...NOTHING_SEEN, ledger: instance.ledger, signal }));
      if (command === 'retry') return operator.retry(SERVER, signal);
      if (command === 'forget --force') return operator.forgetByForce(SERVER, signal);
      const item = await instance.ledger.get(SERVER, signal);
      return item && operator.forget(item, signal);
    };
    const result = await run().catch(() => false);
    this.log(`the operator: ${command}: ${result ? 'done' : 'refused, or failed'}`);
  }

  /** The callback of a node is heard. Once that is answered, no other one may make the ledger forget it. */
  async #hear(node: string, index: number): Promise<void> {
    const instance = new Instance(this, node);
    const { signal } = new AbortController();
    const at = new Date(Date.now() + index).toISOString();
    const hear = instance.run(() => instance.ledger.hear(SERVER, { node, at }, signal));
    const isHeard = await hear.then(
      () => true,
      () => false,
    );
    this.log(`${node} ${isHeard ? 'is heard' : 'must send it again'}`);
    if (isHeard) this.#heard.add(node);
    this.checkHeard();
  }

  /** Checks that the nodes that were heard are remembered. */
  checkHeard(): void {
    const nodes = readHeard(this.inspected).nodes.map((one) => one.node);
    for (const node of this.#heard)
      if (!nodes.includes(node)) this.violate(`UNHEARD: ${node} was heard, and is forgotten`);
  }

  /** Someone applies a model on the Barman host, unless Barman is busy. */
  switchByHand(event: number): void {
    if (this.running > 0 || this.busy || !this.#item || isPending(this.#item)) return;
    this.log(`someone sets Barman to ${event}`);
    this.#active = event;
    this.#byHand = true;
  }

  // The tables

  putIfAbsent(event: StoredEvent): StoredEvent {
    const stored = this.#events.get(event.event_id) ?? event;
    this.#events.set(event.event_id, stored);
    return stored;
  }

  read(): Stored | undefined {
    return this.#item;
  }

  delete(condition: Condition): boolean {
    if (!this.#item || !holds(this.#item, condition)) return false;
    this.#item = undefined;
    this.#recorded = 0;
    this.#done = 0;
    this.#behind = undefined;
    return true;
  }

  /** Of the item of the stage only the pause is a part of the protocol. */
  writeStage({ paused }: StoredChange): Stored {
    if (paused === null) this.stage = { barman_server: STAGE_KEY };
    else if (paused !== undefined) this.stage = { barman_server: STAGE_KEY, paused };
    return this.stage;
  }

  /** Deletes the item of inspections. */
  forgetInspected(): boolean {
    const { inspected } = this;
    this.inspected = undefined;
    this.#heard.clear();
    return inspected !== undefined;
  }

  /** Writes the item of inspections. */
  writeInspected(change: StoredChange, condition: Condition): Stored | undefined {
    const before = this.inspected as Item | undefined;
    if (!holds(before, condition)) return undefined;
    this.inspected = changed(before, inspectionKey(SERVER), change as Change);
    this.checkHeard();
    return this.inspected;
  }

  write(change: Change, condition: Condition, writer: string): Stored | undefined {
    if (READERS.includes(writer)) this.violate('INSPECTION: it changes what is remembered of a server');
    if (!holds(this.#item, condition)) return undefined;
    const before = this.#item;
    this.#item = readItem(changed(this.#item, SERVER, change));
    const { desired, applied, unsettled_since, running } = this.#item;
    if (change.lease) {
      this.#leasedBy = writer;
      if (!desired) this.violate(`GHOST: ${writer} acquires a lease of nothing`);
    }
    if (running) this.#known.add(running.operation_id);
    if (change.applied && (before?.applied?.version ?? '') < change.applied.version)
      this.#newerAt = Date.now();
    if (unsettled_since !== before?.unsettled_since) this.#markedAt = unsettled_since ? Date.now() : 0;
    this.#recorded = Math.max(this.#recorded, this.eventOf(desired));
    const names = this.#scenario.answers !== undefined && change.desired?.version.includes('#event-');
    if (names && this.eventOf(desired) !== this.newest) this.lateNameAt = Date.now();
    if (change.applied) {
      const lies = !unsettled_since && !this.#byHand && this.eventOf(applied) > this.#active;
      if (lies) this.violate(`LEDGER-LIES: applied is ${applied?.target}, Barman is set to ${this.#active}`);
      if (before?.unsettled_since && !unsettled_since) this.log(`${writer} settles`);
    }
    if (change.unsettled_since && !change.applied) this.log(`${writer}: unsettled`);
    this.#checkSettled();
    return this.#item;
  }

  /** In sync and settled: Barman is set to it, and nothing else may take effect any more. */
  #checkSettled(): void {
    const item = this.#item;
    if (!item?.desired || item.lease || item.unsettled_since || isPending(item) || this.#byHand) return;
    const event = this.eventOf(item.desired);
    const loose = this.#loose().find((one) => one.event !== event);
    if (loose) this.violate(`SETTLED-EARLY: ${event} is settled, and ${loose.event} may still take effect`);
    if (this.#active !== event) this.violate(`SETTLED-WRONG: ${event} is settled, Barman: ${this.#active}`);
  }

  // pg-backup-api and Barman, as pg-backup-api's documentation describes them

  /** Sends a POST, if it is one: from now on it may take effect. */
  sendPost({ method, body }: Request, sender: string): Underway | undefined {
    if (method !== 'POST') return undefined;
    const { model_name } = JSON.parse(String(body));
    const event = model_name === undefined ? (this.#scenario.resets ?? 0) : Number(model_name);
    this.#checkPost(event, sender);
    const post = { event, sentAt: Date.now() };
    this.#underway.add(post);
    return post;
  }

  /** A POST never arrives. */
  lose(post: Underway | undefined): void {
    if (post) this.#underway.delete(post);
  }

  /**
   * Returns when a request that arrives now is carried out (ms from now): at once, or when the only worker
   * has done the others.
   *
   * @param cost how long it keeps a worker busy (ms)
   */
  queue(cost: number): number {
    if (this.#scenario.workers > 1) return cost;
    this.#busyUntil = Math.max(this.#busyUntil, Date.now()) + cost;
    return this.#busyUntil - Date.now();
  }

  /** Carries out a request. */
  serve({ method, path }: Request, post: Underway | undefined): Response {
    const [, first, server, , id] = path.split('/');
    const date = Date.now();
    if (first === 'status') return { status: 200, json: 'OK', date };
    if (server !== SERVER) throw new Error(`unexpected request ${method} ${path}`);
    if (post) return this.#create(post);
    if (id === undefined) {
      if (this.#scenario.unreadable) return { status: 500, json: { error: 'Internal Server Error' }, date };
      const operations = [...this.#operations.keys()].map((id) => ({ id, type: 'config_switch' }));
      return { status: 200, json: { operations }, date };
    }
    const state = this.#operations.get(id)?.state;
    if (state === undefined) return { status: 404, json: { error: 'Resource not found' }, date };
    const status = state === 'STUCK' ? 'IN_PROGRESS' : state;
    return { status: 200, json: { operation_id: id, status }, date };
  }

  /** Creates an operation, and begins it. */
  #create(post: Underway): Response {
    const date = Date.now();
    const { event, sentAt } = post;
    this.#underway.delete(post);
    const { clockSet, faultsUntil, operations } = this.#scenario;
    const hostTime = date + (date > faultsUntil / 2 ? clockSet : 0);
    const id = new Date(hostTime).toISOString().replace(/\.\d+Z$|[-:]/g, '');
    // Ids are times in seconds, so a second operation in the same second fails.
    if (this.#operations.has(id)) return { status: 500, json: { error: 'Internal Server Error' }, date };
    const given = operations[this.#operations.size] ?? this.#randomEnd();
    const { fate, duration } = given;
    const writes = !['stuck', 'failed'].includes(fate);
    const operation: Operation = { id, event, sentAt, mayWrite: writes, state: 'IN_PROGRESS' };
    this.#operations.set(id, operation);
    this.log(`${id} begins: ${event}`);
    if (writes) setTimeout(() => this.#take(operation), given.writesAt ?? duration);
    setTimeout(() => {
      operation.state = fate.startsWith('stuck') ? 'STUCK' : fate.startsWith('failed') ? 'FAILED' : 'DONE';
      this.log(`${id} ends: ${fate}`);
    }, duration);
    return { status: 202, json: { operation_id: id }, date };
  }

  /** An operation takes effect. */
  #take(operation: Operation): void {
    const { id, event } = operation;
    operation.mayWrite = false;
    this.log(`${id} writes ${event}`);
    if (this.#scenario.answers !== undefined && event !== this.#active) this.#checkLate(event);
    this.#active = event;
    this.#byHand = false;
    const now = Date.now();
    if (event < this.#done && this.#scenario.answers === undefined) {
      const { strict } = this.#scenario;
      if (strict || !this.#isUnsettled)
        this.violate(`REGRESS: ${id} writes ${event}, the result of ${this.#done} was DONE`);
      this.#behind ??= { since: now, doubt: Math.max(this.#newerAt, this.#markedAt) };
    } else if (this.#behind) {
      this.#checkBehind(now);
      this.#behind = undefined;
    }
    this.#checkSettled();
  }

  /** Checks that Barman was not on another leader's model for longer than four heartbeats. */
  #checkLate(event: number): void {
    const since = Date.now() - Math.max(this.#happenedAt(this.newest), this.lateNameAt);
    if (since > 4 * MINUTE + BEAT)
      this.violate(
        `LATE: ${event} is set ${Math.round(since / 1_000)} s after the last role change, or a late event`,
      );
  }

  /** How long Barman may be behind an event that was answered DONE, if nothing else fails. */
  #checkBehind(now: number): void {
    if (this.#behind === undefined || this.#scenario.faults > 0 || !this.#isBounded) return;
    const { since, doubt } = this.#behind;
    const allowed = since - doubt + CORRECTION;
    if (now - since > allowed)
      this.violate(`BEHIND: for ${Math.round((now - since) / 1_000)} s, at most ${allowed / 1_000}`);
  }

  /** Whether operations end soon, and succeed, so that the time of a correction is known. */
  get #isBounded(): boolean {
    const { operations, slowest, pauses } = this.#scenario;
    return (
      pauses.length === 0 &&
      slowest <= 10_000 &&
      operations.every(({ fate, duration }) => fate === 'done' && duration <= 40_000)
    );
  }

  /** How an operation ends, and after which time (ms). */
  #randomEnd(): Scenario['operations'][number] {
    const fates = this.#scenario.strict
      ? (['failed', 'failed, applied', 'slow', 'stuck'] as const)
      : OPERATION_FAULTS;
    const fate = this.faulty() ? this.pick(fates) : 'done';
    const duration = this.#duration(fate);
    // Barman writes the active model first, and then starts receive-wal again.
    return { fate, duration, writesAt: this.pick([duration, this.between(0, duration)]) };
  }

  #duration(fate: Fate): number {
    const { slowest } = this.#scenario;
    // It is passed over before it takes effect.
    if (fate === 'very slow') return this.between(60_000, 400_000);
    if (fate === 'slow' || fate === 'stuck, applied') return this.between(5_000, 40_000);
    return this.between(Math.max(slowest / 8, 300), slowest);
  }

  /** Checks a POST that is sent. */
  #checkPost(event: number, sender: string): void {
    const unmarked = this.#loose().find(({ sentAt }) => sentAt > this.#markedAt);
    if (unmarked)
      this.violate(`UNMARKED: ${sender} sends ${event}, and ${unmarked.event} may still take effect`);
    if (!this.#item?.lease || this.#leasedBy !== sender)
      this.violate(
        `NO-LEASE: ${sender} sends ${event}, and ${this.#item?.lease ? this.#leasedBy : 'no instance'} has the lease`,
      );
    const again = this.#item?.apply_again_at !== undefined;
    const isOld = event < this.#applied || (event === this.#applied && !again);
    if (isOld && this.#scenario.answers === undefined) {
      this.violate(`OLD-POST: ${sender} sends ${event}, and ${this.#applied} is applied`);
    }
    if (Date.now() > this.#pausedAt + POST_WINDOW + 2 * SKEW)
      this.violate(`PAUSED: ${sender} sends ${event}`);
    const earlier = [...this.#operations.values()].filter((operation) => operation.event === event);
    const isOnce = this.nothingFails && this.#scenario.answers === undefined;
    if (isOnce && !again && earlier.some(({ id }) => this.#known.has(id))) {
      this.violate(`REPEATED: ${sender} sends ${event} again, although nothing has failed`);
    }
    if (earlier.length >= (this.#scenario.mostPosts ?? 40))
      this.violate(`TOO-MANY: ${sender} sends ${event} once more`);
  }

  /** Whether pg-backup-api is unavailable now. */
  get outage(): boolean {
    const { from, until } = this.#scenario.outage ?? { from: 0, until: 0 };
    return from <= Date.now() && Date.now() < until;
  }

  /** What happens to a request. */
  fateOf(method: Request['method']): PostFate | (typeof GET_FAULTS)[number] {
    if (this.outage) return 'unavailable';
    if (method === 'POST' && Date.now() < (this.#scenario.responsesLostUntil ?? 0)) return 'response lost';
    if (!this.faulty()) return 'served';
    if (method === 'POST') return this.pick(POST_FAULTS);
    return this.#scenario.strict ? 'slow' : this.pick(GET_FAULTS);
  }

  /** How late a POST is carried out whose sender sees a broken connection (ms from now). */
  lateness(): number {
    return this.#scenario.workers > 1 ? this.pick([this.between(0, 20_000), this.between(0, LATEST)]) : 0;
  }

  /** The only worker, or the one that a request gets, stands still for some time (ms). */
  stall(): number {
    const backlog = Math.max(0, this.#busyUntil - Date.now());
    return Math.max(0, Math.min(this.between(1_000, 30_000), 30_000 - backlog));
  }

  // Random choices

  /** Whether the next step fails. */
  faulty(): boolean {
    return Date.now() < this.#scenario.faultsUntil && this.random() < this.#scenario.faults;
  }

  between(least: number, most: number): number {
    return least + Math.floor(this.random() * (most - least));
  }

  pick<T>(from: readonly T[]): T {
    return from[this.between(0, from.length)] as T;
  }

  log(what: string): void {
    this.trace.push(`${String(performance.now() - this.#start).padStart(7)} ${what}`);
  }

  violate(what: string): void {
    this.violations.push(what);
    this.log(`<== ${what}`);
  }
}

/** The id of an event. */
function idOf({ event, follows, at }: Delivery): string {
  if (follows === 'alone') return `alone-${at}`;
  return `${follows ? 'follows' : 'event'}-${event}`;
}

/** What happens to an instance: as for `Delivery`. */
type InstanceFaults = Partial<
  Pick<Delivery, 'crashAt' | 'doneLate' | 'connects' | 'resends' | 'posts' | 'startedLate'>
>;

/** A running instance of the function. It may crash at any step, while its write or request is on the way. */
class Instance implements Table, EventTable, ConnectionSource {
  readonly #world: World;
  readonly name: string;
  readonly ledger: Ledger;
  readonly #given: InstanceFaults;
  readonly #posts: PostFate[];
  readonly #connects: (number | 'refused')[];
  /** How far its clock is ahead of AWS's (ms). */
  readonly #skew: number;
  #steps = 0;
  crashed = false;
  readonly #crash = Promise.withResolvers<never>();
  /** Never resolves; rejects when the instance crashes. */
  readonly crash = this.#crash.promise;

  constructor(world: World, name: string, given: InstanceFaults = {}) {
    this.#world = world;
    this.name = name;
    this.#given = given;
    this.#posts = [...(given.posts ?? [])];
    this.#connects = [...(given.connects ?? [])];
    this.#skew = world.between(-SKEW, SKEW + 1);
    this.ledger = new Ledger(this, { unsettled: UNSETTLED, applyAgain: 2 * MINUTE });
    this.crash.catch(() => {});
  }

  /** Runs the function with the instance's clock. */
  run<T>(action: () => Promise<T>): Promise<T> {
    return clock.run(this.#skew, action);
  }

  /**
   * Runs an action that takes some time. If the instance crashes meanwhile, the action may still happen.
   *
   * @param latest how long after the crash (ms)
   * @param lost called if the action will never happen
   */
  async step<T>(
    signal: AbortSignal,
    action: () => T,
    latency = this.#world.between(1, 60),
    latest = ATTEMPT_TIMEOUT - 100,
    lost = () => {},
  ): Promise<T> {
    if (this.crashed) {
      lost();
      return NEVER;
    }
    this.#steps += 1;
    const { crashAt, doneLate } = this.#given;
    if (this.#steps === crashAt) {
      const fate = doneLate ? 'done late' : this.#world.pick(['not done', 'done', 'done late']);
      this.#world.log(`${this.name} crashes, its step is ${fate}`);
      this.crashed = true;
      const late = () => Math.min(doneLate ?? this.#world.between(1_000, latest), latest);
      const world = () => clock.exit(action);
      if (fate === 'not done') lost();
      else setTimeout(world, fate === 'done late' ? late() : 0);
      this.#crash.reject(new Error('crashed'));
      return NEVER;
    }
    try {
      await within(signal, after(latency));
    } catch (error) {
      lost();
      throw error;
    }
    if (this.crashed) {
      lost();
      return NEVER;
    }
    const result = clock.exit(action);
    await within(signal, after(this.#world.between(1, 60)));
    return this.crashed ? NEVER : result;
  }

  async get(key: string, signal: AbortSignal): Promise<Stored | undefined> {
    const world = this.#world;
    return this.#access(signal, () => {
      if (inspectedServer(key) !== undefined) return world.inspected;
      return key === STAGE_KEY ? world.stage : world.read();
    });
  }

  async scan(signal: AbortSignal): Promise<Stored[]> {
    const item = await this.get(SERVER, signal);
    const { inspected, stage } = this.#world;
    return [...(item ? [item] : []), ...(inspected ? [inspected] : []), stage];
  }

  async putIfAbsent(event: StoredEvent, signal: AbortSignal): Promise<StoredEvent> {
    const put = () => this.#world.putIfAbsent(event);
    return this.#written(signal, put);
  }

  async delete(key: string, condition: Condition, signal: AbortSignal): Promise<boolean> {
    if (inspectedServer(key) !== undefined) return this.#written(signal, () => this.#world.forgetInspected());
    return this.#written(signal, () => this.#world.delete(condition));
  }

  async update(
    key: string,
    change: StoredChange,
    condition: Condition,
    signal: AbortSignal,
  ): Promise<Stored | undefined> {
    if (key === STAGE_KEY) return this.#written(signal, () => this.#world.writeStage(change));
    if (inspectedServer(key) !== undefined)
      return this.#written(signal, () => this.#world.writeInspected(change, condition));
    const write = () => this.#world.write(change as Change, condition, this.name);
    const { startedLate } = this.#given;
    if (change.running && startedLate !== undefined) {
      setTimeout(write, startedLate);
      return within(signal, NEVER);
    }
    return this.#written(signal, write);
  }

  async #written<T>(signal: AbortSignal, write: () => T): Promise<T> {
    // After a late or lost response the SDK sends the write again; others may write in between.
    let { resends } = this.#given;
    if (this.#world.faulty() && this.#world.pick([true, false])) resends ??= this.#world.between(1, 2_500);
    if (resends !== undefined) {
      await this.step(signal, write);
      await within(signal, after(resends));
    }
    return this.#access(signal, write);
  }

  /** The real client, over the model's network. */
  pgBackupApi(signal: AbortSignal): PgBackupApi {
    return new PgBackupApi(this, { signal, maxRetries: 5, facts: newFacts() });
  }

  async connection(): Promise<Connection> {
    const url = connect(
      (request) => this.#send(request),
      (signal) => this.#open(signal),
    );
    return { url };
  }

  rereadConnection(): Promise<Connection> {
    return this.connection();
  }

  async #open(signal: AbortSignal): Promise<void> {
    const world = this.#world;
    let connects = this.#connects.shift();
    if (world.faulty()) connects ??= world.pick(['refused', world.between(500, 3_000)]);
    if (connects === 'refused') throw networkError('ECONNREFUSED');
    if (connects !== undefined) await this.step(signal, () => {}, connects);
  }

  async #send(request: Request): Promise<Response> {
    const { signal, method, path } = request;
    const world = this.#world;
    const fate = (method === 'POST' ? this.#posts.shift() : undefined) ?? world.fateOf(method);
    if (fate !== 'served') world.log(`${this.name} ${method} ${path}: ${JSON.stringify(fate)}`);
    const answer = (status: number, error: string) =>
      this.step(signal, () => ({ status, json: { error }, date: Date.now() }));
    if (fate === 'refused') return answer(400, fate);
    if (fate === 'unavailable') return answer(502, fate);
    if (fate === 'not found') return answer(404, fate);
    const post = clock.exit(() => world.sendPost(request, this.name));
    /** Carries the request out when a worker is free, whether its sender waits for that or not. */
    const carryOut = (cost = world.between(1, 50)) =>
      new Promise<Response>((resolve) => {
        setTimeout(() => resolve(world.serve(request, post)), world.queue(cost));
      });
    const deliver = <T>(action: () => T) =>
      this.step(signal, action, undefined, undefined, () => world.lose(post));
    const arrive = async (cost?: number) => {
      const { response } = await deliver(() => ({ response: carryOut(cost) }));
      return within(signal, response);
    };
    if (typeof fate === 'object' || fate === 'late') {
      const late = typeof fate === 'object' ? fate.late : world.lateness();
      await deliver(() => {
        setTimeout(carryOut, late);
      });
      throw networkError('ECONNRESET');
    }
    switch (fate) {
      case 'slow':
        return arrive(world.between(500, 11_000));
      case 'stall':
        return arrive(world.stall());
      case 'response late': {
        const response = await arrive();
        await within(signal, after(world.between(1_000, 11_000)));
        return response;
      }
      case 'response lost':
        await deliver(() => {
          void carryOut();
        });
        throw networkError('ECONNRESET');
      case 'lost':
        world.lose(post);
        await this.step(signal, () => {});
        throw networkError('ECONNRESET');
      default:
        return arrive();
    }
  }

  /** Reads or writes the table. */
  async #access<T>(signal: AbortSignal, action: () => T): Promise<T> {
    if (this.#world.faulty() && this.#world.pick([true, false, false])) {
      throw new HttpError('the ledger is unavailable');
    }
    try {
      return await this.step(
        signal,
        action,
        this.#world.faulty() ? this.#world.between(500, 3_000) : undefined,
        // A write may arrive much later than a POST: its conditions protect from that.
        150_000,
      );
    } catch (error) {
      throw signal.aborted ? new DeadlineExceeded('no response of the ledger') : error;
    }
  }
}

/** A network error as undici throws it. */
function networkError(code: string): Error {
  return Object.assign(new Error(code), { code });
}

function after(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** A small pseudo-random generator (Mulberry32). @returns a function that gives the next number, 0 to 1 */
function mulberry32(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}
