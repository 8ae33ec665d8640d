"""Runs that were still improving when their budget ended: with more of it, they may have scored otherwise.

The rule looks at the points of a learning curve: the scores on the selection split where there are at least four of them, else
the training loss, whose points are first put together to ten means of neighbours. A run was still improving where its last
point is its best, each of the last two steps was an improvement, and both together come to more than twice the curve's noise.
The noise is the median, over all points between two others, of the distance between a point and the middle of the two beside
it: nothing on a straight line, and about 0.8 standard deviations of independent errors.
"""

from __future__ import annotations

import itertools
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


@dataclass(frozen=True, kw_only=True)
class Improving:
    """The improvement of a run at the end of its budget.

    Args:
        metric: Metric of the scores on the selection split, or None where it is the training loss.
        before: The point two before the last.
        last: The last point.
        noise: Noise of the curve.
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
                f"by {of} ({score(last.before)} to {score(last.last)} in the last two steps of the curve"
                f"{' of the first' if len(found) > 1 else ''})."
            )
    if not items:
        return []
    more = [f"The curve of {plural(short, 'run')} is too short to tell."] if short else []
    return [
        "These runs were still improving when their budget ended: the last two steps of the curve are both improvements and "
        "together exceed twice its noise. More work may change their scores.",
        *more,
        TextList(items),
    ]


def _points(record: Record) -> tuple[list[float], str | None]:
    """Return the curve that tells most: scores on the selection split with their metric, or means of the training loss."""
    metric, higher = record.spec.task.metric, record.spec.task.higher_is_better
    scores = [point.scores[metric] for point in record.curve if point.scores is not None and metric in point.scores]
    if metric is not None and higher is not None and len(scores) >= POINTS:
        return scores, metric
    losses = [point.loss for point in record.curve if point.loss is not None]
    return (_means(losses) if len(losses) >= LOSS_POINTS else []), None


def _improving(values: Sequence[float], metric: str | None, sign: int) -> Improving | None:
    up = [sign * value for value in values]
    noise = statistics.median(
        abs(here - (before + after) / 2) for before, here, after in zip(up, up[1:], up[2:], strict=False)
    )
    rises = up[-1] > up[-2] > up[-3] and up[-1] > max(up[:-1])
    if not rises or up[-1] - up[-3] <= 2 * noise:
        return None
    return Improving(metric=metric, before=values[-3], last=values[-1], noise=noise)


def _means(values: Sequence[float]) -> list[float]:
    """Ten means, each over about as many neighbours."""
    cuts = [index * len(values) // LOSS_POINTS for index in range(LOSS_POINTS + 1)]
    return [statistics.fmean(values[start:end]) for start, end in itertools.pairwise(cuts)]
