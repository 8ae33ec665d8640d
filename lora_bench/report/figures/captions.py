"""Captions: how to read each figure, and its limits. A caption explains only what its figure shows.

Captions have words of ours alone and none of a record, so they are inert wherever they are shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_bench.report.figures.curves import scores_of
from lora_bench.report.figures.pareto import Cost, front_of, several_bases
from lora_bench.report.model.rows import Row
from lora_bench.report.text import listed

if TYPE_CHECKING:
    from lora_bench.report.figures.plan import FigurePlan
    from lora_bench.report.model.sweeps import SweptKind

LEAVES = "Arrowhead: an interval leaves the panel."

_NAMES = {
    "adapter parameters": "adapter parameters (without the head)",
    "stored parameters": "stored parameters (with the head)",
    "peak memory above the start, MiB": "the peak memory of training",
    "training step, ms": "the time of a training step",
}


def caption(plan: FigurePlan) -> str:
    """Return the caption of a figure, by its kind."""
    if plan.kind == "trade_offs":
        return " ".join(_trade_offs(plan))
    if plan.kind == "learning_curves":
        return " ".join(_learning_curves(plan))
    if plan.kind == "over_time":
        return (
            "Score on the selection split against the seconds of training, without evaluations. Thin: seeds. Thick: their "
            "mean, as long as all of them last."
        )
    if plan.kind == "sweeps":
        return _sweep(plan.sweeps[0].kind)
    if plan.kind == "learning_rates":
        if any(row.score is not None and row.score.interval is not None for row in plan.rows):
            return _sweep("learning_rate")
        return "Score against the learning rate. Lines: through the means. Small points: seeds, if there are several."
    each = "each method at each target" if len(plan.settings) > 1 else "each method"
    return f"Seeds (small points), their mean and its 95 % interval for {each}. {LEAVES}"


_SWEPT: dict[SweptKind, str] = {
    "option": "one option of a method, all others equal",
    "learning_rate": "the learning rate",
    "distinct_examples": "the number of different training rows",
    "work": "the work of a run",
}


def _sweep(kind: SweptKind) -> str:
    return (
        f"Score against {_SWEPT[kind]}: seeds (small points), their mean and its 95 % interval. Lines: through the means. "
        f"{LEAVES}"
    )


def _trade_offs(plan: FigurePlan) -> list[str]:
    rows, costs, tables = plan.rows, plan.costs, plan.tables
    counted = [cost for cost in costs if not cost.measured]
    measured = [cost for cost in costs if cost.measured]
    names = listed([_NAMES[cost.label] for cost in costs])
    said = [f"Score against {names}: seeds (small points), their mean and its 95 % interval."]
    better = plan.settings[0].spec.task.higher_is_better
    if any(front_of(table.rows, cost, better) for table in tables for cost in costs):
        said.append(
            "Dotted steps: the Pareto front of mean score and cost. It is of means alone: with other seeds, rows whose "
            "intervals overlap it may cross it."
        )
    if any(several_bases(table.rows, cost) for table in tables for cost in measured):
        said.append("Measurements of several machines or kinds of memory have no front.")
    if counted and any(row.exempt and row.score is not None for row in rows):
        said.append("Dashed: the mean of a method without a size, which has no place among the parameters.")
    if counted and any(setting.parameter_target is not None for setting in plan.settings):
        said.append("Grey: counts that keep the budget.")
    if len(plan.settings) > 1:
        said.append("Thin lines join the targets of a method.")
    if any(not_alone(row, cost) for row in rows for cost in measured):
        said.append("Hollow: not measured alone, or not recorded.")
    return [*said, LEAVES]


def _learning_curves(plan: FigurePlan) -> list[str]:
    evaluated = any(scores_of(curve, plan.settings[0].spec.task.metric) for curve in plan.curves.values())
    what = "Training loss, and below it the score of evaluations while training," if evaluated else "Training loss"
    said = [
        f"{what} against the step. Thin: seeds. Thick: their mean, as long as all of them last. A point of the loss is a mean "
        "over the steps since the one before."
    ]
    if any(row.failures and any(run in plan.curves for run in row.run_ids) for row in plan.rows):
        said.append("Failed runs are in no mean.")
    return said


def not_alone(row: Row, cost: Cost) -> bool:
    """Tell if a row has a measured cost that other work on the machine may have changed."""
    return cost.measured and row.score is not None and cost.of(row) is not None and not row.exclusive
