/** The ledger as a person or a script reads it. */

import {
  type Item,
  isApplied,
  isExpired,
  isLeased,
  isPaused,
  isPending,
  isRecorded,
  mustApplyAgain,
} from '../functions/config-switch/ledger/item.ts';
import type { Unreadable } from '../functions/config-switch/ledger/ledger.ts';
import { nameOf, parseTarget } from '../functions/config-switch/target.ts';
import { printable, printableLines } from '../functions/config-switch/text.ts';
import { eventTimeOf } from '../functions/config-switch/version.ts';
import { columns } from './command-line.ts';

/** What an item says in one word or two. */
export type State = 'in sync' | 'pending' | 'switching' | 'expired' | 'paused' | 'observed' | 'unreadable';

/** Returns the state of an item; `observed`: nothing is desired yet, but Patroni has named the leader */
export function stateOf(item: Item | Unreadable): State {
  if ('message' in item) return 'unreadable';
  if (isLeased(item)) return 'switching';
  if (isPaused(item)) return 'paused';
  if (!isRecorded(item)) return 'observed';
  if (!isPending(item)) return 'in sync';
  return isExpired(item) ? 'expired' : 'pending';
}

/** Returns the items as JSON, with their states, sorted by server */
export function asJson(items: readonly (Item | Unreadable)[]): string {
  const entries = sorted(items).map((item) => ({ ...item, state: stateOf(item) }));
  return printableLines(JSON.stringify(entries, null, 2));
}

/**
 * Returns the items as a table: what is desired, what was applied, and what Patroni says, each with its age;
 * below a server, what a person should know.
 *
 * @param now ms since the epoch
 * @param width of the terminal (characters)
 */
export function asTable(items: readonly (Item | Unreadable)[], now: number, width: number): string {
  if (items.length === 0) return 'No role change has been recorded yet.';
  const since = (text: string | undefined, time: string | undefined) =>
    text === undefined ? '–' : `${text} ${age(now - Date.parse(time ?? ''))}`.trimEnd();
  const rows = sorted(items).map((item) => {
    if ('message' in item) {
      return { cells: [item.barman_server, stateOf(item), '–', '–', '–', '–'], notes: [item.message] };
    }
    const cells = [
      item.barman_server,
      stateOf(item),
      since(shortTarget(item.desired), new Date(eventTimeOf(item.desired?.version ?? '')).toISOString()),
      since(shortTarget(item.applied), item.applied?.applied_at),
      since(item.leader, item.leader_since),
      since(item.streaming === undefined ? undefined : item.streaming ? 'yes' : 'no', item.streaming_since),
    ];
    return { cells, notes: notesOf(item, now) };
  });
  const header = ['SERVER', 'STATE', 'DESIRED', 'APPLIED', 'LEADER', 'STREAMING'];
  const [title = '', ...lines] = columns([header, ...rows.map(({ cells }) => cells)]).map(printable);
  const notes = rows.map((row) => row.notes.flatMap((note) => wrap(note, width)));
  return [title, ...lines.flatMap((line, index) => [line, ...(notes[index] ?? [])])].join('\n');
}

/** What a person should know about an item, a sentence each. */
function notesOf(item: Item, now: number): string[] {
  const notes: string[] = [];
  const { attempts = 0, last_error, next_attempt_at, running, unsettled_since } = item;
  const state = stateOf(item);
  if (state === 'switching')
    notes.push(`an invocation is switching it, until ${time(item.lease?.expires_at)} at most`);
  if (state === 'expired') {
    notes.push(
      running
        ? `an invocation has crashed or run out of time; the next heartbeat asks for the end of operation ${running.operation_id}`
        : 'an invocation has crashed or run out of time, or its POST had no response; a heartbeat takes over',
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
  if (unsettled_since !== undefined) {
    const since = `unsettled since ${time(unsettled_since)}: an older switch may still take effect`;
    const next = isRecorded(item) && isApplied(item, item.desired.version) ? time(item.apply_again_at) : '';
    notes.push(
      state === 'paused'
        ? `${since}; the desired state is applied again only after the pause`
        : `${since}, so the desired state is applied again at growing intervals${next && `, next ${next}`}; ` +
            'that overwrites a model set by hand, so pause the server before you set one',
    );
  } else if (isRecorded(item) && isApplied(item, item.desired.version) && mustApplyAgain(item)) {
    notes.push('the model is applied again, because Barman does not stream');
  }
  if (item.differs_since !== undefined) {
    notes.push(`the leader's model is not the desired one, for ${age(now - Date.parse(item.differs_since))}`);
  }
  if (item.streaming === false) notes.push('WAL does not arrive: see docs/operations.md#wal-does-not-arrive');
  return notes;
}

function sorted<T extends Pick<Item, 'barman_server'>>(items: readonly T[]): T[] {
  return items.toSorted((a, b) => a.barman_server.localeCompare(b.barman_server));
}

/** `pg:node2`, or `no model`. */
function shortTarget(state: { readonly target: string } | undefined): string | undefined {
  return state && nameOf(parseTarget(state.target)).replace(/^model /, '');
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
