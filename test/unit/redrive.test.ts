import { readFileSync } from 'node:fs';
import { beforeEach, describe, expect, test, vi } from 'vitest';
import { type Message, redrive } from '../../cli/redrive.ts';
import type { Item, RecordedItem } from '../../functions/config-switch/ledger/item.ts';
import { versionOf } from '../../functions/config-switch/version.ts';

const FAILED_AT = Date.parse('2026-11-23T06:10:00.000Z');
const HOUR = 3_600_000;
const PAYLOAD = {
  action: 'on_role_change',
  role: 'primary',
  cluster: 'c',
  barman_server: 'main',
  reset: true,
};
const EVENT = {
  id: 'e1',
  'detail-type': 'Patroni role change',
  time: '2026-11-23T06:09:00Z',
  detail: PAYLOAD,
};
const ofLambda = (requestPayload: unknown, change: object = {}) => ({
  version: '1.0',
  timestamp: new Date(FAILED_AT).toISOString(),
  requestContext: { requestId: 'r1', condition: 'RetriesExhausted', ...change },
  requestPayload,
});

let invoked: unknown[];
let response: unknown;
let item: Item | undefined;
let inFlight: number;
/** What the queue answers instead. */
let refused: Partial<Record<'receive' | 'delete' | 'release', Error>>;
/** What has happened, in order. */
let happened: string[];
beforeEach(() => {
  inFlight = 0;
  refused = {};
  happened = [];
  invoked = [];
  response = { exit_code: 0, recorded: true, message: 'so it is' };
  item = undefined;
});

/** Redrives a queue with these bodies. @returns the result, what was printed, and the bodies that are left */
async function run(...bodies: unknown[]) {
  const messages = bodies.map((body, index) => ({
    id: `m${index}`,
    receipt: `receipt ${index}`,
    body: typeof body === 'string' ? body : JSON.stringify(body),
  }));
  const queue: { visible: Message[]; invisible: Message[] } = { visible: messages, invisible: [] };
  const printed: string[] = [];
  const log = vi.spyOn(console, 'log').mockImplementation((line) => {
    printed.push(line);
    happened.push(line);
  });
  const without = (list: Message[], message: Message) => list.filter(({ id }) => id !== message.id);
  const answer = (request: keyof typeof refused) => {
    if (refused[request]) throw refused[request];
  };
  const result = await redrive({
    queue: {
      inFlight: async () => inFlight + queue.invisible.length,
      receive: async () => {
        if (happened.length > 0) answer('receive');
        const received = queue.visible.splice(0, 2);
        queue.invisible.push(...received);
        return received;
      },
      delete: async (message) => {
        answer('delete');
        happened.push(`delete ${message.id}`);
        queue.invisible = without(queue.invisible, message);
      },
      release: async (message) => {
        happened.push(`release ${message.id}`);
        answer('release');
        queue.invisible = without(queue.invisible, message);
        queue.visible.push(message);
      },
    },
    ledger: { get: async () => item },
    invoke: async (event) => {
      invoked.push(event);
      if (response instanceof Error) throw response;
      return response;
    },
  });
  log.mockRestore();
  if (!refused.release) expect(queue.invisible).toEqual([]);
  return { ...result, printed, left: queue.visible.map(({ id }) => id) };
}

describe('redrive', () => {
  test('of an empty queue does nothing', async () => {
    expect(await run()).toEqual({
      deleted: 0,
      left: [],
      inFlight: 0,
      printed: ['0 deleted, 0 left in the queue'],
    });
  });

  test.each([
    ["EventBridge's queue", EVENT],
    ['Lambda', ofLambda(EVENT)],
  ])('sends an event from %s as it was, and deletes it once it is recorded', async (_, body) => {
    expect(await run(body)).toMatchObject({ deleted: 1, left: [] });
    expect(invoked).toEqual([EVENT]);
  });

  test('says that a message is deleted once it is', async () => {
    await run(EVENT);
    expect(happened).toEqual(['delete m0', 'm0: deleted: so it is', '1 deleted, 0 left in the queue']);
  });

  test('leaves a message that could not be deleted, and says so', async () => {
    refused.delete = new Error('AccessDenied');
    const { deleted, left, printed } = await run(EVENT, EVENT);
    expect([deleted, left]).toEqual([0, ['m0', 'm1']]);
    expect(printed).toEqual([
      'm0: left in the queue: so it is; but the message could not be deleted: AccessDenied; to send it again does no harm',
      expect.stringMatching(/^m1: left in the queue: /),
      '0 deleted, 2 left in the queue',
    ]);
  });

  test('releases what is left also if the queue cannot be read any more', async () => {
    response = null;
    refused.receive = new Error('no queue');
    await expect(run(EVENT, EVENT, EVENT)).rejects.toThrow('no queue');
    expect(happened.slice(2)).toEqual(['release m0', 'release m1']);
  });

  test('says when a message that could not be released is visible again, and releases the others', async () => {
    response = null;
    refused.release = new Error('expired');
    const { printed } = await run(EVENT, EVENT);
    expect(happened.filter((line) => line.startsWith('release'))).toEqual(['release m0', 'release m1']);
    expect(printed.slice(2)).toEqual([
      'm0: visible again only in 10 minutes: expired',
      'm1: visible again only in 10 minutes: expired',
      '0 deleted, 2 left in the queue',
    ]);
  });

  test('says that messages were in flight that it could not receive', async () => {
    inFlight = 3;
    const { inFlight: reported, printed } = await run(EVENT);
    expect(reported).toBe(3);
    expect(printed.slice(1)).toEqual([
      '1 deleted, 0 left in the queue',
      'When this began, about 3 more were in flight: another run had received them, perhaps one that was interrupted. ' +
        'What it has not deleted is visible again within 10 minutes: run this again then.',
    ]);
  });

  test('prints one line for each message, whatever it is answered', async () => {
    response = { exit_code: 4, recorded: false, message: 'a\nm1: deleted: \u202eb' };
    expect((await run(EVENT)).printed[0]).toBe('m0: left in the queue: a\\u000am1: deleted: \\u202eb');
  });

  test('prints what the documentation shows', async () => {
    response = { exit_code: 0, recorded: true, message: 'Barman server main now uses model pg:node2' };
    const { printed } = await run(EVENT, 'not JSON');
    const page = readFileSync('docs/how-to/redrive.md', 'utf8');
    const shown = page.replaceAll(/^[0-9a-f-]{36}(?=: (deleted|left))/gm, (_, what) =>
      what === 'deleted' ? 'm0' : 'm1',
    );
    expect(shown).toContain(`\`\`\`\n${printed.join('\n')}\n\`\`\`\n`);
  });

  test('deletes an event that is not to be followed', async () => {
    response = { exit_code: 1, recorded: false, message: 'skipped' };
    expect(await run(EVENT)).toMatchObject({
      left: [],
      printed: ['m0: deleted: skipped', expect.any(String)],
    });
  });

  test.each([
    ['invalid', { exit_code: 4, recorded: false, message: 'role is missing' }, 'role is missing'],
    ['not recorded', { exit_code: 3, recorded: false, message: 'no ledger' }, 'no ledger'],
    ['not answered', new Error('the function failed: no'), 'the function failed: no'],
    ['answered with nothing', null, 'the response of the function is not as expected'],
  ])('leaves an event that is %s, and goes on', async (_, given, text) => {
    response = given;
    const { printed, left } = await run(EVENT, EVENT, EVENT);
    expect(left).toEqual(['m0', 'm1', 'm2']);
    expect(printed[0]).toBe(`m0: left in the queue: ${text}`);
    expect(printed.at(-1)).toBe('0 deleted, 3 left in the queue');
  });

  const MALFORMED = [
    '',
    'x',
    '7',
    'null',
    '[]',
    '{}',
    '{"detail":{}}',
    '{"detail-type":"","detail":{},"time":{"toString":0}}',
  ];
  test.each([...MALFORMED, ofLambda(undefined), ofLambda('x'), ofLambda({})])(
    'leaves a malformed message (%j), and goes on',
    async (body) => {
      const { printed, left } = await run(body, EVENT);
      expect([left, invoked]).toEqual([['m0'], [EVENT]]);
      expect(printed[0]).toMatch(
        /^m0: left in the queue: (malformed: |the payload must be |action is missing; )/,
      );
    },
  );

  test('sends an event of EventBridge again whatever else Lambda says about it', async () => {
    const { left } = await run({ requestContext: {}, requestPayload: EVENT });
    expect([left, invoked]).toEqual([[], [EVENT]]);
  });

  test.each([
    ['without a request id', { ...ofLambda(PAYLOAD), requestContext: {} }],
    ['without a time', { ...ofLambda(PAYLOAD), timestamp: 'now' }],
    ['without a server', ofLambda({ ...PAYLOAD, barman_server: undefined })],
  ])('leaves a direct payload %s', async (_, body) => {
    expect(await run(body)).toMatchObject({ left: ['m0'], deleted: 0 });
    expect(invoked).toEqual([]);
  });

  test('deletes a heartbeat', async () => {
    expect(await run(ofLambda({ heartbeat: true }))).toMatchObject({ left: [], deleted: 1 });
    expect(invoked).toEqual([]);
  });

  const known = (age: number, id: string): RecordedItem => ({
    barman_server: 'main',
    desired: { target: 'reset', version: versionOf(FAILED_AT - age, id), cluster: 'c', recorded_at: 'now' },
  });
  test.each<[string, Item | undefined]>([
    ['no role change is known', undefined],
    ['none has been recorded', { barman_server: 'main' }],
    ['the newest is older than any event of that record', known(6 * HOUR, 'other')],
    ['the newest is itself', known(0, 'r1')],
  ])('sends a direct payload under its first request id if %s', async (_, known) => {
    item = known;
    expect(await run(ofLambda(PAYLOAD))).toMatchObject({ left: [], deleted: 1 });
    const first = { id: 'r1', source: 'patroni', time: '2026-11-23T06:10:00.000Z' };
    expect(invoked).toEqual([{ ...EVENT, ...first }]);
  });

  test('leaves a direct payload if a role change is known that may be newer', async () => {
    const newest = known(6 * HOUR - 1, 'other');
    item = newest;
    const { printed, left } = await run(ofLambda(PAYLOAD));
    expect([left, invoked]).toEqual([['m0'], []]);
    expect(printed[0]).toContain(`main has a role change that may be newer (${newest.desired.version})`);
  });
});
