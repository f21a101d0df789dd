/** The report of an inspection as a person reads it: parameters, then each cluster with its Barman servers. */

import { sizeOf } from '../functions/config-switch/inspect/archived.ts';
import { sentenceOf } from '../functions/config-switch/inspect/findings.ts';
import type { InspectionReport } from '../functions/config-switch/inspect/report.ts';
import { age } from '../functions/config-switch/ledger/overview.ts';
import { listOf, printable } from '../functions/config-switch/text.ts';
import { columns } from './command-line.ts';
import { wrap } from './show.ts';

type Server = InspectionReport['servers'][number];

/**
 * Returns what is said of each parameter, or group of parameters.
 *
 * @param width of the terminal (characters)
 */
export function parameterLines(parameters: InspectionReport['parameters'], width: number): string[] {
  return parameters.flatMap(({ ok, name, text }) => checked(ok, `${name}: ${text}`, width));
}

/**
 * Returns whether a report leaves nothing to do or to doubt: nothing is wrong, nothing was found, and each member is
 * ready. What was not seen of a member is a doubt, too.
 */
export function isClean({ parameters, barman, clusters, servers }: InspectionReport): boolean {
  return (
    parameters.every(({ ok }) => ok) &&
    barman.unseen === undefined &&
    clusters.every(({ urls }) => urls.every(({ error }) => error === undefined)) &&
    servers.every(
      ({ findings, members }) => findings.length === 0 && members.every(({ ready }) => ready === 'yes'),
    )
  );
}

/**
 * Returns the report as text.
 *
 * @param now ms since the epoch
 * @param width of the terminal (characters)
 */
export function reportText(report: InspectionReport, now: number, width: number): string {
  const blocks = [
    [...parameterLines(report.parameters, width), ...answerLines(report, width)],
    ...report.servers.map((server) => serverLines(report, server, now, width)),
  ];
  if (report.servers.length === 0)
    blocks.push(wrap('', 'No cluster lists a Barman server with members, and the ledger has none.', width));
  return blocks.map((block) => block.join('\n')).join('\n\n');
}

/** Returns what answered: Barman, and each URL of Patroni. */
function answerLines({ barman, clusters }: InspectionReport, width: number): string[] {
  const version = `Barman ${barman.version ?? 'of an unknown version'}`;
  return [
    ...checked(barman.unseen === undefined, `/diagnose: ${barman.unseen ?? version}`, width),
    ...clusters.flatMap(({ urls }) =>
      urls.flatMap(({ url, member, error }) =>
        checked(error === undefined, `${url}: ${error ?? member ?? 'a Patroni before 3.2'}`, width),
      ),
    ),
  ];
}

/** Returns what was checked, indented so that `wrong` stands out. */
function checked(ok: boolean, text: string, width: number): string[] {
  return wrap(ok ? 'ok     ' : 'wrong  ', text, width);
}

function serverLines(report: InspectionReport, server: Server, now: number, width: number): string[] {
  const { findings, notes, unseen, paused } = server;
  const notSeen = unseen.map(({ member, what }) =>
    typeof member === 'string' ? `${member}: ${what}` : what,
  );
  return [
    ...headLines(report, server, width),
    ...memberTable(server, now),
    ...archiveLines(server, now, width),
    ...(server.at === report.at
      ? []
      : wrap(
          '  ',
          `Barman was last seen ${age(now - Date.parse(server.at))} ago, and then was found:`,
          width,
        )),
    ...(paused ? wrap('  ', 'paused: its findings raise no alarm', width) : []),
    ...findings.flatMap((finding) => wrap('  - ', findingText(finding), width)),
    ...notSeen.flatMap((what) => wrap('  not seen: ', what, width)),
    ...notes.flatMap((note) => wrap('  note: ', note, width)),
    ...(findings.length === 0 && unseen.length === 0 ? ['  no findings'] : []),
  ];
}

/** Returns each cluster that lists the server with members, and who leads it. */
function headLines(
  { barman, clusters }: InspectionReport,
  { barman_server, members }: Server,
  width: number,
): string[] {
  const version = barman.version === undefined ? [] : [`Barman ${barman.version}`];
  const names = new Set(members.map(({ cluster }) => cluster));
  const listing = clusters.filter(({ name }) => names.has(name));
  if (listing.length === 0) {
    const text = ['no cluster lists it with members', ...version].join('; ');
    return wrap(`${printable(barman_server)}: `, text, width);
  }
  return listing.flatMap(({ name, leader, unknown, unseen, timeline, patroni }) => {
    const facts = [
      leader === undefined
        ? `leader unknown: ${unknown ?? unseen ?? 'Patroni is not asked'}`
        : `leader ${leader}`,
      ...(timeline === undefined ? [] : [`timeline ${timeline}`]),
      ...(patroni === undefined ? [] : [`Patroni ${patroni}`]),
    ];
    const text = `${facts.join(', ')}; ${[...version, `server ${barman_server}`].join(', ')}`;
    return wrap(`${printable(name)}: `, text, width);
  });
}

function memberTable({ members }: Server, now: number): string[] {
  if (members.length === 0) return [];
  return columns([
    ['MEMBER', 'MODEL', "BARMAN'S HOST", "PATRONI'S HOST", 'SLOT', 'CALLBACK', 'READY'],
    ...members.map((one) => [
      printable(one.member),
      printable(one.model === null ? 'none' : (one.model ?? '–')),
      printable(one.barman_host ?? '–'),
      printable(one.patroni_host ?? '–'),
      one.slot,
      callbackCell(one, now),
      one.ready,
    ]),
  ]);
}

/** Returns how long ago a member's callback was heard. */
function callbackCell({ callback }: Server['members'][number], now: number): string {
  if (callback === undefined) return '?';
  return callback === null ? 'never' : `${age(now - Date.parse(callback.at))} ago`;
}

function findingText(finding: Server['findings'][number]): string {
  const once = finding.counts ? '' : ' (seen once; it counts if the next inspection finds it, too)';
  return `${sentenceOf(finding)}${once}`;
}

function archiveLines({ archived, slot_behind, backup }: Server, now: number, width: number): string[] {
  const since = (at: string) => `${age(now - Date.parse(at))} ago`;
  const segment =
    archived === undefined
      ? "no segment of the leader's timeline was seen"
      : `timeline ${archived.timeline}, ${shortSegment(archived.name)}, ${since(archived.at)}`;
  const slot = slot_behind === undefined ? '' : `; slot ${sizeOf(slot_behind)} behind`;
  const timeline = backup?.timeline === undefined ? '' : ` (timeline ${backup.timeline})`;
  return [
    ...wrap('archive: ', `${segment}${slot}`, width),
    ...wrap(
      'backup:  ',
      backup === undefined ? 'none was seen' : `${backup.id}, ${since(backup.at)}${timeline}`,
      width,
    ),
  ];
}

/** @returns a segment's name without the zeros in its middle, such as `00000005…0042` */
function shortSegment(name: string): string {
  return `${name.slice(0, 8)}…${name.slice(-4)}`;
}

/** Returns what is pending, which an inspection cannot judge. */
export function pendingText(servers: readonly string[]): string | undefined {
  if (servers.length === 0) return undefined;
  return `A switch is pending, so the archive is not judged: ${listOf(servers)}`;
}
