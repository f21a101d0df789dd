/**
 * What `/diagnose` says of Barman's servers and models (barman.diagnose, `exec_diagnose`; the class DateTimeEncoder
 * has the form of times). Each fact is read by itself: one of another form, as another version of Barman may
 * have it, is not seen, and ends nothing else.
 *
 * It has passwords in clear text: those of conninfos, also in messages. So of a conninfo only its endpoints and
 * the names of its options are kept, and of messages only their number.
 */

import * as v from 'valibot';
import { messageOf } from '../errors.ts';
import { fact, mapOf } from '../schema.ts';
import { type Conninfo, parseConninfo } from './conninfo.ts';

const HOUR = 3_600_000;

/** Where an option of a server or model connects to, or why that is not to be seen. */
export type Connection = Conninfo | { readonly problem: string };

/** The options with a conninfo. `primary_conninfo` is set where the others are those of a standby. */
export const CONNINFOS = ['conninfo', 'streaming_conninfo', 'primary_conninfo'] as const;
export type ConninfoOption = (typeof CONNINFOS)[number];

/** A segment of WAL (PostgreSQL's documentation, "WAL Internals"). */
export interface Segment {
  readonly name: string;
  readonly timeline: number;
  /** Its number, if segments have 16 MB; see `segmentNumber`. */
  readonly log: number;
  readonly offset: number;
  /** When it was written last (ms since the epoch). */
  readonly time: number;
}

/** A base backup. */
export interface Backup {
  readonly id: string;
  readonly status: string;
  readonly timeline: number | undefined;
  /** When it ended (ms since the epoch); undefined: it has not. */
  readonly end: number | undefined;
}

/** Returns whether a base backup can be recovered from (barman.infofile, `BackupInfo.STATUS_COPY_DONE`). */
export function isUsable({ status }: Pick<Backup, 'status'>): boolean {
  return status === 'DONE' || status === 'WAITING_FOR_WALS';
}

/** A replication slot, as PostgreSQL has it. */
export interface Slot {
  readonly active: boolean;
  /** Position (bytes); undefined: PostgreSQL keeps no WAL for it. */
  readonly restartLsn: number | undefined;
}

/** What Barman's connections to PostgreSQL have found. Undefined: not seen. */
export interface ServerStatus {
  /** By `conninfo`; null: Barman cannot connect by it. Then all that follows is not seen. */
  readonly isInRecovery: boolean | null | undefined;
  /** Whether Barman can connect by `streaming_conninfo`; null: it cannot. */
  readonly streaming: boolean | null | undefined;
  /** System identifiers, by `conninfo` and by `streaming_conninfo`. */
  readonly systemId: string | undefined;
  readonly streamingSystemId: string | undefined;
  /** Bytes. */
  readonly currentLsn: number | undefined;
  readonly segmentSize: number | undefined;
  /** The slot `slot_name`; null: there is none. */
  readonly slot: Slot | null | undefined;
}

/** A Barman server, with the active model applied. */
export interface DiagnosedServer {
  readonly active_model: string | null;
  readonly cluster: string;
  readonly active: boolean;
  /** By its configuration, or by Barman because of errors in it. */
  readonly disabled: boolean;
  /** How many errors Barman finds in its configuration (`msg_list`). */
  readonly errors: number;
  /** It copies from another Barman host (`primary_ssh_command`). */
  readonly passive: boolean;
  readonly streaming_archiver: boolean;
  /** Undefined: none, or not seen. */
  readonly slot_name: string | undefined;
  /** Whether Barman makes its slot by itself (`create_slot = auto`). */
  readonly createsSlot: boolean;
  readonly connections: Connections;
  /** `last_backup_maximum_age` (ms); undefined: not set. */
  readonly maximumBackupAge: number | undefined;
  readonly status: ServerStatus;
  /** The last archived segment of each timeline; undefined: not seen (Barman before 3.4). */
  readonly archived: ReadonlyMap<number, Segment> | undefined;
  /** Undefined: not seen. */
  readonly backups: readonly Backup[] | undefined;
}

export type Connections = ReadonlyMap<ConninfoOption, Connection>;

/** A model of Barman. What it does not set is null in `/diagnose`, and remains as the server has it. */
export interface DiagnosedModel {
  readonly cluster: string;
  /** Undefined: it does not set that. */
  readonly active: boolean | undefined;
  readonly disabled: boolean | undefined;
  readonly slot_name: string | undefined;
  /** Those that it sets; undefined: `/diagnose` does not show them. */
  readonly connections: Connections | undefined;
}

/** The part of `/diagnose` that matters to a switch. */
export interface Diagnosis {
  /** Barman's version; undefined: not seen. */
  readonly version: string | undefined;
  readonly servers: ReadonlyMap<string, DiagnosedServer>;
  readonly models: ReadonlyMap<string, DiagnosedModel>;
  /** Whether it shows models at all: Barman has had them since 3.10. */
  readonly showsModels: boolean;
}

const Facts = v.fallback(v.record(v.string(), v.unknown()), {});
const isText = (value: unknown): value is string => typeof value === 'string' && value !== '';

const Configuration = v.looseObject({
  cluster: v.nullish(v.string()),
  active: v.optional(v.unknown()),
  disabled: v.optional(v.unknown()),
});

/** What must have its form; everything else is read fact by fact. */
export const DiagnoseOutput = v.object({
  global: v.fallback(v.optional(v.object({ system_info: Facts })), undefined),
  servers: mapOf(
    v.string(),
    v.object({
      active_model: v.nullish(v.string()),
      msg_list: v.fallback(v.array(v.unknown()), []),
      config: Configuration,
      status: Facts,
      wals: Facts,
      backups: v.optional(v.unknown()),
    }),
    'an object of servers',
  ),
  models: v.optional(mapOf(v.string(), v.object({ config: Configuration }), 'an object of models')),
});

/** Returns what matters of an answer to `/diagnose`. */
export function readDiagnosis({ global, servers, models }: v.InferOutput<typeof DiagnoseOutput>): Diagnosis {
  const version = global?.system_info.barman_ver;
  return {
    version: isText(version) ? version : undefined,
    servers: new Map([...servers].map(([name, server]) => [name, readServer(name, server)])),
    models: new Map([...(models ?? [])].map(([name, { config }]) => [name, readModel(config)])),
    showsModels: models !== undefined,
  };
}

type Output = v.InferOutput<typeof DiagnoseOutput>;
type OutputServer = Output['servers'] extends Map<string, infer S> ? S : never;

function readServer(
  name: string,
  { active_model, msg_list, config, status, wals, backups }: OutputServer,
): DiagnosedServer {
  return {
    active_model: active_model ?? null,
    // The default of a server's cluster is its name (barman.config, ServerConfig.DEFAULTS).
    cluster: config.cluster ?? name,
    active: config.active !== false,
    disabled: config.disabled === true,
    errors: msg_list.length,
    passive: isText(config.primary_ssh_command),
    streaming_archiver: config.streaming_archiver === true,
    slot_name: isText(config.slot_name) ? config.slot_name : undefined,
    createsSlot: config.create_slot === 'auto',
    connections: readConnections(config),
    maximumBackupAge: readInterval(config.last_backup_maximum_age),
    status: readStatus(status),
    archived: readArchived(wals.last_archived_wal_per_timeline),
    backups: readBackups(backups),
  };
}

function readModel(config: v.InferOutput<typeof Configuration>): DiagnosedModel {
  return {
    cluster: config.cluster ?? '',
    active: typeof config.active === 'boolean' ? config.active : undefined,
    disabled: typeof config.disabled === 'boolean' ? config.disabled : undefined,
    slot_name: isText(config.slot_name) ? config.slot_name : undefined,
    connections: 'conninfo' in config ? readConnections(config) : undefined,
  };
}

function readConnections(config: Readonly<Record<string, unknown>>): Connections {
  return new Map(
    CONNINFOS.flatMap((option) => {
      const text = config[option];
      return isText(text) ? [[option, readConninfo(option, text)] as const] : [];
    }),
  );
}

/**
 * Barman splits a conninfo at spaces, and each word at "=" (barman.postgres, `parse_dsn`): it disables a server with
 * a word that has none. To `streaming_conninfo` it appends its own options.
 */
function readConninfo(option: ConninfoOption, text: string): Connection {
  const isUri = /^postgres(ql)?:/.test(text);
  const isSplit = text.split(/\s+/).every((word) => word === '' || word.includes('='));
  if (isUri && (option === 'streaming_conninfo' || !isSplit)) {
    return { problem: 'is a URI, which Barman cannot use here: write it as host=… port=…' };
  }
  if (!isSplit) {
    return { problem: 'has a word without "=": Barman allows no space round "=", nor in a value' };
  }
  try {
    return parseConninfo(text);
  } catch (error) {
    return { problem: messageOf(error) };
  }
}

/** A `pg_lsn`, such as `16/B374D848`. */
const LSN = /^([0-9A-F]{1,8})\/([0-9A-F]{1,8})$/i;

const Status = v.object({
  is_in_recovery: fact(v.nullable(v.boolean())),
  streaming: fact(v.nullable(v.boolean())),
  postgres_systemid: fact(v.nullable(v.string())),
  streaming_systemid: fact(v.nullable(v.string())),
  current_lsn: fact(v.nullable(v.string())),
  xlog_segment_size: fact(v.nullable(v.pipe(v.number(), v.minValue(2 ** 20), v.maxValue(2 ** 30)))),
  // A named tuple: name, active, restart_lsn.
  replication_slot: fact(
    v.nullable(v.tuple([v.string(), v.boolean(), v.nullable(v.pipe(v.string(), v.regex(LSN)))])),
  ),
});

function readStatus(status: Readonly<Record<string, unknown>>): ServerStatus {
  const facts = v.parse(Status, status);
  const { replication_slot: slot } = facts;
  return {
    isInRecovery: facts.is_in_recovery,
    streaming: facts.streaming,
    systemId: facts.postgres_systemid ?? undefined,
    streamingSystemId: facts.streaming_systemid ?? undefined,
    currentLsn: bytesOf(facts.current_lsn),
    segmentSize: facts.xlog_segment_size ?? undefined,
    slot: slot && { active: slot[1], restartLsn: bytesOf(slot[2]) },
  };
}

/** Returns the position that a `pg_lsn` means (bytes). */
function bytesOf(lsn: string | null | undefined): number | undefined {
  const [, high, low] = LSN.exec(lsn ?? '') ?? [];
  if (high === undefined || low === undefined) return undefined;
  return Number.parseInt(high, 16) * 2 ** 32 + Number.parseInt(low, 16);
}

/** Seconds since the epoch. */
const Seconds = v.pipe(
  v.number(),
  v.check((time) => !Number.isNaN(new Date(time * 1_000).getTime())),
);
const Archived = v.record(v.string(), v.object({ name: v.string(), time: Seconds }));

function readArchived(wals: unknown): ReadonlyMap<number, Segment> | undefined {
  const result = v.safeParse(Archived, wals);
  if (!result.success) return undefined;
  const segments = Object.values(result.output).flatMap(({ name, time }) => {
    const [, timeline = '', log = '', offset = ''] =
      /^([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})$/.exec(name) ?? [];
    const numbers = [timeline, log, offset].map((part) => Number.parseInt(part, 16));
    const [t = 0, l = 0, o = 0] = numbers;
    return numbers.some(Number.isNaN) ? [] : [{ name, timeline: t, log: l, offset: o, time: time * 1_000 }];
  });
  return new Map(segments.map((segment) => [segment.timeline, segment]));
}

/** Returns the number of a segment, in the order of WAL. @param size of segments (bytes) */
export function segmentNumber({ log, offset }: Pick<Segment, 'log' | 'offset'>, size: number): number {
  return log * Math.floor(2 ** 32 / size) + offset;
}

const Backups = v.record(
  v.string(),
  v.object({
    status: v.string(),
    timeline: fact(v.nullable(v.number())),
    end_time: fact(v.nullable(v.string())),
  }),
);

function readBackups(backups: unknown): readonly Backup[] | undefined {
  const result = v.safeParse(Backups, backups);
  if (!result.success) return undefined;
  return Object.entries(result.output).map(([id, { status, timeline, end_time }]) => {
    const end = Date.parse(end_time ?? '');
    return { id, status, timeline: timeline ?? undefined, end: Number.isNaN(end) ? undefined : end };
  });
}

/** Reads an interval such as `8 days` or `1 day, 2 hours` (barman.utils, `human_readable_timedelta`; ms). */
function readInterval(text: unknown): number | undefined {
  if (!isText(text)) return undefined;
  const hours = { day: 24, hour: 1, minute: 1 / 60, second: 1 / 3_600 };
  const parts = [...text.matchAll(/(\d+) (day|hour|minute|second)s?/g)];
  if (parts.length === 0) return undefined;
  return HOUR * parts.reduce((sum, [, count, unit]) => sum + Number(count) * hours[unit as 'day'], 0);
}
