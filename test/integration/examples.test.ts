/** docs/examples/events/: each is sent to the function, as the page says. */

import { execFileSync } from 'node:child_process';
import { globSync, readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { Ajv } from 'ajv';
import { describe, expect, test } from 'vitest';
import { documentedBlock, example } from '../documentation.ts';
import { PatroniStandIn } from '../stand-ins/patroni-rest-api.ts';
import { fakeClock, startFunction } from './function.ts';

fakeClock();

const PAGE = 'docs/how-to/switch-by-hand.md';
const schema = (name: string) =>
  new Ajv().compile(JSON.parse(readFileSync(`docs/schema/${name}.json`, 'utf8')));
const [isPayload, isResponse] = [schema('payload'), schema('response')];

/** A function whose Patroni cluster main has the leader node1. */
async function start() {
  const stack = new AsyncDisposableStack();
  const patroni = stack.use(await PatroniStandIn.start());
  const run = stack.use(await startFunction());
  const models = { node1: 'pg:node1', node2: 'pg:node2' };
  run.host.put({ 'clusters/main': JSON.stringify({ servers: { main: models }, patroni: patroni.urls }) });
  return { run, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

const DONE = { exit_code: 0, barman_server: 'main', recorded: true };
/** File → what is returned, and Barman's model after it; it was pg:node1. */
const EXPECTED: Readonly<
  Record<string, { readonly response: object; readonly model: string | null; readonly alias?: string }>
> = {
  'dry-run.json': {
    response: {
      exit_code: 1,
      dry_run: true,
      message: expect.stringMatching(/^dry run: a switch would apply model pg:node2/),
    },
    model: 'pg:node1',
  },
  'role-change.json': { response: { ...DONE, barman_model: 'pg:node2' }, model: 'pg:node2' },
  'follow-leader.json': {
    response: { ...DONE, leader: 'node1', barman_model: 'pg:node1' },
    model: 'pg:node1',
  },
  'reset.json': { response: { ...DONE, reset: true }, model: null },
  'on-reload.json': {
    response: { exit_code: 1, message: expect.stringContaining('"on_reload"') },
    model: 'pg:node1',
  },
  'eventbridge.json': { response: { ...DONE, barman_model: 'pg:node2' }, model: 'pg:node2' },
  'heartbeat.json': { response: { pending: 0, applied: 0 }, model: 'pg:node1' },
  'inspection.json': {
    alias: 'inspection',
    response: { servers: [expect.objectContaining({ barman_server: 'main' })] },
    model: 'pg:node1',
  },
};

test('docs/examples/events/ › has the examples of the page, each of which is sent here', () => {
  const files = globSync('docs/examples/events/*').map((path) => basename(path));
  expect(files.sort()).toEqual(Object.keys(EXPECTED).sort());
  const page = readFileSync(PAGE, 'utf8');
  for (const file of files) expect(page).toContain(`| [\`${file}\`](../examples/events/${file}) |`);
});

describe.each(Object.entries(EXPECTED))('%s', (file, { response, model, alias }) => {
  const event = JSON.parse(example(`events/${file}`));

  test('gets the response that the page promises', async () => {
    await using test = await start();
    const { run } = test;
    run.host.api.setActiveModel('pg:node1');
    const returned = await run.send(event, 60_000, alias);
    expect(returned).toMatchObject(response);
    expect(run.host.api.activeModel()).toBe(model);
    if (!('exit_code' in response)) return;
    expect(isResponse(returned), JSON.stringify(isResponse.errors)).toBe(true);
    expect(
      Object.keys(Object(returned)).filter((key) => !(key in Object(isResponse.schema).properties)),
    ).toEqual([]);
    expect(isPayload('detail' in event ? event.detail : event), JSON.stringify(isPayload.errors)).toBe(true);
  });
});

test('docs/how-to/switch-by-hand.md › invokes the function with an example, and the alias with an inspection', () => {
  const commands = documentedBlock('docs/how-to/switch-by-hand.md', 'aws lambda invoke');
  // Only what it would send is of interest here.
  const aws = 'aws() { echo "$*"; }\ncat() { :; }';
  const printed = execFileSync('sh', ['-ec', `${aws}\n${commands}`], { encoding: 'utf8' })
    .trim()
    .split('\n');
  const sent = printed.map((line) => {
    const [, name = '', path = ''] = /--function-name (\S+) --payload fileb:\/\/(\S+)/.exec(line) ?? [];
    return [name, JSON.parse(readFileSync(path, 'utf8'))];
  });
  expect(sent).toEqual([
    ['barman-config-switch-prod', JSON.parse(example('events/dry-run.json'))],
    ['barman-config-switch-prod:inspection', { inspection: true }],
  ]);
});
