/** The fault matrix of Patroni's REST API, for role changes that follow the leader. */

import { ExitCode } from '../../functions/config-switch/exit-code.ts';
import type { Answer } from '../stand-ins/patroni-rest-api.ts';
import { PatroniStandIn } from '../stand-ins/patroni-rest-api.ts';
import { type Break, done, kept, type More, type Row, SHORT, testFaults } from './faults.ts';
import { FOLLOWING } from './function.ts';

const MODELS = { node1: 'pg:node1', node2: 'pg:node2' };
/** A cluster whose leader is node2. @param broken what is wrong @param change of its parameter */
const patroni =
  (broken: (patroni: PatroniStandIn) => Promise<void> | void, change: object = {}): Break =>
  async ({ host }) => {
    const standIn = await PatroniStandIn.start({ nodes: ['node1', 'node2', 'node3'] });
    standIn.leader = 'node2';
    const settings = { servers: { main: MODELS }, patroni: standIn.urls, ...change };
    host.put({ 'clusters/main': JSON.stringify(settings) });
    await broken(standIn);
    return async () => {
      host.put({ 'clusters/main': undefined });
      await standIn[Symbol.asyncDispose]();
    };
  };
const answers =
  (answer: (node: string, path: string, normal: Answer) => Answer | undefined) =>
  (standIn: PatroniStandIn): void => {
    standIn.answer = answer;
  };
/** Another parameter is wrong, too. */
const alongside =
  (name: string, value: string, other: Break): Break =>
  async (run) => {
    const repair = await other(run);
    run.host.put({ [name]: value });
    return async () => {
      run.host.put({ [name]: undefined });
      await repair?.();
    };
  };
const fine = patroni(() => {});
const followed = (broken: Break): Row => done(broken, { payload: FOLLOWING });
/** Nothing is recorded: the event is to be sent again. */
const unknown = (says: RegExp, broken: Break, more: More = {}): Row => ({
  ...kept(says, broken),
  ...{ status: 503, recorded: false, payload: FOLLOWING },
  ...more,
});

testFaults({
  'a node is down': followed(patroni((standIn) => standIn.stop('node1'))),
  'a node does not answer': followed(
    patroni(answers((node, _, normal) => (node === 'node1' ? undefined : normal))),
  ),
  'a node answers with something else': followed(
    patroni(answers((node, _, normal) => (node === 'node1' ? { status: 502, body: '<html>' } : normal))),
  ),
  'the leader is unknown for a moment': followed(
    patroni((standIn) => {
      standIn.leader = undefined;
      setTimeout(() => {
        standIn.leader = 'node2';
      }, 700);
    }),
  ),
  'all nodes are down': unknown(
    /is not known: no node answered: .*ECONNREFUSED/,
    patroni(async (standIn) => {
      for (const node of ['node1', 'node2', 'node3']) await standIn.stop(node);
    }),
  ),
  'no node answers, and time runs out': unknown(/no result within/, patroni(answers(() => undefined)), {
    ...{ status: 504, remaining: SHORT },
  }),
  'the leader has no model': unknown(
    /the leader node2 has no model for Barman server main; add it to the parameter clusters\/main/,
    patroni(() => {}, { servers: { main: { node1: 'pg:node1' } } }),
  ),
  'a certificate for Patroni is malformed': unknown(
    /is not known: .*patroni-ca-cert is malformed/,
    alongside('patroni-ca-cert', 'x', fine),
  ),
  'the parameter of the cluster is malformed': unknown(
    /it may be this one: .*clusters\/main is malformed/,
    patroni(() => {}, { servers: 1 }),
  ),
  'no cluster lists the server with its members': unknown(
    /needs a parameter clusters\/NAME that lists Barman server main with its members, and has the key "patroni"/,
    patroni(() => {}, { servers: { main: {} } }),
    { exitCode: ExitCode.INVALID_ARGS, status: 400 },
  ),
  'the cluster has no URLs': unknown(
    /there is none: add it, or send barman_model or reset instead/,
    patroni(() => {}, { patroni: undefined }),
    { exitCode: ExitCode.INVALID_ARGS, status: 400 },
  ),
});
