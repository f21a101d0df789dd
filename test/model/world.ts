/**
 * The environment of the ledger's protocol in virtual time: a table, a Barman host, and the faults of both.
 * The code under test is the real ledger.ts, reconcile.ts, heartbeat.ts and pg-backup-api.ts; the invariants
 * are checked here at each step.
 */

import type { Connection, ConnectionSource } from '../../functions/config-switch/barman/attempts.ts';
import { PgBackupApi } from '../../functions/config-switch/barman/pg-backup-api.ts';
import { deadline, within } from '../../functions/config-switch/deadline.ts';
import {
  Busy,
  ConfigSwitchFailed,
  DeadlineExceeded,
  HttpError,
} from '../../functions/config-switch/errors.ts';
import type { Result } from '../../functions/config-switch/exit-code.ts';
import { ExitCode } from '../../functions/config-switch/exit-code.ts';
import { type Facts, newFacts } from '../../functions/config-switch/invocation.ts';
import type { Change, Condition, Table } from '../../functions/config-switch/ledger/conditions.ts';
import type { EventTable, StoredEvent } from '../../functions/config-switch/ledger/events.ts';
import {
  type Item,
  isPending,
  NOT_STREAMING,
  passedOver,
} from '../../functions/config-switch/ledger/item.ts';
import { LEASE, Ledger, POST_DELAY } from '../../functions/config-switch/ledger/ledger.ts';
import { Operator } from '../../functions/config-switch/ledger/operator.ts';
import type { Observed } from '../../functions/config-switch/patroni/observe-clusters.ts';
import { beat, type HeartbeatOptions } from '../../functions/config-switch/reconcile/heartbeat.ts';
import {
  type ReconcileOptions,
  recordAndReconcile,
} from '../../functions/config-switch/reconcile/reconcile.ts';
import { versionOf } from '../../functions/config-switch/version.ts';
import { changed, holds } from '../stand-ins/memory-table.ts';
import { connect, type Request, type Response } from './network.ts';

const SERVER = 'main';
const MINUTE = 60_000;
/** P: longer than any operation that ends (ms). */
const OPERATION_TIMEOUT = 60_000;
const NEVER = new Promise<never>(() => {});
/** What may happen to a request. To its sender a lost or late POST looks the same as a lost response. */
const POST_FAULTS = [
  'not connected',
  'lost',
  'response lost',
  'response late',
  'late',
  'refused',
  'unavailable',
] as const;
const GET_FAULTS = ['not connected', 'response lost', 'slow', 'not found', 'unavailable'] as const;
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
  /** When it arrives (ms). */
  readonly at: number;
  /** Time to the deadline (ms). */
  readonly time: number;
  /** The step at which the instance crashes, if it does. */
  readonly crashAt: number | undefined;
  /** How much later that step is done nevertheless (ms; a POST not later than 5 s); undefined: random. */
  readonly doneLate?: number;
  /** How long its connection to pg-backup-api takes (ms); undefined: random. */
  readonly connects?: number;
  /** After which time it sends each write again (ms); undefined: random. */
  readonly resends?: number;
}

export interface Scenario {
  readonly seed: number;
  readonly deliveries: readonly Delivery[];
  /** Role changes of which no event arrives; greater is newer. */
  readonly lost: readonly number[];
  /** Time between two role changes (ms). */
  readonly spacing: number;
  /** How old Patroni's answers are at most (ms); undefined: Patroni is not asked. */
  readonly observation: number | undefined;
  /** WAL arrives in another way than by streaming, so that this is not checked. */
  readonly withoutStreaming?: boolean;
  /**
   * When the operator pauses the server (ms), and after which time the pause ends, by itself or by `resume`.
   */
  readonly pauses: readonly { readonly at: number; readonly for: number; readonly resumed: boolean }[];
  /** When someone applies the model of a role change by hand, if Barman is idle (ms). */
  readonly byHand?: { readonly at: number; readonly event: number } | undefined;
  /** When additional heartbeats begin (ms). */
  readonly heartbeats: readonly number[];
  /** The probability that a step fails, 0 to 1, until `faultsUntil` (ms). */
  readonly faults: number;
  /** How long an operation takes at most that does not fail (ms): longer than an invocation, or than P. */
  readonly slowest: number;
  /** How the first operations end, and after which time (ms); the others are random. */
  readonly operations: readonly { readonly fate: Fate; readonly duration: number }[];
  /** From when until when pg-backup-api is unavailable (ms). */
  readonly outage?: { readonly from: number; readonly until: number };
  readonly faultsUntil: number;
  /** Offset from UTC of the Barman host's clock, which makes the operation ids (h). */
  readonly zone: number;
  /** The zone changes by this (h), in the middle of the faults. */
  readonly zoneChange: number;
  /** Whether the `Date` is from a proxy whose clock is AWS's; then the zone does not change. */
  readonly proxy: boolean;
  /** How far that clock is ahead of AWS's (ms). */
  readonly clockAhead: number;
}

interface Operation {
  readonly id: string;
  readonly event: number;
  /** STUCK: pg-backup-api reports IN_PROGRESS for ever. */
  state: 'IN_PROGRESS' | 'STUCK' | 'DONE' | 'FAILED';
}

export class World {
  readonly #scenario: Scenario;
  /** The next pseudo-random number, 0 to 1; the same sequence for the same seed. */
  readonly random: () => number;
  #item: Item | undefined;
  readonly #events = new Map<string, StoredEvent>();
  readonly #operations = new Map<string, Operation>();
  /** Ids of all operations that the item has ever had as the running one. */
  readonly #known = new Set<string>();
  /** The name of the instance that wrote the current lease_token. */
  #leasedBy = '';
  /** The event that Barman is set to; 0 at the start. */
  #active = 0;
  /** Someone has set Barman by hand, and no operation has taken effect since. */
  #byHand = false;
  /** The newest event with the result DONE. */
  #done = 0;
  /** The newest event that was recorded, or reported as recorded. */
  #recorded = 0;
  /** Since when the server is paused (ms); Infinity: it is not. */
  #pausedAt = Number.POSITIVE_INFINITY;
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
    const { faults, slowest, operations, outage, deliveries } = this.#scenario;
    const crashes = deliveries.some(({ crashAt }) => crashAt !== undefined);
    const fails = faults > 0 || crashes || operations.length > 0 || outage !== undefined;
    return !fails && slowest < OPERATION_TIMEOUT;
  }

  /** Whether an operation may still take effect. */
  get busy(): boolean {
    return [...this.#operations.values()].some(({ state }) => state === 'IN_PROGRESS');
  }

  get active(): number {
    return this.#active;
  }

  get recorded(): number {
    return this.#recorded;
  }

  /** Runs one invocation of the function, from the event to its result. */
  async deliver(delivery: Delivery, name: string): Promise<void> {
    const instance = new Instance(this, name, delivery);
    const start = Date.now();
    const { signal, clear } = deadline(delivery.time);
    const facts = newFacts();
    const options: ReconcileOptions & { events: EventTable } = {
      ledger: new Ledger(instance),
      events: instance,
      api: instance.pgBackupApi(signal),
      signal,
      remaining: () => start + delivery.time - Date.now(),
      operationTimeout: OPERATION_TIMEOUT,
      facts,
    };
    const target = { model: String(delivery.event) };
    // A sender that repeats an event without `age_ms` dates it differently.
    const isRecorded = this.#events.has(`event-${delivery.event}`);
    const time = delivery.repeats && isRecorded ? 100_000 + Date.now() : this.#happenedAt(delivery.event);
    const version = versionOf(time, `event-${delivery.event}`);
    this.running += 1;
    let result: Result | Error;
    try {
      result = await Promise.race([
        recordAndReconcile(options, { barman_server: SERVER, cluster: 'c', target, version }),
        instance.crash,
      ]);
    } catch (error) {
      result = error as Error;
    } finally {
      clear();
      this.running -= 1;
    }
    if (instance.crashed) return;
    if (Date.now() > start + delivery.time + 1) this.violate(`LATE: ${name} returned after its deadline`);
    this.#check(name, delivery.event, result, facts);
  }

  /** Checks the result of an invocation. */
  #check(name: string, event: number, result: Result | Error, facts: Facts): void {
    if (facts.recorded) this.#recorded = Math.max(this.#recorded, event);
    this.log(
      `${name} returns ${result instanceof Error ? `${result.name}: ${result.message}` : result.message}`,
    );
    if (result instanceof Error) {
      if (!(result instanceof HttpError || result instanceof ConfigSwitchFailed)) {
        this.violate(`UNFORESEEN: ${name}: ${result.stack}`);
      }
      if (result instanceof Busy && this.#leasedBy === name && !result.message.includes('is paused'))
        this.violate(`SELF-BLOCK: ${name} waits for itself`);
      return;
    }
    if (result.exit_code === ExitCode.CONFIG_SWITCH_DONE) {
      // Between the late effect of an operation that was passed over and its correction, this is accepted
      // (docs/design.md).
      if (this.#active < event && !this.#item?.passed_over && !this.#byHand)
        this.violate(`FALSE-DONE: ${name} for event ${event}, Barman is set to ${this.#active}`);
      this.#done = Math.max(this.#done, event);
    } else if (this.#applied() < event || this.#item?.applied_version?.endsWith(`#event-${event}`)) {
      // An observation of the same leader supersedes its event.
      this.violate(`SKIP-UNDONE: ${name} for event ${event}`);
    }
  }

  /** Runs a heartbeat, which may crash too. */
  async beat(name: string, time = 27_500): Promise<void> {
    const crashAt = this.faulty() ? this.between(1, 24) : undefined;
    const instance = new Instance(this, name, { crashAt });
    const start = Date.now();
    const { signal, clear } = deadline(time);
    const options: HeartbeatOptions = {
      ledger: new Ledger(instance),
      api: instance.pgBackupApi(signal),
      expiries: async () => new Map(),
      signal,
      remaining: () => start + time - Date.now(),
      operationTimeout: OPERATION_TIMEOUT,
      interval: MINUTE,
      observe: () => this.#observe(instance, signal),
      onReconciled: ({ result }) => this.log(`${name}: ${result.message}`),
    };
    this.running += 1;
    try {
      await Promise.race([beat(options), instance.crash]);
    } catch (error) {
      if (!instance.crashed && !(error instanceof HttpError)) {
        this.violate(`UNFORESEEN: ${name}: ${(error as Error).stack}`);
      }
    } finally {
      clear();
      this.running -= 1;
    }
    if (!instance.crashed && Date.now() > start + time + 1) this.violate(`LATE: ${name}`);
  }

  #applied(): number {
    return this.eventOf(this.#item?.applied_version);
  }

  #happenedAt(event: number): number {
    return event * this.#scenario.spacing;
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

  /**
   * What Patroni says: the leader of a moment ago, or nothing. Model and member have the number of the role
   * change.
   */
  async #observe(instance: Instance, signal: AbortSignal): Promise<Observed[]> {
    const { observation: oldest } = this.#scenario;
    if (oldest === undefined) return [];
    const at = Date.now();
    await instance.step(signal, () => {}, this.between(1, 6_000)).catch(() => {});
    const leader = this.leaderAt(at - this.between(0, oldest + 1));
    const members = new Map([1, 2, 3, 4].map((event) => [String(event), String(event)]));
    const unknown = leader === 0 || this.faulty();
    const streaming = this.#scenario.withoutStreaming ? undefined : this.#active === leader && !this.faulty();
    return [
      {
        cluster: { name: 'c', scope: 'c', servers: new Map([[SERVER, members]]) },
        at,
        observation: unknown ? { unknown: 'a fault' } : { leader: String(leader), streaming },
      },
    ];
  }

  /** The number of the event that a version came from, or of the leader; 0 without one. */
  eventOf(version: string | undefined): number {
    return version === undefined ? 0 : Number(version.split(/#(?:event-|leader:)/)[1]);
  }

  /**
   * The operator pauses the server, and resumes it unless the pause ends by itself. Either may fail, as a
   * command may.
   */
  async pause({ for: time, resumed }: Scenario['pauses'][number]): Promise<void> {
    const instance = new Instance(this, 'operator');
    const operator = new Operator(new Ledger(instance), instance);
    const { signal } = new AbortController();
    const until = resumed ? undefined : Date.now() + time;
    const paused = await operator.pause(SERVER, until, signal).catch(() => undefined);
    if (paused) this.#pausedAt = Date.now();
    this.log(paused ? 'the operator pauses' : 'the operator does not know whether it is paused');
    await after(Math.max(0, (until ?? Date.now() + time) - Date.now()));
    this.#pausedAt = Number.POSITIVE_INFINITY;
    // An operator tries until it works.
    for (let done = !resumed; !done; await after(1_000)) {
      done = (await operator.resume(SERVER, signal).then(Boolean, () => false)) || !this.#item;
    }
    this.log('the pause ends');
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

  read(): Item | undefined {
    return this.#item;
  }

  write(change: Change, condition: Condition, writer: string): Item | undefined {
    if (!holds(this.#item, condition)) return undefined;
    if (change.lease_token) this.#leasedBy = writer;
    if (
      change.applied_version &&
      this.eventOf(this.#item?.desired_version) > this.eventOf(change.applied_version) &&
      change.attempts === null
    ) {
      this.violate(`ABANDONED: ${writer} completes although a newer desired state is recorded`);
    }
    this.#item = changed(this.#item, SERVER, change);
    if (passedOver(this.#item).filter(({ operation_id }) => operation_id === NOT_STREAMING).length > 1)
      this.violate(`GROWTH: ${writer} adds an entry that is there already`);
    if (change.running_operation) this.#known.add(change.running_operation);
    this.#recorded = Math.max(this.#recorded, this.eventOf(this.#item.desired_version));
    const { applied_version, passed_over } = this.#item;
    const lies = !passed_over && !this.#byHand && this.eventOf(applied_version) > this.#active;
    if (change.applied_version && lies) {
      this.violate(`LEDGER-LIES: applied is ${this.#item.applied}, Barman is set to ${this.#active}`);
    }
    return this.#item;
  }

  // pg-backup-api and Barman, as pg-backup-api's documentation describes them

  /** Serves a request. */
  serve({ method, path, body }: Request, sender: string): Response {
    const [, first, server, , id] = path.split('/');
    const date = this.#scenario.proxy ? Date.now() : this.#hostTime();
    if (first === 'status') return { status: 200, json: 'OK', date };
    if (server !== SERVER) throw new Error(`unexpected request ${method} ${path}`);
    if (method === 'POST') return this.#create(Number(JSON.parse(String(body)).model_name), sender);
    if (id === undefined) {
      const operations = [...this.#operations.keys()].map((id) => ({ id, type: 'config_switch' }));
      return { status: 200, json: { operations }, date };
    }
    const state = this.#operations.get(id)?.state;
    if (state === undefined) return { status: 404, json: { error: 'Resource not found' }, date };
    const status = state === 'STUCK' ? 'IN_PROGRESS' : state;
    return { status: 200, json: { operation_id: id, status }, date };
  }

  /** Creates an operation, and begins it. */
  #create(event: number, sender: string): Response {
    const date = this.#hostTime();
    const { zone, zoneChange, faultsUntil, proxy, operations } = this.#scenario;
    const offset = !proxy && Date.now() > faultsUntil / 2 ? zone + zoneChange : zone;
    const id = new Date(date + offset * 3_600_000).toISOString().replace(/\.\d+Z$|[-:]/g, '');
    // Ids are times in seconds, so a second operation in the same second fails.
    if (this.#operations.has(id)) return { status: 500, json: { error: 'Internal Server Error' }, date };
    this.#checkPost(event, sender);
    const operation: Operation = { id, event, state: 'IN_PROGRESS' };
    const { fate, duration } = operations[this.#operations.size] ?? this.#randomEnd();
    this.#operations.set(id, operation);
    this.log(`${id} begins: ${event}, by ${sender}`);
    const write = () => {
      if (event < this.#done && !this.#isPassedOver(operation))
        this.violate(`REGRESS: ${id} writes ${event}, the result of ${this.#done} was DONE`);
      this.#active = event;
      this.#byHand = false;
    };
    setTimeout(() => {
      if (fate.startsWith('stuck')) {
        if (fate === 'stuck, applied') write();
        operation.state = 'STUCK';
      } else {
        if (fate !== 'failed') write();
        operation.state = fate.startsWith('failed') ? 'FAILED' : 'DONE';
      }
      this.log(`${id} ends: ${fate}`);
    }, duration);
    return { status: 202, json: { operation_id: id }, date };
  }

  /** How an operation ends, and after which time (ms). */
  #randomEnd(): Scenario['operations'][number] {
    const fate = this.faulty() ? this.pick(OPERATION_FAULTS) : 'done';
    return { fate, duration: this.#duration(fate) };
  }

  #duration(fate: Fate): number {
    const { slowest } = this.#scenario;
    // Longer than P: it is passed over before it takes effect.
    if (fate === 'very slow') return this.between(60_000, 400_000);
    // What takes effect later than P, and then never ends, cannot be noticed (docs/design.md).
    if (fate === 'slow' || fate === 'stuck, applied') return this.between(5_000, 40_000);
    return this.between(slowest / 8, slowest);
  }

  /** Checks a POST that arrives. */
  #checkPost(event: number, sender: string): void {
    const awaited = [...this.#operations.values()]
      .filter(({ state }) => state === 'IN_PROGRESS' || state === 'STUCK')
      .find((operation) => !this.#isPassedOver(operation));
    if (awaited)
      this.violate(`OVERLAP: ${sender} begins ${event} while ${awaited.id} (${awaited.event}) is running`);
    const applied = this.eventOf(this.#item?.applied_version);
    if (event < applied || (event === applied && !this.#item?.passed_over)) {
      this.violate(`OLD-POST: ${sender} begins ${event}, and ${applied} is applied`);
    }
    // A POST that was allowed before the pause arrives before the lease expires.
    if (Date.now() > this.#pausedAt + LEASE) this.violate(`PAUSED: ${sender} begins ${event}`);
    const earlier = [...this.#operations.values()].filter((operation) => operation.event === event);
    const isReapplied = this.#item?.passed_over?.includes(NOT_STREAMING);
    if (this.nothingFails && !isReapplied && earlier.some(({ id }) => this.#known.has(id))) {
      this.violate(`REPEATED: ${sender} begins ${event} again, although nothing has failed`);
    }
    if (earlier.length > 12) this.violate(`TOO-MANY: ${sender} begins ${event} once more`);
  }

  #isPassedOver({ id }: Operation): boolean {
    return (this.#item?.passed_over ?? '').includes(id);
  }

  #hostTime(): number {
    return Date.now() + this.#scenario.clockAhead;
  }

  /** Whether pg-backup-api is unavailable now. */
  get outage(): boolean {
    const { from, until } = this.#scenario.outage ?? { from: 0, until: 0 };
    return from <= Date.now() && Date.now() < until;
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
    this.trace.push(`${String(Date.now()).padStart(7)} ${what}`);
  }

  violate(what: string): void {
    this.violations.push(what);
    this.log(`<== ${what}`);
  }
}

/** What happens to an instance: as for `Delivery`. */
type InstanceFaults = Partial<Pick<Delivery, 'crashAt' | 'doneLate' | 'connects' | 'resends'>>;

/** A running instance of the function. It may crash at any step, while its write or request is on the way. */
class Instance implements Table, EventTable, ConnectionSource {
  readonly #world: World;
  readonly name: string;
  readonly #given: InstanceFaults;
  #steps = 0;
  crashed = false;
  readonly #crash = Promise.withResolvers<never>();
  /** Never resolves; rejects when the instance crashes. */
  readonly crash = this.#crash.promise;

  constructor(world: World, name: string, given: InstanceFaults = {}) {
    this.#world = world;
    this.name = name;
    this.#given = given;
    this.crash.catch(() => {});
  }

  /**
   * Runs an action that takes some time. If the instance crashes meanwhile, the action may still happen.
   *
   * @param latest how long after the crash (ms)
   */
  async step<T>(
    signal: AbortSignal,
    action: () => T,
    latency = this.#world.between(1, 60),
    latest = POST_DELAY,
  ): Promise<T> {
    if (this.crashed) return NEVER;
    this.#steps += 1;
    const { crashAt, doneLate } = this.#given;
    if (this.#steps === crashAt) {
      const fate = doneLate ? 'done late' : this.#world.pick(['not done', 'done', 'done late']);
      this.#world.log(`${this.name} crashes, its step is ${fate}`);
      this.crashed = true;
      const late = () => Math.min(doneLate ?? this.#world.between(1_000, latest), latest);
      if (fate !== 'not done') setTimeout(action, fate === 'done late' ? late() : 0);
      this.#crash.reject(new Error('crashed'));
      return NEVER;
    }
    await within(signal, after(latency));
    if (this.crashed) return NEVER;
    const result = action();
    await within(signal, after(this.#world.between(1, 60)));
    return this.crashed ? NEVER : result;
  }

  async get(_: string, signal: AbortSignal): Promise<Item | undefined> {
    return this.#access(signal, () => this.#world.read());
  }

  async scan(signal: AbortSignal): Promise<Item[]> {
    const item = await this.get(SERVER, signal);
    return item ? [item] : [];
  }

  async putIfAbsent(event: StoredEvent, signal: AbortSignal): Promise<StoredEvent> {
    const put = () => this.#world.putIfAbsent(event);
    return this.#written(signal, put);
  }

  async delete(): Promise<boolean> {
    throw new Error('the function deletes nothing');
  }

  async update(
    _: string,
    change: Change,
    condition: Condition,
    signal: AbortSignal,
  ): Promise<Item | undefined> {
    return this.#written(signal, () => this.#world.write(change, condition, this.name));
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
    return new PgBackupApi(this, {
      signal,
      maxRetries: 5,
      postDelay: POST_DELAY,
      facts: newFacts(),
    });
  }

  async connection(signal: AbortSignal): Promise<Connection> {
    const world = this.#world;
    let { connects } = this.#given;
    if (world.faulty()) connects ??= world.pick([world.between(1_000, 8_000), world.between(8_000, 25_000)]);
    if (connects !== undefined) await this.step(signal, () => {}, connects);
    return { url: connect((request) => this.#send(request)) };
  }

  rereadConnection(signal: AbortSignal): Promise<Connection> {
    return this.connection(signal);
  }

  async #send(request: Request): Promise<Response> {
    const { signal } = request;
    const world = this.#world;
    const serve = () => world.serve(request, this.name);
    const post = request.method === 'POST';
    let fate = world.faulty() ? world.pick(post ? POST_FAULTS : GET_FAULTS) : 'served';
    if (world.outage) fate = 'unavailable';
    if (fate !== 'served') world.log(`${this.name} ${request.method} ${request.path}: ${fate}`);
    switch (fate) {
      case 'served':
        return this.step(signal, serve);
      case 'slow':
        return this.step(signal, serve, world.between(500, 11_000));
      case 'refused':
        return this.step(signal, () => ({ status: 400, json: { error: fate }, date: Date.now() }));
      case 'unavailable':
        return this.step(signal, () => ({ status: 502, json: { error: fate }, date: Date.now() }));
      case 'not found':
        return this.step(signal, () => ({ status: 404, json: { error: fate }, date: Date.now() }));
      case 'response late': {
        const response = await this.step(signal, serve);
        await within(signal, after(world.between(1_000, 11_000)));
        return response;
      }
      case 'not connected':
        await this.step(signal, () => {});
        throw networkError('ECONNREFUSED');
      default:
        await this.step(signal, () => {
          if (fate === 'response lost') serve();
          if (fate === 'late') setTimeout(serve, world.between(0, POST_DELAY - 200));
        });
        throw networkError('ECONNRESET');
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
