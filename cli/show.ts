/** The ledger as a person or a script reads it. */

import * as v from 'valibot';
import { sentenceOf } from '../functions/config-switch/inspect/findings.ts';
import {
  type Item,
  isApplied,
  isPaused,
  isPending,
  isRecorded,
  mustApplyAgain,
} from '../functions/config-switch/ledger/item.ts';
import type { Servers } from '../functions/config-switch/ledger/ledger.ts';
import {
  age,
  isLate,
  type Listed,
  listingsOf,
  MISSING,
  observationOf,
  overviewOf,
  type Row,
  rowsOf,
  shortTarget,
  stateOf,
} from '../functions/config-switch/ledger/overview.ts';
import { isStagePaused, type StageItem } from '../functions/config-switch/ledger/stage.ts';
import { printable, printableLines } from '../functions/config-switch/text.ts';
import { columns } from './command-line.ts';

/**
 * Returns the last heartbeat, the pause of all servers if there is one, and the servers as JSON, with what
 * the table says, sorted by server.
 *
 * @param now ms since the epoch
 * @param only the servers to show; none: all
 */
export function asJson(servers: Servers, now: number, only: readonly string[] = []): string {
  const { stage } = servers;
  const rows = rowsOf(servers, only).map((item) => ({
    ...item,
    state: stateOf(item, stage),
    ...observationOf(item, stage, now),
    inspection: servers.inspections.get(item.barman_server),
  }));
  const paused = isStagePaused(stage) ? stage.paused : undefined;
  return printableLines(JSON.stringify({ heartbeat: stage.heartbeat, paused, servers: rows }, null, 2));
}

/**
 * Returns the last heartbeat and the servers as a table: what is desired, what was applied, and what Patroni
 * says, each with its age; below a server, what a person should know.
 *
 * @param now ms since the epoch
 * @param width of the terminal (characters)
 * @param only the servers to show; none: all
 */
export function asTable(servers: Servers, now: number, width: number, only: readonly string[] = []): string {
  const { stage } = servers;
  const head = headOf(stage, now).flatMap((line) => wrap('', line, width));
  const listed = rowsOf(servers, only);
  if (listed.length === 0) return [...head, 'No role change has been recorded yet.'].join('\n');
  const rows = listed.map((row) => {
    const { barman_server, state, desired, applied, leader, streaming, ready } = overviewOf(
      row,
      servers,
      now,
    );
    return {
      cells: [barman_server, state, desired, applied, leader, streaming, ready],
      notes: [...notesOf(row, stage, now), ...findingNotes(barman_server, servers)],
    };
  });
  const header = ['SERVER', 'STATE', 'DESIRED', 'APPLIED', 'LEADER', 'STREAMING', 'READY'];
  const [title = '', ...lines] = columns([header, ...rows.map(({ cells }) => cells)]).map(printable);
  const notes = rows.map((row) => row.notes.flatMap((note) => wrap('  - ', note, width)));
  return [...head, title, ...lines.flatMap((line, index) => [line, ...(notes[index] ?? [])])].join('\n');
}

/** How many findings are shown for one server; `check` shows all. */
const MAX_FINDINGS = 3;

function findingNotes(barman_server: string, { inspections }: Servers): string[] {
  const { findings = [] } = inspections.get(barman_server) ?? {};
  const shown = findings.slice(0, MAX_FINDINGS).map(sentenceOf);
  const more = findings.length - shown.length;
  return more > 0 ? [...shown, `${more} more; next: check`] : shown;
}

/** The part of a heartbeat's response that says what became of a retry. */
const HeartbeatResponse = v.object({
  /** Why it ended early. */
  message: v.exactOptional(v.string()),
  unreachable: v.exactOptional(v.string()),
});

/**
 * Says what a retry has tried, and what failed.
 *
 * @param before the item before the heartbeat
 * @param after the item after it
 * @param stage whether all servers are paused
 * @param response of the heartbeat
 */
export function tried(before: Item, after: Item, stage: StageItem, response: unknown): string {
  const { message, unreachable } = v.is(HeartbeatResponse, response) ? response : {};
  const { barman_server, attempts = 0, last_error, running } = after;
  const applied = after.applied !== undefined && after.applied.applied_at !== before.applied?.applied_at;
  if (applied) return `Tried, and done: Barman is set to ${shortTarget(after.applied)}.`;
  if (attempts > (before.attempts ?? 0)) return `Tried, and failed: ${last_error}`;
  if (message !== undefined) return `Not tried, because the heartbeat failed: ${message}`;
  if (unreachable !== undefined) return `Not tried, because pg-backup-api is unreachable: ${unreachable}`;
  switch (stateOf(after, stage)) {
    case 'paused': {
      const who = isPaused(after) ? `${barman_server} is` : 'all servers are';
      return `Not tried, because ${who} paused; next: ${resumeOf(after, stage)}`;
    }
    case 'in sync':
      return `Nothing to try: ${barman_server} is in sync.`;
    case 'observed':
      return `Nothing to try: nothing is desired for ${barman_server} yet.`;
    case 'switching':
      return 'Not tried: another invocation is switching it.';
    default:
      return running
        ? `Asked for the end of operation ${running.operation_id}: it has not ended.`
        : 'Not tried: time ran out, or another invocation was first; the next heartbeat tries.';
  }
}

/** What the last heartbeat found, a sentence each. */
function headOf(stage: StageItem, now: number): string[] {
  return [...heartbeatLines(stage, now), ...inspectionLines(stage), ...pauseOfAll(stage)];
}

/** Says why the last inspection has seen nothing, if it has not. */
function inspectionLines({ inspection }: StageItem): string[] {
  if (inspection?.unseen === undefined) return [];
  const since = inspection.seen_at ? `since ${time(inspection.seen_at)}` : 'yet';
  return [`no inspection could see Barman ${since}: ${inspection.unseen}; next: check`];
}

function pauseOfAll(stage: StageItem): string[] {
  const { paused } = stage;
  if (!paused || !isStagePaused(stage)) return [];
  const { at, until, reason } = paused;
  return [`all servers are paused, ${lengthOf(at, until, reason)}; next: resume --all`];
}

/** Returns since when, or until when, a pause lasts, and why. */
function lengthOf(since: string | undefined, until: string | undefined, reason: string | undefined): string {
  const end = until ? `until ${time(until)}` : `since ${time(since)}`;
  return `${end}${reason ? `, for: ${reason}` : ''}`;
}

/** Returns the commands that end the pauses of a server. */
function resumeOf(item: Item, stage: StageItem): string {
  const own = `resume ${item.barman_server}`;
  if (!isStagePaused(stage)) return own;
  return isPaused(item) ? `resume --all, then: ${own}` : 'resume --all';
}

function heartbeatLines({ heartbeat }: StageItem, now: number): string[] {
  if (!heartbeat) return ['No heartbeat has reported yet.'];
  const { at, interval, version, unreachable, unreachable_since, clusters } = heartbeat;
  const asked = clusters.filter(({ observed_at, unknown }) => observed_at ?? unknown);
  const known = asked.filter(({ unknown }) => unknown === undefined);
  const reached = unreachable === undefined ? 'reachable' : 'unreachable';
  const of = `${known.length} of ${asked.length} clusters`;
  const since = age(now - Date.parse(at));
  const late = isLate(heartbeat, now);
  const is = late ? 'was' : 'is';
  return [
    late
      ? `heartbeat ${since} ago, expected every ${age(interval)}: see the log of the function; ` +
        `version ${version}; pg-backup-api was ${reached} then; ${of} were known then`
      : `heartbeat ${since} ago; version ${version}; pg-backup-api ${reached}; ${of} known`,
    ...(unreachable === undefined
      ? []
      : [`pg-backup-api ${is} unreachable since ${time(unreachable_since)}: ${unreachable}`]),
    ...clusters
      .filter(({ unknown }) => unknown !== undefined)
      .map(({ name, unknown }) => `the leader of cluster ${name} ${is} unknown: ${unknown}`),
  ];
}

/** What a person should know about a server, a sentence each; the first ends with what to do next. */
function notesOf(item: Row, stage: StageItem, now: number): string[] {
  if ('message' in item) return [item.message];
  const { barman_server } = item;
  if ('listed' in item) return [listedNote(item, stage, now)];
  const notes: string[] = [];
  const { attempts = 0, last_error, next_attempt_at, running, unsettled_since, leader } = item;
  const state = stateOf(item, stage);
  const { heartbeat } = stage;
  const isUnreachable = heartbeat?.unreachable !== undefined && !isLate(heartbeat, now);
  const next = isUnreachable
    ? `make pg-backup-api reachable (see above), then: retry ${barman_server}`
    : `retry ${barman_server}`;
  if (state === 'switching') {
    notes.push(`an invocation is switching it, until ${time(item.lease?.expires_at)} at most; next: wait`);
  }
  if (state === 'observed') {
    notes.push(
      `nothing is desired yet: the second heartbeat that sees the same leader sets it to the leader's model; next: wait, then look for the model of ${leader} in the cluster's parameter`,
    );
  }
  if (state === 'expired') {
    const what = running
      ? `an invocation has crashed or run out of time; the next heartbeat asks for the end of operation ${running.operation_id}`
      : 'an invocation has crashed or run out of time, or its POST had no response; a heartbeat takes over';
    notes.push(`${what}; next: ${running ? 'wait, or end that operation on the Barman host' : next}`);
  }
  if (state === 'paused') {
    const end = isPaused(item)
      ? `, ${lengthOf(item.paused_at, item.paused_until, item.pause_reason)}`
      : ', because all servers are paused';
    const pending = isPending(item) ? '; a desired state is pending' : '';
    notes.push(`nothing is sent to Barman${end}${pending}; next: ${resumeOf(item, stage)}`);
  }
  if (state === 'pending') {
    const wait = Date.parse(next_attempt_at ?? '') - now;
    notes.push(
      `the next attempt is ${wait > 0 ? `in ${age(wait)}` : 'made by the next heartbeat'}; next: ${next}`,
    );
  }
  if (attempts > 0 && last_error !== undefined) {
    notes.push(`failed ${attempts === 1 ? 'once' : `${attempts} times`}: ${last_error}`);
  }
  const refusal = heartbeat?.not_ready?.find((one) => one.barman_server === barman_server)?.message;
  if (refusal !== undefined) {
    // The note above may have the same text.
    const why = attempts > 0 && last_error?.startsWith(refusal) ? '' : `: ${refusal}`;
    notes.push(
      `pg-backup-api refused a heartbeat's last request for this server${why}; next: docs/alarms.md#not-ready`,
    );
  }
  if (unsettled_since !== undefined) {
    const since = `unsettled since ${time(unsettled_since)}: an older switch may still take effect`;
    const at = isRecorded(item) && isApplied(item, item.desired.version) ? time(item.apply_again_at) : '';
    notes.push(
      state === 'paused'
        ? `${since}; the desired state is applied again only after the pause`
        : `${since}, so the desired state is applied again at growing intervals${at && `, next ${at}`}; ` +
            'that overwrites a model set by hand, so pause the server before you set one',
    );
  } else if (isRecorded(item) && isApplied(item, item.desired.version) && mustApplyAgain(item)) {
    const when = state === 'paused' ? ' after the pause' : '';
    notes.push(`the model is applied again${when}, because Barman does not stream`);
  }
  notes.push(...observationNotes(item, stage, now));
  return notes;
}

/** What a person should know about a server of which nothing is known yet. */
function listedNote(item: Listed, stage: StageItem, now: number): string {
  const { leader_unknown_because: why } = observationOf(item, stage, now);
  const listed = 'a cluster lists it, but no role change was recorded';
  if (why !== undefined) {
    return `${listed}, and its leader is unknown: ${why}; next: docs/alarms.md#leader-unknown`;
  }
  return listingsOf(item, stage).some(({ server }) => server.observed)
    ? `${listed}, and no leader was seen yet; next: wait for the next heartbeat, then: check`
    : `${listed}, and Patroni is not asked for it; next: send one with its callback, or: set ${item.barman_server} MODEL`;
}

/** What a person should know about what Patroni says of a server. */
function observationNotes(item: Item, stage: StageItem, now: number): string[] {
  const { leader, streaming, streaming_since, differs_since } = item;
  const observation = observationOf(item, stage, now);
  const { observed_at, leader_known, leader_unknown_because } = observation;
  if (leader === undefined) {
    return leader_unknown_because === undefined
      ? []
      : [`its leader is unknown: ${leader_unknown_because}; next: docs/alarms.md#leader-unknown`];
  }
  const seen = age(now - Date.parse(observed_at ?? ''));
  if (!leader_known) {
    const why = leader_unknown_because ?? 'no heartbeat has reported it since';
    return [
      `LEADER and STREAMING are unknown, last seen ${leader}${seen && `, ${seen} ago`}: ${why}; next: compare with patronictl list`,
    ];
  }
  const notes: string[] = [];
  if (differs_since !== undefined) {
    notes.push(`the leader's model is not the desired one, for ${age(now - Date.parse(differs_since))}`);
  }
  if (streaming === false) {
    const isLasting = now - Date.parse(streaming_since ?? '') >= MISSING * (stage.heartbeat?.interval ?? 0);
    notes.push(
      `Barman did not stream from ${leader} ${seen} ago${isLasting ? '; next: docs/how-to/wal-does-not-arrive.md' : ''}`,
    );
  }
  return notes;
}

/** Returns a time to the second. */
export function time(iso = ''): string {
  return iso.replace('T', ' ').replace(/\.\d+Z$/, ' UTC');
}

/**
 * Breaks a text between words, indented. A longer word stays whole, so that it can be copied.
 *
 * @param first before the first line; the others are indented by its length
 */
export function wrap(first: string, text: string, width: number): string[] {
  const lines: string[] = [];
  const indent = ' '.repeat(first.length);
  let [start, line] = [first, ''];
  for (const word of text.split(/\s+/).map(printable)) {
    if (line !== '' && start.length + line.length + 1 + word.length > width) {
      lines.push(start + line);
      [start, line] = [indent, ''];
    }
    line += line === '' ? word : ` ${word}`;
  }
  return [...lines, start + line];
}
