/** What an inspection may find. The documentation (docs/reference/findings.md) is generated from this table. */

/**
 * `ready`: a failover would not end with Barman streaming from the new leader, or there is no backup to recover
 * from. `archived`: WAL of the leader does not arrive in Barman's archive now.
 */
export type FindingClass = 'ready' | 'archived';

export interface FindingKind {
  readonly class: FindingClass;
  /** Whether a failover to any member would fail, and not only one to the member that is named. */
  readonly allMembers?: true;
  /** What its rule has to see, besides Barman: the members of the cluster; `only`: nothing of Barman. */
  readonly members?: true | 'only';
  /** What it means, for the documentation. */
  readonly means: string;
  /** What else there is to know, for the documentation. */
  readonly more?: string;
}

/** The kinds of findings, by name. */
export const FINDINGS = {
  'server-missing': {
    class: 'ready',
    allMembers: true,
    means: 'Barman does not have the server: every switch of it fails.',
  },
  'server-inactive': {
    class: 'ready',
    allMembers: true,
    means: 'The server has `active = false`: `barman cron` skips it, so no WAL is received.',
  },
  'server-errors': {
    class: 'ready',
    allMembers: true,
    means:
      'Barman has found errors in the configuration of the server. While it is disabled, no WAL is received.',
  },
  'server-disabled': {
    class: 'ready',
    allMembers: true,
    means: 'The server is disabled: `barman cron` skips it, so no WAL is received.',
    more: 'The cause is `disabled = true` of its active model, or errors in its configuration.',
  },
  'server-passive': {
    class: 'ready',
    allMembers: true,
    means: 'The server copies from another Barman host (`primary_ssh_command`): a switch has no effect here.',
  },
  'operations-unreadable': {
    class: 'ready',
    allMembers: true,
    means:
      'pg-backup-api cannot read the operations of the server: a switch may fail, and one without a response stays in doubt.',
    more: 'While only a job file is broken, role changes are applied nevertheless.',
  },
  'member-without-model': {
    class: 'ready',
    members: 'only',
    means: 'The member may become the leader, but the parameter of its cluster has no model for it.',
  },
  'member-unknown': {
    class: 'ready',
    members: 'only',
    means: 'The parameter lists a member that Patroni has not had for a day: it was removed, or is misspelt.',
  },
  'member-without-url': {
    class: 'ready',
    members: 'only',
    means:
      "None of the cluster's URLs leads to the member. Once it leads, the leader is unknown, and a lost event is not repaired.",
  },
  'member-unreachable': {
    class: 'ready',
    members: 'only',
    means: 'Patroni says that the member runs, but its REST API has not answered the function for a day.',
  },
  'callback-unheard': {
    class: 'ready',
    members: 'only',
    means: "Callbacks of other nodes have been heard, and the member's never.",
    more: 'If it does not work, a failover to the member sends no event. A callback of an older version sends no host name, so it is never heard.',
  },
  'model-missing': {
    class: 'ready',
    means: 'Barman does not have the model: a failover to the member ends as CONFIG_SWITCH_FAILED.',
  },
  'model-of-another-cluster': {
    class: 'ready',
    means: 'Model and server belong to different clusters of Barman: it does not apply the model.',
  },
  'model-shared': {
    class: 'ready',
    members: true,
    means: 'Two members have the same model, or none: a failover between them changes nothing in Barman.',
  },
  'model-inactive': {
    class: 'ready',
    means:
      'The model makes the server inactive or disabled: after a failover to the member, no WAL is received.',
  },
  'model-connection': {
    class: 'ready',
    means:
      'Barman or libpq rejects a connection string of the model: after a failover, Barman cannot connect.',
  },
  'model-host': {
    class: 'ready',
    members: true,
    means: 'The model connects to another member: after a failover, Barman would use the wrong node.',
  },
  'model-host-shared': {
    class: 'ready',
    members: true,
    means: 'Two models connect to the same host and port, and another one does not: one of the two is wrong.',
  },
  'slot-not-permanent': {
    class: 'ready',
    allMembers: true,
    members: true,
    means: "Patroni does not keep Barman's replication slot on all members.",
    more: 'The new leader lacks it after a failover, and WAL may be lost.',
  },
  'patroni-old': {
    class: 'ready',
    allMembers: true,
    members: true,
    means: 'Patroni is older than 3.2: it does not keep permanent slots on replicas.',
    more: 'The new leader lacks the slot after a failover.',
  },
  'slot-shared': {
    class: 'ready',
    allMembers: true,
    means: 'Two Barman servers of one cluster use the same replication slot: only one of them can stream.',
  },
  'no-backup': {
    class: 'ready',
    means: 'There is no base backup to recover from.',
  },
  'backup-old': {
    class: 'ready',
    means:
      'The newest base backup is older than `last_backup_maximum_age` of the server, or than 8 days where that is not set.',
  },
  'other-model': {
    class: 'archived',
    means: 'Barman uses another model than the one that was applied last.',
    more: 'It was changed on the Barman host, or is not in its configuration any more.',
  },
  'no-connection': {
    class: 'archived',
    means: 'Barman cannot connect to PostgreSQL by `conninfo` or by `streaming_conninfo`.',
  },
  'in-recovery': {
    class: 'archived',
    means:
      'Barman is connected to a replica, although the leader is a primary: WAL comes from the wrong node.',
  },
  'other-system': {
    class: 'archived',
    means: 'Barman is connected to the PostgreSQL of another cluster.',
  },
  'slot-missing': {
    class: 'archived',
    means: "The node that Barman is connected to does not have Barman's replication slot.",
  },
  'slot-inactive': {
    class: 'archived',
    means:
      'Barman does not stream from its replication slot: `barman receive-wal` does not run, or something else does.',
  },
  'slot-behind': {
    class: 'archived',
    means:
      "Barman's replication slot is more than 1 GB and 16 segments behind, or PostgreSQL keeps no WAL for it any more.",
  },
  'timeline-not-archived': {
    class: 'archived',
    means:
      "No WAL of the leader's timeline is in the archive 15 minutes after it began, although two segments of it are complete.",
  },
  'archive-behind': {
    class: 'archived',
    means:
      'The archive lacks three or more segments that the leader has completed, and has received none for 15 minutes.',
  },
} as const satisfies Readonly<Record<string, FindingKind>>;

export type Kind = keyof typeof FINDINGS;

/** One thing that an inspection found. Texts have hosts, ports and names only, never a conninfo. */
export interface Finding {
  readonly kind: Kind;
  /** The Patroni member that it is about; absent: the server. */
  readonly member?: string;
  /** What was seen, with its values. */
  readonly what: string;
  /** What to do, with its command. */
  readonly remedy: string;
}

/** Returns the class of a finding. */
export function classOf({ kind }: Pick<Finding, 'kind'>): FindingClass {
  return FINDINGS[kind].class;
}

/** Returns whether a finding concerns a failover to any member. */
export function concernsAllMembers({ kind }: { readonly kind: string }): boolean {
  return knownOf(kind).allMembers === true;
}

/** Returns what is known of a kind: nothing of one that another version had. */
function knownOf(kind: string): Partial<FindingKind> {
  return { ...FINDINGS[kind as Kind] };
}

/** Returns the sentence for the operator. */
export function sentenceOf({
  member,
  what,
  remedy,
}: Omit<Finding, 'kind' | 'member'> & { readonly member?: string | undefined }): string {
  return `${member === undefined ? '' : `${member}: `}${what}: ${remedy}`;
}

/** What an inspection could see of what a finding is about. */
export interface Seen {
  readonly barman: boolean;
  /** The members of all clusters that are asked. */
  readonly members: boolean;
  /** Whether a parameter lists its member, if it has one. */
  readonly isListed: boolean;
  /** Whether Patroni has its member, wherever a parameter lists it. */
  readonly isMember: boolean;
}

/** Returns whether the rule of a finding could see all that it needs, or has nothing to judge any more. */
export function wasJudged(
  { kind }: { readonly kind: string },
  { barman, members, isListed, isMember }: Seen,
): boolean {
  const needed = knownOf(kind).members;
  // The others of these are about members that Patroni has, whether they are listed or not.
  if (needed === 'only') return members || (kind === 'member-unknown' && !isListed);
  return !isListed || (barman && (needed === undefined || (members && isMember)));
}
