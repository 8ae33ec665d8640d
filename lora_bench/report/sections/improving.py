"""Runs that were still improving when their budget ended: with more of it, they may have scored otherwise.

The rule looks at the points of a learning curve: the scores on the selection split where there are at least four of them,
else the training loss. A run was still improving where the last third of its points is better than those from a sixth to a
half, by more than LEVEL standard errors. The middles of the two parts are a factor of 2.5 apart, so a gain is one that more
than a doubling of the steps brought. The noise of a point comes from the median distance between a point and the middle of
the two beside it, which is nothing on a straight line, and 0.826 standard deviations of independent normal errors.
`benchmarks/still_improving.py` has how often it is right.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lora_bench.records.record import Record
from lora_bench.report.blocks import Block, TextList
from lora_bench.report.model.comparison import Comparison
from lora_bench.report.sections import method_tables as tables
from lora_bench.report.text import inert, plural, score

POINTS = 4
LOSS_POINTS = 10
# Of flat curves a tenth is above: one-sided, normal.
LEVEL = 1.28
# Median of |e| for e = x − (y + z) / 2, of standard deviation √1.5.
OF_NOISE = 0.6745 * math.sqrt(1.5)


@dataclass(frozen=True, kw_only=True)
class Improving:
    """The improvement of a run at the end of its budget.

    Args:
        metric: Metric of the scores on the selection split, or None where it is the training loss.
        before: Mean of the points from a sixth to a half of the curve.
        last: Mean of the last third.
        noise: Standard error of their difference.
    """

    metric: str | None
    before: float
    last: float
    noise: float


def still_improving(record: Record) -> Improving | None:
    """Return a run's improvement at the end of its budget, or None if it had stopped or its curve is too short.

    The decay of a run that was trained until a plateau raises its score, and tells nothing of longer training.
    """
    if record.plateau is not None:
        return None
    values, metric = _points(record)
    if len(values) < POINTS:
        return None
    return _improving(values, metric, 1 if metric is not None and record.spec.task.higher_is_better else -1)


def improving_runs(records: Sequence[Record], comparison: Comparison) -> tuple[int, int]:
    """Count the runs that are results and were still improving, or reached no plateau, and those that ended `ok`."""
    runs = [run for _, of_row in _results(records, comparison) for run in of_row]
    return sum(still_improving(run) is not None or _capped(run) for run in runs), len(runs)


def plateau_blocks(records: Sequence[Record], comparison: Comparison) -> list[Block]:
    """Say how many runs until a plateau ended by their cap, and of which methods; empty without such runs."""
    ended = [run for _, of_row in _results(records, comparison) for run in of_row if run.plateau is not None]
    if not ended:
        return []
    capped = Counter(record.spec.method.label for record in ended if _capped(record))
    of_methods = ", ".join(f"{inert(label)} {number}" for label, number in sorted(capped.items()))
    said = f"{capped.total()} of {plural(len(ended), 'run')} that were trained until a plateau ended by the cap"
    return [f"{said}: {of_methods}. More work may change their scores." if capped else f"{said}."]


def _capped(record: Record) -> bool:
    return record.plateau is not None and record.plateau.by == "cap"


def _results(records: Sequence[Record], comparison: Comparison) -> list[tuple[str, list[Record]]]:
    """Return the name of each row that is a result, and its runs that ended `ok`."""
    ended = {record.run_id: record for record in records if record.status == "ok"}
    return [
        (
            f"{tables.method_name(row)} on {tables.model_name(table)}, {where}",
            [ended[run_id] for run_id in row.run_ids if run_id in ended],
        )
        for where, setting, table, row in tables.each_row(comparison)
        if not (setting.search or setting.trials)
    ]


def improving_blocks(records: Sequence[Record], comparison: Comparison) -> list[Block]:
    """Return an item for each method with a run that was still improving; searches are left out."""
    items: list[str] = []
    short = 0
    for name, runs in _results(records, comparison):
        short += sum(len(_points(run)[0]) < POINTS for run in runs)
        found = [one for run in runs if (one := still_improving(run)) is not None]
        if found:
            last = found[0]
            of = "the training loss" if last.metric is None else f"{inert(last.metric)} on the selection split"
            items.append(
                f"{name}: {len(found)} of {plural(len(runs), 'run')}, "
                f"by {of} ({score(last.before)} to {score(last.last)}{', the first' if len(found) > 1 else ''})."
            )
    if not items:
        return []
    more = [f"The curve of {plural(short, 'run')} is too short to tell."] if short else []
    return [
        "These runs were still improving when their budget ended: the last third of the curve is better than the part from a "
        f"sixth to a half, by more than {LEVEL} standard errors. More work may change their scores.",
        *more,
        TextList(items),
    ]


def _points(record: Record) -> tuple[list[float], str | None]:
    """Return the curve that tells most: scores on the selection split with their metric, or the training loss."""
    metric, higher = record.spec.task.metric, record.spec.task.higher_is_better
    scores = [point.scores[metric] for point in record.curve if point.scores is not None and metric in point.scores]
    if metric is not None and higher is not None and len(scores) >= POINTS:
        return scores, metric
    losses = [point.loss for point in record.curve if point.loss is not None]
    return losses if len(losses) >= LOSS_POINTS else [], None


def _improving(values: Sequence[float], metric: str | None, sign: int) -> Improving | None:
    early, late = values[len(values) // 6 : len(values) // 2], values[2 * len(values) // 3 :]
    distances = [
        abs(here - (before + after) / 2) for before, here, after in zip(values, values[1:], values[2:], strict=False)
    ]
    noise = statistics.median(distances) / OF_NOISE * math.sqrt(1 / len(early) + 1 / len(late))
    found = Improving(metric=metric, before=statistics.fmean(early), last=statistics.fmean(late), noise=noise)
    # Points that are all the same may have means that differ by rounding.
    rounding = 1e-12 * max(map(abs, values))
    return found if sign * (found.last - found.before) > LEVEL * noise + rounding else None
