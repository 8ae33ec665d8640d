"""Difference of two methods over several tasks.

Tasks are fixed and not resampled: a macro mean describes the difference on these tasks only. Tasks have equal weight. Their
differences are first divided by a unit that is declared beforehand (raw points by default); a unit computed from the runs
would have its own error. Only seeds that every task has for both methods are used. Seeds are resampled for all tasks at once,
which is also right if tasks are linked by the seed (RTE starts from the MNLI run of the same seed). Items are resampled task
by task.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lora_bench.errors import LoraBenchError
from lora_bench.stats.crossed import DRAWS, crossed_bootstrap, with_items
from lora_bench.stats.estimate import ChoiceError, seeds_in_order
from lora_bench.stats.items import Floats, ItemDifference, Items
from lora_bench.stats.paired import Difference, scored_difference


@dataclass(frozen=True, kw_only=True)
class MacroDifference(Difference):
    """The difference over tasks, for seeds that every task has for both methods; scores are means over tasks.

    All numbers are in declared units. Positive: the first is better, whatever the direction of the metrics. *tasks* has the
    mean difference of each task.
    """

    tasks: dict[str, float]


def macro_difference(
    first: Mapping[str, Mapping[int, float]],
    second: Mapping[str, Mapping[int, float]],
    *,
    draw_seed: int,
    units: Mapping[str, float] | None = None,
    higher_is_better: Mapping[str, bool] | None = None,
    items: Mapping[str, tuple[Items, Items]] | None = None,
    draws: int = DRAWS,
    choices: Mapping[str, Sequence[ChoiceError | None]] | None = None,
    overlap: float = 0.0,
) -> MacroDifference:
    """Compare two methods over tasks.

    Args:
        first: For each task the score of each seed.
        second: For the same tasks.
        draw_seed: Seed of everything that is drawn.
        units: Divisor of each task's differences, above 0; by default 1, which gives raw points.
        higher_is_better: Direction of each task's metric; by default higher is better.
        items: For tasks, the scores of both methods as functions of the test items.
        draws: Resamples.
        choices: For each task, the errors of the choice of each method's learning rate.
        overlap: Of folds, see `Estimate`: the mean over tasks.

    Raise LoraBenchError if the tasks differ, a unit is missing or not above 0, no seed is common to all, or items do not give
    their scores.
    """
    if set(first) != set(second) or not first:
        raise LoraBenchError(
            f"the first method has tasks {sorted(first)} and the second {sorted(second)}; expected the same"
        )
    tasks, items = sorted(first), items or {}
    everywhere = (set(seeds_in_order(method[task])) for task in tasks for method in (first, second))
    seeds = tuple(sorted(set.intersection(*everywhere)))
    if not seeds:
        raise LoraBenchError("no seed is in every task for both methods; expected the same list for all")
    factors = {task: _factor(task, units, higher_is_better) for task in tasks}
    values = np.array([[factors[task] * (first[task][s] - second[task][s]) for s in seeds] for task in tasks])
    size = max(abs(factors[task] * method[task][s]) for task in tasks for method in (first, second) for s in seeds)
    differences = values.mean(axis=0)
    parts = [
        (factors[task] / len(tasks), scored_difference(items[task], (first[task], second[task]), seeds))
        for task in tasks
        if task in items
    ]
    rest = sum((values[row] for row, task in enumerate(tasks) if task not in items), np.zeros(len(seeds)))
    scored = _OverTasks(tuple(parts), rest / len(tasks))
    crossed = crossed_bootstrap(scored, draw_seed=draw_seed, draws=draws) if parts else None
    weighted = [
        None if one is None else replace(one, sd=abs(factors[task]) / len(tasks) * one.sd)
        for task in tasks
        for one in (choices or {}).get(task, ())
    ]
    estimate = with_items(differences, crossed, size, overlap).widened(weighted)
    return MacroDifference(
        seeds=seeds,
        tasks=dict(zip(tasks, values.mean(axis=1).tolist(), strict=True)),
        scores=(_over_tasks(first, factors, seeds), _over_tasks(second, factors, seeds)),
        differences=tuple(differences.tolist()),
        sd=statistics.stdev(differences.tolist()) if len(seeds) > 1 else None,
        estimate=estimate,
        draw_seed=draw_seed,
        crossed=crossed,
        reason=None if estimate.uncertainties else "the macro mean is the same at every seed, or there is one seed",
    )


@dataclass(frozen=True, eq=False)
class _OverTasks:
    """A sum over tasks, each with its own items, and a part without items."""

    parts_: tuple[tuple[float, ItemDifference], ...]
    rest: Floats

    @property
    def items(self) -> int:
        return sum(part.items for _, part in self.parts_)

    @property
    def independent(self) -> int:
        return sum(part.independent for _, part in self.parts_)

    def scores(self) -> Floats:
        return self.rest + sum(factor * part.scores() for factor, part in self.parts_)

    def drawn(self, generator: np.random.Generator, draws: int) -> Floats:
        return self.rest + sum(factor * part.drawn(generator, draws) for factor, part in self.parts_)

    def parts(self) -> tuple[float, float] | None:
        item = both = 0.0
        for factor, part in self.parts_:
            if (found := part.parts()) is None:
                return None
            item, both = item + factor**2 * found[0], both + factor**2 * found[1]
        return item, both


def _over_tasks(
    scores: Mapping[str, Mapping[int, float]], factors: Mapping[str, float], seeds: Sequence[int]
) -> tuple[float, ...]:
    """Return the mean over tasks for each seed, in declared units."""
    return tuple(statistics.fmean(factor * scores[task][seed] for task, factor in factors.items()) for seed in seeds)


def _factor(task: str, units: Mapping[str, float] | None, higher_is_better: Mapping[str, bool] | None) -> float:
    for kind, declared in (("unit", units), ("direction", higher_is_better)):
        if declared is not None and task not in declared:
            raise LoraBenchError(f"there is no {kind} for task {task!r}; known: {', '.join(sorted(declared))}")
    unit = 1.0 if units is None else units[task]
    if not (unit > 0 and math.isfinite(unit)):
        raise LoraBenchError(f"unit of task {task!r} is {unit}; expected a number above 0")
    return (1 if higher_is_better is None or higher_is_better[task] else -1) / unit
