"""Learning curves of runs: those that were still improving when their budget ended, and scores against time.

docs/budgets.md#still-improving has the rule. The middles of the two parts of a curve are a factor of 2.5 apart, so a gain is
one that more than a doubling of the steps brought. The noise of a point comes from the median distance between a point and the
middle of the two beside it, which is nothing on a straight line, and 0.826 standard deviations of independent normal errors.
"""

import math
import statistics
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from lora_bench.records.record import Record
from lora_bench.report.blocks import Block, Heading, TextTable
from lora_bench.report.figures.curves import Line, is_clocked, timed_line, values_at
from lora_bench.report.model.comparison import Comparison, ModelTable, rows_of
from lora_bench.report.model.rows import Row
from lora_bench.report.sections import method_tables as tables
from lora_bench.report.text import code, plural, rate, score

POINTS = 4
LOSS_POINTS = 10
# Of flat curves a tenth is above: one-sided, normal.
LEVEL = 1.28
# Median of |e| for e = x − (y + z) / 2, of standard deviation √1.5.
OF_NOISE = 0.6745 * math.sqrt(1.5)


def still_improving(record: Record) -> bool:
    """Tell if a run was still improving at the end of its budget; False too where its curve is too short.

    The decay of a run that was trained until a plateau raises its score, and tells nothing of longer training.
    """
    values, sign = _points(record)
    if record.plateau is not None or len(values) < POINTS:
        return False
    early, late = values[len(values) // 6 : len(values) // 2], values[2 * len(values) // 3 :]
    neighbours = zip(values, values[1:], values[2:], strict=False)
    distance = statistics.median(abs(here - (before + after) / 2) for before, here, after in neighbours)
    noise = distance / OF_NOISE * math.sqrt(1 / len(early) + 1 / len(late))
    # Points that are all the same may have means that differ by rounding.
    rounding = 1e-12 * max(map(abs, values))
    return sign * (statistics.fmean(late) - statistics.fmean(early)) > LEVEL * noise + rounding


def unfinished_runs(comparison: Comparison) -> tuple[int, int, int]:
    """Count the results that were still improving when their budget ended, those that a cap ended, and all that ended `ok`."""
    runs = _results(comparison)
    return sum(map(still_improving, runs)), sum(map(_capped, runs)), len(runs)


def plateau_blocks(comparison: Comparison) -> list[Block]:
    """Say how many runs until a plateau ended by their cap or before a rise, and of which methods; empty without such runs."""
    ended = _until_plateau(comparison)
    if not ended:
        return []
    capped, unrisen = (_of_methods(filter(which, ended)) for which in (_capped, _unrisen))
    said = f"{capped or 'none'} of {plural(len(ended), 'run')} that were trained until a plateau ended by the cap"
    early = f", {unrisen} as soon as the rule allows, before their score had risen once" if unrisen else ""
    more = " More work may change their scores." if capped or unrisen else ""
    return [f"{said[0].upper()}{said[1:]}{early}.{more}"]


def unrisen_runs(comparison: Comparison) -> tuple[int, int]:
    """Count the results that ended at a plateau before their score had risen once, and those trained until a plateau."""
    ended = _until_plateau(comparison)
    return sum(map(_unrisen, ended)), len(ended)


def _until_plateau(comparison: Comparison) -> list[Record]:
    return [run for run in _results(comparison) if run.plateau is not None]


def _of_methods(runs: Iterable[Record]) -> str:
    """Return the number of runs and how many each method has, such as "5 (`full` 2, `lora` 3)"; "" for none."""
    found = Counter(run.spec.method.label for run in runs)
    return f"{found.total()} ({', '.join(f'{code(label)} {found[label]}' for label in sorted(found))})" if found else ""


def _capped(record: Record) -> bool:
    return record.plateau is not None and record.plateau.by == "cap"


def _unrisen(record: Record) -> bool:
    """Tell if a run ended at a plateau before a score had risen above its first."""
    end, rule = record.plateau, record.spec.training.plateau
    if end is None or end.by == "cap" or rule is None:
        return False
    metric, sign = record.spec.task.metric, 1 if record.spec.task.higher_is_better else -1
    counted = range(record.spec.training.warmup_steps or 0, end.decay_after + 1)
    points = [point.scores or {} for point in record.curve if point.step in counted]
    scores = [sign * found[metric] for found in points if metric in found]
    return not scores or max(scores) <= scores[0] + rule.rise


def _results(comparison: Comparison) -> list[Record]:
    """Return the runs that are results and ended `ok`, each once."""
    results = (place for place in rows_of(comparison.settings) if not (place.setting.search or place.setting.trials))
    found = {run.run_id: run for place in results for run in place.row.records if run.status == "ok"}
    return [*found.values()]


def improving_blocks(comparison: Comparison) -> list[Block]:
    """Say how many results were still improving when their budget ended, and of which methods; empty without such runs."""
    runs = _results(comparison)
    number = _of_methods(filter(still_improving, runs))
    if not number:
        return []
    how = "[were still improving](/docs/budgets.md#still-improving)"
    return [f"{number} of {plural(len(runs), 'run')} {how} when their budget ended. More work may change their scores."]


def _points(record: Record) -> tuple[list[float], int]:
    """Return the curve that tells most, and 1 if a rise of it is better, else -1.

    That is of scores on the selection split, or of the training loss.
    """
    metric, higher = record.spec.task.metric, record.spec.task.higher_is_better
    scores = [point.scores[metric] for point in record.curve if point.scores is not None and metric in point.scores]
    if metric is not None and higher is not None and len(scores) >= POINTS:
        return scores, 1 if higher else -1
    losses = [point.loss for point in record.curve if point.loss is not None]
    return losses if len(losses) >= LOSS_POINTS else [], -1


class _OverTime(NamedTuple):
    """A method with the seconds and scores of its runs, and the mean seconds of its training."""

    row: Row
    runs: list[Record]
    lines: list[Line]
    seconds: float

    @property
    def alone(self) -> bool:
        """True if all of its runs had the machine for themselves."""
        return all(run.speed is not None and run.speed.exclusive for run in self.runs)

    def at(self, seconds: float) -> float | None:
        """Return the mean score after so many seconds, or at the end of a run that took fewer; None before a run's first."""
        if any(seconds < line[0][0] for line in self.lines):
            return None
        return statistics.fmean(values_at(line, [seconds])[0] for line in self.lines)


def _over_time(table: ModelTable) -> list[_OverTime]:
    """Return the methods of a table whose runs have scores over seconds, the cheapest first; empty for less than two."""
    found = []
    for row in table.rows:
        runs = [run for run in row.records if timed_line(run)]
        lines = [*map(timed_line, runs)]
        if lines:
            found.append(_OverTime(row, runs, lines, statistics.fmean(line[-1][0] for line in lines)))
    return sorted(found, key=lambda one: one.seconds) if len(found) > 1 else []


def over_time_section(comparison: Comparison) -> list[Block]:
    """Return the section, empty for runs without scores on the way."""
    results = (setting for setting in comparison.results if not setting.search and not setting.trials)
    places = [(setting, table, _over_time(table)) for setting in results for table in setting.tables]
    every = [one for _, _, methods in places for one in methods]
    if not every:
        return []
    shared = "other work ran on the machine meanwhile, or the record does not say, so these seconds are rough."
    alone = "Every run had the machine for itself." if all(one.alone for one in every) else f"{tables.SHARED}: {shared}"
    clock = (
        "Seconds are those of training, without evaluations."
        if all(is_clocked(run) for one in every for run in one.runs)
        else "Seconds are steps times the mean seconds of a step of the run, without evaluations."
    )
    header = ["task", "base model", "method", "training, s", "score when the cheapest ended", "score at its own end"]
    lines = [
        [
            tables.setting_name(setting, comparison),
            tables.model_name(table),
            f"{tables.method_name(one.row)} ({plural(len(one.lines), 'run')})",
            f"{rate(one.seconds)}{'' if one.alone else tables.SHARED}",
            score(one.at(methods[0].seconds)),
            score(statistics.fmean(line[-1][1] for line in one.lines)),
        ]
        for setting, table, methods in places
        for one in methods
    ]
    return [
        Heading(2, "Score against training time"),
        f"Means over runs, on the selection split: no test, and no reason to call a method better. {clock} {alone}",
        TextTable(header, lines, numbers_from=3),
    ]
