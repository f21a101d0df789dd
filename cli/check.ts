/** The report of an inspection as a person reads it: parameters, then each cluster with its Barman servers. */

import { sentenceOf } from '../functions/config-switch/inspect/findings.ts';
import type { InspectionReport } from '../functions/config-switch/inspect/report.ts';
import { listOf, printable } from '../functions/config-switch/text.ts';
import { columns } from './command-line.ts';
import { age, wrap } from './show.ts';

type Server = InspectionReport['servers'][number];

/** Returns one line per parameter, or group of parameters. */
export function parameterLines(parameters: InspectionReport['parameters']): string[] {
  return parameters.map(({ ok, name, text }) => `${ok ? 'ok   ' : 'wrong'}  ${name}: ${text}`);
}

/** Returns whether a report has nothing to do for an operator. */
export function isClean({ parameters, servers }: Pick<InspectionReport, 'parameters' | 'servers'>): boolean {
  return parameters.every(({ ok }) => ok) && servers.every(({ findings }) => findings.length === 0);
}

/**
 * Returns the report as text.
 *
 * @param now ms since the epoch
 * @param width of the terminal (characters)
 */
export function reportText(report: InspectionReport, now: number, width: number): string {
  const lines = [...parameterLines(report.parameters), ...urlLines(report)].map(printable);
  const blocks = report.servers.map((server) => serverLines(report, server, now, width));
  if (blocks.length === 0)
    blocks.push(['No cluster lists a Barman server with members, and the ledger has none.']);
  return [lines, ...blocks].map((block) => block.join('\n')).join('\n\n');
}

/** Returns what answered: Barman, and each URL of Patroni. */
function urlLines({ barman, clusters }: InspectionReport): string[] {
  const answers = clusters.flatMap(({ urls }) =>
    urls.map(({ url, member, error }) =>
      error === undefined ? `ok     ${url}: ${member ?? 'a Patroni before 3.2'}` : `wrong  ${url}: ${error}`,
    ),
  );
  const asked =
    barman.unseen === undefined
      ? `ok     /diagnose: Barman ${barman.version ?? 'of an unknown version'}`
      : `wrong  /diagnose: ${barman.unseen}`;
  return [asked, ...answers];
}

function serverLines(report: InspectionReport, server: Server, now: number, width: number): string[] {
  const { barman_server, members, findings, notes, unseen, paused } = server;
  const names = new Set(members.map(({ cluster }) => cluster));
  const clusters = report.clusters.filter(({ name }) => names.has(name));
  const heads = clusters.map(({ name, leader, unknown, unseen, timeline, patroni }) => {
    const who =
      leader === undefined
        ? `leader unknown: ${unknown ?? unseen ?? 'Patroni is not asked'}`
        : `leader ${leader}`;
    const facts = [
      who,
      ...(timeline === undefined ? [] : [`timeline ${timeline}`]),
      ...(patroni === undefined ? [] : [`Patroni ${patroni}`]),
    ];
    return `${name}: ${facts.join(', ')}; ${barmanText(report)}server ${barman_server}`;
  });
  const [title, ...rows] = columns([
    ['MEMBER', 'MODEL', "BARMAN'S HOST", "PATRONI'S HOST", 'SLOT', 'READY'],
    ...members.map((one) => [
      one.member,
      one.model === null ? 'none' : (one.model ?? '–'),
      one.barman_host ?? '–',
      one.patroni_host ?? '–',
      one.slot,
      one.ready,
    ]),
  ]);
  const notSeen = unseen.map(({ member, what }) =>
    typeof member === 'string' ? `${member}: ${what}` : what,
  );
  return [
    ...(heads.length > 0
      ? heads
      : [`no cluster lists members; ${barmanText(report)}server ${barman_server}`]
    ).flatMap((head) => wrap('', head, width)),
    ...(members.length > 0 ? [title ?? '', ...rows] : []).map(printable),
    ...wrap('', archiveText(server, now), width),
    ...(paused ? ['  paused: findings are not counted'] : []),
    ...findings.flatMap((finding) =>
      wrap(
        '  - ',
        `${sentenceOf(finding)}${finding.counts ? '' : ' (counts if the next inspection finds it, too)'}`,
        width,
      ),
    ),
    ...notes.flatMap((note) => wrap('    note: ', note, width)),
    ...notSeen.flatMap((what) => wrap('    not seen: ', what, width)),
    ...(findings.length === 0 && unseen.length === 0 ? ['    no findings'] : []),
  ];
}

function barmanText({ barman }: InspectionReport): string {
  return barman.version === undefined ? '' : `Barman ${barman.version}, `;
}

function archiveText({ archived, slot_behind, backup }: Server, now: number): string {
  const facts = [
    archived === undefined
      ? 'no segment of the leader was seen'
      : `timeline ${archived.timeline}, ${shortSegment(archived.name)}, ${age(now - Date.parse(archived.at))} ago`,
    ...(slot_behind === undefined ? [] : [`slot ${sizeOf(slot_behind)} behind`]),
    backup === undefined
      ? 'no backup was seen'
      : `backup ${backup.id}, ${age(now - Date.parse(backup.at))} ago${backup.timeline === undefined ? '' : ` (timeline ${backup.timeline})`}`,
  ];
  return `archive: ${facts.join('; ')}`;
}

/** @returns a segment's name without the zeros in its middle, such as `00000005…0042` */
function shortSegment(name: string): string {
  return `${name.slice(0, 8)}…${name.slice(-4)}`;
}

/** @returns such as `2 MB`, `1.5 GB` */
function sizeOf(bytes: number): string {
  const mb = bytes / 2 ** 20;
  return mb < 1_024 ? `${Math.round(mb)} MB` : `${(mb / 1_024).toFixed(1)} GB`;
}

/** Returns what is pending, which an inspection cannot judge. */
export function pendingText(servers: readonly string[]): string | undefined {
  if (servers.length === 0) return undefined;
  return `Pending now, so that its archive is not judged: ${listOf(servers)}`;
}
