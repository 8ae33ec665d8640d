"""The cost axes of a trade-off, and the Pareto front of the rows on each.

A row dominates another if it is at least as good in both score and cost, and better in one of them. The front compares means
and recorded costs; it ignores their uncertainty.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from operator import itemgetter

from lora_bench.records.budget import PARAMETER_AXES, ParameterAxis
from lora_bench.records.record import Environment
from lora_bench.report.model.comparison import Setting
from lora_bench.report.model.rows import Row
from lora_bench.report.text import MIB


@dataclass(frozen=True)
class Cost:
    """One axis of a trade-off.

    Args:
        label: Name with its unit.
        measured: Whether the cost was measured, and not counted: other work on the machine changes it.
        of: Where a row stands, or None if it is unknown or has no place here.
        basis: Gives what the costs of rows must share to be compared.
    """

    label: str
    measured: bool
    of: Callable[[Row], float | None]
    basis: Callable[[Row], Hashable]


def costs_of(settings: Sequence[Setting], environments: Sequence[Environment]) -> list[Cost]:
    """Parameters, peak memory and step time, as far as a row with a score has them.

    Parameters are those that the settings have a target for. An exempt method has no place among them: full fine-tuning trains
    some hundred times as many. Measurements share a basis where they are of one machine and one kind of memory.
    """
    axis = parameter_axis(settings)
    machines = [(found.device, found.device_count, found.cpu, found.cores) for found in environments]

    def measured_on(row: Row) -> Hashable:
        return row.memory_kind, frozenset(machines[index] for index in row.environments)

    every = [
        Cost(
            label=axis.replace("_", " "),
            measured=False,
            # Nothing has no place on a logarithmic axis.
            of=lambda row: None if row.exempt or row.parameters is None else row.parameters.on(axis) or None,
            basis=lambda row: None,
        ),
        Cost(
            label="peak memory above the start, MiB",
            measured=True,
            of=lambda row: None if row.train_peak_bytes is None else row.train_peak_bytes / MIB,
            basis=measured_on,
        ),
        Cost(
            label="training step, ms",
            measured=True,
            of=lambda row: None if row.step_seconds is None else row.step_seconds * 1000,
            basis=measured_on,
        ),
    ]
    scored = [row for setting in settings for row in setting.rows if row.score is not None]
    known = [cost for cost in every if any(cost.of(row) is not None for row in scored)]
    return [cost for cost in known if cost.measured or not _equal_by_design(settings)]


def _equal_by_design(settings: Sequence[Setting]) -> bool:
    """Tell if a budget makes the parameters of all rows equal, so that a panel of them would show nothing."""
    fitted = [row for setting in settings for row in setting.rows if not row.exempt and row.score is not None]
    return len(settings) == 1 and settings[0].parameter_target is not None and all(row.within_budget for row in fitted)


def parameter_axis(settings: Sequence[Setting]) -> ParameterAxis:
    """The parameters that all settings with a target hold equal; adapter parameters where they differ or none has one."""
    held = {setting.parameter_target[0] for setting in settings if setting.parameter_target is not None}
    return held.pop() if len(held) == 1 else PARAMETER_AXES[0]


def front_of(rows: Sequence[Row], cost: Cost, higher_is_better: bool | None) -> list[Row]:
    """Return the rows on the front of mean score and *cost*, the cheapest first.

    Empty where fewer than two rows are on it, no record says which scores are better, or costs are not of one basis.
    """
    if higher_is_better is None or several_bases(rows, cost):
        return []
    placed = [row for row in rows if row.score is not None and cost.of(row) is not None]
    points = [(cost.of(row), row.score.mean if row.score is not None else None) for row in placed]
    front = pareto_front(points, higher_is_better=higher_is_better)
    return [placed[index] for index in front] if len(front) > 1 else []


def several_bases(rows: Sequence[Row], cost: Cost) -> bool:
    """Tell if the costs of some rows cannot be compared."""
    return len({cost.basis(row) for row in rows if row.score is not None and cost.of(row) is not None}) > 1


def pareto_front(points: Sequence[tuple[float | None, float | None]], *, higher_is_better: bool) -> list[int]:
    """Return the points that no other dominates, the cheapest first. Equal points do not dominate each other.

    Args:
        points: Cost and score of each; one that lacks either is left out. A lower cost is better.
        higher_is_better: Whether higher scores are better.

    Returns:
        Indexes into *points*.
    """
    sign = 1 if higher_is_better else -1
    known = [
        (cost, sign * score, index)
        for index, (cost, score) in enumerate(points)
        if cost is not None and score is not None
    ]
    front: list[int] = []
    best: float | None = None
    for _, of_cost in itertools.groupby(sorted(known), key=itemgetter(0)):
        members = list(of_cost)
        top = max(score for _, score, _ in members)
        if best is None or top > best:
            best = top
            front += [index for _, score, index in members if score == top]
    return front
