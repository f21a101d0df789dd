/** Each alarm, evaluated by CloudWatch's rules, with what the function reports. */

import { readFileSync } from 'node:fs';
import { describe, expect, test, vi } from 'vitest';
import type { HeartbeatReport } from '../../functions/config-switch/ledger/stage.ts';
import { whatLasts } from '../../functions/config-switch/reconcile/lasting.ts';
import { ALARMS, type Alarm, alarms, alarmsFor, conditionOf } from '../../infra/monitoring/alarms.ts';
import { rollbackConfiguration } from '../../infra/monitoring/rollback.ts';
import { documentedCommand } from '../documentation.ts';
import { type AlarmState, evaluate, type Sample, watch } from './cloudwatch.ts';

const MINUTE = 60;
/** Where AWS's documentation leaves it open, or a deployment does: each of these must do. */
const PHASES = [0, 20, 59];
const EXTRAS = [2, 3, 5];
/** How long a record of the embedded metric format takes until it is a metric (s). */
const DELAYS = [0, 30];

const ALL = Object.assign({}, ...Object.values(ALARMS)) as Readonly<Record<string, Alarm>>;
function alarmOf(name: string): Alarm {
  const alarm = ALL[name];
  if (!alarm) throw new Error(`no alarm ${name}`);
  return alarm;
}

/** Runs a test for each phase of the evaluation, each range and each delay. */
function forEach(run: (options: { extra: number; phase: number; delay: number }) => void): void {
  for (const extra of EXTRAS)
    for (const phase of PHASES) for (const delay of DELAYS) run({ extra, phase, delay });
}

/** The changes of an alarm's state, in minutes. */
function changes(
  name: string,
  samples: readonly Sample[],
  options: { extra: number; phase: number; delay?: number; until?: number; state?: AlarmState },
) {
  const alarm = alarmOf(name);
  const { delay = 0 } = options;
  const late = samples.map((sample) => ({ delay, ...sample }));
  const given = { until: 60 * MINUTE, ...options, fill: alarm.fill };
  return watch(conditionOf(alarm), late, given).map(({ at, state }) => ({ minute: at / MINUTE, state }));
}

/** One sample a minute of a metric that each heartbeat reports, `undefined` for none; 7 s after the minute. */
const everyMinute = (count: number, valueAt: (minute: number) => number | undefined): Sample[] =>
  Array.from({ length: count }, (_, minute) => ({ at: minute * MINUTE + 7, value: valueAt(minute) })).filter(
    (sample): sample is Sample => sample.value !== undefined,
  );
const states = (list: readonly { state: AlarmState }[]) => list.map(({ state }) => state);

describe('the evaluation › is that of the tables in the documentation of AWS', () => {
  const points = (row: string) =>
    row.split(' ').map((one) => (one === '-' ? undefined : one === 'X')) as (boolean | undefined)[];
  const KEPT = 'INSUFFICIENT_DATA';
  test.each([
    [3, '0 - X - X', 'OK', 'OK', 'OK'],
    [3, '0 - - - -', 'OK', 'OK', 'OK'],
    [3, '- - - - -', KEPT, 'ALARM', 'OK'],
    [3, '0 X X - X', 'ALARM', 'ALARM', 'ALARM'],
    [3, '- - X - -', KEPT, 'ALARM', 'OK'],
    [2, '0 - X - X', 'ALARM', 'ALARM', 'ALARM'],
    [2, '0 0 X 0 X', 'ALARM', 'ALARM', 'ALARM'],
    [2, '0 - X - -', 'OK', 'ALARM', 'OK'],
    [2, '- - - - 0', 'OK', 'ALARM', 'OK'],
    [2, '- - - X -', KEPT, 'ALARM', 'OK'],
  ])('%i of 3: %s', (DatapointsToAlarm, row, ...expected) => {
    const evaluated = (['ignore', 'breaching', 'notBreaching'] as const).map((TreatMissingData) =>
      evaluate({ EvaluationPeriods: 3, DatapointsToAlarm, TreatMissingData }, points(row), KEPT),
    );
    expect(evaluated).toEqual(expected);
  });
});

describe('heartbeat-lost', () => {
  const lostAfter = (minutes: number) => everyMinute(60, (minute) => (minute < minutes ? 1 : undefined));
  const { within } = alarmOf('heartbeat-lost');

  /** Begins to evaluate at a minute at which the first heartbeats have arrived. */
  const forEachRunning = (run: Parameters<typeof forEach>[0]) =>
    forEach((options) => run({ ...options, phase: options.phase + 8 * MINUTE }));

  test('is raised 5 minutes after the last heartbeat, and within its time', () => {
    forEachRunning((options) => {
      const [raised, ...more] = changes('heartbeat-lost', lostAfter(20), options);
      const sinceLast = (raised?.minute ?? Number.NaN) - (19 + 7 / MINUTE);
      expect(sinceLast).toBeGreaterThanOrEqual(5);
      expect(sinceLast).toBeLessThanOrEqual(within);
      expect([raised?.state, more]).toEqual(['ALARM', []]);
    });
  });

  test('stays on for as long as there is none, and ends with the first one', () => {
    forEachRunning((options) => {
      const samples = everyMinute(60, (minute) => (minute < 10 || minute >= 40 ? 1 : undefined));
      const [, ended, ...more] = changes('heartbeat-lost', samples, options);
      expect([ended?.state, more]).toEqual(['OK', []]);
      expect(ended?.minute).toBeGreaterThan(40);
      expect(ended?.minute).toBeLessThanOrEqual(42.5);
    });
  });

  test('is raised if there has never been any', () => {
    forEach((options) => {
      expect(states(changes('heartbeat-lost', [], options))).toEqual(['ALARM']);
    });
  });

  test.each([
    ['every second one is missing', everyMinute(60, (minute) => (minute % 2 ? 1 : undefined))],
    ['four in a row are missing', everyMinute(60, (minute) => (minute % 5 ? undefined : 1))],
    [
      'they arrive three minutes late',
      everyMinute(60, () => 1).map((sample) => ({ ...sample, delay: 3 * MINUTE })),
    ],
    [
      'one takes 58 s and the next one none',
      everyMinute(60, () => 1).map(({ at, value }, index) => ({ at: at + (index % 2 ? 52 : 0), value })),
    ],
  ])('is not raised if %s', (_, samples) => {
    forEachRunning(({ extra, phase }) => {
      expect(changes('heartbeat-lost', samples, { extra, phase })).toEqual([]);
    });
  });
});

describe('pg-backup-api-unreachable', () => {
  const { within } = alarmOf('pg-backup-api-unreachable');
  const reported = (valueAt: (minute: number) => number | undefined) => everyMinute(60, valueAt);

  test('is raised at the fifth heartbeat in a row, within its time, and ends with the first that reaches it', () => {
    forEach((options) => {
      // Unreachable right after the heartbeat of minute 19.
      const samples = reported((minute) => (minute >= 20 && minute < 40 ? 1 : 0));
      const [raised, ended, ...more] = changes('pg-backup-api-unreachable', samples, options);
      expect([raised?.state, ended?.state, more]).toEqual(['ALARM', 'OK', []]);
      expect((raised?.minute ?? 0) - 19.2).toBeGreaterThan(5);
      expect((raised?.minute ?? 99) - 19.2).toBeLessThanOrEqual(within);
    });
  });

  test('stays on while nothing is reported: that is no recovery', () => {
    forEach((options) => {
      const samples = reported((minute) => (minute < 10 ? 0 : minute < 20 ? 1 : undefined));
      expect(states(changes('pg-backup-api-unreachable', samples, options))).toEqual(['ALARM']);
    });
  });

  test('is raised also if some are missing among the five', () => {
    forEach((options) => {
      const samples = reported((minute) => (minute < 10 ? 0 : minute === 12 ? undefined : 1));
      expect(states(changes('pg-backup-api-unreachable', samples, options))).toEqual(['ALARM']);
    });
  });

  test('is not raised if it is reachable in one of five', () => {
    forEach((options) => {
      const samples = reported((minute) => (minute % 5 === 4 ? 0 : 1));
      expect(changes('pg-backup-api-unreachable', samples, options)).toEqual([]);
    });
  });
});

/** Alarms whose metric counts what has entered a state. */
const DERIVED = ['pending', 'not-streaming', 'leader-cannot-write', 'leader-unknown'] as const;

describe('what lasts', () => {
  type State = (typeof DERIVED)[number];
  /**
   * The samples of an alarm's metric.
   *
   * @param isSo whether a server or cluster is in the state at a minute
   * @param phase of the heartbeats (s)
   */
  function samplesOf(
    state: State,
    names: Readonly<Record<string, (minute: number) => boolean>>,
    phase: number,
  ) {
    let before: Pick<HeartbeatReport, 'at' | 'lasting'> | undefined;
    const since = new Map<string, number>();
    const samples: Sample[] = [];
    for (let at = phase; at < 60 * MINUTE; at += MINUTE) {
      for (const [name, isSo] of Object.entries(names)) {
        if (!isSo(at / MINUTE)) since.delete(name);
        // What is pending is known since when; the others are first seen by a heartbeat.
        else if (!since.has(name)) {
          let start = at;
          if (state === 'pending') while (isSo((start - 1) / MINUTE)) start -= 1;
          since.set(name, start);
        }
      }
      const found = new Map([...since].map(([name, start]) => [name, start * 1_000]));
      const { lasting, entered } = whatLasts(
        {
          pending: state === 'pending' ? found : new Map(),
          not_streaming: state === 'not-streaming' ? found : new Map(),
          leader_cannot_write: state === 'leader-cannot-write' ? found : new Map(),
          leader_unknown: state === 'leader-unknown' ? found : new Map(),
        },
        before,
        at * 1_000,
        MINUTE * 1_000,
      );
      before = { at: new Date(at * 1_000).toISOString(), lasting };
      const count = Object.values(entered).flat().length;
      if (count > 0) samples.push({ at, value: count });
    }
    return samples;
  }

  test.each([
    ['pending', 5],
    ['not-streaming', 4],
    ['leader-cannot-write', 4],
    ['leader-unknown', 9],
  ] as const)('%s › is raised within its time, once', (state, least) => {
    for (const heartbeat of [1, 30, 59]) {
      const samples = samplesOf(state, { main: (minute) => minute >= 10 }, heartbeat);
      forEach((options) => {
        const [raised, ...more] = changes(state, samples, options);
        expect(raised?.state).toBe('ALARM');
        expect((raised?.minute ?? 0) - 10).toBeGreaterThanOrEqual(least);
        expect((raised?.minute ?? 99) - 10).toBeLessThanOrEqual(alarmOf(state).within);
        // No mail is sent for that: an occurrence has no OK.
        expect(states(more)).toEqual(['OK']);
      });
    }
  });

  test.each(DERIVED)('%s › is raised again for a second one, while the first one lasts', (state) => {
    const sick = { first: (minute: number) => minute >= 5, second: (minute: number) => minute >= 25 };
    forEach((options) => {
      const found = changes(state, samplesOf(state, sick, 30), options);
      expect(states(found)).toEqual(['ALARM', 'OK', 'ALARM', 'OK']);
      expect(found[2]?.minute).toBeGreaterThan(25);
    });
  });

  test.each(['not-streaming', 'leader-cannot-write', 'leader-unknown'] as const)(
    '%s › is not raised if another one is in that state each minute',
    (state) => {
      const names = [0, 1, 2].map((index) => [
        `name${index}`,
        (minute: number) => Math.floor(minute) % 3 === index,
      ]);
      expect(samplesOf(state, Object.fromEntries(names), 30)).toEqual([]);
    },
  );
});

describe('an alarm', () => {
  /** What counts occurrences, and is raised by so many in a minute. */
  const occurrences = Object.entries(ALL).filter(([, { isState, fill }]) => !isState && fill === undefined);

  test.each(occurrences.filter(([name]) => !DERIVED.some((state) => state === name)))(
    '%s › is raised by one occurrence, or as many as it names, within its time, and by no fewer',
    (name, { within }) => {
      const { Threshold, Period } = conditionOf(alarmOf(name));
      forEach((options) => {
        // In one period of the clock.
        const at = 20 * MINUTE + 1;
        const samples = Array.from({ length: Threshold }, () => ({ at, value: 1 }));
        const found = changes(name, samples, options);
        expect(states(found)).toEqual(['ALARM', 'OK']);
        expect((found[0]?.minute ?? 99) - at / MINUTE).toBeLessThanOrEqual(within);
        // It is raised again by what comes later than the evaluation range.
        expect((found[1]?.minute ?? 99) - 20).toBeLessThanOrEqual(
          ((2 + Math.max(...EXTRAS)) * Period) / MINUTE + 1,
        );
        expect(changes(name, samples.slice(1), options)).toEqual([]);
      });
    },
  );

  test.each([
    ['not-ready', 1, 0, 0],
    ['not-archived', 1, 0, 0],
    ['undeliverable-events', 1, 0, 0],
    ['certificate-30-days', 30, 31, 0],
    ['certificate-7-days', 7, 8, 0],
    // Its time begins four hours before.
    ['paused-pending', 14_400, 14_399, 240],
  ])(
    '%s › is raised by %i within its time and ends by %i, and if nothing is reported it is as it was',
    (name, bad, good, begun) => {
      const reported = everyMinute(1_200, (minute) =>
        minute < 180 ? good : minute < 400 ? bad : minute < 900 ? undefined : good,
      );
      forEach((options) => {
        const found = changes(name, reported, { ...options, until: 1_200 * MINUTE });
        expect(states(found)).toEqual(['ALARM', 'OK']);
        expect((found[0]?.minute ?? 999) - 180 + begun).toBeLessThanOrEqual(alarmOf(name).within);
        expect(found[1]?.minute).toBeGreaterThanOrEqual(900);
      });
    },
  );

  test('that reports a state keeps it while nothing is reported', () => {
    for (const [name, alarm] of Object.entries(ALL)) {
      if (alarm.isState && alarm.fill === undefined)
        expect(conditionOf(alarm).TreatMissingData, name).toBe('ignore');
    }
  });
});

test('rollback › watches for longer than each of its alarms takes', async () => {
  const { RollbackTriggers, MonitoringTimeInMinutes } = await rollbackConfiguration({
    options: {},
    resolveVariable: async (name) => (name === 'self:custom.parameters' ? { rollback: true } : 'prod'),
  });
  expect(RollbackTriggers.length).toBeGreaterThan(0);
  for (const { Arn } of RollbackTriggers) {
    const { within } = alarmOf(Arn.replace(/.*barman-config-switch-prod-/, ''));
    expect(MonitoringTimeInMinutes).toBeGreaterThanOrEqual(2 * within);
  }
});

test('docs/how-to/test-the-alarms.md › raises an alarm that undoes no deployment, and that sends no OK', async () => {
  const command = documentedCommand('docs/how-to/test-the-alarms.md', 'aws cloudwatch set-alarm-state');
  const [, name = ''] = /--alarm-name barman-config-switch-prod-([\w-]+) /.exec(command) ?? [];
  expect(alarmOf(name).isState).toBeUndefined();
  const { RollbackTriggers } = await rollbackConfiguration({
    options: {},
    resolveVariable: async (name) => (name === 'self:custom.parameters' ? { rollback: true } : 'prod'),
  });
  const page = readFileSync('docs/how-to/test-the-alarms.md', 'utf8');
  const watched = RollbackTriggers.map(({ Arn }) => Arn.replace(/.*barman-config-switch-prod-/, ''));
  expect(watched).not.toContain(name);
  expect(watched.length).toBe(3);
  for (const one of watched) expect(page).toContain(`\`${one}\``);
});

test('WITHOUT_METRIC_MATH › leaves out the one alarm with metric math, and says so', () => {
  const written = vi.spyOn(process.stderr, 'write').mockReturnValue(true);
  const { Resources } = alarmsFor({ WITHOUT_METRIC_MATH: 'true' });
  const output = written.mock.calls.map(([text]) => text).join('');
  written.mockRestore();
  const { HeartbeatLostAlarm, ...others } = alarms.Resources;
  expect(HeartbeatLostAlarm?.Properties).toMatchObject({ TreatMissingData: 'breaching' });
  expect(Resources).toEqual(others);
  expect(output).toBe('WITHOUT_METRIC_MATH is true: this stage has no alarm heartbeat-lost\n');
  expect(alarmsFor({})).toEqual(alarms);
});
