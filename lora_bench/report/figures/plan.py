"""The plan of a figure: all that it shows, before it is drawn, and its caption.

Captions have words of ours alone and none of a record, so they are inert wherever they are shown. They explain only what the
figure shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lora_bench.records.record import CurvePoint
from lora_bench.report.figures.curves import Line, scores_of
from lora_bench.report.figures.pareto import Cost, front_of, several_bases
from lora_bench.report.model.comparison import ModelTable, Setting
from lora_bench.report.model.rows import Row
from lora_bench.report.model.sweeps import Sweep, SweptKind
from lora_bench.report.text import listed
from lora_bench.stats import Interval

Kind = Literal["scores", "trade_offs", "learning_curves", "over_time", "learning_rates", "sweeps"]


@dataclass(frozen=True)
class Style:
    """Looks of a method, the same in every figure."""

    colour: str
    marker: str


@dataclass(frozen=True, kw_only=True)
class FigurePlan:
    """A figure to draw: its content, its subject, and the name of its file.

    Args:
        settings: Settings of one task that differ in nothing but their target, the smallest first.
        tables: The rows of each base model over these settings, those exempt once.
        costs: The axes of a trade-off.
        curves: The learning curve of each run, by run id.
        styles: The look of each method, by label, or of each line of a sweep, by name.
        sweeps: Sweeps that it draws, of one task and number; a panel each.
        over_time: Scores over the seconds of training of each run, by run id.
    """

    kind: Kind
    settings: tuple[Setting, ...]
    tables: tuple[ModelTable, ...]
    styles: Mapping[str, Style]
    file: str
    costs: tuple[Cost, ...] = ()
    curves: Mapping[str, Sequence[CurvePoint]] = field(default_factory=dict)
    sweeps: tuple[Sweep, ...] = ()
    over_time: Mapping[str, Line] = field(default_factory=dict)

    @property
    def caption(self) -> str:
        """How to read it, and its limits."""
        if self.kind == "trade_offs":
            return " ".join(_trade_offs(self))
        if self.kind == "learning_curves":
            return " ".join(_learning_curves(self))
        if self.kind == "over_time":
            return (
                "Score on the selection split against the seconds of training, without evaluations. Thin: seeds. Thick: their "
                "mean, as long as all of them last."
            )
        if self.kind == "sweeps":
            return _sweep(self.sweeps[0].kind)
        if self.kind == "learning_rates":
            if any(row.score is not None and row.score.interval is not None for row in self.rows):
                return _sweep("learning_rate")
            return (
                "Score against the learning rate. Lines: through the means. Small points: seeds, if there are several."
            )
        each = "each method at each target" if len(self.settings) > 1 else "each method"
        return f"Seeds (small points), their mean and its 95 % interval for {each}. {LEAVES}"

    @property
    def rows(self) -> list[Row]:
        """The rows of all its base models."""
        return [row for table in self.tables for row in table.rows]


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """A panel of a figure of heat maps.

    Args:
        rows: Name of each row, from the top.
        columns: Name of each column.
        values: Values by row and column; None for an empty cell.
    """

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]


def stretched(values: Sequence[float], intervals: Iterable[Interval | None]) -> tuple[float, float]:
    """Return limits around all values, and around intervals as far as they reach half the span of the values further out."""
    ends = [end for interval in intervals if interval is not None for end in (interval.low, interval.high)]
    low, high = min(values), max(values)
    room = (high - low) / 2
    return max(min([low, *ends]), low - room), min(max([high, *ends]), high + room)


LEAVES = "Arrowhead: an interval leaves the panel."

_NAMES = {
    "adapter parameters": "adapter parameters (without the head)",
    "stored parameters": "stored parameters (with the head)",
    "peak memory above the start, MiB": "the peak memory of training",
    "training step, ms": "the time of a training step",
}

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
