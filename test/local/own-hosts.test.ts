/** Which model belongs to which member, guessed. */

import * as v from 'valibot';
import { describe, expect, test } from 'vitest';
import {
  DiagnoseOutput,
  type Diagnosis,
  readDiagnosis,
} from '../../functions/config-switch/barman/diagnosis.ts';
import type { Member } from '../../functions/config-switch/patroni/survey.ts';
import { connectionsTo, diagnosedModel, diagnosedServer, diagnosis } from '../stand-ins/diagnose.ts';
import { guessServers } from './own-hosts.ts';

/** @param models Barman cluster → model → host */
function barman(models: Readonly<Record<string, Readonly<Record<string, string>>>>): Diagnosis {
  const servers = Object.keys(models).map((name) => [name, diagnosedServer(name)]);
  const all = Object.entries(models).flatMap(([cluster, of]) =>
    Object.entries(of).map(([name, host]) => [name, diagnosedModel({ cluster, ...connectionsTo(host) })]),
  );
  const output = diagnosis({ servers: Object.fromEntries(servers), models: Object.fromEntries(all) });
  return readDiagnosis(v.parse(DiagnoseOutput, output));
}

/** @param hosts of each member */
function members(hosts: Readonly<Record<string, string>>): Member[] {
  return Object.entries(hosts).map(([name, host]) => ({
    ...{ name, host, port: 5432, isRunning: true, canLead: true },
  }));
}

const TWO = members({ node1: '10.0.1.11', node2: '10.0.1.12' });

describe('guessServers', () => {
  test('takes the model that connects to the member, whatever its name', () => {
    const hosts = { 'pg:a-node2': '10.0.1.11', 'pg:b-node1': '10.0.1.12', 'pg:node1': '10.0.1.99' };
    expect(guessServers(TWO, barman({ main: hosts }), undefined)).toEqual({
      main: { node1: 'pg:a-node2', node2: 'pg:b-node1' },
    });
  });

  test('takes the model with the name of the member, if none connects to it', () => {
    const hosts = { 'pg:node1': 'vip', 'pg:node11': 'vip', 'pg:xnode2': 'vip', node2: 'vip' };
    expect(guessServers(TWO, barman({ main: hosts }), undefined)).toEqual({
      main: { node1: 'pg:node1', node2: 'node2' },
    });
  });

  test('takes that with its name, too, if several connect to it', () => {
    const hosts = { other: '10.0.1.11', 'pg:node1': '10.0.1.11' };
    expect(guessServers(TWO, barman({ main: hosts }), undefined)).toEqual({ main: { node1: 'pg:node1' } });
  });

  test('leaves out servers whose models have the names only, if others connect to the members', () => {
    const main = { 'pg:node1': '10.0.1.11', 'pg:node2': '10.0.1.12' };
    const crm = { 'crm:node1': '10.0.2.11', 'crm:node2': '10.0.2.12' };
    expect(guessServers(TWO, barman({ crm, main }), undefined)).toEqual({
      main: { node1: 'pg:node1', node2: 'pg:node2' },
    });
    expect(guessServers(TWO, barman({ crm, main }), 'crm')).toEqual({
      crm: { node1: 'crm:node1', node2: 'crm:node2' },
    });
  });

  test('leaves out members that cannot lead', () => {
    const [one, two] = TWO as [Member, Member];
    const hosts = { 'pg:node1': '10.0.1.11', 'pg:node2': '10.0.1.12' };
    expect(guessServers([one, { ...two, canLead: false }], barman({ main: hosts }), undefined)).toEqual({
      main: { node1: 'pg:node1' },
    });
  });

  test.each<[string, Parameters<typeof barman>[0], string | undefined, string]>([
    ['no model matches', { main: { other: 'vip' } }, undefined, 'no model of Barman connects to a member'],
    [
      'there is no model',
      { main: {} },
      undefined,
      'Barman has the models (none), Patroni the members node1 (10.0.1.11)',
    ],
    [
      'several servers match by name',
      { main: { 'pg:node1': 'vip' }, crm: { 'crm:node1': 'vip' } },
      undefined,
      'models of several Barman servers match by name: main, crm; choose one with --barman-server',
    ],
    [
      'Barman lacks the server',
      { main: { 'pg:node1': 'vip' } },
      'crm',
      '--barman-server: Barman has no server crm; it has main',
    ],
  ])('says what to do if %s', (_, models, only, message) => {
    expect(() => guessServers(TWO, barman(models), only)).toThrow(message);
  });
});
