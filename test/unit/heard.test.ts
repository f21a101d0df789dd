/** The nodes whose callback has been heard: pure merge, what is stored, and many at the same moment. */

import fc from 'fast-check';
import { describe, expect, test, vi } from 'vitest';
import { LedgerError } from '../../functions/config-switch/errors.ts';
import { heardNode } from '../../functions/config-switch/event/event.ts';
import { parseRoleChange } from '../../functions/config-switch/event/payload.ts';
import { receive } from '../../functions/config-switch/event/receive.ts';
import { newFacts } from '../../functions/config-switch/invocation.ts';
import type { Condition, StoredChange } from '../../functions/config-switch/ledger/conditions.ts';
import {
  addHeard,
  type HeardNode,
  MAX_HEARD,
  readHeard,
} from '../../functions/config-switch/ledger/heard.ts';
import type { Item } from '../../functions/config-switch/ledger/item.ts';
import { Ledger } from '../../functions/config-switch/ledger/ledger.ts';
import { MemoryTable } from '../stand-ins/memory-table.ts';
import { httpEvent, PROMOTION } from '../stand-ins/webhook.ts';

const START = Date.parse('2026-11-28T12:00:00.000Z');
/** @param ms after the start */
const heard = (node: string, ms: number, version = '1.2.3'): HeardNode => ({
  ...{ node, at: new Date(START + ms).toISOString(), version },
});
const signal = () => new AbortController().signal;

describe('the nodes that were heard', () => {
  const add = (nodes: readonly HeardNode[], one: HeardNode) => addHeard(nodes, one) ?? nodes;

  test('are the 20 heard last, each with its last time, in whatever order their events arrive', () => {
    const event = fc.record({ node: fc.integer({ min: 0, max: 40 }), ms: fc.nat(100_000) });
    fc.assert(
      fc.property(fc.array(event, { maxLength: 120 }), (events) => {
        const given = events.map(({ node, ms }) => heard(`db${node}`, ms));
        const last = new Map<string, HeardNode>();
        for (const one of given) if ((last.get(one.node)?.at ?? '') < one.at) last.set(one.node, one);
        const key = ({ at, node }: HeardNode) => `${8.64e15 - Date.parse(at)} ${node}`;
        const expected = [...last.values()].sort((a, b) => (key(a) < key(b) ? -1 : 1)).slice(0, MAX_HEARD);
        expect(given.reduce(add, [])).toEqual(expected);
        expect([...given].reverse().reduce(add, [])).toEqual(expected);
      }),
    );
  });

  test('have the version of their last event, also if that has none', () => {
    const nodes = [heard('db1', 0, '1.0.0'), heard('db1', 1, '1.1.0')].reduce(add, []);
    expect(nodes).toEqual([heard('db1', 1, '1.1.0')]);
    const { version: _, ...unversioned } = heard('db1', 2);
    expect(add(nodes, unversioned)).toEqual([unversioned]);
  });

  test('are two if two clusters have a node of the same name', () => {
    const [dc1, dc2] = [
      { ...heard('db1', 1), cluster: 'dc1' },
      { ...heard('db1', 1), cluster: 'dc2' },
    ];
    expect([dc1, dc2].reduce(add, [])).toEqual([dc1, dc2]);
    expect([dc2, dc1].reduce(add, [])).toEqual([dc1, dc2]);
    const later = { ...heard('db1', 2), cluster: 'dc2' };
    expect(add([dc1, dc2], later)).toEqual([later, dc1]);
  });

  test('have no entry without a cluster any more once a node of that name is heard', () => {
    const dc1 = { ...heard('db1', 1), cluster: 'dc1' };
    const others = [heard('db2', 0), { ...heard('db1', 0), cluster: 'dc2' }];
    expect(add([...others, heard('db1', 0)], dc1)).toEqual([dc1, others[1], others[0]]);
  });

  test.each<[string, HeardNode]>([
    ['was heard at that moment', heard('db1', 5)],
    ['was heard later', heard('db1', 4)],
  ])('stay as they are if a node %s', (_, one) => {
    expect(addHeard([heard('db1', 5)], one)).toBeUndefined();
  });

  test('stay as they are if 20 others were heard later', () => {
    const nodes = Array.from({ length: 20 }, (_, index) => heard(`db${index}`, index + 1)).reduce(add, []);
    expect(addHeard(nodes, heard('old', 0))).toBeUndefined();
    expect(addHeard(nodes.slice(1), heard('old', 0))?.at(-1)).toEqual(heard('old', 0));
  });
});

describe('what is stored', () => {
  const nodes = [heard('db1', 0)];
  test.each<[string, unknown, object]>([
    ['nothing', undefined, { revision: undefined, nodes: [] }],
    ['nodes and a revision', { revision: 'r', nodes }, { revision: 'r', nodes }],
    [
      'nodes of two clusters',
      { revision: 'r', nodes: [{ ...heard('db1', 0), cluster: 'dc1' }] },
      { revision: 'r', nodes: [{ ...heard('db1', 0), cluster: 'dc1' }] },
    ],
    ['nodes of another form', { revision: 'r', nodes: [{ name: 'db1' }] }, { revision: 'r', nodes: [] }],
    ['something else', 'db1', { revision: undefined, nodes: [] }],
    ['a revision of another form', { revision: 7, nodes }, { revision: undefined, nodes }],
  ])('is read: %s', (_, stored, expected) => {
    expect(readHeard({ heard: stored })).toEqual(expected);
    expect(readHeard(undefined)).toEqual({ revision: undefined, nodes: [] });
  });
});

describe('the ledger', () => {
  const nodesOf = async (ledger: Ledger) => (await ledger.all(signal())).heard.get('main');

  test('remembers who was heard beside what an inspection found', async () => {
    const ledger = new Ledger(new MemoryTable());
    const inspection = { at: heard('', 0).at, findings: [], notes: ['n'], unseen: [] };
    const memory = { ...inspection, missing: [], connected: [] };
    await ledger.hear('main', heard('db1', 0), signal());
    await ledger.inspected('main', memory, signal());
    await ledger.hear('main', heard('db2', 1), signal());
    const { items, inspections } = await ledger.all(signal());
    expect([items, inspections.get('main')]).toEqual([[], memory]);
    expect(await nodesOf(ledger)).toEqual([heard('db2', 1), heard('db1', 0)]);
  });

  test('loses none of those that were heard at the same moment, whoever writes in between', async () => {
    const table = new MemoryTable();
    const ledger = new Ledger(table);
    vi.useFakeTimers();
    try {
      const all = Array.from({ length: 25 }, (_, index) => heard(`db${index}`, index));
      const done = Promise.all(all.map((one) => ledger.hear('main', one, signal())));
      await vi.runAllTimersAsync();
      await done;
      expect(await nodesOf(ledger)).toEqual(all.slice(5).reverse());
    } finally {
      vi.useRealTimers();
    }
  });

  test('does not write again if only the response to a write was lost', async () => {
    const table = new MemoryTable();
    const ledger = new Ledger(table);
    table.loseResponse = true;
    await ledger.hear('main', heard('db1', 0), signal());
    expect([await nodesOf(ledger), table.writes]).toEqual([[heard('db1', 0)], 1]);
  });

  test.each([['db1'], [['db1']], [{ revision: 7 }], [{ revision: 'r', nodes: ['db1'] }]])(
    'replaces who was heard if that is in another format (%j)',
    async (stored) => {
      const table = new MemoryTable();
      table.items.set('inspection#main', {
        barman_server: 'inspection#main',
        heard: stored,
      } as object as Item);
      await new Ledger(table).hear('main', heard('db1', 0), signal());
      expect(await nodesOf(new Ledger(table))).toEqual([heard('db1', 0)]);
    },
  );

  test('writes again later and later, after a second at most, and gives up if others write at each attempt', async () => {
    const attempts: number[] = [];
    class Contended extends MemoryTable {
      override async update(server: string, change: StoredChange, condition: Condition) {
        attempts.push(Date.now());
        await super.update(server, { heard: { revision: `${this.writes}`, nodes: [] } } as object, []);
        return super.update(server, change as object, condition);
      }
    }
    const table = new Contended();
    vi.useFakeTimers();
    const random = vi.spyOn(Math, 'random').mockReturnValue(1);
    try {
      const result = new Ledger(table).hear('main', heard('db1', 0), signal()).catch((error) => error);
      await vi.runAllTimersAsync();
      const message = 'too many callbacks of main are heard at the same moment; send the event again';
      expect(await result).toEqual(new LedgerError(message));
      expect(await result).toBeInstanceOf(LedgerError);
      expect(table.reads).toBe(10);
      const waits = attempts.slice(1).map((time, index) => time - (attempts[index] as number));
      expect(waits).toEqual([100, 200, 400, 800, 1_000, 1_000, 1_000, 1_000, 1_000]);
    } finally {
      random.mockRestore();
      vi.useRealTimers();
    }
  });
});

describe('an event', () => {
  const context = { getRemainingTimeInMillis: () => 0, awsRequestId: 'request' } as never;
  const given = (event: unknown, payload: object = {}) => {
    const received = receive(event, context);
    const roleChange = parseRoleChange({ ...PROMOTION, node: 'db1', ...payload });
    return heardNode({ ...received, facts: { ...newFacts(), roleChange } });
  };
  const webhook = (agent: string) => httpEvent('', { 'user-agent': agent }, { timeEpoch: START });

  test.each([
    ['barman_config_switch/1.2.3', '1.2.3'],
    ['barman_config_switch/1.2.3 Python/3.6', '1.2.3'],
    ['barman_config_switch/1.2.3-rc.1+5', '1.2.3-rc.1+5'],
    ['barman_config_switch/', undefined],
    [`barman_config_switch/${'1'.repeat(33)}`, undefined],
    ['barman_config_switch/1\u001b[2J', undefined],
    ['curl/8.5.0 barman_config_switch/1.2.3', undefined],
  ])('is from a callback of the version in its header (%s)', (agent, version) => {
    expect(given(webhook(agent))).toEqual({
      ...{ node: 'db1', cluster: 'main', at: '2026-11-28T12:00:00.000Z' },
      ...(version !== undefined && { version }),
    });
  });

  test('has no version without that header, and was heard when it arrived, however old it is', () => {
    expect(given(httpEvent('', {}, { timeEpoch: START }), { age_ms: 60_000 })).toEqual({
      ...{ node: 'db1', cluster: 'main', at: '2026-11-28T12:00:00.000Z' },
    });
    const detail = { version: '0', id: '1', 'detail-type': 't', time: '2026-11-28T12:00:00.5Z', detail: {} };
    expect(given(detail)).toEqual({ node: 'db1', cluster: 'main', at: '2026-11-28T12:00:00.500Z' });
    expect(given({})?.version).toBeUndefined();
  });

  test.each([[undefined], [''], [7]])('without a host name is from no node (%j)', (node) => {
    expect(given({}, { node })).toBeUndefined();
  });
});
