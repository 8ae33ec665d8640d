"""Learning curves as lines: pairs of step and value, made from the points that records have."""

import math
from collections.abc import Sequence

import numpy as np

from lora_bench.records.record import CurvePoint, Record

Line = list[tuple[float, float]]


def losses_of(curve: Sequence[CurvePoint]) -> Line:
    """Step and training loss of the points that have a finite one."""
    return [(point.step, point.loss) for point in curve if point.loss is not None and math.isfinite(point.loss)]


def scores_of(curve: Sequence[CurvePoint], metric: str | None) -> Line:
    """Step and score of the evaluations that have one in *metric*; none where a task has no metric."""
    if metric is None:
        return []
    found = [(point.step, (point.scores or {}).get(metric)) for point in curve]
    return [(step, score) for step, score in found if score is not None and math.isfinite(score)]


def timed_line(record: Record) -> Line:
    """Return the seconds and scores of a run on its way; empty without two scores, or without their times.

    A record without a clock has them at steps times its mean seconds a step, which a resumed run does not know.
    """
    speed, steps, metric = record.speed, record.spec.training.steps, record.spec.task.metric
    if record.status != "ok" or speed is None:
        return []
    points = [point for point in record.curve if point.scores is not None]
    done = steps if speed.train_steps is None else speed.train_steps
    if is_clocked(record):
        at = dict(zip((point.step for point in points), speed.score_seconds or (), strict=True))
    elif record.resumed or not speed.train_seconds or not done:
        return []
    else:
        at = {point.step: point.step * speed.train_seconds / done for point in points}
    line = [(at[int(step)], value) for step, value in scores_of(points, metric)]
    return line if len(line) > 1 else []


def is_clocked(record: Record) -> bool:
    """Return True if a record has the seconds of training at each score of its curve."""
    scored = sum(point.scores is not None for point in record.curve)
    return record.speed is not None and len(record.speed.score_seconds or ()) == scored > 0


def thinned(line: Line, most: int) -> Line:
    """Return a line with at most so many points: means of as many neighbours each, at the last of their steps."""
    window = max(1, -(-len(line) // most))
    groups = [line[start : start + window] for start in range(0, len(line), window)]
    return [(group[-1][0], math.fsum(value for _, value in group) / len(group)) for group in groups]


def mean_line(lines: Sequence[Line]) -> Line:
    """Return the mean of lines over the steps that all of them span, each going straight from point to point."""
    lines = [line for line in lines if line]
    if not lines:
        return []
    first, last = max(line[0][0] for line in lines), min(line[-1][0] for line in lines)
    steps = sorted({step for line in lines for step, _ in line if first <= step <= last})
    means = np.mean([values_at(line, steps) for line in lines], axis=0)
    return list(zip(steps, means.tolist(), strict=True))


def values_at(line: Line, steps: Sequence[float]) -> list[float]:
    """Return the values of a line at steps, or at seconds, between its ends."""
    known, values = zip(*line, strict=True)
    return [*map(float, np.interp(steps, known, values))]
