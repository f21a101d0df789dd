/**
 * What `/diagnose` of Barman 3.19.1 says of a healthy host, as measured: of its keys those that the function reads,
 * and some more. Tests change what they need.
 */

type Facts = Readonly<Record<string, unknown>>;

/** The PostgreSQL that the stand-ins for Barman and for Patroni both report, unless a test changes one of them. */
export const POSTGRESQL = {
  systemId: '7713359089133147388',
  timeline: 1,
  /** Bytes: 0/B000000. */
  location: 0xb000000,
  version: 150018,
};

/** How old the newest base backup, and the newest archived segment, are (ms). */
const BACKUP_AGE = 3_600_000;
const WAL_AGE = 40_000;

/** Returns where the PostgreSQL of a node, or of a model with the node's name at its end, listens. */
export function hostOf(name: string): string {
  const [, number] = /(\d+)$/.exec(name) ?? [];
  return number === undefined ? name : `10.0.1.${10 + Number(number)}`;
}

/** Returns the options of a server or model that connect to a host. */
export function connectionsTo(host: string): Record<'conninfo' | 'streaming_conninfo', string> {
  const to = `host=${host} port=5432 dbname=postgres`;
  return { conninfo: `${to} user=barman`, streaming_conninfo: `${to} user=streaming_barman` };
}

/** What is different from a healthy server. */
export interface ServerChange {
  readonly active_model?: string | null;
  readonly msg_list?: readonly string[];
  /** Options, over the healthy ones. */
  readonly config?: Facts;
  /** Facts, over the healthy ones; undefined: absent. */
  readonly status?: Facts;
  /** Instead of the healthy ones. */
  readonly backups?: Readonly<Record<string, Facts>>;
  readonly wals?: Facts;
}

/**
 * Returns what `/diagnose` says of a server: Barman streams from node1, whose timeline is 1.
 *
 * @param change what is different. The slot is that of `slot_name`, and Barman asks PostgreSQL nothing if the server is
 *   inactive or passive.
 */
export function diagnosedServer(name: string, change: ServerChange = {}) {
  const config = { ...serverOptions(name), ...change.config };
  const idle = config.active === false || Boolean(config.primary_ssh_command);
  return {
    active_model: change.active_model ?? null,
    msg_list: change.msg_list ?? [],
    config,
    status: { ...(idle ? {} : healthyStatus(config.slot_name)), ...change.status },
    backups: change.backups ?? healthyBackups(),
    wals: change.wals ?? { last_archived_wal_per_timeline: { '00000001': archivedWal() } },
  };
}

/** Returns what `/diagnose` says of a model. @param change the options that it sets; the others are null */
export function diagnosedModel(change: Facts = {}) {
  return { config: { ...MODEL_OPTIONS, cluster: 'main', model: true, ...change } };
}

/**
 * Returns an answer to `/diagnose`.
 *
 * @param servers by name, as `diagnosedServer` returns them; models as `diagnosedModel` does
 */
export function diagnosis({ servers, models = {} }: { readonly servers: Facts; readonly models?: Facts }) {
  return {
    global: {
      config: { errors_list: [] },
      system_info: { barman_ver: '3.19.1', timestamp: isoTime(Date.now()) },
    },
    servers,
    models,
  };
}

/** Options that a model may set, as far as the function reads them. */
const MODEL_OPTIONS = {
  active: null,
  conninfo: null,
  create_slot: null,
  disabled: null,
  last_backup_maximum_age: null,
  primary_conninfo: null,
  primary_ssh_command: null,
  slot_name: null,
  streaming_archiver: null,
  streaming_archiver_name: null,
  streaming_conninfo: null,
};

function serverOptions(name: string): Record<string, unknown> {
  return {
    ...MODEL_OPTIONS,
    ...connectionsTo(hostOf('node1')),
    active: true,
    cluster: name,
    create_slot: 'manual',
    disabled: false,
    name,
    slot_name: 'barman',
    streaming_archiver: true,
    streaming_archiver_name: 'barman_receive_wal',
  };
}

function healthyStatus(slot_name: unknown) {
  const lsn = '0/B000000';
  return {
    connection_error: null,
    current_lsn: lsn,
    current_xlog: '00000001000000000000000A',
    is_in_recovery: false,
    postgres_systemid: POSTGRESQL.systemId,
    replication_slot: typeof slot_name === 'string' ? [slot_name, true, '0/A000000'] : null,
    server_txt_version: '15.18',
    streaming: true,
    streaming_systemid: POSTGRESQL.systemId,
    timeline: POSTGRESQL.timeline,
    xlog_segment_size: 16_777_216,
    xlogpos: lsn,
  };
}

function healthyBackups(): Record<string, Facts> {
  const end = Date.now() - BACKUP_AGE;
  const begin = end - 1_111;
  const backup_id = new Date(begin).toISOString().slice(0, 19).replace(/[-:]/g, '');
  return {
    [backup_id]: {
      backup_id,
      begin_time: isoTime(begin),
      begin_wal: '000000010000000000000005',
      begin_xlog: '0/5000028',
      end_time: isoTime(end),
      end_wal: '000000010000000000000006',
      end_xlog: '0/6000060',
      error: null,
      mode: 'postgres',
      size: 23_183_137,
      status: 'DONE',
      systemid: POSTGRESQL.systemId,
      timeline: POSTGRESQL.timeline,
      version: POSTGRESQL.version,
      xlog_segment_size: 16_777_216,
    },
  };
}

/** The archive is two segments behind: Barman keeps the newest whole one back until the next one has begun. */
function archivedWal() {
  return {
    compression: null,
    encryption: null,
    name: '000000010000000000000009',
    size: 16_777_216,
    time: (Date.now() - WAL_AGE) / 1_000,
  };
}

/** A time as Barman writes it, with the offset of its zone. @param ms since the epoch */
export function isoTime(ms: number): string {
  return new Date(ms).toISOString().replace('Z', '000+00:00');
}
