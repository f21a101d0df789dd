/** The ledger as a person or a script reads it. */

import {
  type Item,
  isLeased,
  isPaused,
  isPending,
  isRecorded,
  NOT_STREAMING,
  passedOver,
} from '../functions/config-switch/reconcile/item.ts';
import { nameOf, parseTarget } from '../functions/config-switch/target.ts';
import { eventTimeOf } from '../functions/config-switch/version.ts';
import { columns } from './command-line.ts';

/** What an item says in one word or two. */
export type State = 'in sync' | 'pending' | 'switching' | 'expired' | 'paused' | 'observed';

/** Returns the state of an item; `observed`: nothing is desired yet, but Patroni has named the leader */
export function stateOf(item: Item): State {
  if (isLeased(item)) return 'switching';
  if (isPaused(item)) return 'paused';
  if (!isRecorded(item)) return 'observed';
  if (!isPending(item)) return 'in sync';
  return item.lease_token === undefined ? 'pending' : 'expired';
}

/** Returns the items as JSON, with their states, sorted by server */
export function asJson(items: readonly Item[]): string {
  const entries = sorted(items).map((item) => ({
    ...item,
    state: stateOf(item),
    ...(item.passed_over !== undefined && { passed_over: passedOver(item) }),
  }));
  return JSON.stringify(entries, null, 2);
}

/**
 * Returns the items as a table: what is desired, what was applied, and what Patroni says, each with its age;
 * below a server, what a person should know.
 *
 * @param now ms since the epoch
 * @param width of the terminal (characters)
 */
export function asTable(items: readonly Item[], now: number, width: number): string {
  if (items.length === 0) return 'No role change has been recorded yet.';
  const since = (text: string | undefined, time: string | undefined) =>
    text === undefined ? '–' : `${text} ${age(now - Date.parse(time ?? ''))}`.trimEnd();
  const rows = sorted(items).map((item) => ({
    cells: [
      item.barman_server,
      stateOf(item),
      since(shortTarget(item.desired), new Date(eventTimeOf(item.desired_version ?? '')).toISOString()),
      since(shortTarget(item.applied), item.applied_at),
      since(item.leader, item.leader_since),
      since(item.streaming === undefined ? undefined : item.streaming ? 'yes' : 'no', item.streaming_since),
    ],
    notes: notesOf(item, now),
  }));
  const header = ['SERVER', 'STATE', 'DESIRED', 'APPLIED', 'LEADER', 'STREAMING'];
  const [title = '', ...lines] = columns([header, ...rows.map(({ cells }) => cells)]).map(printable);
  const notes = rows.map((row) => row.notes.flatMap((note) => wrap(note, width)));
  return [title, ...lines.flatMap((line, index) => [line, ...(notes[index] ?? [])])].join('\n');
}

/** What a person should know about an item, a sentence each. */
function notesOf(item: Item, now: number): string[] {
  const notes: string[] = [];
  const { attempts = 0, last_error, next_attempt_at, running_operation } = item;
  const state = stateOf(item);
  if (state === 'switching')
    notes.push(`an invocation is switching it, until ${time(item.lease_expires_at)} at most`);
  if (state === 'expired') {
    const running = running_operation ? `, and waits for operation ${running_operation}` : '';
    notes.push(
      `an invocation has crashed or run out of time, or its POST is in doubt; the next heartbeat takes over${running}`,
    );
  }
  if (state === 'paused') {
    const end = item.paused_until ? `until ${time(item.paused_until)}` : `since ${time(item.paused_at)}`;
    notes.push(`nothing is sent to Barman, ${end}${isPending(item) ? '; a desired state is pending' : ''}`);
  }
  if (state === 'pending') {
    const wait = Date.parse(next_attempt_at ?? '') - now;
    notes.push(`the next attempt is ${wait > 0 ? `in ${age(wait)}` : 'made by the next heartbeat'}`);
  }
  if (attempts > 0 && last_error !== undefined) {
    notes.push(`failed ${attempts === 1 ? 'once' : `${attempts} times`}: ${last_error}`);
  }
  const over = passedOver(item).map(({ operation_id }) => operation_id);
  const operations = over.filter((id) => id !== NOT_STREAMING);
  if (operations.length > 0)
    notes.push(`passed over, and may still take effect: operation ${operations.join(', ')}`);
  if (over.includes(NOT_STREAMING)) notes.push('the model is applied again, because Barman does not stream');
  if (item.differs_since !== undefined) {
    notes.push(`the leader's model is not the desired one, for ${age(now - Date.parse(item.differs_since))}`);
  }
  if (item.streaming === false) notes.push('WAL does not arrive: see docs/operations.md#wal-does-not-arrive');
  return notes;
}

function sorted(items: readonly Item[]): Item[] {
  return items.toSorted((a, b) => a.barman_server.localeCompare(b.barman_server));
}

/** `pg:node2`, or `no model`. */
function shortTarget(text: string | undefined): string | undefined {
  return text === undefined ? undefined : nameOf(parseTarget(text)).replace(/^model /, '');
}

/** @param ms NaN: unknown @returns such as `45s`, `3m`, `5h`, `12d`, rounded down; empty if it is unknown */
function age(ms: number): string {
  if (Number.isNaN(ms)) return '';
  const seconds = Math.max(0, Math.floor(ms / 1_000));
  if (seconds < 120) return `${seconds}s`;
  if (seconds < 7_200) return `${Math.floor(seconds / 60)}m`;
  if (seconds < 172_800) return `${Math.floor(seconds / 3_600)}h`;
  return `${Math.floor(seconds / 86_400)}d`;
}

/** Returns a time to the second. */
export function time(iso = ''): string {
  return iso.replace('T', ' ').replace(/\.\d+Z$/, ' UTC');
}

/** Without control characters: a node or pg-backup-api may send some. */
function printable(text: string): string {
  return text.replaceAll(/\p{Cc}/gu, '\ufffd');
}

/** Breaks a note between words, indented. A longer word stays whole, so that it can be copied. */
function wrap(note: string, width: number): string[] {
  const lines: string[] = [];
  let line = '  -';
  for (const word of note.split(/\s+/).map(printable)) {
    if (line.length + 1 + word.length > width && line.trim() !== '-' && line.trim() !== '') {
      lines.push(line);
      line = '   ';
    }
    line += ` ${word}`;
  }
  return [...lines, line];
}
