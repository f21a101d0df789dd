/**
 * CloudWatch's evaluation of alarms, as AWS's documentation describes it: "Using Amazon CloudWatch alarms", "How
 * alarm state is evaluated when data is missing". It does not say how many data points beyond EvaluationPeriods
 * are retrieved, so this is a parameter.
 */

import type { Condition } from '../../infra/monitoring/alarms.ts';

export type AlarmState = 'OK' | 'ALARM' | 'INSUFFICIENT_DATA';
/** A value of a metric; times in s. */
export interface Sample {
  readonly at: number;
  readonly value: number;
  /** How long it takes until CloudWatch has it. */
  readonly delay?: number;
}
/** The part of a condition that the evaluation of data points needs. */
export type Rule = Pick<Condition, 'EvaluationPeriods' | 'TreatMissingData'> & {
  /** Default: EvaluationPeriods. */
  readonly DatapointsToAlarm?: number;
};

/**
 * Evaluates an alarm once.
 *
 * @param points the evaluation range, the newest last: whether each breaches; undefined if it is missing
 * @param before the alarm's state
 */
export function evaluate(
  { EvaluationPeriods: n, DatapointsToAlarm: m = n, TreatMissingData }: Rule,
  points: readonly (boolean | undefined)[],
  before: AlarmState,
): AlarmState {
  const real = points.filter((point) => point !== undefined);
  const state = (breaching: number) => (breaching >= m ? 'ALARM' : 'OK');
  const count = (some: readonly boolean[]) => some.filter(Boolean).length;
  // Enough real ones: the most recent of them, wherever they are in the range.
  if (real.length >= n) return state(count(real.slice(-n)));
  // All real ones count, and as few missing ones as possible.
  const filled = n - real.length;
  if (TreatMissingData === 'breaching') return state(count(real) + filled);
  if (TreatMissingData === 'notBreaching') return state(count(real));
  // ignore: what is there decides only if it says more than that something is missing.
  return real.includes(false) ? state(count(real)) : before;
}

const STATISTICS: Readonly<Record<Condition['Statistic'], (values: readonly number[]) => number>> = {
  Sum: (values) => values.reduce((total, value) => total + value, 0),
  Minimum: (values) => Math.min(...values),
  Maximum: (values) => Math.max(...values),
};
const BREACHES: Readonly<
  Record<Condition['ComparisonOperator'], (value: number, threshold: number) => boolean>
> = {
  GreaterThanOrEqualToThreshold: (value, threshold) => value >= threshold,
  LessThanOrEqualToThreshold: (value, threshold) => value <= threshold,
  LessThanThreshold: (value, threshold) => value < threshold,
};

export interface WatchOptions {
  /** The value of periods without data (`FILL`), where the range has any data. */
  readonly fill?: number | undefined;
  /** How many data points beyond EvaluationPeriods are retrieved. */
  readonly extra: number;
  /** When in each minute the alarm is evaluated (s). */
  readonly phase: number;
  /** Until when (s). */
  readonly until: number;
  readonly state?: AlarmState;
}

/**
 * Evaluates an alarm every minute.
 *
 * @returns each change of its state: when (s), and to what
 */
export function watch(
  condition: Condition,
  samples: readonly Sample[],
  { fill, extra, phase, until, state = 'OK' }: WatchOptions,
): { at: number; state: AlarmState }[] {
  const { Statistic, Period, EvaluationPeriods, ComparisonOperator, Threshold } = condition;
  const byPeriod = Map.groupBy(samples, ({ at }) => Math.floor(at / Period) * Period);
  const changes: { at: number; state: AlarmState }[] = [];
  let last = state;
  for (let now = phase; now <= until; now += 60) {
    // Periods that have ended, aligned to the clock.
    const end = Math.floor(now / Period) * Period;
    const range = Array.from({ length: EvaluationPeriods + extra }, (_, index) => {
      const start = end - (EvaluationPeriods + extra - index) * Period;
      const arrived = byPeriod.get(start)?.filter(({ at, delay = 0 }) => at + delay <= now) ?? [];
      const values = arrived.map(({ value }) => value);
      return values.length > 0 ? STATISTICS[Statistic](values) : undefined;
    });
    const hasData = range.some((value) => value !== undefined);
    const points = range
      .map((value) => value ?? (hasData ? fill : undefined))
      .map((value) => (value === undefined ? undefined : BREACHES[ComparisonOperator](value, Threshold)));
    const next = evaluate(condition, points, last);
    if (next !== last) changes.push({ at: now, state: next });
    last = next;
  }
  return changes;
}
