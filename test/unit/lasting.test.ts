import { describe, expect, test } from 'vitest';
import type { HeartbeatReport } from '../../functions/config-switch/ledger/stage.ts';
import { type Found, whatLasts } from '../../functions/config-switch/reconcile/lasting.ts';

const MINUTE = 60_000;
const NOTHING = { pending: [], not_streaming: [], leader_cannot_write: [], leader_unknown: [] };

/** Heartbeats, one after the other, each with the memory of the one before. */
class Heartbeats {
  #before: Pick<HeartbeatReport, 'at' | 'lasting'> | undefined;

  /** @param minute of the heartbeat; since when servers are in a state (minute) */
  beat(
    minute: number,
    {
      pending = {},
      not_streaming = {},
      leader_cannot_write = [],
      leader_unknown = [],
    }: Partial<Record<'pending' | 'not_streaming', Record<string, number> | 'not seen'>> &
      Partial<Record<'leader_cannot_write' | 'leader_unknown', string[]>>,
  ) {
    const sinceOf = (servers: Record<string, number> | 'not seen') =>
      servers === 'not seen'
        ? undefined
        : new Map(Object.entries(servers).map(([name, start]) => [name, start * MINUTE]));
    const unknown = (clusters: string[]) => new Map(clusters.map((name) => [name, undefined]));
    const found: Found = {
      pending: sinceOf(pending),
      not_streaming: sinceOf(not_streaming),
      leader_cannot_write: unknown(leader_cannot_write),
      leader_unknown: unknown(leader_unknown),
    };
    const { lasting, entered } = whatLasts(found, this.#before, minute * MINUTE, MINUTE);
    this.#before = { at: new Date(minute * MINUTE).toISOString(), lasting };
    return { entered, raised: lasting.filter(({ raised }) => raised).map(({ name }) => name) };
  }
}

describe('a server that is pending', () => {
  test('enters the state after five minutes, once', () => {
    const beats = new Heartbeats();
    const entered = [4.98, 5.99, 7].map(
      (minute) => beats.beat(minute, { pending: { main: 0 } }).entered.pending,
    );
    expect(entered).toEqual([[], ['main'], []]);
  });

  test('enters it also while another one is in it, and again after it was not', () => {
    const beats = new Heartbeats();
    beats.beat(6, { pending: { main: 0 } });
    expect(beats.beat(7, { pending: { main: 0, other: 2 } })).toMatchObject({
      entered: { ...NOTHING, pending: ['other'] },
      raised: ['main', 'other'],
    });
    expect(beats.beat(8, { pending: { other: 2 } }).entered).toEqual(NOTHING);
    expect(beats.beat(9, { pending: { main: 4, other: 2 } }).entered.pending).toEqual(['main']);
  });

  test('is as it was while that cannot be seen, and what was pending meanwhile enters afterwards', () => {
    const beats = new Heartbeats();
    beats.beat(6, { pending: { main: 0 } });
    for (let minute = 7; minute < 30; minute += 1) {
      expect(beats.beat(minute, { pending: 'not seen' })).toMatchObject({
        entered: NOTHING,
        raised: ['main'],
      });
    }
    expect(beats.beat(30, { pending: { main: 0, other: 9 } }).entered.pending).toEqual(['other']);
  });

  test('is as it was while that cannot be seen, and other states are as they are seen', () => {
    const beats = new Heartbeats();
    beats.beat(6, { pending: { main: 0 }, not_streaming: { other: 0 } });
    expect(beats.beat(7, { pending: 'not seen' }).raised).toEqual(['main']);
  });

  test('has entered the state if no heartbeat before is known, or none of the last ten minutes', () => {
    const beats = new Heartbeats();
    const pending = { main: 0 };
    const entered = [60, 70, 80.1].map((minute) => beats.beat(minute, { pending }).entered.pending);
    expect(entered).toEqual([['main'], [], ['main']]);
  });
});

describe('a server for which Barman does not stream', () => {
  test('enters the state at the fifth heartbeat in a row, some seconds early or late', () => {
    const beats = new Heartbeats();
    const entered = [0, 1, 2, 3, 3.9, 5].map(
      (minute) => beats.beat(minute, { not_streaming: { main: 0 } }).entered.not_streaming,
    );
    expect(entered).toEqual([[], [], [], [], ['main'], []]);
  });

  test('does not enter it if it was another one in each of five heartbeats', () => {
    const beats = new Heartbeats();
    for (let minute = 0; minute < 9; minute += 1) {
      expect(beats.beat(minute, { not_streaming: { [`s${minute % 2}`]: minute } }).entered).toEqual(NOTHING);
    }
  });
});

describe('a cluster whose leader is unknown', () => {
  test('enters the state at the tenth heartbeat in a row, also while that of another one is unknown', () => {
    const beats = new Heartbeats();
    const entered = Array.from({ length: 25 }, (_, minute) => {
      const leader_unknown = minute < 12 ? ['one'] : ['one', 'two'];
      return beats.beat(minute, { leader_unknown }).entered.leader_unknown;
    });
    const named = entered.flatMap((names, minute) => names.map((name) => [name, minute]));
    expect(named).toEqual([
      ['one', 9],
      ['two', 21],
    ]);
  });

  test('does not enter it if another one is unknown each time', () => {
    const beats = new Heartbeats();
    for (let minute = 0; minute < 30; minute += 1) {
      expect(beats.beat(minute, { leader_unknown: [['one', 'two'][minute % 2] ?? ''] }).entered).toEqual(
        NOTHING,
      );
    }
  });

  test('starts over once the leader was known', () => {
    const beats = new Heartbeats();
    for (let minute = 0; minute < 30; minute += 1) {
      const leader_unknown = minute % 9 === 8 ? [] : ['constructor'];
      expect(beats.beat(minute, { leader_unknown }).entered).toEqual(NOTHING);
    }
  });
});

describe('a cluster whose leader cannot write', () => {
  test('enters the state at the fifth heartbeat in a row', () => {
    const beats = new Heartbeats();
    const entered = Array.from({ length: 12 }, (_, minute) =>
      beats.beat(minute, minute < 2 ? { leader_unknown: ['main'] } : { leader_cannot_write: ['main'] }),
    );
    expect(entered.map((one) => one.entered.leader_cannot_write.length)).toEqual([
      ...[0, 0, 0, 0, 0, 0, 1],
      ...[0, 0, 0, 0, 0],
    ]);
    expect(entered.flatMap((one) => one.entered.leader_unknown)).toEqual([]);
  });
});
